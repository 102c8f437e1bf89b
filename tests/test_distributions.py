"""Distances of cells as distributions against closed forms, other implementations and the plainest loop."""

import numpy as np
import ot
import pytest
from scipy import stats
from scipy.optimize import linear_sum_assignment
from scipy.sparse import csr_matrix
from scipy.spatial.distance import cdist, pdist
from sklearn.metrics.pairwise import rbf_kernel

from stormcell.evaluation import distributions
from stormcell.evaluation.profiles import at_most


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def sparse_cells(rng, n, n_genes):
    return csr_matrix(rng.poisson(0.7, size=(n, n_genes)).astype(np.float32))


def test_energy_distance_is_the_double_loop(rng):
    x, y = rng.normal(size=(7, 3)), rng.normal(1, 2, size=(9, 3))

    def mean_distance(a, b, within):
        distances = [np.linalg.norm(a[i] - b[j]) for i in range(len(a)) for j in range(len(b)) if not within or i != j]
        return np.mean(distances)

    expected = 2 * mean_distance(x, y, False) - mean_distance(x, x, True) - mean_distance(y, y, True)
    assert distributions.energy_distance(x, y) == pytest.approx(expected, rel=1e-12)
    assert distributions.energy_distance(y, x) == pytest.approx(expected, rel=1e-12)


def test_energy_distance_of_gaussians_is_unbiased(rng):
    """X − Y ~ N(δ, 2), so E|X − Y| is the mean of a folded normal and E|X − X'| = 2/√π."""

    def closed_form(delta):
        folded = np.sqrt(4 / np.pi) * np.exp(-(delta**2) / 4) + delta * (1 - 2 * stats.norm.cdf(-delta / np.sqrt(2)))
        return 2 * folded - 4 / np.sqrt(np.pi)

    for delta in 0.0, 0.5, 2.0:
        draws = [
            distributions.energy_distance(rng.normal(size=(60, 1)), rng.normal(delta, 1, (40, 1))) for _ in range(200)
        ]
        assert np.mean(draws) == pytest.approx(closed_form(delta), abs=4 * np.std(draws) / np.sqrt(200))


def test_energy_distance_needs_two_cells_and_takes_at_most_200(rng):
    x = rng.normal(size=(1000, 4))
    assert np.isnan(distributions.energy_distance(x[:1], x))
    assert np.isnan(distributions.energy_distance(x, x[:0]))
    assert distributions.energy_distance(x, x[:150] + 1) == distributions.energy_distance(at_most(x), x[:150] + 1)


def test_variance_ratio_is_the_median_over_detected_varying_genes(rng):
    true, predicted = sparse_cells(rng, 40, 12), rng.normal(size=(30, 12)).astype(np.float32)
    detected = np.arange(12) < 7
    expected = np.median((predicted.var(0, ddof=1) / true.toarray().var(0, ddof=1))[:7])
    assert distributions.variance_ratio(predicted, true, detected) == pytest.approx(expected, rel=1e-5)
    still = true.tolil()
    still[:, :3] = 0.1  # constant genes leave the median, whatever the prediction says about them
    expected = np.median((predicted.var(0, ddof=1) / true.toarray().var(0, ddof=1))[3:7])
    assert distributions.variance_ratio(predicted, still.tocsr(), detected) == pytest.approx(expected, rel=1e-5)


def test_variance_ratio_of_collapsed_cells_is_zero_and_of_too_few_or_broken_cells_undefined(rng):
    true, all_genes = sparse_cells(rng, 40, 12), np.ones(12, bool)
    assert distributions.variance_ratio(np.full((20, 12), 0.3, np.float32), true, all_genes) == 0
    assert np.isnan(distributions.variance_ratio(np.ones((1, 12)), true, all_genes))
    assert np.isnan(distributions.variance_ratio(np.ones((5, 12)), true, ~all_genes))
    assert np.isnan(distributions.variance_ratio(np.full((5, 12), np.nan), true, all_genes))


