"""Spectra in closed form, against dense eigh, on graphs with several components; what the certificate refuses."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import linalg, sparse

from stormcell.analysis import certified_pairs as module
from stormcell.analysis.cell_graph import graph, neighbours, query_neighbours
from stormcell.analysis.certified_pairs import NotCertified, n_certain
from stormcell.analysis.laplacian import extend, laplacian, nystrom_weights, spectrum


def path(n):
    return sparse.diags([np.ones(n - 1)] * 2, [-1, 1], format="csr")


def cycle(n):
    ring = path(n).tolil()
    ring[0, n - 1] = ring[n - 1, 0] = 1
    return ring.tocsr()


def grid(a, b):
    return sparse.kronsum(path(b), path(a), format="csr")


def blocks_graph(sizes, seed=0, inside=0.3):
    """Random graphs side by side, no edge between them."""
    rng = np.random.default_rng(seed)
    parts = [np.triu(rng.random((n, n)) < inside, 1) for n in sizes]
    return sparse.csr_matrix(linalg.block_diag(*[(p | p.T).astype(float) for p in parts]))


def tree(n, thin, seed=1, dims=20):
    """Cells along three arms; thin: noise in two dimensions only, so that λ1 is small."""
    rng = np.random.default_rng(seed)
    arms = np.eye(3, dims)[rng.choice(3, n, p=[0.5, 0.3, 0.2])] * (rng.random(n) * 6)[:, None]
    sd = np.where(np.arange(dims) < 2, 0.15, 0.01) if thin else 0.5 / np.sqrt(1 + np.arange(dims))
    return arms + rng.normal(size=(n, dims)) * sd


def angle(a, b):
    return float(linalg.subspace_angles(a, b).max())


def dense_pairs(adjacency, normalised, F):
    """A second implementation: textbook matrices, numpy's eigh, null space counted."""
    A = adjacency.toarray().astype(float)
    d = A.sum(1)
    L = np.diag(d) - A
    if normalised:
        L /= np.sqrt(np.outer(d, d))
    values, vectors = np.linalg.eigh(L)
    c = int((values < 1e-9).sum())
    return values[c : c + F], vectors[:, c : c + F]


# ---- closed forms


def test_path_in_closed_form():
    found = spectrum(path(40), 6, normalised=False)
    j, x = np.arange(1, 7), np.arange(40)
    np.testing.assert_allclose(found.values, 2 - 2 * np.cos(np.pi * j / 40), atol=1e-12)
    assert found.next_value == pytest.approx(2 - 2 * np.cos(np.pi * 7 / 40))
    waves = np.cos(np.pi * j * (x[:, None] + 0.5) / 40)
    np.testing.assert_allclose(np.abs((waves * found.frequencies).mean(0)), np.sqrt(0.5), atol=1e-9)
    np.testing.assert_allclose(np.sqrt((found.frequencies**2).mean(0)), 1)
    assert (found.frequencies[np.abs(found.frequencies).argmax(0), np.arange(6)] > 0).all()


def test_cycle_has_pairs_that_are_told_and_not_divided():
    found = spectrum(cycle(30), 4)
    np.testing.assert_allclose(found.values, 1 - np.cos(2 * np.pi * np.array([1, 1, 2, 2]) / 30), atol=1e-12)
    assert found.blocks == [(0, 1), (2, 3)]
    with pytest.raises(NotCertified, match="3 to 4 have eigenvalues too close") as refused:
        spectrum(cycle(30), 3)
    assert refused.value.certified == 2


def test_grid_in_closed_form_and_participation():
    found = spectrum(grid(9, 5), 5, normalised=False)
    one = lambda n: 2 - 2 * np.cos(np.pi * np.arange(n) / n)  # noqa: E731
    np.testing.assert_allclose(found.values, np.sort(np.add.outer(one(9), one(5)).ravel())[1:6], atol=1e-12)
    assert found.participation[0] == pytest.approx(1.5)  # Σ cos⁴ against (Σ cos²)²


# ---- solvers


