"""The report of a model of frequencies says what was handed in, and stands where something is missing."""

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
from frequency_world import BASELINES, GROUP, METRICS, MODEL, TYPES, YARDSTICK, frequency_judgement
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from rich.console import Console

from stormcell.evaluation.frequency import frequency_board, per_class, per_frequency
from stormcell.evaluation.frequency_metrics import CHANCE, FREQUENCY_METRICS
from stormcell.report import frequency_figures, frequency_folder
from stormcell.report.drawing import FAINT, QUIET, TRUTH
from stormcell.report.drawing import MODEL as BLUE
from stormcell.report.frequency_judgement import bare, named
from stormcell.report.frequency_lists import between_seeds, gene_lists, hierarchy
from stormcell.report.frequency_modules import MOST_GENES, MOST_MODULES, enrichment, module_heatmap, shown_modules
from stormcell.report.frequency_picture import MOST_FREQUENCIES, frequency_space
from stormcell.report.judgement import number
from stormcell.report.method_board import print_scoreboard

CARD = {"source": "toy.h5ad", "sha256": "ab12", "cells": 500, "genes": 300, "split_sha256": "cd34", "notes": []}
CONFIG = {"seed": 1, "objective": "val/loss", "objective_mode": "min"}
AGAIN = "python evaluate.py ckpt=run/checkpoints/best.ckpt"
FIGURES = {"space", "scores", "per_frequency", "spectrum", "modules", "lists", "enrichment", "hierarchy"}
SMALL = {"n_frequencies": 3, "n_cells": 60}
SPLIT = pd.DataFrame({"cell": ["a"], "part": ["test"]})


@pytest.fixture(scope="module")
def judgement():
    return frequency_judgement()


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


def names_on(labels) -> list[str]:
    return [label.get_text() for label in labels]


def write(judgement, folder) -> str:
    """The run folder of a judgement, its figures small; returns what was said on the screen."""
    data = types.SimpleNamespace(split=types.SimpleNamespace(table=SPLIT))
    draw = Figure.savefig
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as said:
        patch.setattr(frequency_folder, "data_card", lambda data: CARD)
        patch.setattr(Figure, "savefig", lambda figure, path, dpi: draw(figure, path, dpi=15))
        frequency_folder.write_frequency_judgement(
            judgement, data, CONFIG, folder, embedding="pca", again=AGAIN, timing={"fit_s": 41.2}, loggers=[]
        )
    return said.getvalue()


@pytest.fixture(scope="module")
def run(judgement, tmp_path_factory):
    """A run folder, and what was said on the screen."""
    folder = tmp_path_factory.mktemp("run")
    logged = {"step": [1, 2, 3], "train/loss": [3.0, 2, 1], "val/loss": [3.0, 2, 2.5]}
    pd.DataFrame(logged).to_csv(folder / "history.csv", index=False)
    return types.SimpleNamespace(folder=folder, said=write(judgement, folder))


# Judgement


def test_parts_that_do_not_fit_are_refused(judgement):
    with pytest.raises(ValueError, match="'modules' has no column loading"):
        but(judgement, modules=judgement.table("modules").drop(columns="loading"))
    with pytest.raises(ValueError, match="points have no column x"):
        dataclasses.replace(judgement, points=judgement.points.drop(columns="x"))
    with pytest.raises(ValueError, match="no row of"):
        dataclasses.replace(judgement, methods=("nobody",))
    with pytest.raises(ValueError, match="two rows of one method in one group"):
        dataclasses.replace(judgement, scoreboard=pd.concat([judgement.scoreboard] * 2))
    but(judgement, modules=pd.DataFrame())  # a table without rows is one that is missing


def test_rows_are_the_model_then_simple_answers_then_yardsticks(judgement):
    turned = dataclasses.replace(judgement, scoreboard=judgement.scoreboard.iloc[::-1])
    assert list(turned.rows(GROUP)["method"]) == [MODEL, *BASELINES, YARDSTICK]
    assert [turned.kind(name) for name in (MODEL, "ridge", YARDSTICK)] == ["model", "baseline", "ceiling"]
    assert turned.value(GROUP, "ridge", "mae_ratio") == 0.58 and np.isnan(turned.value(GROUP, "nobody", "r2"))


def test_a_class_that_is_called_by_a_number_is_no_frequency():
    assert [named(3), named(np.int64(3)), named(3.0), named("frequency 3"), named("3")] == ["frequency 3"] * 4 + ["3"]
    assert [bare(3), bare("frequency 3"), bare("Ery")] == ["3", "3", "Ery"]


