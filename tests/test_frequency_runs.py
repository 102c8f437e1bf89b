"""Runs of model=bilinear: the folder, the numbers that come back from its checkpoint, a run that goes on, mistakes."""

import anndata as ad
import pandas as pd
import pytest
import runs
from test_frequency_data import cells

pytestmark = pytest.mark.xdist_group("frequencies")

WORDS = (
    "data=h5ad", "data.path=cells.h5ad", "data.scale=continuous", "data.perturbation_key=null",
    "data.cluster_key=cluster", "data.cell_type_key=cell_type", "data.genes.top=null", "datamodule.neighbours=8",
    "datamodule.graph_components=6", "datamodule.n_frequencies=4", "datamodule.input_components=6",
    "datamodule.batch_size=32", "model.hidden=8", "model.refits=1", "trainer.max_steps=60",
    "trainer.val_check_interval=20", "trainer.log_every_n_steps=10", "embedding=pca",
)  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return cells(tmp_path_factory.mktemp("home")).parent


def run(home, folder, *words, model="bilinear"):
    done = runs.inside("train.py", f"model={model}", *WORDS, *words, f"hydra.run.dir={folder}", cwd=home)
    assert done.code == 0, done.err
    return home / folder


@pytest.fixture(scope="module")
def folder(home):
    return run(home, "run")


def test_the_run_folder_holds_the_modules(folder):
    tables = {path.stem for path in (folder / "tables").glob("*.csv")}
    assert {
        "modules",
        "module_summary",
        "spectrum",
        "extension",
        "lists",
        "improvement",
        "hierarchy",
        "parts",
    } <= tables
    assert {path.stem for path in (folder / "figures").glob("*.png")} >= {"space", "scores", "spectrum", "modules"}
    summary, found = pd.read_csv(folder / "tables" / "module_summary.csv"), ad.read_h5ad(folder / "predictions.h5ad")
    assert found.obsm["X_modules"].shape == (300, len(summary))
    assert found.obsm["X_frequencies"].shape == (300, 4)
    best = summary.groupby("frequency")["explained"].max()
    assert (best > 0.2).all()
    assert "Frequency" in (folder / "report.html").read_text() or "frequency" in (folder / "report.html").read_text()


def test_the_checkpoint_gives_the_numbers_of_the_closing_test_again(folder, tmp_path):
    alone = tmp_path / "alone.ckpt"
    alone.write_bytes((folder / "checkpoints" / "best.ckpt").read_bytes())
    done = runs.inside("evaluate.py", f"ckpt={alone}", "hydra.run.dir=again", cwd=tmp_path)
    assert done.code == 0, done.err
    for part in ("test", "baselines"):
        assert runs.metrics(tmp_path / "again")[part] == runs.metrics(folder)[part]
    for name in ("modules", "module_summary", "improvement", "hierarchy"):
        again, before = (one / "tables" / f"{name}.csv" for one in (tmp_path / "again", folder))
        assert again.read_bytes() == before.read_bytes(), name


def test_a_run_that_was_stopped_goes_on_bit_for_bit(home):
    words = ("model.refits=0", "callbacks.early_stopping.patience=99")
    whole = run(home, "whole", *words)
    stopped = run(home, "stopped", *words, "trainer.max_steps=40", "model.scheduler.T_max=60")
    last = stopped / "checkpoints" / "last.ckpt"
    done = runs.inside("train.py", f"ckpt={last}", "trainer.max_steps=60", cwd=home)
    assert done.code == 0, done.err
    found, expected = (runs.weights(one / "checkpoints" / "last.ckpt") for one in (stopped, whole))
    assert all(found[key].equal(expected[key]) for key in expected)
    assert runs.metrics(stopped)["test"] == runs.metrics(whole)["test"]


def test_triples_and_classes_run(home):
    triples = run(home, "triples", "model.refits=0", model="trilinear")
    assert "trilinear" in pd.read_csv(triples / "scoreboard.csv")["method"].to_list()
    classes = run(home, "classes", "model.refits=0", "datamodule.classes=cluster")
    board = pd.read_csv(classes / "scoreboard.csv").set_index("method")
    assert board.loc["bilinear", "accuracy"] > board.loc["commonest type", "accuracy"]


def test_another_file_is_refused(folder, home, tmp_path):
    found = ad.read_h5ad(home / "cells.h5ad")
    found[:200].copy().write_h5ad(tmp_path / "other.h5ad")
    done = runs.inside("evaluate.py", f"ckpt={folder}/checkpoints/best.ckpt", "data.path=other.h5ad", cwd=tmp_path)
    assert done.code == 2
    assert "held-out cells of its own file" in " ".join(done.err.split())


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("datamodule.neighbours=290",), "datamodule.neighbours=290"),
        (("datamodule.n_frequencies=500",), "datamodule.n_frequencies"),
        (("datamodule.classes=clustr",), "'cluster'"),
        (("datamodule.laplacian=normalized",), "'normalised'"),
        (("model.loss=l2",), "model.loss='l2'"),
        (("model.refits=-1",), "model.refits=-1"),
        (("model.gene_sets=none.gmt",), "none.gmt"),
        (("split=cells",), "data.perturbation_key"),
    ],
)
def test_a_mistake_is_one_sentence(home, words, sentence):
    done = runs.inside("train.py", "model=bilinear", *WORDS, *words, "hydra.run.dir=wrong", cwd=home)
    assert done.code == 2
    assert sentence in done.err
    assert "Traceback" not in done.err