@pytest.fixture(scope="module")
def clouds():
    return {thin: graph(neighbours(tree(1500, thin), 10)[0], 1500) for thin in (False, True)}


@pytest.mark.parametrize("normalised", [True, False])
@pytest.mark.parametrize("thin", [False, True])
@pytest.mark.parametrize("solver", ["dense", "lanczos", "lobpcg"])
def test_every_solver_is_numpys_eigh(clouds, solver, thin, normalised, monkeypatch):
    values, vectors = dense_pairs(clouds[thin], normalised, 6)
    if solver != "dense":
        monkeypatch.setattr(module, "DENSE", 100)
        monkeypatch.setattr(module, "restarts", lambda _: 200 if solver == "lanczos" else 1)
    found, again = (spectrum(clouds[thin], 6, normalised) for _ in range(2))
    assert found.solver == solver
    np.testing.assert_allclose(found.values, values, rtol=1e-4)
    assert angle(found.vectors, vectors) < 0.01
    assert found.residuals.max() <= 0.01 * min(found.next_value - found.values[-1], found.values[0])
    assert found.restart_angle < 0.02
    np.testing.assert_array_equal(found.vectors, again.vectors)


def test_order_of_the_cells_does_not_matter(clouds):
    order = np.random.default_rng(0).permutation(1500)
    one, other = spectrum(clouds[False], 4), spectrum(clouds[False][order][:, order], 4)
    np.testing.assert_allclose(one.frequencies[order], other.frequencies, atol=1e-8)


# ---- components


@pytest.mark.parametrize("normalised", [True, False])
@pytest.mark.parametrize("iterative", [True, False])
def test_several_components_and_isolated_cells(normalised, iterative, monkeypatch):
    """Three random graphs, two cells alone: the null space is 5-dimensional and none of it comes back."""
    adjacency = sparse.block_diag([blocks_graph([90, 60, 40]), sparse.csr_matrix((2, 2))], format="csr")
    if iterative:
        monkeypatch.setattr(module, "DENSE", 10)
    found = spectrum(adjacency, 5, normalised)
    values, _ = dense_pairs(adjacency[:190][:, :190], normalised, 5)
    np.testing.assert_allclose(found.values, values, rtol=1e-5)
    assert found.components == 5
    assert "90, 60, 40" in found.notes[0]
    assert "2 isolated" in found.notes[0]
    assert (found.frequencies[190:] == 0).all()
    weight = np.sqrt(found.degree) if normalised else np.ones(192)
    for part in (slice(0, 90), slice(90, 150), slice(150, 190)):
        assert np.abs(weight[part] @ found.vectors[part]).max() < 1e-6


def test_equal_components_give_one_block():
    """The second copy of a pair has no Krylov vector of its own: a single start is tempted to miss it."""
    one = blocks_graph([150], inside=0.1)
    values = dense_pairs(one, True, 2)[0]
    found = spectrum(sparse.block_diag([one, one], format="csr"), 4)
    np.testing.assert_allclose(found.values, np.repeat(values, 2), atol=1e-10)
    assert found.blocks == [(0, 1), (2, 3)]


# ---- certificate


def test_small_residuals_of_a_wrong_space_are_refused(clouds, monkeypatch):
    """Lanczos stopped at 1e-3 on a thin graph: residuals look small, the space is wrong, and it must not pass."""
    operator = laplacian(clouds[True], True)
    truth = dense_pairs(clouds[True], True, 6)[1]
    rough = operator.ritz(module.lanczos(operator, 8, 1, 1e-2, 200))
    assert rough[2][:6].max() < 2e-2
    assert angle(rough[1][:, :6], truth) > 0.1
    assert n_certain(rough[0], rough[2], 6, operator.top) < 6
    monkeypatch.setattr(module, "DENSE", 10)
    monkeypatch.setattr(module, "refined", lambda operator, pairs, F: pairs)
    monkeypatch.setattr(module, "start_block", lambda operator, m: rough[1])
    monkeypatch.setattr(module, "lanczos", lambda *_: None)
    with pytest.raises(NotCertified):
        spectrum(clouds[True], 6)


