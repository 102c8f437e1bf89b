"""Runs of model=transition: the folder, the numbers that come back from its checkpoint, a run that goes on."""

import anndata as ad
import pandas as pd
import pytest
import runs
from transition_world import world

pytestmark = pytest.mark.xdist_group("transitions")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with cells.h5ad and prior.csv."""
    return world(tmp_path_factory.mktemp("world")).path.parent


WORDS = (
    "model=transition", "data=h5ad", "data.path=cells.h5ad", "data.scale=continuous", "data.perturbation_key=null",
    "data.cluster_key=cluster", 'data.transitions=["A>B>C"]', "data.genes.top=null", "prior=file",
    "prior.path=prior.csv", "model.bootstraps=3", "trainer.val_check_interval=10", "trainer.log_every_n_steps=5",
)  # fmt: skip


def run(home, folder, *words):
    done = runs.inside("train.py", *WORDS, *words, f"hydra.run.dir={folder}", cwd=home)
    assert done.code == 0, done.err
    return home / folder


@pytest.fixture(scope="module")
def folder(home):
    return run(home, "run")


def test_the_checkpoint_gives_the_numbers_of_the_closing_test_again(folder, tmp_path):
    """From another folder too: the files of cells and prior are found again."""
    alone = tmp_path / "alone.ckpt"
    alone.write_bytes((folder / "checkpoints" / "best.ckpt").read_bytes())
    done = runs.inside("evaluate.py", f"ckpt={alone}", "hydra.run.dir=again", cwd=tmp_path)
    assert done.code == 0, done.err
    for part in ("test", "baselines"):
        assert runs.metrics(tmp_path / "again")[part] == runs.metrics(folder)[part]
    for name in ("edges", "differential", "regulators", "transitions"):
        again, before = (run / "tables" / f"{name}.csv" for run in (tmp_path / "again", folder))
        assert again.read_bytes() == before.read_bytes(), name


def test_a_run_down_the_gradient_that_was_stopped_goes_on_bit_for_bit(home):
    """And so two runs of one seed have one metrics.json."""
    words = ("model.solver=sgd", "model.lasso=0.05", "datamodule.batch_size=64")
    whole = run(home, "whole", *words, "trainer.max_steps=20")
    stopped = run(home, "stopped", *words, "trainer.max_steps=10", "model.scheduler.T_max=20")
    last = stopped / "checkpoints" / "last.ckpt"
    half = runs.weights(last)
    done = runs.inside("train.py", f"ckpt={last}", "trainer.max_steps=20", cwd=home)
    assert done.code == 0, done.err
    for name in ("last", "best"):
        found, expected = (runs.weights(one / "checkpoints" / f"{name}.ckpt") for one in (stopped, whole))
        assert all(found[key].equal(expected[key]) for key in expected), name
    assert not half["shared"].equal(runs.weights(last)["shared"])
    assert (stopped / "history.csv").read_bytes() == (whole / "history.csv").read_bytes()
    for part in ("test", "baselines"):
        assert runs.metrics(stopped)[part] == runs.metrics(whole)[part]


def test_the_run_folder_holds_the_network(folder):
    tables = {path.stem for path in (folder / "tables").glob("*.csv")}
    assert {"edges", "differential", "regulators", "transitions", "genes", "stability", "decoupler", "split"} <= tables
    assert (folder / "network.graphml").is_file()
    edges = pd.read_csv(folder / "tables" / "edges.csv")
    cells = ad.read_h5ad(folder / "predictions.h5ad")
    for row in edges.itertuples():
        here = cells.varp[row.transition][cells.var_names.get_loc(row.regulator), cells.var_names.get_loc(row.target)]
        assert here == pytest.approx(row.weight)


def test_another_file_is_refused(folder, home, tmp_path):
    cells = ad.read_h5ad(home / "cells.h5ad")
    cells[:200].copy().write_h5ad(tmp_path / "other.h5ad")
    arguments = (f"ckpt={folder}/checkpoints/best.ckpt", "data.path=other.h5ad")
    done = runs.inside("evaluate.py", *arguments, cwd=tmp_path)
    assert done.code == 2
    assert "held-out cells of its own file" in " ".join(done.err.split())
