"""Co-factors: two regulators of one target whose product acts beyond both alone.

    y_j = c + Σ_i w_i x_i + s x_j + v x_i x_k + ε        regulators i, k of target j in the mask; x standardised

Half of the cells screen, the other half estimate:
    screen     e and p̃ are what the linear part (intercept, all regulators of j, x_j itself) leaves of y_j and of
               x_i x_k, by ridge, for every pair of the mask. Score statistic of v = 0, robust to unequal variance:
               t = Σ p̃ e / √(Σ p̃² (e / (1 − h))²),  h leverage;  Student's t, n − tr H − 1 degrees of freedom
               Where |t| > 2 it is taken again with e less v̂ p̃ and with the leverage of p̃ in h, because a strong
               product makes the e of the score too large; then with (Σ p̃²)² / Σ p̃⁴ degrees of freedom at most,
               the number of cells that carry a product: its tails are long, and the normal's p would be too small
               z is the normal deviate of the same p;  q: Benjamini–Hochberg over all pairs of all targets
    estimate   the best pairs of a target together with its linear part and with x_i², x_k² of those pairs, by ridge; v
               with its percentile interval over a bootstrap of cells
The largest of many |z| are large partly by luck. Cells that had no part in the choice do not share that luck, so the
interval covers v as if the pair had been named beforehand; on the same cells it would sit too far from 0. The squares
keep a regulator's own curve (saturation) from passing as a product where the two regulators are correlated. A co-factor
is a pair with small q whose interval leaves 0 out: the screen, which has no squares, is not enough.

e / (1 − h) is the error of a cell that had no part in the fit, so that one cell far out is no product (HC3). Cells that
share neighbours (denoised) or partners (barycentre) are not independent and inflate every z alike. With 100 pairs or
more, most of them null, that factor is their median |z| over that of a standard normal; above 1 it divides z and widens
the interval.

Shapes: N cells (A screen, B estimate), G genes, R regulators of one target, K pairs, D columns of one refit.
Source: MacKinnon & White 1985 (HC3), Boos 1992 (robust score), Imbens & Kolesár 2016 (degrees of freedom); Cox 1975
(splitting); Benjamini & Hochberg 1995; Devlin & Roeder 1999 (inflation); Efron 1979.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from stormcell.analysis.mask import Mask

FEWEST_CELLS, PAIRS_AT_ONCE, ENOUGH_PAIRS, SUSPECT = 20, 4096, 100, 2.0
COLUMNS = ("target", "regulator_1", "regulator_2", "weight", "low", "high", "p", "q", "n_screened", "inflation")


@dataclass(frozen=True)
class _Cells:
    """One half of the cells, genes in rows, because products of rows are quicker: x standardised."""

    x: np.ndarray  # G × n
    y: np.ndarray  # G × n
    weights: np.ndarray  # n, mean 1


def cofactors(
    x: np.ndarray,
    y: np.ndarray,
    weights: np.ndarray | None,
    mask: Mask,
    *,
    ridge: float = 1e-3,
    per_target: int = 3,
    keep: int = 300,
    n_bootstrap: int = 200,
    level: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """The `keep` pairs of largest |z|, at most `per_target` of one target, strongest first.

    x, y: N × G, source cells and their barycentres; weights: N, the source marginal (None: equal). ridge: λ per cell,
    as in the linear fit. Columns: target, regulator_1 < regulator_2 (numbers of genes), weight (change of y_j, in its
    own unit, per product of one standard deviation each), low, high, p and q (of the screen), n_screened, inflation.
    Raises ValueError for shapes that disagree, numbers that are not finite, and fewer than 20 cells.
    """
    screen, estimate = _halves(x, y, weights, mask, seed)
    found, z = _screened(screen, mask, ridge, per_target)
    if not len(found):
        return pd.DataFrame({name: [] for name in COLUMNS})
    inflation = _inflation(z)
    p, q = _p_and_q(z / inflation)
    kept = found[np.argsort(-np.abs(z[found["pair"]]), kind="stable")][:keep]
    kept = kept[np.argsort(kept["target"], kind="stable")]
    refits = list(_refits(estimate, mask, kept, ridge, n_bootstrap, np.random.default_rng([seed, 1])))
    weight, resamples = (np.concatenate(part) for part in zip(*refits, strict=True))
    below, above = np.quantile(resamples, [(1 - level) / 2, (1 + level) / 2], axis=1) - weight
    table = pd.DataFrame({name: kept[name] for name in COLUMNS[:3]})
    table["weight"], table["low"], table["high"] = weight, weight + inflation * below, weight + inflation * above
    table["p"], table["q"] = p[kept["pair"]], q[kept["pair"]]
    table["n_screened"], table["inflation"] = len(z), inflation
    return table.iloc[np.argsort(-np.abs(z[kept["pair"]]), kind="stable")].reset_index(drop=True)


def _halves(x, y, weights, mask: Mask, seed: int) -> tuple[_Cells, _Cells]:
    """Two random halves of the cells that have weight."""
    x, y = np.asarray(x), np.asarray(y)
    weights = np.ones(len(x)) if weights is None else np.asarray(weights, float)
    if x.shape != y.shape or weights.shape != (len(x),) or x.shape[1] != mask.n_genes:
        raise ValueError(f"x {x.shape}, y {y.shape}, weights {weights.shape} and a mask of {mask.n_genes} genes")
    if not (np.isfinite(weights).all() and (weights >= 0).all()):
        raise ValueError("weights of cells must be finite and not negative")
    cells = np.flatnonzero(weights > 0)
    if len(cells) < FEWEST_CELLS:
        raise ValueError(f"{len(cells)} cells with weight: co-factors need {FEWEST_CELLS}")
    x, y, weights = x[cells], y[cells], weights[cells]
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError("x and y must be finite")
    mean = np.average(x, 0, weights)
    deviation = np.sqrt(np.average(np.square(x - mean), 0, weights))
    # A gene without spread becomes a row of zeros: no product of it is ever found.
    standard = (x - mean) / np.where(deviation > 1e-6 * (1 + np.abs(mean)), deviation, np.inf)
    order = np.random.default_rng([seed, 0]).permutation(len(cells))
    return tuple(
        _Cells(
            *(np.ascontiguousarray(values[half].T) for values in (standard, y)), weights[half] / weights[half].mean()
        )
        for half in (order[: len(order) // 2], order[len(order) // 2 :])
    )


# ---- screening half


def _screened(cells: _Cells, mask: Mask, ridge: float, per_target: int) -> tuple[np.ndarray, np.ndarray]:
    """The best pairs of every target as records (pair, target, regulator_1, regulator_2), and z of all pairs."""
    single = replace(cells, x=cells.x.astype(np.float32), y=_scaled(cells.y).astype(np.float32))
    best, statistics, count = [], [np.zeros(0, np.float32)], 0
    for targets, regulators, _ in mask.blocks():
        first, second = np.triu_indices(regulators.shape[1], 1)
        for target, rows in zip(targets, regulators, strict=True):
            if not len(first):
                break
            z = _score_statistics(single, target, rows, first, second, ridge)
            top = np.argsort(-np.abs(z), kind="stable")[:per_target]
            best += [(count + k, target, rows[first[k]], rows[second[k]]) for k in top[z[top] != 0]]
            statistics.append(z)
            count += len(z)
    kind = [("pair", np.int64), *((name, np.int64) for name in COLUMNS[:3])]
    return np.array(best, kind), np.concatenate(statistics)


def _score_statistics(cells: _Cells, target, regulators, first, second, ridge) -> np.ndarray:
    """z of K pairs of regulators of one target."""
    root = np.sqrt(cells.weights).astype(np.float32)
    n, rows = len(root), cells.x[regulators]
    linear = np.vstack([root[None], rows * root, cells.x[[target]] * root])
    penalty = np.full(len(linear), ridge * n)
    penalty[0] = 1e-6 * n  # the intercept is free
    gram = linear.astype(float) @ linear.T
    basis = np.linalg.solve(np.linalg.cholesky(gram + np.diag(penalty)), linear).astype(np.float32)  # H = basisᵀ basis
    leverage = np.square(basis).sum(0)
    y = cells.y[target] * root
    error = y - (basis @ y) @ basis
    t = np.zeros(len(first), np.float32)
    if np.square(error).sum() <= 1e-8 * n:  # the linear part leaves nothing but rounding
        return t
    degrees = np.full(len(t), max(n - float(leverage.sum()) - 1, 1.0))
    spread = np.square(error / np.maximum(1 - leverage, 1e-3))
    left, right = rows * root, rows
    for start in range(0, len(first), PAIRS_AT_ONCE):
        part = slice(start, start + PAIRS_AT_ONCE)
        product = left[first[part]] * right[second[part]]
        size = np.einsum("kn,kn->k", product, product)
        product -= (product @ basis.T) @ basis
        squared = np.square(product)
        variance, own = squared @ spread, squared.sum(1)
        seen = (own > 1e-5 * size) & (variance > 0)  # a product that the linear part holds has nothing of its own
        t[part][seen] = (product @ error)[seen] / np.sqrt(variance[seen])
        suspect = start + np.flatnonzero(np.abs(t[part]) > SUSPECT)
        t[suspect], carried = _with_its_own_part_taken_out(product[suspect - start], error, leverage)
        degrees[suspect] = np.minimum(degrees[suspect], carried)
    return _normal_deviate(t, degrees)


def _with_its_own_part_taken_out(
    product: np.ndarray, error: np.ndarray, leverage: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """t of K products (K × n, less their linear part) by the error that is left with v̂ p̃ in the fit, and its degrees
    of freedom."""
    squared = np.square(product)
    own, score = squared.sum(1, keepdims=True), product @ error
    left = error - (score[:, None] / own) * product
    unseen = left / np.maximum(1 - leverage - squared / own, 1e-3)
    return score / np.sqrt(np.square(product * unseen).sum(1)), own[:, 0] ** 2 / np.square(squared).sum(1)


def _normal_deviate(t: np.ndarray, degrees: np.ndarray) -> np.ndarray:
    """z of the same two-sided p as Student's t, up to p = 1e-300."""
    from scipy.special import ndtri, stdtr

    return (-np.sign(t) * ndtri(np.maximum(stdtr(degrees, -np.abs(t).astype(float)), 1e-300))).astype(np.float32)


