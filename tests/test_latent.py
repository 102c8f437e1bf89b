"""Latent metrics: planted spaces, closed forms, scikit-learn and scipy as second implementations."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sklearn

from stormcell.evaluation import probes, weighted
from stormcell.evaluation.latent import (
    FOLLOWED,
    CellLabels,
    Space,
    chance,
    follow,
    latent_board,
    latent_scores,
    reasons,
)
from stormcell.evaluation.latent_answers import Asked
from stormcell.evaluation.latent_metrics import LATENT_METRICS

TARGETS = ["A", "B", "C", "D"]
CENTRES = {name: 6 * np.eye(5)[i] for i, name in enumerate(TARGETS)} | {"control": np.zeros(5)}


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def cells(rng, n=600) -> CellLabels:
    """40 % controls; batch, phase, type and library drawn apart from the condition."""
    return CellLabels(
        condition=rng.choice(["control", *TARGETS], n, p=[0.4, 0.15, 0.15, 0.15, 0.15]),
        control="control",
        batch=rng.choice(["b1", "b2", "b3"], n),
        cell_type=rng.choice(["T", "B"], n),
        phase=rng.choice(["G1", "S", "G2M"], n),
        library=rng.lognormal(6, 0.5, n),
        merged={"A": "AB", "B": "AB"},
    )


def planted(labels: CellLabels, rng) -> np.ndarray:
    """Each perturbation far from the others, controls at 0."""
    noise = rng.normal(size=(len(labels.condition), 5)) * np.where(labels.is_control, 0.1, 1)[:, None]
    return np.array([CENTRES[name] for name in labels.condition]) + noise


@pytest.fixture
def sides(rng):
    return cells(rng), cells(rng, 400)


def noise(labels, rng, k=5) -> np.ndarray:
    return rng.normal(size=(len(labels.condition), k))


def score(sides, *, salient=None, background=None, seed=0) -> dict:
    spaces = [
        Space(*(None if part is None else part[side] for part in (salient, background))) for side in range(len(sides))
    ]
    return latent_scores(*spaces, *sides, seed)


def value(found, name) -> float:
    return found[name][0]


# ---- scores under weights


@pytest.fixture
def drawn(rng):
    true, predicted = rng.choice(list("abc"), 120, p=[0.6, 0.3, 0.1]), rng.choice(list("wxyz"), 120)
    return true, predicted, np.vstack([np.ones(120), rng.integers(0, 4, size=(6, 120))])


def repeated(row, *values):
    return [np.repeat(value, row.astype(int)) for value in values]


def test_agreement_under_weights_is_that_of_repeated_cells(drawn):
    true, clusters, weights = drawn
    table = weighted.contingency(true, clusters, weights)
    for row, ari, nmi in zip(
        weights, weighted.adjusted_rand(table), weighted.normalised_mutual_information(table), strict=True
    ):
        assert ari == pytest.approx(sklearn.adjusted_rand_score(*repeated(row, true, clusters)), abs=1e-12)
        assert nmi == pytest.approx(sklearn.normalized_mutual_info_score(*repeated(row, true, clusters)), abs=1e-12)


def test_one_label_on_both_sides_agrees():
    table = weighted.contingency(np.array(["a", "a"]), np.array([0, 0]), np.ones((1, 2)))
    assert weighted.adjusted_rand(table) == weighted.normalised_mutual_information(table) == 1


def test_accuracy_auc_and_r_squared_under_weights_are_those_of_repeated_cells(drawn, rng):
    true, _, weights = drawn
    predicted = np.where(rng.random(120) < 0.5, true, "a")
    values = np.round(rng.normal(size=120), 1)  # with ties
    estimate = values + rng.normal(size=120)
    found = [
        weighted.balanced_accuracy(true, predicted, weights),
        weighted.auc(true == "a", values, weights),
        weighted.r_squared(values, estimate, weights),
    ]
    for row, accuracy, auc, r_squared in zip(weights, *found, strict=True):
        assert accuracy == pytest.approx(sklearn.balanced_accuracy_score(*repeated(row, true, predicted)), abs=1e-12)
        assert auc == pytest.approx(sklearn.roc_auc_score(*repeated(row, true == "a", values)), abs=1e-12)
        assert r_squared == pytest.approx(sklearn.r2_score(*repeated(row, values, estimate)), abs=1e-12)


def test_scores_without_a_side_are_undefined():
    ones = np.ones((1, 3))
    assert np.isnan(weighted.auc(np.array([True] * 3), np.arange(3.0), ones))
    assert np.isnan(weighted.r_squared(np.full(3, 5.0), np.arange(3.0), ones))
    assert np.isnan(weighted.weighted_mean(np.empty(0), np.empty((1, 0))))


def test_bootstrap_samples_keep_the_size_of_every_condition(rng):
    strata = rng.choice(["a", "b", "c"], 50, p=[0.8, 0.18, 0.02])
    weights = weighted.resamples(strata, 30, rng)
    assert (weights[0] == 1).all() and len(np.unique(weights[1:], axis=0)) == 30
    for name in np.unique(strata):
        assert (weights[:, strata == name].sum(1) == (strata == name).sum()).all()


# ---- probes


def test_a_constant_dimension_does_not_decide_and_single_precision_is_enough(rng):
    points = np.column_stack([rng.normal(size=200), np.full(200, 1e4)])
    train, test = probes.standardised(points.astype(np.float32), points[:5].astype(np.float32) + np.array([0, 1]))
    assert (train[:, 1] == 0).all() and (test[:, 1] == 0).all()
    assert train[:, 0].std() == pytest.approx(1)
    labels = np.where(points[:, 0] > 0, "x", "y")
    single = probes.log_odds(points.astype(np.float32), labels == "x", points.astype(np.float32))
    np.testing.assert_allclose(single, probes.log_odds(points, labels == "x", points), atol=1e-2)


def test_neighbour_share_is_counted_by_hand():
    train, positive = np.array([[0.0], [1], [2], [10]]), np.array([True, False, True, True])
    np.testing.assert_allclose(probes.neighbour_share(train, positive, np.array([[0.1], [9]]), 2), [0.5, 1])
    np.testing.assert_allclose(probes.neighbour_share(train, positive, np.array([[0.1]]), 50), [0.75])


def test_silhouettes_are_those_of_their_definition(rng):
    points, labels = rng.normal(size=(30, 3)), np.repeat(["x", "y", "z"], 10)
    distance = np.linalg.norm(points[:, None] - points[None], axis=2)
    for i, found in enumerate(probes.silhouettes(points, labels)):
        own = distance[i, labels == labels[i]].sum() / 9
        other = min(distance[i, labels == name].mean() for name in set(labels) - {labels[i]})
        assert found == pytest.approx((other - own) / max(other, own))


def test_mixing_is_zero_apart_one_at_random_and_lower_between(rng):
    for share in 0.5, 0.1:
        labels = rng.random(1500) < share
        points = rng.normal(size=(1500, 3))
        found = [
            probes.mixing(points + gap * labels[:, None] * [1, 0, 0], labels, 50, np.random.default_rng(0)).mean()
            for gap in (0, 1, 3, 50)
        ]
        assert found[0] == pytest.approx(1, abs=0.05)
        assert found[0] > found[1] + 0.1 > found[2] + 0.2
        assert found[3] == 0


def test_a_rare_label_that_gathers_is_not_mixed(rng):
    """9 in 10 cells of one label; the rare one only in a fifth of the cells, half of which it is."""
    place = np.repeat([0, 1], [300, 1200])
    labels = np.where((place == 0) & (np.arange(1500) % 2 == 0), "rare", "common")
    points = rng.normal(size=(1500, 2)) + 50 * place[:, None]
    assert probes.mixing(points, labels, 50, rng).mean() < 0.1


def test_mixing_of_few_cells_and_of_cells_at_one_place(rng):
    labels = np.array(["x", "y"] * 4)
    assert np.isfinite(probes.mixing(rng.normal(size=(8, 2)), labels, 50, rng)).all()
    labels = rng.choice(["x", "y"], 400)
    assert probes.mixing(np.zeros((400, 2)), labels, 50, rng).mean() == pytest.approx(1, abs=0.1)


# ---- whole spaces


def test_a_planted_salient_space_is_found_and_noise_behind_it_is_not(sides, rng):
    salient, background = ([part(side, rng) for side in sides] for part in (planted, noise))
    found = score(sides, salient=salient, background=background)
    assert value(found, "probe") > 0.98 and value(found, "ari") > 0.95 and value(found, "nmi") > 0.95
    assert value(found, "silhouette") > 0.5 and value(found, "salient_auc") > 0.99
    assert value(found, "control_norm") < 0.1
    for name in ("background_auc", "background_auc_knn"):
        assert value(found, name) == pytest.approx(0.5, abs=0.08)
    assert value(found, "background_probe") == pytest.approx(0.25, abs=0.09)
    assert value(found, "batch_leak") == pytest.approx(1 / 3, abs=0.09)
    assert value(found, "library_leak") < 0.05
    assert value(found, "mixing") == pytest.approx(1, abs=0.05)
    assert value(found, "mixing_batch") == pytest.approx(1, abs=0.06)
    swapped = score(sides, salient=background, background=salient)
    assert value(swapped, "probe") < 0.36 and value(swapped, "ari") < 0.05
    assert value(swapped, "background_auc") > 0.99 and value(swapped, "background_probe") > 0.98
    assert value(swapped, "control_norm") == pytest.approx(1, abs=0.1) and value(swapped, "mixing") < 0.2


def test_merged_phenotypes_are_one_label(sides, rng):
    """A and B at one place: no clustering tells them apart, and the merged index does not ask for it."""
    salient = [
        planted(replace(side, condition=np.where(side.condition == "B", "A", side.condition)), rng) for side in sides
    ]
    found = score(sides, salient=salient)
    assert value(found, "ari_merged") > 0.95 > 0.85 > value(found, "ari")


def test_neighbours_see_a_ring_that_a_line_does_not(sides, rng):
    def ring(labels):
        angle, radius = rng.uniform(0, 2 * np.pi, len(labels.condition)), np.where(labels.is_control, 3, 1)
        return np.column_stack([np.cos(angle), np.sin(angle)]) * radius[:, None]

    found = score(sides, background=[ring(side) for side in sides])
    assert value(found, "background_auc") == pytest.approx(0.5, abs=0.08)
    assert value(found, "background_auc_knn") > 0.99


def test_each_leak_is_seen_by_its_own_metric(sides, rng):
    def written(side, column):
        codes = np.unique(getattr(side, column), return_inverse=True)[1]
        return np.column_stack([np.eye(4)[codes] * 5 + rng.normal(size=(len(codes), 4)), noise(side, rng, 2)])

    for column, leak, kept in (
        ("batch", "batch_leak", "background_batch"),
        ("phase", "phase_leak", "background_phase"),
    ):
        both = [written(side, column) for side in sides]
        found = score(sides, salient=both, background=both)
        assert value(found, leak) > 0.95 and value(found, kept) > 0.95
        other = {"batch": "phase_leak", "phase": "batch_leak"}[column]
        assert value(found, other) < 0.45 and value(found, "library_leak") < 0.05
    found = score(sides, background=[written(side, "cell_type") for side in sides])
    assert value(found, "background_cell_type") > 0.95
    library = [np.column_stack([np.log(side.library), noise(side, rng, 2)]) for side in sides]
    assert value(score(sides, salient=library), "library_leak") > 0.99


def test_leaks_are_asked_of_perturbed_cells_alone(sides, rng):
    """Batch is written in the salient vectors of controls only, where a model pins them: no leak."""
    salient = [
        np.where(
            side.is_control[:, None], 9 * np.eye(3)[np.unique(side.batch, return_inverse=True)[1]], noise(side, rng, 3)
        )
        for side in sides
    ]
    assert value(score(sides, salient=salient), "batch_leak") < 0.45


def test_a_constant_space_is_at_chance_and_its_norm_undefined(sides):
    both = [np.zeros((len(side.condition), 3)) for side in sides]
    found = score(sides, salient=both, background=both)
    expected = chance(sides[1])
    for name in ("probe", "background_probe", "batch_leak", "background_cell_type", "background_auc", "salient_auc"):
        assert value(found, name) == pytest.approx(expected[name]), name
    assert value(found, "background_auc_knn") == 0.5 and value(found, "ari") == 0
    assert value(found, "mixing") == pytest.approx(1, abs=0.1)
    assert value(found, "library_leak") <= 0 and np.isnan(value(found, "control_norm"))


def test_labels_of_a_classifier_replace_probe_and_clusters(sides, rng):
    """It takes every A for B: a quarter of the balanced accuracy is lost, and nothing of the merged agreement."""
    labels = [np.where(side.condition == "A", "B", side.condition) for side in sides]
    found = latent_scores(*(Space(predicted=part) for part in labels), *sides, 0)
    assert value(found, "probe") == 0.75 and value(found, "ari_merged") == 1
    own = ~sides[1].is_control
    assert value(found, "ari") == pytest.approx(sklearn.adjusted_rand_score(sides[1].condition[own], labels[1][own]))
    assert np.isnan(value(found, "silhouette")) and np.isnan(value(found, "background_auc"))


def test_perturbations_without_training_cells_are_not_asked_of_the_probe(sides, rng):
    """D has one training cell, E none: the probe is asked about A, B, C."""
    train, test = sides
    kept = np.flatnonzero(train.condition != "D")
    train = train.take(np.append(kept, np.flatnonzero(train.condition == "D")[0]))
    test = replace(test, condition=np.where(np.arange(len(test.condition)) < 5, "E", test.condition))
    places = CENTRES | {"E": np.full(5, -9.0)}
    salient = [np.array([places[name] for name in side.condition]) for side in (train, test)]
    salient[0][train.condition == "D"] = CENTRES["A"]  # were it asked, the probe could not find it
    assert value(score((train, test), salient=salient), "probe") == 1


# ---- what a score is worth


def test_the_order_of_the_cells_decides_nothing(sides, rng):
    salient = [planted(side, rng) * 0.2 + noise(side, rng) for side in sides]
    background = [planted(side, rng) * 0.1 + noise(side, rng) for side in sides]
    background[1][:50] = 0  # ties among neighbours
    first = score(sides, salient=salient, background=background, seed=4)
    orders = [rng.permutation(len(side.condition)) for side in sides]
    shuffled = [side.take(order) for side, order in zip(sides, orders, strict=True)]
    parts = ([part[order] for part, order in zip(both, orders, strict=True)] for both in (salient, background))
    second = score(shuffled, **dict(zip(("salient", "background"), parts, strict=True)), seed=4)
    for name in LATENT_METRICS:
        np.testing.assert_allclose(second[name], first[name], rtol=1e-6, atol=1e-9, err_msg=name)
    assert first == score(sides, salient=salient, background=background, seed=4)


def test_intervals_hold_their_value_and_have_the_width_of_the_closed_forms(sides, rng):
    """AUC: DeLong's standard error. Norm: that of a ratio of two means."""
    salient = [planted(side, rng) * 0.15 + noise(side, rng) for side in sides]
    found = score(sides, salient=salient, background=salient)
    for name, (middle, low, high) in found.items():
        assert low <= middle <= high, name
    side = sides[1]
    odds = probes.log_odds(salient[0], ~sides[0].is_control, salient[1])
    case, control = odds[~side.is_control], odds[side.is_control]
    wins = (case[:, None] > control).astype(float)
    error = np.sqrt(wins.mean(1).var(ddof=1) / len(case) + wins.mean(0).var(ddof=1) / len(control))
    _, low, high = found["background_auc"]
    # Samples are drawn within each condition, which takes the spread between conditions out.
    assert 0.8 < (high - low) / (2 * stats.norm.ppf(0.975) * error) < 1.15
    length = np.linalg.norm(salient[1], axis=1)
    case, control = length[~side.is_control], length[side.is_control]
    ratio = control.mean() / case.mean()
    error = ratio * np.hypot(*(stats.sem(part) / part.mean() for part in (case, control)))
    middle, low, high = found["control_norm"]
    assert middle == pytest.approx(ratio)
    assert 0.8 < (high - low) / (2 * stats.norm.ppf(0.975) * error) < 1.15


