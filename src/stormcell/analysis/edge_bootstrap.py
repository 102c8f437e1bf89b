"""How far an edge can be trusted: resampled cells for its interval and sign, permuted plans for its false discoveries.

Resample: cells of both clusters are drawn anew with replacement, so often are cells counted, w_a and w_b. The plan
follows them, P'_ab ∝ w_a r_a · P_ab w_b / Σ_b P_ab w_b; in a share of the resamples the coupling is solved again on the
cells drawn. Pairs are never resampled: cells are what was measured. Both networks of a resample have λ as given.

Null: every source cell is given the partners of another, drawn at random. Cells, marginals and the smoothness of the
barycentres stay, the link between x and y goes: what is left are the weights that chance gives to these regulators.
(The coupling P = r sᵀ has weights of exactly 0 and no spread to compare with.)

False discovery rate: t_e = |w_e| / scale_e, with the null's root mean square of that edge as its scale, because edges
of rare or collinear regulators vary more. For each null fit the scale comes from the other fits, else its own
outlier would hide itself. The null t of all edges are pooled: S fits of one edge alone cannot say less than
1 / (S + 1), which over 60,000 edges no correction survives.

    q(t) = min over u ≤ t of  (#{null t ≥ u} + 1) / S  /  #{estimated t ≥ u}

Shapes: A source cells, B target cells, G genes, E edges, S resamples or null fits.
Source: Efron 1979 (bootstrap, percentile interval); Storey & Tibshirani 2003 (false discoveries); Phipson & Smyth 2010
(the count of chance is never 0).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.random import Generator

from stormcell.analysis.mask import Mask
from stormcell.analysis.masked_ridge import Edges, Moments, moments, pair_moments, partners, solve

if TYPE_CHECKING:
    from stormcell.analysis.couplings import Coupling

Recouple = Callable[[np.ndarray, np.ndarray], "Coupling"]  # numbers of the cells drawn, A and B → their coupling


@dataclass(frozen=True)
class Confidence:
    """Of every edge, over resamples."""

    low: np.ndarray  # E, 2.5 %
    high: np.ndarray  # E, 97.5 %
    standard_error: np.ndarray  # E
    sign_stability: np.ndarray  # E, share of resamples with the sign of the estimate


# ---- fits


def resampled(
    x: np.ndarray,
    y: np.ndarray,
    coupling: Coupling,
    mask: Mask,
    ridge: float,
    n: int,
    rng: Generator,
    self_edge: bool = True,
    recouple: float = 0.0,
    couple: Recouple | None = None,
) -> Iterator[Edges]:
    """n networks of resampled cells; see `resampled_moments`."""
    for found in resampled_moments(x, y, coupling, mask.regulators, n, rng, recouple, couple):
        yield solve(found, mask, ridge, self_edge)


def resampled_moments(
    x: np.ndarray,
    y: np.ndarray,
    coupling: Coupling,
    regulators: np.ndarray,
    n: int,
    rng: Generator,
    recouple: float = 0.0,
    couple: Recouple | None = None,
) -> Iterator[Moments]:
    """Moments of n resamples of the cells of both clusters, A × G and B × G.

    In the share `recouple` of them, evenly spread, `couple` solves the coupling of the cells drawn (a cell drawn twice
    stands there twice). Raises ValueError for a share without `couple`.
    """
    if not 0 <= recouple <= 1 or (recouple and couple is None):
        raise ValueError(f"recouple {recouple} with couple {couple}")
    plan = coupling.plan.astype(np.result_type(y.dtype, np.float32))
    for k in range(n):
        rows, columns = rng.integers(len(x), size=len(x)), rng.integers(len(y), size=len(y))
        if int((k + 1) * recouple) > int(k * recouple):
            yield moments(x[rows], y[columns], couple(rows, columns), regulators)
            continue
        (rows, times), (columns, weights) = (np.unique(drawn, return_counts=True) for drawn in (rows, columns))
        # Cells that were not drawn are left out rather than given weight 0: it saves 60 % of the product.
        means, mass = partners(plan[rows][:, columns], y[columns], weights)
        yield pair_moments(x[rows], means, times * coupling.source[rows] * (mass > 0), regulators)


def permuted_moments(
    x: np.ndarray, y: np.ndarray, coupling: Coupling, regulators: np.ndarray, n: int, rng: Generator
) -> Iterator[Moments]:
    """Moments of n null couplings, every source cell with the partners of another: A × G, B × G."""
    means, mass = partners(coupling.plan, y)
    kept = mass > 0
    x, means, mass = x[kept], means[kept], mass[kept]
    for _ in range(n):
        yield pair_moments(x, means[rng.permutation(len(x))], mass, regulators)


# ---- what they say


def summary(values: np.ndarray, estimate: np.ndarray) -> Confidence:
    """Resampled weights S × E and the estimate E → percentile interval of 95 %, standard error, sign stability."""
    if values.ndim != 2 or len(values) < 2 or values.shape[1:] != estimate.shape:
        raise ValueError(f"resamples {values.shape} of {estimate.shape} edges")
    low, high = np.percentile(values, [2.5, 97.5], axis=0)
    stable = (np.sign(values) == np.sign(estimate)).mean(0)
    return Confidence(low, high, values.std(0, ddof=1), stable)


def false_discovery(estimate: np.ndarray, null: np.ndarray) -> np.ndarray:
    """q of every edge: E, S × E weights of null fits → E. Edges of weight 0 have q = 1."""
    S, E = null.shape
    if S < 2 or estimate.shape != (E,):
        raise ValueError(f"null fits {null.shape} of {estimate.shape} edges")
    squares = np.square(null, dtype=np.float64)
    total = squares.sum(0)
    chance = np.sort(_ratio(squares, np.maximum(total - squares, 0) / (S - 1)).ravel())
    found = _ratio(np.square(estimate, dtype=np.float64), total / S)
    order = np.argsort(found)
    false = (len(chance) - np.searchsorted(chance, found[order], "left") + 1) / S
    claimed = E - np.searchsorted(found[order], found[order], "left")
    q = np.empty(E)
    q[order] = np.minimum(np.minimum.accumulate(false / claimed), 1)  # never larger for a larger weight
    return np.where(estimate == 0, 1.0, q)


def _ratio(squares: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """t², 0 where there is no weight, infinite where the null has none."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(squares > 0, squares / scale, 0.0)
