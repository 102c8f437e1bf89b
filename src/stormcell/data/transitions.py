"""Which cluster becomes which: pairs that the user names, or neighbours along a trajectory.

Two clusters are as near as their cells are more often neighbours than under the configuration model of the graph,
    c_ij = m · e_ij / (d_i d_j)
(e_ij edges between them, d_i ends of edges in cluster i, m = Σ d_i). With pseudotime every cluster but the first comes
from the nearest of those that are clearly earlier: a cell of theirs is earlier than one of its own with probability
EARLIER, so that branches which run side by side do not lead into each other. With a root the spanning tree of greatest
Σ log c is directed away from it. Only training cells should come here.

Shapes: N cells, K principal components, C clusters.
Source: Wolf et al. 2019 (PAGA: connectivity over its expectation, and its tree), with another null model.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from stormcell.config import UserError, nearest

ARROWS = (">", "→")
EARLIER = 0.6


def parse(asked: str | Sequence[str], clusters: Sequence[str], key: str = "data.transitions") -> list[tuple[str, str]]:
    """`6Ery>5Ery`, a chain `7MEP>6Ery>5Ery`, or a list of them → (source, target), each once, in the order asked.

    `key` is the config key they stand under. Raises UserError for a cluster that is not there, for a transition of a
    cluster into itself and for what is no transition.
    """
    found: list[tuple[str, str]] = []
    for entry in [asked] if isinstance(asked, str) else asked:
        names = [name.strip() for name in str(entry).replace(ARROWS[1], ARROWS[0]).split(ARROWS[0])]
        if len(names) < 2 or "" in names:
            raise UserError(
                f"{key}: {str(entry)!r} is no transition; write SOURCE>TARGET, such as {_example(clusters)}"
            )
        for name in names:
            _known(name, clusters, key)
        for source, target in pairwise(names):
            if source == target:
                raise UserError(f"{key}: {entry!r} goes from cluster {source!r} into itself; name two clusters")
            found.append((source, target))
    if not found:
        raise UserError(f"{key} is empty; write SOURCE>TARGET, such as {_example(clusters)}")
    return list(dict.fromkeys(found))


def _known(name: str, clusters: Sequence[str], key: str) -> None:
    present = sorted(set(map(str, clusters)))
    if name not in present:
        raise UserError(f"{key}: no cluster {name!r}{nearest(name, present)}; clusters: {', '.join(present)}")


def _example(clusters: Sequence[str]) -> str:
    return ">".join([*sorted(set(map(str, clusters))), "A", "B"][:2])


def neighbouring(
    points: np.ndarray,
    clusters: np.ndarray,
    pseudotime: np.ndarray | None = None,
    root: str | None = None,
    k: int = 15,
) -> list[tuple[str, str]]:
    """The transitions of a trajectory: N × K, N labels, N or a root → (source, target), sorted by time.

    With a root pseudotime is not looked at. Raises UserError where neither is there, a pseudotime is NaN, the root is
    no cluster, clusters are not connected with it, or there are fewer than two.
    """
    names, code = np.unique(np.asarray(clusters).astype(str), return_inverse=True)
    if len(names) < 2:
        raise UserError(
            f"data.cluster_key: all training cells are of one cluster, {str(names[0])!r}; a transition needs two"
        )
    if root is None:
        pseudotime = _checked_time(pseudotime)
        edges = _parents(connectivity(points, code, k), pseudotime, code)
        order = np.argsort([np.median(pseudotime[code == cluster]) for cluster in range(len(names))], kind="stable")
    else:
        _known(root, names, "data.root")
        edges = spanning_tree(connectivity(points, code, k))
        order = _walk(edges, list(names).index(root), names)
    rank = np.argsort(order)
    directed = sorted(
        ((i, j) if rank[i] < rank[j] else (j, i) for i, j in edges), key=lambda e: (rank[e[0]], rank[e[1]])
    )
    return [(str(names[i]), str(names[j])) for i, j in directed]


def _parents(ratio: np.ndarray, pseudotime: np.ndarray, code: np.ndarray) -> list[tuple[int, int]]:
    """(parent, child) of every cluster but the earliest: the best connected of those that are clearly earlier."""
    from scipy.stats import mannwhitneyu

    times = [pseudotime[code == cluster] for cluster in range(len(ratio))]
    median = np.array([np.median(time) for time in times])
    found = []
    for child in range(len(ratio)):
        before = [p for p in range(len(ratio)) if (median[p], p) < (median[child], child)]
        if not before:
            continue
        chance = [mannwhitneyu(times[child], times[p]).statistic / len(times[child]) / len(times[p]) for p in before]
        clear = [p for p, share in zip(before, chance, strict=True) if share >= EARLIER]
        clear = clear or [before[int(np.argmax(chance))]]
        found.append((max(clear, key=lambda p: (ratio[p, child], p)), child))
    return found


def connectivity(points: np.ndarray, code: np.ndarray, k: int = 15) -> np.ndarray:
    """Edges between clusters in the k-neighbour graph over their expectation: N × K, N codes → C × C, diagonal 0."""
    from sklearn.neighbors import kneighbors_graph

    graph = kneighbors_graph(points, min(k, len(points) - 1))
    graph = ((graph + graph.T) > 0).astype(float)
    member = np.eye(code.max() + 1)[code]
    between = member.T @ (graph @ member)
    ends = between.sum(1)
    ratio = between * ends.sum() / np.outer(ends, ends)
    np.fill_diagonal(ratio, 0)
    return ratio


def spanning_tree(ratio: np.ndarray) -> list[tuple[int, int]]:
    """Edges of the maximum spanning tree of C × C connectivities; a forest where clusters are not connected."""
    from scipy.sparse import csr_matrix
    from scipy.sparse.csgraph import minimum_spanning_tree

    i, j = np.nonzero(np.triu(ratio))
    # 1 / c sorts as −log c does and is never 0, which would be no edge.
    tree = minimum_spanning_tree(csr_matrix((1 / ratio[i, j], (i, j)), ratio.shape)).tocoo()
    return sorted(zip(tree.row.tolist(), tree.col.tolist(), strict=True))


def _checked_time(pseudotime: np.ndarray | None) -> np.ndarray:
    if pseudotime is None:
        raise UserError(
            "neighbouring clusters need a direction: set data.pseudotime_key, or the first cluster in data.root, "
            "or name the transitions in data.transitions"
        )
    pseudotime = np.asarray(pseudotime, float)
    missing = int((~np.isfinite(pseudotime)).sum())
    if missing:
        raise UserError(
            f"data.pseudotime_key: {missing} of {len(pseudotime)} training cells have no finite pseudotime; leave them "
            "out with data.filter, or direct the transitions with data.root"
        )
    return pseudotime


def _walk(tree: list[tuple[int, int]], root: int, names: np.ndarray) -> np.ndarray:
    """Clusters in breadth-first order from the root."""
    order, near = [root], {i: set() for i in range(len(names))}
    for i, j in tree:
        near[i].add(j)
        near[j].add(i)
    for cluster in order:
        order += sorted(near[cluster] - set(order))
    if lost := sorted(set(range(len(names))) - set(order)):
        raise UserError(
            f"data.root: no neighbouring cells lead from {str(names[root])!r} to {', '.join(names[lost])}; "
            "name the transitions in data.transitions"
        )
    return np.array(order)
