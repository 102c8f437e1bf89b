"""Entropic optimal transport, with fixed or relaxed marginals.

    min over P ≥ 0   ⟨C, P⟩ + ε KL(P | r sᵀ)                               with P 1 = r, Pᵀ 1 = s, or
                     ⟨C, P⟩ + ε KL(P | r sᵀ) + τ KL(P 1 | r) + τ KL(Pᵀ 1 | s)
    P_ab = r_a s_b exp((f_a + g_b − C_ab) / ε),   f_a ← −φ ε log Σ_b s_b exp((g_b − C_ab) / ε),   g likewise

φ = τ / (τ + ε), 1 where the marginals are fixed. Between steps in logarithms the iteration multiplies a kernel by two
vectors u and v, which costs two products instead of two rounds of exponentials; whenever u or v grows beyond e^200 they
are taken up into f and g and the kernel is made anew. What the kernel loses to underflow is then below e^-300.

Shapes: A source cells, B target cells.
Source: Cuturi 2013; Chizat et al. 2018 (relaxed marginals); Schmitzer 2019 (absorption).
"""

from __future__ import annotations

import numpy as np

LARGEST = 200.0  # of |log u| and |log v|


def sinkhorn(
    cost: np.ndarray,
    source: np.ndarray,
    target: np.ndarray,
    epsilon: float,
    relaxation: float | None = None,
    max_iterations: int = 2000,
    tolerance: float = 1e-6,
) -> tuple[np.ndarray, bool]:
    """The plan P, and whether it converged: A × B costs, positive A and B marginals, ε, τ (None: fixed) → A × B.

    It has converged when no log u moves by more than the tolerance; with fixed marginals that is the relative error of
    P 1 before the last step, which then makes P 1 = r. The sum of a relaxed plan is not 1.
    """
    share = 1.0 if relaxation is None else relaxation / (relaxation + epsilon)  # φ
    f, g, kernel, converged = np.zeros(len(source)), np.zeros(len(target)), None, False
    log_u, log_v = np.zeros_like(f), np.zeros_like(g)
    for _ in range(max_iterations):
        if kernel is None:
            g = -share * epsilon * _log_sum((f[:, None] - cost) / epsilon, source[:, None], 0)
            before, f = f, -share * epsilon * _log_sum((g - cost) / epsilon, target, 1)
            moved = np.abs(f - before).max() / epsilon
            kernel = _kernel(cost, f, g, epsilon, source, target)
        else:
            with np.errstate(all="ignore"):  # a column of the kernel may be all 0: its log v is then ∞
                new_v = share * np.log(target / (np.exp(log_u) @ kernel)) - (1 - share) * g / epsilon
                new_u = share * np.log(source / (kernel @ np.exp(new_v))) - (1 - share) * f / epsilon
                largest = max(np.abs(new_v).max(), np.abs(new_u).max())
            if not largest <= LARGEST:  # also where it is no number
                f, g, kernel = f + epsilon * log_u, g + epsilon * log_v, None
                log_u, log_v = np.zeros_like(f), np.zeros_like(g)
                continue
            moved = np.abs(new_u - log_u).max()
            log_u, log_v = new_u, new_v
        if moved <= tolerance:
            converged = True
            break
    plan = _kernel(cost, f + epsilon * log_u, g + epsilon * log_v, epsilon, source, target)
    if relaxation is None:
        plan *= (source / plan.sum(1))[:, None]
    return plan, converged


def _kernel(cost, f, g, epsilon, source, target) -> np.ndarray:
    kernel = np.subtract(g, cost)
    kernel += f[:, None]
    kernel /= epsilon
    np.exp(kernel, out=kernel)
    kernel *= source[:, None]
    kernel *= target
    return kernel


def _log_sum(z: np.ndarray, weight: np.ndarray, axis: int) -> np.ndarray:
    """log Σ weight · e^z along an axis; z is overwritten."""
    largest = z.max(axis, keepdims=True)
    z -= largest
    np.exp(z, out=z)
    z *= weight
    return np.log(z.sum(axis)) + largest.squeeze(axis)
