"""What single perturbations do not show: are predictions told apart, and are the predicted cells spread rightly?

rank_histogram  where the true perturbation stands among all of its group, seen from the prediction
calibration     nominal against observed coverage of the predictive intervals
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from stormcell.report import drawing
from stormcell.report.drawing import BASELINE, FAINT, INK, MODEL, QUIET, SECOND, TEXT, dress, new_figure
from stormcell.report.heatmap import percent
from stormcell.report.judgement import Judgement, middle, number

RANK = "rank_of_truth"
BINS = 10
RIGHT = 0.05  # intervals this near to what real cells cover are called right: few cells tell no more
HALVES, REAL = "split-half of the real cells", "real cells, half for half"


def rank_histogram(judgement: Judgement) -> Figure | None:
    """One panel per group: share of the other true perturbations that lie nearer to each prediction than its own.

    0: the own truth is nearest; a prediction that ignores the perturbation is anywhere. Chance is what every rank
    alike would give among as many perturbations. None where no group has two perturbations to be told apart.
    """
    ranks = judgement.values(judgement.methods[0], RANK)
    names = judgement.queries["group"].to_numpy()
    groups = [group for group in judgement.groups if np.isfinite(ranks[names == group]).any()]
    if not groups:
        return None
    finite = ranks[np.isfinite(ranks)]
    finding = (
        f"{judgement.methods[0]}: {(finite == 0).sum()} of {len(finite)} predictions are nearest to their own "
        f"perturbation ({_chance(judgement, ranks, BINS)[1]:.1f} by chance), median rank {number(middle(ranks))} "
        "(0.50 by chance)"
    )
    detail = "Rank: share of the other true perturbations of the group that lie nearer to the prediction than its own. "
    detail += "Dashed: every rank alike."
    figure, panels = drawing.new_grid(len(groups), 3.2, finding, detail)
    for axes, group in zip(panels, groups, strict=True):
        _ranks(axes, judgement, group)
    panels[0].set_ylabel("perturbations", fontsize=TEXT)
    figure.supxlabel("rank of the own perturbation: 0 nearest, 1 farthest", fontsize=TEXT)
    return figure


def _ranks(axes: Axes, judgement: Judgement, group: str) -> None:
    """Histogram of one group: the model's first row filled, the best baseline as an outline, chance dashed."""
    inside = (judgement.queries["group"] == group).to_numpy()
    own = np.where(inside, judgement.values(judgement.methods[0], RANK), np.nan)
    rival = judgement.best_baseline(group, RANK)
    # Of P perturbations there are P ranks: more bins than that would stand empty.
    bins = min(BINS, judgement.queries[inside].groupby("context").size().max())
    edges = np.linspace(0, 1, bins + 1)
    axes.stairs(_counts(own, bins), edges, fill=True, color=MODEL, alpha=0.75, label=judgement.methods[0])
    under = f"median {number(middle(own))}"
    if rival:
        against = np.where(inside, judgement.values(rival, RANK), np.nan)
        axes.stairs(_counts(against, bins), edges, color=BASELINE, linewidth=2.5, label=rival)
        under += f", {rival} {number(middle(against))}"
    chance, _ = _chance(judgement, own, bins)
    axes.stairs(chance, edges, color=INK, linewidth=1.2, linestyle=(0, (3, 2)), baseline=None, label="chance")
    dress(axes, f"{group} (n = {int(np.isfinite(own).sum())})", under=under)
    axes.set(xlim=(0, 1), ylim=(0, axes.get_ylim()[1] * 1.1))
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    drawing.legend(axes, loc="upper right")


def _counts(ranks: np.ndarray, bins: int) -> np.ndarray:
    """Ranks in so many equal bins from 0 to 1; 3 of 10 is 0.3 and lies in the bin that begins there, rounded or not."""
    places = np.floor(ranks[np.isfinite(ranks)] * bins + 1e-6).astype(int)
    return np.bincount(np.minimum(places, bins - 1), minlength=bins)


