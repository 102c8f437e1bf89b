"""Scores of a mean profile against scipy, closed forms and the plainest loop."""

import numpy as np
import pytest
from scipy import stats
from scipy.sparse import csr_matrix
from scipy.spatial import distance
from sklearn.metrics import mean_absolute_error, mean_squared_error

from stormcell.evaluation import profiles


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def sparse_cells(rng, n, n_genes):
    return csr_matrix(rng.poisson(0.7, size=(n, n_genes)).astype(np.float32))


def test_pearson_agrees_with_scipy_row_by_row(rng):
    x, y = rng.normal(size=(5, 40)), rng.normal(size=(5, 40))
    expected = [stats.pearsonr(a, b).statistic for a, b in zip(x, y, strict=True)]
    np.testing.assert_allclose(profiles.pearson(x, y), expected, rtol=1e-12)


@pytest.mark.parametrize("side", [np.zeros(30), np.full(30, 0.1), np.full(30, 1e5 / 3), np.full(30, np.nan)])
def test_pearson_of_a_constant_is_undefined_whatever_its_rounding(rng, side):
    assert np.isnan(profiles.pearson(side, rng.normal(size=30)))
    assert np.isnan(profiles.pearson(rng.normal(size=30), side))


def test_pearson_ignores_scale_and_offset_of_tiny_shifts(rng):
    x = rng.normal(size=100)
    assert profiles.pearson(x, 3 + 1e-8 * x) == pytest.approx(1, abs=1e-6)
    assert profiles.pearson(x, -1e-9 * x) == pytest.approx(-1, abs=1e-12)


def test_shift_of_the_same_cells_in_other_precision_or_order_is_nothing(rng):
    cells = rng.gamma(1.0, size=(300, 50)).astype(np.float32)
    mean = profiles.mean_profile(csr_matrix(cells))
    assert not profiles.shift(cells.mean(axis=0, dtype=np.float32), mean).any()
    assert not profiles.shift(cells[rng.permutation(300)].mean(axis=0), mean).any()
    moved = profiles.shift(mean + np.eye(50)[3] * 0.01, mean)
    np.testing.assert_allclose(moved, np.eye(50)[3] * 0.01, atol=1e-12)


def test_mean_and_variance_of_sparse_cells_are_those_of_dense_cells(rng):
    cells = sparse_cells(rng, 31, 20)
    np.testing.assert_allclose(profiles.mean_profile(cells), cells.toarray().mean(0), rtol=1e-6)
    np.testing.assert_allclose(profiles.variances(cells), cells.toarray().var(0, ddof=1), rtol=1e-6)
    np.testing.assert_allclose(profiles.variances(cells.toarray()), profiles.variances(cells), rtol=1e-10)
    with pytest.raises(ValueError, match="no cells"):
        profiles.mean_profile(cells[:0])


def test_jaccard_by_hand():
    true = np.array([5.0, -4, 3, 0, 0.1, 0.2])
    predicted = np.array([-1.0, 0.3, 2, 0, 0, 3])
    # {0, 1, 2} and {0, 2, 5}: the sign does not matter
    assert profiles.jaccard_at_k(true, predicted, 3) == 2 / 4
    assert profiles.jaccard_at_k(true, predicted, 1) == 0
    assert profiles.jaccard_at_k(true, true, 4) == 1
    assert profiles.jaccard_at_k(true, predicted, 100) == 1  # every gene on both sides


def test_jaccard_gives_ties_to_the_earlier_gene():
    tied = np.array([1.0, -1, 1, -1, 1, 1])
    assert profiles.jaccard_at_k(tied, np.array([9.0, 8, 0, 0, 0, 0]), 2) == 1
    assert profiles.jaccard_at_k(tied, np.array([0.0, 0, 0, 0, 8, 9]), 2) == 0
    # Long enough to catch a sort that does not keep the order.
    levels = np.random.default_rng(0).integers(1, 4, size=1000).astype(float)
    first = sorted(range(1000), key=lambda gene: (-levels[gene], gene))[:100]
    assert profiles.jaccard_at_k(levels, np.isin(np.arange(1000), first) + 0.5, 100) == 1


def test_jaccard_of_no_shift_is_undefined():
    shift = np.arange(5.0)
    for empty in np.zeros(5), np.full(5, np.nan):
        assert np.isnan(profiles.jaccard_at_k(shift, empty, 2))
        assert np.isnan(profiles.jaccard_at_k(empty, shift, 2))


