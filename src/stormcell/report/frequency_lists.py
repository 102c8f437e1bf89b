"""What the gene lists of the modules are beside simpler lists, and whether the frequency space is a hierarchy.

gene_lists  overlap with correlation beside overlap between seeds; one regressor on the genes of each list
hierarchy   agreement of clusters with the known types over the cuts, and whether finer ones lie within coarser ones
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import ScaledTranslation

from stormcell.report import drawing
from stormcell.report.drawing import BASELINE, FAINT, INK, MANY, MODEL, QUIET, SMALL, TEXT, TRUTH, dress, new_figure
from stormcell.report.frequency_judgement import FrequencyJudgement, axis, bare, column, named
from stormcell.report.judgement import number
from stormcell.report.network_graph import cut

MOST_SERIES, MOST_PLACES, MOST_LABELS = 6, 20, 2  # more cannot be told apart
LOOKS = ((MODEL, "o"), (BASELINE, "s"), (TRUTH, "^"), (MANY[5], "D"), (MANY[3], "v"), (MANY[0], "P"))
SEEDS = "module, two seeds"
LONGEST, LONGEST_LIST, SHORT = 16, 30, 3  # characters of a frequency's name, of a list's, of one that is not turned
Lines = dict[str, tuple[str, str, str]]  # column -> words, colour, mark
TYPES: Lines = {
    "ari_types": ("frequencies", MODEL, "o"),
    "ari_pca": ("principal components", BASELINE, "s"),
    "null": ("labels permuted", QUIET, "x"),
}
OWN: Lines = {
    "ari_again": ("another draw of cells (ceiling)", TRUTH, "^"),
    "ari_predicted": ("predicted frequencies", MODEL, "o"),
    "ari_activations": ("activations of the modules", BASELINE, "s"),
}
NESTED: Lines = {"nested": ("frequencies", MODEL, "o"), "nested_pca": ("principal components", BASELINE, "s")}


def gene_lists(judgement: FrequencyJudgement) -> Figure | None:
    """Left: Jaccard of pairs of lists, between seeds and by chance; then R² of a regressor on the genes of each list.

    Lists are compared without signs, as modules of two seeds are. None where neither was asked.
    """
    lists, improvement = judgement.table("lists"), judgement.table("improvement")
    lists = lists[lists["footing"] != "signed"] if "footing" in lists else lists
    between = between_seeds(judgement)
    overlap = bool(column(lists, "jaccard").notna().any())
    regressors = _regressors(improvement)
    if not overlap and not regressors:
        return None
    detail = ["Jaccard: genes in common over genes in either list; dashed: random lists."] if overlap else []
    detail += (
        ["R²: one and the same regressor on as many genes of every list, on held-out cells."] if regressors else []
    )
    sides = overlap + len(regressors)
    finding = _list_finding(lists if overlap else lists[:0], between, regressors)
    longest = max(len(bare(frequency)) for table in (lists, improvement) for frequency in table.get("frequency", []))
    tall = 4.9 + 0.09 * min(longest, LONGEST) * (longest > SHORT)
    figure = new_figure(max(8.5, 5.6 * sides), tall, finding, " ".join(detail))
    panels = list(figure.subplots(1, sides, squeeze=False)[0])
    if overlap:
        _overlaps(panels[0], lists, between)
    for axes, (name, table) in zip(panels[overlap:], regressors.items(), strict=True):
        dress(axes, f"Regressor: {name}", y="R² on held-out cells")
        series = {str(listed): part for listed, part in table.groupby("list", sort=False)}
        _series(axes, series, "r2", list(dict.fromkeys(table["frequency"]))[:MOST_PLACES])
        axes.axhline(0, color=FAINT, linewidth=1, zorder=0)
    return figure


def _regressors(improvement: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The improvement of each regressor that has a value."""
    if improvement.empty:
        return {}
    words = improvement["regressor"] if "regressor" in improvement else ["regressor"] * len(improvement)
    parts = {str(name): part for name, part in improvement.groupby(np.asarray(words, object), sort=False)}
    return {name: part for name, part in parts.items() if column(part, "r2").notna().any()}


def between_seeds(judgement: FrequencyJudgement) -> pd.DataFrame:
    """frequency, jaccard: of the leading module of each frequency between seeds; no row without a second seed.

    Over 25 genes where that is known, as many as the lists have: longer lists overlap more by chance.
    """
    table = judgement.table("module_summary")
    if table.empty:
        return pd.DataFrame({"frequency": [], "jaccard": []})
    name = "jaccard_25" if "jaccard_25" in table else "jaccard_seeds"
    leading = table.assign(jaccard=column(table, name)).drop_duplicates("frequency")
    return leading.loc[leading["jaccard"].notna(), ["frequency", "jaccard"]]


def _pairs(lists: pd.DataFrame) -> pd.Series:
    return lists["list a"].astype(str) + " and " + lists["list b"].astype(str)


def _overlaps(axes: Axes, lists: pd.DataFrame, between: pd.DataFrame) -> None:
    """One series per pair of lists, the overlap between seeds first."""
    dress(axes, "Genes shared by two lists", y="Jaccard index")
    series = {SEEDS: between} if len(between) else {}
    series |= {str(name): part for name, part in lists.groupby(_pairs(lists), sort=False)}
    _series(axes, series, "jaccard", list(dict.fromkeys(lists["frequency"]))[:MOST_PLACES])
    chance = column(lists, "chance")
    if chance.notna().any():
        axes.axhline(chance.median(), color=INK, linewidth=1.2, linestyle=(0, (3, 2)), zorder=0)
    axes.set_ylim(-0.03, 1.03)


