"""Effects of perturbations on factors of expression, adjusted for the background state of the cells.

1. Factors: every gene belongs to one factor at most, with a positive weight (F ≥ 0, F Fᵀ = I). They maximise
       Σ_k f_kᵀ C f_k,   C the correlation of genes over cells, its diagonal set to 0
   the covariation that the factors hold: an orthogonal non-negative factorisation of what genes share. With the mean
   and the gene's own noise left in, factors are spent on single genes and on the depth of cells. Steps of the
   generalised power method (weights ∝ the positive part of F C, each gene to the factor that it adds most to) from
   several starts, for as long as the sum rises. The loading of a cell is F x, x standardised expression.
2. Effect of perturbation p on the loading L of the cells that it was given to, with control cells made alike in the
   background z (doubly robust estimate of the effect on the treated):
       θ = mean_p (L − m(z)) − Σ_control w (L − m(z)) / Σ_control w,   w = e(z) / (1 − e(z))
   m(z) = E[L | z, control], ridge on z and radial features of it; e(z) = P(p | z, p or control), logistic ridge. Each
   cell has both from cells of other folds. θ is right if either is, and its interval is that of its influence function
   with Student's t on Welch's degrees of freedom. Perturbed cells that control cells do not look like have no effect to
   be known: `n_controls`, the effective number of controls, (Σ w)² / Σ w², falls then.
   z is taken as it is: what the perturbation did to z itself is adjusted away.

Shapes: N cells, G genes, K factors, D dimensions of z.
Sources: the idea, factors adjusted for a basal state: scCAPE; Ding et al. 2006 (orthogonal factorisation); Journée et
al. 2010 (generalised power method); Robins, Rotnitzky & Zhao 1994; Chernozhukov et al. 2018 (cross-fitting).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.sparse import issparse
from scipy.stats import false_discovery_control
from scipy.stats import t as student
from sklearn.kernel_approximation import Nystroem
from sklearn.linear_model import LogisticRegression, RidgeCV

from stormcell.evaluation.profiles import ROUNDING, Cells, mean_profile, variances

STARTS, STEPS = 5, 200
FOLDS = 5
RADIAL = 100  # radial features of z
PENALTIES = np.logspace(-1, 4, 11)
FEWEST_CELLS = 10  # of a perturbation whose effects are estimated
OVERLAP = 0.01  # e(z) is kept between this and 1 − this, so that no control cell weighs more than 99


@dataclass(frozen=True)
class Factors:
    """Orthogonal non-negative factors of standardised expression."""

    weights: np.ndarray  # K × G, F: orthonormal rows, the one that holds most covariation first
    mean: np.ndarray  # G
    scale: np.ndarray  # G  standard deviation, 1 for a gene that does not vary

    def loadings(self, expression: Cells) -> np.ndarray:
        """N × G → N × K: 0 for a cell at the mean. Sparse cells stay sparse."""
        scaled = self.weights / self.scale
        return np.asarray(expression @ scaled.T) - scaled @ self.mean

    def genes(self, genes: Sequence[str], top: int = 20) -> pd.DataFrame:
        """Columns factor (from 1), gene, weight, rank: the genes of largest weight of each factor."""
        rows = [
            (k + 1, genes[g], row[g], rank)
            for k, row in enumerate(self.weights)
            for rank, g in enumerate(np.argsort(-row, kind="stable")[:top], start=1)
            if row[g] > 0
        ]
        return pd.DataFrame(rows, columns=["factor", "gene", "weight", "rank"])


def fit_factors(expression: Cells, n: int = 10, seed: int = 0) -> Factors:
    """N × G → n factors, or fewer where the genes do not share that many. G × G numbers are held.

    Raises ValueError for n outside 1 … G, fewer than 2 cells, values that are not finite, or genes that share nothing.
    """
    (N, G), values = expression.shape, expression.data if issparse(expression) else expression
    if N < 2 or not 1 <= n <= G or not np.isfinite(values).all():
        raise ValueError(f"{n} factors of expression {expression.shape}, finite: {np.isfinite(values).all()}")
    mean, variance = mean_profile(expression), variances(expression)
    scale = np.where(variance > 0, np.sqrt(variance), 1.0)
    expression = expression.astype(np.float64)
    second = expression.T @ expression
    covariance = ((second.toarray() if issparse(second) else second) - N * np.outer(mean, mean)) / (N - 1)
    shared = covariance / np.outer(scale, scale)
    shared[:, variance == 0] = shared[variance == 0] = 0  # not the rounding of it
    np.fill_diagonal(shared, 0)
    rng = np.random.default_rng(seed)
    held, weights = max(
        (_climb(shared, _start(shared, n, rng)) for _ in range(STARTS)), key=lambda found: found[0].sum()
    )
    kept = np.argsort(-held, kind="stable")[: (held > ROUNDING).sum()]
    if not len(kept):
        raise ValueError("no two genes vary together: no factor")
    return Factors(np.where(weights[kept] > ROUNDING, weights[kept], 0), mean, scale)


def _start(shared: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """Factors around n genes, drawn by how much they share with others that those before do not (k-means++)."""
    total = np.square(shared).sum(1)
    left, chosen = total.copy(), []
    for _ in range(n):
        chance = left / left.sum() if left.sum() > 0 else None
        gene = int(rng.choice(len(left), p=chance))
        chosen.append(gene)
        # Cosine of the correlations of two genes, each with itself too: partners of one another are alike.
        like = np.maximum(shared @ shared[gene] + 2 * shared[gene], 0)
        like = like**2 / ((total + 1) * (total[gene] + 1))
        like[gene] = 1
        left = np.minimum(left, total * np.maximum(1 - like, 0))
    around = np.maximum(shared[chosen], 0)
    around[np.arange(n), chosen] = around.max(1) + 1e-12
    return _orthogonal(around, around / np.linalg.norm(around, axis=1, keepdims=True))


def _climb(shared: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Covariation that each factor holds, K, and the factors, K × G, where the sum rises no more."""
    best, kept = np.full(len(weights), -np.inf), weights
    for _ in range(STEPS):
        pull = weights @ shared
        held = (pull * weights).sum(1)
        if held.sum() <= best.sum() * (1 + 1e-9):
            break
        best, kept = held, weights
        pull = np.maximum(pull, 0)
        size = np.linalg.norm(np.where(weights > 0, pull, 0), axis=1, keepdims=True)
        # Adding a gene to a factor adds pull² / (2 size) to what it holds.
        weights = _orthogonal(pull, pull / np.sqrt(np.maximum(size, 1e-300)))
    return best, kept