def test_an_interval_stands_about_its_value_where_samples_flatter(sides, rng):
    """Cells that are drawn twice agree with themselves: mutual information of noise is larger in every sample."""
    few = sides[1].take(np.arange(90))
    value, low, high = score((sides[0], few), salient=[noise(side, rng) for side in (sides[0], few)])["nmi"]
    assert abs((low + high) / 2 - value) < 0.2 * (high - low)


def test_what_is_followed_is_what_is_scored(sides, rng):
    spaces = [Space(planted(side, rng) * 0.2 + noise(side, rng), noise(side, rng)) for side in sides]
    scored = latent_scores(*spaces, *sides, 3)
    followed = follow(*spaces, *sides, 3)
    assert set(followed) == set(FOLLOWED) <= set(LATENT_METRICS)
    assert followed == pytest.approx({name: scored[name][0] for name in followed})


def test_the_board_has_a_row_per_method_and_three_columns_per_metric(sides, rng):
    good = tuple(Space(planted(side, rng), noise(side, rng)) for side in sides)
    without = tuple(Space(part.salient) for part in good)
    board = latent_board({"good": good, "without background": without}, *sides, 0)
    assert list(board.columns[:3]) == ["group", "method", "n"]
    assert list(board.columns[3:]) == [f"{name}{end}" for name in LATENT_METRICS for end in ("", "_low", "_high")]
    assert list(board["n"]) == [400, 400] and board["probe"].nunique() == 1
    assert board["background_auc"].notna().tolist() == [True, False]


