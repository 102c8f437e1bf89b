"""The network of a count VAE with two latent spaces: encoders in one pass with a fused first layer, and the decoder.

share_g = e^(b_g + f_g(z, t, covariates)) / (Σ_g e^(b_g + f_g) + e^rest): a softmax over the genes and what the library
counts beside them; b is the log share of a gene in all training cells.

Shapes: N cells, G genes, Z background and T salient dimensions, D decoder covariates, P perturbations, H hidden units.
Source: Lopez et al. 2018 (scVI, the decoder); Weinberger, Lin & Lee 2023 (two latent spaces).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import layer_norm, linear

from stormcell.nn.mlp import mlp
from stormcell.nn.sparse_linear import SparseLinear


class Posterior(NamedTuple):
    """Means and log variances of the latents of N cells."""

    z: Tensor  # N × Z
    z_log_var: Tensor
    t: Tensor  # N × T
    t_log_var: Tensor
    library: Tensor | None  # N × 1, log; only where it is inferred
    library_log_var: Tensor | None
    log_odds: Tensor | None  # N × (1 + P): of control and each perturbation; only of the encoder by codes


class Decoded(NamedTuple):
    log_share: Tensor  # N × G, log of the share of the library
    logit: Tensor | None  # N × G, of the zero inflation
    log_theta: Tensor  # G or N × G, of the inverse dispersion


class Network(nn.Module):
    """Encoders with one fused first layer, and the decoder.

    n_covariates: columns beside the latents in the decoder; n_encoded: beside the counts in the encoders; n_codes:
    perturbations that have a code, 0 for the perceptron. n_salient=0 makes a plain VAE.
    """

    def __init__(
        self,
        n_genes: int,
        n_background: int,
        n_salient: int,
        hidden: Sequence[int],
        n_covariates: int = 0,
        n_encoded: int = 0,
        n_codes: int = 0,
        infer_library: bool = False,
        likelihood: str = "zero_inflated_negative_binomial",
        dispersion: str = "gene",
        n_batches: int = 0,
        norm: str = "layer",
        activation: str = "relu",
        gate: float = 1.0,
        sharpness: float = 1.0,
    ) -> None:
        super().__init__()
        self.gate, self.sharpness = gate, sharpness
        self.sizes = [n_background, n_salient, int(infer_library)]
        self.n_background, self.n_salient = n_background, n_salient
        width, deeper = hidden[0], list(hidden[1:])
        outputs = [2 * n_background]
        outputs += [n_salient if n_codes else 2 * n_salient] if n_salient else []
        outputs += [2] if infer_library else []
        blocks = len(outputs)
        act = {"relu": nn.ReLU, "silu": nn.SiLU}[activation]

        def normalise(n: int, groups: int = 1) -> nn.Module:
            return nn.BatchNorm1d(n, eps=1e-3, momentum=0.01) if norm == "batch" else BlockNorm(groups, n)

        self.first = nn.Sequential(
            SparseLinear(n_genes + n_encoded, blocks * width), normalise(blocks * width, blocks), act()
        )
        self.heads = nn.ModuleList(mlp(width, deeper, n) for n in outputs)
        self.odds = nn.Linear(n_genes, n_codes + 1) if n_codes else None
        self.codes = nn.Parameter(torch.zeros(n_codes, n_salient)) if n_codes else None
        last = list(hidden)[::-1]
        layers: list[nn.Module] = []
        for a, b in zip([n_background + n_salient + n_covariates, *last], last, strict=False):
            layers += [nn.Linear(a, b), normalise(b), act()]
        self.decoder = nn.Sequential(*layers)
        self.share = nn.Linear(last[-1], n_genes)
        zeros = likelihood == "zero_inflated_negative_binomial"
        self.logit = nn.Linear(last[-1], n_genes) if zeros else None
        disperses = likelihood != "poisson"
        self.of_cell = nn.Linear(last[-1], n_genes) if dispersion == "gene-cell" and disperses else None
        rows = n_batches if dispersion == "gene-batch" and n_batches else 1
        # Several processes would wait for the gradient of a parameter that the loss does not hold.
        self.log_theta = nn.Parameter(torch.zeros(rows, n_genes), requires_grad=disperses)
        self.register_buffer("level", torch.zeros(n_genes))
        # log share of what the library counts outside the genes; −inf where there is nothing
        self.register_buffer("rest", torch.tensor(-torch.inf))

    def encode(self, x: Tensor, scaled: Tensor, dropped: Tensor | None = None) -> Posterior:
        """What the encoders read, N × (G + encoded covariates), what the odds are of, N × G, and the hidden units that
        dropout keeps, N × blocks · H, each 0 or 1 / (1 − p)."""
        h = self.first(x)
        if dropped is not None:
            h = h * dropped
        blocks = iter(h.chunk(len(self.heads), -1))
        heads = iter(self.heads)
        z, z_log_var = next(heads)(next(blocks)).chunk(2, -1)
        t = t_log_var = z[:, :0]
        log_odds = library = library_log_var = None
        if self.n_salient:
            out = next(heads)(next(blocks))
            if self.codes is None:
                t, t_log_var = out.chunk(2, -1)
            else:
                log_odds, t_log_var = self.odds(scaled), out
                t = self.gated(log_odds.log_softmax(-1)) @ self.codes
        if self.sizes[2]:
            library, library_log_var = next(heads)(next(blocks)).chunk(2, -1)
            library_log_var = library_log_var.clamp(-10, 5)
        cut = [value.clamp(-10, 5) for value in (z_log_var, t_log_var)]
        return Posterior(z, cut[0], t, cut[1], library, library_log_var, log_odds)

    def gated(self, log_p: Tensor) -> Tensor:
        """log P(c | x), N × (1 + P), → the share of each perturbation in μ_t, N × P."""
        control, perturbed = log_p[:, :1], torch.logsumexp(log_p[:, 1:], -1, keepdim=True)
        return torch.sigmoid(self.gate * (perturbed - control)) * (self.sharpness * log_p[:, 1:]).softmax(-1)

    @property
    def n_hidden(self) -> int:
        """Hidden units of all encoders together, which dropout may drop."""
        return len(self.first[0].bias)

    def decode(self, z: Tensor, t: Tensor, covariates: Tensor, batch: Tensor) -> Decoded:
        """N × Z, N × T, N × D, one-hot of the batch N × S (for θ)."""
        h = self.decoder(torch.cat([z, t, covariates], -1))
        logits = linear(h, self.share.weight, self.share.bias + self.level)
        if self.of_cell is not None:
            log_theta = self.log_theta + self.of_cell(h)
        elif len(self.log_theta) > 1:
            # A cell of a batch that training has not seen takes the mean.
            known = batch.sum(-1, keepdim=True)
            log_theta = batch @ self.log_theta + (1 - known) * self.log_theta.mean(0)
        else:
            log_theta = self.log_theta[0]
        return Decoded(_LogShare.apply(logits, self.rest), None if self.logit is None else self.logit(h), log_theta)


class BlockNorm(nn.GroupNorm):
    """nn.GroupNorm of vectors, by the kernel of layer_norm, which is twice as fast on them."""

    def forward(self, x: Tensor) -> Tensor:
        blocks = x.unflatten(-1, (self.num_groups, -1))
        blocks = layer_norm(blocks, blocks.shape[-1:], eps=self.eps)
        return blocks.flatten(-2) * self.weight + self.bias


class _LogShare(torch.autograd.Function):
    """log softmax of N × G logits and one more, `rest`, that has no gradient and is not given back."""

    @staticmethod
    def forward(ctx, logits: Tensor, rest: Tensor) -> Tensor:
        log_share = logits - torch.logaddexp(logits.logsumexp(-1, keepdim=True), rest)
        ctx.save_for_backward(log_share)
        return log_share

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        (log_share,) = ctx.saved_tensors
        return torch.ops.aten._log_softmax_backward_data(grad, log_share, -1, grad.dtype), None


def kl_normal(mean: Tensor, log_var: Tensor) -> Tensor:
    """KL(N(mean, e^log_var) ‖ N(0, I)) per cell, in nats: N × K → N."""
    return 0.5 * (mean.square() + log_var.exp() - log_var - 1).sum(-1)


def wasserstein_to_zero(mean: Tensor, log_var: Tensor) -> Tensor:
    """Squared 2-Wasserstein distance of N(mean, e^log_var) to a point mass at 0: N × K → N."""
    return (mean.square() + log_var.exp()).sum(-1)
