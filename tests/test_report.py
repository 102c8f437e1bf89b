"""What a run leaves for the eye says the numbers of the scoreboard, escapes what it is given, and survives gaps."""

from __future__ import annotations

import base64
import dataclasses
import io
import re
import subprocess
import sys
import types
from html import escape
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from scipy.sparse import csr_matrix
from sklearn.decomposition import PCA

from stormcell.analysis.pseudobulk import Pseudobulk
from stormcell.evaluation.baselines import baselines
from stormcell.evaluation.ceiling import ceilings, reliability
from stormcell.evaluation.heldout import HeldOut, Method, Query
from stormcell.evaluation.metrics import METRICS, distance_from_best
from stormcell.evaluation.profiles import mean_profile
from stormcell.evaluation.scoreboard import rescaled, summarise
from stormcell.evaluation.scoring import score
from stormcell.evaluation.verdict import undefined, verdict
from stormcell.report import boards, figures, html, tables
from stormcell.report.forest import forest
from stormcell.report.generation import embed, median_query
from stormcell.report.heatmap import shift_heatmap
from stormcell.report.judgement import KEYS, Judgement, number
from stormcell.report.panels import calibration, rank_histogram

N_GENES, N_CELLS, K = 120, 24, 5
LEVELS = np.arange(1, 10) / 10
PAIRS, KNOWN = "pairs, both singles seen", "held-out cells"
TWO_GROUPS = {"A+B": PAIRS, "A+C": PAIRS, "B+C": PAIRS, "A": KNOWN, "B": KNOWN, "C": KNOWN, "D": KNOWN}
HISTORY = pd.DataFrame(
    {
        "step": [10, 20, 20, 30, 40, 40],
        "train/loss": [900.0, 50, np.nan, 40, 39, np.nan],
        "val/loss": [np.nan, np.nan, 60.0, np.nan, np.nan, 50],
        "val/score": [np.nan, np.nan, 0.8125, np.nan, np.nan, 0.5],
        "val/energy_distance": [np.nan] * 6,
        "lr-Adam": [0.1] * 6,
    }
)


def judge(conditions: dict[str, str], genes: list[str] | None = None, silent: bool = False, shared: bool = False):
    """A small world with planted shifts, judged by the real scoreboard: condition -> group."""
    rng = np.random.default_rng(0)
    genes = genes or [f"G{i}" for i in range(N_GENES)]

    def cells(shift=0.0) -> csr_matrix:
        return csr_matrix(np.maximum(rng.normal(1 + shift, 0.5, (N_CELLS, len(genes))), 0).astype(np.float32))

    singles = {target: rng.normal(0, 0.5, len(genes)) for target in "ABCD"}
    planted = {c: sum((singles.get(t, singles["D"]) for t in c.split("+")), np.zeros(len(genes))) for c in conditions}
    control, unseen = cells(), cells()
    train = {target: cells(shift) for target, shift in singles.items()}
    base = mean_profile(control)
    held_out = HeldOut(
        genes=tuple(genes),
        separator="+",
        queries=tuple(Query(c, "all", group, cells(planted[c])) for c, group in conditions.items()),
        controls={"all": control},
        truth_controls={"all": control if shared else unseen},
        shared=shared,
        train=Pseudobulk.of_shifts({target: mean_profile(x) - base for target, x in train.items()}, base),
        train_cells=train,
        detected=np.ones(len(genes), bool),
        pca_mean=np.zeros(len(genes)),
        pca_components=np.linalg.qr(rng.normal(size=(len(genes), K)))[0],
    )

    def answer(noise: float, i: int):
        if silent:
            return None
        shift = planted[held_out.queries[i].condition] + np.random.default_rng(i).normal(0, noise, len(genes))
        return base + shift, control.toarray() + shift.astype(np.float32)

    modes = [Method(f"m, mode {name}", lambda i, s=s: answer(s, i)) for name, s in (("A", 0.4), ("B", 0.2))]
    return assemble(held_out, modes, baselines(held_out, 20, 1))


