"""A transition network and its rivals on held-out cells, as one NetworkJudgement.

Every rival is fitted on the same training cells, with the same ridge rule, and asked for the same thing: the barycentre
of the target cells that are coupled to each held-out source cell. The random pairs are the plan of the model with its
source cells permuted: as many partners per cell, and no relation between the two sides.

Shapes: T transitions, E edges, G genes, n cells of a side.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from stormcell.analysis.couplings import Coupling
from stormcell.analysis.mask import Mask
from stormcell.analysis.masked_ridge import Edges, choose_ridge, moments, pair_moments, solve
from stormcell.data.cluster_mapping import ClusterMappingDataModule, Sides
from stormcell.data.prior import planted_signs
from stormcell.evaluation import network_rivals
from stormcell.evaluation.intervals import bootstrap_ci
from stormcell.evaluation.network import r_squared, r_squared_summary, recovery
from stormcell.judge_edges import cofactor_table, edge_tables, marginal_correlation, regulator_table
from stormcell.judge_known import known_rows
from stormcell.judge_nonlinear import nonlinear
from stormcell.judge_perturbed import perturbation_table
from stormcell.network_verdict import network_verdict
from stormcell.report.network_judgement import NetworkJudgement
from stormcell.report.plane import plane

if TYPE_CHECKING:
    from stormcell.models.transition import Transition

NAME, RANDOM, SHUFFLED, SELF = "transition", "random pairs", "shuffled mask", "self edge alone"
WITHIN, EVERY, MEAN, SHIFT = (
    "within the source state",
    "all regulators",
    "mean of the target cluster",
    "source cell moved by the mean",
)
ROLES = {"model": NAME, "random": RANDOM, "shuffled": SHUFFLED, "self": SELF}
MOST_REGULATORS = 400  # of a target, in the row with all regulators
N_TREES, TREE_CELLS, MOST_TREES = 100, 600, 3000  # of each target, on so many cells; edges up to which they are grown
SAMPLED = 20_000  # points of the predicted against true figure


@dataclass(frozen=True)
class Fit:
    """A network of every transition, on the mask of the model or another one."""

    mask: Mask
    edges: list[Edges]

    def predict(self, x: np.ndarray, t: int) -> np.ndarray:
        """n × G source cells → n × G."""
        return self.edges[t].predict(x, self.mask)

    def score(self) -> np.ndarray:
        """T × E weights."""
        return np.array([one.values for one in self.edges])


def judge_networks(
    model: Transition, data: ClusterMappingDataModule, notes: list[str], embedding: str = "pca"
) -> NetworkJudgement:
    """Everything that is said of the network: scores beside the nulls, edges with their confidence, regulators."""
    T = data.spec.n_transitions
    train = [data.sides(t, "train") for t in range(T)]
    test = [data.sides(t, "test") for t in range(T)]
    fits, cofactors = rivals(model, train), cofactor_table(model, data, train)
    bent, told = nonlinear(model, train, cofactors)
    means = [model.mean_y[t].double().numpy() for t in range(T)]
    moved = [mean - model.mean_x[t].double().numpy() for t, mean in enumerate(means)]
    predictors = {
        NAME: model.predict,
        **{name: fit.predict for name, fit in fits.items()},
        **bent,
        MEAN: lambda x, t: np.broadcast_to(means[t], x.shape),
        SHIFT: lambda x, t: x + moved[t],
    }
    asked = model.mask.in_degree > 0
    each = pd.concat([scores(name, said, data, means, asked) for name, said in predictors.items()], ignore_index=True)
    board = summarised(each, model.seed)
    tables = edge_tables(model, data, train)
    tables["regulators"] = regulator_table(model, data, train)
    tables["transitions"] = transition_table(model, data, train, each)
    tables["perturbations"] = perturbation_table(model, data, tables["regulators"])
    tables["cofactors"] = cofactors
    tables["genes"], predicted = gene_tables(model, data, test)
    if "network" in data.cells.truth:
        board = pd.concat([board, recovery_rows(model, data, train, fits)], ignore_index=True)
    others = {name: fits[name].score() for name in (RANDOM, WITHIN)}
    board = pd.concat([board, known_rows(model, data, train, NAME, others, RANDOM)], ignore_index=True)
    baselines = [name for name in dict.fromkeys(board["method"]) if name != NAME]
    return NetworkJudgement(
        model=NAME,
        methods=(NAME,),
        baselines=tuple(baselines),
        verdict=tuple(network_verdict(each, board, tables, ROLES)),
        notes=(*notes, *told),
        undefined=(),
        scoreboard=board,
        tables={name: table for name, table in tables.items() if len(table)},
        points=points(data, embedding),
        predicted=predicted,
        adata=None,
    )


# ---- rivals


def rivals(model: Transition, train: list[Sides]) -> dict[str, Fit]:
    """Every null and rival that is a network, fitted on the training cells."""
    mask, rng = model.mask, np.random.default_rng([model.seed, 7])
    shuffled = mask.shuffled(rng)
    permuted = [permuted_side(side, rng) for side in train]
    every = Mask.full(mask.n_genes, mask.regulators)
    wanted = np.isin(every.target, np.flatnonzero(mask.in_degree))
    every = Mask.of(mask.n_genes, every.regulator[wanted], every.target[wanted])
    found = {
        RANDOM: fit_like(model, permuted, mask),
        SHUFFLED: fit_like(model, train, shuffled),
        SELF: fit_like(model, train, Mask.of(mask.n_genes, [], [])),
        WITHIN: within(model, train),
    }
    if len(mask.regulators) <= MOST_REGULATORS:
        found[EVERY] = fit_like(model, train, every)
    return found


def permuted_side(side: Sides, rng: np.random.Generator) -> Sides:
    """The plan with its source cells permuted."""
    plan = side.coupling.plan[rng.permutation(len(side.x))]
    return replace(side, coupling=Coupling.of(plan, RANDOM))


def fit_like(model: Transition, sides: list[Sides], mask: Mask) -> Fit:
    """The model's own solver on other couplings or another mask, λ chosen anew where the model chose it."""
    found = [moments(side.x, side.y, side.coupling, model.mask.regulators) for side in sides]
    shared, fitted = model.solved(found, mask, model.ridge_of(found, [side.coupling for side in sides], mask))
    return Fit(mask, fitted if shared is None else [shared + one for one in fitted])