def _series(axes: Axes, series: dict[str, pd.DataFrame], name: str, shown: list) -> None:
    """Values of several series at every frequency, side by side, with their intervals."""
    series = dict(list(series.items())[:MOST_SERIES])
    at = {named(frequency): place for place, frequency in enumerate(shown)}
    width = 0.7 / max(len(series), 1)
    for turn, (words, table) in enumerate(series.items()):
        colour, mark = (QUIET, "x") if words.startswith("random") else LOOKS[turn]
        where = np.array([at.get(named(f), np.nan) for f in table["frequency"]]) + (turn + 0.5) * width - 0.35
        axes.vlines(where, column(table, "low"), column(table, "high"), color=colour, linewidth=1.6, zorder=2)
        label = cut(words, LONGEST_LIST)
        axes.plot(where, column(table, name), mark, color=colour, ms=6, mew=1.6, label=label, zorder=3)
    for place in range(1, len(shown)):
        axes.axvline(place - 0.5, color=FAINT, linewidth=0.5, zorder=0)
    labels = [cut(bare(frequency), LONGEST) for frequency in shown]
    turned = max(map(len, labels)) > SHORT
    axes.set_xticks(range(len(shown)), labels, rotation=90 if turned else 0, parse_math=False)
    axes.tick_params(axis="x", length=0)
    axes.set_xlim(-0.5, len(shown) - 0.5)
    axes.set_xlabel(axis(shown), fontsize=TEXT)
    _below(axes, 0.62 * SMALL * turned * max(map(len, labels)))


def _below(axes: Axes, more: float, columns: int = 2) -> None:
    """The names under the axis, where they cover nothing; `more`: points that the labels of the axis take."""
    down = ScaledTranslation(0, -(40 + more) / 72, axes.figure.dpi_scale_trans)
    style = {"loc": "upper left", "bbox_to_anchor": (0, 0), "bbox_transform": axes.transAxes + down}
    drawing.legend(axes, **style, ncols=columns, handletextpad=0.3, columnspacing=1.2, labelspacing=0.3)


def _list_finding(lists: pd.DataFrame, between: pd.DataFrame, regressors: dict[str, pd.DataFrame]) -> str:
    """The mean overlap beside that between seeds, and the mean R² of every list."""
    told = []
    if len(lists):
        first = lists[_pairs(lists) == _pairs(lists).iloc[0]]
        words = f"Jaccard {number(column(first, 'jaccard').mean())} of {_pairs(first).iloc[0]}"
        if len(between):
            words += f", {number(between['jaccard'].mean())} of two seeds of a module"
        told.append(f"{words}, {number(column(first, 'chance').mean())} of random lists")
    for name, table in list(regressors.items())[:1]:
        mean = column(table, "r2").groupby(table["list"].astype(str), sort=False).mean()
        told.append(f"mean R² of {name}: " + ", ".join(f"{words} {number(value)}" for words, value in mean.items()))
    words = "; ".join(told)
    return words[0].upper() + words[1:]


def hierarchy(judgement: FrequencyJudgement) -> Figure | None:
    """Adjusted Rand index over the cuts with each kind of labels and with the model, and how far clusters are nested.

    None without a value.
    """
    table = judgement.table("hierarchy")
    if table.empty:
        return None
    kinds = table["labels"].astype(object) if "labels" in table else pd.Series("known types", index=table.index)
    parts = {str(name).replace("_", " "): part for name, part in table.groupby(kinds, sort=False)}
    once = table.drop_duplicates("cut")
    asked = [(f"Agreement with {name}", part, TYPES, "adjusted Rand index") for name, part in parts.items()]
    asked = [
        *asked[:MOST_LABELS],
        ("Agreement with the true frequencies", once, OWN, "adjusted Rand index"),
        ("Coarser known from finer", once, NESTED, "1 − H(coarse | fine) / H(coarse)"),
    ]
    asked = [one for one in asked if any(column(one[1], name).notna().any() for name in one[2])]
    if not asked:
        return None
    detail = "Clusters (k-means, one more than frequencies used) of held-out cells. 0: chance, 1: the same partition, "
    detail += "or each finer cluster within one coarser."
    figure = new_figure(max(8.0, 4.5 * len(asked)), 4.6, _hierarchy_finding(parts, once), detail)
    for axes, (title, part, lines, words) in zip(figure.subplots(1, len(asked), squeeze=False)[0], asked, strict=True):
        for name, (label, colour, mark) in lines.items():
            value = column(part, name)
            if value.notna().any():
                style = {"color": colour, "marker": mark, "markersize": 7, "linewidth": 1.6}
                axes.plot(column(part, "cut"), value, label=label, **style)
        axes.axhline(0, color=FAINT, linewidth=1, zorder=0)
        dress(axes, title, "frequencies used", words)
        axes.set_ylim(top=1.03)
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        _below(axes, 0, 1)
    return figure


def _hierarchy_finding(parts: dict[str, pd.DataFrame], once: pd.DataFrame) -> str:
    """Where the clusters agree best with each kind of labels, and how far they are nested."""
    told = []
    for name, part in list(parts.items())[:MOST_LABELS]:
        value = column(part, "ari_types")
        if value.notna().any():
            best = value.idxmax()
            words = f"with {name} at {part.loc[best, 'cut']:.0f} frequencies: ARI {number(value[best])}"
            pca = column(part, "ari_pca")[best]
            told.append(words + (f" (principal components {number(pca)})" if np.isfinite(pca) else ""))
    nested = column(once, "nested").mean()
    words = ["Clusters agree best " + ", ".join(told)] if told else []
    words += [f"a coarser cluster is {100 * nested:.0f} % known from the finer"] if np.isfinite(nested) else []
    words = "; ".join(words) or "Clusters of the first frequencies"
    return words[0].upper() + words[1:]
