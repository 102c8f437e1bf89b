"""The one sweep of the zero-inflated likelihood against the plain formula in float64, scipy, and at its extremes."""

import numpy as np
import pytest
import torch
from scipy import special, stats

from stormcell.nn import onepass
from stormcell.nn.likelihood import zero_inflated_negative_binomial_log_prob as zinb


def batch(n=40, g=90, seed=0, per_cell=False):
    """x, log_mean, log_theta, logit in float32; counts up to 200, most of them zero."""
    rng = np.random.default_rng(seed)
    x = (rng.random((n, g)) < 0.2) * rng.geometric(0.3, (n, g))
    x[0, :5] = 17, 16, 40, 200, 1
    parts = x, rng.normal(-1, 2, (n, g)), rng.normal(0, 1.5, (n, g) if per_cell else g), rng.normal(-1, 2, (n, g))
    return [torch.from_numpy(np.asarray(part, np.float32)) for part in parts]


def graded(parts, weights):
    """Value and the gradients of its weighted sum."""
    parts = [parts[0], *(part.clone().requires_grad_() for part in parts[1:])]
    value = zinb(*parts)
    (value * weights).sum().backward()
    return value.detach(), [part.grad for part in parts[1:]]


@pytest.mark.parametrize("per_cell", [False, True])
def test_value_and_gradients_are_those_of_the_plain_formula(per_cell):
    parts = batch(per_cell=per_cell)
    weights = torch.linspace(-1, 2, len(parts[0]))
    value, gradients = graded(parts, weights)
    expected, plain = graded([part.double() for part in parts], weights.double())
    assert value.dtype == torch.float32 and expected.dtype == torch.float64
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    for found, wanted in zip(gradients, plain, strict=True):
        assert found.shape == wanted.shape
        assert (found - wanted).norm() <= 1e-5 * wanted.norm()


def test_without_extra_zeros_it_is_the_negative_binomial_of_scipy():
    x, log_mean, log_theta, _ = batch()
    found = zinb(x, log_mean, log_theta, torch.full_like(x, -60.0))
    theta, mu = log_theta.double().exp().numpy(), log_mean.double().exp().numpy()
    expected = stats.nbinom.logpmf(x.numpy(), theta, theta / (theta + mu)).sum(1)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_probabilities_add_up_to_one():
    counts = torch.arange(400.0)[:, None]
    one = [torch.full((400, 1), value) for value in (1.2, 0.3, -0.4)]
    assert zinb(counts, one[0], one[1], one[2]).double().exp().sum() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("log_mean", [-100.0, -30.0, 0.0, 12.0])
@pytest.mark.parametrize("log_theta", [-100.0, 0.0, float(np.log(1e8))])
@pytest.mark.parametrize("logit", [-80.0, 0.0, 80.0])
def test_finite_at_the_extremes(log_mean, log_theta, logit):
    x = torch.tensor([[0.0, 1.0, 100_000.0]])
    parts = [x, *(torch.full_like(x, value) for value in (log_mean, log_theta, logit))]
    value, gradients = graded(parts, torch.ones(1))
    assert torch.isfinite(value).all() and all(torch.isfinite(gradient).all() for gradient in gradients)


def test_nearly_poisson_counts_keep_their_value():
    """At θ = 1e8 the gamma functions are a billion times larger than their difference."""
    x, log_mean, *_ = batch()
    found = zinb(x, log_mean, torch.full((x.shape[1],), float(np.log(1e8))), torch.full_like(x, -60.0))
    plain = stats.poisson.logpmf(x.numpy(), log_mean.double().exp().numpy())
    expected = np.where(x.numpy() == 0, np.logaddexp(plain, -60), plain).sum(1)  # an extra zero in e^60 is likelier yet
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_digamma_is_that_of_scipy():
    z = np.concatenate([np.logspace(-6, 8, 200), [1.0, 2.5, 10.0]])
    np.testing.assert_allclose([onepass._digamma(float(one)) for one in z], special.digamma(z), rtol=1e-10, atol=1e-12)


def test_inputs_in_any_memory_order_and_shapes_that_differ():
    x, log_mean, log_theta, logit = batch()
    turned = [part.t().contiguous().t() for part in (x, log_mean, logit)]
    assert not turned[0].is_contiguous()
    torch.testing.assert_close(zinb(turned[0], turned[1], log_theta, turned[2]), zinb(x, log_mean, log_theta, logit))
    with pytest.raises(ValueError, match="logit"):
        zinb(x, log_mean, log_theta, logit[:, 1:])
