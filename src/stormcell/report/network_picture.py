"""The cells with their transitions, and what the network says of held-out ones.

network_cells   cells by cluster with an arrow for each transition, and by pseudotime
fit_of_cells    predicted against true barycentres, residuals, R² of every target gene
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from stormcell.report import drawing
from stormcell.report.drawing import FAINT, INK, MANY, MODEL, QUIET, SMALL, TEXT, dress, new_figure
from stormcell.report.heatmap import percent
from stormcell.report.judgement import middle, number
from stormcell.report.network_graph import name_places
from stormcell.report.network_judgement import NetworkJudgement

SIDE = 5.2  # inches of a panel
MOST_CELLS = 20_000  # more points cover each other
BINS = 40
FAR = 0.999  # share of the values that is drawn


def network_cells(judgement: NetworkJudgement, embedding: str, seed: int = 0) -> Figure | None:
    """Clusters of the transitions in colour and named, all others grey; arrows from source to target; pseudotime.

    `embedding` names the axes: "umap" or "pca". None without cells.
    """
    cells = judgement.points
    if cells.empty:
        return None
    cells = cells.iloc[np.sort(np.random.default_rng(seed).permutation(len(cells))[:MOST_CELLS])]
    timed = "pseudotime" in cells and cells["pseudotime"].notna().any()
    n = len(judgement.transitions)
    finding = f"{n} transition{'s' if n > 1 else ''} between {len(_clusters(judgement))} clusters"
    detail = (
        f"{len(judgement.points):,} cells. An arrow goes from the median cell of the source cluster to that of the "
    )
    detail += "target cluster; grey cells are in no transition."
    if embedding == "umap":
        detail += " Distances in a UMAP mean little."
    figure = new_figure(SIDE * (1 + timed) + 0.4 + timed, SIDE, finding, detail)
    panels = figure.subplots(1, 1 + timed, squeeze=False)[0]
    axis = "UMAP" if embedding == "umap" else "PC"
    for axes in panels:
        dress(axes, "pseudotime" if axes is not panels[0] else "cluster", f"{axis} 1", f"{axis} 2")
        axes.set(xticks=[], yticks=[])
        axes.margins(0.04)
    _by_cluster(panels[0], judgement, cells, seed)
    if timed:
        dots = _scatter(panels[1], cells, cells["pseudotime"].to_numpy(float), seed)
        bar = figure.colorbar(dots, ax=panels[1], shrink=0.5, aspect=14, pad=0.01)
        bar.ax.tick_params(labelsize=SMALL)
        bar.outline.set_visible(False)
    drawing.settle(figure)
    centres, table = _centres(judgement, cells), judgement.table("transitions")
    number_of = {name: place for place, name in enumerate(centres)}
    pairs = zip(table["source"].astype(str), table["target"].astype(str), strict=True)
    arrows = [(number_of[a], number_of[b]) for a, b in pairs if a in number_of and b in number_of]
    name_places(panels[0], np.array(list(centres.values())).reshape(-1, 2), list(centres), arrows)
    return figure


def _clusters(judgement: NetworkJudgement) -> list[str]:
    """Names of the clusters in any transition, in the order of the table."""
    table = judgement.table("transitions")
    return list(
        dict.fromkeys(str(name) for pair in zip(table["source"], table["target"], strict=True) for name in pair)
    )


def _centres(judgement: NetworkJudgement, cells: pd.DataFrame) -> dict[str, np.ndarray]:
    """Median place of every cluster in a transition that has cells."""
    median = cells.groupby(cells["cluster"].astype(str))[["x", "y"]].median()
    return {name: median.loc[name].to_numpy() for name in _clusters(judgement) if name in median.index}


def _by_cluster(axes: Axes, judgement: NetworkJudgement, cells: pd.DataFrame, seed: int) -> None:
    colours = {name: MANY[place % len(MANY)] for place, name in enumerate(_clusters(judgement))}
    _scatter(axes, cells, [colours.get(name, FAINT) for name in cells["cluster"].astype(str)], seed)


def _scatter(axes: Axes, cells: pd.DataFrame, colour, seed: int):
    """Cells in a random order, so that no group lies on top of the others."""
    order = np.random.default_rng(seed).permutation(len(cells))
    size = float(np.clip(12000 / len(cells), 4, 40))
    colour = np.asarray(colour)[order]
    style = {"s": size, "alpha": 0.7, "linewidths": 0, "rasterized": True, "cmap": "viridis"}
    if colour.dtype.kind != "f":
        style.pop("cmap")
    return axes.scatter(*cells[["x", "y"]].to_numpy(float)[order].T, c=colour, **style)


def fit_of_cells(judgement: NetworkJudgement) -> Figure | None:
    """Predicted against true departure of held-out barycentres from the mean of the target cluster, what is left of
    them, R² of the target genes. None without predictions."""
    table = judgement.predicted.replace([np.inf, -np.inf], np.nan)
    table = table.dropna(subset=["true", "predicted"]) if len(table) else table
    if table.empty:
        return None
    genes = judgement.table("genes")
    r2 = genes["r2"].to_numpy(float) if "r2" in genes else np.array([])
    r2 = r2[np.isfinite(r2)]
    own = judgement.value("held-out cells", judgement.methods[0], "r2_weighted")
    finding = f"{judgement.methods[0]}: held-out R² {number(own)} weighted by variance"
    if len(r2):
        finding += f", {number(middle(r2))} in the median gene; above 0 in {percent((r2 > 0).mean())} of the genes"
    detail = (
        f"{len(table):,} values of held-out cells: the mean target cell that a source cell is coupled to, as departure "
    )
    detail += "from the mean of the target cluster, in standard deviations of the gene. Darker: more values."
    figure = new_figure(13, 4.4, finding, detail)
    left, centre, right = figure.subplots(1, 3)
    true, said = table["true"].to_numpy(float), table["predicted"].to_numpy(float)
    end = _end(true)
    _density(left, true, said, end, end)
    left.axline((0, 0), slope=1, color=QUIET, linewidth=1)
    dress(left, "Predicted against true", "true (s.d.)", "predicted (s.d.)", under="grey: exact")
    _density(centre, said, true - said, _end(said), end)
    centre.axhline(0, color=QUIET, linewidth=1)
    dress(centre, "Residuals", "predicted (s.d.)", "true − predicted (s.d.)", under="grey: exact")
    _genes(right, r2)
    return figure


def _end(values: np.ndarray) -> float:
    """Half the width of an axis: the farthest values are left out."""
    return float(np.quantile(np.abs(values), FAR)) or 1.0


def _density(axes: Axes, x: np.ndarray, y: np.ndarray, wide: float, tall: float) -> None:
    """Counts in hexagons, darker for more, on a logarithmic scale."""
    inside = (np.abs(x) <= wide) & (np.abs(y) <= tall)
    style = {"gridsize": BINS, "bins": "log", "cmap": "Blues", "mincnt": 1, "linewidths": 0.1}
    axes.hexbin(x[inside], y[inside], extent=(-wide, wide, -tall, tall), **style)
    axes.set(xlim=(-wide, wide), ylim=(-tall, tall))
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_locator(MaxNLocator(5))


def _genes(axes: Axes, r2: np.ndarray) -> None:
    """Histogram of R² from −1 to 1; genes below are counted in the first bar."""
    low = r2 < -1
    under = f"{low.sum():,} below −1 stand at −1" if low.any() else f"{len(r2):,} genes in transitions"
    axes.hist(np.clip(r2, -1, 1), bins=np.linspace(-1, 1, 41), color=MODEL)
    axes.axvline(0, color=INK, linewidth=1, linestyle=(0, (3, 2)))
    axes.axvline(middle(r2), color=INK, linewidth=1.5)
    dress(axes, "R² of the target genes", "R² (dashed: mean of the cluster; line: median)", "genes", under)
    axes.xaxis.label.set_fontsize(TEXT - 1.5)
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
