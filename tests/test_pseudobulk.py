"""The pseudobulk view: means are those of the dense cells, shifts are within contexts, and what has no row says so."""

from functools import partial

import numpy as np
import pandas as pd
import pytest
from conftest import some_counts, write_h5ad

from stormcell.analysis.pseudobulk import Pseudobulk
from stormcell.config import DataConfig, GeneSelection, UserError
from stormcell.data import split as splits
from stormcell.data.csr import group_mean
from stormcell.data.pseudobulk import PseudobulkDataModule
from stormcell.data.reference import Reference, pseudobulk
from stormcell.data.targets import table

ALL = partial(splits.held_out_combinations, share=1.0, test_cells=0.0, controls_for_truth=0.0)


def screen(tmp_path, split=ALL, genes=None, **keys):
    rng = np.random.default_rng(0)
    n = 400
    labels = rng.choice(["control", "A", "B", "C", "A+B"], n, p=[0.3, 0.2, 0.2, 0.2, 0.1])
    line = np.where(labels == "C", "K562", rng.choice(["K562", "THP1"], n))
    counts = some_counts(n, 30)
    obs = pd.DataFrame({"perturbation": labels, "line": line}, [f"c{i:03}" for i in range(n)])
    path = write_h5ad(tmp_path / "cells.h5ad", counts, obs, genes)
    data = DataConfig(name="test", path=str(path), covariate_keys=["line"], genes=GeneSelection(top=None))
    module = PseudobulkDataModule(data, split, **keys)
    module.setup()
    return module


def dense(module, part, condition, line=None):
    obs = module.cells.obs
    mine = module.split.mask(part) & (obs["condition"] == condition).to_numpy()
    mine &= np.ones(len(obs), bool) if line is None else (obs["line"] == line).to_numpy()
    return module.expression.toarray().astype(float)[mine]


def test_group_means_of_counts_are_those_of_their_logarithms(tmp_path):
    module = screen(tmp_path)
    library = module.cells.obs["library"].to_numpy()
    codes = np.arange(len(library)) % 7 - 1
    found = group_mean(module.cells.X, codes, 8, library)
    values = np.log1p(module.cells.X.toarray() / library[:, None] * 1e4)
    for group in range(6):
        np.testing.assert_allclose(found[group], values[codes == group].mean(0), rtol=1e-6)
    assert np.isnan(found[6:]).all(), "a group without cells has no mean"


def test_rows_are_the_means_of_the_cells(tmp_path):
    module = screen(tmp_path)
    train = module.train
    assert train.conditions == ("A", "B", "C") and set(train.contexts) == {"all"}
    control = dense(module, "train", "control").mean(0)
    for row, condition in enumerate(train.conditions):
        cells = dense(module, "train", condition)
        np.testing.assert_allclose(train.shifts[row], cells.mean(0) - control, atol=1e-6)
        assert train.n_cells[row] == len(cells)
    hot = module.table.vector.numpy()
    np.testing.assert_array_equal(hot, [[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]])
    np.testing.assert_allclose(module.table.shift.numpy()[:3], train.shifts, atol=1e-6)
    assert not module.table.shift[3].any(), "the control is a condition without a shift"


def test_rows_per_covariate_are_within_it_and_weighted_by_their_cells(tmp_path):
    module = screen(tmp_path, per="line", weighted=True)
    train = module.train
    assert list(zip(train.conditions, train.contexts, strict=True)) == [
        ("A", "K562"), ("A", "THP1"), ("B", "K562"), ("B", "THP1"), ("C", "K562"),
    ]  # fmt: skip
    for row, (condition, line) in enumerate(zip(train.conditions, train.contexts, strict=True)):
        control = dense(module, "train", "control", line).mean(0)
        np.testing.assert_allclose(
            train.shifts[row], dense(module, "train", condition, line).mean(0) - control, atol=1e-6
        )
    weight = module.table.weight.numpy()[:-1]
    np.testing.assert_allclose(weight, train.n_cells / train.n_cells.mean(), rtol=1e-6)
    a = train.shifts[:2]
    np.testing.assert_allclose(train.by_condition["A"], a.mean(0))


def test_validation_rows_are_against_training_controls(tmp_path):
    module = screen(tmp_path)
    found = module.held_back
    control = dense(module, "train", "control").mean(0)
    for row, condition in enumerate(found.conditions):
        np.testing.assert_allclose(
            found.shifts[row], dense(module, "validation", condition).mean(0) - control, atol=1e-6
        )
    assert len(found.conditions) == 3 == len(module.validation.shift)


def test_the_pool_weighs_cells_and_the_mean_weighs_perturbations():
    means = np.array([[1.0, 0.0], [3.0, 4.0]])
    found = Pseudobulk(("A", "B"), ("all", "all"), means, np.array([30, 10]), {"all": np.zeros(2)})
    np.testing.assert_allclose(found.mean_shift, [2.0, 2.0])
    np.testing.assert_allclose(found.pool_shift, [1.5, 1.0])


def test_a_context_without_controls_has_no_rows():
    X = np.arange(12.0).reshape(6, 2)
    from scipy.sparse import csr_matrix

    condition = np.array(["control", "A", "A", "A", "B", "control"])
    found = pseudobulk(csr_matrix(X), condition, np.array(["x", "x", "x", "y", "y", "x"]), "control")
    assert found.conditions == ("A",) and found.contexts == ("x",)
    np.testing.assert_allclose(found.shifts[0], X[1:3].mean(0) - X[[0, 5]].mean(0))


def test_the_reference_comes_back_from_its_record(tmp_path):
    reference = screen(tmp_path, per="line").reference
    back = Reference.from_record(reference.record())
    assert back.train.conditions == reference.train.conditions and back.train.contexts == reference.train.contexts
    np.testing.assert_array_equal(back.train.shifts, reference.train.shifts)
    np.testing.assert_array_equal(back.train.n_cells, reference.train.n_cells)


def test_batches_cover_every_row_once_an_epoch(tmp_path):
    module = screen(tmp_path, batch_size=2)
    assert module.steps_per_epoch == 2
    seen = np.concatenate([module.train_batch(step).shift.numpy() for step in range(2)])
    np.testing.assert_allclose(np.sort(seen, 0), np.sort(module.table.shift.numpy(), 0))


def test_an_unknown_covariate_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"no column 'lin' \(datamodule.per\).*did you mean 'line'"):
        screen(tmp_path, per="lin")
    with pytest.raises(UserError, match=r"datamodule.batch_size=0"):
        screen(tmp_path, batch_size=0)


def test_no_vector_for_any_training_perturbation_is_refused(tmp_path):
    file = tmp_path / "vectors.csv"
    file.write_text("target,x,y\nQ,1,2\nA+,3,4\nR,1,1\n")
    with pytest.raises(UserError, match=r"vectors\.csv"):
        _ = screen(tmp_path, targets=partial(table, path=str(file), missing="drop")).table


def test_targets_without_a_vector_are_left_out_by_choice_and_named(tmp_path):
    file = tmp_path / "vectors.csv"
    file.write_text("target,x,y\nA,1,2\nC,1,1\n")
    module = screen(tmp_path, targets=partial(table, path=str(file), missing="drop"))
    assert len(module.table.shift) == 3, "A, C and the control"
    assert any("B" in note for note in module.embedding.notes)
    with pytest.raises(UserError, match=r"B.*targets.missing=drop"):
        _ = screen(tmp_path, targets=partial(table, path=str(file))).table
