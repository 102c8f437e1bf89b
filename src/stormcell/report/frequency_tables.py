"""The tables of a model of frequencies as CSV."""

from __future__ import annotations

from pathlib import Path

from stormcell.report.frequency_judgement import FrequencyJudgement
from stormcell.report.tables import write_csv


def write(judgement: FrequencyJudgement, folder: Path) -> list[Path]:
    """Writes scoreboard.csv and tables/*.csv at full precision; returns their paths. Tables without rows are skipped.

    cells.csv has one row per cell of the picture, with its frequencies.
    """
    cells = judgement.points.rename_axis("cell").reset_index()
    return write_csv(folder, judgement.scoreboard, {"cells": cells, **judgement.tables})