def _orthogonal(pull: np.ndarray, score: np.ndarray) -> np.ndarray:
    """Each gene with the factor of its largest score, rows of length 1: K × G, K × G → K × G."""
    weights = np.where(score.argmax(0) == np.arange(len(score))[:, None], pull, 0)
    size = np.linalg.norm(weights, axis=1, keepdims=True)
    return np.divide(weights, size, out=np.zeros_like(weights), where=size > 0)


def factor_effects(
    loadings: np.ndarray, background: np.ndarray, condition: Sequence[str], control: str, seed: int = 0
) -> pd.DataFrame:
    """A row per perturbation and factor: N × K, N × D, N labels.

    Columns condition, factor (from 1), n, n_controls, naive (difference of means), effect, se, low, high (95 %), p, q
    (Benjamini–Hochberg over the table). Effects are in standard deviations of the loading over the control cells. All
    nan with fewer than 10 cells. The order of cells does not matter. Raises ValueError for values that are not finite,
    fewer than 10 controls, or loadings that do not vary among them.
    """
    loadings, background = np.asarray(loadings, np.float64), np.asarray(background, np.float64)
    condition = np.asarray(condition, str)
    if not len(loadings) == len(background) == len(condition):
        raise ValueError(f"loadings {loadings.shape}, background {background.shape}, {len(condition)} labels")
    if not (np.isfinite(loadings).all() and np.isfinite(background).all()):
        raise ValueError("loadings and background must be finite")
    order = np.lexsort(np.column_stack([background, loadings]).T)
    loadings, background, condition = loadings[order], background[order], condition[order]
    controls = condition == control
    if controls.sum() < FEWEST_CELLS or not loadings[controls].std(0).all():
        raise ValueError(f"{controls.sum()} control cells ({control!r}), at least {FEWEST_CELLS} that vary are needed")
    loadings = loadings / loadings[controls].std(0, ddof=1)
    fold = _folds(condition, np.random.default_rng(seed))
    features = _features(background, controls, seed)
    residual = loadings - _expected(features, loadings, controls, fold)
    rows = []
    for name in sorted(set(condition) - {control}):
        mine = condition == name
        naive = loadings[mine].mean(0) - loadings[controls].mean(0)
        table = _effects(residual, features[:, : background.shape[1]], mine, controls, fold)
        at = {"condition": name, "factor": np.arange(1, loadings.shape[1] + 1), "n": int(mine.sum())}
        rows.append(pd.DataFrame({**at, "naive": naive, **table}))
    columns = ["condition", "factor", "n", "n_controls", "naive", "effect", "se", "low", "high", "p", "q"]
    if not rows:
        return pd.DataFrame(columns=columns)
    found = pd.concat(rows, ignore_index=True)
    found["q"] = np.nan
    tested = found["p"].notna()
    found.loc[tested, "q"] = false_discovery_control(found.loc[tested, "p"]) if tested.any() else np.nan
    return found[columns]


