"""Scores of cells under weights: one row of weights, one score.

A row of ones is the score itself, a row of multiplicities that of a bootstrap sample: all samples in one pass.

    balanced accuracy   mean over labels of  Σ w [right] / Σ w
    AUC                 P(s₁ > s₀) + ½ P(s₁ = s₀),  cells of each side drawn by w
    ARI                 (Σ_ab C(n_ab, 2) − e) / (½ Σ_a C(n_a, 2) + ½ Σ_b C(n_b, 2) − e),  e = Σ_a Σ_b / C(n, 2)
    NMI                 I(a; b) / (½ H(a) + ½ H(b))
    R²                  1 − Σ w (y − ŷ)² / Σ w (y − ȳ)²

Shapes: R rows of weights, N cells, A and B numbers of labels on the two sides.
Sources: Hubert & Arabie 1985 (ARI); Mann & Whitney 1947 (AUC).
"""

from __future__ import annotations

import numpy as np


def resamples(strata: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """Weights whose first row is ones and whose next `n` draw N cells anew within each stratum: N → (1 + n) × N."""
    weights = np.ones((1 + n, len(strata)))
    for stratum in np.unique(strata):
        rows = np.flatnonzero(strata == stratum)
        weights[1:, rows] = rng.multinomial(len(rows), np.full(len(rows), 1 / len(rows)), size=n)
    return weights


def balanced_accuracy(true: np.ndarray, predicted: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Mean over the true labels of the share of their cells that is predicted right: N, N, R × N → R.

    A label that a sample does not hold is left out of its mean.
    """
    label = _indicator(true)
    cells = weights @ label
    right = weights @ (label * (true == predicted)[:, None])
    return np.nanmean(np.divide(right, cells, out=np.full(cells.shape, np.nan), where=cells > 0), axis=1)


def auc(positive: np.ndarray, score: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Probability that a positive cell scores above a negative one, ties counted half: N bool, N, R × N → R.

    nan where a side is empty.
    """
    _, tie = np.unique(score, return_inverse=True)
    order = np.argsort(tie, kind="stable")
    starts = np.flatnonzero(np.diff(tie[order], prepend=-1))
    above = np.add.reduceat((weights * positive)[:, order], starts, axis=1)
    below = np.add.reduceat((weights * ~positive)[:, order], starts, axis=1)
    wins = (above * (np.cumsum(below, axis=1) - below / 2)).sum(1)
    pairs = above.sum(1) * below.sum(1)
    return np.divide(wins, pairs, out=np.full(len(wins), np.nan), where=pairs > 0)


def contingency(true: np.ndarray, clusters: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weight of the cells with each pair of labels: N, N, R × N → R × A × B."""
    a, b = (np.unique(side, return_inverse=True) for side in (true, clusters))
    width = len(b[0])
    table = weights @ _indicator(a[1] * width + b[1], len(a[0]) * width)
    return table.reshape(len(weights), len(a[0]), width)


def adjusted_rand(table: np.ndarray) -> np.ndarray:
    """Adjusted Rand index of contingency tables: R × A × B → R; 1 where both sides are one label."""

    def pairs(n: np.ndarray) -> np.ndarray:
        return n * (n - 1) / 2

    both = pairs(table).sum((1, 2))
    rows, columns = (pairs(table.sum(axis)).sum(1) for axis in (2, 1))
    expected = rows * columns / pairs(table.sum((1, 2)))
    room = (rows + columns) / 2 - expected
    return np.divide(both - expected, room, out=np.ones(len(table)), where=room > 0)


def normalised_mutual_information(table: np.ndarray) -> np.ndarray:
    """Mutual information over the mean entropy of contingency tables: R × A × B → R; 1 where both are one label."""

    def entropy(n: np.ndarray) -> np.ndarray:
        share = n.reshape(len(n), -1) / n.reshape(len(n), -1).sum(1, keepdims=True)
        return -(share * np.log(np.where(share > 0, share, 1))).sum(1)

    rows, columns = entropy(table.sum(2)), entropy(table.sum(1))
    mean = (rows + columns) / 2
    return np.divide(rows + columns - entropy(table), mean, out=np.ones(len(table)), where=mean > 0)


def r_squared(true: np.ndarray, predicted: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Explained share of the variance of `true`, negative for worse than its mean: N, N, R × N → R; nan if constant."""
    share = weights / weights.sum(1, keepdims=True)
    variance = share @ np.square(true) - np.square(share @ true)
    error = share @ np.square(true - predicted)
    constant = variance <= 1e-12 * np.square(true).max()
    return 1 - np.divide(error, variance, out=np.full(len(error), np.nan), where=~constant)


def weighted_mean(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """N, R × N → R; nan where nothing has a weight."""
    total = weights.sum(1)
    return np.divide(weights @ values, total, out=np.full(len(total), np.nan), where=total > 0)


def _indicator(labels: np.ndarray, width: int | None = None) -> np.ndarray:
    """One column for each label, or for each number up to `width`: N → N × A."""
    if width is None:
        names, labels = np.unique(labels, return_inverse=True)
        width = len(names)
    columns = np.zeros((len(labels), width))
    columns[np.arange(len(labels)), labels] = 1
    return columns
