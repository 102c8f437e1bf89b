"""How near a predicted mean profile, or its shift, is to the measured one: pure functions on arrays.

shift = mean of perturbed cells − mean of control cells, log1p(counts / library · 1e4).
The shift of the truth should be taken against control cells that no method has seen: with shared controls both
shifts carry the same noise of the control mean, and correlate where nothing happened.

Shapes: n cells, P perturbations, G genes. Cells may be sparse; nothing here densifies them.
Every score is nan where it is not defined, as its docstring says.
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import issparse, spmatrix

Cells = np.ndarray | spmatrix

ROUNDING = 1e-6  # float32 means of the same cells differ by less
PSEUDOCOUNT = 0.1  # added to a mean before its logarithm, so that genes without expression have no fold change
MAX_CELLS = 200  # per side of a comparison of cells: its cost grows faster than their number, its error hardly falls


def mean_profile(cells: Cells) -> np.ndarray:
    """Mean over cells in float64: n × G → G. Raises ValueError without a cell."""
    if cells.shape[0] == 0:
        raise ValueError("the mean of no cells is asked for")
    return np.asarray(np.ones(cells.shape[0]) @ cells).ravel() / cells.shape[0]


def at_most(cells: Cells, limit: int = MAX_CELLS) -> Cells:
    """A fixed random `limit` of the rows, or all of them where there are no more: n × … → min(n, limit) × …"""
    if cells.shape[0] <= limit:
        return cells
    return cells[np.random.default_rng(0).choice(cells.shape[0], limit, replace=False)]


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


def dominating_genes(shifts: np.ndarray, share: float = 0.8) -> np.ndarray:
    """Smallest set of genes that holds `share` of the squared shift, averaged over perturbations: P × G → G bool.

    A correlation over all genes says little beside these few, so it is told without them too. Of equal genes the
    earlier is taken. No gene where nothing is shifted, or where a shift is not finite.
    """
    energy = np.square(np.asarray(shifts, np.float64)).sum(axis=0)
    order = np.argsort(-energy, kind="stable")
    held = np.cumsum(energy[order])
    chosen = np.zeros(len(energy), bool)
    if held.size and np.isfinite(held[-1]) and held[-1] > 0:
        chosen[order[: np.searchsorted(held, share * held[-1]) + 1]] = True
    return chosen


def cosine_logfc(
    true_mean: np.ndarray, predicted_mean: np.ndarray, true_control: np.ndarray, predicted_control: np.ndarray
) -> float:
    """Cosine over genes of log2(mean + 0.1) − log2(control + 0.1) of the truth and of the prediction: four times G.

    Each side has a control mean of its own, since the truth is taken against cells that no method has seen. A
    predicted mean below 0 counts as 0. nan when a side is zero in every gene or not finite.
    Source: Wu et al. 2024 (PerturBench), whose fold changes are these, of the mean of log1p-normalised values.
    """
    true, predicted = _log_fold_change(true_mean, true_control), _log_fold_change(predicted_mean, predicted_control)
    norms = np.linalg.norm(true) * np.linalg.norm(predicted)
    return float(true @ predicted / norms) if norms > 0 else np.nan


def _log_fold_change(mean: np.ndarray, control: np.ndarray) -> np.ndarray:
    log_mean, log_control = (np.log2(np.maximum(side, 0) + PSEUDOCOUNT) for side in (mean, control))
    return shift(log_mean, log_control)


def jaccard_at_k(true_shift: np.ndarray, predicted_shift: np.ndarray, k: int) -> float:
    """|T ∩ P| / |T ∪ P| of the k genes of largest |shift|; k is cut to G, of equal shifts the earlier gene is taken.

    Chance is about k / (2G − k). nan when a side is not finite, or zero in every gene: it then ranks nothing.
    """
    k = min(k, len(true_shift))
    common = _common_genes(true_shift, predicted_shift, k)
    return np.nan if common is None else common.size / (2 * k - common.size)


def jaccard_signed_at_k(true_shift: np.ndarray, predicted_shift: np.ndarray, k: int) -> float:
    """As `jaccard_at_k`, of pairs (gene, sign): a gene that is moved the other way is not common.

    Chance is about half of the unsigned one: k / (4G − k).
    """
    k = min(k, len(true_shift))
    genes = _common_genes(true_shift, predicted_shift, k)
    if genes is None:
        return np.nan
    common = np.sum(np.sign(np.asarray(true_shift)[genes]) == np.sign(np.asarray(predicted_shift)[genes]))
    return float(common / (2 * k - common))


def _common_genes(true_shift: np.ndarray, predicted_shift: np.ndarray, k: int) -> np.ndarray | None:
    """Genes among the k largest of both sides; None when a side ranks nothing."""
    sides = np.abs(np.stack([true_shift, predicted_shift]))
    if not np.isfinite(sides).all() or not sides.any(axis=1).all():
        return None
    top = np.argsort(-sides, axis=1, kind="stable")[:, :k]
    return np.intersect1d(top[0], top[1])


def mse(true_mean: np.ndarray, predicted_mean: np.ndarray) -> float:
    """Mean over genes of the squared difference of two mean profiles, G and G."""
    return float(np.square(np.asarray(predicted_mean, np.float64) - true_mean).mean())


def rmse(true_mean: np.ndarray, predicted_mean: np.ndarray) -> float:
    """Root of `mse`, in units of expression, G and G."""
    return float(np.sqrt(mse(true_mean, predicted_mean)))


def mae(true_mean: np.ndarray, predicted_mean: np.ndarray) -> float:
    """Mean over genes of the absolute difference of two mean profiles, G and G."""
    return float(np.abs(np.asarray(predicted_mean, np.float64) - true_mean).mean())


def l2(true_mean: np.ndarray, predicted_mean: np.ndarray) -> float:
    """Euclidean distance of two mean profiles, G and G."""
    return float(np.linalg.norm(np.asarray(predicted_mean, np.float64) - true_mean))


def l2_top(true_mean: np.ndarray, predicted_mean: np.ndarray, control_mean: np.ndarray, k: int = 1000) -> float:
    """Euclidean distance over the k genes of highest control mean: G, G, G → number; k is cut to G.

    Source: Ahlmann-Eltze, Huber & Anders 2025, where k = 1,000.
    """
    genes = np.argsort(-np.asarray(control_mean), kind="stable")[:k]
    return l2(np.asarray(true_mean)[genes], np.asarray(predicted_mean)[genes])


def effect_weights(
    cells: Cells, others_mean: np.ndarray, others_variance: np.ndarray, others_n: np.ndarray | float
) -> np.ndarray:
    """Squared Welch t of the true cells against the training perturbations, summing to 1: n × G, G, G, number → G.

    t = (mean − others' mean) / sqrt(variance / n + others' variance / others' n): the genes by which this perturbation
    differs from the others weigh, the rest does not. A gene that is constant on both sides weighs nothing.
    nan in every gene with fewer than 2 cells on a side, or where no gene differs.
    Source: Mejia et al. 2025 (arXiv 2506.22641).
    """
    if cells.shape[0] < 2 or np.min(others_n) < 2:
        return np.full(cells.shape[1], np.nan)
    error = variances(cells) / cells.shape[0] + np.asarray(others_variance, np.float64) / others_n
    squared = np.divide(np.square(mean_profile(cells) - others_mean), error, out=np.zeros(len(error)), where=error > 0)
    total = squared.sum()
    return squared / total if total > 0 else np.full(len(squared), np.nan)


def weighted_mse(true_mean: np.ndarray, predicted_mean: np.ndarray, weights: np.ndarray) -> float:
    """Σ w (true − predicted)², weights as `effect_weights` gives them: G, G, G → number. Source: Mejia et al. 2025."""
    return float(np.square(np.asarray(predicted_mean, np.float64) - true_mean) @ weights)


def weighted_r2(true_mean: np.ndarray, predicted_mean: np.ndarray, reference: np.ndarray, weights: np.ndarray) -> float:
    """1 − Σ w (true − predicted)² / Σ w (true − reference)²: four times G → number, at most 1.

    `reference` is the mean of the training perturbations: predicting it scores 0. nan where the truth is the reference.
    Source: Mejia et al. 2025.
    """
    spread = weighted_mse(true_mean, reference, weights)
    return 1 - weighted_mse(true_mean, predicted_mean, weights) / spread if spread > 0 else np.nan