def within(model: Transition, train: list[Sides]) -> Fit:
    """Genes on their regulators among the source cells; the mean of the target cluster is all that it knows of that."""
    edges = []
    for side in train:
        found = moments(side.x, side.x, None, model.mask.regulators)
        ridge = choose_ridge(found, model.mask, False)[0] if model.ridge == "gcv" else float(model.ridge)
        one = solve(found, model.mask, ridge, False)
        moved = side.coupling.target @ side.y - side.x.mean(0)
        edges.append(replace(one, intercept=one.intercept + moved))
    return Fit(model.mask, edges)


# ---- scores


def scores(
    name: str, predict: Callable, data: ClusterMappingDataModule, means: list, genes: np.ndarray
) -> pd.DataFrame:
    """One row per transition: R² of the barycentre over genes with a regulator, and of single coupled cells.

    In the unit of the expression, so that a gene weighs by how much it varies, and against the training mean of the
    target cluster, which scores 0.
    """
    rows, unit = [], data.scale[genes]
    for t in range(data.spec.n_transitions):
        side = data.sides(t, "test")
        true, said = (one[:, genes] * unit for one in (side.coupling.barycentre(side.y), predict(side.x, t)))
        r, mean = side.coupling.source, means[t][genes] * unit
        found = r_squared_summary(true, said, r, mean)
        y, s = side.y[:, genes] * unit, side.coupling.target
        spread = s @ np.square(y - mean)
        # E‖y − ŷ‖² = E‖y − ȳ(x)‖² + E‖ȳ(x) − ŷ‖²
        error = s @ np.square(y) - r @ np.square(true) + r @ np.square(true - said)
        rows.append(
            {
                "method": name,
                "transition": t,
                "r2_weighted": found["variance_weighted"],
                "r2_median_gene": found["median_gene"],
                "r2_share_above_0": found["share_above_0"],
                "r2_pairs_weighted": float(1 - error.sum() / spread.sum()) if spread.sum() > 0 else np.nan,
            }
        )
    return pd.DataFrame(rows)


