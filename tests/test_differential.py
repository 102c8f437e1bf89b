"""Differential expression against scipy, scikit-learn and counting by hand."""

import numpy as np
import pytest
from scipy import stats
from scipy.sparse import csr_matrix
from sklearn.metrics import average_precision_score

from stormcell.evaluation import differential
from stormcell.evaluation.differential import Differential, rank_sum
from stormcell.evaluation.profiles import at_most


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def some_cells(rng, n, n_genes, rate=0.5):
    """Few levels, so that not only zeros are tied; one gene in three is never zero, one always."""
    values = np.log1p(rng.poisson(rate, size=(n, n_genes))).astype(np.float32)
    values[:, ::3] += 1
    values[:, 1::6] = 0
    return values


def scipy_p(x, y):
    x, y = x.astype(np.float64), y.astype(np.float64)  # of float32 scipy gives a float32 p
    with np.errstate(invalid="ignore", divide="ignore"):
        p = stats.mannwhitneyu(x, y, axis=0, method="asymptotic", use_continuity=True).pvalue
    return np.where(np.isnan(p), 1, p)  # scipy: nan where all values are equal


@pytest.mark.parametrize(("n", "m"), [(30, 30), (7, 41), (2, 2), (150, 3)])
def test_rank_sum_is_that_of_scipy_for_sparse_and_dense_cells(rng, n, m):
    x, y = some_cells(rng, n, 30, rate=0.9), some_cells(rng, m, 30)
    expected = -np.log10(scipy_p(x, y))
    for cells in x, csr_matrix(x), csr_matrix(x).tocsc():
        for controls in y, csr_matrix(y):
            np.testing.assert_allclose(rank_sum(cells, controls).score, expected, rtol=1e-9, atol=1e-12)


def test_rank_sum_of_controls_moved_by_a_constant_is_that_of_scipy(rng):
    """Every zero becomes the same number above or below zero: one group of ties more."""
    controls = some_cells(rng, 60, 40)
    moved = some_cells(rng, 50, 40) + rng.choice([-0.3, 0, 1e-4, 0.2], size=40).astype(np.float32)
    expected = -np.log10(scipy_p(moved, controls))
    np.testing.assert_allclose(rank_sum(moved, csr_matrix(controls)).score, expected, rtol=1e-9, atol=1e-12)
    assert (moved < 0).any()


def in_two_parts(values):
    """CSR that stores every value, zeros too, as two entries of half of it, in no order."""
    n, n_genes = values.shape
    columns = np.tile(np.arange(n_genes)[::-1], (n, 2)).ravel()
    halves = np.tile(values[:, ::-1] / 2, 2).ravel()
    return csr_matrix((halves, columns, np.arange(n + 1) * 2 * n_genes), shape=values.shape)


def test_rank_sum_of_stored_zeros_and_of_entries_in_two_parts(rng):
    x, y = some_cells(rng, 20, 10, rate=2), some_cells(rng, 25, 10)
    assert in_two_parts(x).nnz == 2 * x.size
    for cells in in_two_parts(x), in_two_parts(x.T).T:
        given = cells.copy()
        np.testing.assert_allclose(rank_sum(cells, y).score, rank_sum(x, y).score, rtol=1e-12)
        np.testing.assert_array_equal(cells.data, given.data)  # left alone
        np.testing.assert_array_equal(cells.indices, given.indices)


def test_q_is_benjamini_hochberg(rng):
    x, y = some_cells(rng, 40, 25, rate=1.2), some_cells(rng, 40, 25)
    p, q = scipy_p(x, y), rank_sum(x, y).q
    for gene in range(25):
        larger = p[p >= p[gene]]
        expected = min(min(one * 25 / (p <= one).sum() for one in larger), 1)
        assert q[gene] == pytest.approx(expected, rel=1e-9)


def test_the_false_discovery_rate_is_kept_and_planted_genes_are_found(rng):
    found = wrong = 0
    for _ in range(20):
        x, y = rng.normal(size=(60, 300)), rng.normal(size=(60, 300))
        x[:, :60] += 1.5
        q = rank_sum(x, y).q
        found += (q[:60] < 0.05).sum()
        wrong += (q[60:] < 0.05).sum()
    assert found > 0.99 * 20 * 60
    assert wrong / (found + wrong) < 0.05
    assert differential.n_significant(Differential(q, q, q)) == (q < 0.05).sum()


