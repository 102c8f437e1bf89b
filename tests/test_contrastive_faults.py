"""What goes wrong in published implementations of this model, each as a test that fails on the faulty version.

Where the fault is a formula, the test holds it beside ours and shows that the assertion would not hold.
"""

import copy
import gc
import os
import tracemalloc
from functools import partial

import numpy as np
import pandas as pd
import pytest
import pytorch_lightning as pl
import scipy.sparse
import scipy.stats
import torch
from conftest import write_h5ad
from contrastive_world import (
    ADAM,
    SMALL,
    begun,
    cells,
    fit,
    gradients,
    module,
    part_of,
    screen,
    shaken,
    some,
)
from torch import nn
from torch.nn.functional import cross_entropy, one_hot

from stormcell.analysis.change import change
from stormcell.data.cell_cycle import cell_cycle_genes
from stormcell.models.contrastive import Contrastive, Weights
from stormcell.models.decoding import cell_labels, expression, latents, pairs
from stormcell.nn.count_vae import Network, wasserstein_to_zero


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return screen(tmp_path_factory.mktemp("screen") / "cells.h5ad")


@pytest.fixture(scope="module")
def data(path):
    return module(path, covariate_keys=["line"])


ALONE = Weights(kl_z=0, kl_t=0, w2=0, classifier=0, background=0)


def with_weights(model, **weights):
    model.weights = Weights(**{**vars(ALONE), **weights})
    return model


# ---- 1


def test_w2_is_a_plain_penalty(data):
    """Its gradient in the mean is 2 μ: at a mean of 2 the loss rises by 4, and a step downhill comes nearer to 0. The
    same factor in a guide with the other sign would push controls away."""
    mean, log_var = torch.tensor([[2.0]], requires_grad=True), torch.zeros(1, 1)
    penalty = wasserstein_to_zero(mean, log_var).sum()
    assert torch.autograd.grad(penalty, mean, retain_graph=True)[0].item() == 4
    assert torch.autograd.grad(-penalty, mean)[0].item() == -4, "the fault"
    model, batch = shaken(data, plain_vae=False, salient_encoder="mlp"), some(data)
    before = model.loss(batch)["w2"].item()
    for weight in (1.0, 3.0):
        one = gradients(with_weights(model, w2=weight).loss(batch)["loss"], model)
        none = gradients(with_weights(model).loss(batch)["loss"], model)
        penalty = gradients(model.loss(batch)["w2"], model)
        for name in one:
            assert torch.allclose(one[name] - none[name], weight * penalty[name], rtol=1e-3, atol=2e-4), name
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter -= 1e-3 * penalty[name]
    assert model.loss(batch)["w2"].item() < before


# ---- 2


def salient_encoder(model):
    codes = ["network.codes", "network.odds.weight", "network.odds.bias"]
    head = [name for name, _ in model.named_parameters() if name.startswith("network.heads.1.")]
    return [*head, *(codes if model.network.codes is not None else [])]


@pytest.mark.parametrize("encoder", ["codes", "mlp"])
def test_the_classifier_gradient_is_that_of_a_plain_cross_entropy(data, encoder):
    """By finite differences in float64, and the same whatever the other terms are. A score-function factor multiplies
    it with log p − log q of the cell, so that it drifts with the ELBO."""
    model = shaken(data, plain_vae=False, salient_encoder=encoder, codes_rate=0.01).double()
    batch = part_of(some(data), [0, 1, 17, 20])
    batch = type(batch)(*(value.double() if value.is_floating_point() else value for value in batch))
    found = []
    for others in ({"kl_z": 1, "kl_t": 1, "w2": 1}, {"kl_z": 9, "kl_t": 0.1, "w2": 30}):
        one = gradients(with_weights(model, classifier=10, **others).loss(batch)["loss"], model)
        none = gradients(with_weights(model, **others).loss(batch)["loss"], model)
        found.append({name: one[name] - none[name] for name in one})
    rng = np.random.default_rng(0)
    model.weights = Weights(classifier=10)
    for name in salient_encoder(model):
        assert torch.allclose(found[0][name], found[1][name], rtol=1e-8, atol=1e-10), name
        parameter = model.get_parameter(name)
        direction = torch.from_numpy(rng.normal(size=tuple(parameter.shape)))
        slope = finite_difference(lambda: 10 * model.loss(batch)["classifier"].item(), parameter, direction)
        assert (found[0][name] * direction).sum().item() == pytest.approx(slope, rel=1e-5, abs=1e-7), name
    head = salient_encoder(model)[0]
    assert found[0][head].abs().max() > 0
    # The fault: a factor log p − log q of each cell, detached.
    faulty = []
    for weights in ({"kl_z": 1}, {"kl_z": 9}):
        parts = with_weights(model, classifier=10, **weights).loss(batch)
        score = (-parts["reconstruction"] - weights["kl_z"] * parts["kl_z"]).detach()
        faulty.append(gradients(10 * score * parts["classifier"], model)[head])
    assert not torch.allclose(faulty[0], faulty[1], rtol=1e-3)


