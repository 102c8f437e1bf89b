"""Masked ridge and elastic net on couplings against scikit-learn and their own objectives; faults 1 to 7."""

import warnings

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix
from sklearn.linear_model import ElasticNet, Ridge

from stormcell.analysis import masked_ridge
from stormcell.analysis.couplings import Coupling
from stormcell.analysis.elastic_net import elastic_net
from stormcell.analysis.mask import Mask
from stormcell.analysis.masked_ridge import choose_ridge, moments, pair_moments, solve, systems

A, B, G = 60, 50, 12


def some_mask(rng, n_genes=G, regulators=6):
    """In-degrees 0 to 4; genes 0 to 5 regulate."""
    target = np.repeat(np.arange(n_genes), np.arange(n_genes) % 5)
    regulator = [
        i for j in range(n_genes) for i in rng.choice(np.setdiff1d(np.arange(regulators), j), j % 5, replace=False)
    ]
    return Mask.of(n_genes, regulator, target)


@pytest.fixture
def world():
    """Correlated cells with means far from 0, a plan with unequal marginals, and a mask."""
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(G, G)) * 0.3 + np.eye(G)
    x, y = rng.normal(size=(A, G)) @ mixing + 3, rng.normal(size=(B, G)) @ mixing - 2
    plan = rng.gamma(0.3, size=(A, B))
    return x, y, Coupling.of(plan / plan.sum(), "given"), some_mask(rng)


def columns_of(mask, target, self_edge):
    own = [target] if self_edge else []
    return np.concatenate([mask.regulator[mask.target == target], own]).astype(int)


def weights_of(mask, fitted, target, self_edge):
    return np.concatenate([fitted.values[mask.target == target], [fitted.own[target]] if self_edge else []])


# ---- against other programs


@pytest.mark.parametrize("self_edge", [True, False])
def test_every_target_is_the_weighted_ridge_of_all_pairs(world, self_edge):
    """Two thousand pairs written out, weights of the plan, scikit-learn's intercept: the moments say the same."""
    x, y, coupling, mask = world
    a, b = (side.ravel() for side in np.indices((A, B)))
    fitted = solve(moments(x, y, coupling, mask.regulators), mask, 0.3, self_edge)
    assert fitted.singular == 0
    for target in range(G):
        columns = columns_of(mask, target, self_edge)
        if not len(columns):
            assert fitted.intercept[target] == pytest.approx(coupling.target @ y[:, target])
            continue
        peer = Ridge(alpha=0.3, tol=1e-12).fit(x[a][:, columns], y[b, target], coupling.plan.ravel())
        np.testing.assert_allclose(weights_of(mask, fitted, target, self_edge), peer.coef_, rtol=1e-6, atol=1e-9)
        assert fitted.intercept[target] == pytest.approx(peer.intercept_, rel=1e-6)


def test_barycentres_say_what_the_pairs_say(world):
    x, y, coupling, mask = world
    one = moments(x, y, coupling, mask.regulators)
    other = pair_moments(x, coupling.barycentre(y), coupling.source, mask.regulators)
    for name in ("xx", "xg", "gg", "xy", "gy", "yy", "mean_x", "mean_y"):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), atol=1e-12)
    assert one.n == pytest.approx(1 / np.square(coupling.source).sum())
    assert moments(x, x, None, mask.regulators).n == pytest.approx(A)


def test_without_a_penalty_it_is_least_squares(world):
    x, _, _, mask = world
    y = np.random.default_rng(1).normal(size=x.shape)
    fitted = solve(moments(x, y, None, mask.regulators), mask, 0.0)
    for target in range(G):
        design = np.column_stack([x[:, columns_of(mask, target, True)], np.ones(A)])
        expected = np.linalg.lstsq(design, y[:, target], rcond=None)[0]
        found = np.append(weights_of(mask, fitted, target, True), fitted.intercept[target])
        np.testing.assert_allclose(found, expected, rtol=1e-7)


