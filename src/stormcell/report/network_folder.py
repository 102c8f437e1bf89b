"""The run folder of a transition network: every file that it leaves, and the last lines on the screen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from omegaconf import OmegaConf

from stormcell.report import figures, network_figures, network_tables
from stormcell.report.dashboards import publish
from stormcell.report.folder import close, command, data_card, flat, history, screen, write_cells, write_metrics
from stormcell.report.method_board import print_scoreboard
from stormcell.report.network_export import export, with_networks
from stormcell.report.network_graph import network_graph
from stormcell.report.network_judgement import NetworkJudgement
from stormcell.report.network_page import render
from stormcell.report.network_perturbed import perturbations
from stormcell.report.network_picture import fit_of_cells, network_cells
from stormcell.report.network_ranking import ranking


def write_network_judgement(
    judgement: NetworkJudgement,
    data: Any,
    config: dict[str, Any],
    folder: Path,
    embedding: str,
    again: str,
    timing: dict[str, float],
    loggers: list,
) -> None:
    """scoreboard.csv, tables/, network.graphml, figures/, metrics.json, predictions.h5ad and report.html, then the
    closing lines.

    `config`: plain, of the run; `again`: the command that judges the same thing again.
    """
    card = data_card(data)
    network_tables.write(judgement, folder)
    export(judgement, folder)
    data.split.table.to_csv(folder / "tables" / "split.csv", index=False)
    paths = figures.save(_drawn(judgement, history(folder), config, embedding), folder / "figures")
    write_metrics(judgement, card, timing, folder)
    write_cells(with_networks(judgement), folder / "predictions.h5ad")
    publish(loggers, judgement, paths, config, flat(judgement, judgement.methods))
    yaml = OmegaConf.to_yaml(OmegaConf.create(config))
    render(judgement, paths, card, yaml, [command(), again], timing, folder / "report.html")
    print_scoreboard(judgement, screen())
    close(folder, again)


def _drawn(
    judgement: NetworkJudgement, logged: pd.DataFrame, config: dict[str, Any], embedding: str
) -> dict[str, Figure]:
    """The figures that these cells and this network allow, by name."""
    drawn = {
        "network": network_graph(judgement),
        "cells": network_cells(judgement, embedding),
        "scores": network_figures.scores(judgement),
        "fit": fit_of_cells(judgement),
        "transitions": network_figures.network_heatmap(judgement),
        "differential": network_figures.differential(judgement),
        "regulators": ranking(judgement),
        "perturbations": perturbations(judgement),
        "cofactors": network_figures.cofactors(judgement),
    }
    if len(logged):
        drawn["loss"] = figures.loss_curves(logged, config["objective"], config["objective_mode"])
    return {name: figure for name, figure in drawn.items() if figure is not None}
