"""The mixture of escaped and responding cells on planted cells, against closed forms and scipy."""

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import minimize_scalar
from scipy.stats import chi2, kstest, multivariate_normal, ttest_ind
from sklearn.metrics import roc_auc_score

from stormcell.analysis.escape import _hotelling, _log_ratio, _shares, fit_escape

K = 6


class Salient:
    """Correlated t of controls; of each perturbation a share responds, by a shift of known Mahalanobis length."""

    def __init__(self, rng, targets, n_controls=1500):
        self.rng, self.root = rng, np.eye(K) + rng.normal(size=(K, K)) / 3
        self.shift = {
            name: length * (u := rng.normal(size=K)) / np.linalg.norm(u) for name, (_, length) in targets.items()
        }
        self.share = {name: share for name, (share, _) in targets.items()}
        self.n_controls = n_controls

    def cells(self, per_target):
        """t N × K, condition N, whether the cell responds N."""
        condition = np.repeat(["control", *self.share], [self.n_controls, *[per_target] * len(self.share)])
        responds = self.rng.random(len(condition)) < [self.share.get(name, 0) for name in condition]
        moved = np.array([self.shift.get(name, np.zeros(K)) for name in condition]) * responds[:, None]
        return (self.rng.normal(size=(len(condition), K)) + moved) @ self.root.T, condition, responds


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def half(rng):
    world = Salient(rng, {"A": (0.5, 3.0), "B": (0.9, 4.0), "none": (0.0, 0.0)})
    t, condition, _ = world.cells(200)
    return world, fit_escape(t, condition, "control")


def test_disguised_controls_are_told_from_responding_cells_that_were_held_out(half):
    world, fitted = half
    t, condition, responds = world.cells(400)
    probability = fitted.probability(t, condition)
    table = fitted.shares(t, condition).set_index("condition")
    for name in "AB":
        mine = condition == name
        assert roc_auc_score(responds[mine], probability[mine]) > 0.95
        assert abs(table.loc[name, "share"] - responds[mine].mean()) < 0.1
        assert table.loc[name, "share_low"] < responds[mine].mean() < table.loc[name, "share_high"]
        assert abs(fitted.responding[name].share - world.share[name]) < 0.1
        assert abs(table.loc[name, "separation"] - np.linalg.norm(world.shift[name])) < 0.3
    assert (probability[condition == "control"] > 0.5).mean() < 0.1


def test_probabilities_are_calibrated(half):
    """Among the cells of which p is asked, a share of p responds."""
    world, fitted = half
    t, condition, responds = world.cells(2000)
    mine = condition == "A"
    probability = fitted.probability(t[mine], condition[mine])
    for low in (0, 0.25, 0.5, 0.75):
        chosen = (probability >= low) & (probability < low + 0.25)
        assert abs(probability[chosen].mean() - responds[mine][chosen].mean()) < 0.12


def test_without_effect_nothing_responds(rng):
    world = Salient(rng, {f"T{i:02}": (0.0, 0.0) for i in range(20)})
    t, condition, _ = world.cells(100)
    fitted = fit_escape(t, condition, "control")
    held_out, labels, _ = world.cells(100)
    table = fitted.shares(held_out, labels)
    assert table["measurable"].sum() <= 1
    assert table["share"].median() == 0
    assert (fitted.probability(held_out, labels) > 0.5).mean() < 0.05
    quiet = table[~table["measurable"]]
    assert quiet[["share_low", "share_high", "separation"]].isna().all(axis=None)


def test_a_weak_shift_is_measured_but_its_share_is_not_known(rng):
    """All cells moved by 0.6, or half of them by 1.2: the cloud is nearly the same."""
    for share, length in ((1.0, 0.6), (0.5, 1.2)):
        world = Salient(rng, {"A": (share, length), "B": (0.5, 4.0)})
        fitted = fit_escape(*world.cells(300)[:2], "control")
        t, condition, _ = world.cells(300)
        table = fitted.shares(t, condition).set_index("condition")
        assert table.loc["A", ["measurable", "identified"]].tolist() == [True, False]
        assert np.isnan(table.loc["A", ["share_low", "share_high"]].astype(float)).all()
        assert table.loc["B", "identified"]
        # It does not make the controls doubtful.
        assert (fitted.probability(t, condition)[condition == "control"] > 0.5).mean() < 0.1


