"""The run folder of a latent model: every file that a judged model leaves, and the last lines on the screen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from omegaconf import OmegaConf

from stormcell.evaluation.latent_metrics import LATENT_METRICS
from stormcell.report import figures, latent_tables
from stormcell.report.dashboards import publish
from stormcell.report.folder import close, command, data_card, flat, history, screen, write_cells, write_metrics
from stormcell.report.latent_effects import factor_effects, programmes
from stormcell.report.latent_figures import criticism, escape
from stormcell.report.latent_judgement import LatentJudgement
from stormcell.report.latent_page import render
from stormcell.report.latent_picture import latent_picture
from stormcell.report.latent_scores import followed, scores


def write_latent_judgement(
    judgement: LatentJudgement,
    data: Any,
    config: dict[str, Any],
    folder: Path,
    embedding: str,
    again: str,
    timing: dict[str, float],
    loggers: list,
) -> None:
    """scoreboard.csv, tables/, figures/, metrics.json, predictions.h5ad and report.html, then the closing lines.

    `config`: plain, of the run; `again`: the command that judges the same thing again.
    """
    card = data_card(data)
    latent_tables.write(judgement, folder)
    data.split.table.to_csv(folder / "tables" / "split.csv", index=False)
    paths = figures.save(_drawn(judgement, history(folder), config, embedding), folder / "figures")
    write_metrics(judgement, card, timing, folder)
    if judgement.adata is not None:
        write_cells(judgement.adata, folder / "predictions.h5ad")
    publish(loggers, judgement, paths, config, flat(judgement, judgement.methods))
    yaml = OmegaConf.to_yaml(OmegaConf.create(config))
    render(judgement, paths, card, yaml, [command(), again], timing, folder / "report.html")
    latent_tables.print_scoreboard(judgement, screen())
    close(folder, again)


def _drawn(
    judgement: LatentJudgement, logged: pd.DataFrame, config: dict[str, Any], embedding: str
) -> dict[str, Figure]:
    """The figures that these cells and this model allow, by name."""
    drawn = {
        "latents": latent_picture(judgement, embedding),
        "scores": scores(judgement),
        "escape": escape(judgement),
        "programmes": programmes(judgement),
        "factor_effects": factor_effects(judgement),
        "criticism": criticism(judgement),
        "followed": followed(judgement, logged),
    }
    if len(logged):
        apart = {f"val/{name}" for name in LATENT_METRICS} - {config["objective"]}
        parts = logged.drop(columns=[name for name in logged if name in apart])
        drawn["loss"] = figures.loss_curves(parts, config["objective"], config["objective_mode"])
    return {name: figure for name, figure in drawn.items() if figure is not None}
