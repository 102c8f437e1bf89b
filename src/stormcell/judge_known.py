"""Agreement of a transition network with one that was not its mask: rows of the scoreboard's group "known network".

Compared are the edges of the mask whose regulator the known network has at all: of others it says nothing. An edge of
ours has one weight, the mean over the transitions, and two signs: the exported one and, as a row of its own, the
conditional one, of the weight. "random pairs" are given the exported sign too: without any coupling it is the sign of
how the means of the clusters change together, and only what ours has beyond it is owed to the coupling.
"always +" is what a network without any knowledge scores, since most known edges activate.

Shapes: T transitions, E edges, N cells, G genes.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from stormcell.analysis.mask import Mask
from stormcell.analysis.masked_ridge import Moments, moments
from stormcell.evaluation import network_rivals
from stormcell.evaluation.network import agreement
from stormcell.evaluation.network_metrics import KNOWN
from stormcell.judge_edges import marginal_correlation

if TYPE_CHECKING:
    from stormcell.data.cluster_mapping import ClusterMappingDataModule, Sides
    from stormcell.models.transition import Transition

CONDITIONAL, PEARSON, PLUS = "conditional sign of the weights", "Pearson", "always +"


def known_rows(
    model: Transition,
    data: ClusterMappingDataModule,
    train: list[Sides],
    name: str,
    others: dict[str, np.ndarray],
    random: str,
) -> pd.DataFrame:
    """One row per method; no rows without a known network, or where it shares no edge with the mask.

    `name` is the row of the model, `others` the T × E weights of networks on its mask by the row, and `random` which of
    them is of random pairs.
    """
    mask = model.mask
    if data.known is None:
        return pd.DataFrame()
    sign, present, asked = aligned(mask, data.known.mask)
    if not present.any():
        return pd.DataFrame()
    found = [moments(side.x, side.y, side.coupling, mask.regulators) for side in train]
    exported = marginal_correlation(found, model)
    weight = np.mean([model.weights(t) for t in range(data.spec.n_transitions)], 0)
    methods = {name: (exported, weight), CONDITIONAL: (weight, weight)}
    for row, weights in others.items():
        mean = weights.mean(0)
        methods[row] = (marginal_correlation(uncoupled(found), model), mean) if row == random else (mean, mean)
    correlation = pearson(data, train, mask)
    methods |= {PEARSON: (correlation, correlation), PLUS: (np.ones(mask.n_edges), np.zeros(mask.n_edges))}
    rows = []
    for row, (signs, weights) in methods.items():
        told = agreement(np.sign(signs)[asked], sign[asked], weights[asked], present[asked])
        rows.append(
            {
                "group": KNOWN,
                "method": row,
                "n": told["n_signed"],
                "balanced_sign_agreement": told["balanced_sign_accuracy"],
                "sign_agreement": told["sign_accuracy"],
                "rank_agreement": told["spearman"] if weights.any() else np.nan,
            }
        )
    return pd.DataFrame(rows)


def aligned(mask: Mask, known: Mask) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For every edge of the mask: its sign in the known network (0: none), whether that has it, and whether it has its
    regulator at all: E int8, E bool, E bool. Both networks are over the same genes."""
    if mask.n_genes != known.n_genes:
        raise ValueError(f"a mask over {mask.n_genes} genes and a known network over {known.n_genes}")
    ours, theirs = (one.target * one.n_genes + one.regulator for one in (mask, known))
    signs = pd.Series(known.sign, index=theirs).reindex(ours)
    return signs.fillna(0).to_numpy(np.int8), signs.notna().to_numpy(), np.isin(mask.regulator, known.regulators)


def uncoupled(found: list[Moments]) -> list[Moments]:
    """The moments of independent pairs: nothing but the means of the clusters joins x and y."""
    return [replace(one, xy=np.zeros_like(one.xy), gy=np.zeros_like(one.gy)) for one in found]


def pearson(data: ClusterMappingDataModule, train: list[Sides], mask: Mask) -> np.ndarray:
    """Correlations over the training cells of all clusters together: E."""
    cells = np.unique(np.concatenate([np.concatenate(side.rows) for side in train]))
    return network_rivals.pearson(data.values[cells], mask)[mask.regulator, mask.target]
