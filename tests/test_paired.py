"""Paired batches: half controls, half perturbed cells, no cell dropped; batch and covariates ride with every cell."""

from functools import partial
from itertools import pairwise
from types import SimpleNamespace

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import some_counts, write_h5ad

from stormcell.config import DataConfig, GeneSelection, UserError
from stormcell.data import split as splits
from stormcell.data.control_perturbed import ControlPerturbedDataModule
from stormcell.data.spec import Spec
from stormcell.data.split_table import from_file

CELLS = partial(splits.held_out_cells, controls_for_truth=0.25)
EVERY = GeneSelection(top=None)


def module(path, batch_size=32, seed=1, paired=True, split=CELLS, **keys):
    config = DataConfig(name="test", path=str(path), **{"genes": EVERY, **keys})
    data = ControlPerturbedDataModule(config, split, seed, batch_size, paired)
    data.setup()
    return data


def screen(path, n_control=120, n_perturbed=240, batches=("b1", "b2", "b3")):
    """Counts of 20 genes; targets A and B, batches in turn, dose and time as numbers."""
    n = n_control + n_perturbed
    labels = np.where(np.arange(n) < n_control, "control", np.where(np.arange(n) % 2, "A", "B"))
    rng = np.random.default_rng(3)
    obs = pd.DataFrame(
        {
            "perturbation": labels,
            "batch": np.resize(batches, n),
            "dose": rng.normal(5, 2, n).round(3),
            "time": rng.integers(1, 4, n),
            "line": rng.choice(["K562", "THP1"], n),
        },
        index=[f"cell{i:04}" for i in rng.permutation(n)],
    )
    return write_h5ad(path / "cells.h5ad", some_counts(n, 20), obs)


@pytest.fixture
def path(tmp_path):
    return screen(tmp_path)


def halves(data, steps):
    """The rows of the controls' and of the perturbed cells' stream over some steps."""
    rows = np.stack([data.step_rows(step) for step in range(steps)])
    half = data.batch_size // 2
    return rows[:, :half].ravel(), rows[:, half:].ravel()


# ---- two streams


