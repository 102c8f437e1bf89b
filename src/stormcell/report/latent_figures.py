"""Does the model know which cells respond, and does it make counts like the real ones?

escape     probability of being perturbed, cell by cell, for every perturbation
criticism  zeros, means and variances of genes in counts drawn from the model against the observed ones
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from stormcell.report import drawing
from stormcell.report.choice import evenly
from stormcell.report.drawing import BASELINE, FAINT, INK, MODEL, QUIET, SMALL, TEXT, dress, new_figure
from stormcell.report.heatmap import percent
from stormcell.report.judgement import middle, number
from stormcell.report.latent_judgement import LatentJudgement

MOST_ROWS, MOST_DOTS = 60, 200  # more perturbations cannot be read, more cells of one not told apart
PROBABILITY = "perturbed_probability"
RESPONDS = 0.5
CONTROL = "control cells"


def escape(judgement: LatentJudgement, seed: int = 0) -> Figure | None:
    """One row per perturbation, those with the largest share of responding cells first, controls on top.

    A dot is a cell, a box the middle half of the cells, a bar their median. A cell responds where its probability is
    above one half. None where no cell has a probability.
    """
    cells = judgement.cells
    if PROBABILITY not in cells or not cells[PROBABILITY].notna().any():
        return None
    values = {name: part[PROBABILITY].dropna().to_numpy(float) for name, part in _groups(judgement)}
    values = {name: part for name, part in values.items() if len(part)}
    shares = _shares(judgement.table("escape"), values)
    share = shares["share"]
    ranked = sorted((name for name in values if name != CONTROL), key=lambda name: (-np.nan_to_num(share[name]), name))
    shown = [ranked[i] for i in evenly(np.arange(len(ranked)), MOST_ROWS)]
    rows = [name for name in (CONTROL,) if name in values] + shown
    half = sum(share[name] > 0.5 for name in ranked)
    finding = f"{judgement.methods[0]}: more than half of the cells respond to {half} of {len(ranked)} perturbations"
    if CONTROL in values:
        finding += f"; {percent(share[CONTROL])} of the control cells look perturbed"
    detail = "A dot is a held-out cell; box: the middle half, bar: the median. Right: share of responding cells"
    detail += ", its 95 % interval, number of cells." if len(judgement.table("escape")) else " (above one half)."
    if len(shown) < len(ranked):
        detail += f" {len(shown)} of {len(ranked)} perturbations, evenly spaced from most to least."
    figure = new_figure(10, 0.34 * len(rows) + 0.9, finding, detail)
    axes = dress(figure.subplots(), x="probability that the cell is perturbed")
    rng = np.random.default_rng(seed)
    for place, name in enumerate(rows):
        _strip(axes, place, values[name], QUIET if name == CONTROL else MODEL, rng)
        words = f"{percent(share[name])}{_ends(shares.loc[name])} of {len(values[name])}"
        axes.text(1.03, place, words, fontsize=SMALL, color=INK, va="center", clip_on=False)
    axes.axvline(RESPONDS, color=FAINT, linewidth=1, zorder=0)
    axes.set_yticks(range(len(rows)), rows, parse_math=False)
    axes.set(xlim=(-0.01, 1.01), ylim=(len(rows) - 0.4, -0.6))
    return figure


def _shares(table: pd.DataFrame, values: dict[str, np.ndarray]) -> pd.DataFrame:
    """share, share_low, share_high by name: those of the table, without one the share of cells above one half.

    Controls are in no table.
    """
    counted = pd.Series({name: float((part > RESPONDS).mean()) for name, part in values.items()}, dtype=float)
    found = pd.DataFrame({"share": counted, "share_low": np.nan, "share_high": np.nan})
    if len(table):
        fitted = table.astype({"condition": str}).set_index("condition").reindex(found.index.drop(CONTROL, "ignore"))
        found.loc[fitted.index, list(found)] = fitted.reindex(columns=list(found)).to_numpy(float)
    return found


def _ends(row: pd.Series) -> str:
    low, high = row["share_low"], row["share_high"]
    return f" ({100 * low:.0f} to {100 * high:.0f})" if np.isfinite(low) and np.isfinite(high) else ""


def _groups(judgement: LatentJudgement) -> list[tuple[str, pd.DataFrame]]:
    """Cells by perturbation; all controls are one group."""
    control = judgement.is_control
    perturbed = judgement.cells[~control]
    return [(CONTROL, judgement.cells[control]), *perturbed.groupby(perturbed["condition"].astype(str))]


def _strip(axes: Axes, place: int, values: np.ndarray, colour: str, rng: np.random.Generator) -> None:
    """One row: a draw of the cells as dots, and the quartiles of all of them."""
    values = np.sort(values)
    dots = values if len(values) <= MOST_DOTS else rng.choice(values, MOST_DOTS, replace=False)
    heights = place + rng.uniform(-0.28, 0.28, len(dots))
    axes.scatter(dots, heights, s=9, color=colour, alpha=0.35, linewidths=0)
    low, median, high = np.quantile(values, [0.25, 0.5, 0.75])
    axes.plot([low, high, high, low, low], place + 0.33 * np.array([-1, -1, 1, 1, -1]), color=colour, linewidth=1)
    axes.vlines(median, place - 0.36, place + 0.36, color=colour, linewidth=3)


def criticism(judgement: LatentJudgement) -> Figure | None:
    """A point is a gene. Left: share of cells without a count, predicted against observed. Right: variance over mean.

    None without a table.
    """
    table = judgement.criticism.replace([np.inf, -np.inf], np.nan)
    if table.empty:
        return None
    zero, variance = (_ratio(table, name) for name in ("zero", "variance"))
    off = middle(np.abs(zero[1] - zero[0]))
    with np.errstate(divide="ignore", invalid="ignore"):
        spread = middle(np.where(variance[0] > 0, variance[1] / variance[0], np.nan))
    finding = (
        f"{judgement.methods[0]}: the share of zeros is off by {number(off)} in the median gene, the variance is "
        f"{number(spread)} of the observed"
    )
    detail = f"Counts drawn from the model for held-out cells, {len(table):,} genes; grey line: as observed."
    figure = new_figure(11, 4.6, finding, detail)
    left, right = figure.subplots(1, 2)
    left.axline((0, 0), slope=1, color=FAINT, linewidth=1.2, zorder=0)
    left.scatter(*zero, s=12, color=MODEL, alpha=0.5, linewidths=0)
    dress(left, "Zeros of a gene", "observed share of cells", "predicted share of cells")
    left.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal", anchor="W")
    left.xaxis.set_major_formatter(PercentFormatter(1))
    left.yaxis.set_major_formatter(PercentFormatter(1))
    _mean_variance(right, table)
    return figure


def _ratio(table: pd.DataFrame, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Observed and predicted values of the genes."""
    return table[f"{name}_observed"].to_numpy(float), table[f"{name}_predicted"].to_numpy(float)


def _mean_variance(axes: Axes, table: pd.DataFrame) -> None:
    """Variance over mean of every gene, observed and predicted, and the line of a Poisson count."""
    ends = []
    for side, colour, marker in ("observed", BASELINE, "s"), ("predicted", MODEL, "o"):
        mean, variance = (table[f"{name}_{side}"].to_numpy(float) for name in ("mean", "variance"))
        kept = (mean > 0) & (variance > 0)
        ends.append(mean[kept])
        style = {"s": 14, "marker": marker, "alpha": 0.45, "linewidths": 0}
        axes.scatter(mean[kept], variance[kept], color=colour, label=side, **style)
    every = np.concatenate(ends)
    dress(axes, "Mean and variance of a gene", "mean (counts per cell)", "variance (counts²)")
    if len(every):
        line = np.array([every.min(), every.max()])
        axes.plot(line, line, color=INK, linewidth=1, linestyle=(0, (3, 2)), label="variance = mean (Poisson)")
        axes.set(xscale="log", yscale="log")
    drawing.legend(axes, loc="upper left", markerscale=1.6, handletextpad=0.3)
    axes.yaxis.label.set_fontsize(TEXT)
