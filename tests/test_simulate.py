"""The simulator does what it says: counts have the stated law, and the stored truth is what the cells show."""

import numpy as np
import pytest
import scipy.stats

from stormcell.config import UserError
from stormcell.data.simulate import expected_log1p, simulate
from stormcell.data.world import EFFECT, FORK, draw_counts, draw_states, log_rate, make_world


@pytest.fixture(scope="module")
def cells():
    return simulate(seed=1)


@pytest.fixture(scope="module")
def many():
    return simulate(n_cells=16_000, seed=2)


def log1p_of(simulated):
    """N × G, normalised by the library of the cell."""
    return np.log1p(simulated.counts.toarray() / simulated.obs.total_counts.to_numpy()[:, None] * 1e4)


def shift_and_error(simulated):
    """Measured mean shift of each condition, and its standard error per gene."""
    x, condition = log1p_of(simulated), simulated.obs.perturbation.to_numpy()
    control = x[condition == "control"]
    measured = {}
    for label in simulated.truth["shift"]:
        treated = x[condition == label]
        error = np.sqrt(treated.var(0) / len(treated) + control.var(0) / len(control))
        measured[label] = treated.mean(0) - control.mean(0), error
    return measured


def world_of(n_factors=20, seed=0, n_batches=3):
    return make_world(np.random.default_rng(seed), 300, n_factors, 12, 6, 2, n_batches)


# ---- form


def test_same_seed_same_cells(cells):
    again, other = simulate(seed=1), simulate(seed=2)
    assert (again.counts != cells.counts).nnz == 0
    assert again.obs.equals(cells.obs)
    for label, shift in cells.truth["shift"].items():
        assert np.array_equal(shift, again.truth["shift"][label])
    assert (other.counts != cells.counts).nnz > 0


def test_form_of_the_cells(cells):
    assert cells.counts.shape == (4000, 300) == (len(cells.obs), len(cells.genes))
    assert cells.counts.dtype == np.float32
    assert (cells.counts.data == np.rint(cells.counts.data)).all()
    assert cells.counts.data.min() >= 1
    assert cells.obs.index.is_unique
    assert len(set(cells.genes)) == 300
    assert cells.genes[:2] == ["TF01", "TF02"]
    columns = ["perturbation", "batch", "cluster", "branch", "pseudotime", "phase", "total_counts"]
    assert list(cells.obs) == columns
    assert not cells.obs.isna().any(axis=None)
    assert (cells.obs.total_counts >= cells.counts.sum(1).A1).all()
    assert set(cells.obs.phase) == {"G1", "S", "G2M"}


def test_conditions(cells):
    sizes = cells.obs.perturbation.value_counts()
    assert sizes["control"] == 1120
    assert sizes.drop("control").between(155, 165).all()
    pairs = [label for label in sizes.index if "+" in label]
    singles = set(sizes.index) - set(pairs) - {"control"}
    assert (len(singles), len(pairs)) == (12, 6)
    for pair in pairs:
        parts = pair.split("+")
        assert parts == sorted(parts)
        assert set(parts) <= singles
    assert set(cells.truth["shift"]) == singles | set(pairs)
    assert set(cells.truth["kind"]) == singles
    assert sorted(map(list(cells.truth["kind"].values()).count, EFFECT)) == [4, 4, 4]
    # Shuffled: the place in the file says nothing about the condition.
    is_control = cells.obs.perturbation.to_numpy() == "control"
    assert abs(np.corrcoef(is_control, np.arange(4000))[0, 1]) < 4 / 4000**0.5


def test_trajectory(cells):
    obs = cells.obs
    assert obs.pseudotime.between(0, 1).all()
    assert ((obs.branch == "root") == (obs.pseudotime < FORK)).all()
    assert set(obs.cluster) == {"root", "A early", "A late", "B early", "B late"}
    assert (obs.cluster.str.split().str[0] == obs.branch).all()
    early, late = (obs.pseudotime[obs.cluster == f"A {stage}"] for stage in ("early", "late"))
    assert early.max() < late.min()
    # Control cells of the two ends differ in expression, those of one end do not.
    x = log1p_of(cells)
    control = obs.perturbation == "control"
    ends = {name: x[control & (obs.cluster == f"{name} late")] for name in "AB"}
    between = np.abs(ends["A"].mean(0) - ends["B"].mean(0)).max()
    within = np.abs(ends["A"][::2].mean(0) - ends["A"][1::2].mean(0)).max()
    assert between > 2 * within


# ---- the law of the counts


