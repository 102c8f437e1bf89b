"""Linear gene expression model: the mean shift of a perturbation from the vectors of its targets.

    linear       y = G W p + b
    non-linear   y = G W₂ σ(W₁ p) + b,  σ = ReLU
with y the shift of a perturbation against control, p the sum of its targets' vectors (conf/targets), G the scores of
the genes (fixed, or learnt), b the mean shift of the training conditions, control among them.

solver exact    fixed G: two ridge solves; learnt G: reduced-rank regression (analysis/linear.py); one step, no epochs
solver sgd      gradient descent on the same loss, ‖y − ŷ‖² + λ ‖W p‖² + λ ‖G w‖² + λ² ‖w‖² averaged over conditions and
                genes, in coordinates that make it perfectly conditioned: W = L_G⁻ᵀ A L_P⁻¹ with L_G L_Gᵀ = GᵀG + λI and
                L_P L_Pᵀ = (PᵀP + λI) / R, A the parameter. It ends where the exact solver begins.

Predicted cells are training control cells moved by y: a linear model of means says nothing else about cells.

Shapes: B conditions in a batch, R in training, G genes, K gene scores, D columns of p, H hidden.
Source: Ahlmann-Eltze, Huber & Anders 2025 (G from the training pseudobulk, K = 10, λ = 0.1). Their runner for pairs
adds the first target twice in training; here a pair is the sum of its targets everywhere.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from stormcell.analysis.embedding import TargetEmbedding, gene_scores
from stormcell.analysis.linear import reduced_rank, two_ridge
from stormcell.config import UserError
from stormcell.data.fit import scores_of_file
from stormcell.data.pseudobulk import PseudobulkDataModule, Shifts
from stormcell.data.screen import Screen
from stormcell.data.spec import Spec
from stormcell.evaluation.baselines import moved_controls
from stormcell.evaluation.heldout import HeldOut, Method
from stormcell.evaluation.profiles import mean_profile, pearson
from stormcell.models.base import Model


class Network(nn.Module):
    """p → y. `genes` is None for the identity; `width` is None for the linear model."""

    def __init__(self, n_genes: int, scores: int | None, n_vector: int, width: int | None, learnt: bool) -> None:
        super().__init__()
        K, D = scores or n_genes, n_vector if width is None else width
        genes = None if scores is None else torch.zeros(n_genes, scores)
        if learnt:
            self.genes = nn.Parameter(genes)
        else:
            self.register_buffer("genes", genes)
        self.register_buffer("bias", torch.zeros(n_genes))
        self.register_buffer("gene_basis", torch.eye(K) if scores else torch.ones(()))  # L_G⁻¹
        self.register_buffer("input_basis", torch.eye(n_vector))  # L_P⁻¹
        self.hidden = None if width is None else nn.Linear(n_vector, width)
        self.A = nn.Parameter(torch.zeros(K, D))

    def coefficients(self, vector: Tensor) -> Tensor:
        """W p, the coordinates of the shift in the gene scores: B × D → B × K."""
        p = vector @ self.input_basis.T
        p = p if self.hidden is None else self.hidden(p).relu()
        return self._in_scores(p @ self.A.T)

    def _in_scores(self, a: Tensor) -> Tensor:
        """L_G⁻ᵀ a for rows a; a number where G is the identity."""
        return a * self.gene_basis if self.genes is None else a @ self.gene_basis

    def forward(self, vector: Tensor) -> Tensor:
        """B × D → B × G."""
        w = self.coefficients(vector)
        return self.bias + (w if self.genes is None else w @ self.genes.T)

    @property
    def weight(self) -> Tensor:
        """W of the linear model: K × D."""
        return self._in_scores((self.A @ self.input_basis).T).T

    @torch.no_grad()
    def set_weight(self, weight: Tensor) -> None:
        """Choose A so that the linear model has this W."""
        left = torch.linalg.pinv(self.gene_basis.double().T)
        self.A.copy_(left @ weight.double() @ torch.linalg.pinv(self.input_basis.double()))


class LGEM(Model):
    """The linear gene expression model and its three extensions.

    Parameters
    ----------
    G
        Gene scores: `pca` of the training pseudobulk, `identity`, `random`, or a table (genes × K, first column names).
    learnable_G
        G is fitted too.
    width
        Hidden units of the non-linear model; null is linear.
    K
        Gene scores, and the rank of the model; fewer where the training conditions do not have as many.
    ridge
        λ of both solves.

    Raises UserError where `solver=exact` is asked of what has no closed form, and for a G table without the genes.
    """

    uses_targets = True
    way_out = ", or say what is known of the targets beside the cells: targets=network targets.path=…"
    parts = ("loss", "mse")
    scores = ("shift_correlation", "score")

    def __init__(
        self,
        spec: Spec,
        optimizer,
        scheduler=None,
        seed: int = 1,
        solver: Literal["exact", "sgd"] = "exact",
        G: str = "pca",
        learnable_G: bool = False,
        width: int | None = None,
        K: int = 10,
        ridge: float = 0.1,
        n_cells: int = 500,
    ) -> None:
        super().__init__(spec, optimizer, scheduler, seed)
        if solver == "exact" and width is not None:
            raise UserError(f"model.solver=exact with model.width={width}: a hidden layer has no closed form; use sgd")
        if K < 1 or ridge < 0 or (width is not None and width < 1):
            raise UserError(f"model.K={K} model.ridge={ridge:g} model.width={width}: positive numbers are needed")
        if learnable_G and (G != "pca" if solver == "exact" else G == "identity"):
            raise UserError(
                f"model.G={G} with model.learnable_G=true: "
                + ("the exact solver finds G itself" if solver == "exact" else "gradient descent starts from scores")
                + "; leave model.G out, or take model.solver=sgd with pca, random or a table"
            )
        self.solver, self.G, self.learnable_G, self.width = solver, G, learnable_G, width
        self.K, self.ridge, self.n_cells = K, ridge, n_cells
        self.closed_form = solver == "exact"
        self.embedding: TargetEmbedding | None = None
        self.vectors: nn.Parameter | None = None  # T × D, where the vectors of the targets are learnt

    # ---- what the training conditions give in closed form

    @torch.no_grad()
    def initialise(self, data: PseudobulkDataModule) -> None:
        """Gene scores, the coordinates of A and, where it exists, the exact solution."""
        self.embedding, table = data.embedding, data.table
        learnt_P = self.embedding.kind == "learnable"
        if learnt_P and self.closed_form:
            raise UserError(
                "targets=learnable with model.solver=exact: with free vectors the least-squares fit is that of "
                "targets=multi_hot; take that, or model.solver=sgd"
            )
        Y, P, weights = (field.double().numpy() for field in table)
        if learnt_P:
            P = self._learn_vectors(P)
        if self.closed_form and self.learnable_G:
            fit = reduced_rank(Y, P, self.K, self.ridge, weights)
        else:
            fit = two_ridge(Y, self._gene_scores(data), P, self.ridge, weights)
        self.network = self._network(None if fit.genes is None else fit.genes.shape[1], P.shape[1])
        self.network.bias.copy_(torch.from_numpy(fit.bias))
        if fit.genes is not None:
            self.network.genes.copy_(torch.from_numpy(fit.genes))
        if self.closed_form:
            self.network.A.copy_(torch.from_numpy(fit.weight))
            return
        self._condition(fit.genes, P, weights)
        if self.width is not None:
            nn.init.normal_(self.network.A, std=0.01, generator=torch.Generator().manual_seed(self.seed))
        elif self.learnable_G and not learnt_P:
            self.network.set_weight(torch.from_numpy(fit.weight))

    def _network(self, scores: int | None, n_vector: int) -> Network:
        return Network(self.spec.n_genes, scores, n_vector, self.width, self.learnable_G)

    def _condition(self, genes: np.ndarray | None, P: np.ndarray, weights: np.ndarray) -> None:
        """L_G⁻¹ and L_P⁻¹: in their coordinates every direction of the linear model is equally steep."""
        if genes is None:
            self.network.gene_basis.fill_((1 + self.ridge) ** -0.5)
        else:
            self.network.gene_basis.copy_(_inverse_root(genes.T @ genes, self.ridge))
        if self.vectors is None:
            spread = _inverse_root((P.T * weights) @ P, self.ridge) * len(P) ** 0.5
            self.network.input_basis.copy_(spread)

    def _gene_scores(self, data: PseudobulkDataModule) -> np.ndarray | None:
        """G × K, or None for the identity."""
        if self.G == "identity":
            return None
        if self.G == "random":
            return np.random.default_rng(self.seed).standard_normal((self.spec.n_genes, self.K))
        if self.G != "pca":
            return scores_of_file(self.G, self.spec.genes)
        return gene_scores(data.train, self.K)

    def _learn_vectors(self, hot: np.ndarray) -> np.ndarray:
        """Free vectors of the targets, to be learnt: R × T → R × D."""
        start = np.random.default_rng(self.seed).standard_normal((hot.shape[1], self.embedding.dim))
        self.vectors = nn.Parameter(torch.from_numpy(start.astype(np.float32)))
        return hot @ start

    def shape_like(self, state: dict[str, Tensor], embedding: TargetEmbedding) -> None:
        """The empty network of a checkpoint, whose sizes came from the data."""
        self.embedding = embedding
        genes, A = state.get("network.genes"), state["network.A"]
        self.network = self._network(None if genes is None else A.shape[0], state["network.input_basis"].shape[0])
        if "vectors" in state:
            self.vectors = nn.Parameter(torch.zeros_like(state["vectors"]))

    # ---- loss

    def loss(self, batch: Shifts) -> dict[str, Tensor]:
        """Mean over conditions and genes of the squared error, and its penalised form; none with a hidden layer, whose
        penalty is the optimizer's weight decay."""
        vector = batch.vector if self.vectors is None else batch.vector @ self.vectors
        network = self.network
        squared = (batch.shift - network(vector)).square().sum(-1)
        mse = (batch.weight * squared).mean() / self.spec.n_genes
        if self.width is not None or not self.ridge:
            return {"loss": mse, "mse": mse}
        w, W = network.coefficients(vector), network.weight
        own = W if network.genes is None else network.genes @ W
        share = self.ridge / self.n_rows
        penalty = self.ridge * (batch.weight * w.square().sum(-1)).mean()
        penalty = penalty + share * own.square().sum() + share * self.ridge * W.square().sum()
        return {"loss": mse + penalty / self.spec.n_genes, "mse": mse}

    @property
    def n_rows(self) -> int:
        return len(self.trainer.datamodule.table.shift)

    # ---- prediction

    def unknown_targets(self, condition: str) -> list[str]:
        """Targets without a vector."""
        return self.embedding.missing(condition, self.spec.control)

    @torch.no_grad()
    def shift(self, conditions: list[str]) -> np.ndarray:
        """Predicted shifts: conditions → n × G float64; NaN where a target has no vector."""
        vector = torch.from_numpy(self.embedding.of(conditions, self.spec.control)).to(self.network.A)
        if self.vectors is not None:
            vector = vector @ self.vectors
        return self.network(vector).double().cpu().numpy()

    def methods(self, data: Screen, held_out: HeldOut) -> list[Method]:
        """One row of the scoreboard."""
        control = {context: mean_profile(cells) for context, cells in held_out.controls.items()}

        def predict(i: int) -> tuple[np.ndarray, np.ndarray] | None:
            query = held_out.queries[i]
            if self.unknown_targets(query.condition):
                return None
            shift = self.shift([query.condition])[0]
            return control[query.context] + shift, moved_controls(held_out, i, shift, self.n_cells, self.seed)

        return [Method(self.label, predict)]

    @property
    def label(self) -> str:
        """What is written on the scoreboard."""
        extras = ["learnt G"] * self.learnable_G + [f"width {self.width}"] * (self.width is not None)
        return ", ".join(["lgem", *extras, *([] if self.closed_form else ["sgd"])])

    def validation_scores(self) -> dict[str, float]:
        """Median shift correlation on validation cells, against training controls: it picks, it does not judge."""
        table = self.trainer.datamodule.validation
        vector = table.vector.to(self.device)
        with torch.no_grad():
            predicted = self.network(vector if self.vectors is None else vector @ self.vectors).cpu().numpy()
        r = np.nan_to_num(pearson(table.shift.numpy(), predicted))
        median = float(np.median(r)) if len(r) else float("nan")
        return {"shift_correlation": median, "score": median}

    def notes(self, data: Screen) -> list[str]:
        """What P is, how many training perturbations have it, and a rank that was cut."""
        conditions = self.spec.conditions
        fitted = sum(not self.unknown_targets(condition) for condition in conditions)
        known = f"known of {fitted} of {len(conditions)} training perturbations"
        found = [f"vectors of the targets: {self.embedding.kind}, {known}"]
        K = self.network.A.shape[0]
        if self.network.genes is not None and self.G in ("pca", "random") and K < self.K:
            found.append(f"model.K={self.K} gene scores asked for, but the training conditions have only {K}: taken")
        return found


def _inverse_root(moment: np.ndarray, ridge: float) -> Tensor:
    """L⁻¹ with L Lᵀ = moment + λI, in float32; directions that are empty stay empty."""
    values, axes = np.linalg.eigh(moment + ridge * np.eye(len(moment)))
    kept = values > 1e-10 * values.max(initial=0)
    root = axes * np.where(kept, 1 / np.sqrt(np.where(kept, values, 1)), 0)
    return torch.from_numpy(root.T.astype(np.float32))
