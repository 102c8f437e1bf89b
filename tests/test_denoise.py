"""Smoothing and metacells: means over the right cells, none of them held out, whatever the order of the cells."""

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from stormcell.analysis.denoise import metacells, smooth, smooth_by_metacells


@pytest.fixture
def world():
    """40 cells × 6 genes in 3 coordinates, two groups of equal place, 30 training cells."""
    rng = np.random.default_rng(0)
    x, points = rng.poisson(2.0, (40, 6)).astype(np.float32), rng.normal(size=(40, 3))
    return x, points, np.arange(40) % 2, np.sort(rng.permutation(40)[:30])


def by_hand(x, points, groups, k, train):
    """Every cell by a sort of all distances."""
    made = np.zeros(x.shape)
    for n in range(len(x)):
        own = [m for m in train if groups[m] == groups[n]]
        own.sort(key=lambda m: np.linalg.norm(points[m] - points[n]))
        made[n] = x[own[: min(k, len(own) // 3)]].mean(0)
    return made


@pytest.mark.parametrize("k", [1, 3, 7])
def test_a_cell_is_the_mean_of_its_nearest_training_cells(world, k):
    x, points, groups, train = world
    expected = by_hand(x, points, groups, k, train)
    np.testing.assert_allclose(smooth(x, points, groups, k, train), expected, atol=1e-6)
    np.testing.assert_allclose(smooth(csr_matrix(x), points, groups, k, train), expected, atol=1e-6)


def test_one_neighbour_leaves_training_cells_as_they_are_even_on_one_point(world):
    x, points, groups, train = world
    points = np.zeros_like(points)
    np.testing.assert_array_equal(smooth(x, points, groups, 1, train)[train], x[train])
    mean = smooth(x, points, groups, 2, train)
    own = np.array([any(np.allclose(mean[n], (x[n] + x[m]) / 2) for m in train if m != n) for n in train])
    assert own.all()


def test_no_held_out_cell_enters_a_mean(world):
    x, points, groups, train = world
    held = np.setdiff1d(np.arange(40), train)
    other_x, other_points = x.copy(), points.copy()
    other_x[held] = np.nan
    np.testing.assert_array_equal(smooth(other_x, points, groups, 5, train), smooth(x, points, groups, 5, train))
    other_points[held] += 100
    np.testing.assert_array_equal(
        smooth(x, other_points, groups, 5, train)[train], smooth(x, points, groups, 5, train)[train]
    )


def test_cells_of_a_small_group_do_not_become_one(world):
    """At most a third of the group is averaged; a group of one training cell is that cell."""
    x, points, groups, train = world
    np.testing.assert_allclose(smooth(x, points, groups, 100, train), by_hand(x, points, groups, 100, train), atol=1e-6)
    alone = np.where(np.arange(40) == train[0], 2, groups)
    np.testing.assert_array_equal(smooth(x, points, alone, 100, train)[train[0]], x[train[0]])


def test_smoothing_does_not_know_the_order_of_cells_and_takes_a_mask(world):
    x, points, groups, train = world
    order = np.random.default_rng(1).permutation(40)
    chosen = np.zeros(40, bool)
    chosen[train] = True
    moved = smooth(x[order], points[order], groups[order], 4, chosen[order])
    np.testing.assert_allclose(moved, smooth(x, points, groups, 4, train)[order], atol=1e-6)


def test_what_cannot_be_smoothed(world):
    x, points, groups, train = world
    with pytest.raises(ValueError, match="k=0"):
        smooth(x, points, groups, 0, train)
    with pytest.raises(ValueError, match="group 1 has no training cell"):
        smooth(x, points, groups, 2, train[groups[train] == 0])


# ---- metacells


def test_metacells_are_means_within_groups_and_find_planted_clumps():
    rng = np.random.default_rng(0)
    clump = np.repeat(np.arange(6), 10)
    groups = np.array(["A", "B"])[clump % 2]
    points = 50.0 * np.eye(6)[clump] + rng.normal(size=(60, 6))
    x = rng.poisson(3.0, (60, 4)).astype(np.float32)
    made = metacells(csr_matrix(x), points, groups, size=10)
    assert len(made.x) == 6
    for code in range(6):
        inside = made.member == code
        assert len(set(clump[inside])) == 1  # the clumps are found
        assert set(groups[inside]) == {made.groups[code]}
        np.testing.assert_allclose(made.x[code], x[inside].mean(0), rtol=1e-6)
        np.testing.assert_allclose(made.points[code], points[inside].mean(0), rtol=1e-6)


def test_metacells_do_not_know_the_order_of_cells(world):
    x, points, groups, _ = world
    order = np.random.default_rng(1).permutation(40)
    one, other = metacells(x, points, groups, 5, seed=3), metacells(x[order], points[order], groups[order], 5, seed=3)
    np.testing.assert_array_equal(other.member, one.member[order])
    np.testing.assert_allclose(other.x, one.x, rtol=1e-6)


def test_metacells_of_a_small_group_and_of_cells_on_one_point(world):
    x, points, groups, _ = world
    made = metacells(x, points, groups, size=1000)
    assert np.bincount(made.groups).tolist() == [3, 3]  # cells of one metacell would be alike
    few = metacells(x[:2], points[:2], np.zeros(2, int), size=1000)
    np.testing.assert_allclose(np.sort(few.x, 0), np.sort(x[:2], 0), rtol=1e-6)
    assert metacells(x, np.zeros_like(points), groups, size=5).x.shape == (2, 6)
    with pytest.raises(ValueError, match="size=0"):
        metacells(x, points, groups, size=0)


def test_cells_are_smoothed_by_metacells_of_training_cells_alone(world):
    x, points, groups, train = world
    held = np.setdiff1d(np.arange(len(points)), train)
    said = smooth_by_metacells(x, points, groups, 5, train)
    made = metacells(x[train], points[train], groups[train], 5)
    np.testing.assert_allclose(said[train], made.x[made.member], rtol=1e-6)
    for cell in held:
        own = np.flatnonzero(made.groups == groups[cell])
        near = own[np.square(made.points[own] - points[cell]).sum(1).argmin()]
        np.testing.assert_allclose(said[cell], made.x[near], rtol=1e-6)
    other = x.copy()
    other[held] = 0
    np.testing.assert_array_equal(smooth_by_metacells(other, points, groups, 5, train), said)
    with pytest.raises(ValueError, match="group 1 has no training cell"):
        smooth_by_metacells(x, points, groups, 2, train[groups[train] == 0])
