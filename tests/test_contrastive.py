"""The contrastive VAE: every part of its loss against scipy, torch.distributions and the network unfused; what a cell
contributes, in any batch and on any process."""

import copy
from functools import partial

import anndata as ad
import numpy as np
import pytest
import scipy.stats
import torch
from contrastive_world import begun, cells, fit, gradients, in_training, module, part_of, screen, shaken, some
from scipy.linalg import sqrtm
from scipy.special import expit, logsumexp, softmax
from torch.nn.functional import cross_entropy, layer_norm, one_hot

from stormcell.data.split import held_out_perturbations
from stormcell.models.contrastive import (
    DROPOUT,
    LIBRARY,
    VALIDATION_STEP,
    Contrastive,
    T,
    Weights,
    Z,
)
from stormcell.nn.count_vae import Network, kl_normal, wasserstein_to_zero
from stormcell.nn.independence import BANDWIDTHS, hsic, mmd
from stormcell.nn.noise import keyed_normal

DECOMPOSED = ("reconstruction", "kl_z", "kl_t", "w2", "classifier", "plain")
ADVERSARY = {"background_term": "adversary"}
UNEQUAL = Weights(kl_z=0.7, kl_t=0.9, w2=1.3, classifier=2.1, background=3.1, leak=5.3, warmup_steps=10)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return screen(tmp_path_factory.mktemp("screen") / "cells.h5ad")


@pytest.fixture(scope="module")
def data(path):
    return module(path, covariate_keys=["line"], continuous_covariate_keys=["dose"])


# ---- closed forms


def test_kl_is_that_of_torch():
    torch.manual_seed(0)
    mean, log_var = torch.randn(50, 8), torch.randn(50, 8)
    q = torch.distributions.Normal(mean, (0.5 * log_var).exp())
    expected = torch.distributions.kl_divergence(q, torch.distributions.Normal(0.0, 1.0)).sum(1)
    assert torch.allclose(kl_normal(mean, log_var), expected, rtol=1e-5)
    assert not kl_normal(torch.zeros(1, 8), torch.zeros(1, 8)).any()


def test_w2_is_that_of_two_gaussians_one_of_which_shrinks_to_a_point():
    """‖m − m'‖² + tr(S + S' − 2 (S'^½ S S'^½)^½), and the mean squared length of draws."""
    rng = np.random.default_rng(0)
    mean, log_var = rng.normal(size=5), rng.normal(size=5)
    found = wasserstein_to_zero(torch.tensor(mean)[None], torch.tensor(log_var)[None]).item()
    S, tiny = np.diag(np.exp(log_var)), 1e-12 * np.eye(5)
    general = mean @ mean + np.trace(S + tiny - 2 * sqrtm(sqrtm(tiny) @ S @ sqrtm(tiny)).real)
    assert found == pytest.approx(general, rel=1e-5)
    draws = scipy.stats.multivariate_normal(mean, S).rvs(200_000, random_state=1)
    assert found == pytest.approx(np.square(draws).sum(1).mean(), rel=0.02)


# ---- the whole loss, by hand


def encoders_by_hand(model, network, batch):
    """Each encoder for itself, as if its first layer were not fused with those of the others."""
    counted = model.encoder_input == "counts" or model.library == "inferred"
    x = batch.counts.log1p() if counted else scaled_by_hand(model, batch)
    if model.encode_covariates:
        x = torch.cat([x, covariates_by_hand(batch)], -1)
    linear, norm, act = network.first
    H = len(linear.bias) // len(network.heads)
    outputs = []
    for i, head in enumerate(network.heads):
        mine = slice(i * H, (i + 1) * H)
        h = x @ linear.weight[:, mine] + linear.bias[mine]
        outputs.append(head(act(layer_norm(h, (H,), norm.weight[mine], norm.bias[mine]))))
    return outputs


def scaled_by_hand(model, batch):
    """log1p of the counts at the typical library."""
    return torch.log1p(batch.counts / batch.library * model.typical)


def covariates_by_hand(batch):
    """Line (2), dose (1), batch (3)."""
    assert (batch.covariates.shape[1], batch.batch.shape[1]) == (3, 3)
    return torch.cat([batch.covariates, batch.batch], -1)