def summarised(each: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Median over transitions, with a bootstrap interval over them."""
    rows = []
    for method, mine in each.groupby("method", sort=False):
        row = {"group": "held-out cells", "method": method, "n": len(mine)}
        for metric in [name for name in mine if name.startswith("r2_")]:
            low, high = bootstrap_ci(mine[metric].to_numpy(), np.median) if len(mine) > 1 else (np.nan, np.nan)
            middle = float(mine[metric].median()) if mine[metric].notna().any() else np.nan
            row |= {metric: middle, f"{metric}_low": low, f"{metric}_high": high}
        rows.append(row)
    return pd.DataFrame(rows)


# ---- a network that is known


def recovery_rows(
    model: Transition, data: ClusterMappingDataModule, train: list[Sides], fits: dict[str, Fit]
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
    scores = {NAME: (pooled_score(model, train), mask.dense(own.mean(0)), sign)}
    for name in (RANDOM, WITHIN):
        network = mask.dense(fits[name].score().mean(0))
        scores[name] = (None, network, None)
    cells = np.unique(np.concatenate([np.concatenate(side.rows) for side in train]))
    x, states = data.values[cells] / data.scale, data.cluster[cells]
    within_states = network_rivals.centred(x, states)
    for name, score in (("Pearson", network_rivals.pearson), ("Spearman", network_rivals.spearman)):
        scores[name] = (score(x, mask), score(within_states, mask), None)
    if mask.n_edges <= MOST_TREES:
        some = np.sort(np.random.default_rng(model.seed).permutation(len(x))[:TREE_CELLS])
        grown = [
            network_rivals.trees(v, mask, "grnboost2", N_TREES, model.seed) for v in (x[some], within_states[some])
        ]
        scores["trees (GRNBoost2)"] = (*grown, np.zeros(truth.shape))
    return pd.DataFrame([_recovery(name, truth, allowed, *parts) for name, parts in scores.items()])


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


# ---- tables


def transition_table(
    model: Transition, data: ClusterMappingDataModule, train: list[Sides], each: pd.DataFrame
) -> pd.DataFrame:
    """One row per transition: cells, coupling and its diagnostics, scores of the model."""
    own = each[each["method"] == NAME].set_index("transition")
    rows = []
    for t, ((source, target), side) in enumerate(zip(data.spec.transitions, train, strict=True)):
        row = {"source": source, "target": target, "n_source": len(side.x), "n_target": len(side.y)}
        row |= {"coupling": side.coupling.name, **side.coupling.diagnostics, "ridge": float(model.chosen_ridge)}
        rows.append(row | own.loc[t].drop("method").to_dict())
    return pd.DataFrame(rows)


def gene_tables(
    model: Transition, data: ClusterMappingDataModule, test: list[Sides]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Held-out R² of every gene with a regulator; and a sample of the points behind it, about the cluster's mean."""
    genes, names = np.flatnonzero(model.mask.in_degree > 0), np.array(data.spec.genes)
    rows, drawn, rng = [], [], np.random.default_rng([model.seed, 8])
    for t, side in enumerate(test):
        true, said = side.coupling.barycentre(side.y)[:, genes], model.predict(side.x, t)[:, genes]
        mean = model.mean_y[t].numpy()[genes]
        r2 = r_squared(true, said, side.coupling.source, mean)
        rows.append(
            pd.DataFrame({"transition": data.spec.names[t], "gene": names[genes], "r2": r2, "variance": true.var(0)})
        )
        n = min(true.size, SAMPLED // len(test))
        at = rng.choice(true.size, n, replace=False)
        drawn.append(
            pd.DataFrame(
                {
                    "transition": data.spec.names[t],
                    "gene": names[genes][at % len(genes)],
                    "true": (true - mean).ravel()[at],
                    "predicted": (said - mean).ravel()[at],
                }
            )
        )
    return pd.concat(rows, ignore_index=True), pd.concat(drawn, ignore_index=True)


def points(data: ClusterMappingDataModule, embedding: str) -> pd.DataFrame:
    """Every cell in two dimensions (pca or umap of the components it was coupled in), cluster, pseudotime and part."""
    places = plane(data.points, embedding, data.seed)[0]
    frame = pd.DataFrame(places[:, :2], index=data.cells.obs.index, columns=["x", "y"])
    frame["cluster"], frame["part"] = data.cluster, data.split.part
    if data.pseudotime is not None:
        frame["pseudotime"] = data.pseudotime
    return frame
