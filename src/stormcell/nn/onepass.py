"""The zero-inflated negative binomial: value and gradients of a batch in one sweep over it, on the CPU.

For every entry the formulas of x = 0 are computed, in which no gamma function stands, by loops that the compiler turns
into vector instructions: exponentials and logarithms are polynomials in float32 (relative error 2e-7). Then the few
entries with x > 0 are done over in float64; for counts up to 16 the gamma functions are sums,
    log Γ(x+θ) − log Γ(1+θ) = Σ log(i + θ),   ψ(x+θ) − ψ(1+θ) = Σ 1 / (i + θ),   i = 1 … x−1

With d = log μ − log θ, s = log(1 + e^d), p = μ/(μ+θ), n = −θ s (NB at 0), π = 1/(1 + e^−l):
    x = 0   NB    log p = n                                       ∂/∂log μ = −θ p,    ∂/∂log θ = n + θ p
            ZINB  log p = softplus(n − l) − softplus(−l),  w = 1/(1 + e^(l−n))
                  ∂/∂log μ, ∂/∂log θ = w times those of NB,  ∂/∂l = (1 − π) − w
    x > 0   ZINB  log p = NB − softplus(l),                       ∂/∂l = −π

Shapes: N cells, G genes. One thread: what is saved is passes over memory, and a training step has the other cores.
Source: Cephes (Moshier 1992) for the exponential; the logarithm is the series of 2 artanh(u / (2 + u)).
"""

from __future__ import annotations

import math

import numba
import numpy as np

f4 = np.float32
# No reassociation: the series keep the order of their terms. Division follows IEEE, or nothing would be vectorised.
_EXACT = {"fastmath": {"contract", "nnan", "ninf", "nsz", "arcp"}, "error_model": "numpy", "nogil": True}
SUMMED = 16  # counts up to which the gamma functions are sums


def _inline(function):
    return numba.njit(inline="always", **_EXACT)(function)


def _loop(function):
    try:
        return numba.njit(cache=True, **_EXACT)(function)
    except RuntimeError:  # no folder of numba's choice can be written
        return numba.njit(**_EXACT)(function)


@_inline
def _exp(x):
    """e^x for −87 ≤ x ≤ 88, cut there: 2^k times a polynomial of the rest."""
    x = min(max(x, f4(-87.0)), f4(88.0))
    k = np.floor(x * f4(1.4426950408889634) + f4(0.5))
    r = x - k * f4(0.693359375) + k * f4(2.12194440e-4)
    y = f4(1.9875691500e-4)
    y = y * r + f4(1.3981999507e-3)
    y = y * r + f4(8.3334519073e-3)
    y = y * r + f4(4.1665795894e-2)
    y = y * r + f4(1.6666665459e-1)
    y = y * r + f4(5.0000001201e-1)
    power = np.int32((np.int32(k) + np.int32(127)) << np.int32(23)).view(np.float32)
    return (y * r * r + r + f4(1)) * power


@_inline
def _log1p(u):
    """log(1 + u) for 0 ≤ u ≤ 1, to relative accuracy also where u is tiny."""
    t = u / (f4(2) + u)
    q = t * t
    y = f4(1 / 17)
    y = y * q + f4(1 / 15)
    y = y * q + f4(1 / 13)
    y = y * q + f4(1 / 11)
    y = y * q + f4(1 / 9)
    y = y * q + f4(1 / 7)
    y = y * q + f4(1 / 5)
    y = y * q + f4(1 / 3)
    return f4(2) * (t + t * q * y)


@_loop
def _nb_at_zero(log_mean, log_theta, theta, value, by_mean):
    """n and −θ p of one cell."""
    for g in range(log_mean.size):
        d = log_mean[g] - log_theta[g]
        e = _exp(-abs(d))
        share = f4(1) / (f4(1) + e)
        value[g] = -theta[g] * (max(d, f4(0)) + _log1p(e))
        by_mean[g] = -theta[g] * (share if d > f4(0) else e * share)