def test_more_regulators_than_cells():
    """Without a penalty the solution of smallest norm, told; with one the ridge."""
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(8, 20)), rng.normal(size=(8, 20))
    mask = Mask.full(20, range(15))
    found = moments(x, y, None, mask.regulators)
    fitted = solve(found, mask, 0.0, self_edge=False)
    assert fitted.singular == 20
    columns = columns_of(mask, 17, False)
    expected = np.linalg.lstsq(x[:, columns] - x[:, columns].mean(0), y[:, 17] - y[:, 17].mean(), rcond=None)[0]
    np.testing.assert_allclose(weights_of(mask, fitted, 17, False), expected, rtol=1e-6)
    peer = Ridge(alpha=0.1 * 8).fit(x[:, columns], y[:, 17])
    penalised = solve(found, mask, 0.1, self_edge=False)
    np.testing.assert_allclose(weights_of(mask, penalised, 17, False), peer.coef_, rtol=1e-6)
    assert penalised.singular == 0


def test_sparse_plans_and_small_blocks_change_nothing(world, monkeypatch):
    x, y, coupling, mask = world
    plan = coupling.plan * (coupling.plan > np.median(coupling.plan))
    plan[3] = 0  # a source cell without partners
    plan /= plan.sum()
    dense, sparse = Coupling.of(plan, "dense"), Coupling.of(csr_matrix(plan), "sparse")
    expected = solve(moments(x, y, dense, mask.regulators), mask, 0.1)
    found = moments(x, y, sparse, mask.regulators)
    np.testing.assert_allclose(solve(found, mask, 0.1).values, expected.values, rtol=1e-10)
    kept = np.arange(A) != 3
    without = moments(x[kept], y, Coupling.of(plan[kept], "dense"), mask.regulators)
    np.testing.assert_allclose(solve(without, mask, 0.1).values, expected.values, rtol=1e-10)
    assert len(list(systems(found, mask, True, limit=1))) == G  # one target at a time
    monkeypatch.setattr(masked_ridge.systems, "__defaults__", (1,))
    np.testing.assert_allclose(solve(found, mask, 0.1).values, expected.values, rtol=1e-10)


def test_float32_cells_are_enough(world):
    x, y, coupling, mask = world
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(1000, G)) + 1, rng.normal(size=(900, G))
    plan = rng.gamma(0.05, size=(1000, 900))
    coupling = Coupling.of(plan / plan.sum(), "given")
    exact, quick = (moments(x.astype(t), y.astype(t), coupling, mask.regulators) for t in (np.float64, np.float32))
    scale = np.sqrt(np.outer(np.diag(exact.xx), exact.yy))
    assert np.abs(exact.xx - quick.xx).max() < 1e-6
    assert np.abs((exact.xy - quick.xy) / scale).max() < 1e-6
    assert np.abs(exact.gg / quick.gg - 1).max() < 1e-6 and np.abs(exact.yy / quick.yy - 1).max() < 1e-6
    assert quick.xx.dtype == np.float64


# ---- faults of the source, by their number


def test_fault_1_one_asymmetric_edge():
    """y₂ = 2 x₀ and y₀ = x₀: the weight stands at row 0, column 2, and the transposed mask finds none."""
    rng = np.random.default_rng(4)
    x = rng.normal(size=(4000, 3))
    y = np.column_stack([x[:, 0], x[:, 1], 2 * x[:, 0]])
    mask = Mask.of(3, [0, 2], [2, 0])
    fitted = solve(moments(x, y, None, mask.regulators), mask, 0.0)
    matrix = mask.dense(fitted.values)
    assert matrix[0, 2] == pytest.approx(2, abs=1e-9) and matrix[2, 0] == pytest.approx(0, abs=1e-9)
    np.testing.assert_allclose(x @ matrix + x * fitted.own + fitted.intercept, y, atol=1e-9)
    np.testing.assert_allclose(fitted.predict(x, mask), y, atol=1e-9)


def test_fault_2_the_penalty_is_the_squared_weights_of_the_mask(world):
    """The gradient of the written objective, over a full matrix of which only the mask is free, is 0 there."""
    x, y, coupling, mask = world
    fitted = solve(moments(x, y, coupling, mask.regulators), mask, 0.3)
    W, s, c = (
        torch.tensor(part, requires_grad=True) for part in (mask.dense(fitted.values), fitted.own, fitted.intercept)
    )
    X, Y, P = (torch.from_numpy(part) for part in (x, y, coupling.plan))
    error = (Y[None] - (X @ W + X * s + c)[:, None]).square()
    loss = (P[..., None] * error).sum() + 0.3 * (W[mask.regulator, mask.target].square().sum() + s.square().sum())
    loss.backward()
    assert W.grad[mask.regulator, mask.target].abs().max() < 1e-10
    assert s.grad.abs().max() < 1e-10 and c.grad.abs().max() < 1e-10


