"""Genetic-interaction scores against planted interactions, scikit-learn and the plainest formula."""

import numpy as np
import pytest
from scipy import stats

from stormcell.evaluation import interactions
from stormcell.evaluation.interactions import SCORES, interaction_correlation, interaction_scores


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_an_exact_combination_is_recovered(rng):
    first, second = rng.normal(size=(2, 80))
    scores = interaction_scores(0.5 * first - 2 * second, first, second)
    assert tuple(scores) == SCORES
    assert scores["coefficient_first"] == pytest.approx(0.5)
    assert scores["coefficient_second"] == pytest.approx(-2)
    assert scores["magnitude"] == pytest.approx(np.sqrt(4.25))
    assert scores["fit"] == pytest.approx(1)
    assert scores["dominance"] == pytest.approx(np.log10(4))


def test_an_additive_pair_has_magnitude_root_two_and_no_dominance(rng):
    first, second = rng.normal(size=(2, 3000))
    noise = rng.normal(0, 0.05, size=3000)
    scores = interaction_scores(first + second + noise, first, second)
    assert scores["magnitude"] == pytest.approx(np.sqrt(2), abs=0.02)
    assert scores["dominance"] == pytest.approx(0, abs=0.02)
    assert scores["equality"] == pytest.approx(1, abs=0.1)
    assert scores == interaction_scores(first + second + noise, first, second)


def test_synergy_suppression_masking_and_novelty_are_told_apart(rng):
    first, second, new = rng.normal(size=(3, 400))
    of = {
        "additive": first + second,
        "synergy": 2 * (first + second),
        "suppression": 0.3 * (first + second),
        "masking": first + 0.02 * second,
        "novelty": first + second + 5 * new,
    }
    scores = {kind: interaction_scores(pair, first, second) for kind, pair in of.items()}
    by_magnitude = sorted(("additive", "synergy", "suppression"), key=lambda kind: scores[kind]["magnitude"])
    assert by_magnitude == ["suppression", "additive", "synergy"]
    assert max(scores, key=lambda kind: scores[kind]["dominance"]) == "masking"
    assert min(scores, key=lambda kind: scores[kind]["equality"]) == "masking"
    assert min(scores, key=lambda kind: scores[kind]["fit"]) == "novelty"
    assert min(scores, key=lambda kind: scores[kind]["similarity"]) == "novelty"


def test_redundant_singles_are_similar(rng):
    first, other = rng.normal(size=(2, 300))
    alike = first + 0.1 * other
    assert interaction_scores(first, first, alike)["similarity_of_singles"] > 0.9
    assert interaction_scores(first, first, other)["similarity_of_singles"] < 0.2


def test_coefficients_are_those_of_least_squares(rng):
    first, second = rng.normal(size=(2, 50))
    pair = 0.8 * first + 0.4 * second + rng.normal(0, 0.3, size=50)
    expected = np.linalg.lstsq(np.stack([first, second], axis=1), pair, rcond=None)[0]
    scores = interaction_scores(pair, first, second)
    np.testing.assert_allclose([scores[name] for name in SCORES[:2]], expected)


def plain_distance_correlation(x, y):
    def centred(values):
        d = np.linalg.norm(values[:, None] - values[None], axis=-1)
        return d - d.mean(0) - d.mean(1)[:, None] + d.mean()

    a, b = centred(x), centred(y)
    return np.sqrt((a * b).mean() / np.sqrt((a * a).mean() * (b * b).mean()))


@pytest.mark.parametrize("n_genes", [5, 128, 300])
def test_distance_correlation_is_that_of_centred_distances(rng, n_genes):
    both = rng.normal(size=(n_genes, 2))
    one = np.abs(both[:, :1]) + 0.3 * rng.normal(size=(n_genes, 1))
    r = interactions.distance_correlations([both, one])
    np.testing.assert_allclose(np.diag(r), 1)
    assert r[0, 1] == r[1, 0] == pytest.approx(plain_distance_correlation(both, one), rel=1e-9)


def test_distance_correlation_sees_what_pearson_does_not_and_not_scale_or_offset(rng):
    x = rng.normal(size=(400, 1))
    unrelated = rng.normal(size=(400, 1))
    r = interactions.distance_correlations([x, x**2, 7 - 3 * x, unrelated])
    assert abs(stats.pearsonr(x[:, 0], x[:, 0] ** 2)[0]) < 0.25
    assert r[0, 1] > 0.4
    assert r[0, 2] == pytest.approx(1)
    assert r[0, 3] < 0.15


def test_distance_correlation_with_a_constant_is_undefined(rng):
    r = interactions.distance_correlations([rng.normal(size=(30, 1)), np.full((30, 1), 0.1)])
    assert r[0, 0] == pytest.approx(1)
    assert np.isnan([r[0, 1], r[1, 0], r[1, 1]]).all()


def test_scores_of_a_single_that_does_nothing_or_of_broken_shifts_are_undefined(rng):
    pair, first, second = rng.normal(size=(3, 40))
    for sides in (pair, 0 * first, second), (pair, first, 0 * second), (pair, first, np.nan * second):
        scores = interaction_scores(*sides)
        assert tuple(scores) == SCORES
        assert np.isnan(list(scores.values())).all()


def test_a_pair_without_a_shift_has_no_magnitude_and_nothing_that_correlates(rng):
    first, second = rng.normal(size=(2, 40))
    scores = interaction_scores(np.zeros(40), first, second)
    assert scores["magnitude"] == 0
    assert np.isnan([scores[name] for name in ("fit", "dominance", "similarity", "equality")]).all()


def test_proportional_singles_have_no_coefficients_but_are_similar(rng):
    first = rng.normal(size=40)
    scores = interaction_scores(rng.normal(size=40), first, 3 * first)
    assert np.isnan([scores[name] for name in ("coefficient_first", "magnitude", "fit", "dominance")]).all()
    assert scores["similarity_of_singles"] == pytest.approx(1)


def test_genes_that_neither_single_moves_are_left_out(rng):
    first, second = rng.normal(size=(2, 60))
    silent = np.arange(60) < 40
    first[silent], second[silent] = 0, 0
    pair = first + 2 * second + silent * rng.normal(size=60)
    scores = interaction_scores(pair, first, second)
    assert scores["coefficient_first"] == pytest.approx(1)
    assert scores["coefficient_second"] == pytest.approx(2)


def test_interaction_correlation_is_that_of_what_is_left_after_adding_up(rng):
    additive, interaction, noise = rng.normal(size=(3, 200))
    true, predicted = additive + interaction, additive + 0.3 * interaction + 0.1 * noise
    expected = stats.pearsonr(interaction, 0.3 * interaction + 0.1 * noise).statistic
    assert interaction_correlation(true, predicted, additive) == pytest.approx(expected)
    assert interaction_correlation(true, additive - interaction, additive) == pytest.approx(-1)


def test_interaction_correlation_of_the_additive_prediction_is_undefined(rng):
    additive, interaction = rng.normal(size=(2, 200))
    for prediction in additive, additive.astype(np.float32), np.full(200, np.nan):
        assert np.isnan(interaction_correlation(additive + interaction, prediction, additive))


def test_interaction_correlation_shares_the_noise_of_the_singles(rng):
    """Nothing interacts and the prediction is noise: it agrees with the truth, since both lack the same noisy sum."""
    draws = []
    for _ in range(20):
        additive = rng.normal(0, 1, size=500)
        draws.append(interaction_correlation(rng.normal(0, 0.1, 500), rng.normal(0, 0.1, 500), additive))
    assert np.mean(draws) > 0.9
