"""The scoreboard on planted worlds: what is asked, what stands in its columns, and what the cells allow."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from planted import BASELINES, GROUP, G, bars, world
from scipy.sparse import csr_matrix
from scipy.spatial.distance import cdist
from scipy.stats import spearmanr

from stormcell.analysis.pseudobulk import Pseudobulk
from stormcell.evaluation import differential, profiles, scoreboard
from stormcell.evaluation.ceiling import EXACT, SPLIT_HALF, ceilings, reliability
from stormcell.evaluation.collapse import pairwise_cosine, spread, systematic_variation
from stormcell.evaluation.heldout import HeldOut, Method, Query
from stormcell.evaluation.interactions import interaction_scores
from stormcell.evaluation.metrics import METRICS, distance_from_best
from stormcell.evaluation.profiles import mean_profile
from stormcell.evaluation.scoring import COLUMNS, score


def medians(scores, metric):
    return scores.per_query.groupby("method")[metric].median()


def row_of(scores, method, condition):
    rows = scores.per_query
    return rows[(rows["method"] == method) & (rows["condition"] == condition)].iloc[0]


@pytest.fixture(scope="module")
def planted():
    """A world with a strong additive truth, its oracle, and the oracle's answers given to the wrong pairs."""
    held_out, exact = world(effect=0.3)
    oracle = Method("oracle", lambda i: exact[i])
    shuffled = Method("shuffled", lambda i: exact[(i + 1) % len(exact)])
    return held_out, oracle, score(held_out, [oracle, shuffled, *bars(held_out)])


@pytest.fixture(scope="module")
def board(planted):
    found = reliability(planted[0], seed=0)
    return found, ceilings(planted[0], found, seed=0)


# ---- what is asked


def test_each_method_is_asked_once_per_query_in_order_and_keeps_copies(planted):
    held_out, oracle, _ = planted
    asked = []

    def predict(i):
        asked.append(i)
        return None if i == 2 else oracle.predict(i)

    scores = score(held_out, [Method("m", predict), oracle], keep=["m"], kept_cells=7)
    assert asked == list(range(8))
    assert list(scores.kept) == ["m"]
    assert scores.kept["m"][2] is None
    _, cells = scores.kept["m"][3]
    np.testing.assert_array_equal(cells, oracle.predict(3)[1][:7])
    assert not np.shares_memory(cells, oracle.predict(3)[1])
    about = ["method", "condition", "context", "group", "n_cells", "answered", "pair"]
    assert list(scores.per_query.columns) == COLUMNS == [*about, *METRICS]
    assert len(scores.per_query) == 16
    assert (scores.per_query["n_cells"] == 60).all()
    assert scores.per_query.loc[~scores.per_query["answered"], list(METRICS)].isna().all(axis=None)


def test_callers_mistakes_are_refused(planted):
    held_out, oracle, _ = planted
    with pytest.raises(ValueError, match="names of their own"):
        score(held_out, [oracle, oracle])
    with pytest.raises(ValueError, match="to keep"):
        score(held_out, [oracle], keep=["orcale"])
    with pytest.raises(ValueError, match="300 genes"):
        score(held_out, [Method("short", lambda i: (np.ones(3), np.ones((2, 3))))])


# ---- what stands in the columns


