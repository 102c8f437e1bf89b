"""One network shared by all transitions and what each has beyond it, W_t = W₀ + D_t, in one elimination.

With loss_t the mean squared error of transition t over its plan (analysis/masked_ridge.py), n_t the cells behind it and
p_t = n_t / Σ n, the minimum over W₀, D_t, s_t and c_t of

    Σ_t p_t [ loss_t(W₀ + D_t, s_t, c_t) + λ_D ‖D_t‖² + λ ‖s_t‖² ]  +  λ ‖W₀‖²

Self edge s_t and intercept c_t belong to each transition. All λ are per cell. Per target, s_t is eliminated first,
    C̃_t = C_t − k kᵀ / (g + λ),   b̃_t = b_t − k h / (g + λ)        k, g, h: cov of x_j with x_R, x_j and y_j
then D_t,  d_t = A_t⁻¹ (b̃_t − C̃_t w₀) / λ_D  with A_t = I + C̃_t / λ_D,  which leaves one symmetric system,
    (λ I + Σ p_t A_t⁻¹ C̃_t) w₀ = Σ p_t A_t⁻¹ b̃_t
λ_D → ∞ is one ridge on the pooled moments of cells centred in their transitions (λ_D may be infinite); λ_D → 0 leaves
W₀ nothing to explain, and with λ → ∞ every transition is a ridge of its own with penalty λ_D.

Shapes: G genes, E edges, T targets of a block, R regulators of each.
Source: Evgeniou & Pontil 2004 (shared and deviating parts).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from stormcell.analysis.mask import Mask
from stormcell.analysis.masked_ridge import (
    BLOCK,
    Edges,
    Moments,
    System,
    intercept,
    one_thread,
    place,
    solve_systems,
    systems,
)


def pooled(
    found: Sequence[Moments], mask: Mask, ridge: float, ridge_deviation: float, self_edge: bool = True
) -> tuple[Edges, list[Edges]]:
    """Moments of every transition → W₀ and the D_t; the network of transition t is `shared + deviations[t]`.

    Self edges and intercepts stand with the deviations, and the intercepts are those of the sum. Raises ValueError for
    no transition, a negative λ, and λ_D = 0, with which W₀ would be free.
    """
    if not found or not ridge >= 0 or not ridge_deviation > 0:
        raise ValueError(f"{len(found)} transitions, ridge {ridge}, deviation {ridge_deviation}")
    E, G, share = mask.n_edges, mask.n_genes, np.array([one.n for one in found]) / sum(one.n for one in found)
    shared, several = np.zeros(E), 0
    deviation, own = np.zeros((len(found), E)), np.zeros((len(found), G))
    for blocks in zip(*(systems(one, mask, self_edge, BLOCK // len(found)) for one in found), strict=True):
        reduced = [_without_own(block, ridge) for block in blocks]
        w0, d, missed = _shared_and_deviations(reduced, share, ridge, ridge_deviation)
        several += missed
        shared[blocks[0].edges] = w0
        for t, block in enumerate(blocks):
            weights = np.concatenate([d[t], _own(block, w0 + d[t], ridge)], 1) if self_edge else d[t]
            place(block, weights, deviation[t], own[t])
    parts = [
        Edges(deviation[t], own[t], intercept(one, mask, shared + deviation[t], own[t])) for t, one in enumerate(found)
    ]
    return Edges(shared, np.zeros(G), np.zeros(G), several), parts


def pooled_moments(found: Sequence[Moments]) -> Moments:
    """Moments of the cells of all transitions, each about the means of its own: what a shared network is fitted to."""
    n = sum(one.n for one in found)
    parts = {
        name: sum(one.n / n * getattr(one, name) for one in found)
        for name in ("xx", "xg", "gg", "xy", "gy", "yy", "mean_x", "mean_y")
    }
    return Moments(n=n, regulators=found[0].regulators, **parts)


def _shared_and_deviations(
    blocks: list[System], share: np.ndarray, ridge: float, ridge_deviation: float
) -> tuple[np.ndarray, list[np.ndarray], int]:
    """w₀ (T × R), the d_t (T × R each) and how many targets have no unique w₀."""
    R = blocks[0].cross.shape[1]
    left, right, parts = ridge * np.eye(R), 0.0, []
    for p, block in zip(share, blocks, strict=True):
        both = np.concatenate([block.gram, block.cross[..., None]], 2)
        with one_thread():
            factor = torch.linalg.cholesky(torch.from_numpy(np.eye(R) + block.gram / ridge_deviation))
            both = torch.cholesky_solve(torch.from_numpy(both), factor).numpy()  # A⁻¹ C̃ and A⁻¹ b̃
        left, right = left + p * (both[..., :R] + both[..., :R].transpose(0, 2, 1)) / 2, right + p * both[..., R:]
        parts.append(both)
    w0, several = solve_systems(left, right, unique=ridge > 0)
    deviations = [((both[..., R:] - both[..., :R] @ w0) / ridge_deviation)[..., 0] for both in parts]
    return w0[..., 0], deviations, several


def _without_own(block: System, ridge: float) -> System:
    """The systems of the regulators alone, the best self edge put in: T × (R + 1)² → T × R²."""
    R = block.edges.shape[1]
    if block.gram.shape[1] == R:
        return block
    with_own = block.gram[:, :R, R]
    ratio = _divided(with_own, block.gram[:, R, R, None] + ridge)
    gram = block.gram[:, :R, :R] - with_own[:, :, None] * ratio[:, None]
    return System(block.targets, block.edges, gram, block.cross[:, :R] - ratio * block.cross[:, R:])


def _own(block: System, weights: np.ndarray, ridge: float) -> np.ndarray:
    """The best self edge beside these weights of the regulators: T × R → T × 1."""
    R = block.edges.shape[1]
    left = block.cross[:, R] - np.einsum("tr,tr->t", block.gram[:, :R, R], weights)
    return _divided(left, block.gram[:, R, R] + ridge)[:, None]


def _divided(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a / b, 0 where b is 0: without λ a constant gene has no self edge."""
    return np.divide(a, b, out=np.zeros(np.broadcast_shapes(a.shape, b.shape)), where=b > 0)
