"""The view of frequencies: targets are eigenvectors of the graph, and nothing of a held-out cell is in training."""

from functools import partial
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import write_h5ad
from scipy.linalg import eigh
from scipy.spatial.distance import cdist

from stormcell.config import DataConfig, GeneSelection, QualityControl, UserError
from stormcell.data.frequency import FrequencyDataModule
from stormcell.data.frequency_graph import CellGraph, _rotation, gaps, told
from stormcell.data.frequency_inputs import principal_components
from stormcell.data.frequency_spec import FrequencySpec
from stormcell.data.split_random import held_out_at_random

VIEW = {
    "neighbours", "metric", "graph_components", "laplacian", "n_frequencies", "transductive", "inputs",
    "input_components", "classes", "batch_size",
}  # fmt: skip


def cells(folder, change=None, n=300, genes=24, counts=False, drop=(), order=None, seed=0):
    """A noisy branching path of cells in gene space; `change(values, names)` before they are written."""
    rng = np.random.default_rng(seed)
    branch, place = np.arange(n) % 3, rng.random(n)
    ends = rng.normal(size=(3, genes))
    values = 3 * ends[branch] * place[:, None] + 0.6 * rng.normal(size=(n, genes))
    if counts:
        values = rng.poisson(np.exp(1 + 0.3 * values)).astype(float)
        values[:, 0] += 1
    names = np.array([f"cell{i:04}" for i in rng.permutation(n)])
    if change is not None:
        values = change(values, names)
    obs = pd.DataFrame({"cluster": np.array(list("ABC"))[branch], "cell_type": np.where(branch, "x", "y")}, names)
    obs = obs.drop(columns=list(drop))
    order = np.arange(len(values)) if order is None else order
    gene_names = [f"G{i:02}" for i in range(values.shape[1])]
    return write_h5ad(folder / "cells.h5ad", values[order], obs.iloc[order], gene_names)


def module(path, split=held_out_at_random, seed=1, **keys) -> FrequencyDataModule:
    """The view of a file, set up; keys of the data config and of the view alike."""
    view = {"neighbours": 8, "graph_components": 6, "n_frequencies": 4, "batch_size": 32}
    view |= {key: keys.pop(key) for key in sorted(VIEW & keys.keys())}
    read = {
        "perturbation_key": None, "cluster_key": "cluster", "cell_type_key": "cell_type", "scale": "continuous",
        "genes": GeneSelection(top=None),
    }  # fmt: skip
    data = FrequencyDataModule(DataConfig(name="test", path=str(path), **{**read, **keys}), split, seed, **view)
    data.setup()
    return data


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return cells(tmp_path_factory.mktemp("cells"))


@pytest.fixture(scope="module")
def inductive(path):
    return module(path)


def said(data, words) -> bool:
    return any(words in note for note in data.cells.notes)


# ---- targets


def second_implementation(points, k, normalised, n_frequencies):
    """Dense, by the definition: eigenvalues and frequencies of unit RMS, up to their signs."""
    distance = cdist(points, points)
    np.fill_diagonal(distance, np.inf)
    adjacency = np.zeros_like(distance)
    np.put_along_axis(adjacency, np.argsort(distance, axis=1)[:, :k], 1, axis=1)
    adjacency = np.maximum(adjacency, adjacency.T)
    degree = np.diag(adjacency.sum(1))
    values, vectors = eigh(degree - adjacency, degree if normalised else None)  # L φ = λ D φ: the random-walk vectors
    vectors = vectors[:, 1 : n_frequencies + 1]
    return values[1 : n_frequencies + 1], vectors / np.sqrt((vectors**2).mean(0))


@pytest.mark.parametrize("laplacian", ["normalised", "unnormalised"])
@pytest.mark.parametrize("transductive", [False, True])
def test_targets_are_the_eigenvectors_of_the_graph(path, laplacian, transductive):
    data = module(path, laplacian=laplacian, transductive=transductive)
    of = np.arange(300) if transductive else data.rows["train"]
    raw = data.expression.toarray()
    standard = (raw - raw[of].mean(0)) / raw[of].std(0)
    directions = np.linalg.svd(standard[of], full_matrices=False)[2][:6].T
    values, vectors = second_implementation(standard[of] @ directions, 8, laplacian == "normalised", 4)
    np.testing.assert_allclose(data.spec.eigenvalues, values, rtol=1e-4)
    targets = data.targets[of].astype(float)
    np.testing.assert_allclose((targets**2).mean(0), 1, rtol=1e-5)
    np.testing.assert_allclose(np.abs((targets * vectors).mean(0)), 1, atol=1e-4)
    assert (targets[np.abs(targets).argmax(0), range(4)] > 0).all()
    assert data.spec.outputs == tuple(f"frequency {i}" for i in (1, 2, 3, 4))
    assert data.points.shape == (300, 6)
    assert data.inputs.shape == (300, 24)