def test_counts_are_negative_binomial():
    world, n = world_of(), 12_000
    states = draw_states(np.random.default_rng(1), n, 20, 3)
    condition = np.arange(n) % len(world.conditions)
    counts = draw_counts(np.random.default_rng(2), world, states, condition).toarray()
    mean = np.exp(log_rate(world, states, condition)) * states.library[:, None] / 1e4
    variance = mean + mean**2 / world.dispersion
    score = (counts - mean) / np.sqrt(variance)
    assert scipy.stats.kstest(score.mean(0) * n**0.5, "norm").pvalue > 0.001
    assert np.median(np.abs((score**2).mean(0) - 1)) < 0.03
    assert (score**2).mean() == pytest.approx(1, abs=0.01)
    overdispersion = ((counts - mean) ** 2 - mean).mean(0) / (mean**2).mean(0)
    assert np.corrcoef(overdispersion, 1 / world.dispersion)[0, 1] > 0.9


def test_expected_log1p_is_the_sum_over_counts():
    means, library = np.array([1e-3, 0.1, 2.0, 40.0, 600.0]), np.array([900.0, 5000.0, 30_000.0])
    dispersion = np.array([0.5, 1.5, 4.0, 10.0, 30.0])
    eta = np.log(means * 1e4 / library[:, None])
    k = np.arange(40_000)
    expected = [
        [
            np.log1p(k * 1e4 / total) @ scipy.stats.nbinom.pmf(k, theta, theta / (theta + mean))
            for mean, theta in zip(means, dispersion, strict=True)
        ]
        for total in library
    ]
    np.testing.assert_allclose(expected_log1p(eta, library, dispersion), expected, rtol=2e-4, atol=1e-5)


# ---- truth against cells


def test_measured_shift_is_the_true_one(many):
    scores, slopes = [], []
    for label, (measured, error) in shift_and_error(many).items():
        true = many.truth["shift"][label]
        assert np.corrcoef(measured, true)[0, 1] > 0.95
        slopes.append(measured @ true / (true @ true))
        scores.append((measured - true) / error)
    assert np.mean(slopes) == pytest.approx(1, abs=0.02)
    # What is left between the two is the sampling error of the cells, and no more.
    assert np.std(scores) == pytest.approx(1, abs=0.1)
    control = log1p_of(many)[many.obs.perturbation == "control"]
    assert np.abs(control.mean(0) - many.truth["control_mean"]).max() < 0.15


def test_shifts_can_be_measured(cells):
    """Split halves of the cells of a perturbation, each against its own half of the controls."""
    x, condition = log1p_of(cells), cells.obs.perturbation.to_numpy()
    control = x[condition == "control"]
    agreement = []
    for label in cells.truth["kind"]:
        treated = x[condition == label]
        halves = [treated[k::2].mean(0) - control[k::2].mean(0) for k in (0, 1)]
        agreement.append(np.corrcoef(*halves)[0, 1])
    assert np.median(agreement) > 0.8
    assert min(agreement) > 0.5


def test_signs_of_the_network_show_in_the_shifts(many):
    truth, measured = many.truth, shift_and_error(many)
    network, factors = truth["network"], truth["factors"]
    n_factors = len(factors)
    assert not np.tril(network[:, :n_factors]).any(), "factors are in topological order"
    one_regulator = ((network != 0).sum(0) == 1) & ~np.any(list(truth["cooperating"].values()), axis=0)
    one_regulator[:n_factors] = False
    agree, used = 0, 0
    for name, kind in truth["kind"].items():
        f = factors.index(name)
        direct = one_regulator & (network[f] != 0)
        expected = np.sign(network[f, direct]) * np.sign(EFFECT[kind])
        assert (np.sign(truth["shift"][name][direct]) == expected).all()
        shift, error = (values[direct] for values in measured[name])
        clear = np.abs(shift) > 4 * error
        agree, used = agree + (np.sign(shift) == expected)[clear].sum(), used + clear.sum()
        assert np.sign(measured[name][0][f]) == np.sign(EFFECT[kind]), "the factor's own transcript"
    assert agree == used >= 20


def test_no_shift_where_nothing_leads(many):
    """Genes that no path of the network joins to the factor, and no gate, stay exactly as they are."""
    truth = many.truth
    n_factors = len(truth["factors"])
    among = np.linalg.matrix_power(np.eye(n_factors) + np.abs(truth["network"][:, :n_factors]), n_factors) > 0
    leads = among.astype(float) @ np.abs(truth["network"]) > 0
    leads[:, :n_factors] |= among
    for pair, weights in truth["cooperating"].items():
        for member in pair.split("+"):
            leads[among[:, truth["factors"].index(member)]] |= weights != 0
    for name in truth["kind"]:
        f = truth["factors"].index(name)
        assert (truth["shift"][name][~leads[f]] == 0).all()
        assert (truth["shift"][name][leads[f]] != 0).mean() > 0.95


def test_controls_of_batches_differ_by_the_batch_effect_only():
    many = simulate(n_cells=12_000, n_singles=0, n_pairs=0, n_interacting=0, seed=3)
    share = many.counts.toarray() / many.obs.total_counts.to_numpy()[:, None]
    members = [many.obs.batch == f"batch{b}" for b in (1, 2)]
    means = [share[m].mean(0) for m in members]
    error = np.sqrt(sum(share[m].var(0) / m.sum() / mean**2 for m, mean in zip(members, means, strict=True)))
    measured = np.log(means[0] / means[1])
    planted = many.truth["batch"][0] - many.truth["batch"][1]
    assert np.corrcoef(measured, planted)[0, 1] > 0.9
    assert scipy.stats.kstest((measured - planted) / error, "norm").pvalue > 0.001


