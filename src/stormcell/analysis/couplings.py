"""Couplings: which cells of the target cluster stand for the future of which cells of the source cluster.

    random           P = r sᵀ: carries no regulation, the null beside every network
    nearest          the k nearest target cells of each source cell; mutual: only where each is among the other's k
    ot_sinkhorn      entropic optimal transport; ε and the relaxation τ in units of the mean squared distance
    ot_exact         optimal transport
    pseudotime_lag   target cells around the source cell's pseudotime + lag, averaged over several lags
    precomputed      the plan of another program

A rule is called with the points of both clusters (principal components); its fields are the keys of conf/coupling.

Shapes: A source cells, B target cells, K components.
Source: Cuturi 2013; Schiebinger et al. 2019 (transport between snapshots of cells).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_matrix

from stormcell.analysis.plan import Coupling, Plan, relative_cost
from stormcell.analysis.sinkhorn import sinkhorn
from stormcell.config import UserError


class Cells(NamedTuple):
    """What a rule knows of the two clusters."""

    x: np.ndarray  # A × K
    y: np.ndarray  # B × K
    time_x: np.ndarray | None  # A, pseudotime
    time_y: np.ndarray | None  # B
    names_x: np.ndarray | None  # A
    names_y: np.ndarray | None  # B

    @property
    def uniform(self) -> tuple[np.ndarray, np.ndarray]:
        return np.full(len(self.x), 1 / len(self.x)), np.full(len(self.y), 1 / len(self.y))


class Rule:
    """(x, y, what else is known of the cells) → Coupling, whose diagnostics have the `cost` of the plan: the mean
    squared distance of its pairs over that of random pairs."""

    name: str

    def __call__(
        self,
        x: np.ndarray,
        y: np.ndarray,
        time_x: np.ndarray | None = None,
        time_y: np.ndarray | None = None,
        seed: int = 0,  # for rules that draw; none of these does
        names_x: Sequence[str] | None = None,
        names_y: Sequence[str] | None = None,
    ) -> Coupling:
        """A × K, B × K, pseudotime and names of the cells → Coupling. Raises ValueError for points that are no finite
        A × K and B × K matrices, UserError where the rule's keys do not go with the cells."""
        x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or not len(x) or not len(y):
            raise ValueError(f"points of shapes {x.shape} and {y.shape}")
        if not (np.isfinite(x).all() and np.isfinite(y).all()):
            raise ValueError("points that are not finite")
        plan, found = self.plan(Cells(x, y, time_x, time_y, names_x, names_y))
        return Coupling.of(plan, self.name, cost=relative_cost(plan, x, y), **found)

    def plan(self, cells: Cells) -> tuple[Plan, dict[str, float]]:
        """The plan and the rule's own diagnostics."""
        raise NotImplementedError


@dataclass(frozen=True)
class Random(Rule):
    """Independent pairs."""

    name = "random"

    def plan(self, cells: Cells) -> tuple[Plan, dict[str, float]]:
        return np.outer(*cells.uniform), {}


@dataclass(frozen=True)
class Nearest(Rule):
    """The k nearest target cells; `mutual` leaves out source cells without a mutual neighbour."""

    name = "nearest"
    k: int = 1
    mutual: bool = False

    def plan(self, cells: Cells) -> tuple[Plan, dict[str, float]]:
        fewest = min(len(cells.x), len(cells.y)) if self.mutual else len(cells.y)
        if not (isinstance(self.k, Integral) and 1 <= self.k <= fewest):
            raise UserError(f"coupling.k={self.k}: nearest neighbours among {fewest} cells are 1 to {fewest}")
        near = _neighbours(cells.x, cells.y, self.k)
        if self.mutual:
            near = near.multiply(_neighbours(cells.y, cells.x, self.k).T).tocsr()
        degree = np.diff(near.indptr)
        if not degree.any():
            raise UserError(f"coupling.mutual=true: no pair of cells is mutual among the coupling.k={self.k} nearest")
        near.data /= np.repeat(degree, degree) * np.count_nonzero(degree)
        return near, {}


@dataclass(frozen=True)
class Sinkhorn(Rule):
    """Entropic optimal transport of uniform marginals, kept to a tolerance or, with `unbalanced`, at a price.

    `converged` is 1 where no marginal moved by more than the tolerance, relative to itself, in the last step. A plan
    with relaxed marginals is scaled to sum to 1.
    """

    name = "ot_sinkhorn"
    epsilon: float = 0.05
    unbalanced: float | None = None  # τ
    max_iterations: int = 2000
    tolerance: float = 1e-6

    def __post_init__(self) -> None:
        _check_positive(epsilon=self.epsilon, max_iterations=self.max_iterations, tolerance=self.tolerance)
        if self.unbalanced is not None:
            _check_positive(unbalanced=self.unbalanced)

    def plan(self, cells: Cells) -> tuple[Plan, dict[str, float]]:
        cost = squared_distances(cells.x, cells.y)
        plan, converged = sinkhorn(
            cost, *cells.uniform, self.epsilon, self.unbalanced, int(self.max_iterations), self.tolerance
        )
        if self.unbalanced is not None:
            total = plan.sum()
            if not total > 0:
                raise UserError(
                    f"coupling.unbalanced={self.unbalanced}: so little that no cell is coupled at all; take more"
                )
            plan /= total
        return plan, {"epsilon": float(self.epsilon), "converged": float(converged)}


