"""Integer counts from log1p(counts / library · 1e4), exactly or not at all.

Per cell the smallest positive expm1 is m counts (m = 1 nearly always), every other an integer multiple of that unit,
and 1e4 / unit is the integer library size. So the library over all genes comes back where a file keeps only some.

Shapes: N cells, G genes, Z stored values.
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_matrix

from stormcell.config import UserError
from stormcell.data.spec import TARGET_SUM

_MULTIPLES = range(1, 7)  # counts that the smallest value of a cell may stand for
_ENOUGH = 20  # cells whose library sizes share a divisor by chance once in 2²⁰ files


def recover_counts(X: csr_matrix, origin: str) -> tuple[csr_matrix, np.ndarray]:
    """log1p values N × G → counts N × G float32 and library sizes N.

    Raises UserError where recomputing log1p from the counts does not give every value back, and where the counts fit
    another target sum than 1e4 as well.
    """
    filled, sizes = np.flatnonzero(np.diff(X.indptr)), np.diff(X.indptr)
    starts, rows = X.indptr[:-1][filled], np.repeat(np.arange(len(filled)), sizes[filled])
    share = np.expm1(X.data.astype(np.float64))  # counts / library · 1e4
    unit = np.minimum.reduceat(share, starts) if len(filled) else np.zeros(0)
    counts, library = np.zeros_like(share), np.zeros(len(filled))
    todo = np.ones(len(filled), bool)
    for multiple in _MULTIPLES:
        whole = np.rint(share / unit[rows] * multiple)
        total = np.rint(np.bincount(rows, whole) / np.bincount(rows, share) * TARGET_SUM)
        good = todo & _gives_back(X.data, whole, total, rows)
        # Counts with a common divisor would be smaller counts at another target sum.
        if multiple > 1 and good.any():
            good &= np.gcd.reduceat(whole.astype(np.int64), starts) == 1
        counts[good[rows]], library[good] = whole[good[rows]], total[good]
        todo &= ~good
    _check(todo, library, X.shape[0], origin)
    everywhere = np.zeros(X.shape[0])
    everywhere[filled] = library
    return csr_matrix((counts.astype(np.float32), X.indices, X.indptr), X.shape), everywhere


def _gives_back(values: np.ndarray, whole: np.ndarray, total: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Per cell: log1p of the counts is the stored value, within the rounding of float32."""
    back = np.log1p(whole / np.maximum(total[rows], 1) * TARGET_SUM)
    # A step of float32 at log1p 7 is 4.8e-7, which moves counts / library by as much relative to itself.
    off = np.abs(back - values) > 4 * np.spacing(np.maximum(values, 1).astype(np.float32))
    return np.bincount(rows, off) == 0


def _check(todo: np.ndarray, library: np.ndarray, n_cells: int, origin: str) -> None:
    asked = f"{origin}: data.recover_counts=true, but"
    if todo.any():
        raise UserError(
            f"{asked} {int(todo.sum())} of {n_cells} cells are not log1p(counts / library · 1e4) of integers, so "
            "counts cannot be recovered exactly; leave it false"
        )
    common = int(np.gcd.reduce(library.astype(np.int64))) if len(library) >= _ENOUGH else 1
    if common > 1:
        raise UserError(
            f"{asked} every library size would be a multiple of {common}, so the values were not scaled to "
            f"{TARGET_SUM:g} counts a cell; leave it false"
        )
