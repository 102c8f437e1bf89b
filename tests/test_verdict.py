"""The sentences: no praise where nothing happened, every gap told with its reason."""

from dataclasses import replace

import numpy as np
import pytest
from planted import BASELINES, GROUP, bars, world

from stormcell.evaluation.ceiling import reliability
from stormcell.evaluation.heldout import Method
from stormcell.evaluation.metrics import METRICS
from stormcell.evaluation.scoring import score
from stormcell.evaluation.verdict import undefined, verdict


def judged(held_out, *models, names=BASELINES):
    return score(held_out, [*models, *bars(held_out, names)]), reliability(held_out, seed=0)


@pytest.fixture(scope="module")
def planted():
    """A strong additive truth, its oracle, the oracle's answers given to the wrong pairs, one answer for all pairs."""
    held_out, exact = world(effect=0.3)
    oracle = Method("oracle", lambda i: exact[i])
    shuffled = Method("shuffled", lambda i: exact[(i + 1) % len(exact)])
    stuck = Method("stuck", lambda i: exact[0])
    return held_out, oracle, *judged(held_out, oracle, shuffled, stuck)


@pytest.mark.parametrize("shared", [False, True])
def test_verdict_does_not_praise_where_nothing_happened(shared):
    """Many worlds, since split halves agree a little by chance in some: the sentence must hold in nearly all."""
    silent = 0
    for seed in range(10):
        held_out, exact = world(effect=0, shared=shared, n_controls=30, seed=seed)
        scores, found = judged(held_out, Method("model", lambda i, exact=exact: exact[i]), names=["additive"])
        (sentence,) = verdict(scores, found, ["model"], ["additive"], seed=0)
        assert ("flatters" in sentence) == shared
        if "do not reproduce their own shift (split-half r = " in sentence:
            silent += 1
            assert "no score here means that a method works" in sentence
            assert "beats" not in sentence and "discrimination" not in sentence
        elif not shared:
            assert "beats" not in sentence.split("energy distance")[0]
    assert silent >= 8


def test_verdict_in_a_world_with_signal(planted):
    *_, scores, found = planted
    (sentence,) = verdict(scores, found, ["oracle", "shuffled"], BASELINES, seed=0)
    assert sentence.startswith(f"{GROUP} (n = 8): the real cells reproduce their own shift with split-half r = 0.")
    assert "an exact mean would reach 0." in sentence
    assert "On shift r the best baseline is additive (0." in sentence
    assert sentence.count("oracle beats it (") == 2
    assert sentence.count("shuffled is behind (") == 2
    best = "beside 1.00 by the best baseline, additive"
    assert f"Perturbation discrimination (0.5 is chance) is 1.00 by oracle, 0.43 by shuffled, {best}" in sentence
    assert not any(word in sentence for word in ("flatters", "hint", "collapsed"))
    # Against itself a method is level: the interval of a difference of zero is zero.
    (sentence,) = verdict(scores, found, ["additive"], ["additive"], seed=0)
    assert sentence.count("additive is level (") == 2


def test_verdict_names_collapse(planted):
    *_, scores, found = planted
    (sentence,) = verdict(scores, found, ["oracle", "stuck"], BASELINES, seed=0)
    assert "Stuck has collapsed: its shifts vary between perturbations by 0% of the variance" in sentence
    assert sentence.count("collapsed") == 1


@pytest.mark.parametrize(("n", "words"), [(1, "So small"), (2, "So small an n cannot"), (5, "a hint and no proof")])
def test_verdict_on_few_queries_says_so(n, words):
    held_out, exact = world(effect=0.3, n_pairs=n)
    scores, found = judged(held_out, Method("oracle", lambda i: exact[i]))
    (sentence,) = verdict(scores, found, ["oracle"], BASELINES, seed=0)
    assert words in sentence
    assert ("beats" in sentence) == (n > 2)
    assert ("discrimination" in sentence) == (n > 1)


def test_verdict_names_no_baseline_that_answers_only_some_queries(planted):
    held_out, oracle, *_, found = planted
    half = Method("half", lambda i: oracle.predict(i) if i % 2 else None)
    scores, _ = judged(held_out, oracle, half)
    (sentence,) = verdict(scores, found, ["oracle"], ["half", "training mean"], seed=0)
    assert "the best baseline is training mean" in sentence
    (sentence,) = verdict(scores, found, ["half"], ["additive"], seed=0)
    assert "half has no value for 4 of 8 queries and is not compared" in sentence
    (sentence,) = verdict(scores, found, ["oracle"], ["half"], seed=0)
    assert "No baseline has a value of shift r for every query" in sentence
    assert "is 1.00 by oracle." in sentence