def latents_by_hand(model, batch):
    """Means and log variances of z, t and the log library."""
    z, t, *library = encoders_by_hand(model, model.network, batch)
    found = [z.chunk(2, -1), t.chunk(2, -1), library[0].chunk(2, -1) if library else None]
    if model.network.codes is not None:
        odds = scaled_by_hand(model, batch) @ model.network.odds.weight.T + model.network.odds.bias
        odds = odds.double().numpy()
        responds = expit(model.network.gate * (logsumexp(odds[:, 1:], axis=1) - odds[:, 0]))
        power = softmax(odds[:, 1:], axis=1) ** model.network.sharpness
        share = torch.from_numpy(responds[:, None] * power / power.sum(1, keepdims=True)).float()
        found[1] = share @ model.network.codes, t
    return found


def drawn_by_hand(model, batch, mean, log_var, stream):
    assert log_var.abs().max() < 5
    return mean + (log_var / 2).exp() * keyed_normal(model.seed, VALIDATION_STEP, batch.index, mean.shape[1], stream)


def log_prob_by_hand(model, batch, z, t, log_library):
    """scipy's log-probability of the counts, with shares, dispersions and gates in float64."""
    network = model.network
    h = network.decoder(torch.cat([z, t, covariates_by_hand(batch)], -1))
    rate = (network.share(h) + network.level).double().exp().numpy()
    mean = rate / (rate.sum(1, keepdims=True) + np.exp(network.rest.item())) * np.exp(log_library.double().numpy())
    log_theta = network.log_theta.double().numpy()
    if model.network.of_cell is not None:
        log_theta = log_theta + network.of_cell(h).double().numpy()
    elif len(log_theta) > 1:
        log_theta = log_theta[batch.batch.argmax(1)]
    theta, x = np.exp(log_theta), batch.counts.double().numpy()
    if model.likelihood == "poisson":
        return scipy.stats.poisson.logpmf(x, mean).sum(1)
    counted = scipy.stats.nbinom.logpmf(x, theta, theta / (theta + mean))
    if model.likelihood == "negative_binomial":
        return counted.sum(1)
    gate = 1 / (1 + np.exp(-network.logit(h).double().numpy()))
    return np.where(x == 0, np.log(gate + (1 - gate) * np.exp(counted)), np.log1p(-gate) + counted).sum(1)


def mmd_by_hand(a, b):
    """Mean kernel over pairs of different cells within each sample, less twice that between them: a double loop."""

    def k(x, y):
        return np.mean([np.exp(-np.square(x - y).sum() / (2 * width * len(x))) for width in BANDWIDTHS])

    a, b = a.double().numpy(), b.double().numpy()
    within = [np.mean([k(c[i], c[j]) for i in range(len(c)) for j in range(len(c)) if i != j]) for c in (a, b)]
    return sum(within) - 2 * np.mean([k(x, y) for x in a for y in b])


def library_kl(data, batch, mean, log_var):
    """KL of the log library to the normal of the training cells of its batch, by torch."""
    train = data.cells.obs.iloc[data.rows["train"]]
    log_library = np.log(train["library"].astype(float))
    prior = [(log_library[train["batch"] == name].mean(), log_library[train["batch"] == name].std(ddof=0)) for name in
             ("b1", "b2", "b3")]  # fmt: skip
    centre, sd = torch.tensor(prior)[batch.batch.argmax(1)].float().unbind(1)
    q, p = torch.distributions.Normal(mean[:, 0], (log_var[:, 0] / 2).exp()), torch.distributions.Normal(centre, sd)
    return torch.distributions.kl_divergence(q, p)


WORDS = [
    {},
    {"likelihood": "negative_binomial", "dispersion": "gene-batch"},
    {"likelihood": "poisson", "salient_encoder": "mlp"},
    {"dispersion": "gene-cell", "library": "inferred", "activation": "silu", **ADVERSARY},
    {"dispersion": "gene-batch", "library": "inferred", "salient_encoder": "mlp", "encode_covariates": True},
    {"encoder_input": "counts", "hidden": (16,), "background_term": "none", "gate": 1.0, "sharpness": 1.0},
]