def _folds(condition: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Fold of each cell, as even as can be within every condition."""
    fold = np.empty(len(condition), int)
    for name in np.unique(condition):
        mine = np.flatnonzero(condition == name)
        fold[mine] = rng.permutation(len(mine)) % FOLDS
    return fold


def _features(background: np.ndarray, controls: np.ndarray, seed: int) -> np.ndarray:
    """z in standard deviations of the controls, then radial functions of it: N × D → N × (D + radial)."""
    spread = background[controls].std(0)
    z = (background - background[controls].mean(0)) / np.where(spread > 0, spread, 1.0)
    n = min(RADIAL, int(controls.sum()) // 2)
    radial = Nystroem(gamma=0.5 / z.shape[1], n_components=n, random_state=seed).fit(z[controls])
    return np.hstack([z, radial.transform(z)])


def _expected(features: np.ndarray, loadings: np.ndarray, controls: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """m(z) of every cell from the control cells of other folds: N × K."""
    expected = np.empty_like(loadings)
    for held_out in range(FOLDS):
        train, here = controls & (fold != held_out), fold == held_out
        ridge = RidgeCV(PENALTIES, alpha_per_target=True).fit(features[train], loadings[train])
        expected[here] = ridge.predict(features[here]).reshape(-1, loadings.shape[1])
    return expected


def _effects(residual: np.ndarray, z: np.ndarray, mine: np.ndarray, controls: np.ndarray, fold: np.ndarray) -> dict:
    """θ on each factor with its interval: residuals L − m(z), N × K."""
    n = int(mine.sum())
    if n < FEWEST_CELLS:
        return dict.fromkeys(["n_controls", "effect", "se", "low", "high", "p"], np.nan)
    either, chance = mine | controls, np.empty(len(mine))
    for held_out in range(FOLDS):
        train, here = either & (fold != held_out), controls & (fold == held_out)
        if here.any():
            model = LogisticRegression(solver="newton-cholesky").fit(z[train], mine[train])
            chance[here] = model.predict_proba(z[here])[:, 1]
    chance = np.clip(chance[controls], OVERLAP, 1 - OVERLAP)
    weight = chance / (1 - chance)
    weight /= weight.sum()
    n_controls = 1 / np.square(weight).sum()
    treated, matched = residual[mine].mean(0), weight @ residual[controls]
    parts = (
        residual[mine].var(0, ddof=1) / n,
        np.square(weight) @ np.square(residual[controls] - matched) * n_controls / (n_controls - 1),
    )
    effect, se = treated - matched, np.sqrt(parts[0] + parts[1])
    freedom = se**4 / (parts[0] ** 2 / (n - 1) + parts[1] ** 2 / (n_controls - 1))
    reach = student.ppf(0.975, freedom) * se
    p = 2 * student.sf(np.abs(effect) / se, freedom)
    return {"n_controls": n_controls, "effect": effect, "se": se, "low": effect - reach, "high": effect + reach, "p": p}
