"""Lowest eigenpairs of a graph's Laplacian past its null space, by three solvers, and a search for missed ones.

    L x = λ x,  x ⊥ U,     B = L + s U Uᵀ:  the null space U is moved to s, the top of the spectrum, never guessed away

dense    all of B; lanczos  ARPACK, largest of (s/2) I − B;  lobpcg  with one V-cycle of smoothed aggregation as
preconditioner, started from the eigenvectors of its coarsest level.

Shapes: N cells, c components, m vectors. L: N × N CSR float64, U: N × c CSR, orthonormal.
Sources: Lehoucq, Sorensen & Yang 1998 (ARPACK); Knyazev 2001 (LOBPCG); Vaněk, Mandel & Brezina 1996 (aggregation).
"""

from __future__ import annotations

import warnings
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from scipy import linalg, sparse
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh, lobpcg

from stormcell.analysis.masked_ridge import one_thread

SMALL = 200_000  # cells; below, threads of BLAS wait for each other longer than they work
COARSEST = 800  # unknowns that are solved densely
LANCZOS_VECTORS = 48


@dataclass(frozen=True)
class Deflated:
    """L with its null space U, and `top` ≥ its largest eigenvalue."""

    matrix: sparse.csr_matrix
    null: sparse.csr_matrix
    top: float

    @property
    def n(self) -> int:
        return self.matrix.shape[0]

    def project(self, x: np.ndarray, found: np.ndarray | None = None) -> np.ndarray:
        """The part of x orthogonal to U, and to the orthonormal columns of `found`."""
        x = x - self.null @ (self.null.T @ x)
        return x if found is None else x - found @ (found.T @ x)

    def moved(self, x: np.ndarray, found: np.ndarray | None = None) -> np.ndarray:
        """B x, with the columns of `found` moved to the top as well."""
        y = self.matrix @ x + self.top * (self.null @ (self.null.T @ x))
        return y if found is None else y + self.top * (found @ (found.T @ x))

    def ritz(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rayleigh-Ritz in span(x) without U: N × m → values m ascending, vectors N × m, residuals m."""
        x = linalg.qr(self.project(x), mode="economic", check_finite=False)[0]
        image = self.matrix @ x
        h = x.T @ image
        values, c = linalg.eigh((h + h.T) / 2)
        x, image = x @ c, image @ c
        return values, x, np.linalg.norm(image - x * values, axis=0)

    @cached_property
    def cycle(self) -> VCycle:
        return VCycle.of(self)

    def threads(self) -> AbstractContextManager:
        return one_thread() if self.n < SMALL else nullcontext()


def dense(operator: Deflated, m: int) -> np.ndarray:
    full = operator.matrix.toarray() + operator.top * (operator.null @ operator.null.T).toarray()
    return linalg.eigh(full, subset_by_index=[0, m - 1], overwrite_a=True)[1]


def lanczos(
    operator: Deflated, m: int, seed: int, tolerance: float, restarts: int, found: np.ndarray | None = None
) -> np.ndarray | None:
    """m lowest eigenvectors orthogonal to U and `found`; None where `restarts` do not suffice.

    tolerance: of the residuals, absolute.
    """
    half = operator.top / 2
    shifted = LinearOperator((operator.n,) * 2, lambda x: half * x - operator.moved(x, found), dtype=np.float64)
    start = operator.project(np.random.default_rng(seed).normal(size=operator.n), found)
    vectors = min(max(LANCZOS_VECTORS, 2 * m + 1), operator.n)
    try:
        return eigsh(shifted, m, which="LA", ncv=vectors, v0=start, tol=tolerance / half, maxiter=restarts)[1]
    except ArpackNoConvergence:
        return None


def preconditioned(
    operator: Deflated, start: np.ndarray, iterations: int, tolerance: float, found: np.ndarray | None = None
) -> np.ndarray:
    """LOBPCG from `start`, N × m, orthogonal to U and `found`; it may end before the tolerance is reached."""

    def square(apply) -> LinearOperator:
        return LinearOperator((operator.n, operator.n), matvec=apply, matmat=apply, dtype=np.float64)

    matrix = square(lambda x: operator.moved(x, found))
    inverse = square(lambda x: operator.project(operator.cycle(x), found))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it ended early is seen from the residuals
        return lobpcg(matrix, start, M=inverse, tol=tolerance, maxiter=iterations, largest=False)[1]


def start_block(operator: Deflated, m: int) -> np.ndarray:
    """The m lowest vectors of the coarsest level, brought to the cells: A y = λ TᵀT y, x = T y."""
    cycle, c = operator.cycle, operator.null.shape[1]
    mass = sparse.identity(operator.n, format="csr")
    for level in cycle.levels:
        mass = (level.prolong.T @ mass @ level.prolong).tocsr()
    if len(cycle.inverse) < m + c:
        return operator.project(np.random.default_rng(0).normal(size=(operator.n, m)))
    x = linalg.eigh(cycle.coarsest, mass.toarray(), subset_by_index=[0, m + c - 1])[1]
    for level in reversed(cycle.levels):
        x = level.prolong @ x
    return operator.ritz(x)[1][:, :m]


class Level(NamedTuple):
    matrix: sparse.csr_matrix  # of the finer side, float32
    step: np.ndarray  # damped inverse diagonal, n × 1
    prolong: sparse.csr_matrix  # finer × coarser


@dataclass(frozen=True)
class VCycle:
    """Smoothed aggregation of L, applied to many vectors at once: one Jacobi sweep down, one up, N × m → N × m.

    pyamg builds the levels, with the null vectors' sum kept on all of them; its own cycle takes one vector at a time.
    In float32: a preconditioner decides how fast LOBPCG arrives, not where.
    """

    levels: tuple[Level, ...]
    coarsest: np.ndarray
    inverse: np.ndarray  # pseudoinverse of the coarsest level: its null vectors stay out

    @classmethod
    def of(cls, operator: Deflated) -> VCycle:
        from pyamg import smoothed_aggregation_solver

        # The local weighting of the smoother draws no random numbers: equal cells, equal levels.
        built = smoothed_aggregation_solver(
            operator.matrix,
            B=np.asarray(operator.null.multiply(1 / operator.null.max(0).toarray()).sum(1)),
            smooth=("jacobi", {"weighting": "local"}),
            max_coarse=COARSEST,
            max_levels=20,
        ).levels
        levels = tuple(Level(_f32(level.A), _step(level.A), _f32(level.P)) for level in built[:-1])
        coarsest = built[-1].A.toarray()
        return cls(levels, coarsest, np.linalg.pinv(coarsest, rcond=1e-10, hermitian=True).astype(np.float32))

    def __call__(self, b: np.ndarray) -> np.ndarray:
        return self._down(b.reshape(len(b), -1).astype(np.float32), 0).astype(np.float64).reshape(b.shape)

    def _down(self, b: np.ndarray, depth: int) -> np.ndarray:
        if depth == len(self.levels):
            return self.inverse @ b
        matrix, step, prolong = self.levels[depth]
        x = step * b
        x += prolong @ self._down(prolong.T @ (b - matrix @ x), depth + 1)
        x += step * (b - matrix @ x)
        return x


def _f32(matrix: sparse.spmatrix) -> sparse.csr_matrix:
    return matrix.tocsr().astype(np.float32)


def _step(matrix: sparse.spmatrix) -> np.ndarray:
    """4 / 3ρ of Jacobi's iteration, ρ bounded by the row sums of |D⁻¹A|, over the diagonal."""
    diagonal = matrix.diagonal()
    bound = (np.asarray(abs(matrix).sum(1)).ravel() / diagonal).max()
    return (4 / (3 * bound) / diagonal)[:, None].astype(np.float32)
