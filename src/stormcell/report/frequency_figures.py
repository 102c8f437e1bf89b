"""The scores of a model of frequencies and the spectrum of its cell graph as pictures.

scores         the scoreboard with its intervals
per_frequency  every method on every frequency
spectrum       eigenvalues with their blocks, cells that hold a frequency, extension to new cells
"""

from __future__ import annotations

import textwrap

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from stormcell.evaluation.frequency_metrics import CHANCE, FREQUENCY_METRICS
from stormcell.report import drawing
from stormcell.report.drawing import BASELINE, FAINT, INK, MODEL, QUIET, SMALL, TEXT, TRUTH, dress, new_figure
from stormcell.report.frequency_judgement import FrequencyJudgement, axis, bare, column, marked, named
from stormcell.report.judgement import middle, number
from stormcell.report.network_graph import cut

MOST_METRICS, MOST_COLUMNS = 4, 20  # more cannot be read
MOST_BESIDE = 12  # columns of a panel that has another one beside it
FLOOR = -0.5  # R² below is written beside the frame: one far method would press the rest flat
PALE, DARK = "#EFEFEF", 0.82  # no value; share from which white is read better than black
LONGEST = 26  # characters of a name
LINE = 24  # characters of a title
MEASURES = {"r2": "R² on held-out cells", "mae_ratio": "Error over null", "recall": "Share of the cells named right"}
FEW = 10  # participation N Σ v⁴ (1: spread evenly) above which a frequency sits on less than about a tenth of the cells


def scores(judgement: FrequencyJudgement) -> Figure | None:
    """A row of panels per group of the scoreboard, one panel per metric, one line per method. None without a value."""
    asked = {group: judgement.metrics(group)[:MOST_METRICS] for group in judgement.groups}
    asked = {group: names for group, names in asked.items() if names}
    if not asked:
        return None
    tall = [0.28 * len(judgement.rows(group)) + 1.2 for group in asked]
    columns = max(map(len, asked.values()))
    detail = "Dashed line: what a method that knows nothing scores. Bars: 95 % intervals over held-out cells. Green: a "
    detail += "yardstick, no rival. R² below −0.5 is written at the frame."
    figure = new_figure(3.2 + 2.9 * columns, sum(tall), _score_finding(judgement, asked), detail)
    panels = figure.subplots(len(asked), columns, squeeze=False, height_ratios=tall)
    for line, (group, names) in zip(panels, asked.items(), strict=True):
        for axes in line[len(names) :]:
            axes.set_axis_off()
        rows = judgement.rows(group)
        for axes, name in zip(line, names, strict=False):
            _score(axes, judgement, rows, name)
            dress(axes, textwrap.fill(FREQUENCY_METRICS[name].label, LINE), under=judgement.aim(name))
        line[0].set_yticks(range(len(rows)), [cut(str(name), LONGEST) for name in rows["method"]], parse_math=False)
        _bold(line[0], judgement, list(rows["method"]))
    return figure


def _bold(axes: Axes, judgement: FrequencyJudgement, methods: list[str]) -> None:
    """The names of the model on the left of a panel."""
    for label, method in zip(axes.get_yticklabels(), methods, strict=True):
        if method in judgement.methods:
            label.set(color=MODEL, fontweight="bold")


def _score_finding(judgement: FrequencyJudgement, asked: dict[str, list[str]]) -> str:
    """The first metric of every group, beside the best simple answer."""
    told = []
    for group, names in asked.items():
        own, rival = (
            judgement.value(group, judgement.methods[0], names[0]),
            judgement.best_baseline(group, names[0]),
        )
        words = f"{FREQUENCY_METRICS[names[0]].label} {number(own)}"
        told.append(words + (f", best simple answer {number(rival[1])} ({rival[0]})" if rival else ""))
    return f"{judgement.methods[0]}: " + "; ".join(told)


def _score(axes: Axes, judgement: FrequencyJudgement, rows: pd.DataFrame, name: str) -> None:
    """Values of one metric, the model on top."""
    kinds = {"model": MODEL, "baseline": QUIET, "ceiling": TRUTH}
    colours = [kinds[judgement.kind(method)] for method in rows["method"]]
    places = np.arange(len(rows))
    value, low, high = (column(rows, f"{name}{end}").to_numpy() for end in ("", "_low", "_high"))
    if name in CHANCE:
        axes.axvline(CHANCE[name], color=INK, linewidth=1.2, linestyle=(0, (3, 2)), zorder=0)
    axes.hlines(places, low, high, color=colours, linewidth=2)
    axes.scatter(value, places, s=36, color=colours, zorder=3)
    axes.set(ylim=(len(rows) - 0.4, -0.6), yticks=[])
    far = value < FLOOR if "r2" in name else np.zeros(len(value), bool)
    if far.any():
        top = np.nanmax(np.where(far, np.nan, np.fmax(value, high)), initial=0.0)
        axes.set_xlim(FLOOR, top + 0.08 * (top - FLOOR))
        for place in np.flatnonzero(far):
            axes.text(FLOOR, place, f" ◂ −{number(-value[place])}", fontsize=SMALL, color=colours[place], va="center")
    axes.xaxis.set_major_locator(MaxNLocator(4))