def test_mmd_is_the_mean_of_sklearn_kernels(rng):
    x, y = rng.normal(size=(7, 3)), rng.normal(1, 2, size=(9, 3))
    median = np.median(pdist(y))
    expected = 0
    for width in 0.5, 1, 2:
        xx, yy, xy = (rbf_kernel(a, b, 1 / (2 * (width * median) ** 2)) for a, b in ((x, x), (y, y), (x, y)))
        within = [k[~np.eye(len(k), dtype=bool)].mean() for k in (xx, yy)]
        expected += (sum(within) - 2 * xy.mean()) / 3
    assert distributions.mmd(x, y) == pytest.approx(expected, rel=1e-10)
    assert distributions.mmd(x, y, median) == pytest.approx(expected, rel=1e-10)
    assert distributions.mmd(x, y, median / 2) != pytest.approx(expected, rel=1e-3)


def test_mmd_of_gaussians_is_unbiased(rng):
    """X − Y ~ N(δ, 2I) in two dimensions, so E exp(−|X − Y|² / 2σ²) = σ² / (σ² + 2) · exp(−δ² / 2(σ² + 2))."""

    def mean_kernel(delta):
        squares = np.array([0.5, 1, 2]) ** 2  # median 1
        return np.mean(squares / (squares + 2) * np.exp(-(delta**2) / (2 * (squares + 2))))

    for delta in 0.0, 1.0:
        move = np.array([delta, 0])
        draws = [distributions.mmd(rng.normal(size=(50, 2)) + move, rng.normal(size=(40, 2)), 1.0) for _ in range(150)]
        expected = 2 * mean_kernel(0) - 2 * mean_kernel(delta)
        assert np.mean(draws) == pytest.approx(expected, abs=4 * np.std(draws) / np.sqrt(150))


def test_mmd_needs_two_cells_that_differ(rng):
    x = rng.normal(size=(300, 4))
    assert np.isnan(distributions.mmd(x[:1], x))
    assert np.isnan(distributions.mmd(x, x[:1]))
    assert np.isnan(distributions.mmd(x, np.ones((5, 4))))
    assert np.isnan(distributions.mmd(x, x, np.nan))
    assert np.isnan(distributions.mmd(np.full((5, 4), np.nan), x))
    assert distributions.mmd(x, x[:150] + 1) == distributions.mmd(at_most(x), x[:150] + 1)


def test_wasserstein_is_the_best_assignment(rng):
    x, y = rng.normal(size=(30, 5)), rng.normal(0.5, 2, size=(30, 5))
    cost = cdist(x, y, "sqeuclidean")
    expected = np.sqrt(cost[linear_sum_assignment(cost)].mean())
    assert distributions.wasserstein(x, y) == pytest.approx(expected, rel=1e-9)
    # 10 cells against 15: each of them is 3 and 2 of 30.
    cost = cdist(np.repeat(x[:10], 3, axis=0), np.repeat(y[:15], 2, axis=0), "sqeuclidean")
    expected = np.sqrt(cost[linear_sum_assignment(cost)].mean())
    assert distributions.wasserstein(x[:10], y[:15]) == pytest.approx(expected, rel=1e-9)


WASSERSTEIN = [distributions.wasserstein, distributions.sliced_wasserstein]


def test_wasserstein_of_a_moved_cloud_is_the_move(rng):
    x, move = rng.normal(size=(80, 6)), rng.normal(size=6)
    assert distributions.wasserstein(x, x + move) == pytest.approx(np.linalg.norm(move), rel=1e-9)
    # Along a random direction u the move is ⟨u, move⟩, with mean square ‖move‖² / 6.
    sliced = distributions.sliced_wasserstein(x, x + move)
    assert sliced == pytest.approx(np.linalg.norm(move) / np.sqrt(6), rel=0.25)
    assert distributions.sliced_wasserstein(x, x + 3 * move) == pytest.approx(3 * sliced, rel=1e-9)


@pytest.mark.parametrize("distance", WASSERSTEIN)
def test_wasserstein_is_a_distance_of_distributions(distance, rng):
    x, y = rng.normal(size=(40, 3)), rng.normal(1, 1, size=(25, 3))
    assert distance(x, y) == pytest.approx(distance(y, x), rel=1e-9)
    assert distance(x, x[rng.permutation(40)]) == pytest.approx(0, abs=1e-7)
    assert distance(x, np.repeat(x, 3, axis=0)) == pytest.approx(0, abs=1e-7)
    assert distance(2 * x, 2 * y) == pytest.approx(2 * distance(x, y), rel=1e-9)


