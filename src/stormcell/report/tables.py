"""The scoreboard on the terminal, and the tables of a run as CSV."""

from __future__ import annotations

import textwrap
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table
from rich.text import Text

from stormcell.evaluation.scoreboard import KEYS, METRICS
from stormcell.report.judgement import Judgement, distance_from_best

SHARED = "shift_correlation_shared"
WIDTH = 120  # columns of a terminal that has room for the intervals
# The terminal leaves out what scoreboard.csv says beside: l2 and mse order methods alike, one K stands for the others.
# Value: decimals. Fixed ones, so that a column can be read down.
COMPACT = {"shift_correlation": 2, SHARED: 2, "jaccard_50": 2, "energy_distance": 3, "variance_ratio": 2}
INTERVALS = ("shift_correlation", "jaccard_50", "energy_distance")  # of the others there is no room
AIMS = {"higher": "high is good", "lower": "low is good", "one": "1 is good"}


def best_in_group(judgement: Judgement, group: str, metric: str) -> pd.Series:
    """Marks the rows of a group's scoreboard that no other method betters on a metric; ceilings do not compete.

    Values equal but for rounding (means of float32 cells) are all marked, undefined ones never.
    """
    rows = judgement.scoreboard[judgement.scoreboard["group"] == group]
    competes = rows["method"].isin([*judgement.methods, *judgement.baselines])
    distance = np.where(competes, distance_from_best(rows[metric], metric), np.inf)
    with np.errstate(invalid="ignore"):
        best = np.isfinite(distance) & np.isclose(distance, distance.min(initial=np.inf), rtol=1e-4, atol=1e-6)
    return pd.Series(best, index=rows.index)


def scoreboard_table(judgement: Judgement, width: int = WIDTH) -> Table:
    """Median of each metric over the perturbations of a group, and its 95 % interval where `width` columns allow.

    The rows of the model are bold; `*` marks the best method of a group. The column against shared controls is dim:
    it is there only to be compared with its honest neighbour.
    """
    twice = SHARED if judgement.shared else ""  # then the shift correlation is that one already
    metrics = [name for name in COMPACT if name in judgement.scoreboard and name != twice]
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="")
    table.add_column("median over perturbations", max_width=28, vertical="bottom")
    for name in metrics:
        header = [*textwrap.wrap(judgement.label(name), 12), AIMS[METRICS[name].direction]]
        table.add_column(
            Text("\n".join(header), style="dim" if name == SHARED else ""), no_wrap=True, vertical="bottom"
        )
    for group in judgement.groups:
        rows = judgement.scoreboard[judgement.scoreboard["group"] == group]
        best = {name: best_in_group(judgement, group, name) for name in metrics}
        table.add_row()
        table.add_row(Text(group, style="underline"), Text(f"n = {rows['n'].max()}"))
        for index, row in rows.iterrows():
            fewer = f" (n = {row['n']})" if 0 < row["n"] < rows["n"].max() else ""
            cells = [_cell(row, name, best[name][index], width >= WIDTH) for name in metrics]
            table.add_row(row["method"] + fewer, *cells, style="bold" if row["method"] in judgement.methods else "")
    return table


def _cell(row: pd.Series, metric: str, best: bool, interval: bool) -> Text:
    """`0.81* 0.17..0.95`: the value, a star at the best, the interval."""
    decimals = COMPACT[metric]
    value, low, high = (
        f"{round(row[name], decimals) + 0.0:.{decimals}f}" if np.isfinite(row[name]) else "-"
        for name in (metric, f"{metric}_low", f"{metric}_high")
    )
    cell = Text(f"{value:>{decimals + 3}}", style="dim" if metric == SHARED else "")
    cell.append("*" if best else " ", style="green")
    if interval and metric in INTERVALS and low != "-":
        cell.append(f" {low}..{high}", style="dim not bold")
    return cell


def print_scoreboard(judgement: Judgement, console: Console | None = None) -> None:
    """Prints the scoreboard, then the verdict and what must be told beside it."""
    console = console or Console()
    console.print(scoreboard_table(judgement, console.width))
    shown = ", small: 95 % interval" if console.width >= WIDTH else ""
    console.print(Text(f"* best of its group{shown}; split-half and exact mean are what the cells allow, not methods"))
    for sentence in (*judgement.verdict, *judgement.notes):
        console.print(Text(f"- {sentence}"))


def write(judgement: Judgement, folder: Path | str) -> list[Path]:
    """Writes scoreboard.csv and tables/perturbations.csv at full precision, without an index; returns their paths.

    perturbations.csv has one row per method and query: its metrics, and the reliability of the query's real cells.
    """
    folder = Path(folder)
    (folder / "tables").mkdir(parents=True, exist_ok=True)
    paths = [folder / "scoreboard.csv", folder / "tables" / "perturbations.csv"]
    judgement.scoreboard.to_csv(paths[0], index=False)
    reliability = judgement.reliability.drop(columns=["n_cells", "shared"], errors="ignore")
    judgement.per_query.merge(reliability, on=KEYS, how="left").to_csv(paths[1], index=False)
    return paths
