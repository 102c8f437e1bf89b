"""The mask of a network: order, refusals, blocks, shuffles."""

import numpy as np
import pytest

from stormcell.analysis.mask import Mask


def mask():
    return Mask.of(6, [3, 0, 1, 4, 0, 5], [2, 2, 0, 1, 1, 4], [1, -1, 0, 1, 1, -1])


def test_edges_are_sorted_by_target_then_regulator_with_their_signs():
    found = mask()
    assert found.target.tolist() == [0, 1, 1, 2, 2, 4] and found.regulator.tolist() == [1, 0, 4, 0, 3, 5]
    assert found.sign.tolist() == [0, 1, 1, -1, 1, -1]
    assert found.in_degree.tolist() == [1, 2, 2, 0, 1, 0] and found.out_degree.tolist() == [2, 1, 0, 1, 1, 1]
    assert found.regulators.tolist() == [0, 1, 3, 4, 5]


def test_rows_regulate_columns():
    """One asymmetric edge fixes the orientation."""
    one = Mask.of(3, [0], [2])
    matrix = one.dense(np.array([7.0]))
    assert matrix[0, 2] == 7 and np.count_nonzero(matrix) == 1
    x = np.array([[1.0, 0, 0]])
    assert (x @ matrix).tolist() == [[0, 0, 7]]


def test_blocks_hold_every_edge_once():
    found = mask()
    seen = []
    for targets, regulators, edges in found.blocks():
        assert regulators.shape == edges.shape == (len(targets), edges.shape[1])
        assert (found.target[edges] == targets[:, None]).all() and (found.regulator[edges] == regulators).all()
        assert (found.in_degree[targets] == edges.shape[1]).all()
        seen += edges.ravel().tolist()
    assert sorted(seen) == list(range(found.n_edges))


def test_a_shuffled_mask_keeps_the_in_degrees_and_no_self_edge():
    found = Mask.full(40, np.arange(12))
    few = Mask.of(
        40,
        *(part[np.random.default_rng(0).permutation(found.n_edges)[:150]] for part in (found.regulator, found.target)),
    )
    other = few.shuffled(np.random.default_rng(1))
    assert (other.in_degree == few.in_degree).all() and (other.regulator != other.target).all()
    assert set(other.regulators) <= set(few.regulators)
    assert (few.dense(np.ones(150)) * other.dense(np.ones(150))).sum() < 0.6 * 150


def test_a_full_mask_leaves_self_edges_out():
    found = Mask.full(5, [1, 3])
    assert found.n_edges == 5 * 2 - 2 and found.in_degree.tolist() == [2, 1, 2, 1, 2]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((3, [0, 0], [1, 1]), "more than once"),
        ((3, [1], [1]), "self edge"),
        ((3, [0], [3]), "not among the 3"),
        ((3, [-1], [1]), "not among the 3"),
        ((3, [0, 1], [1]), "2 regulators, 1 targets"),
        ((3, [0], [1], [2]), "signs"),
    ],
)
def test_what_is_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        Mask.of(*arguments)


def test_an_empty_mask():
    empty = Mask.of(4, [], [])
    assert empty.n_edges == 0 and empty.blocks() == [] and empty.shuffled(np.random.default_rng(0)).n_edges == 0
