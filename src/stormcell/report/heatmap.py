"""True and predicted shifts of many perturbations and the genes that change most, side by side.

Shapes: Q queries, R rows drawn, C genes drawn.
"""

from __future__ import annotations

import textwrap

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from scipy.cluster.hierarchy import leaves_list, linkage

from stormcell.report.choice import by_group, left_out
from stormcell.report.drawing import FAINT, INK, SMALL, TEXT, TITLE, dress, new_figure
from stormcell.report.judgement import Judgement, middle, number

MOST_ROWS, MOST_GENES = 40, 60  # more cannot be read
WIDE = 4.3  # inches of a panel
SHIFT = "shift_correlation"


def shift_heatmap(judgement: Judgement) -> Figure:
    """One row of panels per group of queries: true shifts, those of the model's first row, of the best baseline.

    Genes are those of largest root mean square true shift over the queries drawn, in the order of a hierarchical
    clustering of these; all panels have one scale, white at 0. Explained is 1 − Σ (true − predicted)² / Σ true² over
    what is drawn: no change explains 0.
    """
    rows = by_group(judgement, SHIFT, MOST_ROWS)
    chosen = np.concatenate(list(rows.values()))
    genes = clustered(judgement.true_shift[chosen], MOST_GENES)
    rivals = {group: judgement.best_baseline(group, SHIFT, among=judgement.predicted_shift) for group in rows}
    true = judgement.true_shift[np.ix_(chosen, genes)]
    predicted = _predicted(judgement, rows, genes, [dict.fromkeys(rows, judgement.methods[0]), rivals])
    few = f"The {len(genes)} of {len(judgement.genes):,} genes of largest true shift"
    detail = (
        f"{few if len(genes) < len(judgement.genes) else 'Every gene'}, alike ones together; colours end at 95 % of "
        "the true values; grey: no answer. Explained: 1 − Σ (true − predicted)² / Σ true² of what is shown, 0 for no "
        f"change.{left_out(judgement, rows)}{judgement.caution}"
    )
    height = float(np.clip(5 / len(chosen), 0.2, 0.4))  # inches of one row: can be read, and forty fit
    tall = [max(0.5, len(inside) * height) for inside in rows.values()]
    sides = 1 + len(predicted)
    size = 2.2 + WIDE * sides, sum(tall) + 0.65 * len(rows) + 1.1
    figure = new_figure(*size, _finding(judgement, true, predicted), detail)
    panels = figure.subplots(len(rows), sides, squeeze=False, height_ratios=tall)
    ends = np.cumsum([len(inside) for inside in rows.values()])
    limit = colour_end(true)
    for line, (group, inside), end in zip(panels, rows.items(), ends, strict=True):
        block = slice(end - len(inside), end)
        image = shaded(line[0], true[block], limit, group, "true shifts")
        line[0].set_yticks(range(len(inside)), [judgement.name(query) for query in inside], parse_math=False)
        for axes, shift, method in zip(line[1:], predicted, (judgement.methods[0], rivals[group]), strict=False):
            shaded(axes, shift[block], limit, *_titles(judgement, group, method, explained(true[block], shift[block])))
    for axes in panels[-1]:
        name_columns(axes, [judgement.genes[gene] for gene in genes], WIDE)
    colour_bar(figure, image, panels, sum(tall), "shift (log1p)")
    return figure


def clustered(shifts: np.ndarray, most: int) -> np.ndarray:
    """Columns of largest root mean square, at most so many, like ones side by side: R × G → C column numbers.

    Average linkage on Euclidean distance, leaves in their optimal order. Columns that are not finite are left out.
    """
    size = np.sqrt(np.square(shifts).mean(0))
    size[~np.isfinite(size)] = -1
    largest = np.sort(np.argsort(-size, kind="stable")[: min(most, (size >= 0).sum())])
    if len(largest) < 3:
        return largest
    return largest[leaves_list(linkage(shifts[:, largest].T, "average", optimal_ordering=True))]


