"""The evidence bound of the contrastive VAE is that of scvi-tools' ContrastiveVI: same weights, cells and noise.

scvi-tools takes the mean over pairs of a control and a perturbed cell, ours over cells: theirs is twice ours. It adds
1e-4 to every variance, which ours does not: 1e-6 of the bound, 2e-4 of a divergence. Needs the extra `bench`
(benchmarks/README.md).
"""

from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import one_hot

from stormcell.data.control_perturbed import PerturbedCells
from stormcell.data.spec import Spec
from stormcell.models.contrastive import LIBRARY as L
from stormcell.models.contrastive import VALIDATION_STEP, Contrastive, T, Weights, Z
from stormcell.nn.noise import keyed_normal

pytest.importorskip("scvi", reason='pip install -c constraints.txt -e ".[bench]" brings scvi-tools')

HALF, G, H, K, S, W2 = 24, 60, 16, 10, 3, 1.3


def every_network(test):
    """Wherever the one-hot of the batch goes, and with a library observed or inferred."""
    goes = pytest.mark.parametrize("batch_goes", ["nowhere", "decoder", "encoders and decoder"])
    return goes(pytest.mark.parametrize("library", ["observed", "inferred"])(test))


@pytest.fixture
def cells():
    """Sparse counts of HALF controls, then HALF perturbed cells, in three batches."""
    rng = np.random.default_rng(4)
    counts = torch.from_numpy(rng.negative_binomial(0.5, 0.3, (2 * HALF, G)).astype(np.float32))
    counts[:, 0] += 1
    return counts, torch.arange(2 * HALF) % S


def our_model(batch_goes: str, library: str) -> Contrastive:
    """Random weights, also where training would begin at 0 or 1."""
    torch.manual_seed(2)
    rate = np.random.default_rng(5).dirichlet(np.ones(G))
    spec = Spec(
        genes=tuple(f"g{i}" for i in range(G)), targets=("A",), conditions=("A",), scale="counts", covariates={},
        gene_mean=tuple(np.log(rate)), gene_sd=(1.0,) * G, batches=() if batch_goes == "nowhere" else ("a", "b", "c"),
    )  # fmt: skip
    model = Contrastive(
        spec, optimizer=None, library=library, n_background=K, n_salient=K, hidden=(H,), norm="batch", dropout=0.0,
        encoder_input="counts", encode_covariates=batch_goes == "encoders and decoder", salient_encoder="mlp",
        weights=Weights(w2=W2, classifier=0.0, warmup_steps=1), background_term="none", plain_vae=False,
    )  # fmt: skip
    nn.init.normal_(model.network.log_theta)
    for norm in (module for module in model.modules() if isinstance(module, nn.BatchNorm1d)):
        nn.init.normal_(norm.weight, 1, 0.2)
        nn.init.normal_(norm.bias, 0, 0.2)
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
    if library == "inferred":  # as large as the cells': their 1e-8 beside each mean stays small
        model.network.heads[-1][-1].bias.data[0] = 4
    model.library_prior = torch.stack([torch.randn(len(model.library_prior)), torch.rand(len(model.library_prior))], 1)
    model._labels = (torch.arange(2 * HALF) >= HALF).long()
    return model


def their_model(ours: Contrastive) -> nn.Module:
    """Their module with our weights."""
    from scvi.external.contrastivevi._module import ContrastiveVAE

    observed, means, variances = ours.library == "observed", *ours.library_prior.T.numpy()[:, None]
    prior = {} if observed else {"library_log_means": means, "library_log_vars": variances}
    theirs = ContrastiveVAE(
        G, means.size, H, K, K, dropout_rate=0.0, use_observed_lib_size=observed, wasserstein_penalty=W2, **prior
    )
    network = ours.network
    encoders = [theirs.z_encoder, theirs.s_encoder, *([] if observed else [theirs.l_encoder])]
    linear, norm, _ = network.first
    for i, (encoder, head) in enumerate(zip(encoders, network.heads, strict=True)):
        rows = slice(i * H, (i + 1) * H)
        their_linear, their_norm = encoder.encoder.fc_layers[0][:2]
        nn.init.zeros_(their_linear.weight)
        their_linear.weight.data[:, : len(linear.weight)] = linear.weight.data[:, rows].T
        their_linear.bias.data = linear.bias.data[rows].clone()
        for name in ("weight", "bias", "running_mean", "running_var"):
            getattr(their_norm, name).data.copy_(getattr(norm, name).data[rows])
        for their_head, weight, bias in zip(
            (encoder.mean_encoder, encoder.var_encoder), head[-1].weight.chunk(2), head[-1].bias.chunk(2), strict=True
        ):
            their_head.load_state_dict({"weight": weight, "bias": bias})
    hidden = theirs.decoder.px_decoder.fc_layers[0]
    hidden[0].load_state_dict(network.decoder[0].state_dict())
    hidden[1].load_state_dict(network.decoder[1].state_dict())
    share = {"weight": network.share.weight, "bias": network.share.bias + network.level}
    theirs.decoder.px_scale_decoder[0].load_state_dict(share)
    theirs.decoder.px_dropout_decoder.load_state_dict(network.logit.state_dict())
    theirs.px_r.data = network.log_theta.data[0].clone()
    return theirs


