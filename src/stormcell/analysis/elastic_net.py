"""Elastic net of coupled cells on the regulators that a mask allows: edges that are not needed are exactly 0.

For target j, with C and B of analysis/masked_ridge.py and j's own column last among its columns,

    ½ (var y_j − 2 wᵀ B_j + wᵀ C w) + ½ λ ‖w‖² + λ₁ Σ_{i ≠ own} |w_i|

With pairs in place of a plan this is scikit-learn's objective, λ₁ = alpha · l1_ratio and λ = alpha · (1 − l1_ratio);
λ₁ = 0 is the ridge of analysis/masked_ridge.py with the same λ. The self edge is a nuisance and never selected away.
Coordinate descent,  w_i ← soft(B_i − Σ_{k≠i} C_ik w_k, λ₁) / (C_ii + λ),  ends for a target when its conditions of
optimality (g_i = −λ₁ sign w_i, |g_i| ≤ λ₁ where w_i = 0) hold to 1e-7 of its largest |B_i|. The minimum is unique for
λ > 0.

Shapes: G genes, E edges, T targets of a block, K columns of its systems.
Source: Zou & Hastie 2005; Friedman, Hastie & Tibshirani 2010 (coordinate descent on covariances).
"""

from __future__ import annotations

import warnings

import numpy as np

from stormcell.analysis.mask import Mask
from stormcell.analysis.masked_ridge import Edges, Moments, intercept, place, systems
from stormcell.compiled import compiled

TOLERANCE, SWEEPS = 1e-7, 20_000


def elastic_net(
    found: Moments, mask: Mask, ridge: float, lasso: float, self_edge: bool = True, start: Edges | None = None
) -> Edges:
    """The network for λ = ridge and λ₁ = lasso; `start`, such as that of the next larger λ₁, saves sweeps only.

    Warns of targets whose conditions do not hold after all sweeps. Raises ValueError for a negative λ or λ₁.
    """
    if not (ridge >= 0 and lasso >= 0):
        raise ValueError(f"ridge {ridge}, lasso {lasso}")
    values, own, missed = np.zeros(mask.n_edges), np.zeros(mask.n_genes), 0
    for system in systems(found, mask, self_edge):
        R = system.edges.shape[1]
        weights, threshold = np.zeros(system.cross.shape), np.full(system.cross.shape[1], float(lasso))
        threshold[R:] = 0
        if start is not None:
            weights[:, :R] = start.values[system.edges]
            weights[:, R:] = start.own[system.targets, None]
        missed += _descend(system.gram, system.cross, float(ridge), threshold, weights, TOLERANCE, SWEEPS)
        place(system, weights, values, own)
    if missed:
        warnings.warn(f"elastic net: {missed} targets open after {SWEEPS} sweeps; a larger ridge helps", stacklevel=2)
    return Edges(values, own, intercept(found, mask, values, own))


@compiled
def _descend(gram, cross, ridge, threshold, weights, tolerance, sweeps):  # pragma: no cover
    """Solves each of the T systems in place of its weights; how many did not reach the tolerance."""
    T, K = cross.shape
    missed = 0
    for t in range(T):
        w, C = weights[t], gram[t]
        gradient = np.empty(K)  # of the smooth part: (C + λ I) w − B
        scale = 0.0
        for i in range(K):
            total = ridge * w[i] - cross[t, i]
            for k in range(K):
                total += C[i, k] * w[k]
            gradient[i] = total
            scale = max(scale, abs(cross[t, i]))
        for sweep in range(sweeps + 1):
            worst = 0.0
            for i in range(K):
                if w[i] != 0:
                    violation = abs(gradient[i] + np.sign(w[i]) * threshold[i])
                else:
                    violation = abs(gradient[i]) - threshold[i]
                worst = max(worst, violation)
            if worst <= tolerance * scale:
                break
            if sweep == sweeps:
                missed += 1
                break
            for i in range(K):
                curvature = C[i, i] + ridge
                if curvature <= 0:  # a constant regulator has no say
                    continue
                pull = curvature * w[i] - gradient[i]
                moved = np.sign(pull) * max(abs(pull) - threshold[i], 0.0) / curvature - w[i]
                if moved != 0:
                    w[i] += moved
                    for k in range(K):
                        gradient[k] += C[i, k] * moved
                    gradient[i] += ridge * moved
    return missed
