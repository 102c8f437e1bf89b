"""What a network model must know of the data: genes, edges that may be, transitions. From the training part only."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

from stormcell.analysis.mask import Mask


@dataclass(frozen=True)
class NetworkSpec:
    """Plain values that ride in every checkpoint; the sizes of a model are properties of it."""

    genes: tuple[str, ...]
    regulator: tuple[int, ...]  # of every edge that may be, sorted by target, then regulator
    target: tuple[int, ...]
    sign: tuple[int, ...]  # what the prior says: 1, −1, 0 unknown
    transitions: tuple[tuple[str, str], ...]  # source and target cluster
    scale: str  # counts · log1p · continuous
    gene_sd: tuple[float, ...]  # by which expression is divided: within clusters, over training cells

    @property
    def n_genes(self) -> int:
        return len(self.genes)

    @property
    def n_edges(self) -> int:
        return len(self.regulator)

    @property
    def n_transitions(self) -> int:
        return len(self.transitions)

    @property
    def mask(self) -> Mask:
        return Mask.of(self.n_genes, np.array(self.regulator), np.array(self.target), np.array(self.sign))

    @property
    def extent(self) -> str:
        """How large the question is, for the first line of a run."""
        return f"{self.n_edges:,} edges of {len(set(self.regulator)):,} regulators, {self.n_transitions} transitions"

    @property
    def names(self) -> list[str]:
        """`A>B` of every transition."""
        return [f"{source}>{target}" for source, target in self.transitions]

    def record(self) -> dict:
        """Lists and plain values only (a checkpoint loads with weights_only=True)."""
        plain = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}
        return plain | {"transitions": [list(pair) for pair in self.transitions]}

    @classmethod
    def from_record(cls, record: dict) -> NetworkSpec:
        plain = {key: tuple(value) if isinstance(value, list) else value for key, value in record.items()}
        return cls(**plain | {"transitions": tuple(tuple(pair) for pair in record["transitions"])})
