"""The linear gene expression model: exact and SGD agree, planted worlds come back, checkpoints answer without data."""

import json
from functools import partial

import numpy as np
import pandas as pd
import pytest
import pytorch_lightning as pl
import runs
import torch

from stormcell import checkpoint
from stormcell.analysis.embedding import gene_scores
from stormcell.analysis.linear import two_ridge
from stormcell.config import DataConfig, UserError
from stormcell.data import split as splits
from stormcell.data import targets
from stormcell.data.pseudobulk import PseudobulkDataModule
from stormcell.evaluation.profiles import pearson
from stormcell.models.lgem import LGEM

PAIRS = partial(splits.held_out_combinations, share=1.0, singles_seen=2, test_cells=0.0)


@pytest.fixture(scope="module")
def view(planted):
    def make(targets=targets.multi_hot, split=PAIRS, **keys):
        config = DataConfig(name="planted", path=str(planted.path), library_key="total_counts", batch_key="batch")
        data = PseudobulkDataModule(config, split, targets=targets, **keys)
        data.setup()
        return data

    return make


def fitted(data, steps=1500, lr=0.03, batch_size=1024, **keys):
    """An LGEM after its training: one step where it has a closed form."""
    data.batch_size = batch_size
    model = LGEM(
        data.spec,
        partial(torch.optim.Adam, lr=lr),
        partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=steps),
        K=keys.pop("K", 3),
        **keys,
    )
    model.initialise(data)
    steps = 1 if model.closed_form else steps
    trainer = pl.Trainer(
        max_steps=steps, max_epochs=-1, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0, gradient_clip_val=None,
    )  # fmt: skip
    trainer.fit(model, data)
    return model.eval()


def mse(model, data):
    table = data.table
    vector = table.vector if model.vectors is None else table.vector @ model.vectors
    with torch.no_grad():
        squared = (table.shift - model.network(vector)).square().mean(1)
    return float((table.weight * squared).mean())


def exact(data, ridge, K=3):
    Y, P, weights = (field.double().numpy() for field in data.table)
    return two_ridge(Y, gene_scores(data.train, K), P, ridge, weights)


@pytest.mark.parametrize("ridge", [0.0, 0.1, 2.0])
def test_the_exact_solver_is_two_ridge_solves(view, ridge):
    data = view()
    model, expected = fitted(data, ridge=ridge), exact(data, ridge)
    conditions = list(data.split.groups)
    expected = expected.predict(data.embedding.of(conditions))
    np.testing.assert_allclose(model.shift(conditions), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("ridge", [0.0, 0.1])
@pytest.mark.parametrize("weighted", [False, True])
def test_sgd_reaches_the_exact_solution(view, ridge, weighted):
    """To 1e-4 of its norm, with fixed G and P, without and with the penalty."""
    data = view(weighted=weighted)
    model, expected = fitted(data, ridge=ridge, solver="sgd"), exact(data, ridge)
    weight = model.network.weight.detach().numpy()
    assert np.linalg.norm(weight - expected.weight) <= 1e-4 * np.linalg.norm(expected.weight)
    np.testing.assert_allclose(model.network.bias.numpy(), expected.bias, atol=1e-6)


def test_sgd_in_small_batches_and_on_correlated_vectors(view):
    """Vectors and gene scores of very different length, which plain gradient descent would not get through."""
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(4, 3)) @ np.diag([10.0, 1.0, 0.1]) @ rng.normal(size=(3, 3))

    def steep(spec, train, wanted):
        return targets.TargetEmbedding("table", spec.targets, vectors)

    data = view(steep)
    model, expected = fitted(data, ridge=0.0, solver="sgd"), exact(data, 0.0)
    P = data.table.vector.double().numpy()
    found, wanted = model.network(data.table.vector).detach().numpy(), expected.predict(P)
    assert np.linalg.norm(found - wanted) <= 1e-4 * np.linalg.norm(wanted)


