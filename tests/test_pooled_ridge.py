"""Shared and deviating networks against the written objective, its normal equations and both limits."""

import numpy as np
import pytest
import torch
from scipy.linalg import block_diag

from stormcell.analysis import pooled_ridge
from stormcell.analysis.couplings import Coupling
from stormcell.analysis.mask import Mask
from stormcell.analysis.masked_ridge import moments, solve
from stormcell.analysis.pooled_ridge import pooled, pooled_moments

G, CELLS = 8, (30, 50, 20)


@pytest.fixture
def world():
    """Three transitions of different sizes, plans and means, and a mask with in-degrees 0 to 3."""
    rng = np.random.default_rng(0)
    target = np.repeat(np.arange(G), np.arange(G) % 4)
    regulator = [i for j in range(G) for i in rng.choice(np.setdiff1d(np.arange(5), j), j % 4, replace=False)]
    sides = []
    for cells in CELLS:
        plan = rng.gamma(0.3, size=(cells, cells + 5))
        mixing = np.eye(G) + 0.3 * rng.normal(size=(G, G))
        coupling = Coupling.of(plan / plan.sum(), "given")
        sides.append((rng.normal(size=(cells, G)) @ mixing + 2, rng.normal(size=(cells + 5, G)) - 1, coupling))
    return sides, Mask.of(G, regulator, target)


def all_moments(world):
    sides, mask = world
    return [moments(*side, mask.regulators) for side in sides]


@pytest.mark.parametrize("self_edge", [True, False])
def test_the_gradient_of_the_written_objective_is_zero(world, self_edge):
    """Over all pairs of all plans, each field of W₀, D_t, s_t and c_t free: the solution is where nothing pulls."""
    sides, mask = world
    found = all_moments(world)
    share = np.array([one.n for one in found]) / sum(one.n for one in found)
    shared, deviations = pooled(found, mask, 0.2, 0.7, self_edge)
    W0, loss, free = torch.tensor(shared.values, requires_grad=True), 0.0, []
    for p, (x, y, coupling), part in zip(share, sides, deviations, strict=True):
        fields = (part.values, part.own, part.intercept)
        D, s, c = (torch.tensor(field, requires_grad=True) for field in fields)
        W = torch.zeros(G, G, dtype=torch.float64).index_put(
            (torch.from_numpy(mask.regulator), torch.from_numpy(mask.target)), W0 + D
        )
        x, y, plan = (torch.from_numpy(array) for array in (x, y, coupling.plan))
        error = (y[None] - (x @ W + x * s + c)[:, None]).square()
        loss = loss + p * ((plan[..., None] * error).sum() + 0.7 * D.square().sum() + 0.2 * s.square().sum())
        free += [D, c, *([s] if self_edge else [])]
    (loss + 0.2 * W0.square().sum()).backward()
    assert all(field.grad.abs().max() < 1e-10 for field in [W0, *free])
    assert self_edge or not any(part.own.any() for part in deviations)


def test_one_system_for_everything_says_the_same(world):
    """Shared and deviating columns side by side in one least-squares problem, without any elimination."""
    _, mask = world
    found = all_moments(world)
    share = np.array([one.n for one in found]) / sum(one.n for one in found)
    shared, deviations = pooled(found, mask, 0.2, 0.7, self_edge=False)
    row = {gene: k for k, gene in enumerate(mask.regulators)}
    for target in np.flatnonzero(mask.in_degree):
        of = mask.target == target
        R = [row[i] for i in mask.regulator[of]]
        grams = [p * one.xx[np.ix_(R, R)] for p, one in zip(share, found, strict=True)]
        crosses = [p * one.xy[R, target] for p, one in zip(share, found, strict=True)]
        gram = block_diag(sum(grams), *grams)
        gram[: len(R), len(R) :] = np.hstack(grams)
        gram[len(R) :, : len(R)] = np.vstack(grams)
        penalty = np.repeat([0.2, *(0.7 * share)], len(R))
        expected = np.linalg.solve(gram + np.diag(penalty), np.concatenate([sum(crosses), *crosses]))
        np.testing.assert_allclose(
            np.concatenate([shared.values[of], *(part.values[of] for part in deviations)]), expected, rtol=1e-8
        )


@pytest.mark.parametrize("stiff", [1e9, np.inf])
def test_stiff_deviations_are_one_ridge_on_the_pooled_cells(world, stiff):
    """Every transition centred on its own and weighed by its cells."""
    sides, mask = world
    shared, deviations = pooled(all_moments(world), mask, 0.2, stiff, self_edge=False)
    rows, targets, weights = [], [], []
    for (x, y, coupling), one in zip(sides, all_moments(world), strict=True):
        rows.append(x - one.mean_x)
        targets.append(coupling.barycentre(y) - one.mean_y)
        weights.append(coupling.source * one.n)
    x, y, w = np.vstack(rows), np.vstack(targets), np.concatenate(weights)
    together = Coupling.of(np.diag(w / w.sum()), "pooled")
    expected = solve(moments(x, y, together, mask.regulators), mask, 0.2, self_edge=False)
    np.testing.assert_allclose(shared.values, expected.values, rtol=1e-6, atol=1e-9)
    assert max(np.abs(part.values).max() for part in deviations) < 1e-6