@torch.no_grad()
@pytest.mark.parametrize("words", WORDS, ids=lambda words: "-".join(map(str, words.values())) or "default")
def test_the_loss_is_the_elbo_of_scipy_and_its_penalties(data, words):
    model = shaken(data, weights=UNEQUAL, nuisance="batch", plain_vae=False, class_balanced=True, **words)
    batch = some(data)
    assert model.network.gate == words.get("gate", 0.5) and model.network.sharpness == words.get("sharpness", 2.0)
    if model.network.odds is not None:  # so clear that neither gate nor sharpness would show
        for parameter in model.network.odds.parameters():
            parameter *= 0.03
    label = torch.tensor([["control", "A", "B", "C"].index(name) for name in data.condition[batch.index]])
    perturbed = (label > 0).float()
    term = words.get("background_term", "mmd")
    assert (model.critic is not None) == (term == "adversary")
    of_z, of_t, of_library = latents_by_hand(model, batch)
    z, t = drawn_by_hand(model, batch, *of_z, Z), drawn_by_hand(model, batch, *of_t, T)
    log_library, kl = batch.library.log(), 0.0
    if of_library is not None:
        log_library = drawn_by_hand(model, batch, *of_library, LIBRARY)
        kl = library_kl(data, batch, *of_library).mean().item()
    normal = torch.distributions.Normal(0.0, 1.0)
    divergence = [
        torch.distributions.kl_divergence(torch.distributions.Normal(mean, (log_var / 2).exp()), normal).sum(1)
        for mean, log_var in (of_z, of_t)
    ]
    length = (of_t[0] ** 2 + of_t[1].exp()).sum(1)
    n = np.array([(data.condition[data.rows["train"]] == name).sum() for name in "ABC"])
    weight = torch.tensor([1.0, *(n.sum() / 3 / n)])
    wanted = {
        "reconstruction": -log_prob_by_hand(model, batch, z, t * perturbed[:, None], log_library).mean() + kl,
        "kl_z": divergence[0].mean(),
        "kl_t": (divergence[1] * perturbed).sum() / len(label),
        "w2": (length * (1 - perturbed)).sum() / len(label),
        "classifier": (cross_entropy(model.classifier(t), label, reduction="none") * weight[label]).mean(),
        "background": {
            "mmd": lambda: mmd_by_hand(z[:16], z[16:]),
            "adversary": lambda: cross_entropy(model.critic(z), (label > 0).long()),
            "none": lambda: 0.0,
        }[term](),
        "leak": hsic(t[16:], batch.batch[16:]),
    }
    parts = model.loss(batch)
    assert set(parts) == set(model.parts)
    for name, value in wanted.items():
        # float32: the kernel means of the MMD are near 1 and cancel
        rounding = 2e-6 if name == "background" and term == "mmd" else 1e-12
        assert parts[name].item() == pytest.approx(float(value), rel=1e-4, abs=rounding), name
    total = (
        wanted["reconstruction"] + 0.7 * wanted["kl_z"] + 0.9 * wanted["kl_t"] + 1.3 * wanted["w2"]
        + 2.1 * wanted["classifier"] + 5.3 * wanted["leak"]
        + (1 if term == "adversary" else 3.1) * wanted["background"]
    )  # fmt: skip
    assert parts["loss"].item() == pytest.approx(float(total), rel=1e-4)


@pytest.mark.parametrize(("term", "measure"), [("mmd", mmd), ("hsic", hsic)])
@torch.no_grad()
def test_the_background_term_is_of_the_drawn_z(data, term, measure):
    model, batch = shaken(data, background_term=term, weights=UNEQUAL, plain_vae=False), some(data)
    z = drawn_by_hand(model, batch, *latents_by_hand(model, batch)[0], Z)
    wanted = mmd(z[:16], z[16:])
    if term == "hsic":
        wanted = hsic(z, one_hot(model._labels[batch.index], 4).float())
        # of every perturbation, not of control against perturbed alone
        assert wanted.item() != pytest.approx(hsic(z, one_hot((model._labels[batch.index] > 0).long(), 2).float()))
    parts = model.loss(batch)
    assert parts["background"].item() == pytest.approx(wanted.item(), rel=1e-4)
    without = shaken(data, background_term="none", weights=UNEQUAL, plain_vae=False).loss(batch)
    assert not without["background"]
    assert (parts["loss"] - without["loss"]).item() == pytest.approx(3.1 * wanted.item(), rel=2e-3)