def test_fold_change_by_hand():
    """Counts per 10,000 of 0, 8 and 1, 1: means 4 and 1."""
    cells, controls = np.log1p([[0.0, 1], [8, 1]]), np.log1p([[1.0, 1], [1, 1]])
    expected = [np.log2(4.1 / 1.1), 0]
    for some in cells, csr_matrix(cells):
        np.testing.assert_allclose(rank_sum(some, controls).log_fold_change, expected, atol=1e-12)
    below = rank_sum(np.full((2, 1), -1.0), np.log1p([[3.0], [3.0]]))  # predicted cells may be negative
    assert below.log_fold_change == pytest.approx(np.log2(0.1 / 3.1))


def test_a_constant_gene_has_p_one_and_no_fold_change(rng):
    x, y = some_cells(rng, 30, 4), some_cells(rng, 40, 4)
    x[:, 0], y[:, 0] = 0.7, 0.7
    x[:, 1], y[:, 1] = 0, 0
    tested = rank_sum(csr_matrix(x), y)
    np.testing.assert_array_equal(tested.score[:2], 0)
    np.testing.assert_array_equal(tested.q[:2], 1)
    np.testing.assert_allclose(tested.log_fold_change[:2], 0, atol=1e-12)


def test_more_than_200_cells_are_a_fixed_200(rng):
    x, y = some_cells(rng, 500, 6, rate=0.6), some_cells(rng, 300, 6)
    many, few = rank_sum(csr_matrix(x), csr_matrix(y)), rank_sum(at_most(x), at_most(y))
    np.testing.assert_allclose(many.score, few.score, rtol=1e-12)
    np.testing.assert_allclose(many.log_fold_change, few.log_fold_change, rtol=1e-9)


def test_one_cell_is_not_tested_and_a_broken_gene_alone_is_nan(rng):
    x, y = some_cells(rng, 30, 5), some_cells(rng, 40, 5)
    for few in rank_sum(x[:1], y), rank_sum(x, y[:0]):
        assert np.isnan([few.log_fold_change, few.score, few.q]).all()
        assert differential.n_significant(few) == 0
    broken = x.copy()
    broken[3, 2] = np.nan
    result, sound = rank_sum(broken, y), np.arange(5) != 2
    assert np.isnan([result.log_fold_change[2], result.score[2], result.q[2]]).all()
    np.testing.assert_allclose(result.score[sound], rank_sum(x, y).score[sound])
    assert np.isfinite(result.q[sound]).all()
    broken[3, 2] = np.inf
    assert np.isnan([rank_sum(broken, y).score[2], rank_sum(y, broken).score[2]]).all()


def of(log_fold_change, q):
    q = np.asarray(q, np.float64)
    return Differential(np.asarray(log_fold_change, np.float64), -np.log10(q), q)


TRUE = of([3, -2, 1, 0.1, 0, 0.2], [0.001, 0.01, 0.04, 0.3, 1, 0.06])  # genes 0, 1 and 2 are DE
PREDICTED = of([-1, -4, 0.5, 2, 0, 0.1], [0.02, 0.001, 0.5, 0.03, 1, 0.9])  # by size 1, 3, 0, 2, 5, 4


def test_metrics_by_hand():
    assert differential.n_significant(TRUE) == 3
    assert differential.de_overlap(TRUE, PREDICTED) == pytest.approx(2 / 3)  # 1, 3, 0
    assert differential.de_overlap(TRUE, PREDICTED, fdr=0.02) == 1 / 2  # genes 0 and 1; 1, 3
    assert differential.de_precision(TRUE, PREDICTED, k=2) == 1 / 2
    assert differential.de_precision(TRUE, PREDICTED) == 3 / 6  # 50 of 6 genes
    assert differential.de_recall(TRUE, PREDICTED) == pytest.approx(2 / 3)
    assert differential.de_direction(TRUE, PREDICTED) == pytest.approx(2 / 3)
    assert differential.de_spearman(TRUE, PREDICTED) == pytest.approx(stats.spearmanr([3, -2, 1], [-1, -4, 0.5])[0])
    # By p: 1, 0, 3, 2, …: the third of three is found at the fourth place.
    assert differential.de_pr_auc(TRUE, PREDICTED) == pytest.approx((1 + 1 + 3 / 4) / 3)


