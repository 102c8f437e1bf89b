"""Do gene modules come back? Modules of several trainings (seeds) or resamples of the cells, matched and compared.

The first run is the one that is reported. The modules of every other run are assigned to its modules one to one, within
a degree and a block of frequencies, by the largest total |cosine| of their loadings (Hungarian method). Seeds share
their targets: every frequency is a block. Graphs of resampled cells rotate frequencies of close eigenvalues into each
other and turn their signs: give the blocks, or all frequencies as one.

    Jaccard@K of a module = mean over all pairs of runs of |A ∩ B| / |A ∪ B|, A and B its K genes of largest |loading|

A run without a counterpart counts as 0. Chance, two random sets: expected overlap K²/G, Jaccard about K / (2G − K);
choosing the best of several modules raises it a little. Modules of a frequency span a space, which may come back where
single modules rotate: cos² of its principal angles, mean, is 1 for the same space and m / G for random ones.

Shapes: R runs, G genes, m modules of a frequency, K genes of a list.
Source: Kuhn 1955 (assignment); Björck & Golub 1973 (principal angles); Monti et al. 2003 (consensus over resamples).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from scipy.linalg import subspace_angles
from scipy.optimize import linear_sum_assignment

from stormcell.analysis.modules import Module

SIZES = (10, 25)
COMES_BACK = 0.5  # Jaccard of the shortest list: two runs share two thirds of their genes
CONSENSUS = 0.5  # share of the runs

Run = Sequence[Module]
Blocks = Sequence[Sequence[int]]  # frequencies counted from 0


@dataclass(frozen=True)
class Stability:
    """Of one module of the first run."""

    module: Module
    jaccard: dict[int, float]  # by K, mean over pairs of runs
    chance: dict[int, float]
    cosine: float  # |cosine| of the loadings with the first run's, mean over the other runs
    same_sign: float  # share of the other runs where λ has its sign, loadings turned alike
    gene_frequency: dict[int, np.ndarray]  # by K, G: share of runs with the gene among the K

    @property
    def comes_back(self) -> bool:
        return self.jaccard[min(self.jaccard)] >= COMES_BACK

    def consensus(self, k: int) -> np.ndarray:
        """Genes among the K in half of the runs or more, the most frequent first, then the largest |loading|."""
        share = self.gene_frequency[k]
        order = np.lexsort((-np.abs(self.module.loadings), -share))
        return order[share[order] >= CONSENSUS]


def jaccard(a: np.ndarray, b: np.ndarray) -> float:
    """|A ∩ B| / |A ∪ B| of two lists without repeats; 0 for two empty ones."""
    both = len(np.intersect1d(a, b))
    return both / max(len(a) + len(b) - both, 1)


def matched(first: Run, other: Run, blocks: Blocks | None = None) -> list[Module | None]:
    """The counterpart of each module of `first` in `other`, or None where there are fewer.

    A frequency that no block names is its own. Raises ValueError for different numbers of genes.
    """
    if len({len(module.loadings) for module in (*first, *other)}) > 1:
        raise ValueError(f"{len(first[0].loadings)} genes in one run, another number in the next")
    block = {frequency: number for number, one in enumerate(blocks or ()) for frequency in one}
    found: list[Module | None] = [None] * len(first)
    mine, theirs = (
        [(module.degree, block.get(module.frequency, f"alone {module.frequency}")) for module in run]
        for run in (first, other)
    )
    for key in dict.fromkeys(mine):
        rows, columns = ([i for i, one in enumerate(keys) if one == key] for keys in (mine, theirs))
        if columns:
            likeness = np.abs(_unit([first[i] for i in rows]) @ _unit([other[j] for j in columns]).T)
            for i, j in zip(*linear_sum_assignment(-likeness), strict=True):
                found[rows[i]] = other[columns[j]]
    return found


def stability(runs: Sequence[Run], sizes: Sequence[int] = SIZES, blocks: Blocks | None = None) -> list[Stability]:
    """How far each module of the first run comes back in the others.

    Raises ValueError for fewer than 2 runs, runs of different genes, and lists longer than half of the genes, of which
    chance alone shares a third.
    """
    if len(runs) < 2:
        raise ValueError(f"{len(runs)} run; stability needs 2 or more")
    if not runs[0]:
        return []
    G = len(runs[0][0].loadings)
    if not 0 < min(sizes) <= max(sizes) <= G / 2:
        raise ValueError(f"lists of {list(sizes)} genes out of {G}: 1 to {G // 2} say something")
    counterparts = [list(runs[0]), *(matched(runs[0], run, blocks) for run in runs[1:])]
    return [_stability(aligned, sizes) for aligned in zip(*counterparts, strict=True)]


def _stability(aligned: Sequence[Module | None], sizes: Sequence[int]) -> Stability:
    """One module and its counterparts, the module first."""
    module, *others = aligned
    G = len(module.loadings)
    scores, frequency = {}, {}
    for k in sizes:
        tops = [np.array([], int) if one is None else one.top(k) for one in aligned]
        scores[k] = float(np.mean([jaccard(a, b) for a, b in combinations(tops, 2)]))
        frequency[k] = np.bincount(np.concatenate(tops), minlength=G) / len(aligned)
    own = _unit([module])[0]
    cosines = np.array([0.0 if one is None else float(own @ _unit([one])[0]) for one in others])
    signs = [
        one is not None and np.sign(one.eigenvalue) * np.sign(cosine) ** one.degree == np.sign(module.eigenvalue)
        for one, cosine in zip(others, cosines, strict=True)
    ]
    chance = {k: k / (2 * G - k) for k in sizes}
    return Stability(module, scores, chance, float(np.abs(cosines).mean()), float(np.mean(signs)), frequency)


def subspace_table(runs: Sequence[Run], most: int, blocks: Blocks | None = None) -> pd.DataFrame:
    """Principal angles between what the first `most` quadratic modules of each frequency span, over pairs of runs.

    Columns frequencies (from 1, of a block joined by commas), modules (dimensions: the fewest of any run),
    largest_angle (degrees, mean over pairs), shared (mean cos² of the angles; 1 the same space), chance. A block that a
    run has no module of is left out.
    """
    if len(runs) < 2:
        raise ValueError(f"{len(runs)} run; stability needs 2 or more")
    named = {frequency for block in blocks or () for frequency in block}
    alone = sorted({module.frequency for module in runs[0]} - named)
    rows = []
    for block in sorted([*(tuple(sorted(one)) for one in blocks or ()), *((one,) for one in alone)]):
        spans = [
            [one for one in run if one.frequency in block and one.degree == 2 and one.rank <= most] for run in runs
        ]
        size = min(len(span) for span in spans)
        if not size:
            continue
        spans = [_unit(sorted(span, key=lambda one: (one.rank, one.frequency))[:size]).T for span in spans]
        angles = [subspace_angles(a, b) for a, b in combinations(spans, 2)]
        largest, shared = np.mean([(np.degrees(one.max()), np.square(np.cos(one)).mean()) for one in angles], 0)
        label = ", ".join(str(frequency + 1) for frequency in block)
        rows.append((label, size, largest, shared, size / len(spans[0])))
    return pd.DataFrame(rows, columns=["frequencies", "modules", "largest_angle", "shared", "chance"])


def stability_table(found: Sequence[Stability]) -> pd.DataFrame:
    """A row per module of the first run; frequency counted from 1.

    Columns frequency, module, degree, lambda_sign, explained, then for each K jaccard_K, chance_K and consensus_K
    (genes in half of the runs or more), cosine, same_sign, comes_back (Jaccard of the shortest list ≥ .5).
    """
    rows = []
    for one in found:
        module, row = one.module, {}
        row |= {"frequency": module.frequency + 1, "module": module.name, "degree": module.degree}
        row |= {"lambda_sign": "-+"[module.eigenvalue > 0], "explained": module.explained}
        for k in one.jaccard:
            row |= {f"jaccard_{k}": one.jaccard[k], f"chance_{k}": one.chance[k]}
            row[f"consensus_{k}"] = len(one.consensus(k))
        rows.append(row | {"cosine": one.cosine, "same_sign": one.same_sign, "comes_back": one.comes_back})
    return pd.DataFrame(rows)


def consensus_table(found: Sequence[Stability], genes: Sequence[str], k: int = max(SIZES)) -> pd.DataFrame:
    """Columns frequency (from 1), module, gene, share (of runs with the gene among the K), loading (of run 1)."""
    rows = [
        (one.module.frequency + 1, one.module.name, genes[gene], one.gene_frequency[k][gene], one.module.loadings[gene])
        for one in found
        for gene in one.consensus(k)
    ]
    return pd.DataFrame(rows, columns=["frequency", "module", "gene", "share", "loading"])


def _unit(run: Run) -> np.ndarray:
    """Loadings of length 1, modules × G; zeros stay zeros."""
    loadings = np.stack([module.loadings for module in run])
    length = np.linalg.norm(loadings, axis=1, keepdims=True)
    return loadings / np.where(length > 0, length, 1)
