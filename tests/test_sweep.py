"""A multirun leaves summary.csv: one row per job, what was varied and what came of it, failed jobs too."""

import json

import numpy as np
import pandas as pd
import pytest
import runs
from omegaconf import OmegaConf

pytestmark = pytest.mark.xdist_group("runs")


def test_two_seeds_give_two_rows_with_their_overrides_and_metrics(tmp_path_factory):
    folder = runs.sweep(tmp_path_factory)
    summary = pd.read_csv(folder / "summary.csv")
    assert list(summary["job"]) == [0, 1]
    assert list(summary["seed"]) == [1, 2]
    assert list(summary["model"]) == ["cvae", "cvae"]
    assert list(summary["status"]) == ["finished", "finished"]
    for job, row in summary.iterrows():
        test = json.loads((folder / str(job) / "metrics.json").read_text())["test"]
        for name, value in test.items():
            assert row[name] == pytest.approx(np.nan if value is None else value, rel=1e-12, nan_ok=True)
    assert not list(folder.glob("*.part"))


def test_a_job_that_fails_is_listed_and_the_next_one_runs(tmp_path):
    """The first job asks for batches that are larger than the data."""
    sizes = "datamodule.batch_size=5000,64"
    rest = [word for word in runs.SHORT if not word.startswith("datamodule.batch_size")]
    jobs = ("-m", sizes, "~callbacks.progress", *rest)  # an override without a value
    done = runs.inside("train.py", *jobs, "hydra.sweep.dir=jobs", cwd=tmp_path)
    assert done.code == 2
    assert "Traceback" not in done.err
    assert done.err.splitlines()[-1].startswith("stormcell: synthetic cells: 565 training cells are fewer than a batch")
    summary = pd.read_csv(tmp_path / "jobs" / "summary.csv")
    assert list(summary["datamodule.batch_size"]) == [5000, 64]
    assert list(summary["status"]) == ["failed", "finished"]
    metrics = summary.filter(like="/shift_correlation")
    assert metrics.loc[0].isna().all() and metrics["pairs, 2 of 2 singles seen/cvae, mode A/shift_correlation"][1] > 0


def test_a_search_maximises_the_objective_of_the_validation_cells(tmp_path):
    search = ("-m", "sweep=optuna", "hydra.sweeper.n_trials=2", "hydra.sweeper.sampler.seed=1", *runs.SHORT)
    done = runs.inside("train.py", *search, "hydra.sweep.dir=jobs", cwd=tmp_path)
    assert done.code == 0, done.err
    folder = tmp_path / "jobs"
    summary = pd.read_csv(folder / "summary.csv")
    assert list(summary["status"]) == ["finished", "finished"]
    assert summary["model.latent"].isin([8, 16, 32]).all()
    assert summary["model.optimizer.lr"].between(3e-4, 3e-3).all()
    best = [pd.read_csv(folder / str(job) / "history.csv")["val/score"].max() for job in (0, 1)]
    found = OmegaConf.load(folder / "optimization_results.yaml")
    assert found.best_value == pytest.approx(max(best), rel=1e-6)
    chosen = summary.iloc[best.index(max(best))]
    assert found.best_params["model.optimizer.lr"] == pytest.approx(chosen["model.optimizer.lr"])


def test_a_sweep_ends_in_one_table_of_models_and_metrics(tmp_path):
    """Means over seeds, then medians over perturbations; a baseline counts once per seed; what is varied is named."""
    words = [word for word in runs.CELLS if not word.startswith(("datamodule.", "model."))]
    jobs = ("-m", "model=lgem,lgem_learnable", "model.ridge=0.1,10", "seed=1,2", *words)
    done = runs.inside("train.py", *jobs, "hydra.sweep.dir=jobs", cwd=tmp_path)
    assert done.code == 0, done.err
    board = pd.read_csv(tmp_path / "jobs" / "comparison.csv").set_index(["group", "method"])
    group = board.index[0][0]
    models = board.loc[group][board.loc[group]["model"]]
    assert set(models.index) == {
        f"lgem{learnt}, model.ridge={ridge}" for learnt in ("", ", learnt G") for ridge in (0.1, 10)
    }
    assert (board["seeds"] == 2).all()
    tables = [pd.read_csv(file) for file in sorted((tmp_path / "jobs").glob("[0-3]/tables/perturbations.csv"))]
    both = pd.concat(tables[:2])
    rows = both[(both["method"] == "additive") & (both["group"] == group)]
    expected = rows.groupby("condition")["shift_correlation"].mean().median()
    assert board.loc[(group, "additive"), "shift_correlation"] == pytest.approx(expected)
    low, high = (board.loc[(group, "additive"), f"shift_correlation_{end}"] for end in ("low", "high"))
    assert low <= expected <= high
    assert "lgem, learnt G, model.ridge=0.1" in done.out and "comparison.csv" in done.out
