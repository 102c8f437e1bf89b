"""The cells in the plane of their frequencies: by type, and by each of the first frequencies.

Shapes: N cells, F frequencies.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from stormcell.report import drawing
from stormcell.report.drawing import FAINT, INK, MANY, QUIET, SMALL, TEXT, dress, new_figure
from stormcell.report.frequency_judgement import FrequencyJudgement, column, named
from stormcell.report.judgement import number
from stormcell.report.network_graph import cut

MOST_CELLS, MOST_NAMES, MOST_FREQUENCIES = 20_000, 8, 10  # more points cover each other, more colours cannot be told
SIDE, COLUMNS = 3.4, 4  # inches of a panel, panels side by side
END = 2.0  # root mean squares: end of the colour scale
FEWEST = 5  # cells of a type that a title names
LONGEST = 24  # characters of a name
TYPES = {"cell_type": "cell type", "cluster": "cluster"}


def frequency_space(judgement: FrequencyJudgement, embedding: str, seed: int = 0) -> Figure | None:
    """Cells by type, then by each of the first six frequencies, all on one scale. None without cells.

    `embedding` names the axes: "umap" or "pca".
    """
    points = judgement.points
    names = [name for name in judgement.frequencies if points[name].notna().any()][:MOST_FREQUENCIES]
    known = next((name for name in TYPES if name in points and points[name].notna().any()), None)
    if points.empty or not (names or known):
        return None
    order = np.random.default_rng(seed).permutation(len(points))[:MOST_CELLS]  # no group lies on top of the others
    cells = points.iloc[order]
    panels = 2 * (known is not None) + len(names)
    columns = min(COLUMNS, panels)
    rows = -(-panels // columns)
    figure = new_figure(
        SIDE * columns + 0.9, SIDE * rows, _finding(points, names, known), _detail(points, names, embedding)
    )
    every = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in every[panels:]:
        axes.set_axis_off()
    if known:
        words, colours = _groups(cells[known])
        _scatter(every[0], cells, [colours[word] for word in words])
        dress(every[0], TYPES[known])
        _key(every[1], colours)
    scale = Normalize(-END, END)
    for axes, name in zip(every[panels - len(names) :], names, strict=False):
        _scatter(axes, cells, cells[name].to_numpy(float), cmap="viridis", norm=scale)
        dress(axes, name, under=_under(judgement, name))
    axis = "UMAP" if embedding == "umap" else "PC"
    for axes in every[:panels]:
        if axes.axison:
            axes.set(xticks=[], yticks=[], xlabel=f"{axis} 1", ylabel=f"{axis} 2")
            axes.margins(0.04)
    if names:
        bar = figure.colorbar(
            ScalarMappable(scale, "viridis"), ax=every, shrink=0.8 / rows, aspect=16, pad=0.01, extend="both"
        )
        bar.set_label("value (root mean square 1)", fontsize=TEXT, color=INK)
        bar.ax.tick_params(labelsize=SMALL)
        bar.outline.set_visible(False)
    return figure


def _detail(points: pd.DataFrame, names: list[str], embedding: str) -> str:
    shown = f"{MOST_CELLS:,} of " if len(points) > MOST_CELLS else ""
    detail = f"{shown}{len(points):,} cells in the plane of all frequencies."
    if names:
        detail += f" Under a title: eigenvalue λ, R² on held-out cells. Colours end at ±{END:g}; signs are arbitrary."
    return detail + (" Distances in a UMAP mean little." if embedding == "umap" else "")


def _finding(points: pd.DataFrame, names: list[str], known: str | None) -> str:
    """Which types lie at the two ends of the first frequencies: largest and smallest median of a type."""
    told = []
    for name in names[:2] if known else []:
        by = points[name].groupby(points[known].astype(object))
        median = by.median()[by.count() >= FEWEST].dropna()
        if len(median) > 1:
            low, high = (cut(str(end), LONGEST) for end in (median.idxmin(), median.idxmax()))
            told.append(f"{name} {'' if told else 'runs '}from {low} to {high}")
    words = ", ".join(told) or f"{len(points):,} cells in the plane of their frequencies"
    return words[0].upper() + words[1:]


def _under(judgement: FrequencyJudgement, name: str) -> str:
    """`λ = 0.013, R² 0.93`; what is not known is left out."""
    found = []
    for words, table, value in (("λ =", "spectrum", "eigenvalue"), ("R²", "per_frequency", "r2")):
        rows = judgement.table(table)
        rows = rows[rows["method"] == judgement.methods[0]] if "method" in rows else rows
        one = column(rows, value)[[named(frequency) == name for frequency in rows.get("frequency", [])]]
        if one.notna().any():
            found.append(f"{words} {number(one.iloc[0])}")
    return ", ".join(found)


def _groups(values: pd.Series) -> tuple[np.ndarray, dict[str, str]]:
    """One word per cell, and the colour of each word: the eight most frequent names keep theirs, by the alphabet."""
    words = values.astype(object).where(values.notna(), "unknown").astype(str)
    counts = words[words != "unknown"].value_counts()
    most = sorted(sorted(counts.index, key=lambda name: (-counts[name], name))[:MOST_NAMES])
    rest = f"{len(counts) - len(most)} other{'s' if len(counts) - len(most) > 1 else ''}"
    words = words.where(words.isin([*most, "unknown"]), rest)
    colours = dict(zip(most, MANY, strict=False)) | {rest: QUIET, "unknown": FAINT}
    return words.to_numpy(object), {name: colour for name, colour in colours.items() if (words == name).any()}


def _scatter(axes: Axes, cells: pd.DataFrame, colour, **style) -> None:
    size = float(np.clip(9000 / len(cells), 3, 36))
    style |= {"s": size, "alpha": 0.8, "linewidths": 0, "rasterized": True}
    axes.scatter(*cells[["x", "y"]].to_numpy(float).T, c=colour, **style)


def _key(axes: Axes, colours: dict[str, str]) -> None:
    """The names of the colours, in a panel of their own."""
    axes.set_axis_off()
    marks = [axes.scatter([], [], s=50, color=colour, linewidths=0) for colour in colours.values()]
    names = [cut(name, LONGEST) for name in colours]
    drawing.legend(axes, marks, names, loc="upper left", borderaxespad=0, handletextpad=0.1, labelspacing=0.4)
