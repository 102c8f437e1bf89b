"""Which cluster becomes which: words are read, planted trees come out, real cells give known branches."""

import numpy as np
import pytest

from stormcell.config import UserError
from stormcell.data.transitions import connectivity, neighbouring, parse, spanning_tree

CLUSTERS = ["7MEP", "6Ery", "5Ery", "9GMP"]

# ---- words


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("6Ery>5Ery", [("6Ery", "5Ery")]),
        ("7MEP → 6Ery", [("7MEP", "6Ery")]),
        ("7MEP>6Ery>5Ery", [("7MEP", "6Ery"), ("6Ery", "5Ery")]),
        (["9GMP>7MEP", "7MEP>6Ery", "7MEP>6Ery>5Ery"], [("9GMP", "7MEP"), ("7MEP", "6Ery"), ("6Ery", "5Ery")]),
        (["5Ery>6Ery", "6Ery>5Ery"], [("5Ery", "6Ery"), ("6Ery", "5Ery")]),
    ],
)
def test_words(asked, found):
    assert parse(asked, CLUSTERS) == found


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ("6ery>5Ery", r"no cluster '6ery' \(did you mean '6Ery'\?\); clusters: 5Ery, 6Ery, 7MEP, 9GMP"),
        ("6Ery>6Ery", "from cluster '6Ery' into itself"),
        ("7MEP>6Ery>6Ery", "from cluster '6Ery' into itself"),
        ("6Ery", "'6Ery' is no transition; write SOURCE>TARGET, such as 5Ery>6Ery"),
        ("6Ery>", "'6Ery>' is no transition"),
        ([], r"data\.transitions is empty"),
    ],
)
def test_words_that_are_refused(asked, says):
    with pytest.raises(UserError, match=says):
        parse(asked, CLUSTERS)


# ---- a planted tree


def planted(seed=0, n=60):
    """R → S → T and R → U → V on a line of clumps, with time along it; names that do not sort by time."""
    place = {"R": (0, 0), "S": (4, 1), "T": (8, 2), "U": (1, -4), "V": (2, -8)}
    rng = np.random.default_rng(seed)
    clusters = np.repeat(list(place), n)
    points = np.array([place[name] for name in clusters]) + rng.normal(size=(5 * n, 2))
    return points, clusters, np.linalg.norm(points, axis=1)


TREE = [("R", "S"), ("S", "T"), ("R", "U"), ("U", "V")]


def test_a_planted_tree_comes_out_directed_by_time():
    points, clusters, time = planted()
    assert sorted(neighbouring(points, clusters, time)) == sorted(TREE)
    # Branches that run side by side in time do not lead into each other, however near they are.
    near = np.where((clusters == "U")[:, None], points + np.array([2.5, 4.2]), points)
    assert sorted(neighbouring(near, clusters, time)) == sorted(TREE)


def test_a_root_directs_the_tree_whatever_the_time():
    points, clusters, time = planted()
    assert sorted(neighbouring(points, clusters, root="R")) == sorted(TREE)
    assert sorted(neighbouring(points, clusters, time, root="T")) == sorted(
        [("T", "S"), ("S", "R"), ("R", "U"), ("U", "V")]
    )


def test_the_order_of_cells_plays_no_part():
    points, clusters, time = planted()
    order = np.random.default_rng(1).permutation(len(points))
    assert neighbouring(points[order], clusters[order], time[order]) == neighbouring(points, clusters, time)


def test_connectivity_is_one_where_clusters_are_labels_at_random():
    """The expectation of the configuration model: sizes of clusters do not make them near."""
    rng = np.random.default_rng(0)
    code = rng.choice(3, 4000, p=[0.1, 0.3, 0.6])
    ratio = connectivity(rng.normal(size=(4000, 2)), code)
    np.testing.assert_allclose(ratio[~np.eye(3, dtype=bool)], 1, atol=0.06)


def test_the_spanning_tree_is_the_best_of_all_trees():
    """Against every spanning tree of five clusters (Cayley: 125)."""
    from itertools import combinations

    import networkx as nx

    for seed in range(10):
        ratio = np.triu(np.random.default_rng(seed).lognormal(size=(5, 5)), 1)
        ratio += ratio.T
        trees = [
            t
            for t in combinations(combinations(range(5), 2), 4)
            if nx.is_connected(nx.Graph(t)) and len(nx.Graph(t)) == 5
        ]
        assert len(trees) == 125
        best = max(trees, key=lambda t: sum(np.log(ratio[i, j]) for i, j in t))
        assert spanning_tree(ratio) == sorted(best)


def test_bad_input():
    points, clusters, time = planted()
    with pytest.raises(UserError, match=r"data\.pseudotime_key, or the first cluster in data\.root"):
        neighbouring(points, clusters)
    with pytest.raises(UserError, match=r"data\.pseudotime_key: 2 of 300 training cells have no finite pseudotime"):
        neighbouring(points, clusters, np.where(np.arange(300) < 2, np.nan, time))
    with pytest.raises(UserError, match=r"data\.root: no cluster 'r' \(did you mean 'R'\?\)"):
        neighbouring(points, clusters, time, root="r")
    with pytest.raises(UserError, match="training cells are of one cluster, 'R'; a transition needs two"):
        neighbouring(points, np.full(300, "R"), time)
    far = np.where((clusters == "V")[:, None], points + 1000, points)
    with pytest.raises(UserError, match=r"data\.root: no neighbouring cells lead from 'R' to V"):
        neighbouring(far, clusters, root="R")


# ---- real cells


def test_the_branches_of_the_myeloid_progenitors(shared_data):
    """Paul et al. 2015: the erythroid chain whole, granulocytes and monocytes through 10GMP; training cells alone."""
    import anndata as ad
    from sklearn.decomposition import PCA

    cells = ad.read_h5ad(shared_data("paul2015_myeloid.h5ad"))
    points = PCA(20, random_state=0).fit_transform(cells.X.toarray())
    clusters, time = cells.obs["cluster"].to_numpy(str), cells.obs["monocle_pseudotime"].to_numpy(float)
    for seed in range(3):
        train = np.random.default_rng(seed).random(len(points)) < 0.72
        found = neighbouring(points[train], clusters[train], time[train])
        assert len(found) == 15
        chain = [("7MEP", "6Ery"), ("6Ery", "5Ery"), ("5Ery", "4Ery"), ("4Ery", "3Ery"), ("2Ery", "1Ery")]
        chain += [("9GMP", "10GMP"), ("14Mo", "15Mo"), ("15Mo", "16Neu")]
        assert set(chain) <= set(found)
