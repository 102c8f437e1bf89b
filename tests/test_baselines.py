"""The baselines against their formulas, on a world small enough to write down."""

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from stormcell.evaluation.baselines import baselines
from stormcell.evaluation.heldout import HeldOut, Query

G = 8
NAMES = ["no change", "proportional to expression", "training mean", "own training mean", "additive"]


@pytest.fixture
def held_out():
    rng = np.random.default_rng(0)
    controls = {name: csr_matrix(rng.poisson(1, size=(n, G)).astype(np.float32)) for name, n in (("a", 30), ("b", 12))}
    unseen = {name: cells[:0] for name, cells in controls.items()}
    conditions = [("A", "a"), ("A+B", "a"), ("A+Z", "b"), ("Z", "b"), ("A+B+C", "a")]
    return HeldOut(
        genes=tuple(f"gene {i}" for i in range(G)),
        separator="+",
        queries=tuple(Query(condition, context, "any", controls["a"]) for condition, context in conditions),
        controls=controls,
        truth_controls=unseen,
        shared=False,
        train_shift={name: rng.normal(size=G) for name in ("A", "B", "C", "C+D")},
        train_cells={"A": csr_matrix(rng.poisson(3, size=(9, G)).astype(np.float32))},
        detected=np.ones(G, bool),
        pca_mean=np.zeros(G),
        pca_components=np.eye(G),
    )


def answers(held_out, index, n_cells=10, seed=0):
    methods = {method.name: method.predict(index) for method in baselines(held_out, n_cells, seed)}
    assert list(methods) == NAMES
    return methods


def control_mean(held_out, context):
    return held_out.controls[context].toarray().mean(axis=0, dtype=float)


def test_means_are_the_formulas(held_out):
    shift = held_out.train_shift
    mean_shift = (shift["A"] + shift["B"] + shift["C"] + shift["C+D"]) / 4
    control = control_mean(held_out, "a")
    slope = np.linalg.lstsq(control[:, None], mean_shift, rcond=None)[0][0]
    found = answers(held_out, 0)
    expected = dict(zip(NAMES, (0 * control, slope * control, mean_shift, shift["A"], shift["A"]), strict=True))
    for name, moved in expected.items():
        np.testing.assert_allclose(found[name][0], control + moved, rtol=1e-6, err_msg=name)


def test_additive_sums_what_it_has_seen_and_takes_the_mean_for_the_rest(held_out):
    shift = held_out.train_shift
    mean_shift = np.mean(list(shift.values()), axis=0)
    expected = [shift["A"], shift["A"] + shift["B"], shift["A"] + mean_shift, mean_shift]
    expected.append(shift["A"] + shift["B"] + shift["C"])
    for index, (query, moved) in enumerate(zip(held_out.queries, expected, strict=True)):
        mean, _ = answers(held_out, index)["additive"]
        np.testing.assert_allclose(mean, control_mean(held_out, query.context) + moved, rtol=1e-6)


def test_cells_are_different_training_controls_of_the_context_moved_and_not_clipped(held_out):
    for index, query in enumerate(held_out.queries):
        found = answers(held_out, index)
        still = found["no change"][1]
        pool = [tuple(cell) for cell in held_out.controls[query.context].toarray()]
        assert all(tuple(cell) in pool for cell in still)
        for name in NAMES[1:3] + NAMES[4:]:
            mean, cells = found[name]
            assert cells.dtype == np.float32
            shift = mean - control_mean(held_out, query.context)
            np.testing.assert_allclose(cells - still, np.tile(shift, (10, 1)), atol=1e-5, err_msg=name)
    assert (answers(held_out, 0)["additive"][1] < 0).any()


def test_no_control_cell_is_drawn_twice(held_out):
    cells = answers(held_out, 2, n_cells=50)["no change"][1]
    drawn = sorted(map(tuple, cells))
    assert drawn == sorted(map(tuple, held_out.controls["b"].toarray()))


def test_own_training_mean_gives_its_own_cells_and_nothing_for_the_unseen(held_out):
    own = held_out.train_cells["A"].toarray()
    _, cells = answers(held_out, 0)["own training mean"]
    assert sorted(map(tuple, cells)) == sorted(map(tuple, own))
    assert answers(held_out, 0, n_cells=4)["own training mean"][1].shape == (4, G)
    for index in 1, 2, 3, 4:
        assert answers(held_out, index)["own training mean"] is None


def test_own_training_mean_without_stored_cells_moves_the_controls(held_out):
    held_out.train_cells.clear()
    found = answers(held_out, 0)
    np.testing.assert_array_equal(found["own training mean"][1], found["additive"][1])


def test_draws_depend_on_seed_and_query_only(held_out):
    first = answers(held_out, 0, seed=3)["training mean"][1]
    answers(held_out, 1, seed=3)
    np.testing.assert_array_equal(first, answers(held_out, 0, seed=3)["training mean"][1])
    assert (first != answers(held_out, 0, seed=4)["training mean"][1]).any()
    assert (answers(held_out, 0)["no change"][1] != answers(held_out, 1)["no change"][1]).any()


def test_without_training_perturbations_only_no_change_answers(held_out):
    held_out.train_shift.clear()
    assert [name for name, answer in answers(held_out, 1).items() if answer is not None] == ["no change"]
