"""The report of a latent model says what was handed in, and stands where something is missing."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import re
import sys
import types

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from latent_world import BASELINES, CEILING, MODEL, history, latent_judgement
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from rich.console import Console

from stormcell.evaluation.latent_metrics import LATENT_METRICS
from stormcell.report import latent_folder, latent_tables
from stormcell.report.drawing import MODEL as BLUE
from stormcell.report.drawing import QUIET, TRUTH
from stormcell.report.judgement import number
from stormcell.report.latent_effects import factor_effects, programmes
from stormcell.report.latent_figures import CONTROL, criticism, escape
from stormcell.report.latent_picture import latent_picture
from stormcell.report.latent_scores import followed, scores
from stormcell.report.plane import plane

CARD = {"source": "toy.h5ad", "sha256": "ab12", "cells": 400, "genes": 40, "split_sha256": "cd34", "notes": []}
CONFIG = {"seed": 1, "objective": "val/score", "objective_mode": "max"}
AGAIN = "python evaluate.py ckpt=run/checkpoints/best.ckpt"
TOPICS = {"latents", "scores", "escape", "programmes", "factor_effects", "criticism", "followed", "loss"}
SPLIT = pd.DataFrame({"cell": ["a"], "part": ["test"]})


@pytest.fixture(scope="module")
def judgement():
    return latent_judgement()


def texts(figure) -> str:
    """Everything written on a figure, lines joined."""
    found = [text.get_text() for text in figure.texts]
    for axes in figure.axes:
        found += [axes.get_title(loc="left"), axes.get_xlabel(), axes.get_ylabel(), *(t.get_text() for t in axes.texts)]
        found += [label.get_text() for label in (*axes.get_xticklabels(), *axes.get_yticklabels())]
    return " ".join("\n".join(found).split())


def rows_of(axes) -> list[str]:
    return [label.get_text() for label in axes.get_yticklabels()]


def dots(axes) -> np.ndarray:
    """Cells of a heat map that carry a dot: row, column."""
    across, down = axes.collections[0].get_offsets().T
    return np.stack([down, across], axis=1).astype(int)


class WandbLogger:
    """Keeps what it is given; the report knows a logger by the name of its class."""

    def __init__(self):
        self.images, self.tables, self.summary = {}, {}, {}
        config = types.SimpleNamespace(update=lambda *_, **__: None)
        self.experiment = types.SimpleNamespace(config=config, summary=self.summary)

    def log_table(self, name, dataframe):
        self.tables[name] = dataframe

    def log_image(self, name, paths):
        self.images[name] = paths


def write(judgement, folder, loggers=()) -> str:
    """The run folder of a judgement, its figures small; returns what was said on the screen."""
    history().to_csv(folder / "history.csv", index=False)
    data = types.SimpleNamespace(split=types.SimpleNamespace(table=SPLIT))
    given = {"embedding": "pca", "again": AGAIN, "timing": {"fit_s": 41.2}, "loggers": list(loggers)}
    draw = Figure.savefig
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as said:
        patch.setattr(latent_folder, "data_card", lambda data: CARD)
        patch.setattr(Figure, "savefig", lambda figure, path, dpi: draw(figure, path, dpi=20))
        latent_folder.write_latent_judgement(judgement, data, CONFIG, folder, **given)
    return said.getvalue()


@pytest.fixture(scope="module")
def run(judgement, tmp_path_factory):
    """A run folder, what was said on the screen, and what a logger was given."""
    folder, logger = tmp_path_factory.mktemp("run"), WandbLogger()
    return types.SimpleNamespace(folder=folder, said=write(judgement, folder, [logger]), logger=logger)


# Judgement


def test_parts_that_do_not_fit_are_refused(judgement):
    def but(**parts):
        dataclasses.replace(judgement, **parts)

    with pytest.raises(ValueError, match="'salient' has shape"):
        but(spaces={"salient": judgement.spaces["salient"][1:]})
    with pytest.raises(ValueError, match="is_control"):
        but(cells=judgement.cells.drop(columns="is_control"))
    with pytest.raises(ValueError, match="no row of"):
        but(methods=("nobody",))
    with pytest.raises(ValueError, match="two rows"):
        but(scoreboard=pd.concat([judgement.scoreboard] * 2))


def test_perturbations_are_those_of_most_cells_first(judgement):
    counts = judgement.cells.loc[~judgement.cells["is_control"], "condition"].value_counts()
    assert list(counts[judgement.perturbations]) == sorted(counts, reverse=True)
    assert set(judgement.perturbations) == set(counts.index) and "control" not in judgement.perturbations


# Folder


def test_everything_that_was_handed_in_is_in_the_folder(judgement, run):
    folder = run.folder
    pd.testing.assert_frame_equal(pd.read_csv(folder / "scoreboard.csv"), judgement.scoreboard)
    names = {path.stem for path in (folder / "tables").glob("*.csv")}
    assert names == {"cells", "criticism", "de", "programmes", "factor_effects", "split"}  # enrichment has no row
    for name in "de", "programmes", "factor_effects":
        pd.testing.assert_frame_equal(pd.read_csv(folder / "tables" / f"{name}.csv"), judgement.tables[name])
    cells = pd.read_csv(folder / "tables" / "cells.csv", index_col="cell")
    pd.testing.assert_frame_equal(cells, judgement.cells, check_names=False)

    metrics = json.loads((folder / "metrics.json").read_text())
    assert set(metrics) == {"test", "baselines", "data", "versions", "timing"}
    assert metrics["test"]["held-out cells/probe"] == 0.81
    assert metrics["test"]["held-out cells/background_cell_type"] is None
    assert set(metrics["baselines"]) == set(BASELINES)
    assert metrics["baselines"]["lda"]["held-out cells/ari"] == judgement.value("lda", "ari")

    cells = ad.read_h5ad(folder / "predictions.h5ad")
    np.testing.assert_array_equal(cells.obsm["X_salient"], judgement.spaces["salient"])
    drawn = {path.stem for path in (folder / "figures").glob("*.png")}
    assert drawn == TOPICS

    assert re.search(r"perturbation probe +high +0\.17 +0\.81\*", run.said)
    last = [" ".join(line.split()) for line in run.said.splitlines()[-3:]]
    assert last == [f"folder {folder}", f"report {folder / 'report.html'}", f"evaluate {AGAIN}"]


def test_page_needs_nothing_but_itself_and_shows_every_figure(judgement, run):
    page = (run.folder / "report.html").read_text()
    targets = re.findall(r"""(?:src|href)\s*=\s*["']?([^"'\s>]+)""", page)
    assert all(target.startswith(("data:image/png;base64,", "#")) for target in targets)
    assert sum(target.startswith("data:") for target in targets) == len(list((run.folder / "figures").glob("*.png")))
    assert not re.search(r"https?://|@import|url\(|<script|<link|<iframe", page)
    assert {target[1:] for target in targets if target.startswith("#")} == set(re.findall(r'id="([\w-]+)"', page))
    flat = re.sub(r"\s*(<[^>]+>)\s*", r"\1", page)
    for name in latent_tables.metrics(judgement):
        low, high = (number(judgement.value(MODEL, f"{name}_{end}")) for end in ("low", "high"))
        line = next(part for part in flat.split("<tr>") if f">{LATENT_METRICS[name].label}</th>" in part)
        shown = number(judgement.value(MODEL, name))
        assert re.search(rf">{re.escape(shown)}</span><small>{low} to {high}</small>", line)
    assert "differential expression: 240 rows" in flat and "The first 40; all of them: tables/de.csv" in flat
    assert AGAIN in page and "seed: 1" in page and "ab12" in page and "found in the salient space" in page


def test_page_escapes_every_name(tmp_path):
    evil = "<script>alert(1)</script>"
    bare = latent_judgement(n_cells=20, bare=True)
    cells = bare.cells.assign(condition=bare.cells["condition"].replace("KO1", evil), batch=evil)
    table = pd.DataFrame({evil: [evil]})
    parts = {"model": evil, "verdict": (evil,), "notes": (evil,), "undefined": (evil,), "tables": {"other": table}}
    write(dataclasses.replace(bare, **parts, cells=cells), tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "<script" not in page and page.count("&lt;script&gt;") >= 7
    assert not (tmp_path / "predictions.h5ad").exists()


def test_loggers_get_the_figures_and_the_numbers(judgement, run):
    assert set(run.logger.images) == {path.stem for path in (run.folder / "figures").glob("*.png")}
    assert run.logger.summary["test/held-out cells/probe"] == 0.81
    assert run.logger.tables["scoreboard"] is judgement.scoreboard


# Terminal


def printed(judgement, width) -> str:
    screen = io.StringIO()
    latent_tables.print_scoreboard(judgement, Console(file=screen, width=width))
    return screen.getvalue()


@pytest.mark.parametrize("width", [80, 120])
def test_terminal_table_has_every_metric_and_fits(judgement, width):
    said = printed(judgement, width)
    assert max(map(len, said.splitlines())) <= width and "…" not in said
    words = " ".join(said.split())
    for name in latent_tables.metrics(judgement):
        assert f"{number(judgement.value('lda', name))}" in words
    assert "0.77..0.86" in words if width == 120 else "0.77..0.86" not in words
    assert "cell type in background" not in words  # nobody has a value


def test_star_is_at_the_best_method_of_a_metric(judgement):
    board = judgement.scoreboard.copy()
    board.loc[board["method"] == CEILING, "probe"] = 0.99
    board["background_auc"] = [0.48, 0.55, 0.9, 0.1, np.nan, 0.5]
    board["batch_leak"] = [0.3, 0.2, 0.2, 0.4, 0.5, np.nan]
    board["nmi"] = 0.25
    marked = dataclasses.replace(judgement, scoreboard=board)
    best = {name: list(latent_tables.best(marked, name)) for name in ("probe", "background_auc", "batch_leak", "nmi")}
    assert best["probe"] == [True, False, False, False, False, False]  # a ceiling does not compete
    assert best["background_auc"] == [True, False, False, False, False, False]  # nearest to one half
    assert best["batch_leak"] == [False, True, True, False, False, False]  # low is right
    assert not any(best["nmi"])  # all alike
    assert re.search(r"0\.48\*.* 0\.55 ", printed(marked, 120))


def test_chance_follows_from_the_labels(judgement):
    chances = {name: latent_tables.chance(judgement, name) for name in LATENT_METRICS}
    expected = {"probe": 1 / 6, "background_probe": 1 / 6, "batch_leak": 1 / 2, "phase_leak": 1 / 3, "ari": 0}
    assert {name: chances[name] for name in expected} == pytest.approx(expected)
    assert np.isnan([chances["nmi"], chances["background_cell_type"]]).all()
    assert np.isnan(latent_tables.chance(latent_judgement(n_perturbations=1), "probe"))


# Picture of the spaces


def test_picture_shows_the_cells_of_each_space_in_their_colours(judgement):
    figure = latent_picture(judgement, "pca")
    grid = np.array(figure.axes).reshape(4, 4)  # three spaces and the keys; perturbation, perturbed, phase, batch
    for line, space in zip(grid, ("salient", "background", "pca"), strict=False):
        expected, _ = plane(judgement.spaces[space], "pca", 0)
        for axes in line:
            shown = axes.collections[0].get_offsets()
            np.testing.assert_allclose(np.sort(np.abs(shown[:, 0])), np.sort(np.abs(expected[:, 0])), atol=1e-8)
    colours = [to_hex(colour) for colour in grid[0, 1].collections[0].get_facecolors()]
    assert colours.count(BLUE.lower()) == (~judgement.is_control).sum()
    keys = [[text.get_text() for text in axes.get_legend().get_texts()] for axes in grid[3]]
    assert keys[0] == [*judgement.perturbations, "control"]
    assert keys[1:] == [["perturbed", "control"], ["G1", "S", "G2M"], ["lane1", "lane2"]]
    said = texts(figure)
    assert f"AUC {number(judgement.value(MODEL, 'background_auc'))}" in said
    assert f"balanced accuracy {number(judgement.value(MODEL, 'phase_leak'))}" in said


def test_picture_of_many_cells_is_a_draw_that_their_order_does_not_change(monkeypatch):
    many = latent_judgement(n_cells=3500, n_perturbations=20)
    seen = {}

    class Umap:
        def __init__(self, random_state, **_):
            self.seed = random_state

        def fit_transform(self, cells):
            seen.setdefault("spaces", []).append(cells)
            return cells[:, :2]

    monkeypatch.setitem(sys.modules, "umap", types.SimpleNamespace(UMAP=Umap))
    figure = latent_picture(many, "umap")
    first = seen.pop("spaces")
    order = np.random.default_rng(5).permutation(3500)
    spaces = {name: space[order] for name, space in many.spaces.items()}
    again = latent_picture(dataclasses.replace(many, cells=many.cells.iloc[order], spaces=spaces), "umap")
    for a, b in zip(first, seen["spaces"], strict=True):
        assert len(a) == 3000
        np.testing.assert_array_equal(a, b)
    assert "3,000 of 3,500 held-out cells" in texts(figure) and texts(figure) == texts(again)
    keys = [text.get_text() for text in figure.axes[-4].get_legend().get_texts()]
    assert keys == [*many.perturbations[:8], "12 others", "control"]


@pytest.mark.parametrize("cells", [np.zeros((5, 3)), np.ones((1, 2)), np.arange(6.0)[:, None]])
def test_cells_that_span_no_plane_still_have_places(cells):
    for embedding in "pca", "umap":
        points, _ = plane(cells, embedding, 0)
        assert points.shape == (len(cells), 2) and np.isfinite(points).all()


# Scores


def test_scores_are_those_of_the_scoreboard(judgement):
    figure = scores(judgement)
    names = latent_tables.metrics(judgement)
    assert sorted(names) == sorted(set(LATENT_METRICS) - {"background_cell_type"})
    for axes, name in zip(figure.axes, names, strict=False):
        points = axes.collections[-1]
        expected = [judgement.value(method, name) for method in (MODEL, *BASELINES, CEILING)]
        np.testing.assert_allclose(np.ma.filled(points.get_offsets()[:, 0], np.nan), expected)
        colours = [to_hex(colour) for colour in points.get_facecolors()]
        assert colours == [to_hex(colour) for colour in (BLUE, *[QUIET] * 4, TRUTH)]
        about, chance = LATENT_METRICS[name], latent_tables.chance(judgement, name)
        right = about.best if about.best is not None else chance
        assert [line.get_xdata()[0] for line in axes.lines] == ([] if np.isnan(right) else [right])
    ahead = sum(
        latent_tables.distance(judgement.value(MODEL, name), name)
        <= min(latent_tables.distance(judgement.value(rival, name), name) for rival in BASELINES)
        for name in names
    )
    assert f"on {ahead} of {len(names)} metrics" in texts(figure)


def test_followed_metrics_and_losses_stand_apart(judgement):
    figure = followed(judgement, history())
    assert [axes.get_title(loc="left") for axes in figure.axes] == [
        "perturbation probe",
        "control against\nperturbed, background",
    ]
    np.testing.assert_allclose(figure.axes[0].lines[-1].get_ydata(), history()["val/probe"].dropna())
    assert figure.axes[1].lines[0].get_ydata()[0] == 0.5
    assert followed(judgement, history()[["step", "train/loss"]]) is None

    bare = latent_judgement(bare=True)
    drawn = latent_folder._drawn(bare, history(), CONFIG, "pca")
    assert {axes.get_ylabel() for axes in drawn["loss"].axes} == {"score", "loss"}
    drawn = latent_folder._drawn(bare, history(), CONFIG | {"objective": "val/probe"}, "pca")
    assert "val/probe is best, 0.80, at step 800" in texts(drawn["loss"])
    assert "loss" not in latent_folder._drawn(bare, history()[:0], CONFIG, "pca")


# Cells and counts


def test_escape_ranks_perturbations_by_the_share_that_responds(judgement):
    figure = escape(judgement)
    names = rows_of(figure.axes[0])
    cells = judgement.cells.assign(responds=judgement.cells["perturbed_probability"] > 0.5)
    share = cells[~cells["is_control"]].groupby("condition")["responds"].mean()
    assert names[0] == CONTROL and names[-1] == "KO5"  # controls in disguise
    assert list(share[names[1:]]) == sorted(share, reverse=True)
    drawn = [figure.axes[0].collections[2 * i].get_offsets()[:, 0] for i in range(len(names))]
    own = cells.loc[cells["condition"] == names[1], "perturbed_probability"]
    np.testing.assert_allclose(np.sort(drawn[1]), np.sort(own))
    assert f"respond to {(share > 0.5).sum()} of 6 perturbations" in texts(figure)


def test_escape_takes_the_fitted_shares_where_there_are_some(judgement):
    table = pd.DataFrame(
        {"condition": [f"KO{i}" for i in range(5)], "share": [0.1, 0.9, 0.3, 0.4, 0.2], "share_low": 0.05}
    ).assign(share_high=0.95)
    figure = escape(dataclasses.replace(judgement, tables={"escape": table}))
    assert rows_of(figure.axes[0])[1:] == ["KO1", "KO3", "KO2", "KO4", "KO0", "KO5"]
    said = texts(figure).replace("\u00a0", " ")
    counts = judgement.cells["condition"].value_counts()
    assert f"90 % (5 to 95) of {counts['KO1']}" in said and f"- of {counts['KO5']}" in said
    assert "respond to 1 of 6" in said


def test_criticism_shows_every_gene_and_the_planted_misfit(judgement):
    figure = criticism(judgement)
    left, right = figure.axes
    table = judgement.criticism
    np.testing.assert_allclose(left.collections[0].get_offsets(), table[["zero_observed", "zero_predicted"]])
    for points, side in zip(right.collections, ("observed", "predicted"), strict=True):
        np.testing.assert_allclose(points.get_offsets(), table[[f"mean_{side}", f"variance_{side}"]])
    assert "off by 0.050 in the median gene, the variance is 0.50 of the observed" in texts(figure)


# Genes and factors


def test_programmes_are_side_by_side_with_the_fold_changes_of_the_table(judgement):
    figure = programmes(judgement)
    axes = figure.axes[0]
    names = [name.partition(" (")[0] for name in rows_of(axes)]
    assert names == ["KO0", "KO3", "KO1", "KO4", "KO2", "KO5"]
    de = judgement.tables["de"].set_index(["condition", "gene"])
    genes = [label.get_text() for label in axes.get_xticklabels()]
    assert len(genes) == 40
    values = np.asarray(axes.images[0].get_array())
    expected = [[de.loc[(name, gene), "lfc_mean"] for gene in genes] for name in names]
    np.testing.assert_allclose(values, expected)
    called = [[de.loc[(name, gene), "is_de"] for gene in genes] for name in names]
    np.testing.assert_array_equal(dots(axes), np.argwhere(called))
    counts = judgement.tables["de"].groupby("condition")["is_de"].sum()
    assert rows_of(axes)[0] == f"KO0 ({counts['KO0']})"
    assert f"{(counts > 0).sum()} of 6 perturbations change a gene" in texts(figure)
    assert [text.get_text() for text in axes.texts if text.get_text()] == ["programme 1", "programme 2", "programme 3"]


def test_programmes_are_counted_not_spelled(judgement):
    numbers = judgement.tables["programmes"].assign(programme=[10, 9, 2, 10, 9, 2])
    parts = judgement.tables | {"programmes": numbers}
    axes = programmes(dataclasses.replace(judgement, tables=parts)).axes[0]
    assert [t.get_text() for t in axes.texts if t.get_text()] == ["programme 2", "programme 9", "programme 10"]
    without = programmes(dataclasses.replace(judgement, tables={"de": judgement.tables["de"]})).axes[0]
    assert not [t.get_text() for t in without.texts if t.get_text()]


def test_factor_effects_mark_the_significant_ones(judgement):
    table = pd.concat([judgement.tables["factor_effects"].assign(factor=lambda x: x["factor"] + 6)])
    axes = factor_effects(dataclasses.replace(judgement, tables={"factor_effects": table})).axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["6", "7", "8", "9", "10"]
    whole = table.pivot(index="condition", columns="factor", values="effect").loc[rows_of(axes)]
    np.testing.assert_allclose(np.asarray(axes.images[0].get_array()), whole)
    q = table.pivot(index="condition", columns="factor", values="q").loc[rows_of(axes)]
    np.testing.assert_array_equal(dots(axes), np.argwhere(q.to_numpy() <= 0.05))


# Gaps


def with_gaps(judgement):
    """NaN wherever there may be one."""
    cells = judgement.cells.assign(phase=np.nan, batch="one", perturbed_probability=np.nan, library=np.nan)
    tables = {name: table.copy() for name, table in judgement.tables.items()}
    tables["de"].loc[::3, ["lfc_mean", "proba_de"]] = np.nan
    tables["de"].loc[tables["de"]["condition"] == "KO0", "lfc_mean"] = np.nan
    tables["factor_effects"].loc[::2, ["effect", "q"]] = np.nan
    tables["programmes"] = tables["programmes"].iloc[:2]
    numbers = judgement.scoreboard.columns.drop(["group", "method", "n"])
    board = judgement.scoreboard.assign(**dict.fromkeys(numbers, np.nan))
    counts = judgement.criticism.assign(zero_predicted=np.nan, variance_predicted=np.nan)
    return dataclasses.replace(judgement, cells=cells, tables=tables, scoreboard=board, criticism=counts)


def in_categories(judgement):
    """Labels as AnnData hands them out, one of them without a cell."""
    labels = ["condition", "batch", "phase"]
    cells = judgement.cells.astype(dict.fromkeys(labels, "category"))
    cells["batch"] = cells["batch"].cat.add_categories("empty")
    return dataclasses.replace(judgement, cells=cells)


WORLDS = {
    "bare": lambda: latent_judgement(bare=True),
    "twenty cells of one perturbation": lambda: latent_judgement(n_cells=20, n_perturbations=1),
    "twenty cells, bare": lambda: latent_judgement(n_cells=20, n_perturbations=1, bare=True),
    "a hundred perturbations": lambda: latent_judgement(n_cells=1200, n_perturbations=100, n_genes=90),
    "nothing but NaN": lambda: with_gaps(latent_judgement()),
    "two genes, categories": lambda: in_categories(latent_judgement(n_genes=2)),
}


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("name", WORLDS)
def test_a_report_stands_where_something_is_missing(name, tmp_path):
    write(WORLDS[name](), tmp_path)
    drawn = {path.stem for path in (tmp_path / "figures").glob("*.png")}
    always = {"latents", "followed", "loss"}
    if "bare" in name:
        assert drawn == always | {"scores"}
    elif "NaN" in name:
        assert drawn == always | {"programmes", "factor_effects", "criticism"}
    else:
        assert drawn == TOPICS


def test_a_hundred_perturbations_are_drawn_as_sixty():
    world = WORLDS["a hundred perturbations"]()
    for figure in escape(world), programmes(world), factor_effects(world):
        rows = [name for name in rows_of(figure.axes[0]) if name != CONTROL]
        assert len(rows) == 60 and "60 of 100 perturbations" in texts(figure)
    assert "KO99" in rows_of(escape(world).axes[0])  # the last of the ranking
