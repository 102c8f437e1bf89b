"""The figures of many perturbations at once: titles say the numbers that are drawn, and gaps do not break them."""

from __future__ import annotations

import dataclasses
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from matplotlib.patches import StepPatch
from scipy.stats import rankdata

from stormcell.evaluation.metrics import METRICS, distance_from_best
from stormcell.evaluation.profiles import pearson
from stormcell.report.choice import by_group, evenly
from stormcell.report.forest import COLUMNS, forest
from stormcell.report.heatmap import clustered, explained, percent, shift_heatmap
from stormcell.report.judgement import Judgement, middle, number
from stormcell.report.panels import calibration, rank_histogram

PAIRS, KNOWN = "pairs, both singles seen", "held-out cells"
MODEL, ADDITIVE, MEAN = "m, mode A", "additive", "training mean"
LEVELS = np.arange(1, 10) / 10
SPLIT_HALF, EXACT = "split-half of the real cells", "exact mean (expected)"


def made_up(groups: dict[str, int], n_genes: int = 120, more: tuple[str, ...] = (), silent: tuple[str, ...] = ()):
    """A judgement of planted shifts: group -> number of queries. `more`: further baselines; `silent`: no answers.

    The model has the true shift and noise, additive twice the noise, the training mean the mean of the true shifts.
    """
    rng = np.random.default_rng(0)
    queries = [(f"A{i}+B{i}", "all", group, 30) for group, n in groups.items() for i in range(n)]
    queries = pd.DataFrame(queries, columns=["condition", "context", "group", "n_cells"])
    shape = len(queries), n_genes
    size = rng.gamma(1, 0.3, n_genes)
    true = (rng.normal(0, 1, shape) + rng.normal(0, 1, n_genes)) * size
    wrong = {MODEL: 0.5, "m, mode B": 0.6, ADDITIVE: 1.0} | {name: 0.7 + 0.2 * i for i, name in enumerate(more)}
    shifts = {name: true + rng.normal(0, s, shape) * size for name, s in wrong.items()}
    shifts[MEAN] = np.tile(true.mean(0), (len(queries), 1))
    for name in silent:
        shifts[name] = np.full(shape, np.nan)
    per_query = pd.concat([scored(queries, true, name, shift) for name, shift in shifts.items()], ignore_index=True)
    reliability = queries.assign(split_half_r=0.8, expected_exact=0.94, expected_exact_shared=0.97)
    methods = (MODEL, "m, mode B")
    return Judgement(
        model="m",
        methods=methods,
        baselines=tuple(name for name in shifts if name not in methods),
        verdict=(),
        notes=(),
        undefined=(),
        scoreboard=board(per_query),
        per_query=per_query,
        reliability=reliability,
        queries=queries,
        genes=tuple(f"GENE{i}" for i in range(n_genes)),
        true_shift=true,
        predicted_shift=shifts,
        cells={side: np.zeros((0, 2)) for side in ("true", "predicted", "control", "true_query", "predicted_query")},
        shared=False,
        calibration=pd.DataFrame(
            [(name, level, level**power) for name, power in ((MODEL, 2.0), (ADDITIVE, 1.0)) for level in LEVELS],
            columns=["method", "level", "coverage"],
        ),
    )


def scored(queries: pd.DataFrame, true: np.ndarray, name: str, shift: np.ndarray) -> pd.DataFrame:
    """The real correlation, distance and rank of the truth; every other metric follows the distance."""
    table = queries.assign(method=name, **dict.fromkeys(METRICS, np.nan))
    error = np.sqrt(np.square(shift - true).mean(1))
    for metric, about in METRICS.items():
        table[metric] = -error if about.direction == "higher" else error
    table["shift_correlation"] = [pearson(a, b) for a, b in zip(shift, true, strict=True)]
    distance = np.linalg.norm(shift[:, None] - true[None], axis=2)
    for _, rows in table.groupby("group").indices.items():
        inside = distance[np.ix_(rows, rows)]
        nearer = (inside < np.diag(inside)[:, None]).sum(1) / max(len(rows) - 1, 1)
        rank = np.where(np.isfinite(np.diag(inside)) & (len(rows) > 1), nearer, np.nan)
        table.loc[table.index[rows], "rank_of_truth"] = rank
        table.loc[table.index[rows], "pds"] = 1 - rank
    return table