def test_jaccard_of_unrelated_shifts_is_at_chance(rng):
    draws = [profiles.jaccard_at_k(rng.normal(size=200), rng.normal(size=200), 50) for _ in range(300)]
    assert np.mean(draws) == pytest.approx(50 / (2 * 200 - 50), abs=0.01)


def test_l2_is_the_root_of_the_summed_mse(rng):
    x, y = rng.normal(size=70), rng.normal(size=70)
    assert profiles.mse(x, y) == pytest.approx(((x - y) ** 2).sum() / 70)
    assert profiles.l2(x, y) ** 2 == pytest.approx(70 * profiles.mse(x, y))


def test_a_random_200_of_many_cells_are_always_the_same(rng):
    cells = rng.normal(size=(1000, 4))
    drawn = profiles.at_most(cells)
    assert len(np.unique(drawn, axis=0)) == 200
    np.testing.assert_array_equal(drawn, profiles.at_most(csr_matrix(cells)).toarray())
    np.testing.assert_array_equal(profiles.at_most(cells[:200]), cells[:200])


def test_dominating_genes_are_the_smallest_set_of_the_share():
    shifts = np.array([[3.0, 0, -1, 0], [-3.0, 0, 0, 1], [0, 0, 0, 0]])  # squares: 18, 0, 1, 1 of 20
    for share, expected in (0.8, [0]), (0.9, [0]), (0.91, [0, 2]), (0.96, [0, 2, 3]), (1.0, [0, 2, 3]):
        assert np.flatnonzero(profiles.dominating_genes(shifts, share)).tolist() == expected
    assert np.flatnonzero(profiles.dominating_genes(shifts)).tolist() == [0]


def test_dominating_genes_are_none_where_nothing_is_shifted_or_known():
    for shifts in np.zeros((3, 5)), np.zeros((0, 5)), np.full((2, 5), np.nan):
        assert profiles.dominating_genes(shifts).tolist() == [False] * 5


def test_cosine_logfc_agrees_with_scipy(rng):
    true, predicted, control, seen = rng.gamma(1.0, size=(4, 60))
    changes = [
        np.log2(mean + 0.1) - np.log2(reference + 0.1) for mean, reference in ((true, control), (predicted, seen))
    ]
    expected = 1 - distance.cosine(*changes)
    assert profiles.cosine_logfc(true, predicted, control, seen) == pytest.approx(expected, rel=1e-12)
    assert profiles.cosine_logfc(true, true, control, control) == pytest.approx(1)


def test_cosine_logfc_of_no_change_is_undefined_and_means_below_zero_count_as_zero(rng):
    true, predicted, control = rng.gamma(1.0, size=(3, 60))
    assert np.isnan(profiles.cosine_logfc(true, control.astype(np.float32), control, control))
    assert np.isnan(profiles.cosine_logfc(control, true, control, control))
    assert np.isnan(profiles.cosine_logfc(true, np.full(60, np.nan), control, control))
    below = np.where(np.arange(60) < 10, -5.0, predicted)
    expected = profiles.cosine_logfc(true, np.maximum(below, 0), control, control)
    assert profiles.cosine_logfc(true, below, control, control) == expected


def test_signed_jaccard_by_hand():
    true = np.array([5.0, -4, 3, 0, 0.1, 0.2])
    predicted = np.array([-1.0, 0.3, 2, 0, 0, 3])
    # {0+, 1-, 2+} and {0-, 2+, 5+}
    assert profiles.jaccard_signed_at_k(true, predicted, 3) == 1 / 5
    assert profiles.jaccard_signed_at_k(true, true, 3) == 1
    assert profiles.jaccard_signed_at_k(true, -true, 3) == 0
    assert profiles.jaccard_at_k(true, -true, 3) == 1
    assert profiles.jaccard_signed_at_k(true, predicted, 100) == 3 / (2 * 6 - 3)  # 2, 5 and the zero of 3 agree


