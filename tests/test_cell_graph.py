"""Neighbours against a distance matrix, and the graph against its definition."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from stormcell.analysis import cell_graph
from stormcell.analysis.cell_graph import components, graph, neighbours, query_neighbours


@pytest.fixture(scope="module")
def points():
    return np.random.default_rng(0).normal(size=(120, 5))


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_exact_neighbours_are_those_of_the_distance_matrix(points, metric):
    full = cdist(points, points, metric)
    np.fill_diagonal(full, np.inf)
    indices, distances = neighbours(points, 7, metric)
    np.testing.assert_array_equal(indices, full.argsort(1)[:, :7])
    np.testing.assert_allclose(distances, np.sort(full, 1)[:, :7], atol=1e-7)
    asked = points[:20] + 0.3
    np.testing.assert_array_equal(
        query_neighbours(points, asked, 7, metric)[0], cdist(asked, points, metric).argsort(1)[:, :7]
    )


class Descent:
    """In place of pynndescent, whose compilation takes a minute: exact, itself in its list, some lists too short.

    What the real search finds is measured by benchmarks/laplacian.py.
    """

    def __init__(self, points, k, metric, seed):
        self.points, self.metric = points, metric
        self.neighbor_graph = self.query(points, k)

    def query(self, asked, k):
        full = cdist(asked, self.points, self.metric)
        indices = full.argsort(1)[:, :k]
        indices[::10, -2:] = -1
        return indices.astype(np.int32), np.sort(full, 1)[:, :k]


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_lists_of_the_descent_are_cleared_and_completed(points, metric, monkeypatch):
    asked = points[:20] + 0.3
    exact, exact_asked = neighbours(points, 7, metric), query_neighbours(points, asked, 7, metric)
    monkeypatch.setattr(cell_graph, "EXACT", 0)
    monkeypatch.setattr(cell_graph, "_descent", Descent)
    for found, true in (
        (neighbours(points, 7, metric), exact),
        (query_neighbours(points, asked, 7, metric), exact_asked),
    ):
        np.testing.assert_array_equal(found[0], true[0])
        np.testing.assert_allclose(found[1], true[1], atol=1e-7)


def test_duplicate_cells_are_neighbours_but_never_their_own(points):
    many = np.concatenate([points, np.repeat(points[:1], 9, axis=0)])  # ten equal cells, more than k
    indices, distances = neighbours(many, 5)
    assert not (indices == np.arange(len(many))[:, None]).any()
    assert (distances[[0, *range(120, 129)]] == 0).all()


def test_lists_without_the_cell_itself_lose_the_farthest():
    lists = np.array([[0, 2, 1], [0, 2, 3], [2, 0, -1], [3, 1, 0]])
    distances = np.array([[0, 1.0, 2.0]] * 4)
    points = np.array([[0.0], [1.0], [1.9], [5.0]])
    indices, _ = cell_graph._without_self(points, lists, distances, 2, "euclidean")
    np.testing.assert_array_equal(indices, [[2, 1], [0, 2], [1, 0], [1, 0]])  # the third searched exactly


def test_graph_is_the_union(points):
    indices = neighbours(points, 4)[0]
    directed = np.zeros((120, 120))
    np.put_along_axis(directed, indices, 1, axis=1)
    np.testing.assert_array_equal(graph(indices, 120).toarray(), np.maximum(directed, directed.T))


def test_components_largest_first():
    lists = np.array([[1], [0], [3], [4], [2]])
    np.testing.assert_array_equal(components(graph(lists, 5)), [1, 1, 0, 0, 0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: (x[:7], 7, "euclidean"), "fewer cells than neighbours"),
        (lambda x: (np.where(x > 2, np.nan, x), 7, "euclidean"), "not finite"),
        (lambda x: (x * (np.arange(120) > 0)[:, None], 7, "cosine"), "no cosine"),
        (lambda x: (x, 7, "manhattan"), "euclidean or cosine"),
    ],
)
def test_what_has_no_neighbours_is_refused(points, change, message):
    with pytest.raises(ValueError, match=message):
        neighbours(*change(points))
    if "fewer" in message:
        assert neighbours(points[:8], 7)[0].shape == (8, 7)
        with pytest.raises(ValueError, match=message):
            query_neighbours(points[:6], points, 7)
