"""Does a method say the same for every perturbation? And how much alike are the perturbations themselves?

    spread = Σ_g var_q(predicted shift) / (Σ_g var_q(true shift) − mean_q Σ_g var(cells of q) / n_q)

over the queries q of a group: what the number of cells adds to the variance of the true shifts is no effect.

Shapes: Q queries, G genes.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from stormcell.analysis.pseudobulk import Pseudobulk
from stormcell.evaluation.profiles import pearson

ALIKE, NARROW = 0.9, 0.1  # a method collapses above this cosine of its shifts, or below this spread
ENOUGH = 3  # queries with an answer, for any word on collapse


def collapse(
    groups: list[str],
    predicted: np.ndarray,
    true: np.ndarray,
    noise: np.ndarray,
    n_de: np.ndarray,
    mean_shift: np.ndarray | None,
) -> pd.DataFrame:
    """One method, a row per group: group, collapsed, spread, n_de_spearman.

    groups: Q names; predicted: shifts, Q × G, NaN without an answer; true: shifts, Q × G; noise: Q, summed variance of
    the true means; n_de: Q × 2, numbers of true and of predicted DE genes; mean_shift: G, of the training cells.
    collapsed: the shifts beyond the mean training shift have a mean pairwise cosine above 0.9, or the spread is below
    0.1; never with fewer than 3 answers. n_de_spearman: Spearman correlation of the two numbers over queries.
    """
    rows, answered = [], np.isfinite(predicted).all(1)
    for group in dict.fromkeys(groups):
        inside = np.array(groups) == group
        mine, width, alike = inside & answered, np.nan, np.nan
        if mine.sum() >= ENOUGH:
            width = spread(predicted[mine], true[mine], noise[mine])
            alike = pairwise_cosine(predicted[mine] - (0 if mean_shift is None else mean_shift))
        rows.append((group, bool(alike > ALIKE or width < NARROW), width, _spearman(n_de[inside])))
    return pd.DataFrame(rows, columns=["group", "collapsed", "spread", "n_de_spearman"])


def spread(predicted: np.ndarray, true: np.ndarray, noise: np.ndarray) -> float:
    """Variance of predictions across queries / that of the truth: Q × G, Q × G, Q → number.

    nan where the truth varies no more than the noise of its means.
    """
    across = true.var(axis=0, ddof=1).sum() - noise.mean()
    return float(predicted.var(axis=0, ddof=1, dtype=np.float64).sum() / across) if across > 0 else np.nan


def pairwise_cosine(shifts: np.ndarray) -> float:
    """Mean cosine of every two rows: Q × G → number; rows of zeros are left out, nan with fewer than two others.

    Over unit rows u it is (‖Σ u‖² − Q) / (Q (Q − 1)).
    """
    norms = np.linalg.norm(shifts, axis=1)
    units = shifts[norms > 0] / norms[norms > 0, None]
    n = len(units)
    return float((np.square(units.sum(0)).sum() - n) / (n * (n - 1))) if n > 1 else np.nan


def systematic_variation(train: Pseudobulk) -> float:
    """Mean cosine of every training shift with the mean shift, a property of the data; nan without a shift.

    Near 1 all perturbations do the same: the training mean is then hard to beat, and a high shift correlation says
    nothing about a perturbation of its own. Source: Viñas Torné et al. 2025.
    """
    if train.mean_shift is None:
        return np.nan
    shifts = np.array(list(train.by_condition.values()))
    norms = np.linalg.norm(shifts, axis=1) * np.linalg.norm(train.mean_shift)
    return float(np.mean((shifts @ train.mean_shift)[norms > 0] / norms[norms > 0])) if (norms > 0).any() else np.nan


def _spearman(pairs: np.ndarray) -> float:
    known = pairs[np.isfinite(pairs).all(1)]
    return float(pearson(*(rankdata(side) for side in known.T))) if len(known) >= ENOUGH else np.nan
