"""The composite picture of what a model generates for one perturbation.

Left: predicted against true shift of every gene. Middle: overlap J(K) of the K genes of largest |shift|, beside the
best baseline and chance, K/(2G − K). Right: true, predicted and control cells in two dimensions.
The perturbation is the one of median shift correlation in the first group, never the best one.

Shapes: G genes, n cells, K coordinates of a cell.
"""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from stormcell.evaluation.metrics import JACCARD_SIZES
from stormcell.report import drawing
from stormcell.report.drawing import BASELINE, FAINT, INK, MODEL, SECOND, TRUTH, dress
from stormcell.report.judgement import Judgement, number
from stormcell.report.plane import plane


def generation_panel(judgement: Judgement, embedding: str = "pca", seed: int = 0) -> Figure:
    """Shift, top-K overlap and cells of the perturbation of median shift correlation in the first group.

    `embedding` is "pca" (axes fitted on the real cells shown, the predicted ones projected) or "umap" (fitted on all
    cells shown, seeded).
    """
    method, group = judgement.methods[0], judgement.groups[0]
    query, others = median_query(judgement, method, group)
    name = judgement.name(query)
    among = f"the perturbation of median r among the {others}" if others > 1 else "the only perturbation"
    detail = f"{name} is {among} of “{group}”." + judgement.caution
    r = number(judgement.values(method, "shift_correlation")[query])
    rival = judgement.best_baseline(group, "shift_correlation")
    against = f", {rival} {number(judgement.values(rival, 'shift_correlation')[query])}" if rival else ""
    figure = drawing.new_figure(14, 4.6, f"{method} on {name}: shift r = {r}{against}", detail)
    left, middle, right = figure.subplots(1, 3)
    shifts = judgement.true_shift[query], judgement.predicted_shift[method][query]
    dress(left, f"Shift of {len(judgement.genes):,} genes: r = {r}", "true shift (log1p)", "predicted shift (log1p)")
    drawing.shift_scatter(left, *shifts)
    _overlap(middle, judgement, group)
    _cells(right, judgement, query, embedding, seed)
    drawing.settle(figure)
    drawing.label_extremes(left, *shifts, judgement.genes, most=10)
    return figure


def median_query(judgement: Judgement, method: str, group: str) -> tuple[int, int]:
    """The query of (lower) median shift correlation in a group, undefined ones counted as worst; the group's size."""
    inside = np.flatnonzero(judgement.queries["group"] == group)
    r = np.nan_to_num(judgement.values(method, "shift_correlation")[inside], nan=-np.inf)
    return int(inside[np.argsort(r, kind="stable")[(len(inside) - 1) // 2]]), len(inside)


def _overlap(axes: Axes, judgement: Judgement, group: str) -> None:
    """J(K) of the model's rows and of the best baseline: median over the group with its 95 % interval."""
    n_genes = len(judgement.genes)
    rows = judgement.scoreboard[judgement.scoreboard["group"] == group].set_index("method")
    sizes = [k for k in JACCARD_SIZES if k < n_genes and f"jaccard_{k}" in rows]
    if not sizes:
        dress(axes, f"No top genes among {n_genes}").set_axis_off()
        return
    shown = 50 if 50 in sizes else sizes[0]
    rival = judgement.best_baseline(group, f"jaccard_{shown}")
    colours = dict(zip(judgement.methods, (MODEL, SECOND), strict=False)) | {rival: BASELINE}
    lines = [name for name in colours if name in rows.index]
    places = np.arange(len(sizes))
    for i, name in enumerate(lines):
        x = places + 0.14 * (i - (len(lines) - 1) / 2)
        middle, low, high = (
            rows.loc[name, [f"jaccard_{k}{end}" for k in sizes]].to_numpy(float) for end in ("", "_low", "_high")
        )
        axes.vlines(x, low, high, color=colours[name], linewidth=1.5)
        axes.plot(x, middle, "s" if name == rival else "o", color=colours[name], markersize=8, label=name)
    chance = np.array([k / (2 * n_genes - k) for k in sizes])
    axes.hlines(chance, places - 0.3, places + 0.3, color=INK, linestyle=(0, (2, 2)), label="chance")
    axes.set_xticks(places, [str(k) for k in sizes])
    axes.set(xlim=(-0.5, len(sizes) - 0.5), ylim=(0, 1))
    drawing.legend(axes, loc="upper left", ncols=2, columnspacing=1)
    against = f", best baseline {number(rows.loc[rival, f'jaccard_{shown}'])}" if rival else ""
    title = f"Top {shown}: J = {number(rows.loc[judgement.methods[0], f'jaccard_{shown}'])}{against}"
    dress(axes, title, "K genes of largest |shift|", f"J(K), median of {int(rows['n'].max())} perturbations")


def _cells(axes: Axes, judgement: Judgement, query: int, embedding: str, seed: int) -> None:
    """The control cells, and the true and predicted cells of one query, in two dimensions."""
    cells = judgement.cells
    true = cells["true"][cells["true_query"] == query]
    predicted = cells["predicted"][cells["predicted_query"] == query]
    coordinates, names = embed(cells["control"], true, predicted, embedding, seed)
    styles = [("control", FAINT, "o", 14), ("true", TRUTH, "o", 24), ("predicted", MODEL, "^", 24)]
    for (name, colour, marker, size), xy in zip(styles, coordinates, strict=True):
        axes.scatter(*xy.T, s=size, c=colour, marker=marker, alpha=0.75, linewidths=0, label=f"{name} ({len(xy)})")
    distance = judgement.values(judgement.methods[0], "energy_distance")[query]
    unchanged = judgement.values("no change", "energy_distance")[query]
    against = f" (controls {number(unchanged)})" if np.isfinite(unchanged) else ""
    dress(axes, f"Energy distance {number(distance)}{against}", *names)
    axes.set(xticks=[], yticks=[])
    axes.set_aspect("equal", adjustable="datalim")  # distances are what is shown
    drawing.legend(axes, loc="best", handletextpad=0.2, markerscale=1.4)


def embed(
    control: np.ndarray, true: np.ndarray, predicted: np.ndarray, embedding: str, seed: int
) -> tuple[list[np.ndarray], list[str]]:
    """Three kinds of cells, n × K each, to n × 2 each; and the names of the two axes."""
    together = np.concatenate([control, true, predicted])
    ends = np.cumsum([len(control), len(true)])
    flat, names = plane(together, embedding, seed, real=ends[1])
    return np.split(flat, ends), names
