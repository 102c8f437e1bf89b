"""A linear transition with a known network: cells before and cells after, of which no two are the same.

x = f L + e,  f ~ N(0, I),  e ~ N(0, σ² I)         source cells: programmes that genes share, and genes of their own
y = shift + persistence · x + x W + N(0, noise²)   target cells, from source cells that are drawn apart

W has `n_regulators` true edges of each target, inside a mask of `n_candidates`; weights ± U(½, 1) · STRENGTH. Rows
regulate columns. It is for tests and benchmarks: nothing in it is unlike what the regression assumes, except the pairs.

Shapes: A source cells, B target cells, G genes, E edges of the mask, K programmes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stormcell.analysis.mask import Mask

PROGRAMMES = 10
OWN_SD = 0.5  # σ: of what a gene does by itself
STRENGTH = 0.5
NOISE_SD = 0.22  # at these scales the true network explains 97 % of the variance of the same cells


@dataclass(frozen=True)
class LinearTransition:
    """Two states and the truth between them; all float64."""

    x: np.ndarray  # A × G
    y: np.ndarray  # B × G, descended from other source cells
    partner: np.ndarray  # A × G: what became of the cells of x, which no experiment sees
    network: np.ndarray  # G × G: W, zero on the diagonal
    mask: Mask
    shift: np.ndarray  # G

    @property
    def weights(self) -> np.ndarray:
        """True weights of the edges of the mask, zero where there is none: E."""
        return self.network[self.mask.regulator, self.mask.target]


def simulate_linear(
    n_genes: int = 50,
    n_regulators: int = 3,
    n_candidates: int = 13,
    n_cells: int = 1000,
    persistence: float = 0.9,
    seed: int = 0,
) -> LinearTransition:
    """`n_cells` cells of each state; equal for an equal seed.

    Raises ValueError for more regulators than candidates, or candidates than other genes.
    """
    if not 0 < n_regulators <= n_candidates < n_genes:
        raise ValueError(f"{n_regulators} regulators among {n_candidates} candidates among {n_genes - 1} other genes")
    rng = np.random.default_rng(seed)
    network, regulators = np.zeros((n_genes, n_genes)), []
    for target in range(n_genes):
        others = np.delete(np.arange(n_genes), target)
        candidates = rng.choice(others, n_candidates, replace=False)
        sign = rng.choice([-1.0, 1.0], n_regulators)
        network[candidates[:n_regulators], target] = sign * STRENGTH * rng.uniform(0.5, 1, n_regulators)
        regulators.append(candidates)
    mask = Mask.of(n_genes, np.concatenate(regulators), np.repeat(np.arange(n_genes), n_candidates))
    loadings = rng.normal(0, 1 / np.sqrt(PROGRAMMES), (PROGRAMMES, n_genes))
    shift = rng.normal(0, 1, n_genes)

    def source() -> np.ndarray:
        return rng.normal(size=(n_cells, PROGRAMMES)) @ loadings + rng.normal(0, OWN_SD, (n_cells, n_genes))

    def target(x: np.ndarray) -> np.ndarray:
        return shift + persistence * x + x @ network + rng.normal(0, NOISE_SD, x.shape)

    x = source()
    return LinearTransition(x, target(source()), target(x), network, mask, shift)
