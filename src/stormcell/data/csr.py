"""Rows of a sparse matrix as a dense batch, and what else is computed on the stored values alone.

A batch is the zero fill of N × G floats and the scatter of the stored values of N rows: one thread, no lock of the
interpreter, no memory allocated. `benchmarks/loader.py` measures it against scipy.

Shapes: M cells in the matrix, N cells in the batch, G genes, Z stored values.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from scipy.sparse import csr_matrix
from torch import Tensor

from stormcell.compiled import compiled

AHEAD = 2  # rows between asking for one and using it
RING = 4  # buffers: the batch in training, one on its way, and two of slack for a reader that runs ahead


@intrinsic
def _prefetch(typing, array, position):
    """Ask for the cache line of array[position] without waiting for it; numba has no name for this instruction."""

    def code(context, builder, signature, arguments):
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        address = builder.bitcast(builder.gep(data, [arguments[1]]), ir.IntType(8).as_pointer())
        number = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [address.type, number, number, number])
        prefetch = builder.module.declare_intrinsic("llvm.prefetch", [address.type], kind)
        builder.call(prefetch, [address, number(0), number(3), number(1)])  # to read, keep close, data
        return context.get_dummy_value()

    return types.void(array, types.uint64), code


@compiled
def rows_to_dense(data, indices, indptr, rows, out):
    """out[n, :] = row rows[n] of the matrix: Z, Z, M + 1, N → N × G float32, in place; `out` contiguous.

    Entries of one row that name one column twice are added up. Nothing is checked: `DenseRows` does that.
    """
    # Unsigned positions, because numba tests each signed one for being negative.
    flat, n_genes = out.reshape(-1), np.uint64(out.shape[1])
    one, line = np.uint64(1), np.uint64(16)  # a cache line of 64 bytes holds 16 values
    for n in range(len(rows)):
        # Random rows are not in the cache: half the time of this loop is waiting, unless they are asked for in advance.
        if n + AHEAD < len(rows):
            later = np.uint64(rows[n + AHEAD])
            for z in range(np.uint64(indptr[later]), np.uint64(indptr[later + one]), line):
                _prefetch(indices, z)
                _prefetch(data, z)
        row, start = np.uint64(rows[n]), np.uint64(n) * n_genes
        flat[start : start + n_genes] = 0
        for z in range(np.uint64(indptr[row]), np.uint64(indptr[row + one])):
            flat[start + np.uint64(indices[z])] += np.float32(data[z])


class DenseRows:
    """Random access to rows of a CSR matrix as dense float32 tensors.

    A returned tensor is one of a ring of four buffers: the fourth call after it writes over it. Who keeps a batch
    longer clones it or passes `out`. Several value arrays may share the matrix's sparsity (counts and log1p of them):
    each has a ring of its own.

    Raises ValueError for a malformed matrix, and for value arrays that are not as long as its stored values.
    """

    def __init__(self, matrix: csr_matrix, values: Sequence[np.ndarray] | None = None):
        matrix.check_format(full_check=True)  # the kernel would write to a column that does not exist
        self.shape = matrix.shape
        self.indices, self.indptr = matrix.indices, matrix.indptr
        self.values = (matrix.data,) if values is None else tuple(values)
        if lengths := [len(data) for data in self.values if len(data) != len(self.indices)]:
            raise ValueError(f"{lengths[0]} values for a matrix of {len(self.indices)} stored values")
        self._rings: list[list[Tensor]] = [[torch.empty(0, self.shape[1])] * RING for _ in self.values]
        self._turn = 0

    def rows(self, index: np.ndarray | Tensor, out: Tensor | None = None) -> Tensor:
        """The first value array: N row numbers → N × G float32, in `out` or in the next buffer of the ring.

        Raises IndexError for a row that the matrix does not have (negative ones too), ValueError for an index that is
        no vector of integers and for an `out` that is not a contiguous N × G float32 tensor.
        """
        index = self._checked(index)
        if out is None:
            self._turn += 1
            out = self._buffer(0, len(index))
        elif out.shape != (len(index), self.shape[1]) or out.dtype != torch.float32 or not out.is_contiguous():
            wanted = (len(index), self.shape[1])
            raise ValueError(f"out: contiguous float32 of shape {wanted} needed, not {out.dtype} {tuple(out.shape)}")
        rows_to_dense(self.values[0], self.indices, self.indptr, index, out.numpy())
        return out

    def layers(self, index: np.ndarray | Tensor) -> tuple[Tensor, ...]:
        """Every value array: N row numbers → as many N × G float32. Raises as `rows` does."""
        index = self._checked(index)
        self._turn += 1
        batch = tuple(self._buffer(layer, len(index)) for layer in range(len(self.values)))
        for data, out in zip(self.values, batch, strict=True):
            rows_to_dense(data, self.indices, self.indptr, index, out.numpy())
        return batch

    def _checked(self, index: np.ndarray | Tensor) -> np.ndarray:
        index = np.asarray(index)
        if index.ndim != 1 or (len(index) and index.dtype.kind not in "iu"):
            raise ValueError(f"a vector of integers is needed, not {index.dtype} of shape {index.shape}")
        if len(index) and not 0 <= index.min() <= index.max() < self.shape[0]:
            wrong = index.min() if index.min() < 0 else index.max()
            raise IndexError(f"row {wrong} of a matrix of {self.shape[0]} rows")
        return np.ascontiguousarray(index, dtype=np.int64)

    def _buffer(self, layer: int, n: int) -> Tensor:
        """The layer's buffer of this turn, cut to n rows; it grows to the largest batch that came."""
        ring, place = self._rings[layer], self._turn % RING
        if len(ring[place]) < n:
            ring[place] = torch.empty(n, self.shape[1])
        return ring[place][:n]