def test_held_out_cells_are_the_mean_of_their_neighbours_over_one_less_the_eigenvalue(inductive):
    train, test = inductive.rows["train"], inductive.rows["test"]
    distance = cdist(inductive.points[test], inductive.points[train])
    mean = inductive.targets[train][np.argsort(distance, axis=1)[:, :8]].mean(1)
    np.testing.assert_allclose(inductive.targets[test], mean / (1 - np.array(inductive.spec.eigenvalues)), rtol=1e-3)


def test_cells_of_the_graph_are_all_or_the_training_cells(path, inductive):
    other = module(path, transductive=True)
    assert len(inductive.spectrum.vectors) == len(inductive.rows["train"]) == 210
    assert len(other.spectrum.vectors) == 300
    assert len(inductive.extension) == 4
    assert other.extension.empty
    assert said(other, "transductive: validation and test cells are in the graph")
    assert not said(inductive, "transductive")
    np.testing.assert_array_equal(other.basis.mean, inductive.basis.mean)  # inputs stay those of the training cells
    np.testing.assert_array_equal(other.inputs, inductive.inputs)


def test_no_graph_components_searches_in_all_standardised_genes(path):
    data = module(path, graph_components=None, metric="cosine")
    np.testing.assert_allclose(data.points, data.standardised, rtol=1e-5)


# ---- what training may know


SCALES = [{"scale": "continuous"}, {"scale": "counts", "genes": GeneSelection(top=15)}]


@pytest.mark.parametrize("inputs", ["genes", "components"])
@pytest.mark.parametrize("keys", SCALES, ids=lambda keys: keys["scale"])
def test_held_out_cells_have_no_part_in_training(tmp_path, keys, inputs):
    counts = keys["scale"] == "counts"
    keys = {**keys, "inputs": inputs, "input_components": 5}
    before = module(cells(tmp_path, counts=counts), **keys)
    held = set(before.cells.obs.index[~before.split.mask("train")])

    def change(values, names):
        mine = np.isin(names, list(held))
        values[mine] = np.random.default_rng(1).poisson(5, values[mine].shape) + 1
        return values

    after = module(cells(tmp_path, change, counts=counts), **keys)
    train = before.rows["train"]
    assert after.spec == before.spec
    assert np.array_equal(after.rows["train"], train)
    for name in ("targets", "inputs", "points"):
        np.testing.assert_array_equal(getattr(after, name)[train], getattr(before, name)[train])
    np.testing.assert_array_equal(after.basis.sd, before.basis.sd)
    pd.testing.assert_frame_equal(after.extension, before.extension)
    assert not np.allclose(after.targets[before.rows["test"]], before.targets[before.rows["test"]])
    leaking = module(tmp_path / "cells.h5ad", **keys, transductive=True)
    assert leaking.spec.eigenvalues != before.spec.eigenvalues


def test_the_order_of_the_file_plays_no_part(path, inductive, tmp_path):
    order = np.random.default_rng(1).permutation(300)
    other = module(cells(tmp_path, order=order))
    assert other.spec == inductive.spec
    assert other.split.sha256 == inductive.split.sha256
    np.testing.assert_array_equal(other.targets, inductive.targets)
    for step in (0, 1, 17):
        for a, b in zip(inductive.train_batch(step), other.train_batch(step), strict=True):
            assert torch.equal(a, b)


# ---- inputs


