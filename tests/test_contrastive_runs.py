"""Runs of the contrastive model: the folder that is left, the numbers that come back from its checkpoint, a run that
goes on, every word of the config, and two processes."""

import json

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import runs
import torch
from contrastive_world import begun, fit, module, screen
from scipy.sparse import csr_matrix

from stormcell.data.programmes import simulate_programmes
from stormcell.models.contrastive import _WORDS, Contrastive, Weights

pytestmark = pytest.mark.xdist_group("runs")

KEYS = ("model=contrastive", "data=h5ad", "data.path=mine.h5ad", "data.batch_key=batch", "data.phase_key=phase")
SMALL = (
    "datamodule.batch_size=64", "model.hidden=[16]", "model.n_background=4", "model.n_salient=3", "embedding=pca",
    "trainer.val_check_interval=10", "trainer.log_every_n_steps=5",
)  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with two files of one world: mine.h5ad to train on, other.h5ad with other cells."""
    home = tmp_path_factory.mktemp("home")
    made = simulate_programmes(480, 160, 3, 120, 24, library=500, n_batches=2, effect=1.6, seed=3)
    cells = ad.AnnData(csr_matrix(made.counts), obs=made.obs, var=pd.DataFrame(index=made.genes))
    cells[::2].copy().write_h5ad(home / "mine.h5ad")
    cells[1::2].copy().write_h5ad(home / "other.h5ad")
    return home


@pytest.fixture(scope="module")
def folder(home):
    done = runs.inside("train.py", *KEYS, *SMALL, "trainer.max_steps=20", "hydra.run.dir=run", cwd=home)
    assert done.code == 0, done.err
    return home / "run"


# ---- the folder


def test_the_run_folder_holds_every_file(folder):
    tables = [
        "cells", "criticism", "criticism_summary", "de", "escape", "factor_effects", "factor_genes", "programme_genes",
        "programmes", "split",
    ]  # fmt: skip
    figures = ["criticism", "escape", "factor_effects", "followed", "latents", "loss", "programmes", "scores"]
    named = {f"figures/{name}.png" for name in figures} | {f"tables/{name}.csv" for name in tables}
    assert runs.listing(folder) == named | {
        ".hydra/config.yaml", ".hydra/hydra.yaml", ".hydra/overrides.yaml", "config.yaml", "train.log",
        "checkpoints/best.ckpt", "checkpoints/last.ckpt", "history.csv", "metrics.json", "scoreboard.csv",
        "predictions.h5ad", "report.html",
    }  # fmt: skip


def test_history_has_every_part_of_the_loss_and_every_score(folder):
    history = pd.read_csv(folder / "history.csv")
    assert list(history["step"]) == [4, 9, 14, 19]
    wanted = {f"train/{part}" for part in Contrastive.parts} | {f"val/{part}" for part in Contrastive.parts}
    wanted |= {f"val/{score}" for score in Contrastive.scores}
    assert set(history.columns) == wanted | {"step"}
    checked = history.loc[[1, 3]]
    assert np.isfinite(checked.to_numpy()).all()
    apart = np.maximum(*(abs(checked[f"val/{name}"] - 0.5) for name in ("background_auc", "background_auc_knn")))
    np.testing.assert_allclose(checked["val/score"], checked["val/probe"] - apart, rtol=1e-6)


def test_metrics_json_says_what_the_scoreboard_says(folder):
    found = json.loads((folder / "metrics.json").read_text())
    board = pd.read_csv(folder / "scoreboard.csv").set_index("method")
    assert list(found) == ["test", "baselines", "data", "versions", "timing"]
    assert {"contrastive", "plain VAE"} < set(board.index)
    for method, numbers in {"contrastive": found["test"], **found["baselines"]}.items():
        for name, value in numbers.items():
            metric = name.split("/")[-1]
            assert (np.nan if value is None else value) == pytest.approx(board.loc[method, metric], nan_ok=True)
    assert board.loc["contrastive", "probe"] > 1 / 3
    assert board.loc["contrastive", "phase_leak"] > 0


def test_held_out_cells_are_exported_with_both_latents(folder):
    cells = ad.read_h5ad(folder / "predictions.h5ad")
    split = pd.read_csv(folder / "tables" / "split.csv").set_index("cell")["part"]
    held = set(split.index[split.isin(["test", "truth"])])
    assert set(cells.obs_names) == held
    assert cells.obsm["X_background"].shape == (len(held), 4)
    assert cells.obsm["X_salient"].shape == (len(held), 3)
    share = np.expm1(np.asarray(cells.X, float)) / 1e4
    assert share.sum(1) == pytest.approx(1, abs=1e-3)
    control = cells.obs["is_control"].to_numpy(bool)
    without = cells.layers["without_salient"]
    assert np.array_equal(cells.X[control], without[control])
    assert not np.array_equal(cells.X[~control], without[~control])
    table = pd.read_csv(folder / "tables" / "cells.csv", index_col=0)
    assert set(table.index) == held
    assert {"condition", "is_control", "batch", "phase", "library", "elbo", "perturbed_probability"} <= set(table)
    assert (table["elbo"] < 0).all() and table["perturbed_probability"].between(0, 1).all()
    mixture = table["mixscape_probability"]
    assert mixture[~table["is_control"]].between(0, 1).all() and mixture[table["is_control"]].isna().all()


# ---- the checkpoint


def same_numbers(one, other):
    for part in ("test", "baselines"):
        assert runs.metrics(one)[part] == runs.metrics(other)[part]


def test_the_checkpoint_gives_the_numbers_of_the_closing_test_again(folder, tmp_path):
    alone = tmp_path / "alone.ckpt"
    alone.write_bytes((folder / "checkpoints" / "best.ckpt").read_bytes())
    done = runs.inside("evaluate.py", f"ckpt={alone}", "hydra.run.dir=again", cwd=tmp_path)
    assert done.code == 0, done.err
    same_numbers(tmp_path / "again", folder)
    for name in ("cells", "de", "criticism", "factor_effects"):
        again, before = (run / "tables" / f"{name}.csv" for run in (tmp_path / "again", folder))
        assert again.read_bytes() == before.read_bytes(), name


def test_other_cells_of_the_same_world_are_judged_too(folder, home):
    """In any order of cells and genes; half of them fit the probes, the other half is asked about."""
    file = ad.read_h5ad(home / "other.h5ad")
    rng = np.random.default_rng(0)
    file[rng.permutation(file.n_obs), rng.permutation(file.n_vars)].copy().write_h5ad(home / "shuffled.h5ad")
    for name in ("other", "shuffled"):
        arguments = (f"ckpt={folder}/checkpoints/best.ckpt", f"data.path={name}.h5ad", f"hydra.run.dir={name}")
        done = runs.inside("evaluate.py", *arguments, cwd=home)
        assert done.code == 0, done.err
    assert "cells of another file" in " ".join(done.out.split())
    same_numbers(home / "other", home / "shuffled")
    found = pd.read_csv(home / "other" / "scoreboard.csv").set_index("method")
    assert found.loc["contrastive", "probe"] > 1 / 3
    assert found.loc["contrastive", "n"] == (file.obs["perturbation"].value_counts() // 2).sum()


def test_a_run_that_was_stopped_goes_on_bit_for_bit(folder, home):
    """So a seed gives one set of numbers, wherever the run was interrupted."""
    stopped = (*KEYS, *SMALL, "model.scheduler.T_max=20", "trainer.max_steps=10", "hydra.run.dir=stopped")
    assert runs.inside("train.py", *stopped, cwd=home).code == 0
    last = home / "stopped" / "checkpoints" / "last.ckpt"
    half = runs.weights(last)
    done = runs.inside("train.py", f"ckpt={last}", "trainer.max_steps=20", cwd=home)
    assert done.code == 0, done.err
    for name in ("last", "best"):
        found, expected = (runs.weights(run / "checkpoints" / f"{name}.ckpt") for run in (home / "stopped", folder))
        assert found.keys() == expected.keys()
        assert all(found[key].equal(expected[key]) for key in expected)
    last_weights = runs.weights(last)
    assert not all(half[key].equal(last_weights[key]) for key in half)
    assert (home / "stopped" / "history.csv").read_bytes() == (folder / "history.csv").read_bytes()
    same_numbers(home / "stopped", folder)


# ---- every word of the config


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = screen(tmp_path_factory.mktemp("screen") / "cells.h5ad")
    return module(path, covariate_keys=["line"], continuous_covariate_keys=["dose"])


OPTIONS = [{key: word} for key, words in _WORDS.items() for word in words]
OPTIONS += [
    {"encode_covariates": True}, {"class_balanced": False}, {"plain_vae": False}, {"dropout": 0.0}, {"hidden": [8]},
    {"nuisance": "batch", "weights": Weights(leak=1.0)}, {"nuisance": "dose", "weights": Weights(leak=1.0)},
    {"nuisance": "library", "weights": Weights(leak=1.0, classifier=0.0, background=0.0)},
    {"library": "inferred", "dispersion": "gene-batch", "norm": "batch", "likelihood": "negative_binomial"},
]  # fmt: skip


@pytest.mark.parametrize("words", OPTIONS, ids=lambda words: "-".join(map(str, words.values()))[:50])
def test_every_option_trains_and_is_judged(data, words):
    model = begun(data, **words)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    trainer = fit(model, data, 3, limit_val_batches=1.0, val_check_interval=3, check_val_every_n_epoch=None)
    assert trainer.global_step == 3
    logged = trainer.callback_metrics
    assert {f"val/{name}" for name in (*model.parts, *model.scores)} <= set(logged)
    assert all(torch.isfinite(value) for value in logged.values())
    still = {name for name, p in model.named_parameters() if p.equal(before[name])}
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert still == frozen, "several processes would wait for a gradient that never comes"
    if words.get("nuisance"):
        assert logged["val/leak"] > 0


def test_a_checkpoint_holds_what_every_option_needs(data, tmp_path):
    """Weights and prior come back from a file: latents and ELBO of a loaded model are those of the trained one."""
    from stormcell.models.decoding import elbo, latents

    words = {"library": "inferred", "dispersion": "gene-batch", "likelihood": "negative_binomial"}
    model = begun(data, **words)
    fit(model, data, 3)
    torch.save(model.state_dict(), tmp_path / "weights.ckpt")
    bare = Contrastive(data.spec, None, seed=7, n_background=4, n_salient=3, hidden=(16, 12), **words)
    bare.load_state_dict(torch.load(tmp_path / "weights.ckpt", weights_only=True))
    rows = data.rows["test"]
    for one, other in zip(latents(bare.eval(), data, rows), latents(model.eval(), data, rows), strict=True):
        assert np.array_equal(one, other)
    assert np.array_equal(elbo(bare, data, rows)[0], elbo(model, data, rows)[0])


# ---- two processes


def test_two_processes_train_as_one(home):
    """Adversary and LayerNorm: half of the controls and of the perturbed cells on each, weights equal but for rounding,
    and validation over all cells. eps keeps weights still whose gradient is nothing but rounding."""
    keys = (*KEYS, *SMALL, "trainer.max_steps=10", "model.optimizer.lr=1e-4", "+model.optimizer.eps=1e-6")
    keys += ("model.background_term=adversary", "model.weights.background=50")
    several = ("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2")
    two = runs.start("train.py", *several, *keys, f"hydra.run.dir={home}/two", cwd=home)
    one = runs.inside("train.py", *keys, f"hydra.run.dir={home}/one", cwd=home)
    done = runs.ended(two)
    assert (one.code, done.code) == (0, 0), one.err + done.err
    found, expected = (runs.weights(home / name / "checkpoints" / "last.ckpt") for name in ("two", "one"))
    assert found.keys() == expected.keys()
    for key, value in found.items():
        assert torch.allclose(value.double(), expected[key].double(), rtol=0, atol=2e-6), key
    histories = [pd.read_csv(home / name / "history.csv") for name in ("one", "two")]
    assert list(histories[0]) == list(histories[1])
    means = [f"{stage}/{part}" for stage in ("train", "val") for part in Contrastive.parts]
    np.testing.assert_allclose(histories[0][means], histories[1][means], rtol=1e-4, atol=1e-6)
    scores = [f"val/{name}" for name in Contrastive.scores]
    np.testing.assert_allclose(histories[0][scores], histories[1][scores], atol=0.02)
