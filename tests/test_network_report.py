"""The report of a transition network says what was handed in, and stands where something is missing."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import re
import types

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch
from network_world import BASELINES, CEILING, METRICS, MODEL, network_judgement
from rich.console import Console

from stormcell.evaluation.network_metrics import CHANCE, NETWORK_METRICS
from stormcell.report import network_folder
from stormcell.report.drawing import FAINT, QUIET, TRUTH
from stormcell.report.drawing import MODEL as BLUE
from stormcell.report.folder import data_card
from stormcell.report.html import plain
from stormcell.report.judgement import number
from stormcell.report.method_board import print_scoreboard
from stormcell.report.network_figures import FLOOR, MOST_ROWS, cofactors, differential, network_heatmap, scores
from stormcell.report.network_graph import ACTIVATES, MOST_PANELS, REPRESSES, apart, network_graph
from stormcell.report.network_judgement import ARROW, arrow, shown
from stormcell.report.network_picture import fit_of_cells, network_cells
from stormcell.report.network_ranking import MOST_RANKED, ranking

CARD = {"source": "toy.h5ad", "sha256": "ab12", "cells": 400, "genes": 60, "split_sha256": "cd34", "notes": []}
CONFIG = {"seed": 1, "objective": "val/loss", "objective_mode": "min"}
AGAIN = "python evaluate.py ckpt=run/checkpoints/best.ckpt"
FIGURES = {"network", "cells", "scores", "fit", "transitions", "differential", "regulators", "cofactors"}
SMALL = {"n_transitions": 2, "n_regulators": 4, "n_genes": 12, "n_edges": 30, "n_cells": 40}
SPLIT = pd.DataFrame({"cell": ["a"], "part": ["test"]})


@pytest.fixture(scope="module")
def judgement():
    return network_judgement()


def but(judgement, **tables):
    """The judgement with other tables."""
    return dataclasses.replace(judgement, tables=judgement.tables | tables)


def texts(figure) -> str:
    """Everything written on a figure, lines joined."""
    found = [text.get_text() for text in figure.texts]
    for axes in figure.axes:
        found += [axes.get_title(loc="left"), axes.get_xlabel(), axes.get_ylabel(), *(t.get_text() for t in axes.texts)]
        found += [label.get_text() for label in (*axes.get_xticklabels(), *axes.get_yticklabels())]
    return " ".join("\n".join(found).split())


def rows_of(axes) -> list[str]:
    return [label.get_text() for label in axes.get_yticklabels()]


def write(judgement, folder, loggers=(), again=AGAIN) -> str:
    """The run folder of a judgement, its figures small; returns what was said on the screen."""
    data = types.SimpleNamespace(split=types.SimpleNamespace(table=SPLIT))
    given = {"embedding": "pca", "again": again, "timing": {"fit_s": 41.2}, "loggers": list(loggers)}
    draw = Figure.savefig
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as said:
        patch.setattr(network_folder, "data_card", lambda data: CARD)
        patch.setattr(Figure, "savefig", lambda figure, path, dpi: draw(figure, path, dpi=15))
        network_folder.write_network_judgement(judgement, data, CONFIG, folder, **given)
    return said.getvalue()


@pytest.fixture(scope="module")
def run(judgement, tmp_path_factory):
    """A run folder, and what was said on the screen."""
    folder = tmp_path_factory.mktemp("run")
    return types.SimpleNamespace(folder=folder, said=write(judgement, folder))


# Judgement


def test_parts_that_do_not_fit_are_refused(judgement):
    with pytest.raises(ValueError, match="'edges' has no column weight"):
        but(judgement, edges=judgement.table("edges").drop(columns="weight"))
    with pytest.raises(ValueError, match="'transitions' has no column source"):
        but(judgement, transitions=pd.DataFrame())
    with pytest.raises(ValueError, match="not in the table of transitions"):
        but(judgement, transitions=judgement.table("transitions").head(1))
    with pytest.raises(ValueError, match="no row of"):
        dataclasses.replace(judgement, methods=("nobody",))
    with pytest.raises(ValueError, match="two rows of one method in one group"):
        dataclasses.replace(judgement, scoreboard=pd.concat([judgement.scoreboard] * 2))


def test_rows_of_a_group_are_the_model_then_baselines_then_ceilings(judgement):
    board = judgement.scoreboard.iloc[::-1]
    turned = dataclasses.replace(judgement, scoreboard=board)
    rows = list(turned.rows("planted network")["method"])
    assert rows == [MODEL, *(name for name in BASELINES if name in rows), CEILING]
    assert [turned.kind(name) for name in (MODEL, "Pearson", CEILING)] == ["model", "baseline", "ceiling"]
    assert turned.value("planted network", "Pearson", "auprc") == 0.31
    assert np.isnan(turned.value("held-out cells", "Pearson", "auprc"))


def test_transitions_shown_are_the_largest_in_their_own_order():
    score = pd.Series({"a>b": 1.0, "b>c": 5.0, "c>d": np.nan, "d>e": 3.0})
    assert shown(["a>b", "b>c", "c>d", "d>e", "e>f"], score, 3) == ["a>b", "b>c", "d>e"]
    assert arrow("T>B>x") == "T → B>x"


# Folder


def test_everything_that_was_handed_in_is_in_the_folder(judgement, run):
    folder = run.folder
    pd.testing.assert_frame_equal(pd.read_csv(folder / "scoreboard.csv"), judgement.scoreboard)
    given = {name for name, table in judgement.tables.items() if len(table)}
    assert given == {"edges", "transitions", "differential", "regulators", "cofactors", "genes"}  # stability has no row
    names = {path.stem for path in (folder / "tables").glob("*.csv")}
    assert names == given | {"cells", "predicted", "decoupler", "split"}
    for name in given:
        pd.testing.assert_frame_equal(pd.read_csv(folder / "tables" / f"{name}.csv"), judgement.tables[name])
    cells = pd.read_csv(folder / "tables" / "cells.csv", index_col="cell")
    pd.testing.assert_frame_equal(cells, judgement.points, check_names=False)
    pd.testing.assert_frame_equal(
        pd.read_csv(folder / "tables" / "predicted.csv"), judgement.predicted.reset_index(drop=True)
    )

    metrics = json.loads((folder / "metrics.json").read_text())
    assert set(metrics) == {"test", "baselines", "data", "versions", "timing"}
    assert metrics["test"]["held-out cells/r2_weighted"] == 0.41
    assert metrics["test"]["planted network/auprc_centred"] == 0.58
    assert metrics["baselines"]["Pearson"]["planted network/balanced_sign_accuracy"] == 0.86

    assert set(ad.read_h5ad(folder / "predictions.h5ad").varp) == set(judgement.transitions)
    assert (folder / "network.graphml").is_file()
    assert {path.stem for path in (folder / "figures").glob("*.png")} == FIGURES
    last = [" ".join(line.split()) for line in run.said.splitlines()[-3:]]
    assert last == [f"folder {folder}", f"report {folder / 'report.html'}", f"evaluate {AGAIN}"]


def test_page_needs_nothing_but_itself_and_shows_every_figure(judgement, run):
    page = (run.folder / "report.html").read_text()
    targets = re.findall(r"""(?:src|href)\s*=\s*["']?([^"'\s>]+)""", page)
    assert all(target.startswith(("data:image/png;base64,", "#")) for target in targets)
    assert sum(target.startswith("data:") for target in targets) == len(FIGURES)
    assert not re.search(r"https?://|@import|url\(|<script|<link|<iframe", page)
    assert {target[1:] for target in targets if target.startswith("#")} == set(re.findall(r'id="([\w-]+)"', page))
    flat = re.sub(r"\s*(<[^>]+>)\s*", r"\1", page)
    for group in judgement.groups:
        for method in judgement.rows(group)["method"]:
            for name in judgement.metrics(group):
                assert number(judgement.value(group, method, name)) in flat
    assert '<td><span class="best">0.41</span><small>0.31 to 0.51</small></td>' in flat
    assert f"{plain(len(judgement.table('edges')))} rows" in flat and "tables/edges.csv" in flat
    assert AGAIN in page and "ab12" in page and "3 genes of the prior" in page
    # What the prior and the coupling add stands before everything else.
    first = page.index("<nav>")
    assert page.index("adds over its shuffle") < first and page.index("adds over random") < first


def test_page_escapes_every_name(tmp_path):
    evil, judgement = "<script>alert(1)</script>", network_judgement(**SMALL)
    tables = {name: table.replace("Gata1", evil) for name, table in judgement.tables.items()}
    parts = {"model": evil, "verdict": (evil,), "notes": (evil,), "undefined": (evil,), "adata": None}
    write(dataclasses.replace(judgement, **parts, tables=tables), tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "<script" not in page and page.count("&lt;script&gt;") >= 6


def test_card_of_cells_without_perturbations_tells_clusters_and_transitions():
    obs = pd.DataFrame({"cluster": pd.Categorical(["A", "A", "B"], categories=["A", "B", "none"])})

    class Cells:
        def __len__(self):
            return 3

    cells = Cells()
    cells.obs, cells.origin, cells.fingerprint, cells.scale, cells.notes = obs, "x/toy.h5ad", "ab", "log1p", ["told"]
    part = np.array(["train", "train", "test"])
    split = types.SimpleNamespace(part=part, mask=lambda name: part == name, sha256="cd", notes=[])
    spec = types.SimpleNamespace(n_genes=5, n_edges=7, names=["A>B"], transitions=(("A", "B"),))
    config = types.SimpleNamespace(name="toy", qc=types.SimpleNamespace(min_genes=1, mitochondrial_prefix="MT-"))
    card = data_card(types.SimpleNamespace(cells=cells, split=split, spec=spec, config=config))
    assert card["clusters"] == {"A": 2, "B": 1} and card["transitions"] == ["A>B"] and card["edges that may be"] == 7
    assert "perturbations" not in card and card["split"] == {"test": 1, "train": 2}


# Terminal


def printed(judgement, width) -> str:
    screen = io.StringIO()
    print_scoreboard(judgement, Console(file=screen, width=width))
    return screen.getvalue()


@pytest.mark.parametrize("width", [80, 120])
def test_terminal_tables_have_every_value_and_fit(judgement, width):
    said = printed(judgement, width)
    assert max(map(len, said.splitlines())) <= width and "…" not in said
    for group, metrics in METRICS.items():
        start = said.index(group)
        lines = said[start : said.index("\n\n", start)].splitlines()
        for place, method in enumerate((MODEL, *BASELINES, CEILING)):
            values = [column[place] for column in metrics.values()]
            found = [line for line in lines if line.startswith(f"{method}  ")]
            assert len(found) == np.isfinite(values).any()
            for value in values if found else []:
                assert (f"{value:.2f}" if np.isfinite(value) else " - ") in found[0]
    assert ("0.31..0.51" in said) == (width == 120)
    assert said.index("- what the prior adds") > said.index("known network")


def test_narrow_terminal_leaves_out_the_last_metrics(judgement):
    said = printed(judgement, 50)
    assert max(map(len, said.splitlines())) <= 50 and "…" not in said
    assert "2.45*" in said and "2.60*" in said and "0.58*" not in said


def test_star_is_at_the_best_method_of_a_column(judgement):
    def marked(group, metric):
        rows = judgement.rows(group)
        return list(rows["method"][judgement.best(group, metric)])

    assert marked("held-out cells", "r2_weighted") == [MODEL]
    assert marked("planted network", "balanced_sign_accuracy") == ["Pearson"]  # the ceiling, 0.90, does not compete
    assert re.search(r"Pearson .* 0\.86\*", printed(judgement, 120))


def test_every_metric_names_its_panel_and_known_chance():
    assert set(METRICS) == {metric.panel for metric in NETWORK_METRICS.values()}
    assert set(CHANCE) <= set(NETWORK_METRICS)
    assert {metric.direction for metric in NETWORK_METRICS.values()} == {"higher"}  # best() and the figure rely on it


# Graph


def arrows(axes) -> list[FancyArrowPatch]:
    return [patch for patch in axes.patches if isinstance(patch, FancyArrowPatch)]


def test_graph_draws_the_confident_edges_in_the_colour_of_their_sign(judgement):
    figure = network_graph(judgement)
    edges = judgement.table("edges")[judgement.confident]
    for axes, name in zip(figure.axes, judgement.transitions, strict=True):
        mine = edges[edges["transition"] == name]
        assert axes.get_title(loc="left") == name.replace(">", ARROW)
        colours = [to_hex(patch.get_edgecolor()) for patch in arrows(axes)]
        assert colours.count(ACTIVATES.lower()) == (mine["weight"] > 0).sum()
        assert colours.count(REPRESSES.lower()) == (mine["weight"] < 0).sum()
        genes = [text.get_text() for text in axes.texts if text.get_text() in set(judgement.adata.var_names)]
        assert sorted(genes) == sorted({*mine["regulator"], *mine["target"]})
    assert f"{len(edges)} of {len(judgement.table('edges'))} edges" in texts(figure)


def test_an_arrow_goes_from_the_regulator_to_the_target(judgement):
    edge = {"transition": judgement.transitions[0], "regulator": "Gata1", "target": "Klf1", "weight": 1.0, "fdr": 0.0}
    axes = network_graph(but(judgement, edges=pd.DataFrame([edge]))).axes[0]
    place = {text.get_text(): np.array(text.get_position()) for text in axes.texts}
    start, end = (np.array(point) for point in arrows(axes)[0]._posA_posB)
    assert np.linalg.norm(start - place["Gata1"]) < np.linalg.norm(start - place["Klf1"])
    assert np.linalg.norm(end - place["Klf1"]) < np.linalg.norm(end - place["Gata1"])


def test_edges_whose_signs_disagree_are_dashed(judgement):
    edges = judgement.table("edges")
    doubt = edges["regulator"] == "Gata1"
    axes = network_graph(but(judgement, edges=edges.assign(disagrees=doubt))).axes[0]
    mine = edges[judgement.confident & (edges["transition"] == judgement.transitions[0])]
    dashed = sum(patch.get_linestyle() != "-" for patch in arrows(axes))
    assert dashed == (mine["regulator"] == "Gata1").sum() > 0


def test_without_a_confident_edge_the_strongest_are_pale(judgement):
    doubtful = but(judgement, edges=judgement.table("edges").assign(fdr=0.8))
    figure = network_graph(doubtful)
    assert all(patch.get_alpha() < 0.5 for axes in figure.axes for patch in arrows(axes))
    assert all(arrows(axes) for axes in figure.axes)
    assert "0 of 450 edges" in texts(figure) and "no confident edge among 150" in texts(figure)
    assert "no false-discovery rate is known" in texts(network_graph(network_judgement(bare=True)))


@pytest.mark.parametrize("world", [{}, {"n_transitions": 7, "n_edges": 900, "n_genes": 400, "n_regulators": 80}])
def test_no_name_of_the_graph_covers_another(world):
    figure = network_graph(network_judgement(**world))
    figure.draw_without_rendering()
    renderer = figure.canvas.get_renderer()
    drawn = [axes for axes in figure.axes if axes.texts and arrows(axes)]
    assert len(drawn) == min(world.get("n_transitions", 3), MOST_PANELS)
    for axes in drawn:
        boxes = [text.get_window_extent(renderer) for text in axes.texts if text.get_text()]
        boxes = [box for box in boxes if box.y0 < axes.get_window_extent().y1]
        assert not [1 for i, a in enumerate(boxes) for b in boxes[:i] if a.overlaps(b)]


def test_boxes_are_parted_and_stay_inside():
    rng = np.random.default_rng(3)
    boxes = rng.uniform(0.2, 0.8, (20, 2)) * [1, 0.4]
    placed = apart(rng.uniform(2, 3, (20, 2)), boxes, (6.0, 4.0))
    overlap = (boxes[:, None] + boxes[None]) / 2 - np.abs(placed[:, None] - placed[None])
    assert not (overlap > 1e-6).all(-1)[~np.eye(20, dtype=bool)].any()
    assert (placed - boxes / 2 >= -1e-9).all() and (placed + boxes / 2 <= np.array([6.0, 4.0]) + 1e-9).all()
    apart_already = np.array([[1.0, 1.0], [4.0, 3.0]])
    np.testing.assert_allclose(apart(apart_already, np.full((2, 2), 0.5), (6.0, 4.0)), apart_already, atol=1e-3)


# Further figures


def test_heat_map_holds_weights_and_strengths(judgement):
    figure = network_heatmap(judgement)
    regulators, edges = figure.axes[:2]
    table = judgement.table("edges").assign(row=lambda t: t["regulator"] + ARROW + t["target"])
    wide = table.pivot(index="row", columns="transition", values="weight")[judgement.transitions]
    top = (wide**2).sum(axis=1).nlargest(MOST_ROWS).index
    assert rows_of(edges) == list(top)
    np.testing.assert_allclose(edges.images[0].get_array(), wide.loc[top])
    strength = judgement.table("regulators").pivot(index="regulator", columns="transition", values="signed_strength")
    np.testing.assert_allclose(
        regulators.images[0].get_array(), strength.loc[rows_of(regulators), judgement.transitions]
    )
    dots = edges.collections[0].get_offsets()
    sure = table[judgement.confident].set_index(["row", "transition"]).index
    places = {(top[int(y)], judgement.transitions[int(x)]) for x, y in dots}
    assert places == {key for key in sure if key[0] in set(top)}
    assert network_heatmap(network_judgement(n_transitions=1)) is None


def test_edges_of_other_transitions_are_grey_in_the_heat_map(judgement):
    edges = judgement.table("edges").drop(index=0)  # not in the first transition
    lost = judgement.table("edges").iloc[0]
    same = (edges["regulator"] == lost["regulator"]) & (edges["target"] == lost["target"])
    edges = edges.assign(weight=edges["weight"].mask(same, 9.0))
    values = np.ma.filled(network_heatmap(but(judgement, edges=edges)).axes[1].images[0].get_array(), np.nan)
    assert np.isnan(values[0, 0]) and (values[0, 1:] == 9).all()


def test_differential_edges_are_those_whose_interval_leaves_out_0_first(judgement):
    table = judgement.table("differential")
    sure = table[(table["low"] > 0) | (table["high"] < 0)]
    axes = differential(judgement).axes[0]
    best = sure.loc[sure["deviation"].abs().idxmax()]
    assert rows_of(axes)[0] == best["regulator"] + ARROW + best["target"]
    colours = [to_hex(colour) for colour in axes.collections[-1].get_facecolors()]
    assert colours.count(FAINT.lower()) == max(0, MOST_ROWS - len(sure))
    assert f"{len(sure)} of {len(table)} edges differ" in texts(axes.figure)
    assert best["transition"].replace(">", ARROW) in [text.get_text() for text in axes.texts]
    point = axes.collections[-1].get_offsets()[0]
    assert point[0] == pytest.approx(best["deviation"])
    assert "Gata1 · Klf1" in texts(cofactors(judgement))


def test_cofactors_are_not_called_by_their_interval_alone_where_the_screen_has_a_false_discovery_rate(judgement):
    table = judgement.table("cofactors").assign(low=0.1, high=0.9, weight=0.5, q=1.0)
    assert f"0 of {len(table)} pairs of regulators act together" in texts(cofactors(but(judgement, cofactors=table)))
    table.loc[table.index[-1], "q"] = 0.01
    figure = cofactors(but(judgement, cofactors=table))
    assert f"1 of {len(table)} pairs of regulators act together" in texts(figure)
    colours = [to_hex(colour) for colour in figure.axes[0].collections[-1].get_facecolors()]
    assert colours.count(FAINT.lower()) == len(table) - 1 and colours[0] != FAINT.lower()


def test_ranking_shows_the_places_in_all_three_rankings(judgement):
    figure = ranking(judgement)
    table = judgement.table("regulators")
    assert len(figure.axes) == 3
    for axes, name in zip(figure.axes, judgement.transitions, strict=True):
        rows = table[table["transition"] == name].set_index("regulator")
        top = rows["strength"].nlargest(MOST_RANKED).index
        assert rows_of(axes) == list(top)
        drawn = {line.get_label(): line.get_xdata() for line in axes.lines}
        for column, label in ("strength", "strength"), ("n_targets", "number of targets"), ("own_change", "own change"):
            np.testing.assert_array_equal(drawn[label], rows[column].abs().rank(ascending=False)[top])
    own = [
        part["strength"].rank().corr(part["n_targets"].rank()) for _, part in table.groupby("transition", sort=False)
    ]
    assert f"{number(np.median(own))} with the number of targets" in texts(figure)


def test_scores_are_those_of_the_scoreboard(judgement):
    figure = scores(judgement)
    panels = np.array(figure.axes).reshape(3, 4)
    for line, group in zip(panels, judgement.groups, strict=True):
        rows = judgement.rows(group)
        for axes, name in zip(line, judgement.metrics(group)[:4], strict=False):
            points = axes.collections[-1]
            np.testing.assert_allclose(np.ma.filled(points.get_offsets()[:, 0], np.nan), rows[name])
            kinds = {"model": BLUE, "baseline": QUIET, "ceiling": TRUTH}
            colours = [to_hex(kinds[judgement.kind(method)]) for method in rows["method"]]
            assert [to_hex(colour) for colour in points.get_facecolors()] == colours
            assert [line.get_xdata()[0] for line in axes.lines] == ([CHANCE[name]] if name in CHANCE else [])
    pairs = panels[0, 3]  # -4.7 would press the rest flat
    assert pairs.get_xlim()[0] == FLOOR and "−4.70" in texts(figure)
    assert "best baseline 0.23 (self edge alone)" in texts(figure)


def test_residuals_are_true_minus_predicted(judgement):
    left, centre, right = fit_of_cells(judgement).axes
    assert left.get_xlim() == left.get_ylim()
    true, said = judgement.predicted["true"], judgement.predicted["predicted"]
    for axes, x, y in ((left, true, said), (centre, said, true - said)):
        (low, high), (bottom, top) = axes.get_xlim(), axes.get_ylim()
        inside = x.between(low, high) & y.between(bottom, top)
        counts = axes.collections[0].get_array()
        assert counts.sum() == inside.sum() > 0.99 * len(x)
        weights = axes.collections[0].get_offsets() * np.array(counts)[:, None]
        np.testing.assert_allclose(weights.sum(0) / counts.sum(), [x[inside].mean(), y[inside].mean()], atol=0.05)
    r2 = judgement.table("genes")["r2"]
    assert sum(patch.get_height() for patch in right.patches) == len(r2)
    assert f"{round(100 * (r2 > 0).mean())} % of the genes" in texts(left.figure)


def test_picture_has_every_cell_and_an_arrow_for_every_transition(judgement):
    figure = network_cells(judgement, "umap")
    cluster, time, _ = figure.axes
    for axes in cluster, time:
        points = axes.collections[0].get_offsets()
        np.testing.assert_allclose(sorted(points[:, 0]), sorted(judgement.points["x"]))
    colours = [to_hex(colour) for colour in cluster.collections[0].get_facecolors()]
    table = judgement.table("transitions")
    named = {*table["source"], *table["target"]}
    assert colours.count(FAINT.lower()) == (~judgement.points["cluster"].isin(named)).sum()
    assert {text.get_text() for text in cluster.texts if text.get_text()} == named
    assert len(arrows(cluster)) == len(table)
    assert cluster.get_xlabel() == "UMAP 1" and "Distances in a UMAP" in texts(figure)
    values = np.sort(time.collections[0].get_array())
    np.testing.assert_allclose(values, np.sort(judgement.points["pseudotime"]))
    assert len(network_cells(network_judgement(bare=True), "pca").axes) == 1


# What is missing


def with_gaps(judgement):
    """Every number that may be missing is: no score, no confidence, no strength."""
    board = judgement.scoreboard.copy()
    board[[name for name in board if name not in ("group", "method", "n")]] = np.nan
    keep = ("transition", "regulator", "target", "source", "in_mask", "disagrees", "gene", "regulator_1", "regulator_2")
    tables = {
        name: table.assign(**{column: np.nan for column in table if column not in keep and name != "transitions"})
        for name, table in judgement.tables.items()
    }
    predicted = judgement.predicted.assign(true=np.nan)
    points = judgement.points.assign(pseudotime=np.nan)
    return dataclasses.replace(judgement, scoreboard=board, tables=tables, predicted=predicted, points=points)


def in_categories(judgement):
    """Names as an h5ad brings them, with a level that nothing has."""
    edges = judgement.table("edges").astype(dict.fromkeys(("transition", "regulator", "target"), "category"))
    edges["target"] = edges["target"].cat.add_categories("nobody")
    points = judgement.points.astype({"cluster": "category"})
    return dataclasses.replace(but(judgement, edges=edges), points=points)


def one_cell(judgement):
    """No edge of the last transition, and transitions between clusters without a cell."""
    edges = judgement.table("edges")
    few = edges[edges["transition"] != judgement.transitions[-1]]
    return dataclasses.replace(but(judgement, edges=few), points=judgement.points.iloc[:1])


def no_edge(judgement):
    return but(judgement, edges=judgement.table("edges")[:0])


WORLDS = {
    "bare": (lambda: network_judgement(**SMALL, bare=True), {"network", "cells", "scores", "transitions"}),
    "one transition": (
        lambda: network_judgement(n_transitions=1, n_edges=8, n_genes=6, n_regulators=3),
        FIGURES - {"transitions", "differential"},
    ),
    "nothing but NaN": (lambda: with_gaps(network_judgement(**SMALL)), {"cells"}),
    "no edge": (
        lambda: but(network_judgement(bare=True), edges=network_judgement().table("edges")[:0]),
        {"cells", "scores"},
    ),
    "one cell, categories": (lambda: in_categories(one_cell(network_judgement(**SMALL))), FIGURES),
    "twelve transitions": (lambda: network_judgement(n_transitions=12, n_edges=40, n_cells=60), FIGURES),
}


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("name", WORLDS)
def test_a_report_stands_where_something_is_missing(name, tmp_path):
    world, drawn = WORLDS[name]
    write(world(), tmp_path)
    assert {path.stem for path in (tmp_path / "figures").glob("*.png")} == drawn


def test_loss_curves_of_a_model_that_was_fitted_step_by_step():
    logged = pd.DataFrame({"step": [1, 2, 3], "train/loss": [3.0, 2, 1], "val/loss": [3.0, 2, 2.5]})
    bare = network_judgement(**SMALL, bare=True)
    drawn = network_folder._drawn(bare, logged, CONFIG, "pca")
    assert "val/loss is best, 2.00, at step 2" in texts(drawn["loss"])
    assert "loss" not in network_folder._drawn(bare, logged[:0], CONFIG, "pca")