def test_a_missed_frequency_is_found_by_the_second_start(clouds, monkeypatch):
    """Exact eigenvectors without the second: every residual is 0 and only the second start can tell."""
    operator = laplacian(clouds[False], True)
    vectors = dense_pairs(clouds[False], True, 10)[1]
    incomplete = operator.ritz(np.delete(vectors, 1, axis=1))
    assert n_certain(incomplete[0], incomplete[2], 6, operator.top) == 6
    _, off, same = module.second_start(operator, incomplete, 6, 1, cheap=True)
    assert off > 1
    assert not same
    monkeypatch.setattr(module, "DENSE", 10)
    monkeypatch.setattr(module, "lanczos", lambda *_: None)
    monkeypatch.setattr(module, "start_block", lambda *_: incomplete[1])
    assert angle(spectrum(clouds[False], 6).vectors, vectors[:, :6]) < 0.01
    monkeypatch.setattr(module, "REPAIRS", 0)
    with pytest.raises(NotCertified, match="second random start"):
        spectrum(clouds[False], 6)


def test_more_than_there_are():
    with pytest.raises(NotCertified) as refused:
        spectrum(path(6), 6)
    assert refused.value.certified == 5
    assert spectrum(path(6), 5).next_value == np.inf


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (np.triu(np.ones((4, 4)), 1), "symmetric"),
        (np.ones((4, 4)), "its own neighbour"),
        (-(np.ones((4, 4)) - np.eye(4)), "at least 0"),
        (np.ones((4, 3)), "shape"),
    ],
)
def test_what_is_no_graph_is_refused(matrix, message):
    with pytest.raises(ValueError, match=message):
        spectrum(sparse.csr_matrix(matrix), 1)


# ---- new cells


@pytest.mark.parametrize("normalised", [True, False])
def test_extension_of_the_cells_of_the_graph_is_exact(clouds, normalised):
    """A cell with the neighbours it has in the graph is its own extension: the row of L v = λ v."""
    found = spectrum(clouds[False], 5, normalised)
    weights = sparse.diags(1 / found.degree) @ clouds[False]
    np.testing.assert_allclose(extend(found, weights), found.frequencies, atol=1e-9)


def test_held_out_cells_span_the_space_of_the_full_graph():
    """Noisy manifold, a fifth held out; gaps above 10 % are compared after one rotation fitted on the other cells."""
    points = tree(2500, thin=False, seed=5)
    old, new = points[:2000], points[2000:]
    full = spectrum(graph(neighbours(points)[0], 2500), 5)
    found = spectrum(graph(neighbours(old)[0], 2000), 5)
    extended = extend(found, nystrom_weights(query_neighbours(old, new, 15)[0], 2000))
    u, _, vt = np.linalg.svd(found.frequencies.T @ full.frequencies[:2000])
    turn = u @ vt
    turned = extended @ turn
    gaps = np.diff(np.append(full.values, full.next_value)) / full.values
    kept = np.flatnonzero(np.minimum(gaps, np.append(np.inf, gaps[:-1])) > 0.1)
    assert len(kept) >= 3
    correlation = [np.corrcoef(turned[:, f], full.frequencies[2000:, f])[0, 1] for f in kept]
    assert min(correlation) >= 0.95
    assert angle(extended[:, :3], full.frequencies[2000:, :3]) < 0.3


def test_frequencies_too_high_to_extend_are_refused():
    found = spectrum(path(12), 8)
    weights = nystrom_weights(np.array([[0, 1], [3, 4]]), 12)
    with pytest.raises(ValueError, match="the lowest 3 can be"):
        extend(found, weights)
    raw = spectrum(path(12), 8, normalised=False)  # λ / d_x, d_x = 2
    with pytest.raises(ValueError, match="the lowest 3 can be"):
        extend(raw, weights)
    assert extend(spectrum(path(12), 3), weights).shape == (2, 3)
    with pytest.raises(ValueError, match="sum to 1"):
        extend(found, weights * 2)
