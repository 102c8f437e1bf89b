"""Ridge regression of coupled cells on the regulators that a mask allows, exact and without drawing a pair.

For target j with regulators R_j in the mask and, as a nuisance column, its own source expression x_j (the self edge):

    Σ_ab P_ab (y_bj − c_j − Σ_{i∈R_j} x_ai w_ij − x_aj s_j)²  +  λ Σ_i w_ij²  +  λ s_j²

P is the plan of the coupling and sums to 1, so that λ is per cell: twice as many cells of the same kind leave W as it
is. The intercept c is not penalised, nothing outside the mask has a part in the penalty, and W has its regulators in
rows: y = x W + x ∘ s + c. With source marginal r, means μ = rᵀX and ν = rᵀȲ, and Ȳ the barycentres of the partners,

    C = Xᵀ diag(r) X − μ μᵀ      B = Xᵀ P Y − μ νᵀ = Xᵀ diag(r) Ȳ − μ νᵀ      (C[R, R] + λ I) w_j = B[R, j]

where R has j's own column last. All pairs have a part in B, which needs a product F × A × G. Random pairs, P = r sᵀ,
have B = 0 and thus W = 0. Targets of equal in-degree are solved together, by Cholesky in float64.

λ by generalised cross-validation of the barycentres, one for all targets, GCV(λ) = Σ_j RSS_j(λ) / (1 − (df_j + 1)/n)²,
    C = V diag(e) Vᵀ,   z = Vᵀ B_j,   RSS_j = var ȳ_j − Σ z² (e + 2λ) / (e + λ)²,   df_j = Σ e / (e + λ)

Shapes: A source cells, B target cells, G genes, F regulators, E edges, T targets of a block, K columns of its systems.
Source: Hoerl & Kennard 1970 (ridge); Golub, Heath & Wahba 1979 (GCV); Kish 1965 (effective number of cells).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from stormcell.analysis.mask import Mask

if TYPE_CHECKING:
    from threadpoolctl import ThreadpoolController

    from stormcell.analysis.couplings import Coupling, Plan

GRID = np.geomspace(1e-4, 1e2, 25)
BLOCK = 2**19  # numbers held by the Gram blocks at once, 4 MB: they stay in the cache
COLLINEAR = 1e-6  # share of a column's variance left by the columns before it; cells in float32 carry no more


@dataclass(frozen=True)
class Moments:
    """What the coupled cells say about any mask over these regulators; float64."""

    n: float  # cells behind it: (Σ r)² / Σ r²
    xx: np.ndarray  # F × F covariance of the regulators
    xg: np.ndarray  # F × G of the regulators with every gene of x
    gg: np.ndarray  # G variance of x
    xy: np.ndarray  # F × G of the regulators in x with y
    gy: np.ndarray  # G of each gene in x with itself in y
    yy: np.ndarray  # G variance of the barycentres
    mean_x: np.ndarray  # G
    mean_y: np.ndarray  # G
    regulators: np.ndarray  # F numbers of genes


@dataclass(frozen=True)
class Edges:
    """A fitted network."""

    values: np.ndarray  # E, in the order of the mask
    own: np.ndarray  # G self edges, 0 where none was fitted
    intercept: np.ndarray  # G
    singular: int = 0  # targets without a unique solution, which have the one of smallest norm

    def __add__(self, other: Edges) -> Edges:
        """A shared network and what a transition has beyond it."""
        parts = (getattr(self, name) + getattr(other, name) for name in ("values", "own", "intercept"))
        return Edges(*parts, self.singular + other.singular)

    def predict(self, x: np.ndarray, mask: Mask) -> np.ndarray:
        """y = x W + x ∘ s + c: A × G → A × G."""
        from scipy.sparse import csr_array

        weights = csr_array((self.values, (mask.regulator, mask.target)), shape=(mask.n_genes, mask.n_genes))
        return x @ weights + x * self.own + self.intercept


class System(NamedTuple):
    """Normal equations of targets with equally many columns: their regulators, then the own column if there is one."""

    targets: np.ndarray  # T
    edges: np.ndarray  # T × R
    gram: np.ndarray  # T × K × K
    cross: np.ndarray  # T × K


# ---- moments


def moments(x: np.ndarray, y: np.ndarray, coupling: Coupling | None, regulators: np.ndarray) -> Moments:
    """A × G and B × G, dense; without a coupling the rows of x and y are pairs, all of one weight.

    Products run in the precision of the cells: float32 costs a relative 1e-6 of the covariances and halves the time.
    Raises ValueError where cells and plan disagree.
    """
    if coupling is None:
        return pair_moments(x, y, np.ones(len(x)), regulators)
    means, mass = partners(coupling.plan, y)
    return pair_moments(x, means, mass, regulators)


def partners(plan: Plan, y: np.ndarray, weights: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Mean of every source cell's partners, weighted (B) beyond the plan, and their mass: A × B, B × G → A × G, A.

    A cell without partners has mass 0 and mean 0.
    """
    if plan.shape[1] != len(y):
        raise ValueError(f"a plan of shape {plan.shape} for {len(y)} target cells")
    plan = plan.astype(np.result_type(y.dtype, np.float32), copy=False)
    weights = np.ones(len(y), plan.dtype) if weights is None else weights.astype(plan.dtype)
    mass = np.asarray(plan @ weights)
    means = plan @ (y * weights[:, None])
    means /= np.where(mass > 0, mass, 1)[:, None]
    return means, mass


