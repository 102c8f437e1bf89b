"""Co-factors: a planted product is found and measured, linear worlds stay empty, intervals cover after selection."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm
from scipy.stats import t as student

from stormcell.analysis.cofactors import _halves, _score_statistics, cofactors
from stormcell.analysis.mask import Mask


def linear_world(seed: int, n: int = 600, n_genes: int = 60, regulators: int = 10, noise: float = 1.0):
    """x of correlated genes in other units than 1, y linear in the regulators of a random mask."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 5)) @ rng.normal(size=(5, n_genes)) * 0.4 + rng.normal(size=(n, n_genes))
    x = 3 + 2 * x
    drawn = [rng.choice(np.setdiff1d(np.arange(20), [j]), regulators, replace=False) for j in range(n_genes)]
    mask = Mask.of(n_genes, np.concatenate(drawn), np.repeat(np.arange(n_genes), regulators))
    W = mask.dense(rng.normal(size=mask.n_edges) * 0.3)
    return x, x @ W + noise * rng.normal(size=(n, n_genes)), mask, rng


def with_product(seed: int = 0, strength: float = 0.8):
    """Target 40 has strength · z_i z_k of two of its regulators on top, z standardised."""
    x, y, mask, _ = linear_world(seed)
    i, k = mask.regulator[mask.target == 40][[2, 6]]
    z = (x - x.mean(0)) / x.std(0)
    y[:, 40] += strength * z[:, i] * z[:, k]
    return x, y, mask, (40, min(i, k), max(i, k))


def excludes_zero(table) -> np.ndarray:
    return ((table["low"] > 0) | (table["high"] < 0)).to_numpy()


def test_planted_product_is_first_with_its_strength():
    x, y, mask, pair = with_product()
    table = cofactors(x, y, None, mask)
    first = table.iloc[0]
    assert (first["target"], first["regulator_1"], first["regulator_2"]) == pair
    assert first["q"] < 1e-6 and first["low"] < 0.8 < first["high"] and abs(first["weight"] - 0.8) < 0.2
    assert first["n_screened"] == 60 * 45
    assert ((table["q"] < 0.05) & excludes_zero(table))[1:].sum() == 0


def test_negative_product_has_negative_weight():
    x, y, mask, pair = with_product(strength=-0.8)
    first = cofactors(x, y, None, mask).iloc[0]
    assert (first["target"], first["regulator_1"], first["regulator_2"]) == pair and first["high"] < 0


def test_linear_worlds_give_no_cofactor():
    """Benjamini–Hochberg at 5 %: a false call in at most some of the worlds, not in each."""
    called = [(cofactors(*linear_world(seed)[:2], None, linear_world(seed)[2])["q"] < 0.05).any() for seed in range(10)]
    assert sum(called) <= 2


def test_p_is_uniform_where_nothing_acts():
    """Unequal variance, as of counts, included."""
    x, y, mask, rng = linear_world(3, noise=0)
    y = y + rng.normal(size=y.shape) * np.exp(0.3 * (x[:, [0]] - 3) / 2)
    screen, _ = _halves(x, y, None, mask, 0)
    p = []
    for target in range(60):
        rows = mask.regulator[mask.target == target]
        z = _score_statistics(screen, target, rows, *np.triu_indices(10, 1), 1e-3)
        p.append(2 * norm.sf(np.abs(z)))
    p = np.concatenate(p)
    assert 0.03 < (p < 0.05).mean() < 0.07 and 0.45 < p.mean() < 0.55


def test_interval_covers_although_the_pair_was_chosen_for_its_t():
    """Screened and estimated on the same cells the same intervals fail: that is what the halves are for."""
    honest, same = [], []
    for seed in range(4):
        x, y, mask, _ = linear_world(seed)
        honest.append(excludes_zero(cofactors(x, y, None, mask, per_target=1)))
        # Every cell twice, with seeds that put one copy in each half: what it screens is what it estimates.
        order = np.random.default_rng([0, 0]).permutation(2 * len(x))
        doubled = np.empty(2 * len(x), int)
        doubled[order] = np.tile(np.arange(len(x)), 2)
        same.append(excludes_zero(cofactors(x[doubled], y[doubled], None, mask, per_target=1)))
    assert np.mean(np.concatenate(honest)) < 0.09
    assert np.mean(np.concatenate(same)) > 0.3


