"""A plan over pairs of cells of two clusters, and what is asked of it.

    P ≥ 0,  Σ P = 1,  r = P 1,  s = Pᵀ 1;   barycentre of source cell a:  (P y)_a / r_a

Plans are float64 arrays (200 MB for 5,000 × 5,000 cells), or CSR where most entries are 0.

Shapes: A source cells, B target cells, K components, G genes.
Source: Peyré & Cuturi 2019 (barycentric projection).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.random import Generator
from scipy.sparse import csr_matrix, issparse
from scipy.special import entr

Plan = np.ndarray | csr_matrix


@dataclass(frozen=True, eq=False)
class Coupling:
    """A plan over pairs of cells; make one with `Coupling.of`."""

    plan: Plan  # A × B, sums to 1
    name: str
    diagnostics: dict[str, float]

    @classmethod
    def of(cls, plan: Any, name: str, **diagnostics: float) -> Coupling:
        """A checked plan. Raises ValueError unless it is a matrix of finite, non-negative numbers that sum to 1.

        Diagnostics of every plan: `partners`, the mean over source cells of e^entropy of P_a / r_a; `source_cells`,
        1 / (A Σ r²), the share of the source cells that have a say; `marginal_error`, the largest |r − 1/A| · A plus
        the largest |s − 1/B| · B.
        """
        plan = csr_matrix(plan, dtype=np.float64) if issparse(plan) else np.asarray(plan, np.float64)
        values = _values(plan)
        if plan.ndim != 2 or not values.size or not np.isfinite(values).all() or values.min() < 0:
            raise ValueError(f"coupling {name}: no matrix of finite, non-negative numbers, shape {plan.shape}")
        if abs(values.sum() - 1) > 1e-6:
            raise ValueError(f"coupling {name}: the plan sums to {values.sum():.6g}, not to 1")
        found = cls(plan, name, {})
        source, target = found.source, found.target
        kept = source > 0
        entropy = _sums(_with(plan, entr(values)), 1)[kept] / source[kept] + np.log(source[kept])
        error = np.abs(source * len(source) - 1).max() + np.abs(target * len(target) - 1).max()
        found.diagnostics.update(
            partners=float(np.exp(entropy).mean()),
            source_cells=float(1 / (len(source) * np.square(source).sum())),
            marginal_error=float(error),
            **diagnostics,
        )
        return found

    @cached_property
    def source(self) -> np.ndarray:
        """The marginal r: A."""
        return _sums(self.plan, 1)

    @cached_property
    def target(self) -> np.ndarray:
        """The marginal s: B."""
        return _sums(self.plan, 0)

    def barycentre(self, y: np.ndarray) -> np.ndarray:
        """Mean of the partners of every source cell: B × G → A × G; of a cell without partners the mean of all."""
        mass = self.source[:, None]
        empty = mass[:, 0] == 0
        means = np.asarray(self.plan @ y)
        means /= np.where(mass > 0, mass, 1)
        if empty.any():  # its weight is 0, but NaN · 0 would be NaN
            means[empty] = self.target @ y
        return means

    @cached_property
    def effective_cells(self) -> float:
        """Independent barycentres that those of the source cells are worth: (tr K)² / tr K², K = S Sᵀ, S = P / r.

        Source cells share partners, so that the errors of their barycentres have covariance K: cross-validation that
        counts cells would take them for more than they are, and λ would be too small.
        """
        kept = self.source > 0
        share = _with(
            self.plan, _values(self.plan) * _spread(self.plan, np.where(kept, 1 / np.where(kept, self.source, 1), 0), 0)
        )
        between = share.T @ share if share.shape[1] < share.shape[0] else share @ share.T
        between = between.toarray() if issparse(between) else between
        return float(np.square(_values(share)).sum() ** 2 / np.square(between).sum())

    def sample(self, n: int, rng: Generator) -> tuple[np.ndarray, np.ndarray]:
        """n pairs drawn from the plan with replacement: numbers of source cells, numbers of target cells."""
        entry = np.searchsorted(self._cumulative, rng.random(n) * self._cumulative[-1], side="right")
        if not issparse(self.plan):
            return np.divmod(entry, self.plan.shape[1])
        return np.searchsorted(self.plan.indptr, entry, side="right") - 1, self.plan.indices[entry].astype(np.int64)

    @cached_property
    def _cumulative(self) -> np.ndarray:
        """Sums of the plan's entries, row by row: rows come up by their marginal, columns by the row's conditional."""
        return np.cumsum(_values(self.plan))

    def reweighted(self, weight_source: np.ndarray, weight_target: np.ndarray) -> Coupling:
        """P'_ab ∝ w_a P_ab w_b with row marginals w_a r_a / Σ w r: a bootstrap over cells without a new plan (A, B).

        A source cell whose partners all have weight 0 drops out. The diagnostics stay those of this plan. Raises
        ValueError for weights that are negative, of another length, or leave no pair.
        """
        weights = [np.asarray(weight, np.float64) for weight in (weight_source, weight_target)]
        for weight, size in zip(weights, self.plan.shape, strict=True):
            if weight.shape != (size,) or not np.isfinite(weight).all() or weight.min() < 0:
                raise ValueError(f"weights of shape {weight.shape} for {size} cells: non-negative numbers are needed")
        columns = _with(self.plan, _values(self.plan) * _spread(self.plan, weights[1], 1))
        mass = _sums(columns, 1)
        row = np.divide(weights[0] * self.source, mass, out=np.zeros_like(mass), where=mass > 0)
        total = (row * mass).sum()
        if total == 0:
            raise ValueError("no pair of the plan has a positive weight")
        return Coupling(
            _with(columns, _values(columns) * _spread(columns, row / total, 0)), self.name, self.diagnostics
        )


def relative_cost(plan: Plan, x: np.ndarray, y: np.ndarray) -> float:
    """Mean squared distance of the pairs of a plan over that of random pairs; 1 where all points are one."""
    centre = np.concatenate([x, y]).mean(0)
    x, y = x - centre, y - centre
    squared_x, squared_y = np.square(x).sum(1), np.square(y).sum(1)
    paired = _sums(plan, 1) @ squared_x + _sums(plan, 0) @ squared_y - 2 * (x * np.asarray(plan @ y)).sum()
    random = squared_x.mean() + squared_y.mean() - 2 * x.mean(0) @ y.mean(0)
    return float(max(paired, 0) / random) if random > 0 else 1.0


# ---- dense and sparse plans alike


def _values(plan: Plan) -> np.ndarray:
    return plan.data if issparse(plan) else plan


def _with(plan: Plan, values: np.ndarray) -> Plan:
    """A plan of the same entries with other values."""
    return csr_matrix((values, plan.indices, plan.indptr), shape=plan.shape) if issparse(plan) else values


def _sums(plan: Plan, axis: int) -> np.ndarray:
    return np.asarray(plan.sum(axis)).ravel()


def _spread(plan: Plan, weight: np.ndarray, axis: int) -> np.ndarray:
    """A weight of rows (axis 0) or columns (axis 1), for each entry of the plan."""
    if not issparse(plan):
        return weight if axis else weight[:, None]
    return weight[plan.indices] if axis else np.repeat(weight, np.diff(plan.indptr))
