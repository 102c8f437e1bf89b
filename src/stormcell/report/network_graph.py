"""The strongest edges of every transition as a graph; and names that are moved apart until none covers another.

Places of the genes: distances on the panel follow those in the graph (Kamada & Kawai 1989, as networkx has it), then
stretched to the panel.

Shapes: n nodes.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch

from stormcell.report import drawing
from stormcell.report.drawing import INK, QUIET, SMALL, TEXT, dress, new_figure
from stormcell.report.network_judgement import FDR, NetworkJudgement, arrow, shown

ACTIVATES, REPRESSES = "#B2182B", "#2166AC"  # the ends of the colours of the heat maps
MOST_PANELS, MOST_GENES, MOST_ALONE = 6, 26, 50  # genes of a panel among several, of one alone: more names do not fit
LETTER, LINE = 0.7 * SMALL / 72, 1.7 * SMALL / 72  # inches of a letter of a name and of its line
LONGEST = 14  # characters of a name
ROOM = 0.26  # inches between two names, so that their edge can be seen
MARGIN = 1.1, 0.5  # inches left and right together, above and below
APART = 4.0  # steps between genes without a path


def network_graph(judgement: NetworkJudgement) -> Figure | None:
    """Strongest confident edges, a panel per transition; of more than six those with the most confident edges.

    Red arrows activate, blue bars repress, width: absolute weight, dashed: conditional and marginal sign disagree. In a
    transition without a confident edge the strongest are drawn pale. None without edges.
    """
    edges, confident = judgement.table("edges"), judgement.confident
    edges = edges.assign(confident=confident)[edges["weight"].fillna(0) != 0]
    if edges.empty:
        return None
    counts = confident.groupby(judgement.table("edges")["transition"].astype(str)).sum()
    names = shown(judgement.transitions, counts, MOST_PANELS)
    columns = {1: 1, 2: 2, 4: 2}.get(len(names), 3)
    rows = -(-len(names) // columns)
    wide, tall = (9.5, 7.0) if len(names) == 1 else (5.4, 4.6)
    detail = (
        "Bold: regulators. Red arrow: activates, blue bar: represses; width: absolute weight. Strongest edges of a "
    )
    detail += f"false-discovery rate of at most {FDR:.0%}; pale: where there is none, the strongest all the same. "
    detail += "Dashed: conditional and marginal sign disagree."
    if len(names) < len(judgement.transitions):
        detail += f" {len(names)} of {len(judgement.transitions)} transitions, those with the most confident edges."
    figure = new_figure(wide * columns, tall * rows + 0.4, _finding(judgement), detail)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in panels[len(names) :]:
        axes.set_axis_off()
    most = MOST_ALONE if len(names) == 1 else MOST_GENES
    widest = edges["weight"].abs().max()
    for axes, name in zip(panels, names, strict=False):
        mine = edges[edges["transition"].astype(str) == name]
        _panel(axes, mine, name, most, widest, (wide - 0.4, tall - 0.7))
    _key(figure)
    return figure


def _finding(judgement: NetworkJudgement) -> str:
    """How many edges can be trusted, and who has most of them."""
    edges, confident = judgement.table("edges"), judgement.confident
    if "fdr" not in edges or edges["fdr"].isna().all():
        return f"{judgement.methods[0]}: the strongest edges; no false-discovery rate is known"
    words = (
        f"{judgement.methods[0]}: {confident.sum():,} of {len(edges):,} edges have a false-discovery rate ≤ {FDR:.0%}"
    )
    top = edges.loc[confident, "regulator"].astype(str).value_counts()
    top = sorted(top.index, key=lambda name: (-top[name], name))[:3]
    return words + (f"; most are of {', '.join(top)}" if top else "")


def _panel(axes: Axes, edges: pd.DataFrame, name: str, most: int, widest: float, size: tuple[float, float]) -> None:
    """One network, in a panel whose coordinates are inches."""
    sure = edges[edges["confident"]]
    drawn = _strongest(sure if len(sure) else edges, most)
    under = f"{len(drawn)} of {len(sure):,} confident edges" if len(sure) else f"no confident edge among {len(edges):,}"
    dress(axes, arrow(name), under=under)
    axes.spines[:].set_visible(False)
    axes.set(xlim=(0, size[0]), ylim=(0, size[1]), aspect="equal", anchor="NW", xticks=[], yticks=[])
    if drawn.empty:
        return
    pairs = list(zip(drawn["regulator"].astype(str), drawn["target"].astype(str), strict=True))
    genes = list(dict.fromkeys(gene for pair in pairs for gene in pair))
    words = [cut(gene) for gene in genes]
    boxes = np.array([[LETTER * len(word) + 0.12, LINE + 0.04] for word in words])
    places = apart(apart(_layout(genes, pairs, size), boxes + ROOM, size), boxes, size)
    place, box = dict(zip(genes, places, strict=True)), dict(zip(genes, boxes, strict=True))
    regulators = set(drawn["regulator"].astype(str))
    for gene, word in zip(genes, words, strict=True):
        strong = gene in regulators
        frame = {"boxstyle": "round,pad=0.25", "fc": "#E8F2F9" if strong else "white", "ec": "none"}
        style = {"fontweight": "bold" if strong else "normal", "color": INK if strong else QUIET, "bbox": frame}
        axes.text(*place[gene], word, fontsize=SMALL, ha="center", va="center", zorder=4, parse_math=False, **style)
    disagrees = drawn["disagrees"].fillna(False).astype(bool) if "disagrees" in drawn else [False] * len(drawn)
    for (source, target), weight, doubt in zip(pairs, drawn["weight"], disagrees, strict=True):
        ends = _rim(place[source], place[target], box[source]), _rim(place[target], place[source], box[target])
        axes.add_patch(_edge(*ends, weight, abs(weight) / widest, doubt, 1.0 if len(sure) else 0.35))


def _strongest(edges: pd.DataFrame, most: int) -> pd.DataFrame:
    """Edges of largest absolute weight between at most so many genes."""
    ranked = edges.iloc[np.argsort(-edges["weight"].abs().to_numpy(), kind="stable")[: 2 * most]]
    genes, kept = set(), []
    for pair in zip(ranked["regulator"].astype(str), ranked["target"].astype(str), strict=True):
        kept.append(len(genes | set(pair)) <= most)
        genes |= set(pair) if kept[-1] else set()
    return ranked[kept]


def cut(name: str, longest: int = LONGEST) -> str:
    """A name of at most so many characters."""
    return name if len(name) <= longest else name[: longest - 1] + "…"


def _edge(start, end, weight: float, share: float, doubt: bool, alpha: float) -> FancyArrowPatch:
    """An arrow or a bar; `share`: of the largest absolute weight."""
    style = "-|>,head_length=0.45,head_width=0.22" if weight > 0 else "|-|,widthA=0,widthB=0.32"
    return FancyArrowPatch(
        start, end, arrowstyle=style, mutation_scale=14, connectionstyle="arc3,rad=0.12", shrinkA=1, shrinkB=2,
        color=ACTIVATES if weight > 0 else REPRESSES, linewidth=0.7 + 2.6 * share, alpha=alpha, zorder=2,
        linestyle=(0, (3, 2)) if doubt else "-", capstyle="butt",
    )  # fmt: skip


def _rim(centre: np.ndarray, towards: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Where the line from the centre of a box leaves it."""
    way = towards - centre
    with np.errstate(divide="ignore"):
        return centre + way * min(1.0, float((box / 2 / np.maximum(np.abs(way), 1e-9)).min()))