def test_no_shared_part_leaves_independent_ridges(world):
    _, mask = world
    found = all_moments(world)
    for self_edge, ridge in ((False, 1e12), (True, 0.05)):
        shared, deviations = pooled(found, mask, ridge, 1e-9 if self_edge else 0.05, self_edge)
        for one, part in zip(found, deviations, strict=True):
            if not self_edge:  # λ → ∞ holds W₀ at 0, and each transition has the penalty λ_D
                alone = solve(one, mask, 0.05, False)
                np.testing.assert_allclose((shared + part).values, alone.values, rtol=1e-6)
                np.testing.assert_allclose((shared + part).intercept, alone.intercept, rtol=1e-6)
        if self_edge:  # λ_D → 0: nothing is left for W₀ to explain
            assert np.abs(shared.values).max() < 1e-6


def test_equal_transitions_share_by_their_penalties(world):
    """min λ w₀² + λ_D d² at w₀ + d fixed: D = λ / λ_D W₀, and the sum is a ridge with λ λ_D / (λ + λ_D)."""
    _, mask = world
    one = all_moments(world)[0]
    shared, deviations = pooled([one, one], mask, 0.2, 0.7, self_edge=False)
    for part in deviations:
        np.testing.assert_allclose(part.values, 0.2 / 0.7 * shared.values, rtol=1e-8)
    expected = solve(one, mask, 0.2 * 0.7 / 0.9, self_edge=False)
    np.testing.assert_allclose((shared + deviations[0]).values, expected.values, rtol=1e-8)


def test_the_sum_predicts_the_means_of_its_transition(world):
    sides, mask = world
    shared, deviations = pooled(all_moments(world), mask, 0.2, 0.7)
    for (x, y, coupling), part in zip(sides, deviations, strict=True):
        predicted = (shared + part).predict(x, mask)
        np.testing.assert_allclose(coupling.source @ predicted, coupling.target @ y, rtol=1e-10)


def test_a_rewired_edge_is_the_largest_deviation():
    """The same network in four transitions but for one edge switched off in one of them."""
    rng, mask = np.random.default_rng(1), Mask.full(G, range(5))
    weights = rng.normal(size=mask.n_edges)
    weights[7] = 1.5
    found = []
    for t in range(4):
        present = weights * np.where((np.arange(mask.n_edges) == 7) & (t == 2), 0, 1)
        x = rng.normal(size=(400, G))
        found.append(moments(x, x @ mask.dense(present) + 0.5 * rng.normal(size=x.shape), None, mask.regulators))
    _, deviations = pooled(found, mask, 1e-3, 0.3)
    sizes = np.abs([part.values for part in deviations])
    assert np.unravel_index(sizes.argmax(), sizes.shape) == (2, 7) and deviations[2].values[7] < 0


def test_partial_pooling_is_nearer_to_the_truth_than_single_transitions():
    """Few cells each and networks that differ little: what transitions have in common is learnt from all of them."""
    rng, mask = np.random.default_rng(2), Mask.full(G, range(6))
    truth, found = rng.normal(size=mask.n_edges), []
    own = truth + 0.2 * rng.normal(size=(6, mask.n_edges))
    for t in range(6):
        x = rng.normal(size=(25, G))
        found.append(moments(x, x @ mask.dense(own[t]) + 2 * rng.normal(size=x.shape), None, mask.regulators))
    shared, deviations = pooled(found, mask, 0.02, 2.0)
    together = np.mean([np.square((shared + part).values - w).mean() for part, w in zip(deviations, own, strict=True)])
    single = [
        np.mean([np.square(solve(one, mask, ridge).values - w).mean() for one, w in zip(found, own, strict=True)])
        for ridge in np.geomspace(1e-3, 10, 9)
    ]
    assert together < 0.7 * min(single)


def test_constant_genes_empty_masks_and_small_blocks(world, monkeypatch):
    sides, mask = world
    for x, *_ in sides:
        x[:, mask.regulators[0]] = 3.0
    found = all_moments(world)
    with_penalty = pooled(found, mask, 0.2, 0.7)[0]
    assert with_penalty.singular == 0
    assert not with_penalty.values[mask.regulator == mask.regulators[0]].any()
    without, parts = pooled(found, mask, 0.0, 0.7)
    assert without.singular > 0 and np.isfinite(without.values).all()
    assert all(np.isfinite(part.own).all() and part.own[mask.regulators[0]] == 0 for part in parts)
    monkeypatch.setattr(pooled_ridge, "BLOCK", 1)
    np.testing.assert_allclose(pooled(found, mask, 0.2, 0.7)[0].values, with_penalty.values, rtol=1e-12)
    nothing, alone = pooled(found, Mask.of(G, [], []), 0.2, 0.7)
    assert not len(nothing.values)
    np.testing.assert_allclose(alone[1].own, found[1].gy / (found[1].gg + 0.2))


@pytest.mark.parametrize("ridge, deviation", [(-1, 1), (np.nan, 1), (1, 0), (1, np.nan)])
def test_penalties_that_leave_no_answer(world, ridge, deviation):
    with pytest.raises(ValueError, match="transitions, ridge"):
        pooled(all_moments(world), world[1], ridge, deviation)
    with pytest.raises(ValueError, match="0 transitions"):
        pooled([], world[1], 1.0, 1.0)


def test_pooled_moments_are_those_of_the_centred_cells_together():
    rng = np.random.default_rng(3)
    sides = [(rng.normal(size=(n, G)) + n, rng.normal(size=(n, G)) - n) for n in CELLS]
    found = pooled_moments([moments(x, y, None, np.arange(5)) for x, y in sides])
    x, y = (np.concatenate([side[k] - side[k].mean(0) for side in sides]) for k in (0, 1))
    expected = moments(x, y, None, np.arange(5))
    assert found.n == pytest.approx(sum(CELLS))
    for name in ("xx", "xg", "gg", "xy", "gy", "yy"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), atol=1e-12)
