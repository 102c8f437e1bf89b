"""The view of control and perturbed cells: batches are what the file says, what is fitted sees training cells alone."""

from functools import partial

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import some_counts, write_h5ad

from stormcell.config import DataConfig, GeneSelection, UserError
from stormcell.data import split as splits
from stormcell.data.control_perturbed import ControlPerturbedDataModule
from stormcell.data.questions import held_out, validation_view
from stormcell.data.split_table import from_file

PAIRS = partial(splits.held_out_combinations, share=1.0, test_cells=0.2)


def module(path, split=PAIRS, batch_size=32, seed=1, paired=False, **keys):
    keys = {"batch_key": "batch", "library_key": "total_counts", **keys}
    data = ControlPerturbedDataModule(DataConfig(name="test", path=str(path), **keys), split, seed, batch_size, paired)
    data.setup()
    return data


def table(n=360, n_genes=40, seed=0):
    """Counts and obs: control, A, B, A+B, B+E; three batches, of which b3 has no control; two lines; a library."""
    rng = np.random.default_rng(seed)
    counts = some_counts(n, n_genes, seed)
    counts[:, 5] = rng.poisson(0.8 * rng.gamma(0.2, 5, n))
    labels = rng.choice(["control", "A", "B", "B+A", "B+E"], n, p=[0.4, 0.2, 0.2, 0.1, 0.1])
    batch = np.where((labels != "control") & (rng.random(n) < 0.2), "b3", rng.choice(["b1", "b2"], n))
    obs = pd.DataFrame(
        {"perturbation": labels, "batch": batch, "line": rng.choice(["K562", "THP1"], n)},
        index=[f"cell{i:04}" for i in rng.permutation(n)],
    )
    return counts, obs.assign(total_counts=counts.sum(1) + rng.integers(0, 300, n))


@pytest.fixture
def path(tmp_path):
    counts, obs = table()
    return write_h5ad(tmp_path / "cells.h5ad", counts, obs)


def names(data, rows):
    return list(data.cells.obs.index[rows])


# ---- what a batch says


def test_a_batch_is_what_the_file_says(path):
    data = module(path, covariate_keys=["line"], genes=GeneSelection(top=25))
    file = ad.read_h5ad(path)
    for rows in (data.step_rows(3), data.rows["test"][:7], data.rows["truth"][:1]):
        batch = data.batch(rows)
        cells = file[names(data, rows), list(data.spec.genes)]
        library = cells.obs["total_counts"].to_numpy()[:, None]
        counts = cells.X.toarray()
        assert np.array_equal(batch.counts.numpy(), counts)
        assert np.allclose(batch.x.numpy(), np.log1p(counts / library * 1e4), rtol=1e-6, atol=0)
        assert np.array_equal(batch.library.numpy(), library)
        assert np.array_equal(batch.index.numpy(), rows)
        experiment = cells.obs["batch"].to_numpy(str)[:, None] == np.array(["b1", "b2", "b3"])
        assert np.array_equal(batch.batch.numpy(), experiment)
        line = cells.obs["line"].to_numpy(str)[:, None] == np.array(["K562", "THP1"])
        assert np.array_equal(batch.covariates.numpy(), line)
        for label, hot in zip(cells.obs["perturbation"], batch.condition.numpy(), strict=True):
            targets = set(label.split("+")) - {"control"}
            assert {data.spec.targets[i] for i in np.flatnonzero(hot)} == targets & set(data.spec.targets)


def test_expression_is_that_of_the_real_file(shared_data):
    path = shared_data("norman2019_k562_34perts.h5ad")
    data = module(path, split=splits.held_out_cells, genes=GeneSelection(top=None))
    file = ad.read_h5ad(path)
    rows = data.step_rows(0)
    stored = file[names(data, rows)].X.toarray()  # log1p(counts / total_counts · 1e4), made by others
    assert np.abs(data.batch(rows).x.numpy() - stored).max() < 2e-6


def test_an_unseen_pair_of_seen_singles_is_represented(path):
    data = module(path)
    assert data.spec.targets == ("A", "B")
    assert data.spec.conditions == ("A", "B")
    hot = data.spec.multi_hot(["control", "A", "A+B", "B+E"])
    assert hot.tolist() == [[0, 0], [1, 0], [1, 1], [0, 1]]
    assert data.spec.unknown_targets("A+B") == data.spec.unknown_targets("control") == []
    assert data.spec.unknown_targets("B+E") == ["E"]
    pair = data.rows["test"][data.cells.obs["condition"].to_numpy()[data.rows["test"]] == "A+B"]
    assert len(pair)
    assert (data.batch(pair).condition == 1).all()


