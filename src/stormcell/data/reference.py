"""What the training cells say, kept in the checkpoint: so that a checkpoint can judge cells of another file.

Shapes: G genes, K <= 50 principal components, P training perturbations.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_matrix

from stormcell.data.csr import group_mean


@dataclass(frozen=True)
class Reference:
    """Shifts of the training perturbations and the principal components of the training cells, float32."""

    conditions: tuple[str, ...]  # P
    shifts: np.ndarray  # P × G: training mean minus training control mean, log1p-normalised
    pca_mean: np.ndarray  # G
    pca_components: np.ndarray  # G × K
    detected: np.ndarray  # G bool: in more than 5 % of the training cells

    def record(self) -> dict[str, Any]:
        """Plain values and tensors, for a checkpoint."""
        tensors = {name: torch.from_numpy(getattr(self, name)) for name in _ARRAYS}
        return {"conditions": list(self.conditions), **tensors}

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Reference:
        return cls(tuple(record["conditions"]), *(record[name].numpy() for name in _ARRAYS))

    def project(self, cells: np.ndarray) -> np.ndarray:
        """Expression n × G → principal coordinates n × K."""
        return (cells - self.pca_mean) @ self.pca_components


_ARRAYS = ("shifts", "pca_mean", "pca_components", "detected")


def fit_reference(X: csr_matrix, condition: np.ndarray, context: np.ndarray, control: str) -> Reference:
    """From the expression of the training cells, their conditions and the contexts that shifts are taken within."""
    shifts = _shifts(X, condition, context, control)
    mean, components = principal_components(X)
    detected = np.asarray((X > 0).mean(0)).ravel() > 0.05
    matrix = np.array([shifts[name] for name in sorted(shifts)]).reshape(-1, X.shape[1])
    return Reference(
        tuple(sorted(shifts)), matrix.astype(np.float32), mean.astype(np.float32), components.astype(np.float32),
        detected,
    )  # fmt: skip


def _shifts(X: csr_matrix, condition: np.ndarray, context: np.ndarray, control: str) -> dict[str, np.ndarray]:
    """Mean of each condition minus the control mean, averaged over contexts: G each."""
    found: dict[str, list[np.ndarray]] = {}
    for where in np.unique(context):
        rows = np.flatnonzero(context == where)
        names, codes = np.unique(condition[rows], return_inverse=True)
        means = group_mean(X[rows], codes, len(names))
        if control in names:
            base = means[list(names).index(control)]
            for name, mean in zip(names, means, strict=True):
                found.setdefault(str(name), []).append(mean - base)
    return {name: np.mean(shifts, axis=0) for name, shifts in found.items() if name != control}


def principal_components(X: csr_matrix, k: int = 50) -> tuple[np.ndarray, np.ndarray]:
    """Mean (G) and the first k components (G × k); the sparse matrix stays sparse."""
    from sklearn.decomposition import PCA

    k = min(k, min(X.shape) - 1)
    pca = PCA(k, svd_solver="covariance_eigh" if X.shape[1] <= 5000 else "arpack", random_state=0).fit(X)
    return pca.mean_, pca.components_.T
