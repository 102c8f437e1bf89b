"""The baselines against their formulas, on a world small enough to write down."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from stormcell.analysis.embedding import TargetEmbedding, gene_scores
from stormcell.analysis.linear import two_ridge
from stormcell.analysis.pseudobulk import Pseudobulk
from stormcell.evaluation.baselines import baseline, baselines
from stormcell.evaluation.heldout import HeldOut, Query
from stormcell.evaluation.profiles import mean_profile
from stormcell.evaluation.roster import LABELS

G = 8
OWN_CELLS = ("own training mean", "pool of perturbed cells")
SHIFTS = {name: np.random.default_rng(i).normal(size=G) for i, name in enumerate(("A", "B", "C", "C+D"))}
CELLS = {"A": 9, "B": 3, "C": 6, "C+D": 2}


def world(rows, conditions, contexts=("a", "b")):
    """A HeldOut with the training rows (condition, context) → shift, and queries (condition, context)."""
    rng = np.random.default_rng(0)
    controls = {name: csr_matrix(rng.poisson(1, (30 - 9 * i, G)).astype(np.float32)) for i, name in enumerate(contexts)}
    means = {name: mean_profile(cells) for name, cells in controls.items()}
    keys = sorted(rows)
    train = Pseudobulk(
        tuple(condition for condition, _ in keys), tuple(context for _, context in keys),
        np.array([means[key[1]] + rows[key] for key in keys]).reshape(-1, G),
        np.array([CELLS[condition] for condition, _ in keys], int), means,
    )  # fmt: skip
    return HeldOut(
        genes=tuple(f"gene {i}" for i in range(G)),
        separator="+",
        queries=tuple(Query(condition, context, "any", controls[contexts[0]]) for condition, context in conditions),
        controls=controls,
        truth_controls={name: cells[:0] for name, cells in controls.items()},
        shared=False,
        train=train,
        train_cells={"A": csr_matrix(rng.poisson(3, size=(9, G)).astype(np.float32))},
        detected=np.ones(G, bool),
        pca_mean=np.zeros(G),
        pca_components=np.eye(G),
    )


@pytest.fixture
def held_out():
    rows = {(name, "all"): shift for name, shift in SHIFTS.items()}
    asked = ["A", "A+B", "A+Z", "Z", "A+B+C"]
    return world(rows, [(name, "all") for name in asked], ["all"])


def answers(held_out, index, n_cells=10, seed=0):
    return {method.name: method.predict(index) for method in baselines(held_out, n_cells, seed)}


def shift_of(held_out, name, index):
    found = baseline(name, held_out, 5, 0).predict(index)
    return None if found is None else found[0] - mean_profile(held_out.controls[held_out.queries[index].context])


def test_means_are_the_formulas(held_out):
    mean = np.mean(list(SHIFTS.values()), axis=0)
    pool = np.average(list(SHIFTS.values()), axis=0, weights=list(CELLS.values()))
    control = mean_profile(held_out.controls["all"])
    slope = np.linalg.lstsq(control[:, None], mean, rcond=None)[0][0]
    expected = {
        "no change": 0 * control, "proportional to expression": slope * control, "training mean": mean,
        "pool of perturbed cells": pool, "own training mean": SHIFTS["A"], "additive": SHIFTS["A"],
        "matching mean": SHIFTS["A"],
    }  # fmt: skip
    found = answers(held_out, 0)
    for name, moved in expected.items():
        np.testing.assert_allclose(found[name][0], control + moved, rtol=1e-6, err_msg=name)
    np.testing.assert_allclose(found["training mean, clipped"][0], np.maximum(control + mean, 0), rtol=1e-6)


def test_additive_and_matching_mean_take_the_mean_for_what_they_have_not_seen(held_out):
    mean = np.mean(list(SHIFTS.values()), axis=0)
    parts = [[SHIFTS["A"]], [SHIFTS["A"], SHIFTS["B"]], [SHIFTS["A"], mean], [mean], [SHIFTS[t] for t in "ABC"]]
    for index, each in enumerate(parts):
        np.testing.assert_allclose(shift_of(held_out, "additive", index), np.sum(each, 0), atol=1e-6)
        np.testing.assert_allclose(shift_of(held_out, "matching_mean", index), np.mean(each, 0), atol=1e-6)


def test_cells_are_different_training_controls_moved_and_clipped_only_where_said(held_out):
    pool = [tuple(cell) for cell in held_out.controls["all"].toarray()]
    for index in range(len(held_out.queries)):
        found = answers(held_out, index)
        still = found["no change"][1]
        assert all(tuple(cell) in pool for cell in still)
        for name, answer in found.items():
            if answer is None or name in OWN_CELLS:
                continue
            mean, cells = answer
            assert cells.dtype == np.float32
            shift = mean - mean_profile(held_out.controls["all"])
            if name == "training mean, clipped":
                shift = np.mean(list(SHIFTS.values()), axis=0)
                np.testing.assert_allclose(cells, np.maximum(still + shift, 0), atol=1e-5)
            else:
                np.testing.assert_allclose(cells - still, np.tile(shift, (10, 1)), atol=1e-5, err_msg=name)
    assert (answers(held_out, 0)["additive"][1] < 0).any()


def test_no_control_cell_is_drawn_twice(held_out):
    cells = answers(held_out, 2, n_cells=50)["no change"][1]
    assert sorted(map(tuple, cells)) == sorted(map(tuple, held_out.controls["all"].toarray()))


def test_own_training_mean_gives_its_own_cells_and_nothing_for_the_unseen(held_out):
    own = held_out.train_cells["A"].toarray()
    _, cells = answers(held_out, 0)["own training mean"]
    assert sorted(map(tuple, cells)) == sorted(map(tuple, own))
    assert answers(held_out, 0, n_cells=4)["own training mean"][1].shape == (4, G)
    for index in 1, 2, 3, 4:
        assert answers(held_out, index)["own training mean"] is None


def test_without_stored_cells_the_controls_are_moved(held_out):
    held_out.train_cells.clear()
    found = answers(held_out, 0)
    np.testing.assert_array_equal(found["own training mean"][1], found["additive"][1])
    assert len(found["pool of perturbed cells"][1]) == 10


def test_draws_depend_on_seed_and_query_only(held_out):
    first = answers(held_out, 0, seed=3)["training mean"][1]
    answers(held_out, 1, seed=3)
    np.testing.assert_array_equal(first, answers(held_out, 0, seed=3)["training mean"][1])
    assert (first != answers(held_out, 0, seed=4)["training mean"][1]).any()
    assert (answers(held_out, 0)["no change"][1] != answers(held_out, 1)["no change"][1]).any()


def test_without_training_perturbations_only_no_change_answers():
    bare = world({}, [("A+B", "all")], ["all"])
    assert [name for name, answer in answers(bare, 0).items() if answer is not None] == ["no change"]


# ---- on the vectors of targets


def embedded(held_out, vectors):
    names, rows = list(vectors), np.array(list(vectors.values()), float)
    return replace(held_out, embedding=TargetEmbedding("table", tuple(names), rows))


def test_the_nearest_perturbation_is_another_one_and_ties_are_averaged(held_out):
    vectors = {"A": [1, 0], "B": [0.9, 0.1], "C": [0, 1], "D": [1, 0], "Z": [1, 0.02]}
    known = embedded(held_out, vectors)
    np.testing.assert_allclose(shift_of(known, "nearest", 0), SHIFTS["B"], atol=1e-6)  # of A, itself apart
    np.testing.assert_allclose(shift_of(known, "nearest", 3), SHIFTS["A"], atol=1e-6)  # of Z, never seen
    # A column for each target: A + B is as near to A as to B.
    np.testing.assert_allclose(shift_of(held_out, "nearest", 1), (SHIFTS["A"] + SHIFTS["B"]) / 2, atol=1e-6)
    assert shift_of(held_out, "nearest", 3) is None, "Z has no column"


def test_ridge_and_neighbours_and_lgem_use_the_vectors(held_out):
    vectors = {"A": [1, 0, 0], "B": [0, 1, 0], "C": [0, 0, 1], "D": [1, 1, 0], "Z": [0.5, 0.5, 0]}
    known = embedded(held_out, vectors)
    names = list(SHIFTS)
    P = known.embedding.of(names)
    Y = np.array([SHIFTS[name] for name in names])
    fit = two_ridge(np.vstack([Y, 0 * Y[:1]]), gene_scores(known.train, 10), np.vstack([P, 0 * P[:1]]), 0.1)
    np.testing.assert_allclose(shift_of(known, "lgem", 3), fit.predict(np.array([[0.5, 0.5, 0]]))[0], atol=1e-6)
    np.testing.assert_allclose(shift_of(known, "knn", 3), Y[[0, 1, 3]].mean(0), atol=1e-6)  # C is at a right angle
    assert np.isfinite(shift_of(known, "ridge", 3)).all()
    for name in ("lgem", "knn", "ridge", "nearest"):
        assert shift_of(held_out, name, 2) is None, "A+Z has no vector in a column for each training target"


# ---- contexts


def test_contextual_baselines_are_there_only_where_the_split_tells_contexts_apart(held_out):
    contextual = {"covariate mean", "most similar covariate"}
    assert not contextual & set(answers(held_out, 0))
    rows = {("A", "a"): SHIFTS["A"], ("B", "a"): SHIFTS["B"], ("A", "b"): SHIFTS["C"]}
    assert contextual < set(answers(world(rows, [("B", "b")]), 0))


def test_covariate_mean_is_of_the_context_and_the_most_similar_one_lends_its_shift():
    contexts = ("a", "b", "c")
    rows = {("A", "a"): SHIFTS["A"], ("A", "b"): SHIFTS["B"], ("B", "c"): SHIFTS["C"]}
    made = world(rows, [("A", "c"), ("B", "b"), ("Z", "c")], contexts)
    means = {name: mean_profile(cells) for name, cells in made.controls.items()}
    near = max("ab", key=lambda name: np.corrcoef(means[name], means["c"])[0, 1])
    np.testing.assert_allclose(shift_of(made, "most_similar_covariate", 0), rows["A", near], atol=1e-6)
    np.testing.assert_allclose(shift_of(made, "most_similar_covariate", 1), SHIFTS["C"], atol=1e-6)
    assert shift_of(made, "most_similar_covariate", 2) is None
    np.testing.assert_allclose(shift_of(made, "covariate_mean", 0), SHIFTS["C"], atol=1e-6)
    np.testing.assert_allclose(shift_of(made, "covariate_mean", 1), SHIFTS["B"], atol=1e-6)


def test_every_label_is_a_method(held_out):
    assert len(set(LABELS.values())) == len(LABELS)
    for name in LABELS:
        baseline(name, held_out, 5, 0).predict(0)


def test_the_pool_draws_from_all_training_cells_none_twice(held_out):
    rng = np.random.default_rng(4)
    blocks = {name: csr_matrix(rng.normal(size=(n, G)).astype(np.float32)) for name, n in CELLS.items()}
    known = replace(held_out, train_cells=blocks)
    everything = np.concatenate([block.toarray() for block in blocks.values()])
    _, cells = baseline("pool", known, 1000, 0).predict(0)
    assert sorted(map(tuple, cells)) == sorted(map(tuple, everything))
    _, some = baseline("pool", known, 7, 0).predict(0)
    assert len(set(map(tuple, some))) == 7 and set(map(tuple, some)) <= set(map(tuple, everything))
