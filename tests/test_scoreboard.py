"""The scoreboard on planted worlds: the order of methods whose quality is known, and silence where nothing happened."""

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix

from stormcell.evaluation import scoreboard
from stormcell.evaluation.baselines import baselines
from stormcell.evaluation.heldout import HeldOut, Method, Query
from stormcell.evaluation.perturbation import METRICS, mean_profile

G, GROUP = 300, "pairs, both singles seen"
BASELINES = ["no change", "proportional to expression", "training mean", "own training mean", "additive"]


def world(effect: float, shared: bool = False, n_controls: int = 80, n_pairs: int = 8, seed: int = 0):
    """Normal cells around a profile; shift of a single = common + own part, of a pair = sum of its singles."""
    rng = np.random.default_rng(seed)
    base = rng.uniform(0.5, 3, G)
    common = rng.normal(size=G)
    singles = {f"T{i:02}": effect * (common + rng.normal(size=G)) for i in range(2 * n_pairs)}
    names = sorted(singles)
    pairs = {f"{a}+{b}": singles[a] + singles[b] for a, b in zip(names[::2], names[1::2], strict=True)}

    def cells(shift, n=60):
        return csr_matrix((base + shift + rng.normal(size=(n, G))).astype(np.float32))

    controls = cells(0, n_controls)
    train = {name: cells(shift) for name, shift in singles.items()}
    everything = np.concatenate([controls.toarray(), *(each.toarray() for each in train.values())])
    mean = everything.mean(0)
    _, _, axes = np.linalg.svd(everything - mean, full_matrices=False)
    held_out = HeldOut(
        genes=tuple(f"gene {i}" for i in range(G)),
        separator="+",
        queries=tuple(Query(name, "all", GROUP, cells(shift)) for name, shift in pairs.items()),
        controls={"all": controls},
        truth_controls={"all": controls if shared else cells(0, n_controls)},
        shared=shared,
        train_shift={name: mean_profile(each) - mean_profile(controls) for name, each in train.items()},
        train_cells=train,
        detected=np.ones(G, bool),
        pca_mean=mean,
        pca_components=axes[:20].T,
    )
    exact = [(base + shift, cells(shift, 100).toarray()) for shift in pairs.values()]
    return held_out, exact


def judged(held_out, *models, n_cells=60):
    methods = [*models, *baselines(held_out, n_cells, seed=0)]
    per_query, _ = scoreboard.score(held_out, methods)
    return per_query, scoreboard.reliability(held_out, seed=0)


def medians(per_query, metric):
    return per_query.groupby("method")[metric].median()


@pytest.fixture(scope="module")
def planted():
    """A world with a strong additive truth, its oracle, and the oracle's answers given to the wrong pairs."""
    held_out, exact = world(effect=0.3)
    oracle = Method("oracle", lambda i: exact[i])
    shuffled = Method("shuffled", lambda i: exact[(i + 1) % len(exact)])
    return held_out, oracle, shuffled, *judged(held_out, oracle, shuffled)


def test_methods_of_known_quality_come_out_in_their_order(planted):
    *_, per_query, _ = planted
    order = ["oracle", "additive", "training mean", "shuffled"]
    for metric, sign in ("shift_correlation", -1), ("energy_distance", 1), ("mse", 1), ("jaccard_50", -1):
        values = sign * medians(per_query, metric)[order]
        assert (np.diff(values) > 0).all(), (metric, values)
    assert medians(per_query, "variance_ratio")["oracle"] == pytest.approx(1, abs=0.1)
    assert medians(per_query, "energy_distance")["oracle"] == pytest.approx(0, abs=0.05)


def test_the_oracle_reaches_the_expected_score_of_the_exact_mean():
    held_out, exact = world(effect=0.05)  # weak, so that the expected score is well below 1
    oracle = Method("oracle", lambda i: exact[i])
    per_query, reliability = judged(held_out, oracle)
    expected = reliability["expected_exact"].median()
    assert 0.3 < expected < 0.8
    # The predicted shift also carries the noise of the training controls, for which `expected_exact` does not pay.
    assert expected - 0.25 < medians(per_query, "shift_correlation")["oracle"] < expected + 0.05


def test_shared_controls_make_noise_look_like_signal():
    """Nothing happens in this world: only the noise of the control mean can correlate."""
    shared, _ = world(effect=0, shared=True, n_controls=30)
    apart, _ = world(effect=0, shared=False, n_controls=30)
    names = ["training mean", "additive"]
    flattered = judged(shared)[0]
    honest = judged(apart)[0]
    assert (medians(flattered, "shift_correlation")[names] > 0.5).all()
    assert (medians(honest, "shift_correlation")[names].abs() < 0.15).all()
    # The shared figure stands beside the honest one even where controls were kept aside.
    assert (medians(honest, "shift_correlation_shared")[names] > 0.5).all()
    pd.testing.assert_series_equal(
        flattered["shift_correlation"], flattered["shift_correlation_shared"], check_names=False
    )