def test_verdict_when_there_are_too_few_cells_to_halve(planted):
    held_out, oracle, *_ = planted
    single = tuple(replace(query, cells=query.cells[:1]) for query in held_out.queries)
    scores, found = judged(replace(held_out, queries=single), oracle)
    assert found["expected_exact"].isna().all()
    (sentence,) = verdict(scores, found, ["oracle"], BASELINES, seed=0)
    assert "real cells are too few" in sentence
    assert "beats" not in sentence
    told = undefined(scores.raw)
    assert any("energy distance" in text and "of every method undefined for 8 of 8" in text for text in told)


def test_what_is_undefined_is_counted_with_its_reason(planted):
    held_out, oracle, *_ = planted

    def broken(i):
        mean, cells = oracle.predict(i)
        return (mean * np.nan, cells * np.nan) if i == 0 else (mean, cells[:1])

    sentences = undefined(score(held_out, [Method("broken", broken), *bars(held_out)]).raw)
    assert f"{GROUP}: own training mean has no answer for 8 of 8 queries." in sentences
    assert f"{GROUP}: broken predicts no finite mean for 1 of 8 queries." in sentences
    told, all_of = "\n".join(sentences), "undefined for 8 of 8 queries"
    assert "energy distance; sliced Wasserstein; Wasserstein of broken undefined for 7 of 8 queries (fewer" in told
    assert f"signed Jaccard@50 of no change {all_of} (a shift that is the same in every gene; counts as 0)" in told
    beyond = "shift r beyond the mean; shift r beyond the mean, without the dominating genes of training mean undefined"
    assert beyond in told
    assert f"interaction r of additive {all_of} (the prediction is the sum of the singles" in told


def test_every_gap_of_the_table_is_told(planted):
    """Each metric without a value, of each method, in one sentence with its number; nothing else is claimed."""
    held_out, oracle, *_ = planted
    few = Method("few", lambda i: (oracle.predict(i)[0], oracle.predict(i)[1][: 2 * (i > 2)]))
    table = score(held_out, [few, oracle, *bars(held_out, ["no change", "training mean", "additive"])]).raw
    told = set()
    for sentence in undefined(table):
        about, reason = sentence.removeprefix(f"{GROUP}: ").removesuffix(").").split(" queries (", 1)
        about, count = about.split(" undefined for ")
        labels, whose = about.rsplit(" of ", 1)
        methods = whose.split("; ")
        if whose.startswith("every method"):
            but = whose.removeprefix("every method").removeprefix(" but ").split("; ")
            methods = [method for method in table["method"].unique() if method not in but]
        told |= {(label, method, count, reason) for label in labels.split("; ") for method in methods}
    gaps = set()
    for method, rows in table.groupby("method"):
        for name, metric in METRICS.items():
            missing = int(rows[name].isna().sum())
            if missing and not name.startswith("shift_correlation_covariate"):  # not asked where there are no contexts
                gaps.add((metric.label, method, f"{missing} of 8", metric.undefined + "; counts as 0" * metric.zero))
    assert told == gaps
    assert {count for _, method, count, _ in told if method == "few"} == {"3 of 8"}
    # What the truth lacks is said once.
    lone = replace(held_out, queries=tuple(replace(query, cells=query.cells[:1]) for query in held_out.queries))
    told = undefined(score(lone, [oracle, *bars(held_out, ["training mean", "additive"])]).per_query)
    assert any("DE direction of every method undefined for 8 of 8" in sentence for sentence in told)
    told = undefined(table.assign(de_recall=table["de_recall"].where(table["method"] == "oracle")))
    assert any("DE recall of every method but oracle undefined for 8 of 8" in sentence for sentence in told)


def test_what_is_not_asked_is_not_undefined(planted):
    held_out, oracle, *_ = planted
    names = ["T00", "T01", "T02+unseen"]
    singles = tuple(replace(query, condition=name) for query, name in zip(held_out.queries, names, strict=False))
    per_query = score(replace(held_out, queries=singles), [oracle]).per_query
    assert per_query["interaction_correlation"].isna().all()
    assert undefined(per_query) == []
    elsewhere = per_query.assign(context="c")
    assert any("covariate mean" in text and "no training perturbation" in text for text in undefined(elsewhere))