@pytest.mark.parametrize("scale", ["log1p", "continuous"])
def test_values_without_counts_are_passed_on(tmp_path, scale):
    counts, obs = table()
    values = np.log1p(counts / obs["total_counts"].to_numpy()[:, None] * 1e4) - (scale == "continuous")
    path = write_h5ad(tmp_path / "cells.h5ad", values, obs)
    data = module(path, scale=scale, library_key=None, genes=GeneSelection(top=None))
    rows = data.step_rows(0)
    batch = data.batch(rows)
    assert batch.counts is None
    assert (batch.library == 1).all()
    assert np.allclose(batch.x.numpy(), ad.read_h5ad(path)[names(data, rows)].X.toarray(), rtol=1e-6)
    assert not data.spec.has_counts
    assert np.allclose(data.spec.gene_mean, data.expression[data.rows["train"]].mean(0), rtol=1e-5)


def test_level_and_spread_of_the_training_cells(path):
    data = module(path)
    train = data.rows["train"]
    file = ad.read_h5ad(path)[names(data, train)]
    counts, library = file.X.toarray(), file.obs["total_counts"].to_numpy()
    assert np.allclose(data.spec.gene_mean, np.log((counts.sum(0) + 0.5) / library.sum()), rtol=1e-9)
    assert np.allclose(data.spec.gene_sd, np.log1p(counts / library[:, None] * 1e4).std(0), rtol=1e-4)


# ---- order of the file


def test_the_order_of_the_file_plays_no_part(path, tmp_path):
    file = ad.read_h5ad(path)
    order = np.random.default_rng(4).permutation(file.n_obs)
    file[order].copy().write_h5ad(tmp_path / "shuffled.h5ad")
    one, other = module(path, paired=True), module(tmp_path / "shuffled.h5ad", paired=True)
    assert one.split.sha256 == other.split.sha256
    assert one.cells.fingerprint != other.cells.fingerprint
    assert one.spec == other.spec
    for step in (0, 1, 30):
        a, b = (data.batch(data.step_rows(step)) for data in (one, other))
        assert names(one, a.index) == names(other, b.index)
        for field in a._fields:
            assert torch.equal(getattr(a, field), getattr(b, field))
    for name, value in one.reference.record().items():
        again = other.reference.record()[name]
        assert torch.equal(value, again) if torch.is_tensor(value) else value == again


# ---- leakage


def changed(path, target, part_of_cell, parts):
    """The file with other counts in the cells of some parts; their library grows with them."""
    file = ad.read_h5ad(path)
    chosen = part_of_cell.reindex(file.obs_names).isin(parts).to_numpy()
    counts = file.X.toarray()
    rng = np.random.default_rng(9)
    counts[chosen] = rng.poisson(3 * rng.gamma(0.3, 3, counts[chosen].shape)) + counts[chosen]
    return write_h5ad(target, counts, file.obs.assign(total_counts=file.obs["total_counts"] + counts.sum(1)))


def fitted(data):
    tensors = {name: value for name, value in data.reference.record().items() if torch.is_tensor(value)}
    return data.spec.record(), {name: value.tolist() for name, value in tensors.items()}


def test_nothing_fitted_sees_a_cell_outside_training(path, tmp_path):
    few = {"genes": GeneSelection(top=12)}
    data = module(path, **few)
    part = data.split.table.set_index("cell")["part"]
    assert set(part) == {"train", "validation", "test", "truth"}
    # The obs of the training cells, their library among them, are as before.
    elsewhere = changed(path, tmp_path / "elsewhere.h5ad", part, ["validation", "test", "truth"])
    counts = ad.read_h5ad(elsewhere)
    counts.obs.loc[part[part == "train"].index, "total_counts"] = ad.read_h5ad(path).obs["total_counts"]
    counts.write_h5ad(elsewhere)
    altered = module(elsewhere, **few)
    assert fitted(altered) == fitted(data)
    assert (altered.expression != data.expression).nnz
    inside = module(changed(path, tmp_path / "inside.h5ad", part, ["train"]), **few)
    assert inside.spec.genes != data.spec.genes


# ---- another file


def test_genes_of_another_file_are_taken_by_name(path, tmp_path):
    data = module(path, genes=GeneSelection(top=25))
    file = ad.read_h5ad(path)
    order = np.random.default_rng(2).permutation(file.n_vars)
    write_h5ad(tmp_path / "other.h5ad", file[:, order].X.toarray(), file.obs, list(file.var_names[order]))
    keys = {"batch_key": "batch", "library_key": "total_counts"}
    config = DataConfig(name="other", path=str(tmp_path / "other.h5ad"), **keys)
    other = ControlPerturbedDataModule(config, PAIRS, 1, 32)
    other.setup_elsewhere(data.spec, 0.5)
    assert other.cells.genes == list(data.spec.genes)
    rows = np.arange(50)
    assert names(data, rows) == names(other, rows)
    for field in ("x", "counts", "condition", "library"):
        assert torch.equal(getattr(data.batch(rows), field), getattr(other.batch(rows), field))
    assert other.split.mask("test").sum() == (~other.cells.obs["is_control"]).sum()


