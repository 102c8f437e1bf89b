"""Control and perturbed cells, each with its condition as a multi-hot of perturbed targets.

Shapes: N cells, G genes, C perturbed targets, D covariate columns, B cells in a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from stormcell.analysis.embedding import TargetEmbedding
from stormcell.config import DataConfig, UserError
from stormcell.data.cells import Cells
from stormcell.data.csr import DenseRows
from stormcell.data.screen import Screen
from stormcell.data.spec import Spec
from stormcell.data.split import Split
from stormcell.data.stream import Steps, cells_of_step
from stormcell.data.targets import multi_hot
from stormcell.nn.noise import keyed_uniform


class PerturbedCells(NamedTuple):
    """One batch of the control/perturbed view."""

    x: Tensor  # B × G  expression: log1p(counts / library · 1e4), or the log1p or continuous values of the file
    counts: Tensor | None  # B × G  where the data has counts
    condition: Tensor  # B × C  multi-hot of the perturbed targets; control is all zero
    covariates: Tensor  # B × D  one-hots of the covariates, side by side
    library: Tensor  # B × 1  counts of the cell over all genes, not over the G selected; 1 without counts
    index: Tensor  # B  number of the cell in the order of cell names: what its noise is keyed by
    control: Tensor | None = None  # B × G  expression of a training control matched to each cell, when paired


class ControlPerturbedDataModule(Screen):
    """Batches of control and perturbed cells of a screen.

    Batches are a stream that does not depend on the number of processes (data/stream.py). With `paired` every cell
    comes with a training control of its own batch, drawn by (seed, step, cell).
    """

    def __init__(
        self,
        data: DataConfig,
        split: Callable[..., Split],
        seed: int = 1,
        batch_size: int = 256,
        paired: bool = False,
        targets: Callable[..., TargetEmbedding] = multi_hot,
    ) -> None:
        super().__init__(data, split, seed, targets)
        self.batch_size, self.paired = batch_size, paired

    def setup(self, stage: str | None = None) -> None:
        if self.cells is not None:
            return
        if self.batch_size < 1:
            raise UserError(f"datamodule.batch_size={self.batch_size}: at least one cell is needed")
        super().setup(stage)
        if len(self.rows["train"]) < self.batch_size:
            raise UserError(
                f"{self.cells.origin}: {len(self.rows['train'])} training cells are fewer than a batch of "
                f"datamodule.batch_size={self.batch_size}; lower it"
            )

    def _use(self, cells: Cells, spec: Spec) -> None:
        super()._use(cells, spec)
        self._dense = DenseRows(cells.X, [self.expression.data, *([cells.X.data] if spec.has_counts else [])])
        self._matched = DenseRows(self.expression)
        labels, self._code = np.unique(self.condition, return_inverse=True)
        self._hot = torch.from_numpy(spec.multi_hot(labels))
        self._covariates = torch.from_numpy(_one_hot(cells, spec))
        library = cells.obs["library"].to_numpy(np.float32) if spec.has_counts else np.ones(len(cells), np.float32)
        self._library = torch.from_numpy(library[:, None])

    # ---- batches

    def batch(self, rows: np.ndarray, step: int = 0) -> PerturbedCells:
        """The cells of these rows. The expression tensors are written over by the fourth call after this one."""
        x, *counts = self._dense.layers(rows)
        return PerturbedCells(
            x=x,
            counts=counts[0] if counts else None,
            condition=self._hot[self._code[rows]],
            covariates=self._covariates[rows],
            library=self._library[rows],
            index=torch.from_numpy(rows),
            control=self._matched.rows(self.matched_controls(rows, step)) if self.paired else None,
        )

    def matched_controls(self, rows: np.ndarray, step: int) -> np.ndarray:
        """A training control of the same batch for each cell, keyed by (seed, step, cell): B → B row numbers."""
        chance = keyed_uniform(self.seed, step, torch.from_numpy(rows), 1, stream=7).numpy()[:, 0]
        pools, code = self._control_pools
        size = np.array([len(pool) for pool in pools])[code[rows]]
        place = np.minimum((chance * size).astype(int), size - 1)
        start = np.cumsum([0, *(len(pool) for pool in pools)])[code[rows]]
        return np.concatenate(pools)[start + place]

    @cached_property
    def _control_pools(self) -> tuple[list[np.ndarray], np.ndarray]:
        """Training controls of each batch (all of them where a batch has none), and the batch code of every cell."""
        obs = self.cells.obs
        batch = obs["batch"].to_numpy(str) if "batch" in obs else np.full(len(obs), "")
        names, code = np.unique(batch, return_inverse=True)
        controls = self.control_rows("all")
        pools = [controls[code[controls] == i] for i in range(len(names))]
        return [pool if len(pool) else controls for pool in pools], code

    def step_rows(self, step: int, rank: int = 0, world: int = 1) -> np.ndarray:
        """Rows of training batch `step` that this process computes: every world-th cell of the global batch."""
        train = self.rows["train"]
        return train[cells_of_step(step, len(train), self.batch_size, self.seed)[rank::world]]

    def train_batch(self, step: int, rank: int = 0, world: int = 1) -> PerturbedCells:
        """Training batch `step`, or the share of it that this process computes."""
        return self.batch(self.step_rows(step, rank, world), step)

    @property
    def cells_per_step(self) -> int:
        return self.batch_size

    @property
    def steps_per_epoch(self) -> int:
        return -(-len(self.rows["train"]) // self.batch_size)

    def train_dataloader(self) -> Steps:
        world = self.trainer.world_size
        if self.batch_size % world:
            raise UserError(f"datamodule.batch_size={self.batch_size} does not divide among {world} processes")
        return Steps(
            self.trainer, self.steps_per_epoch, lambda step, *who: self.batch(self.step_rows(step, *who), step)
        )

    def val_dataloader(self) -> Chunks:
        return self.chunks("validation", self.trainer.global_rank, self.trainer.world_size)

    def chunks(self, part: str, rank: int = 0, world: int = 1) -> Chunks:
        """The cells of a part in batches: every world-th of them, unpadded."""
        return Chunks(self, self.rows[part][rank::world])


class Chunks:
    """Batches of fixed rows in order; the last may be of any size."""

    def __init__(self, data: ControlPerturbedDataModule, rows: np.ndarray) -> None:
        self.data, self.rows = data, rows

    def __len__(self) -> int:
        return -(-len(self.rows) // self.data.batch_size)

    def __iter__(self) -> Iterator[PerturbedCells]:
        for start in range(0, len(self.rows), self.data.batch_size):
            yield self.data.batch(self.rows[start : start + self.data.batch_size])


def _one_hot(cells: Cells, spec: Spec) -> np.ndarray:
    """N × D float32; a category that training has not seen is all zero."""
    blocks = [np.zeros((len(cells), 0), np.float32)]
    for key, categories in spec.covariates.items():
        blocks.append((cells.obs[key].to_numpy(str)[:, None] == np.array(categories)[None]).astype(np.float32))
    return np.concatenate(blocks, axis=1)