def test_the_encoder_learns_against_the_adversary(data, monkeypatch):
    """In the encoder the gradient is −weight times that of the adversary's cross-entropy, and rises; in the adversary
    it is the cross-entropy's own. Without the reversal z would be taught to tell controls apart."""
    model, batch = shaken(data, weights=UNEQUAL, plain_vae=False, dropout=0.0, **ADVERSARY), some(data)
    for step, rise in {1: 0.2, 50: 1.0}.items():
        found = gradients(in_training(monkeypatch, model, step).loss(batch)["background"], model)
        q = model.encode(batch, model.network)
        z = q.z + (q.z_log_var / 2).exp() * keyed_normal(model.seed, step, batch.index, 4, Z)
        plain = gradients(cross_entropy(model.critic(z), (model._labels[batch.index] > 0).long()), model)
        assert plain["network.first.0.weight"].any() and plain["critic.0.weight"].any()
        for name, gradient in plain.items():
            factor = 1 if name.startswith("critic.") else -3.1 * rise
            assert torch.allclose(found[name], factor * gradient, rtol=1e-4, atol=1e-6), name


def test_kl_background_and_leak_rise_and_the_others_do_not(data, monkeypatch):
    keys = {"nuisance": "batch", "plain_vae": False, "dropout": 0.0}
    model, batch = shaken(data, weights=UNEQUAL, background_term="hsic", **keys), some(data)
    for step, rise in {0: 0.1, 4: 0.5, 9: 1.0, 99: 1.0}.items():
        parts = in_training(monkeypatch, model, step).loss(batch)
        risen = 0.7 * parts["kl_z"] + 0.9 * parts["kl_t"] + 3.1 * parts["background"] + 5.3 * parts["leak"]
        constant = parts["reconstruction"] + 1.3 * parts["w2"] + 2.1 * parts["classifier"]
        assert parts["loss"].item() == pytest.approx((constant + rise * risen).item(), rel=1e-5)


@torch.no_grad()
def test_the_plain_vae_is_a_vae_of_every_cell_alike(data):
    """Its bound is the loss of a model without salient space, and no other part of the loss depends on it."""
    model, batch = shaken(data), some(data)
    network = model.plain
    [out] = encoders_by_hand(model, network, batch)
    mean, log_var = out.chunk(2, -1)
    assert mean.shape[1] == 4 + 3
    z = mean + (log_var / 2).exp() * keyed_normal(model.seed, VALIDATION_STEP, batch.index, 7, 4)
    decoded = network.decode(z, z[:, :0], covariates_by_hand(batch), batch.batch)
    wanted = -model.log_prob(batch.counts, decoded, batch.library.log()).mean() + kl_normal(mean, log_var).mean()
    parts = model.loss(batch)
    assert parts["plain"].item() == pytest.approx(wanted.item(), rel=1e-5)
    for parameter in network.parameters():
        parameter += 0.1
    again = model.loss(batch)
    for name in set(model.parts) - {"loss", "plain"}:
        assert again[name].equal(parts[name]), name
    assert (again["loss"] - again["plain"]).item() == pytest.approx((parts["loss"] - parts["plain"]).item(), rel=1e-5)


# ---- what a cell contributes


@torch.no_grad()
@pytest.mark.parametrize("step", [None, 11])
@pytest.mark.parametrize("library", ["observed", "inferred"])
def test_a_cell_has_the_same_bound_in_any_batch(data, monkeypatch, step, library):
    """Alone, among controls only, or among perturbed cells only: keyed noise and dropout, no share of the group in a
    weight."""
    model, batch = shaken(data, library=library, **ADVERSARY), some(data)
    if step is not None:
        in_training(monkeypatch, model, step)
    whole = model.loss(batch)
    shuffled = torch.randperm(32, generator=torch.Generator().manual_seed(1))
    for pieces in ([torch.arange(16), torch.arange(16, 32)], [shuffled[:5], shuffled[5:]], shuffled[:, None]):
        for name in (*DECOMPOSED, "background"):
            mean = sum(model.loss(part_of(batch, piece))[name].item() * len(piece) for piece in pieces) / 32
            assert mean == pytest.approx(whole[name].item(), rel=1e-5), name


