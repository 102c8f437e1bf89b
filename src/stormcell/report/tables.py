"""The scoreboard on the terminal, and the tables of a run as CSV."""

from __future__ import annotations

import textwrap
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table
from rich.text import Text

from stormcell.evaluation.metrics import METRICS, distance_from_best
from stormcell.report.judgement import KEYS, Judgement

SHARED = "shift_correlation_shared"
WIDTH = 120  # columns of a terminal that has room for the intervals
# What the terminal shows; scoreboard.csv and the page have the rest. Jaccard is not here: a shift proportional to
# expression wins it. Value: decimals. Fixed ones, so that a column can be read down.
COMPACT = {
    "shift_correlation": 2,
    SHARED: 2,
    "shift_correlation_mean": 2,
    "pds": 2,
    "energy_distance": 3,
    "variance_ratio": 2,
}
HEAD = 10  # characters of a line of a column's head
MORE = {"rescaled": "rescaled", "per_method": "methods", "interactions": "interactions", "calibration": "calibration"}
INTERVALS = ("shift_correlation", "energy_distance")  # of the others there is no room
HEADS = {SHARED: "shift r, shared controls: flattering", "pds": "perturb. discrim."}  # where the label is too wide
AIMS = {"higher": "high is good", "lower": "low is good", "target": "{best:g} is good"}


def best_in_group(judgement: Judgement, group: str, metric: str) -> pd.Series:
    """Marks the rows of a group's scoreboard that no other method betters on a metric; ceilings do not compete.

    Values equal but for rounding (means of float32 cells) are all marked, undefined ones never; none where all are
    equal, and none of a method that answered fewer queries than others.
    """
    rows = judgement.scoreboard[judgement.scoreboard["group"] == group]
    competes = rows["method"].isin([*judgement.methods, *judgement.baselines])
    # A median over the few queries that a method answers is not one over them all.
    competes &= rows["n"] == rows.loc[competes, "n"].max()
    return pd.Series(least(np.where(competes, distance_from_best(rows[metric], metric), np.inf)), index=rows.index)


def least(distance: np.ndarray) -> np.ndarray:
    """Marks the smallest of some distances and those equal to it but for rounding; none of many that are all alike."""
    with np.errstate(invalid="ignore"):
        best = np.isfinite(distance) & np.isclose(distance, distance.min(initial=np.inf), rtol=1e-4, atol=1e-6)
    if best.sum() == np.isfinite(distance).sum() > 1:
        best[:] = False
    return best


def scoreboard_table(judgement: Judgement, width: int = WIDTH) -> Table:
    """Median of each metric over the perturbations of a group; intervals and shared controls where `width` allows.

    The rows of the model are bold; `*` marks the best method of a group. The column against shared controls is dim:
    it is there only to be compared with its honest neighbour. A baseline without a value here has no row.
    """
    without = SHARED if judgement.shared or width < WIDTH else ""  # shared: the shift correlation is that one already
    metrics = [name for name in COMPACT if name in judgement.scoreboard and name != without]
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="")
    table.add_column("median over perturbations", max_width=34, vertical="bottom")
    for name in metrics:
        aim = AIMS[METRICS[name].direction].format(best=METRICS[name].best)
        words = HEADS.get(name, judgement.label(name))
        header = [line for part in (words, aim) for line in textwrap.wrap(part, HEAD, break_long_words=False)]
        table.add_column(
            Text("\n".join(header), style="dim" if name == SHARED else ""), no_wrap=True, vertical="bottom"
        )
    for group in judgement.groups:
        rows = judgement.scoreboard[judgement.scoreboard["group"] == group]
        best = {name: best_in_group(judgement, group, name) for name in metrics}
        table.add_row()
        table.add_row(Text(group, style="underline"), Text(f"n = {rows['n'].max()}"))
        for index, row in rows[rows["method"].isin(judgement.methods) | rows[metrics].notna().any(axis=1)].iterrows():
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
    """Writes scoreboard.csv and tables/*.csv at full precision, without an index; returns their paths.

    perturbations.csv has one row per method and query: its metrics, and the reliability of the query's real cells.
    Of MORE only what the judgement holds.
    """
    reliability = judgement.reliability.drop(columns=["n_cells", "shared"], errors="ignore")
    more = {MORE[name]: getattr(judgement, name) for name in MORE}
    named = {"perturbations": judgement.per_query.merge(reliability, on=KEYS, how="left"), **more}
    return write_csv(Path(folder), judgement.scoreboard, named)


def write_csv(folder: Path, scoreboard: pd.DataFrame, tables: dict[str, pd.DataFrame]) -> list[Path]:
    """scoreboard.csv and tables/<name>.csv at full precision, without an index; tables without rows are skipped."""
    (folder / "tables").mkdir(parents=True, exist_ok=True)
    written = {folder / "scoreboard.csv": scoreboard}
    written |= {folder / "tables" / f"{name}.csv": table for name, table in tables.items() if len(table)}
    for path, table in written.items():
        table.to_csv(path, index=False)
    return list(written)
