"""The metrics against scipy, closed forms and the plainest loop."""

import numpy as np
import pytest
from scipy import stats
from scipy.sparse import csr_matrix

from stormcell.evaluation import perturbation as metrics


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def sparse_cells(rng, n, n_genes):
    return csr_matrix(rng.poisson(0.7, size=(n, n_genes)).astype(np.float32))


def test_pearson_agrees_with_scipy_row_by_row(rng):
    x, y = rng.normal(size=(5, 40)), rng.normal(size=(5, 40))
    expected = [stats.pearsonr(a, b).statistic for a, b in zip(x, y, strict=True)]
    np.testing.assert_allclose(metrics.pearson(x, y), expected, rtol=1e-12)


@pytest.mark.parametrize("side", [np.zeros(30), np.full(30, 0.1), np.full(30, 1e5 / 3), np.full(30, np.nan)])
def test_pearson_of_a_constant_is_undefined_whatever_its_rounding(rng, side):
    assert np.isnan(metrics.pearson(side, rng.normal(size=30)))
    assert np.isnan(metrics.pearson(rng.normal(size=30), side))


def test_pearson_ignores_scale_and_offset_of_tiny_shifts(rng):
    x = rng.normal(size=100)
    assert metrics.pearson(x, 3 + 1e-8 * x) == pytest.approx(1, abs=1e-6)
    assert metrics.pearson(x, -1e-9 * x) == pytest.approx(-1, abs=1e-12)


def test_shift_of_the_same_cells_in_other_precision_or_order_is_nothing(rng):
    cells = rng.gamma(1.0, size=(300, 50)).astype(np.float32)
    mean = metrics.mean_profile(csr_matrix(cells))
    assert not metrics.shift(cells.mean(axis=0, dtype=np.float32), mean).any()
    assert not metrics.shift(cells[rng.permutation(300)].mean(axis=0), mean).any()
    moved = metrics.shift(mean + np.eye(50)[3] * 0.01, mean)
    np.testing.assert_allclose(moved, np.eye(50)[3] * 0.01, atol=1e-12)


def test_mean_and_variance_of_sparse_cells_are_those_of_dense_cells(rng):
    cells = sparse_cells(rng, 31, 20)
    np.testing.assert_allclose(metrics.mean_profile(cells), cells.toarray().mean(0), rtol=1e-6)
    np.testing.assert_allclose(metrics.variances(cells), cells.toarray().var(0, ddof=1), rtol=1e-6)
    np.testing.assert_allclose(metrics.variances(cells.toarray()), metrics.variances(cells), rtol=1e-10)
    with pytest.raises(ValueError, match="no cells"):
        metrics.mean_profile(cells[:0])


def test_jaccard_by_hand():
    true = np.array([5.0, -4, 3, 0, 0.1, 0.2])
    predicted = np.array([-1.0, 0.3, 2, 0, 0, 3])
    # {0, 1, 2} and {0, 2, 5}: the sign does not matter
    assert metrics.jaccard_at_k(true, predicted, 3) == 2 / 4
    assert metrics.jaccard_at_k(true, predicted, 1) == 0
    assert metrics.jaccard_at_k(true, true, 4) == 1
    assert metrics.jaccard_at_k(true, predicted, 100) == 1  # every gene on both sides


def test_jaccard_gives_ties_to_the_earlier_gene():
    tied = np.array([1.0, -1, 1, -1, 1, 1])
    assert metrics.jaccard_at_k(tied, np.array([9.0, 8, 0, 0, 0, 0]), 2) == 1
    assert metrics.jaccard_at_k(tied, np.array([0.0, 0, 0, 0, 8, 9]), 2) == 0
    # Long enough to catch a sort that does not keep the order.
    levels = np.random.default_rng(0).integers(1, 4, size=1000).astype(float)
    first = sorted(range(1000), key=lambda gene: (-levels[gene], gene))[:100]
    assert metrics.jaccard_at_k(levels, np.isin(np.arange(1000), first) + 0.5, 100) == 1


def test_jaccard_of_no_shift_is_undefined():
    shift = np.arange(5.0)
    for empty in np.zeros(5), np.full(5, np.nan):
        assert np.isnan(metrics.jaccard_at_k(shift, empty, 2))
        assert np.isnan(metrics.jaccard_at_k(empty, shift, 2))


