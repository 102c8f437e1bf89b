"""Resampled cells against the spread of fresh data, and false discoveries against planted edges."""

import numpy as np
import pytest

from stormcell.analysis.couplings import Coupling
from stormcell.analysis.edge_bootstrap import (
    false_discovery,
    permuted_moments,
    resampled,
    resampled_moments,
    summary,
)
from stormcell.analysis.mask import Mask
from stormcell.analysis.masked_ridge import moments, solve

G = 4
MASK = Mask.full(G, range(3))
NAMES = ("n", "xx", "xg", "gg", "xy", "gy", "yy", "mean_x", "mean_y")


def cells(rng, n_a=80, n_b=70):
    """A place on a line, with which regulators and targets of both clusters change, and noise."""
    weights = MASK.dense(np.linspace(-1, 1, MASK.n_edges))
    x = rng.normal(size=(n_a, G))
    y = rng.normal(size=(n_b, G))
    return x, y @ weights + y + 0.5 * rng.normal(size=y.shape), y


def couple(x, hidden):
    """Cells that are alike: exp(−distance² / 2) between x and the past of y."""
    plan = np.exp(-0.5 * np.square(x[:, None] - hidden[None]).sum(-1))
    return Coupling.of(plan / plan.sum(1, keepdims=True) / len(x), "alike")


def values(fits):
    return np.array([one.values for one in fits])


def test_a_resample_is_the_plan_reweighted_by_how_often_cells_are_drawn():
    """Leaving out what was not drawn, as here, or giving it weight 0 in `Coupling.reweighted`, is one thing."""
    x, y, hidden = cells(np.random.default_rng(0))
    coupling = couple(x, hidden)
    found = list(resampled_moments(x, y, coupling, MASK.regulators, 3, np.random.default_rng(1)))
    rng = np.random.default_rng(1)
    for one in found:
        times = [np.bincount(rng.integers(len(side), size=len(side)), minlength=len(side)) for side in (x, y)]
        expected = moments(x, y, coupling.reweighted(*times), MASK.regulators)
        for name in NAMES:
            np.testing.assert_allclose(getattr(one, name), getattr(expected, name), rtol=1e-9, atol=1e-12)


def test_sparse_plans_lose_cells_without_partners():
    """A one-to-one plan: many source cells lose their only partner and drop out; the rest is a valid fit."""
    from scipy.sparse import csr_matrix

    rng = np.random.default_rng(2)
    x = rng.normal(size=(60, G))
    y = x @ MASK.dense(np.linspace(-1, 1, MASK.n_edges))
    coupling = Coupling.of(csr_matrix(np.eye(60) / 60), "given")
    for one in resampled(x, y, coupling, MASK, 0.0, 5, rng):
        np.testing.assert_allclose(one.values, np.linspace(-1, 1, MASK.n_edges), atol=1e-9)


@pytest.mark.parametrize("recouple", [0.0, 1.0])
def test_the_standard_error_is_the_spread_of_fresh_cells(recouple):
    """300 experiments with new cells and their own couplings against resamples of single ones.

    The rule couples one cell at a time, so the resample of a plan and the plan of a resample are nearly the same.
    """
    fresh = []
    for seed in range(300):
        x, y, hidden = cells(np.random.default_rng(1000 + seed))
        fresh.append(solve(moments(x, y, couple(x, hidden), MASK.regulators), MASK, 0.1).values)
    errors = []
    for seed in range(8):
        x, y, hidden = cells(np.random.default_rng(seed))
        plan = couple(x, hidden)
        fits = resampled(
            x,
            y,
            plan,
            MASK,
            0.1,
            60,
            np.random.default_rng(seed),
            recouple=recouple,
            couple=lambda a, b, x=x, hidden=hidden: couple(x[a], hidden[b]),
        )
        errors.append(summary(values(fits), fresh[0]).standard_error)
    ratio = np.mean(errors, 0) / np.std(fresh, 0)
    assert ratio.min() > 0.8 and ratio.max() < 1.3


def test_couplings_are_solved_again_in_the_share_asked_for():
    x, y, hidden = cells(np.random.default_rng(3))
    plan, seen = couple(x, hidden), []

    def again(rows, columns):
        seen.append((rows, columns))
        return couple(x[rows], hidden[columns])

    found = list(
        resampled_moments(x, y, plan, MASK.regulators, 20, np.random.default_rng(4), recouple=0.25, couple=again)
    )
    assert len(found) == 20 and len(seen) == 5
    assert all(len(rows) == len(x) and len(columns) == len(y) for rows, columns in seen)
    with pytest.raises(ValueError, match="recouple"):
        next(resampled_moments(x, y, plan, MASK.regulators, 20, np.random.default_rng(4), recouple=0.25))


