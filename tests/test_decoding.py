"""What a contrastive model says of cells: latents, expression with and without t, new counts, the ELBO of a cell."""

import anndata as ad
import numpy as np
import pytest
import torch
from contrastive_world import CELLS, begun, cells, fit, module, screen, shaken

from stormcell.config import DataConfig, UserError
from stormcell.data.control_perturbed import ControlPerturbedDataModule
from stormcell.models import decoding
from stormcell.models.decoding import elbo, expression, latents, pairs, posterior_predictive


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return screen(tmp_path_factory.mktemp("screen") / "cells.h5ad")


@pytest.fixture(scope="module")
def data(path):
    return module(path, covariate_keys=["line"])


@pytest.fixture(scope="module")
def model(data):
    return shaken(data)


@pytest.fixture
def rows(data):
    """Test cells and controls that were kept, mixed."""
    held = np.concatenate([data.rows["test"], data.rows["truth"]])
    return np.random.default_rng(0).permutation(held)


def control(data, rows):
    return data.condition[rows] == "control"


def shares(model, data, rows, t, z=None, batch=None):
    """Decoded by hand from the posterior means."""
    given = cells(data, rows)
    q = model.encode(given, model.network)
    with torch.no_grad():
        hot = given.batch if batch is None else batch
        of = given._replace(batch=hot)
        z = q.z if z is None else z
        return model.network.decode(z, t, model.covariates(of), hot).log_share.exp().numpy()


# ---- latents


def test_latents_of_a_cell_are_the_same_in_any_selection(model, data, rows, monkeypatch):
    whole, draws = latents(model, data, rows), latents(model, data, rows, draw=2)
    monkeypatch.setattr(decoding, "BLOCK", 7)
    order = np.random.default_rng(1).permutation(len(rows))
    for found, other in (
        (whole, latents(model, data, rows[order])),
        (draws, latents(model, data, rows[order], draw=2)),
    ):
        for name in ("background", "salient", "responding", "plain"):
            np.testing.assert_allclose(getattr(found, name)[order], getattr(other, name), rtol=1e-4, atol=1e-5)
    shape = {name: part.shape for name, part in whole._asdict().items()}
    assert shape == {"background": (len(rows), 4), "salient": (len(rows), 3), "responding": (len(rows),),
                     "plain": (len(rows), 7)}  # fmt: skip


@torch.no_grad()
def test_draws_have_the_mean_and_the_spread_of_the_posterior(model, data, rows):
    few = rows[:20]
    q = model.encode(cells(data, few), model.network)
    draws = [latents(model, data, few, draw=draw) for draw in range(400)]
    for name, mean, log_var in (("background", q.z, q.z_log_var), ("salient", q.t, q.t_log_var)):
        found, sd = np.stack([getattr(one, name) for one in draws]), (log_var / 2).exp().numpy()
        assert np.abs(found.mean(0) - mean.numpy()).max() < 5 * sd.max() / 20
        assert found.std(0) / sd == pytest.approx(np.ones_like(sd), abs=0.25)
    correlation = np.corrcoef(*(np.stack([getattr(one, n)[0, 0] for one in draws]) for n in ("background", "salient")))[
        0, 1
    ]
    assert abs(correlation) < 0.2
    assert np.array_equal(draws[3].background, latents(model, data, few, draw=3).background)


@torch.no_grad()
def test_responding_is_the_probability_not_to_be_a_control(model, data, rows):
    odds = model.encode(cells(data, rows), model.network).log_odds.double()
    wanted = 1 - np.exp(odds[:, 0] - torch.logsumexp(odds, 1)).numpy()
    assert latents(model, data, rows).responding == pytest.approx(wanted, abs=1e-5)
    perceptron = shaken(data, salient_encoder="mlp", plain_vae=False)
    found = latents(perceptron, data, rows)
    assert found.responding is None and found.plain is None


# ---- expression