def test_columns_are_those_of_direct_computation(planted):
    held_out, oracle, scores = planted
    query, (mean, cells) = held_out.queries[1], oracle.predict(1)
    truth, seen, unseen = query.cells.toarray(), held_out.controls["all"], held_out.truth_controls["all"]
    row = row_of(scores, "oracle", query.condition)
    control, apart = seen.toarray().mean(0), unseen.toarray().mean(0)
    m = held_out.train.mean_shift
    rest = ~profiles.dominating_genes(np.array(list(held_out.train.by_condition.values())))
    sides = {"": (apart, control), "_shared": (control, control), "_mean": (apart + m, control + m)}
    for suffix, (true_side, own_side) in sides.items():
        x, y = truth.mean(0) - true_side, mean - own_side
        assert row[f"shift_correlation{suffix}"] == pytest.approx(np.corrcoef(x, y)[0, 1], abs=1e-5)
        assert row[f"shift_correlation{suffix}_rest"] == pytest.approx(np.corrcoef(x[rest], y[rest])[0, 1], abs=1e-5)
    assert row["l2"] == pytest.approx(np.linalg.norm(mean - truth.mean(0)), abs=1e-4)
    a, b = ((x - held_out.pca_mean) @ held_out.pca_components for x in (cells, truth))
    within = [cdist(x, x).sum() / len(x) / (len(x) - 1) for x in (a, b)]
    assert row["energy_distance"] == pytest.approx(2 * cdist(a, b).mean() - sum(within), abs=1e-4)
    tested = differential.rank_sum(truth, unseen), differential.rank_sum(cells, seen)
    for name in "de_overlap", "de_recall", "de_direction", "de_spearman", "de_pr_auc":
        assert row[name] == pytest.approx(getattr(differential, name)(*tested), abs=1e-6)
    assert row["de_precision_50"] == pytest.approx(differential.de_precision(*tested, k=50), abs=1e-6)


def test_weights_come_from_the_other_training_perturbations(planted):
    """Also where the same perturbation was seen in training: its own cells do not weigh."""
    held_out, oracle, _ = planted
    first, rest = held_out.queries[0], {name: cells.toarray() for name, cells in held_out.train_cells.items()}
    others = np.concatenate(list(rest.values()))
    weights = profiles.effect_weights(first.cells, others.mean(0), others.var(0, ddof=1), len(others))
    truth, (mean, _) = first.cells.toarray().mean(0), oracle.predict(0)
    seen = replace(held_out, train_cells={**held_out.train_cells, first.condition: first.cells})
    reference = held_out.controls["all"].toarray().mean(0) + held_out.train.mean_shift
    for where in held_out, seen:
        row = score(replace(where, queries=(first,)), [oracle]).per_query.iloc[0]
        assert row["weighted_mse"] == pytest.approx(weights @ (mean - truth) ** 2, rel=1e-3)
        r2 = 1 - weights @ (mean - truth) ** 2 / (weights @ (reference - truth) ** 2)
        assert row["weighted_r2"] == pytest.approx(r2, abs=1e-3)


def test_ranks_stay_within_group_and_context(planted):
    """Two groups of four: whoever is mixed up with a query of the other group has lost nothing."""
    held_out, oracle, _ = planted
    groups = [replace(query, group="easy" if i < 4 else "hard") for i, query in enumerate(held_out.queries)]
    within = Method("within", lambda i: oracle.predict(i - i % 4 + (i + 1) % 4))
    table = score(replace(held_out, queries=tuple(groups)), [oracle, within]).per_query
    assert (table.loc[table["method"] == "oracle", ["rank", "rank_of_truth"]] == 0).all(axis=None)
    assert (table.loc[table["method"] == "within", ["rank", "rank_of_truth"]] >= 1 / 3 - 1e-9).all(axis=None)
    alone = [replace(query, context=f"c{i}") for i, query in enumerate(held_out.queries)]
    controls = {f"c{i}": held_out.controls["all"] for i in range(8)}
    apart = replace(held_out, queries=tuple(alone), controls=controls, truth_controls=controls)
    ranks = ["rank", "rank_of_truth", "pds", "pds_cosine", "centroid_accuracy"]
    assert score(apart, [oracle]).per_query[ranks].isna().all(axis=None)