@pytest.mark.parametrize(("n_control", "n_perturbed"), [(120, 240), (240, 120), (14, 1386), (1386, 24)])
def test_each_stream_goes_through_all_its_cells_before_one_comes_again(tmp_path, n_control, n_perturbed):
    """Also with 1 % controls, of which a half batch holds each several times."""
    data = module(screen(tmp_path, n_control, n_perturbed), batch_size=32)
    train, is_control = data.rows["train"], data.cells.obs["is_control"].to_numpy()
    steps = 3 * data.steps_per_epoch
    for line, want in zip(halves(data, steps), (train[is_control[train]], train[~is_control[train]]), strict=True):
        n = len(want)
        laps = line[: len(line) // n * n].reshape(-1, n)
        assert len(laps) >= 3
        assert (np.sort(laps, 1) == want).all()
        assert all((a != b).any() for a, b in pairwise(laps)), "reshuffled at each wrap"
        counts = np.bincount(line, minlength=len(data.cells))[want]
        assert np.ptp(counts) <= 1


def test_a_batch_has_its_controls_first(path):
    data = module(path, batch_size=34)
    for step in (0, 1, 50, 10_000):
        batch = data.train_batch(step)
        assert len(batch.x) == 34
        assert not batch.condition[:17].any()
        assert (batch.condition[17:].sum(1) == 1).all()
        assert data.cells.obs["is_control"].to_numpy()[batch.index.numpy()].tolist() == [True] * 17 + [False] * 17


def test_an_epoch_is_one_pass_of_the_longer_stream(tmp_path):
    for n_control, n_perturbed in ((40, 240), (400, 40)):
        data = module(screen(tmp_path, n_control, n_perturbed), batch_size=32)
        control, perturbed = halves(data, data.steps_per_epoch)
        longer = perturbed if n_perturbed > n_control else control
        n = max(len(rows) for rows, *_ in data.streams)
        assert len(set(longer)) == n > len(longer) - 16


def test_the_streams_are_keyed_by_seed_and_step(path):
    one, same, other = module(path), module(path), module(path, seed=2)
    for step in (7, 3, 400, 3):  # in any order: there is no state
        assert np.array_equal(one.step_rows(step), same.step_rows(step))
    # The controls and perturbed cells of two seeds are the same cells only where the split is; orders differ anyway.
    assert not np.array_equal(one.step_rows(0), other.step_rows(0))
    assert len({seed for data in (one, other) for *_, seed in data.streams}) == 4


def test_equally_long_streams_are_not_shuffled_alike(tmp_path):
    data = module(screen(tmp_path, 200, 200), split=partial(splits.held_out_cells, controls_for_truth=0.2))
    (control, *_), (perturbed, *_) = data.streams
    n = min(len(control), len(perturbed))
    first, second = halves(data, n // 16)
    places = [np.searchsorted(rows, line) for rows, line in ((control, first), (perturbed, second))]
    m = min(map(len, places))
    assert abs(np.corrcoef(places[0][:m], places[1][:m])[0, 1]) < 4 / np.sqrt(m)


@pytest.mark.parametrize("world", [2, 3, 6])
def test_every_process_has_both_halves_and_together_they_have_the_batch(path, world):
    data = module(path, batch_size=36)
    for step in (0, 1, 9):
        whole = data.step_rows(step)
        shares = [data.step_rows(step, rank, world) for rank in range(world)]
        for rank, share in enumerate(shares):
            mine = 18 // world
            assert np.array_equal(share, np.concatenate([whole[:18][rank::world], whole[18:][rank::world]]))
            control = data.cells.obs["is_control"].to_numpy()[share]
            assert control.tolist() == [True] * mine + [False] * mine
        assert sorted(np.concatenate(shares)) == sorted(whole)


def test_the_order_of_the_file_plays_no_part(path, tmp_path):
    file = ad.read_h5ad(path)
    file[np.random.default_rng(4).permutation(file.n_obs)].copy().write_h5ad(tmp_path / "shuffled.h5ad")
    keys = {"batch_key": "batch", "covariate_keys": ["line"], "continuous_covariate_keys": ["dose"]}
    one, other = module(path, **keys), module(tmp_path / "shuffled.h5ad", **keys)
    assert one.spec == other.spec
    for step in (0, 30):
        for a, b in zip(one.train_batch(step), other.train_batch(step), strict=True):
            assert torch.equal(a, b)


def test_unpaired_batches_are_one_stream_of_all_cells(path):
    data = module(path, paired=False, batch_size=33)
    line = np.concatenate([data.step_rows(step) for step in range(2 * data.steps_per_epoch)])
    assert sorted(line[: len(data.rows["train"])]) == data.rows["train"].tolist()


# ---- refusals


def test_batches_that_cannot_be_halved_or_shared(path):
    with pytest.raises(UserError, match=r"datamodule.batch_size=31 is odd, .*datamodule.paired=true .*take 32"):
        module(path, batch_size=31)
    data = module(path, batch_size=36)
    data.trainer = SimpleNamespace(world_size=4)
    words = r"datamodule.batch_size=36 of half controls, half perturbed cells does not divide among 4 processes"
    with pytest.raises(UserError, match=words):
        data.train_dataloader()


def test_training_without_perturbed_cells_is_refused(path):
    with pytest.raises(UserError, match=r"cells.h5ad: datamodule.paired=true needs .* leaves \d+ and 0; see split"):
        module(path, split=partial(splits.held_out_perturbations, share=1.0))
    module(path, split=partial(splits.held_out_perturbations, share=1.0), paired=False)


# ---- the batch


def test_the_one_hot_of_the_batch_is_that_of_the_file(path):
    data = module(path, batch_key="batch")
    file = ad.read_h5ad(path)
    assert data.spec.batches == ("b1", "b2", "b3")
    assert data.spec.n_batches == 3
    for rows in (data.step_rows(0), data.rows["test"]):
        batch = data.batch(rows)
        names = file.obs["batch"][data.cells.obs.index[rows]].to_numpy(str)
        assert np.array_equal(batch.batch.numpy(), names[:, None] == np.array(["b1", "b2", "b3"]))
        assert batch.covariates.shape == (len(rows), 0)


def test_one_batch_is_as_good_as_none(path, tmp_path):
    assert module(path).spec.batches == ()
    data = module(screen(tmp_path, batches=["b1"]), batch_key="batch")
    assert data.spec.batches == ()
    assert data.train_batch(0).batch.shape == (32, 0)


def test_batches_are_those_of_the_training_cells(path, tmp_path):
    """A batch that the split leaves to the test is a row of zeros, and no column."""
    file = ad.read_h5ad(path)
    part = np.where(
        file.obs["batch"] == "b2", np.where(file.obs["perturbation"] == "control", "truth", "test"), "train"
    )
    pd.DataFrame({"cell": file.obs_names, "part": part}).to_csv(tmp_path / "split.csv", index=False)
    data = module(path, batch_key="batch", split=partial(from_file, path=str(tmp_path / "split.csv")))
    assert data.spec.batches == ("b1", "b3")
    assert not data.batch(data.rows["test"]).batch.any()
    assert (data.batch(data.rows["train"]).batch.sum(1) == 1).all()


# ---- covariates


def test_continuous_covariates_are_scores_after_the_one_hots(path):
    data = module(path, covariate_keys=["line"], continuous_covariate_keys=["time", "dose"])
    file = ad.read_h5ad(path).obs.loc[data.cells.obs.index]
    train = data.rows["train"]
    assert data.spec.covariates == {"line": ("K562", "THP1")}
    assert list(data.spec.continuous) == ["time", "dose"]
    assert data.spec.n_covariates == 4
    for column, key in ((2, "time"), (3, "dose")):
        known = file[key].to_numpy(float)
        assert data.spec.continuous[key] == pytest.approx((known[train].mean(), known[train].std()))
        scores = data.batch(np.arange(len(file))).covariates[:, column].numpy()
        assert scores[train].mean() == pytest.approx(0, abs=1e-5)
        assert scores[train].std() == pytest.approx(1, abs=1e-5)
        assert np.allclose(scores, (known - known[train].mean()) / known[train].std(), atol=1e-5)
    assert (data.batch(train).covariates[:, :2].sum(1) == 1).all()


def test_the_spec_survives_its_record(path):
    data = module(path, batch_key="batch", covariate_keys=["line"], continuous_covariate_keys=["dose"])
    record = data.spec.record()
    assert Spec.from_record(record) == data.spec
    assert record["batches"] == ["b1", "b2", "b3"]
    assert isinstance(record["continuous"]["dose"], list)
    for name in ("batches", "continuous"):  # of a checkpoint that was written before there were any
        del record[name]
    assert (Spec.from_record(record).batches, Spec.from_record(record).continuous) == ((), {})


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"covariate_keys": ["kind"]}, r"covariate 'kind' \(data.covariate_keys\) is x in every training cell"),
        ({"continuous_covariate_keys": ["depth"]}, r"covariate 'depth' \(data.continuous.*\) is 3 in every training"),
        ({"continuous_covariate_keys": ["line"]}, r"obs column 'line' \(data.continuous.*\) holds '\w+', not numbers"),
        ({"continuous_covariate_keys": ["age"]}, r"1 cells have no number in obs column 'age' \(data.continuous"),
        ({"continuous_covariate_keys": ["dosis"]}, r"no obs column 'dosis' \(data.con.* \(did you mean 'dose'\?\)"),
        ({"continuous_covariate_keys": ["library"]}, r"data.continuous_covariate_keys: 'library' .* rename"),
        ({"continuous_covariate_keys": ["time"], "covariate_keys": ["time"]}, r"'time' is read as categories too"),
    ],
)
def test_covariates_that_cannot_be_used(path, keys, words):
    file = ad.read_h5ad(path)
    file.obs = file.obs.assign(kind="x", depth=3.0, library=1, age=[*np.arange(file.n_obs - 1.0), np.nan])
    file.write_h5ad(path)
    with pytest.raises(UserError, match=words):
        module(path, **keys)