@torch.no_grad()
def finite_difference(value, parameter, direction, step=1e-6):
    ends = []
    for sign in (1, -1):
        parameter += sign * step * direction
        ends.append(value())
        parameter -= sign * step * direction
    return (ends[0] - ends[1]) / (2 * step)


# ---- 3


@torch.no_grad()
def test_the_classifier_is_asked_for_logits(data):
    """So that its cross-entropy can go to 0. A softmax before the cross-entropy stays above log(1 + (K − 1) / e)."""
    model, batch = shaken(data, class_balanced=False), some(data)
    label = model._labels[batch.index]
    t = 50 * one_hot(label, 4)[:, 1:].float()
    model.classifier.weight.copy_(torch.cat([-torch.ones(1, 3), 2 * torch.eye(3) - 1]))
    model.classifier.bias.copy_(torch.tensor([25.0, 0, 0, 0]))
    assert model._classify(t, label) < 1e-6
    faulty = cross_entropy(model.classifier(t).softmax(1), label)
    assert faulty >= np.log(1 + 3 / np.e) - 1e-6


# ---- 4 and 7


def test_the_learning_rate_falls_over_training(data):
    schedule = partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=8, eta_min=1e-5)
    torch.manual_seed(0)
    model = Contrastive(data.spec, ADAM, schedule, codes_rate=0.1, **SMALL)
    model.initialise(data)
    rates = []

    class Watch(pl.Callback):
        def on_train_batch_end(self, trainer, *_):
            rates.append([group["lr"] for group in trainer.optimizers[0].param_groups])

    fit(model, data, 8, callbacks=[Watch()])
    fast, slow = np.array(rates).T
    assert len(rates) == 8
    assert (np.diff(fast) < 0).all() and (np.diff(slow) < 0).all(), "a scheduler that is made and never stepped"
    assert fast[-1] == pytest.approx(1e-5, rel=1e-3)


def test_a_run_without_a_scheduler_works(data):
    model = begun(data, codes_rate=0.1)
    before = copy.deepcopy(model.state_dict())
    trainer = fit(model, data, 3)
    assert trainer.global_step == 3
    assert [group["lr"] for group in trainer.optimizers[0].param_groups] == pytest.approx([3e-3, 3e-4])
    assert any(not before[name].equal(value) for name, value in model.state_dict().items())


# ---- 5


def test_eval_and_train_are_those_of_torch_and_change_nothing_learnt(data):
    assert Contrastive.train is nn.Module.train and Contrastive.eval is nn.Module.eval
    model = begun(data, norm="batch")
    before = copy.deepcopy(model.state_dict())
    for training in (True, False, True):
        assert model.train(training) is model
        assert {part.training for part in model.modules()} == {training}
    model.eval()
    latents(model, data, data.rows["test"])
    with torch.no_grad():
        model.loss(some(data))
    assert all(before[name].equal(value) for name, value in model.state_dict().items())


# ---- 6