def _chance(judgement: Judgement, ranks: np.ndarray, bins: int) -> tuple[np.ndarray, float]:
    """What chance gives the queries that have a rank: expected count in each bin, and expected number at rank 0.

    Among P perturbations of one group and context every rank 0, 1/(P − 1), ..., 1 is equally likely.
    """
    counts, nearest = np.zeros(bins), 0.0
    for rows in judgement.queries.groupby(["group", "context"]).indices.values():
        answered = np.isfinite(ranks[rows]).sum()
        if answered and len(rows) > 1:
            counts += answered * _counts(np.arange(len(rows)) / (len(rows) - 1), bins) / len(rows)
            nearest += answered / len(rows)
    return counts, nearest


def calibration(judgement: Judgement) -> Figure | None:
    """Share of true values inside the predicted cells' central intervals against what the intervals promise.

    On the diagonal the predicted cells are spread as the true ones, below it too narrowly. Shared zeros lift even one
    half of the real cells, asked about the other, above it: where known this is drawn, and the title compares with it.
    None without intervals.
    """
    table = judgement.calibration.dropna() if len(judgement.calibration) else judgement.calibration
    if table.empty:
        return None
    shown = [name for name in judgement.methods if (table["method"] == name).any()]
    others = [name for name in table["method"].unique() if name not in shown]
    detail = (
        "Median over the held-out perturbations. Zeros count as inside an interval that begins at 0, so cells that are "
        "spread rightly may lie above the line."
    )
    real = _real(judgement)
    figure = new_figure(8.5, 5.4, _spread(table, (shown + others)[0], real), detail)
    axes = dress(figure.subplots(), x="promised by the interval", y="true values inside the interval")
    axes.plot([0, 1], [0, 1], color=FAINT, linewidth=1.2, zorder=0)
    for words, at in ("too wide", (0.04, 0.9)), ("too narrow", (0.62, 0.04)):
        axes.text(*at, words, fontsize=TEXT, color=QUIET, va="bottom")
    styles = dict(zip(shown, ((MODEL, "o"), (SECOND, "o")), strict=False))
    markers = dict(zip(others, "sD^vP*X<>", strict=False))
    if real:
        axes.plot(list(real), list(real.values()), "x", color=INK, ms=10, mew=2.5, label=REAL)
    for name in [*others, *reversed(shown)]:
        colour, marker = styles.get(name, (BASELINE, markers.get(name, "")))
        curve = table[table["method"] == name].sort_values("level")
        axes.plot(curve["level"], curve["coverage"], color=colour, marker=marker, ms=6, linewidth=1.6, label=name)
    axes.set(xlim=(0, 1), ylim=(0, 1.02), aspect="equal", anchor="W")
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    handles, labels = axes.get_legend_handles_labels()
    drawing.legend(axes, handles[::-1], labels[::-1], loc="upper left", bbox_to_anchor=(1.02, 1))
    return figure


def _real(judgement: Judgement) -> dict[float, float]:
    """Level -> coverage of one half of the real cells by the other: mean over groups, weighted by their queries."""
    rows = judgement.scoreboard[judgement.scoreboard["method"] == HALVES]
    found = {}
    for percentage in 50, 90:
        known = rows[rows[name].notna()] if (name := f"coverage_{percentage}") in rows else rows.iloc[:0]
        if known["n"].sum() > 0:
            found[percentage / 100] = float(np.average(known[name], weights=known["n"]))
    return found


def _spread(table: pd.DataFrame, method: str, real: dict[float, float]) -> str:
    """Are the intervals of a method too narrow, right or too wide at its highest level (90 %)?"""
    level, coverage = table[table["method"] == method].sort_values("level")[["level", "coverage"]].to_numpy()[-1]
    level = round(float(level), 9)
    right = real.get(level, level)
    word = "right" if abs(coverage - right) <= RIGHT else "too narrow" if coverage < right else "too wide"
    beside = f", {percent(right)} for half the real cells" if level in real else ""
    holds = f"the {percent(level)} interval holds {percent(coverage)} of the true values"
    return f"{method}: intervals are {word}, {holds}{beside}"
