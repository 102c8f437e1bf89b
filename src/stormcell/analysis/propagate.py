"""In-silico perturbation: one regulator is held at a level and its effect runs through the networks, step by step.

    d = level − x_r, in the column r of the regulator, 0 elsewhere            Δ_0 = d
    Δ_{s+1} = clip(x + Δ_s W, lowest, highest) − x,  then column r is d again      the regulator is held at every step
    x' = x + Δ_S

Because d enters anew at every step, Δ_S is the sum over all paths of at most S edges that leave r and do not come back
to it; nothing is added up afterwards. With several transitions in order each one's W acts for `steps` steps and hands
its Δ to the next. W takes differences to differences, so intercepts do not appear; self effects, if they are to carry a
shift on, stand on its diagonal. Every gene stays within its observed range, so that a cycle of gain above 1 ends there.
The shift is relative to the unperturbed cell x, in the unit of x: W is in natural units (standardised weights times
sd of target / sd of regulator).

Shapes: N cells, G genes. Rows of W regulate columns.
Source: Kamimoto et al. 2023 (signal propagation in CellOracle), here with transitions in order and an upper bound too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix, sparray, spmatrix


@dataclass(frozen=True)
class Propagated:
    cells: np.ndarray  # N × G   shift x' − x of every cell

    @property
    def shift(self) -> np.ndarray:
        """Mean shift over the cells: G."""
        return self.cells.mean(0)


def knocked_out(x: np.ndarray, regulator: int) -> np.ndarray:
    """Level 0 in every cell: N."""
    return np.zeros(len(x))


def knocked_down(x: np.ndarray, regulator: int, factor: float) -> np.ndarray:
    """The share `factor` of each cell's own expression, in the unit of x: N."""
    if not 0 <= factor <= 1:
        raise ValueError(f"a knock-down leaves a share of the expression between 0 and 1, not {factor}")
    return factor * np.asarray(x[:, regulator], float)


def over_expressed(x: np.ndarray, regulator: int, highest: np.ndarray, factor: float = 1.0) -> np.ndarray:
    """`factor` times the highest observed value in every cell: N. A cell without the gene has it too."""
    if factor <= 0:
        raise ValueError(f"over-expression by a factor of {factor}")
    return np.full(len(x), factor * float(highest[regulator]))


def propagate(
    x: np.ndarray,
    networks: Sequence[np.ndarray | spmatrix | sparray],
    regulator: int,
    level: np.ndarray | float,
    steps: int = 3,
    lowest: np.ndarray | None = None,
    highest: np.ndarray | None = None,
) -> Propagated:
    """Shift of N cells when gene `regulator` is held at `level` (N or one number).

    x: N × G; networks: G × G of each transition in order, natural units; lowest, highest: G, observed range of each
    gene over all states, by default that of x. The held level is not clipped. Raises ValueError for shapes that
    disagree, a gene that is not there, numbers that are not finite and no step.
    """
    x = np.asarray(x, float)
    n, n_genes = x.shape
    lowest = x.min(0) if lowest is None else np.asarray(lowest, float)
    highest = x.max(0) if highest is None else np.asarray(highest, float)
    if steps < 1 or not len(networks) or not 0 <= regulator < n_genes:
        raise ValueError(f"{steps} steps of {len(networks)} networks from gene {regulator} of {n_genes}")
    if any(W.shape != (n_genes, n_genes) for W in networks) or lowest.shape != (n_genes,) != highest.shape:
        raise ValueError(f"networks {[W.shape for W in networks]} and ranges {lowest.shape} for {n_genes} genes")
    held = np.broadcast_to(np.asarray(level, float), n) - x[:, regulator]
    if not (np.isfinite(x).all() and np.isfinite(held).all()):
        raise ValueError("expression and level must be finite")
    # Cells outside the range stay where they are: only what a perturbation adds is bounded.
    down, up = np.minimum(lowest - x, 0), np.maximum(highest - x, 0)
    delta = np.zeros_like(x)
    delta[:, regulator] = held
    for W in networks:
        transposed = csr_matrix(W).T.tocsr()
        for _ in range(steps):
            delta = np.clip((transposed @ delta.T).T, down, up)
            delta[:, regulator] = held
    return Propagated(delta)
