"""Which regulators drive a transition, beside the two rankings that need no network.

    strength   Σ_j |w_ij|                             signed   Σ_j w_ij
    pagerank   p = (1 − d) / G + d (A p + dangling / G),  A_ij = |w_ij| / Σ_k |w_kj|,  d = .85
               a target hands its importance to its regulators in proportion to |w|: regulators of regulators are high
    targets    number of targets in the mask          (null: strength follows it)
    change     |mean change of the regulator itself|  (null: differential expression, no network)
Regulators are ranked by the absolute value, the first has rank 1, ties share their mean rank.

Shapes: T transitions, E edges, F regulators in the mask, G genes.
Source: Page et al. 1999 on the reversed network.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import sparse
from scipy.stats import rankdata

from stormcell.analysis.mask import Mask

NULLS = ("targets", "change")
ABSENT = "not in the network"


def regulator_ranking(mask: Mask, values: np.ndarray, change: np.ndarray) -> dict[str, np.ndarray]:
    """Weights T × E and mean changes of the genes T × G → score: T × F, in the order of mask.regulators.

    Raises ValueError for other shapes.
    """
    values, change = np.atleast_2d(np.nan_to_num(values)), np.atleast_2d(change)
    if values.shape[1] != mask.n_edges or change.shape != (len(values), mask.n_genes):
        raise ValueError(f"weights {values.shape} of {mask.n_edges} edges, changes {change.shape} of {mask.n_genes}")
    who, out_degree = mask.regulators, mask.out_degree
    return {
        "strength": _sums(mask, np.abs(values))[:, who],
        "signed": _sums(mask, values)[:, who],
        "pagerank": np.array([pagerank(mask, row)[who] for row in values]).reshape(len(values), len(who)),
        "targets": np.tile(out_degree[who].astype(float), (len(values), 1)),
        "change": np.abs(change[:, who]),
    }


def pagerank(mask: Mask, values: np.ndarray, damping: float = 0.85, tolerance: float = 1e-12) -> np.ndarray:
    """Share of importance of each gene, from its targets: E weights → G, sum 1. By power iteration."""
    n, weight = mask.n_genes, np.abs(np.nan_to_num(np.asarray(values, np.float64)))
    given = np.bincount(mask.target, weight, n)  # what all regulators of a target have together
    share = np.divide(weight, given[mask.target], out=np.zeros_like(weight), where=given[mask.target] > 0)
    flow = sparse.csr_matrix((share, (mask.regulator, mask.target)), (n, n))
    importance = np.full(n, 1 / n)
    while True:  # a contraction by the damping: a fixed number of steps to any tolerance
        unregulated = importance[given == 0].sum()
        new = (1 - damping) / n + damping * (flow @ importance + unregulated / n)
        if np.abs(new - importance).sum() < tolerance:
            return new / new.sum()
        importance = new


def places(
    names: Sequence[str], scores: dict[str, np.ndarray], looked_up: Sequence[str]
) -> dict[str, dict[str, float] | str]:
    """Names of the F regulators, scores F or T × F, names to look up → rank under each score (the median over the
    transitions), or "not in the network" in place of the ranks."""
    place = {name: number for number, name in enumerate(names)}
    ranks = {
        score: np.median(rankdata(-np.abs(np.atleast_2d(values)), axis=1), axis=0) for score, values in scores.items()
    }
    return {
        name: {score: float(rank[place[name]]) for score, rank in ranks.items()} if name in place else ABSENT
        for name in looked_up
    }


def _sums(mask: Mask, values: np.ndarray) -> np.ndarray:
    """Sum over the targets of each gene: T × E → T × G."""
    return np.array([np.bincount(mask.regulator, row, mask.n_genes) for row in values]).reshape(-1, mask.n_genes)