def test_a_constant_cell_type_or_batch_is_no_column(path):
    file = ad.read_h5ad(path)
    file.obs["cell_type"] = "THP-1"
    file.write_h5ad(path)
    assert module(path, cell_type_key="cell_type").spec.n_covariates == 0
    with pytest.raises(UserError, match=r"covariate 'cell_type' \(data.covariate_keys\) is THP-1 in every"):
        module(path, cell_type_key="cell_type", covariate_keys=["cell_type"])


# ---- another file


def elsewhere(spec, path, paired=True, **keys):
    data = ControlPerturbedDataModule(DataConfig(name="other", path=str(path), **keys), CELLS, 1, 32, paired)
    data.setup_elsewhere(spec, 0.5)
    return data


def test_another_file_is_read_with_the_batches_and_moments_of_the_training(path, tmp_path):
    keys = {"batch_key": "batch", "continuous_covariate_keys": ["dose"]}
    data = module(path, **keys)
    file = ad.read_h5ad(path)
    file = file[file.obs["batch"] != "b1"].copy()
    file.obs["dose"] += 10
    file.write_h5ad(tmp_path / "other.h5ad")
    other = elsewhere(data.spec, tmp_path / "other.h5ad", **keys)
    found = other.batch(np.arange(len(other.cells)))
    assert not found.batch[:, 0].any()
    assert np.array_equal(found.batch[:, 1].numpy(), other.cells.obs["batch"] == "b2")
    mean, sd = data.spec.continuous["dose"]
    assert np.allclose(found.covariates[:, 0], (other.cells.obs["dose"].to_numpy(float) - mean) / sd, atol=1e-5)


