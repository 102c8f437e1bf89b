"""A linear layer for inputs that are mostly zero, as counts of cells are: on the CPU products with zeros are left out.

y = x W + b;  ∂W = xᵀ ∂y,  ∂b = Σ_n ∂y_n

Every entry of x that is not zero adds one row of W. At 8 % of them forward and backward together take a third of the
dense product of one thread. A fuller batch, another device or another dtype takes the dense product; the two agree to
rounding.

Shapes: N rows, I inputs, O outputs.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from stormcell.compiled import COMPILES, compiled

FULL = 0.25  # share of entries that are not zero, from which on the dense product is as fast


class SparseLinear(nn.Module):
    """Parameters weight (I × O, nn.Linear's transposed) and bias (O), initialised as nn.Linear's."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        like = nn.Linear(n_in, n_out)
        self.weight, self.bias = nn.Parameter(like.weight.detach().t().contiguous()), like.bias

    def forward(self, x: Tensor) -> Tensor:
        """N × I → N × O."""
        plain = COMPILES and x.device.type == "cpu" and x.dtype == self.weight.dtype == torch.float32
        if plain and not x.requires_grad and not torch.is_autocast_enabled("cpu"):
            start, column, value = _entries(x.contiguous().numpy(), int(FULL * x.numel()))
            if len(start):
                return _Product.apply(csr_matrix((value, column, start), x.shape), self.weight, self.bias)
        return torch.addmm(self.bias, x, self.weight)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: csr_matrix, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.x = x
        out = bias.detach().repeat(x.shape[0], 1)
        _add_product(x.indptr, x.indices, x.data, weight.detach().numpy(), out.numpy())
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[None, Tensor, Tensor]:
        x, of_weight = ctx.x.tocsc(), grad.new_zeros(ctx.x.shape[1], grad.shape[1])
        _add_product(x.indptr, x.indices, x.data, grad.contiguous().numpy(), of_weight.numpy())
        return None, of_weight, grad.sum(0)


@compiled
def _entries(x, most):
    """CSR arrays of N × I: start of each row, column and value of what is not zero; empty ones if that is too much."""
    n, width = x.shape
    start, column = np.zeros(n + 1, np.int32), np.empty(most + width, np.int32)
    value = np.empty(most + width, np.float32)
    k = 0
    for i in range(n):
        for j in range(width):
            column[k], value[k] = j, x[i, j]  # written over where it is zero: no branch
            k += x[i, j] != 0
        if k > most:
            return start[:0], column[:0], value[:0]
        start[i + 1] = k
    return start, column[:k], value[:k]


@compiled
def _add_product(start, column, value, right, out):
    """out += sparse · right, four rows of `right` in one pass over a row of out."""
    for i in range(len(start) - 1):
        row, k, end = out[i], start[i], start[i + 1]
        while k + 4 <= end:
            a, b, c, d = right[column[k]], right[column[k + 1]], right[column[k + 2]], right[column[k + 3]]
            p, q, r, s = value[k], value[k + 1], value[k + 2], value[k + 3]
            for j in range(row.size):
                row[j] += p * a[j] + q * b[j] + r * c[j] + s * d[j]
            k += 4
        while k < end:
            a, p = right[column[k]], value[k]
            for j in range(row.size):
                row[j] += p * a[j]
            k += 1
