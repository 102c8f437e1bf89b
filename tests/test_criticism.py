"""Posterior predictive checks: closed forms, and coverage of right and of wrong models of planted counts."""

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix
from scipy.stats import spearmanr

from stormcell.evaluation.criticism import criticism

N, G = 400, 30


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def names(n=G):
    return [f"g{i}" for i in range(n)]


class NegativeBinomial:
    """Counts with a mean for every cell and gene, from near zero to 30."""

    def __init__(self, rng, theta=2.0):
        self.rng, self.theta = rng, theta
        self.mean = np.exp(rng.normal(0, 0.5, (N, 1)) + np.linspace(-4, 3, G))

    def draw(self, theta=None, scale=1.0):
        theta = theta or self.theta
        return self.rng.poisson(scale * self.mean * self.rng.gamma(theta, 1 / theta, (N, G))).astype(np.float32)

    def draws(self, n=40, **wrong):
        return (self.draw(**wrong) for _ in range(n))


def test_columns_are_what_their_names_say(rng):
    counts, draws = rng.poisson(2, (50, 4)), [rng.poisson(3, (50, 4)) for _ in range(3)]
    table, summary = criticism(csr_matrix(counts), iter(draws), names(4))
    every = np.stack(draws)
    expected = {
        "mean_observed": counts.mean(0),
        "mean_predicted": every.mean((0, 1)),
        "variance_observed": counts.var(0, ddof=1),
        "variance_predicted": every.var(1, ddof=1).mean(0),
        "zero_observed": (counts == 0).mean(0),
        "zero_predicted": (every == 0).mean((0, 1)),
        "cv_observed": counts.std(0, ddof=1) / counts.mean(0),
        "cv_predicted": (every.std(1, ddof=1) / every.mean(1)).mean(0),
    }
    assert table["gene"].tolist() == names(4)
    for column, values in expected.items():
        np.testing.assert_allclose(table[column], values, err_msg=column)
    error = np.abs(expected["zero_predicted"] - expected["zero_observed"]).mean()
    np.testing.assert_allclose(summary["zero_error"], error)
    relative = np.abs(expected["mean_predicted"] / expected["mean_observed"] - 1).mean()
    np.testing.assert_allclose(summary["mean_error"], relative)
    rank = spearmanr(expected["variance_observed"], expected["variance_predicted"]).statistic
    np.testing.assert_allclose(summary["variance_spearman"], rank)
    assert summary["draws"] == 3


def test_coverage_by_hand():
    """Of 9 draws 2 are smaller and 3 equal: place [.2, .6]. All equal: [0, 1]. All smaller: [.9, 1]."""
    draws = np.array([0, 0, 1, 1, 1, 2, 2, 3, 4])
    counts = np.array([[1, 1, 9], [1, 1, 9]])
    table, _ = criticism(counts, (np.array([[d, 1, d]] * 2) for d in draws), names(3))
    np.testing.assert_allclose(table["coverage"], [1, 0.9, 0.5])
    np.testing.assert_allclose(table["place"], [0.4, 0.5, 0.95])


@pytest.mark.parametrize("n_draws", [5, 19, 60])
def test_a_right_model_covers_nine_tenths_at_any_number_of_draws(rng, n_draws):
    world = NegativeBinomial(rng)
    table, summary = criticism(world.draw(), world.draws(n_draws), names())
    assert abs(summary["coverage"] - 0.9) < 0.01
    assert summary["coverage_error"] < 0.02
    assert abs(summary["place"] - 0.5) < 0.01
    assert summary["place_error"] < 0.03
    assert (table["coverage"].between(0.85, 0.95)).all()


def test_wrong_models_are_found_by_what_they_get_wrong(rng):
    world = NegativeBinomial(rng)
    counts = world.draw()
    _, right = criticism(counts, world.draws(), names())
    _, narrow = criticism(counts, world.draws(theta=1e6), names())  # Poisson
    _, shifted = criticism(counts, world.draws(scale=1.5), names())
    assert narrow["coverage"] < right["coverage"] - 0.08
    assert narrow["variance_error"] > 2 * right["variance_error"]
    assert narrow["zero_error"] > 3 * right["zero_error"]
    assert abs(narrow["mean_error"] - right["mean_error"]) < 0.05
    assert shifted["mean_error"] > 0.4
    assert shifted["place"] < right["place"] - 0.05
    assert shifted["place_error"] > 3 * right["place_error"]
    assert abs(narrow["place"] - 0.5) < 0.03
    assert right["mean_spearman"] > 0.99
    _, mixed = criticism(counts, (draw[:, rng.permutation(G)] for draw in world.draws(1)), names())
    assert abs(mixed["mean_spearman"]) < 0.5


def test_sparse_and_dense_counts_in_any_order_give_the_same(rng):
    world = NegativeBinomial(rng)
    counts, draws, order = world.draw(), list(world.draws(4)), rng.permutation(N)
    one = criticism(csr_matrix(counts), draws, names())
    two = criticism(counts[order], [draw[order] for draw in draws], names())
    pd.testing.assert_frame_equal(one[0], two[0])
    assert one[1] == pytest.approx(two[1])


def test_a_gene_without_counts_has_no_coefficient_of_variation(rng):
    counts = np.column_stack([np.zeros(20), rng.poisson(3, 20)])
    table, summary = criticism(counts, [counts, counts], names(2))
    assert np.isnan(table["cv_observed"][0])
    np.testing.assert_allclose(table["zero_predicted"], (counts == 0).mean(0))
    assert summary["mean_error"] == summary["cv_error"] == 0


@pytest.mark.parametrize(
    ("counts", "draws", "found"),
    [
        (np.ones((3, 2)), [], "0 draws"),
        (np.ones((1, 2)), [np.ones((1, 2))], "counts"),
        (np.ones((3, 2)), [np.ones((3, 1))], "a draw"),
        (np.ones((3, 2)), [np.full((3, 2), -1.0)], "no counts"),
        (np.ones((3, 2)), [np.full((3, 2), np.nan)], "no counts"),
    ],
)
def test_what_cannot_be_compared_is_refused(counts, draws, found):
    with pytest.raises(ValueError, match=found):
        criticism(counts, draws, names(2))