METRICS = [
    differential.de_overlap,
    differential.de_precision,
    differential.de_recall,
    differential.de_direction,
    differential.de_spearman,
    differential.de_pr_auc,
]


@pytest.mark.parametrize("metric", METRICS)
def test_the_truth_itself_scores_best(metric):
    best = 3 / 6 if metric is differential.de_precision else 1
    assert metric(TRUE, TRUE) == pytest.approx(best)


@pytest.mark.parametrize("metric", METRICS)
def test_without_a_true_gene_or_with_a_broken_side_a_metric_is_undefined(metric):
    none = of(TRUE.log_fold_change, np.full(6, 0.5))
    assert np.isnan(metric(none, PREDICTED))
    q, change = PREDICTED.q.copy(), PREDICTED.log_fold_change.copy()
    q[4] = change[4] = np.nan
    for broken in of(change, PREDICTED.q), of(PREDICTED.log_fold_change, q):
        assert np.isnan(metric(TRUE, broken))
        assert np.isnan(metric(broken, TRUE))


def test_spearman_of_one_gene_or_of_equal_changes_is_undefined():
    one = of(TRUE.log_fold_change, [0.001, *[0.5] * 5])
    assert np.isnan(differential.de_spearman(one, PREDICTED))
    assert np.isnan(differential.de_spearman(TRUE, of(np.ones(6), PREDICTED.q)))


def test_pr_auc_where_every_gene_is_de_is_undefined():
    assert np.isnan(differential.de_pr_auc(of(TRUE.log_fold_change, np.full(6, 0.01)), PREDICTED))


def test_ties_count_as_their_mean_over_all_orders(rng):
    tied = of([4, 1, -1, 1, 1, 0], np.full(6, 0.5))  # one above, and two places for four
    true = np.array([0, 1, 2])
    orders = [[0, *others] for others in ([1, 2], [1, 3], [1, 4], [2, 3], [2, 4], [3, 4])]
    expected = np.mean([np.isin(order, true).mean() for order in orders])
    assert differential.de_overlap(TRUE, tied) == pytest.approx(expected)
    nothing = of(np.zeros(6), np.full(6, 0.5))
    assert differential.de_overlap(TRUE, nothing) == 3 / 6  # the share of DE genes: chance
    assert differential.de_precision(TRUE, nothing, k=2) == 3 / 6
    assert differential.de_pr_auc(TRUE, nothing) == 3 / 6
    assert differential.de_direction(TRUE, nothing) == 0


def test_pr_auc_is_the_sum_over_thresholds(rng):
    true = of(rng.normal(size=80), rng.uniform(0.01, 0.2, size=80))
    predicted = of(rng.normal(size=80), rng.integers(1, 30, size=80) / 30)  # with ties
    positive, area, before = true.q < 0.05, 0.0, 0.0
    for threshold in np.unique(predicted.q):
        chosen = predicted.q <= threshold
        recall = positive[chosen].sum() / positive.sum()
        area += (recall - before) * positive[chosen].mean()
        before = recall
    assert differential.de_pr_auc(true, predicted) == pytest.approx(area)
    assert average_precision_score(positive, -predicted.q) == pytest.approx(area)


def test_unrelated_predictions_are_at_chance(rng):
    true = of(rng.normal(size=400), np.where(np.arange(400) < 100, 0.001, 0.5))
    draws = [of(rng.normal(size=400), rng.uniform(size=400)) for _ in range(200)]
    for metric, chance in (
        (differential.de_overlap, 0.25),
        (differential.de_precision, 0.25),
        (differential.de_recall, 0.05),
        (differential.de_direction, 0.5),
        (differential.de_spearman, 0),
    ):
        values = [metric(true, drawn) for drawn in draws]
        assert np.mean(values) == pytest.approx(chance, abs=4 * np.std(values) / np.sqrt(200))
