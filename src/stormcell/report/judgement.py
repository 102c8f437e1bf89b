"""Everything that a run says about its held-out cells, in plain arrays and tables.

`train.py` and `evaluate.py` fill one Judgement; the tables, figures and the report page are drawn from it alone.
Shapes: Q queries (one held-out condition in one context), G genes, K principal components.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from stormcell.evaluation.scoreboard import KEYS, METRICS


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
    predicted_shift: dict[str, np.ndarray]  # method -> Q × G, against the training control cells
    cells: dict[str, np.ndarray]  # "true", "predicted", "control": n × K; "true_query", "predicted_query": n rows of
    # `queries` (int), the query that a cell belongs to
    undefined: tuple[str, ...]  # metrics without a value and why: on the page, not on the screen
    shared: bool  # no control cells were kept aside: every correlation is against shared controls

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
        return row["condition"] if row["context"] == "all" else f"{row['condition']} in {row['context']}"

    def label(self, metric: str) -> str:
        """A metric in words; where no controls were kept aside, the shift correlation says so."""
        words = METRICS[metric].label
        return f"{words} (shared controls: flattering)" if self.shared and metric == "shift_correlation" else words

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

    def best_baseline(self, group: str, metric: str) -> str | None:
        """The baseline of best median in a group, among those with a value for as many of its queries as any."""
        inside = (self.queries["group"] == group).to_numpy()
        values = {name: self.values(name, metric)[inside] for name in self.baselines}
        counts = {name: int(np.isfinite(column).sum()) for name, column in values.items()}
        most = max(counts.values(), default=0)
        if most == 0:
            return None
        able = [name for name in self.baselines if counts[name] == most]
        return min(able, key=lambda name: distance_from_best(np.nanmedian(values[name]), metric))


def distance_from_best(value: np.ndarray | float, metric: str) -> np.ndarray:
    """How far values of a metric are from its best: smaller is better, +inf for what is undefined.

    Of a ratio, 1/2 and 2 are equally far from 1.
    """
    value = np.asarray(value, dtype=float)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.abs(np.log(np.maximum(value, 0)))
    distance = {"higher": -value, "lower": value, "one": ratio}[METRICS[metric].direction]
    return np.where(np.isnan(distance), np.inf, distance)


def number(value: float) -> str:
    """Two decimals; two significant digits below 0.1, none after the point from 100: 0.94, 0.034, 1.3e-05, 342, -."""
    if not np.isfinite(value):
        return "-"
    if value == 0 or abs(value) >= 0.1:
        return f"{value:.0f}" if abs(value) >= 100 else f"{value + 0.0:.2f}"  # + 0.0: no "-0.00"
    return f"{value:#.2g}"
