"""Conditional VAE of perturbed cells.

q(z | x, c) = N(μ(x, c), diag σ²(x, c)),  p(z) = N(0, I),  p(x | z, c) = likelihood(decoder(z, c))
ELBO = E_q[log p(x | z, c)] − β(t) KL(q ‖ p)

negative binomial   counts_g ~ NB(mean = library · e^(b_g + f_g(z, c) + D_g c), inverse dispersion θ_g)
Gaussian            x_g ~ N(b_g + f_g(z, c) + D_g c, σ_g²)
with b_g the level of gene g in the training controls, f an MLP and D a linear path: the log effects of the targets of a
combination add up unless f says otherwise.

Generation. Mode A: z from the prior, decoded under the perturbation. Mode B: z from the posterior of a control cell
under control, decoded under the perturbation. In both, a generated cell has the library size and the covariates of a
training control cell, and is expressed as log1p(counts / library · 1e4).

Shapes: N cells, G genes, C perturbed targets, D covariate columns, K latent.
Source: Kingma & Welling 2014; Sohn et al. 2015; Lopez et al. 2018 for the count likelihood; Bowman et al. 2016 (linear)
and Fu et al. 2019 (cyclical) for the annealing; Kingma et al. 2016 for free bits; Burda et al. 2016 for active units.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from stormcell.analysis.effects import log_fold_changes, log_inverse_dispersion, target_effects
from stormcell.config import UserError, nearest
from stormcell.data.control_perturbed import ControlPerturbedDataModule, PerturbedCells
from stormcell.data.csr import group_mean
from stormcell.data.questions import ValidationView, validation_view
from stormcell.data.spec import TARGET_SUM, Spec
from stormcell.data.split import rows_by
from stormcell.evaluation.distributions import energy_distance
from stormcell.evaluation.heldout import HeldOut, Method
from stormcell.evaluation.profiles import pearson
from stormcell.models.base import Model
from stormcell.nn.likelihood import gaussian_log_prob, negative_binomial_log_prob
from stormcell.nn.mlp import mlp
from stormcell.nn.noise import keyed_normal

VALIDATION_STEP = -1  # the noise of validation: the same at every check, so that checks can be compared


def kl_to_standard_normal(mean: Tensor, log_var: Tensor) -> Tensor:
    """KL(N(mean, e^log_var) ‖ N(0, I)) per cell and dimension, in nats: N × K → N × K."""
    return 0.5 * (mean.square() + log_var.exp() - log_var - 1)


@dataclass(frozen=True)
class Beta:
    """The weight of the KL over training: constant, a linear rise, or `cycles` rises and plateaus."""

    weight: float = 1.0
    schedule: Literal["constant", "linear", "cyclical"] = "linear"
    warmup: float = 0.3  # share of training (of a cycle) over which the weight rises
    cycles: int = 4

    def at(self, progress: float) -> float:
        """progress 0 … 1 → weight."""
        if self.schedule == "constant" or self.warmup <= 0:
            return self.weight
        phase = progress * self.cycles % 1.0 if self.schedule == "cyclical" and progress < 1 else progress
        return self.weight * min(1.0, phase / self.warmup)


class Network(nn.Module):
    """Encoder (x, c) → posterior, decoder (z, c) → log rate or mean of every gene, before the library size."""

    def __init__(self, spec: Spec, latent: int, hidden: Sequence[int]) -> None:
        super().__init__()
        n_condition = spec.n_targets + spec.n_covariates
        self.encoder = mlp(spec.n_genes + n_condition, list(hidden), 2 * latent)
        self.decoder = mlp(latent + n_condition, list(hidden)[::-1], spec.n_genes)
        self.effects = nn.Linear(n_condition, spec.n_genes, bias=False)
        nn.init.zeros_(self.effects.weight)
        self.register_buffer("level", torch.tensor(spec.gene_mean))

    def encode(self, x: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        """N × G, N × (C + D) → mean and log variance, N × K each."""
        mean, log_var = self.encoder(torch.cat([x, condition], -1)).chunk(2, -1)
        return mean, log_var.clamp(-10, 5)

    def decode(self, z: Tensor, condition: Tensor) -> Tensor:
        """N × K, N × (C + D) → N × G."""
        return self.level + self.decoder(torch.cat([z, condition], -1)) + self.effects(condition)


class CVAE(Model):
    """The conditional VAE on control and perturbed cells.

    Parameters
    ----------
    likelihood
        `negative_binomial` on counts, `gaussian` on expression; `auto` takes counts where the data has them.
    sigma
        Gaussian only: one σ per gene, or one shared by all.
    free_bits
        Nats per cell and latent dimension that the KL is not charged for.
    mode
        The generation mode that is validated and shown first; the scoreboard has both.
    n_cells
        Cells generated per perturbation for the scoreboard.
    match
        Obs column (`batch`, `cell_type`) whose values the controls that generated cells start from have in the
        proportions of the test cells.
    effect_prior
        Counts by which the starting log effects of a target are shrunk to zero (analysis/effects.py).

    Raises UserError where the likelihood does not fit the scale of the data.
    """

    parts = ("loss", "reconstruction", "kl")
    scores = ("shift_correlation", "energy_distance", "score")

    def __init__(
        self,
        spec: Spec,
        optimizer,
        scheduler=None,
        seed: int = 1,
        likelihood: Literal["auto", "negative_binomial", "gaussian"] = "auto",
        latent: int = 16,
        hidden: Sequence[int] = (128, 128),
        beta: Beta = Beta(),
        free_bits: float = 0.0,
        sigma: Literal["gene", "shared"] = "gene",
        mode: Literal["A", "B"] = "A",
        n_cells: int = 1000,
        match: str | None = None,
        effect_prior: float = 3.0,
    ) -> None:
        super().__init__(spec, optimizer, scheduler, seed)
        if likelihood == "auto":
            likelihood = "negative_binomial" if spec.has_counts else "gaussian"
        if likelihood == "negative_binomial" and not spec.has_counts:
            raise UserError(
                f"model.likelihood=negative_binomial needs counts, but data.scale={spec.scale}; use "
                "model.likelihood=gaussian, or data.recover_counts=true for log1p values that hold integer counts"
            )
        if latent < 1 or n_cells < 2 or any(width < 1 for width in hidden):
            raise UserError(f"model: latent={latent} and hidden={list(hidden)} from 1, n_cells={n_cells} from 2 on")
        self.likelihood, self.mode, self.n_cells, self.free_bits = likelihood, mode, n_cells, free_bits
        self.effect_prior, self.match = effect_prior, match
        self._view: ValidationView | None = None
        self.beta = beta
        # A Gaussian reads expression, so its level is the mean expression; the pooled log rate stands for counts.
        self.network = Network(spec, latent, hidden)
        self.latent = latent
        start = torch.zeros(spec.n_genes)
        if likelihood == "gaussian":
            if spec.has_counts:
                self.network.level = torch.log1p(self.network.level.exp() * TARGET_SUM)
            start = torch.tensor(spec.gene_sd).clamp(min=1e-2).log()
        # log σ of a Gaussian; log θ, the inverse dispersion, of a negative binomial
        self.log_scale = nn.Parameter(start.mean() if sigma == "shared" and likelihood == "gaussian" else start)

    @torch.no_grad()
    def initialise(self, data: ControlPerturbedDataModule) -> None:
        """The level starts at the controls, effects and dispersions at their closed forms (analysis/effects.py).

        An Adam step moves a weight by the learning rate at most: a rare gene that a target switches on lies further
        from zero, in nats, than a whole training of such steps.
        """
        if self.match is not None and self.match not in data.cells.obs:
            columns = list(data.cells.obs.columns)
            raise UserError(
                f"model.match={self.match}{nearest(self.match, columns)}: columns read: {', '.join(columns)}"
            )
        spec, rows = self.spec, data.rows["train"]
        condition = data.cells.obs["condition"].to_numpy(str)[rows]
        names, codes = np.unique(condition, return_inverse=True)
        n_cells = np.bincount(codes).astype(float)
        perturbed = names != spec.control
        if self.likelihood == "gaussian":
            means = group_mean(data.expression[rows], codes, len(names))
            level = means[~perturbed][0]
            change = means - level
        else:
            counts = group_mean(data.cells.X[rows], codes, len(names)) * n_cells[:, None]
            library = data.cells.obs["library"].to_numpy(float)[rows]
            exposure = np.bincount(codes, library)
            # Half a count for genes that no training control shows.
            rate = (counts[~perturbed][0] + 0.5) / exposure[~perturbed]
            level = np.log(rate)
            change = log_fold_changes(counts, exposure, rate, self.effect_prior)
            self.log_scale.copy_(torch.from_numpy(log_inverse_dispersion(data.cells.X[rows], library, codes)))
        hot = spec.multi_hot(list(names[perturbed]))
        effects = target_effects(change[perturbed], hot, n_cells[perturbed])
        self.network.effects.weight[:, : spec.n_targets] = torch.from_numpy(effects.T)
        self.network.level.copy_(torch.from_numpy(level))

    # ---- loss

    def loss(self, batch: PerturbedCells) -> dict[str, Tensor]:
        """Negative ELBO per cell in nats, and its parts."""
        condition = torch.cat([batch.condition, batch.covariates], -1)
        mean, log_var = self.network.encode(batch.x, condition)
        step = self.global_step if self.training else VALIDATION_STEP
        noise = keyed_normal(self.seed, step, batch.index, self.latent)
        decoded = self.network.decode(mean + (0.5 * log_var).exp() * noise, condition)
        reconstruction = -self.log_prob(batch, decoded).mean()
        # Free bits: without them the decoder learns to ignore z on weakly perturbed cells. Per cell, not per batch: a
        # floor under the batch mean would make one and two processes differ.
        kl = kl_to_standard_normal(mean, log_var).clamp(min=self.free_bits).sum(-1).mean()
        weight = self.beta.at(self.progress) if self.training else self.beta.weight
        return {"loss": reconstruction + weight * kl, "reconstruction": reconstruction, "kl": kl}

    def log_prob(self, batch: PerturbedCells, decoded: Tensor) -> Tensor:
        """log p(x | z, c) per cell in nats: decoder output N × G → N."""
        if self.likelihood == "gaussian":
            return gaussian_log_prob(batch.x, decoded, self.log_scale)
        return negative_binomial_log_prob(batch.counts, decoded + batch.library.log(), self.log_scale)

    # ---- generation

    @torch.no_grad()
    def generate(
        self, condition: str, source: PerturbedCells, mode: Literal["A", "B"], seed: int, draw: bool = True
    ) -> np.ndarray:
        """Cells under a perturbation, one for each control cell of `source`: N × G expression.

        `draw` samples the likelihood; without it each cell is the mean of its likelihood, log1p(1e4 · rate) for counts.
        Raises UserError when a target of the perturbation was never perturbed in training.
        """
        unknown = self.spec.unknown_targets(condition)
        if unknown:
            raise UserError(
                f"no training cell is perturbed at {', '.join(unknown)}, so this model has no representation of "
                f"{condition!r}; its targets: {', '.join(self.spec.targets[:8])}, …"
            )
        rng = np.random.default_rng(seed)
        n = len(source.x)
        z = self._placed(torch.from_numpy(rng.standard_normal((n, self.latent), np.float32)))
        covariates = source.covariates
        if mode == "B":
            control = torch.cat([torch.zeros_like(source.condition), covariates], -1)
            mean, log_var = self.network.encode(source.x, control)
            z = mean + (0.5 * log_var).exp() * z
        hot = self._placed(torch.from_numpy(self.spec.multi_hot([condition]))).expand(n, -1)
        decoded = self.network.decode(z, torch.cat([hot, covariates], -1)).cpu().numpy()
        if self.likelihood == "gaussian":
            sigma = np.exp(self.log_scale.cpu().numpy())
            cells = decoded + sigma * rng.standard_normal(decoded.shape, np.float32) if draw else decoded
            return cells.astype(np.float32)
        rate = np.exp(decoded.astype(np.float64))
        if not draw:
            return np.log1p(rate * TARGET_SUM).astype(np.float32)
        library = source.library.cpu().numpy().astype(np.float64)
        theta = np.exp(self.log_scale.cpu().numpy().astype(np.float64))
        counts = rng.poisson(rng.gamma(theta, 1 / theta, decoded.shape) * rate * library)
        return np.log1p(counts / library * TARGET_SUM).astype(np.float32)

    def sources(
        self, data: ControlPerturbedDataModule, context: str, n: int, seed: int, like: np.ndarray | None = None
    ) -> PerturbedCells:
        """n training control cells of a context: what generated cells start from.

        Each as often as the others; or, with `like` (values of the obs column `match`), in the proportions of these.
        Raises UserError when no training control has any of the values.
        """
        rows, rng = data.control_rows(context), np.random.default_rng(seed)
        if like is None:
            chosen = np.concatenate([rng.permutation(rows) for _ in range(-(-n // len(rows)))])[:n]
        else:
            pools = rows_by(data.cells.obs[self.match].to_numpy(str), rows)
            like = like[np.isin(like, list(pools))]
            if len(like) == 0:
                raise UserError(f"model.match={self.match}: no training control has a value of the cells to be matched")
            values, counts = np.unique(rng.choice(like, n), return_counts=True)
            # Shuffled, because only the first of the generated cells are kept and drawn.
            chosen = rng.permutation(
                np.concatenate([rng.choice(pools[v], k) for v, k in zip(values, counts, strict=True)])
            )
        batch = data.batch(chosen)
        return PerturbedCells(*(None if field is None else self._placed(field) for field in batch))

    def _placed(self, field: Tensor) -> Tensor:
        return field.to(self.device, self.dtype if field.is_floating_point() else None)

    def methods(self, data: ControlPerturbedDataModule, held_out: HeldOut) -> list[Method]:
        """The rows of the scoreboard: both modes, the configured one first."""

        def method(mode: str) -> Method:
            def predict(i: int) -> tuple[np.ndarray, np.ndarray] | None:
                query = held_out.queries[i]
                if self.spec.unknown_targets(query.condition):
                    return None
                seed = self.seed * 1_000_003 + i
                like = data.test_values(query.condition, query.context, self.match) if self.match else None
                source = self.sources(data, query.context, self.n_cells, seed, like)
                cells = self.generate(query.condition, source, mode, seed)
                return cells.mean(0, dtype=np.float64), cells

            return Method(f"cvae, mode {mode}", predict)

        return [method(mode) for mode in (self.mode, "B" if self.mode == "A" else "A")]

    # ---- what decides and what is told

    def validation_scores(self) -> dict[str, float]:
        """On the validation cells of seen perturbations: medians of shift correlation and energy distance.

        score = shift correlation − energy distance: one model has to be good at both the mean and the cells. The
        shifts are against training controls: a constant flattery that does not change which check is the best.
        """
        data = self.trainer.datamodule
        if self._view is None:
            self._view = validation_view(data)
        view = self._view
        correlation, distance = [], []
        for i, (condition, mean, coordinates) in enumerate(view.conditions):
            source = self.sources(data, "all", 500, i)
            cells = self.generate(condition, source, self.mode, i)
            correlation.append(pearson(cells.mean(0, dtype=np.float64) - view.control_mean, mean - view.control_mean))
            distance.append(energy_distance(data.reference.project(cells), coordinates))
        r, e = float(np.nanmedian(correlation)), float(np.nanmedian(distance))
        return {"shift_correlation": r, "energy_distance": e, "score": r - e}

    @torch.no_grad()
    def notes(self, data: ControlPerturbedDataModule) -> list[str]:
        """Posterior collapse, told with what to do: active units are dimensions with Var_x[μ(x)] > 0.01."""
        means, kls = [], []
        # Of the cells of another file none are for validation.
        for batch in data.chunks("validation" if len(data.rows["validation"]) else "test"):
            condition = self._placed(torch.cat([batch.condition, batch.covariates], -1))
            mean, log_var = self.network.encode(self._placed(batch.x), condition)
            means.append(mean.cpu())
            kls.append(kl_to_standard_normal(mean, log_var).cpu())
        variance = torch.cat(means).var(0, unbiased=False)
        active, kl = int((variance > 0.01).sum()), torch.cat(kls).mean(0)
        text = (
            f"latent space: {active} of {self.latent} units active, {kl.sum():.2f} nats of KL per cell, the largest "
            f"dimension {kl.max():.2f}"
        )
        if active < max(1, math.ceil(self.latent / 8)):
            text += (
                ": the posterior has collapsed and the decoder ignores z; raise model.free_bits (0.1), lower "
                "model.beta.weight (0.5), or take model.beta.schedule=cyclical"
            )
        return [text]