def elsewhere(spec, path, **keys):
    other = ControlPerturbedDataModule(DataConfig(name="other", path=str(path), **keys), PAIRS, 1, 32)
    other.setup_elsewhere(spec, 0.5)
    return other


def test_a_file_with_other_genes_or_another_scale_is_refused(path, tmp_path):
    data = module(path, genes=GeneSelection(top=None))
    file = ad.read_h5ad(path)
    counts = file.X.toarray()
    some = write_h5ad(tmp_path / "some.h5ad", counts[:, 2:], file.obs, list(file.var_names[2:]))
    with pytest.raises(UserError, match=r"some.h5ad: not all of the model's 40 genes .*missing 2: g0, g1\)"):
        elsewhere(data.spec, some)
    none = write_h5ad(tmp_path / "none.h5ad", counts, file.obs, [f"ENSG{i}" for i in range(40)])
    with pytest.raises(UserError, match=r"none.h5ad: none of the model's 40 genes .*named like ENSG0, ENSG1, ENSG2"):
        elsewhere(data.spec, none)
    logs = write_h5ad(tmp_path / "logs.h5ad", np.log1p(counts), file.obs)
    with pytest.raises(UserError, match=r"data.scale=log1p, but the model was trained on counts"):
        elsewhere(data.spec, logs, scale="log1p")


def test_a_category_that_the_model_has_not_seen_is_refused(path, tmp_path):
    data = module(path, covariate_keys=["line"])
    file = ad.read_h5ad(path)
    file.obs["line"] = np.where(np.arange(file.n_obs) % 2, "K562", "THP2")
    file.write_h5ad(tmp_path / "other.h5ad")
    words = r"other.h5ad: line='THP2' .*in no training cell of the model \(did you mean 'THP1'\?\); known: K562, THP1"
    with pytest.raises(UserError, match=words):
        elsewhere(data.spec, tmp_path / "other.h5ad", covariate_keys=["line"], library_key="total_counts")
    with pytest.raises(UserError, match=r"other.h5ad: the model was trained with the covariate 'line', which was not"):
        elsewhere(data.spec, tmp_path / "other.h5ad", library_key="total_counts")


def test_a_category_that_the_split_leaves_to_the_test_is_all_zero(path, tmp_path):
    """The controls of a held-out line may all be kept for the truth: its cells are then cells of no known line."""
    file = ad.read_h5ad(path)
    table = pd.DataFrame({"cell": file.obs_names, "part": np.where(file.obs["line"] == "THP1", "test", "train")})
    control = (file.obs["perturbation"] == "control").to_numpy() & (table["part"] == "test").to_numpy()
    table.loc[control, "part"] = "truth"
    table.to_csv(tmp_path / "split.csv", index=False)
    file.obs["state"] = np.where(file.obs["line"] == "THP1", "x", np.where(np.arange(file.n_obs) % 2, "y", "z"))
    file.write_h5ad(path)
    rule = partial(from_file, path=str(tmp_path / "split.csv"), validation=0.0)
    data = module(path, split=rule, covariate_keys=["state"], genes=GeneSelection(top=None))
    assert data.spec.covariates == {"state": ("y", "z")}
    assert not data.batch(data.rows["test"]).covariates.any()
    assert (data.batch(data.rows["train"]).covariates.sum(1) == 1).all()


# ---- what is asked of a model


def test_what_is_held_out(path):
    data = module(path, split=partial(PAIRS, singles_seen=2))
    held = held_out(data, data.reference, own_cells=True)
    obs, expression = data.cells.obs, data.expression.toarray()
    assert [(q.condition, q.group) for q in held.queries] == [
        ("A", splits.SEEN),
        ("A+B", "pairs, 2 of 2 singles seen"),
        ("B", splits.SEEN),
        ("B+E", splits.SEEN),
    ]
    for query in held.queries:
        mine = data.split.mask("test") & (obs["condition"] == query.condition).to_numpy()
        assert np.array_equal(query.cells.toarray(), expression[mine])
    control = obs["is_control"].to_numpy()
    assert not held.shared
    assert np.array_equal(held.truth_controls["all"].toarray(), expression[data.split.mask("truth")])
    train = data.split.mask("train")
    assert np.array_equal(held.controls["all"].toarray(), expression[train & control])
    for condition, shift in held.train.by_condition.items():
        mine = train & (obs["condition"] == condition).to_numpy()
        assert np.allclose(shift, expression[mine].mean(0) - expression[train & control].mean(0), atol=1e-6)
        assert np.array_equal(held.train_cells[condition].toarray(), expression[mine])
    assert set(held.train.by_condition) == {"A", "B", "B+E"}
    assert np.array_equal(held.detected, (expression[train] > 0).mean(0) > 0.05)
    shared = module(path, split=partial(PAIRS, controls_for_truth=0.0))
    held = held_out(shared, shared.reference, own_cells=True)
    assert held.shared
    assert held.truth_controls["all"] is held.controls["all"]