def test_fault_2_twice_the_cells_leave_the_network(world):
    x, _, _, mask = world
    y = np.random.default_rng(5).normal(size=x.shape)
    one, two = (
        solve(moments(np.tile(x, (k, 1)), np.tile(y, (k, 1)), None, mask.regulators), mask, 0.3) for k in (1, 2)
    )
    np.testing.assert_allclose(one.values, two.values, rtol=1e-10)


@pytest.mark.parametrize("ridge", [0.01, 0.0])
def test_fault_3_random_pairs_carry_no_regulation(world, ridge):
    """P = r sᵀ: W = 0, and all of y is the intercept. Without centring W is rank one, whatever regulates."""
    x, y, coupling, mask = world
    random = Coupling.of(np.outer(coupling.source, coupling.target), "random")
    found = moments(x, y, random, mask.regulators)
    fitted = solve(found, mask, ridge)
    assert np.abs(fitted.values).max() < 1e-12 and np.abs(fitted.own).max() < 1e-12
    np.testing.assert_allclose(fitted.intercept, coupling.target @ y)

    mean, F = found.mean_x[mask.regulators], len(mask.regulators)
    S = found.xx + 0.01 * np.eye(F)
    uncentred = np.linalg.solve(S + np.outer(mean, mean), found.xy + np.outer(mean, found.mean_y))
    direction = np.linalg.solve(S, mean)
    np.testing.assert_allclose(uncentred, np.outer(direction, found.mean_y) / (1 + mean @ direction), atol=1e-10)
    assert np.linalg.matrix_rank(uncentred, tol=1e-8) == 1


def test_fault_4_means_belong_to_the_intercept(world):
    x, y, coupling, mask = world
    fitted = solve(moments(x, y, coupling, mask.regulators), mask, 0.3)
    moved = solve(moments(x + 5, y - 7, coupling, mask.regulators), mask, 0.3)
    np.testing.assert_allclose(moved.values, fitted.values, rtol=1e-8)
    np.testing.assert_allclose(moved.predict(x + 5, mask), fitted.predict(x, mask) - 7, rtol=1e-8)
    strong = solve(moments(x, y, coupling, mask.regulators), mask, 1e12)
    np.testing.assert_allclose(strong.predict(x, mask), np.tile(coupling.target @ y, (A, 1)), rtol=1e-6)


def test_fault_5_an_all_positive_start_changes_nothing(world):
    x, y, coupling, mask = world
    found = moments(x, y, coupling, mask.regulators)
    zero, rng = elastic_net(found, mask, 0.05, 0.02), np.random.default_rng(6)
    start = type(zero)(rng.random(mask.n_edges), rng.random(G), zero.intercept)
    np.testing.assert_allclose(elastic_net(found, mask, 0.05, 0.02, start=start).values, zero.values, atol=1e-6)


def test_fault_7_nearly_constant_genes_own_nothing(world):
    """As regulator a constant gene has weight 0, and a nearly constant target, never predicted, leaves λ alone."""
    x, y, coupling, mask = world
    chosen = choose_ridge(moments(x, y, coupling, mask.regulators), mask)[0]
    x = np.column_stack([x, np.full(A, 4.0), np.random.default_rng(7).normal(size=A)])
    y = np.column_stack([y, np.full(B, 4.0), 4 + 1e-6 * np.random.default_rng(7).normal(size=B)])
    wider = Mask.of(G + 2, [*mask.regulator, G, *range(5), *range(5)], [*mask.target, 3, *[G] * 5, *[G + 1] * 5])
    found = moments(x, y, coupling, wider.regulators)
    assert choose_ridge(found, wider)[0] == chosen
    for ridge in (0.0, 0.1):
        fitted = solve(found, wider, ridge)
        assert np.isfinite(fitted.values).all() and fitted.own[G] == 0
        assert fitted.values[wider.regulator == G] == pytest.approx(0, abs=1e-15)
        assert np.abs(fitted.values[wider.target == G]).max() < 1e-12
    old = np.isin(wider.target, np.flatnonzero(np.arange(G) != 3))
    expected = solve(moments(x[:, :G], y[:, :G], coupling, mask.regulators), mask, 0.1).values[mask.target != 3]
    np.testing.assert_allclose(fitted.values[old], expected, rtol=1e-10)


