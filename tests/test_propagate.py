"""Propagation of a held regulator: by hand on a chain, as powers of W, bounded on a cycle, in natural units."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from stormcell.analysis.propagate import knocked_down, knocked_out, over_expressed, propagate

WIDE = {"lowest": np.full(4, -1e9), "highest": np.full(4, 1e9)}


@pytest.fixture
def chain():
    """A → B → C with weights 2 and −3; D is alone."""
    W = np.zeros((4, 4))
    W[0, 1], W[1, 2] = 2, -3
    return W


@pytest.fixture
def cells():
    return np.random.default_rng(0).uniform(1, 5, (6, 4))


def test_chain_by_hand(chain, cells):
    a = cells[:, 0]
    one, two, three = (propagate(cells, [chain], 0, knocked_out(cells, 0), steps, **WIDE).cells for steps in (1, 2, 3))
    zero = np.zeros(6)
    np.testing.assert_allclose(one, np.column_stack([-a, -2 * a, zero, zero]))
    np.testing.assert_allclose(two, np.column_stack([-a, -2 * a, 6 * a, zero]))
    np.testing.assert_allclose(three, two)  # held at every step, so what it causes stays


def test_rows_regulate_columns(chain, cells):
    """B acts on C and not back on A."""
    shift = propagate(cells, [chain], 1, 0.0, 3, **WIDE).shift
    assert shift[0] == 0 and shift[2] == pytest.approx(3 * cells[:, 1].mean())


def test_one_step_is_delta_times_w(cells):
    W = np.random.default_rng(1).normal(size=(4, 4))
    found = propagate(cells, [csr_matrix(W)], 2, 7.0, 1, **WIDE).cells
    delta = np.zeros((6, 4))
    delta[:, 2] = 7 - cells[:, 2]
    expected = delta @ W
    expected[:, 2] = delta[:, 2]
    np.testing.assert_allclose(found, expected)


def test_sum_over_paths_that_do_not_return(cells):
    """Δ_S = d Σ_{k ≤ S} e_r Vᵏ with V = W without the edges into r."""
    W = np.random.default_rng(2).normal(size=(4, 4))
    V = W.copy()
    V[:, 1] = 0
    total = sum(np.linalg.matrix_power(V, k)[1] for k in range(6))
    found = propagate(cells, [W], 1, 0.0, 5, **WIDE).cells
    np.testing.assert_allclose(found, np.outer(-cells[:, 1], total))


def test_transitions_in_order(cells):
    """The first W makes B of A, the second C of B: only in this order does A reach C in one step each."""
    first, second = np.zeros((4, 4)), np.zeros((4, 4))
    first[0, 1], second[1, 2] = 1, 1
    np.testing.assert_allclose(
        propagate(cells, [first, second], 0, 0.0, 1, **WIDE).shift, -cells[:, 0].mean() * np.array([1, 0, 1, 0])
    )
    np.testing.assert_allclose(
        propagate(cells, [second, first], 0, 0.0, 1, **WIDE).shift, -cells[:, 0].mean() * np.array([1, 1, 0, 0])
    )


def test_self_effect_carries_a_shift_on(cells):
    first, second = np.zeros((4, 4)), np.zeros((4, 4))
    first[0, 1], second[1, 1] = 1, 0.5
    assert propagate(cells, [first, second], 0, 0.0, 1, **WIDE).shift[1] == pytest.approx(-0.5 * cells[:, 0].mean())


def test_cycle_ends_at_the_observed_range(cells):
    """B and C make each other, gain 4 per round: without bounds 4¹⁰⁰."""
    W = np.zeros((4, 4))
    W[0, 1], W[1, 2], W[2, 1], W[1, 3] = 1, 2, 2, -1
    lowest, highest = np.zeros(4), np.array([6.0, 6, 6, 6])
    middle = 0.4 * cells + 2  # between 2.4 and 4
    perturbed = middle + propagate(middle, [W], 0, over_expressed(middle, 0, highest, 2.0), 200, lowest, highest).cells
    np.testing.assert_allclose(perturbed[:, 0], 12)  # the held level is not clipped
    np.testing.assert_allclose(perturbed[:, 1:3], 6)
    np.testing.assert_allclose(perturbed[:, 3], np.maximum(middle[:, 3] - (6 - middle[:, 1]), 0))


def test_cells_outside_the_given_range_do_not_move_by_themselves(cells):
    shift = propagate(cells, [np.zeros((4, 4))], 0, 0.0, 2, lowest=np.full(4, 2.0), highest=np.full(4, 3.0)).cells
    np.testing.assert_array_equal(shift[:, 1:], 0)


def test_standardised_weights_in_natural_units(cells):
    """In sd of each gene with standardised weights, or in natural units with W sd_j / sd_i: the same shift."""
    rng, scale = np.random.default_rng(3), np.array([0.5, 2, 4, 0.1])
    W = rng.normal(size=(4, 4))
    natural = propagate(cells, [W / scale[:, None] * scale], 0, 0.0, 3).cells
    standard = propagate((cells - 3) / scale, [W], 0, (0 - 3) / scale[0], 3).cells
    np.testing.assert_allclose(natural, standard * scale)


def test_levels(cells):
    np.testing.assert_array_equal(knocked_out(cells, 1), 0)
    np.testing.assert_allclose(knocked_down(cells, 1, 0.25), cells[:, 1] / 4)
    np.testing.assert_allclose(over_expressed(cells, 1, cells.max(0)), cells[:, 1].max())
    down, out = (
        propagate(cells, [np.eye(4)[[1, 2, 3, 0]]], 1, level(cells, 1), 2, **WIDE).cells
        for level in (lambda x, r: knocked_down(x, r, 0.25), knocked_out)
    )
    np.testing.assert_allclose(down, 0.75 * out)
    with pytest.raises(ValueError, match="between 0 and 1"):
        knocked_down(cells, 1, 1.5)
    with pytest.raises(ValueError, match="factor"):
        over_expressed(cells, 1, cells.max(0), 0)


def test_level_already_there_moves_nothing(chain, cells):
    assert not propagate(cells, [chain], 0, cells[:, 0], 4).cells.any()


@pytest.mark.parametrize(
    "change",
    [
        {"regulator": 4},
        {"steps": 0},
        {"networks": []},
        {"networks": [np.zeros((3, 3))]},
        {"level": np.nan},
        {"highest": np.ones(3)},
        {"lowest": np.ones(3)},
    ],
)
def test_bad_input(chain, cells, change):
    with pytest.raises(ValueError):
        propagate(**({"x": cells, "networks": [chain], "regulator": 0, "level": 0.0} | change))
