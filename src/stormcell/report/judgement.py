"""Everything that a run says about its held-out cells, in plain arrays and tables.

`train.py` and `evaluate.py` fill one Judgement; the tables, figures and the report page are drawn from it alone.
Shapes: Q queries (one held-out condition in one context), G genes, K principal components.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from stormcell.evaluation.metrics import METRICS, distance_from_best

KEYS = ["condition", "context", "group"]  # columns that name a query; not from evaluation/panel.py, whose imports the
# drawing of a figure can go without


@dataclass(frozen=True)
class Judgement:
    """The held-out cells, what each method says about them, and how well.

    A shift is the mean of the perturbed cells minus the mean of control cells, in log1p(counts / library · 1e4).
    A method without an answer for a query has NaN in `predicted_shift` and no finite metric in `per_query`.

    Raises ValueError when the shapes disagree: the caller's bug, not the user's mistake.
    """

    model: str  # "cvae"
    methods: tuple[str, ...]  # rows of the model; the first is the one that the pictures show
    baselines: tuple[str, ...]  # rows that the model must beat; every other row of the scoreboard is a ceiling
    verdict: tuple[str, ...]  # sentences
    notes: tuple[str, ...]  # what must be told: collapse of the posterior, dropped cells
    scoreboard: pd.DataFrame  # columns group, method, n, <metric>, <metric>_low, <metric>_high
    per_query: pd.DataFrame  # columns method, condition, context, group, n_cells, <metric>
    reliability: pd.DataFrame  # columns condition, context, group, split_half_r, expected_exact and both _shared
    queries: pd.DataFrame  # Q rows: condition, context, group, n_cells
    genes: tuple[str, ...]
    true_shift: np.ndarray  # Q × G, against control cells that no method has seen
    predicted_shift: dict[str, np.ndarray]  # method or baseline -> Q × G, against the training control cells
    cells: dict[str, np.ndarray]  # "true", "predicted", "control": n × K; "true_query", "predicted_query": n rows of
    # `queries` (int), the query that a cell belongs to
    undefined: tuple[str, ...]  # metrics without a value and why: on the page, not on the screen
    shared: bool  # no control cells were kept aside: every correlation is against shared controls
    rescaled: pd.DataFrame = field(default_factory=pd.DataFrame)  # group, method, <metric>: 0 the better of no change
    # and training mean, 1 the ceiling
    per_method: pd.DataFrame = field(default_factory=pd.DataFrame)  # group, method, collapsed, spread, n_de_spearman
    interactions: pd.DataFrame = field(default_factory=pd.DataFrame)  # pairs: method, condition, context, group,
    # <score>_true, <score>_predicted
    calibration: pd.DataFrame = field(default_factory=pd.DataFrame)  # method, level, coverage (median over queries)

    def __post_init__(self):
        shape = len(self.queries), len(self.genes)
        for name, shift in {"true_shift": self.true_shift, **self.predicted_shift}.items():
            if shift.shape != shape:
                raise ValueError(
                    f"{name} has shape {shift.shape}, but {shape[0]} queries × {shape[1]} genes were judged"
                )
        for side in "true", "predicted":
            if len(self.cells[side]) != len(self.cells[f"{side}_query"]):
                raise ValueError(f"cells[{side!r}] and cells['{side}_query'] differ in length")

    @property
    def groups(self) -> list[str]:
        """Groups of queries in the order in which they were judged."""
        return list(self.queries["group"].unique())

    def name(self, query: int) -> str:
        """A query in words: its condition, and its context where there is more than one."""
        row = self.queries.iloc[query]
        return in_words(row["condition"], row["context"])

    def label(self, metric: str) -> str:
        """A metric in words; where no controls were kept aside, a shift correlation says so."""
        words = METRICS[metric].label
        return f"{words} (shared controls: flattering)" if self.flatters(metric) and "shared" not in metric else words

    def flatters(self, metric: str) -> bool:
        """Is it a correlation of shifts from the same control cells, whose noise is then on both sides?"""
        return metric.startswith("shift_correlation") and (self.shared or "shared" in metric)

    @property
    def caution(self) -> str:
        """What stands under a figure that shows a shift correlation; "" where controls were kept aside."""
        return " Shared controls: r is flattering." if self.shared else ""

    def values(self, method: str | None, metric: str) -> np.ndarray:
        """One metric of one method for each query: Q, NaN where there is none."""
        return self._aligned(self.per_query[self.per_query["method"] == method], metric)

    def expected_exact(self) -> np.ndarray:
        """Shift correlation that the exact mean is expected to score, for each query: Q."""
        return self._aligned(self.reliability, "expected_exact_shared" if self.shared else "expected_exact")

    def _aligned(self, table: pd.DataFrame, column: str) -> np.ndarray:
        if column not in table:
            return np.full(len(self.queries), np.nan)
        rows = pd.MultiIndex.from_frame(self.queries[KEYS])
        return table.set_index(KEYS)[column].reindex(rows).to_numpy(dtype=float)

    def best_baseline(self, group: str, metric: str, among: Container[str] | None = None) -> str | None:
        """The baseline of best median in a group, among those with a value for as many of its queries as any.

        `among` keeps the choice to some of them.
        """
        inside = (self.queries["group"] == group).to_numpy()
        names = [name for name in self.baselines if among is None or name in among]
        values = {name: self.values(name, metric)[inside] for name in names}
        counts = {name: int(np.isfinite(column).sum()) for name, column in values.items()}
        most = max(counts.values(), default=0)
        if most == 0:
            return None
        able = [name for name in names if counts[name] == most]
        return min(able, key=lambda name: distance_from_best(middle(values[name]), metric))


def in_words(condition: str, context: str) -> str:
    """A perturbation, and its context where there is more than one."""
    return condition if context == "all" else f"{condition} in {context}"


def middle(values: np.ndarray) -> float:
    """Median of the finite values, NaN where there is none."""
    finite = values[np.isfinite(values)]
    return float(np.median(finite)) if len(finite) else np.nan


def number(value: float) -> str:
    """Two decimals; two significant digits below 0.1, none after the point from 100: 0.94, 0.034, 1.3e-05, 342, -."""
    if not np.isfinite(value):
        return "-"
    if value == 0 or abs(value) >= 0.1:
        return f"{value:.0f}" if abs(value) >= 100 else f"{value + 0.0:.2f}"  # + 0.0: no "-0.00"
    return f"{value:#.2g}"
