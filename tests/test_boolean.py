"""The curated networks against what was published of them, and their cells against the equations."""

import csv
import itertools

import numpy as np
import pytest

from stormcell.config import UserError
from stormcell.data.boolean import NETWORKS, BooleanNetwork
from stormcell.data.boolean_cells import simulate_boolean
from stormcell.data.linear_transition import simulate_linear


def steady(name):
    network = NETWORKS[name]
    return {frozenset(np.array(network.genes)[state]) for state in network.steady_states()}


def means(made, keep):
    return dict(zip(made.genes, made.matrix[np.flatnonzero(keep)].toarray().mean(0), strict=True))


# ---- networks


@pytest.mark.parametrize(
    ("name", "genes", "density", "activating"),
    [("mcad", 5, 0.650, 5), ("vsc", 8, 0.268, 0), ("hsc", 11, 0.236, 15), ("gsd", 19, 0.222, 52)],
)
def test_sizes_are_those_of_the_benchmark(name, genes, density, activating):
    signed = NETWORKS[name].signed
    between = signed[~np.eye(len(signed), dtype=bool)]
    assert len(signed) == genes and np.round((between != 0).mean(), 3) == density
    assert (signed > 0).sum() == activating


def test_gsd_is_the_published_edge_list(shared_data):
    network = NETWORKS["gsd"]
    with shared_data("beeline_gsd_refNetwork.csv").open() as file:
        published = {(row["Gene1"], row["Gene2"], row["Type"]) for row in csv.DictReader(file)}
    ours = {
        (network.genes[i], network.genes[j], "+" if network.signed[i, j] > 0 else "-")
        for i, j in np.argwhere(network.signed)
    }
    assert ours == published and len(ours) == 76 + 3


def test_hsc_has_the_rules_that_scanpy_ships():
    """Krumsiek et al.'s table in another program: the same next state from all 2,048 states, the same signs."""
    from pathlib import Path

    import scanpy

    text = (Path(scanpy.__file__).parent / "sim_models" / "krumsiek11.txt").read_text()
    network, rules, signs = NETWORKS["hsc"], {}, {}
    for line in text.replace("Pu.1", "Pu1").replace("SCL", "Scl").splitlines():
        words = line.split()
        if " = " in line and not line.startswith("#"):
            rules[words[0]] = " ".join(words[2:])
        elif len(words) == 3 and words[0] in network.rules and words[1] in network.rules:
            signs[words[1], words[0]] = np.sign(float(words[2]))
    assert set(rules) == set(network.rules)
    states = np.array(list(itertools.product([False, True], repeat=11)))
    expected = [
        [eval(rules[gene], {}, dict(zip(network.genes, map(bool, state), strict=True))) for gene in network.genes]
        for state in states
    ]
    np.testing.assert_array_equal(network.next(states), expected)
    found = {(network.genes[i], network.genes[j]): network.signed[i, j] for i, j in np.argwhere(network.signed)}
    assert found == signs


def test_steady_states_are_the_published_fates():
    assert steady("mcad") == {frozenset({"Fgf8", "Pax6", "Sp8"}), frozenset({"Emx2", "Coup"})}
    assert steady("vsc") == {
        frozenset({"Nkx22", "Nkx61"}),  # p3
        frozenset({"Olig2", "Nkx61", "Pax6"}),  # pMN
        frozenset({"Irx3", "Nkx61", "Pax6"}),  # p2
        frozenset({"Irx3", "Nkx62", "Dbx2", "Pax6"}),  # p1
        frozenset({"Irx3", "Dbx1", "Dbx2", "Pax6"}),  # p0
    }
    lineages = {
        frozenset({"Gata1", "Fog1", "EKLF", "Scl"}),  # erythroid
        frozenset({"Gata1", "Fog1", "Fli1", "Scl"}),  # megakaryocyte
        frozenset({"Cebpa", "Pu1", "cJun", "EgrNab"}),  # monocyte
        frozenset({"Cebpa", "Pu1", "Gfi1"}),  # granulocyte
    }
    assert lineages < steady("hsc")
    male, female = (next(s for s in steady("gsd") if gene in s) for gene in ("SOX9", "FOXL2"))
    assert {"AMH", "SRY", "DHH", "FGF9"} <= male and {"WNT4", "CTNNB1", "RSPO1"} <= female
    assert len(steady("gsd")) == 3  # the third is all off


@pytest.mark.parametrize("name", NETWORKS)
def test_decision_diagrams_are_the_sum_over_the_truth_table(name):
    """Against Σ over the true rows of Π h Π (1 − h), with every regulator of every gene."""
    network, rng = NETWORKS[name], np.random.default_rng(0)
    on = rng.random((len(network.genes), 5))
    for j, gene in enumerate(network.genes):
        inputs = np.flatnonzero(network.signed[:, j])
        rows = np.zeros((2 ** len(inputs), len(network.genes)), bool)
        rows[:, inputs] = list(itertools.product([False, True], repeat=len(inputs)))
        holds = network.next(rows)[:, j]
        weight = np.where(rows[:, inputs, None], on[inputs], 1 - on[inputs]).prod(1)  # rows × 5
        np.testing.assert_allclose(network.decision(gene).probability(on), weight[holds].sum(0), atol=1e-12)