def board(per_query: pd.DataFrame) -> pd.DataFrame:
    """Medians with made-up intervals, and the two rows of what the cells allow."""
    rows = []
    for group in per_query["group"].unique():
        inside = per_query[per_query["group"] == group]
        for method in inside["method"].unique():
            values = inside[inside["method"] == method]
            row = {"group": group, "method": method, "n": int(values["l2"].notna().sum())}
            for metric in METRICS:
                at = middle(values[metric].to_numpy())
                row |= {metric: at, f"{metric}_low": at - 0.1, f"{metric}_high": at + 0.1}
            rows.append(row)
        for ceiling, r in (SPLIT_HALF, 0.8), (EXACT, 0.94):
            row = {"group": group, "method": ceiling, "n": len(values)} | dict.fromkeys(METRICS, np.nan)
            ends = {"shift_correlation": r, "shift_correlation_low": r - 0.05, "shift_correlation_high": r + 0.03}
            rows.append(row | ends | ({"energy_distance": 0.02} if ceiling == SPLIT_HALF else {}))
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def judgement() -> Judgement:
    return made_up({PAIRS: 5, KNOWN: 12}, more=("k-NN on embedding",))


def texts(figure) -> str:
    """Everything written on a figure."""
    found = [text.get_text() for text in figure.texts]
    for axes in figure.axes:
        found += [axes.get_title(loc="left"), axes.get_xlabel(), axes.get_ylabel(), *(t.get_text() for t in axes.texts)]
    return "\n".join(found).replace("\u00a0", " ")


def one_line(figure) -> str:
    return " ".join(texts(figure).split())


# ---- which perturbations are shown


@pytest.mark.parametrize(("sizes", "most"), [((1, 100), 40), ((30, 30, 30), 40), ((5, 3), 40), ((2,) * 50, 40)])
def test_places_are_shared_out_by_size_and_no_group_is_forgotten(sizes, most):
    many = made_up({f"group {i}": n for i, n in enumerate(sizes)}, n_genes=8)
    rows = by_group(many, "shift_correlation", most)
    shown = [len(rows.get(group, [])) for group in many.groups]
    assert sum(shown) == min(most, sum(sizes))
    assert sum(n > 0 for n in shown) == min(most, len(sizes))
    if len(sizes) < most < sum(sizes):
        share = most * np.array(sizes) / sum(sizes)
        assert (np.abs(shown - share) <= 1).all()
    r = many.values(MODEL, "shift_correlation")
    groups = many.queries["group"].to_numpy()
    for group, chosen in rows.items():
        assert (groups[chosen] == group).all() and (np.diff(r[chosen]) <= 0).all()
        assert r[chosen[0]] == r[groups == group].max()
        assert len(chosen) == 1 or r[chosen[-1]] == r[groups == group].min()


def test_evenly_keeps_both_ends_and_never_repeats():
    assert evenly(np.arange(100), 5) == [0, 25, 50, 74, 99]
    assert evenly(np.arange(3), 5) == [0, 1, 2] and evenly(np.arange(0), 5) == []


# ---- heat map


def test_genes_are_the_largest_and_like_ones_stand_together():
    rng = np.random.default_rng(1)
    patterns = rng.normal(size=(3, 20))
    member = rng.permutation(np.repeat([0, 1, 2], 8))
    shifts = patterns[member].T * 3 + rng.normal(0, 0.1, (20, 24))
    shifts = np.column_stack([shifts, rng.normal(0, 0.01, (20, 50)), np.full(20, np.nan)])
    order = clustered(shifts, 24)
    assert sorted(order) == list(range(24))  # neither the small ones nor the undefined one
    assert sum(a != b for a, b in pairwise(member[order])) == 2  # three blocks
    assert list(clustered(shifts[:, :2], 24)) == [0, 1] and len(clustered(np.full((2, 4), np.nan), 3)) == 0


def test_explained_is_that_of_the_closed_form():
    true = np.random.default_rng(2).normal(size=(6, 9))
    for scale in (-1, 0, 0.5, 1):
        assert explained(true, scale * true) == pytest.approx(1 - (1 - scale) ** 2)
    half = true.copy()
    half[3:] = np.nan
    assert explained(true, half) == pytest.approx(1)  # a query without an answer does not count
    assert np.isnan(explained(true, np.full_like(true, np.nan))) and np.isnan(explained(0 * true, true))
    assert [percent(share).replace("\u00a0", " ") for share in (0.844, -0.001, np.nan)] == ["84 %", "0 %", "-"]


