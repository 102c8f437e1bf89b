"""Eigenvectors of the third order: rank-one parts of a symmetric tensor that is never formed.

    𝒯 = sym Σ_h p_h a_h ⊗ b_h ⊗ c_h      𝒯(·, w, w) = ⅓ Σ_h p_h [a (b·w)(c·w) + b (a·w)(c·w) + c (a·w)(b·w)] = λ w

All of it lies in the span of the 3H factor rows: one QR, then every step costs products of H × K. λ w ⊗ w ⊗ w is found
by power iteration, w ← 𝒯(·, w, w) + α w over its norm, from many starts at once. α rises for a start whose 𝒯(w, w, w)
would fall, up to 2‖𝒯‖, where none can fall; the best start is taken and subtracted as one more hidden unit
(greedy deflation). −w has −λ: iteration keeps λ positive, and the sign is the reader's to choose.

Such vectors are neither orthogonal nor unique, and greedy deflation is not the best approximation of any rank. A
product of three directions (u·x)(v·x)(w·x) shows as cubes of ±u ±v ±w: the first vector holds all three.

Starts: random ones, and the leading vectors of the higher-order singular value decomposition, whose Gram matrix
𝒯₍₁₎𝒯₍₁₎ᵀ is made of Hadamard products of the factors' Grams.

Shapes: H hidden units (and one more per part subtracted), C columns, K = min(3H, C), S starts, M parts.
Source: Kolda & Mayo 2011 (shifted symmetric power method); De Lathauwer et al. 2000 (HOSVD).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from stormcell.analysis.interaction_spectra import ZERO, Factors, checked

RANDOM_STARTS, SINGULAR_STARTS = 20, 10
STEPS, TOLERANCE = 1000, 1e-9  # of the residual ‖𝒯(·, w, w) − λ w‖ over λ
OTHERS = ((1, 2), (0, 2), (0, 1))


class Cubic(NamedTuple):
    """Parts λ w ⊗ w ⊗ w of one output, as they were subtracted."""

    values: np.ndarray  # M, all positive
    vectors: np.ndarray  # C × M, unit
    coefficients: np.ndarray  # 3H × M: directions are [A; B; C]ᵀ coefficients, whatever metric the factors had
    norm: float  # ‖𝒯‖ of Frobenius
    left: float  # ‖𝒯 − Σ λ w ⊗ w ⊗ w‖


def cubic_components(factors: Factors, weights: np.ndarray, most: int, seed: int = 1) -> Cubic:
    """The first parts of one output's tensor: three H × C, H → Cubic. Fewer than `most` where nothing is left.

    With factors A Sᵀ, SᵀS = Σ, parts are those of the whitened tensor, and directions v have S v = w.
    Raises ValueError for shapes that disagree and weights that are not finite.
    """
    factors, weights = checked(factors, np.atleast_2d(weights), orders=(3,))
    H, rng = len(factors[0]), np.random.default_rng(seed)
    basis, stacked = np.linalg.qr(np.concatenate(factors).T)
    rows, weights = np.split(stacked.T, 3), weights[0]
    norm = left = float(np.sqrt(max(np.trace(unfolded_gram(rows, weights)), 0)))
    values, inner, coefficients = [], [], []
    while len(values) < most and left > 1e-8 * norm:
        value, w = _strongest(rows, weights, left, rng)
        if not value > ZERO * norm:
            break
        products = np.stack([row @ w for row in rows])
        sides = np.stack([weights * products[list(pair)].prod(0) for pair in OTHERS]) / (3 * value)
        own = sides[:, :H].reshape(-1)  # of the network's hidden units; the subtracted parts have directions themselves
        subtracted = [c * side for c, side in zip(coefficients, sides[:, H:].sum(0), strict=True)]
        coefficients.append(own + sum(subtracted))
        values.append(value)
        inner.append(w)
        rows, weights = [np.vstack([row, w]) for row in rows], np.append(weights, -value)
        left = float(np.sqrt(max(np.trace(unfolded_gram(rows, weights)), 0)))
    vectors = basis @ np.stack(inner, 1) if inner else np.empty((len(basis), 0))
    columns = np.stack(coefficients, 1) if inner else np.empty((3 * H, 0))
    return Cubic(np.array(values), vectors, columns, norm, left)


def unfolded_gram(rows: Factors, weights: np.ndarray) -> np.ndarray:
    """𝒯₍₁₎𝒯₍₁₎ᵀ of the symmetrised tensor, whose trace is ‖𝒯‖²: three H × K, H → K × K.

    𝒯 = ⅓ Σ_h p_h Σ_a a ⊗ sym(b, c), and ⟨sym(b, c), sym(b', c')⟩ = ½ [(b·b')(c·c') + (b·c')(c·b')].
    """
    gram = [[a @ b.T for b in rows] for a in rows]
    both = np.outer(weights, weights) / 18
    found = np.zeros((rows[0].shape[1],) * 2)
    for a, (b, c) in enumerate(OTHERS):
        for a_, (b_, c_) in enumerate(OTHERS):
            mixed = gram[b][b_] * gram[c][c_] + gram[b][c_] * gram[c][b_]
            found += rows[a].T @ (both * mixed) @ rows[a_]
    return (found + found.T) / 2


def contracted(rows: Factors, weights: np.ndarray, w: np.ndarray) -> np.ndarray:
    """𝒯(·, w, w) of every column: K × S → K × S."""
    products = [row @ w for row in rows]
    return sum(rows[a].T @ (weights[:, None] * products[b] * products[c]) for a, (b, c) in enumerate(OTHERS)) / 3


def _strongest(rows: Factors, weights: np.ndarray, norm: float, rng: np.random.Generator) -> tuple[float, np.ndarray]:
    """Largest λ that any start climbs to, and its w."""
    K = rows[0].shape[1]
    singular = np.linalg.eigh(unfolded_gram(rows, weights))[1][:, ::-1][:, :SINGULAR_STARTS]
    w = np.concatenate([singular, rng.normal(size=(K, RANDOM_STARTS))], 1)
    w /= np.linalg.norm(w, axis=0)
    step = contracted(rows, weights, w)
    value = np.einsum("ks,ks->s", step, w)
    w, value = w * np.where(value < 0, -1, 1), np.abs(value)  # the contraction is even in w, λ odd
    shift = np.zeros(w.shape[1])
    for _ in range(STEPS):
        tried = step + shift * w
        tried /= np.maximum(np.linalg.norm(tried, axis=0), np.finfo(float).tiny)
        tried_step = contracted(rows, weights, tried)
        tried_value = np.einsum("ks,ks->s", tried_step, tried)
        rose = tried_value >= value - 1e-14 * norm  # at the top rounding decides
        w, step = np.where(rose, tried, w), np.where(rose, tried_step, step)
        value = np.where(rose, tried_value, value)
        shift = np.where(rose, shift / 2, np.minimum(2 * shift + np.abs(value), 2 * norm))
        if (np.linalg.norm(step - value * w, axis=0) <= TOLERANCE * value).all():
            break
    best = int(value.argmax())
    return float(value[best]), w[:, best]
