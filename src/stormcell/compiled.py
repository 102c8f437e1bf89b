"""Loops over single values as machine code."""

from __future__ import annotations

from collections.abc import Callable

import numba

COMPILES = not numba.config.DISABLE_JIT


def compiled(function: Callable) -> Callable:
    """Machine code, kept on disk where any folder of numba's choice can be written, else made anew in each process."""
    try:
        return numba.njit(nogil=True, cache=True)(function)
    except RuntimeError:
        return numba.njit(nogil=True)(function)