def test_an_input_without_its_edge_is_read_as_off():
    network = BooleanNetwork("toy", {"A": "A", "B": "not A", "C": "A and not B"}, {}, 1.0, {})
    on = np.array([[0.3], [0.6], [0.0]])
    assert network.decision("B").probability(on) == pytest.approx(0.7)
    assert network.decision("B", without="A").probability(on) == 1
    assert network.decision("C", without="A").probability(on) == 0
    assert network.decision("C", without="B").probability(on) == pytest.approx(0.3)
    assert network.signed.tolist() == [[1, -1, 1], [0, 0, -1], [0, 0, 0]]
    with pytest.raises(ValueError, match="both activates and represses"):
        _ = BooleanNetwork("toy", {"A": "A and not A"}, {}, 1.0, {}).signed


# ---- cells


@pytest.fixture(scope="module")
def hsc():
    return simulate_boolean("hsc", n_cells=60, seed=3)


def test_equal_seeds_make_equal_cells_and_others_do_not():
    first, again, other = (simulate_boolean("mcad", n_cells=20, n_snapshots=3, seed=seed) for seed in (1, 1, 2))
    assert (first.matrix != again.matrix).nnz == 0 and first.obs.equals(again.obs)
    assert (first.matrix != other.matrix).nnz > 0


def test_snapshots_share_no_cell(hsc):
    assert hsc.matrix.shape == (16 * 60, 11) and hsc.obs.index.is_unique
    dense, number = hsc.matrix.toarray(), hsc.obs["snapshot"].to_numpy()
    alive = dense[dense.any(1)]  # cells in which every gene has gone silent are alike
    assert len(np.unique(alive, axis=0)) == len(alive) > 0.95 * len(dense)
    # The same cells half a time unit later are like those of the next snapshot on average, and are none of them.
    later, following = hsc.truth["later"].to_numpy()[number == "t05"], dense[number == "t06"]
    assert np.abs(later.mean(0) - following.mean(0)).max() < 0.5
    assert np.abs(later[:, None] - following).sum(2).min() > 1e-3
    # They go with their own past: the oracle's pairs correlate where pairs of strangers do not.
    now = dense[number == "t05"]
    own = np.corrcoef(now[:, hsc.genes.index("Gata2")], later[:, hsc.genes.index("Gata2")])[0, 1]
    stranger = np.corrcoef(now[:, hsc.genes.index("Gata2")], following[:, hsc.genes.index("Gata2")])[0, 1]
    assert own > 0.7 and abs(stranger) < 0.4


def test_cells_end_where_their_branch_says(hsc):
    """The branch is told from proteins on the way; the mRNA of its cells in the end is the Boolean steady state."""
    network, last = NETWORKS["hsc"], (hsc.obs["snapshot"] == "t16").to_numpy()
    fates = {
        "erythroid": {"Gata1", "Fog1", "EKLF", "Scl"},
        "megakaryocyte": {"Gata1", "Fog1", "Fli1", "Scl"},
        "granulocyte": {"Cebpa", "Pu1", "Gfi1"},
    }
    for branch, expected in fates.items():
        found = means(hsc, last & (hsc.obs["branch"] == branch).to_numpy())
        assert {gene for gene, level in found.items() if level > 1} == expected, branch
    assert set(hsc.obs["branch"]) <= {*network.branches, "progenitor"}
    assert (hsc.obs["branch"][hsc.obs["time"] <= 1] == "progenitor").mean() > 0.9
    assert (hsc.obs["branch"][last] == "progenitor").mean() < 0.1
    clusters = hsc.obs["cluster"]
    assert clusters.iloc[0] == "t01" and clusters[last].str.endswith("_t16").mean() > 0.9


def test_settled_levels_and_noise_are_those_of_the_equations():
    """DHH is on with SOX9: mRNA at m / ℓx = 2 with variance c² x dt / (2 ℓx − ℓx² dt), exact for Euler's steps."""
    made = simulate_boolean("gsd", n_cells=300, n_snapshots=1, step=8.0, seed=1)
    male = (made.obs["branch"] == "sertoli").to_numpy()
    level = made.matrix.toarray()[male][:, made.genes.index("DHH")]
    variance = 10**2 * 2 * 0.01**2 / (2 * 10 * 0.01 - (10 * 0.01) ** 2)
    assert level.mean() == pytest.approx(2, abs=4 * np.sqrt(variance / len(level)) + 0.02)
    assert level.var() == pytest.approx(variance, rel=0.3)