def test_heat_map_draws_the_shifts_that_it_names(judgement):
    figure = shift_heatmap(judgement)
    panels = np.array(figure.axes[:6]).reshape(2, 3)
    genes = clustered(judgement.true_shift, 60)
    rows = by_group(judgement, "shift_correlation", 40)
    chosen = np.concatenate(list(rows.values()))
    for line, (group, inside) in zip(panels, rows.items(), strict=True):
        rival = judgement.best_baseline(group, "shift_correlation")
        shown = [judgement.true_shift, judgement.predicted_shift[MODEL], judgement.predicted_shift[rival]]
        for axes, shift in zip(line, shown, strict=True):
            np.testing.assert_array_equal(axes.images[0].get_array(), shift[np.ix_(inside, genes)])
        assert [axes.get_title(loc="left") for axes in line] == [group, MODEL, rival]
        assert [label.get_text() for label in line[0].get_yticklabels()] == [judgement.name(q) for q in inside]
        assert len({axes.images[0].get_clim() for axes in panels.ravel()}) == 1
        low, high = line[0].images[0].get_clim()
        assert low == -high  # white is no shift
    true, own = (shift[np.ix_(chosen, genes)] for shift in (judgement.true_shift, judgement.predicted_shift[MODEL]))
    share = 1 - np.square(true - own).sum() / np.square(true).sum()
    r = np.median(judgement.values(MODEL, "shift_correlation"))
    assert f"median r = {number(r)}, explains {share:.0%}".replace("%", " %") in one_line(figure)
    assert "The 60 of 120 genes" in one_line(figure)


def test_heat_map_knows_only_baselines_whose_shifts_are_here(judgement):
    few = {name: judgement.predicted_shift[name] for name in (MODEL, MEAN)}
    figure = shift_heatmap(dataclasses.replace(judgement, predicted_shift=few))
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert MEAN in titles and ADDITIVE not in titles
    alone = shift_heatmap(dataclasses.replace(judgement, predicted_shift={MODEL: few[MODEL]}))
    assert len(alone.axes) == 2 * 2 + 1 and "baseline" not in one_line(alone).partition("Explained")[0]


def test_gene_names_do_not_overlap(judgement):
    figure = shift_heatmap(judgement)
    figure.draw_without_rendering()
    boxes = [label.get_window_extent() for label in figure.axes[3].get_xticklabels()]
    assert len(boxes) > 15 and all(a.x1 <= b.x0 for a, b in pairwise(boxes))


# ---- ranks


def steps(axes) -> list[np.ndarray]:
    """Heights of the histograms in the order in which they were drawn: model, baseline, chance."""
    return [patch.get_data().values for patch in axes.patches if isinstance(patch, StepPatch)]


