"""Likelihoods against scipy, gradients against finite differences and against autograd of the plain formula."""

import mpmath
import numpy as np
import pytest
import scipy.stats
import torch

from stormcell.nn.likelihood import gaussian_log_prob, negative_binomial_log_prob


def plain_negative_binomial(x, log_mean, log_theta):
    """The textbook formula, term by term: N × G → N."""
    mean, theta = log_mean.exp(), log_theta.exp().expand_as(x)
    gammas = torch.lgamma(x + theta) - torch.lgamma(theta) - torch.lgamma(x + 1)
    return (gammas + theta * (theta / (theta + mean)).log() + x * (mean / (theta + mean)).log()).sum(-1)


def counts_and_parameters(n=40, genes=30, seed=0, dtype=torch.float64):
    rng = np.random.default_rng(seed)
    log_mean = rng.normal(-1.5, 1.5, (n, genes))
    log_theta = rng.normal(0.5, 1.5, genes)
    counts = rng.poisson(np.exp(log_mean) * rng.gamma(np.exp(log_theta), 1 / np.exp(log_theta), (n, genes)))
    assert 0.1 < (counts > 0).mean() < 0.6
    return [torch.tensor(a, dtype=dtype) for a in (counts, log_mean, log_theta)]


def scipy_negative_binomial(x, log_mean, log_theta):
    mean, theta = np.exp(log_mean.numpy()), np.exp(log_theta.numpy())
    return scipy.stats.nbinom.logpmf(x.numpy(), theta, theta / (theta + mean))


def fifty_digits(x, log_mean, log_theta):
    """log NB and its two derivatives with 50 digits."""
    with mpmath.workdps(50):
        x, mean, theta = mpmath.mpf(x), mpmath.exp(log_mean), mpmath.exp(log_theta)
        gammas = mpmath.loggamma(x + theta) - mpmath.loggamma(theta) - mpmath.loggamma(x + 1)
        value = gammas + theta * mpmath.log(theta / (theta + mean)) + x * mpmath.log(mean / (theta + mean))
        by_log_mean = (x - mean) * theta / (theta + mean)
        gammas = mpmath.digamma(x + theta) - mpmath.digamma(theta)
        by_log_theta = theta * (gammas - mpmath.log1p(mean / theta) - (x - mean) / (theta + mean))
        return float(value), float(by_log_mean), float(by_log_theta)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_negative_binomial_is_scipys(dtype, tolerance):
    x, log_mean, log_theta = counts_and_parameters()
    expected = scipy_negative_binomial(x, log_mean, log_theta).sum(1)
    found = negative_binomial_log_prob(x.to(dtype), log_mean.to(dtype), log_theta.to(dtype))
    assert found.dtype == dtype
    assert found.double().numpy() == pytest.approx(expected, rel=tolerance)
    per_cell = log_theta.to(dtype).expand(len(x), -1)
    assert torch.equal(negative_binomial_log_prob(x.to(dtype), log_mean.to(dtype), per_cell), found)


@pytest.mark.parametrize("integer", [torch.int32, torch.int64])
def test_integer_counts(integer):
    x, log_mean, log_theta = counts_and_parameters()
    assert torch.equal(
        negative_binomial_log_prob(x.to(integer), log_mean, log_theta),
        negative_binomial_log_prob(x, log_mean, log_theta),
    )


def test_negative_binomial_sums_to_one():
    counts = torch.arange(4000.0, dtype=torch.float64)[:, None]
    for log_mean, log_theta in [(-2.0, -1.0), (2.0, 0.0), (3.0, 18.4)]:
        log_prob = negative_binomial_log_prob(counts, torch.full_like(counts, log_mean), torch.tensor([log_theta]))
        assert log_prob.exp().sum().item() == pytest.approx(1, rel=1e-6)


def test_poisson_limit_in_single_precision():
    """At θ = 1e8 the gamma functions are 1e9, and float32 keeps 100 of them apart."""
    counts = np.tile(np.arange(60.0), (4, 1))
    log_mean = np.log(np.array([0.01, 1, 8, 50]))[:, None].repeat(60, 1)
    arguments = [torch.tensor(a, dtype=torch.float32) for a in (counts, log_mean, np.full(60, np.log(1e8)))]
    expected = scipy.stats.poisson.logpmf(counts, np.exp(log_mean)).sum(1)
    assert negative_binomial_log_prob(*arguments).numpy() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("shared", [True, False])
