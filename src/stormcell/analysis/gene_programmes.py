"""Gene programmes: perturbations that do the same to a cell, the genes they move, and what these are known for.

Perturbations are clustered by their mean salient vectors (Ward's criterion). Without a given number of clusters it is
the one of largest mean silhouette; where no number has a positive one all perturbations are one programme. A silhouette
below .25 is no structure to speak of (Kaufman & Rousseeuw). Perturbations without an effect lie together near zero and
so become a programme of their own, with small fold changes.

The fold change of a programme C weighs its perturbations by how certain each of their own is, w = 1 / SE²:
    lfc_Cg = Σ_{p ∈ C} w_pg lfc_pg / Σ_{p ∈ C} w_pg
Gene sets are tested for over-representation among the top genes, up and down apart, by the hypergeometric test with the
genes of the model as the urn; q by Benjamini–Hochberg over all sets and both directions of a programme, sets without
a hit included.

Shapes: P perturbations, K salient dimensions, G genes.
Sources: Ward 1963; Rousseeuw 1987; Kaufman & Rousseeuw 1990; Fang et al. 2023 (gseapy).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import false_discovery_control
from sklearn.cluster import AgglomerativeClustering
from sklearn.metrics import silhouette_samples

from stormcell.analysis.gene_sets import SIZES, read_gmt
from stormcell.config import UserError

MOST_PROGRAMMES = 15  # tried for the largest silhouette: more are not read
FEWEST_HITS = 2  # one gene is no enrichment; such a set counts as tested, with p = 1


def programmes(means: np.ndarray, perturbations: Sequence[str], n: int | None = None) -> pd.DataFrame:
    """Columns programme (1 is the largest), perturbation, silhouette: P × K → P rows, by programme and name.

    The order of the perturbations does not matter. The silhouette is nan with one programme or fewer than 3
    perturbations, which each are one. Raises ValueError for means that are not finite and n outside 1 … P.
    """
    means = np.asarray(means, np.float64)
    if means.ndim != 2 or len(means) != len(perturbations) or not np.isfinite(means).all():
        raise ValueError(
            f"means {means.shape} of {len(perturbations)} perturbations, finite: {np.isfinite(means).all()}"
        )
    if n is not None and not 1 <= n <= len(means):
        raise ValueError(f"{n} programmes of {len(means)} perturbations")
    by_name = np.argsort(np.asarray(perturbations, str), kind="stable")
    means, perturbations = means[by_name], [str(perturbations[i]) for i in by_name]
    labels, silhouette = _clusters(means, n)
    sizes = pd.Series(labels).value_counts(sort=False)
    first = {label: int(np.flatnonzero(labels == label)[0]) for label in sizes.index}
    ranked = sorted(sizes.index, key=lambda label: (-sizes[label], first[label]))
    number = {label: rank for rank, label in enumerate(ranked, start=1)}
    table = pd.DataFrame(
        {"programme": [number[label] for label in labels], "perturbation": perturbations, "silhouette": silhouette}
    )
    return table.sort_values("programme", kind="stable", ignore_index=True)


def _clusters(means: np.ndarray, n: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Cluster and silhouette of each perturbation: P × K → P, P."""
    P = len(means)
    if n is None and P < 3:
        n = P
    tried = [n] if n else range(2, min(P - 1, MOST_PROGRAMMES) + 1)
    best, best_value = (np.zeros(P, int), np.full(P, np.nan)), -np.inf if n else 0.0
    for size in tried:
        labels = np.arange(P) if size == P else AgglomerativeClustering(size, linkage="ward").fit_predict(means)
        defined = 1 < size < P
        silhouette = silhouette_samples(means, labels) if defined else np.full(P, np.nan)
        value = silhouette.mean() if defined else 0.0
        if value > best_value:
            best, best_value = (labels, silhouette), value
    return best


