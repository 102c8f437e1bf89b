"""The closing test of a transition network on cells whose network is known: rows, tables, confidence, sentences."""

import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import pearsonr, spearmanr
from transition_world import EDGES, GENES, edge, fitted, module, world

from stormcell.analysis.couplings import Precomputed, Random
from stormcell.analysis.masked_ridge import moments
from stormcell.evaluation.network import recovery
from stormcell.evaluation.network_verdict import network_verdict
from stormcell.judge_networks import MEAN, NAME, SHIFT, judge_networks
from stormcell.judge_planted import ORACLE, recovery_rows
from stormcell.judge_rivals import RANDOM, SELF, SHUFFLED, WITHIN, rivals

pytestmark = pytest.mark.xdist_group("transitions")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def chain(made):
    """Two transitions by transport; the truth of the simulation is known."""
    data = module(made, transitions=["A>B>C"])
    data.cells.truth.update(network=made.network, genes=GENES)
    return data


@pytest.fixture(scope="module")
def model(chain):
    return fitted(chain, bootstraps=20)


@pytest.fixture(scope="module")
def judged(model, chain):
    return judge_networks(model, chain, ["told"])


@pytest.fixture(scope="module")
def paired(made):
    """One transition, true pairs."""
    data = module(made, Precomputed(str(made.plan)))
    return data, judge_networks(fitted(data, bootstraps=20), data, [])


def test_what_the_edges_hang_on_is_told(judged, model, chain):
    table = judged.table("stability").set_index("compared")
    widths = [name for name in table.index if name.startswith("coupling.epsilon")]
    assert [name.split()[0] for name in widths] == ["coupling.epsilon=0.0125", "coupling.epsilon=0.2"]
    assert table["rank_correlation"].between(0.2, 1).all()
    assert (table["rank_correlation"] < 1 - 1e-9).all()  # each was another fit
    wide = [chain.sides(t, "train", replace(chain.rule, epsilon=0.2)) for t in range(2)]
    shared, parts = model.solved([moments(s.x, s.y, s.coupling, model.mask.regulators) for s in wide])
    expected = [spearmanr(model.weights(t), (shared + part).values)[0] for t, part in enumerate(parts)]
    assert table["rank_correlation"][widths[1]] == pytest.approx(np.mean(expected))


def test_the_oracle_pairs_a_cell_with_itself(made, model, chain):
    """The true partner in the place of a later cell: the planted plan's barycentres, and the row of a perfect truth."""
    names = chain.cells.obs.index
    later = pd.DataFrame(chain.values.copy(), index=names, columns=list(chain.spec.genes))
    exact = np.array(made.network)
    for source, _ in chain.spec.transitions:
        rows = np.flatnonzero(chain.cluster == source)
        scaled = chain.values[rows] / chain.scale
        later.loc[names[rows]] = scaled @ exact * chain.scale
    chain.cells.truth["later"] = later
    try:
        train = [chain.sides(t, "train") for t in range(2)]
        rows = recovery_rows(NAME, model, chain, train, rivals(model, train)).set_index("method")
    finally:
        del chain.cells.truth["later"]
    assert rows["auprc_centred"][ORACLE] == pytest.approx(1.0)
    assert rows["auprc"][ORACLE] == pytest.approx(1.0)
    assert rows["sign_accuracy"][ORACLE] == pytest.approx(1.0)
    assert np.isfinite(rows["auprc"][RANDOM])


# ---- the scoreboard


def test_every_null_stands_beside_the_model(judged):
    rows = judged.rows("held-out cells").set_index("method")
    assert {NAME, RANDOM, SHUFFLED, SELF, WITHIN, MEAN, SHIFT, "all regulators", "masked MLP"} <= set(rows.index)
    assert judged.groups == ["held-out cells", "planted network"]
    assert (rows["n"] == 2).all()
    values = rows[["r2_weighted", "r2_median_gene", "r2_share_above_0", "r2_pairs_weighted"]]
    assert np.isfinite(values).all(axis=None)
    weighted = rows["r2_weighted"]
    assert weighted[NAME] > weighted[SELF] > weighted[RANDOM]
    assert weighted[NAME] > weighted[SHUFFLED]
    assert weighted[RANDOM] < 0.1
    assert weighted[MEAN] == pytest.approx(0, abs=1e-6)