@torch.no_grad()
def test_expression_with_own_zero_and_given_salient(model, data, rows):
    mean, zeros = latents(model, data, rows).salient, torch.zeros(len(rows), 3)
    gated = torch.from_numpy(np.where(control(data, rows)[:, None], 0, mean))
    own = expression(model, data, rows)
    assert own.dtype == np.float32 and own.shape == (len(rows), 40)
    np.testing.assert_allclose(own, shares(model, data, rows, gated), rtol=2e-4, atol=1e-8)
    without = expression(model, data, rows, "zero")
    np.testing.assert_allclose(without, shares(model, data, rows, zeros), rtol=2e-4, atol=1e-8)
    vector = np.array([0.5, -1.0, 2.0])
    given = expression(model, data, rows, vector)
    t = torch.from_numpy(vector).float().expand(len(rows), 3)
    np.testing.assert_allclose(given, shares(model, data, rows, t), rtol=2e-4, atol=1e-8)
    controls = control(data, rows)
    assert np.array_equal(own[controls], without[controls]), "t of a control is 0 in its own expression too"
    assert np.abs(own[~controls] - without[~controls]).max() > 1e-4
    assert np.abs(given[controls] - without[controls]).max() > 1e-4, "a given t is for controls too"
    assert (own.sum(1) < 1).all() and (own > 0).all()


def test_a_perturbation_stands_for_the_mean_t_of_its_training_cells(model, data, rows):
    train = data.rows["train"]
    mean = latents(model, data, train[data.condition[train] == "B"]).salient.mean(0)
    np.testing.assert_allclose(
        expression(model, data, rows, "B"), expression(model, data, rows, mean), rtol=1e-5, atol=1e-9
    )


@torch.no_grad()
def test_one_batch_for_every_cell(model, data, rows):
    hot = torch.eye(3)[1].expand(len(rows), 3)
    gated = torch.from_numpy(np.where(control(data, rows)[:, None], 0, latents(model, data, rows).salient))
    found = expression(model, data, rows, batch="b2")
    np.testing.assert_allclose(found, shares(model, data, rows, gated, batch=hot), rtol=2e-4, atol=1e-8)
    mine = data.cells.obs["batch"].to_numpy(str)[rows] == "b2"
    own = expression(model, data, rows)
    np.testing.assert_allclose(found[mine], own[mine], rtol=1e-4)
    assert np.abs(found[~mine] - own[~mine]).max() > 1e-4


def test_a_draw_of_expression_is_keyed_by_the_cell(model, data, rows):
    one, other = (expression(model, data, which, draw=3) for which in (rows, rows[::-1].copy()))
    np.testing.assert_allclose(one, other[::-1], rtol=1e-4, atol=1e-8)
    assert np.abs(one - expression(model, data, rows, draw=4)).max() > 1e-3
    assert np.abs(one - expression(model, data, rows)).max() > 1e-3


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"salient": "a"}, r"^salient='a': .*did you mean 'A'"),
        ({"salient": "zeros"}, r"^salient='zeros': .*did you mean 'zero'"),
        ({"batch": "b4"}, r"^batch='b4' \(did you mean 'b\d'\?\): batches of the training cells are b1, b2, b3$"),
    ],
)
def test_words_that_are_not_known(model, data, rows, keys, words):
    with pytest.raises(UserError, match=words):
        expression(model, data, rows[:3], **keys)


def test_a_vector_of_another_length_is_a_bug_of_the_caller(model, data, rows):
    with pytest.raises(ValueError, match=r"salient vector of shape \(4,\), \(3,\) needed"):
        expression(model, data, rows[:3], np.zeros(4))


def test_pairs_differ_by_t_alone(model, data, rows):
    """The same z in both, of one draw: with t = 0 in both they are equal, and blocks make the whole."""
    with_t, without = (np.concatenate(part) for part in zip(*pairs(model, data, rows, 5), strict=True))
    drawn = latents(model, data, rows, draw=5)
    z, t = torch.from_numpy(drawn.background), torch.from_numpy(drawn.salient)
    np.testing.assert_allclose(with_t, shares(model, data, rows, t, z), rtol=2e-4, atol=1e-8)
    np.testing.assert_allclose(without, shares(model, data, rows, torch.zeros_like(t), z), rtol=2e-4, atol=1e-8)
    controls = control(data, rows)
    assert np.abs(with_t - without)[controls].max() > 1e-5, "a control keeps its own t here: it is the null"


# ---- counts and the ELBO


