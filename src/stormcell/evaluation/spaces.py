"""What a method says of cells, and what is known of them.

Shapes: N cells, K latent dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np


@dataclass(frozen=True)
class CellLabels:
    """What is known of N cells, apart from their expression."""

    condition: np.ndarray  # N str
    control: str
    batch: np.ndarray | None = None  # N str, as the next two
    cell_type: np.ndarray | None = None
    phase: np.ndarray | None = None
    library: np.ndarray | None = None  # N float, total counts
    merged: dict[str, str] = field(default_factory=dict)  # perturbation → phenotype, of those that share one

    @property
    def is_control(self) -> np.ndarray:
        return self.condition == self.control

    @property
    def phenotype(self) -> np.ndarray:
        return np.array([self.merged.get(name, name) for name in self.condition])

    def take(self, rows: np.ndarray) -> CellLabels:
        """The same of some cells, in the order of `rows`."""
        return CellLabels(**{part.name: _take(getattr(self, part.name), rows) for part in fields(self)})


@dataclass(frozen=True)
class Space:
    """Where a method puts N cells. Without its classifier's labels a probe is fitted instead."""

    salient: np.ndarray | None = None  # N × K; controls near 0 if the method has a zero
    background: np.ndarray | None = None  # N × K
    predicted: np.ndarray | None = None  # N str, the perturbation that a classifier of the method gives

    def take(self, rows: np.ndarray) -> Space:
        return Space(*(_take(getattr(self, part.name), rows) for part in fields(self)))


def _take(part: Any, rows: np.ndarray) -> Any:
    return part[rows] if isinstance(part, np.ndarray) else part