@pytest.mark.parametrize("norm", ["layer", "batch"])
def test_exported_latents_are_without_dropout_and_independent_of_the_batch(data, norm):
    model = begun(data, norm=norm, dropout=0.5)
    fit(model, data, 5)
    model.eval()
    rows = data.rows["test"]
    whole = latents(model, data, rows)
    again = latents(model, data, rows)
    one_by_one = [latents(model, data, rows[i : i + 1]) for i in range(len(rows))]
    for name in ("background", "salient", "responding", "plain"):
        found = getattr(whole, name)
        assert np.array_equal(found, getattr(again, name)), name
        alone = np.concatenate([getattr(one, name) for one in one_by_one])
        np.testing.assert_allclose(alone, found, rtol=1e-4, atol=1e-5, err_msg=name)
    model.train()  # the fault
    noisy = model.encode(cells(data, rows), model.network, 3).z
    assert np.abs(noisy.detach().numpy() - whole.background).max() > 0.01


# ---- 8 and 9


def test_decoder_parameters_grow_linearly_with_the_genes():
    sizes = []
    for n_genes in (500, 1000, 1500):
        network = Network(n_genes, 10, 10, [128], n_covariates=3, n_codes=4, dispersion="gene-cell")
        parts = (network.decoder, network.share, network.logit, network.of_cell)
        sizes.append(sum(p.numel() for part in parts for p in part.parameters()) + network.log_theta.numel())
    assert sizes[2] - sizes[1] == sizes[1] - sizes[0] == 500 * (3 * 129 + 1)
    faulty = [2 * n**2 for n in (500, 1000, 1500)]  # two layers of genes by genes
    assert faulty[2] - faulty[1] != faulty[1] - faulty[0]


@pytest.mark.parametrize("hidden", [(16,), (16, 12)])
def test_heads_have_no_activation(data, hidden):
    """Means and log variances of every dimension take both signs; a rectified bottleneck of latent size takes one."""
    model = shaken(data, hidden=hidden, salient_encoder="mlp", library="inferred")
    assert all(isinstance(head[-1], nn.Linear) for head in model.network.heads)
    with torch.no_grad():
        for head in model.network.heads:
            head[-1].bias.zero_()
        q = model.encode(cells(data, data.rows["train"]), model.network)
    centred = [value - value.mean(0) for value in (q.z, q.t)]
    for value in (q.z, q.t, q.z_log_var, q.t_log_var):
        assert (value < 0).any() and (value > 0).any()
    assert all((value < 0).any(0).all() for value in centred)
    for head, width in zip(model.network.heads, (8, 6, 2), strict=True):
        assert min(layer.out_features for layer in head if isinstance(layer, nn.Linear)) == width
        assert len(head) == (1 if len(hidden) == 1 else 4)


# ---- 10


def test_cells_stay_sparse_and_in_single_precision(tmp_path):
    """From the start to the tenth step nothing is as large as a dense copy of the cells."""
    rng = np.random.default_rng(0)
    n, n_genes = 8000, 300
    counts = scipy.sparse.random(n, n_genes, 0.06, random_state=rng, data_rvs=lambda k: rng.integers(1, 4, k)).tolil()
    counts[:, 0] = 1
    labels = np.array(["control", "A", "B", "control"])[np.arange(n) % 4]
    obs = pd.DataFrame({"perturbation": labels}, index=[f"c{i}" for i in range(n)])
    data = module(write_h5ad(tmp_path / "cells.h5ad", counts.tocsr(), obs), 256, batch_key=None, library_key=None)
    dense = n * n_genes
    tracemalloc.start()
    model = begun(data)
    fit(model, data, 10)
    latents(model.eval(), data, data.rows["test"])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < dense * 4
    for matrix in (data.cells.X, data.expression):
        assert scipy.sparse.issparse(matrix) and matrix.format == "csr" and matrix.dtype == np.float32
    large = [x for x in gc.get_objects() if isinstance(x, (np.ndarray, torch.Tensor)) and np.prod(x.shape) >= dense]
    assert not large
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert {x.dtype for x in (*some(data)[:1], model.encode(some(data), model.network).z)} == {torch.float32}


# ---- 11


