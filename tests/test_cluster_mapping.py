"""The view of transitions: cells split before they are paired, nothing of a held-out cell in training."""

from functools import partial

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from transition_world import EDGES, counts, module, rewritten, world

from stormcell.analysis.couplings import Exact, Precomputed, Random, Sinkhorn
from stormcell.config import GeneSelection
from stormcell.data.prior import VarpPrior
from stormcell.data.split import held_out_cells


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return world(tmp_path_factory.mktemp("world"))


# ---- what training may know


SCALES = [{"scale": "continuous"}, {"scale": "counts", "genes": GeneSelection(top=15)}]


@pytest.mark.parametrize("keys", SCALES, ids=lambda keys: keys["scale"])
def test_fault_6_no_held_out_cell_has_a_part_in_training(tmp_path, keys):
    """Genes, means, components, scales and plans of training are the same whatever the test cells are like."""
    before = module(counts(tmp_path), components=5, **keys)
    held = set(before.cells.obs.index[~before.split.mask("train")])

    def change(values, names):
        mine = np.isin(names, list(held))
        values[mine] = np.random.default_rng(1).poisson(9, values[mine].shape)

    after = module(counts(tmp_path, change), components=5, **keys)
    assert after.spec == before.spec
    train = before.rows["train"]
    assert np.array_equal(after.rows["train"], train)
    np.testing.assert_allclose(after.points[train], before.points[train], atol=1e-5)
    assert not np.allclose(after.points[before.rows["test"]], before.points[before.rows["test"]])
    one, other = before.sides(0, "train"), after.sides(0, "train")
    np.testing.assert_array_equal(one.x, other.x)
    np.testing.assert_allclose(one.coupling.plan, other.coupling.plan, rtol=1e-3, atol=1e-9)
    for a, b in zip(before.train_batch(3), after.train_batch(3), strict=True):
        assert torch.allclose(a, b)


def test_fault_6_cells_are_split_before_they_are_paired(made):
    """No cell stands on a side of a pair in one part and of a pair in another."""
    data = module(made, transitions=["A>B>C"])
    seen = {part: set() for part in ("train", "validation", "test")}
    for part, cells in seen.items():
        for t, (source, target) in enumerate(data.spec.transitions):
            sides = data.sides(t, part)
            for rows, name in zip(sides.rows, (source, target), strict=True):
                assert set(data.cluster[rows]) == {name}
                cells |= set(rows.tolist())
            assert sides.coupling.plan.shape == (len(sides.rows[0]), len(sides.rows[1]))
    assert sum(map(len, seen.values())) == len(set.union(*seen.values())) == len(data.cells)


def test_the_order_of_the_file_plays_no_part(made, tmp_path):
    shuffled = np.random.default_rng(1).permutation(480)
    path = rewritten(made, tmp_path, lambda cells: cells[shuffled].copy())
    one, other = module(made, transitions=["A>B>C"]), module(path, transitions=["A>B>C"])
    assert one.spec == other.spec
    for step in (0, 1, 17):
        for a, b in zip(one.train_batch(step), other.train_batch(step), strict=True):
            assert torch.equal(a, b)


# ---- sides


def test_sides_are_scaled_cells_and_their_coupling(made):
    """x · sd is the file's own expression; one standard deviation per gene, within clusters, of training cells."""
    data = module(made)
    raw = ad.read_h5ad(made.path).to_df()
    train = [data.cells.obs.index[data.rows["train"][data.cluster[data.rows["train"]] == name]] for name in "AB"]
    variance = sum(len(names) * raw.loc[names].var(ddof=0) for names in train) / sum(map(len, train))
    np.testing.assert_allclose(data.spec.gene_sd, np.sqrt(variance), rtol=1e-5)
    sides = data.sides(0, "test")
    for values, rows in zip((sides.x, sides.y), sides.rows, strict=True):
        expected = raw.loc[data.cells.obs.index[rows]] / np.sqrt(variance)
        np.testing.assert_allclose(values, expected, rtol=1e-4, atol=1e-5)
    again = Sinkhorn()(data.points[sides.rows[0]], data.points[sides.rows[1]])
    np.testing.assert_allclose(sides.coupling.plan, again.plan)
    assert data.sides(0, "test") is sides
    null = data.sides(0, "test", Random())
    assert np.ptp(null.coupling.plan) == 0
    repeats = sides.rows[0][[0, 0, 1]]
    drawn = data.coupled(0, repeats, sides.rows[1], Exact())
    assert drawn.plan.shape == (3, len(sides.rows[1]))


def test_counts_are_smoothed_by_default_and_continuous_values_are_not(tmp_path):
    smoothed = module(counts(tmp_path), scale="counts", components=5)
    log = smoothed.expression.toarray()
    rows = smoothed.rows["train"][smoothed.cluster[smoothed.rows["train"]] == "A"]
    distance = np.linalg.norm(smoothed.points[rows][:, None] - smoothed.points[rows], axis=-1)
    for i in (0, 5, 31):
        near = rows[np.argsort(distance[i])[:20]]
        np.testing.assert_allclose(smoothed.values[rows[i]], log[near].mean(0), rtol=1e-4, atol=1e-5)
    for keys in ({"scale": "continuous"}, {"scale": "counts", "smooth": 1}):
        data = module(tmp_path / "cells.h5ad", components=5, **keys)
        np.testing.assert_allclose(data.values, data.expression.toarray())


