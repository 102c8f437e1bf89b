"""Log-likelihoods of a cell, summed over its genes, in nats.

gaussian            log N(x; m, σ²) = −½ ((x − m) / σ)² − log σ − ½ log 2π
Poisson             log P(x; μ) = x log μ − μ − log Γ(x+1)
negative binomial   log NB(x; μ, θ) = log Γ(x+θ) − log Γ(θ) − log Γ(x+1) + θ log θ/(θ+μ) + x log μ/(θ+μ)
                    mean μ, variance μ + μ²/θ; θ → ∞ is the Poisson distribution
zero-inflated       log ZINB(x; μ, θ, π) = log [(1 − π) NB(x; μ, θ) + π (x = 0)],  π = 1 / (1 + e^−l)

Shapes: N cells, G genes. Counts and parameters are N × G, log θ is (G,), 1 × G or N × G. Parameters are taken as
logarithms: a softmax over genes gives log μ at no cost, and neither μ nor θ can leave the positive numbers.

A count likelihood is computed on one of three paths, equal to 1e-5 and finite from μ = θ = 0 (as e^−100) up to θ = 1e8
and x = 1e5 (the plain formula in float64 only: at large θ the gamma functions exceed their difference a billion times):
    compiled      value and gradients in one sweep (onepass.py); float32 on the CPU
    closed_form   gradients written out, gamma functions of the counts above 0 only (closed_form.py); everything else
    plain         the *_entries below and autograd; differentiable more than once, and needs no float64 of its device
Source: Lopez et al. 2018 (scVI), Methods, for the parametrisation by μ and θ.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import reduce
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import softplus

from stormcell.compiled import COMPILES
from stormcell.nn import closed_form, onepass

LARGE = 40.0  # from here on softplus(d) = d, in float64 too


def gaussian_log_prob(x: Tensor, mean: Tensor, log_sigma: Tensor) -> Tensor:
    """log N(x; mean, e^(2 log_sigma)): N × G, N × G, log_sigma of shape (), (G,) or N × G → N."""
    deviation = (x - mean) * torch.exp(-log_sigma)
    return -(0.5 * deviation.square() + log_sigma + 0.5 * math.log(2 * math.pi)).sum(-1)


def poisson_log_prob(x: Tensor, log_mean: Tensor, path: Literal["auto", "closed_form", "plain"] = "auto") -> Tensor:
    """log P(x; e^log_mean): counts N × G, N × G → N. Raises ValueError when shapes differ."""
    x, log_mean = _checked(x, log_mean)
    if _chosen(path, x, compiled=False) == "plain":
        return poisson_entries(x, log_mean).sum(-1)
    return closed_form.Poisson.apply(x, log_mean)


def negative_binomial_log_prob(
    x: Tensor,
    log_mean: Tensor,
    log_theta: Tensor,
    path: Literal["auto", "compiled", "closed_form", "plain"] = "auto",
) -> Tensor:
    """log NB(x; e^log_mean, e^log_theta): counts N × G, N × G, log_theta of shape (G,), 1 × G or N × G → N.

    Differentiable in the parameters, once but on the plain path. Raises ValueError when shapes do not fit.
    """
    x, log_mean, log_theta = _checked(x, log_mean, log_theta)
    chosen = _chosen(path, x)
    if chosen == "plain":
        return negative_binomial_entries(x, log_mean, log_theta).sum(-1)
    if chosen == "closed_form":
        return closed_form.NegativeBinomial.apply(x, log_mean, log_theta)
    return _swept(onepass.negative_binomial, x, log_mean, log_theta)


def zero_inflated_negative_binomial_log_prob(
    x: Tensor,
    log_mean: Tensor,
    log_theta: Tensor,
    logit: Tensor,
    path: Literal["auto", "compiled", "closed_form", "plain"] = "auto",
) -> Tensor:
    """log ZINB(x; e^log_mean, e^log_theta, π), l = logit of π: N × G, N × G, (G,) or 1 × G or N × G, N × G → N.

    Differentiable in the parameters, once but on the plain path. Raises ValueError when shapes do not fit.
    """
    x, log_mean, log_theta, logit = _checked(x, log_mean, log_theta, logit)
    chosen = _chosen(path, x)
    if chosen == "plain":
        return zero_inflated_entries(x, log_mean, log_theta, logit).sum(-1)
    if chosen == "closed_form":
        return closed_form.ZeroInflated.apply(x, log_mean, log_theta, logit)
    return _swept(onepass.zero_inflated, x, log_mean, log_theta, logit)


# ---- plain formulas


def poisson_entries(x: Tensor, log_mean: Tensor) -> Tensor:
    """log P of every entry: N × G, N × G → N × G."""
    return _times_log_mean(x, log_mean) - log_mean.exp() - torch.lgamma(x + 1)


def negative_binomial_entries(x: Tensor, log_mean: Tensor, log_theta: Tensor) -> Tensor:
    """log NB of every entry: N × G, N × G, (G,) or 1 × G or N × G → N × G.

    With s = log(1 + μ/θ) the last two terms of the formula are x log μ − (x+θ) s − x log θ. Γ(1+θ)/θ in place of Γ(θ)
    keeps θ → 0 finite; at x = 0 the gamma functions cancel, as they do at x = 1, which takes its place in them.
    """
    # One θ per entry: the gradients of the gamma functions cancel there, before they are summed over cells.
    log_theta = log_theta.expand_as(x)
    theta, s = log_theta.exp(), softplus(log_mean - log_theta, threshold=LARGE)
    count = torch.where(x == 0, 1, x)
    gammas = torch.lgamma(count + theta) - torch.lgamma(1 + theta) - (count - 1) * log_theta - torch.lgamma(count + 1)
    return gammas + _times_log_mean(x, log_mean) - (x + theta) * s


def zero_inflated_entries(x: Tensor, log_mean: Tensor, log_theta: Tensor, logit: Tensor) -> Tensor:
    """log ZINB of every entry: N × G, N × G, (G,) or 1 × G or N × G, N × G → N × G."""
    counted = negative_binomial_entries(x, log_mean, log_theta)
    empty = softplus(counted - logit, threshold=LARGE) - softplus(-logit, threshold=LARGE)
    return torch.where(x == 0, empty, counted - softplus(logit, threshold=LARGE))


def _times_log_mean(x: Tensor, log_mean: Tensor) -> Tensor:
    """x log μ, which is 0 at x = 0 also where μ is."""
    return torch.where(x == 0, 0, x * log_mean)


# ---- compiled


def _swept(sweep: Callable, x: Tensor, *parameters: Tensor) -> Tensor:
    """Value of a sweep of onepass.py over all cells, and its gradients if any parameter asks for one."""
    graded = torch.is_grad_enabled() and any(one.requires_grad for one in parameters)
    return _Sweep.apply(sweep, graded, x, *parameters)


class _Sweep(torch.autograd.Function):
    """The sweep computes the gradients with the value; backward multiplies them by what comes from above."""

    @staticmethod
    def forward(ctx, sweep: Callable, graded: bool, x: Tensor, *parameters: Tensor) -> Tensor:
        total = np.empty(len(x))
        gradients = [x.new_empty(len(x) if graded else 0, x.shape[1]) for _ in parameters]
        arrays = [torch.atleast_2d(one.detach()).numpy() for one in (x, *parameters)]
        sweep(*arrays, total, *(one.numpy() for one in gradients))
        ctx.save_for_backward(*gradients)
        ctx.shapes = [one.shape for one in parameters]
        return torch.from_numpy(total).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        asked = zip(ctx.saved_tensors, ctx.shapes, ctx.needs_input_grad[3:], strict=True)
        return None, None, None, *(_weighted(one, grad, shape) if needed else None for one, shape, needed in asked)


def _weighted(gradient: Tensor, grad: Tensor, shape: torch.Size) -> Tensor:
    """N × G gradients times that of each cell, N; for one parameter per gene summed over cells, as one product."""
    return gradient * grad[:, None] if shape == gradient.shape else (grad @ gradient).view(shape)


# ---- inputs


def _checked(x: Tensor, log_mean: Tensor, log_theta: Tensor | None = None, logit: Tensor | None = None) -> list[Tensor]:
    """Those of the four that are there, contiguous, in one dtype: the widest of the parameters, float32 at least.

    Half precision, as of autocast, keeps too few digits for a sum over genes. Raises ValueError when shapes do not fit.
    """
    if x.dim() != 2 or x.shape != log_mean.shape or (logit is not None and logit.shape != x.shape):
        shapes = [tuple(one.shape) for one in (x, log_mean, logit) if one is not None]
        raise ValueError(f"counts, log_mean and logit must be N × G alike: {', '.join(map(str, shapes))}")
    if log_theta is not None and log_theta.shape not in (x.shape[1:], (1, x.shape[1]), x.shape):
        raise ValueError(f"log_theta of shape {tuple(log_theta.shape)} for counts of shape {tuple(x.shape)}")
    inputs = [one for one in (x, log_mean, log_theta, logit) if one is not None]
    dtype = reduce(torch.promote_types, (one.dtype for one in inputs[1:]), torch.float32)
    return [one.to(dtype).contiguous() for one in inputs]


def _chosen(path: str, x: Tensor, compiled: bool = True) -> str:
    """The path that is asked for, or the fastest one. Raises ValueError where that one cannot be had."""
    sweeps = compiled and x.device.type == "cpu" and x.dtype == torch.float32
    if path == "auto":
        if x.device.type == "mps":  # Apple's GPU has no float64
            return "plain"
        return "compiled" if sweeps and COMPILES else "closed_form"
    if path not in ("compiled", "closed_form", "plain") or (path == "compiled" and not sweeps):
        raise ValueError(f"no path {path!r} for {x.dtype} on {x.device.type}")
    return path
