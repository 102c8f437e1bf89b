"""What the training cells say, kept in the checkpoint: so that a checkpoint can judge cells of another file.

Shapes: G genes, K <= 50 principal components, P training perturbations.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy.sparse import csr_matrix

from stormcell.data.csr import group_mean
from stormcell.data.split import SEEN, rows_by
from stormcell.evaluation.heldout import HeldOut, Query
from stormcell.evaluation.perturbation import mean_profile

if TYPE_CHECKING:
    from stormcell.data.control_perturbed import ControlPerturbedDataModule


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


def held_out(data: ControlPerturbedDataModule, reference: Reference, own_cells: bool) -> HeldOut:
    """The test cells of the data module beside what methods and metrics may use.

    `own_cells`: the training cells lie in this file too, so that a perturbation's own training cells can stand as a
    baseline.
    """
    cells, split, X = data.cells, data.split, data.expression
    perturbed = ~cells.obs["is_control"].to_numpy()
    condition, context = cells.obs["condition"].to_numpy(str), data.context
    test = np.flatnonzero(split.mask("test") & perturbed)
    queries = [
        Query(label, where, split.groups.get(label, SEEN), X[rows])
        for label, mine in rows_by(condition, test).items()
        for where, rows in rows_by(context, mine).items()
    ]
    own = rows_by(condition, data.rows["train"]) if own_cells else {}
    controls, truth = {}, {}
    for where in sorted({query.context for query in queries}):
        controls[where] = X[data.control_rows(where)]
        kept = split.mask("truth") & ~perturbed & (context == where)
        truth[where] = controls[where] if split.shared else X[kept]
    return HeldOut(
        genes=tuple(cells.genes),
        separator="+",
        queries=tuple(queries),
        controls=controls,
        truth_controls=truth,
        shared=split.shared,
        train_shift=dict(zip(reference.conditions, reference.shifts.astype(np.float64), strict=True)),
        train_cells={label: X[own[label]] for label in reference.conditions if label in own},
        detected=reference.detected,
        pca_mean=reference.pca_mean,
        pca_components=reference.pca_components,
    )


@dataclass(frozen=True)
class ValidationView:
    """The validation cells of seen perturbations, ready to be compared with generated ones."""

    conditions: list[tuple[str, np.ndarray, np.ndarray]]  # label, mean profile (G), principal coordinates (n × K)
    control_mean: np.ndarray  # G, of the training controls


def validation_view(data: ControlPerturbedDataModule, reference: Reference, most: int = 64) -> ValidationView:
    """At most `most` perturbations (evenly spaced names) with two or more validation cells."""
    condition, X = data.cells.obs["condition"].to_numpy(str), data.expression
    rows = data.rows["validation"][~data.cells.obs["is_control"].to_numpy()[data.rows["validation"]]]
    names, sizes = np.unique(condition[rows], return_counts=True)
    names = names[sizes >= 2]
    chosen = names[np.unique(np.linspace(0, len(names) - 1, min(most, len(names))).round().astype(int))]
    found = []
    for name in chosen:
        mine = X[rows[condition[rows] == name]]
        found.append((str(name), mean_profile(mine), reference.project(mine.toarray())))
    return ValidationView(found, mean_profile(X[data.control_rows("all")]))
