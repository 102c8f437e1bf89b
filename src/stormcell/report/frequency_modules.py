"""The gene modules of the frequencies and the terms that are over-represented in them, as heat maps.

module_heatmap  genes × modules, above it how well each module comes back from another seed
enrichment      terms × frequencies
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from stormcell.analysis.enrichment import SIGNIFICANT, term_matrix
from stormcell.report import drawing
from stormcell.report.drawing import BASELINE, FAINT, INK, MODEL, QUIET, SMALL, TEXT, dress, new_figure
from stormcell.report.frequency_judgement import FrequencyJudgement, axis, bare, column, marked
from stormcell.report.heatmap import colour_bar
from stormcell.report.judgement import number
from stormcell.report.network_graph import cut

MOST_MODULES, MOST_GENES, MOST_TERMS = 20, 40, 25  # more cannot be read
ROW = 0.22  # inches of a line
LONGEST, LONGEST_TERM = 14, 54  # characters of a name
SIGNS = {"+": "+", "-": "−", 1: "+", -1: "−"}
PALE = "#EFEFEF"  # not in the list
STABLE = 0.5  # Jaccard between seeds from which a module comes back


def module_heatmap(judgement: FrequencyJudgement) -> Figure | None:
    """Loadings of the leading genes of the modules, those of one frequency side by side; above: Jaccard between seeds.

    Every frequency has its leading module before any has its second. None without a module.
    """
    genes = judgement.table("modules")
    if genes.empty or column(genes, "loading").isna().all():
        return None
    keys = shown_modules(judgement)
    values = _loadings(genes, keys)
    summary = _summary(judgement, keys)
    wide, tall = max(3.0, 0.36 * len(keys)), ROW * len(values)
    detail = "Loading over the largest of its module; grey: not among the listed genes. + and −: sign of λ, the way "
    detail += "that both poles of a quadratic module push. Pale: does not come back from other seeds and resamples."
    judged = column(summary, "jaccard_seeds").notna().any() or column(summary, "overlap_correlation").notna().any()
    figure = new_figure(max(7.5, wide + 3.2), tall + 1.9 + 1.5 * judged, _module_finding(judgement, summary), detail)
    if judged:
        above, axes = figure.subplots(2, 1, height_ratios=[1.5, tall])
        _stability(above, summary)
        above.set_xlim(-0.5, len(keys) - 0.5)
    else:
        axes = figure.subplots()
    colours = colormaps["RdBu_r"].with_extremes(bad=PALE)
    image = axes.imshow(values, cmap=colours, vmin=-1, vmax=1, aspect="auto", interpolation="none")
    dress(axes, x="frequency: module, sign of λ")
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.tick_params(length=0)
    axes.set_yticks(range(len(values)), [cut(str(name), LONGEST) for name in values.index], parse_math=False)
    names = [_module_name(row) for _, row in summary.iterrows()]
    axes.set_xticks(range(len(keys)), names, rotation=90, parse_math=False)
    known = "comes_back" in summary and summary["comes_back"].notna().any()
    for label, back in zip(axes.get_xticklabels(), marked(summary, "comes_back"), strict=True):
        label.set_color(INK if back or not known else "#9A9A9A")
    for place in np.flatnonzero([a[0] != b[0] for a, b in pairwise(keys)]):
        axes.axvline(place + 0.5, color=QUIET, linewidth=0.8)
    bar = figure.colorbar(image, ax=axes, shrink=min(1, 2.2 / tall), aspect=14, pad=0.01)
    bar.set_label("loading (of the largest)", fontsize=TEXT, color=INK)
    bar.ax.tick_params(labelsize=SMALL)
    bar.outline.set_visible(False)
    return figure


def shown_modules(judgement: FrequencyJudgement) -> list[tuple]:
    """(frequency, module) of at most twenty modules that have genes, those of one frequency together."""
    have = _keys(judgement.table("modules"))
    listed = [key for key in _keys(judgement.table("module_summary")) if key in set(have)]
    keys = list(dict.fromkeys([*listed, *have]))
    turn: dict = {}
    turns = [turn.__setitem__(f, turn.get(f, -1) + 1) or turn[f] for f, _ in keys]
    order = list(dict.fromkeys(frequency for frequency, _ in keys))
    chosen = sorted(range(len(keys)), key=lambda place: (turns[place], order.index(keys[place][0])))[:MOST_MODULES]
    return sorted((keys[place] for place in chosen), key=lambda key: (order.index(key[0]), keys.index(key)))


def _keys(table: pd.DataFrame) -> list[tuple]:
    """(frequency, module) in the order of a table."""
    return list(dict.fromkeys(zip(table["frequency"], table["module"], strict=True))) if len(table) else []


def _loadings(table: pd.DataFrame, keys: list[tuple]) -> pd.DataFrame:
    """Genes × modules, each over its largest absolute loading; NaN where the list of a module has no such gene.

    As many genes of every module as fit, in the order of the modules.
    """
    key = pd.Series(list(zip(table["frequency"], table["module"], strict=True)), index=table.index)
    parts = {k: table.assign(value=column(table, "loading"))[key == k].drop_duplicates("gene") for k in keys}
    parts = {k: part.set_index(part["gene"].astype(str))["value"].dropna() for k, part in parts.items()}
    parts = {k: part / max(part.abs().max(), 1e-300) if len(part) else part for k, part in parts.items()}
    each, rows = 0, {}
    ranked = {k: part.index[np.argsort(-part.abs().to_numpy(), kind="stable")] for k, part in parts.items()}
    for each in range(1, MOST_GENES + 1):
        wider = dict.fromkeys(name for names in ranked.values() for name in names[:each])
        if len(wider) > MOST_GENES and rows:
            break
        rows = wider
    columns = [part.reindex(list(rows)).to_numpy(float) for part in parts.values()]
    return pd.DataFrame(np.column_stack(columns), index=list(rows))


def _summary(judgement: FrequencyJudgement, keys: list[tuple]) -> pd.DataFrame:
    """The rows of module_summary in the order of the keys; only the keys where there are none."""
    asked = pd.DataFrame(keys, columns=["frequency", "module"])
    table = judgement.table("module_summary")
    if table.empty:
        table = judgement.table("modules").reindex(columns=["frequency", "module", "lambda_sign"])
    table = table.drop_duplicates(["frequency", "module"])
    found = {(row["frequency"], row["module"]): row for row in table.to_dict("records")}
    return asked.assign(
        **{
            name: [found.get(key, {}).get(name) for key in keys]
            for name in table.columns
            if name not in ("frequency", "module")
        }
    )


def _module_name(row: pd.Series) -> str:
    """`3: quadratic 1 +`: frequency, module, sign of λ."""
    sign = SIGNS.get(row.get("lambda_sign"), "")
    return f"{cut(bare(row['frequency']), LONGEST)}: {cut(str(row['module']), LONGEST)} {sign}".strip()


def _stability(axes: Axes, summary: pd.DataFrame) -> None:
    """Jaccard of the genes between seeds, and with the genes of largest correlation."""
    places = np.arange(len(summary))
    between = column(summary, "jaccard_seeds")
    back = between >= STABLE if "comes_back" not in summary else marked(summary, "comes_back")
    axes.bar(places, between.fillna(0), width=0.62, color=np.where(back, MODEL, FAINT))
    marks = {"between two seeds": Patch(color=MODEL)}
    overlap = column(summary, "overlap_correlation")
    if overlap.notna().any():
        style = {"color": BASELINE, "markersize": 7, "markerfacecolor": "white", "markeredgewidth": 1.8}
        marks["with the correlation list"] = axes.plot(places, overlap, "s", **style)[0]
    axes.axhline(STABLE, color=INK, linewidth=1, linestyle=(0, (3, 2)), zorder=0)
    dress(axes, y="Jaccard")
    axes.set(ylim=(0, 1.02), xticks=[], yticks=[0, 0.5, 1])
    style = {"loc": "lower left", "bbox_to_anchor": (0, 1), "ncols": 2, "borderaxespad": 0.1, "handletextpad": 0.4}
    drawing.legend(axes, list(marks.values()), list(marks), **style)


def _module_finding(judgement: FrequencyJudgement, summary: pd.DataFrame) -> str:
    """How many modules come back, and what their lists share with correlation."""
    table = judgement.table("module_summary")
    if "comes_back" not in table or table["comes_back"].isna().all():
        return f"{len(_keys(judgement.table('modules')))} gene modules; whether they come back was not asked"
    back, of = marked(table, "comes_back").sum(), table["comes_back"].notna().sum()
    words = f"{back} of {of} modules come back from other seeds and resampled cells"
    between, overlap = (column(table, name).mean() for name in ("jaccard_seeds", "overlap_correlation"))
    if np.isfinite(between):
        words += f": mean Jaccard {number(between)}"
    return words + (f", {number(overlap)} with the correlation list" if np.isfinite(overlap) else "")


def enrichment(judgement: FrequencyJudgement) -> Figure | None:
    """−log10 q of the best list of each frequency, a dot where q ≤ .05. None where no term reaches it."""
    table = judgement.table("enrichment")
    if table.empty:
        return None
    strength = term_matrix(table.assign(q=column(table, "q").fillna(1)), MOST_TERMS, _order(judgement, table)).T
    if strength.empty:
        return None
    wide, tall = max(2.4, 0.5 * len(strength.columns)), ROW * len(strength)
    detail = f"The best {len(strength)} terms; colour: −log10 of the false-discovery rate of the best module of a "
    detail += f"frequency, a dot: at most {100 * SIGNIFICANT:g} %. Background: the measured genes."
    letters = max(len(cut(str(name), LONGEST_TERM)) for name in strength.index)
    labels = [cut(bare(name), LONGEST) for name in strength.columns]
    turned = max(map(len, labels)) > 3
    size = max(8.0, wide + 0.088 * letters + 1.6), tall + 1.1 + 0.1 * turned * max(map(len, labels))
    figure = new_figure(*size, _term_finding(judgement, table), detail)
    axes = figure.subplots()
    values = strength.to_numpy(float)
    end = max(float(np.quantile(values[values > 0], 0.95)), 2.0)
    image = axes.imshow(values, cmap="Blues", vmin=0, vmax=end, aspect="auto", interpolation="none")
    down, across = np.nonzero(values >= -np.log10(SIGNIFICANT))
    ink = np.where(values[down, across] > 0.6 * end, "white", INK)
    axes.scatter(across, down, s=14, color=ink, linewidths=0)
    dress(axes, x=axis(strength.columns))
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.tick_params(length=0)
    axes.set_xticks(range(len(labels)), labels, rotation=90 if turned else 0, parse_math=False)
    terms = [cut(str(name).replace("_", " "), LONGEST_TERM) for name in strength.index]
    axes.set_yticks(range(len(terms)), terms, parse_math=False)
    colour_bar(figure, image, np.array([axes]), tall, "−log10 q")
    return figure


def _order(judgement: FrequencyJudgement, table: pd.DataFrame) -> list:
    """Frequencies in the order of the spectrum or of the scores, those of the table after them."""
    known: Iterable = [f for name in ("spectrum", "per_frequency") for f in judgement.table(name).get("frequency", [])]
    return list(dict.fromkeys([*(f for f in known if f in set(table["frequency"])), *table["frequency"]]))


def _term_finding(judgement: FrequencyJudgement, table: pd.DataFrame) -> str:
    """The lineages that were looked up, found or not; without any, the best term."""
    looked = judgement.table("looked_up")
    told = []
    for row in looked.to_dict("records"):
        found = row["found"] is True or row["found"] == True  # noqa: E712  (numpy's true is another)
        where = f" (frequency {bare(row['frequency'])}, q = {number(row['q'])})" if "frequency" in row and found else ""
        told.append(f"{row['lineage']} terms {'found' if found else 'not found'}{where}")
    if not told:
        top = table.loc[column(table, "q").idxmin()]
        told = [f"best term: {cut(str(top['term']).replace('_', ' '), LONGEST_TERM)}, q = {number(top['q'])}"]
    words = "; ".join(told)
    return words[0].upper() + words[1:]
