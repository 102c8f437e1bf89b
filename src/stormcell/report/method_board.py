"""A scoreboard of groups, methods and metrics: its rows in order, the best of each metric, on the screen and the page.

A judgement that holds one inherits `MethodBoard`, and says which metrics it knows.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table
from rich.text import Text

from stormcell.evaluation.glossary import Metric
from stormcell.report.boards import interval
from stormcell.report.judgement import number
from stormcell.report.tables import least

HEAD, METHOD = 10, 34  # characters of a line of a column's head, of a method's name


class MethodBoard:
    """What is read off a scoreboard: group, method, n, <metric>, <metric>_low, <metric>_high."""

    known: ClassVar[Mapping[str, Metric]]
    chance: ClassVar[Mapping[str, float]]  # what is scored without knowledge, by metric
    aside: ClassVar[str]  # what a row is that does not compete
    scoreboard: pd.DataFrame
    methods: tuple[str, ...]
    baselines: tuple[str, ...]
    tables: dict[str, pd.DataFrame]
    verdict: tuple[str, ...]
    notes: tuple[str, ...]

    def check_board(self) -> None:
        """Raises ValueError for a model without a row, and for two rows of one method in one group."""
        if not set(self.methods) <= set(self.scoreboard["method"]):
            raise ValueError(f"scoreboard has no row of {set(self.methods) - set(self.scoreboard['method'])}")
        if self.scoreboard[["group", "method"]].duplicated().any():
            raise ValueError("scoreboard has two rows of one method in one group")

    @property
    def groups(self) -> list[str]:
        """Groups of the scoreboard in the order in which they were judged."""
        return [str(name) for name in self.scoreboard["group"].unique()]

    def table(self, name: str) -> pd.DataFrame:
        """A table by name; one without rows where there is none."""
        return self.tables.get(name, pd.DataFrame())

    def rows(self, group: str) -> pd.DataFrame:
        """A group of the scoreboard in order: the model, baselines, then those that do not compete."""
        rows = self.scoreboard[self.scoreboard["group"] == group]
        places = {name: place for place, name in enumerate((*self.methods, *self.baselines))}
        return rows.iloc[np.argsort(rows["method"].map(places).fillna(len(places)), kind="stable")]

    def kind(self, method: str) -> str:
        """model · baseline · ceiling (does not compete)"""
        return "model" if method in self.methods else "baseline" if method in self.baselines else "ceiling"

    def value(self, group: str, method: str, metric: str) -> float:
        """One number of the scoreboard; NaN where there is none."""
        rows = self.scoreboard[(self.scoreboard["group"] == group) & (self.scoreboard["method"] == method)]
        return float(rows[metric].iloc[0]) if metric in rows and len(rows) else np.nan

    def metrics(self, group: str) -> list[str]:
        """Metrics of a group that any of its methods has a value for."""
        rows = self.rows(group)
        return [name for name in self.known if name in rows and rows[name].notna().any()]

    @property
    def all_higher(self) -> bool:
        """Whether higher is better in every metric, so that no column has to say it."""
        return all(metric.direction == "higher" for metric in self.known.values())

    def aim(self, metric: str) -> str:
        """Which values are right, and what is scored without knowledge: `lower, chance 1`."""
        words = [] if self.all_higher else [self.known[metric].direction]
        return ", ".join([*words, *([f"chance {self.chance[metric]:g}"] if metric in self.chance else [])])

    def best(self, group: str, metric: str) -> np.ndarray:
        """Marks the rows of a group that no other method betters on a metric."""
        rows = self.rows(group)
        competes = rows["method"].isin([*self.methods, *self.baselines])
        away = rows[metric].astype(float) * (1 if self.known[metric].direction == "lower" else -1)
        return least(np.where(competes & away.notna(), away, np.inf))

    def best_baseline(self, group: str, metric: str) -> tuple[str, float] | None:
        """The baseline of best value on a metric, and the value; None where none has one."""
        found = self.rows(group).set_index("method")[metric].astype(float)
        found = found[[name for name in self.baselines if name in found.index]].dropna()
        if found.empty:
            return None
        name = found.idxmin() if self.known[metric].direction == "lower" else found.idxmax()
        return str(name), float(found[name])


# ---- the screen


def scoreboard_table(board: MethodBoard, group: str, names: list[str], intervals: bool) -> Table:
    """One line per method, one column per metric; the model is bold."""
    rows = board.rows(group)
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="")
    table.add_column(Text(f"{group}\nn = {rows['n'].max():,}"), max_width=METHOD, vertical="bottom")
    for name in names:
        lines = textwrap.wrap(board.known[name].label, HEAD, break_long_words=False)
        lines += textwrap.wrap(board.aim(name), HEAD, break_long_words=False) or [""]
        table.add_column(Text("\n".join(lines)), no_wrap=True, vertical="bottom")
    marks = {name: board.best(group, name) for name in names}
    for place, (_, row) in enumerate(rows.iterrows()):
        fewer = f" (n = {row['n']:,})" if row["n"] < rows["n"].max() else ""
        cells = [_cell(row, name, marks[name][place], intervals) for name in names]
        style = {"model": "bold", "baseline": "", "ceiling": "italic"}[board.kind(row["method"])]
        table.add_row(Text(row["method"] + fewer), *cells, style=style)
    return table


def _cell(row: pd.Series, metric: str, best: bool, interval: bool) -> Text:
    """`0.27* 0.15..0.44`: the value, a star at the best, the interval. Fixed decimals, so that a column can be read."""
    value, low, high = (
        f"{round(found, 2) + 0.0:.2f}" if np.isfinite(found := row.get(f"{metric}{end}", np.nan)) else "-"
        for end in ("", "_low", "_high")
    )
    cell = Text(f"{value:>5}")
    cell.append("*" if best else " ", style="green")
    if interval and "-" not in (low, high):
        cell.append(f" {low}..{high}", style="dim not bold")
    return cell


def print_scoreboard(board: MethodBoard, console: Console) -> None:
    """Prints every group, with intervals and all metrics where there is room, then the verdict and the notes."""
    for group in board.groups:
        names = board.metrics(group)
        if names:
            tables = [scoreboard_table(board, group, names, intervals=True)]
            tables += [scoreboard_table(board, group, names[:n], intervals=False) for n in range(len(names), 0, -1)]
            console.print(next((table for table in tables if _fits(table, console)), tables[-1]))
            console.print()
    aside = [name for name in board.scoreboard["method"].unique() if board.kind(name) == "ceiling"]
    told = "; higher is better in every one" if board.all_higher else ""
    told += f"; {', '.join(aside)}: {board.aside}" if aside else ""
    console.print(Text(f"* best of its column{told}"))
    for sentence in (*board.verdict, *board.notes):
        console.print(Text(f"- {sentence}"))


def _fits(table: Table, console: Console) -> bool:
    return console.measure(table, options=console.options.update(max_width=1000)).maximum <= console.width


# ---- the page


def page_boards(board: MethodBoard) -> list[dict]:
    """Every group of the scoreboard: a line per method, a column per metric."""
    return [_page_board(board, group) for group in board.groups if board.metrics(group)]


def page_metrics(board: MethodBoard) -> list[dict]:
    """The metrics that are shown, in words."""
    shown = dict.fromkeys(name for group in board.groups for name in board.metrics(group))
    about = [board.known[name] for name in shown]
    return [{"label": metric.label, "meaning": metric.meaning, "panel": metric.panel} for metric in about]


def _page_board(board: MethodBoard, group: str) -> dict:
    names, rows = board.metrics(group), board.rows(group)
    marks = {name: board.best(group, name) for name in names}
    lines = []
    for place, (_, row) in enumerate(rows.iterrows()):
        cells = [
            {"value": number(row[name]), "best": bool(marks[name][place]), "interval": interval(row, name)}
            for name in names
        ]
        lines.append({"method": row["method"], "kind": board.kind(row["method"]), "n": row["n"], "cells": cells})
    columns = [
        {"label": board.known[name].label, "aim": board.aim(name) or "higher is better", "flattering": False}
        for name in names
    ]
    return {"metrics": columns, "groups": [{"name": group, "n": rows["n"].max(), "rows": lines}]}