def explained(true: np.ndarray, predicted: np.ndarray) -> float:
    """1 − Σ (true − predicted)² / Σ true² over the rows that are finite: R × C, R × C → number; NaN where none is."""
    rows = np.isfinite(true).all(1) & np.isfinite(predicted).all(1)
    total = np.square(true[rows]).sum()
    return float(1 - np.square(true[rows] - predicted[rows]).sum() / total) if total > 0 else np.nan


def percent(share: float) -> str:
    """64 %, or - where undefined; the space does not break."""
    return f"{round(100 * share) + 0}\u00a0%" if np.isfinite(share) else "-"


def _predicted(
    judgement: Judgement, rows: dict[str, list[int]], genes: np.ndarray, methods: list[dict[str, str | None]]
) -> list[np.ndarray]:
    """Shifts of the queries drawn as told by one method per group: R × C each, NaN where there is no answer.

    The second is left out where no group has a baseline.
    """
    nothing = np.full((len(judgement.queries), len(judgement.genes)), np.nan)
    given = {None: nothing} | judgement.predicted_shift
    return [
        np.concatenate([given[method[group]][np.ix_(inside, genes)] for group, inside in rows.items()])
        for method in methods
        if any(method.values())
    ]


def _finding(judgement: Judgement, true: np.ndarray, predicted: list[np.ndarray]) -> str:
    """Median r over all queries, and the share of what is drawn that is explained, beside the best baselines."""
    r = judgement.values(judgement.methods[0], SHIFT)
    share, *rival = (explained(true, shift) for shift in predicted)
    if np.isnan(share):
        return f"{judgement.methods[0]} has no answer for the perturbations shown"
    words = f"{judgement.methods[0]}: {_median(r)}, explains {percent(share)} of the true shifts shown"
    return words + "".join(f", the best baseline {percent(other)}" for other in rival)


def _titles(judgement: Judgement, group: str, method: str | None, share: float) -> tuple[str, str]:
    if method is None or np.isnan(share):
        return method or "baselines", "no answer"
    r = judgement.values(method, SHIFT)[(judgement.queries["group"] == group).to_numpy()]
    return method, f"{_median(r)}, explains {percent(share)}"


def _median(r: np.ndarray) -> str:
    return f"{'median ' if len(r) > 1 else ''}r = {number(middle(r))}"


def shaded(axes: Axes, values: np.ndarray, limit: float, title: str = "", under: str = "", wide=WIDE) -> AxesImage:
    """A matrix R × C on the scale −limit to limit, white at 0, grey where there is no value; `wide`: inches."""
    colours = colormaps["RdBu_r"].with_extremes(bad=FAINT)
    image = axes.imshow(values, cmap=colours, vmin=-limit, vmax=limit, aspect="auto", interpolation="none")
    dress(axes, textwrap.shorten(title, int(wide * 72 / (0.52 * TITLE)), placeholder=" …"), under=under)
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.tick_params(length=0)
    axes.set(xticks=[], yticks=[])
    return image


def colour_end(values: np.ndarray) -> float:
    """End of the colour scale: 95 % of the values lie within; a few genes would press all others to white."""
    finite = np.abs(values[np.isfinite(values)])
    return max(float(np.quantile(finite, 0.95)), 1e-6) if len(finite) else 1.0


def name_columns(axes: Axes, names: list[str], wide: float) -> None:
    """Every name, or every second, third, ... where they would overlap in so many inches."""
    step = max(1, int(np.ceil(len(names) * 1.25 * SMALL / 72 / wide)))
    axes.set_xticks(range(0, len(names), step), names[::step], rotation=90, parse_math=False)


def colour_bar(figure: Figure, image: AxesImage, panels: np.ndarray, tall: float, label: str) -> None:
    bar = figure.colorbar(image, ax=panels, shrink=min(1, 2.2 / tall), aspect=14, pad=0.01, extend="both")
    bar.set_label(label, fontsize=TEXT, color=INK)
    bar.ax.tick_params(labelsize=SMALL)
    bar.outline.set_visible(False)
