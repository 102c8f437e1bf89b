"""Regulators perturbed in silico: the genes that the network of a transition would shift most."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from stormcell.report.drawing import INK, QUIET, dress, new_figure
from stormcell.report.judgement import number
from stormcell.report.network_graph import ACTIVATES, REPRESSES, cut
from stormcell.report.network_judgement import ARROW, NetworkJudgement

MOST_REGULATORS, MOST_GENES = 4, 12  # rows of panels, bars of one


def perturbations(judgement: NetworkJudgement) -> Figure | None:
    """A row of panels per regulator, a panel per kind of perturbation, of the transition or path that it shifts most.

    None without a perturbation.
    """
    table = judgement.table("perturbations")
    if table.empty:
        return None
    table = table.astype({"transition": str, "regulator": str, "kind": str})
    regulators, kinds = (list(dict.fromkeys(table[name])) for name in ("regulator", "kind"))
    regulators = regulators[:MOST_REGULATORS]
    detail = (
        "Mean shift of the source cells when the regulator is held at 0, or at its highest observed value, and its "
    )
    detail += (
        "effect runs through the network; whisker: standard deviation over the cells. Each panel: the transition, "
    )
    detail += "or path of transitions, with the largest shifts. A prediction, no measurement."
    size = 5.6 * len(kinds), (0.26 * MOST_GENES + 1.1) * len(regulators)
    figure = new_figure(*size, _finding(table), detail)
    panels = figure.subplots(len(regulators), len(kinds), squeeze=False)
    for line, regulator in zip(panels, regulators, strict=True):
        for axes, kind in zip(line, kinds, strict=True):
            _bars(axes, table[(table["regulator"] == regulator) & (table["kind"] == kind)], f"{cut(regulator)} {kind}")
    return figure


def _finding(table: pd.DataFrame) -> str:
    """The largest shift of all."""
    top = table.loc[table["shift"].abs().idxmax()]
    words = f"In silico, {top['regulator']} {top['kind']} shifts {top['gene']} most"
    return f"{words}: {number(top['shift'])} on {route(top['transition'])}"


def _bars(axes: Axes, rows: pd.DataFrame, title: str) -> None:
    """The genes of largest absolute shift of one route, the largest on top."""
    if rows.empty:
        dress(axes, title, under="no gene is shifted")
        axes.set_axis_off()
        return
    chosen = rows["shift"].abs().groupby(rows["transition"], sort=False).sum().idxmax()
    rows = rows[rows["transition"] == chosen]
    top = rows.iloc[np.argsort(-rows["shift"].abs(), kind="stable")[:MOST_GENES]]
    places, colours = np.arange(len(top)), np.where(top["shift"] > 0, ACTIVATES, REPRESSES)
    axes.barh(places, top["shift"], xerr=top["shift_sd"], color=colours, height=0.7, error_kw={"ecolor": QUIET})
    axes.axvline(0, color=INK, linewidth=1)
    axes.set_yticks(places, [cut(str(name)) for name in top["gene"]], parse_math=False)
    axes.set_ylim(MOST_GENES - 0.4, -0.6)
    dress(axes, title, "shift of expression (natural unit)", under=route(chosen))


def route(words: str) -> str:
    """`A>B>C>D` as A → … → D with the number of transitions: a path is too long for a title."""
    names = words.split(">")
    if len(names) == 2:
        return ARROW.join(names)
    return f"{names[0]}{ARROW}…{ARROW}{names[-1]} ({len(names) - 1} transitions)"
