"""How near a predicted perturbation is to the measured one: pure functions on arrays.

shift = mean of perturbed cells − mean of control cells, log1p(counts / library · 1e4).
The shift of the truth should be taken against control cells that no method has seen: with shared controls both
shifts carry the same noise of the control mean, and correlate where nothing happened.

Shapes: n, m cells, G genes, K coordinates, S random splits. Cells may be sparse; nothing here densifies them.
Sources: Székely & Rizzo 2013 (energy distance); Spearman 1910, Brown 1910 (reliability of halves);
Efron & Tibshirani 1993 (percentile bootstrap).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import issparse, spmatrix
from scipy.spatial.distance import cdist

Cells = np.ndarray | spmatrix

MAX_CELLS = 200  # per side of an energy distance: its cost is quadratic, its error no longer that of the cells
JACCARD_SIZES = 25, 50, 100
ROUNDING = 1e-6  # float32 means of the same cells differ by less


@dataclass(frozen=True)
class Metric:
    """One column of the scoreboard."""

    name: str
    label: str
    meaning: str
    direction: str  # best value: "higher", "lower" or "one"


METRICS = {
    metric.name: metric
    for metric in (
        Metric(
            "shift_correlation",
            "shift r",
            "Pearson r over genes of predicted and true shift; the true shift is taken against control cells that no "
            "method has seen",
            "higher",
        ),
        Metric(
            "shift_correlation_shared",
            "shift r, shared controls (flattering)",
            "the same with both shifts against the training controls: the noise of their mean is in both shifts and "
            "makes them agree even where nothing happened",
            "higher",
        ),
        *(
            Metric(
                f"jaccard_{k}",
                f"Jaccard@{k}",
                f"overlap of the {k} genes of largest |shift|, common / union; chance is about {k} / (2 · genes − {k})",
                "higher",
            )
            for k in JACCARD_SIZES
        ),
        Metric("l2", "L2", "Euclidean distance of predicted and true mean profile over all genes", "lower"),
        Metric("mse", "MSE", "mean over genes of the squared difference of the mean profiles", "lower"),
        Metric(
            "energy_distance",
            "energy distance",
            "distance of predicted and true cells as distributions, U statistic on principal components of the "
            "training cells, at most 200 cells a side; around 0 where they agree, so slightly negative values occur",
            "lower",
        ),
        Metric(
            "variance_ratio",
            "variance ratio",
            "predicted / true variance between cells, median over detected genes; 0: all predicted cells are alike",
            "one",
        ),
    )
}


def mean_profile(cells: Cells) -> np.ndarray:
    """Mean over cells in float64: n × G → G. Raises ValueError without a cell."""
    if cells.shape[0] == 0:
        raise ValueError("the mean of no cells is asked for")
    return np.asarray(np.ones(cells.shape[0]) @ cells).ravel() / cells.shape[0]


def variances(cells: Cells) -> np.ndarray:
    """Unbiased variance over cells: n × G → G; exactly 0 for a constant gene; n >= 2."""
    cells = cells.astype(np.float64)
    n, mean = cells.shape[0], mean_profile(cells)
    second = mean_profile(cells.multiply(cells) if issparse(cells) else cells * cells)
    spread = second - mean**2
    return np.where(spread <= 1e-12 * second, 0.0, spread) * n / (n - 1)


def shift(mean: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """mean − reference, G; a difference within float32 rounding is 0, so that "no change" has no direction."""
    difference = np.asarray(mean, np.float64) - reference
    return np.where(np.abs(difference) <= ROUNDING * (1 + np.abs(reference)), 0.0, difference)


def pearson(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Pearson correlation along the last axis: … × G, … × G → …; nan where a side is constant or not finite."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        dx, dy = x - x.mean(-1, keepdims=True), y - y.mean(-1, keepdims=True)
        norm_x, norm_y = np.linalg.norm(dx, axis=-1), np.linalg.norm(dy, axis=-1)
        # The mean of equal numbers is not always that number: constant means constant up to rounding.
        constant = (norm_x <= 1e-12 * np.linalg.norm(x, axis=-1)) | (norm_y <= 1e-12 * np.linalg.norm(y, axis=-1))
        return np.where(constant, np.nan, (dx * dy).sum(-1) / (norm_x * norm_y))[()]


def shift_correlation(true_shift: np.ndarray, predicted_shift: np.ndarray) -> float:
    """Pearson r over genes of two shifts, G and G; nan when one is constant, as that of "no change" is."""
    return float(pearson(true_shift, predicted_shift))


def jaccard_at_k(true_shift: np.ndarray, predicted_shift: np.ndarray, k: int) -> float:
    """|T ∩ P| / |T ∪ P| of the k genes of largest |shift|; k is cut to G, of equal shifts the earlier gene is taken.

    Chance is about k / (2G − k). nan when a side is not finite, or zero in every gene: it then ranks nothing.
    """
    sides = np.abs(np.stack([true_shift, predicted_shift]))
    if not np.isfinite(sides).all() or not sides.any(axis=1).all():
        return np.nan
    k = min(k, sides.shape[1])
    top = np.argsort(-sides, axis=1, kind="stable")[:, :k]
    common = np.intersect1d(top[0], top[1]).size
    return common / (2 * k - common)


def mse(true_mean: np.ndarray, predicted_mean: np.ndarray) -> float:
    """Mean over genes of the squared difference of two mean profiles, G and G."""
    return float(np.square(np.asarray(predicted_mean, np.float64) - true_mean).mean())


def l2(true_mean: np.ndarray, predicted_mean: np.ndarray) -> float:
    """Euclidean distance of two mean profiles, G and G."""
    return float(np.linalg.norm(np.asarray(predicted_mean, np.float64) - true_mean))


def energy_distance(x: np.ndarray, y: np.ndarray) -> float:
    """2 E‖X − Y‖ − E‖X − X'‖ − E‖Y − Y'‖, Euclidean norm unsquared, U statistic: n × K, m × K → number.

    Unbiased, so it may be slightly negative where the two distributions agree. Of more than 200 cells on a side a
    fixed random 200 are taken. nan with fewer than 2 cells on a side.
    """
    x, y = _at_most(x, MAX_CELLS), _at_most(y, MAX_CELLS)
    n, m = len(x), len(y)
    if min(n, m) < 2:
        return np.nan
    # The diagonal of the within terms is zero: it leaves the sum, and n(n − 1) leaves it out of the count.
    within = cdist(x, x).sum() / (n * (n - 1)) + cdist(y, y).sum() / (m * (m - 1))
    return float(2 * cdist(x, y).mean() - within)


def _at_most(cells: np.ndarray, limit: int) -> np.ndarray:
    if len(cells) <= limit:
        return cells
    return cells[np.random.default_rng(0).choice(len(cells), limit, replace=False)]


def variance_ratio(predicted: Cells, true: Cells, detected: np.ndarray) -> float:
    """Median over genes of predicted / true variance between cells: n × G, m × G, G bool → number.

    Genes: those of `detected` that vary in the truth. 0 means that the predicted cells are all alike, 1 is best.
    nan with fewer than 2 cells on a side, or without such a gene.
    """
    if min(predicted.shape[0], true.shape[0]) < 2:
        return np.nan
    expected = variances(true)
    genes = np.asarray(detected, bool) & (expected > 0)
    return float(np.median(variances(predicted)[genes] / expected[genes])) if genes.any() else np.nan


def half_means(cells: Cells, n_splits: int = 20, seed: int | Sequence[int] = 0) -> tuple[np.ndarray, np.ndarray]:
    """Mean profiles of the two halves of `n_splits` random splits: n × G → S × G, S × G; n >= 2."""
    n, rng = cells.shape[0], np.random.default_rng(seed)
    order = np.stack([rng.permutation(n) for _ in range(n_splits)])
    first = (order < n // 2).astype(np.float64)
    return first @ cells / (n // 2), (1 - first) @ cells / (n - n // 2)


def halves_r(cells: tuple[np.ndarray, np.ndarray], controls: tuple[np.ndarray, np.ndarray]) -> float:
    """Mean over splits of the correlation of the two shift estimates; each argument as `half_means` returns it."""
    r = pearson(cells[0] - controls[0], cells[1] - controls[1])
    return float(np.nanmean(r)) if np.isfinite(r).any() else np.nan


def expected_exact(r: np.ndarray) -> np.ndarray:
    """Score that the exact mean would be expected to reach where two halves correlate by r: sqrt(2r / (1 + r)).

    2r / (1 + r) is the reliability of all cells (Spearman, Brown), its root the correlation with the noiseless shift.
    0 for r <= 0; nan stays nan.
    """
    positive = np.maximum(np.asarray(r, np.float64), 0)
    return np.sqrt(2 * positive / (1 + positive))[()]


def bootstrap_ci(
    values: np.ndarray, statistic: Callable = np.nanmedian, n: int = 1000, level: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Percentile interval of `statistic(samples, axis=-1)` over perturbations: P → (low, high).

    Undefined values are left out. nan, nan with fewer than 2 values: one perturbation has no interval.
    """
    values = np.asarray(values, np.float64)
    values = values[np.isfinite(values)]
    if len(values) < 2:
        return np.nan, np.nan
    return _interval(statistic(values[_resamples(len(values), n, seed)], axis=-1), level)


def paired_difference(
    x: np.ndarray, y: np.ndarray, n: int = 1000, level: float = 0.95, seed: int = 0
) -> tuple[float, float, float]:
    """median(x) − median(y) and its interval, the same perturbations drawn on both sides: P, P → (value, low, high)."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    drawn = _resamples(len(x), n, seed)
    low, high = _interval(np.median(x[drawn], axis=-1) - np.median(y[drawn], axis=-1), level)
    return float(np.median(x) - np.median(y)), low, high


def _resamples(size: int, n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(size, size=(n, size))


def _interval(statistics: np.ndarray, level: float) -> tuple[float, float]:
    low, high = np.quantile(statistics, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
