"""How much of a planted network the model and its rivals find.

Pooled scores may use the differences of means between clusters, which random pairs have too; centred ones are of
weights within transitions. Both are always told. The oracle is the model with its coupling known: every source cell is
paired with itself, one step later, which only a simulation can see.

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
from stormcell.judge_rivals import RANDOM, WITHIN, Fit, permuted_side

if TYPE_CHECKING:
    from stormcell.models.transition import Transition

ORACLE = "oracle pairs (each cell and itself, later)"
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
    pairs = [coupled(side) for side in train]
    scores = {name: (pooled_score(model, pairs), mask.dense(own.mean(0)), sign)}
    rng = np.random.default_rng([model.seed, 9])
    strangers = pooled_score(model, [coupled(permuted_side(side, rng)) for side in train])
    for other, pooled in ((RANDOM, strangers), (WITHIN, None)):
        scores[other] = (pooled, mask.dense(fits[other].score().mean(0)), None)
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
    if "later" in data.cells.truth:
        scores[ORACLE] = oracle_scores(model, data, train)
    return pd.DataFrame([_recovery(row, truth, allowed, *parts) for row, parts in scores.items()])


def coupled(side: Sides) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Source cells, the means of their partners, and what they weigh: n × G, n × G, n."""
    return side.x, side.coupling.barycentre(side.y), side.coupling.source * len(side.x)


def oracle_scores(model: Transition, data: ClusterMappingDataModule, train: list[Sides]) -> tuple:
    """Pooled and centred score of the model's own solver on the cells' true partners: G × G, G × G."""
    later, names = data.cells.truth["later"][list(data.spec.genes)], data.cells.obs.index
    true = [later.loc[names[side.rows[0]]].to_numpy() / data.scale for side in train]
    found = [moments(side.x, y, None, model.mask.regulators) for side, y in zip(train, true, strict=True)]
    shared, parts = model.solved(found)
    own = np.mean([one.values for one in parts], 0) + (0 if shared is None else shared.values)
    pairs = [(side.x, y, np.ones(len(y))) for side, y in zip(train, true, strict=True)]
    return pooled_score(model, pairs), model.mask.dense(own), None


def pooled_score(model: Transition, pairs: list[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> np.ndarray:
    """One ridge on the coupled cells of all transitions about their common mean: G × G."""
    x, y, weights = (np.concatenate(parts) for parts in zip(*pairs, strict=True))
    found = pair_moments(x, y, weights, model.mask.regulators)
    ridge = choose_ridge(found, model.mask, model.self_edge)[0] if model.ridge == "gcv" else float(model.ridge)
    return model.mask.dense(solve(found, model.mask, ridge, model.self_edge).values)


def _recovery(name: str, truth, allowed, pooled, centred, sign) -> dict:
    row = {"group": "planted network", "method": name, "n": int((truth[allowed] != 0).sum())}
    inside = recovery(centred, truth, allowed, sign=sign)
    row |= {"auprc_centred": inside["auprc"], "auprc_centred_ratio": inside["auprc_ratio"]}
    keys = ("early_precision_ratio", "signed_early_precision", "sign_accuracy", "balanced_sign_accuracy")
    row |= {key: inside[key] for key in keys}
    if not (allowed | np.eye(len(allowed), dtype=bool)).all():  # the mask leaves pairs out
        row["auprc_every_pair_ratio"] = recovery(centred, truth)["auprc_ratio"]
    if pooled is not None:
        every = recovery(pooled, truth, allowed, sign=sign)
        row |= {"auprc": every["auprc"], "auprc_ratio": every["auprc_ratio"]}
    return row