def test_learnt_gene_scores_fit_no_worse(view):
    data = view()
    K = 2
    fixed = mse(fitted(data, ridge=0.0, K=K), data)
    reduced = mse(fitted(data, ridge=0.0, K=K, learnable_G=True), data)
    descended = mse(fitted(data, ridge=0.0, K=K, learnable_G=True, solver="sgd"), data)
    assert reduced <= fixed * (1 + 1e-6) and descended <= fixed * (1 + 1e-6)
    assert reduced <= descended * (1 + 1e-4), "the closed form is the best there is of its rank"
    assert reduced < 0.999 * fixed, "on these cells fixed scores are not yet the best"


def test_a_hidden_layer_fits_what_a_line_cannot(view):
    """Four targets whose vectors lie on a line, each with an effect of its own."""

    def line(spec, train, wanted):
        return targets.TargetEmbedding("table", spec.targets, np.array([[1.0], [2.0], [3.0], [4.0]]))

    data = view(line)
    linear = mse(fitted(data, ridge=0.0, K=4), data)
    for learnable in (False, True):
        bent = mse(fitted(data, solver="sgd", width=32, learnable_G=learnable, steps=2000, K=4), data)
        assert bent < 0.5 * linear


def test_learnt_vectors_reach_the_multi_hot_fit(view):
    """With as many dimensions as targets free vectors are as good as a column for each, and no better."""
    data = view(partial(targets.learnable, dim=4))
    hot = mse(fitted(view(), ridge=0.0), view())
    learnt = mse(fitted(data, ridge=0.0, solver="sgd", steps=3000), data)
    assert learnt == pytest.approx(hot, rel=0.02)


def test_pairs_of_planted_effects_are_predicted(view, planted):
    data = view()
    for keys in ({}, {"learnable_G": True}, {"G": "identity"}):
        model = fitted(data, K=4, **keys)
        for pair in ("A+B", "C+D"):
            assert pearson(model.shift([pair])[0], planted.shift[pair]) > 0.85, (pair, keys)


@pytest.mark.parametrize("G", ["identity", "random", "table"])
def test_other_gene_scores(view, tmp_path, G):
    data = view()
    genes = {"identity": None, "random": np.random.default_rng(1).standard_normal((data.spec.n_genes, 3))}
    if G == "table":
        genes[G] = np.random.default_rng(5).normal(size=(data.spec.n_genes, 3))
        table = pd.DataFrame(genes[G], index=data.spec.genes).sample(frac=1, random_state=0)
        table.to_csv(tmp_path / "scores.csv")
    model = fitted(data, G=str(tmp_path / "scores.csv") if G == "table" else G)
    Y, P, weights = (field.double().numpy() for field in data.table)
    expected = two_ridge(Y, genes[G], P, 0.1, weights).predict(P)
    np.testing.assert_allclose(model.shift([*data.train.conditions, "control"]), expected, rtol=1e-3, atol=1e-5)


def test_a_table_of_scores_without_the_genes_is_refused(view, tmp_path):
    data = view()
    pd.DataFrame(np.ones((2, 2)), index=["g1", "g2"]).to_csv(tmp_path / "scores.csv")
    with pytest.raises(UserError, match=r"scores.csv: 58 of 60 genes have no row \(model.G\): g0"):
        fitted(data, G=str(tmp_path / "scores.csv"))


def test_more_scores_than_conditions_are_cut_and_told(view):
    model = fitted(view(), K=10)
    assert any("model.K=10" in note and f"only {model.network.A.shape[0]}" in note for note in model.notes(None))
    assert np.isfinite(model.shift(["A+B"])).all()


def test_a_constant_gene_stays_where_it_is(view):
    data = view()
    data.table.shift[:, 7] = 0
    model = fitted(data, learnable_G=True)
    assert abs(model.shift(["A+B"])[0][7]) < 1e-6


