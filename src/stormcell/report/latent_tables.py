"""The scoreboard of a latent model: one line per metric, one column per method; and the tables of a run as CSV."""

from __future__ import annotations

import textwrap
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from stormcell.evaluation.latent_metrics import LATENT_METRICS
from stormcell.report.judgement import number
from stormcell.report.latent_judgement import LatentJudgement
from stormcell.report.tables import least, write_csv

LABELS = {  # metrics that a guess answers rightly once in so many: the column of the cells that is guessed
    "probe": "condition",
    "background_probe": "condition",
    "batch_leak": "batch",
    "background_batch": "batch",
    "phase_leak": "phase",
    "background_phase": "phase",
    "background_cell_type": "cell_type",
}
LABEL, HEAD = 30, 6  # characters of a line's name, of a line of a method's name
CHANCE = {"ari": 0.0, "ari_merged": 0.0, "salient_auc": 0.5, "library_leak": 0.0}


def metrics(judgement: LatentJudgement) -> list[str]:
    """Metrics of the scoreboard that any method has a value for, those of one panel together."""
    board = judgement.scoreboard
    names = [name for name in LATENT_METRICS if name in board and board[name].notna().any()]
    panels = list(dict.fromkeys(metric.panel for metric in LATENT_METRICS.values()))
    return sorted(names, key=lambda name: panels.index(LATENT_METRICS[name].panel))


def chance(judgement: LatentJudgement, metric: str) -> float:
    """What a method that knows nothing would score; NaN where there is no such number."""
    if metric not in LABELS:
        return CHANCE.get(metric, np.nan)
    # The background is asked about all cells for batch, phase and type, everything else about the perturbed ones.
    every = metric.startswith("background_") and metric != "background_probe"
    cells = judgement.cells if every else judgement.cells[~judgement.is_control]
    n = cells[LABELS[metric]].nunique() if LABELS[metric] in cells else 0
    return 1 / n if n > 1 else np.nan


def aim(judgement: LatentJudgement, metric: str) -> str:
    """Which values are right: `higher, chance 0.11`."""
    about, guess = LATENT_METRICS[metric], chance(judgement, metric)
    if about.best is not None:
        return f"near {number(about.best)}"
    return about.direction + (f", chance {number(guess)}" if np.isfinite(guess) else "")


def distance(values: np.ndarray, metric: str) -> np.ndarray:
    """How far values of a metric are from its best: smaller is better, +inf for what is undefined."""
    about, values = LATENT_METRICS[metric], np.asarray(values, dtype=float)
    far = {"higher": -values, "lower": values}.get(about.direction)
    far = np.abs(values - about.best) if far is None else far
    return np.where(np.isnan(far), np.inf, far)


def best(judgement: LatentJudgement, metric: str) -> np.ndarray:
    """Marks the rows of the scoreboard that no other method betters on a metric; ceilings do not compete."""
    rows = judgement.scoreboard
    competes = rows["method"].isin([*judgement.methods, *judgement.baselines])
    return least(np.where(competes, distance(rows[metric], metric), np.inf))


def in_order(judgement: LatentJudgement) -> list[str]:
    """Methods as they stand side by side: the model, baselines, then ceilings."""
    rest = [name for name in judgement.scoreboard["method"] if name not in (*judgement.methods, *judgement.baselines)]
    known = set(judgement.scoreboard["method"])
    return [*judgement.methods, *(name for name in judgement.baselines if name in known), *rest]


def scoreboard_table(judgement: LatentJudgement, intervals: bool) -> Table:
    """One line per metric in panels; the model is bold, and has its intervals where they are asked for."""
    methods = in_order(judgement)
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="")
    table.add_column(f"{judgement.group}, n = {len(judgement.cells):,}", max_width=LABEL, vertical="bottom")
    for head in "right\nis", "chance":
        table.add_column(head, no_wrap=True, vertical="bottom")
    for method in methods:
        head = "\n".join(textwrap.wrap(method, HEAD, break_long_words=False))
        style = "bold" if method in judgement.methods else ""
        table.add_column(Text(head, style=style), no_wrap=True, vertical="bottom")
    panel = ""
    for name in metrics(judgement):
        about, guess = LATENT_METRICS[name], chance(judgement, name)
        if about.panel != panel:
            panel = about.panel
            table.add_row()
            table.add_row(Text(panel, style="underline"))
        marks = dict(zip(judgement.scoreboard["method"], best(judgement, name), strict=True))
        cells = [_cell(judgement, method, name, marks[method], intervals) for method in methods]
        right = {"higher": "high", "lower": "low"}.get(about.direction) or number(about.best)
        table.add_row(about.label, f"{right:>5}", f"{number(guess) if np.isfinite(guess) else '':>6}", *cells)
    return table


def _cell(judgement: LatentJudgement, method: str, metric: str, best: bool, intervals: bool) -> Text:
    """`0.31* 0.28..0.34`: the value, a star at the best, the interval of the model's first row."""
    cell = Text(f"{number(judgement.value(method, metric)):>5}", style="bold" if method in judgement.methods else "")
    cell.append("*" if best else " ", style="green")
    low, high = (judgement.value(method, f"{metric}_{end}") for end in ("low", "high"))
    if intervals and method == judgement.methods[0] and np.isfinite(low) and np.isfinite(high):
        cell.append(f" {number(low)}..{number(high)}", style="dim not bold")
    return cell


def print_scoreboard(judgement: LatentJudgement, console: Console) -> None:
    """Prints the scoreboard, with intervals where there is room, then the verdict and what must be told beside it."""
    table = scoreboard_table(judgement, intervals=True)
    room = console.measure(table, options=console.options.update(max_width=1000)).maximum <= console.width
    console.print(table if room else scoreboard_table(judgement, intervals=False))
    shown = ", small: 95 % interval over cells" if room else ""
    ceilings = [name for name in in_order(judgement) if name not in (*judgement.methods, *judgement.baselines)]
    told = f"; {', '.join(ceilings)}: what the cells allow, does not compete" if ceilings else ""
    console.print(Text(f"* best of its line{shown}{told}"))
    for sentence in (*judgement.verdict, *judgement.notes):
        console.print(Text(f"- {sentence}"))


def write(judgement: LatentJudgement, folder: Path) -> list[Path]:
    """Writes scoreboard.csv and tables/*.csv at full precision; returns their paths. Tables without rows are skipped.

    cells.csv has one row per held-out cell, criticism.csv one per gene.
    """
    cells = judgement.cells.rename_axis("cell").reset_index()
    named = {"cells": cells, "criticism": judgement.criticism, **judgement.tables}
    return write_csv(folder, judgement.scoreboard, named)
