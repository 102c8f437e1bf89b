"""Pseudobulk: the mean profile of every perturbation, in every context, of a set of cells.

shift = mean of the perturbed cells − mean of the control cells of the same context, log1p(counts / library · 1e4)

Shapes: R rows (a condition in a context), P conditions, G genes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np


@dataclass(frozen=True)
class Pseudobulk:
    """Mean profiles with their cell numbers; contexts without control cells have no rows."""

    conditions: tuple[str, ...]  # R, sorted by condition, then context; control has no row
    contexts: tuple[str, ...]  # R  "all", or the value of the covariate
    means: np.ndarray  # R × G
    n_cells: np.ndarray  # R
    controls: dict[str, np.ndarray]  # context -> G, mean of its control cells

    @cached_property
    def shifts(self) -> np.ndarray:
        """R × G: each mean minus the control mean of its context."""
        if not self.conditions:
            return np.zeros_like(self.means, dtype=np.float64)
        return self.means - np.array([self.controls[context] for context in self.contexts])

    @cached_property
    def by_condition(self) -> dict[str, np.ndarray]:
        """condition -> G: its shift, the mean over the contexts that it was seen in, each with weight 1."""
        rows: dict[str, list[int]] = {}
        for row, condition in enumerate(self.conditions):
            rows.setdefault(condition, []).append(row)
        return {name: self.shifts[mine].mean(0) for name, mine in rows.items()}

    @cached_property
    def mean_shift(self) -> np.ndarray | None:
        """Mean shift, G: each perturbation has weight 1, however many cells it has. None without one."""
        return np.mean(list(self.by_condition.values()), axis=0) if self.conditions else None

    @cached_property
    def pool_shift(self) -> np.ndarray | None:
        """Shift of the pool of all perturbed cells, G: each cell has weight 1. None without one."""
        return self.n_cells @ self.shifts / self.n_cells.sum() if self.conditions else None

    def in_context(self, context: str) -> dict[str, np.ndarray]:
        """condition -> G: the shifts within one context."""
        found = zip(self.conditions, self.contexts, self.shifts, strict=True)
        return {condition: shift for condition, where, shift in found if where == context}

    @classmethod
    def of_shifts(cls, shifts: dict[str, np.ndarray], control: np.ndarray) -> Pseudobulk:
        """One context, "all", from shifts by condition."""
        names = sorted(shifts)
        means = np.array([control + shifts[name] for name in names]).reshape(-1, len(control))
        return cls(tuple(names), ("all",) * len(names), means, np.ones(len(names), int), {"all": control})