def test_a_target_without_a_vector_has_no_answer(view):
    model = fitted(view())
    assert model.unknown_targets("A+Q") == ["Q"]
    assert np.isnan(model.shift(["A+Q"])).all() and np.isfinite(model.shift(["A"])).all()


@pytest.mark.parametrize(
    "keys, words",
    [
        ({"width": 8}, "model.solver=exact with model.width=8.*sgd"),
        ({"K": 0}, "model.K=0"),
        ({"ridge": -1.0}, "model.ridge=-1"),
        ({"G": "identity", "learnable_G": True, "solver": "sgd"}, "model.G=identity"),
    ],
)
def test_what_cannot_be_is_refused(view, keys, words):
    with pytest.raises(UserError, match=words):
        LGEM(view().spec, None, **keys)


def test_free_vectors_have_no_closed_form(view):
    with pytest.raises(UserError, match=r"targets=learnable with model\.solver=exact.*multi_hot"):
        fitted(view(targets.learnable))


# ---- from the command line

RUN = tuple(argument for argument in runs.CELLS if not argument.startswith(("model.", "datamodule.")))
VARIANTS = ["lgem", "lgem_learnable", "lgem_nonlinear", "lgem_learnable_nonlinear"]


@pytest.mark.parametrize("model", VARIANTS)
def test_a_checkpoint_answers_as_the_run_did(model, tmp_path):
    done = runs.inside(
        "train.py", f"model={model}", *RUN, "trainer.max_steps=40", "trainer.val_check_interval=20",
        "hydra.run.dir=run", cwd=tmp_path,
    )  # fmt: skip
    assert done.code == 0, done.err
    again = runs.inside("evaluate.py", "ckpt=run/checkpoints/best.ckpt", "hydra.run.dir=again", cwd=tmp_path)
    assert again.code == 0, again.err
    first, second = (json.loads((tmp_path / f / "metrics.json").read_text()) for f in ("run", "again"))
    assert first["test"] == second["test"] and first["baselines"] == second["baselines"]
    loaded = checkpoint.load(tmp_path / "run" / "checkpoints" / "best.ckpt")
    assert np.isfinite(loaded.shift([loaded.spec.conditions[0]])).all()


def test_without_validation_cells_a_closed_form_is_its_own_best(tmp_path):
    arguments = ("model=lgem", *RUN, "split.validation=0", "hydra.run.dir=run")
    done = runs.inside("train.py", *arguments, cwd=tmp_path)
    assert done.code == 0, done.err
    assert (tmp_path / "run" / "checkpoints" / "best.ckpt").is_file()
    done = runs.inside("train.py", "model=lgem_nonlinear", *arguments[1:-1], "hydra.run.dir=other", cwd=tmp_path)
    assert done.code == 2 and "validation cells" in done.err


def test_unseen_targets_are_refused_with_the_way_out(tmp_path):
    done = runs.inside("train.py", "model=lgem", *RUN, "split=perturbations", cwd=tmp_path)
    assert done.code == 2
    assert "targets=network" in done.err and len(done.err.strip().splitlines()) == 1


def test_a_baseline_runs_alone(tmp_path):
    arguments = ("model=baseline", "model.method=additive", *RUN, "hydra.run.dir=run")
    done = runs.inside("train.py", *arguments, cwd=tmp_path)
    assert done.code == 0, done.err
    board = pd.read_csv(tmp_path / "run" / "scoreboard.csv").set_index(["group", "method"])
    for group in board.index.get_level_values(0).unique():
        own, beside = board.loc[(group, "baseline: additive")], board.loc[(group, "additive")]
        np.testing.assert_allclose(own["shift_correlation"], beside["shift_correlation"])
    done = runs.inside("train.py", "model=baseline", "model.method=aditive", *RUN, cwd=tmp_path)
    assert done.code == 2 and "'additive'" in done.err