def test_equal_seeds_give_equal_resamples_and_other_seeds_others():
    x, y, hidden = cells(np.random.default_rng(5))
    one, same, other = (
        values(resampled(x, y, couple(x, hidden), MASK, 0.1, 3, np.random.default_rng(seed))) for seed in (0, 0, 1)
    )
    assert (one == same).all() and (one != other).all() and (one[0] != one[1]).all()


def test_permuted_plans_keep_cells_and_marginals_and_lose_the_link():
    x, y, hidden = cells(np.random.default_rng(6))
    plan = couple(x, hidden)
    estimate = moments(x, y, plan, MASK.regulators)
    found = list(permuted_moments(x, y, plan, MASK.regulators, 200, np.random.default_rng(7)))
    for name in ("n", "xx", "xg", "gg", "mean_x", "yy", "mean_y"):
        np.testing.assert_allclose(getattr(found[0], name), getattr(estimate, name), atol=1e-12)
    null = values(solve(one, MASK, 0.1) for one in found)
    assert np.abs(null.mean(0) / (null.std(0) / np.sqrt(200))).max() < 4
    assert (np.abs(solve(estimate, MASK, 0.1).values) > 3 * null.std(0)).sum() >= 6


def test_summary_of_known_values():
    draws = np.column_stack([np.arange(1.0, 101), np.where(np.arange(100) < 25, -1, 1), np.zeros(100)])
    found = summary(draws, np.array([2.0, 5.0, 0.0]))
    assert found.low[0] == pytest.approx(1 + 0.025 * 99) and found.high[0] == pytest.approx(1 + 0.975 * 99)
    assert found.sign_stability.tolist() == [1, 0.75, 1]
    assert found.standard_error[0] == pytest.approx(np.std(np.arange(100), ddof=1)) and found.standard_error[2] == 0
    for wrong in (draws[:1], draws[:, :2]):
        with pytest.raises(ValueError, match="resamples"):
            summary(wrong, np.array([2.0, 5.0, 0.0]))


# ---- false discoveries


def test_false_discoveries_are_as_many_as_said():
    """Edges with spreads from 0.01 to 1, a tenth of them real at four times their spread; mean of 20 experiments."""
    proportion, power = [], []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        scale, real = np.geomspace(0.01, 1, 2000), rng.random(2000) < 0.1
        null = rng.normal(size=(20, 2000)) * scale
        q = false_discovery((rng.normal(size=2000) + 4 * real) * scale, null)
        claimed = q <= 0.1
        proportion.append((claimed & ~real).sum() / max(claimed.sum(), 1))
        power.append((claimed & real).sum() / real.sum())
    assert np.mean(proportion) < 0.12 and np.mean(power) > 0.8


def test_nothing_is_discovered_in_the_null():
    rng, found = np.random.default_rng(8), []
    for _ in range(40):
        scale = np.geomspace(0.01, 1, 500)
        found.append((false_discovery(rng.normal(size=500) * scale, rng.normal(size=(20, 500)) * scale) <= 0.05).any())
    assert np.mean(found) <= 0.1


def test_an_edge_is_measured_by_its_own_chance():
    """The same weight where chance gives 0.01 is found, where chance gives 1 it is not."""
    rng = np.random.default_rng(9)
    scale = np.repeat([0.01, 1.0], 50)
    q = false_discovery(np.full(100, 0.5), rng.normal(size=(50, 100)) * scale)
    assert q[:50].max() < 0.01 and q[50:].min() > 0.3


def test_q_is_counted_with_one_more_and_never_grows_with_the_weight():
    null = np.random.default_rng(10).choice([-1.0, 1.0], size=(10, 4))
    q = false_discovery(np.array([3.0, 0.5, 0.0, 5.0]), null)
    # None of 40 null weights reaches 3 or 5, all reach 0.5: (0 + 1) / 10 / 2 for two edges, (40 + 1) / 10 / 3 > 1.
    np.testing.assert_allclose(q, [0.05, 1, 1, 0.05])
    rng = np.random.default_rng(11)
    estimate = rng.normal(size=300) * 2
    null = rng.choice([-1.0, 1.0], size=(20, 300)) * np.sqrt(rng.chisquare(3, size=(20, 1)))
    q = false_discovery(estimate, null)
    assert (np.diff(q[np.argsort(np.abs(estimate))]) <= 0).all()


def test_a_constant_regulator_is_no_discovery():
    null = np.random.default_rng(12).normal(size=(10, 3))
    null[:, 1] = 0
    q = false_discovery(np.array([9.0, 0.0, 0.1]), null)
    assert q[1] == 1 and q[0] <= 0.1 and np.isfinite(q).all()
    with pytest.raises(ValueError, match="null fits"):
        false_discovery(np.zeros(2), null)