def test_contexts_use_their_own_controls_and_mean(planted):
    held_out, *_ = planted
    query = held_out.queries[0]

    def moved(cells):
        return csr_matrix(cells.toarray() + 5)

    other = Query(query.condition, "there", GROUP, moved(query.cells))
    here = Query(query.condition, "here", GROUP, query.cells)
    base, train = mean_profile(held_out.controls["all"]), held_out.train
    half = len(train.conditions) // 2
    contexts = ("here",) * half + ("there",) * (len(train.conditions) - half)
    means = train.means + 5 * (np.array(contexts) == "there")[:, None]
    both = replace(
        held_out,
        queries=(here, other),
        controls={"here": held_out.controls["all"], "there": moved(held_out.controls["all"])},
        truth_controls={"here": held_out.truth_controls["all"], "there": moved(held_out.truth_controls["all"])},
        train=Pseudobulk(train.conditions, contexts, means, train.n_cells, {"here": base, "there": base + 5}),
    )
    table = score(both, bars(both, ["additive"])).per_query
    for metric in "shift_correlation", "shift_correlation_shared", "shift_correlation_mean", "mse":
        assert table[metric][0] == pytest.approx(table[metric][1], rel=1e-4)
    true = query.cells.toarray().mean(0) - held_out.truth_controls["all"].toarray().mean(0)
    additive = sum(held_out.train.by_condition[target] for target in query.condition.split("+"))
    for row, inside in enumerate((train.shifts[:half], train.shifts[half:])):
        m = inside.mean(0)
        expected = np.corrcoef(true - m, additive - m)[0, 1]
        assert table["shift_correlation_covariate"][row] == pytest.approx(expected, abs=1e-5)
    # Where the split knows no contexts, nobody is asked.
    assert score(held_out, bars(held_out)).per_query["shift_correlation_covariate"].isna().all()


def test_interactions_are_asked_of_pairs_whose_targets_were_seen_alone(planted):
    held_out, oracle, scores = planted
    query = held_out.queries[0]
    shift = oracle.predict(0)[0] - mean_profile(held_out.controls["all"])
    singles = [held_out.train.by_condition[target] for target in query.condition.split("+")]
    order = np.argsort(-np.square(singles).sum(0), kind="stable")[:100]
    expected = interaction_scores(*(side[order] for side in (shift, *singles)))
    row = scores.interactions.query("method == 'oracle' and condition == @query.condition").iloc[0]
    for name, value in expected.items():
        assert row[f"{name}_predicted"] == pytest.approx(value, rel=1e-3)
    error = abs(row["magnitude_predicted"] - row["magnitude_true"])
    assert row_of(scores, "oracle", query.condition)["interaction_magnitude_error"] == pytest.approx(error)
    assert scores.per_query["pair"].all()
    assert len(scores.interactions) == scores.per_query["answered"].sum()
    names = ["T00", "T00+T01+T02", "T00+unseen"]
    others = replace(held_out, queries=tuple(replace(query, condition=name) for name in names))
    silent = score(others, [oracle])
    assert not silent.per_query["pair"].any()
    assert silent.per_query[["interaction_correlation", "interaction_magnitude_error"]].isna().all(axis=None)
    assert silent.interactions.empty


def test_a_method_with_one_cell_or_none_has_no_distribution(planted):
    held_out, oracle, _ = planted
    for n in 0, 1:
        few = Method("few", lambda i, n=n: (oracle.predict(i)[0], oracle.predict(i)[1][:n]))
        row = score(held_out, [few]).per_query.iloc[0]
        for name, metric in METRICS.items():
            if metric.panel in ("distribution", "differential expression"):
                assert np.isnan(row[name]), name
            elif not metric.optional:
                assert np.isfinite(row[name]), name


# ---- per method


def test_a_constant_prediction_has_collapsed_and_the_oracle_has_not(planted):
    held_out, _, scores = planted
    table = scores.per_method.set_index("method")
    assert set(table.index[table["collapsed"]]) == {"no change", "proportional to expression", "training mean"}
    assert table.loc["oracle", "spread"] == pytest.approx(1, abs=0.1)
    assert np.isnan(table.loc["own training mean", "spread"])
    n_de = []
    for query in held_out.queries:
        tested = differential.rank_sum(query.cells, held_out.truth_controls["all"])
        n_de.append(differential.n_significant(tested))
    predicted = [
        differential.n_significant(differential.rank_sum(cells, held_out.controls["all"]))
        for _, cells in map(bars(held_out, ["additive"])[0].predict, range(8))
    ]
    assert table.loc["additive", "n_de_spearman"] == pytest.approx(spearmanr(n_de, predicted).statistic)
    # Two queries are too few for a word.
    few = score(replace(held_out, queries=held_out.queries[:2]), bars(held_out)).per_method
    assert not few["collapsed"].any() and few[["spread", "n_de_spearman"]].isna().all(axis=None)


