"""Noise taken out of sparse cells by averaging over cells that are alike: k nearest neighbours, or metacells.

    x̃_n = 1/k Σ_{m ∈ N(n)} x_m,   N(n): the k nearest training cells of the cell's own group
Held-out cells are smoothed by training cells and never enter a mean.

Shapes: N cells, G genes, K coordinates (principal components), M metacells.
Source: Wagner, Yan & Yanai 2018 (k-neighbour smoothing); Baran et al. 2019 (metacells).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_matrix, issparse


def smooth(
    x: csr_matrix | np.ndarray,
    points: np.ndarray,
    groups: np.ndarray,
    k: int = 20,
    fit_rows: np.ndarray | None = None,
) -> np.ndarray:
    """Each cell as the mean of its k nearest training cells of its group: N × G, N × K, N codes → N × G dense.

    A training cell is the first of its own k, and k is at most a third of the training cells of a group: averaged over
    all of them the cells of a small group would be one. `fit_rows` are the training cells (indices or N bool), None
    all. Raises ValueError for k below 1 and a group without a training cell.
    """
    return _dense(_neighbour_mean(points, groups, k, fit_rows) @ x)


def smooth_by_metacells(
    x: csr_matrix | np.ndarray,
    points: np.ndarray,
    groups: np.ndarray,
    size: int = 20,
    fit_rows: np.ndarray | None = None,
) -> np.ndarray:
    """Each cell as the metacell of training cells that it belongs to, or that is nearest among those of its group:
    N × G, N × K, N codes → N × G dense.

    Raises ValueError as `smooth` does.
    """
    train = np.zeros(len(points), bool)
    train[slice(None) if fit_rows is None else fit_rows] = True
    groups = np.asarray(groups)
    made = metacells(x[train], points[train], groups[train], size)
    values = np.empty((len(points), x.shape[1]), made.x.dtype)
    values[train] = made.x[made.member]
    for group in np.unique(groups[~train]):
        own, asked = np.flatnonzero(made.groups == group), np.flatnonzero(~train & (groups == group))
        if not len(own):
            raise ValueError(f"group {group} has no training cell")
        values[asked] = made.x[own[_nearest(made.points[own], points[asked], 1)[:, 0]]]
    return values


def _neighbour_mean(points: np.ndarray, groups: np.ndarray, k: int, fit_rows: np.ndarray | None) -> csr_matrix:
    """Rows sum to 1: N × N."""
    groups, train = np.asarray(groups), np.zeros(len(points), bool)
    train[slice(None) if fit_rows is None else fit_rows] = True
    if k < 1 or len(groups) != len(points):
        raise ValueError(f"k={k}, {len(groups)} group codes for {len(points)} cells")
    rows, columns, weights = [], [], []
    for group in np.unique(groups):
        own, others = (np.flatnonzero((groups == group) & part) for part in (train, ~train))
        if not len(own):
            raise ValueError(f"group {group} has no training cell")
        size = min(k, max(1, len(own) // 3))
        for cells, near in (
            (own, _with_itself(points[own], size)),
            (others, _nearest(points[own], points[others], size)),
        ):
            rows.append(np.repeat(cells, size))
            columns.append(own[near].ravel())
            weights.append(np.full(len(cells) * size, 1 / size))
    place = (np.concatenate(rows), np.concatenate(columns))
    return csr_matrix((np.concatenate(weights), place), (len(points), len(points)))


def _with_itself(points: np.ndarray, k: int) -> np.ndarray:
    """Each cell and its k − 1 nearest others, also where cells lie on the same point: n × k."""
    itself = np.arange(len(points))[:, None]
    return itself if k == 1 else np.hstack([itself, _nearest(points, None, k - 1)])


def _nearest(fit: np.ndarray, asked: np.ndarray | None, k: int) -> np.ndarray:
    """The k nearest of the fitted points, for fitted points (asked None) without the point itself."""
    from sklearn.neighbors import NearestNeighbors

    if asked is not None and not len(asked):
        return np.empty((0, k), np.int64)
    return NearestNeighbors(n_neighbors=k).fit(fit).kneighbors(asked, return_distance=False)


class Metacells(NamedTuple):
    """Means of the cells that k-means puts together; no metacell crosses a group."""

    x: np.ndarray  # M × G
    points: np.ndarray  # M × K
    groups: np.ndarray  # M, as the groups of the cells
    member: np.ndarray  # N, the metacell of each cell


def metacells(
    x: csr_matrix | np.ndarray, points: np.ndarray, groups: np.ndarray, size: int = 20, seed: int = 0
) -> Metacells:
    """About `size` cells to a metacell, at least three metacells in each group of three cells: N × G, N × K, N codes.

    Hand in one part of a split at a time. The order of the cells plays no part. Raises ValueError for a size below 1.
    """
    from sklearn.cluster import KMeans

    groups = np.asarray(groups)
    if size < 1 or len(groups) != len(points):
        raise ValueError(f"size={size}, {len(groups)} group codes for {len(points)} cells")
    member, codes = np.zeros(len(points), np.int64), []
    for group in np.unique(groups):
        own = np.flatnonzero(groups == group)
        own = own[np.lexsort(points[own].T)]
        n = max(min(3, len(own)), round(len(own) / size))
        label = KMeans(n, n_init=1, random_state=seed).fit_predict(points[own]) if n > 1 else np.zeros(len(own), int)
        found, label = np.unique(label, return_inverse=True)  # fewer than n where cells lie on the same point
        member[own] = len(codes) + label
        codes += [group] * len(found)
    average = csr_matrix((1 / np.bincount(member)[member], (member, np.arange(len(member)))), (len(codes), len(member)))
    return Metacells(_dense(average @ x), average @ points, np.array(codes), member)


def _dense(values: csr_matrix | np.ndarray) -> np.ndarray:
    return values.toarray() if issparse(values) else np.asarray(values)