@_loop
def _gate_at_zero(nb, logit, value, weight):
    """softplus(n − l) − softplus(−l), and w."""
    for g in range(nb.size):
        z = nb[g] - logit[g]
        a, b = _exp(-abs(z)), _exp(-abs(logit[g]))
        share = f4(1) / (f4(1) + a)
        weight[g] = share if z > f4(0) else a * share
        value[g] = (max(z, f4(0)) + _log1p(a)) - (max(-logit[g], f4(0)) + _log1p(b))


@_loop
def _gate_gradient(logit, weight, by_logit):
    """(1 − π) − w."""
    for g in range(logit.size):
        b = _exp(-abs(logit[g]))
        share = f4(1) / (f4(1) + b)
        by_logit[g] = (share if logit[g] < f4(0) else b * share) - weight[g]


@_loop
def _spread(weight, nb, by_mean, by_theta):
    """Gradients of the zero-inflated zero from those of the plain one: by_mean in place."""
    for g in range(nb.size):
        plain = by_mean[g]
        by_mean[g] = weight[g] * plain
        by_theta[g] = weight[g] * (nb[g] - plain)


@_loop
def _digamma(z):
    """ψ(z) for z > 0: shifted above 10, then the asymptotic series."""
    below = 0.0
    while z < 10:
        below += 1 / z
        z += 1
    r = 1 / (z * z)
    return math.log(z) - 0.5 / z - r * (1 / 12 - r * (1 / 120 - r * (1 / 252 - r / 240))) - below


@_loop
def _nb_at_count(x, log_mean, log_theta, theta):
    """log NB, ∂/∂log μ and ∂/∂log θ of one count x > 0, in float64."""
    d = log_mean - log_theta
    e = math.exp(-abs(d))
    s, p = max(d, 0.0) + math.log1p(e), (1.0 if d > 0 else e) / (1 + e)
    if x <= SUMMED and theta < 1e15:
        product, psi = 1.0, 0.0  # Γ(x+θ) / Γ(1+θ) / Γ(x+1); 16 factors of 1e15 stay below the largest float64
        for i in range(1, int(x)):
            product *= (i + theta) / (i + 1)
            psi += 1 / (i + theta)
        gamma = math.log(product)
    else:
        gamma = math.lgamma(x + theta) - math.lgamma(1 + theta) - math.lgamma(x + 1)
        psi = _digamma(x + theta) - _digamma(1 + theta)
    value = gamma - (x - 1) * log_theta + x * log_mean - (x + theta) * s
    by_mean = x - (x + theta) * p
    return value, by_mean, -by_mean - theta * s + theta * psi + 1


@_loop
def zero_inflated(x, log_mean, log_theta, logit, total, by_mean, by_theta, by_logit):
    """total (N, float64) and gradients (N × G each) of counts N × G; log_theta is 1 × G or N × G. All contiguous."""
    n, g = x.shape
    value, nb, weight = np.empty(g, np.float32), np.empty(g, np.float32), np.empty(g, np.float32)
    theta = np.exp(log_theta)
    for i in range(n):
        row = i if len(log_theta) > 1 else 0
        _nb_at_zero(log_mean[i], log_theta[row], theta[row], nb, by_mean[i])
        _gate_at_zero(nb, logit[i], value, weight)
        _gate_gradient(logit[i], weight, by_logit[i])
        _spread(weight, nb, by_mean[i], by_theta[i])
        total[i] = _sum_with_counts(x[i], log_mean[i], log_theta[row], theta[row], value, by_mean[i], by_theta[i])
        for j in range(g):
            if x[i, j] != 0:
                gate = np.float64(logit[i, j])
                e = math.exp(-abs(gate))
                total[i] -= max(gate, 0.0) + math.log1p(e)
                by_logit[i, j] = -(1.0 if gate > 0 else e) / (1 + e)


@_loop
def _sum_with_counts(x, log_mean, log_theta, theta, value, by_mean, by_theta):
    """Sum of a cell, its entries with counts done over."""
    total = 0.0
    for g in range(x.size):
        if x[g] == 0:
            total += np.float64(value[g])
        else:
            parameters = np.float64(log_mean[g]), np.float64(log_theta[g]), np.float64(theta[g])
            of = _nb_at_count(np.float64(x[g]), *parameters)
            total += of[0]
            by_mean[g], by_theta[g] = of[1], of[2]
    return total