@pytest.mark.parametrize(
    ("keys", "transitions"),
    [
        ({"transitions": ["A>B>C"]}, [("A", "B"), ("B", "C")]),
        ({"transitions": ["B>C"]}, [("B", "C")]),
        ({"transitions": None, "pseudotime_key": "pseudotime"}, [("A", "B"), ("B", "C")]),
    ],
)
def test_transitions_are_those_asked_for_or_neighbours_in_time(made, keys, transitions):
    data = module(made, **keys)
    assert list(data.spec.transitions) == transitions
    assert data.spec.n_edges == len(EDGES)


def test_the_genes_of_the_prior_are_kept_beside_the_variable_ones(tmp_path):
    data = module(counts(tmp_path), scale="counts", genes=GeneSelection(top=3), components=2)
    ends = {name for edge in EDGES for name in edge}
    assert ends <= set(data.spec.genes)
    assert len(data.spec.genes) <= len(ends) + 3
    named = {
        (data.spec.genes[i], data.spec.genes[j]) for i, j in zip(data.spec.regulator, data.spec.target, strict=True)
    }
    assert named == set(EDGES), "numbers of genes are those of the genes that were kept"


# ---- pairs for models that are fitted step by step


def test_pairs_depend_on_seed_and_step_alone(made):
    one, same, other = module(made), module(made), module(made, seed=2)
    for step in (7, 2, 400, 2):  # in any order: there is no state
        for a, b in zip(one.train_batch(step), same.train_batch(step), strict=True):
            assert torch.equal(a, b)
    assert not torch.equal(one.train_batch(0).x, one.train_batch(1).x)
    assert not torch.equal(one.train_batch(0).x, other.train_batch(0).x)
    whole, shares = one.train_batch(5), [one.train_batch(5, rank, 2) for rank in range(2)]
    for rank, share in enumerate(shares):
        assert torch.equal(share.x, whole.x[rank::2])
        assert torch.equal(share.y, whole.y[rank::2])


def test_transitions_come_in_turn(made):
    data = module(made, transitions=["A>B>C"])
    assert [int(data.train_batch(step).transition[0]) for step in range(4)] == [0, 1, 0, 1]


def test_pairs_follow_the_plan(made):
    """Over many draws the moments of the pairs are those of the plan: mean 0 on both sides, covariance xᵀ P y."""
    data = module(made, batch_size=20_000)
    sides, batch = data.sides(0, "train"), data.train_batch(0)
    r, s = sides.coupling.source, sides.coupling.target
    x, y = sides.x - r @ sides.x, sides.y - s @ sides.y
    assert abs(batch.x.mean(0)).max() < 0.05
    assert abs(batch.y.mean(0)).max() < 0.05
    drawn = (batch.x.T @ batch.y / len(batch.x)).numpy()
    expected = x.T @ (sides.coupling.plan @ y)
    np.testing.assert_allclose(drawn, expected, atol=0.06)
    assert abs(expected).max() > 0.3


def test_fault_10_drawing_pairs_is_one_search_and_no_loop_over_pairs(made, monkeypatch):
    """A batch asks the generator once, however large it is: no rejection, no list of pairs that were had before."""
    data = module(made, batch_size=100_000)
    asked, real = [], np.random.default_rng

    class Counting:
        def __init__(self, seed):
            self.generator = real(seed)

        def __getattr__(self, name):
            asked.append(name)
            return getattr(self.generator, name)

    monkeypatch.setattr(np.random, "default_rng", Counting)
    assert len(data.train_batch(0).x) == 100_000
    assert len(asked) <= 2


# ---- plans and splits of others


def test_a_plan_by_names_couples_the_cells_of_every_part(made):
    data = module(made, Precomputed(str(made.plan)))
    pairs = pd.read_csv(made.plan, index_col=0)
    for part in ("train", "test"):
        sides = data.sides(0, part)
        names = [data.cells.obs.index[rows] for rows in sides.rows]
        expected = pairs.loc[names[0], names[1]].to_numpy()
        np.testing.assert_allclose(sides.coupling.plan, expected / expected.sum())


def test_a_network_in_varp_of_the_cells(made, tmp_path):
    def put(cells):
        network = np.zeros((12, 12))
        network[0, 3] = 1
        cells.varp["network"] = network

    path = rewritten(made, tmp_path, put)
    data = module(path, prior=VarpPrior(str(path)))
    assert (data.spec.regulator, data.spec.target) == ((0,), (3,))


def test_another_rule_may_split_the_cells(made, tmp_path):
    """held_out_cells by condition: clusters are then held out in other shares, and pairs are still within a part."""

    def screen(cells):
        cells.obs["perturbation"] = np.where(np.arange(len(cells)) % 2, "control", "X")

    path = rewritten(made, tmp_path, screen)
    split = partial(held_out_cells, controls_for_truth=0.25)
    data = module(path, split=split, perturbation_key="perturbation")
    train, test = (np.concatenate(data.sides(0, part).rows) for part in ("train", "test"))
    assert not set(train) & set(test)
    assert (data.split.part[test] == "test").all()