@pytest.mark.parametrize("likelihood", ["poisson", "negative_binomial", "zero_inflated_negative_binomial"])
def test_posterior_predictive_counts_have_the_mean_and_variance_of_the_likelihood(data, likelihood):
    """Over the draws of 40 cells, with posteriors so narrow that z and t are their means."""
    model, few = shaken(data, likelihood=likelihood, plain_vae=False), data.rows["test"][:40]
    with torch.no_grad():
        for head, first in zip(model.network.heads, (4, 0), strict=True):
            head[-1].bias[first:] = -100  # the floor: a standard deviation of e^−5
        given = cells(data, few)
        q = model.encode(given, model.network)
        decoded = model.network.decode(q.z, q.t, model.covariates(given), given.batch)
    decoded = type(decoded)(*(None if part is None else part.detach() for part in decoded))
    mean = (decoded.log_share.exp() * given.library).double().numpy()
    variance = mean.copy()
    if likelihood != "poisson":
        variance += mean**2 / decoded.log_theta.exp().double().numpy()
    if decoded.logit is not None:
        gate = decoded.logit.sigmoid().double().numpy()
        variance = (1 - gate) * (variance + gate * mean**2)
        mean = (1 - gate) * mean
    draws = np.stack([posterior_predictive(model, data, few, draw) for draw in range(200)])
    assert draws.dtype == np.float32
    assert np.array_equal(draws, np.rint(draws)) and draws.min() == 0
    error = np.sqrt(variance / 200)
    z = (draws.mean(0) - mean) / error
    assert abs(z.mean()) < 0.15 and z.std() == pytest.approx(1, abs=0.15)
    assert draws.var(0).sum() == pytest.approx(variance.sum(), rel=0.1)
    assert np.array_equal(draws[7], posterior_predictive(model, data, few, 7))


@torch.no_grad()
@pytest.mark.parametrize("library", ["observed", "inferred"])
def test_the_elbo_of_cells_is_what_training_minimises(data, library, rows):
    """Its parts are those of the loss, on average over draws."""
    model = shaken(data, library=library, plain_vae=False)
    batch = cells(data, rows)
    q = model.encode(batch, model.network)
    parts = model.loss(batch)
    kl = parts["kl_z"] + parts["kl_t"]
    of_library = model.draw_library(batch, q, 0)[1].mean().item()
    bounds, likelihoods = zip(*(elbo(model, data, rows, draw) for draw in range(30)), strict=True)
    for bound, likelihood in zip(bounds, likelihoods, strict=True):
        assert bound.shape == likelihood.shape == (len(rows),)
        assert (likelihood - bound).mean() == pytest.approx(kl.item() + of_library, rel=1e-4)
        assert (likelihood >= bound).all()
    spread = float(np.std([one.mean() for one in likelihoods]))
    assert np.mean(likelihoods) == pytest.approx(of_library - parts["reconstruction"].item(), abs=4 * spread)
    assert (of_library > 0) == (library == "inferred")
    order = np.random.default_rng(2).permutation(len(rows))
    assert elbo(model, data, rows[order], 3)[0] == pytest.approx(bounds[3][order], rel=1e-4)


def test_elbo_rises_with_training(data):
    model = begun(data, plain_vae=False)
    before = elbo(model.eval(), data, data.rows["test"])[0].mean()
    fit(model.train(), data, 60)
    assert elbo(model.eval(), data, data.rows["test"])[0].mean() > before


# ---- another file


def test_cells_of_another_file_are_decoded_by_name(path, data, model, tmp_path):
    """Another order of cells and genes, and more genes: every cell has the latents that it has in its own file."""
    file = ad.read_h5ad(path)
    rng = np.random.default_rng(5)
    file[rng.permutation(file.n_obs), rng.permutation(file.n_vars)].copy().write_h5ad(tmp_path / "other.h5ad")
    config = DataConfig("other", path=str(tmp_path / "other.h5ad"), batch_key="batch", library_key="total_counts",
                        covariate_keys=["line"])  # fmt: skip
    other = ControlPerturbedDataModule(config, CELLS, 1, 32, paired=True)
    other.setup_elsewhere(data.spec, 0.5)
    every = np.arange(len(data.cells))
    assert (other.cells.obs.index == data.cells.obs.index).all()
    for draw in (None, 1):
        np.testing.assert_allclose(
            latents(model, other, every, draw).salient, latents(model, data, every, draw).salient, rtol=1e-4, atol=1e-5
        )
    np.testing.assert_allclose(expression(model, other, every), expression(model, data, every), rtol=1e-4, atol=1e-8)
    with pytest.raises(UserError, match=r"salient='A': the mean of its training cells, of which .*other.h5ad has none"):
        expression(model, other, every, salient="A")
