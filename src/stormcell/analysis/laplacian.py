"""Frequencies of cells: the lowest eigenvectors of the cell graph's Laplacian, certified, and those of new cells.

    normalised      L = I − D^-½ A D^-½,  v orthonormal;  frequency φ = D^-½ v, coordinate of the random walk
    unnormalised    L = D − A,  φ = v
    new cell x      φ(x) = Σ_j w_j φ(j) / (1 − λ);  unnormalised  Σ_j w_j φ(j) / (1 − λ / d_x)

The formulas of a new cell are the rows of L v = λ v, (A φ)_i / d_i = (1 − λ) φ_i and (A v)_i / d_i = (1 − λ / d_i) v_i,
written for a cell of d_x neighbours of equal weight w = 1 / d_x. Both blow up as the denominator nears 0.

Only eigenpairs that `certified_pairs` is sure to be the lowest are returned.

Shapes: N cells, F frequencies, M new cells, c components.
Sources: Coifman & Lafon 2006; von Luxburg 2007; Bengio et al. 2004 (extension).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from stormcell.analysis.cell_graph import components
from stormcell.analysis.certified_pairs import NotCertified, blocks, certified
from stormcell.analysis.low_eigenpairs import Deflated

UNSTABLE = 0.5  # λ past which a cell's neighbours do not determine it


@dataclass(frozen=True)
class Spectrum:
    """The F lowest eigenpairs past the null space; `blocks` are 0-based, of values too close to tell apart."""

    values: np.ndarray  # F, ascending
    vectors: np.ndarray  # N × F, orthonormal, largest |entry| positive; 0 on isolated cells
    normalised: bool
    degree: np.ndarray  # N
    residuals: np.ndarray  # F, ‖L v − λ v‖
    next_value: float  # λ_F+1; infinite where there is none
    solver: str  # dense · lanczos · lobpcg
    restart_angle: float  # largest principal angle to the second start, radians; 0 for dense, which has no start
    components: int
    participation: np.ndarray  # F, N Σ v⁴: 1 spread evenly, N on one cell
    blocks: list[tuple[int, ...]]
    notes: tuple[str, ...]

    @property
    def frequencies(self) -> np.ndarray:
        """N × F of unit RMS, largest |entry| positive: D^-½ v or v, scaled. Isolated cells are 0."""
        root = np.sqrt(np.where(self.degree > 0, self.degree, np.inf))[:, None]
        return _unit_rms(self.vectors / root if self.normalised else self.vectors)


def spectrum(adjacency: sparse.csr_matrix, n_frequencies: int, normalised: bool = True, seed: int = 1) -> Spectrum:
    """The lowest `n_frequencies` non-trivial eigenpairs in float64, of the whole graph.

    Each component has one trivial vector, which is known and left out. Dense up to 3,000 cells; above, ARPACK with a
    limit, and where that does not suffice LOBPCG preconditioned by smoothed aggregation.

    Raises NotCertified with the number that is certain, ValueError for a matrix that is not an undirected graph.
    """
    _check(adjacency, n_frequencies)
    labels, degree = components(adjacency), np.asarray(adjacency.sum(1), np.float64).ravel()
    connected = np.flatnonzero(degree > 0)  # a cell on its own is all null space
    n_trivial = len(np.unique(labels[connected]))
    available = len(connected) - n_trivial
    if n_frequencies > available:
        raise NotCertified(available, f"{n_frequencies} frequencies of a graph that has {available}: {_told(labels)}")
    whole = len(connected) == len(degree)
    operator = laplacian(adjacency if whole else adjacency[connected][:, connected], normalised)
    with operator.threads():
        (values, vectors, residuals), solver, angle = certified(operator, n_frequencies, available, seed)
    F = n_frequencies
    placed = np.zeros((len(degree), F))
    placed[connected] = _signed(vectors[:, :F])
    return Spectrum(
        values=values[:F],
        vectors=placed,
        normalised=normalised,
        degree=degree,
        residuals=residuals[:F],
        next_value=float(values[F]) if len(values) > F else np.inf,
        solver=solver,
        restart_angle=angle,
        components=int(labels.max()) + 1,
        participation=len(degree) * (placed**4).sum(0),
        blocks=blocks(values[:F], residuals[:F], operator.top),
        notes=(_told(labels),) if labels.any() else (),
    )


def laplacian(adjacency: sparse.csr_matrix, normalised: bool) -> Deflated:
    """L of a graph without isolated cells, its null space (one vector per component) and a bound of its spectrum."""
    labels, degree = components(adjacency), np.asarray(adjacency.sum(1), np.float64).ravel()
    n, A = len(degree), sparse.csr_matrix(adjacency, dtype=np.float64)
    if normalised:
        half = sparse.diags(degree**-0.5)
        matrix, weight = sparse.identity(n) - half @ A @ half, np.sqrt(degree)
    else:
        matrix, weight = sparse.diags(degree) - A, np.ones(n)
    weight /= np.sqrt(np.bincount(labels, weight**2))[labels]
    null = sparse.csr_matrix((weight, (np.arange(n), labels)))
    return Deflated(matrix.tocsr(), null, 2.0 if normalised else 2 * degree.max())


def extend(found: Spectrum, weights: sparse.csr_matrix, degree: float | None = None) -> np.ndarray:
    """Frequencies of new cells from their neighbours, on the scale of `found.frequencies`: M × N → M × F.

    weights: rows sum to 1. degree: d_x of the new cells, by default the entries of each row; in a graph that joins two
    cells if either is a neighbour of the other, cells have more than the neighbours that are their own.
    Raises ValueError where λ (unnormalised: λ / d_x) is above 0.5, with the number of frequencies that can be extended.
    """
    weights = sparse.csr_matrix(weights)
    if weights.shape[1] != len(found.degree) or not np.allclose(np.asarray(weights.sum(1)), 1, atol=1e-6):
        raise ValueError(f"weights of shape {weights.shape} for {len(found.degree)} cells; each row must sum to 1")
    degree = np.diff(weights.indptr)[:, None] if degree is None else np.full((weights.shape[0], 1), float(degree))
    relative = found.values / (1 if found.normalised else degree)
    if relative.max(initial=0) > UNSTABLE:
        possible = int((np.atleast_2d(relative).max(0) <= UNSTABLE).sum())
        raise ValueError(
            f"eigenvalue {found.values[possible]:.3g} of frequency {possible + 1} is too high to extend to new cells; "
            f"the lowest {possible} can be"
        )
    return np.asarray(weights @ found.frequencies) / (1 - relative)


def nystrom_weights(indices: np.ndarray, n: int) -> sparse.csr_matrix:
    """1 / k for every neighbour in the graph: M × k → M × N."""
    M, k = indices.shape
    return sparse.csr_matrix((np.full(M * k, 1 / k), indices.ravel(), np.arange(0, M * k + 1, k)), (M, n))


# ---- parts


def _check(adjacency: sparse.csr_matrix, n_frequencies: int) -> None:
    if adjacency.ndim != 2 or adjacency.shape[0] != adjacency.shape[1] or n_frequencies < 1:
        raise ValueError(f"{n_frequencies} frequencies of an adjacency of shape {adjacency.shape}")
    weights = adjacency.data
    if not (np.isfinite(weights).all() and weights.min(initial=0) >= 0) or adjacency.diagonal().any():
        raise ValueError("weights of a graph are finite and at least 0, and no cell is its own neighbour")
    if (adjacency != adjacency.T).nnz:
        raise ValueError("the adjacency is not symmetric")


def _signed(vectors: np.ndarray) -> np.ndarray:
    largest = vectors[np.abs(vectors).argmax(0), np.arange(vectors.shape[1])]
    return vectors * np.where(largest < 0, -1, 1)


def _unit_rms(x: np.ndarray) -> np.ndarray:
    """Columns of root mean square 1, largest |entry| positive."""
    return _signed(x / np.sqrt(np.square(x).mean(0)))


def _told(labels: np.ndarray) -> str:
    sizes = np.bincount(labels)
    alone, shown = int((sizes == 1).sum()), sizes[sizes > 1]
    text = f"{len(sizes)} components: " + ", ".join(map(str, shown[:8])) + (", …" if len(shown) > 8 else "") + " cells"
    return text + (f", {alone} isolated" if alone else "")