def test_score_statistic_equals_the_robust_formula_pair_by_pair():
    """Second implementation: least squares with weights, one pair after another in float64."""
    x, y, mask, rng = linear_world(5, n=200)
    weights = rng.gamma(3, size=200)
    screen, _ = _halves(x, y, weights, mask, 0)
    target, rows = 7, mask.regulator[mask.target == 7]
    screen.y[target] += screen.x[rows[0]] * screen.x[rows[1]]
    first, second = np.triu_indices(10, 1)
    z = _score_statistics(screen, target, rows, first, second, 1e-9)
    root = np.sqrt(screen.weights)
    linear = np.column_stack([np.ones(100), screen.x[rows].T, screen.x[target]]) * root[:, None]
    hat = linear @ np.linalg.pinv(linear)
    error = root * screen.y[target] - hat @ (root * screen.y[target])
    checked = 0
    for k in range(len(first)):
        product = root * screen.x[rows[first[k]]] * screen.x[rows[second[k]]]
        own = product - hat @ product
        expected = own @ error / np.sqrt(np.square(own) @ np.square(error / (1 - np.diag(hat))))
        free = 100 - 12 - 1
        if abs(expected) > 2:  # HC3 of the joint least squares
            joint = np.column_stack([product, linear])
            inverse, h = np.linalg.inv(joint.T @ joint), np.diag(joint @ np.linalg.pinv(joint))
            v = inverse @ joint.T @ (root * screen.y[target])
            meat = joint.T * np.square((root * screen.y[target] - joint @ v) / (1 - h)) @ joint
            expected = v[0] / np.sqrt((inverse @ meat @ inverse)[0, 0])
            free = min(free, (own @ own) ** 2 / np.sum(own**4))
            checked += 1
        as_normal = np.sign(expected) * norm.isf(student.sf(abs(expected), free))
        assert z[k] == pytest.approx(as_normal, rel=2e-3, abs=2e-3)
    assert checked


def test_numbers_of_the_genes_and_the_order_of_a_pair_do_not_matter():
    x, y, mask, _ = with_product(2)
    old = cofactors(x, y, None, mask, keep=20)
    moved = np.arange(60)[::-1]  # gene g is now 59 − g: every pair comes in the other order
    turned = Mask.of(60, moved[mask.regulator], moved[mask.target])
    new = cofactors(x[:, ::-1], y[:, ::-1], None, turned, keep=20)
    names = ["target", "regulator_1", "regulator_2"]
    assert (new[names[1]] < new[names[2]]).all()
    for old_name, new_name in zip(names, [names[0], names[2], names[1]], strict=True):
        np.testing.assert_array_equal(old[old_name], 59 - new[new_name])
    np.testing.assert_allclose(old["weight"], new["weight"], rtol=1e-8)
    np.testing.assert_allclose(old["p"], new["p"], rtol=1e-2)


def test_own_curve_of_a_regulator_is_no_cofactor():
    """y of x_i² with x_k correlated to x_i: the screen may see a product, the interval with squares does not."""
    rng, outside, screened = np.random.default_rng(0), [], []
    for _ in range(60):
        x = rng.normal(size=(400, 4))
        x[:, 1] = 0.8 * x[:, 0] + 0.6 * x[:, 1]
        y = rng.normal(size=(400, 4))
        y[:, 3] += x[:, 0] ** 2
        row = cofactors(x, y, None, Mask.of(4, [0, 1], [3, 3])).iloc[[0]]
        outside.append(excludes_zero(row)[0])
        screened.append(row["p"].iloc[0] < 0.05)
    assert np.mean(screened) > 0.9 and np.mean(outside) < 0.15