def row_normalise_log1p(counts: csr_matrix, library: np.ndarray, target: float = 1e4) -> np.ndarray:
    """log1p(counts / library · target) of the stored values only: M × G, M → Z float32, in the order of `counts.data`.

    `library`: total counts of each cell over all genes, not over the G kept. Raises ValueError for a cell with counts
    whose library is not a positive number, and where a row names a gene twice (a logarithm of parts is not one of
    their sum).
    """
    scale = _scale(counts, library, target)
    if not counts.has_canonical_format:
        merged = counts.copy()
        merged.sum_duplicates()
        if merged.nnz != counts.nnz:
            raise ValueError(f"{counts.nnz - merged.nnz} entries of the matrix name a gene twice in one cell")
    return _scaled_log1p(counts.data, counts.indptr, scale)


def _scale(counts: csr_matrix, library: np.ndarray, target: float) -> np.ndarray:
    """target / library of each cell; raises ValueError where a cell with counts has no positive library."""
    library = np.asarray(library, dtype=np.float64)
    if library.shape != (counts.shape[0],):
        raise ValueError(f"library of shape {library.shape} for {counts.shape[0]} cells")
    positive = np.isfinite(library) & (library > 0)
    if wrong := int((~positive & (np.diff(counts.indptr) > 0)).sum()):
        raise ValueError(f"{wrong} cells with counts have a library size that is not a positive number")
    return target / np.where(positive, library, 1.0)


@compiled
def _scaled_log1p(data, indptr, scale):
    """One sweep without temporaries; numpy would hold three float64 arrays of the length of the data."""
    out = np.empty(len(data), np.float32)
    for m in range(len(scale)):
        for z in range(indptr[m], indptr[m + 1]):
            out[z] = np.log1p(np.float64(data[z]) * scale[m])
    return out


def group_mean(
    matrix: csr_matrix, codes: np.ndarray, n_groups: int, library: np.ndarray | None = None, target: float = 1e4
) -> np.ndarray:
    """Mean row of each group: M × G, M group numbers → n_groups × G float64, in one pass over the stored values.

    With `library` (M) the matrix holds counts, and the mean is that of log1p(counts / library · target); no normalised
    copy is made. A negative number puts a cell in no group (as pandas codes a missing value); a group without cells has
    the mean NaN. Raises ValueError for a number that is n_groups or more, for another length than M, and for a cell
    with counts whose library is not a positive number.
    """
    codes = np.asarray(codes)
    if codes.shape != (matrix.shape[0],) or (len(codes) and codes.max() >= n_groups):
        raise ValueError(f"{matrix.shape[0]} numbers below {n_groups} needed, one per cell; found shape {codes.shape}")
    sums = np.zeros((n_groups, matrix.shape[1]))
    scale = np.zeros(0) if library is None else _scale(matrix, library, target)
    _add_rows(matrix.data, matrix.indices, matrix.indptr, codes.astype(np.int64), scale, sums)
    sizes = np.bincount(codes[codes >= 0], minlength=n_groups).astype(np.float64)
    with np.errstate(invalid="ignore"):
        return np.divide(sums, sizes[:, None], out=sums)


@compiled
def _add_rows(data, indices, indptr, codes, scale, sums):
    """sums[codes[m], :] += row m, as it is or as log1p(scale[m] · row m) where a scale is given."""
    logarithm = len(scale) > 0
    for m in range(len(codes)):
        group = codes[m]
        if group < 0:
            continue
        for z in range(indptr[m], indptr[m + 1]):
            value = np.float64(data[z])
            sums[group, indices[z]] += np.log1p(value * scale[m]) if logarithm else value
