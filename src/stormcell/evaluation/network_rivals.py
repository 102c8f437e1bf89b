"""Networks that need no coupling, from the same cells: what a network of a transition has to beat.

    Pearson, Spearman       r_ij: symmetric, with the sign
    partial correlation     −P_ij / √(P_ii P_jj), P the inverse of the correlation matrix: symmetric, with the sign
    ridge within states     x_j on its regulators within each state, mean over the states (the idea of CellOracle)
    trees                   importance of i in a regression of x_j by trees: no sign
        "genie3"            random forest, √R regulators at a split
        "grnboost2"         boosting, learning rate .01, a tenth of the regulators and .9 of the cells a tree
The number of trees is fixed: stopping when the out-of-bag loss no longer improves, as GRNBoost2 does, ends after a few
trees with today's scikit-learn. Every method is also asked on centred cells (`centred`): pooled over states it sees
differences of the means of states, which any method that knows the states could use.

Every score is a G × G matrix, rows regulate columns, zero outside the mask.

Shapes: N cells, G genes, R regulators of a target.
Sources: Huynh-Thu et al. 2010 (GENIE3); Moerman et al. 2019 (GRNBoost2); Kamimoto et al. 2023 (CellOracle).
"""

from __future__ import annotations

import numpy as np
from scipy.stats import rankdata

from stormcell.analysis.mask import Mask


def centred(x: np.ndarray, states: np.ndarray) -> np.ndarray:
    """Each cell less the mean of its state: N × G, N labels → N × G."""
    _, number = np.unique(states, return_inverse=True)
    number = number.ravel()
    totals = np.zeros((number.max() + 1, x.shape[1]))
    np.add.at(totals, number, x)
    return x - (totals / np.bincount(number)[:, None])[number]


def pearson(x: np.ndarray, mask: Mask) -> np.ndarray:
    """N × G → G × G; a constant gene has correlation 0."""
    return _within(_standardised(x), mask)


def spearman(x: np.ndarray, mask: Mask) -> np.ndarray:
    """N × G → G × G; ties share their rank."""
    return _within(_standardised(rankdata(x, axis=0)), mask)


def partial_correlation(x: np.ndarray, mask: Mask) -> np.ndarray:
    """N × G → G × G; the pseudo-inverse where the cells are fewer than the genes or a gene is constant."""
    z = _standardised(x)
    precision = np.linalg.pinv(z.T @ z / len(z), hermitian=True)
    scale = np.where(z.any(0), np.sqrt(np.abs(np.diag(precision))), np.inf)  # no edge of a constant gene
    return mask.dense(-(precision / np.outer(scale, scale))[mask.regulator, mask.target])


def within_state_ridge(x: np.ndarray, states: np.ndarray, mask: Mask, ridge: float) -> np.ndarray:
    """N × G, N labels, λ per cell on standardised genes → G × G: mean over the states of each state's regression.

    Every state is standardised on its own, so that none of its weights comes from a difference between states.
    """
    from stormcell.analysis.masked_ridge import moments, solve

    names = np.unique(states)
    total = np.zeros(mask.n_edges)
    for name in names:
        z = _standardised(x[states == name])
        total += solve(moments(z, z, None, mask.regulators), mask, ridge, self_edge=False).values
    return mask.dense(total / len(names))


def trees(x: np.ndarray, mask: Mask, kind: str = "genie3", n_trees: int = 500, seed: int = 0) -> np.ndarray:
    """N × G → G × G importances; those of one target add to 1 (0 for a constant target). On one thread.

    Raises ValueError for another kind.
    """
    from sklearn.ensemble import GradientBoostingRegressor, RandomForestRegressor

    if kind not in ("genie3", "grnboost2"):
        raise ValueError(f'kind {kind!r}; there are "genie3" and "grnboost2"')
    z, importance = _standardised(x), np.zeros(mask.n_edges)
    for targets, regulators, edges in mask.blocks():
        for target, own, numbers in zip(targets, regulators, edges, strict=True):
            if not z[:, target].any():
                continue
            state = (seed, int(target))  # the same forest of a target, whatever the mask of the others
            number = int(np.random.default_rng(state).integers(2**31))
            if kind == "genie3":
                model = RandomForestRegressor(n_trees, max_features="sqrt", n_jobs=1, random_state=number)
            else:
                model = GradientBoostingRegressor(
                    n_estimators=n_trees, learning_rate=0.01, subsample=0.9, max_features=0.1, random_state=number
                )
            importance[numbers] = model.fit(z[:, own], z[:, target]).feature_importances_
    return mask.dense(importance)


def _standardised(x: np.ndarray) -> np.ndarray:
    """Mean 0 and variance 1 of each gene, a constant one 0: N × G → N × G."""
    x = np.asarray(x, np.float64)
    difference, spread = x - x.mean(0), x.std(0)
    constant = spread <= 1e-12 * np.abs(x).max(0, initial=0)
    return np.where(constant, 0.0, difference / np.where(constant, 1.0, spread))


def _within(z: np.ndarray, mask: Mask) -> np.ndarray:
    """Correlations of standardised genes on the edges of the mask, without the matrix of all of them."""
    found = np.empty(mask.n_edges)
    for some in np.array_split(np.arange(mask.n_edges), max(1, mask.n_edges * len(z) // 10**7)):
        found[some] = np.einsum("ne,ne->e", z[:, mask.regulator[some]], z[:, mask.target[some]]) / len(z)
    return mask.dense(found)
