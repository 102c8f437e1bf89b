"""Bilinear network of frequencies: which products of genes tell where a cell stands in the graph of all cells.

ŷ = P (L x̃ ⊙ R x̃),  x̃ = [x; 1]          order 3: ŷ = P (L x̃ ⊙ R x̃ ⊙ U x̃)
loss = mean over cells, frequencies and members of (y − ŷ)², |y − ŷ| or Huber's of the two; of classes, cross-entropy

Its weights are interaction matrices of genes, one per frequency (analysis/modules.py). Each member learns by itself;
what predicts and is interpreted is their mean, which is again one bilinear network (nn/bilinear.py).

Shapes: B cells, D inputs, F outputs (frequencies of unit RMS, or classes), M members.
Source: Pearce et al. 2024 for the network; the low frequencies of a Laplacian as targets: Belkin & Niyogi 2003.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from stormcell.analysis.gene_sets import GeneSets, UnmatchedSets, match_sets, read_gmt
from stormcell.config import UserError, nearest
from stormcell.data.cells import locate
from stormcell.data.frequency import Frequencies, FrequencyDataModule
from stormcell.data.frequency_spec import FrequencySpec
from stormcell.models.base import Model
from stormcell.nn.bilinear import Bilinear as Network

LOSSES = {"mse": functional.mse_loss, "l1": functional.l1_loss, "huber": functional.huber_loss}


class Bilinear(Model):
    """Bilinear, or trilinear, regression of frequencies; a classifier where the outputs are classes.

    Parameters
    ----------
    hidden
        Products of a member: the rank of each interaction matrix is at most twice their number.
    order
        2: pairs of genes; 3: triples.
    bias
        The constant coordinate, by which linear effects can be expressed.
    input_power
        Principal components enter with their standard deviation to this power, where 0 leaves them white: noise lies in
        the small ones. Genes are left as they are.
    members
        Networks that are trained side by side from different starts, and averaged.
    loss
        mse · l1 · huber; not of classes, which have cross-entropy.
    refits
        Other starts, and as many resamples of the cells, whose modules are compared with those of the run.
    gene_sets, fold_case
        A .gmt file whose terms are looked for in the modules; symbols compared without case (Gata1 is GATA1).

    Raises UserError for words that are not known and numbers out of range.
    """

    judged = "frequencies"
    parts = ("loss",)
    scores = ("r2", "score")

    def __init__(
        self,
        spec: FrequencySpec,
        optimizer,
        scheduler=None,
        seed: int = 1,
        hidden: int = 128,
        order: int = 2,
        bias: bool = True,
        input_power: float = 1.5,
        members: int = 1,
        loss: Literal["mse", "l1", "huber"] = "mse",
        refits: int = 2,
        gene_sets: str | None = None,
        fold_case: bool = False,
    ) -> None:
        super().__init__(spec, optimizer, scheduler, seed)
        for key, value in (("hidden", hidden), ("members", members)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise UserError(f"model.{key}={value}: a whole number of at least 1")
        if isinstance(order, bool) or order not in (2, 3):
            raise UserError(f"model.order={order}: 2 (pairs of genes) or 3 (triples) expected")
        if loss not in LOSSES:
            raise UserError(f"model.loss={loss}{nearest(loss, LOSSES)}: {', '.join(LOSSES)} expected")
        if isinstance(input_power, bool) or not isinstance(input_power, int | float) or not 0 <= input_power < math.inf:
            raise UserError(f"model.input_power={input_power}: a number of at least 0")
        if isinstance(refits, bool) or not isinstance(refits, int) or refits < 0:
            raise UserError(f"model.refits={refits}: a whole number of at least 0")
        self.refits, self.gene_sets, self.fold_case = refits, gene_sets, fold_case
        self.input_power = input_power
        self.classifies = spec.task == "classification"
        self.distance = functional.cross_entropy if self.classifies else LOSSES[loss]
        self.network = Network(spec.n_inputs, hidden, spec.n_outputs, order, bias, members)

    @torch.no_grad()
    def initialise(self, data: FrequencyDataModule) -> None:
        """Scale of the inputs, of unit mean square: whitened components are divided by their standard deviation, and
        the length of a column of the basis is 1 over it. Gene sets that do not fit the genes are refused here, before
        training."""
        if self.gene_sets is not None:
            self.matched_sets()
        if data.basis.matrix is not None:
            scale = np.linalg.norm(data.basis.matrix, axis=0) ** -self.input_power
            self.network.scale.copy_(torch.from_numpy(scale / np.sqrt(np.mean(scale**2))))

    def matched_sets(self) -> GeneSets:
        """The gene sets over the genes of the cells. Raises UserError where none of them fits."""
        path = locate(self.gene_sets, "model.gene_sets", "*.gmt*")
        try:
            return match_sets(read_gmt(path), self.spec.genes, self.fold_case)
        except UnmatchedSets as error:
            raise UserError(f"model.gene_sets={path}: {error}") from error

    def loss(self, batch: Frequencies) -> dict[str, Tensor]:
        """Mean over cells, outputs and members; on validation cells, of the mean of the members."""
        x, y = batch
        if not self.training:
            return {"loss": self.distance(self.network(x), y)}
        said = self.network.by_member(x)
        n_members = self.network.n_members
        if self.classifies:
            return {"loss": self.distance(said.flatten(0, 1), y.repeat(n_members))}
        return {"loss": self.distance(said, y.expand(n_members, -1, -1))}

    @torch.no_grad()
    def predict(self, x: np.ndarray) -> np.ndarray:
        """Frequencies, or logits of the classes: N × D → N × F."""
        rows = torch.from_numpy(np.asarray(x, np.float32))
        return torch.cat([self.network(part.to(self.device)).cpu() for part in rows.split(4096)]).numpy()

    def held_out(self, data: FrequencyDataModule, part: str) -> np.ndarray:
        """R² of every frequency over the cells of a part, about their mean; of classes, the share of right answers."""
        rows = data.rows[part]
        said, true = self.predict(data.inputs[rows]), data.targets[rows]
        if self.classifies:
            return np.atleast_1d(np.mean(said.argmax(1) == true))
        varied = np.square(true - true.mean(0)).sum(0)
        left = np.square(true - said).sum(0)
        return 1 - left / np.where(varied > 0, varied, np.nan)

    def validation_scores(self) -> dict[str, float]:
        """Mean R² over the frequencies; the accuracy of a classifier, under the same name."""
        value = float(np.nanmean(self.held_out(self.trainer.datamodule, "validation")))
        return {"r2": value, "score": value}

    def unknown_targets(self, condition: str) -> list[str]:
        """None: a cell is all that it needs."""
        return []