def their_parts(theirs: nn.Module, counts, code, noise: list) -> dict[str, torch.Tensor]:
    """The parts of our loss from their module, its draws being mean + sd · noise in the order z, t, library."""
    groups = {"background": slice(0, HALF), "target": slice(HALF, None)}
    code = code[:, None] if theirs.n_batch > 1 else torch.zeros_like(code)[:, None]
    tensors = {name: {"X": counts[rows], "batch": code[rows]} for name, rows in groups.items()}
    left = iter(noise)
    with patch.object(torch.distributions.Normal, "rsample", lambda law: law.loc + law.scale * next(left)):
        *_, of_pairs = theirs(tensors, loss_kwargs={"kl_weight": 1.0})
    kl = of_pairs.kl_local
    return {
        "loss": of_pairs.loss / 2,
        "reconstruction": (of_pairs.reconstruction_loss["reconstruction_loss"] + kl["kl_divergence_l"]).mean() / 2,
        "kl_z": kl["kl_divergence_z"].mean() / 2,
        "kl_t": kl["kl_divergence_s"].mean() / 2,
        "w2": of_pairs.extra_metrics["wasserstein_loss_sum"] / (2 * HALF),
    }


def gradients(ours: Contrastive, theirs: nn.Module):
    """Of the same weights: first layer of either encoder, dispersions, and what the zero inflation is read from."""
    first = ours.network.first[0].weight.grad.T
    for i, encoder in enumerate((theirs.z_encoder, theirs.s_encoder)):
        yield first[i * H : (i + 1) * H], encoder.encoder.fc_layers[0][0].weight.grad[:, : first.shape[1]]
    yield ours.network.log_theta.grad[0], theirs.px_r.grad
    yield ours.network.logit.weight.grad, theirs.decoder.px_dropout_decoder.weight.grad


def both(cells, ours: Contrastive, theirs: nn.Module):
    """Parts of the loss, ours and theirs, in training and then in evaluation, with the means that training moved."""
    counts, code = cells
    index, total = torch.arange(2 * HALF), counts.sum(1, keepdim=True)
    batch = PerturbedCells(
        x=torch.log1p(counts / total * 1e4), counts=counts, condition=ours._labels[:, None].to(counts),
        covariates=counts[:, :0], library=total, index=index,
        batch=one_hot(code, S).to(counts)[:, : ours.spec.n_batches],
    )  # fmt: skip
    for training, step in ((True, 0), (False, VALIDATION_STEP)):
        ours.train(training).zero_grad()
        theirs.train(training).zero_grad()
        noise = [keyed_normal(ours.seed, step, index, width, stream) for width, stream in ((K, Z), (K, T), (1, L))]
        yield ours.loss(batch), their_parts(theirs, counts, code, noise)


@every_network
def test_bound_is_that_of_scvi_tools(cells, batch_goes, library):
    ours = our_model(batch_goes, library)
    for mine, other in both(cells, ours, their_model(ours)):
        assert mine["loss"].item() == pytest.approx(other["loss"].item(), rel=2e-5)
        assert {name: mine[name].item() for name in other} == pytest.approx(
            {name: value.item() for name, value in other.items()}, rel=1e-3
        )


@every_network
def test_gradients_are_those_of_scvi_tools(cells, batch_goes, library):
    """In float64, without the 1e-4 in their variances, which can move a hidden unit over the edge of its ReLU."""
    ours = our_model(batch_goes, library).double()
    theirs = their_model(ours).double()
    for encoder in (theirs.z_encoder, theirs.s_encoder, theirs.l_encoder):
        encoder.var_eps = 0
    if library == "inferred":  # they make the one-hot that this is multiplied with in float32
        for name in ("library_log_means", "library_log_vars"):
            setattr(theirs, name, getattr(theirs, name).float())
    for mine, other in both((cells[0].double(), cells[1]), ours, theirs):
        mine["loss"].backward()
        other["loss"].backward()
        for by_us, by_them in gradients(ours, theirs):
            assert (by_us - by_them).norm() < 5e-5 * by_them.norm()
