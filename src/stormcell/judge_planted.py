"""How much of a planted network the model and its rivals find.

Pooled scores may use the differences of means between clusters, which random pairs have too; centred ones are of
weights within transitions. Both are always told.

Shapes: E edges, G genes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from stormcell.analysis.masked_ridge import choose_ridge, moments, pair_moments, solve
from stormcell.data.cluster_mapping import ClusterMappingDataModule, Sides
from stormcell.data.prior import planted_signs
from stormcell.evaluation import network_rivals
from stormcell.evaluation.network import recovery
from stormcell.judge_edges import marginal_correlation
from stormcell.judge_rivals import RANDOM, WITHIN, Fit

if TYPE_CHECKING:
    from stormcell.models.transition import Transition

N_TREES, TREE_CELLS, MOST_TREES = 100, 600, 3000  # of each target, on so many cells; edges up to which they are grown


def recovery_rows(
    name: str, model: Transition, data: ClusterMappingDataModule, train: list[Sides], fits: dict[str, Fit]
) -> pd.DataFrame:
    """How much of the planted network each method finds among the edges of the mask.

    Pooled: scores that may use the differences of means between clusters. Centred: within transitions, so that no
    method is given them. The model and the networks beside it are centred by construction; their pooled score is that
    of one fit to the cells of all transitions about their common mean.
    """
    truth, mask = planted_signs(data.cells.truth, data.spec.genes), model.mask
    allowed = mask.dense(np.ones(mask.n_edges)) > 0
    if not truth[allowed].any():
        return pd.DataFrame()
    found = [moments(side.x, side.y, side.coupling, mask.regulators) for side in train]
    sign = mask.dense(np.sign(marginal_correlation(found, model)))
    own = np.stack([model.weights(t) for t in range(data.spec.n_transitions)])
    scores = {name: (pooled_score(model, train), mask.dense(own.mean(0)), sign)}
    for other in (RANDOM, WITHIN):
        network = mask.dense(fits[other].score().mean(0))
        scores[other] = (None, network, None)
    cells = np.unique(np.concatenate([np.concatenate(side.rows) for side in train]))
    x, states = data.values[cells] / data.scale, data.cluster[cells]
    within_states = network_rivals.centred(x, states)
    for other, score in (("Pearson", network_rivals.pearson), ("Spearman", network_rivals.spearman)):
        scores[other] = (score(x, mask), score(within_states, mask), None)
    if mask.n_edges <= MOST_TREES:
        some = np.sort(np.random.default_rng(model.seed).permutation(len(x))[:TREE_CELLS])
        grown = [
            network_rivals.trees(v, mask, "grnboost2", N_TREES, model.seed) for v in (x[some], within_states[some])
        ]
        scores["trees (GRNBoost2)"] = (*grown, np.zeros(truth.shape))
    return pd.DataFrame([_recovery(row, truth, allowed, *parts) for row, parts in scores.items()])


def pooled_score(model: Transition, train: list[Sides]) -> np.ndarray:
    """One ridge on the coupled cells of all transitions about their common mean: G × G."""
    x = np.concatenate([side.x for side in train])
    y = np.concatenate([side.coupling.barycentre(side.y) for side in train])
    weights = np.concatenate([side.coupling.source * len(side.x) for side in train])
    found = pair_moments(x, y, weights, model.mask.regulators)
    ridge = choose_ridge(found, model.mask, model.self_edge)[0] if model.ridge == "gcv" else float(model.ridge)
    return model.mask.dense(solve(found, model.mask, ridge, model.self_edge).values)


def _recovery(name: str, truth, allowed, pooled, centred, sign) -> dict:
    row = {"group": "planted network", "method": name, "n": int((truth[allowed] != 0).sum())}
    inside = recovery(centred, truth, allowed, sign=sign)
    row |= {"auprc_centred": inside["auprc"], "auprc_centred_ratio": inside["auprc_ratio"]}
    keys = ("early_precision_ratio", "signed_early_precision", "sign_accuracy", "balanced_sign_accuracy")
    row |= {key: inside[key] for key in keys}
    if pooled is not None:
        every = recovery(pooled, truth, allowed, sign=sign)
        row |= {"auprc": every["auprc"], "auprc_ratio": every["auprc_ratio"]}
    return row