def test_signed_jaccard_of_no_shift_is_undefined_and_of_unrelated_shifts_at_chance(rng):
    shift = np.arange(5.0)
    for empty in np.zeros(5), np.full(5, np.nan):
        assert np.isnan(profiles.jaccard_signed_at_k(shift, empty, 2))
        assert np.isnan(profiles.jaccard_signed_at_k(empty, shift, 2))
    draws = [profiles.jaccard_signed_at_k(rng.normal(size=200), rng.normal(size=200), 50) for _ in range(300)]
    assert np.mean(draws) == pytest.approx(50 / (4 * 200 - 50), abs=0.01)


def test_rmse_and_mae_agree_with_sklearn(rng):
    x, y = rng.normal(size=70), rng.normal(size=70)
    assert profiles.rmse(x, y) == pytest.approx(mean_squared_error(x, y) ** 0.5)
    assert profiles.mae(x, y) == pytest.approx(mean_absolute_error(x, y))
    for metric in profiles.rmse, profiles.mae, profiles.l2:
        assert metric(x, x) == 0
        assert np.isnan(metric(x, np.full(70, np.nan)))


def test_l2_top_takes_the_genes_of_highest_control_mean():
    true, control = np.array([1.0, 2, 3, 4]), np.array([0.5, 9, 0.1, 7])
    predicted = true + np.array([100, 3, 100, 4])
    assert profiles.l2_top(true, predicted, control, k=2) == 5
    assert profiles.l2_top(true, predicted, control, k=1) == 3
    assert profiles.l2_top(true, predicted, control) == profiles.l2(true, predicted)  # 1,000 of 4 genes


def test_effect_weights_are_the_squared_welch_t_of_scipy(rng):
    cells, others = sparse_cells(rng, 40, 15), rng.poisson(1.2, size=(300, 15)).astype(np.float64)
    weights = profiles.effect_weights(cells, others.mean(0), others.var(0, ddof=1), 300)
    squared = stats.ttest_ind(cells.toarray(), others, equal_var=False).statistic ** 2
    np.testing.assert_allclose(weights, squared / squared.sum(), rtol=1e-6)
    per_gene = profiles.effect_weights(cells, others.mean(0), others.var(0, ddof=1), np.full(15, 300))
    np.testing.assert_allclose(per_gene, weights)


def test_effect_weights_of_constant_genes_are_zero_and_of_too_few_cells_undefined(rng):
    cells = sparse_cells(rng, 40, 15).tolil()
    cells[:, 3] = 0.1
    mean, variance = np.full(15, 0.4), np.where(np.arange(15) == 3, 0, 0.7)
    weights = profiles.effect_weights(cells.tocsr(), mean, variance, 100)
    assert weights[3] == 0
    assert weights.sum() == pytest.approx(1)
    assert np.isnan(profiles.effect_weights(cells.tocsr()[:1], mean, variance, 100)).all()
    assert np.isnan(profiles.effect_weights(cells.tocsr(), mean, variance, 1)).all()
    still = csr_matrix(np.ones((5, 15)))
    assert np.isnan(profiles.effect_weights(still, np.ones(15), np.zeros(15), 100)).all()


def test_weighted_scores_by_hand():
    true, predicted, reference = np.array([1.0, 2, 3]), np.array([1.0, 4, 0]), np.array([0.0, 0, 0])
    weights = np.array([0.5, 0.5, 0])
    assert profiles.weighted_mse(true, predicted, weights) == 2
    assert profiles.weighted_r2(true, predicted, reference, weights) == pytest.approx(1 - 2 / 2.5)
    assert profiles.weighted_r2(true, reference, reference, weights) == 0
    assert profiles.weighted_r2(true, true, reference, weights) == 1
    assert np.isnan(profiles.weighted_r2(true, predicted, true, weights))
    assert np.isnan(profiles.weighted_mse(true, predicted, weights * np.nan))
    assert np.isnan(profiles.weighted_r2(true, predicted, reference, weights * np.nan))


def test_weighted_r2_sees_a_niche_effect_that_the_plain_error_does_not(rng):
    """One gene of 500 moves, by two standard deviations of the cells."""
    reference = np.zeros(500)
    signal = np.where(np.arange(500) == 7, 2.0, 0)
    cells = signal + rng.normal(0, 1, size=(100, 500))
    weights = profiles.effect_weights(cells, reference, np.ones(500), 5000)
    found = profiles.weighted_r2(cells.mean(0), signal, reference, weights)
    assert found > 0.95
    assert profiles.weighted_r2(cells.mean(0), -signal, reference, weights) < -2
