"""The closed forms of the linear model, against scipy's least squares, gradients and planted truths."""

import numpy as np
import pytest
from scipy.optimize import minimize

from stormcell.analysis.linear import loss, reduced_rank, ridge_leave_one_out, two_ridge

R, G, K, D = 30, 40, 4, 6


@pytest.fixture
def world():
    rng = np.random.default_rng(0)
    genes, P = rng.normal(size=(G, K)), rng.normal(size=(R, D))
    W, bias = rng.normal(size=(K, D)), rng.normal(size=G)
    Y = P @ (genes @ W).T + bias + 0.1 * rng.normal(size=(R, G))
    return Y, genes, P, W, bias


def objective(Y, genes, W, P, b, ridge):
    error = Y - b - P @ W.T @ genes.T
    penalties = ridge * np.square(P @ W.T).sum() + ridge * np.square(genes @ W).sum() + ridge**2 * np.square(W).sum()
    return np.square(error).sum() + penalties


def test_without_a_penalty_it_is_the_least_squares_solution(world):
    Y, genes, P, *_ = world
    fit = two_ridge(Y, genes, P, 0.0)
    # vec(P Wᵀ Gᵀ) = (P ⊗ G) vec(Wᵀ)
    design = np.kron(P, genes)
    expected = np.linalg.lstsq(design, (Y - Y.mean(0)).ravel(), rcond=None)[0].reshape(D, K).T
    np.testing.assert_allclose(fit.weight, expected, atol=1e-9)
    np.testing.assert_allclose(fit.bias, Y.mean(0))


@pytest.mark.parametrize("ridge", [0.1, 3.0])
def test_two_ridge_solves_minimise_the_penalised_loss(world, ridge):
    """The loss that gradient descent is given has the two ridge solves as its minimum, found here by L-BFGS."""
    Y, genes, P, *_ = world
    fit = two_ridge(Y, genes, P, ridge)
    found = minimize(
        lambda w: objective(Y, genes, w.reshape(K, D), P, fit.bias, ridge), np.zeros(K * D), method="L-BFGS-B",
        options={"maxiter": 5000, "ftol": 1e-15, "gtol": 1e-9},
    )  # fmt: skip
    np.testing.assert_allclose(fit.weight, found.x.reshape(K, D), atol=2e-4)


def test_planted_weights_come_back(world):
    _Y, genes, P, W, bias = world
    P = P - P.mean(0)  # b is the mean of Y, which is the planted one where P is centred
    fit = two_ridge(P @ (genes @ W).T + bias, genes, P, 0.0)
    np.testing.assert_allclose(fit.weight, W, atol=1e-9)
    np.testing.assert_allclose(fit.bias, bias, atol=1e-9)


def test_identity_scores_equal_an_identity_matrix(world):
    Y, _, P, *_ = world
    plain, matrix = two_ridge(Y, None, P, 0.3), two_ridge(Y, np.eye(G), P, 0.3)
    np.testing.assert_allclose(plain.predict(P), matrix.predict(P), atol=1e-10)


def test_weights_equal_repeated_rows(world):
    Y, genes, P, *_ = world
    times = np.random.default_rng(1).integers(1, 4, R)
    repeated = two_ridge(np.repeat(Y, times, 0), genes, np.repeat(P, times, 0), 0.5)
    weighted = two_ridge(Y, genes, P, 0.5, times.astype(float))
    np.testing.assert_allclose(weighted.weight, repeated.weight, atol=1e-10)
    np.testing.assert_allclose(weighted.bias, repeated.bias, atol=1e-10)


def test_reduced_rank_is_the_best_of_its_rank(world):
    """No other G and W of the rank do better: alternating least squares from random starts does not get below it."""
    Y, _, P, *_ = world
    rng = np.random.default_rng(2)
    fit = reduced_rank(Y, P, 2, 0.0)
    assert np.linalg.matrix_rank(fit.genes @ fit.weight, tol=1e-9) == 2
    best = loss(Y, fit, P)
    for _ in range(5):
        genes = rng.normal(size=(G, 2))
        for _ in range(200):
            other = two_ridge(Y, genes, P, 0.0)
            scores = P @ other.weight.T
            genes = np.linalg.lstsq(scores, Y - other.bias, rcond=None)[0].T
        other = two_ridge(Y, genes, P, 0.0)
        assert loss(Y, other, P) >= best - 1e-10
    assert loss(Y, other, P) == pytest.approx(best, rel=1e-4), "alternation ends at the same loss"


def test_learnt_scores_fit_at_least_as_well_as_fixed_ones(world):
    Y, genes, P, *_ = world
    assert loss(Y, reduced_rank(Y, P, K, 0.0), P) <= loss(Y, two_ridge(Y, genes, P, 0.0), P) + 1e-12


def test_leave_one_out_equals_leaving_out(world):
    Y, _, P, *_ = world
    penalties = np.array([0.01, 1.0, 30.0, 1000.0])
    errors = []
    for penalty in penalties:
        total = 0.0
        for r in range(R):
            rest = np.arange(R) != r
            mean, centre = Y[rest].mean(0), P[rest].mean(0)
            Q = P[rest] - centre
            B = np.linalg.solve(Q.T @ Q + penalty * np.eye(D), Q.T @ (Y[rest] - mean))
            total += np.square(Y[r] - mean - (P[r] - centre) @ B).sum()
        errors.append(total)
    chosen = penalties[int(np.argmin(errors))]
    Q = P - P.mean(0)
    B = np.linalg.solve(Q.T @ Q + chosen * np.eye(D), Q.T @ (Y - Y.mean(0)))
    fit = ridge_leave_one_out(Y, P, penalties)
    np.testing.assert_allclose(fit.predict(P), Y.mean(0) + Q @ B, atol=1e-9)


def test_more_columns_than_rows_and_a_constant_gene(world):
    Y, genes, _, *_ = world
    Y = Y.copy()
    Y[:, 3] = 0
    P = np.random.default_rng(3).normal(size=(R, 2 * R))
    for ridge in (0.0, 0.1):
        fit = two_ridge(Y, genes, P, ridge)
        assert np.isfinite(fit.predict(P)).all()
    assert np.isfinite(reduced_rank(Y, P, 10, 0.1).predict(P)).all()


@pytest.mark.parametrize("ridge, rows", [(-0.1, R), (0.1, R - 1)])
def test_wrong_arguments_are_refused(world, ridge, rows):
    Y, genes, P, *_ = world
    with pytest.raises(ValueError, match="ridge"):
        two_ridge(Y, genes, P[:rows], ridge)