def _scaled(y: np.ndarray) -> np.ndarray:
    """Rows centred and of standard deviation 1; constant rows 0."""
    mean, deviation = y.mean(1, keepdims=True), y.std(1, keepdims=True)
    return (y - mean) / np.where(deviation > 1e-6 * (1 + np.abs(mean)), deviation, np.inf)


def _inflation(z: np.ndarray) -> float:
    from scipy.special import ndtri

    seen = np.abs(z[z != 0])
    return max(1.0, float(np.median(seen) / ndtri(0.75))) if len(seen) >= ENOUGH_PAIRS else 1.0


def _p_and_q(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    from scipy.special import ndtr
    from scipy.stats import false_discovery_control

    p = 2 * ndtr(-np.abs(z).astype(float))
    return p, false_discovery_control(p)


# ---- estimating half


def _refits(
    cells: _Cells, mask: Mask, pairs: np.ndarray, ridge: float, n_bootstrap: int, rng: np.random.Generator
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Per target, in ascending order: v of its pairs (k) and of every resample (k × n_bootstrap)."""
    n = len(cells.weights)
    drawn = rng.multinomial(n, np.full(n, 1 / n), n_bootstrap)
    counts = np.vstack([np.ones(n), drawn]) * cells.weights  # the first row is the estimate itself
    start = np.concatenate([[0], np.cumsum(mask.in_degree)])
    for target in np.unique(pairs["target"]):
        own = pairs[pairs["target"] == target]
        one, two = own["regulator_1"], own["regulator_2"]
        squares = np.square(cells.x[np.union1d(one, two)])
        linear = cells.x[np.append(mask.regulator[start[target] : start[target + 1]], target)]
        columns = np.vstack([cells.x[one] * cells.x[two], squares - squares.mean(1, keepdims=True), linear, np.ones(n)])
        coefficients = _weighted_ridge(columns, cells.y[target] - cells.y[target].mean(), counts, ridge)
        found = coefficients[:, : len(own)].T
        yield found[:, 0], found[:, 1:]


def _weighted_ridge(columns: np.ndarray, y: np.ndarray, counts: np.ndarray, ridge: float) -> np.ndarray:
    """Coefficients of D columns (the last one is the intercept) under each row of cell weights: n_weights × D."""
    size = len(columns)
    i, j = np.triu_indices(size)
    gram = np.empty((len(counts), size, size))
    gram[:, i, j] = gram[:, j, i] = counts @ (columns[i] * columns[j]).T
    total = counts.sum(1)
    diagonal = np.arange(size)
    gram[:, diagonal[:-1], diagonal[:-1]] += ridge * total[:, None]
    return np.linalg.solve(gram, (counts @ (columns * y).T)[..., None])[..., 0]