def _layout(genes: list[str], pairs: list[tuple[str, str]], size: tuple[float, float]) -> np.ndarray:
    """n × 2 in a panel of so many inches."""
    import networkx as nx

    graph = nx.Graph()
    graph.add_nodes_from(genes)
    graph.add_edges_from(pairs)
    steps = {gene: dict.fromkeys(genes, APART) | near for gene, near in nx.all_pairs_shortest_path_length(graph)}
    found = nx.kamada_kawai_layout(graph, dist=steps, pos=nx.circular_layout(graph))
    places = np.array([found[gene] for gene in genes])
    low, span = places.min(0), np.maximum(np.ptp(places, axis=0), 1e-9)
    # A few genes stand together: an edge is no longer than in a panel that is full.
    room = (np.array(size) - MARGIN) * min(1.0, np.sqrt(len(genes) / MOST_GENES))
    return (np.array(size) - room) / 2 + (places - low) / span * room


def apart(places: np.ndarray, boxes: np.ndarray, size: tuple[float, float], most: int = 500) -> np.ndarray:
    """Centres of boxes (n × 2: width, height), moved until none meets another or leaves the panel: n × 2.

    Two boxes that meet part along the side on which they overlap less; so many rounds at most.
    """
    places = np.clip(np.array(places, float), boxes / 2, np.maximum(np.array(size) - boxes / 2, boxes / 2))
    places += 1e-4 * np.random.default_rng(0).normal(size=places.shape)  # two genes in one place have no side
    for _ in range(most):
        way = places[:, None] - places[None]
        overlap = (boxes[:, None] + boxes[None]) / 2 - np.abs(way)
        np.einsum("iik->ik", overlap)[:] = 0
        meet = (overlap > 1e-6).all(-1)
        if not meet.any():
            break
        least = overlap[..., 0] < overlap[..., 1]
        push = np.where(np.stack([least, ~least], -1) & meet[..., None], np.sign(way) * overlap, 0)
        places = np.clip(places + 0.55 * push.sum(1), boxes / 2, np.maximum(np.array(size) - boxes / 2, boxes / 2))
    return places


