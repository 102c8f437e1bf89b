"""Cells whose truth is known: the default data set, and the judge of the tests. It is for tests, not for claims.

`world.py` says how they come about. The true shifts are expectations: S states without count noise go through every
condition, and the noise is integrated.

Shapes: N cells, G genes, F factors (the first F genes), C conditions, B batches, S states.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from stormcell.config import UserError, nearest
from stormcell.data.world import (
    CYCLE,
    FORK,
    KINDS,
    TARGETS,
    States,
    World,
    draw_counts,
    draw_states,
    log_rate,
    make_world,
)

STATES = 512  # cells over which the true shifts are averaged


@dataclass
class Simulated:
    """counts N × G (float32 integers), one row of `obs` per cell, gene names, and `truth`:

    shift         condition → G: expected mean of log1p(counts / library · 1e4) minus that of control cells
    control_mean  G: the latter
    interaction   pair → G: η(A+B) − η(A) − η(B) + η(control), mean over cells; zero for additive pairs
    network       F × G signed weights; cooperating: pair → G weights of its gate; factors: their names; kind: by factor
    nuisance      2 × G loadings of the cell cycle on (cos φ, sin φ); batch: B × G; base, dispersion: G
    """

    counts: csr_matrix
    obs: pd.DataFrame
    genes: list[str]
    truth: dict


def simulate(
    n_cells: int = 4000,
    n_genes: int = 300,
    n_factors: int = 20,
    n_singles: int = 12,
    n_pairs: int = 6,
    n_interacting: int = 2,
    n_batches: int = 3,
    control_share: float = 0.28,
    kinds: Sequence[str] = KINDS,
    seed: int = 0,
) -> Simulated:
    """Cells under single and double perturbations on a branching trajectory; equal for an equal seed.

    `n_singles` of the factors are perturbed alone, `n_pairs` of their pairs together, `n_interacting` of these with a
    planted interaction; `kinds` of perturbations take turns among the factors. Cells that are not controls
    are shared out evenly. Raises UserError for what cannot be made.
    """
    sizes = {"n_cells": n_cells, "n_genes": n_genes, "n_factors": n_factors, "n_singles": n_singles, "n_pairs": n_pairs}
    sizes |= {"n_interacting": n_interacting, "n_batches": n_batches, "seed": seed}
    _check(sizes, control_share)
    for kind in kinds:
        if kind not in KINDS:
            raise UserError(f"data.simulate.kinds: {kind!r}{nearest(kind, KINDS)}; kinds are {', '.join(KINDS)}")
    if not kinds:
        raise UserError(f"data.simulate.kinds is empty; kinds are {', '.join(KINDS)}")
    world_rng, state_rng, count_rng, truth_rng = (
        np.random.default_rng(sequence) for sequence in np.random.SeedSequence(seed).spawn(4)
    )
    world = make_world(world_rng, n_genes, n_factors, n_singles, n_pairs, n_interacting, n_batches, kinds)
    states = draw_states(state_rng, n_cells, n_factors, n_batches)
    condition = assign_conditions(state_rng, n_cells, len(world.conditions), control_share)
    counts = draw_counts(count_rng, world, states, condition)
    truth = make_truth(world, draw_states(truth_rng, STATES, n_factors, n_batches))
    return Simulated(counts, describe(world, states, condition, counts), world.genes, truth)


def _check(sizes: dict[str, int], control_share: float) -> None:
    """UserError for the first argument that cannot be served."""
    for name, value in sizes.items():
        if not isinstance(value, int) or isinstance(value, bool):
            raise UserError(f"data.simulate.{name} must be a whole number, not {value!r}")
    if isinstance(control_share, bool) or not isinstance(control_share, float | int) or not 0 < control_share < 1:
        raise UserError(f"data.simulate.control_share={control_share!r} must be a number between 0 and 1")
    least = dict.fromkeys(sizes, 0) | {"n_cells": 1, "n_factors": 1, "n_batches": 1}
    least["n_genes"] = -(-(sizes["n_factors"] + 2 * TARGETS) * CYCLE // (CYCLE - 1))
    most = {"n_singles": "n_factors", "n_interacting": "n_pairs"}
    for name, value in sizes.items():
        if value < least[name]:
            raise UserError(f"data.simulate.{name}={value} is too few: {least[name]} are needed")
        if name in most and value > sizes[most[name]]:
            raise UserError(f"data.simulate.{name}={value} is more than data.simulate.{most[name]}={sizes[most[name]]}")
    asked, controls = sizes["n_singles"] + sizes["n_pairs"], round(control_share * sizes["n_cells"])
    if asked and (controls < 1 or sizes["n_cells"] - controls < asked):
        raise UserError(
            f"data.simulate.n_cells={sizes['n_cells']} with data.simulate.control_share={control_share} makes "
            f"{controls} control cells and {sizes['n_cells'] - controls} others for {asked} perturbations"
        )


def assign_conditions(rng: np.random.Generator, n_cells: int, n_conditions: int, control_share: float) -> np.ndarray:
    """Number of the condition of each cell, 0 for control."""
    n_controls = round(control_share * n_cells) if n_conditions > 1 else n_cells
    perturbed = 1 + np.arange(n_cells - n_controls) % max(n_conditions - 1, 1)
    return rng.permutation(np.concatenate([np.zeros(n_controls, int), perturbed]))


def describe(world: World, states: States, condition: np.ndarray, counts: csr_matrix) -> pd.DataFrame:
    """The obs table of the cells."""
    branch = np.where(states.pseudotime < FORK, 0, states.branch)
    stage = np.where(states.pseudotime < (1 + FORK) / 2, "early", "late")
    names = np.array(["root", "A", "B"])[branch]
    library = np.maximum(states.library, counts.sum(1).A1)
    columns = {
        "perturbation": np.array([world.label(members) for members in world.conditions])[condition],
        "batch": np.array([f"batch{b + 1}" for b in range(len(world.batch))])[states.batch],
        "cluster": np.where(branch == 0, "root", np.char.add(np.char.add(names, " "), stage)),
        "branch": names,
        "pseudotime": states.pseudotime,
        "phase": np.array(["G1", "G1", "S", "G2M"])[(states.angle / (np.pi / 2)).astype(int) % 4],
        "total_counts": library.astype(np.int64),
    }
    digits = len(str(len(condition)))
    return pd.DataFrame(columns, index=[f"cell{i + 1:0{digits}d}" for i in range(len(condition))])


def make_truth(world: World, states: States) -> dict:
    """Expected shifts and what was planted. The same S states go through every condition, so nothing but the
    perturbation differs, and the count noise is integrated, not drawn."""
    rates = [log_rate(world, states, np.full(len(states.batch), c)) for c in range(len(world.conditions))]
    control = expected_log1p(rates[0], states.library, world.dispersion).mean(0)
    shift, eta = {}, {}
    for members, rate in zip(world.conditions[1:], rates[1:], strict=True):
        moved = np.abs(rate - rates[0]).max(0) > 1e-9
        change = np.zeros(len(world.genes))
        change[moved] = expected_log1p(rate[:, moved], states.library, world.dispersion[moved]).mean(0)
        shift[world.label(members)] = np.where(moved, change - control, 0)
        eta[members] = (rate - rates[0]).mean(0)
    factors = world.genes[: len(world.network)]
    return {
        "shift": shift,
        "control_mean": control,
        "interaction": {world.label(p): eta[p] - eta[p[:1]] - eta[p[1:]] for p in eta if len(p) == 2},
        "factors": factors,
        "network": world.network,
        "cooperating": {world.label(p): w for p, w in zip(world.gates, world.cooperation, strict=True)},
        "kind": {factors[f]: kind for f, kind in world.kind.items()},
        "nuisance": world.nuisance,
        "batch": world.batch,
        "base": world.base,
        "dispersion": world.dispersion,
    }


def expected_log1p(eta: np.ndarray, library: np.ndarray, dispersion: np.ndarray) -> np.ndarray:
    """E[log1p(1e4 k / library)] of counts k ~ NB: S × G, S, G → S × G, to about 1e-4.

    From log(1 + y) = ∫₀^∞ (1 − e^(−ty)) e^(−t) dt / t and E[e^(−uk)] = (1 + μ (1 − e^(−u)) / θ)^(−θ); the trapezoidal
    rule in log t converges exponentially.
    """
    per_count = 1e4 / library[:, None]
    mean = np.exp(eta) / per_count
    step = 0.6
    total = np.zeros_like(mean)
    for log_t in np.arange(np.log(1e-5 / np.exp(eta.max(initial=0))), np.log(20), step):
        t = np.exp(log_t)
        total += np.exp(-t) * -np.expm1(-dispersion * np.log1p(mean * -np.expm1(-t * per_count) / dispersion))
    return total * step
