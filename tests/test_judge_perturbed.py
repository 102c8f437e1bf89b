"""In-silico perturbation: by hand, along paths, and against simulated knock-outs that the model never saw."""

from __future__ import annotations

import functools
from types import SimpleNamespace

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from network_world import network_judgement

from stormcell.analysis.mask import Mask
from stormcell.analysis.propagate import propagate
from stormcell.config import DataConfig, UserError
from stormcell.data.boolean import NETWORKS
from stormcell.data.boolean_cells import simulate_boolean
from stormcell.data.cluster_mapping import ClusterMappingDataModule
from stormcell.data.network_spec import NetworkSpec
from stormcell.data.prior import Prior
from stormcell.data.split_clusters import held_out_in_clusters
from stormcell.judge_perturbed import (
    KNOCK_OUT,
    MOST_PATHS,
    OVER,
    held_level,
    natural_network,
    perturbation_table,
    perturbed_regulators,
    routes,
    source_cells,
)
from stormcell.models.transition import Transition
from stormcell.report.network_perturbed import perturbations, route

STRENGTH = pd.DataFrame({"transition": "A>B", "regulator": ["r", "a"], "strength": [2.0, 1.0]})


def by_hand(transitions=(("A", "B"), ("B", "C")), **options):
    """r → a → b, 2 and −1 in standard deviations, 2 · 3/2 and −1 · 4/3 in natural units; b keeps half of itself.

    Six cells of every cluster; genes r, a, b with standard deviations 2, 3, 4.
    """
    sd = np.array([2.0, 3.0, 4.0])
    spec = NetworkSpec(("r", "a", "b"), (0, 1), (1, 2), (0, 0), transitions, "continuous", tuple(sd))
    model = Transition(spec, None, pooling="independent", **options)
    with torch.no_grad():
        model.deviation.copy_(torch.tensor([2.0, -1.0]))
        model.own.copy_(torch.tensor([0.0, 0.0, 0.5]))
    values = np.random.default_rng(0).uniform(1, 2, (18, 3)).astype(np.float32)
    values[-1], values[-2] = 100, 0  # the observed range, of cells that are no source cells
    rows = {"A": np.arange(6), "B": np.arange(6, 12), "C": np.arange(12, 16)}

    def sides(t, part):
        mine = rows[transitions[t][0]]
        return SimpleNamespace(rows=(mine[:4] if part == "train" else mine[4:], None))

    parts = {"train": np.arange(len(values))}
    return model, SimpleNamespace(spec=spec, values=values, sides=sides, rows=parts), values


def rows_of(table, **words) -> pd.Series:
    for name, word in words.items():
        table = table[table[name] == word]
    return table.set_index("gene")["shift"]


def test_natural_units_and_own_edges_on_the_diagonal():
    model, _, _ = by_hand()
    expected = np.array([[0, 3.0, 0], [0, 0, -4 / 3], [0, 0, 0.5]])
    np.testing.assert_allclose(natural_network(model, 0).toarray(), expected, rtol=1e-6)


def test_knock_out_by_hand():
    """Two steps: a moves by 3 d, b by −4/3 · 3 d; d = −r, and a, b end at the observed range, 0 to 100."""
    model, data, values = by_hand(steps=2)
    table = perturbation_table(model, data, STRENGTH)
    r, a, b = values[:6].astype(float).T
    found = rows_of(table, transition="A>B", regulator="r", kind=KNOCK_OUT)
    moved = np.maximum(-3 * r, -a)
    # The second step starts from what the first has left of a; the first has no shift of b.
    assert found["a"] == pytest.approx(moved.mean(), rel=1e-5)
    assert found["b"] == pytest.approx(np.minimum(-4 / 3 * moved, 100 - b).mean(), rel=1e-5)
    assert "r" not in found  # what is set is no prediction
    over = rows_of(table, transition="A>B", regulator="r", kind=OVER)
    assert over["a"] == pytest.approx((100 - a).mean(), rel=1e-5)
    assert over["b"] == pytest.approx((-b).mean(), rel=1e-5)
    spread = table[(table["transition"] == "A>B") & (table["kind"] == KNOCK_OUT) & (table["gene"] == "a")]["shift_sd"]
    assert spread.iloc[0] == pytest.approx(moved.std(), rel=1e-5)


