"""What each perturbation does, by gene and by factor.

programmes      fold changes with the background removed, perturbations by programme
factor_effects  effects on the loadings of the factors of expression, the significant ones marked

Shapes: R perturbations drawn, C genes or factors drawn.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from stormcell.report.drawing import INK, QUIET, SMALL, TEXT, new_figure
from stormcell.report.heatmap import clustered, colour_bar, colour_end, name_columns, shaded
from stormcell.report.latent_judgement import LatentJudgement

MOST_ROWS, MOST_GENES = 60, 60  # more cannot be read
WIDE = 11.0  # inches of the genes
FDR = 0.05


def programmes(judgement: LatentJudgement) -> Figure | None:
    """Perturbations × genes of largest log2 fold change with the background removed, ordered by programme.

    Genes are those of largest root mean square over the perturbations drawn, alike ones side by side; a dot marks a
    gene called differentially expressed. None without a table `de`.
    """
    table = judgement.table("de")
    if table.empty:
        return None
    lfc = _pivot(table, "gene", "lfc_mean")
    called = table["is_de"].fillna(False).astype(bool)
    found = table[called].astype({"condition": str}).groupby("condition").size().reindex(lfc.index, fill_value=0)
    group = _programme_of(judgement.table("programmes"), lfc.index)
    chosen = _most(found.to_numpy(), np.nanmax(np.abs(lfc.to_numpy()), axis=1, initial=0), lfc.index)
    order = sorted(chosen, key=lambda row: (_rank(group.iloc[row]), -found.iloc[row], lfc.index[row]))
    rows, group = lfc.iloc[order], group.iloc[order]
    genes = clustered(rows.fillna(0).to_numpy(), MOST_GENES)
    values = rows.iloc[:, genes]
    marks = _pivot(table[called], "gene", "lfc_mean").reindex_like(values)
    few = f"The {len(genes)} of {lfc.shape[1]:,} genes that change most"
    detail = (
        "log2 fold change of cells decoded with their salient part against without it; in brackets the genes called. "
        f"{few if len(genes) < lfc.shape[1] else 'Every gene'}; dot: called; colours end at "
        f"95 % of the values.{_shown(order, lfc.index)}"
    )
    labels = [f"{name} ({found[name]})" for name in rows.index]
    title = _genes_found(judgement.methods[0], found)
    figure, axes = _matrix(values.to_numpy(float), marks.notna().to_numpy(), labels, title, detail, "log2 fold change")
    name_columns(axes, list(values.columns), WIDE)
    _brackets(axes, group)
    return figure


def _pivot(table: pd.DataFrame, across: str, values: str) -> pd.DataFrame:
    """Perturbations × `across`, both as words and in the order of the table; NaN where there is no row."""
    words = table.astype({"condition": str, across: str}).drop_duplicates(["condition", across])
    whole = words.pivot(index="condition", columns=across, values=values)
    return whole.reindex(index=words["condition"].unique(), columns=words[across].unique()).rename_axis(columns=None)


def _programme_of(table: pd.DataFrame, perturbations: pd.Index) -> pd.Series:
    """The programme of each perturbation as a word; "" where it has none."""
    if table.empty:
        return pd.Series("", index=perturbations)
    names = table.drop_duplicates("perturbation").set_index("perturbation")["programme"]
    return names.reindex(perturbations).map(lambda name: "" if pd.isna(name) else str(name))


def _rank(programme: str) -> tuple:
    """Programme 10 comes after 9; perturbations without one last."""
    whole = programme.removesuffix(".0")
    return (programme == "", int(whole) if whole.isdigit() else 0, programme)


def _most(first: np.ndarray, second: np.ndarray, names: pd.Index) -> list[int]:
    """At most so many rows: those of largest `first`, then `second`, then by name."""
    return [int(row) for row in np.lexsort([names.astype(str), -np.nan_to_num(second), -first])[:MOST_ROWS]]


def _shown(rows: list[int], every: pd.Index) -> str:
    return (
        f" {len(rows)} of {len(every)} perturbations are shown, those of largest effect."
        if len(rows) < len(every)
        else ""
    )


def _genes_found(method: str, found: pd.Series) -> str:
    """How many perturbations change a gene, and the ones that change most."""
    top = sorted(found.index, key=lambda name: (-found[name], name))[:3]
    told = ", ".join(f"{name} ({found[name]})" for name in top if found[name])
    words = f"{method}: {(found > 0).sum()} of {len(found)} perturbations change a gene"
    return words + (f"; most genes: {told}" if told else "")


def _matrix(
    values: np.ndarray, marks: np.ndarray, rows: list[str], finding: str, detail: str, label: str
) -> tuple[Figure, Axes]:
    """A heat map R × C with a colour bar, dots where marked (R × C)."""
    height = float(np.clip(5 / max(len(rows), 1), 0.2, 0.4)) * len(rows)
    height = max(height, 1.0)
    figure = new_figure(WIDE + 4, height + 1.4, finding, detail)
    axes = figure.subplots()
    limit = colour_end(values)
    image = shaded(axes, values, limit, wide=WIDE)
    down, across = np.nonzero(marks)
    dark = np.abs(values[down, across]) > 0.6 * limit
    axes.scatter(across, down, s=9, color=np.where(dark, "white", INK), linewidths=0)
    axes.set_yticks(range(len(rows)), rows, parse_math=False)
    colour_bar(figure, image, np.array([axes]), height, label)
    return figure, axes


def _brackets(axes: Axes, group: pd.Series) -> None:
    """A line between programmes, and their names on the right; nothing where there are none."""
    starts = [0, *np.flatnonzero(group.to_numpy()[1:] != group.to_numpy()[:-1]) + 1, len(group)]
    for start, end in pairwise(starts):
        if start:
            axes.axhline(start - 0.5, color=INK, linewidth=1)
        name = group.iloc[start].removesuffix(".0")
        if name:
            at = 1.01, (start + end - 1) / 2
            words = f"programme {name}" if name.isdigit() else name
            place = axes.get_yaxis_transform()
            axes.text(*at, words, transform=place, fontsize=SMALL, color=QUIET, va="center", parse_math=False)


def factor_effects(judgement: LatentJudgement) -> Figure | None:
    """Perturbations × factors: effect adjusted for the background; a dot where q is at most 5 %.

    None without a table `factor_effects`.
    """
    table = judgement.table("factor_effects")
    if table.empty:
        return None
    effect, q = (
        table.pivot_table(column, "condition", "factor", aggfunc="first", sort=False) for column in ("effect", "q")
    )
    q = q.reindex_like(effect)
    marks = q.to_numpy(float) <= FDR
    largest = np.nanmax(np.abs(effect.to_numpy(float)), axis=1, initial=0)
    order = _most(marks.sum(1), largest, effect.index)
    moved = int(marks.any(1).sum())
    detail = f"Effect on a cell's loading, adjusted for its background; dot: q ≤ {FDR}. "
    detail += "Intervals: tables/factor_effects.csv."
    finding = f"{moved} of {len(effect)} perturbations move a factor of expression ({int(marks.sum())} effects in all)"
    rows = [str(name) for name in effect.index[order]]
    values = effect.to_numpy(float)[order]
    detail += _shown(order, effect.index)
    figure, axes = _matrix(values, marks[order], rows, finding, detail, "effect on the loading")
    name_columns(axes, [str(name) for name in effect.columns], WIDE)
    axes.set_xlabel("factor of expression", fontsize=TEXT, color=INK)
    return figure