@torch.no_grad()
def test_the_bound_does_not_depend_on_the_share_of_controls(data):
    """Nine perturbed cells beside one control: the parts are means over cells, not over groups."""
    model, batch = shaken(data), some(data)
    alone = [model.loss(part_of(batch, slice(i, i + 1))) for i in range(32)]
    uneven = [0, *range(16, 25)]
    parts = model.loss(part_of(batch, uneven))
    for name in ("kl_t", "w2"):
        assert parts[name].item() == pytest.approx(np.mean([alone[i][name].item() for i in uneven]), rel=1e-5)
    assert not any(alone[i]["kl_t"] for i in range(16))
    assert not any(alone[i]["w2"] for i in range(16, 32))
    assert parts["w2"].item() == pytest.approx(alone[0]["w2"].item() / 10, rel=1e-5)


@torch.no_grad()
def test_noise_is_new_in_every_step_of_training_and_the_same_at_every_validation(data, monkeypatch):
    model, batch = shaken(data), some(data)
    first, again, later = (in_training(monkeypatch, model, step).loss(batch)["reconstruction"] for step in (4, 4, 5))
    assert first.equal(again)
    assert not first.equal(later)
    model.eval()
    monkeypatch.setattr(Contrastive, "global_step", property(lambda self: 4))
    check = model.loss(batch)["loss"]
    monkeypatch.setattr(Contrastive, "global_step", property(lambda self: 400))
    assert check.equal(model.loss(batch)["loss"])


@torch.no_grad()
def test_dropout_belongs_to_the_cell_and_keeps_the_mean(data, monkeypatch):
    model, batch = in_training(monkeypatch, shaken(data, dropout=0.4), 3), some(data)
    monkeypatch.setattr(Network, "encode", lambda self, x, scaled, dropped=None: dropped)
    kept = model.encode(batch, model.network, DROPOUT)
    assert kept.shape == (32, 2 * 16)
    assert kept.unique().tolist() == pytest.approx([0, 1 / 0.6])
    assert kept.mean().item() == pytest.approx(1, abs=4 * np.sqrt(0.4 / 0.6 / kept.numel()))
    order = torch.randperm(32)
    assert model.encode(part_of(batch, order), model.network, DROPOUT).equal(kept[order])
    assert not in_training(monkeypatch, model, 4).encode(batch, model.network, DROPOUT).equal(kept)
    assert model.encode(batch, model.network) is None
    assert model.eval().encode(batch, model.network, DROPOUT) is None


# ---- several processes


@pytest.mark.parametrize("words", [{}, {"library": "inferred", "salient_encoder": "mlp", "likelihood": "poisson"}])
def test_the_gradient_is_the_mean_over_the_processes_shares(data, monkeypatch, words):
    """Half of the controls and half of the perturbed cells on each of two processes, adversary included."""
    model = in_training(monkeypatch, shaken(data, weights=UNEQUAL, codes_rate=0.01, **ADVERSARY, **words), 5)
    whole = gradients(model.loss(some(data))["loss"], model)
    shards = [cells(data, data.step_rows(0, rank, 2)) for rank in range(2)]
    assert [int((shard.condition.sum(1) > 0).sum()) for shard in shards] == [8, 8]
    found = [gradients(model.loss(shard)["loss"], model) for shard in shards]
    size = max(g.abs().max() for g in whole.values())
    for name, gradient in whole.items():
        assert torch.allclose((found[0][name] + found[1][name]) / 2, gradient, rtol=1e-3, atol=1e-6 * size), name


@torch.no_grad()
@pytest.mark.parametrize("term", ["mmd", "hsic"])
def test_mmd_and_hsic_compare_cells_of_one_process_with_each_other(data, term):
    """They do not decompose: two processes see half of the pairs each, and their mean is another number."""
    model = shaken(data, background_term=term)
    whole = model.loss(some(data))
    parts = [model.loss(cells(data, data.step_rows(0, rank, 2)))["background"].item() for rank in range(2)]
    assert np.mean(parts) != pytest.approx(whole["background"].item(), rel=1e-3)


