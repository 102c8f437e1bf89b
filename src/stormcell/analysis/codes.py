"""What a cell's expression says of its perturbation, in closed form: shrinkage discriminant analysis of sparse cells.

log P(c | x) = x · w_c + b_c + constant,   w_c = Σ⁻¹ m_c,   b_c = −½ m_c · w_c + log prior_c
with m_c the mean of class c and Σ = (1 − α) S + α tr(S)/G · I the pooled covariance within classes, S, shrunk by the
share α of a grid that predicts left-out cells best (mean log loss, classes weighing as in the prior).

A code says in few dimensions how a perturbation differs from control. In the coordinates in which Σ is the identity,
class means lie at d_c = L⁻¹ (m_c − m_0), LLᵀ = Σ. Their inner products d_p · d_q hold the noise of the means too, which
is expected to be ν (1 [p = q] / n_p + 1 / n_0) with ν = tr(Σ⁻¹ S); the codes are the principal coordinates of what is
left, so that perturbations which do the same to a cell have the same code, and one that does nothing has a code near 0.
Its length is the effect in standard deviations of a cell.

Shapes: N cells, G genes, P perturbations (classes 1 … P; class 0 is control), K latent dimensions.
Source: Fisher 1936; Friedman 1989 (regularised discriminant analysis).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_factor, cho_solve, solve_triangular
from scipy.sparse import csr_matrix, diags_array
from scipy.special import log_softmax

MOST = 20_000  # cells that the covariance is computed from: its error is then far below that of the class means
SHARES = (0.03, 0.1, 0.3, 0.6, 0.9)  # α
LEFT_OUT = 0.25  # of the cells of each class, to choose α by


@dataclass(frozen=True)
class Discriminant:
    """Linear log odds of the classes, and the codes of the perturbations."""

    weight: np.ndarray  # (P + 1) × G
    bias: np.ndarray  # P + 1
    codes: np.ndarray  # P × K
    shrinkage: float  # α

    def log_odds(self, expression: csr_matrix) -> np.ndarray:
        """N × (P + 1), up to a constant of each cell."""
        return np.asarray(expression @ self.weight.T) + self.bias


def shrinkage_discriminant(
    expression: csr_matrix, classes: np.ndarray, prior: np.ndarray, k: int, seed: int = 0
) -> Discriminant:
    """Expression N × G and classes N (0 … P, each with a cell) → the discriminant at a prior of P + 1 shares.

    Raises ValueError where a class has no cell.
    """
    n_cells = np.bincount(classes, minlength=len(prior))
    if len(n_cells) != len(prior) or n_cells.min() == 0:
        raise ValueError(f"{len(classes)} cells in {len(n_cells)} classes, {len(prior)} shares of a prior")
    rng = np.random.default_rng(seed)
    rows = np.arange(len(classes))
    if len(rows) > MOST:
        rows = np.sort(rng.choice(rows, MOST, replace=False))
    # Who is left out depends on the cell's rank within its class; a class of one cell trains.
    order = rng.permutation(rows)
    rank = np.empty(len(order))
    for c in np.unique(classes[order]):
        mine = classes[order] == c
        rank[mine] = np.arange(mine.sum()) >= np.floor(LEFT_OUT * mine.sum())
    kept, left = order[rank == 1], order[rank == 0]
    alpha = SHARES[2]
    if len(left):
        trial = _Moments(expression[kept], classes[kept], prior)
        losses = [_log_loss(*trial.odds(share)[:2], expression[left], classes[left], prior) for share in SHARES]
        alpha = SHARES[int(np.argmin(losses))]
        del trial
    means = _means(expression, classes, len(prior))
    found = _Moments(expression[rows], classes[rows], prior, means, n_cells)
    weight, bias, factor = found.odds(alpha)
    return Discriminant(weight, bias, _coordinates(found.products(factor, alpha), k), alpha)


class _Moments:
    """Class means and the pooled covariance within classes, every class counting by its share of the prior.

    `means` and `n_cells` are given where they are of more cells than the covariance.
    """

    def __init__(
        self,
        X: csr_matrix,
        classes: np.ndarray,
        prior: np.ndarray,
        means: np.ndarray | None = None,
        n_cells: np.ndarray | None = None,
    ) -> None:
        self.prior = prior
        self.n_cells = n_cells if n_cells is not None else np.bincount(classes, minlength=len(prior))
        own = _means(X, classes, len(prior))  # of a class without a cell, which a trial may have, zero
        present = np.bincount(classes, minlength=len(prior))
        weight = (prior / np.maximum(present, 1))[classes]
        weight /= weight.sum()
        mass = np.bincount(classes, weight, len(prior))
        X = X.astype(np.float32)
        self.within = (X.T @ diags_array(weight.astype(np.float32)) @ X).toarray()
        self.within -= ((own * mass[:, None]).T @ own).astype(np.float32)
        self.means = own if means is None else means

    def odds(self, alpha: float) -> tuple[np.ndarray, np.ndarray, tuple]:
        """w, b and the Cholesky factor of Σ. float32, in place: a copy of G × G numbers is all that is held."""
        G = len(self.within)
        shrunk = (1 - alpha) * self.within
        shrunk[np.diag_indices(G)] += alpha * self.mean_variance
        factor = cho_factor(shrunk, lower=True, overwrite_a=True)
        weight = cho_solve(factor, self.means.T.astype(np.float32)).T.astype(float)
        return weight, np.log(self.prior) - 0.5 * (self.means * weight).sum(1), factor

    @property
    def mean_variance(self) -> float:
        return max(float(np.trace(self.within)) / len(self.within), 1e-12)

    def products(self, factor: tuple, alpha: float) -> np.ndarray:
        """d_p · d_q less what the noise of the means adds: P × P."""
        away = solve_triangular(factor[0], (self.means[1:] - self.means[0]).T.astype(np.float32), lower=True).T
        inverse = solve_triangular(factor[0], np.eye(len(self.within), dtype=np.float32), lower=True, overwrite_b=True)
        # tr Σ⁻¹ S, from Σ = (1 − α) S + α v I and tr Σ⁻¹ = ‖L⁻¹‖²
        nu = (len(inverse) - alpha * self.mean_variance * float(np.square(inverse).sum())) / (1 - alpha)
        noise = nu * (np.diag(1 / np.maximum(self.n_cells[1:], 1)) + 1 / max(self.n_cells[0], 1))
        return away.astype(float) @ away.T.astype(float) - noise


def _means(X: csr_matrix, classes: np.ndarray, n: int) -> np.ndarray:
    """n × G."""
    share = 1 / np.maximum(np.bincount(classes, minlength=n), 1)[classes]
    return (csr_matrix((share, (classes, np.arange(len(classes)))), (n, len(classes))) @ X).toarray()


def _log_loss(weight: np.ndarray, bias: np.ndarray, X: csr_matrix, classes: np.ndarray, prior: np.ndarray) -> float:
    """Mean −log P(class | cell), a cell weighing as its class does in the prior."""
    loss = -log_softmax(np.asarray(X @ weight.T) + bias, axis=1)[np.arange(len(classes)), classes]
    return float(np.average(loss, weights=(prior / np.maximum(np.bincount(classes, minlength=len(prior)), 1))[classes]))


def _coordinates(products: np.ndarray, k: int) -> np.ndarray:
    """Principal coordinates of inner products: P × P → P × K; columns beyond those of positive variance are zero."""
    values, vectors = np.linalg.eigh(products)
    largest = np.argsort(-values)[:k]
    found = np.zeros((len(products), k))
    found[:, : len(largest)] = vectors[:, largest] * np.sqrt(np.maximum(values[largest], 0))
    return found * np.where(np.sum(found**3, axis=0) < 0, -1, 1)  # a sign that does not depend on the library
