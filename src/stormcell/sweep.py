"""summary.csv of a multirun: one row per job, its overrides and its test metrics."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf


class Summary(Callback):
    """Written when the sweep ends; a job without metrics.json stands as failed."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        folder = Path(config.hydra.sweep.dir)
        rows = [_row(job) for job in sorted(folder.glob("**/.hydra"), key=_number)]
        if not rows:
            return
        columns = list(dict.fromkeys(key for row in rows for key in row))
        path = folder / "summary.csv"
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(rows)
        print(f"{len(rows)} jobs summarised in {path}")


def _number(job: Path) -> tuple[int, str]:
    name = job.parent.name
    return (int(name), "") if name.isdigit() else (-1, name)


def _row(job: Path) -> dict[str, Any]:
    folder = job.parent
    overrides = OmegaConf.to_object(OmegaConf.load(job / "overrides.yaml"))
    row: dict[str, Any] = {"job": folder.name, **dict(item.lstrip("+").split("=", 1) for item in overrides)}
    metrics = folder / "metrics.json"
    row["status"] = "finished" if metrics.is_file() else "failed"
    if metrics.is_file():
        row |= json.loads(metrics.read_text())["test"]
    return row
