"""Posterior predictive checks: do counts drawn from the model look like the counts that it was given?

A draw y^(d) is a count for every cell and gene from p(x | z), z ~ q(z | x). Per gene, over cells:
    mean, variance, share of zeros, coefficient of variation √variance / mean
observed, and predicted as their mean over the draws. Calibration asks where a count lies among its draws: b of them are
smaller and e equal. If count and draws are exchangeable, its place is uniform on [0, 1] when it is spread evenly over
    [b / (D + 1), (b + e + 1) / (D + 1)]
`place` is its middle, mean over cells: .5 for a right model, less where too much is predicted. `coverage` is the part
of it within the central 90 %, mean over cells: .9 for a right model, less where the draws are too much alike. Both hold
at any number of draws, however many counts are tied at zero, without a random number.

The draws are read once, one at a time; beside one of them two bytes are held per cell and gene, twice.

Shapes: N cells, G genes, D draws.
Sources: Gelman, Meng & Stern 1996 (predictive checks); Czado, Gneiting & Held 2009 (place of a count).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
from scipy.sparse import issparse
from scipy.stats import rankdata

from stormcell.evaluation.profiles import Cells, mean_profile, pearson, variances

LEVEL = 0.9
BLOCK = 256  # cells, or genes, that are worked on at a time: no second draw is held for copies in float64
STATISTICS = ("mean", "variance", "zero", "cv")


def criticism(
    counts: Cells, draws: Iterable[np.ndarray], genes: Sequence[str]
) -> tuple[pd.DataFrame, dict[str, float]]:
    """A row per gene and a summary: N × G counts, dense draws of the same shape.

    Columns gene, <statistic>_observed and <statistic>_predicted for mean, variance, zero (a share) and cv (nan in a
    gene without counts), place, coverage. Summary, for each statistic: `<statistic>_error`, the mean over genes of
    |predicted − observed| (of mean and variance as a share of the observed, over genes with counts), and
    `<statistic>_spearman` over genes; `place` and `coverage`, means over genes; `place_error`, the mean over genes of
    |place − .5|, and `coverage_error`, of |coverage − .9|; `draws`.
    Raises ValueError without a draw, with fewer than 2 cells, and for shapes that disagree or values below 0.
    """
    N, G = counts.shape
    if N < 2 or len(genes) != G:
        raise ValueError(f"counts {counts.shape}, {len(genes)} genes")
    below, equal = np.zeros((2, N, G), np.uint16)
    total, n_draws = dict.fromkeys(STATISTICS, 0.0), 0
    for draw in draws:
        draw = np.asarray(draw)
        if draw.shape != (N, G) or not (draw >= 0).all():
            raise ValueError(f"a draw {draw.shape} of counts {counts.shape}, or one with values that are no counts")
        _place(counts, draw, below, equal)
        for name, values in _statistics(draw).items():
            total[name] = total[name] + values
        n_draws += 1
    if not 0 < n_draws < np.iinfo(np.uint16).max:
        raise ValueError(f"{n_draws} draws")
    observed = _statistics(counts)
    table = pd.DataFrame({"gene": list(genes)})
    for name in STATISTICS:
        table[f"{name}_observed"], table[f"{name}_predicted"] = observed[name], total[name] / n_draws
    table["place"], table["coverage"] = _calibration(below, equal, n_draws)
    return table, {**_summary(table), "draws": float(n_draws)}


def _statistics(cells: Cells) -> dict[str, np.ndarray]:
    """N × G → G each."""
    blocks = [cells[:, start : start + BLOCK] for start in range(0, cells.shape[1], BLOCK)]
    mean = np.concatenate([mean_profile(block) for block in blocks])
    variance = np.concatenate([variances(block) for block in blocks])
    stored = cells.count_nonzero(axis=0) if issparse(cells) else np.count_nonzero(cells, axis=0)
    spread = np.divide(np.sqrt(variance), mean, out=np.full(len(mean), np.nan), where=mean > 0)
    return {"mean": mean, "variance": variance, "zero": 1 - stored / cells.shape[0], "cv": spread}


def _place(counts: Cells, draw: np.ndarray, below: np.ndarray, equal: np.ndarray) -> None:
    """Adds a draw to the numbers of draws that are smaller than, or equal to, each count: N × G in place."""
    for start in range(0, len(draw), BLOCK):
        rows = slice(start, start + BLOCK)
        block = counts[rows].toarray() if issparse(counts) else counts[rows]
        below[rows] += draw[rows] < block
        equal[rows] += draw[rows] == block


def _calibration(below: np.ndarray, equal: np.ndarray, n_draws: int) -> tuple[np.ndarray, np.ndarray]:
    """Middle of each count's place, and its part within the central interval, means over cells: N × G, N × G → G, G."""
    tail, middle, covered = (1 - LEVEL) / 2, np.zeros(below.shape[1]), np.zeros(below.shape[1])
    for start in range(0, len(below), BLOCK):
        low = below[start : start + BLOCK] / (n_draws + 1)
        high = low + (equal[start : start + BLOCK] + 1.0) / (n_draws + 1)
        inside = np.minimum(high, 1 - tail) - np.maximum(low, tail)
        covered += (np.maximum(inside, 0) / (high - low)).sum(0)
        middle += (low + high).sum(0) / 2
    return middle / len(below), covered / len(below)


def _summary(table: pd.DataFrame) -> dict[str, float]:
    found = {}
    for name in STATISTICS:
        observed, predicted = table[f"{name}_observed"].to_numpy(), table[f"{name}_predicted"].to_numpy()
        known = np.isfinite(observed) & np.isfinite(predicted)
        error = np.abs(predicted - observed)
        if name in ("mean", "variance"):
            known &= observed > 0
            error = np.divide(error, observed, out=np.full(len(error), np.nan), where=known)
        found[f"{name}_error"] = float(error[known].mean()) if known.any() else np.nan
        ranks = rankdata(observed[known]), rankdata(predicted[known])
        found[f"{name}_spearman"] = float(pearson(*ranks)) if known.any() else np.nan
    for name, right in (("place", 0.5), ("coverage", LEVEL)):
        found[name] = float(table[name].mean())
        found[f"{name}_error"] = float((table[name] - right).abs().mean())
    return found