@pytest.mark.parametrize("shared", [False, True])
def test_verdict_does_not_praise_where_nothing_happened(shared):
    """Many worlds, since split halves agree a little by chance in some: the sentence must hold in nearly all."""
    silent = 0
    for seed in range(20):
        held_out, exact = world(effect=0, shared=shared, n_controls=30, seed=seed)
        per_query, reliability = judged(held_out, Method("model", lambda i, exact=exact: exact[i]))
        (sentence,) = scoreboard.verdict(per_query, reliability, ["model"], BASELINES, seed=0)
        assert ("flatters" in sentence) == shared
        if "do not reproduce their own shift (split-half r = " in sentence:
            silent += 1
            assert "no score here means that a method works" in sentence
            assert "beats" not in sentence
        elif not shared:
            assert "beats" not in sentence.split("energy distance")[0]
    assert silent >= 17


def test_verdict_in_a_world_with_signal(planted):
    *_, per_query, reliability = planted
    (sentence,) = scoreboard.verdict(per_query, reliability, ["oracle", "shuffled"], BASELINES, seed=0)
    assert sentence.startswith(f"{GROUP} (n = 8): the real cells reproduce their own shift with split-half r = 0.")
    assert "On shift r the best baseline is additive (0." in sentence
    assert sentence.count("oracle beats it (") == 2
    assert sentence.count("shuffled is behind (") == 2
    assert "flatters" not in sentence
    assert "hint" not in sentence
    # Against itself a method is level: the interval of a difference of zero is zero.
    (sentence,) = scoreboard.verdict(per_query, reliability, ["additive"], ["additive"], seed=0)
    assert sentence.count("additive is level (") == 2


@pytest.mark.parametrize(("n", "words"), [(2, "So small an n cannot tell"), (5, "a hint and no proof")])
def test_verdict_on_few_queries_says_so(n, words):
    held_out, exact = world(effect=0.3, n_pairs=n)
    per_query, reliability = judged(held_out, Method("oracle", lambda i: exact[i]))
    (sentence,) = scoreboard.verdict(per_query, reliability, ["oracle"], BASELINES, seed=0)
    assert words in sentence
    assert ("beats" in sentence) == (n > 2)


def test_verdict_names_no_baseline_that_answers_only_some_queries(planted):
    held_out, oracle, _, _, reliability = planted
    half = Method("half", lambda i: oracle.predict(i) if i % 2 else None)
    per_query, _ = scoreboard.score(held_out, [oracle, half, *baselines(held_out, 60, 0)])
    (sentence,) = scoreboard.verdict(per_query, reliability, ["oracle"], ["half", "training mean"], seed=0)
    assert "the best baseline is training mean" in sentence
    (sentence,) = scoreboard.verdict(per_query, reliability, ["half"], ["additive"], seed=0)
    assert "half has no value for 4 of 8 queries and is not compared" in sentence
    (sentence,) = scoreboard.verdict(per_query, reliability, ["oracle"], ["half"], seed=0)
    assert "No baseline has a value of shift r for every query" in sentence


def test_verdict_when_there_are_too_few_cells_to_halve(planted):
    held_out, oracle, *_ = planted
    single = [Query(q.condition, q.context, q.group, q.cells[:1]) for q in held_out.queries]
    lone = HeldOut(**{**vars(held_out), "queries": tuple(single)})
    per_query, reliability = judged(lone, oracle)
    assert reliability["expected_exact"].isna().all()
    (sentence,) = scoreboard.verdict(per_query, reliability, ["oracle"], BASELINES, seed=0)
    assert "real cells are too few" in sentence
    assert "beats" not in sentence
    assert any("energy distance of oracle undefined for 8 of 8" in text for text in scoreboard.undefined(per_query))


def test_each_method_is_asked_once_per_query_in_order_and_keeps_copies(planted):
    held_out, oracle, *_ = planted
    asked = []

    def predict(i):
        asked.append(i)
        return None if i == 2 else oracle.predict(i)

    per_query, kept = scoreboard.score(held_out, [Method("m", predict), oracle], keep=["m"], kept_cells=7)
    assert asked == list(range(8))
    assert list(kept) == ["m"]
    assert kept["m"][2] is None
    _, cells = kept["m"][3]
    np.testing.assert_array_equal(cells, oracle.predict(3)[1][:7])
    assert not np.shares_memory(cells, oracle.predict(3)[1])
    assert list(per_query.columns) == ["method", "condition", "context", "group", "n_cells", "answered", *METRICS]
    assert len(per_query) == 16
    assert (per_query["n_cells"] == 60).all()