def test_genes_are_standardised_by_the_training_cells(inductive):
    train = inductive.rows["train"]
    np.testing.assert_allclose(inductive.inputs[train].mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(inductive.inputs[train].std(0), 1, rtol=1e-5)
    assert inductive.basis.matrix is None
    assert inductive.spec.n_inputs == inductive.spec.n_genes == 24


@pytest.mark.parametrize("asked", [5, 40])  # fewer than the genes: a partial solver; more: the whole one
def test_components_are_white_and_map_back_to_genes_exactly(path, asked):
    data = module(path, inputs="components", input_components=asked)
    train, d = data.rows["train"], min(asked, 24)
    x = data.inputs[train].astype(float)
    np.testing.assert_allclose(x.T @ x / len(x), np.eye(d), atol=1e-4)
    np.testing.assert_allclose(data.standardised @ data.basis.matrix, data.inputs, atol=1e-5)
    standard = data.standardised[train].astype(float)
    u, _, _ = np.linalg.svd(standard, full_matrices=False)
    np.testing.assert_allclose(np.abs((u[:, :d] * x).sum(0)) / np.sqrt(len(x)), 1, atol=1e-4)
    assert data.spec.n_inputs == d
    assert data.spec.inputs == "components"
    assert said(data, "24 input components, not 40") == (asked == 40)


def test_components_without_variance_are_left_out():
    from scipy.sparse import csr_matrix

    rng = np.random.default_rng(0)
    values = rng.normal(size=(50, 2)) @ rng.normal(size=(2, 9))
    for k in (5, 9):
        found = principal_components(csr_matrix(values), values.mean(0), values.std(0), k, white=True)
        assert found.shape == (9, 2)


def test_small_values_far_from_zero_keep_their_standard_deviation(tmp_path):
    """Σx² − (Σx)² of values near 1000 has lost a deviation of 0.01 to rounding."""
    data = module(cells(tmp_path, lambda values, names: 1000 + 0.01 * values))
    raw = data.expression.toarray()[data.rows["train"]].astype(float)
    np.testing.assert_allclose(data.basis.sd, raw.std(0), rtol=1e-6)


def test_constant_genes_are_dropped_and_told(tmp_path):
    def change(values, names):
        values[:, [3, 7]] = [2.0, 0.0]
        return values

    data = module(cells(tmp_path, change))
    assert data.spec.n_genes == 22
    assert data.cells.X.shape == data.expression.shape == (300, 22)
    assert {"G03", "G07"}.isdisjoint(data.spec.genes)
    assert said(data, "2 genes that are constant over the training cells dropped")


# ---- the extension


def test_extension_is_good_where_gaps_are_and_after_one_rotation_everywhere(inductive):
    """On a ring frequencies come in pairs of one eigenvalue, which turn; on the path some stand alone."""
    rule = CellGraph(10, "euclidean", True, 4, 1, "ring")
    angle = 2 * np.pi * np.arange(800) / 800
    points = np.stack([np.cos(angle), np.sin(angle)], 1) + np.random.default_rng(0).normal(0, 0.01, (800, 2))
    table = rule.accuracy(rule.spectrum(points), points)
    assert not table["trusted"].any()
    assert (table["rotated"] > 0.99).all()
    assert (table["ceiling"] > 0.99).all()
    assert table["correlation"].min() < table["rotated"].min() - 0.02
    assert (inductive.extension.query("trusted")["correlation"] > 0.9).all()
    assert inductive.extension["trusted"].any()


def test_rotation_is_recovered():
    rng = np.random.default_rng(0)
    turn = np.linalg.qr(rng.normal(size=(4, 4)))[0]
    of = rng.normal(size=(90, 4))
    np.testing.assert_allclose(_rotation(of, of @ turn), turn, atol=1e-10)


def test_a_vector_is_trusted_when_both_its_gaps_are_wide():
    found = SimpleNamespace(values=np.array([0.1, 0.2, 0.21, 0.3]), next_value=0.31)
    gap, trusted = gaps(found)
    np.testing.assert_allclose(gap, [1, 0.05, 0.09 / 0.21, 0.01 / 0.3])
    assert trusted.tolist() == [True, False, False, False]


def test_too_few_cells_for_a_check_of_the_extension_are_told(tmp_path):
    data = module(cells(tmp_path, n=45), neighbours=5, n_frequencies=2)
    assert data.extension.empty
    assert said(data, "the extension could not be checked")


# ---- what is told


def test_frequencies_on_few_cells_are_told():
    found = SimpleNamespace(
        values=np.array([0.1, 0.2, 0.3]), next_value=0.5, residuals=np.array([1e-9, 1e-8, 1e-9]), restart_angle=0.0,
        participation=np.array([1.2, 60.0, 9.0]), solver="dense", blocks=[(1, 2)], notes=("a note of the solver",),
    )  # fmt: skip
    notes = told(found, pd.DataFrame(), 300)
    assert "the energy of some frequencies sits on few of the 300 cells: 2 on about 5" in notes
    assert "a note of the solver" in notes
    assert "frequencies with one eigenvalue, of which only the common space is certain: 2, 3" in notes
    assert "largest residual 1e-08 against a gap of 0.2" in notes[0]


def test_a_graph_in_pieces_is_told_and_has_no_null_frequency(tmp_path):
    def change(values, names):
        values[:150] += 50
        return values

    data = module(cells(tmp_path, change))
    assert data.spectrum.components == 2
    assert said(data, "2 components")
    assert min(data.spec.eigenvalues) > 1e-4
    assert np.isfinite(data.targets).all()


def test_twins_are_told(tmp_path):
    def change(values, names):
        values[1::30] = values[::30]
        return values

    data = module(cells(tmp_path, change))
    assert said(data, "20 cells have exactly the expression of another cell")
    train = set(data.rows["train"])
    raw = data.expression.toarray()
    held = [*data.rows["validation"], *data.rows["test"]]
    seen = sum(any((raw[i] == raw[j]).all() for j in train) for i in held)
    assert said(data, f"{seen} validation and test cells have such a twin")
    assert np.isfinite(data.targets).all()


def test_one_cell_many_times_is_a_piece_of_its_own(tmp_path):
    def change(values, names):
        values[:40] = values[0]
        return values

    data = module(cells(tmp_path, change), transductive=True)
    assert said(data, "40 cells have exactly the expression")
    assert np.isfinite(data.targets).all()


# ---- classes


def test_classes_are_numbered_by_name(path):
    data = module(path, classes="cluster")
    assert data.spec.task == "classification"
    assert data.spec.outputs == ("A", "B", "C")
    assert data.spec.eigenvalues == ()
    assert data.spectrum is None
    batch = data.train_batch(0)
    assert batch.y.dtype == torch.int64
    assert (np.array(data.spec.outputs)[data.targets] == data.cells.obs["cluster"]).all()


def test_cells_without_a_class_are_left_out(path, tmp_path):
    import anndata as ad

    whole = ad.read_h5ad(path)
    whole.obs["cluster"] = whole.obs["cluster"].astype(object)
    whole.obs.iloc[:30, 0] = "nan"
    whole.write_h5ad(tmp_path / "cells.h5ad")
    data = module(tmp_path / "cells.h5ad", classes="cluster")
    assert "nan" not in data.spec.outputs
    assert sum(map(len, data.rows.values())) == 270
    assert all((data.targets[rows] >= 0).all() for rows in data.rows.values())
    assert said(data, "30 cells left out: no cluster")


# ---- batches


def test_a_pass_has_every_training_cell_and_ranks_share_a_batch(inductive):
    train = inductive.rows["train"]
    n = inductive.steps_per_epoch
    assert n == -(-len(train) // 32)
    batches = [inductive.train_batch(step) for step in range(n)]
    seen = {tuple(row) for batch in batches for row in batch.x.numpy().round(4)}
    assert seen == {tuple(row) for row in inductive.inputs[train].round(4)}
    for batch in batches:
        assert batch.x.dtype == batch.y.dtype == torch.float32
        for x, y in zip(batch.x, batch.y, strict=True):
            here = (inductive.inputs == x.numpy()).all(1)
            assert torch.equal(torch.from_numpy(inductive.targets[here][0]), y)
    shares = [inductive.train_batch(3, rank, 2).x for rank in (0, 1)]
    assert torch.equal(torch.stack(shares, 1).flatten(0, 1), inductive.train_batch(3).x)


def test_validation_cells_come_once_each(path):
    data = module(path)
    parts = []
    for rank in (0, 1):
        data.trainer = SimpleNamespace(global_rank=rank, world_size=2)
        parts += [batch.x for batch in data.val_dataloader()]
    rows = {tuple(row) for row in torch.cat(parts).numpy()}
    assert len(torch.cat(parts)) == len(data.rows["validation"])
    assert rows == {tuple(row) for row in data.inputs[data.rows["validation"]]}
    data.trainer = SimpleNamespace(world_size=3)
    with pytest.raises(UserError, match=r"batch_size=32 does not divide among 3"):
        data.train_dataloader()


# ---- bad input


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"metric": "cosin"}, r"datamodule\.metric=cosin: euclidean or cosine .*'cosine'"),
        ({"laplacian": "unnormalized"}, r"laplacian=unnormalized: .*'unnormalised'"),
        ({"inputs": "gene"}, r"inputs=gene: .*'genes'"),
        ({"classes": "clusters"}, r"classes=clusters: .*'cluster'"),
        ({"neighbours": 0}, r"datamodule\.neighbours=0: a whole number"),
        ({"batch_size": 0}, r"datamodule\.batch_size=0"),
        ({"n_frequencies": -1}, r"datamodule\.n_frequencies=-1"),
        ({"graph_components": 0}, r"datamodule\.graph_components=0"),
        ({"neighbours": 210}, r"cells\.h5ad: the graph has 210 cells, .*datamodule\.neighbours=210"),
        ({"n_frequencies": 250}, r"datamodule\.n_frequencies=250, but \d+ can be certified on the graph of 210 cells"),
        ({"n_frequencies": 100}, r"datamodule\.n_frequencies=100, or put all cells .*transductive=true"),
        ({"classes": "cluster", "cluster_key": None}, r"classes=cluster, but data\.cluster_key is null"),
        ({"classes": "cluster", "cluster_key": "one"}, r"has 1 class among the training cells"),
    ],
)
def test_mistakes_are_named(path, tmp_path, keys, message):
    if keys.get("cluster_key") == "one":
        import anndata as ad

        whole = ad.read_h5ad(path)
        whole.obs["one"] = "A"
        path = tmp_path / "cells.h5ad"
        whole.write_h5ad(path)
    with pytest.raises(UserError, match=message):
        module(path, **keys)


