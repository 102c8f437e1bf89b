"""What the cells allow (reliability of halves) and how sure a score is (bootstrap): pure functions on arrays.

Shapes: n cells, G genes, S random splits, P perturbations. Cells may be sparse; nothing here densifies them.
Sources: Spearman 1910, Brown 1910 (reliability of halves); Efron & Tibshirani 1993 (percentile bootstrap).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from stormcell.evaluation.profiles import Cells, pearson


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