def test_the_covariance_of_the_null_keeps_one_broad_component_from_taking_all(rng):
    error = []
    for seed in range(6):
        t, condition, _ = Salient(np.random.default_rng(seed), {"A": (0.5, 2.0)}).cells(400)
        error.append(abs(fit_escape(t, condition, "control").responding["A"].share - 0.5))
    assert np.mean(error) < 0.07


def test_em_stops_where_share_and_mean_are_those_of_their_own_probabilities(half):
    world, _ = half
    t, condition, _ = world.cells(100)
    fitted = fit_escape(t, condition, "control")
    for name in "AB":
        part, mine = fitted.responding[name], condition == name
        z = np.linalg.solve(fitted.root, (t[mine] - fitted.centre).T).T
        probability = fitted.probability(t[mine], condition[mine])
        np.testing.assert_allclose(probability.mean(), part.share, atol=1e-3)
        np.testing.assert_allclose(probability @ z / probability.sum(), part.mean, atol=1e-2)
        np.testing.assert_allclose(
            _shares(_log_ratio(z, part.mean, part.covariance), np.ones((1, len(z)))), part.share, atol=2e-3
        )


def test_a_component_that_was_learnt_by_heart_has_no_cells_among_the_held_out(rng):
    """t of the training cells moved by the model alone: held-out cells of the perturbation look like controls."""
    train = Salient(rng, {"A": (1.0, 3.5)})
    held_out = Salient(rng, {"A": (0.0, 3.5)})
    held_out.root = train.root
    fitted = fit_escape(*train.cells(200)[:2], "control")
    row = fitted.shares(*held_out.cells(200)[:2]).iloc[0]
    assert fitted.responding["A"].share > 0.9
    assert row["share"] < 0.05


def test_neither_the_order_of_cells_nor_the_axes_of_t_matter(half, rng):
    world, _ = half
    t, condition, _ = world.cells(100)
    order, (turn, _) = rng.permutation(len(t)), np.linalg.qr(rng.normal(size=(K, K)))
    one, two = fit_escape(t, condition, "control"), fit_escape(3 * t[order] @ turn + 5, condition[order], "control")
    other = two.probability(3 * t @ turn + 5, condition)
    np.testing.assert_allclose(one.probability(t, condition), other, atol=1e-4)
    there = two.shares(3 * t[order] @ turn + 5, condition[order])
    pd.testing.assert_frame_equal(one.shares(t, condition), there, atol=1e-4)


def test_probability_is_bayes_rule_in_the_units_of_t(half):
    world, fitted = half
    t, condition, _ = world.cells(50)
    part, mine = fitted.responding["A"], condition == "A"
    null = multivariate_normal(fitted.centre, fitted.root @ fitted.root.T).pdf(t)

    def density(part):
        mean = fitted.centre + fitted.root @ part.mean
        return multivariate_normal(mean, fitted.root @ part.covariance @ fitted.root.T).pdf(t)

    expected = part.share * density(part) / (part.share * density(part) + (1 - part.share) * null)
    np.testing.assert_allclose(fitted.probability(t, condition)[mine], expected[mine], rtol=1e-8)
    every = np.mean([density(part) for part in fitted.responding.values() if part.identified], axis=0)
    found = fitted.probability(t, np.where(mine, "of another split", condition))
    control = condition == "control"
    np.testing.assert_allclose(found[control | mine], (every / (every + null))[control | mine], rtol=1e-8)


