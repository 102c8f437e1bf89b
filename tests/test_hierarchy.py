"""Planted nested types come back at their scale and nested; permuted labels and free activations agree with nothing."""

import numpy as np
import pandas as pd
import pytest
from scipy.special import comb
from scipy.stats import entropy

from stormcell.analysis import hierarchy as module
from stormcell.analysis.hierarchy import COLUMNS, Activations, hierarchy, kmeans

N = 600
TYPES = {"coarse": 2, "middle": 3, "fine": 4}


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def tree(rng):
    """Four types: frequency 1 tells {0, 1} from {2, 3}, frequency 2 tells 0 from 1, frequency 3 tells 2 from 3."""
    fine = rng.permutation(np.arange(N) % 4)
    levels = np.array([[1, 1, 0], [1, -1, 0], [-1, 0, 1], [-1, 0, -1]], float)[fine]
    frequencies = levels + 0.05 * rng.normal(size=levels.shape)
    frequencies /= np.sqrt(np.square(frequencies).mean(0))
    labels = {"coarse": fine // 2, "middle": np.where(fine > 1, 2, fine), "fine": fine}
    rows = rng.permutation(N)
    points = 5 * np.eye(4, 6)[fine] + 0.05 * rng.normal(size=(N, 6))
    return frequencies, np.sort(rows[:400]), np.sort(rows[400:]), {k: v.astype(str) for k, v in labels.items()}, points


def wide(table, column):
    return table.pivot(index="cut", columns="labels", values=column)


def test_planted_types_come_back_at_their_scale_and_nested(tree):
    table = hierarchy(*tree)
    assert list(table.columns) == COLUMNS and len(table) == 9
    ari = wide(table, "ari_types")
    for cut, name in enumerate(TYPES, start=1):
        assert ari.loc[cut, name] == 1 and ari[name].idxmax() == cut
        assert (ari.loc[cut].drop(name) < 0.9).all()
    assert wide(table, "nmi_types").loc[3, "fine"] == pytest.approx(1)
    assert wide(table, "ari_pca").loc[3, "fine"] == 1
    nested = table.drop_duplicates("cut").set_index("cut")
    assert np.isnan(nested.loc[1, "nested"]) and nested.loc[2:, "nested"].to_numpy() == pytest.approx(1)
    assert (nested.loc[2:, "nested_clusters"] == 1).all()
    assert (nested["ari_again"] == 1).all()
    assert dict(zip(table["labels"], table["types"], strict=True)) == TYPES


def test_permuted_labels_agree_with_nothing(tree, rng):
    frequencies, train, test, labels, points = tree
    table = hierarchy(frequencies, train, test, {"free": rng.permutation(labels["fine"])}, points)
    assert (table["ari_types"].abs() < 0.05).all() and (table["ari_types"] <= table["null_high"] + 0.02).all()
    true = hierarchy(*tree)
    assert (true["null"].abs() < 0.02).all() and true["null_high"].between(0, 0.05).all()


def test_names_of_labels_and_clusters_play_no_part(tree):
    frequencies, train, test, labels, points = tree
    other = {"fine": pd.Series(labels["fine"]).map(dict(zip("0123", ["z", "a b", "7", "<i>"], strict=True)))}
    first = hierarchy(frequencies, train, test, {"fine": labels["fine"]}, points)
    pd.testing.assert_frame_equal(hierarchy(frequencies, train, test, other, points), first)


def test_signs_of_frequencies_play_no_part(tree):
    frequencies, *rest = tree
    turned = hierarchy(frequencies * [-1, 1, -1], *rest)
    pd.testing.assert_frame_equal(turned, hierarchy(frequencies, *rest))


def test_clusters_that_cross_are_not_nested(rng):
    """Halves at cut 1; at cut 2 a frequency that overrules the first: every finer cluster has both halves."""
    halves, thirds = rng.permutation(np.arange(N) % 2), rng.permutation(np.arange(N) % 3)
    frequencies = np.stack([2.0 * halves, 50.0 * thirds], 1) + 0.01 * rng.normal(size=(N, 2))
    table = hierarchy(frequencies, np.arange(400), np.arange(400, N), {}, frequencies)
    assert table["cut"].tolist() == [1, 2] and table["labels"].isna().all() and table["ari_types"].isna().all()
    assert table.loc[1, "nested"] < 0.05 and table.loc[1, "nested_clusters"] == 0


def test_nestedness_is_one_minus_the_conditional_entropy(rng):
    coarse, fine = rng.integers(3, size=200), rng.integers(5, size=200)
    coarse[fine == 0] = 1  # one of five lies within
    counts = pd.crosstab(fine, coarse).to_numpy()
    conditional = sum(row.sum() / 200 * entropy(row) for row in counts)
    clusters = [{"frequencies": part, "pca": part} for part in (fine, coarse)]
    found = module._nestedness(*clusters)
    assert found["nested"] == pytest.approx(1 - conditional / entropy(counts.sum(0)))
    assert found["nested_clusters"] == pytest.approx(np.mean(counts.max(1) / counts.sum(1) >= 0.9)) == 0.2


def test_ari_is_the_count_of_pairs(tree):
    """Hubert & Arabie, from the table of counts."""
    frequencies, train, test, labels, points = tree
    row = hierarchy(frequencies, train, test, {"fine": labels["fine"]}, points).iloc[0]
    counts = pd.crosstab(labels["fine"][test], kmeans(frequencies[train, :1], frequencies[test, :1], 2, 1)).to_numpy()
    pairs, a, b = comb(counts, 2).sum(), comb(counts.sum(1), 2).sum(), comb(counts.sum(0), 2).sum()
    chance = a * b / comb(len(test), 2)
    assert row["ari_types"] == pytest.approx((pairs - chance) / ((a + b) / 2 - chance))
    assert row["n"] == len(test)


# ---- the model beside the truth


def test_activations_that_carry_the_frequencies_give_the_same_clusters(tree, rng):
    frequencies, train, test, _, points = tree
    scale, shift = [1e3, 1e-3, 1.0], [5, 0, -2]
    same = Activations(frequencies * scale + shift, np.array([1, 2, 3]))
    table = hierarchy(frequencies, train, test, {}, points, frequencies, same)
    assert (table[["ari_activations", "ari_predicted"]] == 1).all(axis=None)
    free = Activations(rng.normal(size=(N, 3)), np.array([1, 2, 3]))
    table = hierarchy(frequencies, train, test, {}, points, rng.permutation(frequencies), free)
    assert (table[["ari_activations", "ari_predicted"]].abs() < 0.05).all(axis=None)


def test_a_cut_has_the_modules_of_its_frequencies_only(tree, rng):
    """What serves frequency 3 changes cut 3 alone; a cut whose frequencies have no module is not defined."""
    frequencies, train, test, _, points = tree
    free = np.repeat(rng.integers(4, size=(N, 1)), 30, axis=1)
    values = np.concatenate([frequencies, free], 1)
    late = Activations(values, np.array([2, 2, 3] + 30 * [3]))
    found = hierarchy(frequencies, train, test, {}, points, activations=late)["ari_activations"]
    assert np.isnan(found[0]) and found[1] > 0.5 and abs(found[2]) < 0.05


# ---- cells


def test_training_cells_alone_place_the_centres(tree, rng):
    """An outlier among the test cells would take a cluster for itself."""
    frequencies, train, test, labels, points = tree
    moved = frequencies.copy()
    moved[test[0]] = 1e3
    table = hierarchy(moved, train, test, {"fine": labels["fine"]}, points)
    assert table["ari_types"].iloc[2] > 0.95


def test_cells_without_a_label_are_left_out(tree):
    frequencies, train, test, labels, points = tree
    known = pd.Series(labels["fine"], dtype=object)
    known[test[:30]], known[test[30:40]], known[test[40:50]] = None, np.nan, ""
    table = hierarchy(frequencies, train, test, {"some": known.to_numpy(), "one": np.full(N, "all")}, points)
    some, one = (table[table["labels"] == name] for name in ("some", "one"))
    assert (some["n"] == len(test) - 50).all() and some["ari_types"].iloc[2] == 1
    assert (one["types"] == 1).all() and one["ari_types"].isna().all() and one["nested"].notna().sum() == 2


def test_duplicate_cells_and_a_subsample_do_no_harm(tree, monkeypatch, recwarn):
    frequencies, train, test, labels, points = tree
    few = np.round(frequencies)  # four distinct cells and fewer at each cut
    few[:, 2] = few[:, 1] = few[:, 0]
    assert len(hierarchy(few, train, test, {"coarse": labels["coarse"]}, points)) == 3
    assert not [warning for warning in recwarn if "distinct" in str(warning.message)]
    monkeypatch.setattr(module, "FITTED", 100)
    assert wide(hierarchy(*tree), "ari_types").loc[3, "fine"] == 1


def test_equal_seeds_are_equal(tree):
    pd.testing.assert_frame_equal(hierarchy(*tree, seed=4), hierarchy(*tree, seed=4))


def test_shapes_that_disagree_are_refused(tree):
    frequencies, train, test, labels, points = tree
    for wrong in (
        {"points": points[:-1]},
        {"labels": {"fine": labels["fine"][:-1]}},
        {"predicted": frequencies[:, :2]},
        {"activations": Activations(frequencies, np.array([1, 2]))},
        {"train": train[:3]},
    ):
        with pytest.raises(ValueError, match=r"points|fine|predicted|activations|3 training cells for 4 clusters"):
            hierarchy(**{"frequencies": frequencies, "train": train, "test": test, "labels": labels,
                         "points": points, **wrong})  # fmt: skip