def test_spread_does_not_count_the_noise_of_few_cells():
    rng = np.random.default_rng(0)
    effects = 0.2 * rng.normal(size=(40, 500))
    noisy = effects + rng.normal(size=effects.shape)  # one cell each: 25 times the variance of the effects
    assert spread(effects, noisy, np.full(40, 500.0)) == pytest.approx(1, abs=0.4)
    assert spread(effects, noisy, np.zeros(40)) < 0.1
    assert np.isnan(spread(effects, noisy, np.full(40, 600.0)))


def test_pairwise_cosine_and_systematic_variation_equal_double_loops():
    rng = np.random.default_rng(0)
    shifts = rng.normal(size=(6, 20)) + 1
    unit = shifts / np.linalg.norm(shifts, axis=1, keepdims=True)
    cosines = [unit[i] @ unit[j] for i in range(6) for j in range(i)]
    assert pairwise_cosine(shifts) == pytest.approx(np.mean(cosines))
    assert pairwise_cosine(np.concatenate([shifts, np.zeros((2, 20))])) == pytest.approx(np.mean(cosines))
    assert np.isnan(pairwise_cosine(np.zeros((3, 20))))
    m = shifts.mean(0) / np.linalg.norm(shifts.mean(0))
    train = Pseudobulk.of_shifts({f"T{i}": shift for i, shift in enumerate(shifts)}, np.zeros(20))
    assert systematic_variation(train) == pytest.approx(np.mean(unit @ m))
    assert systematic_variation(Pseudobulk.of_shifts({"A": m, "B": 3 * m}, np.zeros(20))) == pytest.approx(1)
    assert np.isnan(systematic_variation(Pseudobulk.of_shifts({}, np.zeros(20))))
    assert np.isnan(systematic_variation(Pseudobulk.of_shifts({"A": np.zeros(20)}, np.zeros(20))))


# ---- what the cells allow


def test_the_oracle_reaches_the_expected_score_of_the_exact_mean():
    held_out, exact = world(effect=0.05)  # weak, so that the expected score is well below 1
    scores, found = score(held_out, [Method("oracle", lambda i: exact[i])]), reliability(held_out, seed=0)
    expected = found["expected_exact"].median()
    assert 0.3 < expected < 0.8
    # The predicted shift also carries the noise of the training controls, for which `expected_exact` does not pay.
    assert expected - 0.25 < medians(scores, "shift_correlation")["oracle"] < expected + 0.05
    ceiling = ceilings(held_out, found, seed=0).groupby("method", sort=False)
    for name in "l2", "l2_top1000", "mse", "rmse":
        assert ceiling[name].median()[EXACT] == pytest.approx(medians(scores, name)["oracle"], rel=0.1), name


def test_split_halves_are_worse_than_the_oracle_and_better_than_the_floor(planted, board):
    summary = scoreboard.summarise(planted[2].per_query, board[1], seed=1).set_index("method")
    for name, metric in METRICS.items():
        if name not in summary:
            assert metric.optional
            continue
        # Half of the cells against the other half, that is as few as 30: some metrics are noisy, none may be missing.
        assert np.isfinite(summary.loc[SPLIT_HALF, name]), name
        halves, floor = (float(distance_from_best(summary.loc[row, name], name)) for row in (SPLIT_HALF, "no change"))
        if name not in ("variance_ratio", "coverage_50", "coverage_90"):  # of which control cells are as good as any
            assert halves < floor, name
    for name in "l2", "mse", "mae", "weighted_mse":
        assert summary.loc[SPLIT_HALF, name] > summary.loc["oracle", name]


def test_shared_controls_make_noise_look_like_signal():
    """Nothing happens in this world: only the noise of the control mean can correlate."""
    names = ["training mean", "additive"]
    flattered, honest = (
        score(held_out, bars(held_out, names))
        for held_out, _ in (world(effect=0, shared=shared, n_controls=30) for shared in (True, False))
    )
    assert (medians(flattered, "shift_correlation")[names] > 0.5).all()
    assert (medians(honest, "shift_correlation")[names].abs() < 0.15).all()
    # The shared figure stands beside the honest one even where controls were kept aside.
    assert (medians(honest, "shift_correlation_shared")[names] > 0.5).all()
    table = flattered.per_query
    pd.testing.assert_series_equal(table["shift_correlation"], table["shift_correlation_shared"], check_names=False)