def assemble(held_out: HeldOut, modes: list[Method], bars: list[Method]) -> Judgement:
    names, rivals = tuple(m.name for m in modes), tuple(m.name for m in bars)
    scores = score(held_out, [*modes, *bars], keep=names)
    reliable, kept = reliability(held_out, 1), scores.kept
    board = summarise(scores.per_query, ceilings(held_out, reliable, 1), 1)
    base, unseen = mean_profile(held_out.controls["all"]), mean_profile(held_out.truth_controls["all"])
    predicted = [np.zeros((0, K)) if a is None else a[1] @ held_out.pca_components for a in kept[names[0]]]
    true = [np.asarray(q.cells @ held_out.pca_components) for q in held_out.queries]
    return Judgement(
        model="m",
        methods=names,
        baselines=rivals,
        verdict=tuple(verdict(scores, reliable, list(names), list(rivals), 1)),
        notes=(),
        undefined=tuple(undefined(scores.per_query)),
        scoreboard=board,
        per_query=scores.per_query,
        reliability=reliable,
        queries=reliable[[*KEYS, "n_cells"]],
        genes=held_out.genes,
        true_shift=np.array([mean_profile(q.cells) - unseen for q in held_out.queries]),
        predicted_shift={name: means - base for name, means in scores.means.items()},
        cells={
            "true": np.concatenate(true),
            "true_query": np.repeat(range(len(true)), [len(x) for x in true]),
            "predicted": np.concatenate(predicted),
            "predicted_query": np.repeat(range(len(predicted)), [len(x) for x in predicted]),
            "control": np.asarray(held_out.controls["all"] @ held_out.pca_components),
        },
        shared=held_out.shared,
        rescaled=rescaled(board),
        per_method=scores.per_method,
        interactions=scores.interactions,
        calibration=pd.DataFrame({"method": names[0], "level": LEVELS, "coverage": LEVELS**2}),
    )


@pytest.fixture(scope="module")
def judgement() -> Judgement:
    return judge(TWO_GROUPS)


def texts(figure) -> str:
    """Everything written on a figure."""
    found = [text.get_text() for text in figure.texts]
    for axes in figure.axes:
        found += [axes.get_title(loc="left"), axes.get_xlabel(), axes.get_ylabel(), *(t.get_text() for t in axes.texts)]
    return "\n".join(found)


def page(judgement: Judgement, folder, **more) -> str:
    paths = figures.save({"generation": figures.generation_panel(judgement)}, folder)
    given = {
        "data_card": {"name": "toy"},
        "config_yaml": "seed: 1\n",
        "command": "python train.py",
        "timing": {},
    } | more
    return html.render(judgement, paths, path=folder / "report.html", **given).read_text()


# Judgement


def test_shapes_that_disagree_are_refused(judgement):
    with pytest.raises(ValueError, match="true_shift"):
        dataclasses.replace(judgement, true_shift=judgement.true_shift[:, 1:])
    with pytest.raises(ValueError, match="true_query"):
        dataclasses.replace(judgement, cells=judgement.cells | {"true_query": np.zeros(1, int)})


def test_values_follow_the_queries_in_whatever_order_the_rows_come(judgement):
    shuffled = dataclasses.replace(judgement, per_query=judgement.per_query.sample(frac=1, random_state=0))
    expected = judgement.per_query.query("method == 'm, mode B'")["l2"]
    np.testing.assert_array_equal(shuffled.values("m, mode B", "l2"), expected)
    assert np.isnan(judgement.values("nobody", "l2")).all()


def test_best_baseline_is_the_one_of_best_median_among_those_that_answer_most(judgement):
    inside = judgement.per_query[judgement.per_query["group"] == PAIRS]
    medians = inside.groupby("method")["energy_distance"].median()
    able = [name for name in judgement.baselines if name != "own training mean"]  # no answer for unseen pairs
    assert judgement.best_baseline(PAIRS, "energy_distance") == medians[able].idxmin()
    assert judgement.best_baseline(PAIRS, "shift_correlation") == "additive"

    # One perfect score for one perturbation does not make a baseline the best of three.
    lucky = judgement.per_query.copy()
    lucky.loc[lucky.query("method == 'own training mean' and condition == 'A+B'").index, "shift_correlation"] = 1.0
    assert dataclasses.replace(judgement, per_query=lucky).best_baseline(PAIRS, "shift_correlation") == "additive"


