"""Control and perturbed cells, each with its condition as a multi-hot of perturbed targets.

Paired batches are half controls, half perturbed cells, from two streams of their own: a contrastive model sees as many
of either in every step, whatever their share of the file, and no cell is dropped for it.

Shapes: N cells, G genes, C perturbed targets, D covariate columns, S batches (of the experiment), B cells in a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from stormcell.analysis.embedding import TargetEmbedding
from stormcell.config import DataConfig, UserError
from stormcell.data.cells import Cells
from stormcell.data.csr import DenseRows
from stormcell.data.fit import refuse_unseen
from stormcell.data.screen import Screen
from stormcell.data.spec import Spec
from stormcell.data.split import Split
from stormcell.data.stream import Steps, cells_of_step, seed_of
from stormcell.data.targets import multi_hot


class PerturbedCells(NamedTuple):
    """One batch of the control/perturbed view."""

    x: Tensor  # B × G  expression: log1p(counts / library · 1e4), or the log1p or continuous values of the file
    counts: Tensor | None  # B × G  where the data has counts
    condition: Tensor  # B × C  multi-hot of the perturbed targets; control is all zero
    covariates: Tensor  # B × D  one-hots of the categorical covariates, then the continuous ones as z-scores
    library: Tensor  # B × 1  counts of the cell over all genes, not over the G selected; 1 without counts
    index: Tensor  # B  number of the cell in the order of cell names: what its noise is keyed by
    batch: Tensor  # B × S  one-hot of the batch; no column where training has seen one batch


class ControlPerturbedDataModule(Screen):
    """Batches of control and perturbed cells of a screen.

    Batches are a stream that does not depend on the number of processes (data/stream.py). With `paired` a batch holds
    B/2 controls first, then B/2 perturbed cells, of two streams: each comes round at its own pace.
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

    @property
    def asks_phase(self) -> bool:
        return self.paired

    def setup(self, stage: str | None = None) -> None:
        if self.cells is not None:
            return
        if self.batch_size < 1:
            raise UserError(f"datamodule.batch_size={self.batch_size}: at least one cell is needed")
        if self.paired and self.batch_size % 2:
            raise UserError(
                f"datamodule.batch_size={self.batch_size} is odd, but datamodule.paired=true takes half of it from the "
                f"controls; take {self.batch_size + 1}"
            )
        super().setup(stage)
        if len(self.rows["train"]) < self.batch_size:
            raise UserError(
                f"{self.cells.origin}: {len(self.rows['train'])} training cells are fewer than a batch of "
                f"datamodule.batch_size={self.batch_size}; lower it"
            )
        if self.paired and not all(len(rows) for rows, *_ in self.streams):
            raise UserError(
                f"{self.cells.origin}: datamodule.paired=true needs control and perturbed cells in training, but the "
                f"split leaves {len(self.streams[0][0])} and {len(self.streams[1][0])}; see split.* in --cfg job"
            )

    def setup_elsewhere(self, spec: Spec, controls_for_truth: float) -> None:
        super().setup_elsewhere(spec, controls_for_truth)
        if self.paired and spec.batches:
            refuse_unseen(self.cells, "batch", spec.batches, "data.batch_key")

    def _use(self, cells: Cells, spec: Spec) -> None:
        super()._use(cells, spec)
        self._dense = DenseRows(cells.X, [self.expression.data, *([cells.X.data] if spec.has_counts else [])])
        labels, self._code = np.unique(self.condition, return_inverse=True)
        self._hot = torch.from_numpy(spec.multi_hot(labels))
        self._covariates = torch.from_numpy(_covariates(cells, spec))
        # Rows to look up, not one for every cell: screens have hundreds of batches. The last is of an unseen batch.
        self._batch_hot = torch.eye(spec.n_batches + 1)[:, :-1]
        names = cells.obs["batch"] if "batch" in cells.obs else np.full(len(cells), "")
        self._batch_code = pd.Index(spec.batches).get_indexer(names) % (spec.n_batches + 1)
        library = cells.obs["library"].to_numpy(np.float32) if spec.has_counts else np.ones(len(cells), np.float32)
        self._library = torch.from_numpy(library[:, None])

    # ---- batches

    def batch(self, rows: np.ndarray) -> PerturbedCells:
        """The cells of these rows. The expression tensors are written over by the fourth call after this one."""
        x, *counts = self._dense.layers(rows)
        return PerturbedCells(
            x=x,
            counts=counts[0] if counts else None,
            condition=self._hot[self._code[rows]],
            covariates=self._covariates[rows],
            library=self._library[rows],
            index=torch.from_numpy(rows),
            batch=self._batch_hot[self._batch_code[rows]],
        )

    @cached_property
    def streams(self) -> list[tuple[np.ndarray, int, int]]:
        """Rows, cells in a batch and seed of each index stream: the training cells, or controls and perturbed apart."""
        train = self.rows["train"]
        if not self.paired:
            return [(train, self.batch_size, self.seed)]
        control = self.cells.obs["is_control"].to_numpy()[train]
        half = self.batch_size // 2
        return [
            (train[control], half, seed_of("control", self.seed)),
            (train[~control], half, seed_of("perturbed", self.seed)),
        ]

    def step_rows(self, step: int, rank: int = 0, world: int = 1) -> np.ndarray:
        """Rows of training batch `step` that this process computes: every world-th cell of each stream's share."""
        shares = (rows[cells_of_step(step, len(rows), size, seed)] for rows, size, seed in self.streams)
        return np.concatenate([share[rank::world] for share in shares])

    def train_batch(self, step: int, rank: int = 0, world: int = 1) -> PerturbedCells:
        """Training batch `step`, or the share of it that this process computes."""
        return self.batch(self.step_rows(step, rank, world))

    @property
    def cells_per_step(self) -> int:
        return self.batch_size

    @property
    def steps_per_epoch(self) -> int:
        """One pass of the longest stream."""
        return max(-(-len(rows) // size) for rows, size, _ in self.streams)

    def train_dataloader(self) -> Steps:
        world = self.trainer.world_size
        if any(size % world for _, size, _ in self.streams):
            of = " of half controls, half perturbed cells" if self.paired else ""
            raise UserError(f"datamodule.batch_size={self.batch_size}{of} does not divide among {world} processes")
        return Steps(self.trainer, self.steps_per_epoch, self.train_batch)

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


def _covariates(cells: Cells, spec: Spec) -> np.ndarray:
    """N × D float32; a category that training has not seen is all zero."""
    blocks = [np.zeros((len(cells), 0), np.float32)]
    for key, categories in spec.covariates.items():
        blocks.append((cells.obs[key].to_numpy(str)[:, None] == np.array(categories)[None]).astype(np.float32))
    for key, (mean, sd) in spec.continuous.items():
        blocks.append(((cells.obs[key].to_numpy(float)[:, None] - mean) / sd).astype(np.float32))
    return np.concatenate(blocks, axis=1)