def test_two_models_and_two_data_sets_share_nothing(path, data, tmp_path):
    """A second data set neither changes the first, nor its model; nothing is kept on a class."""
    kept = {one: set(vars(one)) for one in (Contrastive, Network, type(data))}
    model = shaken(data, library="inferred", dispersion="gene-batch")
    batch = some(data)
    before, weights = model.loss(batch)["loss"], copy.deepcopy(model.state_dict())
    other = module(screen(tmp_path / "other.h5ad", n_genes=25, n_perturbed=(60, 40), batches=("x", "y"), seed=9))
    second = begun(other, library="inferred")
    fit(second, other, 3)
    assert model.loss(batch)["loss"].equal(before)
    assert all(weights[name].equal(value) for name, value in model.state_dict().items())
    assert (model.spec.n_genes, second.spec.n_genes) == (40, 25)
    assert (len(model.library_prior), len(second.library_prior)) == (3, 2)
    shared = {id(one) for one in model.parameters()} & {id(one) for one in second.parameters()}
    assert not shared
    assert {one: set(vars(one)) for one in kept} == kept
    assert all(a.equal(b) for a, b in zip(some(data), batch, strict=True))


# ---- 12


def test_training_needs_no_gpu_and_sets_no_device(data, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a device was set by hand")

    for name in ("set_device", "init", "current_device", "_lazy_init"):
        monkeypatch.setattr(torch.cuda, name, refuse)
    before = dict(os.environ)
    model = begun(data)
    fit(model, data, 2)
    latents(model.eval(), data, data.rows["test"])
    assert {x.device.type for x in (*model.parameters(), *model.buffers())} == {"cpu"}
    assert {**os.environ} == before


# ---- 13


def test_no_cell_is_dropped_at_one_percent_controls(tmp_path):
    """14 controls beside 1,387 perturbed cells, one perturbation of which is a single cell: an epoch takes every step
    and every training cell, where batches of few controls would be skipped with all of their perturbed cells."""
    data = module(screen(tmp_path / "cells.h5ad", 14, (1380, 6, 1)), batch_size=64)
    train = data.rows["train"]
    assert (data.condition[train] == "C").sum() == 1
    model, seen = begun(data), []
    inner = model.loss

    def loss(batch):
        seen.append(batch.index.numpy().copy())
        return inner(batch)

    model.loss = loss
    trainer = fit(model, data, data.steps_per_epoch)
    assert trainer.global_step == data.steps_per_epoch == len(seen)
    assert {len(index) for index in seen} == {64}
    assert set(np.concatenate(seen)) == set(train)
    assert all((data.condition[index] == "control").sum() == 32 for index in seen)
    # An unpaired stream would give most batches fewer than five controls.
    fewer = scipy.stats.binom(64, (data.condition[train] == "control").mean()).cdf(4)
    assert fewer > 0.9
    assert data.spec.conditions == ("A", "B", "C")
    assert all(torch.isfinite(p).all() for p in model.parameters())


@torch.no_grad()
def test_one_perturbed_cell_in_a_batch_has_a_finite_loss(data):
    for words in ({}, {"background_term": "adversary"}, {"background_term": "hsic"}):
        model = shaken(data, nuisance="batch", weights=Weights(leak=1.0), **words)
        for chosen in ([0], [16], [0, 1, 2, 16], [0, 16, 17]):
            parts = model.loss(part_of(some(data), chosen))
            assert all(torch.isfinite(value) for value in parts.values()), (words, chosen)


# ---- 14 and 15


def test_the_classifier_sees_t_alone(data):
    """Batch and covariates change nothing of it, by default; a classifier that is given them learns them."""
    model, batch = shaken(data), some(data)
    assert model.classifier.in_features == model.network.n_salient
    moved = batch._replace(batch=batch.batch.roll(1, 1), covariates=batch.covariates.flip(1))
    one, other = model.loss(batch), model.loss(moved)
    assert one["classifier"].equal(other["classifier"])
    assert not one["reconstruction"].equal(other["reconstruction"])
    faulty = nn.Linear(3 + 5, 4)
    label = model._labels[batch.index]
    t = model.encode(batch, model.network).t
    losses = [cross_entropy(faulty(torch.cat([t, c.covariates, c.batch], 1)), label) for c in (batch, moved)]
    assert not losses[0].equal(losses[1])


@torch.no_grad()
def test_batch_and_covariates_do_not_reach_the_latents_unless_asked(data):
    for asked in (False, True):
        model, batch = shaken(data, encode_covariates=asked), some(data)
        moved = batch._replace(batch=batch.batch.roll(1, 1), covariates=batch.covariates.flip(1))
        one, other = (model.encode(c, model.network) for c in (batch, moved))
        assert one.z.equal(other.z) != asked
        assert one.t_log_var.equal(other.t_log_var) != asked


@pytest.mark.parametrize("balanced", [True, False])
def test_a_rare_and_a_frequent_perturbation_pull_equally(data, balanced):
    """Over the training cells, with a classifier that knows nothing; unbalanced, the pull is by their numbers."""
    model, train = shaken(data, class_balanced=balanced), data.rows["train"]
    nn.init.zeros_(model.classifier.weight)
    nn.init.zeros_(model.classifier.bias)
    pull, n = [], []
    for name in "ABC":
        mine = torch.from_numpy(train[data.condition[train] == name])
        label = model._labels[mine]
        summed = model._classify(torch.zeros(len(mine), 3), label) * len(mine)
        pull.append(torch.autograd.grad(summed, model.classifier.bias)[0][label[0]].item())
        n.append(len(mine))
    assert n[0] > 2 * n[2]
    expected = [1, 1, 1] if balanced else [1, n[1] / n[0], n[2] / n[0]]
    assert np.array(pull) / pull[0] == pytest.approx(expected, rel=1e-4)
    weight = model._class_weight
    assert weight[0] == 1
    shares = np.array(n) / sum(n)
    assert (weight[1:].numpy() * shares).sum() == pytest.approx(1), "perturbed cells weigh as much as controls together"


# ---- 16


@pytest.mark.parametrize("extreme", [-1e4, 1e4])
def test_the_scale_cannot_collapse_or_explode(data, extreme):
    """Of z, t and the library; a floor of 1e-10 under a scale would let log σ² fall to −46 and the KL with it."""
    model = shaken(data, library="inferred")
    with torch.no_grad():
        for head, first in zip(model.network.heads, (4, 0, 1), strict=True):
            head[-1].bias[first:] = extreme
    q = model.encode(some(data), model.network)
    for log_var in (q.z_log_var, q.t_log_var, q.library_log_var):
        assert log_var.min() >= -10.001 and log_var.max() <= 5.001
        assert (0.5 * log_var).exp().min() > 6e-3
    parts = model.loss(some(data))
    assert all(torch.isfinite(value) for value in parts.values())
    assert all(torch.isfinite(g).all() for g in gradients(parts["loss"], model).values())


# ---- 17


def test_an_inferred_library_has_an_encoder_and_a_divergence(data):
    """The fault draws the library from its prior: no network, a KL of 0, and a reconstruction that cannot improve."""
    observed, inferred = (shaken(data, library=word, plain_vae=False) for word in ("observed", "inferred"))
    assert len(inferred.network.heads) == len(observed.network.heads) + 1
    batch = some(data)
    q = inferred.encode(batch, inferred.network)
    drawn, kl = inferred.draw_library(batch, q, 0)
    assert drawn.shape == (32, 1) and kl.shape == (32,) and (kl > 0).all()
    assert not observed.draw_library(batch, observed.encode(batch, observed.network), 0)[1].any()
    found = gradients(inferred.loss(batch)["reconstruction"], inferred)
    head = [name for name, _ in inferred.named_parameters() if name.startswith("network.heads.2.")]
    assert all(found[name].abs().max() > 0 for name in head)
    at_prior = inferred.library_prior[batch.batch.argmax(1)]
    prior = q._replace(library=at_prior[:, :1], library_log_var=at_prior[:, 1:].log())
    assert inferred.draw_library(batch, prior, 0)[1].detach().numpy() == pytest.approx(0, abs=1e-6)
    words = {"hidden": (64,), "norm": "batch", "plain_vae": False}
    trained = begun(data, library="inferred", optimizer=lambda p: torch.optim.Adam(p, 1e-2), **words)
    fit(trained, data, 150)
    held = cells(data, data.rows["test"])
    found = trained.eval().encode(held, trained.network).library[:, 0].detach().numpy()
    assert np.corrcoef(found, held.library.log()[:, 0])[0, 1] > 0.6


# ---- 18


@torch.no_grad()
def test_the_reconstruction_is_the_likelihood_of_counts_and_t_is_zero_for_controls(data, monkeypatch):
    """Not a squared error; and it is the controls, not the perturbed cells, that have no t."""
    model, batch = shaken(data, plain_vae=False), some(data)
    given, decode = [], Network.decode

    def watched(self, z, t, *rest):
        given.append((t, decode(self, z, t, *rest)))
        return given[-1][1]

    monkeypatch.setattr(Network, "decode", watched)
    parts = model.loss(batch)
    [(t, decoded)] = given
    control = batch.condition.sum(1) == 0
    assert control.sum() == 16
    assert not t[control].any()
    assert (t[~control] != 0).all()
    mean = (decoded.log_share.double().exp() * batch.library).numpy()
    theta, gate = decoded.log_theta.double().exp().numpy(), decoded.logit.double().sigmoid().numpy()
    x = batch.counts.numpy()
    counted = scipy.stats.nbinom.pmf(x, theta, theta / (theta + mean))
    wanted = -np.log(np.where(x == 0, gate, 0) + (1 - gate) * counted).sum(1).mean()
    assert parts["reconstruction"].item() == pytest.approx(wanted, rel=1e-5)
    assert parts["reconstruction"].item() != pytest.approx(np.square(x - mean).mean(), rel=0.1)


# ---- 19


def test_phase_is_scored_and_cells_are_decoded_without_t(tmp_path):
    """The cell cycle of cells whose file does not tell it, differential expression, and expression without t."""
    listed = [gene for genes in cell_cycle_genes().values() for gene in genes]
    path = cycling(tmp_path / "cells.h5ad", listed)
    data = module(path, library_key=None)
    labels = cell_labels(data, data.rows["test"])
    assert labels.phase is not None
    assert set(labels.phase) <= {"G1", "S", "G2M"} and len(set(labels.phase)) > 1
    model = begun(data)
    fit(model, data, 40)
    model.eval()
    rows = data.rows["test"]
    perturbed = data.condition[rows] != "control"
    own, without = expression(model, data, rows), expression(model, data, rows, "zero")
    assert perturbed.all() and own.shape == without.shape == (len(rows), 120)
    assert np.abs(np.log(own) - np.log(without)).max() > 0.05
    controls = data.rows["truth"]
    assert np.array_equal(expression(model, data, controls), expression(model, data, controls, "zero"))
    table = change(pairs(model, data, rows), list(model.spec.genes))
    assert len(table) == 120 and table["lfc_mean"].abs().max() > 0.05
    with_t, without_t = (np.concatenate(part) for part in zip(*pairs(model, data, rows), strict=True))
    np.testing.assert_allclose(with_t.sum(1), without_t.sum(1), rtol=1e-4)


def cycling(path, listed):
    """120 genes, the cell cycle genes among them."""
    rng = np.random.default_rng(0)
    genes = list(listed)
    genes += [f"g{i}" for i in range(120 - len(genes))]
    labels = np.repeat(["control", "A", "B"], [120, 90, 60])
    rate = np.exp(rng.normal(0, 0.6, 120) + 0.5 * rng.normal(size=(270, 1)) * (np.arange(120) % 2))
    rate[labels == "A", :10] *= 3
    counts = rng.poisson(rate).astype(float)
    obs = pd.DataFrame(
        {"perturbation": labels, "batch": np.resize(["b1", "b2"], 270)}, index=[f"c{i}" for i in range(270)]
    )
    return write_h5ad(path, counts, obs, genes)
