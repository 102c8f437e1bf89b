"""What a perturbation did to each cell, without a model: the cell less its nearest control cells.

    d_i = e_i − mean of e_j over the 20 nearest training controls j of the cell's batch
    s_i = ⟨d_i, v⟩ / ‖v‖,  v = mean of d over the target's training cells − mean over training controls
    P(perturbed | s) = π N(s; m, σ²) / (π N(s; m, σ²) + (1 − π) N(s; m₀, σ²))

m₀ and σ are those of the control cells and stay; π and m ≥ m₀ are fitted by EM on the target's training cells. Along v
a positive s is the way the target's cells went: the larger s, the more surely a cell is perturbed.

Shapes: N training cells, M cells that are asked, D dimensions (genes or principal components).
Source: Papalexi et al. 2021 (Mixscape).
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_matrix
from scipy.special import expit, logit

NEIGHBOURS = 20


def nearest_controls(
    train: np.ndarray, is_control: np.ndarray, train_batch: np.ndarray, cells: np.ndarray, batch: np.ndarray
) -> csr_matrix:
    """Weights of the nearest training controls of each cell's batch, of any where it has fewer than two: M × N, rows
    sum to 1. Where `cells` is `train`, no cell is its own neighbour, unless it is the only control."""
    from sklearn.neighbors import NearestNeighbors

    rows, columns, weights = [], [], []
    for name in np.unique(batch):
        own = np.flatnonzero(is_control & (train_batch == name))
        own = own if len(own) > 1 else np.flatnonzero(is_control)
        asked = np.flatnonzero(batch == name)
        k = min(NEIGHBOURS + 1, len(own))
        near = own[NearestNeighbors(n_neighbors=k).fit(train[own]).kneighbors(cells[asked], return_distance=False)]
        kept = near != asked[:, None] if cells is train else np.ones(near.shape, bool)
        # The farthest of the 21 only stands in for the cell itself.
        kept[kept.all(1) & (k > NEIGHBOURS), -1] = False
        kept[~kept.any(1)] = True
        rows.append(np.repeat(asked, kept.sum(1)))
        columns.append(near[kept])
        weights.append((kept / kept.sum(1, keepdims=True))[kept])
    entries = np.concatenate(weights), (np.concatenate(rows), np.concatenate(columns))
    return csr_matrix(entries, shape=(len(cells), len(train)))


def responding(train: np.ndarray, condition: np.ndarray, control: str, target: str, cells: np.ndarray) -> np.ndarray:
    """P(perturbed) of cells as if they carried `target`, from differences: N × D, N, M × D → M."""
    controls, own = train[condition == control], train[condition == target]
    direction = own.mean(0) - controls.mean(0)
    length = np.linalg.norm(direction)
    if length == 0:
        return np.zeros(len(cells))
    direction /= length
    # In units of the controls' deviation, from their mean.
    centre, deviation = (controls @ direction).mean(), max((controls @ direction).std(), 1e-12)
    pi, mean = _fit((own @ direction - centre) / deviation)
    return _posterior((cells @ direction - centre) / deviation, pi, mean)


def _fit(s: np.ndarray) -> tuple[float, float]:
    """π and m by EM, from half of the cells and the mean of the upper half."""
    pi, mean = 0.5, max(s[s >= np.median(s)].mean(), 0)
    for _ in range(500):
        p, before = _posterior(s, pi, mean), (pi, mean)
        pi, mean = p.mean(), max(p @ s / max(p.sum(), 1e-9), 0)
        if np.allclose(before, (pi, mean), rtol=0, atol=1e-6):
            break
    return pi, mean


def _posterior(s: np.ndarray, pi: float, mean: float) -> np.ndarray:
    return expit(logit(pi) + mean * (s - mean / 2))
