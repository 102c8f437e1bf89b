"""Which regulators drive a transition: their places by strength beside two rankings that need no network."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator
from scipy.stats import rankdata, spearmanr

from stormcell.report import drawing
from stormcell.report.drawing import BASELINE, FAINT, MODEL, TRUTH, dress, new_figure
from stormcell.report.judgement import middle, number
from stormcell.report.network_graph import MOST_PANELS, cut
from stormcell.report.network_judgement import NetworkJudgement, arrow, shown

MOST_RANKED = 12  # of a panel
NULLS = {"n_targets": ("number of targets", BASELINE, "s"), "own_change": ("own change", TRUTH, "^")}


def ranking(judgement: NetworkJudgement) -> Figure | None:
    """First regulators of each transition by strength, and their places by number of targets and by own change alone.

    None without a table of regulators.
    """
    table = judgement.table("regulators")
    if table.empty or table["strength"].isna().all():
        return None
    table = table.astype({"transition": str})
    nulls = [name for name in NULLS if name in table and table[name].notna().any()]
    for name in ("strength", *nulls):  # the first has place 1, ties share their mean
        table[f"at_{name}"] = table.groupby("transition")[name].transform(lambda v: rankdata(-v.fillna(0).abs()))
    counts = judgement.confident.groupby(judgement.table("edges")["transition"].astype(str)).sum()
    names = shown([name for name in judgement.transitions if name in set(table["transition"])], counts, MOST_PANELS)
    detail = f"The first {MOST_RANKED} regulators by sum of absolute weights (blue) and their places among all "
    detail += "regulators in rankings that need no network. A regulator that stands first in blue alone owes its place "
    detail += "to the network."
    columns = {1: 1, 2: 2, 4: 2}.get(len(names), 3)
    lines = -(-len(names) // columns)
    most = table.groupby("transition").size().clip(upper=MOST_RANKED).max()
    size = (9, 0.3 * most + 1.3) if len(names) == 1 else (4.4 * columns, (0.3 * most + 1.25) * lines)
    figure = new_figure(*size, _rank_finding(table, nulls), detail)
    panels = figure.subplots(lines, columns, squeeze=False).ravel()
    for axes in panels[len(names) :]:
        axes.set_axis_off()
    for axes, name in zip(panels, names, strict=False):
        _places(axes, table[table["transition"] == name], nulls, arrow(name))
    drawing.legend(figure, *panels[0].get_legend_handles_labels(), loc="outside lower left", ncols=3)
    return figure


def _rank_finding(table: pd.DataFrame, nulls: list[str]) -> str:
    """How much of the ranking the two nulls know already."""
    told = []
    for null in nulls:
        found = [_spearman(rows["at_strength"], rows[f"at_{null}"]) for _, rows in table.groupby("transition")]
        if np.isfinite(found).any():
            told.append(f"{number(middle(np.array(found)))} with the {NULLS[null][0]}")
    words = "Regulators by strength"
    return words + (": rank correlation " + ", ".join(told) if told else "")


def _spearman(a: pd.Series, b: pd.Series) -> float:
    return float(spearmanr(a, b)[0]) if a.nunique() > 1 and b.nunique() > 1 else np.nan


def _places(axes: Axes, rows: pd.DataFrame, nulls: list[str], title: str) -> None:
    """Places on a logarithmic axis, the first regulator on top."""
    top = rows.sort_values("at_strength", kind="stable").head(MOST_RANKED)
    heights = np.arange(len(top))
    for null in nulls:
        words, colour, mark = NULLS[null]
        axes.plot(top[f"at_{null}"], heights, mark, color=colour, ms=7, mfc="none", mew=1.8, label=words)
    axes.plot(top["at_strength"], heights, "o", color=MODEL, ms=8, label="strength", zorder=4)
    dress(axes, title, "place", under=f"of {len(rows):,} regulators")
    axes.set(xscale="log", xlim=(0.8, max(1.3 * len(rows), 2)), ylim=(len(top) - 0.4, -0.6))
    axes.xaxis.set_major_locator(LogLocator(10, subs=(1, 3)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.grid(axis="x", color=FAINT, linewidth=0.5)
    axes.set_yticks(heights, [cut(str(name)) for name in top["regulator"]], parse_math=False)