def test_scores_are_medians_over_transitions_of_the_barycentres(judged, model, chain):
    """Against the training mean of the target cluster, in the unit of the expression."""
    asked, weighted, middle = model.mask.in_degree > 0, [], []
    for t in range(2):
        sides, train = chain.sides(t, "test"), chain.sides(t, "train")
        r = sides.coupling.plan.sum(1)
        unit, mean = np.array(chain.spec.gene_sd), train.coupling.plan.sum(0) @ train.y
        true = (sides.coupling.plan @ sides.y) / r[:, None]
        error, spread = ((r @ np.square((true - said) * unit))[asked] for said in (model.predict(sides.x, t), mean))
        weighted.append(1 - error.sum() / spread.sum())
        middle.append(np.median(1 - error / spread))
    for found, metric in ((weighted, "r2_weighted"), (middle, "r2_median_gene")):
        assert judged.value("held-out cells", NAME, metric) == pytest.approx(np.median(found), abs=1e-5)


def test_scores_of_single_pairs_are_those_of_all_pairs_written_out(paired):
    """With one partner a cell the barycentre is the partner, and both scores agree."""
    for metric in ("r2_weighted", "r2_pairs_weighted"):
        assert paired[1].value("held-out cells", NAME, metric) > 0.5
    one, other = (paired[1].value("held-out cells", NAME, key) for key in ("r2_weighted", "r2_pairs_weighted"))
    assert one == pytest.approx(other, abs=1e-6)


def test_rivals_are_fitted_on_the_training_cells_with_the_same_mask(model, chain):
    train = [chain.sides(t, "train") for t in range(2)]
    found = rivals(model, train)
    assert np.array_equal(found[SHUFFLED].mask.in_degree, model.mask.in_degree)
    assert found[SELF].mask.n_edges == 0
    assert found[SELF].edges[0].own.any()
    assert found["all regulators"].mask.n_edges > model.mask.n_edges
    assert abs(found[RANDOM].score()).max() < 0.5 * abs(model.weights(0)).max()
    again = rivals(model, train)
    for name, fit in found.items():
        assert np.array_equal(fit.score(), again[name].score()), name
    side = train[0]
    columns = [GENES.index("G00"), GENES.index("G01")]
    within = np.linalg.lstsq(side.x[:, columns] - side.x[:, columns].mean(0), side.x[:, 3] - side.x[:, 3].mean(), None)
    strict = rivals(fitted(chain, ridge=1e-9), train)[WITHIN]
    here = [int(np.flatnonzero((model.mask.regulator == i) & (model.mask.target == 3))[0]) for i in columns]
    np.testing.assert_allclose(strict.score()[0][here], within[0], atol=1e-4)


def test_recovery_of_the_planted_network(judged, model, chain, made):
    rows = judged.rows("planted network").set_index("method")
    assert {NAME, RANDOM, WITHIN, "Pearson", "Spearman"} <= set(rows.index)
    truth, mask = np.sign(made.network), model.mask
    allowed = mask.dense(np.ones(mask.n_edges)) > 0
    own = mask.dense((model.weights(0) + model.weights(1)) / 2)
    assert not allowed[~np.eye(len(allowed), dtype=bool)].all()
    every = recovery(own, truth)["auprc_ratio"]
    assert rows["auprc_every_pair_ratio"][NAME] == pytest.approx(every, rel=1e-6)
    expected = recovery(own, truth, allowed, sign=None)
    assert rows.loc[NAME, "auprc_centred"] == pytest.approx(expected["auprc"])
    assert rows.loc[NAME, "n"] == (truth[allowed] != 0).sum()
    assert rows.loc[NAME, "auprc_centred_ratio"] > 1.3
    assert rows.loc[NAME, "auprc_centred"] > rows.loc[RANDOM, "auprc_centred"]
    assert rows.loc[NAME, "balanced_sign_accuracy"] > 0.7


# ---- edges


COLUMNS = [
    "transition", "regulator", "target", "weight", "weight_natural", "low", "high", "se", "sign_stability", "fdr",
    "marginal", "exported_sign", "disagrees", "prior_sign", "in_mask",
]  # fmt: skip


