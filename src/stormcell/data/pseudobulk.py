"""Pseudobulk of a screen: one mean shift for each perturbation (and covariate), with the vector of the perturbation.

shift = mean of the perturbed training cells − mean of the training controls of the same context

Shapes: R rows (conditions, and control), G genes, D columns of the embedding of targets, B rows in a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from stormcell.analysis.embedding import TargetEmbedding
from stormcell.analysis.pseudobulk import Pseudobulk
from stormcell.config import DataConfig, UserError, nearest
from stormcell.data.reference import pseudobulk
from stormcell.data.screen import Screen
from stormcell.data.split import Split
from stormcell.data.stream import Steps, cells_of_step
from stormcell.data.targets import multi_hot


class Shifts(NamedTuple):
    """One batch of the pseudobulk view."""

    shift: Tensor  # B × G  mean of the perturbed cells minus mean of the controls, log1p-normalised; control is zero
    vector: Tensor  # B × D  of the perturbation: the sum of its targets' vectors; control is zero
    weight: Tensor  # B  1, or cells of the row over the mean number of cells


class PseudobulkDataModule(Screen):
    """Mean shifts of the conditions of a screen.

    `per`: an obs column (cell_type, batch, a covariate) within which conditions and their controls are averaged; each
    value then gives rows of its own. null takes what the split tells apart. `weighted`: rows count as their cells.
    """

    def __init__(
        self,
        data: DataConfig,
        split: Callable[..., Split],
        seed: int = 1,
        batch_size: int = 1024,
        per: str | None = None,
        weighted: bool = False,
        targets: Callable[..., TargetEmbedding] = multi_hot,
    ) -> None:
        super().__init__(data, split, seed, targets)
        self.batch_size, self.per, self.weighted = batch_size, per, weighted

    def setup(self, stage: str | None = None) -> None:
        if self.batch_size < 1:
            raise UserError(f"datamodule.batch_size={self.batch_size}: at least one condition is needed")
        super().setup(stage)
        columns = list(self.cells.obs.columns)
        if self.per is not None and self.per not in columns:
            raise UserError(
                f"{self.cells.origin}: no column {self.per!r} (datamodule.per){nearest(self.per, columns)}; columns "
                f"read: {', '.join(columns)}; name it with data.batch_key, data.cell_type_key or data.covariate_keys"
            )

    @cached_property
    def train(self) -> Pseudobulk:
        """Of the training cells."""
        if self.per is None:
            return self.reference.train
        return self._pseudobulk(self.rows["train"])

    def _pseudobulk(self, rows: np.ndarray) -> Pseudobulk:
        context = self.context if self.per is None else self.cells.obs[self.per].to_numpy(str)
        return pseudobulk(self.expression[rows], self.condition[rows], context[rows], self.cells.control)

    @cached_property
    def table(self) -> Shifts:
        """Every training row that has a vector, and the control as a condition without target and without shift."""
        train = self.train
        kept, perturbed = int(train.n_cells.sum()), ~self.cells.obs["is_control"].to_numpy()[self.rows["train"]]
        if kept < perturbed.sum():
            self.cells.notes.append(
                f"{perturbed.sum() - kept} perturbed training cells have no control cell in their "
                f"{self.per or 'context'} and take no part in the pseudobulk"
            )
        found = _table(train, self.embedding, self.weighted)
        if not len(found.shift):
            missing = sorted({t for c in train.conditions for t in self.embedding.missing(c)})
            raise UserError(
                f"{self.cells.origin}: no training perturbation has a vector in targets={self.embedding.kind} "
                f"(missing {', '.join(missing[:8])}{', …' if len(missing) > 8 else ''})"
            )
        blank = [torch.zeros(1, field.shape[1], dtype=field.dtype) for field in found[:2]]
        return Shifts(*(torch.cat(pair) for pair in zip(found, [*blank, torch.ones(1)], strict=True)))

    @cached_property
    def held_back(self) -> Pseudobulk:
        """Of the validation cells, their shifts against the training controls."""
        validation, controls = self.rows["validation"], self.control_rows("all")
        perturbed = validation[~self.cells.obs["is_control"].to_numpy()[validation]]
        return self._pseudobulk(np.concatenate([perturbed, controls]))

    @cached_property
    def validation(self) -> Shifts:
        """Every row of the validation cells that has a vector."""
        return _table(self.held_back, self.embedding, self.weighted)

    # ---- batches

    @property
    def cells_per_step(self) -> int:
        """Cells behind the rows of a batch, on average."""
        return round(len(self.rows["train"]) * min(1, self.batch_size / len(self.table.shift)))

    @property
    def steps_per_epoch(self) -> int:
        return -(-len(self.table.shift) // self.batch_size)

    def train_batch(self, step: int, rank: int = 0, world: int = 1) -> Shifts:
        """Training batch `step`, or the share of it that this process computes."""
        n = len(self.table.shift)
        rows = cells_of_step(step, n, min(n, self.batch_size), self.seed)[rank::world]
        return Shifts(*(field[rows] for field in self.table))

    def train_dataloader(self) -> Steps:
        return Steps(self.trainer, self.steps_per_epoch, self.train_batch)

    def val_dataloader(self) -> OneBatch:
        return OneBatch(self.validation)


class OneBatch:
    """A table as a single batch; none when it has no row."""

    def __init__(self, table: Shifts) -> None:
        self.table = table

    def __len__(self) -> int:
        return int(len(self.table.shift) > 0)

    def __iter__(self) -> Iterator[Shifts]:
        if len(self):
            yield self.table


def _table(found: Pseudobulk, embedding: TargetEmbedding, weighted: bool) -> Shifts:
    """The rows whose targets all have a vector."""
    vectors = embedding.of(found.conditions)
    known = np.isfinite(vectors).all(1)
    cells = np.asarray(found.n_cells, np.float64)[known]
    weight = cells / cells.mean() if weighted and known.any() else np.ones(len(cells))
    return Shifts(*(torch.from_numpy(np.asarray(x, np.float32)) for x in (found.shifts[known], vectors[known], weight)))