def test_another_file_with_an_unknown_batch_or_without_a_column_is_refused(path, tmp_path):
    keys = {"batch_key": "batch", "continuous_covariate_keys": ["dose"]}
    data = module(path, **keys)
    file = ad.read_h5ad(path)
    file.obs["batch"] = np.where(np.arange(file.n_obs) % 2, "b1", "b4")
    file.write_h5ad(tmp_path / "other.h5ad")
    words = r"other.h5ad: batch='b4' \(data.batch_key\) is in no training cell .*; known: b1, b2, b3"
    with pytest.raises(UserError, match=words):
        elsewhere(data.spec, tmp_path / "other.h5ad", **keys)
    unpaired = elsewhere(data.spec, tmp_path / "other.h5ad", paired=False, **keys)
    assert (unpaired.batch(np.arange(360)).batch.sum(1).numpy() == (unpaired.cells.obs["batch"] == "b1")).all()
    with pytest.raises(UserError, match=r"trained with the covariate 'batch', which was not read; .*data.batch_key"):
        elsewhere(data.spec, path, continuous_covariate_keys=["dose"])
    with pytest.raises(UserError, match=r"covariate 'dose', which was not read; .*data.continuous_covariate_keys"):
        elsewhere(data.spec, path, batch_key="batch")
    assert (
        not elsewhere(data.spec, path, paired=False, continuous_covariate_keys=["dose"]).batch(np.arange(9)).batch.any()
    )


# ---- one perturbed cell in a group


@pytest.mark.parametrize("test_cells", [0.2, 0.9, 1.0])
def test_a_perturbation_of_one_cell_trains(tmp_path, test_cells):
    file = ad.read_h5ad(screen(tmp_path))
    labels = file.obs["perturbation"].to_numpy(object)
    labels[np.flatnonzero(labels == "A")[0]] = "C"
    file.obs["perturbation"] = labels
    file.write_h5ad(tmp_path / "cells.h5ad")
    rule = partial(splits.held_out_cells, min_cells=1, test_cells=test_cells)
    data = module(tmp_path / "cells.h5ad", batch_size=2 if test_cells == 1 else 32, split=rule)
    alone = data.cells.obs["condition"].to_numpy(str) == "C"
    assert data.split.part[alone] == ["train"]
    assert "C" in data.spec.targets
    assert "C" not in data.split.groups
    lap = np.concatenate([data.step_rows(step) for step in range(data.steps_per_epoch)])
    assert np.flatnonzero(alone)[0] in lap
    assert np.isfinite(data.reference.train.by_condition["C"]).all()
