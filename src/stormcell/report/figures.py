"""The figures of a run, drawn from plain arrays; every title states what is seen, with its number.

generation_panel        one perturbation: shift, top-K overlap, cells (in generation.py)
shift_heatmap           true, predicted and baseline shifts of many perturbations (in heatmap.py)
forest                  the scoreboard with its intervals (in forest.py)
rank_histogram          where the true perturbation stands among all (in panels.py)
calibration             nominal against observed coverage of predictive intervals (in panels.py)
shift_scatter_grid      the shifts of up to twelve perturbations
model_against_baseline  each perturbation: the model, the best baseline, what the exact mean would score
loss_curves             parts of the loss and validation metrics over the steps
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from stormcell.evaluation.metrics import METRICS, distance_from_best
from stormcell.report import drawing
from stormcell.report.choice import by_group, evenly, left_out
from stormcell.report.drawing import BASELINE, FAINT, INK, MODEL, SECOND, TEXT, dress, new_figure
from stormcell.report.generation import generation_panel
from stormcell.report.judgement import Judgement, middle, number

__all__ = ["generation_panel", "loss_curves", "model_against_baseline", "save", "shift_scatter_grid"]

SHIFT = "shift_correlation"
MOST_SCATTERS, MOST_ROWS = 12, 60  # more cannot be read


def shift_scatter_grid(judgement: Judgement) -> Figure:
    """Predicted against true shift of up to twelve queries: pairs before others, evenly spaced from best to worst."""
    method = judgement.methods[0]
    r = judgement.values(method, SHIFT)
    ranked = np.argsort(distance_from_best(r, SHIFT), kind="stable")
    pairs = judgement.queries["condition"].str.contains("+", regex=False).to_numpy()[ranked]
    first = evenly(ranked[pairs], MOST_SCATTERS)
    chosen = {*first, *evenly(ranked[~pairs], MOST_SCATTERS - len(first))}
    chosen = [query for query in ranked if query in chosen]
    detail = f"{len(chosen)} of {len(r)} held-out perturbations, pairs first, evenly spaced from best to worst."
    if len(chosen) == len(r):
        detail = "Every held-out perturbation, from best to worst."
    best, worst = (number(r[ranked[end]]) for end in (0, len(r[np.isfinite(r)]) - 1))
    finding = f"{method}: median r = {number(middle(r))}, from {worst} to {best}"
    if len(r) == 1:
        finding = f"{method}: r = {best}"
    figure, panels = drawing.new_grid(len(chosen), 3.7, finding, detail + judgement.caution)
    shifts = [(judgement.true_shift[query], judgement.predicted_shift[method][query]) for query in chosen]
    for axes, query, shift in zip(panels, chosen, shifts, strict=True):
        dress(axes, judgement.name(query), under=f"r = {number(r[query])}, {judgement.queries['group'].iloc[query]}")
        drawing.shift_scatter(axes, *shift, size=14)
    figure.supxlabel("true shift (log1p)", fontsize=TEXT)
    figure.supylabel("predicted shift (log1p)", fontsize=TEXT)
    drawing.settle(figure)
    for axes, shift in zip(panels, shifts, strict=True):
        drawing.label_extremes(axes, *shift, judgement.genes, most=5)
    return figure


def model_against_baseline(judgement: Judgement, metric: str = SHIFT) -> Figure:
    """One row per perturbation, best on top: the model's rows, the best baseline of its group, the exact mean."""
    method, about = judgement.methods[0], METRICS[metric]
    own, (rivals, rival) = judgement.values(method, metric), _best_baselines(judgement, metric)
    rows = by_group(judgement, metric, MOST_ROWS)
    both = np.isfinite(own) & np.isfinite(rival)
    wins = both & (distance_from_best(own, metric) < distance_from_best(rival, metric))
    direction = f"{about.direction} is better" if about.best is None else f"{about.best} is best"
    detail = f"{judgement.label(metric)}: {direction}; ahead is by any margin." + left_out(judgement, rows)
    heights = [len(chosen) + 0.6 for chosen in rows.values()]
    finding = f"{method} is ahead of the best baseline on {wins.sum()} of {both.sum()} perturbations"
    figure = new_figure(10, 1.1 + 0.3 * sum(heights) + 0.45 * len(rows), finding, detail)
    shared = about.direction == "higher"  # correlations and overlaps end at 1; one far distance would press the rest
    panels = figure.subplots(len(rows), 1, sharex=shared, squeeze=False, height_ratios=heights)[:, 0]
    for axes, (group, chosen) in zip(panels, rows.items(), strict=True):
        inside = (judgement.queries["group"] == group).to_numpy()
        against = f" against {number(middle(rival[inside]))} of {rivals[group]}" if rivals[group] else ""
        dress(axes, f"{group}: median {number(middle(own[inside]))}{against}")
        _dumbbells(axes, judgement, chosen, metric, rival)
    panels[-1].set_xlabel(about.label, fontsize=TEXT)
    drawing.legend(figure, *panels[0].get_legend_handles_labels(), loc="outside lower left", ncols=4)
    return figure