def test_a_path_goes_through_its_transitions_in_order():
    """One step each: after A>B only a has moved, after B>C b too."""
    model, data, _ = by_hand(steps=1)
    table = perturbation_table(model, data, STRENGTH)
    assert list(rows_of(table, transition="A>B", regulator="r", kind=KNOCK_OUT).index) == ["a"]
    assert set(rows_of(table, transition="A>B>C", regulator="r", kind=KNOCK_OUT).index) == {"a", "b"}
    for _, rows in table.groupby("regulator"):
        assert (rows["shift"].abs().diff().dropna() <= 0).all()
    assert list(dict.fromkeys(table["regulator"])) == ["r", "a"]  # the stronger first


def test_routes():
    def words(*pairs):
        return [name for _, name in routes(tuple(tuple(pair) for pair in pairs))]

    assert words("AB") == ["A>B"]
    assert words("AB", "BC", "BD", "DE") == ["A>B", "B>C", "B>D", "D>E", "A>B>C", "A>B>D>E"]
    assert words("AB", "CD") == ["A>B", "C>D"]
    assert words("AB", "BA") == ["A>B", "B>A"]  # a circle has no beginning
    assert words("SA", "AB", "BA") == ["S>A", "A>B", "B>A", "S>A>B"]  # and is not gone through twice
    many = [f"A{c}" for c in "BCDEFGHIJKLM"] + [f"{c}Z" for c in "BCDEFGHIJKLM"]
    assert len(words(*many)) == len(many) + MOST_PATHS
    order, _ = routes((("B", "C"), ("A", "B")))[-1]
    assert order == [1, 0]


def test_regulators_asked_for_or_of_largest_strength():
    table = pd.DataFrame({"regulator": list("abcdabcd"), "strength": [1, 5, 2, 3, 1, 0, 2.5, 3]})
    model, _, _ = by_hand()
    assert perturbed_regulators(model, table) == ["d", "b", "c"]  # 6, 5, 4.5
    for asked in ("a", ["a"], ["a", "a"]):
        assert perturbed_regulators(by_hand(perturb=asked)[0], table) == ["a"]
    model, data, _ = by_hand(perturb=[])
    assert perturbation_table(model, data, table).empty


def test_a_gene_that_regulates_nothing_is_refused():
    with pytest.raises(UserError, match=r"model.perturb=A: no regulator .*did you mean 'a'"):
        by_hand(perturb=["A"])
    with pytest.raises(UserError, match=r"model.perturb=b: no regulator"):
        by_hand(perturb=["b"])  # a target alone
    for steps in (0, 1.5, True):
        with pytest.raises(UserError, match=r"model\.steps"):
            by_hand(steps=steps)


def test_levels():
    x = np.array([[1.0, -2.0], [3.0, 0.5]])
    low, high = x.min(0), x.max(0)
    np.testing.assert_array_equal(held_level(x, 0, KNOCK_OUT, low, high), 0)
    np.testing.assert_array_equal(held_level(x, 1, KNOCK_OUT, low, high), -2)  # values that were centred
    np.testing.assert_array_equal(held_level(x, 0, OVER, low, high), 3)


# ---- against knock-outs that were simulated


