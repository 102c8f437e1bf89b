"""history.csv: one row per logged step, one column per logged value; a resumed run goes on in the same table."""

from __future__ import annotations

import csv
import time
from collections.abc import Mapping
from pathlib import Path

from pytorch_lightning.loggers.logger import Logger
from pytorch_lightning.utilities import rank_zero_only


class History(Logger):
    """Lightning's CSVLogger deletes the table of a run that goes on; this one keeps it.

    Rows are keyed by step: what a resumed run computes again replaces what stood there. A table without last.ckpt
    beside it is of a run that was stopped before its first checkpoint: nothing goes on from it.
    """

    def __init__(self, folder: str) -> None:
        super().__init__()
        self.path = Path(folder) / "history.csv"
        self._rows: dict[int, dict[str, float | str]] = {}
        self._saved = 0.0
        if self.path.is_file() and (self.path.parent / "checkpoints" / "last.ckpt").is_file():
            with self.path.open(newline="") as file:
                for row in csv.DictReader(file):
                    step = int(row.pop("step"))
                    self._rows[step] = {key: value for key, value in row.items() if value != ""}

    name = "history"
    version = ""

    @rank_zero_only
    def log_hyperparams(self, params, *args, **kwargs) -> None:
        """config.yaml has them."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        step = int(step or 0)
        for later in [row for row in self._rows if row > step]:  # made after the checkpoint that this run went on from
            del self._rows[later]
        self._rows.setdefault(step, {}).update({k: float(v) for k, v in metrics.items() if k != "epoch"})
        # Written at every validation, when last.ckpt is written too, else at most every five seconds.
        if any(key.startswith("val/") for key in metrics) or time.monotonic() - self._saved > 5:
            self._write()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        self._write()

    def _write(self) -> None:
        columns = ["step", *sorted({key for row in self._rows.values() for key in row})]
        part = self.path.with_name("history.csv.part")
        with part.open("w", newline="") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows({"step": step, **self._rows[step]} for step in sorted(self._rows))
        part.replace(self.path)
        self._saved = time.monotonic()