# ---- mask and self edge


def test_cells_outside_the_mask_never_enter(world):
    x, y, coupling, mask = world
    fitted = solve(moments(x, y, coupling, mask.regulators), mask, 0.1)
    target = 4
    other = np.setdiff1d(np.arange(G), columns_of(mask, target, True))
    x[:, other] = np.random.default_rng(8).normal(size=(A, len(other))) * 100
    again = solve(moments(x, y, coupling, mask.regulators), mask, 0.1)
    np.testing.assert_array_equal(weights_of(mask, again, target, True), weights_of(mask, fitted, target, True))


def test_an_empty_mask_leaves_the_self_edge(world):
    x, y, coupling, _ = world
    found = moments(x, y, coupling, np.array([0]))
    alone = solve(found, Mask.of(G, [], []), 0.1)
    np.testing.assert_allclose(alone.own, found.gy / (found.gg + 0.1))
    assert len(alone.values) == 0
    nothing = solve(found, Mask.of(G, [], []), 0.1, self_edge=False)
    assert not nothing.own.any()
    np.testing.assert_allclose(nothing.intercept, found.mean_y)


# ---- λ


def brute_gcv(x, y, weights, mask, ridge, n):
    """Hat matrices written out."""
    total, r = 0.0, weights / weights.sum()
    for target in range(G):
        columns = columns_of(mask, target, True)
        centred, left = x[:, columns] - r @ x[:, columns], y[:, target] - r @ y[:, target]
        inverse = np.linalg.inv(centred.T @ (centred * r[:, None]) + ridge * np.eye(len(columns)))
        hat = centred @ inverse @ (centred * r[:, None]).T
        total += (r @ np.square(left - hat @ left)) / (1 - (np.trace(hat) + 1) / n) ** 2
    return total


def test_gcv_is_that_of_the_hat_matrix(world):
    x, y, coupling, mask = world
    found = moments(x, y, coupling, mask.regulators)
    grid = np.geomspace(1e-3, 10, 7)
    ridge, curve = choose_ridge(found, mask, grid=grid)
    expected = [brute_gcv(x, coupling.barycentre(y), coupling.source, mask, k, found.n) for k in grid]
    np.testing.assert_allclose(curve, expected, rtol=1e-8)
    assert ridge == grid[np.argmin(expected)]


def test_gcv_is_near_leave_one_out():
    """Weak regulation in noise: the minima are within one step of the grid, and the errors there within 1 %."""
    rng = np.random.default_rng(9)
    x = rng.normal(size=(40, G))
    mask = Mask.full(G, range(10))
    y = x @ mask.dense(rng.normal(size=mask.n_edges) * 0.3) + rng.normal(size=x.shape)
    grid = np.geomspace(1e-3, 1e2, 16)
    ridge, _ = choose_ridge(moments(x, y, None, mask.regulators), mask, grid=grid)

    def left_out(k):
        error = 0.0
        for cell in range(len(x)):
            rest = np.arange(len(x)) != cell
            fitted = solve(moments(x[rest], y[rest], None, mask.regulators), mask, k)
            error += np.square(fitted.predict(x[[cell]], mask) - y[[cell]]).sum()
        return error

    errors = np.array([left_out(k) for k in grid])
    best = errors.argmin()
    assert 0 < best < len(grid) - 1  # neither extreme: the test can fail on both sides
    place = int(np.argmin(np.abs(grid - ridge)))
    assert abs(place - best) <= 1 and errors[place] < 1.01 * errors[best]


def test_gcv_without_degrees_of_freedom():
    """More regulators than cells: GCV of a λ that fits all cells is infinite; one cell leaves the largest λ."""
    rng = np.random.default_rng(10)
    x, y = rng.normal(size=(6, 30)), rng.normal(size=(6, 30))
    mask = Mask.full(30, range(20))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ridge, curve = choose_ridge(moments(x, y, None, mask.regulators), mask, grid=[0.0, 1e-9, 1.0, 10.0])
        assert np.isinf(curve[:2]).all() and np.isfinite(curve[2:]).all() and ridge >= 1
        assert choose_ridge(moments(x[:1], y[:1], None, mask.regulators), mask, grid=[0.1, 10.0])[0] == 10