# Folder


def test_everything_that_was_handed_in_is_in_the_folder(judgement, run):
    folder = run.folder
    pd.testing.assert_frame_equal(pd.read_csv(folder / "scoreboard.csv"), judgement.scoreboard)
    given = {name for name, table in judgement.tables.items() if len(table)}
    assert "per_class" not in given  # no row
    assert {path.stem for path in (folder / "tables").glob("*.csv")} == given | {"cells", "split"}
    for name in given - {"looked_up"}:  # an empty word is read back as missing
        pd.testing.assert_frame_equal(pd.read_csv(folder / "tables" / f"{name}.csv"), judgement.tables[name])
    cells = pd.read_csv(folder / "tables" / "cells.csv", index_col="cell")
    pd.testing.assert_frame_equal(cells, judgement.points, check_names=False)

    metrics = json.loads((folder / "metrics.json").read_text())
    assert set(metrics) == {"test", "baselines", "data", "versions", "timing"}
    assert metrics["test"][f"{GROUP}/r2"] == 0.782
    assert metrics["baselines"]["k-NN, 50 components"][f"{GROUP}/mae_ratio"] == 0.41
    assert metrics["baselines"]["lasso"][f"{GROUP}/worst_r2"] is None

    assert ad.read_h5ad(folder / "predictions.h5ad").n_vars == judgement.adata.n_vars
    assert {path.stem for path in (folder / "figures").glob("*.png")} == FIGURES | {"loss"}
    last = [" ".join(line.split()) for line in run.said.splitlines()[-3:]]
    assert last == [f"folder {folder}", f"report {folder / 'report.html'}", f"evaluate {AGAIN}"]


def test_without_expression_the_places_and_frequencies_of_the_cells_are_kept(judgement, tmp_path):
    write(dataclasses.replace(judgement, adata=None, tables={}), tmp_path)
    cells = ad.read_h5ad(tmp_path / "predictions.h5ad")
    np.testing.assert_array_equal(cells.obsm["X_frequencies"], judgement.points[judgement.frequencies])
    np.testing.assert_array_equal(cells.obsm["X_picture"], judgement.points[["x", "y"]])
    assert list(cells.obs) == ["part", "cell_type"]


def test_page_needs_nothing_but_itself_and_shows_every_figure(judgement, run):
    page = (run.folder / "report.html").read_text()
    targets = re.findall(r"""(?:src|href)\s*=\s*["']?([^"'\s>]+)""", page)
    assert all(target.startswith(("data:image/png;base64,", "#")) for target in targets)
    assert sum(target.startswith("data:") for target in targets) == len(FIGURES) + 1
    assert not re.search(r"https?://|@import|url\(|<script|<link|<iframe", page)
    assert {target[1:] for target in targets if target.startswith("#")} == set(re.findall(r'id="([\w-]+)"', page))


def test_numbers_of_the_page_are_those_of_the_tables(judgement, run):
    flat = re.sub(r"\s*(<[^>]+>)\s*", r"\1", (run.folder / "report.html").read_text())
    board = flat[flat.index('<section id="scoreboard">') : flat.index('<section id="topic-1">')]
    rows = re.findall(r'<tr class="(\w+)[^"]*"><th scope="row">([^<]+)</th>(.*?)</tr>', board)
    assert [method for _, method, _ in rows] == [MODEL, *BASELINES, YARDSTICK]
    for kind, method, cells in rows:
        values = re.findall(r'<td><span(?: class="best")?>([^<]+)</span>', cells)
        assert values == [number(judgement.value(GROUP, method, metric)) for metric in METRICS]
        assert kind == judgement.kind(method)
    assert '<span class="best">0.78</span><small>0.75 to 0.80</small>' in board  # the model's R²
    assert board.count('class="best"') == 1 + len(METRICS)  # one of each column, and the word that explains it
    for name, table in judgement.tables.items():
        assert (f"{len(table):,} rows" in flat and f"tables/{name}.csv" in flat) == (len(table) > 0 and len(table) != 1)
    first = judgement.table("spectrum").iloc[0]
    assert f"<td>{number(first['eigenvalue'])}</td><td>{number(first['gap'])}</td>" in flat
    assert AGAIN in flat and "ab12" in flat and flat.index("frequency 3 sits on few cells") < flat.index("<nav>")


