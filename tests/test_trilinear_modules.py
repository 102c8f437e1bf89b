"""Third-order parts against dense tensors and planted triples."""

from itertools import permutations, product

import numpy as np
import pytest
import torch

from stormcell.analysis.modules import modules
from stormcell.analysis.trilinear_modules import contracted, cubic_components, unfolded_gram

C, H = 9, 4


@pytest.fixture
def network():
    rng = np.random.default_rng(0)
    return [rng.normal(size=(H, C)) for _ in range(3)], rng.normal(size=H)


def dense(factors, weights):
    tensor = np.einsum("h,hi,hj,hk->ijk", weights, *factors)
    return sum(tensor.transpose(order) for order in permutations(range(3))) / 6


def test_contraction_and_gram_are_those_of_the_symmetrised_tensor(network):
    tensor = dense(*network)
    w = np.random.default_rng(1).normal(size=(C, 5))
    np.testing.assert_allclose(contracted(*network, w), np.einsum("ijk,js,ks->is", tensor, w, w), atol=1e-10)
    flat = tensor.reshape(C, -1)
    np.testing.assert_allclose(unfolded_gram(*network), flat @ flat.T, atol=1e-9)


@pytest.mark.parametrize("hidden", [2, H])
def test_parts_are_eigenvectors_of_what_was_left_and_the_first_is_the_largest(hidden):
    """2 hidden units span 6 of 9 dimensions, 4 all of them. The first part against 2,000 starts of plain ascent."""
    rng = np.random.default_rng(2)
    factors, weights = [rng.normal(size=(hidden, C)) for _ in range(3)], rng.normal(size=hidden)
    tensor = dense(factors, weights)
    cubic = cubic_components(factors, weights, 4)
    assert cubic.norm == pytest.approx(np.linalg.norm(tensor))
    w = rng.normal(size=(C, 2000))
    shift = 2 * np.linalg.norm(tensor)
    for _ in range(400):
        w = np.einsum("ijk,js,ks->is", tensor, w, w) / np.linalg.norm(w, axis=0) ** 2 + shift * w
        w /= np.linalg.norm(w, axis=0)
    assert cubic.values[0] >= np.einsum("ijk,is,js,ks->s", tensor, w, w, w).max() - 1e-6
    directions = np.concatenate(factors).T @ cubic.coefficients
    left = tensor.copy()
    for value, vector, direction in zip(cubic.values, cubic.vectors.T, directions.T, strict=True):
        assert np.linalg.norm(vector) == pytest.approx(1)
        np.testing.assert_allclose(np.einsum("ijk,j,k->i", left, vector, vector), value * vector, atol=1e-7)
        np.testing.assert_allclose(direction, vector, atol=1e-7)
        left -= value * np.einsum("i,j,k->ijk", vector, vector, vector)
    assert cubic.left == pytest.approx(np.linalg.norm(left), rel=1e-6)


def test_orthogonal_parts_are_recovered_exactly_and_then_nothing_is_left():
    """Σ λ_k v_k ⊗ v_k ⊗ v_k of orthonormal v has them as its robust eigenvectors; −λ v is λ −v."""
    v = np.linalg.qr(np.random.default_rng(3).normal(size=(C, 3)))[0].T
    cubic = cubic_components([v] * 3, np.array([1.0, -3.0, 2.0]), 9)
    np.testing.assert_allclose(cubic.values, [3, 2, 1], rtol=1e-8)
    np.testing.assert_allclose(cubic.vectors, np.stack([-v[1], v[2], v[0]], 1), atol=1e-7)
    assert cubic.left < 1e-7


def test_equal_seeds_give_equal_parts_and_zero_weights_none(network):
    factors, weights = network
    a, b = (cubic_components(factors, weights, 2, seed=5) for _ in range(2))
    np.testing.assert_array_equal(a.vectors, b.vectors)
    none = cubic_components(factors, np.zeros(H), 2)
    assert len(none.values) == 0
    assert none.coefficients.shape == (3 * H, 0)