@dataclass(frozen=True)
class Exact(Rule):
    """Optimal transport of uniform marginals: at most A + B − 1 pairs."""

    name = "ot_exact"

    def plan(self, cells: Cells) -> tuple[Plan, dict[str, float]]:
        import ot

        cost = squared_distances(cells.x, cells.y)
        plan, log = ot.emd(*cells.uniform, cost, numItermax=10_000_000, log=True)
        return csr_matrix(plan), {"converged": float(log["warning"] is None)}


@dataclass(frozen=True)
class PseudotimeLag(Rule):
    """Target cells around the pseudotime of the source cell + lag, by a normal kernel, averaged over the lags.

    Time is the share of cells before a cell, each cluster counting half: it has no unit, no stretch of time is empty,
    and clusters may differ in size. Clusters that do not overlap fill 0 to ½ and ½ to 1. A lag that leads farther than
    `width` from every target cell is left out for that source cell; a source cell without any lag has no partner.
    """

    name = "pseudotime_lag"
    lags: Sequence[float] = (0.1, 0.2, 0.3, 0.4)
    width: float = 0.05  # standard deviation of the kernel

    def __post_init__(self) -> None:
        _check_positive(width=self.width)
        lags = np.atleast_1d(np.asarray(self.lags, dtype=object))
        if not len(lags) or not all(isinstance(lag, Real) and -1 < lag < 1 for lag in lags):
            raise UserError(f"coupling.lags={self.lags}: shares of the cells are needed, such as [0.1, 0.2]")
        object.__setattr__(self, "lags", tuple(float(lag) for lag in lags))

    def plan(self, cells: Cells) -> tuple[Plan, dict[str, float]]:
        place_x, place_y = _places(*(_times(time, len(side)) for time, side in zip(cells[2:4], cells[:2], strict=True)))
        plan, reached = np.zeros((len(place_x), len(place_y))), np.zeros(len(place_x))
        for lag in self.lags:
            kernel = np.abs(place_y - (place_x[:, None] + lag)) / self.width
            near = kernel.min(1)
            kernel = np.exp((near[:, None] ** 2 - kernel**2) / 2)  # 1 at the nearest cell
            plan += kernel * (np.where(near <= 1, 1, 0) / kernel.sum(1))[:, None]
            reached += near <= 1
        if not reached.any():
            raise UserError(
                f"coupling.lags={list(self.lags)}: pseudotime + lag leads from no source cell to a target cell; is the "
                "source cluster the earlier one, and data.pseudotime_key the pseudotime?"
            )
        plan /= (np.maximum(reached, 1) * np.count_nonzero(reached))[:, None]
        return plan, {}


@dataclass(frozen=True)
class Precomputed(Rule):
    """The plan of another program, cells matched by name where the file has names, scaled to sum to 1."""

    name = "precomputed"
    path: str
    key: str | None = None  # of obsp or obsm in an .h5ad; None: its X

    def plan(self, cells: Cells) -> tuple[Plan, dict[str, float]]:
        from stormcell.data.plan_files import read_plan

        return read_plan(self.path, self.key, cells.names_x, cells.names_y, (len(cells.x), len(cells.y))), {}


# ---- parts


def squared_distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Squared Euclidean distances over their mean: A × K, B × K → A × B."""
    from scipy.spatial.distance import cdist

    cost = cdist(x, y, "sqeuclidean")
    mean = cost.mean()
    return cost / mean if mean > 0 else cost


def _neighbours(cells: np.ndarray, among: np.ndarray, k: int) -> csr_matrix:
    from sklearn.neighbors import NearestNeighbors

    return csr_matrix(NearestNeighbors(n_neighbors=k).fit(among).kneighbors_graph(cells))


def _check_positive(**keys: float) -> None:
    for key, value in keys.items():
        if not (isinstance(value, Real) and 0 < value < np.inf):
            raise UserError(f"coupling.{key}={value}: a number above 0 is needed")


def _times(time: np.ndarray | None, n: int) -> np.ndarray:
    """A pseudotime of every cell, or a UserError."""
    if time is None:
        raise UserError(
            "coupling=pseudotime_lag needs the pseudotime of the cells: data.pseudotime_key names its column"
        )
    time = np.asarray(time, np.float64)
    if time.shape != (n,):
        raise ValueError(f"pseudotime of shape {time.shape} for {n} cells")
    if missing := np.count_nonzero(~np.isfinite(time)):
        raise UserError(
            f"coupling=pseudotime_lag: {missing} of {n} cells of a cluster have no finite pseudotime in the column of "
            "data.pseudotime_key; data.filter can leave them out"
        )
    return time


def _places(time_x: np.ndarray, time_y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Share of cells before each cell, half of its own moment included, each cluster weighing ½: A, B."""
    sides = np.sort(time_x), np.sort(time_y)
    return tuple(
        sum(
            (np.searchsorted(side, time, "left") + np.searchsorted(side, time, "right")) / (4 * len(side))
            for side in sides
        )
        for time in (time_x, time_y)
    )
