"""The run folder of a model of frequencies: every file that it leaves, and the last lines on the screen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from anndata import AnnData
from matplotlib.figure import Figure
from omegaconf import OmegaConf

from stormcell.report import figures, frequency_figures, frequency_lists, frequency_modules, frequency_tables
from stormcell.report.dashboards import publish
from stormcell.report.folder import close, command, data_card, flat, history, screen, write_cells, write_metrics
from stormcell.report.frequency_judgement import FrequencyJudgement
from stormcell.report.frequency_page import render
from stormcell.report.frequency_picture import frequency_space
from stormcell.report.method_board import print_scoreboard


def write_frequency_judgement(
    judgement: FrequencyJudgement,
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
    frequency_tables.write(judgement, folder)
    data.split.table.to_csv(folder / "tables" / "split.csv", index=False)
    paths = figures.save(_drawn(judgement, history(folder), config, embedding), folder / "figures")
    write_metrics(judgement, card, timing, folder)
    write_cells(with_frequencies(judgement), folder / "predictions.h5ad")
    publish(loggers, judgement, paths, config, flat(judgement, judgement.methods))
    yaml = OmegaConf.to_yaml(OmegaConf.create(config))
    render(judgement, paths, card, yaml, [command(), again], timing, folder / "report.html")
    print_scoreboard(judgement, screen())
    close(folder, again)


def _drawn(
    judgement: FrequencyJudgement, logged: pd.DataFrame, config: dict[str, Any], embedding: str
) -> dict[str, Figure]:
    """The figures that these cells and this model allow, by name."""
    drawn = {
        "space": frequency_space(judgement, embedding),
        "scores": frequency_figures.scores(judgement),
        "per_frequency": frequency_figures.per_frequency(judgement),
        "spectrum": frequency_figures.spectrum(judgement),
        "modules": frequency_modules.module_heatmap(judgement),
        "lists": frequency_lists.gene_lists(judgement),
        "enrichment": frequency_modules.enrichment(judgement),
        "hierarchy": frequency_lists.hierarchy(judgement),
    }
    if len(logged):
        drawn["loss"] = figures.loss_curves(logged, config["objective"], config["objective_mode"])
    return {name: figure for name, figure in drawn.items() if figure is not None}


def with_frequencies(judgement: FrequencyJudgement) -> AnnData:
    """The cells of the judgement, or those of its picture without expression: obsm X_picture and X_frequencies."""
    if judgement.adata is not None:
        return judgement.adata
    points, names = judgement.points, judgement.frequencies
    obs = points.drop(columns=["x", "y", *names], errors="ignore")
    adata = AnnData(obs=obs.set_axis(obs.index.astype(str)))
    adata.obsm["X_picture"] = points.reindex(columns=["x", "y"]).to_numpy(float)
    if names:
        adata.obsm["X_frequencies"] = points[names].to_numpy(float)
    return adata
