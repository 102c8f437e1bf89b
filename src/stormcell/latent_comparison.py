"""The end of a sweep with models of latent spaces: methods × metrics in one table, seeds together.

Each number is the mean over seeds of what the jobs' scoreboards say; beside it the smallest and the largest of them. A
baseline that several jobs share is counted once per seed.
"""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Table
from rich.text import Text

from stormcell.comparison import what_varied
from stormcell.evaluation.latent_metrics import LATENT_METRICS

SHOWN = ("probe", "ari", "salient_auc", "background_auc", "background_auc_knn", "control_norm", "batch_leak")
KEYS = ["data", "method"]


def compare(jobs: list[Path]) -> pd.DataFrame:
    """One row per data set and method of the finished jobs: model, seeds, each metric with _low and _high; else empty.

    `model` is true for the rows that a job trained. What a sweep varies beside model and seed stands behind the
    method's name; what it varies of data and split keeps its jobs apart.
    """
    tables = [found for job, words in what_varied(jobs).items() if (found := _job(job, *words)) is not None]
    if not tables:
        return pd.DataFrame()
    table = pd.concat(tables, ignore_index=True).drop_duplicates([*KEYS, "seed"])
    rows = []
    for (data, method), inside in table.groupby(KEYS, sort=False):
        row = {"data": data, "method": method, "model": bool(inside["model"].any()), "seeds": len(inside)}
        for name in (name for name in LATENT_METRICS if name in table):
            row |= {name: inside[name].mean(), f"{name}_low": inside[name].min(), f"{name}_high": inside[name].max()}
        rows.append(row)
    board = pd.DataFrame(rows)
    return board.sort_values(["data", "model"], ascending=[True, False], kind="stable")


def _job(folder: Path, extra: str, apart: str) -> pd.DataFrame | None:
    metrics, board = folder / "metrics.json", folder / "scoreboard.csv"
    if not (metrics.is_file() and board.is_file()):
        return None
    rows, found = pd.read_csv(board), json.loads(metrics.read_text())
    if "probe" not in rows:  # a model of profiles
        return None
    methods = rows["method"].isin({*found["baselines"], "probe on all genes"})
    rows["model"] = ~methods
    rows.loc[rows["model"], "method"] += extra
    data = " ".join([found["data"]["source"], *([apart] if apart else [])])
    return rows.assign(seed=OmegaConf.load(folder / "config.yaml").seed, data=data)


def show(board: pd.DataFrame, console: Console) -> None:
    """The metrics of SHOWN on the terminal: models, then baselines."""
    shown = [name for name in SHOWN if board[name].notna().any()]
    for data, rows in board.groupby("data", sort=False):
        table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="")
        table.add_column(Text(f"{data}\nseeds = {rows['seeds'].max()}"), vertical="bottom", no_wrap=True)
        for name in shown:
            table.add_column(LATENT_METRICS[name].label, vertical="bottom", max_width=20)
        for _, row in rows.iterrows():
            table.add_row(row["method"], *(_cell(row, name) for name in shown), style="bold" if row["model"] else "")
        console.print(table)
        console.print("mean over seeds, smallest and largest\n")


def _cell(row: pd.Series, name: str) -> Text:
    if pd.isna(row[name]):
        return Text("-")
    cell = Text(f"{row[name]:.3f}")
    return cell.append(f" {row[f'{name}_low']:.2f}..{row[f'{name}_high']:.2f}", style="dim not bold")
