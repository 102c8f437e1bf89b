"""The scoreboard as a forest plot: every method's median on the core metrics, with its interval."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from stormcell.evaluation.metrics import METRICS, distance_from_best
from stormcell.report.drawing import FAINT, MODEL, QUIET, TRUTH, dress, new_figure
from stormcell.report.judgement import Judgement, number

SHIFT = "shift_correlation"
COLUMNS = (SHIFT, "shift_correlation_mean", "pds", "energy_distance")
NOTHING = {SHIFT: 0, "shift_correlation_mean": 0, "pds": 0.5, "energy_distance": 0}  # chance; of a distance, the best
CEILINGS = "exact mean (expected)", "split-half of the real cells"  # the first that has a value is drawn


def forest(judgement: Judgement) -> Figure:
    """One row of panels per group, one panel per core metric, one line per method from best to worst shift correlation.

    Model in colour, baselines grey, the ceiling of the real cells as a line with a band where it has an interval.
    Methods without any of these metrics in a group are left out.
    """
    columns = [name for name in COLUMNS if name in judgement.scoreboard and judgement.scoreboard[name].notna().any()]
    columns = columns or [SHIFT]
    boards = {group: ranked(judgement, group, columns) for group in judgement.groups}
    tall = [0.26 * len(board) + 0.35 for board in boards.values()]
    detail = "Median over perturbations and its 95 % bootstrap interval; green: what the real cells allow, no method."
    detail += judgement.caution
    figure = new_figure(3.4 + 2.7 * len(columns), sum(tall) + 0.9 * len(tall), _finding(boards, judgement), detail)
    panels = figure.subplots(len(boards), len(columns), squeeze=False, height_ratios=tall)
    for line, (group, board) in zip(panels, boards.items(), strict=True):
        count = judgement.scoreboard.loc[judgement.scoreboard["group"] == group, "n"].max()
        titles = [f"{group} (n = {count})"] + [""] * (len(columns) - 1)
        for axes, metric, title in zip(line, columns, titles, strict=True):
            _estimates(axes, judgement, group, board, metric)
            place = _place(board, judgement.methods[0], metric)
            under = f"{METRICS[metric].direction} is better" + (f"; model {place}" if place else "")
            dress(axes, title, METRICS[metric].label, under=under)
        fewer = [f" (n = {n})" if n < board["n"].max() else "" for n in board["n"]]
        line[0].set_yticks(range(len(board)), board["method"] + fewer, parse_math=False)
        for label, method in zip(line[0].get_yticklabels(), board["method"], strict=True):
            if method in judgement.methods:
                label.set(color=MODEL, fontweight="bold")
    return figure


def ranked(judgement: Judgement, group: str, columns: list[str]) -> pd.DataFrame:
    """Rows of the scoreboard that compete in a group and have a value, from best to worst shift correlation; those with
    an answer to fewer queries come last, since their medians are over other queries."""
    rows = judgement.scoreboard[judgement.scoreboard["group"] == group]
    rows = rows[rows["method"].isin([*judgement.methods, *judgement.baselines]) & rows[columns].notna().any(axis=1)]
    by = [*(distance_from_best(rows[name], name) for name in reversed(columns)), rows["n"] < rows["n"].max()]
    return rows.iloc[np.lexsort(by)] if len(rows) else rows


def _finding(boards: dict[str, pd.DataFrame], judgement: Judgement) -> str:
    """The place of the model's first row by shift correlation in every group."""
    method = judgement.methods[0]
    places = []
    for group, board in boards.items():
        if place := _place(board, method, SHIFT):
            r = board.loc[board["method"] == method, SHIFT].iloc[0]
            places.append(f"{place} ({number(r)}) on {group}")
    return f"{method} by shift r: " + ("; ".join(places) or "no answer")


def _place(board: pd.DataFrame, method: str, metric: str) -> str:
    """`2nd of 14`: where a method stands among those that answer every query; equals share a place; else ""."""
    whole = board[board["n"] == board["n"].max()]
    values = whole.set_index("method")[metric].dropna() if metric in board else pd.Series(dtype=float)
    if method not in values:
        return ""
    distance, own = distance_from_best(values, metric), distance_from_best(values[method], metric)
    place = 1 + int((distance < own - 1e-6 - 1e-4 * abs(own)).sum())  # equal but for rounding is equal
    end = "th" if place % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(place % 10, "th")
    return f"{place}{end} of {len(values)}"


def _estimates(axes: Axes, judgement: Judgement, group: str, board: pd.DataFrame, metric: str) -> None:
    """Medians and intervals of one metric, the first method on top."""
    places = np.arange(len(board))
    colours = [MODEL if method in judgement.methods else QUIET for method in board["method"]]
    low, high = (board.get(f"{metric}_{end}", board[metric]).to_numpy(float) for end in ("low", "high"))
    axes.axvline(NOTHING[metric], color=FAINT, linewidth=1, zorder=0)
    _ceiling(axes, judgement, group, metric)
    axes.hlines(places, low, high, color=colours, linewidth=2)
    axes.scatter(board[metric], places, s=34, color=colours, zorder=3)
    axes.set(ylim=(len(board) - 0.4, -0.6), yticks=[])
    axes.xaxis.set_major_locator(MaxNLocator(4))


def _ceiling(axes: Axes, judgement: Judgement, group: str, metric: str) -> None:
    rows = judgement.scoreboard[judgement.scoreboard["group"] == group].set_index("method")
    for name in CEILINGS:
        if name in rows.index and np.isfinite(rows.loc[name, metric]):
            value, low, high = (rows.loc[name].get(f"{metric}{end}", np.nan) for end in ("", "_low", "_high"))
            if np.isfinite(low) and np.isfinite(high):
                axes.axvspan(low, high, color=TRUTH, alpha=0.15, linewidth=0, zorder=0)
            axes.axvline(value, color=TRUTH, linewidth=1.5, zorder=1)
            return