def _key(figure: Figure) -> None:
    marks = {
        "activates": Line2D([], [], color=ACTIVATES, linewidth=2.4),
        "represses": Line2D([], [], color=REPRESSES, linewidth=2.4),
        "signs disagree": Line2D([], [], color=QUIET, linewidth=2.4, linestyle=(0, (3, 2))),
    }
    drawing.legend(figure, list(marks.values()), list(marks), loc="outside lower left", ncols=3)


def name_places(axes: Axes, places: np.ndarray, names: list[str], arrows: list[tuple[int, int]]) -> None:
    """Names in white boxes at their places, moved apart, and arrows between them (numbers of names).

    The layout of the figure must be settled before.
    """
    size = np.array(axes.get_window_extent().size) / axes.figure.dpi
    low, high = np.array([axes.get_xlim(), axes.get_ylim()]).T
    boxes = np.array([[LETTER * len(cut(name)) + 0.08, LINE] for name in names]).reshape(-1, 2)
    inches = apart((places - low) / (high - low) * size, boxes + ROOM / 2, tuple(size))
    back = (high - low) / size
    frame = {"boxstyle": "round,pad=0.15", "fc": "white", "ec": "none", "alpha": 0.8}
    for name, at in zip(names, low + inches * back, strict=True):
        style = {"fontsize": TEXT - 1.5, "fontweight": "bold", "color": INK, "bbox": frame, "zorder": 6}
        axes.text(*at, cut(name), ha="center", va="center", parse_math=False, **style)
    for a, b in arrows:
        ends = _rim(inches[a], inches[b], boxes[a]), _rim(inches[b], inches[a], boxes[b])
        patch = FancyArrowPatch(
            *(low + end * back for end in ends), arrowstyle="-|>,head_length=0.5,head_width=0.25", mutation_scale=15,
            connectionstyle="arc3,rad=0.12", color=INK, linewidth=1.6, shrinkA=0, shrinkB=1, zorder=5,
        )  # fmt: skip
        axes.add_patch(patch)