def test_a_knocked_out_gene_is_silent_and_its_targets_follow():
    wild, lacking = (simulate_boolean("hsc", n_cells=40, seed=1, knock_out=genes) for genes in ((), ("Gata1",)))
    assert lacking.matrix[:, lacking.genes.index("Gata1")].nnz == 0
    late = (wild.obs["time"] > 6).to_numpy()
    without = means(lacking, late)
    assert max(without[gene] for gene in ("Fog1", "EKLF", "Fli1", "Scl")) < 0.05 < means(wild, late)["Fog1"]
    assert "erythroid" not in set(lacking.obs["branch"])
    np.testing.assert_array_equal(lacking.truth["network"], wild.truth["network"])


def test_an_edge_switched_off_moves_its_target_in_one_arm_only():
    made = simulate_boolean("hsc", n_cells=200, n_snapshots=1, step=8.0, switched_off="Gata1 > Fog1", seed=1)
    wild = simulate_boolean("hsc", n_cells=200, n_snapshots=1, step=8.0, seed=1)
    rewired = (made.obs["arm"] == "rewired").to_numpy()
    assert rewired.sum() == 100 and set(made.obs["cluster"]) == {"intact_t01", "rewired_t01"}
    np.testing.assert_array_equal(made.matrix[~rewired].toarray(), wild.matrix[~rewired].toarray())
    off, on = means(made, rewired), means(made, ~rewired)
    assert off["Fog1"] == 0 and on["Fog1"] > 0.3
    assert off["Gata1"] > 0.3  # the regulator is there, the edge is not


def test_dropout_loses_low_values_at_its_rate():
    kept, lost = (simulate_boolean("gsd", n_cells=200, n_snapshots=4, dropout=q, seed=1) for q in (0.0, 0.5))
    full, thin = kept.matrix.toarray(), lost.matrix.toarray()
    gone = (thin == 0) & (full > 0)
    expressed = (full > 0).mean(0) > 0.9
    assert (thin[~gone] == full[~gone]).all()
    assert gone[:, expressed].mean() == pytest.approx(0.25, abs=0.03)  # half of the lower half
    assert not gone[full > np.median(full, axis=0)].any()
    assert kept.truth["later"].equals(lost.truth["later"])
    assert kept.truth["later"].index.equals(kept.obs.index)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"network": "hcs"}, "network=hcs.*did you mean 'hsc'"),
        ({"switched_off": "Gata1>Fogg1"}, "switched_off=Gata1>Fogg1.*did you mean 'Gata1>Fog1'"),
        ({"switched_off": "Fog1>Gata1"}, "no such edge"),
        ({"switched_off": "Gata1>Fog1", "n_cells": 1}, "two cells"),
        ({"knock_out": ["gata1"]}, "knock_out: 'gata1'.*did you mean 'Gata1'"),
        ({"knock_out": "Gata1"}, "a list"),
        ({"n_cells": 0}, "n_cells=0"),
        ({"n_cells": 2.5}, "n_cells=2.5"),
        ({"n_snapshots": 0}, "n_snapshots=0"),
        ({"step": 0}, "step=0"),
        ({"step": "a"}, "step='a'"),
        ({"step": float("nan")}, "step=nan"),
        ({"dropout": 1.5}, "dropout=1.5"),
        ({"seed": -1}, "seed=-1"),
    ],
)
def test_what_cannot_be_simulated_is_said(arguments, says):
    with pytest.raises(UserError, match=says):
        simulate_boolean(**arguments)


# ---- the linear world


def test_linear_cells_are_what_the_equation_says():
    """Least squares on the same cells, in the true regulators and the gene itself, returns W to its standard error."""
    made = simulate_linear(n_genes=20, n_candidates=6, n_cells=2000, seed=1)
    assert made.mask.n_edges == 120 and (made.mask.in_degree == 6).all()
    assert ((made.network != 0).sum(0) == 3).all() and not np.diag(made.network).any()
    assert (made.weights != 0).sum() == 60
    for target in range(20):
        regulators = np.flatnonzero(made.network[:, target])
        design = np.column_stack([made.x[:, regulators], made.x[:, target], np.ones(2000)])
        found = np.linalg.lstsq(design, made.partner[:, target], rcond=None)[0]
        expected = [*made.network[regulators, target], 0.9, made.shift[target]]
        np.testing.assert_allclose(found, expected, atol=0.06)
    explained = made.x * 0.9 + made.x @ made.network + made.shift
    r2 = 1 - ((made.partner - explained) ** 2).sum() / ((made.partner - made.partner.mean(0)) ** 2).sum()
    assert r2 == pytest.approx(0.97, abs=0.01)


def test_linear_states_are_of_other_cells():
    made = simulate_linear(n_cells=400, seed=2)
    np.testing.assert_allclose(made.y.mean(0), made.partner.mean(0), atol=0.6)
    cross = np.corrcoef(made.x[:, 0], made.y[:, 0])[0, 1]
    assert abs(cross) < 0.2 < np.corrcoef(made.x[:, 0], made.partner[:, 0])[0, 1]
    np.testing.assert_array_equal(simulate_linear(n_cells=400, seed=2).y, made.y)
    with pytest.raises(ValueError, match="among 2 candidates"):
        simulate_linear(n_candidates=2)
