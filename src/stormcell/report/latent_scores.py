"""The metrics of a latent model as pictures: beside the baselines on held-out cells, and along the training.

scores    every metric of the scoreboard, one small panel each
followed  the metrics that were followed on validation cells, over the optimizer steps
"""

from __future__ import annotations

import textwrap

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from stormcell.evaluation.latent_metrics import LATENT_METRICS
from stormcell.report import drawing
from stormcell.report.drawing import INK, MODEL, QUIET, TRUTH, dress, new_figure
from stormcell.report.judgement import number
from stormcell.report.latent_judgement import LatentJudgement
from stormcell.report.latent_tables import aim, chance, distance, in_order, metrics

PANELS = 4  # side by side
LINE = 24  # characters of a title


def scores(judgement: LatentJudgement) -> Figure | None:
    """One panel per metric, one line per method: value and interval, the model in blue, ceilings in green.

    Solid line: the right value, where there is one to be near to; dashed: chance. None without any value.
    """
    names, methods = metrics(judgement), in_order(judgement)
    if not names:
        return None
    columns = min(PANELS, len(names))
    rows = -(-len(names) // columns)
    detail = "Dashed line: chance; solid line: the right value. Bars: 95 % intervals over held-out cells. Green: what "
    detail += "the cells allow, no rival."
    height = (0.25 * len(methods) + 1.15) * rows
    figure = new_figure(2.1 + 2.9 * columns, height, _finding(judgement, names), detail)
    panels = figure.subplots(rows, columns, squeeze=False)
    for axes, name in zip(panels.ravel(), names, strict=False):
        _metric(axes, judgement, name, methods)
    for axes in panels.ravel()[len(names) :]:
        axes.set_axis_off()
    for axes in panels[:, 0]:
        axes.set_yticks(range(len(methods)), methods, parse_math=False)
        for label, method in zip(axes.get_yticklabels(), methods, strict=True):
            if method in judgement.methods:
                label.set(color=MODEL, fontweight="bold")
    return figure


def _finding(judgement: LatentJudgement, names: list[str]) -> str:
    """On how many metrics no baseline is better than the model's first row."""
    method, ahead, asked = judgement.methods[0], 0, 0
    for name in names:
        own = float(distance(judgement.value(method, name), name))
        rivals = [float(distance(judgement.value(rival, name), name)) for rival in judgement.baselines]
        if np.isfinite(own) and np.isfinite(rivals).any():
            asked += 1
            ahead += own <= min(rivals)
    if not asked:
        return f"{method}: no metric that a baseline has too"
    return f"{method} is at least as good as every baseline on {ahead} of {asked} metrics"


def _metric(axes: Axes, judgement: LatentJudgement, name: str, methods: list[str]) -> None:
    """Values of one metric, the model on top."""
    places = np.arange(len(methods))
    kinds = {**dict.fromkeys(judgement.baselines, QUIET), **dict.fromkeys(judgement.methods, MODEL)}
    colours = [kinds.get(method, TRUTH) for method in methods]
    value, low, high = (
        np.array([judgement.value(method, f"{name}{end}") for method in methods]) for end in ("", "_low", "_high")
    )
    _lines(axes, judgement, name, axes.axvline)
    axes.hlines(places, low, high, color=colours, linewidth=2)
    axes.scatter(value, places, s=36, color=colours, zorder=3)
    about = LATENT_METRICS[name]
    dress(axes, textwrap.fill(about.label, LINE), under=aim(judgement, name))
    axes.set(ylim=(len(methods) - 0.4, -0.6), yticks=[])
    axes.xaxis.set_major_locator(MaxNLocator(4))


def _lines(axes: Axes, judgement: LatentJudgement, name: str, line) -> None:
    """Chance dashed, the value to be near to solid; `line` is axes.axvline or axes.axhline."""
    about, guess = LATENT_METRICS[name], chance(judgement, name)
    if about.best is not None:
        line(about.best, color=INK, linewidth=1.2, zorder=0)
    elif np.isfinite(guess):
        line(guess, color=INK, linewidth=1.2, linestyle=(0, (3, 2)), zorder=0)


def followed(judgement: LatentJudgement, history: pd.DataFrame) -> Figure | None:
    """The metrics that training followed on validation cells: step on x, one panel each, chance or right value marked.

    `history` has a column `step` and columns val/<metric>. None where fewer than two values of each were logged.
    """
    names = [name for name in LATENT_METRICS if history.get(f"val/{name}", pd.Series(dtype=float)).count() > 1]
    if not names:
        return None
    first = [history[f"val/{name}"].dropna().iloc[0] for name in names]
    last = [history[f"val/{name}"].dropna().iloc[-1] for name in names]
    told = [
        f"{LATENT_METRICS[name].label} from {number(start)} to {number(end)}"
        for name, start, end in zip(names[:3], first, last, strict=False)
    ]
    detail = "On a fixed subset of validation cells. Dashed line: chance; solid line: the right value."
    figure, panels = drawing.new_grid(len(names), 2.9, "In training: " + ", ".join(told), detail)
    for axes, name in zip(panels, names, strict=True):
        curve = history[["step", f"val/{name}"]].dropna()
        _lines(axes, judgement, name, axes.axhline)
        axes.plot(curve["step"], curve[f"val/{name}"], color=MODEL, linewidth=1.5, marker="o", markersize=4)
        dress(axes, textwrap.fill(LATENT_METRICS[name].label, LINE), "optimizer step", under=aim(judgement, name))
        axes.xaxis.set_major_locator(MaxNLocator(4))
    return figure
