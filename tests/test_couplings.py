"""Couplings: closed forms, scipy and POT, planted partners, the sampler against the plan, and plans from files."""

from __future__ import annotations

import anndata as ad
import h5py
import numpy as np
import ot
import pandas as pd
import pytest
from conftest import ROOT
from hydra.utils import instantiate
from omegaconf import OmegaConf
from scipy import sparse, stats
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from stormcell.analysis.couplings import Coupling, Exact, Nearest, Precomputed, PseudotimeLag, Random, Sinkhorn
from stormcell.analysis.sinkhorn import sinkhorn
from stormcell.config import UserError

RULES = [Random(), Nearest(2), Nearest(2, mutual=True), Sinkhorn(), Sinkhorn(unbalanced=1.0), Exact(), PseudotimeLag()]


def dense(coupling: Coupling) -> np.ndarray:
    return coupling.plan.toarray() if sparse.issparse(coupling.plan) else coupling.plan


@pytest.fixture
def cells():
    """30 source and 40 target cells in 5 dimensions, with pseudotime."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(30, 5)), rng.normal(size=(40, 5)) + 0.7
    return {"x": x, "y": y, "time_x": rng.uniform(0, 0.6, 30), "time_y": rng.uniform(0.3, 1, 40)}


def relative_cost(x, y):
    cost = cdist(x, y, "sqeuclidean")
    return cost / cost.mean()


# ---- the plan


def test_every_rule_gives_a_plan_whose_order_of_cells_plays_no_part(cells):
    rng = np.random.default_rng(1)
    a, b = rng.permutation(30), rng.permutation(40)
    moved = {key: value[a] if key.endswith("x") else value[b] for key, value in cells.items()}
    for rule in RULES:
        plan, permuted = rule(**cells), rule(**moved)
        assert dense(plan).shape == (30, 40) and dense(plan).min() >= 0, rule
        assert abs(dense(plan).sum() - 1) < 1e-9, rule
        np.testing.assert_allclose(dense(permuted), dense(plan)[np.ix_(a, b)], atol=1e-9, err_msg=str(rule))
        assert permuted.diagnostics == pytest.approx(plan.diagnostics, abs=1e-5), rule


@pytest.mark.parametrize("sparsely", [False, True])
def test_diagnostics_marginals_and_barycentre_by_hand(sparsely):
    plan = np.array([[0.25, 0.25, 0], [0, 0, 0.5], [0, 0, 0]])
    coupling = Coupling.of(sparse.csr_matrix(plan) if sparsely else plan, "by hand", mine=3.0)
    np.testing.assert_allclose(coupling.source, [0.5, 0.5, 0])
    np.testing.assert_allclose(coupling.target, [0.25, 0.25, 0.5])
    expected = {"partners": 1.5, "source_cells": 2 / 3, "marginal_error": 1 + 0.5, "mine": 3.0}
    assert coupling.diagnostics == pytest.approx(expected)
    y = np.array([[1.0, 0], [3, 0], [0, 8]])
    # The cell without partners has the mean of all of them, not NaN.
    np.testing.assert_allclose(coupling.barycentre(y), [[2, 0], [0, 8], [1, 4]])


def test_cost_is_relative_to_random_pairs(cells):
    assert Random()(**cells).diagnostics["cost"] == pytest.approx(1)
    for rule in (Nearest(3), Sinkhorn(), Exact()):
        found = rule(**cells)
        by_hand = (dense(found) * relative_cost(cells["x"], cells["y"])).sum()
        assert found.diagnostics["cost"] == pytest.approx(by_hand), rule


@pytest.mark.parametrize(
    "plan", [[[0.5, np.nan]], [[1.5, -0.5]], [[0.4, 0.4]], [0.5, 0.5], np.zeros((0, 2)), [[np.inf, 0]], [[0, 0]]]
)
def test_no_plan_is_refused(plan):
    with pytest.raises(ValueError, match="by hand"):
        Coupling.of(np.array(plan, float), "by hand")


def test_points_that_cannot_be_coupled_are_refused():
    for x, y in [(np.ones((3, 2)), np.ones((3, 1))), (np.ones((0, 2)), np.ones((3, 2))), (np.ones(3), np.ones(3))]:
        with pytest.raises(ValueError, match="points of shapes"):
            Random()(x, y)
    with pytest.raises(ValueError, match="not finite"):
        Random()(np.array([[np.nan]]), np.ones((2, 1)))


# ---- the sampler and the bootstrap


@pytest.mark.parametrize("rule", [Sinkhorn(0.3), Nearest(3), Exact()])
def test_pairs_are_drawn_with_the_probabilities_of_the_plan(cells, rule):
    """Fault 9 of the seed: its sampler rejected the likely pairs."""
    coupling = rule(cells["x"], cells["y"])
    a, b = coupling.sample(40_000, np.random.default_rng(3))
    expected = 40_000 * dense(coupling).ravel()
    seen = np.bincount(a * 40 + b, minlength=1200)
    assert not seen[expected == 0].any()
    common = expected >= 5
    rest = [seen[~common].sum()], [expected[~common].sum()]
    seen, expected = np.append(seen[common], rest[0]), np.append(expected[common], rest[1])
    kept = expected > 0
    assert stats.chisquare(seen[kept], expected[kept]).pvalue > 0.001
    again = coupling.sample(40_000, np.random.default_rng(3))
    assert np.array_equal(a, again[0]) and np.array_equal(b, again[1])


@pytest.mark.parametrize("sparsely", [False, True])
def test_empty_rows_and_columns_are_never_drawn(sparsely):
    plan = np.zeros((4, 5))
    plan[1, 2], plan[3, 4], plan[3, 0] = 0.2, 0.5, 0.3
    coupling = Coupling.of(sparse.csr_matrix(plan) if sparsely else plan, "gaps")
    a, b = coupling.sample(5_000, np.random.default_rng(0))
    seen = np.zeros((4, 5))
    np.add.at(seen, (a, b), 1 / 5_000)
    np.testing.assert_allclose(seen, plan, atol=0.03)
    assert not seen[plan == 0].any()


@pytest.mark.parametrize("rule", [Sinkhorn(0.3), Nearest(3)])
def test_reweighting_by_cells_is_a_bootstrap_of_the_plan(cells, rule):
    coupling, rng = rule(cells["x"], cells["y"]), np.random.default_rng(5)
    a, b = rng.multinomial(30, np.full(30, 1 / 30)), rng.multinomial(40, np.full(40, 1 / 40))
    found, plan = coupling.reweighted(a, b), dense(coupling)
    by_hand = np.zeros_like(plan)
    for i in range(30):
        row = plan[i] * b
        if row.sum() > 0:
            by_hand[i] = a[i] * plan[i].sum() * row / row.sum()
    np.testing.assert_allclose(dense(found), by_hand / by_hand.sum(), atol=1e-15)
    assert isinstance(rule, Nearest) or np.allclose(found.source, a / 30)
    np.testing.assert_allclose(dense(coupling.reweighted(np.ones(30), np.ones(40))), plan, atol=1e-15)
    np.testing.assert_allclose(dense(coupling), plan)


def test_reweighting_refuses_weights_that_are_none():
    coupling = Coupling.of(np.eye(2) / 2, "pairs")
    for weights in ((np.ones(3), np.ones(2)), (np.ones(2), -np.ones(2)), (np.array([1, 0]), np.array([0, 1]))):
        with pytest.raises(ValueError):
            coupling.reweighted(*weights)


# ---- optimal transport


def test_sinkhorn_is_the_textbook_iteration_and_keeps_the_marginals(cells):
    cost = relative_cost(cells["x"], cells["y"])
    kernel, v = np.exp(-cost / 0.1), np.ones(40)
    for _ in range(5_000):
        u = 1 / 30 / (kernel @ v)
        v = 1 / 40 / (kernel.T @ u)
    naive = u[:, None] * kernel * v
    found = Sinkhorn(0.1, tolerance=1e-12)(cells["x"], cells["y"])
    np.testing.assert_allclose(found.plan, naive, rtol=1e-8)
    np.testing.assert_allclose(found.source, 1 / 30, rtol=1e-14)
    np.testing.assert_allclose(found.target, 1 / 40, rtol=1e-10)
    assert found.diagnostics["converged"] == 1 and found.diagnostics["epsilon"] == 0.1


def test_sinkhorn_of_other_marginals_is_that_of_pot(cells):
    rng = np.random.default_rng(2)
    cost, r, s = relative_cost(cells["x"], cells["y"]), rng.dirichlet(np.ones(30)), rng.dirichlet(np.ones(40))
    theirs = ot.sinkhorn(r, s, cost, 0.05, method="sinkhorn_log", numItermax=20_000, stopThr=1e-13)
    ours, converged = sinkhorn(cost, r, s, 0.05, tolerance=1e-11, max_iterations=20_000)
    assert converged
    np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-15)
    relaxed, _ = sinkhorn(cost, r, s, 0.05, 0.3, tolerance=1e-12)
    theirs = ot.unbalanced.sinkhorn_unbalanced(r, s, cost, 0.05, 0.3, reg_type="kl", numItermax=20_000, stopThr=1e-14)
    np.testing.assert_allclose(relaxed, theirs, rtol=1e-6, atol=1e-15)


def test_sinkhorn_goes_from_the_exact_plan_to_random_pairs(cells):
    x, y = cells["x"], cells["y"]
    exact = Exact()(x, y)
    costs = [Sinkhorn(epsilon, max_iterations=20_000)(x, y).diagnostics["cost"] for epsilon in (0.001, 0.05, 0.5, 5)]
    assert costs[0] == pytest.approx(exact.diagnostics["cost"], rel=5e-3)
    assert np.all(np.diff([exact.diagnostics["cost"], *costs, 1]) > 0)
    np.testing.assert_allclose(Sinkhorn(1e5)(x, y).plan, 1 / 1200, rtol=1e-4)


def test_exact_is_the_best_assignment():
    rng = np.random.default_rng(4)
    x, y = rng.normal(size=(25, 4)), rng.normal(size=(25, 4))
    found = Exact()(x, y)
    a, b = linear_sum_assignment(cdist(x, y, "sqeuclidean"))
    expected = np.zeros((25, 25))
    expected[a, b] = 1 / 25
    np.testing.assert_allclose(found.plan.toarray(), expected, atol=1e-12)
    assert found.diagnostics["partners"] == pytest.approx(1) and found.diagnostics["converged"] == 1


@pytest.mark.parametrize("unbalanced", [None, 0.01, 1.0])
def test_sinkhorn_is_exact_where_the_kernel_underflows(unbalanced):
    """exp(−C / ε) is 0 in whole rows and columns: the answer is still that of an iteration in logarithms."""
    rng = np.random.default_rng(6)
    x, y = rng.normal(size=(20, 2)), rng.normal(size=(25, 2))
    x[0], y[0], y[1] = 1e3, 2e3, -2e3
    cost = cdist(x, y, "sqeuclidean") / 50
    r, s = np.full(20, 1 / 20), np.full(25, 1 / 25)
    assert not np.exp(-cost / 0.05)[0].any()
    share = 1 if unbalanced is None else unbalanced / (unbalanced + 0.05)
    f = np.zeros(20)
    for _ in range(1_000):
        g = -share * 0.05 * np.logaddexp.reduce(f[:, None] / 0.05 - cost / 0.05 + np.log(r)[:, None], 0)
        f = -share * 0.05 * np.logaddexp.reduce(g / 0.05 - cost / 0.05 + np.log(s), 1)
    expected = np.exp((f[:, None] + g - cost) / 0.05) * r[:, None] * s
    plan, _ = sinkhorn(cost, r, s, 0.05, unbalanced, tolerance=1e-12, max_iterations=2_000)
    assert np.isfinite(plan).all()
    np.testing.assert_allclose(plan, expected, rtol=1e-5, atol=1e-14)


def test_sinkhorn_says_that_it_has_not_converged(cells):
    found = Sinkhorn(0.002, max_iterations=5)(cells["x"], cells["y"])
    assert found.diagnostics["converged"] == 0 and found.diagnostics["marginal_error"] > 1e-3
    np.testing.assert_allclose(found.source, 1 / 30, rtol=1e-14)


def test_relaxed_marginals_leave_out_cells_that_have_no_counterpart():
    rng = np.random.default_rng(7)
    x, y = rng.normal(size=(40, 3)), np.concatenate([rng.normal(size=(40, 3)), rng.normal(size=(10, 3)) + 30])
    kept, relaxed = Sinkhorn()(x, y), Sinkhorn(unbalanced=0.05)(x, y)
    assert kept.target[40:].sum() == pytest.approx(0.2, rel=1e-4)
    assert relaxed.target[40:].sum() < 1e-3 and relaxed.plan.sum() == pytest.approx(1)
    assert relaxed.diagnostics["cost"] < kept.diagnostics["cost"]


def test_cells_that_are_all_alike_are_coupled_at_random():
    for rule in (Sinkhorn(), Sinkhorn(unbalanced=1.0)):
        found = rule(np.ones((4, 2)), np.ones((5, 2)))
        np.testing.assert_allclose(found.plan, 1 / 20)
        assert found.diagnostics["cost"] == 1


# ---- nearest


def test_nearest_and_mutual_neighbours_by_hand():
    x, y = np.array([[0.0], [1], [10]]), np.array([[0.1], [0.2], [12], [50]])
    np.testing.assert_allclose(dense(Nearest()(x, y)) * 3, [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]])
    np.testing.assert_allclose(dense(Nearest(2)(x, y)) * 6, [[1, 1, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0]])
    # The nearest source cell of 0.2 is 0, not 1: the cell at 1 has no mutual neighbour.
    mutual = Nearest(mutual=True)(x, y)
    np.testing.assert_allclose(dense(mutual) * 2, [[1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0]])
    assert mutual.diagnostics["source_cells"] == pytest.approx(2 / 3)


# ---- pseudotime


def test_lag_couples_a_cell_to_the_cells_that_are_later_by_the_lag():
    """Interleaved cells on a line from 0 to 1: the share of cells before a cell is its time."""
    time = (np.arange(400) + 0.5) / 400
    points = np.zeros((400, 1))
    for lag in (0.1, 0.3):
        found = PseudotimeLag([lag], width=0.021)(points, points, time, time)
        inside = time + lag < 0.93
        np.testing.assert_allclose(found.barycentre(time[:, None])[inside, 0], time[inside] + lag, atol=2e-3)
        np.testing.assert_array_equal(found.source > 0, time + lag <= time[-1] + 0.021)
        assert found.diagnostics["marginal_error"] > 0.1
    mean = PseudotimeLag([0.1, 0.3], width=0.021)(points, points, time, time)
    np.testing.assert_allclose(mean.barycentre(time[:, None])[:200, 0][20:], time[20:200] + 0.2, atol=2e-3)
    single = [PseudotimeLag([lag], width=0.021)(points, points, time, time).plan for lag in (0.1, 0.3)]
    conditional = [plan[:200] / plan[:200].sum(1, keepdims=True) for plan in single]
    expected = sum(conditional) / 2
    np.testing.assert_allclose(mean.plan[:200] / mean.source[:200, None], expected, atol=1e-12)


def test_pseudotime_has_no_unit_and_clusters_may_differ_in_size():
    rng = np.random.default_rng(8)
    a, b = rng.uniform(0, 1, 300), rng.uniform(1, 2, 30)
    rule, x, y = PseudotimeLag(), np.zeros((300, 1)), np.zeros((30, 1))
    plain = rule(x, y, a, b)
    np.testing.assert_allclose(rule(x, y, np.exp(5 * a), np.exp(5 * b)).plan, plain.plan, atol=1e-15)
    # One after the other they fill 0 to ½ and ½ to 1: from the first tenth not even the largest lag leads across.
    order = np.argsort(a)
    assert not plain.source[order[:25]].any() and (plain.source[order[35:]] > 0).all()
    assert np.corrcoef(a[plain.source > 0], plain.barycentre(b[:, None])[plain.source > 0, 0])[0, 1] > 0.9


def test_pseudotime_that_is_missing_or_backwards_is_refused(cells):
    x, y, early, late = np.zeros((30, 1)), np.zeros((40, 1)), np.linspace(0, 1, 30), np.linspace(2, 3, 40)
    with pytest.raises(UserError, match=r"data\.pseudotime_key"):
        PseudotimeLag()(x, y)
    with pytest.raises(UserError, match=r"1 of 30 cells .*data\.pseudotime_key"):
        PseudotimeLag()(x, y, np.where(early == 0, np.nan, early), late)
    with pytest.raises(UserError, match=r"coupling\.lags=.*data\.pseudotime_key"):
        PseudotimeLag()(x, y, early + 5, late)
    with pytest.raises(ValueError, match="pseudotime of shape"):
        PseudotimeLag()(x, y, early[1:], late)


# ---- plans of other programs


@pytest.fixture
def given(tmp_path):
    """A plan between 4 source and 3 target cells, in every form of file; the h5ad files hold all 7 cells."""
    rng = np.random.default_rng(9)
    plan = rng.random((4, 3))
    plan[0, 0] = 0
    a, b = [f"a{i}" for i in range(4)], [f"b{i}" for i in range(3)]
    sparse.save_npz(tmp_path / "plan.npz", sparse.csc_matrix(plan))
    pd.DataFrame(plan, a, b).iloc[::-1, ::-1].to_csv(tmp_path / "plan.csv")
    pd.DataFrame(plan, a, b).to_csv(tmp_path / "plan.csv.gz")
    ad.AnnData(plan, pd.DataFrame(index=a), pd.DataFrame(index=b)).write_h5ad(tmp_path / "x.h5ad")
    pairs = np.zeros((7, 7))
    pairs[:4, 4:] = plan
    everyone = ad.AnnData(np.ones((7, 2)), pd.DataFrame(index=a + b))
    everyone.obsp["plan"], everyone.obsp["dense"] = sparse.csr_matrix(pairs), pairs
    everyone.obsm["named"] = pd.DataFrame(pairs[:, 4:], a + b, b)
    everyone.obsm["unnamed"] = pairs[:, 4:]
    everyone.write_h5ad(tmp_path / "all.h5ad")
    return tmp_path, plan, np.array(a), np.array(b)


FILES = [
    ("plan.npz", None),
    ("plan.csv", None),
    ("plan.csv.gz", None),
    ("x.h5ad", None),
    *(("all.h5ad", key) for key in ("plan", "dense", "named", "unnamed")),
]


@pytest.mark.parametrize(("file", "key"), FILES)
def test_a_plan_comes_back_from_every_form_of_file(given, file, key):
    folder, plan, a, b = given
    found = Precomputed(str(folder / file), key)(np.zeros((4, 2)), np.zeros((3, 2)), names_x=a, names_y=b)
    np.testing.assert_allclose(dense(found), plan / plan.sum(), rtol=1e-6)
    assert found.name == "precomputed"


@pytest.mark.parametrize(("file", "key"), [("plan.csv", None), ("x.h5ad", None), ("all.h5ad", "plan")])
def test_cells_are_matched_by_name(given, file, key):
    """Fewer cells than the file has, in another order: those of one part of a split."""
    folder, plan, a, b = given
    rows, columns = [2, 0, 3], [2, 0]
    rule = Precomputed(str(folder / file), key)
    found = rule(np.zeros((3, 2)), np.zeros((2, 2)), names_x=a[rows], names_y=b[columns])
    expected = plan[np.ix_(rows, columns)]
    np.testing.assert_allclose(dense(found), expected / expected.sum(), rtol=1e-6)


def test_plans_that_do_not_go_with_the_cells_are_refused(given, tmp_path):
    folder, plan, a, b = given

    def refuse(match, file, key=None, x=a, y=b):
        with pytest.raises(UserError, match=match) as refused:
            Precomputed(str(folder / file), key)(np.zeros((len(x), 2)), np.zeros((len(y), 2)), names_x=x, names_y=y)
        assert "coupling." in str(refused.value) and "\n" not in str(refused.value)

    def write(name, values, rows=a, columns=b):
        pd.DataFrame(values, rows, columns).to_csv(tmp_path / name)
        return name

    changed = {value: np.where(np.arange(12).reshape(4, 3) == 5, value, plan) for value in (np.nan, -2.0, np.inf)}
    refuse(r"1 values are no finite numbers", write("nan.csv", changed[np.nan]))
    refuse(r"1 values are no finite numbers", write("inf.csv", changed[np.inf]))
    refuse(r"1 values are negative, the least -2", write("negative.csv", changed[-2.0]))
    refuse(r"rows of 1 of 4 source cells sum to 0, 'a2'", write("zero.csv", plan * [[1], [1], [0], [1]]))
    refuse(r"no source cell has a partner among the 1", write("none.csv", plan * [0, 1, 1]), y=b[:1])
    refuse(r"rows: 'a1' stands more than once", write("twice.csv", plan, ["a0", "a1", "a1", "a3"]))
    refuse(r"columns: 'b1' stands more than once", write("twice_across.csv", plan, a, ["b0", "b1", "b1"]))
    refuse(r"rows: 1 of 5 source cells are not there, 'a9' first \(did", "plan.csv", x=np.append(a, "a9"))
    refuse(r"columns: 1 of 4 target cells are not there, 'q' first", "plan.csv", y=np.append(b, "q"))
    refuse(r"rows are 4 without names, where there are 3 source cells", "plan.npz", x=a[:3])
    refuse(r"columns are 3 without names, where there are 2 target cells", "all.h5ad", "unnamed", y=b[:2])
    refuse(r"has 'plam' \(coupling.key\) \(did you mean 'plan'\?\)", "all.h5ad", "plam")
    refuse(r"coupling.key=plan: only an .h5ad", "plan.csv", "plan")
    refuse(r"ends in none of .npz", "plan.mtx")
    refuse("no such file", "plam.npz")
    for name in ("broken.npz", "broken.h5ad", "broken.csv"):
        (tmp_path / name).write_bytes(b"")
        refuse("could not be read", name)
    np.savez(tmp_path / "arrays.npz", plan)
    refuse("could not be read", "arrays.npz")
    with h5py.File(tmp_path / "other.h5ad", "w") as file:
        file["something"] = [1]
    refuse("could not be read", "other.h5ad")


# ---- keys


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: Sinkhorn(0), r"coupling\.epsilon=0"),
        (lambda: Sinkhorn(epsilon="much"), r"coupling\.epsilon=much"),
        (lambda: Sinkhorn(float("nan")), r"coupling\.epsilon=nan"),
        (lambda: Sinkhorn(unbalanced=-1), r"coupling\.unbalanced=-1"),
        (lambda: Sinkhorn(max_iterations=0), r"coupling\.max_iterations=0"),
        (lambda: PseudotimeLag(width=0), r"coupling\.width=0"),
        (lambda: PseudotimeLag(lags=[]), r"coupling\.lags="),
        (lambda: PseudotimeLag(lags=[0.1, 2]), r"coupling\.lags="),
        (lambda: PseudotimeLag(lags="soon"), r"coupling\.lags=soon"),
        (lambda: Nearest(0)(np.ones((3, 1)), np.ones((4, 1))), r"coupling\.k=0: .* 1 to 4"),
        (lambda: Nearest(5)(np.ones((3, 1)), np.ones((4, 1))), r"coupling\.k=5: .* 1 to 4"),
        (lambda: Nearest(4, mutual=True)(np.ones((3, 1)), np.ones((4, 1))), r"coupling\.k=4: .* 1 to 3"),
        (lambda: Sinkhorn(unbalanced=1e-9, epsilon=1e-9)(np.zeros((2, 1)), np.ones((2, 1))), r"coupling\.unbalanced"),
    ],
)
def test_keys_that_cannot_be_are_refused(make, match):
    with pytest.raises(UserError, match=match):
        make()


def test_the_configs_are_the_defaults_of_the_rules():
    rules = {"random": Random(), "nearest": Nearest(), "ot_sinkhorn": Sinkhorn(), "ot_exact": Exact(),
             "pseudotime_lag": PseudotimeLag(), "precomputed": Precomputed("plan.npz")}  # fmt: skip
    files = {file.stem: OmegaConf.load(file) for file in (ROOT / "conf" / "coupling").glob("*.yaml")}
    files["precomputed"].path = "plan.npz"
    assert {name: instantiate(config) for name, config in files.items()} == rules
    assert {rule.name for rule in rules.values()} == set(files)


# ---- what a coupling is for


def regulation(coupling: Coupling, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The population regression on the pairs of a plan, with an intercept: C⁻¹ B."""
    r, barycentre = coupling.source, coupling.barycentre(y)
    x, barycentre = x - r @ x, barycentre - r @ barycentre
    return np.linalg.solve(x.T @ (r[:, None] * x), x.T @ (r[:, None] * barycentre))


