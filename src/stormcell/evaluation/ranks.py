"""Does a prediction point at its own perturbation, or at any? Distances between all predictions and all truths.

    D_ij = distance of prediction i and truth j
    share_i = (#{j ≠ i : D_ij < D_ii} + ½ #{j ≠ i : D_ij = D_ii}) / (P − 1)

A constant prediction, and any that knows only what all perturbations have in common, ends at ½ on average.

A perturbation's own target genes can be left out, since their change gives the answer away. They leave the comparison
on both sides, as those of the prediction and as those of the truth. The perturbation discrimination score as published
leaves out those of the prediction alone: its own truth then lacks its knock-down, every other truth still has one, and
even "no change" is nearest to its own truth.

Shapes: P perturbations, G genes.
Sources: Wu et al. 2024 (PerturBench: rank); Adduri et al. 2025 (cell-eval: perturbation discrimination);
Viñas Torné et al. 2025 (Systema: centroid accuracy).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy.spatial.distance import cdist

TIE = 1e-6  # distances whose relative difference is smaller are equal: means of the same cells differ by rounding
CLOSE = 1e-6  # squared distances this small against the lengths of the rows lose their digits in a·a + b·b − 2 a·b


def distances(
    predicted: np.ndarray, true: np.ndarray, metric: str, dropped: Sequence[np.ndarray] | None = None
) -> np.ndarray:
    """D: predicted P × G, true P × G → P × P, row i the prediction, column j the truth; NaN where a side is not finite.

    `metric` is "l1", "euclidean" or "cosine" (1 − cosine of the angle; a row of zeros has no direction and is at
    distance 1 from everything). `dropped[i]` are the numbers of the genes that leave row i and column i; sums over the
    genes that are left are scaled up to G genes. Raises ValueError for another metric and for unequal shapes.
    """
    predicted, true = np.asarray(predicted, np.float64), np.asarray(true, np.float64)
    if predicted.shape != true.shape or predicted.ndim != 2:
        raise ValueError(f"{predicted.shape} predictions × genes are compared with {true.shape} truths × genes")
    if metric not in _METRICS:
        raise ValueError(f"no distance {metric!r}; there are {', '.join(_METRICS)}")
    answered, known = (np.isfinite(side).all(1, keepdims=True) for side in (predicted, true))
    mine = None
    if dropped is not None:
        mine = np.zeros(predicted.shape, bool)
        for i, genes in enumerate(dropped):
            mine[i, genes] = True
    found = _METRICS[metric](np.where(answered, predicted, 0), np.where(known, true, 0), mine)
    return np.where(answered & known.T, found, np.nan)


def rank(distance: np.ndarray) -> np.ndarray:
    """Of each truth, the share of other predictions that are nearer to it than its own: P × P → P; 0 best, ½ chance.

    Ties count ½. Predictions that are NaN are left out; NaN without an own prediction or without another one.
    """
    return rank_of_truth(distance.T)


def rank_of_truth(distance: np.ndarray) -> np.ndarray:
    """Of each prediction, the share of other truths that are nearer to it than its own: P × P → P; 0 best, ½ chance.

    1 − this is the perturbation discrimination score (L1 or cosine of shifts, target genes dropped) and the centroid
    accuracy (Euclidean). Ties and NaN as in `rank`.
    """
    own = np.diag(distance)[:, None]
    with np.errstate(invalid="ignore"):
        gap = distance - own
        tied = np.abs(gap) <= TIE * np.maximum(distance, own)
        nearer = np.where(tied, 0.5, gap < 0).sum(1) - 0.5  # the own one ties with itself
    others = np.isfinite(distance).sum(1) - 1
    return np.where(np.isfinite(own[:, 0]) & (others > 0), nearer / np.maximum(others, 1), np.nan)


def _l1(a: np.ndarray, b: np.ndarray, mine: np.ndarray | None) -> np.ndarray:
    found = cdist(a, b, "cityblock")
    if mine is None:
        return found
    _leave_out(found, lambda x, y: np.abs(x - y), a, b, mine)
    return np.maximum(found, 0) * _scale(mine)


def _euclidean(a: np.ndarray, b: np.ndarray, mine: np.ndarray | None) -> np.ndarray:
    """By a matrix product, ten times as fast as by differences; the few pairs that it cannot tell apart by these."""
    centre = b.mean(0) if len(b) else 0.0  # what all rows share would cost digits
    a, b = a - centre, b - centre
    lengths = np.add.outer(np.square(a).sum(1), np.square(b).sum(1))
    squared = lengths - 2 * (a @ b.T)
    if mine is not None:
        _leave_out(squared, lambda x, y: np.square(x - y), a, b, mine)
    for i in np.flatnonzero((squared <= CLOSE * lengths).any(1)):
        near = np.flatnonzero(squared[i] <= CLOSE * lengths[i])
        difference = a[i] - b[near]
        if mine is not None:
            difference[mine[i] | mine[near]] = 0
        squared[i, near] = np.square(difference).sum(1)
    return np.sqrt(squared if mine is None else squared * _scale(mine))


def _cosine(a: np.ndarray, b: np.ndarray, mine: np.ndarray | None) -> np.ndarray:
    dot = a @ b.T
    whole_a, whole_b = np.square(a).sum(1)[:, None], np.square(b).sum(1)
    square_a, square_b = np.broadcast_to(whole_a, dot.shape), np.broadcast_to(whole_b, dot.shape)
    if mine is not None:
        square_a, square_b = square_a.copy(), square_b.copy()
        _leave_out(dot, lambda x, y: x * y, a, b, mine)
        _leave_out(square_a, lambda x, y: np.square(x) + 0 * y, a, b, mine)
        _leave_out(square_b, lambda x, y: 0 * x + np.square(y), a, b, mine)
    # Where only genes that are left out changed, rounding is all that remains of a length.
    directed = (square_a > 1e-12 * whole_a) & (square_b > 1e-12 * whole_b)
    length = np.sqrt(np.where(directed, square_a * square_b, 1))
    cosine = np.where(directed, dot / length, 0)
    # Below 1e-9 nothing is left but rounding: 1 − cosine of two equal rows.
    return np.where(cosine > 1 - 1e-9, 0.0, 1 - cosine)


def _leave_out(total: np.ndarray, part: Callable, a: np.ndarray, b: np.ndarray, mine: np.ndarray) -> None:
    """Takes part(a_ig, b_jg) out of total_ij, P × P, for the genes g of i or j (`mine`, P × G bool), in place."""
    for i in range(len(total)):
        genes = np.flatnonzero(mine[i])
        total[i] -= part(a[i, genes], b[:, genes]).sum(1)
        total[:, i] -= np.where(mine[:, genes], 0, part(a[:, genes], b[i, genes])).sum(1)  # of both: only once


def _scale(mine: np.ndarray) -> np.ndarray:
    """P × P: all genes / genes that neither side leaves out. Without it the own truth would have more terms."""
    counts, mine = mine.sum(1), mine.astype(np.float32)
    left = mine.shape[1] - np.add.outer(counts, counts) + mine @ mine.T
    return mine.shape[1] / np.maximum(left, 1)


_METRICS = {"l1": _l1, "euclidean": _euclidean, "cosine": _cosine}
