"""How near predicted cells are to the measured ones as distributions: pure functions on arrays.

Distances are taken between at most 200 cells a side, on principal components of the training cells.

Shapes: n, m cells, G genes, K coordinates. Cells may be sparse; nothing here densifies more than one query.
Sources: Székely & Rizzo 2013 (energy distance); Gretton et al. 2012 (MMD); Bonneel et al. 2015 (sliced Wasserstein);
Peyré & Cuturi 2019 (Wasserstein).
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import issparse
from scipy.spatial.distance import cdist, pdist

from stormcell.evaluation.profiles import Cells, at_most, variances

BANDWIDTHS = 0.5, 1.0, 2.0  # of the kernels of an MMD, in median distances of the true cells
N_DIRECTIONS = 100  # of a sliced distance: its error is then about a tenth of the spread over directions


def energy_distance(x: np.ndarray, y: np.ndarray) -> float:
    """2 E‖X − Y‖ − E‖X − X'‖ − E‖Y − Y'‖, Euclidean norm unsquared, U statistic: n × K, m × K → number.

    Unbiased, so it may be slightly negative where the two distributions agree. Of more than 200 cells on a side a
    fixed random 200 are taken. nan with fewer than 2 cells on a side.
    """
    x, y = at_most(x), at_most(y)
    n, m = len(x), len(y)
    if min(n, m) < 2:
        return np.nan
    # The diagonal of the within terms is zero: it leaves the sum, and n(n − 1) leaves it out of the count.
    within = cdist(x, x).sum() / (n * (n - 1)) + cdist(y, y).sum() / (m * (m - 1))
    return float(2 * cdist(x, y).mean() - within)


def mmd(x: np.ndarray, y: np.ndarray, median: float | None = None) -> float:
    """E k(X, X') + E k(Y, Y') − 2 E k(X, Y), squared MMD, U statistic: predicted n × K, true m × K → number.

    k(a, b) = mean over σ of exp(−‖a − b‖² / 2σ²), σ = `median` × (½, 1, 2); `median` is the median distance between
    true cells, taken from `y` where none is given. Unbiased, so slightly negative where the distributions agree.
    Of more than 200 cells on a side a fixed random 200 are taken. nan with fewer than 2 cells on a side, and where the
    median is 0 or not finite.
    """
    x, y = at_most(x), at_most(y)
    n, m = len(x), len(y)
    if min(n, m) < 2:
        return np.nan
    median = float(np.median(pdist(y))) if median is None else median
    if not (np.isfinite(median) and median > 0):
        return np.nan

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        squared = cdist(a, b, "sqeuclidean")
        return sum(np.exp(squared / (-2 * (median * width) ** 2)) for width in BANDWIDTHS) / len(BANDWIDTHS)

    # A cell with itself has the kernel 1: n of them leave the sum.
    within = (kernel(x, x).sum() - n) / (n * (n - 1)) + (kernel(y, y).sum() - m) / (m * (m - 1))
    return float(within - 2 * kernel(x, y).mean())


def wasserstein(x: np.ndarray, y: np.ndarray) -> float:
    """2-Wasserstein distance, min over couplings of sqrt(E‖X − Y‖²), solved exactly: n × K, m × K → number.

    Of a sample, so not 0 where the distributions agree: compare it with that of two halves of the true cells.
    Of more than 200 cells on a side a fixed random 200 are taken. nan with fewer than 2 cells on a side, and where a
    value is not finite.
    """
    # Its import brings deep-learning back ends: training, which asks for the energy distance alone, goes without.
    from ot import emd2

    x, y = at_most(x), at_most(y)
    if not _comparable(x, y):
        return np.nan
    cost = emd2([], [], cdist(x, y, "sqeuclidean"))  # no weights given: the same for every cell
    return float(np.sqrt(max(cost, 0)))


def sliced_wasserstein(x: np.ndarray, y: np.ndarray) -> float:
    """Root mean square of the 2-Wasserstein distances along 100 fixed random directions: n × K, m × K → number.

    In one dimension the coupling is that of equal quantiles, so it is exact for any n and m. A cloud shifted by δ is
    about ‖δ‖ / sqrt(K) away. Limits on cells, and nan, as in `wasserstein`.
    """
    x, y = at_most(x), at_most(y)
    if not _comparable(x, y):
        return np.nan
    directions = np.random.default_rng(0).normal(size=(np.shape(x)[1], N_DIRECTIONS))
    directions /= np.linalg.norm(directions, axis=0)
    n, m = len(x), len(y)
    # Both quantile functions are steps; between two neighbouring edges of either, both are constant.
    edges = np.union1d(np.arange(n + 1) / n, np.arange(m + 1) / m)
    middle, width = (edges[1:] + edges[:-1]) / 2, np.diff(edges)
    quantiles_x = np.sort(x @ directions, axis=0)[(middle * n).astype(int)]
    quantiles_y = np.sort(y @ directions, axis=0)[(middle * m).astype(int)]
    return float(np.sqrt((width @ np.square(quantiles_x - quantiles_y)).mean()))


def _comparable(x: np.ndarray, y: np.ndarray) -> bool:
    return min(len(x), len(y)) >= 2 and bool(np.isfinite(x).all() and np.isfinite(y).all())


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


def coverage(predicted: Cells, true: Cells, detected: np.ndarray, level: float) -> float:
    """Share of true values within the central `level` interval of the predicted cells: n × G, m × G, G bool → number.

    Interval per gene: the quantiles (1 ± level) / 2 of the predicted cells, ends included; counted over pairs of a true
    cell and a gene of `detected`. Below `level` the cells are too much alike. The zeros that many cells share are an
    end of the interval and count as covered, so that right cells cover `level` or more.
    nan with fewer than 2 predicted cells, without a true cell or a gene, and where a predicted value is not finite.
    """
    genes = np.flatnonzero(detected)
    if predicted.shape[0] < 2 or true.shape[0] == 0 or not genes.size:
        return np.nan
    predicted, true = (cells[:, genes].toarray() if issparse(cells) else cells[:, genes] for cells in (predicted, true))
    if not np.isfinite(predicted).all():
        return np.nan
    low, high = np.quantile(predicted, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return float(((low <= true) & (true <= high)).mean())
