"""Genetic interactions: how the shift of a pair differs from the shifts of its two targets alone.

pair ≈ a · first + b · second, robust over genes (Theil–Sen); a = b = 1 where the two act independently.

Shapes: G genes, K variables. Shifts are log1p-normalised means minus control.
Sources: Norman et al. 2019 (the model and its scores); Székely, Rizzo & Bakirov 2007 (distance correlation);
Dang et al. 2008 (Theil–Sen in several dimensions).
"""

from __future__ import annotations

import numpy as np

from stormcell.evaluation.profiles import pearson, shift

MAX_FITS = 20_000  # pairs of genes that the coefficients are the median of; all pairs of 200 genes
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
    Genes that are mostly noise pull a and b to 0: leave out those that are hardly expressed (Norman et al. keep the
    genes of more than 0.5 counts a cell). nan: everything where a value is not finite or a single is zero in every
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
    """Theil–Sen without an intercept: the spatial median of the exact solutions (a, b) of two genes each.

    All pairs of genes, or a fixed random 20,000 of them; two genes that have no one solution are left out.
    """
    n_genes = len(pair)
    if n_genes * (n_genes - 1) // 2 <= MAX_FITS:
        i, j = np.triu_indices(n_genes, 1)
    else:
        i, j = np.random.default_rng(0).integers(n_genes, size=(2, MAX_FITS))
    determinant, scale = first[i] * second[j] - first[j] * second[i], np.abs(first[i] * second[j])
    solved = np.abs(determinant) > 1e-9 * np.maximum(scale, np.abs(first[j] * second[i]))
    if not solved.any():
        return np.nan, np.nan
    i, j, determinant = i[solved], j[solved], determinant[solved]
    a = (pair[i] * second[j] - pair[j] * second[i]) / determinant
    b = (first[i] * pair[j] - first[j] * pair[i]) / determinant
    return tuple(_spatial_median(np.stack([a, b], axis=1)).tolist())


def _spatial_median(points: np.ndarray) -> np.ndarray:
    """The point of least summed distance to all: N × 2 → 2, by Weiszfeld's weights from the median of each axis."""
    centre = np.median(points, axis=0)
    reach = 1e-12 * (1 + np.abs(centre).max())  # nearer points would have an endless weight
    for _ in range(500):
        weights = 1 / np.maximum(np.linalg.norm(points - centre, axis=1), reach)
        moved = weights @ points / weights.sum()
        if np.abs(moved - centre).max() <= 1e-9 * (1 + np.abs(moved).max()):
            return moved
        centre = moved
    return centre


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
