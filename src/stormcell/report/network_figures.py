"""Edges, regulators and scores of the transitions as pictures.

network_heatmap  regulators and strongest edges × transitions
differential     edges whose weight departs from the one that the transitions share
cofactors        pairs of regulators that act together on a target
scores           the scoreboard with its intervals
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from stormcell.evaluation.network_metrics import CHANCE, NETWORK_METRICS
from stormcell.report.drawing import FAINT, INK, MODEL, QUIET, SMALL, TEXT, TRUTH, dress, new_figure
from stormcell.report.heatmap import colour_bar, colour_end, shaded
from stormcell.report.judgement import number
from stormcell.report.network_graph import ACTIVATES, REPRESSES, cut
from stormcell.report.network_judgement import ARROW, FDR, NetworkJudgement, arrow

MOST_ROWS, MOST_METRICS = 30, 4  # more cannot be read
ROW = 0.27  # inches of a line
LONGEST = 34  # characters of a line's name
FLOOR = -0.5  # R² below is written beside the frame: one far method would press the rest flat


def network_heatmap(judgement: NetworkJudgement) -> Figure | None:
    """Left: sum of the weights of a regulator, right: strongest edges; a column per transition, a dot: confident.

    None for a single transition, whose edges are in the graph.
    """
    edges, regulators = judgement.table("edges").assign(marked=judgement.confident), judgement.table("regulators")
    edges = edges[edges["weight"].notna()]
    if len(judgement.transitions) < 2 or edges.empty:
        return None
    label = edges["regulator"].astype(str) + ARROW + edges["target"].astype(str)
    parts = {"edge": _wide(edges.assign(row=label), "weight", judgement.transitions)}
    if "signed_strength" in regulators and regulators["signed_strength"].notna().any():
        table = regulators.assign(row=regulators["regulator"].astype(str), marked=False)
        parts = {"regulator": _wide(table, "signed_strength", judgement.transitions), **parts}
    top = parts["edge"][0].index[0]
    finding = f"{judgement.methods[0]}: the strongest edge over all transitions is {top}"
    detail = "Rows of largest root mean square over the transitions; red: activates, blue: represses; a dot: "
    detail += f"false-discovery rate ≤ {FDR:.0%}; grey: not in the network. Colours end at 95 % of what is shown."
    wide = max(2.2, 0.36 * len(judgement.transitions))
    tall = ROW * max(len(values) for values, _ in parts.values())
    longest = [max(map(len, values.index)) for values, _ in parts.values()]
    size = sum(wide + 0.09 * min(letters, LONGEST) + 1.2 for letters in longest), tall + 1.9
    figure = new_figure(*size, finding, detail)
    panels = figure.subplots(1, len(parts), squeeze=False)[0]
    titles = {"regulator": ("Regulators", "sum of the weights"), "edge": ("Edges", "weight (per s.d.)")}
    for axes, (kind, (values, marks)) in zip(panels, parts.items(), strict=True):
        limit = colour_end(values.to_numpy(float))
        image = shaded(axes, values.to_numpy(float), limit, titles[kind][0], wide=wide)
        axes.set_aspect(ROW * len(values.columns) / wide)
        down, across = np.nonzero(marks.to_numpy(bool))
        dark = np.abs(values.to_numpy(float)[down, across]) > 0.6 * limit
        axes.scatter(across, down, s=11, color=np.where(dark, "white", INK), linewidths=0)
        axes.set_yticks(range(len(values)), [cut(name, LONGEST) for name in values.index], parse_math=False)
        names = [arrow(name) for name in values.columns]
        axes.set_xticks(range(len(names)), names, rotation=90, parse_math=False)
        colour_bar(figure, image, np.array([axes]), tall, titles[kind][1])
    return figure


def _wide(table: pd.DataFrame, column: str, transitions: list[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows of largest root mean square × transitions: values, NaN where there is no row; and marks."""
    words = table.astype({"transition": str}).drop_duplicates(["row", "transition"])
    size = words.assign(square=words[column].astype(float) ** 2).groupby("row", sort=False)["square"].sum()
    chosen = size.sort_values(ascending=False, kind="stable").index[:MOST_ROWS]
    kept = words[words["row"].isin(chosen)]
    values = kept.pivot(index="row", columns="transition", values=column).reindex(index=chosen, columns=transitions)
    marks = kept.pivot(index="row", columns="transition", values="marked").reindex_like(values)
    return values.astype(float), marks == True  # noqa: E712  (a missing edge is not marked)


