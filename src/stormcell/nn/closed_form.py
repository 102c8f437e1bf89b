"""Count likelihoods on tensors, with their gradients written out; autograd of the plain formulas keeps 15 matrices.

With d = log μ − log θ, s = log(1 + e^d), p = μ/(μ+θ) = 1 − e^−s, n = −θ s, π = 1/(1 + e^−l):
    NB      x = 0   log p = n, every gamma function cancels                     ∂/∂log μ = n' = −θ p
            x > 0   log p = log Γ(x+θ) − log Γ(1+θ) − (x−1) log θ − log Γ(x+1) + x log μ − (x+θ) s
                                                                                ∂/∂log μ = x − (x+θ) p
            both    ∂/∂log θ = −∂/∂log μ − θ s + [x > 0] (θ (ψ(x+θ) − ψ(1+θ)) + 1)
    ZINB    x = 0   log p = log [(e^n + e^l) / (1 + e^l)],  w = e^n / (e^n + e^l)
                    ∂/∂log μ, ∂/∂log θ = w times those of NB,                   ∂/∂l = (1 − π) − w
            x > 0   log p = NB − log(1 + e^l),                                  ∂/∂l = −π
    Poisson         log p = x log μ − μ − log Γ(x+1),                           ∂/∂log μ = x − μ
Γ(1+θ)/θ in place of Γ(θ) keeps θ → 0 finite. The few entries with x > 0 are computed in float64, because at large θ and
x the gamma functions are much larger than their differences.

Shapes: N cells, G genes, M entries with x > 0. x, log μ, l: N × G; log θ: (G,), 1 × G or N × G; value: N. All
contiguous, of one dtype, float32 or float64. Source: differentiation of the formulas of likelihood.py.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import softplus

LARGE = 40.0  # from here on softplus(d) = d, in float64 too
TABLE = 10_000  # largest count whose log Γ(x+1) is looked up


class Poisson(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, log_mean: Tensor) -> Tensor:
        ctx.save_for_backward(x, log_mean)
        nonzero = _nonzero(x)
        count, log_mu = _doubles_at(nonzero, x, log_mean)
        value = count * log_mu - log_mu.exp() - _log_factorial(count)
        return _put(log_mean.exp().neg_(), nonzero, value).sum(-1)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[None, Tensor]:
        x, log_mean = ctx.saved_tensors
        return None, (x - log_mean.exp()).mul_(grad[:, None])


class NegativeBinomial(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, log_mean: Tensor, log_theta: Tensor) -> Tensor:
        nonzero = _nonzero(x)
        at_zero = softplus(log_mean - log_theta, threshold=LARGE).mul_(-log_theta.exp())
        ctx.save_for_backward(x, log_mean, log_theta, at_zero, nonzero)
        return _put(at_zero.clone(), nonzero, _nb_at_counts(nonzero, x, log_mean, log_theta)).sum(-1)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[None, Tensor, Tensor]:
        x, log_mean, log_theta, at_zero, nonzero = ctx.saved_tensors
        by_mean = torch.sigmoid(log_mean - log_theta).mul_(-log_theta.exp())
        by_theta = at_zero - by_mean
        counted_by_mean, counted_by_theta = _nb_gradients_at_counts(nonzero, x, log_mean, log_theta)
        by_mean = _put(by_mean, nonzero, counted_by_mean).mul_(grad[:, None])
        by_theta = _put(by_theta, nonzero, counted_by_theta).mul_(grad[:, None])
        return None, by_mean, by_theta.sum_to_size(log_theta.shape)


class ZeroInflated(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, log_mean: Tensor, log_theta: Tensor, logit: Tensor) -> Tensor:
        nonzero = _nonzero(x)
        at_zero = softplus(log_mean - log_theta, threshold=LARGE).mul_(-log_theta.exp())
        ctx.save_for_backward(x, log_mean, log_theta, logit, at_zero, nonzero)
        # log (e^n + e^l) − log (1 + e^l), neither of which loses the other's digits at l = ±60.
        value = torch.maximum(at_zero, logit.clamp(max=0))
        value += softplus((at_zero - logit).abs_().neg_()).sub_(softplus(logit.abs().neg_()))
        (gate,) = _doubles_at(nonzero, logit)
        counted = _nb_at_counts(nonzero, x, log_mean, log_theta) - softplus(gate, threshold=LARGE)
        return _put(value, nonzero, counted).sum(-1)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[None, Tensor, Tensor, Tensor]:
        x, log_mean, log_theta, logit, at_zero, nonzero = ctx.saved_tensors
        weight = torch.sigmoid(at_zero - logit)
        by_logit = torch.sigmoid(-logit).sub_(weight)
        by_mean = torch.sigmoid(log_mean - log_theta).mul_(-log_theta.exp())
        by_theta = (at_zero - by_mean).mul_(weight)
        by_mean.mul_(weight)
        counted_by_mean, counted_by_theta = _nb_gradients_at_counts(nonzero, x, log_mean, log_theta)
        (gate,) = _doubles_at(nonzero, logit)
        by_mean = _put(by_mean, nonzero, counted_by_mean).mul_(grad[:, None])
        by_theta = _put(by_theta, nonzero, counted_by_theta).mul_(grad[:, None])
        by_logit = _put(by_logit, nonzero, -torch.sigmoid(gate)).mul_(grad[:, None])
        return None, by_mean, by_theta.sum_to_size(log_theta.shape), by_logit


def _nb_at_counts(nonzero: Tensor, x: Tensor, log_mean: Tensor, log_theta: Tensor) -> Tensor:
    """log NB of the M entries with x > 0."""
    count, log_mu, log_th = _doubles_at(nonzero, x, log_mean, log_theta)
    theta, s = log_th.exp(), softplus(log_mu - log_th, threshold=LARGE)
    gammas = torch.lgamma(count + theta) - _of_theta(torch.lgamma, nonzero, x, log_theta) - _log_factorial(count)
    return gammas - (count - 1) * log_th + count * log_mu - (count + theta) * s


def _nb_gradients_at_counts(nonzero: Tensor, x: Tensor, log_mean: Tensor, log_theta: Tensor) -> tuple[Tensor, Tensor]:
    """∂/∂log μ and ∂/∂log θ of the M entries with x > 0."""
    count, log_mu, log_th = _doubles_at(nonzero, x, log_mean, log_theta)
    theta, d = log_th.exp(), log_mu - log_th
    by_mean = count - (count + theta) * torch.sigmoid(d)
    psi = torch.digamma(count + theta) - _of_theta(torch.digamma, nonzero, x, log_theta)
    return by_mean, theta * (psi - softplus(d, threshold=LARGE)) + 1 - by_mean


def _of_theta(function: Callable[[Tensor], Tensor], nonzero: Tensor, x: Tensor, log_theta: Tensor) -> Tensor:
    """A gamma function of 1 + θ at the M entries; with one θ per gene computed once a gene and not once a count."""
    if log_theta.shape == x.shape:
        return function(1 + log_theta.take(nonzero).double().exp())
    return function(1 + log_theta.double().exp()).expand_as(x).take(nonzero)


def _log_factorial(count: Tensor) -> Tensor:
    """log Γ(count + 1) of M numbers; looked up where all are whole and small, as nearly always."""
    whole = count.long()
    if not len(count) or whole.min() < 0 or whole.max() > TABLE or (whole != count).any():
        return torch.lgamma(count + 1)
    table = torch.lgamma(torch.arange(1, int(whole.max()) + 2, dtype=count.dtype, device=count.device))
    return table[whole]


# ---- the entries with x > 0


def _nonzero(x: Tensor) -> Tensor:
    """Positions of the M counts that are not 0, in the N × G matrix laid out row by row."""
    return (x != 0).view(-1).nonzero().squeeze(1)


def _doubles_at(positions: Tensor, *matrices: Tensor) -> tuple[Tensor, ...]:
    """Values at M flat positions of matrices that broadcast to the first: M float64 each, without their broadcasts."""
    return tuple(values.expand_as(matrices[0]).take(positions).double() for values in matrices)


def _put(matrix: Tensor, positions: Tensor, values: Tensor) -> Tensor:
    """The N × G matrix with M values written at the flat positions, in place."""
    matrix.view(-1)[positions] = values.to(matrix.dtype)
    return matrix