def test_distance_from_best_knows_the_direction():
    assert distance_from_best(0.9, "shift_correlation") < distance_from_best(0.1, "shift_correlation")
    assert distance_from_best(0.1, "l2") < distance_from_best(0.9, "l2")
    assert distance_from_best(0.5, "variance_ratio") == pytest.approx(distance_from_best(2.0, "variance_ratio"))
    assert distance_from_best(1.0, "variance_ratio") == 0
    assert np.isposinf(distance_from_best(np.nan, "l2")) and np.isposinf(distance_from_best(0.0, "variance_ratio"))


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0.944, "0.94"),
        (0.0344, "0.034"),
        (1.3e-5, "1.3e-05"),
        (342.4, "342"),
        (-0.0, "0.00"),
        (np.nan, "-"),
        (-0.2, "-0.20"),
    ],
)
def test_numbers_in_words(value, words):
    assert number(value) == words


# Figures


def test_generation_panel_shows_the_median_query_with_the_numbers_of_the_scoreboard(judgement):
    r = judgement.values("m, mode A", "shift_correlation")[:3]
    query, size = median_query(judgement, "m, mode A", PAIRS)
    assert size == 3 and r[query] == np.median(r)

    figure = figures.generation_panel(judgement)
    left, middle, right = figure.axes
    assert f"r = {number(r[query])}" in left.get_title(loc="left")
    assert judgement.name(query) in texts(figure)
    (genes,) = left.collections
    np.testing.assert_allclose(genes.get_offsets()[:, 0], judgement.true_shift[query])
    np.testing.assert_allclose(genes.get_offsets()[:, 1], judgement.predicted_shift["m, mode A"][query])

    row = judgement.scoreboard.query("group == @PAIRS and method == 'm, mode A'").iloc[0]
    assert number(row["jaccard_50"]) in middle.get_title(loc="left")
    chance = middle.collections[-1].get_segments()
    np.testing.assert_allclose([s[0][1] for s in chance], [k / (2 * N_GENES - k) for k in (25, 50, 100)])

    assert number(judgement.values("m, mode A", "energy_distance")[query]) in right.get_title(loc="left")
    assert [len(kind.get_offsets()) for kind in right.collections] == [N_CELLS] * 3


def test_names_of_extreme_genes_stand_free(judgement):
    query, _ = median_query(judgement, "m, mode A", PAIRS)
    true = judgement.true_shift.copy()
    true[query, 7] = 9.0
    figure = figures.generation_panel(dataclasses.replace(judgement, true_shift=true))
    axes = figure.axes[0]
    names = [text for text in axes.texts if text.get_text()]
    assert names[0].get_text() == "G7" and len(names) > 3

    boxes = [text.get_window_extent() for text in names]
    assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))
    points = axes.transData.transform(axes.collections[0].get_offsets())
    assert not any(box.contains(*point) for box in boxes for point in points)
    frame = axes.get_window_extent()
    assert all(box.x0 >= frame.x0 and box.x1 <= frame.x1 for box in boxes)


def test_grid_holds_every_pair_and_says_what_it_left_out():
    letters = [chr(ord("E") + i) for i in range(14)]
    many = judge(dict.fromkeys(["A+B", "A+C", "B+C"], PAIRS) | dict.fromkeys(letters, "held-out perturbations"))
    figure = figures.shift_scatter_grid(many)
    titles = [axes.get_title(loc="left") for axes in figure.axes if axes.collections]
    assert len(titles) == 12 and {"A+B", "A+C", "B+C"} <= set(titles)
    assert "12 of 17" in texts(figure)
    r = many.values("m, mode A", "shift_correlation")
    assert f"from {number(r.min())} to {number(r.max())}" in texts(figure)
    best, worst = (many.name(int(i)) for i in (r.argmax(), r.argmin()))
    assert {best, worst} <= set(titles)