def _copies(image: bytes, drawn, folder) -> dict:
    """One picture in the place of every figure."""
    (folder / "one.png").write_bytes(image)
    return dict.fromkeys(drawn, folder / "one.png")


def test_page_escapes_every_name(tmp_path, monkeypatch, run):
    image = (run.folder / "figures" / "scores.png").read_bytes()
    monkeypatch.setattr(frequency_folder.figures, "save", lambda drawn, folder: _copies(image, drawn, tmp_path))
    evil, judgement = "<script>alert(1)</script>", frequency_judgement(**SMALL)
    tables = {name: table.replace("Car2", evil).replace(TYPES[0], evil) for name, table in judgement.tables.items()}
    parts = {"model": evil, "verdict": (evil,), "notes": (evil,), "undefined": (evil,)}
    write(dataclasses.replace(judgement, **parts, tables=tables), tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "<script" not in page and page.count("&lt;script&gt;") >= 6


# Terminal


def printed(judgement, width) -> str:
    screen = io.StringIO()
    print_scoreboard(judgement, Console(file=screen, width=width))
    return screen.getvalue()


@pytest.mark.parametrize("width", [60, 120])
def test_terminal_table_has_every_value_and_fits(judgement, width):
    said = printed(judgement, width)
    assert max(map(len, said.splitlines())) <= width and "…" not in said
    for place, method in enumerate((MODEL, *BASELINES, YARDSTICK)):
        line = next(line for line in said.splitlines() if line.startswith(f"{method}  "))
        for values in METRICS.values():
            value = values[place]
            assert (f"{round(value, 2) + 0.0:.2f}" if np.isfinite(value) else " - ") in line
    assert ("0.75..0.80" in said) == (width == 120)
    assert f"{YARDSTICK}: a yardstick, no rival" in said
    assert "- beside the best simple answer" in said and "- frequency 3 sits on few cells" in said


def test_star_is_at_the_best_method_also_where_low_is_good(judgement):
    def marked(metric):
        return list(judgement.rows(GROUP)["method"][judgement.best(GROUP, metric)])

    assert (marked("r2"), marked("mae_ratio")) == ([MODEL], ["k-NN, 50 components"])
    assert judgement.best_baseline(GROUP, "mae_ratio") == ("k-NN, 50 components", 0.41)
    best = judgement.scoreboard.assign(mae_ratio=lambda t: t["mae_ratio"].mask(t["method"] == YARDSTICK, 0.01))
    unbeaten = dataclasses.replace(judgement, scoreboard=best)
    assert unbeaten.best(GROUP, "mae_ratio").sum() == 1  # a yardstick does not compete
    assert unbeaten.best_baseline(GROUP, "mae_ratio")[1] == 0.41


def test_metrics_of_the_evaluation_are_those_of_the_report(judgement):
    assert set(METRICS) <= set(FREQUENCY_METRICS) and set(CHANCE) <= set(FREQUENCY_METRICS)
    assert {metric.direction for metric in FREQUENCY_METRICS.values()} == {"higher", "lower"}
    rng = np.random.default_rng(0)
    train, truth = rng.normal(size=(80, 3)), rng.normal(size=(40, 3))
    answers = {MODEL: truth + 0.1 * rng.normal(size=truth.shape), "ridge": np.zeros_like(truth)}
    told = {"scoreboard": frequency_board(answers, truth, train), "baselines": ("ridge",)}
    real = dataclasses.replace(judgement, **told, tables={"per_frequency": per_frequency(answers, truth, train)})
    assert real.metrics(GROUP) == ["r2", "mae_ratio", "worst_r2"]
    assert "as good as every simple answer on 3 of 3 frequencies" in texts(frequency_figures.per_frequency(real))


# Figures


def test_scores_are_those_of_the_scoreboard(judgement):
    figure = frequency_figures.scores(judgement)
    rows = judgement.rows(GROUP)
    kinds = {"model": BLUE, "baseline": QUIET, "ceiling": TRUTH}
    for axes, name in zip(figure.axes, METRICS, strict=True):
        points = axes.collections[-1]
        np.testing.assert_allclose(np.ma.filled(points.get_offsets()[:, 0], np.nan), rows[name])
        expected = [to_hex(kinds[judgement.kind(method)]) for method in rows["method"]]
        assert [to_hex(colour) for colour in points.get_facecolors()] == expected
        assert [line.get_xdata()[0] for line in axes.lines] == [CHANCE[name]]
    assert "R² 0.78, best simple answer 0.78 (ReLU network)" in texts(figure)
    assert figure.axes[0].get_xlim()[0] == frequency_figures.FLOOR and "−1.20" in texts(figure)  # not drawn: too far
    assert figure.axes[1].get_xlim()[0] > 0


def test_heat_map_of_scores_writes_every_value_and_the_best_in_bold(judgement):
    axes = frequency_figures.per_frequency(judgement).axes[0]
    table = judgement.table("per_frequency")
    wide = table.pivot(index="method", columns="frequency", values="r2").loc[[MODEL, *BASELINES, YARDSTICK]]
    assert names_on(axes.get_yticklabels()) == list(wide.index)
    written = [float(text.get_text().replace("−", "-")) for text in axes.texts if text.get_text()]
    np.testing.assert_allclose(np.reshape(written, wide.shape), wide, atol=0.051)
    bold = [text.get_position() for text in axes.texts if text.get_fontweight() == "bold"]
    rivals = wide.drop(index=YARDSTICK)
    assert sorted(bold) == [(place, int(row)) for place, row in enumerate(rivals.to_numpy().argmax(0))]
    ahead = (wide.loc[MODEL] >= wide.loc[list(BASELINES)].max()).sum()
    assert f"on {ahead} of 10 frequencies" in texts(axes.figure)


def test_classes_have_the_share_that_is_named_right(judgement):
    truth = np.repeat([0, 1], 10)
    table = per_class({MODEL: truth, "ridge": np.zeros(20, int)}, truth, ["Ery", "GMP"])
    figure = frequency_figures.per_frequency(but(judgement, per_frequency=pd.DataFrame(), per_class=table))
    assert "on 2 of 2 classes" in texts(figure) and names_on(figure.axes[0].get_xticklabels()) == ["Ery", "GMP"]
    assert [text.get_text() for text in figure.axes[0].texts if text.get_text()] == ["1.0", "1.0", "1.0", ".00"]


def test_spectrum_marks_what_cannot_be_read_alone_and_what_sits_on_few_cells(judgement):
    figure = frequency_figures.spectrum(judgement)
    values, spread, extended = figure.axes
    table = judgement.table("spectrum")
    points = values.collections[-1]
    np.testing.assert_allclose(points.get_offsets()[:, 1], table["eigenvalue"])
    assert [to_hex(c) != "#ffffff" for c in points.get_facecolors()] == list(table["trusted"])
    band = values.patches[0]
    assert (round(band.get_x() + 0.45), round(band.get_x() + band.get_width() - 0.45)) == (5, 9)  # frequencies 6 to 10
    np.testing.assert_allclose(spread.collections[-1].get_offsets()[:, 1], table["participation"])
    drawn = {line.get_label(): line.get_ydata() for line in extended.lines}
    np.testing.assert_allclose(drawn["after one rotation"], judgement.table("extension")["rotated"])
    assert "5 can be read alone; frequency 3 on few cells" in texts(figure)


def test_space_has_every_cell_by_type_and_by_the_first_frequencies(judgement):
    figure = frequency_space(judgement, "umap")
    kind, key, *panels = figure.axes[: 2 + MOST_FREQUENCIES]
    for axes, name in zip(panels, judgement.frequencies, strict=False):
        assert axes.get_title(loc="left") == name
        points = axes.collections[0]
        found = pd.Series(points.get_array(), index=points.get_offsets()[:, 0]).sort_index()
        expected = judgement.points.set_index("x")[name].sort_index()
        np.testing.assert_allclose(found, expected)
    colours = {to_hex(c) for c in kind.collections[0].get_facecolors()}
    assert len(colours) == 9 and names_on(key.get_legend().get_texts())[-1] == "2 others"
    first = judgement.points.groupby("cell_type")["frequency 1"].median()
    assert f"Frequency 1 runs from {first.idxmin()} to {first.idxmax()}" in texts(figure)
    r2 = judgement.table("per_frequency").query(f"method == '{MODEL}' and frequency == 2")["r2"].item()
    assert f"R² {number(r2)}" in panels[1].texts[0].get_text()
    assert "Distances in a UMAP" in texts(figure) and kind.get_xlabel() == "UMAP 1"


def test_one_type_has_no_two_ends(judgement):
    points = judgement.points.assign(cell_type="Ery")
    figure = frequency_space(dataclasses.replace(judgement, points=points), "pca")
    assert "runs from" not in texts(figure) and "500 cells in the plane" in texts(figure)


def test_every_frequency_shows_its_leading_module_before_any_its_second(judgement):
    keys = shown_modules(judgement)
    assert len(keys) == MOST_MODULES
    assert keys == [(f, f"quadratic {rank}") for f in range(1, 11) for rank in (1, 2)]
    many = frequency_judgement(n_frequencies=25)
    assert shown_modules(many) == [(f, "quadratic 1") for f in range(1, 21)]


def test_heat_map_of_modules_holds_signed_loadings_and_stability(judgement):
    figure = module_heatmap(judgement)
    above, axes = figure.axes[:2]
    keys, genes = shown_modules(judgement), names_on(axes.get_yticklabels())
    values = np.ma.filled(axes.images[0].get_array(), np.nan)
    assert len(genes) == len(set(genes)) <= MOST_GENES
    table = judgement.table("modules").set_index(["frequency", "module", "gene"])["loading"].sort_index()
    for place, (frequency, module) in enumerate(keys):
        own = table.loc[(frequency, module)]
        expected = (own / own.abs().max()).reindex(genes)
        np.testing.assert_allclose(values[:, place], expected)
        assert np.nanmax(np.abs(values[:, place])) == 1  # its leading gene is there
    summary = judgement.table("module_summary").set_index(["frequency", "module"]).loc[keys]
    np.testing.assert_allclose([bar.get_height() for bar in above.patches], summary["jaccard_seeds"])
    assert [to_hex(bar.get_facecolor()) == to_hex(FAINT) for bar in above.patches] == list(~summary["comes_back"])
    pale = [label.get_color() != "#222222" for label in axes.get_xticklabels()]
    assert pale == list(~summary["comes_back"])
    assert names_on(axes.get_xticklabels())[:2] == ["1: quadratic 1 −", "1: quadratic 2 +"]
    assert "20 of 30 modules come back" in texts(figure) and "0.15 with the correlation list" in texts(figure)


def test_modules_whose_return_was_not_asked_are_not_called_unstable(judgement):
    summary = judgement.table("module_summary").drop(columns=["jaccard_seeds", "comes_back", "overlap_correlation"])
    figure = module_heatmap(but(judgement, module_summary=summary))
    assert "whether they come back was not asked" in texts(figure)
    assert {label.get_color() for label in figure.axes[0].get_xticklabels()} == {"#222222"}


def test_enrichment_shows_the_best_q_and_says_what_was_looked_up(judgement):
    figure = enrichment(judgement)
    axes = figure.axes[0]
    table, terms = judgement.table("enrichment"), names_on(axes.get_yticklabels())
    best = table.groupby([table["term"].str.replace("_", " "), "frequency"])["q"].min().unstack()
    expected = -np.log10(best.loc[terms]).fillna(0)
    np.testing.assert_allclose(axes.images[0].get_array(), expected)
    assert len(axes.collections[0].get_offsets()) == (best <= 0.05).sum().sum()
    said = texts(figure)
    assert "Erythroid terms found (frequency 1, q = 1.0e-09)" in said and "monocyte terms not found" in said.lower()
    assert enrichment(but(judgement, enrichment=table.assign(q=0.9))) is None


def test_overlap_with_correlation_stands_beside_that_between_seeds(judgement):
    figure = gene_lists(judgement)
    overlap, ridge, neighbours = figure.axes
    drawn = {line.get_label(): line.get_ydata() for line in overlap.lines}
    lists = judgement.table("lists").query("footing == 'unsigned'")
    pair = lists.query("`list a` == 'correlation' and `list b` == 'bilinear'")["jaccard"]
    np.testing.assert_allclose(drawn["correlation and bilinear"], pair)
    np.testing.assert_allclose(drawn["module, two seeds"], between_seeds(judgement)["jaccard"])
    assert [line.get_ydata()[0] for line in overlap.lines if len(line.get_ydata()) == 2 and line.get_linestyle() != "-"]
    improved = judgement.table("improvement")
    for axes, regressor in (ridge, "ridge"), (neighbours, "k-NN"):
        assert regressor in axes.get_title(loc="left")
        mine = improved.query(f"regressor == '{regressor}'")
        drawn = {line.get_label(): line.get_ydata() for line in axes.lines}
        for name, rows in mine.groupby("list"):
            np.testing.assert_allclose(drawn[name], rows["r2"])
    said = texts(figure)
    assert f"Jaccard {number(pair.mean())} of correlation and bilinear, 0.88 of two seeds of a module" in said
    assert "0.025 of random lists" in said
    as_long = judgement.table("module_summary").assign(jaccard_25=0.71)  # lists of as many genes
    assert ", 0.71 of two seeds" in texts(gene_lists(but(judgement, module_summary=as_long)))


def test_hierarchy_has_a_panel_for_each_kind_of_labels(judgement):
    figure = hierarchy(judgement)
    table = judgement.table("hierarchy")
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles[:3] == ["Agreement with cell type", "Agreement with cluster", "Agreement with the true frequencies"]
    drawn = {line.get_label(): line.get_ydata() for line in figure.axes[1].lines}
    np.testing.assert_allclose(drawn["frequencies"], table.query("labels == 'cluster'")["ari_types"])
    nested = figure.axes[3].lines[0].get_ydata()
    np.testing.assert_allclose(nested, table.drop_duplicates("cut")["nested"])
    assert f"{100 * table['nested'].mean():.0f} % known from the finer" in texts(figure)


def test_no_label_of_a_figure_covers_another():
    drawn = frequency_folder._drawn(frequency_judgement(n_frequencies=25), pd.DataFrame(), CONFIG, "umap")
    for name, figure in drawn.items():
        figure.draw_without_rendering()
        renderer = figure.canvas.get_renderer()
        for axes in figure.axes:
            for labels in axes.get_xticklabels(), axes.get_yticklabels():
                boxes = [label.get_window_extent(renderer) for label in labels if label.get_text()]
                assert not [1 for i, a in enumerate(boxes) for b in boxes[:i] if a.overlaps(b)], (name, axes)
            legend, under = axes.get_legend(), axes.xaxis.label.get_window_extent(renderer)
            if legend and axes.axison and axes.get_xlabel():
                assert not legend.get_window_extent(renderer).overlaps(under), name


# What is missing


def with_gaps(judgement):
    """Every number that may be missing is."""
    keys = {"frequency", "module", "method", "gene", "list a", "list b", "footing", "list", "regressor", "term", "cut"}
    keys |= {"labels", "lineage", "found", "class"}
    tables = {
        name: table.assign(**{column: np.nan for column in table if column not in keys})
        for name, table in judgement.tables.items()
    }
    board = judgement.scoreboard[["group", "method", "n"]].assign(r2=np.nan)
    points = judgement.points.assign(**dict.fromkeys(judgement.frequencies, np.nan), cell_type=None)
    return dataclasses.replace(judgement, scoreboard=board, tables=tables, points=points)


def one_class_in_one_group(judgement):
    """A classifier of one class, whose group has the model alone."""
    table = pd.DataFrame({"method": [MODEL], "class": ["Ery"], "n": [3], "recall": [1.0]})
    board = pd.DataFrame({"group": [GROUP], "method": [MODEL], "n": [3], "accuracy": [1.0]})
    points = judgement.points.iloc[:1][["x", "y", "cell_type"]]
    tables = {"per_class": table}
    return dataclasses.replace(judgement, scoreboard=board, baselines=(), tables=tables, points=points)


def in_categories(judgement):
    """Names as an h5ad brings them, with a level that nothing has; frequencies in words."""
    tables = {
        name: table.assign(frequency=[f"frequency {f}" for f in table["frequency"]]) if "frequency" in table else table
        for name, table in judgement.tables.items()
        if name != "looked_up"
    }
    kinds = judgement.points["cell_type"].astype("category").cat.add_categories("nobody")
    return dataclasses.replace(judgement, tables=tables, points=judgement.points.assign(cell_type=kinds))


WORLDS = {
    "bare": (lambda: frequency_judgement(bare=True), {"scores"}),
    "no cells": (lambda: dataclasses.replace(frequency_judgement(bare=True), points=pd.DataFrame()), {"scores"}),
    "empty tables": (
        lambda: dataclasses.replace(
            frequency_judgement(), tables={name: table[:0] for name, table in frequency_judgement().tables.items()}
        ),
        {"space", "scores"},
    ),
    "nothing but NaN": (lambda: with_gaps(frequency_judgement(**SMALL)), set()),
    "one class": (lambda: one_class_in_one_group(frequency_judgement(**SMALL)), {"space", "scores", "per_frequency"}),
    "one frequency, categories, words": (lambda: in_categories(frequency_judgement(n_frequencies=1)), FIGURES),
}


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("name", WORLDS)
def test_a_report_stands_where_something_is_missing(name, tmp_path):
    world, drawn = WORLDS[name]
    write(world(), tmp_path)
    assert {path.stem for path in (tmp_path / "figures").glob("*.png")} == drawn
