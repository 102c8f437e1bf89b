"""Reliability of halves and bootstrap intervals against closed forms."""

import numpy as np
import pytest
from scipy import stats
from scipy.sparse import csr_matrix

from stormcell.evaluation import intervals
from stormcell.evaluation.profiles import mean_profile, pearson


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def sparse_cells(rng, n, n_genes):
    return csr_matrix(rng.poisson(0.7, size=(n, n_genes)).astype(np.float32))


def test_half_means_are_disjoint_halves(rng):
    cells = sparse_cells(rng, 9, 6)
    first, second = intervals.half_means(cells, n_splits=5, seed=3)
    assert first.shape == second.shape == (5, 6)
    np.testing.assert_allclose(intervals.half_means(np.ones((9, 1)), 5, 3), 1)  # 4 cells and 5
    np.testing.assert_allclose(4 * first + 5 * second, np.tile(cells.toarray().sum(0), (5, 1)), rtol=1e-6)
    assert len(np.unique(first.round(6), axis=0)) > 1
    np.testing.assert_array_equal(first, intervals.half_means(cells.toarray(), n_splits=5, seed=3)[0])


def split_half_r(cells, controls, seed=0, shared=False):
    """Both sides halved, or the cells alone against the mean of all controls."""
    against = (mean_profile(controls),) * 2 if shared else intervals.half_means(controls, seed=[seed, 1])
    return intervals.halves_r(intervals.half_means(cells, seed=[seed, 0]), against)


def test_split_half_and_expected_exact_find_the_reliability_of_a_known_signal(rng):
    """Shift of variance v over genes, noise of the mean of n cells 1/n: halves correlate by v / (v + 2·(1/n + 1/m))."""
    n, m, n_genes, v = 60, 200, 4000, 0.02
    signal = rng.normal(0, np.sqrt(v), n_genes)
    cells, controls = rng.normal(size=(n, n_genes)) + signal, rng.normal(size=(m, n_genes))
    expected = v / (v + 2 / n + 2 / m)
    r = split_half_r(cells, controls, seed=1)
    assert r == pytest.approx(expected, abs=0.05)
    exact = pearson(signal, cells.mean(0) - controls.mean(0))
    assert intervals.expected_exact(r) == pytest.approx(exact, abs=0.05)
    assert split_half_r(cells, controls, seed=1) == r


def test_split_half_against_shared_controls_flatters_where_nothing_happened(rng):
    cells, controls = rng.normal(size=(100, 1000)), rng.normal(size=(30, 1000))
    assert abs(split_half_r(cells, controls)) < 0.1
    assert split_half_r(cells, controls, shared=True) > 0.5


def test_expected_exact_by_hand():
    np.testing.assert_allclose(intervals.expected_exact(np.array([0, -0.4, 1, 1 / 3])), [0, 0, 1, np.sqrt(0.5)])
    assert np.isnan(intervals.expected_exact(np.nan))
    assert intervals.expected_exact(1 / 3) == pytest.approx(np.sqrt(0.5))


def test_bootstrap_interval_of_a_mean_is_the_normal_one(rng):
    values = rng.normal(3, 2, size=400)
    low, high = intervals.bootstrap_ci(values, statistic=np.mean, n=4000, level=0.9, seed=1)
    half = stats.norm.ppf(0.95) * values.std() / np.sqrt(400)
    np.testing.assert_allclose([low, high], [values.mean() - half, values.mean() + half], atol=0.02)


def test_bootstrap_leaves_out_undefined_values_and_gives_one_value_no_interval():
    values = np.array([0.2, 0.4, np.nan, 0.9, 0.5])
    assert intervals.bootstrap_ci(values, seed=2) == intervals.bootstrap_ci(values[[0, 1, 3, 4]], seed=2)
    for few in [0.3], [np.nan, 0.3], [], [np.nan, np.nan]:
        assert np.isnan(intervals.bootstrap_ci(np.array(few))).all()


def test_paired_difference_sees_what_unpaired_medians_hide(rng):
    hardness = rng.uniform(size=30)
    value, low, high = intervals.paired_difference(hardness + 0.05, hardness, seed=0)
    assert (value, low, high) == pytest.approx((0.05, 0.05, 0.05))
    _, low, high = intervals.paired_difference(rng.uniform(size=30), rng.uniform(size=30), seed=0)
    assert low < 0 < high