def test_gradient_in_closed_form(shared):
    x, log_mean, log_theta = counts_and_parameters(n=6, genes=8)
    if not shared:
        log_theta = log_theta + 0.1 * torch.randn(6, 8, generator=torch.Generator().manual_seed(0)).double()
    log_mean.requires_grad_()
    log_theta = log_theta.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda m, t: negative_binomial_log_prob(x, m, t), (log_mean, log_theta))
    weight = torch.linspace(-1, 2, 6, dtype=torch.float64)
    gradients = [
        torch.autograd.grad((formula(x, log_mean, log_theta) * weight).sum(), (log_mean, log_theta))
        for formula in (negative_binomial_log_prob, plain_negative_binomial)
    ]
    for closed, automatic in zip(*gradients, strict=True):
        assert closed.shape == automatic.shape
        torch.testing.assert_close(closed, automatic, rtol=1e-9, atol=1e-11)


def test_gradient_in_single_precision():
    arguments = counts_and_parameters(n=200, genes=100)
    gradients = []
    for dtype, formula in [(torch.float32, negative_binomial_log_prob), (torch.float64, plain_negative_binomial)]:
        x, *parameters = (a.to(dtype) for a in arguments)
        parameters = [p.requires_grad_() for p in parameters]
        gradients.append(torch.autograd.grad(formula(x, *parameters).sum(), parameters))
    for single, double in zip(*gradients, strict=True):
        torch.testing.assert_close(single.double(), double, rtol=2e-5, atol=2e-5)


def test_only_the_gradient_that_is_asked_for():
    x, log_mean, log_theta = counts_and_parameters()
    log_mean.requires_grad_()
    negative_binomial_log_prob(x, log_mean, log_theta).sum().backward()
    assert log_mean.grad is not None
    assert log_theta.grad is None


def test_extremes_stay_finite():
    logs = torch.tensor([-100.0, -30.0, -5.0, 0.0, 5.0, 11.5, 18.42])  # 18.42: e^18.42 = 1e8
    counts = torch.tensor([0.0, 1.0, 2.0, 300.0, 1e5])
    x, log_mean, log_theta = (a.reshape(-1, 1) for a in torch.meshgrid(counts, logs, logs, indexing="ij"))
    log_mean, log_theta = log_mean.clone().requires_grad_(), log_theta.clone().requires_grad_()
    value = negative_binomial_log_prob(x, log_mean, log_theta)
    value.sum().backward()
    for numbers in (value, log_mean.grad, log_theta.grad):
        assert numbers.isfinite().all()
    assert (value <= 1e-6).all()
    arguments = zip(x[:, 0].tolist(), log_mean[:, 0].tolist(), log_theta[:, 0].tolist(), strict=True)
    expected = np.array([fifty_digits(*each) for each in arguments])
    # The value is dominated by neither round-off nor cancellation; scipy is not the judge here: it loses 1 − p.
    assert value.detach().numpy() == pytest.approx(expected[:, 0], rel=1e-5, abs=1e-6)
    # A gradient is a difference of terms as large as the count or the mean.
    scale = 1 + x[:, 0].numpy() + log_mean[:, 0].detach().exp().numpy()
    assert (np.abs(log_mean.grad[:, 0].numpy() - expected[:, 1]) < 2e-6 * scale).all()
    assert (np.abs(log_theta.grad[:, 0].numpy() - expected[:, 2]) < 2e-6 * scale).all()


def test_zero_mean_gives_zero_count_for_certain():
    value = negative_binomial_log_prob(
        torch.tensor([[0.0], [3.0]]), torch.full((2, 1), -torch.inf), torch.tensor([0.3])
    )
    assert value.tolist() == [0.0, -torch.inf]


def test_shapes_that_do_not_fit():
    with pytest.raises(ValueError, match=r"\(3, 4\).*\(3, 5\)"):
        negative_binomial_log_prob(torch.zeros(3, 4), torch.zeros(3, 5), torch.zeros(5))


def test_transposed_arguments():
    x, log_mean, log_theta = counts_and_parameters()
    expected = negative_binomial_log_prob(x, log_mean, log_theta)
    assert torch.equal(negative_binomial_log_prob(x.T.contiguous().T, log_mean.T.contiguous().T, log_theta), expected)


@pytest.mark.parametrize("shape", [(), (30,), (40, 30)])
def test_gaussian_is_scipys(shape):
    rng = np.random.default_rng(1)
    x, mean = rng.normal(size=(2, 40, 30))
    log_sigma = rng.normal(size=shape)
    expected = scipy.stats.norm.logpdf(x, mean, np.exp(log_sigma)).sum(1)
    arguments = [torch.tensor(a, requires_grad=True) for a in (x, mean, log_sigma)]
    assert gaussian_log_prob(*arguments).detach().numpy() == pytest.approx(expected, rel=1e-12)
    assert torch.autograd.gradcheck(gaussian_log_prob, arguments)
    single = gaussian_log_prob(*(a.detach().float() for a in arguments))
    assert single.numpy() == pytest.approx(expected, rel=1e-5)
