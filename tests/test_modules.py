"""Interaction spectra and gene modules against dense matrices, planted truths and what must not matter."""

import numpy as np
import pytest
import torch

from stormcell.analysis.interaction_spectra import (
    below_cubic,
    covariance_root,
    homogeneous,
    interaction_spectra,
    linear_part,
    parts,
    recentred,
    variance_shares,
)
from stormcell.analysis.modules import module_table, modules

D, H, F, N = 23, 6, 3, 200


def random_network(order=2, bias=True, d=D, h=H, f=F, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(h, d + bias)) for _ in range(order)], rng.normal(size=(f, h))


def cells(n=N, d=D, seed=1):
    """Correlated inputs with means away from 0."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)) @ (np.eye(d) + 0.3 * rng.normal(size=(d, d))) + 0.5


def outputs(factors, readout, x):
    """The network written out."""
    x = np.column_stack([x, np.ones(len(x))])[:, : factors[0].shape[1]]
    return np.prod([x @ one.T for one in factors], axis=0) @ readout.T


def dense(factors, readout):
    """F × C × C, symmetrised."""
    q = np.einsum("oh,hi,hj->oij", readout, *factors)
    return (q + q.transpose(0, 2, 1)) / 2


def cosine(a, b):
    return abs(a @ b) / np.linalg.norm(a) / np.linalg.norm(b)


def of(found, frequency=0, degree=2):
    return [module for module in found if module.frequency == frequency and module.degree == degree]


# ---- spectra


@pytest.mark.parametrize("hidden", [1, H, 40])
def test_spectra_are_those_of_the_dense_matrices(hidden):
    """Fewer hidden units than inputs, and more: all values, and vectors that rebuild Q; other eigenvalues are 0."""
    factors, readout = random_network(h=hidden)
    spectra = interaction_spectra(factors, readout)
    for output, q in enumerate(dense(factors, readout)):
        values, vectors = spectra.values[output], spectra.vectors(output)
        expected = np.linalg.eigvalsh(q)
        expected = expected[np.argsort(-np.abs(expected))]
        np.testing.assert_allclose(values, expected[: len(values)], atol=1e-10)
        np.testing.assert_allclose(expected[len(values) :], 0, atol=1e-10)
        np.testing.assert_allclose(vectors * values @ vectors.T, q, atol=1e-10)
        there = spectra.coefficients(output).shape[1]
        np.testing.assert_allclose(
            np.concatenate(factors).T @ spectra.coefficients(output), vectors[:, :there], atol=1e-7
        )


@pytest.mark.parametrize(("n", "hidden"), [(200, H), (200, 40), (15, H), (15, 40)])
def test_weighted_spectra_are_those_of_the_root_of_the_covariance(n, hidden):
    """More cells than inputs and fewer, the triangle and the cells themselves, against scipy's matrix root."""
    factors, readout = random_network(bias=False, h=hidden)
    z = cells(n)
    z -= z.mean(0)
    covariance = z.T @ z / n
    e, v = np.linalg.eigh(covariance)
    root = v * np.sqrt(np.maximum(e, 0)) @ v.T
    metric = covariance_root(z, 2 * hidden)
    np.testing.assert_allclose(metric.T @ metric, covariance, atol=1e-10)
    spectra = interaction_spectra(factors, readout, metric)
    for output, q in enumerate(dense(factors, readout)):
        expected = np.linalg.eigvalsh(root @ q @ root)
        expected = expected[np.argsort(-np.abs(expected))]
        size = min(len(expected), spectra.values.shape[1])
        np.testing.assert_allclose(spectra.values[output][:size], expected[:size], atol=1e-9)
        a = z @ np.concatenate(factors).T @ spectra.coefficients(output)
        np.testing.assert_allclose(a.T @ a / n, np.eye(a.shape[1]), atol=1e-6)  # variance 1, uncorrelated
        form = np.einsum("ni,ij,nj->n", z, q, z)
        np.testing.assert_allclose(a**2 @ spectra.values[output][: a.shape[1]], form, atol=1e-6)


def test_hidden_units_in_another_order_or_scale_and_swapped_factors_change_nothing():
    (left, right), readout = random_network()
    rng = np.random.default_rng(3)
    order, scale = rng.permutation(H), rng.uniform(0.2, 5, H)[:, None] * rng.choice([-1, 1], H)[:, None]
    other = [(right / scale)[order], (left * scale)[order]]
    x = cells()
    a, b = modules([left, right], readout, x), modules(other, readout[:, order], x)
    assert len(a) == len(b) == F * (1 + 5)
    for one, two in zip(a, b, strict=True):
        assert (one.frequency, one.name) == (two.frequency, two.name)
        assert one.eigenvalue == pytest.approx(two.eigenvalue, rel=1e-8)
        np.testing.assert_allclose(one.loadings, two.loadings, atol=1e-7)


# ---- the polynomial


