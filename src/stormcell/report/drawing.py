"""Axes, colours and labels that the figures share.

Figures are matplotlib Figure objects with the Agg canvas: nothing of pyplot, whose state is global.
Colours: Okabe & Ito 2008, told apart by every common form of colour blindness.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

MODEL, SECOND, BASELINE, TRUTH = "#0072B2", "#56B4E9", "#D55E00", "#009E73"
# Eight groups side by side: the "muted" scheme of Tol 2021, made for the same purpose.
MANY = ("#332288", "#88CCEE", "#117733", "#DDCC77", "#CC6677", "#AA4499", "#44AA99", "#882255")
INK, QUIET, FAINT = "#222222", "#5F5F5F", "#BDBDBD"
HEADING, TITLE, TEXT, SMALL = 15, 13, 12, 10.5  # points

# Places of a label around its point, nearest first: direction in units of the label's box, distance in points.
PLACES = [(dx, dy, gap) for gap in (4, 14, 26, 40) for dx, dy in
          [(1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1)]]  # fmt: skip


def new_figure(width: float, height: float, finding: str, detail: str = "") -> Figure:
    """A figure with a body of width × height inches under a heading: the finding, and in small what it is made of."""
    lines = textwrap.wrap(finding, int(width * 72 / (0.64 * HEADING)))
    small = textwrap.wrap(detail, int(width * 72 / (0.56 * TEXT)))
    above = (len(lines) * HEADING * 1.3 + len(small) * TEXT * 1.35 + 14) / 72
    figure = Figure(figsize=(width, height + above), facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    share = above / (height + above)
    figure.get_layout_engine().set(rect=(0, 0, 1, 1 - share), w_pad=0.1, h_pad=0.08, wspace=0.05, hspace=0.04)
    left, top = 0.1 / width, 1 - 0.1 / (height + above)
    style = {"va": "top", "linespacing": 1.15, "parse_math": False}  # a gene may be called $x$
    figure.text(left, top, "\n".join(lines), fontsize=HEADING, fontweight="bold", color=INK, **style)
    below = top - (len(lines) * HEADING * 1.3 + 2) / 72 / (height + above)
    figure.text(left, below, "\n".join(small), fontsize=TEXT, color=QUIET, **style)
    return figure


def new_grid(panels: int, height: float, finding: str, detail: str) -> tuple[Figure, list[Axes]]:
    """A figure of so many panels, 3.5 × height inches each, in as many columns as leave few places empty."""
    columns = 3 if panels in (3, 5, 6, 9) else max(1, min(4, panels))
    rows = max(1, -(-panels // columns))
    figure = new_figure(max(3.5 * columns, 5.5), height * rows, finding, detail)
    every = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in every[panels:]:
        axes.set_axis_off()
    return figure, list(every[:panels])


def dress(axes: Axes, title: str = "", x: str = "", y: str = "", under: str = "") -> Axes:
    """Two thin spines, a title on the left with a small line `under` it, names with units on the axes."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(QUIET)
    axes.tick_params(labelsize=SMALL, color=QUIET, labelcolor=INK)
    axes.set_title(title, loc="left", fontsize=TITLE, color=INK, parse_math=False, pad=20 if under else 6)
    place = {"xycoords": "axes fraction", "xytext": (0, 6), "textcoords": "offset points"}
    axes.annotate(under, (0, 1), **place, fontsize=SMALL, color=QUIET, parse_math=False, annotation_clip=False)
    axes.set_xlabel(x, fontsize=TEXT, color=INK)
    axes.set_ylabel(y, fontsize=TEXT, color=INK)
    return axes


def legend(on: Axes | Figure, *args, **style) -> None:
    """A legend without a frame, whose names stand as they are: a method may be called $x$."""
    for text in on.legend(*args, fontsize=SMALL, frameon=False, **style).get_texts():
        text.set_parse_math(False)


def settle(figure: Figure) -> None:
    """Fixes the layout, so that labels can be placed in it."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")


def shift_scatter(axes: Axes, true: np.ndarray, predicted: np.ndarray, colour: str = MODEL, size: float = 16) -> None:
    """Predicted (y) against true (x) shift of G genes, on equal scales with the line of identity."""
    finite = np.isfinite(true) & np.isfinite(predicted)
    if not finite.any():
        axes.text(0.5, 0.5, "no prediction", ha="center", transform=axes.transAxes, fontsize=TEXT, color=QUIET)
        return
    both = np.concatenate([true[finite], predicted[finite], [0]])
    margin = 0.08 * max(np.ptp(both), 1e-9)
    low, high = both.min() - margin, both.max() + margin
    axes.axline((0, 0), slope=1, color=FAINT, linewidth=1, zorder=0)
    axes.scatter(true[finite], predicted[finite], s=size, color=colour, alpha=0.55, linewidths=0, gid="genes")
    axes.set(xlim=(low, high), ylim=(low, high), aspect="equal", anchor="W")
    axes.locator_params(nbins=5)


def label_extremes(axes: Axes, x: np.ndarray, y: np.ndarray, names: Sequence[str], most: int) -> list[str]:
    """Names the points farthest from the origin, most extreme first; a name that finds no free place is left out.

    A name covers no point, no other name, and stays in the axes; one that stands away from its point is tied to it by
    a hair line. The layout must be settled before. Returns the names drawn.
    """
    finite = np.flatnonzero(np.isfinite(x) & np.isfinite(y))
    points = axes.transData.transform(np.column_stack([x, y])[finite])
    radius = 2.5 * axes.figure.dpi / 72
    taken = list(np.hstack([points - radius, points + radius]))  # left, bottom, right, top in pixels
    farthest = np.argsort(-np.hypot(x[finite], y[finite]), kind="stable")[:most]
    drawn = []
    for i in farthest:
        name, at = names[finite[i]], (x[finite[i]], y[finite[i]])
        text = axes.text(*at, name, fontsize=SMALL, color=INK, ha="center", va="center", zorder=5, parse_math=False)
        extent = text.get_window_extent(axes.figure.canvas.get_renderer())
        place = _free_place(axes, points[i], np.array([extent.width, extent.height]), np.array(taken))
        if place is None or at == (0, 0):
            text.remove()
            continue
        centre, gap = place
        text.set_position(axes.transData.inverted().transform(centre))
        if gap > PLACES[0][2]:
            axes.plot(*zip(at, text.get_position(), strict=True), color=FAINT, linewidth=0.7, zorder=0)
        taken.append(np.concatenate([centre - np.array(extent.size) / 2, centre + np.array(extent.size) / 2]))
        drawn.append(name)
    return drawn


def _free_place(axes: Axes, point: np.ndarray, size: np.ndarray, taken: np.ndarray) -> tuple[np.ndarray, float] | None:
    """Centre of a box (width, height in pixels) beside a point that meets no taken box, and its distance in points."""
    frame = axes.get_window_extent()
    for *direction, gap in PLACES:
        centre = point + np.array(direction) * (size / 2 + gap * axes.figure.dpi / 72)
        low, high = centre - size / 2, centre + size / 2
        inside = (low >= frame.min).all() and (high <= frame.max).all()
        if inside and not ((low < taken[:, 2:]) & (taken[:, :2] < high)).all(axis=1).any():
            return centre, gap
    return None
