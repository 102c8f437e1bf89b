"""Likelihoods: every path against scipy, 50 digits and each other, gradients included, and at the extremes."""

import anndata
import mpmath
import numpy as np
import pytest
import scipy.stats
import torch

from stormcell.nn import likelihood
from stormcell.nn.likelihood import (
    gaussian_log_prob,
    negative_binomial_log_prob,
    poisson_log_prob,
    zero_inflated_negative_binomial_log_prob,
)

# law → log-probability, and how many of log_mean, log_theta, logit it takes
LAWS = {
    "poisson": (poisson_log_prob, 1),
    "nb": (negative_binomial_log_prob, 2),
    "zinb": (zero_inflated_negative_binomial_log_prob, 3),
}
SINGLE, DOUBLE = torch.float32, torch.float64
WAYS = [  # every path that a law has, and the precisions in which it is meant to be used
    (law, path, dtype)
    for law in LAWS
    for path, dtype in [("compiled", SINGLE), ("closed_form", SINGLE), ("closed_form", DOUBLE), ("plain", DOUBLE)]
    if (law, path) != ("poisson", "compiled")
]
every_way = pytest.mark.parametrize(("law", "path", "dtype"), WAYS)
HUGE = float(np.log(1e8))


def batch(n=40, genes=30, shape="gene", seed=0):
    """Counts and the three parameters in float64, rounded to float32 so that both precisions see the same."""
    rng = np.random.default_rng(seed)
    log_mean = rng.normal(-1.5, 1.5, (n, genes))
    log_theta = rng.normal(0.5, 1.5, {"gene": genes, "row": (1, genes), "cell": (n, genes)}[shape])
    counts = rng.poisson(np.exp(log_mean) * rng.gamma(np.exp(log_theta), 1 / np.exp(log_theta), (n, genes)))
    counts[0, :6] = 1, 15, 16, 17, 40, 300
    assert 0.1 < (counts > 0).mean() < 0.6
    parts = counts, log_mean, log_theta, rng.normal(-1, 2, (n, genes))
    return [torch.tensor(part, dtype=SINGLE).double() for part in parts]


def log_prob(law, path, dtype, x, *parameters):
    function, n_parameters = LAWS[law]
    return function(x.to(dtype), *(one.to(dtype) for one in parameters[:n_parameters]), path=path)


def graded(law, path, dtype, x, *parameters):
    """Value, and gradients of its weighted sum in the parameters that the law takes."""
    parameters = [one.detach().clone().requires_grad_() for one in parameters[: LAWS[law][1]]]
    value = log_prob(law, path, dtype, x, *parameters)
    weight = torch.linspace(-1, 2, len(x), dtype=dtype)
    return value.detach(), torch.autograd.grad((value * weight).sum(), parameters)


def of_scipy(law, x, log_mean, log_theta, logit):
    x, mean, theta, logit = x.numpy(), *(one.numpy() for one in (log_mean.exp(), log_theta.exp(), logit))
    if law == "poisson":
        return scipy.stats.poisson.logpmf(x, mean).sum(1)
    counted = scipy.stats.nbinom.logpmf(x, theta, theta / (theta + mean))
    if law == "nb":
        return counted.sum(1)
    gate = 1 / (1 + np.exp(-logit))
    return np.where(x == 0, np.log(gate + (1 - gate) * np.exp(counted)), np.log(1 - gate) + counted).sum(1)


def fifty_digits(law, x, *parameters):
    """The log-probability of the textbook and its derivatives by finite differences, with 50 digits."""

    def formula(log_mean, log_theta=0, logit=0):
        mean, theta = mpmath.exp(log_mean), mpmath.exp(log_theta)
        if law == "poisson":
            return x * log_mean - mean - mpmath.loggamma(x + 1)
        gammas = mpmath.loggamma(x + theta) - mpmath.loggamma(theta) - mpmath.loggamma(x + 1)
        counted = gammas + theta * mpmath.log(theta / (theta + mean)) + x * mpmath.log(mean / (theta + mean))
        if law == "nb":
            return counted
        gate = 1 / (1 + mpmath.exp(-logit))
        if x == 0:
            return mpmath.log(gate + (1 - gate) * mpmath.exp(counted))
        return mpmath.log(1 - gate) + counted

    with mpmath.workdps(60):  # a difference of 1e-20, twice its square below the first digit that is compared
        point = [mpmath.mpf(one) for one in parameters]
        step = mpmath.mpf(10) ** -20
        slopes = []
        for k in range(len(point)):
            up, down = ([p + sign * step * (i == k) for i, p in enumerate(point)] for sign in (1, -1))
            slopes.append((formula(*up) - formula(*down)) / (2 * step))
        return [float(one) for one in (formula(*point), *slopes)]


