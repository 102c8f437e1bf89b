"""The end of a sweep: models × metrics in one table, seeds together.

For each held-out perturbation the mean over seeds is taken, then the median over perturbations, with its 95 % bootstrap
interval over perturbations. A baseline that several jobs share (same seed, same split) is counted once per seed.
"""

from __future__ import annotations

import json
import textwrap
from pathlib import Path

import numpy as np
import pandas as pd
from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Table
from rich.text import Text

from stormcell.evaluation.ceiling import EXACT
from stormcell.evaluation.intervals import bootstrap_ci
from stormcell.evaluation.metrics import METRICS
from stormcell.report.tables import COMPACT, SHARED

KEYS = ["group", "method", "condition", "context"]
OF_THE_CELLS = ("data", "split", "experiment", "targets")  # config keys that make other queries or other baselines


def compare(jobs: list[Path]) -> pd.DataFrame:
    """One row per group and method of the finished jobs: model, n (perturbations), seeds, each metric and its interval.

    `model` is true for the rows that a job trained, false for baselines. What a sweep varies beside model and seed
    stands behind the method's name; what it varies of data and split keeps its jobs apart, in the column `data`. Empty
    without a finished job.
    """
    tables = [found for job, words in what_varied(jobs).items() if (found := _job(job, *words)) is not None]
    if not tables:
        return pd.DataFrame()
    table = pd.concat(tables, ignore_index=True).drop_duplicates(["data", "seed", *KEYS])
    metrics = [name for name in METRICS if name in table]
    seeds = table.groupby(["data", "group", "method"], sort=False)["seed"].nunique()
    means = table.groupby(["data", *KEYS, "model"], sort=False)[metrics].mean().reset_index()
    rows = []
    for (data, group, method), inside in means.groupby(["data", "group", "method"], sort=False):
        row = {"data": data, "group": group, "method": method, "model": bool(inside["model"].any())}
        row |= {"n": len(inside), "seeds": int(seeds[data, group, method])}
        for name in metrics:
            values = inside[name].to_numpy(float)
            low, high = bootstrap_ci(values, np.median)
            row |= {name: _median(values), f"{name}_low": low, f"{name}_high": high}
        rows.append(row)
    board = pd.DataFrame(rows)
    return board.sort_values(["data", "group", "model"], ascending=[True, True, False], kind="stable")


def what_varied(jobs: list[Path]) -> dict[Path, tuple[str, str]]:
    """job -> what a sweep varies beside the model's name and the seed: what goes behind the name of a method, and what
    makes other cells of the data."""
    found = {}
    for job, own in _overrides(jobs).items():
        cells = {key: value for key, value in own.items() if key.split(".")[0] in OF_THE_CELLS}
        extra = "".join(f", {key}={value}" for key, value in own.items() if key not in cells)
        found[job] = extra, " ".join(f"{key}={value}" for key, value in cells.items())
    return found


def _overrides(jobs: list[Path]) -> dict[Path, dict[str, str]]:
    typed = {}
    for job in jobs:
        overrides = OmegaConf.to_object(OmegaConf.load(job / ".hydra" / "overrides.yaml"))
        pairs = (override.lstrip("+").partition("=") for override in overrides)
        typed[job] = {key: value for key, _, value in pairs if key not in ("model", "seed")}
    return {
        job: {key: value for key, value in own.items() if len({other.get(key) for other in typed.values()}) > 1}
        for job, own in typed.items()
    }


def _job(folder: Path, extra: str, apart: str) -> pd.DataFrame | None:
    """The per-perturbation scores of one job; None where it has not finished."""
    metrics, table = folder / "metrics.json", folder / "tables" / "perturbations.csv"
    if not (metrics.is_file() and table.is_file()):
        return None
    found = json.loads(metrics.read_text())
    rows = pd.read_csv(table)
    rows = rows[rows["answered"]].assign(model=lambda table: ~table["method"].isin(found["baselines"]))
    exact = rows.drop_duplicates(KEYS[:1] + KEYS[2:]).assign(method=EXACT, model=False)
    exact[[name for name in METRICS if name in rows]] = np.nan
    rows = pd.concat([rows, exact.assign(shift_correlation=exact["expected_exact"])])
    rows.loc[rows["model"], "method"] += extra
    data = " ".join([found["data"]["source"], *([apart] if apart else [])])
    return rows.assign(seed=OmegaConf.load(folder / "config.yaml").seed, data=data)


def _median(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if len(known) else np.nan


def show(board: pd.DataFrame, console: Console) -> None:
    """The compact metrics of a comparison on the terminal: models, then baselines, each from best to worst shift r."""
    metrics = [name for name in COMPACT if name in board and name != SHARED]
    for (data, group), rows in board.groupby(["data", "group"], sort=False):
        print_group(rows, f"{data}\n{group}", metrics, console)


def print_group(rows: pd.DataFrame, title: str, metrics: list[str], console: Console) -> None:
    most, seeds = rows["n"].max(), rows["seeds"].max()
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="")
    table.add_column(Text(f"{title}\nn = {most}, seeds = {seeds}"), vertical="bottom", no_wrap=True)
    for name in metrics:
        table.add_column("\n".join(textwrap.wrap(METRICS[name].label, 18)), vertical="bottom", no_wrap=True)
    # A median over fewer queries is over other queries: it stands behind, and the ceiling at the end.
    place = rows.assign(last=2 * (rows["method"] == EXACT) + (~rows["model"] & (rows["n"] < most)))
    ranked = place.sort_values(
        ["last", "model", "shift_correlation"], ascending=[True, False, False], na_position="last", kind="stable"
    )
    for _, row in ranked[ranked[metrics].notna().any(axis=1)].iterrows():
        fewer = f" (n = {row['n']})" if row["n"] < most else ""
        cells = [_cell(row, name) for name in metrics]
        table.add_row(row["method"] + fewer, *cells, style="bold" if row["model"] else "")
    console.print(table)
    console.print("mean over seeds for each perturbation, then median over perturbations, 95 % bootstrap interval\n")


def _cell(row: pd.Series, name: str) -> Text:
    value, low, high = (row[key] for key in (name, f"{name}_low", f"{name}_high"))
    if np.isnan(value):
        return Text("-")
    places = COMPACT[name]
    cell = Text(f"{value:.{places}f}")
    if np.isfinite(low):
        cell.append(f" {low:.{places}f}..{high:.{places}f}", style="dim not bold")
    return cell
