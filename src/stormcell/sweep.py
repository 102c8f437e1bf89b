"""What a multirun leaves: summary.csv, one row per job, and comparison.csv, one row per method over all seeds.

Models of latent spaces have other metrics, and a latent_comparison.csv.
"""

from __future__ import annotations

import csv
import json
import os
import sys
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf


class Summary(Callback):
    """Written after every job: with a failed job Hydra leaves the sweep before it calls on_multirun_end."""

    def on_job_end(self, config: DictConfig, **kwargs: Any) -> None:
        if config.hydra.mode == RunMode.MULTIRUN:
            write_summary(Path(config.hydra.sweep.dir))

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        jobs = write_summary(Path(config.hydra.sweep.dir))
        folder = Path(config.hydra.sweep.dir)
        show_comparison(folder)
        print(f"{jobs} jobs summarised in {folder / 'summary.csv'}")


def show_comparison(folder: Path) -> None:
    """comparison.csv and its short form on the screen, where at least one job has finished."""
    from rich.console import Console  # heavy imports wait until there is something to show

    from stormcell import comparison, latent_comparison

    jobs = [job.parent for job in sorted(folder.glob("**/.hydra"), key=_number)]
    console = Console(width=None if sys.stdout.isatty() else 150)
    for kind, name in ((comparison, "comparison.csv"), (latent_comparison, "latent_comparison.csv")):
        board = kind.compare(jobs)
        if not board.empty:
            board.to_csv(folder / name, index=False)
            kind.show(board, console)
            print(f"models and baselines over all seeds in {folder / name}")


def write_summary(folder: Path) -> int:
    """summary.csv of the jobs below a sweep's folder; one without metrics.json has failed. Returns their number."""
    rows = [_row(job) for job in sorted(folder.glob("**/.hydra"), key=_number)]
    columns = list(dict.fromkeys(key for row in rows for key in row))
    part = folder / f"summary.csv.{os.getpid()}.part"  # the jobs of a parallel launcher end in processes of their own
    with part.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    part.replace(folder / "summary.csv")
    return len(rows)


def _number(job: Path) -> tuple[int, str]:
    name = job.parent.name
    return (int(name), "") if name.isdigit() else (-1, name)


def _row(job: Path) -> dict[str, Any]:
    folder = job.parent
    overrides = OmegaConf.to_object(OmegaConf.load(job / "overrides.yaml"))
    row: dict[str, Any] = {"job": folder.name}
    for override in overrides:
        key, _, value = override.lstrip("+").partition("=")  # no value: ~key takes a key out
        row[key] = value
    metrics = folder / "metrics.json"
    row["status"] = "finished" if metrics.is_file() else "failed"
    if metrics.is_file():
        row |= json.loads(metrics.read_text())["test"]
    return row
