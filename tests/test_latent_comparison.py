"""The table at the end of a sweep with models of latent spaces, from run folders written by hand."""

import io
import json

import numpy as np
import pandas as pd
import pytest
from omegaconf import OmegaConf
from rich.console import Console

from stormcell.evaluation.latent_metrics import LATENT_METRICS
from stormcell.latent_comparison import compare, show

BASELINES = {"pca": {}, "lda": {}}


def job(folder, number, overrides, rows, seed=1, source="cells.h5ad"):
    """A finished run: rows of its scoreboard as (method, probe, batch_leak)."""
    path = folder / str(number)
    (path / ".hydra").mkdir(parents=True)
    OmegaConf.save(OmegaConf.create(overrides), path / ".hydra" / "overrides.yaml")
    OmegaConf.save(OmegaConf.create({"seed": seed}), path / "config.yaml")
    (path / "metrics.json").write_text(json.dumps({"baselines": BASELINES, "data": {"source": source}}))
    board = pd.DataFrame(rows, columns=["method", "probe", "batch_leak"])
    board.reindex(columns=["method", *LATENT_METRICS]).to_csv(path / "scoreboard.csv", index=False)
    return path


def test_means_and_ranges_over_seeds_and_a_baseline_once_per_seed(tmp_path):
    jobs = []
    for number, (weight, seed) in enumerate([(1, 1), (1, 2), (10, 1), (10, 2)]):
        overrides = ["model=contrastive", f"model.weights.classifier={weight}", f"seed={seed}"]
        rows = [("contrastive", weight / 20 + seed / 100, np.nan), ("pca", seed / 10, 0.5), ("lda", 0.4, np.nan)]
        jobs.append(job(tmp_path, number, overrides, rows, seed))
    board = compare(jobs).set_index("method")
    first = board.loc["contrastive, model.weights.classifier=1"]
    assert first[["probe", "probe_low", "probe_high"]].tolist() == pytest.approx([0.065, 0.06, 0.07])
    assert first["model"] and first["seeds"] == 2
    assert board.loc["contrastive, model.weights.classifier=10", "probe"] == pytest.approx(0.515)
    assert board.loc["pca", "seeds"] == 2 and board.loc["pca", "probe"] == pytest.approx(0.15)
    assert not board.loc["pca", "model"] and board["model"].tolist() == [True, True, False, False]

    screen = io.StringIO()
    show(compare(jobs), Console(file=screen, width=140))
    line = next(line for line in screen.getvalue().splitlines() if line.startswith("pca"))
    assert "0.150 0.10..0.20" in line and "0.500" in line
    assert "nan" not in screen.getvalue()


def test_jobs_on_other_cells_stay_apart_and_unfinished_ones_are_left_out(tmp_path):
    a = job(tmp_path, 0, ["data=papalexi", "seed=1"], [("contrastive", 0.4, 0.3)], source="a.h5ad")
    b = job(tmp_path, 1, ["data=norman", "seed=1"], [("contrastive", 0.3, 0.1)], source="b.h5ad")
    stopped = job(tmp_path, 2, ["data=kang", "seed=1"], [("contrastive", 0.9, 0.9)])
    (stopped / "metrics.json").unlink()
    board = compare([a, b, stopped])
    assert board["data"].tolist() == ["a.h5ad data=papalexi", "b.h5ad data=norman"]
    assert board["probe"].tolist() == [0.4, 0.3]


def test_models_of_profiles_are_of_the_other_table(tmp_path):
    path = job(tmp_path, 0, ["seed=1"], [("cvae", 0.4, 0.3)])
    board = pd.read_csv(path / "scoreboard.csv").rename(columns={"probe": "shift_correlation"})
    board.to_csv(path / "scoreboard.csv", index=False)
    assert compare([path]).empty