# ---- library and dispersion


@torch.no_grad()
def test_an_inferred_library_has_a_prior_for_each_batch(path):
    data = module(path)
    model = begun(data, library="inferred")
    train = data.cells.obs.iloc[data.rows["train"]]
    for name, (mean, variance) in zip(("b1", "b2", "b3"), model.library_prior, strict=True):
        mine = np.log(train["library"][train["batch"] == name].astype(float))
        assert (mean.item(), variance.item()) == pytest.approx((mine.mean(), mine.var(ddof=0)), rel=1e-5)
    batch = some(data)
    assert model._prior_of(batch).equal(model.library_prior[batch.batch.argmax(1)])
    unseen = batch._replace(batch=torch.zeros(32, 3))
    assert torch.allclose(model._prior_of(unseen), model.library_prior.mean(0).expand(32, 2))


@torch.no_grad()
def test_one_batch_has_one_prior(tmp_path):
    data = module(screen(tmp_path / "cells.h5ad", batches=("b1",)))
    assert data.spec.n_batches == 0
    model = begun(data, library="inferred", dispersion="gene-batch")
    assert model.library_prior.shape == (1, 2)
    assert model._prior_of(some(data)).shape == (32, 2)
    assert model.network.log_theta.shape == (1, 40)
    assert np.isfinite(model.loss(some(data))["loss"].item())


@torch.no_grad()
def test_dispersions_of_genes_batches_and_cells(data):
    batch = some(data)
    z, t, covariates = torch.randn(32, 4), torch.randn(32, 3), torch.randn(32, 6)
    theta = {}
    for dispersion in ("gene", "gene-batch", "gene-cell"):
        network = shaken(data, dispersion=dispersion).network
        theta[dispersion] = network.decode(z, t, covariates, batch.batch).log_theta
        if dispersion == "gene-batch":
            assert network.log_theta.shape == (3, 40)
            assert theta[dispersion].equal(network.log_theta[batch.batch.argmax(1)])
            unseen = network.decode(z, t, covariates, torch.zeros(32, 3)).log_theta
            assert torch.allclose(unseen, network.log_theta.mean(0).expand(32, 40), atol=1e-6)
        if dispersion == "gene-cell":
            other = network.decode(z + 1, t, covariates, batch.batch).log_theta
            assert not torch.allclose(other, theta[dispersion])
    assert {name: tuple(value.shape) for name, value in theta.items()} == {
        "gene": (40,), "gene-batch": (32, 40), "gene-cell": (32, 40)
    }  # fmt: skip


@torch.no_grad()
def test_shares_add_up_to_what_the_panel_holds_of_the_library(path, data):
    """The library counts genes that the file does not have: their share is left to them."""
    network, batch = begun(data).network, some(data)
    train = data.rows["train"]
    panel = data.cells.X[train].sum() / data.cells.obs["library"].to_numpy()[train].sum()
    assert 0.7 < panel < 0.9
    network.share.weight.zero_()
    network.share.bias.zero_()
    z, t, covariates = torch.randn(32, 4), torch.randn(32, 3), torch.randn(32, 6)
    shares = network.decode(z, t, covariates, batch.batch).log_share.exp()
    assert shares.sum(1).numpy() == pytest.approx(panel, rel=2e-3)
    network.share.bias[3] += 2  # one gene takes from all the others, and from those outside
    again = network.decode(z, t, covariates, batch.batch).log_share.exp()
    others = [g for g in range(40) if g != 3]
    assert (again.sum(1) < 1).all()
    assert torch.allclose(again[:, others] / shares[:, others], ((1 - again.sum(1)) / (1 - shares.sum(1)))[:, None])
    everything = shaken(module(path, library_key=None)).network
    z, t = torch.randn(32, 4), torch.randn(32, 3)
    shares = everything.decode(z, t, torch.randn(32, 3), batch.batch).log_share.exp()
    assert shares.sum(1).numpy() == pytest.approx(1, rel=1e-5)


