"""The generative model behind the simulator: a regulatory network, cells on a trajectory, perturbations, counts.

Activity of transcription factor f, a departure from its usual log expression, factors in topological order:
    a_f = drive_f(pseudotime, branch) + cell noise + Σ_h network[h, f] a_h         knock-down: + log 0.2
                                                                                   activation: + log 6
                                                                                   knock-out:  a_f = log 0.05
Log of the expected counts per 10,000 counts of the cell:
    η_f = base_f + a_f + batch_f                                                   the factors themselves
    η_g = base_g + Σ_f network[f, g] a_f + Σ_(p,q) cooperation[pq, g] σ(2 a_p) σ(2 a_q)
                 + nuisance[:, g] · (cos φ, sin φ) + batch_g                       φ: place in the cell cycle
Counts ~ NB(mean library · e^η / 10,000, inverse dispersion θ_g).

A co-operating pair acts as an AND gate, so its double perturbation is not the sum of its singles in η. The other pairs
are chosen so that they are: no path of the network joins the two factors, and they meet in no gate.

Shapes: N cells, G genes, F factors (the first F genes), C conditions, B batches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.random import Generator
from scipy.sparse import csr_matrix, vstack
from scipy.special import expit

from stormcell.config import UserError

KINDS = ("knock-out", "knock-down", "activation")
EFFECT = {"knock-out": np.log(0.05), "knock-down": np.log(0.2), "activation": np.log(6)}
TARGETS = 24  # of each factor, and of each co-operating pair
CYCLE = 10  # one gene in so many belongs to the cell cycle
FORK = 0.35  # pseudotime at which the branches part
BLOCK = 4096  # cells whose dense rates are held at once


@dataclass
class World:
    """What is the same for all cells."""

    genes: list[str]
    network: np.ndarray  # F × G
    gates: list[tuple[int, int]]  # co-operating factors
    cooperation: np.ndarray  # gates × G
    conditions: list[tuple[int, ...]]  # factors of each condition; the first is control, ()
    kind: dict[int, str]  # of the perturbed factors
    amplitude: np.ndarray  # 3 × F: drive along the root, branch A, branch B
    base: np.ndarray  # G
    dispersion: np.ndarray  # G
    nuisance: np.ndarray  # 2 × G
    batch: np.ndarray  # B × G

    def label(self, condition: tuple[int, ...]) -> str:
        return "+".join(self.genes[f] for f in condition) or "control"


@dataclass
class States:
    """Cells as they are before anything is done to them."""

    pseudotime: np.ndarray  # N, 0 to 1
    branch: np.ndarray  # N, 1 or 2: where the cell goes, or would go, after the fork
    angle: np.ndarray  # N, place in the cell cycle, radians
    batch: np.ndarray  # N
    library: np.ndarray  # N counts over the whole transcriptome, of which these genes hold a part
    noise: np.ndarray  # N × F

    def part(self, which: slice) -> States:
        return States(**{name: values[which] for name, values in vars(self).items()})


def make_world(
    rng: Generator, n_genes: int, n_factors: int, n_singles: int, n_pairs: int, n_interacting: int, n_batches: int,
    kinds: Sequence[str] = KINDS,
) -> World:  # fmt: skip
    """Network, perturbations and everything else that all cells share."""
    n_cycle = n_genes // CYCLE
    network = draw_network(rng, n_factors, n_genes, n_cycle)
    singles = np.sort(rng.permutation(n_factors)[:n_singles])
    gates, pairs = choose_pairs(rng, network, singles, n_pairs, n_interacting)
    base = rng.normal(0, 0.9, n_genes) + np.log(min(2.0, 1200 / n_genes))
    # A factor that is hardly seen would make its own perturbation invisible.
    base[:n_factors] = np.log(4)
    batch = rng.normal(0, 0.1, (n_batches, n_genes))
    kinds = np.resize(kinds, n_singles)
    return World(
        genes=gene_names(n_factors, n_genes, n_cycle),
        network=network,
        gates=gates,
        cooperation=draw_gates(rng, len(gates), n_factors, n_genes, n_cycle),
        conditions=[(), *((f,) for f in singles.tolist()), *pairs],
        kind=dict(zip(singles.tolist(), rng.permutation(kinds).tolist(), strict=True)),
        amplitude=np.eye(4)[rng.permutation(np.arange(n_factors) % 4)][:, :3].T * rng.uniform(1, 1.5, n_factors),
        base=base,
        dispersion=rng.lognormal(np.log(4), 0.5, n_genes),
        nuisance=draw_nuisance(rng, n_genes, n_cycle),
        batch=batch - batch.mean(0),
    )


def gene_names(n_factors: int, n_genes: int, n_cycle: int) -> list[str]:
    """Factors first, genes of the cell cycle last."""
    parts = [("TF", 2, n_factors), ("G", 3, n_genes - n_factors - n_cycle), ("CYC", 2, n_cycle)]
    return [f"{stem}{i + 1:0{max(digits, len(str(n)))}d}" for stem, digits, n in parts for i in range(n)]


def draw_network(rng: Generator, n_factors: int, n_genes: int, n_cycle: int) -> np.ndarray:
    """Signed weights F × G: targets of every factor, and some edges from a factor to a later one."""
    network = np.zeros((n_factors, n_genes))
    for f in range(n_factors):
        targets = n_factors + rng.choice(n_genes - n_factors - n_cycle, TARGETS, replace=False)
        network[f, targets] = rng.uniform(0.4, 0.9, TARGETS) * rng.choice([1, -1], TARGETS, p=[0.6, 0.4])
        if f and rng.random() < 0.4:
            network[rng.integers(f), f] = rng.uniform(0.3, 0.6) * rng.choice([1, -1])
    return network


def choose_pairs(
    rng: Generator, network: np.ndarray, singles: np.ndarray, n_pairs: int, n_interacting: int
) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """The pairs that share a gate, and all that are perturbed together; the others are exactly additive in η.

    Raises UserError when the singles do not give that many.
    """
    n_factors = len(network)
    steps = np.eye(n_factors) + (network[:, :n_factors] != 0)
    reaches = np.linalg.matrix_power(steps, n_factors) > 0  # f acts on h, over any path
    possible = [pair for pair in combinations(singles.tolist(), 2) if not (reaches | reaches.T)[pair]]
    gates: list[tuple[int, int]] = []
    for k in rng.permutation(len(possible)):
        if len(gates) < n_interacting and not set(possible[k]) & {f for gate in gates for f in gate}:
            gates.append(possible[k])
    meet = np.zeros((n_factors, n_factors), bool)
    for p, q in gates:
        meet |= np.outer(reaches[:, p], reaches[:, q])
    additive = [pair for pair in possible if not (meet | meet.T)[pair]]
    n_additive = n_pairs - n_interacting
    for name, kind, found, asked in (
        ("n_interacting", "interacting", len(gates), n_interacting),
        ("n_pairs", "additive", len(additive), n_additive),
    ):
        if found < asked:
            raise UserError(
                f"data.simulate.{name}: {asked} {kind} pairs are asked for, "
                f"but data.simulate.n_singles={len(singles)} gives {found}"
            )
    chosen = [additive[k] for k in rng.permutation(len(additive))[:n_additive]]
    return gates, sorted(gates + chosen)


def draw_gates(rng: Generator, n_gates: int, n_factors: int, n_genes: int, n_cycle: int) -> np.ndarray:
    """Weights of the co-operating pairs on their targets, gates × G."""
    weights = np.zeros((n_gates, n_genes))
    for gate in weights:
        targets = n_factors + rng.choice(n_genes - n_factors - n_cycle, TARGETS, replace=False)
        gate[targets] = rng.uniform(2, 3.5, TARGETS) * rng.choice([1, -1], TARGETS)
    return weights


def draw_nuisance(rng: Generator, n_genes: int, n_cycle: int) -> np.ndarray:
    """Loadings 2 × G of the cell cycle: its genes peak in the middle of S or of G2M."""
    peak = np.pi * rng.choice([1.25, 1.75], n_cycle)
    loadings = np.zeros((2, n_genes))
    loadings[:, n_genes - n_cycle :] = rng.uniform(0.8, 1.5, n_cycle) * np.stack([np.cos(peak), np.sin(peak)])
    return loadings


def draw_states(rng: Generator, n_cells: int, n_factors: int, n_batches: int) -> States:
    """Cells before any perturbation; nothing here depends on the condition."""
    return States(
        pseudotime=rng.uniform(0, 1, n_cells),
        branch=rng.integers(1, 3, n_cells),
        angle=rng.uniform(0, 2 * np.pi, n_cells),
        batch=rng.integers(0, n_batches, n_cells),
        library=np.rint(rng.lognormal(np.log(5000), 0.35, n_cells)),
        noise=rng.normal(0, 0.3, (n_cells, n_factors)),
    )


def factor_activity(world: World, states: States, condition: np.ndarray) -> np.ndarray:
    """N × F, by the first equation above."""
    late = np.clip((states.pseudotime - FORK) / (1 - FORK), 0, 1)
    first, second = late * (states.branch == 1), late * (states.branch == 2)
    programme = np.stack([np.cos(np.pi * states.pseudotime), first - second / 2, second - first / 2], axis=1)
    activity = programme @ world.amplitude + states.noise
    for f in range(len(world.network)):
        activity[:, f] += activity[:, :f] @ world.network[:f, f]
        if f in world.kind:
            hit = np.array([f in members for members in world.conditions])[condition]
            # A knock-out takes the factor away whatever the cell made of it; the others act on what is there.
            kept = activity[hit, f] if world.kind[f] != "knock-out" else 0
            activity[hit, f] = kept + EFFECT[world.kind[f]]
    return activity


def log_rate(world: World, states: States, condition: np.ndarray) -> np.ndarray:
    """η, N × G: log of the expected counts per 10,000 counts of the cell."""
    activity = factor_activity(world, states, condition)
    regulated = world.network.copy()
    regulated[:, : len(regulated)] = np.eye(len(regulated))  # edges between factors are in the activities already
    cycle = np.stack([np.cos(states.angle), np.sin(states.angle)], axis=1)
    eta = world.base + activity @ regulated + cycle @ world.nuisance + world.batch[states.batch]
    for (p, q), weights in zip(world.gates, world.cooperation, strict=True):
        eta += np.outer(expit(2 * activity[:, p]) * expit(2 * activity[:, q]), weights)
    return eta


def draw_counts(rng: Generator, world: World, states: States, condition: np.ndarray) -> csr_matrix:
    """Negative binomial counts, N × G; dense only block by block."""
    blocks = []
    for start in range(0, len(condition), BLOCK):
        which = slice(start, start + BLOCK)
        block = states.part(which)
        mean = np.exp(log_rate(world, block, condition[which])) * block.library[:, None] / 1e4
        counts = rng.negative_binomial(world.dispersion, world.dispersion / (world.dispersion + mean))
        blocks.append(csr_matrix(counts, dtype=np.float32))
    return vstack(blocks, format="csr")