def test_random_pairs_carry_no_regulation_and_transport_does():
    """Unpaired cells of y = x W: from random pairs W is 0 to rounding, from transport near to it."""
    rng = np.random.default_rng(11)
    W = 0.9 * np.eye(8) + np.triu(0.3 * rng.choice([-1, 0, 1], (8, 8)), 1)
    x, before_y = rng.normal(size=(2, 600, 8)) * np.linspace(1, 2, 8)
    y = before_y @ W + 1
    assert np.abs(regulation(Random()(x, y), x, y)).max() < 1e-10
    off = ~np.eye(8, dtype=bool)
    found = regulation(Sinkhorn()(x, y), x, y)
    assert np.corrcoef(found[off], W[off])[0, 1] > 0.5


def test_couplings_of_real_cells(shared_data):
    """Paul's cells: transport pairs nearer cells than chance, and keeps every cell."""
    data = ad.read_h5ad(shared_data("paul2015_myeloid.h5ad"))
    key = next(key for key in data.obs if "cluster" in key)
    names = data.obs[key].value_counts().index[:2]
    values = np.log1p(data.X.toarray() if sparse.issparse(data.X) else data.X)
    x, y = (values[(data.obs[key] == name).to_numpy()][:, :500] for name in names)
    for rule, most in ((Sinkhorn(), 1), (Exact(), 1), (Nearest(5), 1)):
        found = rule(x, y).diagnostics
        assert found["cost"] < most and found["source_cells"] == pytest.approx(1), rule
    assert Exact()(x, y).diagnostics["cost"] < Sinkhorn()(x, y).diagnostics["cost"]