def test_every_edge_has_its_confidence(judged, model, chain):
    edges = judged.table("edges")
    assert list(edges) == COLUMNS
    assert len(edges) == 2 * len(EDGES)
    assert not edges.isna().any(axis=None)
    for t, name in enumerate(("A>B", "B>C")):
        mine = edges[edges["transition"] == name]
        assert set(zip(mine["regulator"], mine["target"], strict=True)) == set(EDGES)
        for row in mine.itertuples():
            assert row.weight == pytest.approx(edge(model, row.regulator, row.target, t))
            ratio = chain.spec.gene_sd[GENES.index(row.target)] / chain.spec.gene_sd[GENES.index(row.regulator)]
            assert row.weight_natural == pytest.approx(row.weight * ratio)
    assert (edges["low"] <= edges["high"]).all()
    assert edges["fdr"].between(0, 1).all()
    assert edges["sign_stability"].between(0, 1).all()
    disagrees = np.sign(edges["weight"]) != edges["exported_sign"]
    assert (edges["disagrees"] == disagrees).all()
    assert (edges["exported_sign"] == np.sign(edges["marginal"])).all()


def test_true_edges_are_certain_and_false_ones_are_not(paired):
    edges = paired[1].table("edges").set_index(["regulator", "target"])
    true = np.array([EDGES[edge] != 0 for edge in edges.index])
    assert (edges["fdr"][true] < 0.1).all()
    assert edges["fdr"][~true].median() > 0.1
    assert (edges["sign_stability"][true] > 0.95).all()
    strong = edges.loc[("G00", "G03")]
    assert strong["low"] > 0
    assert strong["low"] <= strong["weight"] <= strong["high"]
    false = edges[~true]
    assert ((false["low"] <= 0) & (false["high"] >= 0)).mean() >= 0.6


def test_the_marginal_sign_is_that_of_the_correlation_over_pairs(paired):
    data, judged = paired
    sides = data.sides(0, "train")
    a, b = np.nonzero(sides.coupling.plan)
    for row in judged.table("edges").itertuples():
        x, y = sides.x[a, GENES.index(row.regulator)], sides.y[b, GENES.index(row.target)]
        assert row.marginal == pytest.approx(pearsonr(x, y).statistic, abs=1e-4)


def test_deviations_sum_to_nothing_over_transitions(judged):
    table = judged.table("differential")
    total = table.groupby(["regulator", "target"])["deviation"].sum()
    assert abs(total).max() < 1e-6
    assert len(table) == 2 * len(EDGES)
    assert not table.isna().any(axis=None)


def test_regulators_and_their_rankings(judged, model, chain):
    table = judged.table("regulators")
    first = table[table["transition"] == "A>B"].set_index("regulator")
    weights = model.weights(0)
    for name, row in first.iterrows():
        mine = model.mask.regulator == GENES.index(name)
        assert row["n_targets"] == mine.sum()
        assert row["signed_strength"] == pytest.approx(weights[mine].sum())
        side = chain.sides(0, "train")
        expected = (side.coupling.target @ side.y - side.coupling.source @ side.x)[GENES.index(name)]
        assert row["own_change"] == pytest.approx(expected)
    assert list(first["rank_strength"]) == sorted(first["rank_strength"])
    ranks = first["own_change"].abs().rank(ascending=False)
    assert (first["rank_own_change"] == ranks).all()


def test_transitions_genes_and_points(judged, chain):
    table = judged.table("transitions")
    assert list(zip(table["source"], table["target"], strict=True)) == [("A", "B"), ("B", "C")]
    assert (table["n_source"] == [len(chain.sides(t, "train").x) for t in range(2)]).all()
    assert {"coupling", "partners", "marginal_error", "cost", "ridge", "r2_weighted"} <= set(table)
    genes = judged.table("genes")
    assert set(genes["gene"]) == {target for _, target in EDGES}, "genes without a regulator are not asked for"
    assert np.isfinite(genes["r2"]).all()
    assert set(judged.points.index) == set(chain.cells.obs.index)
    assert judged.points[["x", "y"]].notna().all(axis=None)
    assert {"transition", "gene", "true", "predicted"} <= set(judged.predicted)


