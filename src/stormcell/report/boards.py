"""The tables of the page as plain dicts: the scoreboard, the same by panels of metrics, rescaled, by perturbation."""

from __future__ import annotations

import numpy as np
import pandas as pd

from stormcell.evaluation.metrics import METRICS
from stormcell.report.judgement import Judgement, in_words, number
from stormcell.report.tables import SHARED, best_in_group

AIMS = {"higher": "higher is better", "lower": "lower is better", "target": "{best:g} is best"}
CORE = (
    "shift_correlation", SHARED, "shift_correlation_mean", "pds", "jaccard_50", "energy_distance", "variance_ratio",
)  # fmt: skip
PER_PERTURBATION = ("shift_correlation", "shift_correlation_mean", "pds", "energy_distance")


def metrics(judgement: Judgement) -> list[dict]:
    """Every metric of the scoreboard in words, in its order; those against shared controls are marked."""
    shown = [name for name in METRICS if name in judgement.scoreboard]
    if judgement.shared:
        shown = [name for name in shown if not name.startswith(SHARED)]  # then all are against shared controls
    return [
        {
            "name": name,
            "label": judgement.label(name),
            "meaning": METRICS[name].meaning,
            "panel": METRICS[name].panel,
            "aim": AIMS[METRICS[name].direction].format(best=METRICS[name].best),
            "flattering": judgement.flatters(name),
        }
        for name in shown
    ]


def core(judgement: Judgement) -> dict:
    """The scoreboard that stands open: every method, also one without an answer, on the core metrics."""
    known = {metric["name"]: metric for metric in metrics(judgement)}
    columns = [known[name] for name in CORE if name in known]
    return {"metrics": columns, "groups": [_group(judgement, name, columns) for name in judgement.groups]}


def panels(judgement: Judgement) -> list[dict]:
    """One scoreboard for each panel of metrics, of the methods that have a value on it."""
    known = metrics(judgement)
    found = []
    for title in dict.fromkeys(metric["panel"] for metric in known):
        columns = [metric for metric in known if metric["panel"] == title]
        groups = [_group(judgement, name, columns) for name in judgement.groups]
        for group in groups:
            group["rows"] = [row for row in group["rows"] if any(cell["value"] != "-" for cell in row["cells"])]
        found.append({"title": title, "metrics": columns, "groups": [group for group in groups if group["rows"]]})
    return [panel for panel in found if panel["groups"]]


def rescaled(judgement: Judgement) -> dict | None:
    """Every metric that has a rescaled value, without the rows of the real cells; None where there is none."""
    table = judgement.rescaled
    if table.empty:
        return None
    names = [name for name in METRICS if name in table and table[name].notna().any()]
    columns = [metric for metric in metrics(judgement) if metric["name"] in names]
    names = [metric["name"] for metric in columns]
    groups = []
    for group in judgement.groups:
        rows = table[(table["group"] == group) & table["method"].isin([*judgement.methods, *judgement.baselines])]
        rows = rows[rows[names].notna().any(axis=1)]
        cells = [[_share(value) for value in row] for row in rows[names].to_numpy(float)]
        rows = [
            {"method": method, "kind": _kind(judgement, method), "cells": row}
            for method, row in zip(rows["method"], cells, strict=True)
        ]
        groups.append({"name": group, "n": (judgement.queries["group"] == group).sum(), "rows": rows})
    groups = [group for group in groups if group["rows"]]
    return {"metrics": columns, "groups": groups} if groups else None


def interactions(judgement: Judgement) -> dict | None:
    """True and predicted interaction scores of every pair, by the model's rows; None without pairs."""
    table = judgement.interactions
    if table.empty or not table["method"].isin(judgement.methods).any():
        return None
    table = table[table["method"].isin(judgement.methods)]
    scores = [name.removesuffix("_true") for name in table if name.endswith("_true")]
    rows = [
        {
            "name": in_words(row["condition"], row["context"]),
            "method": row["method"],
            "cells": [number(row[f"{score}_{side}"]) for score in scores for side in ("true", "predicted")],
        }
        for row in table.to_dict("records")
    ]
    return {"scores": [score.replace("_", " ") for score in scores], "rows": rows}


def per_perturbation(judgement: Judgement) -> dict:
    """One row per query: reliability of its cells, then each metric for the model's rows and the best baseline."""
    names = [name for name in PER_PERTURBATION if name in judgement.per_query]
    rivals = {(group, name): judgement.best_baseline(group, name) for group in judgement.groups for name in names}
    values = {
        (method, name): judgement.values(method, name)
        for name in names
        for method in {*judgement.methods, *(rivals[group, name] for group in judgement.groups)}
    }
    exact = judgement.expected_exact()
    rows = []
    for query, row in enumerate(judgement.queries.to_dict("records")):
        cells = [number(exact[query])]
        for name in names:
            cells += [
                number(values[method, name][query]) for method in (*judgement.methods, rivals[row["group"], name])
            ]
        rows.append({"name": judgement.name(query), "group": row["group"], "n_cells": row["n_cells"], "cells": cells})
    heads = [(judgement.label(name), [*judgement.methods, "best baseline"]) for name in names]
    return {"heads": heads, "rows": rows}


def _group(judgement: Judgement, group: str, columns: list[dict]) -> dict:
    """The scoreboard of one group: rows of the model, baselines, then what the real cells allow."""
    rows = judgement.scoreboard[judgement.scoreboard["group"] == group]
    names = [metric["name"] for metric in columns]
    best = {name: best_in_group(judgement, group, name) for name in names}
    table = []
    for index, row in rows.iterrows():
        cells = [_cell(row[name], best[name][index], interval(row, name)) for name in names]
        kind = _kind(judgement, row["method"])
        table.append({"method": row["method"], "kind": kind, "n": row["n"], "cells": cells})
    return {"name": group, "n": rows["n"].max(), "rows": table}


def _kind(judgement: Judgement, method: str) -> str:
    if method in judgement.methods:
        return "model"
    return "baseline" if method in judgement.baselines else "ceiling"


def _cell(value: float, best: bool, interval: str) -> dict:
    return {"value": number(value), "best": best, "interval": interval}


def _share(value: float) -> dict:
    """A rescaled value: of the way from 0 to 1 more than two decimals say nothing, and rounding noise at 0 less."""
    return {"value": f"{round(value, 2) + 0.0:.2f}" if np.isfinite(value) else "-", "best": False, "interval": ""}


def interval(row: pd.Series, metric: str) -> str:
    """95 % interval of a median over perturbations, "" where there is none: `0.71 to 0.94`."""
    low, high = row.get(f"{metric}_low", np.nan), row.get(f"{metric}_high", np.nan)
    return f"{number(low)} to {number(high)}" if np.isfinite(low) and np.isfinite(high) else ""
