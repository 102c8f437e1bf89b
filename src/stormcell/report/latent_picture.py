"""Where the held-out cells lie in each space: one row per space, one column per question asked of the cells.

Shapes: N cells, K dimensions of a space.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from stormcell.report import drawing
from stormcell.report.drawing import FAINT, INK, MANY, MODEL, QUIET, TEXT, dress, new_figure
from stormcell.report.judgement import number
from stormcell.report.latent_judgement import LatentJudgement
from stormcell.report.plane import plane

MOST_CELLS, MOST_NAMES = 3000, 8  # more cells take minutes of UMAP, more colours cannot be told apart
SIDE = 3.3  # inches of a panel
SPACES = {"salient": "salient", "background": "background", "pca": "PCA of expression"}
COLUMNS = {"phase": "cell-cycle phase", "batch": "batch", "cell_type": "cell type"}
PHASES = ("G1", "S", "G2M")
# What the scoreboard says of a space about a column: metric, words.
SAYS = {
    ("salient", "condition"): ("probe", "balanced accuracy"),
    ("salient", "is_control"): ("salient_auc", "AUC"),
    ("salient", "phase"): ("phase_leak", "balanced accuracy"),
    ("salient", "batch"): ("batch_leak", "balanced accuracy"),
    ("background", "condition"): ("background_probe", "balanced accuracy"),
    ("background", "is_control"): ("background_auc", "AUC"),
    ("background", "phase"): ("background_phase", "balanced accuracy"),
    ("background", "batch"): ("background_batch", "balanced accuracy"),
    ("background", "cell_type"): ("background_cell_type", "balanced accuracy"),
}


def latent_picture(judgement: LatentJudgement, embedding: str = "umap", seed: int = 0) -> Figure:
    """The spaces in two dimensions, coloured by perturbation, by perturbed or not, and by what else is known.

    `embedding` is "umap" (seeded) or "pca" (first two principal components of each space). Of more than 3,000 cells a
    draw is shown that depends on their names and the seed, not on their order.
    """
    chosen = _draw(judgement.cells.index, seed)
    cells = judgement.cells.iloc[chosen]
    columns = _columns(judgement, cells)
    spaces = [name for name in SPACES if name in judgement.spaces]
    legends = 0.24 * max(len(colours) for _, _, colours in columns.values()) + 0.1
    shown = "" if len(cells) == len(judgement.cells) else f"{len(cells):,} of "
    detail = f"{shown}{len(judgement.cells):,} held-out cells. Small lines: what a classifier trained on the training "
    detail += "cells reads from the whole space on held-out cells."
    size = SIDE * len(columns) + 0.4, SIDE * len(spaces) + legends
    figure = new_figure(*size, _finding(judgement), detail)
    ratios = [*[SIDE] * len(spaces), legends]
    panels = figure.subplots(len(spaces) + 1, len(columns), squeeze=False, height_ratios=ratios)
    for line, space in zip(panels, spaces, strict=False):
        points, names = plane(judgement.spaces[space][chosen], embedding, seed)
        for axes, (column, (title, values, colours)) in zip(line, columns.items(), strict=True):
            _cells(axes, points, values, colours, seed)
            dress(axes, title if space == spaces[0] else "", names[0], under=_says(judgement, space, column))
        line[0].set_ylabel(f"{SPACES[space]}\n{names[1]}", fontsize=TEXT, color=INK)
    for axes, (_, _, colours) in zip(panels[-1], columns.values(), strict=True):
        _key(axes, colours)
    return figure


def _draw(names: pd.Index, seed: int) -> np.ndarray:
    """Rows of at most 3,000 cells, in the order of their names."""
    order = np.argsort(names.astype(str).to_numpy(), kind="stable")
    if len(order) <= MOST_CELLS:
        return order
    return order[np.sort(np.random.default_rng(seed).choice(len(order), MOST_CELLS, replace=False))]


def _columns(judgement: LatentJudgement, cells: pd.DataFrame) -> dict[str, tuple[str, np.ndarray, dict[str, str]]]:
    """Column of the cells -> title, one word per cell, colour of each word: N words each."""
    control = cells["is_control"].to_numpy(bool)
    most = judgement.perturbations[:MOST_NAMES]
    condition = cells["condition"].astype(str).to_numpy()
    others = len(judgement.perturbations) - len(most)
    rest = f"{others} other{'s' if others > 1 else ''}"
    words = np.where(control, "control", np.where(np.isin(condition, most), condition, rest)).astype(object)
    colours = dict(zip(most, MANY, strict=False)) | ({rest: QUIET} if others else {}) | {"control": FAINT}
    found = {
        "condition": ("perturbation", words, colours),
        "is_control": (
            "perturbed or not",
            np.where(control, "control", "perturbed").astype(object),
            {"perturbed": MODEL, "control": FAINT},
        ),
    }
    for column, title in COLUMNS.items():
        if column in cells and cells[column].nunique() > 1:
            found[column] = (title, *_named(cells[column]))
    return found


def _named(values: pd.Series) -> tuple[np.ndarray, dict[str, str]]:
    """The eight most frequent names keep theirs; what is missing is unknown."""
    words = values.astype(object).where(values.notna(), "unknown").astype(str)
    counts = words[words != "unknown"].value_counts()
    most = sorted(sorted(counts.index, key=lambda name: (-counts[name], name))[:MOST_NAMES], key=_place)
    rest = f"{len(counts) - len(most)} others"
    words = words.where(words.isin([*most, "unknown"]), rest)
    colours = dict(zip(most, MANY, strict=False)) | {rest: QUIET, "unknown": FAINT}
    return words.to_numpy(object), {name: colour for name, colour in colours.items() if (words == name).any()}


def _place(name: str) -> tuple:
    """Phases in the order of the cycle, other names by the alphabet."""
    return (PHASES.index(name) if name in PHASES else len(PHASES), name)


def _cells(axes: Axes, points: np.ndarray, words: np.ndarray, colours: dict[str, str], seed: int) -> None:
    """Cells in a random order, so that no group lies on top of the others."""
    order = np.random.default_rng(seed).permutation(len(points))
    size = float(np.clip(12000 / len(points), 5, 40))
    shades = [colours[word] for word in words[order]]
    axes.scatter(*points[order].T, s=size, c=shades, alpha=0.8, linewidths=0, rasterized=True)
    axes.set(xticks=[], yticks=[])
    axes.margins(0.03)


def _key(axes: Axes, colours: dict[str, str]) -> None:
    """The names of the colours of a column, under it."""
    axes.set_axis_off()
    marks = [axes.scatter([], [], s=45, color=colour, linewidths=0) for colour in colours.values()]
    drawing.legend(axes, marks, list(colours), loc="upper left", borderaxespad=0, handletextpad=0.1, labelspacing=0.3)


def _says(judgement: LatentJudgement, space: str, column: str) -> str:
    """`balanced accuracy 0.31`: what the scoreboard says of the space about the column; "" where it says nothing."""
    metric, words = SAYS.get((space, column), ("", ""))
    value = judgement.value(judgement.methods[0], metric)
    return f"{words} {number(value)}" if np.isfinite(value) else ""


def _finding(judgement: LatentJudgement) -> str:
    """What the salient space holds of the perturbation, and what the background keeps of it."""
    method = judgement.methods[0]
    probe, left = (judgement.value(method, metric) for metric in ("probe", "background_auc"))
    found = []
    if np.isfinite(probe):
        found.append(f"the salient space tells the perturbations with balanced accuracy {number(probe)}")
    if np.isfinite(left):
        found.append(f"the background tells control from perturbed with AUC {number(left)} (0.50: not at all)")
    return f"{method}: " + (", ".join(found) or f"{len(judgement.cells):,} held-out cells")
