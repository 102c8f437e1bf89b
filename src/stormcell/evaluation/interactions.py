"""Genetic interactions: how the shift of a pair differs from the shifts of its two targets alone.

pair ≈ a · first + b · second, least squares over genes; a = b = 1 where the two act independently. Norman et al. take
the Theil–Sen estimate over well expressed genes; its median is one of noise where most genes of a panel hardly move.

Shapes: G genes, K variables. Shifts are log1p-normalised means minus control.
Sources: Norman et al. 2019 (the model and its scores); Székely, Rizzo & Bakirov 2007 (distance correlation).
"""

from __future__ import annotations

import numpy as np

from stormcell.evaluation.profiles import pearson, shift

SCORES = (
    "coefficient_first",
    "coefficient_second",
    "magnitude",
    "fit",
    "dominance",
    "similarity",
    "similarity_of_singles",
    "equality",
)
BLOCK = 128  # genes whose distances to all others are in memory at a time


def interaction_scores(pair: np.ndarray, first: np.ndarray, second: np.ndarray) -> dict[str, float]:
    """Scores of a pair of targets from its shift and those of the two alone: G, G, G → numbers by the names in SCORES.

    coefficient_first, coefficient_second: a, b of pair ≈ a · first + b · second
    magnitude: sqrt(a² + b²), sqrt(2) for an additive pair; above it synergy, below it suppression
    fit: Pearson r of a · first + b · second with the pair; low where the pair does something new (neomorphism)
    dominance: |log10 |a / b||, 0 for equal parts; large where one target masks the other (epistasis)
    similarity: distance correlation of (first, second) with the pair
    similarity_of_singles: distance correlation of first with second; high where both do the same (redundancy)
    equality: lesser / larger of the distance correlations of first and of second with the pair

    `first` and `second` are measured, also where the pair is predicted, so that scores of truth and prediction compare.
    nan: everything where a value is not finite or a single is zero in every
    gene; a, b and what is made of them where the singles are proportional; dominance where a or b is 0; what correlates
    where a side is constant.
    """
    sides = np.array([pair, first, second], np.float64)
    if not np.isfinite(sides).all() or not sides[1:].any(axis=1).all():
        return dict.fromkeys(SCORES, np.nan)
    pair, first, second = sides
    a, b = _coefficients(pair, first, second)
    fit = float(pearson(a * first + b * second, pair))
    dominance = float(np.abs(np.log10(np.abs(a / b)))) if a * b != 0 else np.nan
    r = distance_correlations([sides[1:].T, pair[:, None], first[:, None], second[:, None]])
    larger = r[2:, 1].max()
    equality = float(r[2:, 1].min() / larger) if larger > 0 else np.nan
    numbers = a, b, float(np.hypot(a, b)), fit, dominance, float(r[0, 1]), float(r[2, 3]), equality
    return dict(zip(SCORES, numbers, strict=True))


def interaction_correlation(true_shift: np.ndarray, predicted_shift: np.ndarray, additive_shift: np.ndarray) -> float:
    """Pearson r over genes of true − additive and predicted − additive shift: G, G, G → number.

    Above 0 the interaction itself is predicted. Both sides subtract the same sum of measured singles, and its noise
    makes them agree where there is no interaction: compare with what split halves of the cells reach.
    nan for the additive prediction itself, and where a side is not finite.
    """
    return float(pearson(shift(true_shift, additive_shift), shift(predicted_shift, additive_shift)))


def _coefficients(pair: np.ndarray, first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """Least squares without an intercept; nan where the singles are proportional and share the pair in no one way."""
    singles = np.stack([first, second], axis=1)
    gram = singles.T @ singles
    if np.linalg.det(gram) <= 1e-9 * gram[0, 0] * gram[1, 1]:
        return np.nan, np.nan
    return tuple(np.linalg.solve(gram, singles.T @ pair).tolist())


def distance_correlations(variables: list[np.ndarray]) -> np.ndarray:
    """Distance correlation of every two of K variables over G genes, V statistic: K times (G × any) → K × K.

    dCov²(x, y) = E[d_x d_y] + E d_x · E d_y − 2 E[mean d_x · mean d_y], d the distances between genes; the correlation
    is sqrt(dCov² / sqrt(dVar²_x dVar²_y)). In time G², in memory 128 · G. nan where a variable is constant.
    """
    n_genes = len(variables[0])
    products, means = np.zeros((len(variables), len(variables))), np.zeros((len(variables), n_genes))
    for start in range(0, n_genes, BLOCK):
        rows = slice(start, start + BLOCK)
        distances = np.stack([_distances(variable[rows], variable) for variable in variables])
        means[:, rows] = distances.mean(axis=2)
        flat = distances.reshape(len(variables), -1)
        products += flat @ flat.T / n_genes**2
    covariance = products + np.outer(means.mean(1), means.mean(1)) - 2 * means @ means.T / n_genes
    spread = np.where(np.diag(covariance) > 0, np.diag(covariance), np.nan)
    return np.sqrt(np.maximum(covariance, 0) / np.sqrt(np.outer(spread, spread)))


def _distances(some: np.ndarray, all_genes: np.ndarray) -> np.ndarray:
    """Euclidean distances of some genes to all: B × d, G × d → B × G."""
    if some.shape[1] == 1:
        return np.abs(some - all_genes.T)
    return np.hypot(*(some[:, [axis]] - all_genes[:, axis] for axis in range(2)))
