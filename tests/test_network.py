"""Metrics of networks: by hand, against scikit-learn and networkx, at chance, and on BEELINE's file."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score, r2_score

from stormcell.analysis.mask import Mask
from stormcell.evaluation.network import agreement, r_squared, r_squared_summary, recovery, stability
from stormcell.evaluation.regulator_ranking import ABSENT, pagerank, places, regulator_ranking

TRUTH = np.array([[1, 1, -1], [0, 0, 1], [0, 0, 0]])  # 0 → 1 +, 0 → 2 −, 1 → 2 +; the self edge of 0 plays no part


def some_network(n: int, seed: int, share: float = 0.2) -> tuple[np.ndarray, np.random.Generator]:
    rng = np.random.default_rng(seed)
    return rng.choice([-1, 0, 1], (n, n), p=[share / 2, 1 - share, share / 2]), rng


# ---- recovery


def test_a_network_of_three_genes_by_hand():
    #  ranked: 0→1 (+, true +), 2→0 (false), 0→2 (+, true −), 1→2 (+, true +), the other two are 0
    score = np.array([[99, 5, 3], [0, 99, 2], [4, 0, 99]], float)
    found = recovery(score, TRUTH)
    assert found["n_edges"] == 3 and found["density"] == 0.5
    assert found["auprc"] == pytest.approx((1 / 1 + 2 / 3 + 3 / 4) / 3)
    assert found["auprc_ratio"] == pytest.approx(2 * found["auprc"])
    assert found["early_precision"] == pytest.approx(2 / 3)
    assert found["early_precision_ratio"] == pytest.approx(4 / 3)
    # activating: without 0→2 the list is 0→1, 2→0, …: 1 of the first 2; inhibiting: 2→0, 0→2: 0 of the first 1
    assert found["early_precision_activating"] == 0.5 and found["early_precision_inhibiting"] == 0
    assert found["early_precision_ratio_activating"] == pytest.approx(0.5 / (2 / 5))
    assert found["signed_early_precision"] == 0.25
    assert found["sign_accuracy"] == pytest.approx(2 / 3)
    assert found["balanced_sign_accuracy"] == pytest.approx((1 + 0) / 2)
    assert found["unsigned"] == 0


def test_rows_regulate_columns():
    """One asymmetric edge, and the same with the orientation lost."""
    truth = np.array([[0, 1], [0, 0]])
    assert recovery(np.array([[0, 2.0], [1, 0]]), truth)["auprc"] == 1
    assert recovery(np.array([[0, 1.0], [2, 0]]), truth)["auprc"] == 0.5


def test_average_precision_is_that_of_scikit_learn_over_all_ordered_pairs():
    truth, rng = some_network(30, 0)
    score = rng.normal(size=truth.shape).round(1)  # ties
    off = ~np.eye(30, dtype=bool)
    expected = average_precision_score(truth[off] != 0, np.abs(score[off]))
    assert recovery(score, truth)["auprc"] == pytest.approx(expected, abs=1e-12)


def test_ties_at_the_threshold_are_shared_in_expectation():
    """The mean over random orders of the tied edges."""
    truth, rng = some_network(12, 1)
    score = rng.integers(0, 3, truth.shape)
    found = recovery(score, truth)["early_precision"]
    off = ~np.eye(12, dtype=bool)
    strength, true = np.abs(score[off]).astype(float), truth[off] != 0
    drawn = [true[np.argsort(-strength - 0.1 * rng.random(len(strength)))[: true.sum()]].mean() for _ in range(4000)]
    assert found == pytest.approx(np.mean(drawn), abs=0.01)


def test_rounding_does_not_break_ties():
    truth, rng = some_network(20, 2)
    score = rng.normal(size=truth.shape)
    score += score.T
    noisy = score * (1 + 1e-14 * rng.normal(size=score.shape))
    assert recovery(noisy, truth) == pytest.approx(recovery(score, truth))


def test_the_order_of_genes_and_the_scale_play_no_part():
    truth, rng = some_network(25, 3)
    score, order = rng.normal(size=truth.shape), rng.permutation(25)
    moved = recovery(1e6 * score[np.ix_(order, order)], truth[np.ix_(order, order)])
    assert moved == pytest.approx(recovery(score, truth))


def test_random_scores_are_at_chance():
    truth, rng = some_network(60, 4)
    found = pd.DataFrame([recovery(rng.normal(size=truth.shape), truth) for _ in range(20)]).mean()
    assert found["auprc_ratio"] == pytest.approx(1, abs=0.05)
    assert found["early_precision_ratio"] == pytest.approx(1, abs=0.05)
    assert found["signed_early_precision_ratio"] == pytest.approx(1, abs=0.1)
    assert found["balanced_sign_accuracy"] == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("value", [0, 3.0, np.nan, np.inf])
def test_a_constant_score_is_at_chance(value):
    truth, _ = some_network(10, 5)
    found = recovery(np.full(truth.shape, value), truth)
    assert found["auprc_ratio"] == pytest.approx(1)
    assert found["early_precision_ratio"] == pytest.approx(1)
    assert found["signed_early_precision_ratio"] == pytest.approx(1)
    none = not value or np.isnan(value)
    assert found["unsigned"] == (found["n_edges"] if none else 0) and np.isnan(found["sign_accuracy"]) == none


def test_a_missing_score_is_no_opinion():
    truth, rng = some_network(15, 6)
    score = rng.normal(size=truth.shape)
    zero, missing = score.copy(), score.copy()
    zero[3], missing[3] = 0, np.nan
    assert recovery(missing, truth) == recovery(zero, truth)


def test_a_flipped_sign_is_seen_by_the_signs_alone():
    truth, rng = some_network(15, 7)
    score = truth + 0.1 * rng.normal(size=truth.shape)
    right, wrong = recovery(score, truth), recovery(-score, truth)
    assert right["sign_accuracy"] == right["balanced_sign_accuracy"] == 1
    assert wrong["sign_accuracy"] == wrong["balanced_sign_accuracy"] == 0
    assert right["auprc"] == wrong["auprc"] == 1 and right["signed_early_precision"] == 1
    assert recovery(np.abs(score), truth, sign=truth)["sign_accuracy"] == 1  # a sign beside the score
    assert recovery(score, truth, sign=-truth)["sign_accuracy"] == 0


def test_always_activating_is_at_half_when_balanced():
    truth = np.zeros((6, 6), int)
    truth[0, 1:], truth[1, 2] = 1, -1
    found = recovery(np.ones((6, 6)), truth)
    assert found["sign_accuracy"] == pytest.approx(5 / 6) and found["balanced_sign_accuracy"] == 0.5


def test_candidates_and_regulators_restrict_the_pairs():
    truth, rng = some_network(20, 8)
    score, candidates = rng.normal(size=truth.shape), rng.random(truth.shape) < 0.5
    found = recovery(score, truth, candidates)
    off = candidates & ~np.eye(20, dtype=bool)
    assert found["density"] == pytest.approx((truth[off] != 0).mean())
    assert found["auprc"] == pytest.approx(average_precision_score(truth[off] != 0, np.abs(score[off])))
    rows = np.zeros((20, 20), bool)
    rows[[2, 5]] = True
    assert recovery(score, truth, regulators=[2, 5]) == recovery(score, truth, rows)
    elsewhere = np.where(off, score, 1e9)
    assert recovery(elsewhere, truth, candidates) == pytest.approx(found)


def test_recovery_refuses():
    for score, truth, more in [
        (np.zeros((3, 3)), np.zeros((3, 3)), {}),
        (np.zeros((2, 2)), TRUTH, {}),
        (np.zeros((3, 3)), 2 * TRUTH, {}),
        (np.zeros((3, 2)), TRUTH[:, :2], {}),
        (np.zeros((3, 3)), TRUTH, {"candidates": np.ones((2, 2))}),
        (np.zeros((3, 3)), TRUTH, {"candidates": np.eye(3)}),
    ]:
        with pytest.raises(ValueError):
            recovery(score, truth, **more)


# ---- prediction


def test_r_squared_is_that_of_scikit_learn_with_weights():
    rng = np.random.default_rng(0)
    true = rng.normal(size=(40, 5)) * [1, 2, 3, 4, 5]
    predicted, weights = true + rng.normal(size=true.shape), rng.random(40)
    each = r2_score(true, predicted, sample_weight=weights, multioutput="raw_values")
    assert np.allclose(r_squared(true, predicted, weights), each)
    found = r_squared_summary(true, predicted, weights)
    assert found["median_gene"] == pytest.approx(np.median(each))
    assert found["variance_weighted"] == pytest.approx(
        r2_score(true, predicted, sample_weight=weights, multioutput="variance_weighted")
    )
    assert found["share_above_0"] == (each > 0).mean() and found["constant"] == 0


def test_fault_7_one_near_constant_gene_does_not_own_the_score():
    """The plain mean over genes of the source is −100 here."""
    rng = np.random.default_rng(1)
    true = rng.normal(size=(50, 6))
    true[:, 4], true[:, 5] = 3 + 1e-6 * true[:, 4], 7.0
    predicted = true + 0.5 * rng.normal(size=true.shape)
    plain = r2_score(true, predicted, multioutput="raw_values")
    assert plain.mean() < -100
    each, found = r_squared(true, predicted), r_squared_summary(true, predicted)
    assert np.isnan(each[4:]).all() and np.allclose(each[:4], plain[:4])
    assert found["constant"] == 2 and 0.6 < found["median_gene"] < 0.9 and found["share_above_0"] == 1
    assert np.isnan(r_squared_summary(np.ones((4, 2)), np.zeros((4, 2)))["median_gene"])


def test_the_mean_predicts_nothing():
    true = np.random.default_rng(2).normal(size=(30, 3))
    assert r_squared(true, np.tile(true.mean(0), (30, 1))) == pytest.approx(np.zeros(3), abs=1e-12)


# ---- stability and agreement


def test_stability_by_hand():
    a, b = np.array([4, -3, 2, 1, 0, 0.0]), np.array([4, 2, -3, 1, 0, 0.0])
    found = stability([a, b], top=2)
    assert found["jaccard"] == pytest.approx(1 / 3)  # {0, 1} and {0, 2}
    assert found["rank_correlation"] == pytest.approx(pd.Series(a).corr(pd.Series(b), method="spearman"))
    same = stability([a, 2 * a, a], top=3)
    assert same["rank_correlation"] == pytest.approx(1) and same["jaccard"] == 1
    assert stability([a, -a], top=3)["rank_correlation"] == pytest.approx(-1)
    assert stability([a, np.zeros(6)], top=3)["rank_correlation"] == 0
    assert stability([np.zeros(6), np.zeros(6)])["jaccard"] == 0


def test_random_networks_are_as_unstable_as_chance():
    rng = np.random.default_rng(3)
    found = stability(list(rng.normal(size=(30, 500))), top=100)
    assert abs(found["rank_correlation"]) < 0.02
    assert found["jaccard"] == pytest.approx(found["jaccard_chance"], abs=0.01)
    with pytest.raises(ValueError, match="two networks"):
        stability([np.ones(3)])
    with pytest.raises(ValueError, match="same edges"):
        stability([np.ones(3), np.ones(4)])


def test_agreement_by_hand():
    sign, known = np.array([1, 1, -1, -1, 1]), np.array([1, 1, 1, -1, 0])
    weight, present = np.array([5, -4, 3, 2, 1.0]), np.array([1, 0, 1, 1, 0], bool)
    found = agreement(sign, known, weight, present)
    assert found["sign_accuracy"] == 0.75 and found["always_plus"] == 0.75
    assert found["balanced_sign_accuracy"] == pytest.approx((2 / 3 + 1) / 2)
    assert found["auprc"] == pytest.approx((1 + 2 / 3 + 3 / 4) / 3)
    assert found["n_shared"] == 3 and found["n_signed"] == 4
    assert agreement(sign, known, weight)["n_shared"] == 4
    none = agreement(sign, 0 * known, weight)
    assert np.isnan(none["sign_accuracy"]) and np.isnan(none["auprc"]) and np.isnan(none["always_plus"])


# ---- ranking of regulators


def test_pagerank_is_that_of_networkx_on_the_reversed_network():
    import networkx as nx

    truth, rng = some_network(15, 9)
    np.fill_diagonal(truth, 0)
    mask = Mask.of(15, *np.nonzero(truth))
    values = rng.normal(size=mask.n_edges)
    graph = nx.DiGraph()
    graph.add_nodes_from(range(15))
    graph.add_weighted_edges_from(zip(mask.target, mask.regulator, np.abs(values), strict=True))
    expected = nx.pagerank(graph, tol=1e-12, max_iter=1000)
    assert pagerank(mask, values) == pytest.approx(np.array([expected[gene] for gene in range(15)]), abs=1e-9)


def test_ranking_beside_its_nulls():
    mask = Mask.of(5, [0, 0, 0, 1, 3], [1, 2, 4, 2, 4])
    values = np.array([[1.0, -1, 1, 9, 2], [1, 1, 1, 0, 0]])
    in_order = values[:, [0, 1, 3, 2, 4]]  # the mask sorts by target: 0→1, 0→2, 1→2, 0→4, 3→4
    change = np.array([[0, -7, 5, 1, 0], [3, 0, 0, 0, 0.0]])
    found = regulator_ranking(mask, in_order, change)
    assert mask.regulators.tolist() == [0, 1, 3]
    dense = [mask.dense(row) for row in in_order]
    assert np.allclose(found["strength"], [np.abs(w).sum(1)[[0, 1, 3]] for w in dense])
    assert np.allclose(found["signed"], [w.sum(1)[[0, 1, 3]] for w in dense])
    assert found["targets"].tolist() == [[3, 1, 1]] * 2 and found["change"].tolist() == [[0, 7, 1], [3, 0, 0]]
    ranks = places(["Gata1", "Klf1", "Spi1"], {"strength": found["strength"][0], "targets": found["targets"]}, ["Spi1"])
    assert ranks == {"Spi1": {"strength": 3, "targets": 2.5}}
    assert places(["a", "b", "c"], {"change": found["change"]}, ["b", "x"]) == {"b": {"change": 1.75}, "x": ABSENT}
    with pytest.raises(ValueError, match="of 5 edges"):
        regulator_ranking(mask, values[:, :3], change)


def test_strength_follows_the_number_of_targets_when_weights_are_noise():
    rng = np.random.default_rng(0)
    keep = rng.random((200, 40)) < np.linspace(0.02, 0.6, 40)
    target, regulator = np.nonzero(keep & (np.arange(200)[:, None] != np.arange(40)))
    mask = Mask.of(200, regulator, target)
    found = regulator_ranking(mask, rng.normal(size=(1, mask.n_edges)), np.zeros((1, 200)))
    assert np.corrcoef(found["strength"][0], found["targets"][0])[0, 1] > 0.9


# ---- BEELINE's file


def test_beeline_gsd_in_the_figures_of_others(shared_data):
    """Trapezoids between the points of the curve were .275 (Pearson) and .376 (Spearman); steps are .283 and .379."""
    from sklearn.metrics import auc, precision_recall_curve

    from stormcell.evaluation.network_rivals import pearson, spearman

    x = pd.read_csv(shared_data("beeline_gsd_ExpressionData.csv.gz"), index_col=0).T
    edges = pd.read_csv(shared_data("beeline_gsd_refNetwork.csv"))
    truth = np.zeros((19, 19), int)
    truth[x.columns.get_indexer(edges["Gene1"]), x.columns.get_indexer(edges["Gene2"])] = np.where(
        edges["Type"] == "+", 1, -1
    )
    full = Mask.full(19, range(19))
    off = ~np.eye(19, dtype=bool)
    for method, trapezoid, auprc, early, sign, balanced in [
        (pearson, 0.275, 0.283, 1.36, 0.92, 0.93),
        (spearman, 0.376, 0.379, 1.78, 0.89, 0.91),
    ]:
        score = method(x.to_numpy(), full)
        found = recovery(score, truth)
        curve = precision_recall_curve(truth[off] != 0, np.abs(score[off]).round(9))
        assert auc(curve[1], curve[0]) == pytest.approx(trapezoid, abs=6e-4)
        assert found["auprc"] == pytest.approx(auprc, abs=6e-4)
        assert found["n_edges"] == 76 and found["density"] == pytest.approx(0.222, abs=6e-4)
        assert found["early_precision_ratio"] == pytest.approx(early, abs=6e-3)
        assert found["sign_accuracy"] == pytest.approx(sign, abs=6e-3)
        assert found["balanced_sign_accuracy"] == pytest.approx(balanced, abs=6e-3)
