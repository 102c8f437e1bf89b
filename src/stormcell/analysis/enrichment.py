"""Over-representation of gene sets in the gene lists of modules, offline.

A list of k of the G measured genes holds x of the m measured genes of a set. With k genes drawn at random

    P(X ≥ x) = Σ_{i ≥ x} C(m, i) C(G − m, k − i) / C(G, k),    expected  k m / G

and the odds ratio of the 2 × 2 table has ½ added to each cell, so that it is finite. q by Benjamini–Hochberg over all
lists × all sets tested, those without a row in the table included (p = 1). Random lists of the same sizes stand beside:
they keep the overlaps between sets, which the assumptions of q leave open.

One product of lists × genes and genes × sets does all of it; `gseapy.enrich` agrees, list by list, which is too slow
for the random ones.

Shapes: M lists (modules), T sets (terms), G measured genes.
Sources: Boyle et al. 2004 (GO::TermFinder); Benjamini & Hochberg 1995; Haldane 1956 (½); Fang et al. 2023 (gseapy).
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping, Sequence
from types import MappingProxyType

import numpy as np
import pandas as pd
from scipy.sparse import csr_array
from scipy.stats import false_discovery_control, hypergeom

from stormcell.analysis.gene_programmes import FEWEST_HITS
from stormcell.analysis.gene_sets import GeneSets
from stormcell.config import nearest

SIGNIFICANT = 0.05
COLUMNS = ["module", "frequency", "term", "overlap", "size", "expected", "odds_ratio", "p", "q", "genes"]

# Beginnings of words in the names of terms. Written down before the first look at a result.
LINEAGES = MappingProxyType(
    {
        "erythroid": ("erythro", "heme", "hemoglobin", "oxygen transport", "gas transport"),
        "granulocyte-monocyte": (
            "neutrophil",
            "granulocyte",
            "monocyte",
            "macrophage",
            "myeloid leukocyte",
            "phagocyt",
            "defense response",
        ),
    }
)


def enrich(
    lists: Mapping[Hashable, Sequence[str]], sets: GeneSets, frequency: Mapping[Hashable, Hashable] | None = None
) -> pd.DataFrame:
    """One row for each list and set that share at least 2 genes, the smallest q first.

    Columns module (name of the list), frequency (the one it serves; without `frequency` the list itself), term,
    overlap, size (measured genes of the set), expected (overlap by chance), odds_ratio, p, q, genes (shared, joined by
    semicolons). Raises ValueError for a gene that is not among the measured ones, and for a list without a frequency.
    """
    names = list(lists)
    lacking = [name for name in names if frequency is not None and name not in frequency]
    if lacking:
        raise ValueError(f"module {lacking[0]!r} has no frequency")
    chosen = _chosen(lists, sets.genes)
    overlap, p, q = _tested(chosen, sets)
    shown = np.argwhere(overlap >= FEWEST_HITS)
    i, j = shown.T
    x, k, m = overlap[i, j], np.diff(chosen.indptr)[i], sets.sizes[j]
    G = len(sets.genes)
    table = {
        "module": _objects(names)[i],
        "frequency": _objects([name if frequency is None else frequency[name] for name in names])[i],
        "term": _objects(sets.terms)[j],
        "overlap": x,
        "size": m,
        "expected": k * m / G,
        "odds_ratio": (x + 0.5) * (G - k - m + x + 0.5) / ((k - x + 0.5) * (m - x + 0.5)),
        "p": p[i, j],
        "q": q[i, j],
        "genes": [_shared(chosen, sets, *pair) for pair in shown],
    }
    return pd.DataFrame(table, columns=COLUMNS).sort_values(
        ["q", "p", "odds_ratio"], ascending=[True, True, False], kind="stable", ignore_index=True
    )


def random_lists(
    lists: Mapping[Hashable, Sequence[str]], sets: GeneSets, draws: int = 20, seed: int = 1
) -> pd.DataFrame:
    """How many sets have q ≤ .05 in each list, beside lists of as many measured genes drawn at random.

    Columns module, genes, terms, random_mean, random_most (over the draws), random_share (of draws with any such set).
    Each draw replaces all lists at once and has its own q over all of them. Genes are drawn evenly: lists of highly
    expressed genes, which are better annotated, find more by chance than this shows. Raises ValueError as `enrich`
    does.
    """
    if draws < 1:
        raise ValueError(f"{draws} draws")
    chosen, rng = _chosen(lists, sets.genes), np.random.default_rng(seed)
    sizes, G = np.diff(chosen.indptr), len(sets.genes)
    random = np.empty((draws, len(sizes)), int)
    for draw in range(draws):
        drawn = _indicator([rng.choice(G, size, replace=False) for size in sizes], G)
        random[draw] = (_tested(drawn, sets)[2] <= SIGNIFICANT).sum(1)
    found = (_tested(chosen, sets)[2] <= SIGNIFICANT).sum(1)
    columns = {"module": list(lists), "genes": sizes, "terms": found, "random_mean": random.mean(0)}
    return pd.DataFrame(columns | {"random_most": random.max(0), "random_share": (random > 0).mean(0)})


def looked_up(table: pd.DataFrame, patterns: Mapping[str, Sequence[str]] = LINEAGES) -> pd.DataFrame:
    """The best term of `enrich` for each lineage: lineage, term, q, module, frequency, genes, found (q ≤ .05).

    A pattern is the beginning of a word, in any case, an underscore being a space. Without such a term the row is
    empty and not found.
    """
    words = table["term"].astype(str).str.replace("_", " ").str.casefold()
    rows = []
    for lineage, beginnings in patterns.items():
        pattern = "|".join(rf"(?<![a-z]){re.escape(part.casefold())}" for part in beginnings)
        mine = table[words.str.contains(pattern, regex=True)]
        row = {"lineage": lineage, "term": "", "q": np.nan, "module": None, "frequency": None, "genes": ""}
        if len(mine):
            row |= mine.loc[mine["q"].idxmin(), list(row)[1:]].to_dict()
        rows.append(row | {"found": bool(row["q"] <= SIGNIFICANT)})
    found = pd.DataFrame(rows, columns=["lineage", "term", "q", "module", "frequency", "genes", "found"])
    # A frequency that is a number stays a whole one beside a lineage that has none.
    return found.assign(**{key: _objects([row[key] for row in rows]) for key in ("module", "frequency")})


def term_matrix(table: pd.DataFrame, most: int = 25, frequencies: Sequence[Hashable] | None = None) -> pd.DataFrame:
    """−log10 q of the best list of each frequency, frequencies × terms; 0 where a term has no row.

    Terms with q ≤ .05 somewhere, the best ones of each frequency in turn until there are `most`, in the order of the
    frequency that they are strongest in. Rows are `frequencies`, with or without a term, or those of the table, sorted.
    """
    frequencies = sorted(table["frequency"].unique()) if frequencies is None else list(frequencies)
    told = table[table["frequency"].isin(frequencies)]
    told = told[told["term"].isin(told.loc[told["q"] <= SIGNIFICANT, "term"])]
    q = told.pivot_table(index="frequency", columns="term", values="q", aggfunc="min") if len(told) else pd.DataFrame()
    q = q.reindex(pd.Index(frequencies, name="frequency")).astype(float).fillna(1.0)
    strength = np.log10(1 / q.clip(lower=np.finfo(float).tiny))
    place = (-strength).rank(axis=1, method="first").min() if q.shape[1] else pd.Series(dtype=float)
    strength = strength[place.sort_values(kind="stable").index[:most]]
    if not strength.shape[1]:
        return strength
    return strength.iloc[:, np.lexsort([-strength.max().to_numpy(), strength.to_numpy().argmax(0)])]


def _chosen(lists: Mapping[Hashable, Sequence[str]], genes: Sequence[str]) -> csr_array:
    """The genes of each list, each once: M × G of 0 and 1."""
    number = {gene: i for i, gene in enumerate(genes)}
    for name, listed in lists.items():
        foreign = next((gene for gene in listed if gene not in number), None)
        if foreign is not None:
            raise ValueError(f"module {name!r}: {foreign!r} is no measured gene{nearest(foreign, genes)}")
    return _indicator([np.unique([number[gene] for gene in listed]) for listed in lists.values()], len(genes))


def _indicator(rows: Sequence[np.ndarray], G: int) -> csr_array:
    """Numbers of genes, row by row → M × G of 0 and 1."""
    pointer = np.cumsum([0, *map(len, rows)])
    columns = np.concatenate([np.zeros(0, np.int64), *rows]).astype(np.int64)
    return csr_array((np.ones(len(columns)), columns, pointer), shape=(len(rows), G))


def _tested(chosen: csr_array, sets: GeneSets) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Overlap, p and q of every list with every set: M × T each. Fewer than 2 shared genes are no enrichment: p = 1."""
    overlap = (chosen @ sets.members.T).toarray().round().astype(np.int64)
    i, j = np.nonzero(overlap >= FEWEST_HITS)
    p = np.ones(overlap.shape)
    p[i, j] = hypergeom.sf(overlap[i, j] - 1, len(sets.genes), sets.sizes[j], np.diff(chosen.indptr)[i])
    q = false_discovery_control(p.ravel()).reshape(p.shape) if p.size else p.copy()
    return overlap, p, q


def _shared(chosen: csr_array, sets: GeneSets, module: int, term: int) -> str:
    """The genes that a list and a set share, by name."""
    row, column = (
        part.indices[part.indptr[i] : part.indptr[i + 1]] for part, i in ((chosen, module), (sets.members, term))
    )
    return ";".join(sorted(sets.genes[gene] for gene in np.intersect1d(row, column)))


def _objects(values: Sequence) -> np.ndarray:
    """Names as they are, tuples among them."""
    found = np.empty(len(values), object)
    for i, value in enumerate(values):  # an assignment at once would take tuples apart
        found[i] = value
    return found