def test_no_varying_gene_is_refused(tmp_path):
    with pytest.raises(UserError, match="0 genes vary over the training cells"):
        module(cells(tmp_path, lambda values, names: np.ones_like(values)))


def test_cells_of_another_file_are_refused(path, inductive):
    with pytest.raises(UserError, match=r"cells\.h5ad: frequencies belong to the graph .* model=bilinear"):
        inductive.setup_elsewhere(inductive.spec, 0.5)


# ---- the split


def test_split_shares_hold_in_every_cluster_and_draws_are_by_name(inductive):
    part = pd.crosstab(inductive.cells.obs["cluster"], inductive.split.part)
    assert (part["test"] == 15).all()
    assert (part["validation"] == 15).all()
    assert not np.array_equal(held_out_at_random(inductive.cells, 2).part, inductive.split.part)
    assert inductive.split.groups == {}


def test_rare_labels_are_drawn_together_and_no_label_is_needed(path, tmp_path):
    data = module(cells(tmp_path, drop=["cluster", "cell_type"]), cluster_key=None, cell_type_key=None)
    assert [len(data.rows[part]) for part in ("train", "validation", "test")] == [210, 45, 45]
    obs = data.cells.obs.assign(cluster=[f"c{i // 3}" for i in range(300)])  # three cells each: 15 % of them is none
    data.cells.obs = obs
    assert (held_out_at_random(data.cells, 1).part == "test").sum() == 45


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"test_cells": 1.2}, r"split\.test_cells=1\.2: a share"),
        ({"test_cells": 0.0}, r"leave no test cell; change split\.test_cells"),
        ({"validation": 1.0}, r"leave no train cell"),
    ],
)
def test_split_refuses_empty_parts(path, keys, message):
    with pytest.raises(UserError, match=message):
        module(path, split=partial(held_out_at_random, **keys))