def differential(judgement: NetworkJudgement) -> Figure | None:
    """Largest departures of a transition's weight from the shared one, those first whose interval leaves out 0."""
    table = judgement.table("differential")
    if table.empty:
        return None
    names = table["regulator"].astype(str) + ARROW + table["target"].astype(str)
    return _estimates(
        table.assign(row=names), "deviation", "edges differ between transitions",
        "departure from the shared weight (per s.d.)",
        "Departure of the weight in one transition from the weight that all share, with its interval.",
    )  # fmt: skip


def cofactors(judgement: NetworkJudgement) -> Figure | None:
    """Largest weights of the product of two regulators, those first that are called.

    The pairs are the first of a screen of many more: where its false-discovery rate q is known it must be small too.
    """
    table = judgement.table("cofactors")
    if table.empty:
        return None
    passed = table["q"] <= FDR if "q" in table else None
    pair = table["regulator_1"].astype(str) + " · " + table["regulator_2"].astype(str)
    return _estimates(
        table.assign(row=pair + ARROW + table["target"].astype(str)), "weight", "pairs of regulators act together",
        "weight of the product (per s.d.)",
        "Weight of the product of two regulators beside their own weights, with its interval. Red: together they "
        "activate more than alone, blue: less.", passed,
    )  # fmt: skip


def _estimates(
    table: pd.DataFrame, column: str, what: str, axis: str, detail: str, passed: pd.Series | None = None
) -> Figure | None:
    """One row per estimate with its interval; pale where it holds 0, there is none, or the screen was not passed."""
    screened = passed is not None
    table = table.assign(passed=passed if screened else True)
    table = table[table[column].notna()]
    if table.empty:
        return None
    low, high = (table.get(end, pd.Series(np.nan, index=table.index)).astype(float) for end in ("low", "high"))
    table = table.assign(low=low, high=high, sure=((low > 0) | (high < 0)) & table["passed"])
    order = np.lexsort([-table[column].abs(), ~table["sure"]])
    rows = table.iloc[order[:MOST_ROWS]]
    several = table["transition"].nunique() > 1
    finding = f"{table['sure'].sum():,} of {len(table):,} {what}: "
    if screened:
        finding += f"false-discovery rate ≤ {100 * FDR:g} % and a 95 % interval without 0"
    else:
        finding += f"their 95 % interval leaves out 0 (by chance: {0.05 * len(table):,.0f})"
    if len(rows) < len(table):
        detail += f" The {len(rows)} largest, those that are counted first; the others are pale."
    figure = new_figure(11, ROW * len(rows) + 1.0, finding, detail)
    axes, places = dress(figure.subplots(), x=axis), np.arange(len(rows))
    colours = [_sign_colour(value, sure) for value, sure in zip(rows[column], rows["sure"], strict=True)]
    axes.axvline(0, color=FAINT, linewidth=1, zorder=0)
    axes.hlines(places, rows["low"], rows["high"], color=colours, linewidth=2)
    axes.scatter(rows[column], places, s=34, color=colours, zorder=3)
    axes.set_yticks(places, [cut(name, LONGEST) for name in rows["row"]], parse_math=False)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    if several:
        for place, name in zip(places, rows["transition"].astype(str).map(arrow), strict=True):
            where = {"transform": axes.get_yaxis_transform(), "va": "center", "clip_on": False, "parse_math": False}
            axes.text(1.02, place, name, fontsize=SMALL, color=QUIET, **where)
    return figure


