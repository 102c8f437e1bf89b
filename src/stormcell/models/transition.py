"""Transition network: which signed, weighted regulation drives cells of cluster A to cluster B.

y = (x − μ_A) W_t + μ_B + s_t ∘ (x − μ_A)        x a cell of A, y a coupled cell of B, t the transition
loss = mean over coupled cells of ‖y − ŷ‖² + λ (‖W₀‖² + λ_D / λ Σ_t ‖D_t‖²) ...  W_t = W₀ + D_t, W on the mask alone

W has a row for every regulator and a column for every target. Cells of A and B are never the same cells: the plan P of
an optimal transport, or of another coupling, says how much of a source cell lies behind a target cell, and the loss is
its mean over the plan. With random pairs, P = r sᵀ, the covariance of x and y is 0 and so is W: the null that stands
beside every network. Couplings pair what is alike, so the self edge s is fitted as a nuisance and not scored.

solver exact    normal equations of every target, batched Cholesky (analysis/masked_ridge.py); with several transitions
                shared and deviating parts in one elimination (analysis/pooled_ridge.py); λ by generalised
                cross-validation, λ_D by validation cells; lasso > 0 makes it an elastic net (analysis/elastic_net.py)
solver sgd      gradient descent on pairs drawn from the plan, over the edges' values alone, L1 by proximal steps

Shapes: B pairs in a batch, G genes, E edges, T transitions.
Source: the masked regression is Wild 2025's question; Schiebinger et al. 2019 (couplings); Kamimoto et al. 2023
(a prior network and ridge, within one cluster).
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from stormcell.analysis.couplings import Coupling
from stormcell.analysis.elastic_net import elastic_net
from stormcell.analysis.mask import Mask
from stormcell.analysis.masked_ridge import Edges, Moments, choose_ridge, moments, solve
from stormcell.analysis.pooled_ridge import pooled, pooled_moments
from stormcell.config import UserError, nearest
from stormcell.data.cluster_mapping import ClusterMappingDataModule, Pairs
from stormcell.data.network_spec import NetworkSpec
from stormcell.evaluation.network import r_squared_summary
from stormcell.models.base import Model

DEVIATIONS, UNVALIDATED = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0), 1.0  # λ_D to choose from; the one without validation cells
SOLVERS, POOLINGS = ("exact", "sgd"), ("shared_deviation", "independent")


class Transition(Model):
    """Masked regression from one cluster to the next.

    Parameters
    ----------
    ridge
        λ, per cell, of scaled expression; `gcv`: one for all targets and transitions, by generalised cross-validation.
    ridge_deviation
        λ_D, of what a transition has beyond the shared network; infinite: one network for all; `validation`: the one of
        `DEVIATIONS` that predicts the validation cells best, 1 without such cells. What predicts best is not always
        what is true: where one network is known to drive all transitions, as in a simulation, take a large one.
    lasso
        Weight of Σ |w|; 0 leaves it out. Exact with pooling=independent, or by solver=sgd.
    pooling
        shared_deviation · independent; with one transition they are the same.
    self_edge
        A gene's own source expression as a nuisance column.
    perturb
        Regulators that are perturbed in silico; null: the three of largest strength.
    steps
        Through the network of a transition, of that perturbation.

    Raises UserError for words that are not known and for a lasso with exact shared deviations.
    """

    judged = "network"
    parts = ("loss", "error", "penalty")
    scores = ("r2", "score")

    def __init__(
        self,
        spec: NetworkSpec,
        optimizer,
        scheduler=None,
        seed: int = 1,
        solver: Literal["exact", "sgd"] = "exact",
        ridge: float | str = "gcv",
        ridge_deviation: float | str = "validation",
        lasso: float = 0.0,
        pooling: Literal["shared_deviation", "independent"] = "shared_deviation",
        self_edge: bool = True,
        bootstraps: int = 100,
        recoupled: float = 0.1,
        perturb: list[str] | str | None = None,
        steps: int = 3,
    ) -> None:
        super().__init__(spec, optimizer, scheduler, seed)
        for key, word, options in (("solver", solver, SOLVERS), ("pooling", pooling, POOLINGS)):
            if word not in options:
                raise UserError(f"model.{key}={word}{nearest(word, options)}: {' or '.join(options)} expected")
        if ridge != "gcv" and not (isinstance(ridge, int | float) and 0 <= ridge < math.inf):
            raise UserError(f"model.ridge={ridge}: a number of at least 0, or gcv")
        if ridge_deviation != "validation" and not (isinstance(ridge_deviation, int | float) and ridge_deviation > 0):
            raise UserError(
                f"model.ridge_deviation={ridge_deviation}: validation, or a number above 0; .inf is one network for all"
            )
        if not 0 <= lasso < math.inf:
            raise UserError(f"model.lasso={lasso}: a number of at least 0")
        if not 0 <= recoupled <= 1:
            raise UserError(f"model.recoupled={recoupled}: a share of the bootstraps, 0 to 1")
        if isinstance(bootstraps, bool) or not isinstance(bootstraps, int) or bootstraps < 2:
            raise UserError(f"model.bootstraps={bootstraps}: a whole number of at least 2")
        shares = pooling == "shared_deviation" and spec.n_transitions > 1
        if lasso > 0 and solver == "exact" and shares:
            raise UserError(f"model.lasso={lasso}: exact with model.pooling=independent; or take model.solver=sgd")
        regulators = sorted({spec.genes[gene] for gene in spec.regulator})
        perturb = [perturb] if isinstance(perturb, str) else perturb
        for gene in perturb or ():
            if gene not in regulators:
                raise UserError(f"model.perturb={gene}: no regulator of the prior network{nearest(gene, regulators)}")
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
            raise UserError(f"model.steps={steps}: a whole number of at least 1")
        self.perturb, self.steps = perturb, steps
        self.solver, self.ridge, self.ridge_deviation, self.lasso = solver, ridge, ridge_deviation, lasso
        self.shares, self.self_edge, self.bootstraps, self.recoupled = shares, self_edge, bootstraps, recoupled
        self.closed_form = solver == "exact"
        self.mask = spec.mask
        T, E, G = spec.n_transitions, spec.n_edges, spec.n_genes
        self.shared = nn.Parameter(torch.zeros(E), requires_grad=shares)
        self.deviation = nn.Parameter(torch.zeros(T, E), requires_grad=not shares or ridge_deviation != math.inf)
        self.own = nn.Parameter(torch.zeros(T, G), requires_grad=self_edge)
        for name in ("mean_x", "mean_y"):
            self.register_buffer(name, torch.zeros(T, G))
        self.register_buffer("share", torch.full((T,), 1 / T))  # of the cells
        self.register_buffer("chosen_ridge", torch.tensor(0.0 if ridge == "gcv" else float(ridge)))
        given = UNVALIDATED if ridge_deviation == "validation" else float(ridge_deviation)
        self.register_buffer("chosen_deviation", torch.tensor(given))
        self.register_buffer(
            "_edge", torch.from_numpy(np.stack([self.mask.regulator, self.mask.target])), persistent=False
        )

    # ---- fit

    @torch.no_grad()
    def initialise(self, data: ClusterMappingDataModule) -> None:
        """Means of the clusters and λ from the training cells, λ_D from the validation cells; with solver=exact the
        network itself."""
        sides = [data.sides(t, "train") for t in range(self.spec.n_transitions)]
        found = [moments(side.x, side.y, side.coupling, self.mask.regulators) for side in sides]
        self.share.copy_(torch.tensor([one.n for one in found]) / sum(one.n for one in found))
        for t, one in enumerate(found):
            self.mean_x[t], self.mean_y[t] = torch.from_numpy(one.mean_x), torch.from_numpy(one.mean_y)
        self.chosen_ridge.fill_(self.ridge_of(found, [side.coupling for side in sides], self.mask))
        if self.shares and self.ridge_deviation == "validation" and data.with_cells("validation"):
            self.chosen_deviation.fill_(max(DEVIATIONS, key=lambda value: self._validated(value, found, data)))
        if self.solver == "exact":
            self._take(*self.solved(found))
        else:
            for part in (self.shared, self.deviation, self.own):
                part.zero_()

    def _validated(self, deviation: float, found: list[Moments], data: ClusterMappingDataModule) -> float:
        """R² of the validation cells, in closed form, with this λ_D."""
        self.chosen_deviation.fill_(deviation)
        self._take(*self.solved(found))
        return _median([one["variance_weighted"] for one in self.held_out_r2(data, "validation")])

    def _take(self, shared: Edges | None, fitted: list[Edges]) -> None:
        """These values for the parameters."""
        if shared is not None:
            self.shared.copy_(torch.from_numpy(shared.values))
        for t, one in enumerate(fitted):
            self.deviation[t], self.own[t] = torch.from_numpy(one.values), torch.from_numpy(one.own)

    def ridge_of(self, found: list[Moments], couplings: list[Coupling], mask: Mask) -> float:
        """λ as given; or by cross-validation on the effective cells: of a shared network those of all transitions
        together, of independent ones the geometric mean of what each transition chooses."""
        if self.ridge != "gcv":
            return float(self.ridge)
        told = [replace(one, n=c.effective_cells) for one, c in zip(found, couplings, strict=True)]
        told = [pooled_moments(told)] if self.shares else told
        return float(np.exp(np.mean([np.log(choose_ridge(one, mask, self.self_edge)[0]) for one in told])))

    def solved(
        self, found: list[Moments], mask: Mask | None = None, ridge: float | None = None
    ) -> tuple[Edges | None, list[Edges]]:
        """Shared part (None without one) and what each transition has beyond it, of these moments."""
        mask, ridge = mask or self.mask, float(self.chosen_ridge) if ridge is None else ridge
        if self.shares:
            return pooled(found, mask, ridge, float(self.chosen_deviation), self.self_edge)
        if self.lasso > 0:
            return None, [elastic_net(one, mask, ridge, self.lasso, self.self_edge) for one in found]
        return None, [solve(one, mask, ridge, self.self_edge) for one in found]

    def loss(self, batch: Pairs) -> dict[str, Tensor]:
        """Squared error per pair, summed over genes, and the ridge penalty.

        Transitions come in turn, one to a batch: weighted by its share of the cells, their mean is the objective.
        """
        t = int(batch.transition[0])
        weight, part = self.shared + self.deviation[t], self.spec.n_transitions * self.share[t]
        predicted = batch.x @ self.matrix(weight) + self.own[t] * batch.x
        error = part * (batch.y - predicted).square().sum(-1).mean()
        penalty = self.chosen_ridge * (self.shared.square().sum() + part * self.own[t].square().sum())
        if self.deviation.requires_grad:
            ridge = self.chosen_deviation if self.shares else self.chosen_ridge
            penalty = penalty + part * ridge * self.deviation[t].square().sum()
        return {"loss": error + penalty, "error": error, "penalty": penalty}

    def matrix(self, weight: Tensor) -> Tensor:
        """E values → G × G, rows regulate columns."""
        G = self.spec.n_genes
        return weight.new_zeros(G, G).index_put((self._edge[0], self._edge[1]), weight)

    def optimizer_step(self, epoch, batch_idx, optimizer, optimizer_closure=None) -> None:
        """The optimizer's step, then the proximal one of λ₁: what it would carry past 0 is 0, also after the last."""
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        if self.lasso == 0 or self.closed_form:
            return
        for part, share in ((self.shared, 1.0), (self.deviation, self.share[:, None])):
            if part.requires_grad:
                # Of error + λ ‖w‖², twice the objective of analysis/elastic_net.py: hence 2.
                threshold = 2 * self.lasso * share * _step_length(optimizer, part)
                with torch.no_grad():
                    part.copy_(part.sign() * (part.abs() - threshold).clamp(min=0))

    # ---- what it says

    @torch.no_grad()
    def weights(self, t: int) -> np.ndarray:
        """Standardised weights of the edges in transition t: E."""
        return (self.shared + self.deviation[t]).double().numpy()

    @property
    def natural(self) -> np.ndarray:
        """Factor of every edge from standardised to natural units, σ_target / σ_regulator: E."""
        sd = np.array(self.spec.gene_sd)
        return sd[self.mask.target] / sd[self.mask.regulator]

    @torch.no_grad()
    def predict(self, x: np.ndarray, t: int) -> np.ndarray:
        """Scaled expression of source cells → of the cells that they become: n × G."""
        centred = torch.from_numpy(np.asarray(x, np.float32)) - self.mean_x[t]
        weight = self.shared + self.deviation[t]
        return (centred @ self.matrix(weight) + self.own[t] * centred + self.mean_y[t]).numpy()

    def held_out_r2(self, data: ClusterMappingDataModule, part: str) -> list[dict[str, float]]:
        """R² of the barycentre of every transition with cells of a part, over genes that have a regulator."""
        found, genes = [], self.mask.in_degree > 0
        for t in data.with_cells(part):
            sides = data.sides(t, part)
            both = sides.coupling.barycentre(sides.y), self.predict(sides.x, t), self.mean_y[t].numpy()
            true, said, mean = (one[..., genes] * data.scale[genes] for one in both)
            found.append(r_squared_summary(true, said, sides.coupling.source, mean))
        return found

    def validation_scores(self) -> dict[str, float]:
        """R² of the barycentre, weighted by variance, median over transitions."""
        found = self.held_out_r2(self.trainer.datamodule, "validation")
        value = _median([one["variance_weighted"] for one in found])
        return {"r2": value, "score": value}

    def notes(self, data: ClusterMappingDataModule) -> list[str]:
        told = f"ridge {float(self.chosen_ridge):.3g} per cell" + (" (gcv)" if self.ridge == "gcv" else "")
        if self.shares:
            told += f", {float(self.chosen_deviation):.3g} of what a transition has beyond the shared network"
            told += " (validation cells)" if self.ridge_deviation == "validation" else ""
        return [told]

    def unknown_targets(self, condition: str) -> list[str]:
        """None: a cluster is no perturbation."""
        return []


def _median(values: list[float]) -> float:
    """Of those that are defined; 0 without any: of random pairs all barycentres are one."""
    told = [value for value in values if np.isfinite(value)]
    return float(np.median(told)) if told else 0.0


def _step_length(optimizer: torch.optim.Optimizer, part: nn.Parameter) -> Tensor | float:
    """How far a gradient of 1 carries each value: the proximal step must use the metric of the optimizer's own."""
    group = next(group for group in optimizer.param_groups if any(one is part for one in group["params"]))
    state = optimizer.state[part]
    if "exp_avg_sq" not in state:
        return group["lr"]
    second = state["exp_avg_sq"] / (1 - group["betas"][1] ** int(state["step"]))
    return group["lr"] / (second.sqrt() + group["eps"])