def test_jaccard_of_unrelated_shifts_is_at_chance(rng):
    draws = [metrics.jaccard_at_k(rng.normal(size=200), rng.normal(size=200), 50) for _ in range(300)]
    assert np.mean(draws) == pytest.approx(50 / (2 * 200 - 50), abs=0.01)


def test_l2_is_the_root_of_the_summed_mse(rng):
    x, y = rng.normal(size=70), rng.normal(size=70)
    assert metrics.mse(x, y) == pytest.approx(((x - y) ** 2).sum() / 70)
    assert metrics.l2(x, y) ** 2 == pytest.approx(70 * metrics.mse(x, y))


def test_energy_distance_is_the_double_loop(rng):
    x, y = rng.normal(size=(7, 3)), rng.normal(1, 2, size=(9, 3))

    def mean_distance(a, b, within):
        distances = [np.linalg.norm(a[i] - b[j]) for i in range(len(a)) for j in range(len(b)) if not within or i != j]
        return np.mean(distances)

    expected = 2 * mean_distance(x, y, False) - mean_distance(x, x, True) - mean_distance(y, y, True)
    assert metrics.energy_distance(x, y) == pytest.approx(expected, rel=1e-12)
    assert metrics.energy_distance(y, x) == pytest.approx(expected, rel=1e-12)


def test_energy_distance_of_gaussians_is_unbiased(rng):
    """X − Y ~ N(δ, 2), so E|X − Y| is the mean of a folded normal and E|X − X'| = 2/√π."""

    def closed_form(delta):
        folded = np.sqrt(4 / np.pi) * np.exp(-(delta**2) / 4) + delta * (1 - 2 * stats.norm.cdf(-delta / np.sqrt(2)))
        return 2 * folded - 4 / np.sqrt(np.pi)

    for delta in 0.0, 0.5, 2.0:
        draws = [metrics.energy_distance(rng.normal(size=(60, 1)), rng.normal(delta, 1, (40, 1))) for _ in range(200)]
        assert np.mean(draws) == pytest.approx(closed_form(delta), abs=4 * np.std(draws) / np.sqrt(200))


def test_energy_distance_needs_two_cells_and_takes_at_most_200(rng):
    x = rng.normal(size=(1000, 4))
    assert np.isnan(metrics.energy_distance(x[:1], x))
    assert np.isnan(metrics.energy_distance(x, x[:0]))
    subset = metrics._at_most(x, 200)
    assert len(np.unique(subset, axis=0)) == 200
    assert metrics.energy_distance(x, x[:150] + 1) == metrics.energy_distance(subset, x[:150] + 1)


def test_variance_ratio_is_the_median_over_detected_varying_genes(rng):
    true, predicted = sparse_cells(rng, 40, 12), rng.normal(size=(30, 12)).astype(np.float32)
    detected = np.arange(12) < 7
    expected = np.median((predicted.var(0, ddof=1) / true.toarray().var(0, ddof=1))[:7])
    assert metrics.variance_ratio(predicted, true, detected) == pytest.approx(expected, rel=1e-5)
    still = true.tolil()
    still[:, :3] = 0.1  # constant genes leave the median, whatever the prediction says about them
    expected = np.median((predicted.var(0, ddof=1) / true.toarray().var(0, ddof=1))[3:7])
    assert metrics.variance_ratio(predicted, still.tocsr(), detected) == pytest.approx(expected, rel=1e-5)


def test_variance_ratio_of_collapsed_cells_is_zero_and_of_too_few_or_broken_cells_undefined(rng):
    true, all_genes = sparse_cells(rng, 40, 12), np.ones(12, bool)
    assert metrics.variance_ratio(np.full((20, 12), 0.3, np.float32), true, all_genes) == 0
    assert np.isnan(metrics.variance_ratio(np.ones((1, 12)), true, all_genes))
    assert np.isnan(metrics.variance_ratio(np.ones((5, 12)), true, ~all_genes))
    assert np.isnan(metrics.variance_ratio(np.full((5, 12), np.nan), true, all_genes))