def test_columns_are_those_of_direct_computation(planted):
    held_out, oracle, _, per_query, _ = planted
    query, (mean, cells) = held_out.queries[1], oracle.predict(1)
    truth = query.cells.toarray()
    row = per_query[(per_query["method"] == "oracle") & (per_query["condition"] == query.condition)].iloc[0]
    predicted = mean - held_out.controls["all"].toarray().mean(0)
    true = truth.mean(0) - held_out.truth_controls["all"].toarray().mean(0)
    assert row["shift_correlation"] == pytest.approx(np.corrcoef(predicted, true)[0, 1], abs=1e-5)
    assert row["l2"] == pytest.approx(np.linalg.norm(mean - truth.mean(0)), abs=1e-4)
    a, b = ((x - held_out.pca_mean) @ held_out.pca_components for x in (cells, truth))
    between = np.linalg.norm(a[:, None] - b[None], axis=-1).mean()
    within = [np.linalg.norm(x[:, None] - x[None], axis=-1).sum() / len(x) / (len(x) - 1) for x in (a, b)]
    assert row["energy_distance"] == pytest.approx(2 * between - sum(within), abs=1e-4)


def test_contexts_use_their_own_controls(planted):
    held_out, *_ = planted
    moved = csr_matrix(held_out.controls["all"].toarray() + 5)
    query = held_out.queries[0]
    other = Query(query.condition, "other", GROUP, csr_matrix(query.cells.toarray() + 5))
    unseen = csr_matrix(held_out.truth_controls["all"].toarray() + 5)
    both = HeldOut(
        **{
            **vars(held_out),
            "queries": (query, other),
            "controls": {**held_out.controls, "other": moved},
            "truth_controls": {**held_out.truth_controls, "other": unseen},
        }
    )
    per_query, _ = judged(both)
    for metric in "shift_correlation", "shift_correlation_shared", "mse":
        here, there = per_query[per_query["method"] == "additive"][metric]
        assert here == pytest.approx(there, rel=1e-4)


def test_summary_keeps_groups_apart_and_ends_with_the_ceilings(planted):
    *_, per_query, reliability = planted
    easy = per_query["condition"].isin(per_query["condition"].unique()[:3])
    per_query = per_query.assign(group=np.where(easy, "easy", "hard"))
    halves = reliability.assign(group=["easy"] * 3 + ["hard"] * 5)
    summary = scoreboard.summarise(per_query, halves, seed=1)
    rows = ["oracle", "shuffled", *BASELINES, "split-half of the real cells", "exact mean (expected)"]
    assert summary["method"].tolist() == rows * 2
    assert summary["group"].tolist() == ["easy"] * 9 + ["hard"] * 9
    summary = summary.set_index(["group", "method"])
    values = per_query.query("group == 'hard' and method == 'additive'")["l2"]
    row = summary.loc[("hard", "additive")]
    assert row["n"] == 5
    assert row["l2"] == np.median(values)
    assert values.min() <= row["l2_low"] <= row["l2"] <= row["l2_high"] <= values.max()
    assert summary.loc[("easy", "own training mean"), "n"] == 0
    ceiling = summary.loc[("easy", "exact mean (expected)")]
    assert ceiling["shift_correlation"] == halves["expected_exact"][:3].median()
    assert ceiling["shift_correlation_shared"] == halves["expected_exact_shared"][:3].median()
    assert np.isnan(ceiling["l2"])
    pd.testing.assert_frame_equal(scoreboard.summarise(per_query, halves, seed=1), summary.reset_index())


def test_ceiling_of_shared_controls_is_the_shared_one():
    held_out, _ = world(effect=0.05, shared=True)
    per_query, reliability = judged(held_out)
    summary = scoreboard.summarise(per_query, reliability, seed=0).set_index("method")
    ceiling = summary.loc["split-half of the real cells"]
    assert ceiling["shift_correlation"] == ceiling["shift_correlation_shared"]
    assert ceiling["shift_correlation"] == reliability["split_half_r_shared"].median()
    assert reliability["split_half_r"].median() < ceiling["shift_correlation"]


def test_what_is_undefined_is_counted_with_its_reason(planted):
    held_out, oracle, *_ = planted

    def broken(i):
        mean, cells = oracle.predict(i)
        return (mean * np.nan, cells * np.nan) if i == 0 else (mean, cells[:1])

    per_query, _ = scoreboard.score(held_out, [Method("broken", broken), *baselines(held_out, 60, 0)])
    sentences = scoreboard.undefined(per_query)
    assert f"{GROUP}: own training mean has no answer for 8 of 8 queries." in sentences
    assert f"{GROUP}: broken predicts no finite mean for 1 of 8 queries." in sentences
    told = "\n".join(sentences)
    assert "energy distance of broken undefined for 7 of 8 queries (fewer than 2 cells" in told
    assert "Jaccard@100 of no change undefined for 8 of 8 queries (a shift that is the same in every gene)" in told
    assert "additive" not in told
    missing = per_query[list(METRICS)].isna().any(axis=1)
    assert set(per_query.loc[missing, "method"]) == {"broken", "no change", "own training mean"}


def test_callers_mistakes_are_refused(planted):
    held_out, oracle, *_ = planted
    with pytest.raises(ValueError, match="names of their own"):
        scoreboard.score(held_out, [oracle, oracle])
    with pytest.raises(ValueError, match="to keep"):
        scoreboard.score(held_out, [oracle], keep=["orcale"])
    with pytest.raises(ValueError, match="300 genes"):
        scoreboard.score(held_out, [Method("short", lambda i: (np.ones(3), np.ones((2, 3))))])