def test_rank_histogram_counts_every_prediction(judgement):
    figure = rank_histogram(judgement)
    ranks = judgement.values(MODEL, "rank_of_truth")
    for axes, group in zip(figure.axes, judgement.groups, strict=True):
        inside = (judgement.queries["group"] == group).to_numpy()
        size = inside.sum()
        heights, _, chance = steps(axes)
        bins = min(10, size)
        place = np.minimum((np.round(ranks[inside] * (size - 1)) * bins) // (size - 1), bins - 1).astype(int)
        np.testing.assert_array_equal(heights, np.bincount(place, minlength=bins))
        assert chance.sum() == pytest.approx(size)
    nearest = (ranks == 0).sum()
    assert f"{nearest} of 17 predictions are nearest to their own perturbation (2.0 by chance)" in one_line(figure)


@pytest.mark.parametrize("n", [2, 5, 10, 11, 40])
def test_chance_is_the_mean_over_all_ranks(n):
    """If every rank occurs once, the histogram is that of chance."""
    every = made_up({KNOWN: n}, n_genes=8)
    table = every.per_query.copy()
    table.loc[table["method"] == MODEL, "rank_of_truth"] = np.linspace(0, 1, n)
    figure = rank_histogram(dataclasses.replace(every, per_query=table))
    heights, _, chance = steps(figure.axes[0])
    np.testing.assert_allclose(chance, heights)
    assert "1 of" in one_line(figure) and "(1.0 by chance), median rank 0.50" in one_line(figure)


def test_contexts_are_ranked_apart():
    two = made_up({KNOWN: 8}, n_genes=8)
    queries = two.queries.assign(context=["x"] * 4 + ["y"] * 4)
    per_query = two.per_query.assign(context=np.tile(queries["context"], len(two.per_query) // 8))
    figure = rank_histogram(dataclasses.replace(two, queries=queries, per_query=per_query))
    assert "(2.0 by chance)" in one_line(figure)
    np.testing.assert_allclose(steps(figure.axes[0])[-1], [2, 2, 2, 2])


def test_nothing_to_rank_is_no_figure():
    assert rank_histogram(made_up({KNOWN: 1, PAIRS: 1})) is None
    assert rank_histogram(made_up({KNOWN: 4}, silent=(MODEL,))) is None
    assert len(rank_histogram(made_up({KNOWN: 1, PAIRS: 4})).axes) == 1


# ---- calibration


@pytest.mark.parametrize(("power", "word"), [(2, "too narrow"), (1, "right"), (0.25, "too wide")])
def test_calibration_says_whether_intervals_are_too_narrow(judgement, power, word):
    table = pd.DataFrame({"method": MODEL, "level": LEVELS, "coverage": LEVELS**power})
    figure = calibration(dataclasses.replace(judgement, calibration=table.sample(frac=1, random_state=0)))
    holds = f"{0.9**power:.0%}".replace("%", " %")
    assert f"{MODEL}: intervals are {word}, the 90 % interval holds {holds}" in one_line(figure)
    drawn = {line.get_label(): line.get_xydata() for line in figure.axes[0].lines}
    np.testing.assert_allclose(drawn[MODEL], np.column_stack([LEVELS, LEVELS**power]))


def test_calibration_is_compared_with_the_real_cells_where_these_are_known(judgement):
    board = judgement.scoreboard.copy()
    halves = board["method"] == SPLIT_HALF
    board.loc[halves, ["n", "coverage_50", "coverage_90"]] = [[5, 0.8, 0.9], [15, 0.6, 0.98]]
    table = pd.DataFrame({"method": MODEL, "level": LEVELS, "coverage": LEVELS})
    figure = calibration(dataclasses.replace(judgement, scoreboard=board, calibration=table))
    crosses = next(line for line in figure.axes[0].lines if line.get_label().startswith("real cells"))
    np.testing.assert_allclose(crosses.get_xydata(), [[0.5, 0.65], [0.9, 0.96]])
    told = "intervals are too narrow, the 90 % interval holds 90 % of the true values, 96 % for half the real cells"
    assert told in one_line(figure)
    unknown = calibration(dataclasses.replace(judgement, calibration=table))
    assert "half the real cells" not in one_line(unknown)
    assert not any(line.get_label().startswith("real cells") for line in unknown.axes[0].lines)


def test_calibration_without_intervals_is_no_figure(judgement):
    for table in (pd.DataFrame(), judgement.calibration.assign(coverage=np.nan)):
        assert calibration(dataclasses.replace(judgement, calibration=table)) is None


# ---- forest


def test_forest_orders_methods_and_says_the_place(judgement):
    figure = forest(judgement)
    panels = np.array(figure.axes).reshape(2, len(COLUMNS))
    for line, group in zip(panels, judgement.groups, strict=True):
        board = judgement.scoreboard[judgement.scoreboard["group"] == group]
        board = board.set_index("method").drop([SPLIT_HALF, EXACT])
        order = board["shift_correlation"].sort_values(ascending=False).index
        assert [label.get_text() for label in line[0].get_yticklabels()] == list(order)
        for axes, metric in zip(line, COLUMNS, strict=True):
            np.testing.assert_allclose(axes.collections[-1].get_offsets()[:, 0], board.loc[order, metric])
            lines = np.array(axes.collections[0].get_segments())[:, :, 0]
            np.testing.assert_allclose(lines, board.loc[order, [f"{metric}_low", f"{metric}_high"]])
            place = int(rankdata(distance_from_best(board[metric], metric), "min")[list(board.index).index(MODEL)])
            assert f"; model {place}" in "".join(text.get_text() for text in axes.texts)
        assert line[0].lines[-1].get_xdata() == [0.94, 0.94] and len(line[0].patches) == 1  # the exact mean, its band
        assert line[3].lines[-1].get_xdata() == [0.02, 0.02]  # no exact mean here: the halves
    assert f"{MODEL} by shift r: 1st of 5" in one_line(figure)


def test_equal_methods_share_a_place_in_the_forest(judgement):
    board = judgement.scoreboard.copy()
    board["shift_correlation"] = 0.5 + np.arange(len(board)) * 1e-9
    assert "by shift r: 1st of 5 (0.50)" in one_line(forest(dataclasses.replace(judgement, scoreboard=board)))
    board.loc[board["method"] != MODEL, "shift_correlation"] = 0.6
    assert "by shift r: 5th of 5 (0.50)" in one_line(forest(dataclasses.replace(judgement, scoreboard=board)))


def test_forest_of_seventeen_methods_can_be_read():
    names = tuple(f"baseline of a long name, number {i}" for i in range(13))
    figure = forest(made_up({PAIRS: 5}, more=names, silent=("training mean",)))
    figure.draw_without_rendering()
    labels = figure.axes[0].get_yticklabels()
    boxes = [label.get_window_extent() for label in labels]
    assert len(labels) == 16 and MEAN not in [label.get_text() for label in labels]
    assert all(a.y0 >= b.y1 for a, b in pairwise(boxes)) and min(box.x0 for box in boxes) >= 0
    ends = [axes.get_tightbbox().x1 for axes in figure.axes]
    starts = [axes.get_tightbbox().x0 for axes in figure.axes]
    assert all(end <= start for end, start in zip(ends[:-1], starts[1:], strict=True))


# ---- gaps


EVERYBODY = (MODEL, "m, mode B", ADDITIVE, MEAN)
GAPS = {
    "one query": ({KNOWN: 1}, {}),
    "no baseline has a value": ({PAIRS: 4}, {"silent": (ADDITIVE, MEAN)}),
    "nobody has a value": ({PAIRS: 3, KNOWN: 1}, {"silent": EVERYBODY}),
    "the model has no value": ({PAIRS: 3}, {"silent": (MODEL,)}),
    "200 queries": ({PAIRS: 200}, {"n_genes": 30}),
    "1 and 100": ({PAIRS: 1, KNOWN: 100}, {"n_genes": 70}),
    "two genes": ({PAIRS: 3}, {"n_genes": 2}),
}


@pytest.mark.parametrize("draw", [shift_heatmap, rank_histogram, calibration, forest])
@pytest.mark.parametrize("gap", GAPS)
def test_gaps_are_drawn_and_told(draw, gap):
    groups, more = GAPS[gap]
    figure = draw(made_up(groups, **more))
    if figure is None:
        assert draw is rank_histogram and gap in ("one query", "nobody has a value", "the model has no value")
        return
    figure.draw_without_rendering()
    width, height = figure.get_size_inches()
    assert 5 < width < 20 and 1.5 < height < 20
    words = one_line(figure)
    assert "nan" not in words and MODEL in words
    if draw is shift_heatmap:
        assert ("has no answer for the perturbations shown" in words) == (MODEL in more.get("silent", ()))
        assert ("40 of" in words) == (sum(groups.values()) > 40)


@pytest.mark.parametrize("draw", [shift_heatmap, rank_histogram, calibration, forest])
def test_names_with_signs_of_mathematics_stand_as_they_are(draw):
    odd = made_up({"group $\\frac_$": 4})
    rename = {MODEL: "m$_x^", ADDITIVE: "$\\sqrt$"}
    odd = dataclasses.replace(
        odd,
        methods=("m$_x^", "m, mode B"),
        baselines=("$\\sqrt$", MEAN),
        queries=odd.queries.assign(condition=[f"$A_{i}$+B_{i}^" for i in range(4)]),
        per_query=odd.per_query.replace({"method": rename}).assign(
            condition=[f"$A_{i}$+B_{i}^" for i in range(4)] * odd.per_query["method"].nunique()
        ),
        scoreboard=odd.scoreboard.replace({"method": rename}),
        calibration=odd.calibration.replace({"method": rename}),
        predicted_shift={rename.get(name, name): shift for name, shift in odd.predicted_shift.items()},
        genes=tuple(f"$g_{i}" for i in range(120)),
    )
    figure = draw(odd)
    figure.draw_without_rendering()
    assert "m$_x^" in one_line(figure)
