"""Cells whose perturbation is hard to see: few genes change, few counts are read, and the cell cycle is everywhere.

share_ng = softmax_g(base_g + lfc_{c(n),g} + phase_{f(n),g} + batch_{b(n),g})
x_ng ~ NB(mean ℓ_n · share_ng, dispersion θ),  ℓ_n ~ log-normal

Every phase f and every perturbation c moves genes of its own, in all cells alike, so that a model which separates what
the cells share from what the perturbation did can be judged. The constants make a weak screen: the changed genes say
most of what the perturbation was, the first principal components little of it (benchmarks/programmes.py prints how
much). It is for tests, not for claims.

Shapes: N cells, G genes, C conditions (the first is control), F phases, B batches, S states.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.random import Generator
from scipy.sparse import csr_matrix, vstack
from scipy.special import log_softmax
from scipy.stats import norm

from stormcell.config import UserError
from stormcell.data.simulate import Simulated, expected_log1p

SPREAD = 2.0  # standard deviation of the log levels of the genes
LOUD = 0.04  # share of the genes, the most expressed, that no perturbation changes: any projection would show them
DISPERSION = 1.0
LIBRARY_SD = 0.3  # of the log library
PHASE_SHARE = 0.03  # of the genes, for each phase
PHASE_EFFECT = 0.95  # log-fold change of its genes
BATCH_SD = 0.15  # of the log level of a gene, between batches
BLOCK = 1024  # cells whose dense rates are held at once
LIBRARIES = 8  # quantiles of the library over which the true shifts are averaged


@dataclass
class Programmes:
    """Log levels of the genes, and what moves them."""

    base: np.ndarray  # G
    lfc: np.ndarray  # C × G
    phase: np.ndarray  # F × G
    batch: np.ndarray  # B × G

    def log_share(self, condition: np.ndarray, phase: np.ndarray, batch: np.ndarray) -> np.ndarray:
        """Log of the share that each gene has of the counts of a cell: N, N, N → N × G."""
        return log_softmax(self.base + self.lfc[condition] + self.phase[phase] + self.batch[batch], axis=1)


def simulate_programmes(
    n_controls: int = 2000,
    n_perturbed: int = 500,
    n_perturbations: int = 4,
    n_genes: int = 2000,
    n_changed: int = 60,
    library: int = 350,
    n_phases: int = 3,
    n_batches: int = 1,
    effect: float = 1.33,
    seed: int = 0,
) -> Simulated:
    """`n_controls` cells and `n_perturbed` of each perturbation, of `library` counts on average; equal for equal seeds.

    A perturbation moves `n_changed` genes by a log-fold change of `effect`, half of them up and half down, drawn evenly
    over the levels of expression. truth holds

    lfc    perturbation → G, 0 for the genes that it leaves alone (shares add up to 1, so those all fall by about 1 %)
    phase  F × G log-fold changes; batch: B × G
    shift, control_mean, base, dispersion: as `Simulated` has them, over ℓ, the library before the counts are drawn

    Raises UserError for what cannot be made.
    """
    _check(
        {
            "n_controls": n_controls, "n_perturbed": n_perturbed, "n_perturbations": n_perturbations,
            "n_genes": n_genes, "n_changed": n_changed, "library": library, "n_phases": n_phases,
            "n_batches": n_batches, "seed": seed,
        }
    )  # fmt: skip
    planted, drawn = (np.random.default_rng(sequence) for sequence in np.random.SeedSequence(seed).spawn(2))
    world = make_programmes(planted, n_genes, n_perturbations, n_changed, effect, n_phases, n_batches)
    condition = drawn.permutation(np.repeat(np.arange(len(world.lfc)), [n_controls, *[n_perturbed] * n_perturbations]))
    phase, batch = (drawn.integers(0, n, len(condition)) for n in (n_phases, n_batches))
    counts = draw_counts(drawn, world, condition, phase, batch, _library(drawn.uniform(size=len(condition)), library))
    labels = ["control", *(f"P{c + 1}" for c in range(n_perturbations))]
    obs = pd.DataFrame(
        {
            "perturbation": np.array(labels)[condition],
            "phase": [f"phase{f + 1}" for f in phase],
            "batch": [f"batch{b + 1}" for b in batch],
        },
        index=[f"cell{i + 1:0{len(str(len(condition)))}d}" for i in range(len(condition))],
    )
    genes = [f"G{g + 1:0{len(str(n_genes))}d}" for g in range(n_genes)]
    return Simulated(counts, obs, genes, _truth(world, labels[1:], library))


def _truth(world: Programmes, perturbations: list[str], library: float) -> dict:
    means = expected_means(world, library)
    return {
        "lfc": dict(zip(perturbations, world.lfc[1:], strict=True)),
        "shift": dict(zip(perturbations, means[1:] - means[0], strict=True)),
        "control_mean": means[0],
        "phase": world.phase,
        "batch": world.batch,
        "base": world.base,
        "dispersion": np.full(len(world.base), DISPERSION),
    }


def _check(sizes: dict[str, int]) -> None:
    """UserError for the first argument that cannot be served."""
    for name, value in sizes.items():
        least = 0 if name in ("n_changed", "seed") else 1
        if not isinstance(value, int) or isinstance(value, bool):
            raise UserError(f"data.simulate.{name} must be a whole number, not {value!r}")
        if value < least:
            raise UserError(f"data.simulate.{name}={value} is too few: {least} are needed")
    quiet = _n_quiet(sizes["n_genes"])
    if sizes["n_changed"] > quiet:
        raise UserError(
            f"data.simulate.n_changed={sizes['n_changed']} is more than the {quiet} genes of "
            f"data.simulate.n_genes={sizes['n_genes']} that a perturbation may change"
        )
    if sizes["n_phases"] * PHASE_SHARE > 1:
        raise UserError(f"data.simulate.n_phases={sizes['n_phases']} is more than {int(1 / PHASE_SHARE)}")


def _n_quiet(n_genes: int) -> int:
    return int(n_genes * (1 - LOUD))


def _library(quantile: np.ndarray, mean: float) -> np.ndarray:
    return mean * np.exp(LIBRARY_SD * norm.ppf(quantile) - LIBRARY_SD**2 / 2)


def make_programmes(
    rng: Generator, n_genes: int, n_perturbations: int, n_changed: int, effect: float, n_phases: int, n_batches: int
) -> Programmes:
    """What is the same for all cells. Genes are drawn level by level, so that seeds differ little in difficulty."""
    by_level = rng.permutation(n_genes)
    base = np.empty(n_genes)
    base[by_level] = SPREAD * norm.ppf((np.arange(n_genes) + 0.5) / n_genes)
    lfc = np.zeros((1 + n_perturbations, n_genes))
    for row in lfc[1:]:
        chosen = by_level[_spread_out(rng, _n_quiet(n_genes), n_changed)]
        # One of two neighbours goes up and one down, because up tells more than down.
        signs = rng.permuted(np.tile([1, -1], (n_changed // 2 + 1, 1)), axis=1).ravel()
        row[chosen] = effect * signs[:n_changed]
    phase = np.zeros((n_phases, n_genes))
    own = by_level[_spread_out(rng, n_genes, n_phases * int(PHASE_SHARE * n_genes))].reshape(-1, n_phases)
    np.put_along_axis(phase, rng.permuted(own, axis=1).T, PHASE_EFFECT, axis=1)
    batch = rng.normal(0, BATCH_SD, (n_batches, n_genes))
    return Programmes(base, lfc, phase, batch - batch.mean(0))


def _spread_out(rng: Generator, n: int, k: int) -> np.ndarray:
    """k different numbers below n, one from each k-th part."""
    edges = np.linspace(0, n, k + 1).astype(int)
    return rng.integers(edges[:-1], edges[1:])


def draw_counts(
    rng: Generator, world: Programmes, condition: np.ndarray, phase: np.ndarray, batch: np.ndarray, library: np.ndarray
) -> csr_matrix:
    """Negative binomial counts, N × G; dense only block by block."""
    blocks = []
    for start in range(0, len(condition), BLOCK):
        which = slice(start, start + BLOCK)
        mean = np.exp(world.log_share(condition[which], phase[which], batch[which])) * library[which, None]
        counts = rng.negative_binomial(DISPERSION, DISPERSION / (DISPERSION + mean))
        blocks.append(csr_matrix(counts, dtype=np.float32))
    return vstack(blocks, format="csr")


def expected_means(world: Programmes, library: float) -> np.ndarray:
    """E[log1p(x / ℓ · 1e4)] in every condition, over phases, batches and quantiles of the library: C × G."""
    states = np.indices((len(world.phase), len(world.batch), LIBRARIES)).reshape(3, -1)
    size = _library((states[2] + 0.5) / LIBRARIES, library)
    dispersion = np.full(len(world.base), DISPERSION)
    means = []
    for c in range(len(world.lfc)):
        eta = world.log_share(np.full(len(size), c), states[0], states[1]) + np.log(1e4)
        means.append(expected_log1p(eta, size, dispersion).mean(0))
    return np.stack(means)
