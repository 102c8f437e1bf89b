"""A judged transition network with planted edges, for the tests of the report."""

from __future__ import annotations

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy.sparse import csr_matrix

from stormcell.report.network_judgement import NetworkJudgement

MODEL, CEILING = "transition", "oracle pairs"
BASELINES = ("random pairs", "shuffled mask", "self edge alone", "within the source state", "Pearson", "GENIE3 trees")
METRICS = {  # group -> metric -> value of the model, the six baselines and the ceiling
    "held-out cells": {
        "r2_weighted": (0.41, -0.01, 0.13, 0.23, 0.05, np.nan, np.nan, np.nan),
        "r2_median_gene": (0.11, 0.0, 0.03, 0.04, 0.01, np.nan, np.nan, np.nan),
        "r2_share_above_0": (0.74, 0.4, 0.6, 0.62, 0.55, np.nan, np.nan, np.nan),
        "r2_pairs_weighted": (0.12, -0.01, 0.04, 0.1, -4.7, np.nan, np.nan, np.nan),
    },
    "planted network": {
        "auprc": (0.62, 0.24, 0.3, np.nan, 0.4, 0.31, 0.38, 0.68),
        "auprc_ratio": (2.6, 1.0, 1.3, np.nan, 1.7, 1.3, 1.6, 2.9),
        "auprc_centred": (0.58, 0.23, 0.29, np.nan, 0.35, 0.28, 0.3, 0.64),
        "auprc_centred_ratio": (2.45, 0.98, 1.2, np.nan, 1.5, 1.2, 1.3, 2.7),
        "balanced_sign_accuracy": (0.83, 0.5, 0.55, np.nan, 0.7, 0.86, np.nan, 0.9),
        "sign_accuracy": (0.83, 0.5, 0.55, np.nan, 0.7, 0.86, np.nan, 0.9),
    },
    "known network": {
        "sign_agreement": (0.69, 0.56, 0.57, np.nan, np.nan, 0.71, np.nan, np.nan),
        "balanced_sign_agreement": (0.61, 0.5, 0.49, np.nan, np.nan, 0.6, np.nan, np.nan),
    },
}


def network_judgement(
    n_transitions: int = 3, n_regulators: int = 12, n_genes: int = 60, n_edges: int = 150, n_cells: int = 400,
    bare: bool = False, seed: int = 0,
) -> NetworkJudgement:  # fmt: skip
    """Clusters along a line that forks; about one edge in six is far from 0 and confident.

    `bare`: only what must be there: weights without confidence, no further table, no AnnData.
    """
    rng = np.random.default_rng(seed)
    genes = np.array([f"Gene{i}" for i in range(n_genes)])
    genes[:3] = "Gata1", "Klf1", "Sfpi1"
    names = [str(i) + word for i, word in enumerate(("MEP", "Ery", "GMP", "Neu", "Mono", "DC", "Baso", "Eos") * 2)]
    pairs = [(names[max(0, t - 1) if t % 3 else 0], names[t + 1]) for t in range(n_transitions)]
    words = [f"{a}>{b}" for a, b in pairs]
    edges = planted_edges(rng, words, genes, n_regulators, n_edges)
    if bare:
        edges = edges[["transition", "regulator", "target", "weight"]]
    clusters = rng.choice(names[: n_transitions + 2], n_cells)
    place = np.array([(int(name[0]), (-1) ** int(name[0]) * int(name[0]) / 2) for name in clusters])
    points = pd.DataFrame(place + rng.normal(0, 0.3, place.shape), columns=["x", "y"])
    points.index = [f"cell{i}" for i in range(n_cells)]
    points["cluster"] = clusters
    if not bare:
        points["pseudotime"], points["part"] = points["x"] / points["x"].max(), rng.choice(["train", "test"], n_cells)
    true = rng.normal(0, 1, 3000)
    predicted = pd.DataFrame(
        {"transition": rng.choice(words, 3000), "gene": rng.choice(genes, 3000), "true": true,
         "predicted": 0.4 * true + rng.normal(0, 0.2, 3000)}
    )  # fmt: skip
    tables = {"edges": edges, "transitions": planted_transitions(rng, pairs)}
    adata = None
    if not bare:
        tables |= more_tables(rng, words, edges, genes)
        adata = AnnData(csr_matrix((n_cells, n_genes)), obs=points[["cluster"]], var=pd.DataFrame(index=genes))
    return NetworkJudgement(
        model=MODEL,
        methods=(MODEL,),
        baselines=BASELINES,
        verdict=(
            "what the prior adds over its shuffle: +0.28 R²",
            "what the coupling adds over random pairs: +0.42 R²",
        ),
        notes=("3 genes of the prior are not among the cells",),
        undefined=("no edge of the known network has a rank",),
        scoreboard=board(n_transitions, bare),
        tables=tables,
        points=points,
        predicted=predicted.iloc[:0] if bare else predicted,
        adata=adata,
    )


