"""What the training cells say, kept in the checkpoint: so that a checkpoint can judge cells of another file.

Shapes: R pseudobulk rows, G genes, K <= 50 principal components.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_matrix

from stormcell.analysis.pseudobulk import Pseudobulk
from stormcell.data.csr import group_mean


@dataclass(frozen=True)
class Reference:
    """The pseudobulk and the principal components of the training cells, float32."""

    train: Pseudobulk
    pca_mean: np.ndarray  # G
    pca_components: np.ndarray  # G × K
    detected: np.ndarray  # G bool: in more than 5 % of the training cells

    def record(self) -> dict[str, Any]:
        """Plain values and tensors, for a checkpoint."""
        train = self.train
        contexts = sorted(train.controls)
        return {
            "conditions": list(train.conditions),
            "contexts": list(train.contexts),
            "means": _tensor(train.means),
            "n_cells": torch.from_numpy(np.asarray(train.n_cells, np.int64)),
            "control_contexts": contexts,
            "control_means": _tensor(np.array([train.controls[context] for context in contexts])),
            **{name: torch.from_numpy(getattr(self, name)) for name in _ARRAYS},
        }

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Reference:
        controls = record["control_means"].numpy().astype(np.float64)
        train = Pseudobulk(
            tuple(record["conditions"]),
            tuple(record["contexts"]),
            record["means"].numpy().astype(np.float64),
            record["n_cells"].numpy(),
            dict(zip(record["control_contexts"], controls, strict=True)),
        )
        return cls(train, *(record[name].numpy() for name in _ARRAYS))

    def project(self, cells: np.ndarray) -> np.ndarray:
        """Expression n × G → principal coordinates n × K."""
        return (cells - self.pca_mean) @ self.pca_components


_ARRAYS = ("pca_mean", "pca_components", "detected")


def _tensor(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.asarray(values, np.float64))


def fit_reference(X: csr_matrix, condition: np.ndarray, context: np.ndarray, control: str) -> Reference:
    """From the expression of the training cells, their conditions and the contexts that shifts are taken within."""
    mean, components = principal_components(X)
    detected = np.asarray((X > 0).mean(0)).ravel() > 0.05
    train = pseudobulk(X, condition, context, control)
    return Reference(train, mean.astype(np.float32), components.astype(np.float32), detected)


def pseudobulk(
    X: csr_matrix, condition: np.ndarray, context: np.ndarray, control: str, library: np.ndarray | None = None
) -> Pseudobulk:
    """Mean profile of every condition in every context: N × G, N labels, N labels → Pseudobulk, in one pass.

    `library`: X holds counts, to be read as log1p(counts / library · 1e4). Perturbed cells of a context without control
    cells have no shift and are left out.
    """
    names, number = np.unique(condition.astype(str), return_inverse=True)
    contexts, place = np.unique(context.astype(str), return_inverse=True)
    codes, row = np.unique(number * len(contexts) + place, return_inverse=True)
    means = group_mean(X, row, len(codes), library)
    n_cells = np.bincount(row, minlength=len(codes))
    labels = [(str(names[code // len(contexts)]), str(contexts[code % len(contexts)])) for code in codes]
    controls = {where: means[i] for i, (name, where) in enumerate(labels) if name == control}
    kept = [i for i, (name, where) in enumerate(labels) if name != control and where in controls]
    return Pseudobulk(
        tuple(labels[i][0] for i in kept), tuple(labels[i][1] for i in kept), means[kept], n_cells[kept], controls
    )


def principal_components(X: csr_matrix, k: int = 50) -> tuple[np.ndarray, np.ndarray]:
    """Mean (G) and the first k components (G × k); the sparse matrix stays sparse."""
    from sklearn.decomposition import PCA

    k = min(k, min(X.shape) - 1)
    pca = PCA(k, svd_solver="covariance_eigh" if X.shape[1] <= 5000 else "arpack", random_state=0).fit(X)
    return pca.mean_, pca.components_.T