def test_half_means_are_disjoint_halves(rng):
    cells = sparse_cells(rng, 9, 6)
    first, second = metrics.half_means(cells, n_splits=5, seed=3)
    assert first.shape == second.shape == (5, 6)
    np.testing.assert_allclose(metrics.half_means(np.ones((9, 1)), 5, 3), 1)  # 4 cells and 5
    np.testing.assert_allclose(4 * first + 5 * second, np.tile(cells.toarray().sum(0), (5, 1)), rtol=1e-6)
    assert len(np.unique(first.round(6), axis=0)) > 1
    np.testing.assert_array_equal(first, metrics.half_means(cells.toarray(), n_splits=5, seed=3)[0])


def split_half_r(cells, controls, seed=0, shared=False):
    """Both sides halved, or the cells alone against the mean of all controls."""
    against = (metrics.mean_profile(controls),) * 2 if shared else metrics.half_means(controls, seed=[seed, 1])
    return metrics.halves_r(metrics.half_means(cells, seed=[seed, 0]), against)


def test_split_half_and_expected_exact_find_the_reliability_of_a_known_signal(rng):
    """Shift of variance v over genes, noise of the mean of n cells 1/n: halves correlate by v / (v + 2·(1/n + 1/m))."""
    n, m, n_genes, v = 60, 200, 4000, 0.02
    signal = rng.normal(0, np.sqrt(v), n_genes)
    cells, controls = rng.normal(size=(n, n_genes)) + signal, rng.normal(size=(m, n_genes))
    expected = v / (v + 2 / n + 2 / m)
    r = split_half_r(cells, controls, seed=1)
    assert r == pytest.approx(expected, abs=0.05)
    exact = metrics.pearson(signal, cells.mean(0) - controls.mean(0))
    assert metrics.expected_exact(r) == pytest.approx(exact, abs=0.05)
    assert split_half_r(cells, controls, seed=1) == r


def test_split_half_against_shared_controls_flatters_where_nothing_happened(rng):
    cells, controls = rng.normal(size=(100, 1000)), rng.normal(size=(30, 1000))
    assert abs(split_half_r(cells, controls)) < 0.1
    assert split_half_r(cells, controls, shared=True) > 0.5


def test_expected_exact_by_hand():
    np.testing.assert_allclose(metrics.expected_exact(np.array([0, -0.4, 1, 1 / 3])), [0, 0, 1, np.sqrt(0.5)])
    assert np.isnan(metrics.expected_exact(np.nan))
    assert metrics.expected_exact(1 / 3) == pytest.approx(np.sqrt(0.5))


def test_bootstrap_interval_of_a_mean_is_the_normal_one(rng):
    values = rng.normal(3, 2, size=400)
    low, high = metrics.bootstrap_ci(values, statistic=np.mean, n=4000, level=0.9, seed=1)
    half = stats.norm.ppf(0.95) * values.std() / np.sqrt(400)
    np.testing.assert_allclose([low, high], [values.mean() - half, values.mean() + half], atol=0.02)


def test_bootstrap_leaves_out_undefined_values_and_gives_one_value_no_interval():
    values = np.array([0.2, 0.4, np.nan, 0.9, 0.5])
    assert metrics.bootstrap_ci(values, seed=2) == metrics.bootstrap_ci(values[[0, 1, 3, 4]], seed=2)
    for few in [0.3], [np.nan, 0.3], [], [np.nan, np.nan]:
        assert np.isnan(metrics.bootstrap_ci(np.array(few))).all()


def test_paired_difference_sees_what_unpaired_medians_hide(rng):
    hardness = rng.uniform(size=30)
    value, low, high = metrics.paired_difference(hardness + 0.05, hardness, seed=0)
    assert (value, low, high) == pytest.approx((0.05, 0.05, 0.05))
    _, low, high = metrics.paired_difference(rng.uniform(size=30), rng.uniform(size=30), seed=0)
    assert low < 0 < high


def test_every_metric_of_the_scoreboard_is_described():
    for name, metric in metrics.METRICS.items():
        assert metric.name == name
        assert metric.label
        assert metric.meaning
        assert metric.direction in {"higher", "lower", "one"}