def _sign_colour(value: float, sure: bool) -> str:
    return FAINT if not sure else ACTIVATES if value > 0 else REPRESSES


def scores(judgement: NetworkJudgement) -> Figure | None:
    """A row of panels per group of the scoreboard, one panel per metric, one line per method. None without a value."""
    asked = {group: judgement.metrics(group)[:MOST_METRICS] for group in judgement.groups}
    asked = {group: names for group, names in asked.items() if names}
    if not asked:
        return None
    tall = [0.26 * len(judgement.rows(group)) + 1.1 for group in asked]
    columns = max(map(len, asked.values()))
    detail = "Dashed line: what a method that knows nothing scores. Bars: 95 % intervals over transitions. Green: what "
    detail += "the cells allow, no rival. R² below −0.5 is written at the frame."
    figure = new_figure(3.4 + 2.5 * columns, sum(tall), _score_finding(judgement, asked), detail)
    panels = figure.subplots(len(asked), columns, squeeze=False, height_ratios=tall)
    for line, (group, names) in zip(panels, asked.items(), strict=True):
        for axes in line[len(names) :]:
            axes.set_axis_off()
        rows = judgement.rows(group)
        for axes, name in zip(line, names, strict=False):
            _score(axes, judgement, rows, name)
            dress(axes, group if axes is line[0] else "", under=NETWORK_METRICS[name].label)
        line[0].set_yticks(range(len(rows)), rows["method"], parse_math=False)
        for label, method in zip(line[0].get_yticklabels(), rows["method"], strict=True):
            if method in judgement.methods:
                label.set(color=MODEL, fontweight="bold")
    return figure


def _score_finding(judgement: NetworkJudgement, asked: dict[str, list[str]]) -> str:
    """The first metric of every group, beside the best baseline."""
    told = []
    for group, names in asked.items():
        rows = judgement.rows(group).set_index("method")[names[0]].astype(float)
        rivals = rows[[name for name in judgement.baselines if name in rows.index]].dropna()
        words = f"{NETWORK_METRICS[names[0]].label} {number(rows.get(judgement.methods[0], np.nan))}"
        told.append(words + (f", best baseline {number(rivals.max())} ({rivals.idxmax()})" if len(rivals) else ""))
    return f"{judgement.methods[0]}: " + "; ".join(told)


def _score(axes: Axes, judgement: NetworkJudgement, rows: pd.DataFrame, name: str) -> None:
    """Values of one metric, the model on top."""
    kinds = {"model": MODEL, "baseline": QUIET, "ceiling": TRUTH}
    colours = [kinds[judgement.kind(method)] for method in rows["method"]]
    places = np.arange(len(rows))
    value, low, high = (rows.get(f"{name}{end}", rows[name] * np.nan).to_numpy(float) for end in ("", "_low", "_high"))
    if name in CHANCE:
        axes.axvline(CHANCE[name], color=INK, linewidth=1.2, linestyle=(0, (3, 2)), zorder=0)
    axes.hlines(places, low, high, color=colours, linewidth=2)
    axes.scatter(value, places, s=36, color=colours, zorder=3)
    axes.set(ylim=(len(rows) - 0.4, -0.6), yticks=[])
    far = value < FLOOR if name.startswith("r2") else np.zeros(len(value), bool)
    if far.any():
        top = np.nanmax(np.where(far, np.nan, np.fmax(value, high)), initial=0.0)
        axes.set_xlim(FLOOR, top + 0.08 * (top - FLOOR))
        for place in np.flatnonzero(far):
            axes.text(FLOOR, place, f" ◂ −{number(-value[place])}", fontsize=SMALL, color=colours[place], va="center")
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.tick_params(labelsize=TEXT - 2)
