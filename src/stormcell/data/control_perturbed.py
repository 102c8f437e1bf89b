"""Control and perturbed cells, each with its condition as a multi-hot of perturbed targets.

Shapes: N cells, G genes, C perturbed targets, D covariate columns, B cells in a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
import pytorch_lightning as pl
import torch
from scipy.sparse import csr_matrix
from torch import Tensor

from stormcell.config import DataConfig, UserError
from stormcell.data.cells import Cells, read
from stormcell.data.csr import DenseRows, row_normalise_log1p
from stormcell.data.fit import align_genes, fit_spec, select_genes
from stormcell.data.reference import Reference, fit_reference
from stormcell.data.spec import TARGET_SUM, Spec
from stormcell.data.split import PARTS, Split, judged_only
from stormcell.data.stream import Steps, cells_of_step
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


class ControlPerturbedDataModule(pl.LightningDataModule):
    """Reads cells, splits them, and serves batches of control and perturbed cells.

    Batches are a stream that does not depend on the number of processes (data/stream.py). With `paired` every cell
    comes with a training control of its own batch, drawn by (seed, step, cell).
    """

    def __init__(
        self, data: DataConfig, split: Callable[..., Split], seed: int = 1, batch_size: int = 256, paired: bool = False
    ) -> None:
        super().__init__()
        self.config, self.split_rule, self.seed = data, split, seed
        self.batch_size, self.paired = batch_size, paired
        self.cells: Cells | None = None

    def setup(self, stage: str | None = None) -> None:
        """Read, split, select genes and fit the Spec, once."""
        if self.cells is not None:
            return
        if self.batch_size < 1:
            raise UserError(f"datamodule.batch_size={self.batch_size}: at least one cell is needed")
        cells = _by_name(read(self.config))
        self.split = self.split_rule(cells, self.seed)
        train = self.split.mask("train")
        genes = select_genes(cells, train, self.config)
        cells = replace(cells, X=cells.X[:, genes].tocsr(), genes=[cells.genes[g] for g in genes])
        self._use(cells, fit_spec(cells, train, self.config))
        if len(self.rows["train"]) < self.batch_size:
            raise UserError(
                f"{cells.origin}: {len(self.rows['train'])} training cells are fewer than a batch of "
                f"datamodule.batch_size={self.batch_size}; lower it"
            )

    def setup_elsewhere(self, spec: Spec, controls_for_truth: float) -> None:
        """Another file than the one a model was trained on: every perturbed cell is a test cell.

        Genes are taken by name, in the order of the spec. Raises UserError when one is missing.
        """
        cells = align_genes(_by_name(read(self.config)), spec)
        if missing := [key for key in spec.covariates if key not in cells.obs]:
            raise UserError(
                f"{cells.origin}: the model was trained with the covariate {missing[0]!r}, which was not read; "
                "name it with data.cell_type_key or data.covariate_keys"
            )
        self.split = judged_only(cells, self.seed, spec.conditions, controls_for_truth)
        self._use(cells, spec)

    def _use(self, cells: Cells, spec: Spec) -> None:
        self.cells, self.spec = cells, spec
        obs, key = cells.obs, self.split.context_key
        self.expression = cells.X
        if spec.has_counts:
            shares = row_normalise_log1p(cells.X, obs["library"].to_numpy(), TARGET_SUM)
            self.expression = csr_matrix((shares, cells.X.indices, cells.X.indptr), cells.X.shape)
        self._dense = DenseRows(cells.X, [self.expression.data, *([cells.X.data] if spec.has_counts else [])])
        self._matched = DenseRows(self.expression)
        self.rows = {part: np.flatnonzero(self.split.mask(part)) for part in PARTS}
        self.context = obs[key].to_numpy(str) if key else np.full(len(cells), "all")
        labels, self._condition = np.unique(obs["condition"].to_numpy(str), return_inverse=True)
        self._hot = torch.from_numpy(spec.multi_hot(labels))
        self._covariates = torch.from_numpy(_one_hot(cells, spec))
        library = obs["library"].to_numpy(np.float32) if spec.has_counts else np.ones(len(cells), np.float32)
        self._library = torch.from_numpy(library[:, None])

    @cached_property
    def reference(self) -> Reference:
        """Shifts and principal components of the training cells."""
        train, condition = self.rows["train"], self.cells.obs["condition"].to_numpy(str)
        return fit_reference(self.expression[train], condition[train], self.context[train], self.cells.control)

    # ---- batches

    def batch(self, rows: np.ndarray, step: int = 0) -> PerturbedCells:
        """The cells of these rows. The expression tensors are written over by the fourth call after this one."""
        x, *counts = self._dense.layers(rows)
        return PerturbedCells(
            x=x,
            counts=counts[0] if counts else None,
            condition=self._hot[self._condition[rows]],
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

    def control_rows(self, context: str) -> np.ndarray:
        """Training controls behind a query's context: what a generated cell may start from."""
        mine = self.rows["train"]
        mine = mine[self.cells.obs["is_control"].to_numpy()[mine]]
        return mine if context == "all" else mine[self.context[mine] == context]

    def test_values(self, condition: str, context: str, column: str) -> np.ndarray:
        """Values of an obs column over the test cells of a query."""
        obs, rows = self.cells.obs, self.rows["test"]
        mine = (obs["condition"].to_numpy(str)[rows] == condition) & (self.context[rows] == context)
        return obs[column].to_numpy(str)[rows[mine]]

    def step_rows(self, step: int, rank: int = 0, world: int = 1) -> np.ndarray:
        """Rows of training batch `step` that this process computes: every world-th cell of the global batch."""
        train = self.rows["train"]
        return train[cells_of_step(step, len(train), self.batch_size, self.seed)[rank::world]]

    def train_batch(self, step: int, rank: int = 0, world: int = 1) -> PerturbedCells:
        """Training batch `step`, or the share of it that this process computes."""
        return self.batch(self.step_rows(step, rank, world), step)

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


def _by_name(cells: Cells) -> Cells:
    """Sorted by cell name, so that the order of the file plays no part in anything."""
    return cells.take(np.argsort(cells.obs.index.to_numpy(str), kind="stable"))


def _one_hot(cells: Cells, spec: Spec) -> np.ndarray:
    """N × D float32; a category that training has not seen is all zero."""
    blocks = [np.zeros((len(cells), 0), np.float32)]
    for key, categories in spec.covariates.items():
        blocks.append((cells.obs[key].to_numpy(str)[:, None] == np.array(categories)[None]).astype(np.float32))
    return np.concatenate(blocks, axis=1)
