"""Which edges a network may have: a prior of regulators and targets, rows regulate columns.

Shapes: G genes, E edges, B targets of equal in-degree R.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator


@dataclass(frozen=True)
class Mask:
    """Edges regulator[e] → target[e], sorted by target, then regulator; make one with `Mask.of`."""

    n_genes: int
    regulator: np.ndarray  # E int64, numbers of genes
    target: np.ndarray  # E int64
    sign: np.ndarray  # E int8: +1 activates, −1 represses, 0 unknown

    @classmethod
    def of(
        cls, n_genes: int, regulator: Sequence[int], target: Sequence[int], sign: Sequence[int] | None = None
    ) -> Mask:
        """Sorted edges. Raises ValueError for genes that are not there, self edges, repeated edges and other signs."""
        regulator, target = np.asarray(regulator, np.int64).ravel(), np.asarray(target, np.int64).ravel()
        sign = np.zeros(len(regulator), np.int8) if sign is None else np.asarray(sign, np.int8).ravel()
        if not len(regulator) == len(target) == len(sign):
            raise ValueError(f"{len(regulator)} regulators, {len(target)} targets and {len(sign)} signs")
        if len(regulator) and not (
            0 <= min(regulator.min(), target.min()) <= max(regulator.max(), target.max()) < n_genes
        ):
            raise ValueError(f"edges between genes that are not among the {n_genes}")
        if (regulator == target).any():
            raise ValueError("a self edge is no edge of a mask: it is a nuisance of the regression")
        if not np.isin(sign, (-1, 0, 1)).all():
            raise ValueError("signs must be -1, 0 or 1")
        order = np.lexsort([regulator, target])
        regulator, target, sign = regulator[order], target[order], sign[order]
        if ((np.diff(regulator) == 0) & (np.diff(target) == 0)).any():
            raise ValueError("an edge stands more than once")
        return cls(int(n_genes), regulator, target, sign)

    @classmethod
    def full(cls, n_genes: int, regulators: Sequence[int]) -> Mask:
        """Every one of these regulators on every gene but itself."""
        regulators = np.unique(np.asarray(regulators, np.int64))
        target, regulator = np.repeat(np.arange(n_genes), len(regulators)), np.tile(regulators, n_genes)
        keep = target != regulator
        return cls.of(n_genes, regulator[keep], target[keep])

    @property
    def n_edges(self) -> int:
        return len(self.regulator)

    @property
    def in_degree(self) -> np.ndarray:
        """Regulators of each gene: G."""
        return np.bincount(self.target, minlength=self.n_genes)

    @property
    def out_degree(self) -> np.ndarray:
        """Targets of each gene: G."""
        return np.bincount(self.regulator, minlength=self.n_genes)

    @property
    def regulators(self) -> np.ndarray:
        """Genes with a target, sorted."""
        return np.unique(self.regulator)

    def blocks(self) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """(targets B, regulators B × R, edges B × R) for every in-degree R above 0, smallest first."""
        degree = self.in_degree
        start = np.concatenate([[0], np.cumsum(degree)])
        found = []
        for size in np.unique(degree[degree > 0]):
            targets = np.flatnonzero(degree == size)
            edges = start[targets][:, None] + np.arange(size)
            found.append((targets, self.regulator[edges], edges))
        return found

    def shuffled(self, rng: Generator) -> Mask:
        """The same in-degree of every target, its regulators drawn from all regulators but itself; no signs."""
        pool, drawn = self.regulators, []
        for target, degree in enumerate(self.in_degree):
            if degree:
                drawn.append(rng.choice(pool[pool != target], degree, replace=False))
        return Mask.of(self.n_genes, np.concatenate(drawn) if drawn else [], self.target)

    def dense(self, values: np.ndarray) -> np.ndarray:
        """E values → G × G, zero elsewhere."""
        matrix = np.zeros((self.n_genes, self.n_genes), np.asarray(values).dtype)
        matrix[self.regulator, self.target] = values
        return matrix
