"""Non-linear rivals: products that are planted are added and improve held-out cells, none are added where none are."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from stormcell import judge_nonlinear
from stormcell.analysis.couplings import Coupling
from stormcell.analysis.masked_ridge import moments
from stormcell.data.cluster_mapping import Sides
from stormcell.data.network_spec import NetworkSpec
from stormcell.evaluation.network import r_squared
from stormcell.judge_edges import cofactor_table
from stormcell.judge_nonlinear import COFACTORS, MLP, called, fit_products, nonlinear
from stormcell.models.transition import Transition

GENES = ("r0", "r1", "r2", "r3", "bent", "straight", "alone")
R, BENT, STRAIGHT, ALONE = range(4), 4, 5, 6
PAIR = {"transition": "A>B", "target": "bent", "regulator_1": "r0", "regulator_2": "r1"}
CERTAIN = pd.DataFrame([PAIR | {"q": 0.001, "low": 0.5, "high": 0.7}])


def side_of(n: int, product: float, seed: int) -> Sides:
    """One partner per cell: y_bent = x_0 − x_2 + product · x_0 x_1 + noise, y_straight = x_3 + noise; r3 is skewed."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 7)) + 3
    x[:, 3] = rng.exponential(size=n)
    y = 0.3 * rng.normal(size=(n, 7))
    y[:, BENT] += x[:, 0] - x[:, 2] + product * (x[:, 0] - 3) * (x[:, 1] - 3)
    y[:, STRAIGHT] += x[:, 3]
    return Sides(x.astype(np.float32), y.astype(np.float32), Coupling.of(np.eye(n) / n, "pairs"), (None, None))


def fitted(sides: list[Sides], ridge: float = 1e-3) -> Transition:
    """Four regulators of each of two targets."""
    pairs = (("A", "B"), ("B", "C"))[: len(sides)]
    spec = NetworkSpec(GENES, (*R, *R), (*[BENT] * 4, *[STRAIGHT] * 4), (0,) * 8, pairs, "continuous", (1.0,) * 7)
    model = Transition(spec, None, ridge=ridge, pooling="independent")
    for t, side in enumerate(sides):
        found = moments(side.x, side.y, side.coupling, model.mask.regulators)
        with torch.no_grad():
            model.mean_x[t], model.mean_y[t] = torch.from_numpy(found.mean_x), torch.from_numpy(found.mean_y)
            one = model.solved([found])[1][0]
            model.deviation[t], model.own[t] = torch.from_numpy(one.values), torch.from_numpy(one.own)
    return model


@pytest.fixture(scope="module")
def planted():
    sides = [side_of(400, 1.0, 0)]
    return fitted(sides), sides, side_of(400, 1.0, 1)


def test_a_planted_product_is_called_and_predicts_held_out_cells(planted):
    """R² of the bent target with the product is that of the noise, 1 − 0.09 / 3.09; of the ridge 2 / 3."""
    model, train, test = planted
    data = type("Data", (), {"spec": model.spec})
    pairs = called(cofactor_table(model, data, train))
    named = set(zip(pairs["target"], pairs["regulator_1"], pairs["regulator_2"], strict=True))
    assert ("bent", "r0", "r1") in named
    predictors, notes = nonlinear(model, train, pairs)
    linear = r_squared(test.y, model.predict(test.x, 0))
    for name, least in ((COFACTORS, 0.94), (MLP, 0.8)):
        found = r_squared(test.y, predictors[name](test.x, 0))
        assert linear[BENT] == pytest.approx(2 / 3, abs=0.06) and found[BENT] > least
        assert found[STRAIGHT] == pytest.approx(linear[STRAIGHT], abs=0.08)
    assert notes == [f"ridge with co-factors: products called in 1 of 1 transitions, {len(pairs)} in all"]