# ---- value and gradients


@every_way
@pytest.mark.parametrize("shape", ["gene", "row", "cell"])
def test_value_is_scipys(law, path, dtype, shape):
    parts = batch(shape=shape)
    found = log_prob(law, path, dtype, *parts)
    assert found.dtype == dtype
    np.testing.assert_allclose(found, of_scipy(law, *parts), rtol=1e-11 if dtype == DOUBLE else 1e-6)


@every_way
@pytest.mark.parametrize("shape", ["gene", "row", "cell"])
def test_every_path_is_the_plain_formula(law, path, dtype, shape):
    parts = batch(n=60, genes=50, shape=shape)
    value, gradients = graded(law, path, dtype, *parts)
    expected, wanted = graded(law, "plain", DOUBLE, *parts)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    for found, want, parameter in zip(gradients, wanted, parts[1:], strict=False):
        assert found.shape == want.shape == parameter.shape
        assert (found - want).norm() <= 1e-5 * want.norm()
        assert (found - want).abs().max() <= 1e-5 * want.abs().max()


@pytest.mark.parametrize("law", LAWS)
def test_the_plain_formula_in_single_precision_is_the_automatic_path(law):
    """Also where one θ per gene gathers the rounding of many cells."""
    parts = batch(n=300, genes=100)
    value, gradients = graded(law, "plain", SINGLE, *parts)
    expected, wanted = graded(law, "auto", SINGLE, *parts)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    for found, want in zip(gradients, wanted, strict=True):
        assert (found - want).norm() <= 1e-5 * want.norm()


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("shape", ["gene", "row", "cell"])
def test_gradients_are_finite_differences(law, shape):
    x, *parameters = batch(n=4, genes=8, shape=shape)
    parameters = [one.requires_grad_() for one in parameters[: LAWS[law][1]]]
    assert torch.autograd.gradcheck(lambda *p: log_prob(law, "closed_form", DOUBLE, x, *p), parameters)
    assert torch.autograd.gradgradcheck(lambda *p: log_prob(law, "plain", DOUBLE, x, *p), parameters)