# ---- bad input and missing labels


def test_missing_labels_give_no_value_and_a_reason(sides, rng):
    bare = [CellLabels(side.condition, "control", batch=np.full(len(side.condition), "b1")) for side in sides]
    found = score(bare, salient=[planted(side, rng) for side in bare], background=[noise(side, rng) for side in bare])
    undefined = {name for name in LATENT_METRICS if np.isnan(value(found, name))}
    told = " ".join(reasons(*bare))
    assert undefined == {name for name in LATENT_METRICS if name in told.replace(",", "").split()}
    assert "no phase is known" in told and "fewer than two values of batch" in told
    assert reasons(*sides) == []


def test_sides_without_controls_or_perturbed_cells_are_told(sides, rng):
    train, test = sides
    for keep, missing in ((test.is_control, "perturbed"), (~test.is_control, "control")):
        part = test.take(np.flatnonzero(keep))
        found = score(
            (train, part),
            salient=[planted(s, rng) for s in (train, part)],
            background=[noise(s, rng) for s in (train, part)],
        )
        for name in ("salient_auc", "background_auc", "background_auc_knn", "control_norm", "mixing"):
            assert np.isnan(found[name]).all(), name
        assert f"no {missing} cells among the held-out cells" in " ".join(reasons(train, part))


def test_one_perturbation_and_one_cell(sides, rng):
    one = [side.take(np.flatnonzero(np.isin(side.condition, ["control", "A"]))) for side in sides]
    found = score(one, salient=[planted(side, rng) for side in one], background=[noise(side, rng) for side in one])
    assert all(np.isnan(value(found, name)) for name in ("probe", "silhouette", "background_probe"))
    assert value(found, "salient_auc") > 0.99
    # Two clusters of all cells against control or perturbed; in a space of noise they are at chance.
    assert value(found, "ari") > 0.95 and value(found, "nmi") > 0.9
    nothing = score(one, salient=[noise(side, rng) for side in one], background=[noise(side, rng) for side in one])
    assert abs(value(nothing, "ari")) < 0.1
    few = sides[1].take(np.array([np.flatnonzero(sides[1].condition == "A")[0]]))
    found = score(
        (sides[0], few),
        salient=[planted(s, rng) for s in (sides[0], few)],
        background=[noise(s, rng) for s in (sides[0], few)],
    )
    assert all(np.isnan(low) for _, low, _ in found.values())