def test_ceiling_of_shared_controls_is_the_shared_one():
    held_out, _ = world(effect=0.05, shared=True, n_pairs=4)
    found = reliability(held_out, seed=0)
    table = score(held_out, bars(held_out)).per_query
    summary = scoreboard.summarise(table, ceilings(held_out, found, seed=0), seed=0).set_index("method")
    ceiling = summary.loc[SPLIT_HALF]
    assert ceiling["shift_correlation"] == ceiling["shift_correlation_shared"]
    assert ceiling["shift_correlation"] == found["split_half_r_shared"].median()
    assert found["split_half_r"].median() < ceiling["shift_correlation"]


def test_cells_that_cannot_be_halved_have_no_ceiling(planted):
    held_out, *_ = planted
    queries = [replace(query, cells=query.cells[:1]) for query in held_out.queries[:2]]
    lone = replace(held_out, queries=(*queries, *held_out.queries[2:4]))
    found = reliability(lone, seed=0)
    table = ceilings(lone, found, seed=0)
    halves = table[table["method"] == SPLIT_HALF]
    assert halves["answered"].tolist() == [False, False, True, True]
    assert halves.loc[~halves["answered"], list(METRICS)].isna().all(axis=None)
    assert halves["l2"].notna().tolist() == [False, False, True, True]
    assert table.loc[table["method"] == EXACT, "mse"].notna().tolist() == [False, False, True, True]


# ---- the table


def test_summary_keeps_groups_apart_and_ends_with_the_ceilings(planted, board):
    *_, scores = planted
    found, limits = board
    parts = {True: "easy", False: "hard"}
    easy = scores.per_query["condition"].unique()[:3]
    per_query, limits, found = (
        table.assign(group=table["condition"].isin(easy).map(parts)) for table in (scores.per_query, limits, found)
    )
    summary = scoreboard.summarise(per_query, limits, seed=1)
    rows = ["oracle", "shuffled", *BASELINES, SPLIT_HALF, EXACT]
    assert summary["method"].tolist() == rows * 2
    assert summary["group"].tolist() == ["easy"] * 9 + ["hard"] * 9
    again = scoreboard.summarise(per_query, limits, seed=1)
    pd.testing.assert_frame_equal(again, summary)
    summary = summary.set_index(["group", "method"])
    values = per_query.query("group == 'hard' and method == 'additive'")["l2"]
    row = summary.loc[("hard", "additive")]
    assert row["n"] == 5
    assert row["l2"] == np.median(values)
    assert values.min() <= row["l2_low"] <= row["l2"] <= row["l2_high"] <= values.max()
    assert summary.loc[("easy", "own training mean"), "n"] == 0
    ceiling, inside = summary.loc[("easy", EXACT)], found["group"] == "easy"
    assert ceiling["shift_correlation"] == found.loc[inside, "expected_exact"].median()
    assert ceiling["shift_correlation_shared"] == found.loc[inside, "expected_exact_shared"].median()
    assert np.isnan(ceiling["energy_distance"])


def test_columns_that_nobody_is_asked_for_are_left_out(planted, board):
    *_, scores = planted
    asked = {name for name, metric in METRICS.items() if not metric.optional}
    pairs = {"interaction_correlation", "interaction_magnitude_error"}
    assert set(scoreboard.summarise(scores.per_query, board[1], seed=0)) & set(METRICS) == asked | pairs
    without = scores.per_query.assign(**dict.fromkeys(pairs, np.nan), de_recall=np.nan)
    assert set(scoreboard.summarise(without, board[1], seed=0)) & set(METRICS) == asked