def planted_edges(rng, words, genes, n_regulators, n_edges) -> pd.DataFrame:
    """The same edges in every transition; a weight is that of all transitions and a small departure."""
    every = [(r, g) for g in range(len(genes)) for r in range(n_regulators) if r != g]
    chosen = np.array(every)[np.sort(rng.choice(len(every), min(n_edges, len(every)), replace=False))]
    strong = rng.random(len(chosen)) < 1 / 6
    shared = np.where(strong, rng.choice([-1, 1], len(chosen), p=[0.3, 0.7]) * rng.gamma(3, 0.15, len(chosen)), 0)
    parts = []
    for word in words:
        weight = shared + rng.normal(0, 0.05, len(chosen))
        marginal = weight + rng.normal(0, 0.1, len(chosen))
        parts.append(
            pd.DataFrame(
                {
                    "transition": word, "regulator": genes[chosen[:, 0]], "target": genes[chosen[:, 1]],
                    "weight": weight, "weight_natural": 2 * weight, "low": weight - 0.1, "high": weight + 0.1,
                    "se": 0.05, "sign_stability": np.where(strong, 0.99, 0.7), "fdr": np.where(strong, 0.02, 0.6),
                    "marginal": marginal, "exported_sign": np.sign(marginal), "disagrees": marginal * weight < 0,
                    "prior_sign": 0, "in_mask": True,
                }
            )
        )  # fmt: skip
    return pd.concat(parts, ignore_index=True)


def planted_transitions(rng, pairs) -> pd.DataFrame:
    rows = [
        {"source": a, "target": b, "n_source": 120, "n_target": 90, "coupling": "sinkhorn", "partners": rng.gamma(5),
         "marginal_error": 1e-9, "ridge": 3.2, "r2_weighted": rng.uniform(0.2, 0.6)}
        for a, b in pairs
    ]  # fmt: skip
    return pd.DataFrame(rows)


def more_tables(rng, words, edges, genes) -> dict[str, pd.DataFrame]:
    """What a run knows beside the edges."""
    found = {}
    if len(words) > 1:
        deviation = edges["weight"] - edges.groupby(["regulator", "target"])["weight"].transform("mean")
        found["differential"] = edges[["transition", "regulator", "target"]].assign(
            deviation=deviation, low=deviation - 0.08, high=deviation + 0.08, sign_stability=0.8
        )
    by = edges.assign(size=edges["weight"].abs()).groupby(["transition", "regulator"], sort=False)
    found["regulators"] = (
        by.agg(strength=("size", "sum"), signed_strength=("weight", "sum"), n_targets=("target", "size"))
        .reset_index()
        .assign(own_change=lambda t: rng.normal(0, 1, len(t)), centrality=0.1)
    )
    n = min(12, len(genes) - 1)
    found["cofactors"] = pd.DataFrame(
        {"transition": words[0], "target": genes[-n:], "regulator_1": genes[0], "regulator_2": genes[1 : n + 1],
         "weight": np.linspace(-0.3, 0.4, n), "low": np.linspace(-0.4, 0.3, n), "high": np.linspace(-0.2, 0.5, n)}
    )  # fmt: skip
    r2 = rng.normal(0.15, 0.25, (len(words), len(genes)))
    found["genes"] = pd.DataFrame(
        {"transition": np.repeat(words, len(genes)), "gene": np.tile(genes, len(words)), "r2": r2.ravel(),
         "variance": rng.gamma(2, 1, r2.size)}
    )  # fmt: skip
    found["stability"] = pd.DataFrame()
    return found


def board(n: int, bare: bool) -> pd.DataFrame:
    parts = []
    for group, metrics in METRICS.items():
        rows = pd.DataFrame({"group": group, "method": (MODEL, *BASELINES, CEILING), "n": n, **metrics})
        rows = rows[rows[list(metrics)].notna().any(axis=1)]
        if group == "held-out cells" and n > 1:
            ends = {f"{name}_{end}": rows[name] + by for name in metrics for end, by in (("low", -0.1), ("high", 0.1))}
            rows = rows.assign(**ends)
        parts.append(rows)
    return parts[0] if bare else pd.concat(parts, ignore_index=True)