@pytest.mark.parametrize("metric", ["shift_correlation", "energy_distance", "variance_ratio"])
def test_model_against_baseline_counts_and_sorts(judgement, metric):
    own, ahead = judgement.values("m, mode A", metric), 0
    figure = figures.model_against_baseline(judgement, metric)
    for axes, group in zip(figure.axes, judgement.groups, strict=True):
        inside = np.flatnonzero(judgement.queries["group"] == group)
        rival = judgement.values(judgement.best_baseline(group, metric), metric)
        ahead += (distance_from_best(own[inside], metric) < distance_from_best(rival[inside], metric)).sum()
        shown = [label.get_text() for label in axes.get_yticklabels()]
        order = inside[np.argsort(distance_from_best(own[inside], metric))]
        assert shown == [judgement.name(query) for query in order]
        assert number(np.median(own[inside])) in axes.get_title(loc="left")
    assert f"on {ahead} of 7 perturbations" in texts(figure)
    labels = figure.axes[0].get_legend_handles_labels()[1]
    assert ("exact mean (expected)" in labels) == (metric == "shift_correlation")


def test_loss_curves_mark_the_best_step_and_leave_out_what_was_not_logged():
    figure = figures.loss_curves(HISTORY)
    assert "val/score is best, 0.81, at step 20" in texts(figure)
    assert [axes.get_ylabel() for axes in figure.axes if axes.get_ylabel()] == ["score", "loss"]
    lowest = figures.loss_curves(HISTORY.drop(columns="val/score"))
    assert "val/loss is best, 50.00, at step 40" in texts(lowest)
    assert "at step 40" in texts(figures.loss_curves(HISTORY, mode="min"))


@pytest.mark.parametrize("columns", [["step"], ["step", "val/energy_distance"], ["step", "train/loss"]])
def test_loss_curves_of_a_run_that_logged_little(columns, tmp_path):
    figures.save({"loss": figures.loss_curves(HISTORY[columns])}, tmp_path)
    infinite = HISTORY.assign(**{"val/loss": np.inf})
    figures.save({"loss": figures.loss_curves(infinite), "none": figures.loss_curves(HISTORY[:0])}, tmp_path)
    assert (tmp_path / "loss.png").stat().st_size > 1000


def test_saved_figures_have_150_dots_per_inch_and_are_emptied(judgement, tmp_path):
    figure = figures.model_against_baseline(judgement)
    size = figure.get_size_inches()
    paths = figures.save({"baseline": figure}, tmp_path / "figures")
    image = paths["baseline"].read_bytes()
    pixels = int.from_bytes(image[16:20], "big"), int.from_bytes(image[20:24], "big")
    np.testing.assert_allclose(pixels, size * 150, atol=1)
    assert not figure.axes


def test_axes_of_the_cells_are_the_principal_axes_of_the_real_ones(monkeypatch):
    rng = np.random.default_rng(0)
    control, true, predicted = (rng.normal(size=(n, K)) * range(1, K + 1) + n for n in (30, 20, 10))
    coordinates, names = embed(control, true, predicted, "pca", 0)
    real = PCA(2).fit(np.concatenate([control, true]))
    np.testing.assert_allclose(np.abs(coordinates[2]), np.abs(real.transform(predicted)), atol=1e-8)
    assert f"{real.explained_variance_ratio_[0]:.0%}" in names[0]

    class Umap:
        def __init__(self, random_state, **_):
            self.seed = random_state

        def fit_transform(self, cells):
            return np.full((len(cells), 2), self.seed)

    monkeypatch.setitem(sys.modules, "umap", types.SimpleNamespace(UMAP=Umap))
    coordinates, _ = embed(control, true, predicted, "umap", 3)
    assert [len(kind) for kind in coordinates] == [30, 20, 10] and (coordinates[0] == 3).all()


