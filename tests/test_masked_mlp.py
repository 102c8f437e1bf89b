"""Masked MLP: sees only the regulators, is one network per target, learns what a ridge cannot, stops at no signal."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from stormcell.analysis.mask import Mask
from stormcell.nn.masked_mlp import MaskedMLP, _Best, _blocks, fit


def mask_of_three_degrees() -> Mask:
    """Gene 4 has no regulator."""
    return Mask.of(6, [0, 1, 2, 0, 3, 5, 1, 2, 4], [1, 0, 0, 2, 2, 2, 3, 5, 5])


def random_model(mask: Mask, self_edge: bool = False) -> MaskedMLP:
    """With parameters that are not those of the start."""
    generator = torch.Generator().manual_seed(0)
    model = MaskedMLP(_blocks(mask, self_edge), 4, mask.n_genes, generator)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(generator=generator)
        for name in ("x_mean", "y_mean"):
            getattr(model, name).normal_(generator=generator)
        for name in ("x_scale", "y_scale"):
            getattr(model, name).uniform_(0.5, 2, generator=generator)
    return model


@pytest.mark.parametrize("self_edge", [False, True])
def test_gradient_is_zero_outside_the_mask_and_only_there(self_edge):
    mask = mask_of_three_degrees()
    model = random_model(mask, self_edge)
    x = torch.randn(3, 6, generator=torch.Generator().manual_seed(1))
    jacobian = torch.autograd.functional.jacobian(lambda cells: model(cells).sum(0), x)  # target × cell × gene
    reached = (jacobian.abs().sum(1) > 0).T.numpy()
    allowed = mask.dense(np.ones(mask.n_edges)) > 0
    np.testing.assert_array_equal(reached, allowed | (np.eye(6, dtype=bool) & self_edge))


def test_equals_separate_networks():
    mask = mask_of_three_degrees()
    model = random_model(mask)
    x = torch.randn(7, 6, generator=torch.Generator().manual_seed(1))
    found, standard = model(x), (x - model.x_mean) / model.x_scale
    for block, (targets, regulators, _) in enumerate(mask.blocks()):
        for row, target in enumerate(targets):
            own = nn.Sequential(nn.Linear(regulators.shape[1], 4), nn.SiLU(), nn.Linear(4, 1))
            own[0].weight.data = model.first[block][row]
            own[0].bias.data = model.bias[block][row, :, 0]
            own[2].weight.data = model.second[block][row]
            own[2].bias.data = model.intercept[target : target + 1]
            expected = model.y_mean[target] + model.y_scale[target] * own(standard[:, regulators[row]])[:, 0]
            torch.testing.assert_close(found[:, target], expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found[:, 4], (model.y_mean + model.y_scale * model.intercept)[4].expand(7))


def r2(y: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    return 1 - np.square(y - predicted).mean(0) / y.var(0)


def predict(model: MaskedMLP, x: np.ndarray) -> np.ndarray:
    return model(torch.as_tensor(x, dtype=torch.float32)).numpy()


def test_learns_xor_that_ridge_cannot():
    from sklearn.linear_model import Ridge

    rng = np.random.default_rng(0)

    def draw(n):
        on = rng.integers(0, 2, (n, 4))
        x = 5 * on + 0.3 * rng.normal(size=(n, 4))
        y = rng.normal(size=(n, 4))
        y[:, 3] = 10 + 4 * (on[:, 0] ^ on[:, 1]) + 0.2 * rng.normal(size=n)
        return x, y

    (x, y), (x_new, y_new) = draw(600), draw(400)
    model = fit(x, y, None, Mask.of(4, [0, 1, 2], [3, 3, 3]))
    assert r2(y_new, predict(model, x_new))[3] > 0.95
    linear = Ridge().fit(x, y[:, 3]).predict(x_new)
    assert r2(y_new[:, 3], linear) < 0.05


def test_linear_truth_is_nearly_reached():
    from sklearn.linear_model import LinearRegression

    rng = np.random.default_rng(1)
    mask = Mask.full(10, [0, 1, 2, 3])
    W = mask.dense(rng.normal(size=mask.n_edges))
    x, x_new = rng.normal(size=(2, 800, 10))
    y, y_new = (cells @ W + rng.normal(size=cells.shape) for cells in (x, x_new))
    ceiling = r2(y_new, LinearRegression().fit(x[:, :4], y).predict(x_new[:, :4]))
    assert (r2(y_new, predict(fit(x, y, None, mask), x_new)) > ceiling - 0.08).all()


def test_without_signal_it_stays_near_the_mean():
    """Over targets and draws; a single target may have been lucky on the cells held back."""
    mask, found = Mask.full(30, np.arange(15)), []
    for seed in range(3):
        x, y, x_new, y_new = np.random.default_rng(seed).normal(size=(4, 300, 30))
        found.append(r2(y_new, predict(fit(x, 5 + y, None, mask), x_new) - 5))
    assert np.median(found) > -0.02 and np.mean(found) > -0.06


def test_each_target_keeps_its_own_best_step():
    """A step that helps target 0 and harms the others is kept for target 0 alone."""
    mask = mask_of_three_degrees()
    model = random_model(mask)
    x = torch.randn(20, 6, generator=torch.Generator().manual_seed(1))
    first = model(x).detach()
    best = _Best(model, x, first + 1, torch.ones(20))
    with torch.no_grad():
        model.intercept += torch.tensor([0.5, -1, -1, -1, -1, -1])
        for second in model.second:
            second += 0.01
    assert best.look() == 0
    stepped = model(x).detach()
    with torch.no_grad():
        model.intercept -= 100
    assert best.look() == 1 and best.look() == 2
    best.restore()
    torch.testing.assert_close(model(x)[:, 0], stepped[:, 0])
    torch.testing.assert_close(model(x)[:, 1:], first[:, 1:])


def test_own_gene_is_an_input_by_option():
    rng = np.random.default_rng(4)
    x = rng.normal(size=(400, 3))
    y = 2 * x + 0.1 * rng.normal(size=x.shape)
    mask = Mask.of(3, [0, 1], [1, 2])
    assert (r2(y, predict(fit(x, y, None, mask), x)) > 0.95).all()
    assert (r2(y, predict(fit(x, y, None, mask, self_edge=False), x)) < 0.1).all()


def test_weights_choose_the_cells():
    """Two populations of opposite rules: the one without weight has no part, not even with nan."""
    rng = np.random.default_rng(5)
    x = rng.normal(size=(400, 2))
    y = x[:, ::-1] * np.repeat([1, -1], 200)[:, None]
    weights = np.repeat([1.0, 0.0], 200)
    y[200:] = np.nan
    model = fit(x, y, weights, Mask.of(2, [0, 1], [1, 0]), self_edge=False)
    assert (r2(y[:200], predict(model, x[:200])) > 0.95).all()
    heavy = np.repeat([1.0, 0.05], 200)
    y[200:] = -x[200:, ::-1]
    model = fit(x, y, heavy, Mask.of(2, [0, 1], [1, 0]), self_edge=False)
    assert (r2(y[:200], predict(model, x[:200])) > 0.8).all()


def test_constant_genes_and_an_empty_mask():
    rng = np.random.default_rng(6)
    x, y = rng.normal(size=(2, 50, 3))
    x[:, 0], y[:, 1] = 2, 7
    found = predict(fit(x, y, None, Mask.full(3, [0, 1]), steps=50), x)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found[:, 1], 7, atol=1e-3)
    empty = predict(fit(x, y, None, Mask.of(3, [], []), self_edge=False, steps=50), x)
    np.testing.assert_allclose(empty, empty[:1].repeat(50, 0))


def test_equal_seed_equal_network_whatever_the_global_one():
    rng = np.random.default_rng(7)
    x, y = rng.normal(size=(2, 60, 4))
    found = []
    for state, seed in ((0, 0), (1, 0), (0, 1)):
        torch.manual_seed(state)
        y[:, 0] = np.tanh(x[:, 1])
        found.append(predict(fit(x, y, None, Mask.full(4, [0, 1]), steps=60, seed=seed), x))
    np.testing.assert_array_equal(found[0], found[1])
    assert (found[0] != found[2]).any()


@pytest.mark.parametrize("fault", ["shape", "weights", "nan", "few"])
def test_bad_input(fault):
    x, y, weights = np.ones((20, 4)), np.ones((20, 4)), np.ones(20)
    if fault == "shape":
        x = x[:, :3]
    elif fault == "weights":
        weights[0] = np.inf
    elif fault == "nan":
        y[0, 0] = np.nan
    else:
        weights[5:] = 0
    with pytest.raises(ValueError):
        fit(x, y, weights, Mask.full(4, [0]))
