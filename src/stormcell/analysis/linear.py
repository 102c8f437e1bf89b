"""The linear gene expression model in closed form, and ridge regression with its penalty chosen by leaving one out.

    Y ≈ P (G W)ᵀ + 1 bᵀ,   b = mean of Y over its rows

Y are shifts, G gene scores, P vectors of perturbations. With both given,
    W = (GᵀG + λI)⁻¹ Gᵀ (Y − 1bᵀ)ᵀ P (PᵀP + λI)⁻¹
two ridge solves. It is the only minimiser of
    ‖Y − 1bᵀ − P (G W)ᵀ‖² + λ ‖P Wᵀ‖² + λ ‖G W‖² + λ² ‖W‖²
(set its gradient, (GᵀG + λI) W (PᵀP + λI) − Gᵀ(Y − 1bᵀ)ᵀP, to zero), so that gradient descent has the same answer.
With G free the best fit of rank K is a reduced-rank regression, exact too (Eckart–Young in the metric of PᵀP + λI).

Shapes: R rows (conditions), G genes, K gene scores, D columns of P.
Source: Ahlmann-Eltze, Huber & Anders 2025 (two ridge solves, K = 10, λ = 0.1); Izenman 1975 (reduced rank).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Linear:
    """p → G W p + b."""

    genes: np.ndarray | None  # G × K; None is the identity, K = G
    weight: np.ndarray  # K × D
    bias: np.ndarray  # G

    def predict(self, P: np.ndarray) -> np.ndarray:
        """n × D → n × G."""
        scores = P @ self.weight.T
        return (scores if self.genes is None else scores @ self.genes.T) + self.bias


def two_ridge(
    Y: np.ndarray, genes: np.ndarray | None, P: np.ndarray, ridge: float, weights: np.ndarray | None = None
) -> Linear:
    """The exact W for given G and P: R × G, G × K (None: identity), R × D, λ, weights of the rows (R, mean 1).

    No copy of Y is made. Raises ValueError for a negative ridge or shapes that disagree.
    """
    if ridge < 0 or len(Y) != len(P) or (genes is not None and len(genes) != Y.shape[1]):
        raise ValueError(f"ridge {ridge}, Y {Y.shape}, P {P.shape}, G {np.shape(genes)}")
    weighted = P if weights is None else P * weights[:, None]
    bias = Y.mean(0) if weights is None else weights @ Y / weights.sum()
    right = np.linalg.pinv(weighted.T @ P + ridge * np.eye(P.shape[1]), hermitian=True)
    cross = Y.T @ weighted - np.outer(bias, weighted.sum(0))  # (Y − 1bᵀ)ᵀ P, G × D
    if genes is None:
        return Linear(None, cross @ right / (1 + ridge), bias)
    left = np.linalg.pinv(genes.T @ genes + ridge * np.eye(genes.shape[1]), hermitian=True)
    return Linear(genes, left @ (genes.T @ cross) @ right, bias)


def reduced_rank(Y: np.ndarray, P: np.ndarray, rank: int, ridge: float, weights: np.ndarray | None = None) -> Linear:
    """The best G (orthonormal columns) and W of rank K together: min ‖Y − 1bᵀ − P (G W)ᵀ‖² + λ ‖G W‖².

    The ridge solution M (G × D) is cut to its K leading directions in the metric of PᵀP + λI.
    """
    full = two_ridge(Y, None, P, ridge, weights)
    M = full.weight * (1 + ridge)
    weighted = P if weights is None else P * weights[:, None]
    # With PᵀP + λI = L Lᵀ the loss is const + ‖(M̂ − M) L‖²: G are the leading left singular vectors of M L.
    values, axes = np.linalg.eigh(weighted.T @ P + ridge * np.eye(P.shape[1]))
    scaled = M @ (axes * np.sqrt(np.maximum(values, 0)))
    _, directions = np.linalg.eigh(scaled.T @ scaled)
    leading = scaled @ directions[:, ::-1][:, : min(rank, P.shape[1])]
    genes, _ = np.linalg.qr(leading)
    return Linear(genes, genes.T @ M, full.bias)


def loss(Y: np.ndarray, fit: Linear, P: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Mean over rows and genes of the squared error."""
    error = np.square(Y - fit.predict(P)).mean(1)
    return float(np.average(error, weights=weights))


def ridge_leave_one_out(Y: np.ndarray, P: np.ndarray, penalties: np.ndarray) -> Linear:
    """Ridge of Y on P with an intercept, its penalty the one of smallest leave-one-out error: R × G, R × D → Linear.

    The error of the row left out is exact, e_r / (1 − h_rr) (Allen 1974), so one decomposition serves every penalty.
    """
    bias, centre = Y.mean(0), P.mean(0)
    U, s, Vt = np.linalg.svd(P - centre, full_matrices=False)
    projected, target = U.T @ (Y - bias), Y - bias
    best = None
    for penalty in penalties:
        shrink = s**2 / (s**2 + penalty)
        hat = (U**2 @ shrink) + 1 / len(Y)
        error = np.square((target - U @ (shrink[:, None] * projected)) / np.maximum(1 - hat, 1e-9)[:, None]).sum()
        if best is None or error < best[0]:
            best = error, penalty
    weight = ((Vt.T * (s / (s**2 + best[1]))) @ projected).T
    return Linear(None, weight, bias - weight @ centre)
