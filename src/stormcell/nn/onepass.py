"""Negative binomial, plain and zero-inflated: value and gradients of a batch in one sweep over it, on the CPU.

The formulas are those of closed_form.py. For every entry the ones of x = 0 are computed, in which no gamma function
stands, by loops that the compiler turns into vector instructions: exponentials and logarithms are polynomials in
float32 (relative error 2e-7). Then the few entries with x > 0 are done over in float64; for counts up to 16 the gamma
functions are sums,
    log Γ(x+θ) − log Γ(1+θ) = Σ log(i + θ),   ψ(x+θ) − ψ(1+θ) = Σ 1 / (i + θ),   i = 1 … x−1

Shapes: N cells, G genes. One thread: what is saved is passes over memory, and a training step has the other cores.
Source: Cephes (Moshier 1992) for the exponential; the logarithm is the series of 2 artanh(u / (2 + u)).
"""

from __future__ import annotations

import math

import numba
import numpy as np

f4 = np.float32
# No reassociation: the series keep the order of their terms. NaN and ∞ are not assumed away: a training that diverged
# must show. Division follows IEEE, or nothing would be vectorised.
_EXACT = {"fastmath": {"contract", "nsz", "arcp"}, "error_model": "numpy", "nogil": True}
SUMMED = 16  # counts up to which the gamma functions are sums


# ---- vector functions


def _inline(function):
    return numba.njit(inline="always", **_EXACT)(function)


def _loop(function, options=_EXACT):
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:  # no folder of numba's choice can be written
        return numba.njit(**options)(function)


def _sum(function):
    """A loop whose terms are added in any order: float64 has digits to spare, and a vector of sums is quicker."""
    return _loop(function, _EXACT | {"fastmath": _EXACT["fastmath"] | {"reassoc"}})


@_inline
def _exp(x):
    """e^x: 2^k times a polynomial of the rest; 0 below −87, e^88 above 88, NaN of NaN."""
    cut = f4(-87.0) if x < f4(-87.0) else (f4(88.0) if x > f4(88.0) else x)
    k = np.floor(cut * f4(1.4426950408889634) + f4(0.5))
    r = cut - k * f4(0.693359375) + k * f4(2.12194440e-4)
    y = f4(1.9875691500e-4)
    y = y * r + f4(1.3981999507e-3)
    y = y * r + f4(8.3334519073e-3)
    y = y * r + f4(4.1665795894e-2)
    y = y * r + f4(1.6666665459e-1)
    y = y * r + f4(5.0000001201e-1)
    power = np.int32((np.int32(k) + np.int32(127)) << np.int32(23)).view(np.float32)
    return f4(0) if x < f4(-87.0) else (y * r * r + r + f4(1)) * power


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


# ---- one cell


@_loop
def _exponentials(logs, values):
    for g in range(logs.size):
        values[g] = _exp(logs[g])


@_loop
def _nb_at_zero(x, log_mean, log_theta, theta, value, by_mean, by_theta):
    """n = −θ s, −θ p and n + θ p; where there is a count, the value is 0 and the gradients wait for it."""
    for g in range(x.size):
        d = log_mean[g] - log_theta[g]
        e = _exp(-abs(d))
        share = f4(1) / (f4(1) + e)
        n = -theta[g] * (max(d, f4(0)) + _log1p(e))
        slope = -theta[g] * (share if d > f4(0) else e * share)
        value[g] = n if x[g] == f4(0) else f4(0)
        by_mean[g], by_theta[g] = slope, n - slope


@_loop
def _gate(x, logit, value, weight, by_logit):
    """log (e^n + e^l) − log (1 + e^l) in place of n, w, and (1 − π) − w; with a count −log (1 + e^l) and −π."""
    for g in range(x.size):
        n, gate = value[g], logit[g]
        z = n - gate
        a, b = _exp(-abs(z)), _exp(-abs(gate))
        of_a, of_b = f4(1) / (f4(1) + a), f4(1) / (f4(1) + b)
        above, below, log_b = of_b, b * of_b, _log1p(b)
        weight[g] = of_a if z > f4(0) else a * of_a
        empty = max(n, min(gate, f4(0))) + _log1p(a) - log_b
        value[g] = empty if x[g] == f4(0) else -max(gate, f4(0)) - log_b
        kept, opened = (above, below) if gate < f4(0) else (below, above)
        by_logit[g] = kept - weight[g] if x[g] == f4(0) else -opened


