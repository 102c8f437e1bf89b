"""Rank metrics against a double loop, on ties, gaps and dropped genes."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from stormcell.evaluation.ranks import distances, rank, rank_of_truth

METRICS = ["l1", "euclidean", "cosine"]


def slow_distance(a, b, metric):
    if metric == "l1":
        return np.abs(a - b).sum()
    if metric == "euclidean":
        return np.sqrt(((a - b) ** 2).sum())
    length = np.sqrt((a * a).sum() * (b * b).sum())
    return 1 - (a * b).sum() / length if length else 1.0


def slow_share(own, others):
    if np.isnan(own) or not len(others):
        return np.nan
    return sum(1.0 if d < own and not np.isclose(d, own) else 0.5 * np.isclose(d, own) for d in others) / len(others)


@pytest.fixture
def profiles():
    """Predictions that know something of the truth; two equal truths, two equal predictions, one that is not finite."""
    rng = np.random.default_rng(1)
    true = rng.normal(size=(9, 40))
    predicted = true + 1.5 * rng.normal(size=true.shape)
    true[4] = true[2]
    predicted[7] = predicted[6]
    predicted[5, 3] = np.nan
    return predicted.astype(np.float32), true


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("drop", [False, True])
def test_distances_and_ranks_equal_a_double_loop(profiles, metric, drop):
    predicted, true = profiles
    rng = np.random.default_rng(2)
    dropped = [rng.choice(40, size=i % 3, replace=False) for i in range(9)] if drop else None
    found = distances(predicted, true, metric, dropped)
    expected = np.empty((9, 9))
    scale = {"l1": 1, "euclidean": 0.5, "cosine": 0}[metric]
    for i in range(9):
        for j in range(9):
            kept = np.setdiff1d(np.arange(40), [*dropped[i], *dropped[j]]) if drop else np.arange(40)
            expected[i, j] = slow_distance(predicted[i, kept].astype(float), true[j, kept], metric)
            expected[i, j] *= (40 / len(kept)) ** scale
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
    others = [j for j in range(9) if j != 5]
    for i in range(9):
        by_truth = [expected[j, i] for j in others if j != i]
        assert rank(found)[i] == pytest.approx(slow_share(expected[i, i], by_truth), nan_ok=True)
        by_prediction = [expected[i, j] for j in range(9) if j != i]
        assert rank_of_truth(found)[i] == pytest.approx(slow_share(expected[i, i], by_prediction), nan_ok=True)
    assert np.isnan(rank(found)[5]) and np.isnan(rank_of_truth(found)[5])
    assert np.isfinite(np.delete(rank(found), 5)).all()


@pytest.mark.parametrize("metric", METRICS)
def test_the_oracle_is_best_and_its_mirror_worst(metric):
    true = np.random.default_rng(0).normal(size=(12, 100))
    found = distances(true, true, metric)
    assert (rank(found) == 0).all() and (rank_of_truth(found) == 0).all()
    np.testing.assert_allclose(np.diag(found), 0, atol=1e-9)
    mirrored = distances(-true, true, metric)
    assert (rank(mirrored) == 1).all() and (rank_of_truth(mirrored) == 1).all()


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_equal_rows_are_ties_in_spite_of_rounding(metric, scale):
    """Many genes, an offset that all rows share, sums in another order for every row: the ties must hold."""
    rng = np.random.default_rng(3)
    true = 5 + scale * rng.normal(size=(200, 700))
    constant = np.tile(true.mean(0) + scale * rng.normal(size=700), (200, 1))
    assert (rank(distances(constant, true, metric)) == 0.5).all()
    twins = np.repeat(true[:100], 2, axis=0)
    found = distances(twins, twins, metric)
    np.testing.assert_allclose(rank(found), 0.5 / 199)
    np.testing.assert_allclose(rank_of_truth(found), 0.5 / 199)


def test_euclidean_distances_far_below_the_length_of_the_rows_keep_their_order():
    """The product of matrices alone would lose these digits."""
    rng = np.random.default_rng(4)
    true = np.concatenate([rng.normal(size=(6, 300)), 1e6 * rng.normal(size=(1, 300))])
    predicted = true + 1e-5 * rng.normal(size=true.shape)
    np.testing.assert_allclose(distances(predicted, true, "euclidean"), cdist(predicted, true), rtol=1e-6)
    dropped = [np.array([i]) for i in range(7)]
    own = np.diag(distances(predicted, true, "euclidean", dropped))
    direct = [np.linalg.norm(np.delete(predicted[i] - true[i], i)) for i in range(7)]
    np.testing.assert_allclose(own, np.multiply(direct, np.sqrt(300 / 299)), rtol=1e-6)


def test_a_shift_of_zero_has_no_direction():
    true = np.random.default_rng(0).normal(size=(5, 30))
    found = distances(np.zeros_like(true), true, "cosine")
    assert (found == 1).all()
    assert (rank(found) == 0.5).all() and (rank_of_truth(found) == 0.5).all()


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("effect", [-8.0, 0.0])
def test_target_genes_tell_nothing_once_they_are_dropped(metric, effect):
    """Each perturbation changes its own gene and nothing else; the other method predicts no change at all.

    With the target genes of the prediction alone dropped, the second would be nearest to its own truth every time.
    """
    rng = np.random.default_rng(5)
    true = rng.normal(size=(30, 100)) - 8 * np.eye(30, 100)
    predicted = effect * np.eye(30, 100)
    targets = [np.array([i]) for i in range(30)]
    if effect:
        assert rank_of_truth(distances(predicted, true, metric)).mean() < 0.1
    found = distances(predicted, true, metric, targets)
    assert rank_of_truth(found).mean() == pytest.approx(0.5, abs=0.05)


def test_a_method_without_answers_is_left_out_of_the_rank_of_others():
    true = np.random.default_rng(6).normal(size=(4, 20))
    predicted = true.copy()
    predicted[1] = true[0]  # as near to truth 0 as its own prediction
    assert rank(distances(predicted, true, "l1"))[0] == pytest.approx(0.5 / 3)
    predicted[2] = np.nan
    assert rank(distances(predicted, true, "l1"))[0] == pytest.approx(0.5 / 2)
    predicted[1] = np.inf
    found = distances(predicted, true, "l1")
    assert np.isnan(found[1]).all()
    np.testing.assert_array_equal(rank(found), [0, np.nan, np.nan, 0])


@pytest.mark.parametrize("metric", METRICS)
def test_one_perturbation_has_no_rank(metric):
    one = np.ones((1, 5))
    assert np.isnan(rank(distances(one, one, metric))).all()
    assert np.isnan(rank_of_truth(distances(one, one, metric))).all()
    assert distances(np.zeros((0, 5)), np.zeros((0, 5)), metric).shape == (0, 0)
    assert rank(np.zeros((0, 0))).shape == (0,)
    nothing = distances(np.full((3, 5), np.nan), np.ones((3, 5)), metric)
    assert np.isnan(nothing).all() and np.isnan(rank(nothing)).all()


def test_callers_mistakes_are_refused():
    with pytest.raises(ValueError, match="no distance 'manhattan'; there are l1, euclidean, cosine"):
        distances(np.ones((2, 3)), np.ones((2, 3)), "manhattan")
    with pytest.raises(ValueError, match="are compared with"):
        distances(np.ones((2, 3)), np.ones((3, 3)), "l1")