@pytest.fixture(scope="module")
def haematopoiesis(tmp_path_factory):
    """Simulated HSC cells, a state per snapshot; the model, fitted on half of them with the planted mask."""
    cells, network = simulate_boolean("hsc", n_cells=100, step=1.0, seed=1), NETWORKS["hsc"]
    state = [f"s{time:.0f}" for time in cells.obs["time"]]
    path = tmp_path_factory.mktemp("hsc") / "cells.h5ad"
    obs = cells.obs[["time"]].assign(state=state)
    ad.AnnData(cells.matrix, obs=obs, var=pd.DataFrame(index=cells.genes)).write_h5ad(path)
    signs = network.signed.copy()
    np.fill_diagonal(signs, 0)
    regulator, target = np.nonzero(signs)
    config = DataConfig(
        name="hsc", path=str(path), perturbation_key=None, cluster_key="state", scale="continuous",
        transitions=[">".join(sorted(set(state)))],
    )  # fmt: skip

    def prior(genes, truth):
        return Prior(Mask.of(len(genes), regulator, target), [], "planted")

    split = functools.partial(held_out_in_clusters, test_cells=0.5)
    data = ClusterMappingDataModule(config, split, prior=prior, smooth=1, components=10)
    data.setup()
    assert list(data.spec.genes) == cells.genes
    model = Transition(data.spec, None)
    model.initialise(data)
    return cells, data, model


def predicted(data, networks, place: int) -> np.ndarray:
    """Mean over the transitions of the shift of the source cells: G."""
    low, high = data.values.min(0).astype(float), data.values.max(0).astype(float)
    found = []
    for t, network in enumerate(networks):
        x = source_cells(data, t)
        level = held_level(x, place, KNOCK_OUT, low, high)
        found.append(propagate(x, [network], place, level, 3, low, high).shift)
    return np.mean(found, axis=0)


def test_predicts_simulated_knock_outs(haematopoiesis):
    """Pearson correlation over the other genes of predicted and true shift, mean over the snapshots, beside networks
    whose weights change places within the mask, and beside the mean shift of the other knock-outs."""
    cells, data, model = haematopoiesis
    networks = [natural_network(model, t) for t in range(data.spec.n_transitions)]
    targets, rng = ["Gata1", "Pu1", "Gata2", "Cebpa", "Gfi1", "Fli1", "EKLF"], np.random.default_rng(0)
    true = {}
    for gene in targets:
        knocked = simulate_boolean("hsc", n_cells=100, step=1.0, seed=2, knock_out=(gene,))
        true[gene] = np.asarray(knocked.matrix.mean(0) - cells.matrix.mean(0)).ravel()
    exchanged = [[n.copy() for n in networks] for _ in range(10)]
    for other in exchanged:
        for network in other:
            network.data = rng.permutation(network.data)
    own, permuted, mean = [], [], []
    for gene in targets:
        place = cells.genes.index(gene)
        rest = np.arange(len(cells.genes)) != place

        def score(said, rest=rest, gene=gene):
            return np.corrcoef(said[rest], true[gene][rest])[0, 1]

        own.append(score(predicted(data, networks, place)))
        permuted.append(np.median([score(predicted(data, other, place)) for other in exchanged]))
        mean.append(score(np.mean([true[other] for other in targets if other != gene], axis=0)))
    assert np.median(own) > 0.8 and min(own) > 0.5
    assert np.median(own) > np.median(permuted) + 0.3
    assert np.median(own) > np.median(mean) + 0.3


# ---- figure


def test_figure_shows_the_largest_shifts_and_their_signs():
    shift = np.linspace(1.2, -1.1, 20)
    table = pd.DataFrame(
        {"transition": "A>B", "regulator": "Gata1", "kind": KNOCK_OUT, "gene": [f"g{i}" for i in range(20)],
         "shift": shift, "shift_sd": 0.1}
    )  # fmt: skip
    table = pd.concat([table, table.assign(transition="A>B>C", shift=shift / 2)], ignore_index=True)
    judgement = network_judgement(n_transitions=1)
    assert perturbations(judgement) is None
    judgement.tables["perturbations"] = table
    (axes,) = perturbations(judgement).axes
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names[:4] == ["g0", "g19", "g1", "g18"] and len(names) == 12
    widths = [bar.get_width() for bar in axes.patches]
    np.testing.assert_allclose(widths[:2], [1.2, -1.1])
    assert axes.patches[0].get_facecolor() != axes.patches[1].get_facecolor()
    assert route("A>B>C>D") == "A → … → D (3 transitions)" and route("A>B") == "A → B"