def test_weighted_parts_have_activations_of_variance_one_and_rebuild_a_planted_cube():
    """Correlated inputs, f = −2 (v·z)³ of rank one: one module carries it all, and the sign follows the loading."""
    rng = np.random.default_rng(4)
    x = rng.normal(size=(300, C)) @ rng.normal(size=(C, C)) + 1
    v = rng.normal(size=C)
    z = x - x.mean(0)
    factor = np.append(v, -(x.mean(0) @ v))[None]
    found = [one for one in modules([factor] * 3, np.array([[-2.0]]), x) if one.degree == 3]
    assert len(found) == 1
    module = found[0]
    np.testing.assert_allclose(
        module.eigenvalue * module.activation**3, -2 * (z @ v) ** 3, atol=1e-6 * abs(z @ v).max()
    )
    assert module.activation.std() == pytest.approx(1)
    assert module.explained == pytest.approx(1)
    assert np.sign(module.eigenvalue) == -np.sign(module.direction @ v)
    np.testing.assert_allclose(module.loadings, z.T @ module.activation / len(z), atol=1e-8)


@pytest.mark.parametrize("weighted", [True, False])
def test_a_trained_network_shows_the_planted_triple_and_the_orders_below(weighted):
    """y = (u·x)³ − 3 u·x + 0.8 (w·x)² + s·x: the third Hermite polynomial is no linear effect in disguise."""
    rng = np.random.default_rng(6)
    x = rng.normal(size=(2000, 15))
    u, w, s = np.linalg.qr(rng.normal(size=(15, 3)))[0].T
    y = (x @ u) ** 3 - 3 * x @ u + 0.8 * (x @ w) ** 2 + x @ s
    found = modules(*trained(x, y), x, weighted=weighted)
    first = {degree: next(one for one in found if one.degree == degree) for degree in (1, 2, 3)}
    for degree, truth in ((3, u), (2, w), (1, s - 3 * u)):
        direction = first[degree].direction / np.linalg.norm(first[degree].direction)
        assert abs(direction @ truth) / np.linalg.norm(truth) > 0.95
        sign = np.sign(direction @ truth) ** degree
        assert first[degree].eigenvalue * sign > 0


def trained(x, y):
    torch.manual_seed(0)
    x, y = (torch.tensor(one, dtype=torch.float32) for one in (x, y))
    ones = torch.cat([x, torch.ones(len(x), 1)], 1)
    a, b, c = (torch.nn.Parameter(0.3 * torch.randn(8, ones.shape[1])) for _ in range(3))
    readout = torch.nn.Parameter(0.3 * torch.randn(1, 8))
    optimizer = torch.optim.Adam([a, b, c, readout], lr=1e-2)
    for _ in range(800):
        optimizer.zero_grad()
        product = (ones @ a.T) * (ones @ b.T) * (ones @ c.T)
        ((product @ readout.T)[:, 0] - y).square().mean().backward()
        optimizer.step()
    return [one.detach().numpy() for one in (a, b, c)], readout.detach().numpy()


def test_a_product_of_three_directions_is_found_as_their_sum():
    """The largest value of (u·w)(v·w)(t·w) over unit w is 3^-3/2, at (±u ±v ±t)/√3 with an even number of minuses."""
    u, v, t = np.linalg.qr(np.random.default_rng(8).normal(size=(C, 3)))[0].T
    cubic = cubic_components([u[None], v[None], t[None]], np.ones(1), 4)
    cosines = np.stack([u, v, t]) @ cubic.vectors[:, 0]
    np.testing.assert_allclose(np.abs(cosines), 3**-0.5, atol=1e-7)
    assert cosines.prod() > 0
    assert cubic.values[0] == pytest.approx(3**-1.5)
    np.testing.assert_allclose(np.linalg.norm(np.stack([u, v, t]) @ cubic.vectors, axis=0), 1, atol=1e-7)


def test_a_trained_network_shows_a_planted_product_of_three_directions():
    """y = −(u·x)(v·x)(t·x): each direction lies in the span of the modules, the first module is one of ±u ±v ±t."""
    rng = np.random.default_rng(9)
    x = rng.normal(size=(2000, 12))
    planted = np.linalg.qr(rng.normal(size=(12, 3)))[0].T
    y = -(x @ planted.T).prod(1)
    found = [one for one in modules(*trained(x, y), x, most=4) if one.degree == 3]
    span = np.linalg.svd(np.stack([one.direction for one in found], 1))[0][:, :3]
    assert (np.linalg.norm(planted @ span, axis=1) > 0.95).all()
    first = found[0].direction / np.linalg.norm(found[0].direction)
    sums = np.array(list(product((-1, 1), repeat=3))) @ planted / 3**0.5
    best = sums[(sums @ first).argmax()]
    assert best @ first > 0.95
    assert np.sign(found[0].eigenvalue) == -np.sign((planted @ best).prod())