def programme_genes(
    table: pd.DataFrame,
    perturbations: Sequence[str],
    lfc: np.ndarray,
    weight: np.ndarray,
    genes: Sequence[str],
    top: int = 50,
) -> pd.DataFrame:
    """Top genes of each programme of `programmes`: lfc P × G and weight P × G in the order of `perturbations`.

    Columns programme, gene, lfc, rank (1 is the largest change of its direction), direction (up, down). A gene that
    does not move is in neither; a value that is not finite, or has weight 0, is left out. Raises ValueError where
    shapes disagree or a weight is negative.
    """
    lfc, weight = np.asarray(lfc, np.float64), np.asarray(weight, np.float64)
    if lfc.shape != (len(perturbations), len(genes)) or weight.shape != lfc.shape or (weight < 0).any():
        raise ValueError(f"lfc {lfc.shape}, weight {weight.shape}, {len(perturbations)} × {len(genes)}")
    row = {str(name): i for i, name in enumerate(perturbations)}
    known = np.isfinite(lfc) & np.isfinite(weight)
    lfc, weight = np.where(known, lfc, 0.0), np.where(known, weight, 0.0)
    found = []
    for programme, members in table.groupby("programme")["perturbation"]:
        mine = [row[name] for name in members]
        total = weight[mine].sum(0)
        mean = np.divide((weight[mine] * lfc[mine]).sum(0), total, out=np.zeros(len(genes)), where=total > 0)
        for direction, sign in (("up", 1), ("down", -1)):
            order = np.argsort(-sign * mean, kind="stable")[:top]
            order = order[sign * mean[order] > 0]
            ranks = np.arange(1, len(order) + 1)
            chosen = {"gene": np.asarray(genes, object)[order], "lfc": mean[order], "rank": ranks}
            found.append(pd.DataFrame({"programme": programme, **chosen, "direction": direction}))
    return pd.concat(found, ignore_index=True)


def read_gene_sets(path: Path, genes: Sequence[str]) -> dict[str, list[str]]:
    """Sets of a .gmt or .gmt.gz file (name, description, genes; tabs between), cut to the genes of the model.

    Symbols are compared without case and kept as the model writes them. Raises UserError for a file that is not there
    or not of this form, and where no set of a size to be tested is left.
    """
    gene_sets = read_gmt(path)
    own = {str(gene).casefold(): str(gene) for gene in genes}
    cut = {
        name: sorted({own[g.casefold()] for g in members if g.casefold() in own}) for name, members in gene_sets.items()
    }
    sets = {name: members for name, members in cut.items() if SIZES[0] <= len(members) <= SIZES[1]}
    if not sets:
        there = next((members[0] for members in gene_sets.values() if members), "none")
        example = f"{there!r} there, {genes[0]!r} here"
        low, high = SIZES
        raise UserError(f"{path}: none of {len(gene_sets)} sets has {low} to {high} genes of the model's ({example})")
    return sets


def enrichment(table: pd.DataFrame, gene_sets: dict[str, list[str]], genes: Sequence[str]) -> pd.DataFrame:
    """Gene sets among the top genes of `programme_genes`: programme, direction, term, overlap, p, q, genes.

    Sets with fewer than 2 hits have no row. gseapy is given the sets themselves and asks no server.
    """
    rows = [
        hits.assign(programme=programme, direction=direction)
        for (programme, direction), part in table.groupby(["programme", "direction"], sort=False)
        for hits in [_over_represented(part["gene"].tolist(), gene_sets, genes)]
    ]
    columns = ["programme", "direction", "term", "overlap", "p", "q", "genes"]
    found = pd.concat(rows, ignore_index=True) if rows else pd.DataFrame(columns=columns)
    found["q"] = np.nan
    for _, mine in found.groupby("programme"):
        untested = np.ones(2 * len(gene_sets) - len(mine))  # p = 1
        found.loc[mine.index, "q"] = false_discovery_control(np.append(mine["p"].astype(float), untested))[: len(mine)]
    return found[columns].sort_values(["programme", "p", "term"], kind="stable", ignore_index=True)


def _over_represented(top: list[str], gene_sets: dict[str, list[str]], genes: Sequence[str]) -> pd.DataFrame:
    """term, overlap, p and genes of the sets with enough hits."""
    import gseapy

    hit = {name: members for name, members in gene_sets.items() if len(set(top) & set(members)) >= FEWEST_HITS}
    if not hit:
        return pd.DataFrame({"term": [], "overlap": [], "p": [], "genes": []})
    # A letter in front: names that are all numbers (Entrez) would be turned into numbers on one side only.
    mark = [f"g{gene}" for gene in top]
    marked = {name: [f"g{gene}" for gene in members] for name, members in hit.items()}
    result = gseapy.enrich(mark, marked, background=[f"g{gene}" for gene in genes], outdir=None, no_plot=True).results
    names = result["Genes"].map(lambda joined: ";".join(sorted(gene[1:] for gene in joined.split(";"))))
    return pd.DataFrame({"term": result["Term"], "overlap": result["Overlap"], "p": result["P-value"], "genes": names})
