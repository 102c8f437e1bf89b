"""Which cells escaped: the probability that a cell responds to its perturbation, from its salient vector t.

Per perturbation p, with the components fitted to training cells:
    t ~ (1 − π_p) N(m₀, S₀) + π_p N(m_p, S_p),   P(responding | t) = π_p N_p(t) / (π_p N_p(t) + (1 − π_p) N₀(t))
The null N₀ is that of the control cells (covariance shrunk by Ledoit & Wolf) and stays as it is; share, mean and
covariance of the other are found by EM on the n cells of p, S_p as the mode under an inverse Wishart around S₀ that
weighs 4 n cells and one for each of its free values: with a covariance of its own one broad component explains both
kinds of cells, and every cell responds. In coordinates where N₀ is N(0, I) a step is two matrix products.

What can be known. Without a shift of the mean the likelihood is flat in π, so a perturbation whose mean t does not
differ from that of the controls (Hotelling's T², q ≤ .05 over perturbations) is not `measurable`: nothing responds, and
how many cells the guide reached stays unknown. Share and shift are told apart by the shape of the cloud alone: with a
small `separation` (Mahalanobis distance of m_p from m₀) half of the cells responding strongly and all of them
responding weakly look the same. Under 1.5 a perturbation is measurable but its share not `identified`: it has no
interval, and the probabilities of its cells lie near it. `tests/test_escape.py` plants both.

A control cell, or one whose perturbation was not fitted, is asked against the mean density of all identified
perturbations with a prior share of one half. t of training cells is further from the controls than that of held-out
cells where a model learnt its cells by heart: components from training cells, shares of held-out cells.

Shapes: N cells, n cells of a perturbation, K salient dimensions, B starts or resamples.
Sources: Dempster, Laird & Rubin 1977; Ledoit & Wolf 2004; Hotelling 1931; Papalexi et al. 2021 (mixture per target).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.linalg import solve_triangular
from scipy.special import expit, logsumexp
from scipy.stats import f as fisher
from scipy.stats import false_discovery_control
from sklearn.covariance import ledoit_wolf

FEWEST_CELLS = 10  # of a perturbation that is fitted
FDR = 0.05
SEPARATION = 1.5  # from which on the share is told from the shift
STARTS = (0.25, 0.5, 0.9)  # shares of the cells, furthest along the shift of the mean, that respond at the start
PRIOR = 4  # cells for each fitted one that the covariance of the null stands for
STEPS, TOLERANCE = 300, 1e-5  # of EM; the change of the share at which it stops
RESAMPLES = 500


@dataclass(frozen=True)
class Responding:
    """The component of the cells that respond, where the null is N(0, I)."""

    share: float  # π of the cells it was fitted to
    mean: np.ndarray  # K
    covariance: np.ndarray  # K × K
    n: int  # cells it was fitted to
    q: float  # of the shift of the mean

    @property
    def separation(self) -> float:
        return float(np.linalg.norm(self.mean))

    @property
    def measurable(self) -> bool:
        return self.q <= FDR

    @property
    def identified(self) -> bool:
        return self.measurable and self.separation >= SEPARATION


@dataclass(frozen=True)
class Escape:
    """What `fit_escape` found."""

    control: str
    centre: np.ndarray  # K, m₀
    root: np.ndarray  # K × K lower triangular, S₀ = root rootᵀ
    responding: dict[str, Responding]  # by perturbation, those with enough cells

    def probability(self, t: np.ndarray, condition: Sequence[str]) -> np.ndarray:
        """P(responding) of each cell: N × K, N → N."""
        z, condition = self._whiten(t), np.asarray(condition, str)
        ratio, prior = np.full(len(z), -np.inf), np.full(len(z), 0.5)
        apart = ~np.isin(condition, list(self.responding))
        others = [part for part in self.responding.values() if part.identified]
        if others and apart.any():
            against = [_log_ratio(z[apart], part.mean, part.covariance) for part in others]
            ratio[apart] = logsumexp(against, axis=0) - np.log(len(others))
        for name, part in self.responding.items():
            mine = condition == name
            if part.measurable:
                ratio[mine], prior[mine] = _log_ratio(z[mine], part.mean, part.covariance), part.share
        with np.errstate(divide="ignore"):
            return expit(ratio + np.log(prior) - np.log1p(-prior))

    def shares(self, t: np.ndarray, condition: Sequence[str], seed: int = 0) -> pd.DataFrame:
        """Share of responding cells among these cells, the components as they are: N × K, N → a row per perturbation.

        Columns condition, n, share, share_low, share_high (95 % bootstrap over cells), separation, q, measurable,
        identified, n_fitted. The interval holds the sampling of these cells, not the error of the components; a share
        that is not identified has none. Not measurable: a share of 0; not fitted, or no cell here: nan.
        """
        z, condition = self._whiten(t), np.asarray(condition, str)
        names = sorted((set(condition) | set(self.responding)) - {self.control})
        return pd.DataFrame([self._row(name, z[condition == name], seed) for name in names])

    def _row(self, name: str, z: np.ndarray, seed: int) -> dict:
        part = self.responding.get(name)
        row = {"condition": name, "n": len(z), "share": np.nan, "share_low": np.nan, "share_high": np.nan}
        if part is None:
            return {**row, "separation": np.nan, "q": np.nan, "measurable": False, "identified": False, "n_fitted": 0}
        if len(z):
            row["share"] = 0.0
        if len(z) and part.measurable:
            ratio = np.sort(_log_ratio(z, part.mean, part.covariance))  # sorted: the order of cells draws nothing
            drawn = np.random.default_rng(seed).multinomial(len(z), np.full(len(z), 1 / len(z)), size=RESAMPLES)
            row["share"], *again = _shares(ratio, np.concatenate([np.ones((1, len(z))), drawn]))
            if part.identified:
                row["share_low"], row["share_high"] = np.quantile(again, [0.025, 0.975])
        about = {
            "separation": part.separation if part.measurable else np.nan,
            "q": part.q,
            "measurable": part.measurable,
        }
        return {**row, **about, "identified": part.identified, "n_fitted": part.n}

    def _whiten(self, t: np.ndarray) -> np.ndarray:
        return _whiten(_finite(t), self.centre, self.root)


def fit_escape(t: np.ndarray, condition: Sequence[str], control: str) -> Escape:
    """The null from the control cells and a component for each perturbation: N × K posterior means, N labels.

    Perturbations with fewer than 10 cells are not fitted. Raises ValueError without two control cells that differ.
    """
    t, condition = _finite(t), np.asarray(condition, str)
    controls = t[condition == control]
    if len(controls) < 2 or not np.ptp(controls, axis=0).any():
        raise ValueError(f"{len(controls)} control cells ({control!r}) without spread: no null")
    centre = controls.mean(0)
    root = np.linalg.cholesky(ledoit_wolf(controls)[0])
    z, null = _whiten(t, centre, root), _whiten(controls, centre, root)
    cells = {str(name): z[condition == name] for name in np.unique(condition) if name != control}
    cells = {name: mine for name, mine in cells.items() if len(mine) >= FEWEST_CELLS}
    p = [_hotelling(mine, null) for mine in cells.values()]
    q = false_discovery_control(p) if p else []
    fitted = {
        name: Responding(*_fit(mine), len(mine), float(each))
        for (name, mine), each in zip(cells.items(), q, strict=True)
    }
    return Escape(control, centre, root, fitted)


def _finite(t: np.ndarray) -> np.ndarray:
    t = np.asarray(t, np.float64)
    if t.ndim != 2 or not np.isfinite(t).all():
        raise ValueError(f"salient vectors {t.shape} must be a finite N × K")
    return t


def _whiten(t: np.ndarray, centre: np.ndarray, root: np.ndarray) -> np.ndarray:
    return solve_triangular(root, (t - centre).T, lower=True).T


def _hotelling(x: np.ndarray, y: np.ndarray) -> float:
    """p of equal means of two groups: n × K, m × K. 1 where there are too few cells for K dimensions."""
    (n, K), m = x.shape, len(y)
    freedom = n + m - 1 - K
    if freedom < 1:
        return 1.0
    pooled = ((x - x.mean(0)).T @ (x - x.mean(0)) + (y - y.mean(0)).T @ (y - y.mean(0))) / (n + m - 2)
    difference = x.mean(0) - y.mean(0)
    t2 = n * m / (n + m) * difference @ np.linalg.pinv(pooled, hermitian=True) @ difference
    return float(fisher.sf(t2 * freedom / (K * (n + m - 2)), K, freedom))


def _fit(z: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """Share, mean and covariance by EM from several starts, those of largest posterior density: n × K."""
    along = z @ z.mean(0)
    responsibility = np.stack([(along >= np.quantile(along, 1 - share)).astype(float) for share in STARTS])
    share, mean, covariance, fit = _em(z, responsibility)
    best = int(np.argmax(fit))
    return float(share[best]), mean[best], covariance[best]


def _em(z: np.ndarray, responsibility: np.ndarray) -> tuple[np.ndarray, ...]:
    """Share B, mean B × K, covariance B × K × K and log posterior B from B starts: n × K, B × n → …"""
    n, K = z.shape
    products = (z[:, :, None] * z[:, None, :]).reshape(n, K * K)
    weight = K * (K + 1) / 2 + PRIOR * n  # cells that the prior covariance, I, stands for
    share = np.zeros(len(responsibility))
    for _ in range(STEPS):
        size = responsibility.sum(1)
        before, share = share, size / n
        mean = responsibility @ z / size[:, None]
        scatter = (responsibility @ products).reshape(-1, K, K) - size[:, None, None] * mean[:, :, None] * mean[:, None]
        covariance = (scatter + weight * np.eye(K)) / (size + weight)[:, None, None]
        ratio = np.stack([_log_ratio(z, *part) for part in zip(mean, covariance, strict=True)])
        # A cell more on either side, so that no component is left without cells.
        share = np.clip(share, 1 / (n + 2), 1 - 1 / (n + 2))
        log_odds = ratio + np.log(share / (1 - share))[:, None]
        responsibility = expit(log_odds)
        if np.abs(share - before).max() < TOLERANCE:
            break
    likelihood = (np.logaddexp(0, log_odds) + np.log1p(-share)[:, None]).sum(1)
    inverse = np.linalg.inv(covariance)
    prior = -0.5 * weight * (np.linalg.slogdet(covariance)[1] + np.trace(inverse, axis1=1, axis2=2))
    return share, mean, covariance, likelihood + prior


def _log_ratio(z: np.ndarray, mean: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """log N(z; mean, covariance) − log N(z; 0, I): n × K → n."""
    root = np.linalg.cholesky(covariance)
    distance = np.square(_whiten(z, mean, root)).sum(1)
    return 0.5 * (np.square(z).sum(1) - distance) - np.log(np.diag(root)).sum()


def _shares(ratio: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """π of largest likelihood for known log density ratios: n, cells' weights B × n → B, by bisection of its slope.

    d/dπ Σ w log(1 − π + π e^ratio) = Σ w (e^ratio − 1) / (1 − π + π e^ratio) falls with π.
    """
    low, high = np.zeros(len(weight)), np.ones(len(weight))
    excess = -np.expm1(-np.abs(ratio)) * np.sign(ratio)  # (e^r − 1) / max(1, e^r): large ratios do not overflow
    for _ in range(30):
        middle = (low + high) / 2
        scale = np.exp(-np.maximum(ratio, 0)), np.exp(np.minimum(ratio, 0))
        density = np.outer(1 - middle, scale[0]) + np.outer(middle, scale[1])
        rising = (weight * (excess / density)).sum(1) > 0
        low, high = np.where(rising, middle, low), np.where(rising, high, middle)
    return (low + high) / 2
