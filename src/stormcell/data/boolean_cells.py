"""Cells of a curated gene network whose truth is known, taken in snapshots: no cell is seen twice.

dx = (m f(p) − ℓx x) dt + c √x · N(0, dt)     mRNA; f is the probability that the gene's rule holds
dp = (r x − ℓp p) dt + c √p · N(0, dt)        protein; a gene is on with probability pⁿ / (kⁿ + pⁿ)

N(0, dt) has standard deviation dt, as in the programme of the benchmark. Every cell of every snapshot starts anew from
`network.start`. A cell has gone down a branch once the proteins of its markers are well on or off, and stays in it.

An edge is switched off in one of two arms, of which each has half the cells of every snapshot; the arms differ in this
edge alone, from the common start on. Switched off in one of the network's own branches it could not be seen: these part
when the regulators have settled, and a regulator that no longer varies says nothing of its targets. It is for tests,
not for claims.

Shapes: N cells, G genes, T snapshots. Rows regulate columns.
Source: Pratapa et al. 2020 (BEELINE), equations and constants; networks and their sources in boolean.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.random import Generator
from scipy.sparse import csr_matrix

from stormcell.config import UserError, nearest
from stormcell.data.boolean import NETWORKS, BooleanNetwork, Decision

TRANSCRIPTION, DECAY = 20.0, 10.0  # m, ℓx: mRNA settles at 2
TRANSLATION, PROTEIN_DECAY = 10.0, 1.0  # r, ℓp: protein settles at 20
THRESHOLD = 10.0  # k; n = 10 is written out in _advance
NOISE, DT = 10.0, 0.01
ON, OFF = 15.0, 5.0  # proteins of the markers of a branch
UNDECIDED = "progenitor"


@dataclass
class BooleanCells:
    """matrix N × G (float32 mRNA: positive and continuous, not counts), one row of `obs` per cell, gene names, `truth`:

    network       G × G int8, rows regulate columns, self-regulation on the diagonal
    switched_off  "A>B", off in the cells whose arm is `rewired`, or None
    later         N × G table by cell name: the same cell one step later, which no experiment sees: the oracle's pairs
    """

    matrix: csr_matrix
    obs: pd.DataFrame
    genes: list[str]
    truth: dict


def simulate_boolean(
    network: str = "hsc",
    n_cells: int = 400,
    n_snapshots: int | None = None,
    step: float = 0.5,
    switched_off: str | None = None,
    knock_out: Sequence[str] = (),
    dropout: float = 0.0,
    seed: int = 1,
) -> BooleanCells:
    """`n_cells` cells in each of `n_snapshots` snapshots, `step` time units apart, the first after one step; by default
    until the network has settled. Equal for an equal seed.

    `switched_off` "A>B" is an edge that half the cells lack: its target reads the regulator as off. Genes of
    `knock_out` are never transcribed. `dropout` q sets a value below its gene's q-quantile to zero with probability q.
    """
    model = _network(network)
    if n_snapshots is None:
        n_snapshots = round(model.duration / step) if isinstance(step, float | int) and step > 0 else 1
    _check(n_cells, n_snapshots, step, dropout, seed)
    if switched_off is not None and n_cells < 2:
        raise UserError(f"data.simulate.n_cells={n_cells}: two arms (data.simulate.switched_off) need two cells")
    if isinstance(knock_out, str):
        raise UserError(f"data.simulate.knock_out={knock_out} must be a list, such as [{knock_out}]")
    for gene in knock_out:
        if gene not in model.rules:
            raise UserError(
                f"data.simulate.knock_out: {gene!r} is no gene of the network {model.name}"
                f"{nearest(gene, model.genes)}; genes are {', '.join(model.genes)}"
            )
    dynamics, dropouts = (np.random.default_rng(child) for child in np.random.SeedSequence(seed).spawn(2))
    course = Course(model, knock_out, n_cells, n_snapshots, switched_off)
    seen, later, branch = course.run(round(step / DT), dynamics)
    obs = _describe(model, n_cells, n_snapshots, step, branch, course.rewired)
    following = pd.DataFrame(later, index=obs.index, columns=model.genes)
    truth = {"network": model.signed, "switched_off": switched_off, "later": following}
    return BooleanCells(csr_matrix(_dropped(seen, dropout, dropouts)), obs, model.genes, truth)


class Course:
    """All cells of all snapshots at once, in the order of their snapshots."""

    def __init__(
        self,
        network: BooleanNetwork,
        knock_out: Sequence[str],
        n_cells: int,
        n_snapshots: int,
        switched_off: str | None,
    ):
        self.n_cells, self.n_snapshots = n_cells, n_snapshots
        self.rules = [Decision(()) if gene in knock_out else network.decision(gene) for gene in network.genes]
        self.rewired: np.ndarray | None = None  # N bool
        if switched_off is not None:
            regulator, target = network.edge(switched_off)
            self.target, self.without = network.genes.index(target), network.decision(target, without=regulator)
            self.rewired = np.tile(np.arange(n_cells) >= n_cells // 2, n_snapshots)
        self.markers = [
            ([network.genes.index(gene) for gene in sides], np.array(list(sides.values()))[:, None])
            for sides in network.branches.values()
        ]
        start = np.array([0.0 if gene in knock_out else network.start.get(gene, 0.0) for gene in network.genes])
        self.protein = np.repeat(start.astype(np.float32)[:, None], n_cells * n_snapshots, axis=1)  # G × N
        self.mrna = (self.protein > 0) * np.float32(TRANSCRIPTION / DECAY)
        self.branch = np.full(n_cells * n_snapshots, -1)

    def run(self, steps: int, rng: Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """mRNA at the snapshot N × G, one snapshot later N × G, branch at the snapshot N (−1 undecided)."""
        seen, later, branch = np.empty_like(self.mrna), np.empty_like(self.mrna), self.branch.copy()
        for moment in range(self.n_snapshots + 1):
            for _ in range(steps):
                self._advance(rng)
                self._decide()
            now = slice(moment * self.n_cells, (moment + 1) * self.n_cells)
            before = slice(max(moment - 1, 0) * self.n_cells, moment * self.n_cells)
            seen[:, now], branch[now], later[:, before] = self.mrna[:, now], self.branch[now], self.mrna[:, before]
        return seen.T, later.T, branch

    def _advance(self, rng: Generator) -> None:
        """One step of Euler and Maruyama."""
        mrna, protein = self.mrna, self.protein
        power = (protein / np.float32(THRESHOLD)) ** 2
        power *= (power * power) ** 2  # n = 10: few products, where a power takes longer than all the rest
        on = power / (1 + power)
        expressed = np.stack([np.broadcast_to(rule.probability(on), mrna.shape[1]) for rule in self.rules])
        if self.rewired is not None:
            expressed[self.target] = np.where(self.rewired, self.without.probability(on), expressed[self.target])
        noise = rng.standard_normal((2, *mrna.shape), dtype=np.float32) * np.float32(NOISE * DT)
        made = DT * (TRANSLATION * mrna - PROTEIN_DECAY * protein) + noise[1] * np.sqrt(protein)
        mrna += DT * (TRANSCRIPTION * expressed - DECAY * mrna) + noise[0] * np.sqrt(mrna)
        protein += made
        for level in (mrna, protein):
            np.maximum(level, 0, out=level)

    def _decide(self) -> None:
        """Undecided cells that show the markers of a branch go down it."""
        undecided = self.branch < 0
        for number, (genes, on) in enumerate(self.markers):
            shown = np.where(on, self.protein[genes] > ON, self.protein[genes] < OFF)
            self.branch[undecided & shown.all(0)] = number


def _network(name: str) -> BooleanNetwork:
    if str(name).lower() not in NETWORKS:
        names = ", ".join(NETWORKS)
        raise UserError(f"data.simulate.network={name}: no such network{nearest(name, NETWORKS)}; networks are {names}")
    return NETWORKS[str(name).lower()]


def _check(n_cells: int, n_snapshots: int, step: float, dropout: float, seed: int) -> None:
    for name, value, least in (("n_cells", n_cells, 1), ("n_snapshots", n_snapshots, 1), ("seed", seed, 0)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise UserError(f"data.simulate.{name}={value!r} must be a whole number of at least {least}")
    if isinstance(step, bool) or not isinstance(step, float | int) or not DT <= step < np.inf:
        raise UserError(f"data.simulate.step={step!r} must be a number of time units, at least {DT}")
    if isinstance(dropout, bool) or not isinstance(dropout, float | int) or not 0 <= dropout <= 1:
        raise UserError(f"data.simulate.dropout={dropout!r} must be a number between 0 and 1")


def _describe(
    network: BooleanNetwork, n_cells: int, n_snapshots: int, step: float, branch: np.ndarray, rewired: np.ndarray | None
) -> pd.DataFrame:
    """The obs table: a cluster is a snapshot, within the arm where there are two, else within the branch."""
    number = np.repeat(np.arange(1, n_snapshots + 1), n_cells)
    digits, width = max(len(str(n_snapshots)), 2), len(str(n_cells))
    snapshot = np.array([f"t{n:0{digits}d}" for n in number])
    branches = np.array([*network.branches, UNDECIDED])[branch]
    columns = {
        "time": number * step,
        "pseudotime": number / n_snapshots,
        "snapshot": snapshot,
        "branch": branches,
        "cluster": np.where(branch < 0, snapshot, np.char.add(np.char.add(branches, "_"), snapshot)),
    }
    if rewired is not None:
        columns["arm"] = np.where(rewired, "rewired", "intact")
        columns["cluster"] = np.char.add(np.char.add(columns["arm"], "_"), snapshot)
    return pd.DataFrame(columns, index=[f"{when}_cell{i % n_cells + 1:0{width}d}" for i, when in enumerate(snapshot)])


def _dropped(expression: np.ndarray, share: float, rng: Generator) -> np.ndarray:
    """N × G → N × G."""
    if share == 0:
        return expression
    low = expression < np.quantile(expression, share, axis=0)
    return np.where(low & (rng.random(expression.shape) < share), 0, expression).astype(np.float32)
