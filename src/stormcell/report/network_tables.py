"""The tables of a transition network as CSV."""

from __future__ import annotations

from pathlib import Path

from stormcell.report.network_judgement import NetworkJudgement
from stormcell.report.tables import write_csv


def write(judgement: NetworkJudgement, folder: Path) -> list[Path]:
    """Writes scoreboard.csv and tables/*.csv at full precision; returns their paths. Tables without rows are skipped.

    cells.csv has one row per cell of the picture, predicted.csv one per predicted value that is drawn.
    """
    cells = judgement.points.rename_axis("cell").reset_index()
    return write_csv(
        folder, judgement.scoreboard, {"cells": cells, "predicted": judgement.predicted, **judgement.tables}
    )