def test_few_held_out_cells_are_scored(sides, rng):
    few = sides[1].take(np.arange(12))
    found = score(
        (sides[0], few),
        salient=[planted(s, rng) for s in (sides[0], few)],
        background=[noise(s, rng) for s in (sides[0], few)],
    )
    assert value(found, "probe") > 0.9 and np.isfinite(value(found, "mixing"))


def test_what_is_not_finite_or_of_another_length_is_refused(sides, rng):
    salient = [planted(side, rng) for side in sides]
    broken = salient[1].copy()
    broken[3, 1] = np.nan
    with pytest.raises(ValueError, match="salient vectors of held-out cells are not all finite"):
        score(sides, salient=[salient[0], broken])
    with pytest.raises(ValueError, match="background of 399 held-out cells, labels of 400"):
        score(sides, background=[salient[0], salient[1][:-1]])


def test_every_metric_has_an_answer_and_a_right_value():
    for name, metric in LATENT_METRICS.items():
        assert callable(getattr(Asked, name)) and metric.name == name and metric.meaning
        assert (metric.direction == "target") == (metric.best is not None)


def test_scib_metrics_agrees(rng):
    scib = pytest.importorskip("scib_metrics")
    points, labels = rng.normal(size=(300, 4)), rng.choice(["x", "y", "z"], 300)
    points += 2 * np.eye(4)[np.unique(labels, return_inverse=True)[1]]
    own = probes.silhouettes(points, labels).mean()
    assert scib.silhouette_label(points, labels, rescale=False) == pytest.approx(own, abs=1e-3)
