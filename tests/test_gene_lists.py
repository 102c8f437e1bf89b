"""Gene lists by hand, against scipy, and on planted targets."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import fisher_exact

from stormcell.evaluation import gene_lists as lists
from stormcell.evaluation.frequency_answers import correlation


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def planted(rng, n=400, n_genes=80):
    """Frequency 1 is the sum of genes 0–4, frequency 2 the product of genes 10 and 11, which correlates with none."""
    x = rng.normal(size=(n, n_genes))
    y = np.stack([x[:, :5].sum(1), x[:, 10] * x[:, 11]], 1)
    return x, (y - y.mean(0)) / y.std(0)


def test_lists_by_hand_with_ties_missing_and_zero_scores():
    scores = np.array([0.5, -2, 0, 2, np.nan, -0.5, 1])
    assert lists.strongest(scores, 3).tolist() == [1, 3, 6]
    assert lists.strongest(scores, 4).tolist() == [1, 3, 6, 0]  # of 0 and 5, equal, the first
    assert lists.strongest(scores, 9).tolist() == [1, 3, 6, 0, 5]  # none without a score
    up, down = lists.poles(scores, 2)
    assert up.tolist() == [3, 6] and down.tolist() == [1, 5]


def test_lists_follow_a_permutation_of_the_genes(rng):
    scores, order = rng.normal(size=200), rng.permutation(200)
    np.testing.assert_array_equal(order[lists.strongest(scores[order])], lists.strongest(scores))


def test_unsigned_and_signed_footing_by_hand():
    a = lists.ranked(np.array([4.0, 3, -4, -3, 0, 0, 0, 0]), 2)
    b = lists.ranked(np.array([3.0, -4, -3, 4, 0, 0, 0, 0]), 2)
    assert lists.jaccard(a, b) == 0  # {0, 2} and {1, 3}
    # poles of a: +{0, 1} −{2, 3}, of b: +{3, 0} −{1, 2}: genes 0 and 2 keep their sign
    assert lists.jaccard(a, b, lists.SIGNED) == pytest.approx(2 / 6)
    away = lists.ranked(-a.scores, 2)
    assert lists.jaccard(a, away, lists.SIGNED) == 0
    assert lists.jaccard(a, away, lists.SIGNED, turned=True) == 1
    assert lists.jaccard(a, away) == 1


def test_one_pole_cannot_agree_with_a_list_of_both_signs_and_equal_footing_can(rng):
    """The source compares one pole with 25 |correlations|: a perfect module scores far below 1 there."""
    scores = rng.normal(size=500)
    list_, pole = set(lists.strongest(scores, 25)), set(lists.poles(scores, 25)[0])
    assert len(list_ & pole) / len(list_ | pole) < 0.5
    for footing in lists.FOOTINGS:
        assert lists.jaccard(lists.ranked(scores), lists.ranked(scores), footing) == 1


def test_p_is_fishers_and_chance_that_of_random_lists(rng):
    a, b = rng.normal(size=300), rng.normal(size=300)
    found = lists.overlap(lists.ranked(a), lists.ranked(b))
    k = found["common"]
    table = [[k, 25 - k], [25 - k, 250 + k]]
    assert found["p"] == pytest.approx(fisher_exact(table, alternative="greater")[1])
    assert found["chance"] == pytest.approx(25 / (2 * 300 - 25))
    for footing in lists.FOOTINGS:
        drawn = [lists.overlap(lists.ranked(rng.permutation(a)), lists.ranked(b), footing) for _ in range(2000)]
        assert np.mean([one["jaccard"] for one in drawn]) == pytest.approx(drawn[0]["chance"], abs=0.004)
        share = np.mean([one["p"] <= 0.05 for one in drawn])  # a discrete p is at most as often small as it says
        assert share <= 0.07


def test_co_expressed_genes_widen_the_permutation_null_beyond_the_hypergeometric(rng):
    """Blocks of 25 genes that go together enter a list together: Jaccard 1 by luck, that p calls impossible."""
    x = np.repeat(rng.normal(size=(200, 8)), 25, axis=1) + 0.01 * rng.normal(size=(200, 200))
    y = rng.normal(size=(200, 1))
    module = np.repeat(np.eye(8)[0], 25)[None] + 0.01 * rng.random((1, 200))
    row = lists.compare_lists({"module": module}, x, y).set_index("footing").loc[lists.UNSIGNED]
    assert row["null_high"] > 0.5 > 5 * row["chance"]


def test_compared_lists_of_planted_targets(rng):
    x, y = planted(rng)
    truth = np.zeros((2, 80))
    truth[0, :5], truth[1, 10:12] = 1, (1, -1)
    scores = {"ridge": lists.ridge_scores(x, y), "truth": truth}
    table = lists.compare_lists(scores, x, y, top=5, free_sign=["truth"])
    first = table[(table["frequency"] == 1) & (table["footing"] == lists.UNSIGNED)].set_index(["list a", "list b"])
    assert (first["jaccard"] == 1).all()
    assert first.loc[(lists.CORRELATION, "truth"), "null_p"] == pytest.approx(1 / 201)
    assert np.isnan(first.loc[("ridge", "truth"), "null_p"])
    same = lists.compare_lists(scores, x, y, top=5, free_sign=["truth"])
    assert table.equals(same)
    turned = lists.compare_lists(scores | {"truth": -truth}, x, y, top=5, free_sign=["truth"])
    np.testing.assert_allclose(table["jaccard"], turned["jaccard"])
    fixed = lists.compare_lists(scores | {"truth": -truth}, x, y, top=5, shuffles=0)
    against = fixed[(fixed["list b"] == "truth") & (fixed["footing"] == lists.SIGNED) & (fixed["frequency"] == 1)]
    assert (against["jaccard"] == 0).all()


def test_the_null_is_not_small_where_nothing_is_shared(rng):
    """Lists that know nothing: p of the permutation null is spread, not small."""
    x, y = rng.normal(size=(150, 100)), rng.normal(size=(150, 30))
    table = lists.compare_lists({"noise": rng.normal(size=(30, 100))}, x, y, top=10, shuffles=100)
    assert (table["null_p"] <= 0.05).mean() <= 0.15


def test_improvement_ranks_planted_lists_and_tells_products_by_neighbours(rng):
    x, y = planted(rng, n=900)
    train, test = slice(0, 600), slice(600, 900)
    scores = {
        lists.CORRELATION: correlation(x[train], y[train]),
        "products": np.stack([np.eye(80)[:5].sum(0), np.eye(80)[10:12].sum(0)]),
    }
    found = lists.improvement(lists.top_lists(scores, 5), x[train], y[train], x[test], y[test])
    each = found.per_frequency.set_index(["regressor", "list", "frequency"])["r2"]
    assert each["ridge", lists.CORRELATION, 1] > 0.99
    assert each["ridge", "products", 2] < 0.1 < 0.7 < each["k-NN", "products", 2]
    assert each["k-NN", lists.CORRELATION, 2] < 0.2
    assert each["ridge", lists.RANDOM, 1] < 0.5
    mean = found.mean.set_index(["regressor", "list"])
    assert mean.loc[("k-NN", "products"), "over_low"] > 0
    assert mean.loc[("ridge", lists.CORRELATION), "over_correlation"] == 0
    assert (found.mean["low"] <= found.mean["r2"]).all() and (found.mean["r2"] <= found.mean["high"]).all()


def test_held_out_targets_do_not_change_a_prediction_and_an_empty_list_predicts_the_mean(rng):
    x, y = planted(rng)
    genes = {"none": [np.array([], int)] * 2, "first": [np.arange(5)] * 2}
    one = lists.improvement(genes, x[:300], y[:300], x[300:], y[300:], draws=2).mean
    assert one.set_index(["regressor", "list"]).loc[("ridge", "none"), "r2"] == pytest.approx(0, abs=1e-9)
    asked = x[300:].copy()
    asked[1:] = 50
    fit = lists.REGRESSORS["ridge"]
    np.testing.assert_allclose(fit(x[:300], y[:300], asked)[0], fit(x[:300], y[:300], x[300:])[0])


def test_other_shapes_are_refused(rng):
    x, y = planted(rng)
    with pytest.raises(ValueError, match="frequencies × genes"):
        lists.compare_lists({"module": np.zeros((2, 79))}, x, y)
    with pytest.raises(ValueError, match="of 1 frequencies"):
        lists.improvement({"module": [np.arange(5)]}, x, y, x, y)
