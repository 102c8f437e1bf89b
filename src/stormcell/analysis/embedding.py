"""What is known of the targets of perturbations beside the cells: one vector for each target.

The vector of a combination is the sum of the vectors of its targets; control is zero.

    gene scores     X = U S Vᵀ, X the training pseudobulk (genes × conditions) with centred columns; U S, cut at K
    network         B = D⁻¹ᐟ² A C⁻¹ᐟ², A the signed incidence genes × features; the rows of B of the training targets
                    = U S Vᵀ; B V, cut at K

Shapes: T targets, K dimensions, n conditions, G genes, R rows of the pseudobulk, F features of a network.
Source: Ahlmann-Eltze, Huber & Anders 2025 (gene scores as vectors of targets); Dhillon 2001 (normalised incidence).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from scipy.linalg import eigh
from scipy.sparse import csr_matrix, diags

from stormcell.analysis.pseudobulk import Pseudobulk


@dataclass(frozen=True)
class TargetEmbedding:
    """A vector for every target that has one."""

    kind: str  # multi_hot · learnable · gene_row · table · network · transfer
    targets: tuple[str, ...]  # T, the names that have a row
    vectors: np.ndarray  # T × K float64
    notes: tuple[str, ...] = ()  # what a reader must be told: who was left without a vector
    learnt_dim: int | None = None  # K of the vectors that a model learns; `vectors` is then the multi-hot it multiplies
    source: str | None = None  # fingerprint of the cells that the vectors were made of, where they were

    @property
    def dim(self) -> int:
        """K of the vectors that a model works with."""
        return self.learnt_dim or self.vectors.shape[1]

    @cached_property
    def _row(self) -> dict[str, int]:
        return {target: row for row, target in enumerate(self.targets)}

    def missing(self, condition: str, control: str = "control") -> list[str]:
        """Targets of a condition that have no vector."""
        return [] if condition == control else [t for t in condition.split("+") if t not in self._row]

    def of(self, conditions: Sequence[str], control: str = "control") -> np.ndarray:
        """conditions → n × K: the sum of the vectors of each condition's targets; NaN where one is missing."""
        found = np.zeros((len(conditions), self.vectors.shape[1]))
        for row, condition in enumerate(conditions):
            if self.missing(condition, control):
                found[row] = np.nan
            elif condition != control:
                found[row] = self.vectors[[self._row[target] for target in condition.split("+")]].sum(0)
        return found

    def record(self) -> dict[str, Any]:
        """Plain values and a tensor, for a checkpoint."""
        # str: a numpy string is no plain value, and a checkpoint with one in it would not load
        names = {"kind": self.kind, "targets": [str(t) for t in self.targets], "notes": list(self.notes)}
        return {**names, "learnt_dim": self.learnt_dim, "vectors": torch.from_numpy(self.vectors)}

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> TargetEmbedding:
        targets, notes = tuple(record["targets"]), tuple(record["notes"])
        return cls(record["kind"], targets, record["vectors"].numpy(), notes, record["learnt_dim"])


def multi_hot(targets: Sequence[str]) -> TargetEmbedding:
    """One column for each target."""
    return TargetEmbedding("multi_hot", tuple(targets), np.eye(len(targets)))


# ---- spectra


def leading(matrix: np.ndarray | csr_matrix, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The first k left singular vectors and singular values of m × n: m × k, k; fewer where the rank is lower.

    By the smaller of the two Gram matrices, in float64, so a singular value below 1e-6 of the first counts as none.
    Signs are fixed: the largest entry of each vector is positive.
    """
    matrix = matrix.astype(np.float64, copy=False)
    wide = matrix.shape[0] <= matrix.shape[1]
    gram = matrix @ matrix.T if wide else matrix.T @ matrix
    gram = gram if isinstance(gram, np.ndarray) else gram.toarray()
    size = len(gram)
    if not size:
        return np.zeros((matrix.shape[0], 0)), np.zeros(0)
    squared, vectors = eigh(gram, subset_by_index=[max(size - k, 0), size - 1])
    values = np.sqrt(np.maximum(squared[::-1], 0))
    kept = values > 1e-6 * values[0]
    values, vectors = values[kept], vectors[:, ::-1][:, kept]
    left = vectors if wide else (matrix @ vectors) / values
    largest = np.abs(left).argmax(0) if left.shape[1] else np.zeros(0, int)
    return left * np.where(left[largest, np.arange(left.shape[1])] < 0, -1, 1), values


def gene_scores(train: Pseudobulk, k: int) -> np.ndarray:
    """G = U S of the training pseudobulk, control profiles among its columns: G × K; fewer where the rank is lower.

    Genes are the samples: each condition's profile is centred over genes and not scaled.
    """
    profiles = np.concatenate([train.means, np.array(list(train.controls.values()))]).T
    return np.multiply(*leading(profiles - profiles.mean(0), k))


def network_vectors(
    members: Mapping[tuple[str, str], int], anchors: Sequence[str], k: int
) -> tuple[tuple[str, ...], np.ndarray]:
    """Vectors of all genes of a network: names (sorted), T × K.

    Parameters
    ----------
    members
        (gene, feature) → sign, +1 or −1. A feature is a set that the gene is in, a gene that regulates it, or one that
        it regulates.
    anchors
        The training targets. K dimensions tell apart as many groups of genes: axes fitted on all 15,000 genes of an
        organism are spent on ribosomes and development, axes fitted on the anchors on what separates these. A linear
        model can use nothing outside their span, so another gene loses nothing by projection.
    k
        Dimensions; fewer where the anchors span fewer.

    A feature counts 1 / (genes that have it), for a small set says more than a large one, and one of a single gene says
    nothing. A gene has unit length before it is projected, so a gene in a thousand sets and one in three are alike;
    what is left of its length is what it shares with the anchors, and the prediction for one that shares little falls
    back to the mean; where no feature is shared the vector is exactly zero. One factor then gives the anchors a mean
    squared length of 1, so that a ridge penalty means the same for every network and K.
    """
    genes, incidence = _incidence(members)
    row = {gene: i for i, gene in enumerate(genes)}
    fitted = incidence[[row[name] for name in sorted(set(anchors)) if name in row]]
    left, values = leading(fitted, k)
    axes = fitted.T @ (left / values)
    scale = np.sqrt(fitted.shape[0] / np.square(values).sum()) if len(values) else 1.0
    return tuple(genes), scale * (incidence @ axes)


def _incidence(members: Mapping[tuple[str, str], int]) -> tuple[list[str], csr_matrix]:
    """Sorted gene names and B, whose rows have length 1 (0 where every feature is the gene's alone)."""
    genes = sorted({gene for gene, _ in members})
    features = sorted({feature for _, feature in members})
    row, column = {name: i for i, name in enumerate(genes)}, {name: i for i, name in enumerate(features)}
    where = [row[gene] for gene, _ in members], [column[feature] for _, feature in members]
    signs = csr_matrix((np.array(list(members.values()), float), where), (len(genes), len(features)))
    size = np.asarray(abs(signs).sum(0)).ravel()
    weighted = signs @ diags(np.where(size > 1, 1 / np.sqrt(np.maximum(size, 1)), 0))
    length = np.sqrt(np.asarray(weighted.multiply(weighted).sum(1)).ravel())
    return genes, csr_matrix(diags(1 / np.where(length > 0, length, 1)) @ weighted)
