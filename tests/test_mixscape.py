"""The difference to the nearest controls, and who responded, on planted cells."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from stormcell.analysis.mixscape import NEIGHBOURS, nearest_controls, responding


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_neighbours_are_the_nearest_controls_of_the_batch_and_never_the_cell_itself(rng):
    points, control = rng.normal(size=(200, 20)).astype(np.float32), rng.random(200) < 0.5
    batch, asked, its_batch = rng.choice(["x", "y"], 200), rng.normal(size=(40, 20)), rng.choice(["x", "y"], 40)
    for cells, batches in ((points, batch), (asked, its_batch)):
        weights = nearest_controls(points, control, batch, cells, batches).toarray()
        for i, row in enumerate(weights):
            distance = np.linalg.norm(points.astype(float) - cells[i], axis=1)
            distance[~control | (batch != batches[i])] = np.inf
            if cells is points:
                distance[i] = np.inf
            expected = np.zeros(200)
            expected[np.argsort(distance)[:NEIGHBOURS]] = 1 / NEIGHBOURS
            np.testing.assert_allclose(row, expected)


def test_few_controls_are_all_neighbours_and_a_batch_without_any_takes_those_of_others(rng):
    points, control = rng.normal(size=(6, 3)), np.array([True, True, True, False, False, False])
    batch = np.array(["x", "x", "x", "x", "y", "y"])
    weights = nearest_controls(points, control, batch, points, batch).toarray()
    np.testing.assert_allclose(weights[0], [0, 1 / 2, 1 / 2, 0, 0, 0])
    np.testing.assert_allclose(weights[3:, :3], 1 / 3)
    alone = nearest_controls(points, np.arange(6) == 0, batch, points, batch).toarray()
    np.testing.assert_allclose(alone[:, 0], 1)


def world(rng, share, shift=4.0, n=1000):
    """Controls and target cells in 3 dimensions, `share` of the target moved along the first."""
    moved = np.append(np.zeros(n, bool), rng.random(n) < share)
    points = rng.normal(size=(2 * n, 3)) + shift * moved[:, None] * [1, 0, 0]
    return points, np.repeat(["control", "A"], n), moved


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_cells_that_escaped_are_told_from_those_that_responded(rng, share):
    train, condition, _ = world(rng, share)
    test, _, moved = world(rng, share)
    own = condition == "A"
    found = responding(train, condition, "control", "A", test)
    assert roc_auc_score(moved[own], found[own]) > 0.97
    assert found[own].mean() == pytest.approx(share, abs=0.06)
    # Bayes: nobody does better than to be right on these shares.
    assert np.mean((found > 0.5)[own] == moved[own]) > 0.94
    assert found[~own].mean() < share


@pytest.mark.parametrize("sign", [1, -1])
def test_the_way_of_the_target_is_positive(rng, sign):
    """Whichever way the effect points, a cell farther along it is more surely perturbed."""
    train, condition, _ = world(rng, 0.6)
    line = np.linspace(-6, 10, 50)[:, None] * np.array([1, 0, 0])
    found = responding(sign * train, condition, "control", "A", sign * line)
    assert (np.diff(found) >= 0).all() and found[0] < 1e-6 and found[-1] > 0.999


def test_a_cell_on_the_boundary_has_the_odds_of_the_shares(rng):
    """Halfway between the two means both densities are equal: P = π."""
    train, condition, _ = world(rng, 0.3, n=4000)
    assert responding(train, condition, "control", "A", np.array([[2.0, 0, 0]])) == pytest.approx(0.3, abs=0.12)


def test_without_any_difference_nobody_responded():
    points = np.tile(np.array([[0.0, 1], [1, 0]]), (5, 1))
    condition = np.repeat(["control", "A"], [4, 6])
    assert (responding(points, condition, "control", "A", points) == 0).all()
