"""The scoreboard of a model of frequencies, one table per group; and the tables of a run as CSV."""

from __future__ import annotations

import textwrap
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table
from rich.text import Text

from stormcell.evaluation.frequency_metrics import CHANCE, FREQUENCY_METRICS
from stormcell.report.frequency_judgement import FrequencyJudgement
from stormcell.report.tables import least, write_csv

HEAD, METHOD = 10, 34  # characters of a line of a column's head, of a method's name


def metrics(judgement: FrequencyJudgement, group: str) -> list[str]:
    """Metrics of a group that any of its methods has a value for."""
    rows = judgement.rows(group)
    return [name for name in FREQUENCY_METRICS if name in rows and rows[name].notna().any()]


def aim(metric: str) -> str:
    """Which values are right, and what is scored without knowledge: `lower, chance 1`."""
    words = FREQUENCY_METRICS[metric].direction
    return words + (f", chance {CHANCE[metric]:g}" if metric in CHANCE else "")


def best(judgement: FrequencyJudgement, group: str, metric: str) -> np.ndarray:
    """Marks the rows of a group that no other method betters on a metric; yardsticks do not compete."""
    rows = judgement.rows(group)
    competes = rows["method"].isin([*judgement.methods, *judgement.baselines])
    away = rows[metric].astype(float) * (1 if FREQUENCY_METRICS[metric].direction == "lower" else -1)
    return least(np.where(competes & away.notna(), away, np.inf))


def best_baseline(judgement: FrequencyJudgement, group: str, metric: str) -> tuple[str, float] | None:
    """The simple answer of best value on a metric, and the value; None where none has one."""
    found = judgement.rows(group).set_index("method")[metric].astype(float)
    found = found[[name for name in judgement.baselines if name in found.index]].dropna()
    if found.empty:
        return None
    name = found.idxmin() if FREQUENCY_METRICS[metric].direction == "lower" else found.idxmax()
    return str(name), float(found[name])


def scoreboard_table(judgement: FrequencyJudgement, group: str, names: list[str], intervals: bool) -> Table:
    """One line per method, one column per metric; the model is bold."""
    rows = judgement.rows(group)
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="")
    table.add_column(Text(f"{group}\nn = {rows['n'].max():,}"), max_width=METHOD, vertical="bottom")
    for name in names:
        words = FREQUENCY_METRICS[name].label, aim(name)
        lines = [line for part in words for line in textwrap.wrap(part, HEAD, break_long_words=False)]
        table.add_column(Text("\n".join(lines)), no_wrap=True, vertical="bottom")
    marks = {name: best(judgement, group, name) for name in names}
    for place, (_, row) in enumerate(rows.iterrows()):
        fewer = f" (n = {row['n']:,})" if row["n"] < rows["n"].max() else ""
        cells = [_cell(row, name, marks[name][place], intervals) for name in names]
        style = {"model": "bold", "baseline": "", "ceiling": "italic"}[judgement.kind(row["method"])]
        table.add_row(Text(row["method"] + fewer), *cells, style=style)
    return table


def _cell(row: pd.Series, metric: str, best: bool, interval: bool) -> Text:
    """`0.79* 0.77..0.81`: the value, a star at the best, the interval. Fixed decimals, so that a column can be read."""
    value, low, high = (
        f"{round(found, 2) + 0.0:.2f}" if np.isfinite(found := row.get(f"{metric}{end}", np.nan)) else "-"
        for end in ("", "_low", "_high")
    )
    cell = Text(f"{value:>5}")
    cell.append("*" if best else " ", style="green")
    if interval and "-" not in (low, high):
        cell.append(f" {low}..{high}", style="dim not bold")
    return cell


def print_scoreboard(judgement: FrequencyJudgement, console: Console) -> None:
    """Prints every group, with intervals and all metrics where there is room, then the verdict and the notes."""
    for group in judgement.groups:
        names = metrics(judgement, group)
        if names:
            tables = [scoreboard_table(judgement, group, names, intervals=True)]
            tables += [scoreboard_table(judgement, group, names[:n], intervals=False) for n in range(len(names), 0, -1)]
            console.print(next((table for table in tables if _fits(table, console)), tables[-1]))
            console.print()
    yardsticks = [name for name in judgement.scoreboard["method"].unique() if judgement.kind(name) == "ceiling"]
    told = f"; {', '.join(yardsticks)}: a yardstick, no rival" if yardsticks else ""
    console.print(Text(f"* best of its column{told}"))
    for sentence in (*judgement.verdict, *judgement.notes):
        console.print(Text(f"- {sentence}"))


def _fits(table: Table, console: Console) -> bool:
    return console.measure(table, options=console.options.update(max_width=1000)).maximum <= console.width


def write(judgement: FrequencyJudgement, folder: Path) -> list[Path]:
    """Writes scoreboard.csv and tables/*.csv at full precision; returns their paths. Tables without rows are skipped.

    cells.csv has one row per cell of the picture, with its frequencies.
    """
    cells = judgement.points.rename_axis("cell").reset_index()
    return write_csv(folder, judgement.scoreboard, {"cells": cells, **judgement.tables})
