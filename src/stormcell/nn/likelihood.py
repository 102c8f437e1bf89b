"""Log-likelihoods of a cell, summed over its genes, in nats.

gaussian            log N(x; m, σ²) = −½ ((x − m) / σ)² − log σ − ½ log 2π
negative binomial   log NB(x; μ, θ) = log Γ(x+θ) − log Γ(θ) − log Γ(x+1) + θ log θ/(θ+μ) + x log μ/(θ+μ)
                    mean μ, variance μ + μ²/θ; θ → ∞ is the Poisson distribution
zero-inflated       log ZINB(x; μ, θ, π) = log [(1 − π) NB(x; μ, θ) + π (x = 0)],  π = 1 / (1 + e^−l)

Shapes: N cells, G genes. Every function is N × G, parameters → N. Parameters are taken as logarithms: a softmax over
genes gives log μ at no cost, and neither μ nor θ can leave the positive numbers.
Source: Lopez et al. 2018 (scVI), Methods, for the parametrisation by μ and θ.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import softplus

from stormcell.nn import onepass


def gaussian_log_prob(x: Tensor, mean: Tensor, log_sigma: Tensor) -> Tensor:
    """log N(x; mean, e^(2 log_sigma)): N × G, N × G, log_sigma of shape (), (G,) or N × G → N."""
    deviation = (x - mean) * torch.exp(-log_sigma)
    return -(0.5 * deviation.square() + log_sigma + 0.5 * math.log(2 * math.pi)).sum(-1)


def negative_binomial_log_prob(x: Tensor, log_mean: Tensor, log_theta: Tensor) -> Tensor:
    """log NB(x; e^log_mean, e^log_theta): counts N × G, N × G, log_theta of shape (G,) or N × G → N.

    Differentiable once, in log_mean and log_theta. Value and gradient are finite from μ = θ = 0 (as e^−100) up to
    θ = 1e8 and x = 1e5. Raises ValueError when x and log_mean differ in shape.
    """
    if x.shape != log_mean.shape:
        raise ValueError(f"counts of shape {tuple(x.shape)}, log_mean of shape {tuple(log_mean.shape)}")
    return _NegativeBinomial.apply(x.contiguous(), log_mean.contiguous(), log_theta)


def zero_inflated_negative_binomial_log_prob(x: Tensor, log_mean: Tensor, log_theta: Tensor, logit: Tensor) -> Tensor:
    """log ZINB(x; e^log_mean, e^log_theta, π), l = logit of π: counts N × G, N × G, (G,) or N × G, N × G → N.

    float32 on the CPU takes one sweep for value and gradients (onepass.py), differentiable once; everything else the
    plain formula. Finite from μ = θ = 0 (as e^−100) up to θ = 1e8 and x = 1e5. Raises ValueError when shapes differ.
    """
    if not x.shape == log_mean.shape == logit.shape:
        raise ValueError(f"counts {tuple(x.shape)}, log_mean {tuple(log_mean.shape)}, logit {tuple(logit.shape)}")
    inputs = x, log_mean, log_theta, logit
    if all(one.device.type == "cpu" and one.dtype == torch.float32 for one in inputs):
        return _ZeroInflated.apply(*inputs)
    theta, s = log_theta.exp(), softplus(log_mean - log_theta, threshold=700)
    gamma = torch.lgamma(x + theta) - torch.lgamma(1 + theta) - (x - 1) * log_theta - torch.lgamma(x + 1)
    plain = torch.where(x == 0, -theta * s, gamma + x * log_mean - (x + theta) * s)
    empty = softplus(plain - logit, threshold=700) - softplus(-logit, threshold=700)
    return torch.where(x == 0, empty, plain - softplus(logit, threshold=700)).sum(-1)


class _ZeroInflated(torch.autograd.Function):
    """The sweep computes the gradients with the value; backward multiplies them by what comes from above."""

    @staticmethod
    def forward(ctx, x: Tensor, log_mean: Tensor, log_theta: Tensor, logit: Tensor) -> Tensor:
        total = np.empty(len(x))
        arrays = [one.detach().contiguous().numpy() for one in (x, log_mean, torch.atleast_2d(log_theta), logit)]
        gradients = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(3)]
        onepass.zero_inflated(*arrays, total, *(one.numpy() for one in gradients))
        ctx.save_for_backward(*gradients)
        ctx.shape = log_theta.shape
        return torch.from_numpy(total).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[None, Tensor, Tensor, Tensor]:
        by_mean, by_theta, by_logit = ctx.saved_tensors
        # With one θ per gene the sum over cells is a product with the vector from above.
        by_theta = (
            grad @ by_theta if ctx.shape == by_theta.shape[1:] else (by_theta * grad[:, None]).sum_to_size(ctx.shape)
        )
        return None, by_mean * grad[:, None], by_theta, by_logit * grad[:, None]


class _NegativeBinomial(torch.autograd.Function):
    """The closed form and its gradient; autograd of the plain formula keeps 15 matrices, this keeps one.

    With s = log(1 + μ/θ), so that μ/(θ+μ) = 1 − e^−s:
        x = 0   log p = −θ s, every gamma function cancels; ∂/∂log μ = −θ (1 − e^−s)
        x > 0   log p = log Γ(x+θ) − log Γ(1+θ) − (x−1) log θ − log Γ(x+1) + x log μ − (x+θ) s
                ∂/∂log μ = x − (x+θ) (1 − e^−s)
        both    ∂/∂log θ = −∂/∂log μ − θ s + [x > 0] (θ (ψ(x+θ) − ψ(1+θ)) + 1)
    Γ(1+θ)/θ in place of Γ(θ) keeps θ → 0 finite. The few entries with x > 0 are computed in float64, because at large
    θ and x the gamma functions are much larger than their differences.
    """

    @staticmethod
    def forward(ctx, x: Tensor, log_mean: Tensor, log_theta: Tensor) -> Tensor:
        s = softplus(log_mean - log_theta, threshold=40)
        nonzero = (x != 0).view(-1).nonzero().squeeze(1)
        count, log_mu, log_th, gamma = _doubles_at(nonzero, x, log_mean, log_theta, _of_theta(torch.lgamma, log_theta))
        theta = log_th.exp()
        value = torch.lgamma(count + theta) - gamma - (count - 1) * log_th - _log_factorial(count)
        value += count * log_mu - (count + theta) * softplus(log_mu - log_th, threshold=40)
        log_prob = s * -log_theta.exp()
        log_prob.view(-1)[nonzero] = value.to(log_prob.dtype)
        ctx.save_for_backward(x, log_mean, log_theta, s, nonzero)
        return log_prob.sum(-1)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[None, Tensor, Tensor | None]:
        x, log_mean, log_theta, s, nonzero = ctx.saved_tensors
        count, log_mu, log_th, psi = _doubles_at(nonzero, x, log_mean, log_theta, _of_theta(torch.digamma, log_theta))
        theta = log_th.exp()
        by_log_mean = s.neg().expm1_().mul_(log_theta.exp())
        at_nonzero = count - (count + theta) * torch.sigmoid(log_mu - log_th)
        by_log_mean.view(-1)[nonzero] = at_nonzero.to(by_log_mean.dtype)
        by_log_theta = None
        if ctx.needs_input_grad[2]:
            by_log_theta = torch.addcmul(by_log_mean, s, log_theta.exp()).neg_()
            gamma = theta * (torch.digamma(count + theta) - psi) + 1
            by_log_theta.view(-1)[nonzero] += gamma.to(by_log_theta.dtype)
            by_log_theta = by_log_theta.mul_(grad[:, None]).sum_to_size(log_theta.shape)
        return None, by_log_mean.mul_(grad[:, None]), by_log_theta


def _of_theta(function: Callable[[Tensor], Tensor], log_theta: Tensor) -> Tensor:
    """A gamma function of 1 + θ, in the shape of θ: with one θ per gene, once a gene and not once a count."""
    return function(1 + log_theta.double().exp())


def _log_factorial(count: Tensor) -> Tensor:
    """log Γ(count + 1) of M whole numbers; looked up where the largest is small, as nearly always."""
    largest = int(count.max()) if len(count) else 0
    if largest > 10_000:
        return torch.lgamma(count + 1)
    table = torch.lgamma(torch.arange(1, largest + 2, dtype=count.dtype, device=count.device))
    return table[count.long()]


def _doubles_at(positions: Tensor, x: Tensor, *parameters: Tensor) -> tuple[Tensor, ...]:
    """Counts and parameters at M flat positions of the N × G matrix: M float64 each, without their broadcasts."""
    return tuple(values.expand_as(x).take(positions).double() for values in (x, *parameters))