@pytest.mark.parametrize("distance", WASSERSTEIN)
def test_wasserstein_of_gaussians_of_one_dimension(distance, rng):
    """W2² = (difference of means)² + (difference of standard deviations)²; exact and sliced are one in a dimension."""
    draws = [distance(rng.normal(2, 3, size=(200, 1)), rng.normal(0, 1, size=(200, 1))) for _ in range(40)]
    assert np.mean(draws) == pytest.approx(np.sqrt(2**2 + 2**2), abs=0.15)
    x, y = rng.normal(size=(31, 1)), rng.normal(size=(12, 1))
    assert distance(x, y) == pytest.approx(distributions.wasserstein(x, y), rel=1e-9)


def test_sliced_wasserstein_agrees_with_pot_on_the_same_directions(rng):
    x, y = rng.normal(size=(33, 4)), rng.normal(0.7, 2, size=(50, 4))
    directions = np.random.default_rng(0).normal(size=(4, distributions.N_DIRECTIONS))
    directions /= np.linalg.norm(directions, axis=0)
    expected = ot.sliced_wasserstein_distance(x, y, projections=directions)
    assert distributions.sliced_wasserstein(x, y) == pytest.approx(expected, rel=1e-9)
    assert expected < distributions.wasserstein(x, y)


@pytest.mark.parametrize("distance", WASSERSTEIN)
def test_wasserstein_needs_two_finite_cells_and_takes_at_most_200(distance, rng):
    x = rng.normal(size=(500, 3))
    for few in x[:1], x[:0], np.full((5, 3), np.nan):
        assert np.isnan(distance(x, few))
        assert np.isnan(distance(few, x))
    assert distance(x, x[:90] + 1) == distance(at_most(x), x[:90] + 1)


def test_coverage_of_right_and_of_narrow_gaussians(rng):
    true, detected = rng.normal(size=(500, 8)), np.ones(8, bool)
    for level in 0.5, 0.9:
        inside = distributions.coverage(rng.normal(size=(1000, 8)), true, detected, level)
        assert inside == pytest.approx(level, abs=0.03)
        narrow = distributions.coverage(rng.normal(0, 0.5, size=(1000, 8)), true, detected, level)
        expected = 1 - 2 * stats.norm.sf(stats.norm.ppf((1 + level) / 2) / 2)
        assert narrow == pytest.approx(expected, abs=0.03)


def test_coverage_counts_the_ends_and_the_detected_genes_alone():
    predicted = np.array([[0.0, 5, 0], [4, 5, 0]])
    true = csr_matrix([[0.0, 5, 1], [4, 5, 1], [4.5, 5, 1]])
    assert distributions.coverage(predicted, true, np.array([True, False, False]), 1.0) == pytest.approx(2 / 3)
    assert distributions.coverage(predicted, true, np.array([True, True, False]), 1.0) == pytest.approx(5 / 6)
    assert distributions.coverage(predicted, true, np.ones(3, bool), 1.0) == pytest.approx(5 / 9)
    assert distributions.coverage(predicted, true, np.array([True, False, False]), 0.5) == 0  # 1 to 3


def test_coverage_of_sparse_cells_is_that_of_dense_cells(rng):
    true, predicted, detected = sparse_cells(rng, 40, 12), sparse_cells(rng, 30, 12), np.arange(12) % 2 == 0
    expected = distributions.coverage(predicted.toarray(), true.toarray(), detected, 0.8)
    assert distributions.coverage(predicted, true, detected, 0.8) == expected
    assert expected >= 0.8  # zeros are at an end of the interval


def test_coverage_without_cells_genes_or_numbers_is_undefined(rng):
    true, genes = sparse_cells(rng, 40, 12), np.ones(12, bool)
    assert np.isnan(distributions.coverage(np.ones((1, 12)), true, genes, 0.9))
    assert np.isnan(distributions.coverage(np.ones((5, 12)), true[:0], genes, 0.9))
    assert np.isnan(distributions.coverage(np.ones((5, 12)), true, ~genes, 0.9))
    assert np.isnan(distributions.coverage(np.full((5, 12), np.nan), true, genes, 0.9))
