"""What a perturbation model is judged on, and the form in which every method answers.

A model mode and a baseline are both a `Method`, so that one loop scores them all on the same cells.

Shapes: n cells of one query, G genes, K principal components. Expression is log1p(counts / library · 1e4).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix

from stormcell.analysis.embedding import TargetEmbedding
from stormcell.analysis.pseudobulk import Pseudobulk


@dataclass(frozen=True)
class Query:
    """One held-out perturbation in one context, with its true cells."""

    condition: str  # canonical label: sorted targets joined by the separator
    context: str  # "all", or the value of the covariate that the split holds out
    group: str  # queries of one difficulty, judged together: "pairs, both singles seen", ...
    cells: csr_matrix  # n × G, cells that no method has seen


@dataclass(frozen=True)
class HeldOut:
    """The queries, and what the methods may and may not know about them."""

    genes: tuple[str, ...]
    separator: str  # between the targets of a condition
    queries: tuple[Query, ...]
    controls: dict[str, csr_matrix]  # context -> training control cells, free for every method to use
    truth_controls: dict[str, csr_matrix]  # context -> control cells kept from every method; `controls` when shared
    shared: bool  # no controls were kept aside: truth and prediction then share the noise of the same controls
    train: Pseudobulk  # of the training cells
    train_cells: dict[str, csr_matrix]  # condition -> training cells; may be empty (a checkpoint judges another file)
    detected: np.ndarray  # G bool: gene seen in more than 5 % of the training cells
    pca_mean: np.ndarray  # G, of the training cells
    pca_components: np.ndarray  # G × K, K <= 50, of the training cells
    embedding: TargetEmbedding | None = None  # what is known of the targets beside the cells


@dataclass(frozen=True)
class Method:
    """A model mode or a baseline; `predict(i)` answers query i.

    An answer is the mean profile (G) and n cells (n × G, dense float32, log1p), or None where the method has none.
    """

    name: str
    predict: Callable[[int], tuple[np.ndarray, np.ndarray] | None]
