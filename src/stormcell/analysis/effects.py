"""Effects of perturbed targets on the log rate of every gene, in closed form.

For a condition p with K_pg counts of gene g over library sizes that sum to E_p, and the control rate λ_g,
    y_pg = log (K_pg + a) / (λ_g E_p + a)
is the log fold change shrunk to zero by a prior of a counts (the posterior mean of a Gamma(a, a) factor on a Poisson
rate, its logarithm). A combination is the sum of its targets: y ≈ H D with H the multi-hot of the conditions, and
    D = (Hᵀ W H + r I)⁻¹ Hᵀ W y,   W = cells per condition
is solved exactly.

Shapes: P conditions, C targets, G genes.
"""

from __future__ import annotations

import numpy as np

RIDGE = 1.0  # in cells: a target seen in hundreds of cells is not shrunk by it, one never seen alone is kept finite


def log_fold_changes(counts: np.ndarray, exposure: np.ndarray, rate: np.ndarray, prior: float) -> np.ndarray:
    """y: counts P × G, exposure P (summed library sizes), control rate G → P × G."""
    return np.log(counts + prior) - np.log(exposure[:, None] * rate + prior)


def target_effects(y: np.ndarray, multi_hot: np.ndarray, n_cells: np.ndarray, ridge: float = RIDGE) -> np.ndarray:
    """D: changes P × G, multi-hot P × C, cells per condition P → C × G."""
    weighted = multi_hot.T * n_cells
    return np.linalg.solve(weighted @ multi_hot + ridge * np.eye(multi_hot.shape[1]), weighted @ y)
