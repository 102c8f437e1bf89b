"""Four curated gene networks with Boolean rules: what turns each gene on, who regulates whom, and where it settles.

A rule is a formula of genes with and, or, not. An input that stands in it without `not` activates the target, one under
`not` represses it, whether or not the truth table needs it (WT1mKTS in AMH): that is how the networks are published.

For a gene whose inputs are on with independent probabilities, the probability that its rule holds is the sum over the
true rows of the truth table of Π h_i Π (1 − h_i). Its decision diagram gives the same number with a few products: at
each node low + h (high − low).

Shapes: G genes, K states. Rows regulate columns.
Sources: mCAD Giacomantonio & Goodhill 2010; VSC Lovrics et al. 2014; HSC Krumsiek et al. 2011; GSD Rios et al. 2015; as
a benchmark of network inference Pratapa et al. 2020; decision diagrams Bryant 1986.
The rules of VSC are as the benchmark has them. Its HSC differs from the paper, and from ours, in one rule: Cebpa goes
off with Scl alone, or with Gata1 and Fog1. Its edge list of mCAD has Coup>Emx2 and Sp8>Pax6 as repression, where its
rules, and ours, activate.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from functools import cached_property
from itertools import product

import numpy as np

from stormcell.config import UserError, nearest


@dataclass(frozen=True)
class Decision:
    """A rule as a decision diagram: the value of the last node, or a constant where there is none."""

    nodes: tuple[tuple[int, int, int], ...]  # (gene, low, high); low and high: 0 false, 1 true, 2 + i the i-th node
    constant: bool = False

    def probability(self, on: np.ndarray) -> np.ndarray | float:
        """Probability that the rule holds, for inputs on with these probabilities: G × K → K."""
        if not self.nodes:
            return float(self.constant)
        values: list = [0.0, 1.0]
        for gene, low, high in self.nodes:
            # A constant branch saves a product; this is the inner loop of a simulation.
            if (low, high) == (0, 1):
                values.append(on[gene])
            elif (low, high) == (1, 0):
                values.append(1 - on[gene])
            elif low == 0:
                values.append(on[gene] * values[high])
            else:
                values.append(values[low] + on[gene] * (values[high] - values[low]))
        return values[-1]


@dataclass(frozen=True)
class BooleanNetwork:
    """Rules by gene, the genes that are on at the start, and the markers that tell the branches apart."""

    name: str
    rules: dict[str, str]
    start: dict[str, float]  # gene → protein at the start; mRNA is settled; a gene that is on settles at 20, k is 10
    duration: float  # time units after which the cells have settled
    branches: dict[str, dict[str, bool]]  # branch → marker gene → on or off

    @cached_property
    def genes(self) -> list[str]:
        return list(self.rules)

    @cached_property
    def signed(self) -> np.ndarray:
        """G × G int8: +1 activates, −1 represses; self-regulation on the diagonal."""
        signs = np.zeros((len(self.genes), len(self.genes)), np.int8)
        for target, rule in self.rules.items():
            for regulator, sign in _inputs(rule).items():
                signs[self.genes.index(regulator), self.genes.index(target)] = sign
        return signs

    def next(self, states: np.ndarray) -> np.ndarray:
        """Every rule applied once, all genes at the same time: K × G bool → K × G bool."""
        on = {gene: states[:, i] for i, gene in enumerate(self.genes)}
        return np.stack([np.broadcast_to(_holds(rule, on), len(states)) for rule in self.rules.values()], axis=1)

    def steady_states(self) -> np.ndarray:
        """All states that every rule leaves as they are: K × G bool, by enumeration."""
        numbers = np.arange(2 ** len(self.genes))
        kept = np.ones(len(numbers), bool)
        on = {gene: (numbers >> i & 1).astype(bool) for i, gene in enumerate(self.genes)}
        for gene, rule in self.rules.items():
            kept &= _holds(rule, on) == on[gene]
        return np.stack([on[gene][kept] for gene in self.genes], axis=1)

    def decision(self, target: str, without: str | None = None) -> Decision:
        """The rule of a gene as a decision diagram; `without` is an input that is read as off."""
        rule = self.rules[target]
        inputs = [gene for gene in _inputs(rule) if gene != without]
        rows = np.array(list(product([False, True], repeat=len(inputs)))).reshape(2 ** len(inputs), len(inputs))
        on = {gene: rows[:, i] for i, gene in enumerate(inputs)} | {without: np.zeros(len(rows), bool)}
        table = np.broadcast_to(_holds(rule, on), len(rows))
        return _diagram(table, [self.genes.index(gene) for gene in inputs])

    def edge(self, words: str) -> tuple[str, str]:
        """(regulator, target) of "A>B"; UserError where the network has no such edge."""
        edges = [f"{self.genes[i]}>{self.genes[j]}" for i, j in np.argwhere(self.signed)]
        folded = "".join(words.split())
        if folded not in edges:
            raise UserError(
                f"data.simulate.switched_off={words}: the network {self.name} has no such edge"
                f"{nearest(folded, edges)}; an edge reads REGULATOR>TARGET, such as {edges[0]}"
            )
        return tuple(folded.split(">"))


def _inputs(rule: str) -> dict[str, int]:
    """Gene → +1 or −1, in the order of the rule."""
    signs: dict[str, int] = {}

    def walk(node: ast.expr, sign: int) -> None:
        if isinstance(node, ast.Name):
            if signs.setdefault(node.id, sign) != sign:
                raise ValueError(f"{node.id} both activates and represses in the rule {rule!r}")
            return
        negated = isinstance(node, ast.UnaryOp)
        for part in [node.operand] if negated else node.values:
            walk(part, -sign if negated else sign)

    walk(ast.parse(rule, mode="eval").body, 1)
    return signs


def _holds(rule: str, on: dict[str, np.ndarray]) -> np.ndarray:
    """Where the rule holds, for K states of its inputs."""

    def value(node: ast.expr) -> np.ndarray:
        if isinstance(node, ast.Name):
            return on[node.id]
        if isinstance(node, ast.UnaryOp):
            return ~value(node.operand)
        join = np.logical_and if isinstance(node.op, ast.And) else np.logical_or
        return join.reduce([value(part) for part in node.values])

    return value(ast.parse(rule, mode="eval").body)


def _diagram(table: np.ndarray, genes: list[int]) -> Decision:
    """Reduced decision diagram of a truth table of 2^n rows whose first input changes slowest."""
    nodes: list[tuple[int, int, int]] = []
    known: dict[bytes, int] = {}

    def node(rows: np.ndarray, depth: int) -> int:
        if rows.all() or not rows.any():
            return int(rows[0])
        key = bytes([depth]) + rows.tobytes()
        if key not in known:
            low, high = (node(half, depth + 1) for half in np.split(rows, 2))
            if low == high:
                return low
            nodes.append((genes[depth], low, high))
            known[key] = len(nodes) + 1
        return known[key]

    top = node(np.ascontiguousarray(table), 0)
    return Decision(tuple(nodes), bool(top == 1))


NETWORKS = {
    network.name: network
    for network in (
        BooleanNetwork(
            "mcad",  # area patterning of the mammalian cortex, from anterior to posterior
            {
                "Fgf8": "Fgf8 and Sp8 and not Emx2",
                "Emx2": "Coup and not (Fgf8 or Pax6 or Sp8)",
                "Pax6": "Sp8 and not (Emx2 or Coup)",
                "Coup": "not (Fgf8 or Sp8)",
                "Sp8": "Fgf8 and not Emx2",
            },
            start=dict.fromkeys(("Fgf8", "Emx2", "Pax6", "Coup", "Sp8"), 20.0),
            duration=5.0,
            branches={"anterior": {"Fgf8": True, "Coup": False}, "posterior": {"Coup": True, "Fgf8": False}},
        ),
        BooleanNetwork(
            "vsc",  # progenitor domains of the ventral spinal cord; nothing but repression
            {
                "Dbx1": "not (Nkx61 or Nkx62)",
                "Dbx2": "not (Nkx61 or Olig2 or Nkx22)",
                "Irx3": "not (Olig2 or Nkx22)",
                "Nkx22": "not (Pax6 or Dbx2)",
                "Nkx61": "not Dbx2",
                "Nkx62": "not (Nkx61 or Dbx1)",
                "Olig2": "not (Nkx22 or Irx3)",
                "Pax6": "not Nkx22",
            },
            start={},
            duration=5.0,
            branches={
                "p3": {"Nkx22": True, "Pax6": False},
                "pMN": {"Olig2": True, "Irx3": False},
                "p2": {"Irx3": True, "Nkx61": True, "Dbx2": False},
                "p1": {"Irx3": True, "Nkx62": True, "Nkx61": False},
                "p0": {"Irx3": True, "Dbx1": True, "Nkx61": False},
            },
        ),
        BooleanNetwork(
            "hsc",  # myeloid differentiation of a haematopoietic progenitor
            {
                "Gata2": "Gata2 and not (Gata1 and Fog1) and not Pu1",
                "Gata1": "(Gata1 or Gata2 or Fli1) and not Pu1",
                "Fog1": "Gata1",
                "EKLF": "Gata1 and not Fli1",
                "Fli1": "Gata1 and not EKLF",
                "Scl": "Gata1 and not Pu1",
                "Cebpa": "Cebpa and not (Gata1 and Fog1 and Scl)",
                "Pu1": "(Cebpa or Pu1) and not (Gata1 or Gata2)",
                "cJun": "Pu1 and not Gfi1",
                "EgrNab": "Pu1 and cJun and not Gfi1",
                "Gfi1": "Cebpa and not EgrNab",
            },
            start=dict.fromkeys(("Gata2", "Cebpa", "Pu1"), 12.0),  # from 20 no cell becomes a monocyte
            duration=8.0,
            branches={
                "erythroid": {"Gata1": True, "EKLF": True, "Fli1": False},
                "megakaryocyte": {"Gata1": True, "Fli1": True, "EKLF": False},
                "monocyte": {"Pu1": True, "EgrNab": True, "Gfi1": False, "Gata2": False},
                "granulocyte": {"Pu1": True, "Gfi1": True, "EgrNab": False, "Gata2": False},
                "exhausted": {"Gata2": False, "Gata1": False, "Pu1": False, "Cebpa": False},
            },
        ),
        BooleanNetwork(
            "gsd",  # gonadal sex determination
            {
                "AMH": "((SOX9 and GATA4 and NR5A1) or (SOX9 and NR5A1 and GATA4 and WT1mKTS))"
                " and not (NR0B1 and CTNNB1)",
                "NR0B1": "(WT1mKTS or (WNT4 and CTNNB1)) and not (NR5A1 and SOX9)",
                "DMRT1": "(SRY or SOX9) and not FOXL2",
                "NR5A1": "(UGR or CBX2 or WT1mKTS or GATA4) and not (NR0B1 and WNT4)",
                "FGF9": "SOX9 and not WNT4",
                "RSPO1": "(WNT4 or CTNNB1) and not DKK1",
                "DHH": "SOX9",
                "WT1pKTS": "(UGR or GATA4) and not (WNT4 and CTNNB1)",
                "CTNNB1": "(WNT4 or RSPO1) and not (SRY or (SOX9 and AMH))",
                "FOXL2": "(WNT4 and CTNNB1) and not (DMRT1 or SOX9)",
                "PGD2": "SOX9",
                "UGR": "UGR and not (NR5A1 or WNT4)",
                "WT1mKTS": "UGR or GATA4",
                "SRY": "((NR5A1 and WT1mKTS and CBX2) or (GATA4 and WT1pKTS and CBX2 and NR5A1) or SOX9 or SRY)"
                " and not CTNNB1",
                "CBX2": "UGR and not (NR0B1 and WNT4 and CTNNB1)",
                "DKK1": "SRY or SOX9",
                "SOX9": "((SOX9 and FGF9) or SRY or PGD2 or (SRY and CBX2) or (GATA4 and NR5A1 and SRY))"
                " and not (WNT4 or CTNNB1 or FOXL2)",
                "GATA4": "UGR or WNT4 or NR5A1 or SRY",
                "WNT4": "(GATA4 or CTNNB1 or RSPO1 or NR0B1) and not (FGF9 or DKK1)",
            },
            start={"UGR": 20.0},
            duration=8.0,
            branches={
                "sertoli": {"SOX9": True, "FOXL2": False, "WNT4": False},
                "granulosa": {"FOXL2": True, "WNT4": True, "SOX9": False},
            },
        ),
    )
}