# ---- elastic net


@pytest.mark.parametrize("ridge, lasso", [(0.05, 0.1), (0.3, 0.02), (0.01, 0.4)])
def test_elastic_net_is_that_of_scikit_learn(world, ridge, lasso):
    x, _, _, mask = world
    y = x @ mask.dense(np.random.default_rng(11).normal(size=mask.n_edges)) + np.random.default_rng(12).normal(
        size=x.shape
    )
    fitted = elastic_net(moments(x, y, None, mask.regulators), mask, ridge, lasso, self_edge=False)
    zeros = 0
    for target in np.flatnonzero(mask.in_degree):
        columns = columns_of(mask, target, False)
        peer = ElasticNet(alpha=ridge + lasso, l1_ratio=lasso / (ridge + lasso), tol=1e-12, max_iter=100_000)
        peer.fit(x[:, columns], y[:, target])
        found = weights_of(mask, fitted, target, False)
        np.testing.assert_allclose(found, peer.coef_, atol=1e-6)
        np.testing.assert_array_equal(found == 0, peer.coef_ == 0)
        assert fitted.intercept[target] == pytest.approx(peer.intercept_, rel=1e-5)
        zeros += (found == 0).sum()
    assert lasso < 0.1 or zeros


def test_elastic_net_between_ridge_and_self_edge(world):
    """λ₁ = 0 is the ridge; a large λ₁ leaves the self edge, which is never selected away."""
    x, y, coupling, mask = world
    found = moments(x, y, coupling, mask.regulators)
    np.testing.assert_allclose(elastic_net(found, mask, 0.1, 0.0).values, solve(found, mask, 0.1).values, atol=1e-6)
    sparse = elastic_net(found, mask, 0.1, 1e3)
    assert not sparse.values.any()
    np.testing.assert_allclose(sparse.own, found.gy / (found.gg + 0.1), rtol=1e-6)


def test_elastic_net_finds_the_planted_edges():
    rng = np.random.default_rng(13)
    mask = Mask.full(G, range(8))
    planted = rng.normal(size=mask.n_edges) * (rng.random(mask.n_edges) < 0.2)
    planted += 0.5 * np.sign(planted)
    x = rng.normal(size=(3000, G))
    y = x @ mask.dense(planted) + rng.normal(size=x.shape)
    values = elastic_net(moments(x, y, None, mask.regulators), mask, 1e-3, 0.1).values
    np.testing.assert_array_equal(np.sign(values), np.sign(planted))


def test_elastic_net_tells_of_targets_that_it_did_not_solve(world, monkeypatch):
    x, y, coupling, mask = world
    monkeypatch.setattr("stormcell.analysis.elastic_net.SWEEPS", 0)
    with pytest.warns(UserWarning, match="12 targets open after 0 sweeps"):
        elastic_net(moments(x, y, coupling, mask.regulators), mask, 0.1, 0.0)


# ---- bad input


def test_shapes_that_disagree(world):
    x, y, coupling, mask = world
    with pytest.raises(ValueError, match="a plan of shape"):
        moments(x, y[1:], coupling, mask.regulators)
    with pytest.raises(ValueError, match="weights"):
        moments(x[1:], y, coupling, mask.regulators)
    with pytest.raises(ValueError, match="x \\(60, 12\\), y \\(50, 12\\)"):
        moments(x, y, None, mask.regulators)
    with pytest.raises(ValueError, match="one above 0"):
        pair_moments(x, x, np.zeros(A), mask.regulators)
    found = moments(x, y, coupling, mask.regulators[1:])
    with pytest.raises(ValueError, match="lack"):
        solve(found, mask, 0.1)
    with pytest.raises(ValueError, match="a mask over 3 genes"):
        solve(found, Mask.of(3, [0], [1]), 0.1)
    for wrong in (-1.0, np.nan):
        with pytest.raises(ValueError, match="ridge"):
            solve(found, mask, wrong)
        with pytest.raises(ValueError, match="lasso"):
            elastic_net(found, mask, 0.1, wrong)