def test_products_are_the_joint_least_squares(planted):
    """Without a penalty the two steps are one regression on the linear columns and the products together."""
    _, (side,), test = planted
    model = fitted([side], ridge=1e-9)
    pairs = np.array([[0, 1], [2, 3]])
    x, left = side.x, side.y[:, BENT] - model.predict(side.x, 0)[:, BENT]
    found = fit_products(x, left, side.coupling.source, model, BENT, pairs)

    def columns(cells):
        centred = cells.astype(float) - x.mean(0)
        products = [centred[:, i] * centred[:, k] for i, k in pairs]
        return np.column_stack([np.ones(len(cells)), centred[:, [*R, BENT]], *products])

    joint = np.linalg.lstsq(columns(x), side.y[:, BENT], rcond=None)[0]
    np.testing.assert_allclose(found.weight, joint[-2:], atol=1e-4)
    said = model.predict(test.x, 0)[:, BENT] + found.add(test.x)
    np.testing.assert_allclose(said, columns(test.x) @ joint, atol=1e-3)


def test_weights_of_cells_are_their_number():
    """A cell of twice the weight is two cells."""
    side = side_of(30, 1.0, 2)
    model = fitted([side])
    left, pairs = side.y[:, BENT], np.array([[0, 1]])
    twice = np.append(np.arange(30), np.arange(10))
    weights = np.where(np.arange(30) < 10, 2, 1) / 40
    one = fit_products(side.x, left, weights, model, BENT, pairs)
    other = fit_products(side.x[twice], left[twice], np.full(40, 1 / 40), model, BENT, pairs)
    np.testing.assert_allclose(one.weight, other.weight, rtol=1e-4)


def test_only_the_target_and_the_transition_of_a_pair_change():
    sides = [side_of(100, 1.0, 3), side_of(100, 1.0, 4)]
    model = fitted(sides)
    predict = nonlinear(model, sides, CERTAIN)[0][COFACTORS]
    x = sides[0].x
    changed = np.abs(predict(x, 0) - model.predict(x, 0)).max(0) > 1e-6
    np.testing.assert_array_equal(changed, np.arange(7) == BENT)
    np.testing.assert_allclose(predict(x, 1), model.predict(x, 1), rtol=1e-6)


def test_uncertain_pairs_are_not_called():
    table = pd.concat([CERTAIN, CERTAIN.assign(q=0.2), CERTAIN.assign(low=-0.1), CERTAIN.assign(low=-2.0, high=-1.0)])
    assert called(table)["low"].tolist() == [0.5, -2.0]
    side = side_of(60, 0.0, 5)
    predictors, notes = nonlinear(fitted([side]), [side], CERTAIN.assign(q=0.2))
    assert COFACTORS not in predictors and any("none was called" in note for note in notes)
    assert COFACTORS not in nonlinear(fitted([side]), [side], pd.DataFrame())[0]


def test_mlp_sees_its_regulators_alone_and_says_the_mean_elsewhere(planted):
    model, train, test = planted
    predict = nonlinear(model, train, pd.DataFrame())[0][MLP]
    np.testing.assert_allclose(predict(test.x, 0)[:, ALONE], train[0].y[:, ALONE].mean(), rtol=1e-5)
    moved = test.x.copy()
    moved[:, ALONE] += 5
    np.testing.assert_allclose(predict(moved, 0), predict(test.x, 0))
    few = side_of(12, 1.0, 6)  # too few cells for a network
    predict = nonlinear(fitted([few]), [few], pd.DataFrame())[0][MLP]
    np.testing.assert_allclose(predict(test.x, 0), np.broadcast_to(few.y.mean(0), test.x.shape), rtol=1e-5)


def test_large_networks_are_told_and_not_fitted(planted, monkeypatch):
    model, train, _ = planted
    monkeypatch.setattr(judge_nonlinear, "MOST_WEIGHTS", 7)
    predictors, notes = nonlinear(model, train, pd.DataFrame())
    assert MLP not in predictors and "8 edges of all transitions are more than 7" in notes[0]