def per_frequency(judgement: FrequencyJudgement) -> Figure | None:
    """Methods × frequencies, a panel per measure; of a classifier methods × classes. None without a value."""
    table = judgement.table("per_frequency")
    if table.empty:
        table = judgement.table("per_class").rename(columns={"class": "frequency"})
    names = [name for name in ("r2", "mae_ratio", "recall") if column(table, name).notna().any()]
    if not names:
        return None
    order = [*judgement.methods, *judgement.baselines]
    found = list(dict.fromkeys(table["method"].astype(str)))
    methods = [name for name in order if name in found] + [name for name in found if name not in order]
    shown = list(dict.fromkeys(table["frequency"]))[:MOST_COLUMNS]
    labels = [cut(bare(frequency), LONGEST) for frequency in shown]
    turned = max(map(len, labels)) > 3
    down = len(names) if len(shown) > MOST_BESIDE else 1
    across = len(names) // down
    size = 3.0 + (0.56 * len(shown) + 0.3) * across, (0.32 * len(methods) + 1.4 + turned) * down
    detail = "Darker is better; bold: the best competing method of a column."
    figure = new_figure(max(7.0, size[0]), size[1], _frequency_finding(judgement, table, names[0]), detail)
    grid = figure.subplots(down, across, squeeze=False)
    rivals = [place for place, method in enumerate(methods) if judgement.kind(method) != "ceiling"]
    for axes, name in zip(grid.ravel(), names, strict=True):
        one = table.assign(method=table["method"].astype(str), value=column(table, name))
        one = one.drop_duplicates(["method", "frequency"])
        values = one.pivot(index="method", columns="frequency", values="value").reindex(index=methods, columns=shown)
        _written(axes, values.to_numpy(float), _high(name), rivals)
        dress(axes, MEASURES.get(name, name), axis(shown))
        axes.tick_params(length=0)
        axes.spines[["left", "bottom"]].set_visible(False)
        axes.set_xticks(range(len(shown)), labels, rotation=90 if turned else 0, parse_math=False)
    for axes in grid[:, 0]:
        axes.set_yticks(range(len(methods)), [cut(name, LONGEST) for name in methods], parse_math=False)
        _bold(axes, judgement, methods)
    return figure


def _high(name: str) -> bool:
    """Is a high value of a measure good?"""
    return name not in FREQUENCY_METRICS or FREQUENCY_METRICS[name].direction == "higher"


def _written(axes: Axes, values: np.ndarray, high: bool, rivals: list[int]) -> None:
    """A matrix whose values stand in it; 0 to 1, what is beyond has the colour of the end."""
    shade = values if high else 1 - values
    colours = colormaps["Blues"].with_extremes(bad=PALE)
    axes.imshow(np.ma.masked_invalid(shade), cmap=colours, vmin=0, vmax=1.25, aspect="auto", interpolation="none")
    axes.set(xticks=[], yticks=[])
    competing = np.where(np.isin(np.arange(len(values)), rivals)[:, None] & np.isfinite(shade), shade, -np.inf)
    top = competing.max(axis=0)
    for (row, place), value in np.ndenumerate(values):
        if np.isfinite(value):
            style = {"fontweight": "bold"} if competing[row, place] == top[place] else {}
            style |= {"color": "white" if shade[row, place] > DARK else INK, "fontsize": SMALL - 1}
            axes.text(place, row, _short(value), ha="center", va="center", **style)


def _short(value: float) -> str:
    """Two decimals without the zero before them: .86, −.03; one decimal from 1 on."""
    words = f"{round(value, 2) + 0.0:.2f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:.1f}"
    return words.replace("-", "−")


def _frequency_finding(judgement: FrequencyJudgement, table: pd.DataFrame, name: str) -> str:
    """On how many frequencies no simple answer is better."""
    method, value = judgement.methods[0], column(table, name) * (1 if _high(name) else -1)
    own = value[table["method"] == method].groupby(table["frequency"]).first()
    rival = value[table["method"].isin(judgement.baselines)].groupby(table["frequency"]).max()
    own, rival = own.dropna().align(rival.dropna(), join="inner")
    what = "classes" if name == "recall" else "frequencies"
    if own.empty:
        return f"{method}: no {what} that a simple answer tells too"
    return f"{method} is at least as good as every simple answer on {(own >= rival).sum()} of {len(own)} {what}"


