"""The closing report on TensorBoard and W&B: figures as images, the scoreboard as a table, the config, test metrics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from stormcell.report.judgement import Judgement
from stormcell.report.latent_judgement import LatentJudgement
from stormcell.report.network_judgement import NetworkJudgement


def publish(
    loggers: list,
    judgement: Judgement | LatentJudgement | NetworkJudgement,
    figures: dict[str, Path],
    config: dict[str, Any],
    metrics: dict[str, Any],
) -> None:
    """To each logger what it can show; history.csv has nothing to add."""
    numbers = {f"test/{name}": value for name, value in metrics.items() if value is not None}
    for logger in loggers:
        kind = type(logger).__name__
        if kind == "WandbLogger":
            logger.experiment.config.update(config, allow_val_change=True)
            logger.experiment.summary.update(numbers)
            logger.log_table("scoreboard", dataframe=judgement.scoreboard)
            for name, path in figures.items():
                logger.log_image(name, [str(path)])
        elif kind == "TensorBoardLogger":
            from PIL import Image

            board = logger.experiment
            board.add_text("verdict", "\n\n".join(judgement.verdict))
            board.add_text("scoreboard", f"```\n{judgement.scoreboard.round(3).to_string(index=False)}\n```")
            for name, path in figures.items():
                board.add_image(name, np.asarray(Image.open(path).convert("RGB")), dataformats="HWC")
            for name, value in numbers.items():
                board.add_scalar(name, value)
            board.flush()