def _best_baselines(judgement: Judgement, metric: str) -> tuple[dict[str, str | None], np.ndarray]:
    """The best baseline of each group, and for each query the value of its group's: Q."""
    names = {group: judgement.best_baseline(group, metric) for group in judgement.groups}
    values = np.full(len(judgement.queries), np.nan)
    for group, name in names.items():
        inside = (judgement.queries["group"] == group).to_numpy()
        values[inside] = judgement.values(name, metric)[inside]
    return names, values


def _dumbbells(axes: Axes, judgement: Judgement, chosen: list[int], metric: str, rival: np.ndarray) -> None:
    """Queries of one group from top to bottom."""
    places = np.arange(len(chosen))
    own = judgement.values(judgement.methods[0], metric)[chosen]
    axes.axvline(METRICS[metric].best or 0, color=FAINT, linewidth=1, zorder=0)
    axes.hlines(places, np.minimum(own, rival[chosen]), np.maximum(own, rival[chosen]), color=FAINT, linewidth=2)
    for name, colour, order in zip(judgement.methods, (MODEL, SECOND), (4, 3), strict=False):
        axes.plot(judgement.values(name, metric)[chosen], places, "o", color=colour, ms=8, zorder=order, label=name)
    hollow = {"color": BASELINE, "markersize": 11, "markerfacecolor": "none", "markeredgewidth": 2, "zorder": 5}
    axes.plot(rival[chosen], places, "s", **hollow, label="best baseline of the group")
    if metric == SHIFT:
        exact = judgement.expected_exact()[chosen]
        axes.plot(exact, places, "|", color=INK, ms=14, markeredgewidth=2, zorder=2.5, label="exact mean (expected)")
    axes.set_yticks(places, [judgement.name(query) for query in chosen], parse_math=False)
    axes.set_ylim(len(chosen) - 0.4, -0.6)


def loss_curves(history: pd.DataFrame, objective: str = "val/score", mode: str = "max") -> Figure:
    """Every logged part over the optimizer steps, training and validation together, the best step marked.

    `history` has a column `step` and columns train/<part> and val/<part>; any may be missing or hold NaN. The best
    step has the highest ("max") or lowest ("min") `objective`; where that was not logged, the lowest val/loss.
    """
    history = history.replace([np.inf, -np.inf], np.nan).reset_index(drop=True)
    logged = [name for name in history if name.startswith(("train/", "val/")) and history[name].notna().any()]
    if objective not in logged:
        objective, mode = "val/loss", "min"
    parts = list(dict.fromkeys(name.split("/", 1)[1] for name in logged))
    parts.sort(key=lambda part: (f"val/{part}" != objective, part != "loss", f"train/{part}" in logged))
    finding, best = "Training: no validation was logged", None
    if objective in logged:
        best = history[objective].idxmax() if mode == "max" else history[objective].idxmin()
        best = history.loc[best, ["step", objective]]
        finding = f"{objective} is best, {number(best[objective])}, at step {best['step']:,.0f}"
    detail = (
        f"Logged up to step {history['step'].max():,.0f}; titles: from the first value to the best step."
        if logged
        else "Nothing was logged."
    )
    figure, panels = drawing.new_grid(len(parts), 2.9, finding, detail)
    for axes, part in zip(panels, parts, strict=True):
        _curves(axes, history, part, best)
    marks = {label: mark for axes in panels for mark, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    drawing.legend(figure, marks.values(), marks.keys(), loc="outside lower left", ncols=3)
    return figure


def _curves(axes: Axes, history: pd.DataFrame, part: str, best: pd.Series | None) -> None:
    """Training and validation values of one part; the title says where validation began and where it is best."""
    for side, colour in ("train", FAINT), ("val", MODEL):
        name = f"{side}/{part}"
        curve = history[["step", name]].dropna() if name in history else history.iloc[:0]
        if len(curve):
            mark = "o" if len(curve) <= 30 else ""
            axes.plot(curve["step"], curve[name], color=colour, linewidth=1.5, marker=mark, markersize=4, label=side)
            end = curve if best is None else curve[curve["step"] <= best["step"]]
            title = f"{side}: {number(curve[name].iloc[0])} to {number(end[name].iloc[-1] if len(end) else np.nan)}"
    if f"train/{part}" in history:
        _ignore_the_start(axes, history[f"train/{part}"].dropna().to_numpy())
    dress(axes, title, "optimizer step", part.replace("_", " "))
    axes.xaxis.set_major_locator(MaxNLocator(4))
    if best is not None:
        axes.axvline(best["step"], color=BASELINE, linewidth=1, linestyle=(0, (4, 2)), label="best step")


def _ignore_the_start(axes: Axes, values: np.ndarray) -> None:
    """Leaves the first steps above the frame where they would press the rest of the curve flat."""
    settled = values[len(values) // 10 :]
    if len(settled):
        low, high = settled.min(), np.quantile(settled, 0.98)
        if values.max() > high + 2 * (high - low) > high:
            axes.set_ylim(top=high + 0.3 * (high - low), bottom=axes.dataLim.y0 - 0.1 * (high - low))


def save(figures: dict[str, Figure], folder: Path | str) -> dict[str, Path]:
    """Writes <folder>/<name>.png at 150 dots per inch, empties each figure, and returns the paths by name."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = {name: folder / f"{name}.png" for name in figures}
    for name, figure in figures.items():
        figure.savefig(paths[name], dpi=150)
        figure.clear()
    return paths