def test_intervals_hold_the_share_of_held_out_cells(rng):
    world = Salient(rng, {"A": (0.6, 3.5)})
    fitted = fit_escape(*world.cells(1000)[:2], "control")
    held = [fitted.shares(*world.cells(150)[:2]).iloc[0] for _ in range(60)]
    covered = np.mean([row.share_low <= 0.6 <= row.share_high for row in held])
    assert covered >= 0.85
    assert np.mean([row.share_high - row.share_low for row in held]) < 0.3


def test_log_ratio_is_that_of_scipy(rng):
    z, mean, root = rng.normal(size=(20, K)), rng.normal(size=K), np.eye(K) + rng.normal(size=(K, K)) / 3
    expected = multivariate_normal(mean, root @ root.T).logpdf(z) - multivariate_normal(np.zeros(K)).logpdf(z)
    np.testing.assert_allclose(_log_ratio(z, mean, root @ root.T), expected)


def test_the_share_maximises_the_likelihood(rng):
    ratio = np.concatenate([rng.normal(-4, 3, 60), rng.normal(4, 3, 40), [900, -900]])
    weight = rng.integers(0, 3, len(ratio)).astype(float)

    def loss(share):
        return -(weight * np.logaddexp(np.log1p(-share), np.log(share) + ratio)).sum()

    expected = minimize_scalar(loss, bounds=(1e-9, 1 - 1e-9), method="bounded", options={"xatol": 1e-9}).x
    np.testing.assert_allclose(_shares(ratio, weight[None]), [expected], atol=1e-5)
    assert _shares(np.full(5, -3.0), np.ones((1, 5)))[0] < 1e-6
    assert _shares(np.full(5, 3.0), np.ones((1, 5)))[0] > 1 - 1e-6


def test_hotelling_is_the_t_test_of_one_dimension_and_uniform_without_a_shift(rng):
    x, y = rng.normal(0.3, 1, (20, 1)), rng.normal(0, 1, (50, 1))
    np.testing.assert_allclose(_hotelling(x, y), ttest_ind(x, y).pvalue[0])
    p = [_hotelling(rng.normal(size=(15, K)), rng.normal(size=(30, K))) for _ in range(400)]
    assert kstest(p, "uniform").pvalue > 0.01
    x, y = rng.normal(0.2, 1, (3000, 2)), rng.normal(0, 1, (3000, 2))  # large n: χ² of K
    t2 = 1500 * np.square(x.mean(0) - y.mean(0)).sum()
    np.testing.assert_allclose(np.log(_hotelling(x, y)), chi2.logsf(t2, 2), rtol=0.1)
    assert _hotelling(rng.normal(size=(2, K)), rng.normal(size=(2, K))) == 1


def test_one_cell_of_a_perturbation_is_not_fitted_and_says_so(half):
    world, _ = half
    t, condition, _ = world.cells(50)
    condition = condition.astype(object)
    condition[np.flatnonzero(condition == "A")[1:]] = "control"
    fitted = fit_escape(t, condition, "control")
    row = fitted.shares(t, condition).set_index("condition").loc["A"]
    assert (row["n"], row["n_fitted"], row["measurable"]) == (1, 0, False)
    assert np.isnan(row["share"])
    assert np.isfinite(fitted.probability(t, condition)).all()


def test_controls_alone_have_nothing_to_respond_to(rng):
    t = rng.normal(size=(30, K))
    fitted = fit_escape(t, ["control"] * 30, "control")
    assert (fitted.probability(t, ["control"] * 30) == 0).all()
    assert fitted.shares(t, ["control"] * 30).empty


def test_what_has_no_null_is_refused(rng):
    with pytest.raises(ValueError, match="no null"):
        fit_escape(rng.normal(size=(20, K)), ["A"] * 20, "control")
    with pytest.raises(ValueError, match="no null"):
        fit_escape(np.ones((20, K)), ["control"] * 20, "control")
    with pytest.raises(ValueError, match="finite"):
        fit_escape(np.full((20, K), np.nan), ["control"] * 20, "control")
