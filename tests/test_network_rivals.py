"""Networks without a coupling: against scipy and scikit-learn, planted drivers, and what centring takes away."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr

from stormcell.analysis.mask import Mask
from stormcell.evaluation.network_rivals import (
    centred,
    partial_correlation,
    pearson,
    spearman,
    trees,
    within_state_ridge,
)

OFF = ~np.eye(6, dtype=bool)
FULL = Mask.full(6, range(6))


@pytest.fixture(scope="module")
def driven() -> np.ndarray:
    """300 cells × 6 genes; gene 0 drives gene 5 through a square (no correlation), gene 1 drives gene 4 downwards."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 6))
    x[:, 5] = x[:, 0] ** 2 + 0.1 * x[:, 5]
    x[:, 4] = -2 * x[:, 1] + 0.5 * x[:, 4]
    return x


def test_correlations_are_those_of_numpy_and_scipy(driven):
    assert np.allclose(pearson(driven, FULL), np.corrcoef(driven.T) * OFF)
    assert np.allclose(spearman(driven.round(1), FULL), spearmanr(driven.round(1))[0] * OFF)


def test_partial_correlation_is_the_correlation_of_residuals(driven):
    found = partial_correlation(driven, FULL)
    z = driven - driven.mean(0)
    for a, b in [(0, 5), (1, 4), (2, 3)]:
        rest = z[:, [gene for gene in range(6) if gene not in (a, b)]]
        left = z[:, [a, b]] - rest @ np.linalg.lstsq(rest, z[:, [a, b]], rcond=None)[0]
        assert found[a, b] == pytest.approx(np.corrcoef(left.T)[0, 1])
    assert np.allclose(found, found.T)
    assert np.isfinite(partial_correlation(driven[:4], FULL)).all()


def test_centring_takes_the_means_of_states_away():
    rng = np.random.default_rng(1)
    states = rng.choice(["a", "b", "c"], 400)
    x = rng.normal(size=(400, 6))
    x += np.where(states == "a", 5, np.where(states == "b", 0, -5))[:, None]
    assert np.abs(pearson(x, FULL)[OFF]).min() > 0.9
    low = centred(x, states)
    assert np.abs(pearson(low, FULL)).max() < 0.2
    for state in "abc":
        assert np.allclose(low[states == state].mean(0), 0)


def test_every_score_is_zero_outside_the_mask(driven):
    mask = Mask.of(6, [0, 1, 1], [5, 4, 2])
    inside = mask.dense(np.ones(3)) > 0
    states = np.arange(300) % 2
    for score in (
        pearson(driven, mask),
        spearman(driven, mask),
        partial_correlation(driven, mask),
        within_state_ridge(driven, states, mask, 0.1),
        trees(driven, mask, n_trees=5),
        trees(driven, mask, "grnboost2", n_trees=5),
    ):
        assert (score[~inside] == 0).all() and score[inside].any()


@pytest.mark.parametrize("kind", ["genie3", "grnboost2"])
def test_trees_find_planted_drivers(driven, kind):
    """Both of them, also the one without a correlation; the importances of a target add to 1."""
    found = trees(driven, FULL, kind, n_trees=60)
    assert found[:, 5].argmax() == 0 and found[:, 4].argmax() == 1
    assert abs(pearson(driven, FULL)[0, 5]) < 0.2
    assert np.allclose(found.sum(0), 1) and (found >= 0).all()
    assert np.array_equal(found, trees(driven, FULL, kind, n_trees=60))
    assert not np.array_equal(found, trees(driven, FULL, kind, n_trees=60, seed=1))
    with pytest.raises(ValueError, match="genie3"):
        trees(driven, FULL, "forest")


def test_ridge_within_states_is_that_of_scikit_learn():
    from sklearn.linear_model import Ridge

    rng = np.random.default_rng(2)
    states = np.repeat(["a", "b"], [120, 80])
    x = rng.normal(size=(200, 6))
    x[:, 3] += 0.8 * x[:, 0]
    x[states == "b"] += 4
    expected = np.zeros((6, 6))
    for state in "ab":
        z = x[states == state]
        z = (z - z.mean(0)) / z.std(0)
        for target in range(6):
            others = [gene for gene in range(6) if gene != target]
            expected[others, target] += Ridge(0.3 * len(z)).fit(z[:, others], z[:, target]).coef_ / 2
    assert np.allclose(within_state_ridge(x, states, FULL, 0.3), expected, atol=1e-6)


def test_constant_genes_are_no_edges(driven):
    x = driven.copy()
    x[:, 3] = 0.1
    for method in (pearson, spearman, partial_correlation, trees):
        score = method(x, FULL)
        assert np.isfinite(score).all() and not score[3].any() and not score[:, 3].any(), method.__name__