@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize("bias", [True, False])
def test_orders_add_up_to_the_network_around_any_origin(order, bias):
    factors, readout = random_network(order, bias)
    x = cells()
    expected = outputs(factors, readout, x)
    full = homogeneous(factors, D)
    np.testing.assert_allclose(parts(full, readout, x).sum(0), expected, rtol=1e-9, atol=1e-8)
    centre = x.mean(0)
    moved = parts(recentred(full, centre), readout, x - centre)
    np.testing.assert_allclose(moved.sum(0), expected, rtol=1e-9, atol=1e-8)
    np.testing.assert_allclose(moved[1], (x - centre) @ linear_part(recentred(full, centre), readout).T, atol=1e-8)
    step = 1e-5 * np.eye(D)  # the slope at the centre, by differences
    slope = (outputs(factors, readout, centre + step) - outputs(factors, readout, centre - step)).T / 2e-5
    np.testing.assert_allclose(linear_part(recentred(full, centre), readout), slope, rtol=1e-5, atol=1e-4)


def test_what_three_factors_hold_below_the_third_order_is_a_network_of_two():
    factors, readout = random_network(3)
    x = cells()
    expected = parts(factors, readout, x)[:3]
    np.testing.assert_allclose(parts(*below_cubic(factors, readout), x), expected, atol=1e-8)


def test_variance_shares_of_a_known_polynomial():
    """f = 2 x₁ + 3 (x₂² − 1) of independent normal inputs: variances 4 and 18."""
    x = np.random.default_rng(0).normal(size=(200_000, 2))
    left = np.array([[1.0, 0, 0], [0, 1, 0]])
    right = np.array([[0, 0, 2.0], [0, 3, 0]])
    shares = variance_shares([left, right], np.ones((1, 2)), x)
    np.testing.assert_allclose(shares, [[4 / 22, 18 / 22]], atol=0.01)
    assert np.isnan(variance_shares([left, right], np.zeros((1, 2)), x)).all()


@pytest.mark.parametrize("weighted", [True, False])
def test_all_modules_together_are_the_prediction(weighted):
    factors, readout = random_network()
    x = cells()
    found = modules(factors, readout, x, most=1000, weighted=weighted)
    expected = outputs(factors, readout, x)
    for output in range(F):
        mine = [module for module in found if module.frequency == output]
        assert {np.sign(module.eigenvalue) for module in of(found, output)} == {-1, 1}
        total = sum(module.eigenvalue * module.activation**module.degree for module in mine)
        rest = expected[:, output] - total
        assert np.ptp(rest) < 1e-6 * np.ptp(expected[:, output])
        assert sum(module.explained for module in mine) == pytest.approx(1, abs=1e-6)
        for module in mine:
            assert module.loadings[np.abs(module.loadings).argmax()] > 0
            np.testing.assert_allclose(module.activated(x), module.activation, atol=1e-8)
        spread = [(abs(one.eigenvalue) * one.activation**2).std() for one in of(found, output)]
        assert spread == sorted(spread, reverse=True)


def test_loadings_are_correlations_of_standardised_genes_with_the_activation():
    factors, readout = random_network()
    x = cells()
    x = (x - x.mean(0)) / x.std(0)
    for module in modules(factors, readout, x, most=2):
        expected = [np.corrcoef(gene, module.activation)[0, 1] for gene in x.T]
        np.testing.assert_allclose(module.loadings, expected, atol=1e-8)


def test_modules_of_components_are_those_of_the_genes_they_are_made_of():
    """A network on components is one on genes with factors L matrixᵀ: both readings, exactly."""
    rng = np.random.default_rng(5)
    genes = cells()
    genes = (genes - genes.mean(0)) / genes.std(0)
    matrix = rng.normal(size=(D, 7))
    (left, right), readout = random_network(d=7)
    lifted = [np.column_stack([one[:, :-1] @ matrix.T, one[:, -1]]) for one in (left, right)]
    weighted = modules([left, right], readout, genes @ matrix, genes=genes)
    for one, two in zip(weighted, modules(lifted, readout, genes), strict=True):
        assert one.eigenvalue == pytest.approx(two.eigenvalue, rel=1e-7)
        np.testing.assert_allclose(one.loadings, two.loadings, atol=1e-7)
    for module in modules([left, right], readout, genes @ matrix, matrix=matrix, weighted=False):
        up_to_sign = module.loadings @ genes.T
        np.testing.assert_allclose(up_to_sign - up_to_sign.mean(), module.activation, atol=1e-8)


# ---- planted truths


def fitted(x, y, hidden, steps, seed=0, decay=0.0, start=0.1):
    """A bilinear network with [x; 1], Adam on squared errors."""
    torch.manual_seed(seed)
    x, y = torch.tensor(x, dtype=torch.float32), torch.tensor(y, dtype=torch.float32)
    ones = torch.cat([x, torch.ones(len(x), 1)], 1)
    sizes = [(hidden, ones.shape[1])] * 2 + [(y.shape[1], hidden)]
    left, right, readout = weights = [torch.nn.Parameter(start * torch.randn(size)) for size in sizes]
    optimizer = torch.optim.AdamW(weights, lr=1e-2, weight_decay=decay)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = (((ones @ left.T) * (ones @ right.T)) @ readout.T - y).square().mean()
        loss.backward()
        optimizer.step()
    return [left.detach().numpy(), right.detach().numpy()], readout.detach().numpy()