@pytest.mark.parametrize("kind", ["multi_hot", "learnable", "gene_row", "table", "network", "transfer"])
def test_every_kind_of_vectors_trains_and_comes_back_from_the_disk(kind, tmp_path):
    """Simulated targets are measured genes; a table, a network and another screen of the same targets are written."""
    from stormcell.data.simulate import simulate

    words = [word.removeprefix("data.simulate.").split("=") for word in RUN]
    made = simulate(**({key: int(value) for key, value in words} | {"n_cells": 1100}), seed=1)
    factors = made.truth["factors"]
    rows = np.random.default_rng(0).normal(size=(len(factors), 3))
    pd.DataFrame(rows, index=factors).to_csv(tmp_path / "table.csv")
    edges = [
        (f, made.genes[g], 1) for f, row in zip(factors, made.truth["network"], strict=True) for g in row.nonzero()[0]
    ]
    pd.DataFrame(edges, columns=["source", "target", "mor"]).to_csv(tmp_path / "network.csv", index=False)
    import anndata as ad

    obs = made.obs[["perturbation", "total_counts"]]
    ad.AnnData(made.counts, obs=obs, var=pd.DataFrame(index=made.genes)).write_h5ad(tmp_path / "transfer.h5ad")
    ending = {"table": "csv", "network": "csv", "transfer": "h5ad"}
    arguments = [f"targets.path={kind}.{ending[kind]}"] if kind in ending else []
    arguments += ["targets.missing=drop"] if kind in ("transfer", "network", "gene_row", "table") else []
    arguments += ["model.solver=sgd", "trainer.max_steps=20"] if kind == "learnable" else []
    run = ("train.py", "model=lgem", *RUN, f"targets={kind}", *arguments, "hydra.run.dir=run")
    done = runs.inside(*run, cwd=tmp_path)
    assert done.code == 0, done.err
    again = runs.inside("evaluate.py", "ckpt=run/checkpoints/best.ckpt", "hydra.run.dir=again", cwd=tmp_path)
    assert again.code == 0, again.err
    first, second = (json.loads((tmp_path / f / "metrics.json").read_text())["test"] for f in ("run", "again"))
    assert first == second


def test_targets_left_out_are_named_on_the_screen(tmp_path):
    (tmp_path / "some.csv").write_text("target,x,y\nTF01,1,2\nTF03,0,1\nTF11,1,1\nTF16,2,0\n")
    words = ("model=lgem", *RUN, "targets=table", "targets.path=some.csv", "targets.missing=drop", "hydra.run.dir=run")
    done = runs.inside("train.py", *words, cwd=tmp_path)
    told = " ".join(done.out.split())
    assert done.code == 0, done.err
    assert "left out" in told and "training perturbations" in told


def test_vectors_of_the_cells_themselves_are_refused(planted):
    config = DataConfig(name="planted", path=str(planted.path), library_key="total_counts", batch_key="batch")
    own = partial(targets.transfer, path=str(planted.path), library_key="total_counts")
    data = PseudobulkDataModule(config, PAIRS, targets=own)
    data.setup()
    with pytest.raises(UserError, match="the file of the cells themselves"):
        _ = data.embedding


def test_validation_conditions_without_a_vector_leave_a_closed_form_its_checkpoint(tmp_path):
    """gears_simulation validates on conditions whose targets training has not seen."""
    arguments = ("model=lgem", *RUN, "split=gears_simulation", "hydra.run.dir=run")
    done = runs.inside("train.py", *arguments, cwd=tmp_path)
    assert done.code == 0, done.err
    assert (tmp_path / "run" / "checkpoints" / "best.ckpt").is_file()


def test_several_devices_are_refused_before_anything_is_read(tmp_path):
    done = runs.inside("train.py", "model=lgem", "trainer=ddp", "trainer.accelerator=cpu", cwd=tmp_path)
    assert done.code == 2 and "trainer.devices=1" in done.err and len(done.err.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())
