"""The scoreboard: medians with intervals for each group and method, and the same between floor and ceiling.

Groups of queries (pairs with both singles seen, ...) are never pooled.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from stormcell.evaluation.ceiling import EXACT, SPLIT_HALF
from stormcell.evaluation.intervals import bootstrap_ci
from stormcell.evaluation.metrics import METRICS, distance_from_best

FLOORS = ["no change", "training mean"]


def summarise(per_query: pd.DataFrame, ceilings: pd.DataFrame, seed: int) -> pd.DataFrame:
    """One row per group and method, in the order given to `score`, then the two ceilings of the group.

    Columns: group, method, n (queries that it answered), and for each metric the median over those queries, with
    <metric>_low and <metric>_high, its 95 % bootstrap interval over queries (nan for a single one). Metrics that no
    query asks for (interactions without pairs, covariates without contexts) have no column.
    """
    names = [name for name, metric in METRICS.items() if not metric.optional or per_query[name].notna().any()]
    rows = []
    for group in per_query["group"].unique():
        for table in per_query, ceilings:
            for method, answers in table[table["group"] == group].groupby("method", sort=False):
                row = {"group": group, "method": method, "n": int(answers["answered"].sum())}
                for name in names:
                    low, high = bootstrap_ci(answers[name].to_numpy(), np.median, seed=seed)
                    row |= {name: median(answers[name]), f"{name}_low": low, f"{name}_high": high}
                rows.append(row)
    return pd.DataFrame(rows)


def median(values: pd.Series) -> float:
    """Median of the defined values; nan where there is none (pandas' own warns)."""
    return float(np.median(values.dropna())) if values.notna().any() else np.nan


def rescaled(scoreboard: pd.DataFrame) -> pd.DataFrame:
    """Every metric of every row between 0 = floor and 1 = ceiling of its group: group, method, n, <metric>.

    (d_floor − d) / (d_floor − d_ceiling), d the distance from the best value. Floor: the better of "no change" and
    "training mean". Ceiling: "exact mean (expected)" where it has a value, else the split halves of the real cells. Of
    metrics that are best when high, an answer without a value (the correlation of a constant) counts as 0.
    Wasserstein distances are left out: they grow as cells get fewer, and halves are half as many.
    nan where the floor is not worse than the ceiling, which `without_room` tells, and where a side has no value.
    """
    found = scoreboard[["group", "method", "n"]].copy()
    for name in _named(scoreboard):
        found[name] = np.nan
        for _, rows in scoreboard.groupby("group", sort=False):
            floor, ceiling, values = _ends(rows, name)
            if floor > ceiling:
                inside = (floor - values) / (floor - ceiling)
                found.loc[rows.index, name] = np.where(np.isfinite(inside), inside, np.nan)
    return found


def without_room(scoreboard: pd.DataFrame) -> list[str]:
    """Sentences that say which metrics cannot be rescaled, since a floor already reaches what the cells allow."""
    sentences = []
    for group, rows in scoreboard.groupby("group", sort=False):
        ends = {METRICS[name].label: _ends(rows, name)[:2] for name in _named(scoreboard)}
        known = {label: pair for label, pair in ends.items() if np.isfinite(pair).all()}
        labels = [label for label, (floor, ceiling) in known.items() if floor <= ceiling]
        if labels:
            sentences.append(
                f"{group}: {' or '.join(FLOORS)} reaches what the real cells allow on {', '.join(labels)}, "
                "so these have no rescaled value."
            )
    return sentences


def _named(scoreboard: pd.DataFrame) -> list[str]:
    return [name for name in METRICS if name in scoreboard and not name.endswith("wasserstein")]


def _ends(rows: pd.DataFrame, name: str) -> tuple[float, float, np.ndarray]:
    """Distances from the best value of a metric within one group: floor, ceiling, every row."""
    ceilings = rows.set_index("method")[name].reindex([EXACT, SPLIT_HALF]).dropna()
    values = rows[name]
    if METRICS[name].direction == "higher":
        values = values.mask(values.isna() & (rows["n"] > 0) & ~rows["method"].isin([EXACT, SPLIT_HALF]), 0.0)
    distances = distance_from_best(values, name)
    floor = distances[rows["method"].isin(FLOORS)].min(initial=np.inf)
    ceiling = distance_from_best(ceilings.iloc[0], name) if len(ceilings) else np.inf
    return float(floor), float(ceiling), distances