def test_rescaled_runs_from_the_floor_to_the_ceiling():
    values = {
        #                   higher             lower       target 1          target 0.5
        "no change":        (np.nan,           4.0,        2.0,              0.50),
        "training mean":    (0.2,              3.0,        4.0,              0.30),
        "model":            (0.5,              2.0,        1 / np.sqrt(2),   0.40),
        "silent":           (np.nan,           np.nan,     np.nan,           np.nan),
        SPLIT_HALF:         (0.6,              0.5,        1.0,              0.45),
        EXACT:              (0.8,              1.0,        np.nan,           np.nan),
    }  # fmt: skip
    names = ["shift_correlation", "l2", "variance_ratio", "coverage_50"]
    board = pd.DataFrame([(GROUP, method, 8, *row) for method, row in values.items()])
    board.columns = ["group", "method", "n", *names]
    board.loc[board["method"] == "silent", "n"] = 0
    found = scoreboard.rescaled(board).set_index("method")
    assert list(found) == ["group", "n", *names]
    assert found.loc["training mean", ["shift_correlation", "l2"]].tolist() == pytest.approx([0, 0])
    assert found.loc[EXACT, ["shift_correlation", "l2"]].tolist() == pytest.approx([1, 1])
    assert found.loc["model", names[:3]].tolist() == pytest.approx([0.5, 0.5, 0.5])  # of a ratio, half of the octave
    assert found.loc["no change", "shift_correlation"] == pytest.approx(-1 / 3)  # no value counts as 0
    assert found.loc["no change", "variance_ratio"] == pytest.approx(0)
    assert found.loc["silent", names].isna().all()
    # No change covers better than the halves: there is no room, and that is said.
    assert found["coverage_50"].isna().all()
    (sentence,) = scoreboard.without_room(board)
    assert "coverage of the 50 % interval" in sentence and "variance" not in sentence
    assert scoreboard.without_room(board.drop(columns="coverage_50")) == []


def test_rescaled_on_the_planted_world(planted, board):
    *_, scores = planted
    found = scoreboard.rescaled(scoreboard.summarise(scores.per_query, board[1], seed=0)).set_index("method")
    main = ["shift_correlation", "l2", "energy_distance", "weighted_r2", "jaccard_50"]
    assert (found.loc["additive", main] > 0.6).all()
    assert (found.loc["oracle", main] > found.loc["additive", main]).all()
    assert (found.loc[["no change", "training mean"], main].max() == 0).all()
    assert found.loc[EXACT, ["shift_correlation", "l2"]].tolist() == [1, 1]


def test_a_world_without_training_perturbations_is_judged_all_the_same(planted):
    """A checkpoint that judges another file: no training cells, and here not even a training shift."""
    held_out, oracle, _ = planted
    empty = Pseudobulk.of_shifts({}, mean_profile(held_out.controls["all"]))
    bare = HeldOut(**{**vars(held_out), "train": empty, "train_cells": {}})
    row = score(bare, [oracle]).per_query.iloc[0]
    assert row[["weighted_mse", "weighted_r2", "shift_correlation_mean", "shift_correlation_mean_rest"]].isna().all()
    assert row["shift_correlation_rest"] == row["shift_correlation"]
    assert np.isfinite(row[["de_overlap", "pds", "energy_distance", "l2"]].astype(float)).all()
    assert ceilings(bare, reliability(bare, seed=0), seed=0)["weighted_mse"].isna().all()
    assert len(bare.genes) == G


def test_an_undefined_correlation_of_an_answer_counts_as_zero_and_of_no_answer_as_nothing():
    """Silence on hard queries must not raise a median: zero shifts score 0, queries without an answer are missing."""
    held_out, exact = world(effect=1.0)
    control = mean_profile(held_out.controls["all"])
    cells = held_out.controls["all"].toarray()[:60]

    def sly(i):
        return exact[i] if i < 2 else (control, cells)

    def silent(i):
        return exact[i] if i < 2 else None

    found = score(held_out, [Method("sly", sly), Method("silent", silent), Method("exact", lambda i: exact[i])])
    filled = found.per_query.set_index("method")["shift_correlation"]
    raw = found.raw.set_index("method")["shift_correlation"]
    n = len(held_out.queries)
    assert raw["sly"].isna().sum() == n - 2 and (filled["sly"] == 0).sum() == n - 2
    assert filled["silent"].isna().sum() == n - 2
    assert np.median(filled["sly"]) == 0 < np.median(filled["exact"])
