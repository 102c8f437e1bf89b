"""Everything that a run says about the networks of its transitions, in plain tables.

The examination of the model fills one NetworkJudgement; tables, figures, exports and the report page are drawn from it
alone. Rows regulate columns: an edge goes from its regulator to its target.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pandas as pd

from stormcell.evaluation.network_metrics import CHANCE, NETWORK_METRICS
from stormcell.report.method_board import MethodBoard

if TYPE_CHECKING:
    from anndata import AnnData

FDR = 0.1  # an edge of at most this false-discovery rate is called confident
ARROW = " → "
REQUIRED = {
    "edges": ("transition", "regulator", "target", "weight"),
    "transitions": ("source", "target"),
}


@dataclass(frozen=True)
class NetworkJudgement(MethodBoard):
    """The network of every transition with its confidence, and how well it tells held-out cells and known edges.

    Raises ValueError when the parts do not fit together: the caller's bug, not the user's mistake.
    """

    known: ClassVar = NETWORK_METRICS
    chance: ClassVar = CHANCE
    aside: ClassVar = "what the cells allow, no rival"

    model: str  # "transition"
    methods: tuple[str, ...]  # rows of the model; the first is the one that the pictures show
    baselines: tuple[str, ...]  # rivals and nulls; every other row of the scoreboard is a ceiling
    verdict: tuple[str, ...]  # sentences
    notes: tuple[str, ...]  # what must be told: genes that are not there, a ridge that decides
    undefined: tuple[str, ...]  # metrics without a value and why: on the page, not on the screen
    scoreboard: pd.DataFrame  # group (a panel of NETWORK_METRICS), method, n, <metric>, <metric>_low, <metric>_high
    tables: dict[str, pd.DataFrame]  # NAME of tables/NAME.csv; needed:
    # edges: transition ("A>B"), regulator, target, weight (per standard deviation), where known weight_natural, low,
    #   high, se, sign_stability, fdr, marginal, exported_sign, disagrees (bool), prior_sign, in_mask
    # transitions: source, target, and what is known of each; known by name: differential (transition, regulator,
    #   target, deviation, low, high), regulators (transition, regulator, strength, signed_strength, n_targets,
    #   own_change, …), cofactors (transition, target, regulator_1, regulator_2, weight, low, high), genes (transition,
    #   gene, r2, variance)
    points: pd.DataFrame  # by cell name: x, y (two dimensions), cluster; where known pseudotime, part
    predicted: pd.DataFrame  # transition, gene, true, predicted: a sample of held-out barycentres, each as departure
    # from the mean of the target cluster in standard deviations of the gene
    adata: AnnData | None = None  # predictions.h5ad; var are the genes of the networks

    def __post_init__(self):
        for name, columns in REQUIRED.items():
            missing = [column for column in columns if column not in self.table(name)]
            if missing:
                raise ValueError(f"table {name!r} has no column {', '.join(missing)}")
        strangers = set(self.table("edges")["transition"].astype(str)) - set(self.transitions)
        if strangers:
            raise ValueError(f"edges of transitions that are not in the table of transitions: {sorted(strangers)}")
        self.check_board()

    @property
    def transitions(self) -> list[str]:
        """`A>B`, in the order of their table."""
        table = self.table("transitions")
        return [f"{source}>{target}" for source, target in zip(table["source"], table["target"], strict=True)]

    @property
    def confident(self) -> pd.Series:
        """Marks the edges of small false-discovery rate; none where no rate is known."""
        edges = self.table("edges")
        rate = edges["fdr"] if "fdr" in edges else pd.Series(np.nan, index=edges.index)
        return rate.astype(float) <= FDR


def arrow(transition: str) -> str:
    """`A>B` as it stands on figures: A → B."""
    return transition.replace(">", ARROW, 1)


def shown(transitions: list[str], score: pd.Series, most: int) -> list[str]:
    """At most so many transitions, those of largest score, in their own order; a score that is missing is smallest."""
    ranked = sorted(transitions, key=lambda name: -np.nan_to_num(float(score.get(name, 0))))
    return [name for name in transitions if name in ranked[:most]]