@pytest.mark.parametrize(("law", "path"), [("poisson", "closed_form"), ("nb", "compiled"), ("zinb", "closed_form")])
def test_a_second_derivative_is_refused_where_it_would_be_wrong(law, path):
    x, *parameters = (part.float() for part in batch(n=4, genes=8))
    log_mean = parameters[0].requires_grad_()
    squared = log_prob(law, path, SINGLE, x, *parameters).square().sum()
    (slope,) = torch.autograd.grad(squared, log_mean, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slope.sum().backward()


@pytest.mark.parametrize(("law", "path", "dtype"), [way for way in WAYS if way[0] != "poisson"])
def test_one_theta_per_gene_is_that_of_every_cell(law, path, dtype):
    x, log_mean, log_theta, logit = batch()
    value, (_, per_gene, *_) = graded(law, path, dtype, x, log_mean, log_theta, logit)
    for shape in [(1, 30), (40, 30)]:
        same, (_, found, *_) = graded(law, path, dtype, x, log_mean, log_theta.expand(shape), logit)
        np.testing.assert_allclose(same, value, rtol=1e-6)
        assert found.shape == shape
        np.testing.assert_allclose(found.sum(0), per_gene, rtol=1e-4, atol=1e-4)


@every_way
def test_probabilities_add_up_to_one(law, path, dtype):
    counts = torch.arange(4000.0)[:, None]
    for log_mean, log_theta in [(-2.0, -1.0), (2.0, 0.0), (3.0, HUGE)]:
        parameters = torch.full_like(counts, log_mean), torch.tensor([log_theta]), torch.full_like(counts, -0.4)
        total = log_prob(law, path, dtype, counts, *parameters).double().exp().sum()
        assert total == pytest.approx(1, rel=1e-5)


@every_way
def test_counts_of_real_cells(law, path, dtype, papalexi_counts):
    share = papalexi_counts.mean(0) / papalexi_counts.mean(0).sum()
    log_mean = torch.log(papalexi_counts.sum(1, keepdim=True) * share)
    parts = papalexi_counts, log_mean, torch.linspace(-2, 3, len(share)).double(), log_mean.neg()
    np.testing.assert_allclose(log_prob(law, path, dtype, *parts), of_scipy(law, *parts), rtol=1e-5)


@pytest.fixture(scope="module")
def papalexi_counts(shared_data):
    """200 real cells × their genes with a count."""
    cells = anndata.read_h5ad(shared_data("papalexi2021_thp1_eccite_299genes.h5ad"), backed="r")
    counts = torch.tensor(cells[:200].to_memory().layers["counts"].toarray(), dtype=DOUBLE)
    return counts[:, counts.sum(0) > 0]


# ---- limits


@every_way
def test_extremes(law, path, dtype):
    """μ → 0, θ → 0, θ = 1e8, x = 1e5 and all between: finite, and right to the last digits that the precision has."""
    logs = torch.tensor([-100.0, -30.0, -5.0, 0.0, 5.0, 11.5, HUGE], dtype=SINGLE).double()
    counts, logits = torch.tensor([0.0, 1.0, 2.0, 300.0, 1e5]).double(), torch.tensor([-60.0, 0.0, 60.0]).double()
    grids = [counts, logs, logs, logits][: 1 + LAWS[law][1]]
    x, *parameters = (one.reshape(-1, 1) for one in torch.meshgrid(*grids, indexing="ij"))
    parameters = [one.clone().requires_grad_() for one in parameters]
    value = log_prob(law, path, dtype, x, *parameters)
    gradients = torch.autograd.grad(value.sum(), parameters)
    assert all(numbers.isfinite().all() for numbers in (value, *gradients))
    points = torch.cat([x, *parameters], 1).tolist()
    expected = np.array([fifty_digits(law, *point) for point in points])
    # scipy is not the judge here: it loses 1 − p. The value is dominated by neither round-off nor cancellation; a
    # gradient is a difference of terms as large as the count or the mean.
    np.testing.assert_allclose(value.detach(), expected[:, 0], rtol=1e-5, atol=1e-6)
    scale = 1 + x[:, 0].numpy() + parameters[0][:, 0].detach().exp().numpy()
    for found, wanted in zip(gradients, expected[:, 1:].T, strict=True):
        assert (np.abs(found[:, 0].numpy() - wanted) < 2e-6 * scale).all()


@pytest.mark.parametrize(("path", "dtype"), [("compiled", SINGLE), ("closed_form", SINGLE), ("plain", DOUBLE)])
def test_the_poisson_is_the_limit_of_large_theta(path, dtype):
    """At θ = 1e8 the gamma functions are 1e9, and float32 keeps 100 of them apart."""
    counts = torch.arange(60.0).repeat(4, 1)
    log_mean = torch.tensor([0.01, 1, 8, 50]).log()[:, None].repeat(1, 60)
    found = log_prob("nb", path, dtype, counts, log_mean, torch.full((60,), HUGE))
    np.testing.assert_allclose(found, poisson_log_prob(counts, log_mean), rtol=1e-5)
    without_zeros = torch.full_like(counts, -60.0)
    found = log_prob("zinb", path, dtype, counts, log_mean, torch.full((60,), HUGE), without_zeros)
    np.testing.assert_allclose(found[:3], poisson_log_prob(counts, log_mean)[:3], rtol=1e-5)


@pytest.mark.parametrize("path", ["compiled", "closed_form", "plain"])
def test_a_gate_that_is_shut_or_open(path):
    """l → −∞ is the negative binomial, with its digits; l → ∞ makes a zero certain."""
    x, log_mean, log_theta, _ = batch()
    dtype = DOUBLE if path == "plain" else SINGLE
    shut = log_prob("zinb", path, dtype, x, log_mean, log_theta, torch.full_like(x, -80.0))
    np.testing.assert_allclose(shut, log_prob("nb", path, dtype, x, log_mean, log_theta), rtol=1e-6)
    opened = log_prob("zinb", path, dtype, torch.zeros_like(x), log_mean, log_theta, torch.full_like(x, 80.0))
    np.testing.assert_allclose(opened, 0, atol=1e-6)


@every_way
def test_a_gate_that_starts_at_nought(law, path, dtype):
    """l = 0 everywhere, as a network's first step has it: no kink there."""
    x, log_mean, log_theta, _ = batch(n=3, genes=8)
    _, gradients = graded(law, path, dtype, x, log_mean, log_theta, torch.zeros_like(x))
    weight = np.linspace(-1, 2, 3)[:, None]
    parameters = [one.expand_as(x) for one in (log_mean, log_theta, torch.zeros_like(x))][: LAWS[law][1]]
    points = torch.stack([x, *parameters], -1).reshape(-1, 1 + LAWS[law][1]).tolist()
    expected = np.array([fifty_digits(law, *point)[1:] for point in points]).reshape(3, 8, -1) * weight[..., None]
    for found, wanted in zip(gradients, np.moveaxis(expected, -1, 0), strict=True):
        wanted = wanted if found.shape == x.shape else wanted.sum(0)
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


@every_way
def test_zero_mean_gives_zero_count_for_certain(law, path, dtype):
    x, log_mean, logit = torch.tensor([[0.0], [3.0]]), torch.full((2, 1), -torch.inf), torch.full((2, 1), -1.0)
    assert log_prob(law, path, dtype, x, log_mean, torch.tensor([0.3]), logit).tolist() == [0.0, -torch.inf]
    _, (slope, *_) = graded(law, path, dtype, x[:1], log_mean[:1], torch.tensor([0.3]), logit[:1])
    assert slope == 0


# ---- inputs


@every_way
def test_what_is_no_number_shows(law, path, dtype):
    """A training that diverged must not go on with a finite loss."""
    for which in range(1 + LAWS[law][1]):
        parts = batch()
        parts[which].view(-1)[7] = torch.nan
        value = log_prob(law, path, dtype, *parts)
        assert value[0].isnan()
        assert value[1:].isnan().all() if which == 2 else value[1:].isfinite().all()  # θ of a gene is in every cell


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("integer", [torch.int32, torch.int64])
def test_integer_counts(law, integer):
    x, *parameters = (part.float() for part in batch())
    function, n_parameters = LAWS[law]
    assert torch.equal(function(x.to(integer), *parameters[:n_parameters]), function(x, *parameters[:n_parameters]))


@every_way
def test_counts_that_are_not_whole(law, path, dtype):
    """Counts with the ambient RNA subtracted: the formula with Γ holds."""
    x, *parameters = batch()
    x = (x * 0.7).float().double()
    value, gradients = graded(law, path, dtype, x, *parameters)
    expected, wanted = graded(law, "plain", DOUBLE, x, *parameters)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    for found, want in zip(gradients, wanted, strict=True):
        assert (found - want).norm() <= 1e-5 * want.norm()


@every_way
def test_negative_counts_are_impossible_and_come_to_an_end(law, path, dtype):
    x = torch.tensor([[-1.0], [-2.0], [-1e30]])
    parameters = torch.zeros_like(x), torch.tensor([0.3]), torch.zeros_like(x)
    value, _ = graded(law, path, dtype, x, *parameters)
    assert not value.isfinite().any()


@every_way
def test_transposed_arguments(law, path, dtype):
    x, log_mean, log_theta, logit = batch()
    turned = [part.T.contiguous().T for part in (x, log_mean, logit)]
    assert not turned[0].is_contiguous()
    value, gradients = graded(law, path, dtype, turned[0], turned[1], log_theta, turned[2])
    expected, wanted = graded(law, path, dtype, x, log_mean, log_theta, logit)
    assert torch.equal(value, expected)
    assert all(torch.equal(*pair) for pair in zip(gradients, wanted, strict=True))


@every_way
def test_no_cells(law, path, dtype):
    for shape in ["gene", "row"]:
        x, *parameters = batch(shape=shape)
        matrices = [one if one.shape != x.shape else one[:0] for one in parameters]
        value, gradients = graded(law, path, dtype, x[:0], *matrices)
        assert value.shape == (0,)
        assert all(one.abs().sum() == 0 for one in gradients)
    assert log_prob(law, path, dtype, x[:0], *(one[:0].expand(0, 30) for one in (x, x, x))).shape == (0,)


@every_way
def test_only_the_gradients_that_are_asked_for(law, path, dtype):
    x, *parameters = batch()
    _, all_of_them = graded(law, path, dtype, x, *parameters)
    for k in range(LAWS[law][1]):
        asked = [one.clone().requires_grad_(i == k) for i, one in enumerate(parameters)]
        weight = torch.linspace(-1, 2, len(x), dtype=dtype)
        (log_prob(law, path, dtype, x, *asked) * weight).sum().backward()
        assert torch.equal(asked[k].grad, all_of_them[k])
        assert all(one.grad is None for i, one in enumerate(asked) if i != k)


@every_way
def test_the_value_alone(law, path, dtype):
    x, *parameters = batch()
    value, _ = graded(law, path, dtype, x, *parameters)
    assert torch.equal(log_prob(law, path, dtype, x, *parameters), value)
    with torch.no_grad():
        found = log_prob(law, path, dtype, x, *(one.clone().requires_grad_() for one in parameters))
    assert torch.equal(found, value) and not found.requires_grad


def test_half_precision_is_computed_in_single():
    x, *parameters = batch()
    halves = [one.bfloat16() for one in parameters]
    found = zero_inflated_negative_binomial_log_prob(x.bfloat16(), *(one.requires_grad_() for one in halves))
    assert torch.equal(found, zero_inflated_negative_binomial_log_prob(x.bfloat16(), *(one.float() for one in halves)))
    found.sum().backward()
    assert halves[0].grad.dtype == torch.bfloat16


@pytest.mark.parametrize("law", LAWS)
def test_shapes_that_do_not_fit(law):
    function, n_parameters = LAWS[law]

    def of(x=(3, 4), log_mean=(3, 4), log_theta=(4,), logit=(3, 4)):
        return function(torch.zeros(x), *(torch.zeros(one) for one in (log_mean, log_theta, logit)[:n_parameters]))

    assert of().shape == (3,)
    with pytest.raises(ValueError, match=r"\(3, 4\).*\(3, 5\)"):
        of(log_mean=(3, 5))
    with pytest.raises(ValueError, match=r"N × G"):
        of(x=(4,), log_mean=(4,), logit=(4,))
    if n_parameters > 1:
        for wrong in [(), (1,), (3,), (3, 1), (2, 4), (1, 3, 4)]:
            with pytest.raises(ValueError, match="log_theta of shape"):
                of(log_theta=wrong)
    if n_parameters > 2:
        with pytest.raises(ValueError, match=r"logit.*\(3, 1\)"):
            of(logit=(3, 1))


def test_the_path_is_chosen_by_precision_and_device(monkeypatch):
    class Counts:
        def __init__(self, device, dtype):
            self.device, self.dtype = torch.device(device), dtype

    assert likelihood._chosen("auto", Counts("cpu", SINGLE)) == "compiled"
    assert likelihood._chosen("auto", Counts("cpu", SINGLE), compiled=False) == "closed_form"
    assert likelihood._chosen("auto", Counts("cpu", DOUBLE)) == "closed_form"
    assert likelihood._chosen("auto", Counts("cuda", SINGLE)) == "closed_form"
    assert likelihood._chosen("auto", Counts("mps", SINGLE)) == "plain"
    monkeypatch.setattr(likelihood, "COMPILES", False)
    assert likelihood._chosen("auto", Counts("cpu", SINGLE)) == "closed_form"


def test_the_automatic_path_is_the_compiled_one():
    parts = batch()
    for law in ("nb", "zinb"):
        compiled, eager = (log_prob(law, path, SINGLE, *parts) for path in ("compiled", "closed_form"))
        assert torch.equal(log_prob(law, "auto", SINGLE, *parts), compiled)
        assert not torch.equal(compiled, eager)  # or the line above says nothing


def test_a_path_that_cannot_be_had():
    x, log_mean, log_theta, _ = batch()
    for path, dtype in [("compiled", DOUBLE), ("fast", SINGLE)]:
        with pytest.raises(ValueError, match=path):
            log_prob("nb", path, dtype, x, log_mean, log_theta)
    with pytest.raises(ValueError, match="compiled"):
        poisson_log_prob(x.float(), log_mean.float(), path="compiled")


# ---- Gaussian


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