def test_points_of_the_picture_do_not_owe_their_fit_to_the_means_of_the_clusters(judged):
    """True values as departures from the mean of the target cluster, or every prediction would look right."""
    for (_, gene), mine in judged.predicted.groupby(["transition", "gene"]):
        assert abs(mine["true"].mean()) < 0.5, gene


# ---- sentences


def test_the_verdict_says_what_each_part_adds(judged):
    said = judged.verdict
    value = judged.value("held-out cells", NAME, "r2_weighted")
    assert f"median of 2 transitions: {value:.2f}" in said[0]
    for row, words in zip(
        said[1:4], ("coupling adds over random", "prior network adds", "over the self edge"), strict=True
    ):
        assert words in row
        assert re.search(r": [+-]\d\.\d\d R²", row)
    edges = judged.table("edges")
    certain = ((edges["fdr"] <= 0.05) & (edges["sign_stability"] >= 0.95)).sum()
    assert said[4].startswith(f"{certain} of {len(edges)} edges")
    assert "planted network: AUPRC" in said[5]
    assert not any("nan" in row for row in said)
    assert "told" in judged.notes


def test_an_addition_is_one_only_where_its_interval_says_so():
    names = {"model": "m", "random": "r", "shuffled": "s", "self": "o"}
    rng = np.random.default_rng(0)
    own = rng.normal(0.5, 0.05, 12)
    values = {"m": own, "r": own - 0.3, "s": own + rng.normal(0, 0.1, 12), "o": own + 0.2}
    each = pd.concat(
        [pd.DataFrame({"method": k, "transition": range(12), "r2_weighted": v}) for k, v in values.items()]
    )
    edges = pd.DataFrame({"fdr": [0.01, 0.5], "sign_stability": [1.0, 1.0], "disagrees": [False, True]})
    said = network_verdict(each, pd.DataFrame({"group": [], "method": []}), {"edges": edges}, names)
    assert said[1].endswith("better in 12 of 12): an addition")
    assert said[1].startswith("what the coupling adds over random pairs: +0.30 R²")
    assert said[2].endswith("none that can be told")
    assert said[3].endswith("better in 0 of 12): a loss")
    assert said[4].startswith("1 of 2 edges")
    assert said[4].endswith("disagree on 50%")


# ---- corners


def test_one_transition(paired):
    _, judged = paired
    assert judged.table("differential").empty
    assert judged.groups == ["held-out cells"]
    assert "median of 1 transition: " in judged.verdict[0]
    assert "without it)" in judged.verdict[1]
    assert not any("nan" in row for row in judged.verdict)
    assert not judged.table("edges").isna().any(axis=None)


@pytest.mark.filterwarnings("error")
def test_random_pairs_as_the_coupling_of_the_model(made):
    """All barycentres are one, and the mean of the training cells says it as well as any network."""
    data = module(made, Random())
    judged = judge_networks(fitted(data), data, [])
    assert (judged.table("edges")["weight"].abs() < 1e-6).all()
    assert judged.value("held-out cells", NAME, "r2_weighted") == pytest.approx(0, abs=1e-5)
    assert not any("nan" in row for row in judged.verdict)
    assert (judged.table("edges")["fdr"] > 0.05).all()


def test_an_edge_between_two_genes_alone(made, tmp_path):
    """One target with one regulator: eleven genes have none."""
    pd.DataFrame({"source": ["G00"], "target": ["G03"]}).to_csv(tmp_path / "prior.csv", index=False)
    (tmp_path / "cells.h5ad").write_bytes(made.path.read_bytes())
    data = module(tmp_path / "cells.h5ad", Precomputed(str(made.plan)))
    judged = judge_networks(fitted(data), data, [])
    assert judged.table("edges")["weight"].item() > 0.4
    assert set(judged.table("genes")["gene"]) == {"G03"}


def test_one_seed_one_judgement(model, chain, judged):
    again = judge_networks(model, chain, ["told"])
    pd.testing.assert_frame_equal(again.scoreboard, judged.scoreboard)
    for name, table in judged.tables.items():
        pd.testing.assert_frame_equal(again.tables[name], table)