def test_the_principal_components_are_those_of_the_dense_training_cells(path):
    data = module(path, genes=GeneSelection(top=None))
    train = data.expression[data.rows["train"]].toarray().astype(float)
    mean, components = data.reference.pca_mean, data.reference.pca_components
    assert np.allclose(mean, train.mean(0), atol=1e-5)
    _, values, axes = np.linalg.svd(train - train.mean(0), full_matrices=False)
    k = components.shape[1]
    assert k == 39
    assert np.allclose(components.T @ components, np.eye(k), atol=1e-4)
    projected = data.reference.project(train).std(0) * np.sqrt(len(train))
    assert np.allclose(projected[:10], values[:10], rtol=1e-3)
    assert (np.abs((axes[:5] * components.T[:5]).sum(1)) > 0.999).all()


def test_shifts_of_a_held_out_line_are_taken_within_lines(path):
    rule = partial(splits.held_out_covariate, key="line", value="THP1", test_cells=0.0)
    data = module(path, split=rule, covariate_keys=["line"])
    held = held_out(data, data.reference, own_cells=True)
    obs, expression, train = data.cells.obs, data.expression.toarray(), data.split.mask("train")
    control, line = obs["is_control"].to_numpy(), obs["line"].to_numpy()
    assert {query.context for query in held.queries} == {"THP1"} == set(held.controls) == set(held.truth_controls)
    base = expression[train & control & (line == "K562")].mean(0)
    mine = train & (obs["condition"] == "A").to_numpy()
    assert set(line[mine]) == {"K562"}
    assert np.allclose(held.train.by_condition["A"], expression[mine].mean(0) - base, atol=1e-6)
    assert np.array_equal(held.controls["THP1"].toarray(), expression[train & control & (line == "THP1")])


def test_validation_is_asked_of_seen_perturbations_alone(path):
    data = module(path)
    view = validation_view(data)
    condition, expression = data.cells.obs["condition"].to_numpy(), data.expression.toarray()
    assert [name for name, *_ in view.conditions] == ["A", "B"]
    for name, mean, coordinates in view.conditions:
        mine = data.split.mask("validation") & (condition == name)
        assert np.allclose(mean, expression[mine].mean(0), atol=1e-6)
        assert np.allclose(coordinates, data.reference.project(expression[mine]), atol=1e-4)
    assert np.allclose(view.control_mean, expression[data.control_rows("all")].mean(0), atol=1e-6)


def test_whole_conditions_validate_where_their_targets_are_seen(path, tmp_path):
    (tmp_path / "held.csv").write_text("condition,part\nA+B,validation\nB+E,validation\n")
    data = module(path, split=partial(from_file, path=str(tmp_path / "held.csv"), validation=0.0))
    assert data.spec.unknown_targets("B+E") == ["E"]
    assert set(data.cells.obs["condition"][data.split.mask("validation")]) == {"A+B", "B+E"}
    view = validation_view(data)
    assert [name for name, *_ in view.conditions] == ["A+B"]
    mine = (data.cells.obs["condition"] == "A+B").to_numpy()
    assert np.allclose(view.conditions[0][1], data.expression[mine].toarray().mean(0), atol=1e-6)


# ---- refusals


def test_batch_sizes_that_do_not_fit(path):
    n = len(module(path).rows["train"])
    assert len(module(path, batch_size=n).step_rows(0)) == n
    with pytest.raises(UserError, match=rf"{n} training cells are fewer than a batch of datamodule.batch_size={n + 1}"):
        module(path, batch_size=n + 1)
    with pytest.raises(UserError, match=r"datamodule.batch_size=0: at least one cell is needed"):
        module(path, batch_size=0)


def test_nothing_is_read_before_the_set_up():
    data = ControlPerturbedDataModule(DataConfig(name="x", path="no/such/file.h5ad"), PAIRS)
    with pytest.raises(UserError, match="no such file"):
        data.setup()


def test_a_covariate_with_too_many_values_is_refused(tmp_path):
    counts, obs = table(n=700)
    path = write_h5ad(tmp_path / "cells.h5ad", counts, obs.assign(dose=np.arange(len(obs)) / 7))
    with pytest.raises(UserError, match=r"covariate 'dose' has \d+ different values.*\(data.covariate_keys\)"):
        module(path, covariate_keys=["dose"])