@pytest.fixture(scope="module")
def planted():
    """Two outputs on 30 independent inputs: + (u·x)² − (w·x)² + ½ ℓ·x and − (u·x)²; every direction is determined."""
    rng = np.random.default_rng(7)
    x = rng.normal(size=(1500, 30))
    u, w, slope = np.linalg.qr(rng.normal(size=(30, 3)))[0].T
    y = np.stack([(x @ u) ** 2 - 0.6 * (x @ w) ** 2 + 0.5 * x @ slope, -((x @ u) ** 2)], 1)
    return x, u, w, slope, fitted(x, y, hidden=8, steps=700)


@pytest.mark.parametrize("weighted", [True, False])
def test_planted_interactions_and_slope_are_recovered_with_their_signs(planted, weighted):
    x, u, w, slope, (factors, readout) = planted
    found = modules(factors, readout, x, weighted=weighted)
    first, second = of(found)[:2]
    assert cosine(first.direction, u) > 0.95
    assert first.eigenvalue > 0.5
    assert cosine(second.direction, w) > 0.95
    assert second.eigenvalue < -0.3
    line = of(found, degree=1)[0]
    assert cosine(line.direction, slope) > 0.95
    assert line.eigenvalue * (line.direction @ slope) > 0
    other = of(found, 1)[0]
    assert cosine(other.direction, u) > 0.95
    assert other.eigenvalue < -0.5
    assert first.explained == pytest.approx(2 / (2 + 0.72 + 0.25), abs=0.05)


def test_where_genes_outnumber_cells_only_the_weighted_reading_finds_the_programme():
    """400 genes, 120 cells, two hidden programmes; one's square is the target. Directions of genes without cells
    keep the start of the training: the plain eigenvector is mostly that, the covariance with the activation is not.
    """
    rng = np.random.default_rng(11)
    programme = np.zeros((2, 400))
    programme[0, :40], programme[1, 40:120] = 1, 1
    state = rng.normal(size=(120, 2))
    x = state @ programme + 0.7 * rng.normal(size=(120, 400))
    x = (x - x.mean(0)) / x.std(0)
    y = -((state[:, :1] ** 2) - 1)
    factors, readout = fitted(x, y, hidden=8, steps=150)
    weighted = of(modules(factors, readout, x))[0]
    plain = of(modules(factors, readout, x, weighted=False))[0]
    assert cosine(weighted.loadings, programme[0]) > 0.9
    assert set(weighted.top(40)) == set(range(40))
    assert weighted.eigenvalue < 0
    assert cosine(plain.loadings, programme[0]) < cosine(weighted.loadings, programme[0]) - 0.2


# ---- what is not there, and bad input


def test_a_part_that_is_not_there_has_no_module():
    """Without [x; 1] and around its own mean a network has no slope; an output of zeros has nothing."""
    factors, readout = random_network(bias=False)
    readout[1] = 0
    x = cells()
    found = modules(factors, readout, np.concatenate([x - x.mean(0), x.mean(0) - x]))
    assert not of(found, degree=1)
    assert len(of(found, 0)) == 5
    assert not [module for module in found if module.frequency == 1]


def test_table_lists_the_leading_genes_of_each_module():
    factors, readout = random_network()
    found = modules(factors, readout, cells(), most=2)
    table = module_table(found, [f"g{i}" for i in range(D)], top=4)
    assert len(table) == len(found) * 4
    assert list(table.columns) == [
        *("frequency", "module", "degree", "eigenvalue", "lambda_sign"),
        *("explained", "rank", "gene", "loading", "pole"),
    ]
    one = table[(table.frequency == 2) & (table.module == "quadratic 1")]
    module = of(found, 1)[0]
    assert list(one["rank"]) == [1, 2, 3, 4]
    assert one.gene.iloc[0] == f"g{np.abs(module.loadings).argmax()}"
    assert one.loading.abs().is_monotonic_decreasing
    assert one.pole.iloc[0] == "+"
    assert (one.lambda_sign == ("+" if module.eigenvalue > 0 else "-")).all()
    assert ((one.pole == "+") == (one.loading > 0)).all()


def test_bad_input_is_refused():
    (left, right), readout = random_network()
    x = cells()
    for bad in (
        lambda: interaction_spectra([left], readout),
        lambda: interaction_spectra([left, right[:, 1:]], readout),
        lambda: interaction_spectra([left, right], readout[:, 1:]),
        lambda: interaction_spectra([left, right], readout, np.ones((4, 3))),
        lambda: interaction_spectra([left * np.nan, right], readout),
        lambda: modules([left, right], readout, x[:, 2:]),
        lambda: modules([left, right], readout, x[:1]),
        lambda: modules([left, right], readout, x * np.inf),
        lambda: modules([left, right], readout, x, genes=x[1:]),
        lambda: modules([left, right], readout, x, matrix=np.ones((50, D - 1))),
        lambda: module_table(modules([left, right], readout, x), ["a", "b"]),
    ):
        with pytest.raises(ValueError, match=r"\d|not finite"):
            bad()
