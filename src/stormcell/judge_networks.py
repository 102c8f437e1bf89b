"""A transition network and its rivals on held-out cells, as one NetworkJudgement.

Every rival is fitted on the same training cells, with the same ridge rule, and asked for the same thing: the barycentre
of the target cells that are coupled to each held-out source cell. The random pairs are the plan of the model with its
source cells permuted: as many partners per cell, and no relation between the two sides.

Shapes: T transitions, E edges, G genes, n cells of a side.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from stormcell.data.cluster_mapping import ClusterMappingDataModule, Sides
from stormcell.evaluation.intervals import bootstrap_ci
from stormcell.evaluation.network import r_squared, r_squared_summary
from stormcell.evaluation.network_verdict import network_verdict
from stormcell.judge_edges import cofactor_table, edge_tables, regulator_table
from stormcell.judge_known import known_rows
from stormcell.judge_nonlinear import nonlinear
from stormcell.judge_perturbed import perturbation_table
from stormcell.judge_planted import ORACLE, recovery_rows
from stormcell.judge_rivals import RANDOM, SELF, SHUFFLED, WITHIN, rivals
from stormcell.report.network_judgement import NetworkJudgement
from stormcell.report.plane import plane

if TYPE_CHECKING:
    from stormcell.models.transition import Transition

NAME, MEAN, SHIFT = "transition", "mean of the target cluster", "source cell moved by the mean"
ROLES = {"model": NAME, "random": RANDOM, "shuffled": SHUFFLED, "self": SELF, "oracle": ORACLE}
SAMPLED = 20_000  # points of the predicted against true figure


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
        board = pd.concat([board, recovery_rows(NAME, model, data, train, fits)], ignore_index=True)
    others = {name: fits[name].score() for name in (RANDOM, WITHIN)}
    board = pd.concat([board, known_rows(model, data, train, NAME, others, RANDOM)], ignore_index=True)
    baselines = [name for name in dict.fromkeys(board["method"]) if name not in (NAME, ORACLE)]
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
