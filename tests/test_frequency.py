"""Scores of frequencies against scikit-learn and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics

from stormcell.evaluation import frequency
from stormcell.evaluation.frequency_metrics import CHANCE, FREQUENCY_METRICS


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def targets(rng):
    """Training targets, and truth and prediction of 120 held-out cells: 4 frequencies."""
    truth = rng.normal(size=(120, 4)) * [1, 2, 0.5, 1] + 0.3
    return rng.normal(size=(200, 4)), truth, truth + rng.normal(size=(120, 4)) * [0.1, 0.5, 0.5, 2]


def test_scores_are_those_of_scikit_learn(targets):
    train, truth, predicted = targets
    train = truth  # the same mean, so that scikit-learn's R² is ours
    expected = metrics.r2_score(truth, predicted, multioutput="raw_values")
    np.testing.assert_allclose(frequency.r2(truth, predicted, train), expected)
    null = np.tile(np.median(train, axis=0), (120, 1))
    error, worst = (metrics.mean_absolute_error(truth, p, multioutput="raw_values") for p in (predicted, null))
    np.testing.assert_allclose(frequency.mae_ratio(truth, predicted, train), error / worst)
    board = frequency.frequency_board({"model": predicted}, truth, train).iloc[0]
    assert board["r2"] == pytest.approx(expected.mean())
    assert board["mae_ratio"] == pytest.approx((error / worst).mean())
    assert board["worst_r2"] == pytest.approx(expected.min())


def test_the_nulls_score_their_chance_whatever_the_held_out_mean(targets):
    train, truth, _ = targets
    nulls = {name: np.tile(of(train, axis=0), (120, 1)) for name, of in (("mean", np.mean), ("median", np.median))}
    board = frequency.frequency_board(nulls, truth, train).set_index("method")
    assert board.loc["mean", "r2"] == pytest.approx(CHANCE["r2"], abs=1e-12)
    assert board.loc["mean", "worst_r2"] == pytest.approx(CHANCE["worst_r2"], abs=1e-12)
    assert board.loc["median", "mae_ratio"] == pytest.approx(CHANCE["mae_ratio"])
    assert set(CHANCE) <= set(FREQUENCY_METRICS)


def test_a_block_does_not_see_a_rotation_of_its_vectors_and_single_frequencies_do(targets):
    train, truth, predicted = targets
    turn = np.eye(4)
    turn[1:3, 1:3] = np.array([[1, 1], [-1, 1]]) / np.sqrt(2)
    blocks = [(0,), (1, 2), (3,)]
    plain = frequency.block_r2(truth, predicted, train, blocks)
    turned = frequency.block_r2(truth @ turn, predicted @ turn, train @ turn, blocks)
    np.testing.assert_allclose(turned, plain)
    single = [frequency.r2(truth @ t, predicted @ t, train @ t) for t in (np.eye(4), turn)]
    assert abs(single[1] - single[0])[1:3].min() > 0.05
    np.testing.assert_allclose(plain[[0, 2]], single[0][[0, 3]])
    table = frequency.per_block({"model": predicted}, truth, train, blocks)
    assert table["block"].tolist() == ["1", "2, 3", "4"] and table["size"].tolist() == [1, 2, 1]


def test_a_frequency_that_does_not_vary_is_left_out_and_a_prediction_that_is_not_finite_is_not(targets):
    train, truth, predicted = targets
    truth[:, 2], train[:, 2] = 1.0, 1.0
    board = frequency.frequency_board({"model": predicted}, truth, train).iloc[0]
    each = frequency.r2(truth, predicted, train)
    assert np.isnan(each[2]) and board["r2"] == pytest.approx(each[[0, 1, 3]].mean())
    assert np.isnan(frequency.mae_ratio(truth, predicted, train)[2])
    predicted[5, 0] = np.nan
    board = frequency.frequency_board({"model": predicted}, truth, train).iloc[0]
    assert board[["r2", "r2_low", "mae_ratio"]].isna().all()


def test_intervals_cover_the_score_of_all_cells(rng):
    """95 % intervals of 60 samples of one population: at least 50 hold its R², 1 − 0.2 / 1 = 0.8."""
    inside = 0
    for _ in range(60):
        truth = rng.normal(size=(150, 2))
        predicted = truth + rng.normal(size=(150, 2)) * np.sqrt(0.2)
        row = frequency.frequency_board({"m": predicted}, truth, np.zeros((1, 2)), seed=int(rng.integers(1e6))).iloc[0]
        inside += row["r2_low"] <= 0.8 <= row["r2_high"]
    assert inside >= 50


def test_bags_of_cells_keep_the_value_and_the_width_of_the_interval(rng, monkeypatch):
    truth = rng.normal(size=(1500, 3))
    predicted = truth + rng.normal(size=(1500, 3))
    plain = frequency.frequency_board({"m": predicted}, truth, truth).iloc[0]
    monkeypatch.setattr(frequency, "MOST_UNITS", 300)
    bagged = frequency.frequency_board({"m": predicted}, truth, truth).iloc[0]
    assert bagged["r2"] == pytest.approx(plain["r2"])
    width, bagged_width = (row["r2_high"] - row["r2_low"] for row in (plain, bagged))
    assert bagged_width == pytest.approx(width, rel=0.2)


def test_differences_are_paired(targets):
    """The same error on the same cells cancels: the interval of the difference is narrower than that of a score."""
    train, truth, predicted = targets
    better = truth + 0.9 * (predicted - truth)
    value, low, high = frequency.r2_difference(truth, better, predicted, train)
    expected = np.mean(frequency.r2(truth, better, train) - frequency.r2(truth, predicted, train))
    assert value == pytest.approx(expected) and 0 < low < value < high
    row = frequency.frequency_board({"m": predicted}, truth, train).iloc[0]
    assert high - low < row["r2_high"] - row["r2_low"]
    assert frequency.r2_difference(truth, predicted, predicted, train) == (0, 0, 0)


def test_per_frequency_carries_eigenvalues_and_the_same_scores(targets):
    train, truth, predicted = targets
    table = frequency.per_frequency({"a": predicted, "b": truth}, truth, train, [0.1, 0.2, 0.3, 0.4])
    mine = table[table["method"] == "a"]
    np.testing.assert_allclose(mine["r2"], frequency.r2(truth, predicted, train))
    assert mine["frequency"].tolist() == [1, 2, 3, 4] and mine["eigenvalue"].tolist() == [0.1, 0.2, 0.3, 0.4]
    assert (table[table["method"] == "b"][["r2", "r2_low", "r2_high"]] == 1).all(axis=None)


def test_classes_against_scikit_learn(rng):
    truth = rng.choice(4, 300, p=[0.7, 0.2, 0.08, 0.02])
    predicted = np.where(rng.random(300) < 0.6, truth, rng.integers(4, size=300))
    board = frequency.class_board({"m": predicted, "common": np.zeros(300, int)}, truth).set_index("method")
    assert board.loc["m", "accuracy"] == pytest.approx(metrics.accuracy_score(truth, predicted))
    assert board.loc["m", "balanced_accuracy"] == pytest.approx(metrics.balanced_accuracy_score(truth, predicted))
    assert board.loc["common", "balanced_accuracy"] == pytest.approx(0.25)
    assert board.loc["m", "accuracy_low"] < board.loc["m", "accuracy"] < board.loc["m", "accuracy_high"]
    recall = frequency.per_class({"m": predicted}, truth, list("abcd"))["recall"]
    np.testing.assert_allclose(recall, metrics.recall_score(truth, predicted, average=None))


def test_other_shapes_are_refused(targets):
    train, truth, predicted = targets
    for wrong in (predicted[:-1], predicted[:, :3], predicted[:, 0]):
        with pytest.raises(ValueError, match="predicted values"):
            frequency.frequency_board({"m": wrong}, truth, train)
    with pytest.raises(ValueError, match="one per cell"):
        frequency.class_board({"m": np.zeros(3, int)}, np.zeros(4, int))
