"""Neighbours of cells and the graph that they make.

A_ij = 1 where i is among the k nearest of j or j among those of i, else 0; no cell is its own neighbour.

Shapes: N cells, K coordinates, M cells asked about, k neighbours.
Source: Dong, Moses & Li 2011 (nearest-neighbour descent, in pynndescent); exact search by scikit-learn.
"""

from __future__ import annotations

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import connected_components

EXACT = 30_000**2  # distances; below this exact search is faster than the compilation of pynndescent alone
METRICS = ("euclidean", "cosine")


def neighbours(
    points: np.ndarray, k: int = 15, metric: str = "euclidean", seed: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest of every cell, itself left out, nearest first: N × K → indices and distances, N × k each.

    Exact up to 30,000 cells, nearest-neighbour descent above. The cosine distance is 1 − cosine.
    Raises ValueError for no more cells than neighbours, numbers that are not finite, and a cosine of a zero vector.
    """
    points = _checked(points, metric)
    if not 1 <= k < len(points):
        raise ValueError(f"fewer cells than neighbours: {len(points)} cells, k = {k} besides the cell itself")
    if len(points) ** 2 <= EXACT:
        distances, indices = _exact(points, k, metric).kneighbors()
        return indices.astype(np.int64), distances
    indices, distances = _descent(points, k + 1, metric, seed).neighbor_graph
    return _without_self(points, indices, distances, k, metric)


def query_neighbours(
    points: np.ndarray, asked: np.ndarray, k: int = 15, metric: str = "euclidean", seed: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """The k of `points` nearest to every cell of `asked`: N × K, M × K → indices and distances, M × k each."""
    points, asked = _checked(points, metric), _checked(asked, metric)
    if points.shape[1] != asked.shape[1]:
        raise ValueError(f"{points.shape[1]} coordinates of the graph's cells, {asked.shape[1]} of the others")
    if not 1 <= k <= len(points):
        raise ValueError(f"fewer cells than neighbours: {len(points)} cells, k = {k}")
    if len(points) * len(asked) <= EXACT:
        distances, indices = _exact(points, k, metric).kneighbors(asked)
        return indices.astype(np.int64), distances
    indices, distances = _descent(points, k, metric, seed).query(asked, k=k)
    return _completed(points, asked, indices.astype(np.int64), distances, metric)


def graph(indices: np.ndarray, n: int) -> sparse.csr_matrix:
    """Adjacency of the union of the neighbour lists: N × k → N × N, symmetric, 0/1, no self edges."""
    indices = np.asarray(indices)
    if indices.shape[0] != n or indices.min(initial=0) < 0 or indices.max(initial=0) >= n:
        raise ValueError(f"neighbours of {len(indices)} cells, indices up to {indices.max(initial=0)}, for {n} cells")
    row = np.repeat(np.arange(n, dtype=np.int32), indices.shape[1])
    directed = sparse.csr_matrix((np.ones(row.size, np.float32), (row, indices.ravel().astype(np.int32))), (n, n))
    union = directed.maximum(directed.T).tocsr()
    union.setdiag(0)
    union.eliminate_zeros()
    union.data[:] = 1
    return union


def components(adjacency: sparse.csr_matrix) -> np.ndarray:
    """Connected component of every cell, the largest component 0: N."""
    labels = connected_components(adjacency, directed=False)[1]
    by_size = np.argsort(-np.bincount(labels), kind="stable")
    place = np.empty_like(by_size)
    place[by_size] = np.arange(len(by_size))
    return place[labels]


# ---- search


def _checked(points: np.ndarray, metric: str) -> np.ndarray:
    points = np.ascontiguousarray(points)
    if metric not in METRICS:
        raise ValueError(f"metric {metric!r}: {' or '.join(METRICS)}")
    if points.ndim != 2 or not np.isfinite(points).all():
        raise ValueError(f"coordinates of shape {points.shape}, or not finite")
    if metric == "cosine" and not np.square(points).sum(1).all():
        raise ValueError("a cell of all zero coordinates has no cosine")
    return points


def _exact(points: np.ndarray, k: int, metric: str):
    from sklearn.neighbors import NearestNeighbors

    return NearestNeighbors(n_neighbors=k, metric=metric, algorithm="brute").fit(points)


def _descent(points: np.ndarray, k: int, metric: str, seed: int):
    from pynndescent import NNDescent

    return NNDescent(points.astype(np.float32, copy=False), n_neighbors=k, metric=metric, random_state=seed)


def _without_self(
    points: np.ndarray, indices: np.ndarray, distances: np.ndarray, k: int, metric: str
) -> tuple[np.ndarray, np.ndarray]:
    """Lists of k + 1 without the cell itself; where it is not in its list (duplicates), without the farthest."""
    own = indices == np.arange(len(indices))[:, None]
    own[~own.any(1), -1] = True
    kept = (indices[~own].reshape(-1, k).astype(np.int64), distances[~own].reshape(-1, k))
    lacking = np.flatnonzero((kept[0] < 0).any(1))
    if lacking.size:
        near = _exact(points, k + 1, metric).kneighbors(points[lacking])
        itself = near[1] == lacking[:, None]
        itself[~itself.any(1), -1] = True
        kept[0][lacking], kept[1][lacking] = near[1][~itself].reshape(-1, k), near[0][~itself].reshape(-1, k)
    return kept


def _completed(
    points: np.ndarray, asked: np.ndarray, indices: np.ndarray, distances: np.ndarray, metric: str
) -> tuple[np.ndarray, np.ndarray]:
    """Lists in which the descent found too few (index −1) are searched exactly."""
    lacking = np.flatnonzero((indices < 0).any(1))
    if lacking.size:
        near = _exact(points, indices.shape[1], metric).kneighbors(asked[lacking])
        distances[lacking], indices[lacking] = near
    return indices, distances