# ---- real cells


def paul(shared_data, top, **view):
    return module(
        shared_data("paul2015_myeloid.h5ad"), scale="log1p", layer="X", genes=GeneSelection(top, "seurat"),
        qc=QualityControl(), **view,
    )  # fmt: skip


def test_the_source_protocol_gives_the_published_spectrum(shared_data):
    """Eigenvalues and participation of the unnormalised Laplacian of Paul's cells, computed apart from this code."""
    protocol = {"metric": "cosine", "neighbours": 10, "graph_components": None, "laplacian": "unnormalised"}
    data = paul(shared_data, None, **protocol, n_frequencies=5, transductive=True)
    np.testing.assert_allclose(data.spec.eigenvalues, [0.18, 1.01, 2.75, 2.84, 4.46], atol=0.02)
    np.testing.assert_allclose(data.spectrum.participation, [1.4, 2.3, 65, 4.4, 23], rtol=0.05)
    assert said(data, "3 on about 41, 5 on about 11")


def test_paul_with_a_normalised_graph(shared_data):
    view = {"neighbours": 15, "graph_components": 50, "n_frequencies": 10}
    data = paul(shared_data, 1000, **view, transductive=True, inputs="components", input_components=50)
    np.testing.assert_allclose(np.array(data.spec.eigenvalues)[[0, -1]], [0.013, 0.27], atol=0.005)
    assert data.spec.extent == "10 frequencies from 50 components"
    assert FrequencySpec.from_record(data.spec.record()) == data.spec