def test_one_cell_alone_is_no_cofactor():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(400, 3)), rng.normal(size=(400, 3))
    mask = Mask.of(3, [0, 1], [2, 2])
    x[5, :2], y[5, 2] = 30, 500
    assert cofactors(x, y, None, mask)["p"].min() > 0.05


def test_inflation_of_cells_that_are_not_independent():
    """Every cell eight times over: t is √8 too large, the factor takes it back."""
    x, y, mask, _ = linear_world(4, n=300)
    table = cofactors(np.repeat(x, 8, 0), np.repeat(y, 8, 0), None, mask)
    assert 2 < table["inflation"].iloc[0] < 3.5 and (table["q"] > 0.05).all()
    assert 1 <= cofactors(x, y, None, mask)["inflation"].iloc[0] < 1.2


def test_cells_without_weight_have_no_part():
    x, y, mask, _ = with_product()
    weights = np.ones(600)
    without = cofactors(x, y, weights, mask, keep=10)
    spoiled = np.full((50, 60), np.nan)
    table = cofactors(np.vstack([x, spoiled]), np.vstack([y, spoiled]), np.append(weights, np.zeros(50)), mask, keep=10)
    np.testing.assert_array_equal(without.to_numpy(), table.to_numpy())
    np.testing.assert_allclose(cofactors(x, y, 7 * weights, mask, keep=10).to_numpy(float), without.to_numpy(float))


def test_weights_choose_the_population_whose_product_is_measured():
    x, y, mask, (target, one, two) = with_product()
    z = (x - x.mean(0)) / x.std(0)
    first = np.arange(600) < 300
    y[~first, target] -= 1.6 * (z[:, one] * z[:, two])[~first]
    signs = [cofactors(x, y, np.where(side, 1, 0.02), mask, keep=1).iloc[0] for side in (first, ~first)]
    assert signs[0]["low"] > 0 > signs[1]["high"] and all(row["target"] == target for row in signs)


def test_constant_genes_and_targets_of_one_regulator_have_no_pairs():
    x, y, mask, pair = with_product()
    x[:, 3], y[:, 5] = 1.5, 2.5
    table = cofactors(x, y, None, mask)
    assert np.isfinite(table.to_numpy(float)).all()
    assert not table[["regulator_1", "regulator_2"]].isin([3]).any().any() and 5 not in set(table["target"])
    assert tuple(table.iloc[0][["target", "regulator_1", "regulator_2"]]) == pair
    assert len(cofactors(x, y, None, Mask.of(60, [0, 1], [10, 11]))) == 0


def test_per_target_and_keep():
    x, y, mask, _ = with_product()
    assert cofactors(x, y, None, mask, per_target=2)["target"].value_counts().max() == 2
    assert len(cofactors(x, y, None, mask, keep=7)) == 7


def test_more_regulators_than_cells():
    x, y, mask, _ = linear_world(1, n=24, regulators=18)
    table = cofactors(x, y, None, mask)
    assert np.isfinite(table.to_numpy(float)).all() and (table["q"] > 0.05).all()


def test_equal_seed_equal_table():
    x, y, mask, _ = with_product()
    first, again, other = (cofactors(x, y, None, mask, seed=seed) for seed in (1, 1, 2))
    assert first.equals(again) and not first.equals(other)


@pytest.mark.parametrize("fault", ["shape", "weights", "nan", "few"])
def test_bad_input(fault):
    x, y, mask, _ = linear_world(0, n=40)
    weights = np.ones(40)
    if fault == "shape":
        y = y[:-1]
    elif fault == "weights":
        weights[0] = -1
    elif fault == "nan":
        x[0, 0] = np.nan
    else:
        weights[10:] = 0
    with pytest.raises(ValueError):
        cofactors(x, y, weights, mask)