def test_drawing_needs_neither_a_window_nor_a_training_library():
    code = (
        "import sys; from stormcell.report import figures, html, tables;"
        "print({'torch', 'pytorch_lightning', 'hydra', 'umap', 'matplotlib.pyplot'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


# Tables


def test_csv_round_trip_loses_nothing(judgement, tmp_path):
    board, perturbations, *more = tables.write(judgement, tmp_path)
    assert board == tmp_path / "scoreboard.csv" and perturbations == tmp_path / "tables" / "perturbations.csv"
    names = {"rescaled": judgement.rescaled, "methods": judgement.per_method, "interactions": judgement.interactions}
    assert {path.stem: len(pd.read_csv(path)) for path in more} == {
        **{name: len(table) for name, table in names.items()},
        "calibration": len(LEVELS),
    }
    # What a judgement does not hold leaves no file.
    none = dataclasses.replace(judgement, **dict.fromkeys(tables.MORE, pd.DataFrame()))
    assert len(tables.write(none, tmp_path / "none")) == 2
    assert sorted(path.name for path in (tmp_path / "none" / "tables").iterdir()) == ["perturbations.csv"]
    pd.testing.assert_frame_equal(
        pd.read_csv(board, float_precision="round_trip"), judgement.scoreboard, check_exact=True, check_dtype=False
    )
    read = pd.read_csv(perturbations, float_precision="round_trip")
    columns = list(judgement.per_query)
    pd.testing.assert_frame_equal(read[columns], judgement.per_query, check_exact=True, check_dtype=False)
    half = judgement.reliability.set_index("condition")["split_half_r"]
    assert (read["split_half_r"].to_numpy() == half[read["condition"]].to_numpy()).all()


def printed(judgement: Judgement, width: int, **more) -> str:
    console = Console(file=io.StringIO(), width=width, **more)
    tables.print_scoreboard(judgement, console)
    return console.file.getvalue()


def test_terminal_table_fits_and_marks_the_best(judgement):
    wide = printed(judgement, 120).splitlines()
    assert max(map(len, wide)) <= 120
    assert all(any(line.startswith(group) for line in wide) for group in judgement.groups)
    start = wide.index(next(line for line in wide if line.startswith(PAIRS)))
    end = wide.index(next(line for line in wide if line.startswith(KNOWN)))
    pairs = {line[:28].strip(): line for line in wide[start + 1 : end]}
    rows = judgement.scoreboard.query("group == @PAIRS").set_index("method")
    competing = rows.loc[[*judgement.methods, *judgement.baselines], "shift_correlation"]
    assert f"{competing.max():.2f}*" in pairs[competing.idxmax()]
    assert "*" not in pairs["split-half of the real cells"]
    row = rows.loc["m, mode A"]
    assert f"{row['shift_correlation_low']:.2f}..{row['shift_correlation_high']:.2f}" in pairs["m, mode A"]

    energy = rows.loc["m, mode A", ["energy_distance_low", "energy_distance_high"]]
    assert "..".join(f"{end:.3f}" for end in energy) in pairs["m, mode A"]

    narrow = printed(judgement, 80).splitlines()
    assert max(map(len, narrow)) <= 80 and ".." not in "".join(narrow[:30])
    head = [" ".join(lines[: lines.index(start)]) for lines, start in ((wide, wide[start]), (narrow, narrow[9]))]
    assert "flattering" in head[0] and "flattering" not in head[1]
    assert all("Jaccard" not in words and "discrim." in words for words in head)


def test_terminal_table_has_no_row_for_a_baseline_without_an_answer(judgement):
    board = judgement.scoreboard
    silent = board[(board["group"] == PAIRS) & (board["n"] == 0)]["method"].tolist()
    assert "own training mean" in silent and (board["method"] == "own training mean").sum() == 2
    lines = printed(judgement, 120).splitlines()
    assert sum(line.startswith("own training mean") for line in lines) == 1  # that of the other group

    mute = judge({"A+B": PAIRS}, silent=True)
    assert sum(line.startswith("m, mode") for line in printed(mute, 120).splitlines()) == 2


def test_terminal_table_fits_where_numbers_are_large_and_negative(judgement):
    large = judgement.scoreboard.copy()
    numbers = large.columns.drop(["group", "method", "n"])
    large[numbers] = -0.99
    large[[name for name in numbers if name.startswith("energy")]] = 123.456
    lines = printed(dataclasses.replace(judgement, scoreboard=large), 120).splitlines()
    assert max(map(len, lines)) <= 120 and any("123.456" in line and "123.456..123.456" in line for line in lines)
    assert not any("…" in line for line in lines)


def test_terminal_table_is_bold_for_the_model_only(judgement):
    colours = printed(judgement, 120, force_terminal=True, color_system="standard")
    bold = [line for line in colours.splitlines() if line.startswith("\x1b[1m")]
    assert bold and all("m, mode" in line for line in bold)


def test_square_brackets_are_no_markup(judgement):
    odd = dataclasses.replace(judgement, verdict=("a [bold]gene[/bold]",))
    assert "[bold]gene[/bold]" in printed(odd, 120)


# Page

EVIL = "<script>alert(1)</script>"


def test_page_escapes_every_name(tmp_path):
    genes = [EVIL, *(f"G{i}" for i in range(N_GENES - 1))]
    evil = judge({EVIL: EVIL + " group", "A": KNOWN}, genes)
    evil = dataclasses.replace(evil, notes=(EVIL,), model=EVIL)
    card = {EVIL: {"genes": [EVIL], "list": [{"a": EVIL}], "text": EVIL}}
    text = page(evil, tmp_path, data_card=card, config_yaml=EVIL, command=EVIL, timing={EVIL: EVIL})
    assert "<script" not in text
    assert text.count("&lt;script&gt;alert(1)&lt;/script&gt;") >= 10


def test_page_needs_nothing_but_itself(judgement, tmp_path):
    text = page(judgement, tmp_path, evaluate_command="python evaluate.py ckpt=best.ckpt")
    targets = re.findall(r"""(?:src|href)\s*=\s*["']?([^"'\s>]+)""", text)
    assert targets and all(target.startswith(("data:image/png;base64,", "#")) for target in targets)
    assert not re.search(r"https?://|@import|url\(|<script|<link|<iframe", text)
    assert base64.b64encode((tmp_path / "generation.png").read_bytes()).decode() in text
    anchors = {target[1:] for target in targets if target.startswith("#")}
    assert anchors == set(re.findall(r'id="(\w+)"', text))


def test_page_says_what_the_run_says(judgement, tmp_path):
    card = {"cells": 3375, "split": {"sha256": "ab12", "share": 0.25}, "notes": ["12 cells dropped"], "layer": None}
    text = page(judgement, tmp_path, data_card=card, timing={"fit_s": 41.2}, evaluate_command="python evaluate.py")
    for sentence in judgement.verdict:
        assert sentence.partition(": ")[2].replace(">", "&gt;") in text
    flat = re.sub(r"\s*(<[^>]+>)\s*", r"\1", text)
    for key, value in {"cells": "3,375", "sha256": "ab12", "share": "0.25", "layer": "none", "fit s": "41.20"}.items():
        assert f'<th scope="row">{key}</th><td>{value}</td>' in flat
    assert "12 cells dropped" in text and "<pre>seed: 1" in flat
    assert "python train.py" in text and "python evaluate.py" in text
    row = judgement.scoreboard.query("group == @PAIRS and method == 'm, mode B'").iloc[0]
    assert number(row["energy_distance"]) in text
    glossary = flat.partition('id="metrics"')[2]
    listed = [metric for name, metric in METRICS.items() if name in judgement.scoreboard]
    assert len(listed) > 30 and all(escape(metric.meaning) in glossary for metric in listed)
    assert flat.partition("<details>")[0].count("<tr class=") == 0  # the first fold is that of the reasons
    open_board = flat.partition('id="scoreboard"')[2].partition("<details>")[0]
    assert open_board.count("<tr class=") == len(judgement.scoreboard)
    heads = [METRICS[name].label for name in boards.CORE]
    assert re.findall(r'<th scope="col"[^>]*>([^<]+)<small>', open_board)[: len(heads)] == heads
    assert "flattering" in text and "No control cells were kept aside" not in text


def folds(text: str) -> dict[str, str]:
    """Summary of each folded part -> what is in it, without spaces between the tags."""
    flat = re.sub(r"\s*(<[^>]+>)\s*", r"\1", text)
    return dict(re.findall(r"<details><summary>(.*?)</summary>(.*?)</details>", flat, re.DOTALL))


def test_every_metric_has_its_panel_on_the_page(judgement, tmp_path):
    parts = folds(page(judgement, tmp_path))
    panels = {title.removeprefix("All metrics: "): part for title, part in parts.items() if "All metrics" in title}
    shown = {name: metric for name, metric in METRICS.items() if name in judgement.scoreboard}
    assert set(panels) == {metric.panel for metric in shown.values()}
    for title, part in panels.items():
        names = [name for name, metric in shown.items() if metric.panel == title]
        table = judgement.scoreboard.query("group == @PAIRS").set_index("method")[names]
        assert [f">{METRICS[name].label}<small>" in part for name in names] == [True] * len(names)
        row = next(line for line in part.split("<tr ") if ">m, mode A</th>" in line)
        assert re.findall(r"<span[^>]*>([^<]+)</span>", row) == [number(value) for value in table.loc["m, mode A"]]
        pairs = part.partition(PAIRS)[2].partition(KNOWN)[0]
        assert ("own training mean" in pairs) == table.loc["own training mean"].notna().any()


def test_rescaled_values_and_interactions_stand_on_the_page(judgement, tmp_path):
    parts = folds(page(judgement, tmp_path))
    part = next(part for title, part in parts.items() if title.startswith("Rescaled: 0 = "))
    row = next(line for line in part.split("<tr ") if ">m, mode A</th>" in line)
    names = [name for name in METRICS if name in judgement.rescaled and judgement.rescaled[name].notna().any()]
    values = judgement.rescaled.query("group == @PAIRS and method == 'm, mode A'")[names].iloc[0]
    shown = [np.nan if value == "-" else float(value) for value in re.findall(r"<span>([^<]+)<", row)]
    np.testing.assert_allclose(shown, values, atol=0.0051)
    assert "split-half" not in part

    part = next(part for title, part in parts.items() if title.startswith("Genetic interactions"))
    table = judgement.interactions.query("method == 'm, mode B' and condition == 'A+C'").iloc[0]
    row = next(line for line in part.split("<tr>") if ">A+C<" in line and "m, mode B" in line)
    assert f"<td>{number(table['magnitude_true'])}</td><td>{number(table['magnitude_predicted'])}</td>" in row
    assert "additive" not in part.partition("<tbody>")[2]

    bare = dataclasses.replace(judgement, **dict.fromkeys(tables.MORE, pd.DataFrame()))
    assert not [title for title in folds(page(bare, tmp_path)) if title.startswith(("Rescaled", "Genetic"))]


def test_every_figure_has_a_caption_of_its_own():
    names = ["generation", "forest", "shift_heatmap", "shifts", "model_against_baseline", "ranks", "calibration"]
    assert sorted([*names, "loss"]) == sorted(html.CAPTIONS)
    starts = {name: next(start for start in html.CAPTIONS if name.startswith(start)) for name in names}
    assert all(name == start for name, start in starts.items())


# Gaps


def everything(judgement: Judgement, folder) -> str:
    """All figures, tables and the page of a judgement; returns what was written on the figures."""
    drawn = {
        "generation": figures.generation_panel(judgement),
        "shifts": figures.shift_scatter_grid(judgement),
        "model_against_baseline": figures.model_against_baseline(judgement),
        "model_against_baseline_mse": figures.model_against_baseline(judgement, "mse"),
        "forest": forest(judgement),
        "shift_heatmap": shift_heatmap(judgement),
        "ranks": rank_histogram(judgement),
        "calibration": calibration(judgement),
    }
    drawn = {name: figure for name, figure in drawn.items() if figure is not None}
    words = "\n".join(map(texts, drawn.values()))
    figures.save(drawn, folder)
    tables.write(judgement, folder)
    printed(judgement, 120)
    page(judgement, folder)
    return words


def test_a_model_without_an_answer(tmp_path):
    words = everything(judge({"A+B": PAIRS, "A": KNOWN}, silent=True), tmp_path)
    assert "no prediction" in words and "r = -" in words and "0 of 0" in words


def test_one_query(tmp_path):
    words = everything(judge({"A": KNOWN}), tmp_path)
    assert "the only perturbation" in words and "of 1 perturbations" in words


def test_one_group_with_few_genes_and_signs_that_mean_something_elsewhere(tmp_path):
    genes = ["$x", "y$", "a_b^", "$\\frac", "[red]", *"pqrstuvwxyz"]
    words = everything(judge({"$\\frac$": PAIRS, "A+$\\sqrt$": PAIRS}, genes), tmp_path)
    assert "No top genes" in words


def test_shared_controls_are_called_flattering_everywhere(tmp_path):
    shared = judge({"A+B": PAIRS, "A": KNOWN}, shared=True)
    drawings = figures.generation_panel, figures.shift_scatter_grid, figures.model_against_baseline
    for figure in (*drawings, forest, shift_heatmap):
        assert "flattering" in texts(figure(shared))
    assert "flattering" in printed(shared, 120)
    assert "No control cells were kept aside" in page(shared, tmp_path)
