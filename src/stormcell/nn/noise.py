"""Random numbers that belong to a cell, not to a batch.

noise[n, j] = f(seed, step, stream, index[n], j)

A number depends on the seed, the step, the stream and the cell it is for, and on nothing else: the same cell gets the
same noise on another rank, in another batch, at another place of the file, and after a resume. Nothing is drawn in
sequence, so there is no generator state to save.

The counter is hashed by the finaliser of SplitMix64 (Steele, Lea & Flood 2014, OOPSLA); normals come from uniforms by
Box & Muller (1958). Both run where `index` lies; the device must have int64 and float64.

Shapes: N cells, W numbers per cell (`width`).
"""

from __future__ import annotations

import hashlib
import math

import torch
from torch import Tensor

GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)  # 2⁶⁴ / golden ratio, as signed int64: an odd step that visits every integer


def keyed_uniform(seed: int, step: int, index: Tensor, width: int, stream: int = 0) -> Tensor:
    """Uniform on the open interval (0, 1), a multiple of 2⁻²⁴: N int64 → N × W float32.

    `stream` separates uses within one step (two latents, dropout). Column j does not depend on `width`.
    Equal bit for bit on every device. Raises ValueError when `index` is not a vector of int64.
    """
    bits = _hash("uniform", seed, step, stream, index, width)
    # 23 bits and a half: the largest value, 1 − 2⁻²⁴, is still below 1 in float32.
    return (_shift_right(bits, 41).float() + 0.5).mul_(2.0**-23)


def keyed_normal(seed: int, step: int, index: Tensor, width: int, stream: int = 0) -> Tensor:
    """Standard normal, |value| < 6.8: N int64 → N × W float32.

    √(−2 ln u) · (cos 2πv, sin 2πv) with u, v the two halves of one hash gives columns 2k and 2k + 1.
    Arguments as in `keyed_uniform`; the two functions share no bits.
    """
    bits = _hash("normal", seed, step, stream, index, (width + 1) // 2)
    # float64 until the end: float32 kernels round differently in the tail of a vector, which would tie a cell's noise
    # to its place in the batch.
    radius = (_shift_right(bits, 32).double() + 0.5).mul_(2.0**-32).log_().mul_(-2).sqrt_()
    angle = (bits & 0xFFFFFFFF).double().mul_(2 * math.pi * 2.0**-32)
    pairs = torch.stack([radius * angle.cos(), radius * angle.sin()], dim=-1)
    return pairs.flatten(1)[:, :width].float()


def _hash(purpose: str, seed: int, step: int, stream: int, index: Tensor, width: int) -> Tensor:
    """64 random bits per cell and column: N → N × W int64."""
    if index.dtype != torch.int64 or index.dim() != 1:
        raise ValueError(f"index must be a vector of int64, not {index.dtype} of shape {tuple(index.shape)}")
    name = f"{purpose} {int(seed)} {int(step)} {int(stream)}".encode()
    key = int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "little", signed=True)
    cells = _mix(index * GOLDEN + key)
    columns = torch.arange(1, width + 1, device=index.device) * GOLDEN
    return _mix(cells[:, None] + columns)


def _mix(x: Tensor) -> Tensor:
    """SplitMix64's finaliser, in place; int64 products wrap modulo 2⁶⁴."""
    x ^= _shift_right(x, 30)
    x *= 0xBF58476D1CE4E5B9 - (1 << 64)
    x ^= _shift_right(x, 27)
    x *= 0x94D049BB133111EB - (1 << 64)
    x ^= _shift_right(x, 31)
    return x


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """Logical shift: torch's `>>` would copy the sign into the upper bits."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)