def pair_moments(x: np.ndarray, y: np.ndarray, weights: np.ndarray, regulators: np.ndarray) -> Moments:
    """Moments of weighted pairs (x_a, y_a), y_a the barycentre of a's partners: A × G, A × G, A ≥ 0."""
    if not x.shape == y.shape or weights.shape != (len(x),):
        raise ValueError(f"x {x.shape}, y {y.shape}, weights {weights.shape}")
    if not (weights.min(initial=0) >= 0 and 0 < weights.sum() < np.inf):
        raise ValueError("weights of pairs must be non-negative and finite, and one above 0")
    r = np.asarray(weights, np.float64) / weights.sum(dtype=np.float64)
    dtype = np.result_type(x, y, np.float32)
    (x, mean_x, gg), (y, mean_y, yy) = (_centred(side, r, dtype) for side in (x, y))
    left = x[:, regulators].T
    xg, xy = ((left @ side).astype(np.float64) for side in (x, y))
    n, xx, gy = float(1 / np.square(r).sum()), xg[:, regulators], _product(x, y)
    return Moments(n, (xx + xx.T) / 2, xg, gg, xy, gy, yy, mean_x, mean_y, np.asarray(regulators, np.int64))


def _centred(side: np.ndarray, r: np.ndarray, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """√r (side − mean), A × G, whose products are covariances; the means and the variances, G each in float64.

    Centred before the product, not after: a covariance is no small difference of large numbers then.
    """
    mean = r.astype(dtype) @ side
    centred = np.subtract(side, mean, dtype=dtype)
    centred *= np.sqrt(r)[:, None].astype(dtype)
    variance = _product(centred, centred)
    # What rounding leaves of a constant gene would be a regulator like any other, for want of a penalty.
    constant = variance <= (64 * np.finfo(dtype).eps * mean) ** 2
    centred[:, constant] = variance[constant] = 0
    return centred, mean.astype(np.float64), variance


def _product(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Column with column: A × G, A × G → G."""
    return np.einsum("ag,ag->g", x, y, dtype=np.float64)


# ---- solution


def solve(found: Moments, mask: Mask, ridge: float, self_edge: bool = True) -> Edges:
    """The exact network for λ = ridge. Raises ValueError for λ < 0 and regulators that the moments lack."""
    if not ridge >= 0:
        raise ValueError(f"ridge {ridge}")
    values, own, singular = np.zeros(mask.n_edges), np.zeros(mask.n_genes), 0
    for system in systems(found, mask, self_edge):
        K = system.gram.shape[-1]
        system.gram[:, range(K), range(K)] += ridge
        weights, several = solve_systems(system.gram, system.cross[..., None], unique=ridge > 0)
        place(system, weights[..., 0], values, own)
        singular += several
    return Edges(values, own, intercept(found, mask, values, own), singular)


def systems(found: Moments, mask: Mask, self_edge: bool, limit: int = BLOCK) -> Iterator[System]:
    """Normal equations of all targets, without λ, at most `limit` numbers of Gram blocks at once."""
    if mask.n_genes != len(found.gg):
        raise ValueError(f"a mask over {mask.n_genes} genes for moments of {len(found.gg)}")
    row = np.full(mask.n_genes, -1)
    row[found.regulators] = np.arange(len(found.regulators))
    if mask.n_edges and (row[mask.regulator] < 0).any():
        raise ValueError("the mask has regulators that the moments lack")
    without = np.flatnonzero(mask.in_degree == 0)
    alone = [(without, np.empty((len(without), 0), int), np.empty((len(without), 0), int))]
    for targets, regulators, edges in (alone if self_edge else []) + mask.blocks():
        R = regulators.shape[1]
        K = R + self_edge
        step = max(limit // K**2, 1)
        for some in (slice(start, start + step) for start in range(0, len(targets), step)):
            genes, rows = targets[some], row[regulators[some]]
            gram, cross = np.empty((len(genes), K, K)), np.empty((len(genes), K))
            gram[:, :R, :R] = np.take(found.xx, rows[:, :, None] * len(found.xx) + rows[:, None, :])
            cross[:, :R] = found.xy[rows, genes[:, None]]
            if self_edge:
                gram[:, R, :R] = gram[:, :R, R] = found.xg[rows, genes[:, None]]
                gram[:, R, R], cross[:, R] = found.gg[genes], found.gy[genes]
            yield System(genes, edges[some], gram, cross)


def solve_systems(gram: np.ndarray, cross: np.ndarray, unique: bool) -> tuple[np.ndarray, int]:
    """Symmetric positive systems: T × K × K, T × K × M → T × K × M, and how many have no unique solution.

    Those have the solution of smallest norm. Without a penalty (`unique` false) Cholesky may go through on rounding
    errors alone, so that the variance left by the columns before is looked at too.
    """
    with one_thread():
        factor, failed = torch.linalg.cholesky_ex(torch.from_numpy(gram))
        solution = torch.cholesky_solve(torch.from_numpy(cross), factor).numpy()
    several = failed.numpy() > 0
    if not unique and gram.shape[-1]:
        left = factor.diagonal(dim1=1, dim2=2).numpy() ** 2
        several |= (left <= COLLINEAR * np.diagonal(gram, axis1=1, axis2=2)).any(1)
    if several.any():
        solution[several] = np.linalg.pinv(gram[several], rcond=COLLINEAR, hermitian=True) @ cross[several]
    return solution, int(several.sum())


def one_thread() -> AbstractContextManager:
    """For many small systems: the threads of LAPACK wait for each other ten times longer than they work."""
    return _pools().limit(limits=1)


@cache
def _pools() -> ThreadpoolController:
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


def place(system: System, weights: np.ndarray, values: np.ndarray, own: np.ndarray) -> None:
    """Columns of the systems' solutions, T × K, into the edges (E) and the self edges (G)."""
    R = system.edges.shape[1]
    values[system.edges] = weights[:, :R]
    if weights.shape[1] > R:
        own[system.targets] = weights[:, R]


def intercept(found: Moments, mask: Mask, values: np.ndarray, own: np.ndarray) -> np.ndarray:
    """c = ν − μ W − μ ∘ s: G."""
    explained = np.bincount(mask.target, found.mean_x[mask.regulator] * values, mask.n_genes)
    return found.mean_y - explained - found.mean_x * own


# ---- λ


def choose_ridge(
    found: Moments, mask: Mask, self_edge: bool = True, grid: np.ndarray = GRID
) -> tuple[float, np.ndarray]:
    """The λ of smallest GCV, and GCV of every λ of the grid.

    A λ that leaves a target no degree of freedom has an infinite GCV; if all have, the largest is chosen.
    """
    grid = np.sort(np.asarray(grid, np.float64))
    curve = np.zeros(len(grid))
    for system in systems(found, mask, self_edge):
        with one_thread():
            e, V = np.linalg.eigh(system.gram)
        e, z = np.maximum(e, 0), np.squeeze(system.cross[:, None] @ V, 1)
        for k, ridge in enumerate(grid):
            with np.errstate(divide="ignore", invalid="ignore"):  # e = λ = 0: a direction without variance
                explained = np.nan_to_num(np.square(z) * (e + 2 * ridge) / np.square(e + ridge), posinf=0).sum(1)
                freedom = 1 - (np.nan_to_num(e / (e + ridge)).sum(1) + 1) / found.n
            left = np.maximum(found.yy[system.targets] - explained, 0)
            scored = left / np.where(freedom > 1e-6, np.square(freedom), 1)
            curve[k] += scored.sum() if (freedom > 1e-6).all() else np.inf
    return float(grid[curve.argmin() if np.isfinite(curve).any() else -1]), curve
