"""What a model of frequencies is given: standardised genes, or whitened principal components of them.

    standardised = (expression − mean) / sd           mean and sd of the fitting cells
    inputs = standardised · matrix                    D components of unit variance over the fitting cells
The map is linear and kept, so that every direction of the inputs is one of genes: u of the D inputs is matrix · u.

Shapes: N cells, G genes, D components.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix

CONSTANT = 1e-6  # standard deviation, as a share of the larger of 1 and the mean, below which a gene is constant
EMPTY = 1e-9  # variance of a component, as a share of the first one's, below which it is rounding


@dataclass(frozen=True)
class InputBasis:
    """Mean and standard deviation of genes, and components of the standardised genes."""

    mean: np.ndarray  # G
    sd: np.ndarray  # G
    matrix: np.ndarray | None = None  # G × D; None: the inputs are the standardised genes

    def standardised(self, expression: csr_matrix) -> np.ndarray:
        """N × G → N × G float32."""
        dense = expression.toarray().astype(np.float32, copy=False)
        dense -= self.mean.astype(np.float32)
        dense /= self.sd.astype(np.float32)
        return dense

    def inputs(self, expression: csr_matrix) -> np.ndarray:
        """N × G → N × D float32; the standardised genes of a million cells are never held."""
        if self.matrix is None:
            return self.standardised(expression)
        weights = self.matrix / self.sd[:, None]
        return (expression @ weights - self.mean @ weights).astype(np.float32)


def gene_moments(expression: csr_matrix) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of every gene over these cells, without cancellation: G, G float64."""
    from sklearn.utils.sparsefuncs import mean_variance_axis

    mean, variance = mean_variance_axis(expression.astype(np.float64), axis=0)
    return mean, np.sqrt(variance)


def varying(mean: np.ndarray, sd: np.ndarray) -> np.ndarray:
    """Which genes vary: G bool."""
    return sd > CONSTANT * np.maximum(1, np.abs(mean))


def principal_components(expression: csr_matrix, mean: np.ndarray, sd: np.ndarray, k: int, white: bool) -> np.ndarray:
    """Leading directions of the standardised genes over these cells, by falling variance: G × at most k float64.

    Orthonormal; `white`: scaled so that scores have unit variance. Fewer than k where the cells have no more.
    """
    from sklearn.decomposition import PCA

    scaled = expression.astype(np.float64).multiply(1 / sd).tocsr()  # still sparse: PCA subtracts the mean itself
    most = min(scaled.shape)
    if k < most:
        found = PCA(k, svd_solver="arpack", random_state=0).fit(scaled)
    else:
        found = PCA(most, svd_solver="full").fit(scaled.toarray())
    variance = found.explained_variance_ * (scaled.shape[0] - 1) / scaled.shape[0]
    keep = variance > EMPTY * max(variance[0], np.finfo(float).tiny)
    directions, variance = found.components_[keep].T, variance[keep]
    # The largest entry of each is positive, whatever the solver returned.
    directions = directions * np.sign(directions[np.abs(directions).argmax(0), np.arange(directions.shape[1])])
    return directions / np.sqrt(variance) if white else directions


def twins(expression: csr_matrix, rows: dict[str, np.ndarray]) -> list[str]:
    """A sentence where cells have exactly the expression of another one; `rows`: of each part of the split."""
    # One random sum of a cell's values: equal cells have it equal to the last bit.
    sums = expression @ np.random.default_rng(0).normal(size=expression.shape[1])
    _, code, sizes = np.unique(sums, return_inverse=True, return_counts=True)
    twice = sizes[code] > 1
    if not twice.any():
        return []
    held = np.concatenate([rows["validation"], rows["test"]])
    seen = int(np.isin(code[held], code[rows["train"]]).sum())
    return [
        f"{int(twice.sum())} cells have exactly the expression of another cell, and are each other's neighbours; "
        f"{seen} validation and test cells have such a twin in training, which flatters"
    ]
