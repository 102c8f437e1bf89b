"""Expression as models of cell states read it: on one scale, in principal components, with its spread within clusters.

Shapes: N cells, G genes, K components.
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_matrix

from stormcell.data.cells import Cells
from stormcell.data.csr import row_normalise_log1p
from stormcell.data.spec import TARGET_SUM


def log_expression(cells: Cells) -> csr_matrix:
    """log1p(counts / library · 1e4) of counts, else the values as they are: N × G."""
    if cells.scale != "counts":
        return cells.X
    shares = row_normalise_log1p(cells.X, cells.obs["library"].to_numpy(), TARGET_SUM)
    return csr_matrix((shares, cells.X.indices, cells.X.indptr), cells.X.shape)


def principal_components(expression: csr_matrix, train: np.ndarray, k: int) -> np.ndarray:
    """Scores of all cells on components of the training cells: N × K."""
    from sklearn.decomposition import PCA

    dense = expression.toarray().astype(np.float32)
    k = min(k, int(train.sum()) - 1, dense.shape[1])
    return PCA(k, random_state=0).fit(dense[train]).transform(dense)


def spread_within(values: np.ndarray, cluster: np.ndarray, train: np.ndarray, names: set[str]) -> np.ndarray:
    """Standard deviation within clusters, over the training cells of these clusters: G."""
    total, n = np.zeros(values.shape[1]), 0
    for name in names:
        mine = values[train & (cluster == name)]
        total += len(mine) * mine.var(0, dtype=float)
        n += len(mine)
    return np.sqrt(total / n)
