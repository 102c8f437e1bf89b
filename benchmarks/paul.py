"""Paul's myeloid progenitors, 11 transitions along both branches, DoRothEA as the mask: what is held-out R² worth,
where do the regulators of the textbook stand, and how much of the network hangs on ε, the split, the smoothing?

    STORMCELL_DATA=folder/of/the/files python benchmarks/paul.py

R²       of the barycentre of held-out cells, genes weighted by variance, median of the transitions, then of 3 splits of
         the cells. "out of sample": of log1p expression about the mean of the training cells of the target cluster, so
         that predicting this mean scores 0. "scoreboard": as a run prints it, of scaled genes about the test mean.
places   of the regulators, median over the transitions of a branch, first split; "all": of every transcription factor
         among the 2,000 variable genes on every gene (prior=all with the list of regulators)
edges    rank correlation and Jaccard index of the 100 strongest, mean over transitions, against ε = .05 and split 1
nulls    share of the edges of FDR ≤ .05 if the null permutes source cells, which smoothed cells are too alike for; if
         it turns the source cluster in the space of the coupling, its shape kept; if the mask is shuffled
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial

import numpy as np
import pandas as pd

from stormcell.analysis.couplings import Sinkhorn
from stormcell.analysis.edge_bootstrap import false_discovery
from stormcell.analysis.mask import Mask
from stormcell.analysis.masked_ridge import Moments, moments, solve
from stormcell.config import DataConfig
from stormcell.data.cluster_mapping import ClusterMappingDataModule, Sides
from stormcell.data.prior import AllPrior, FilePrior, Prior
from stormcell.data.split_clusters import held_out_in_clusters
from stormcell.evaluation.network import r_squared_summary, stability
from stormcell.evaluation.regulator_ranking import places, regulator_ranking
from stormcell.judge_rivals import EVERY, RANDOM, SELF, SHUFFLED, Fit, permuted_side, rivals
from stormcell.models.transition import Transition

SPLITS, EPSILONS, ROUNDS = (1, 2, 3), (0.01, 0.05, 0.2), 10
ERYTHROID, MYELOID = "7MEP>6Ery>5Ery>4Ery>3Ery>2Ery>1Ery", ("9GMP>10GMP>14Mo>15Mo", "10GMP>16Neu>17Neu")
TEXTBOOK = {"erythroid": ("Gata1", "Klf1"), "granulocyte-monocyte": ("Cebpa", "Cebpe", "Sfpi1")}
DOROTHEA = FilePrior("net_dorothea_ABC_mouse.csv.gz", aliases={"Spi1": "Sfpi1"})
DATA = DataConfig(
    name="paul15", path="paul2015_myeloid.h5ad", perturbation_key=None, cluster_key="cluster",
    pseudotime_key="monocle_pseudotime", library_key="total_counts", transitions=[ERYTHROID, *MYELOID],
)  # fmt: skip


def cells(split: int, prior: Prior = DOROTHEA, epsilon: float = 0.05) -> ClusterMappingDataModule:
    data = ClusterMappingDataModule(DATA, partial(held_out_in_clusters), split, coupling=Sinkhorn(epsilon), prior=prior)
    data.setup()
    return data


def fitted(data: ClusterMappingDataModule, **keys) -> tuple[Transition, list[Sides]]:
    """The model with its defaults but for these keys, and the training cells."""
    model = Transition(data.spec, optimizer=None, seed=data.seed, **keys)
    model.initialise(data)
    return model, [data.sides(t, "train") for t in range(data.spec.n_transitions)]


def weights(model: Transition) -> np.ndarray:
    """T × E"""
    return np.stack([model.weights(t) for t in range(model.spec.n_transitions)])


def peers(train: list[Sides], mask: Mask) -> Fit:
    """A Sinkhorn ridge of every transition by itself, λ = 10 in sums over cells."""
    found = [moments(side.x, side.y, side.coupling, mask.regulators) for side in train]
    return Fit(mask, [solve(one, mask, 10 / len(side.x)) for one, side in zip(found, train, strict=True)])


# ---- held-out R²


def held_out(split: int) -> Iterator[dict]:
    """One row per method."""
    data = cells(split)
    model, train = fitted(data)
    fits = rivals(model, train)
    alone = fitted(data, pooling="independent")[0]
    methods = {"transition (default)": model.predict, "independent": alone.predict}
    for deviation in (0.1, 1.0, 3.0):
        methods[f"λ_D = {deviation:g}"] = fitted(data, ridge_deviation=deviation)[0].predict
    methods["Sinkhorn ridge, λ = 10 / n"] = peers(train, model.mask).predict
    methods |= {name: fits[name].predict for name in (EVERY, RANDOM, SHUFFLED, SELF)}
    methods["mean of the target cluster"] = lambda x, t: np.tile(train[t].coupling.target @ train[t].y, (len(x), 1))
    genes, scale = model.mask.in_degree > 0, np.array(data.spec.gene_sd)
    for name, predict in methods.items():
        rows = []
        for t, side in enumerate(train):
            test = data.sides(t, "test")
            mean = (side.coupling.target @ side.y)[genes]
            true, said = test.coupling.barycentre(test.y)[:, genes], np.asarray(predict(test.x, t))[:, genes]
            error, spread = (test.coupling.source @ np.square((true - v) * scale[genes]) for v in (said, mean))
            scaled = r_squared_summary(true, said, test.coupling.source)
            rows.append((1 - error.sum() / spread.sum(), scaled["variance_weighted"], scaled["median_gene"]))
        found = dict(zip(("out of sample", "scoreboard", "median gene"), np.nanmedian(rows, 0), strict=True))
        yield {"split": split, "method": name, "λ": float(model.chosen_ridge), **found}


# ---- regulators


def ranking(prior: Prior) -> pd.DataFrame:
    """Places of the textbook's regulators: one row for each, one column per score."""
    data = cells(1, prior)
    model, train = fitted(data)
    change = np.stack([side.coupling.target @ side.y - side.coupling.source @ side.x for side in train])
    scores = regulator_ranking(model.mask, weights(model), change)
    names = np.array(data.spec.genes)[model.mask.regulators]
    erythroid = np.array([target.endswith("Ery") for _, target in data.spec.transitions])
    rows = []
    for branch, mine in (("erythroid", erythroid), ("granulocyte-monocyte", ~erythroid)):
        asked = {key: scores[key][mine] for key in ("strength", "pagerank", "targets", "change")}
        for name, found in places(names, asked, TEXTBOOK[branch]).items():
            told = {**found, "of": len(names)} if isinstance(found, dict) else {"of": found}
            rows.append({"branch": branch, "regulator": name, **told})
    return pd.DataFrame(rows)