def test_additive_and_interacting_pairs(many):
    interaction, cooperating = many.truth["interaction"], many.truth["cooperating"]
    assert (len(interaction), len(cooperating)) == (6, 2)
    assert set(cooperating) < set(interaction)
    shifts, measured = many.truth["shift"], shift_and_error(many)
    for pair, excess in interaction.items():
        if pair not in cooperating:
            assert np.abs(excess).max() < 1e-9
            continue
        assert np.abs(excess).max() > 0.2
        assert np.abs(excess[cooperating[pair] == 0]).max() < 1e-9
        first, second = pair.split("+")
        true = shifts[pair] - shifts[first] - shifts[second]
        seen = measured[pair][0] - measured[first][0] - measured[second][0]
        assert np.corrcoef(true, seen)[0, 1] > 0.6


def test_additive_pairs_are_additive_in_every_cell():
    world = world_of(seed=4)
    states = draw_states(np.random.default_rng(0), 50, 20, 3)
    eta = {c: log_rate(world, states, np.full(50, k)) for k, c in enumerate(world.conditions)}
    for pair in [c for c in world.conditions if len(c) == 2]:
        excess = np.abs(eta[pair] - eta[pair[:1]] - eta[pair[1:]] + eta[()]).max()
        assert (excess > 0.1) if pair in world.gates else (excess < 1e-9)


def test_cell_cycle_is_a_nuisance(many):
    """It moves its own genes, as loaded, and no others; and it is independent of the perturbation."""
    x, loadings = log1p_of(many), many.truth["nuisance"]
    in_s, in_g1 = (x[many.obs.phase == phase] for phase in ("S", "G1"))
    difference = in_s.mean(0) - in_g1.mean(0)
    score = difference / np.sqrt(in_s.var(0) / len(in_s) + in_g1.var(0) / len(in_g1))
    loaded = np.abs(loadings).sum(0) > 0
    assert loaded.sum() == 30
    # Mean angle of S: 225°; of G1: 90°, where the mean of (cos, sin) is (0, 2/π).
    direction = np.array([-1, -1]) * np.sqrt(0.5) * 2 * np.sqrt(2) / np.pi - np.array([0, 2 / np.pi])
    assert np.corrcoef(difference[loaded], (direction @ loadings)[loaded])[0, 1] > 0.8
    assert np.abs(score[loaded]).min() > 5
    assert np.abs(score[~loaded]).max() < 5
    table = many.obs.groupby(["perturbation", "phase"]).size().unstack()
    assert scipy.stats.chi2_contingency(table).pvalue > 0.001


# ---- arguments


def test_smallest_worlds():
    assert not simulate(n_cells=30, n_batches=1).truth["batch"].any()
    alone = simulate(n_cells=5, n_genes=60, n_factors=1, n_singles=1, n_pairs=0, n_interacting=0)
    assert set(alone.obs.perturbation) == {"control", "TF01"}
    plain = simulate(n_cells=1, n_singles=0, n_pairs=0, n_interacting=0)
    assert plain.truth["shift"] == {}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"n_cells": 0}, "data.simulate.n_cells=0 is too few"),
        ({"n_cells": "many"}, "data.simulate.n_cells must be a whole number, not 'many'"),
        ({"n_cells": 18}, "data.simulate.n_cells=18 .* makes 5 control cells and 13 others for 18 perturbations"),
        ({"n_genes": 50}, "data.simulate.n_genes=50 is too few: 76 are needed"),
        ({"n_factors": 5}, "data.simulate.n_singles=12 is more than data.simulate.n_factors=5"),
        ({"n_interacting": 7}, "data.simulate.n_interacting=7 is more than data.simulate.n_pairs=6"),
        ({"n_pairs": 100}, "data.simulate.n_pairs: 98 additive pairs are asked for, but data.simulate.n_singles=12"),
        ({"n_pairs": 9, "n_interacting": 8}, "data.simulate.n_interacting: 8 interacting pairs"),
        ({"n_batches": 0}, "data.simulate.n_batches=0"),
        ({"control_share": 1.0}, "data.simulate.control_share=1.0"),
        ({"control_share": "half"}, "data.simulate.control_share='half'"),
        ({"seed": -1}, "data.simulate.seed=-1"),
        ({"seed": True}, "data.simulate.seed must be a whole number"),
    ],
)
def test_worlds_that_cannot_be(arguments, words):
    with pytest.raises(UserError, match=words):
        simulate(**arguments)


def test_smallest_number_of_genes_that_is_named_is_enough():
    assert simulate(n_cells=60, n_genes=76).counts.shape == (60, 76)
