"""Contrastive VAE of counts: what the perturbation did (salient t), apart from everything else (background z).

z ~ N(0, I) for every cell,  t ~ N(0, I) for perturbed cells, t = 0 for controls
counts_g ~ likelihood(mean = library · share_g(z, t, covariates)),  share = softmax of the decoder

loss = reconstruction + KL(z) + KL(t) [perturbed] + W2(t) [controls] + classifier + background + leak, mean over cells:
    W2          ‖μ_t‖² + tr σ_t²: squared 2-Wasserstein distance of q(t | x) to a point mass at 0
    classifier  cross-entropy of the perturbation given t alone
    background  what makes z of control and perturbed cells alike: an adversary, MMD or HSIC. Without it nothing asks z
                to shed the perturbation, and it does not.
    leak        HSIC of t and a nuisance column

The salient mean is μ_t = r Σ_p w_p c_p with codes c_p, weights w_p ∝ P(p | x)^κ and the gate r = σ(γ · log odds of any
perturbation against control). A cell that looks like a control is near 0 whatever its label. Odds and codes have a
closed form, the discriminant analysis of the training cells (analysis/codes.py), and keep it unless `codes_rate` says
otherwise: trained, they learn the training cells by heart. `salient_encoder=mlp` takes the perceptron of the paper.

Shapes: N cells, G genes, Z background and T salient dimensions, D decoder covariates, P perturbations, H hidden units.
Source: Weinberger, Lin & Lee 2023 (contrastiveVI); Lopez et al. 2018 (scVI); Ganin & Lempitsky 2015 (adversary).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from stormcell.analysis.codes import shrinkage_discriminant
from stormcell.analysis.effects import log_inverse_dispersion
from stormcell.analysis.gene_programmes import read_gene_sets
from stormcell.config import UserError, nearest
from stormcell.data.cells import locate
from stormcell.data.control_perturbed import ControlPerturbedDataModule, PerturbedCells
from stormcell.data.csr import row_normalise_log1p
from stormcell.data.nuisance import read_nuisance
from stormcell.data.spec import Spec
from stormcell.evaluation.latent import Space, follow
from stormcell.models.base import Model
from stormcell.models.decoding import cell_labels, latents
from stormcell.nn.count_vae import Decoded, Network, Posterior, kl_normal, wasserstein_to_zero
from stormcell.nn.independence import hsic, mmd, reverse
from stormcell.nn.likelihood import (
    negative_binomial_log_prob,
    poisson_log_prob,
    zero_inflated_negative_binomial_log_prob,
)
from stormcell.nn.mlp import mlp
from stormcell.nn.noise import keyed_normal, keyed_uniform

VALIDATION_STEP = -1  # the noise of validation: the same at every check, so that checks can be compared
FOLLOWED = 1500  # training cells that probes are fitted on during training
Z, T, LIBRARY, DROPOUT, PLAIN = range(5)  # streams of keyed noise


@dataclass(frozen=True)
class Weights:
    """Of the terms of the loss, in nats per cell; KL, background and leak rise over `warmup_steps`."""

    kl_z: float = 1.0
    kl_t: float = 1.0
    w2: float = 1.0
    classifier: float = 10.0
    background: float = 500.0
    leak: float = 0.0
    warmup_steps: int = 200


class Contrastive(Model):
    """The contrastive VAE on paired batches of control and perturbed cells.

    Parameters
    ----------
    likelihood
        zero_inflated_negative_binomial · negative_binomial · poisson, all of counts.
    dispersion
        gene · gene-batch · gene-cell.
    library
        observed: of the cell, over all its genes; inferred: a latent with a normal prior of log library in each batch.
    encoder_input
        scaled: log1p(counts · l / library) with l the typical library of the training cells; counts: log1p of them, as
        in scvi-tools. At a target of 1e4 a cell of 200 counts would be a list of the genes it shows. An inferred
        library is always read from counts: scaled ones do not hold it.
    encode_covariates
        Covariates and batch to the encoders too. With the batch in the encoders it leaks into t, more with training.
    background_term
        adversary · mmd · hsic · none; hsic sees every perturbation, the others control against perturbed.
    nuisance
        Obs column (or `library`) that t is kept from by the leak term.
    plain_vae
        A VAE without a salient space, of the same sizes and trained on the same batches: a row of the scoreboard.
    phenotypes
        Phenotype → perturbations that are known to share it, for the ARI with these merged; training does not see it.
    gene_sets
        A .gmt file in whose sets the genes of each programme are looked for.

    Raises UserError for data without counts, words that are not known, and a nuisance that tells the perturbation.
    """

    judged = "latents"
    parts = ("loss", "reconstruction", "kl_z", "kl_t", "w2", "classifier", "background", "leak", "plain")
    scores = ("probe", "salient_auc", "background_auc", "background_auc_knn", "control_norm", "score")

    def __init__(
        self,
        spec: Spec,
        optimizer,
        scheduler=None,
        seed: int = 1,
        likelihood: str = "zero_inflated_negative_binomial",
        dispersion: str = "gene",
        library: str = "observed",
        n_background: int = 10,
        n_salient: int = 10,
        hidden: Sequence[int] = (128,),
        norm: str = "layer",
        activation: str = "relu",
        dropout: float = 0.1,
        encoder_input: str = "scaled",
        encode_covariates: bool = False,
        salient_encoder: str = "codes",
        weights: Weights = Weights(),
        background_term: str = "mmd",
        class_balanced: bool = True,
        nuisance: str | None = None,
        plain_vae: bool = True,
        gate: float = 0.5,
        sharpness: float = 2.0,
        codes_rate: float = 0.0,
        phenotypes: dict[str, list[str]] | None = None,
        gene_sets: str | None = None,
    ) -> None:
        super().__init__(spec, optimizer, scheduler, seed)
        if not spec.has_counts:
            raise UserError(
                f"model=contrastive has a count likelihood, but data.scale={spec.scale}; name a layer of counts with "
                "data.layer=…, or data.recover_counts=true for log1p values that hold integer counts"
            )
        _check_words(locals())
        self.likelihood, self.library, self.encoder_input = likelihood, library, encoder_input
        self.dropout, self.weights, self.background_term = dropout, weights, background_term
        self.encode_covariates, self.class_balanced, self.nuisance = encode_covariates, class_balanced, nuisance
        self.codes_rate, self.phenotypes, self.gene_sets = codes_rate, phenotypes or {}, gene_sets
        # The cell type is biology that the background is to hold: given to the decoder, z could forget it.
        names = [key for key, categories in spec.covariates.items() for _ in categories] + list(spec.continuous)
        self.register_buffer("_wanted", torch.tensor([i for i, key in enumerate(names) if key != "cell_type"]).long())
        n_covariates = len(self._wanted) + spec.n_batches
        sizes = {
            "n_genes": spec.n_genes,
            "n_background": n_background,
            "hidden": list(hidden),
            "n_covariates": n_covariates,
            "n_encoded": n_covariates if encode_covariates else 0,
            "infer_library": library == "inferred",
            "likelihood": likelihood,
            "dispersion": dispersion,
            "n_batches": spec.n_batches,
            "norm": norm,
            "activation": activation,
        }
        n_codes = len(spec.conditions) if salient_encoder == "codes" else 0
        self.network = Network(n_salient=n_salient, n_codes=n_codes, gate=gate, sharpness=sharpness, **sizes)
        self.plain = Network(n_salient=0, **{**sizes, "n_background": n_background + n_salient}) if plain_vae else None
        for network in filter(None, (self.network, self.plain)):
            network.level.copy_(torch.tensor(spec.gene_mean))
            rest = 1 - float(network.level.double().exp().sum())
            network.rest.copy_(torch.tensor(rest).log() if rest > 1e-3 else torch.tensor(-torch.inf))
        if self.network.codes is not None and codes_rate == 0:
            self.network.codes.requires_grad_(False), self.network.odds.requires_grad_(False)
        self.classifier = nn.Linear(n_salient, len(spec.conditions) + 1).requires_grad_(weights.classifier != 0)
        adversarial = background_term == "adversary" and weights.background != 0
        self.critic = mlp(n_background, [64, 64], 2) if adversarial else None
        self.register_buffer("typical", torch.tensor(1.0))  # library, geometric mean over the training cells
        rows = max(spec.n_batches, 1)
        self.register_buffer("library_prior", torch.tensor([[0.0, 1.0]]).repeat(rows, 1))  # mean, variance of its log
        self.register_buffer("_labels", torch.zeros(0, dtype=torch.long), persistent=False)
        self.register_buffer("_class_weight", torch.ones(len(spec.conditions) + 1), persistent=False)
        self.register_buffer("_nuisance", torch.zeros(0, 0), persistent=False)
        self._followed: tuple | None = None

    # ---- before training

    @torch.no_grad()
    def initialise(self, data: ControlPerturbedDataModule) -> None:
        """Dispersions start at their moments, codes and odds at the discriminant analysis of the training cells."""
        self._check_names(data)
        train, names = data.rows["train"], [self.spec.control, *self.spec.conditions]
        number = {name: i for i, name in enumerate(names)}
        labels = np.array([number.get(name, -1) for name in data.condition])
        library = data.cells.obs["library"].to_numpy(float)
        self._labels = torch.from_numpy(labels)
        start = torch.from_numpy(log_inverse_dispersion(data.cells.X[train], library[train], labels[train])).float()
        for network in filter(None, (self.network, self.plain)):
            network.log_theta.copy_(start.expand_as(network.log_theta))
        # Half of a batch are controls; perturbations come as often as they are.
        n_cells = np.bincount(labels[train], minlength=len(names))
        if self.class_balanced:
            weight = n_cells[1:].sum() / (len(names) - 1) / np.maximum(n_cells[1:], 1)
            self._class_weight[1:] = torch.from_numpy(weight).float()
        self._fit_library_prior(data, np.log(library))
        self.typical.fill_(float(np.exp(np.log(library[train]).mean())))
        if self.nuisance is not None:
            self._nuisance = torch.from_numpy(read_nuisance(data, self.nuisance))
        if self.network.codes is not None:
            prior = np.r_[0.5, np.full(len(names) - 1, 0.5 / (len(names) - 1))]
            k = self.network.n_salient
            counts = data.cells.X[train]
            scaled = row_normalise_log1p(counts, library[train], float(self.typical))
            cells = csr_matrix((scaled, counts.indices, counts.indptr), counts.shape)
            found = shrinkage_discriminant(cells, labels[train], prior, k, self.seed)
            self.network.odds.weight.copy_(torch.from_numpy(found.weight))
            self.network.odds.bias.copy_(torch.from_numpy(found.bias))
            # Directions: else the strongest effect fills the space. An effect below the noise of a cell stays short.
            square = np.square(found.codes).sum(1, keepdims=True)
            codes = found.codes * np.sqrt(square) / (1 + square) * np.sqrt(k)
            self.network.codes.copy_(torch.from_numpy(codes))

    def _check_names(self, data: ControlPerturbedDataModule) -> None:
        """What the closing test alone reads is refused here, before the training."""
        if self.gene_sets is not None:
            read_gene_sets(locate(self.gene_sets, "model.gene_sets", "*.gmt*"), self.spec.genes)
        known = sorted(set(data.condition) - {self.spec.control})
        for phenotype, members in self.phenotypes.items():
            if missing := sorted(set(members) - set(known)):
                raise UserError(
                    f"{data.cells.origin}: model.phenotypes.{phenotype}: no cell has the perturbation "
                    f"{missing[0]!r}{nearest(missing[0], known)}"
                )

    def _fit_library_prior(self, data: ControlPerturbedDataModule, log_library: np.ndarray) -> None:
        train = data.rows["train"]
        for i, name in enumerate(self.spec.batches or ("",)):
            mine = train[data.cells.obs["batch"].to_numpy(str)[train] == name] if self.spec.batches else train
            values = torch.tensor([log_library[mine].mean(), max(log_library[mine].var(), 1e-4)])
            self.library_prior[i] = values.to(self.library_prior)

    def unknown_targets(self, condition: str) -> list[str]:
        """None: any cell has latents, whatever was done to it."""
        return []

    def parameter_groups(self) -> list[dict]:
        """Codes and odds, which begin at a closed form, stay there or move at a share of the learning rate."""
        closed = [] if self.network.codes is None else [self.network.codes, *self.network.odds.parameters()]
        slow = closed if self.codes_rate else []
        others = [p for p in self.parameters() if all(p is not one for one in closed)]
        return [{"params": others}, *([{"params": slow, "rate": self.codes_rate}] if slow else [])]

    # ---- loss

    def loss(self, batch: PerturbedCells) -> dict[str, Tensor]:
        """Negative ELBO and penalties per cell, and each part unweighted."""
        step = self.global_step if self.training else VALIDATION_STEP
        label = self._labels[batch.index]
        perturbed = (label != 0).to(batch.x.dtype)
        q = self.encode(batch, self.network, DROPOUT)
        z = _draw(q.z, q.z_log_var, keyed_normal(self.seed, step, batch.index, q.z.shape[1], Z))
        t = _draw(q.t, q.t_log_var, keyed_normal(self.seed, step, batch.index, q.t.shape[1], T))
        log_library, kl_library = self.draw_library(batch, q, step)
        decoded = self.network.decode(z, t * perturbed[:, None], self.covariates(batch), batch.batch)
        parts = {
            "reconstruction": -self.log_prob(batch.counts, decoded, log_library).mean() + kl_library.mean(),
            "kl_z": kl_normal(q.z, q.z_log_var).mean(),
            "kl_t": (kl_normal(q.t, q.t_log_var) * perturbed).mean(),
            "w2": (wasserstein_to_zero(q.t, q.t_log_var) * (1 - perturbed)).mean(),
            "classifier": self._classify(t, label),
            "background": self._background(z, label),
            "leak": self._leak(t, batch.index, perturbed),
        }
        w = self.weights
        rise = min(1.0, (self.global_step + 1) / max(w.warmup_steps, 1)) if self.training else 1.0
        total = parts["reconstruction"] + rise * (w.kl_z * parts["kl_z"] + w.kl_t * parts["kl_t"]) + w.w2 * parts["w2"]
        total = total + w.classifier * parts["classifier"] + rise * w.leak * parts["leak"]
        # The adversary's own weight is in its reversed gradient: it learns at its own pace whatever the weight.
        total = total + parts["background"] * (1.0 if self.critic is not None else rise * w.background)
        parts["plain"] = self._plain(batch, step, rise) if self.plain is not None else z.new_zeros(())
        return {"loss": total + parts["plain"], **parts}

    def encode(self, batch: PerturbedCells, network: Network, stream: int | None = None) -> Posterior:
        """Posterior of the latents; with a stream of noise, and in training, hidden units are dropped."""
        scaled = torch.log1p(batch.counts * (self.typical / batch.library))
        counted = self.encoder_input == "counts" or self.library == "inferred"
        x = batch.counts.log1p() if counted else scaled
        if self.encode_covariates:
            x = torch.cat([x, self.covariates(batch)], -1)
        dropped = None
        if self.training and self.dropout > 0 and stream is not None:
            chance = keyed_uniform(self.seed, self.global_step, batch.index, network.n_hidden, stream)
            dropped = (chance >= self.dropout).to(x.dtype) / (1 - self.dropout)
        return network.encode(x, scaled, dropped)

    def covariates(self, batch: PerturbedCells) -> Tensor:
        """What the decoder is told of a cell: N × D, covariates and then the batch."""
        return torch.cat([batch.covariates[:, self._wanted], batch.batch], -1)

    def log_prob(self, counts: Tensor, decoded: Decoded, log_library: Tensor) -> Tensor:
        """log p(x | z, t) per cell in nats: N × G, parameters, N × 1 → N."""
        log_mean = decoded.log_share + log_library
        if self.likelihood == "poisson":
            return poisson_log_prob(counts, log_mean)
        if self.likelihood == "negative_binomial":
            return negative_binomial_log_prob(counts, log_mean, decoded.log_theta)
        return zero_inflated_negative_binomial_log_prob(counts, log_mean, decoded.log_theta, decoded.logit)

    def kl(self, q: Posterior, perturbed: Tensor) -> Tensor:
        """KL of z, of t where the cell is perturbed, per cell in nats: N."""
        return kl_normal(q.z, q.z_log_var) + kl_normal(q.t, q.t_log_var) * perturbed

    def draw_library(self, batch: PerturbedCells, q: Posterior, step: int) -> tuple[Tensor, Tensor]:
        """Log library of each cell, N × 1, and its KL to the prior of the cell's batch, N; 0 where it is observed."""
        if q.library is None:
            return batch.library.log(), batch.library.new_zeros(len(batch.library))
        mean, variance = self._prior_of(batch).unbind(-1)
        kl = 0.5 * (
            (q.library_log_var.exp() + (q.library - mean[:, None]).square()) / variance[:, None]
            - 1
            + variance.log()[:, None]
            - q.library_log_var
        )
        noise = keyed_normal(self.seed, step, batch.index, 1, LIBRARY)
        return _draw(q.library, q.library_log_var, noise), kl.squeeze(-1)

    def _prior_of(self, batch: PerturbedCells) -> Tensor:
        if batch.batch.shape[1] == 0:
            return self.library_prior.expand(len(batch.x), 2)
        known = batch.batch.sum(-1, keepdim=True)
        return batch.batch @ self.library_prior + (1 - known) * self.library_prior.mean(0)

    # ---- what decides and what is told

    def validation_scores(self) -> dict[str, float]:
        """Latent metrics on the validation cells, probes fitted on a fixed share of the training cells.

        score = probe − |background AUC − ½|, the worse of two AUCs (linear, neighbours): one model has to have the
        perturbation in one space and to keep it out of the other. With a single perturbation there is nothing to probe,
        and the AUC of the salient space stands for it.
        """
        data = self.trainer.datamodule
        if self._followed is None:
            rng = np.random.default_rng(self.seed)
            train, held = data.rows["train"], data.rows["validation"]
            self._followed = tuple(
                rows if len(rows) <= FOLLOWED else np.sort(rng.choice(rows, FOLLOWED, replace=False))
                for rows in (train, held)
            )
        was = self.training
        self.eval()
        spaces, labels = [], [cell_labels(data, rows) for rows in self._followed]
        for rows in self._followed:
            found = latents(self, data, rows)
            spaces.append(Space(salient=found.salient, background=found.background))
        self.train(was)
        scores = follow(*spaces, *labels, self.seed)
        recovered = scores["probe"] if np.isfinite(scores["probe"]) else scores["salient_auc"]
        apart = max(abs(scores[name] - 0.5) for name in ("background_auc", "background_auc_knn"))
        return {**{name: scores[name] for name in self.scores[:-1]}, "score": recovered - apart}

    def notes(self, data: ControlPerturbedDataModule) -> list[str]:
        """How much of either space is used: active units are dimensions with Var_x[μ(x)] > 0.01; what was left out."""
        held = data.rows["validation"] if len(data.rows["validation"]) else data.rows["test"]
        found = latents(self, data, held)
        active = [int((space.var(0) > 0.01).sum()) for space in (found.background, found.salient)]
        text = (
            f"latent spaces: {active[0]} of {found.background.shape[1]} background and {active[1]} of "
            f"{found.salient.shape[1]} salient units active"
        )
        if min(active) == 0:
            text += (
                ": the posterior has collapsed and the decoder ignores it; lower model.weights.kl_z or "
                "model.weights.kl_t (0.1)"
            )
        told = [text]
        if (self.nuisance is None) != (self.weights.leak == 0):
            told.append("t was kept from no nuisance: that takes model.nuisance=… and model.weights.leak above 0 (10)")
        if "cell_type" in self.spec.covariates:
            told.append("the decoder is not told the cell type, which the background is to hold")
        return told

    # ---- parts of the loss

    def _classify(self, t: Tensor, label: Tensor) -> Tensor:
        """Cross-entropy in nats; a perturbation that training has not seen (−1) does not count."""
        if self.weights.classifier == 0:
            return t.new_zeros(())
        known = label >= 0
        each = cross_entropy(self.classifier(t), label.clamp(min=0), weight=self._class_weight, reduction="none")
        return (each * known).mean()

    def _background(self, z: Tensor, label: Tensor) -> Tensor:
        weight = self.weights.background
        if self.background_term == "none" or weight == 0:
            return z.new_zeros(())
        if self.critic is not None:
            rise = min(1.0, (self.global_step + 1) / max(self.weights.warmup_steps, 1))
            return cross_entropy(self.critic(reverse(z, weight * rise)), (label != 0).long())
        if self.background_term == "hsic":
            known = label >= 0  # a perturbation that training has not seen is no control
            if not known.any():
                return z.new_zeros(())
            return hsic(z[known], nn.functional.one_hot(label[known], len(self._class_weight)).to(z.dtype))
        control, perturbed = z[label == 0], z[label != 0]
        return mmd(control, perturbed) if min(len(control), len(perturbed)) > 1 else z.new_zeros(())

    def _leak(self, t: Tensor, index: Tensor, perturbed: Tensor) -> Tensor:
        if self.weights.leak == 0 or len(self._nuisance) == 0:
            return t.new_zeros(())
        mine = perturbed > 0
        return hsic(t[mine], self._nuisance[index[mine]]) if mine.any() else t.new_zeros(())

    def _plain(self, batch: PerturbedCells, step: int, rise: float) -> Tensor:
        """Negative ELBO of the plain VAE."""
        q = self.encode(batch, self.plain, DROPOUT + PLAIN)
        z = _draw(q.z, q.z_log_var, keyed_normal(self.seed, step, batch.index, q.z.shape[1], PLAIN))
        log_library, kl_library = self.draw_library(batch, q, step)
        decoded = self.plain.decode(z, q.t, self.covariates(batch), batch.batch)
        kl = kl_normal(q.z, q.z_log_var).mean()
        return -self.log_prob(batch.counts, decoded, log_library).mean() + kl_library.mean() + rise * kl


def _draw(mean: Tensor, log_var: Tensor, noise: Tensor) -> Tensor:
    return mean + (0.5 * log_var).exp() * noise.to(mean.dtype)


_WORDS = {
    "likelihood": ("zero_inflated_negative_binomial", "negative_binomial", "poisson"),
    "dispersion": ("gene", "gene-batch", "gene-cell"),
    "library": ("observed", "inferred"),
    "norm": ("layer", "batch"),
    "activation": ("relu", "silu"),
    "encoder_input": ("scaled", "counts"),
    "salient_encoder": ("codes", "mlp"),
    "background_term": ("adversary", "mmd", "hsic", "none"),
}


def _check_words(given: dict) -> None:
    for key, options in _WORDS.items():
        if given[key] not in options:
            raise UserError(f"model.{key}={given[key]}{nearest(given[key], options)}: {', '.join(options)} are known")
    if min(given["n_background"], given["n_salient"], *given["hidden"]) < 1 or not given["hidden"]:
        raise UserError("model.n_background, model.n_salient and each of model.hidden must be 1 or more")
    if not 0 <= given["dropout"] < 1:
        raise UserError(f"model.dropout={given['dropout']}: a share from 0 to below 1 expected")