# ---- what the edges hang on


def edges(data: ClusterMappingDataModule) -> pd.DataFrame:
    """T rows, a column for each edge by name."""
    model, _ = fitted(data)
    names = np.array(data.spec.genes)
    pairs = zip(names[model.mask.regulator], names[model.mask.target], strict=True)
    return pd.DataFrame(weights(model), columns=pd.MultiIndex.from_tuples(pairs))


def alike(a: pd.DataFrame, b: pd.DataFrame) -> dict[str, float]:
    """Mean over the transitions, on the edges of both."""
    both = a.columns.intersection(b.columns)
    found = [stability([a[both].to_numpy()[t], b[both].to_numpy()[t]]) for t in range(len(a))]
    return pd.DataFrame(found).mean().to_dict()


def compared() -> Iterator[dict]:
    base = edges(cells(1))
    for epsilon in EPSILONS:
        if epsilon != 0.05:
            yield {"against": f"ε = {epsilon:g}", **alike(base, edges(cells(1, epsilon=epsilon)))}
    for split in SPLITS[1:]:
        yield {"against": f"split {split}", **alike(base, edges(cells(split)))}


# ---- nulls of the false-discovery rate


def turned(data: ClusterMappingDataModule, t: int, side: Sides, rng: np.random.Generator) -> Moments:
    """Source cells coupled where a random rotation puts them: covariance and neighbours kept, meaning lost."""
    points, target = (data.points[rows] for rows in side.rows)
    left, size, axes = np.linalg.svd(points - points.mean(0), full_matrices=False)
    rotation = np.linalg.qr(rng.normal(size=(len(size), len(size))))[0]
    placed = (left @ rotation * size) @ axes + points.mean(0)
    return moments(side.x, side.y, data.rule(placed, target), data.spec.mask.regulators)


def nulls() -> Iterator[dict]:
    data = cells(1)
    model, train = fitted(data)
    ours, rng, mask = weights(model), np.random.default_rng(0), model.mask

    def fit(found: list[Moments], on: Mask) -> np.ndarray:
        shared, parts = model.solved(found, on)
        return np.stack([(shared + part).values for part in parts])

    def plain(sides: list[Sides]) -> list[Moments]:
        return [moments(side.x, side.y, side.coupling, mask.regulators) for side in sides]

    rounds = {
        "source cells permuted": lambda: fit(plain([permuted_side(side, rng) for side in train]), mask),
        "source cluster turned": lambda: fit([turned(data, t, side, rng) for t, side in enumerate(train)], mask),
        "shuffled mask": lambda: fit(plain(train), mask.shuffled(rng)),
    }
    for name, draw in rounds.items():
        null = np.stack([draw() for _ in range(ROUNDS)])
        rate = np.stack([false_discovery(ours[t], null[:, t]) for t in range(len(ours))])
        size = np.sqrt(np.square(null).mean() / np.square(ours).mean())
        yield {"null": name, "size of its weights": size, "FDR ≤ .05": (rate <= 0.05).mean()}


def main() -> None:
    started = time.process_time()

    def show(title: str, table: pd.DataFrame) -> None:
        text = table.to_string(index=False, float_format="%.3f", na_rep="-")
        print(f"\n{title} ({time.process_time() - started:.0f} CPU s)\n{text}", flush=True)

    scores = pd.DataFrame([row for split in SPLITS for row in held_out(split)])
    median = scores.groupby("method", sort=False).median(numeric_only=True).drop(columns="split")
    show("Held-out R², median of 3 splits", median.reset_index())
    each = scores.pivot(index="method", columns="split", values="out of sample").loc[median.index]
    show("out of sample, each split", each.reset_index())
    show("Edges against ε = .05, split 1", pd.DataFrame(compared()))
    show("Edges called, by null", pd.DataFrame(nulls()))
    show("Places, DoRothEA", ranking(DOROTHEA))
    show("Places, all", ranking(AllPrior("tf_mouse.txt")))


if __name__ == "__main__":
    main()