@_loop
def _times(weight, by_mean, by_theta):
    """Gradients of the zero-inflated zero from those of the plain one, in place."""
    for g in range(weight.size):
        by_mean[g] *= weight[g]
        by_theta[g] *= weight[g]


@_sum
def _total(value):
    total = 0.0
    for g in range(value.size):
        total += np.float64(value[g])
    return total


@_loop
def _digamma(z):
    """ψ(z) for z > 0: shifted above 10, then the asymptotic series. NaN below."""
    if z <= 0:
        return math.nan
    below = 0.0
    while z < 10:
        below += 1 / z
        z += 1
    r = 1 / (z * z)
    return math.log(z) - 0.5 / z - r * (1 / 12 - r * (1 / 120 - r * (1 / 252 - r / 240))) - below


@_loop
def _nb_at_count(x, log_mean, log_theta):
    """log NB, ∂/∂log μ and ∂/∂log θ of one count x > 0, in float64."""
    d, theta = log_mean - log_theta, math.exp(log_theta)
    e = math.exp(-abs(d))
    s, p = max(d, 0.0) + math.log1p(e), (1.0 if d > 0 else e) / (1 + e)
    if 1 <= x <= SUMMED and x == math.floor(x) and theta < 1e15:
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
    return value, by_mean, theta * (psi - s) + 1 - by_mean


@_loop
def _add_counts(x, log_mean, log_theta, by_mean, by_theta):
    """Sum of log NB over the entries with counts, whose gradients are put in place."""
    total = 0.0
    for g in range(x.size):
        if x[g] != f4(0):
            counted = _nb_at_count(np.float64(x[g]), np.float64(log_mean[g]), np.float64(log_theta[g]))
            total += counted[0]
            by_mean[g], by_theta[g] = counted[1], counted[2]
    return total


# ---- all cells


@_loop
def negative_binomial(x, log_mean, log_theta, total, by_mean, by_theta):
    """total (N, float64) and gradients (N × G each, or 0 × G where only the value is asked for) of counts N × G.

    log_theta is 1 × G or N × G. All contiguous.
    """
    n, g = x.shape
    theta, value = np.empty(g, np.float32), np.empty(g, np.float32)
    spare = np.empty((2, g), np.float32)
    for i in range(n):
        row = min(i, len(log_theta) - 1)
        if i == row:
            _exponentials(log_theta[row], theta)
        to_mean, to_theta = (by_mean[i], by_theta[i]) if len(by_mean) else (spare[0], spare[1])
        _nb_at_zero(x[i], log_mean[i], log_theta[row], theta, value, to_mean, to_theta)
        total[i] = _total(value) + _add_counts(x[i], log_mean[i], log_theta[row], to_mean, to_theta)


@_loop
def zero_inflated(x, log_mean, log_theta, logit, total, by_mean, by_theta, by_logit):
    """total (N, float64) and gradients (N × G each, or 0 × G where only the value is asked for) of counts N × G.

    log_theta is 1 × G or N × G. All contiguous.
    """
    n, g = x.shape
    theta, value, weight = np.empty(g, np.float32), np.empty(g, np.float32), np.empty(g, np.float32)
    spare = np.empty((3, g), np.float32)
    for i in range(n):
        row = min(i, len(log_theta) - 1)
        if i == row:
            _exponentials(log_theta[row], theta)
        to_mean, to_theta, to_logit = (
            (by_mean[i], by_theta[i], by_logit[i]) if len(by_mean) else (spare[0], spare[1], spare[2])
        )
        _nb_at_zero(x[i], log_mean[i], log_theta[row], theta, value, to_mean, to_theta)
        _gate(x[i], logit[i], value, weight, to_logit)
        _times(weight, to_mean, to_theta)
        total[i] = _total(value) + _add_counts(x[i], log_mean[i], log_theta[row], to_mean, to_theta)
