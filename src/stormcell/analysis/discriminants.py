"""Linear discriminants: the directions along which the means of conditions differ most for their spread within.

    S_w a = λ S_b a,  S_w shrunk to a multiple of the identity by each condition's own amount

Shapes: N cells, K dimensions, C conditions.
Sources: Fisher 1936; Ledoit & Wolf 2004 (the amount).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Discriminants:
    """Fitted on training cells. `across`: K × at most C − 1; `along`: K × the rest, orthonormal and orthogonal to every
    difference of condition means, so that a projection on it has the same mean in every condition."""

    across: np.ndarray
    along: np.ndarray


def discriminants(points: np.ndarray, condition: np.ndarray) -> Discriminants:
    """N × K, N → the two sets of directions. Conditions with one cell are left out; two must be left."""
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    names, counts = np.unique(condition, return_counts=True)
    names = names[counts >= 2]
    if len(names) < 2:
        raise ValueError(f"discriminants need two conditions with two cells each, found {len(names)}")
    rows = np.isin(condition, names)
    points, condition = points[rows].astype(np.float64), condition[rows]
    model = LinearDiscriminantAnalysis(solver="eigen", shrinkage="auto").fit(points, condition)
    means = np.stack([points[condition == name].mean(0) for name in names])
    _, sizes, directions = np.linalg.svd(means - means.mean(0))
    rank = int((sizes > 1e-9 * max(sizes[0], 1)).sum())
    return Discriminants(model.scalings_[:, : len(names) - 1], directions[rank:].T)