@torch.no_grad()
def test_the_cell_type_is_left_to_the_background(path, data):
    """Given to the decoder, z could forget it; every other covariate is a column of the decoder."""
    typed = module(path, cell_type_key="line", continuous_covariate_keys=["dose"])
    assert (list(typed.spec.covariates), list(typed.spec.continuous)) == (["cell_type"], ["dose"])
    model, batch = begun(typed), some(typed)
    assert batch.covariates.shape == (32, 2 + 1)
    assert model.covariates(batch).equal(torch.cat([batch.covariates[:, 2:], batch.batch], 1))
    assert begun(data).covariates(some(data)).shape == (32, 2 + 1 + 3)


# ---- the start


def test_training_begins_at_the_discriminant_analysis(data):
    """Before the first step cells are told apart, and t of controls is shorter."""
    model = begun(data)
    train = data.rows["train"]
    q = model.eval().encode(cells(data, train), model.network)
    found = data.condition[train][q.log_odds.argmax(1) > 0] != "control"
    assert found.mean() > 0.9
    responding = 1 - q.log_odds.softmax(-1)[:, 0]
    control = torch.from_numpy(data.condition[train] == "control")
    assert responding[control].mean() < 0.3 < 0.7 < responding[~control].mean()
    assert q.t[control].norm(dim=1).mean() < 0.4 * q.t[~control].norm(dim=1).mean()


def test_the_order_of_the_file_plays_no_part_in_the_start(path, tmp_path):
    file = ad.read_h5ad(path)
    file[np.random.default_rng(4).permutation(file.n_obs)].copy().write_h5ad(tmp_path / "shuffled.h5ad")
    one, other = (begun(module(where)).state_dict() for where in (path, tmp_path / "shuffled.h5ad"))
    assert all(one[name].equal(other[name]) for name in one)


def test_codes_and_odds_move_at_their_own_rate(data):
    model = begun(data, codes_rate=0.1)
    optimizer = model.configure_optimizers()["optimizer"]
    rate = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert len(rate) == len(list(model.parameters()))
    for name, parameter in model.named_parameters():
        slow = name == "network.codes" or name.startswith("network.odds.")
        assert rate[id(parameter)] == pytest.approx(3e-4 if slow else 3e-3), name


def test_without_a_rate_codes_and_odds_stay_at_their_closed_form(data):
    model = begun(data)
    before = copy.deepcopy(model.state_dict())
    closed = {"network.codes", "network.odds.weight", "network.odds.bias"}
    assert {name for name, p in model.named_parameters() if not p.requires_grad} == closed
    fit(model, data, 3)
    for name, parameter in model.named_parameters():
        assert before[name].equal(parameter) == (name in closed), name


def test_training_lowers_the_loss_of_held_out_cells(data):
    model = begun(data, dropout=0.0)
    held = cells(data, np.concatenate([data.rows["test"], data.rows["truth"]]))
    before = model.eval().loss(held)
    fit(model.train(), data, 60)
    after = model.eval().loss(held)
    for name in ("loss", "reconstruction", "plain", "w2"):
        assert after[name] < before[name], name


def test_a_perturbation_that_training_has_not_seen_counts_in_no_classifier(path):
    data = module(path, split=partial(held_out_perturbations, names=["B"], min_cells=1))
    model = shaken(data, class_balanced=False)
    assert data.spec.conditions == ("A", "C")
    held = cells(data, np.flatnonzero(data.condition == "B")[:8])
    with torch.no_grad():
        parts = model.loss(held)
    assert parts["classifier"].item() == 0
    assert parts["kl_t"] > 0 and parts["w2"].item() == 0
    assert np.isfinite(parts["loss"].item())


@torch.no_grad()
def test_a_perturbation_that_training_has_not_seen_is_no_control_for_hsic(path):
    data = module(path, split=partial(held_out_perturbations, names=["B"], min_cells=1))
    model = shaken(data, background_term="hsic")
    seen = np.flatnonzero(data.condition != "B")[::9]
    unseen = np.flatnonzero(data.condition == "B")[:8]
    wanted = model.loss(cells(data, seen))["background"]
    assert model.loss(cells(data, np.concatenate([seen, unseen])))["background"].item() == pytest.approx(wanted.item())
    assert model.loss(cells(data, unseen))["background"].item() == 0
