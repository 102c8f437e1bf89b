"""Which perturbations a figure shows where there are more than can be read: evenly spaced from best to worst."""

from __future__ import annotations

import numpy as np

from stormcell.evaluation.metrics import distance_from_best
from stormcell.report.judgement import Judgement


def evenly(ranked: np.ndarray, most: int) -> list[int]:
    """At most so many of a ranking, evenly spaced, both ends included."""
    count = min(most, len(ranked))
    return [int(ranked[i]) for i in np.linspace(0, len(ranked) - 1, count).round().astype(int)] if count > 0 else []


def by_group(judgement: Judgement, metric: str, most: int) -> dict[str, list[int]]:
    """At most so many queries, each group from best to worst of the model's first row; a query without a value is last.

    Places are shared out by the size of the groups, one for each group first. A group without a place is left out.
    """
    ranked = np.argsort(distance_from_best(judgement.values(judgement.methods[0], metric), metric), kind="stable")
    names = judgement.queries["group"].to_numpy()[ranked]
    groups = {group: ranked[names == group] for group in judgement.groups}
    turns = sorted((turn / len(rows), place) for place, rows in enumerate(groups.values()) for turn in range(len(rows)))
    places = np.bincount([place for _, place in turns[:most]], minlength=len(groups))
    return {group: evenly(rows, n) for (group, rows), n in zip(groups.items(), places, strict=True) if n}


def left_out(judgement: Judgement, rows: dict[str, list[int]]) -> str:
    """A sentence where not every query is shown, else ""."""
    shown, every = sum(map(len, rows.values())), len(judgement.queries)
    return f" {shown} of {every} perturbations are shown, evenly spaced from best to worst." if shown < every else ""