def spectrum(judgement: FrequencyJudgement) -> Figure | None:
    """Eigenvalues, on how few cells a frequency sits, how well it extends to new cells. None without eigenvalues."""
    table = judgement.table("spectrum")
    if table.empty or column(table, "eigenvalue").isna().all():
        return None
    extension = judgement.table("extension")
    extended = len(extension) and column(extension, "correlation").notna().any()
    spread = column(table, "participation").notna().any()
    filled = marked(table, "trusted") | ("trusted" not in table)
    detail = "Filled: the gap allows the frequency to be read alone; hollow: only together with its neighbours. A band "
    detail += "joins eigenvalues too close to tell apart."
    panels = 1 + bool(spread) + bool(extended)
    figure = new_figure(max(7.0, 4.4 * panels), 3.7, _spectrum_finding(table), detail)
    axes = list(figure.subplots(1, panels, squeeze=False)[0])
    places = pd.Series(np.arange(len(table)), index=[named(name) for name in table["frequency"]])
    _eigenvalues(axes[0], table, filled)
    if spread:
        axes[1].axhline(FEW, color=INK, linewidth=1.2, linestyle=(0, (3, 2)), zorder=0)
        _dots(axes[1], column(table, "participation"), filled)
        axes[1].set(yscale="log", ylim=(0.8, 1.5 * max(column(table, "participation").max(), FEW)))
        axes[1].yaxis.set_major_formatter("{x:g}")
        axes[1].yaxis.set_minor_locator(NullLocator())
        dress(axes[1], "Localisation", "frequency", "N Σ v⁴", "1: spread evenly; above the line: few cells")
    if extended:
        _extension(axes[-1], extension, places)
    for panel in axes:
        panel.set_xticks(places, [bare(name) for name in places.index], parse_math=False)
        panel.set_xlim(-0.6, len(places) - 0.4)
        if len(places) > 12:
            panel.xaxis.set_major_locator(MaxNLocator(10, integer=True))
            panel.xaxis.set_major_formatter(lambda place, _: f"{place + 1:.0f}")
    return figure


def _spectrum_finding(table: pd.DataFrame) -> str:
    values = column(table, "eigenvalue")
    words = f"{len(table)} frequencies, eigenvalues {number(values.min())} to {number(values.max())}"
    if "trusted" in table:
        words += f"; {marked(table, 'trusted').sum()} can be read alone"
    few = [named(name) for name in table["frequency"][column(table, "participation") > FEW]]
    if few:
        words += f"; {', '.join(few[:3])}{' and more' if len(few) > 3 else ''} on few cells"
    return words


def _eigenvalues(axes: Axes, table: pd.DataFrame, filled: pd.Series) -> None:
    """One dot per frequency, a band behind those of a block."""
    if "block" in table:
        blocks = table["block"].to_numpy()
        for block in pd.unique(blocks[~pd.isna(blocks)]):
            inside = np.flatnonzero(blocks == block)
            if len(inside) > 1:
                axes.axvspan(inside.min() - 0.45, inside.max() + 0.45, color=FAINT, alpha=0.45, linewidth=0, zorder=0)
    _dots(axes, column(table, "eigenvalue"), filled)
    axes.set_ylim(0, 1.08 * max(column(table, "eigenvalue").max(), 1e-12))
    dress(axes, "Eigenvalues", "frequency", "eigenvalue of the Laplacian")


def _dots(axes: Axes, values: pd.Series, filled: pd.Series) -> None:
    faces = np.where(filled, MODEL, "white")
    axes.scatter(np.arange(len(values)), values, s=46, color=faces, edgecolors=MODEL, linewidths=1.6, zorder=3)


def _extension(axes: Axes, table: pd.DataFrame, places: pd.Series) -> None:
    """Correlation of extended with true values of training cells left out of the graph, frequency by frequency."""
    at = places.reindex([named(name) for name in table["frequency"]]).to_numpy(float)
    looks = {
        "correlation": ("one by one", MODEL, "o"),
        "rotated": ("after one rotation", BASELINE, "s"),
        "ceiling": ("ceiling: mean of true neighbours", TRUTH, "_"),
    }
    for name, (words, colour, mark) in looks.items():
        value = column(table, name)
        if value.notna().any():
            hollow = {} if name != "rotated" else {"markerfacecolor": "none", "markeredgewidth": 1.8}
            size = 7 if mark != "_" else 13
            axes.plot(at, value, mark, color=colour, ms=size, label=words, **hollow)
    axes.set_ylim(min(0, column(table, "correlation").min()) - 0.02, 1.05)
    under = f"median {number(middle(column(table, 'correlation').to_numpy()))}, one by one"
    dress(axes, "Extension to new cells", "frequency", "correlation with the true values", under)
    axes.yaxis.label.set_fontsize(TEXT - 0.5)
    drawing.legend(axes, loc="lower left", handletextpad=0.3, labelspacing=0.25)
