"""Cells in two dimensions: principal components, or UMAP (McInnes et al. 2018).

Shapes: N cells, K dimensions.
"""

from __future__ import annotations

import numpy as np

FEWEST = 10  # cells: of fewer UMAP finds no neighbourhoods


def plane(cells: np.ndarray, embedding: str, seed: int, real: int | None = None) -> tuple[np.ndarray, list[str]]:
    """N × K → N × 2, and the names of the two axes.

    Principal axes are those of the first `real` cells (all where None). "umap" of fewer than ten cells, or of cells
    that are all alike, is "pca".
    """
    cells = np.asarray(cells, dtype=float)
    if embedding == "umap" and len(cells) >= FEWEST and np.ptp(cells, axis=0).any():
        from umap import UMAP  # the import compiles for 20 s: only for who asks

        neighbours = min(15, len(cells) - 1)
        return UMAP(n_neighbors=neighbours, random_state=seed, n_jobs=1).fit_transform(cells), ["UMAP 1", "UMAP 2"]
    centre = cells[:real].mean(0)
    _, deviation, axes = np.linalg.svd(cells[:real] - centre, full_matrices=False)
    flat = (cells - centre) @ axes[:2].T
    flat = np.pad(flat, ((0, 0), (0, 2 - flat.shape[1])))  # cells of one coordinate lie on a line
    share = np.append(deviation**2, 0)[:2] / max((deviation**2).sum(), 1e-12)
    of = "" if real is None else " of the real cells"
    return flat, [f"PC {i + 1}{of} ({share[i]:.0%})" for i in range(2)]
