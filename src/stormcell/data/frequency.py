"""Cells with the low frequencies of their graph as targets, or with classes.

Inductive by default: genes, mean and standard deviation, principal components, graph and spectrum come from the
training cells; validation and test cells are extended into it (Nyström). `transductive`: the graph, its coordinates and
the spectrum are of all cells, as in the source; genes and inputs are still those of the training cells.

Shapes: N cells, n training cells, G genes, D inputs, F frequencies, K coordinates of the graph, B cells in a batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytorch_lightning as pl
import torch
from scipy.sparse import csr_matrix
from torch import Tensor

from stormcell.config import DataConfig, UserError, nearest
from stormcell.data.cells import Cells, read
from stormcell.data.control_perturbed import Chunks
from stormcell.data.expression import log_expression
from stormcell.data.fit import select_genes
from stormcell.data.frequency_graph import COLUMNS, CellGraph, told
from stormcell.data.frequency_inputs import (
    InputBasis,
    gene_moments,
    principal_components,
    twins,
    varying,
)
from stormcell.data.frequency_spec import FrequencySpec
from stormcell.data.split import Split
from stormcell.data.split_clusters import NO_CLUSTER
from stormcell.data.stream import Steps, cells_of_step

PARTS = ("train", "validation", "test")
WORDS = {
    "metric": ("euclidean", "cosine"),
    "laplacian": ("normalised", "unnormalised"),
    "inputs": ("genes", "components"),
    "classes": ("cell_type", "cluster"),
}


class Frequencies(NamedTuple):
    """One batch."""

    x: Tensor  # B × D  standardised genes, or whitened principal components
    y: Tensor  # B × F  frequencies; of a classification B int64


class FrequencyDataModule(pl.LightningDataModule):
    """Expression of cells and the frequencies of their graph.

    Parameters
    ----------
    graph_components
        Principal components of the standardised genes in which neighbours are found; null: the genes themselves.
    transductive
        All cells are in the graph. The targets of test cells are then made with test cells: figures flatter.
    inputs
        `genes`, or `components`: `input_components` whitened principal components of the training cells.
    classes
        The labels, `cell_type` or `cluster`, that are predicted in place of frequencies; no graph is made.
    """

    def __init__(
        self,
        data: DataConfig,
        split: Callable[..., Split],
        seed: int = 1,
        targets: object = None,
        neighbours: int = 15,
        metric: str = "euclidean",
        graph_components: int | None = 50,
        laplacian: str = "normalised",
        n_frequencies: int = 10,
        transductive: bool = False,
        inputs: str = "genes",
        input_components: int = 50,
        classes: str | None = None,
        batch_size: int = 128,
    ) -> None:
        super().__init__()
        numbers = {
            "neighbours": neighbours, "n_frequencies": n_frequencies, "graph_components": graph_components,
            "input_components": input_components, "batch_size": batch_size,
        }  # fmt: skip
        for key, value in numbers.items():
            if value is not None and value < 1:
                raise UserError(f"datamodule.{key}={value}: a whole number of at least 1")
        for key, word in {"metric": metric, "laplacian": laplacian, "inputs": inputs, "classes": classes}.items():
            if word not in WORDS[key] and not (key == "classes" and word is None):
                raise UserError(f"datamodule.{key}={word}: {' or '.join(WORDS[key])}{nearest(str(word), WORDS[key])}")
        self.config, self.split_rule, self.seed = data, split, seed
        self.k, self.metric, self.graph_components = neighbours, metric, graph_components
        self.normalised, self.n_frequencies = laplacian == "normalised", n_frequencies
        self.transductive, self.inputs_kind, self.input_components = transductive, inputs, input_components
        self.classes, self.batch_size = classes, batch_size
        self.cells: Cells | None = None

    # ---- reading

    def setup(self, stage: str | None = None) -> None:
        if self.cells is not None:
            return
        cells = read(self.config)
        cells = cells.take(np.argsort(cells.obs.index.to_numpy(str), kind="stable"))
        self.split = self.split_rule(cells, self.seed)
        self.rows = {part: np.flatnonzero(self.split.mask(part)) for part in PARTS}
        self.cell_type, self.cluster = (_column(cells, name) for name in ("cell_type", "cluster"))
        genes = select_genes(cells, self.split.mask("train"), self.config)
        cells = replace(cells, X=cells.X[:, genes].tocsr(), genes=[cells.genes[g] for g in genes])
        cells, mean, sd = self._varying(cells)
        cells.notes += twins(self.expression, self.rows)
        self.basis = InputBasis(mean, sd, self._input_matrix(cells, mean, sd))
        self.inputs = self.standardised if self.basis.matrix is None else self.basis.inputs(self.expression)
        self.points, self.spectrum, self.extension = None, None, pd.DataFrame(columns=COLUMNS)
        if self.classes:
            outputs, eigenvalues = self._labels(cells), ()
        else:
            outputs, eigenvalues = self._frequencies(cells, mean, sd)
        self.condition = self.cluster if self.cell_type is None else self.cell_type  # counted in the notes of a run
        if self.condition is None:
            self.condition = np.full(len(cells), "cell")
        self.spec = FrequencySpec(
            genes=tuple(cells.genes),
            scale=cells.scale,
            task="classification" if self.classes else "regression",
            outputs=outputs,
            eigenvalues=eigenvalues,
            inputs=self.inputs_kind,
            n_inputs=self.inputs.shape[1],
        )
        self.cells = cells  # last: a setup that failed is not one that was done

    def setup_elsewhere(self, spec: FrequencySpec, controls_for_truth: float) -> None:
        raise UserError(
            f"{read(self.config).origin}: frequencies belong to the graph of the training cells, so a model of them is "
            "judged on held-out cells of its own file; train on this one with python train.py model=bilinear "
            "data.path=…"
        )

    def _varying(self, cells: Cells) -> tuple[Cells, np.ndarray, np.ndarray]:
        """The genes that vary over the training cells, with their mean and standard deviation there."""
        self.expression = log_expression(cells)
        mean, sd = gene_moments(self.expression[self.rows["train"]])
        keep = varying(mean, sd)
        if keep.sum() < 2:
            raise UserError(
                f"{cells.origin}: {int(keep.sum())} genes vary over the training cells; frequencies need two at least"
            )
        if keep.all():
            return cells, mean, sd
        cells.notes.append(f"{int((~keep).sum())} genes that are constant over the training cells dropped")
        self.expression = self.expression[:, keep].tocsr()
        genes = [cells.genes[g] for g in np.flatnonzero(keep)]
        return replace(cells, X=cells.X[:, keep].tocsr(), genes=genes), mean[keep], sd[keep]

    def _input_matrix(self, cells: Cells, mean: np.ndarray, sd: np.ndarray) -> np.ndarray | None:
        if self.inputs_kind == "genes":
            return None
        train = self.expression[self.rows["train"]]
        matrix = principal_components(train, mean, sd, self.input_components, white=True)
        if matrix.shape[1] < self.input_components:
            cells.notes.append(
                f"{matrix.shape[1]} input components, not {self.input_components}: the training cells have no more"
            )
        return matrix

    # ---- targets

    def _frequencies(self, cells: Cells, mean: np.ndarray, sd: np.ndarray) -> tuple[tuple[str, ...], tuple[float, ...]]:
        """The spectrum of the graph and every cell's targets; names and eigenvalues of the outputs."""
        rule = CellGraph(self.k, self.metric, self.normalised, self.n_frequencies, self.seed, cells.origin)
        train = np.arange(len(cells)) if self.transductive else self.rows["train"]
        if self.transductive:
            mean, sd = gene_moments(self.expression)
        self.points = self._points(self.expression[train], mean, sd)
        self.spectrum = rule.spectrum(self.points[train])
        self.targets = np.empty((len(cells), self.n_frequencies), np.float32)
        self.targets[train] = self.spectrum.frequencies
        if self.transductive:
            cells.notes.append(
                "transductive: validation and test cells are in the graph, so their targets are made with their own "
                "neighbours; the inductive protocol is datamodule.transductive=false"
            )
        else:
            others = np.setdiff1d(np.arange(len(cells)), train)
            self.targets[others] = rule.extended(self.spectrum, self.points[train], self.points[others])
            try:
                self.extension = rule.accuracy(self.spectrum, self.points[train])
            except ValueError as error:
                cells.notes.append(f"the extension could not be checked on a tenth of the training cells: {error}")
        cells.notes += told(self.spectrum, self.extension, len(train))
        # Six digits: a checkpoint finds its cells again on a machine that sums in another order.
        eigenvalues = tuple(float(f"{value:.6g}") for value in self.spectrum.values)
        return tuple(f"frequency {i + 1}" for i in range(self.n_frequencies)), eigenvalues

    def _points(self, fitting: csr_matrix, mean: np.ndarray, sd: np.ndarray) -> np.ndarray:
        """Coordinates of all cells in the graph, of the cells that it is fitted on: N × K float32."""
        if self.graph_components is None:
            return InputBasis(mean, sd).standardised(self.expression)
        directions = principal_components(fitting, mean, sd, self.graph_components, white=False)
        return InputBasis(mean, sd, directions).inputs(self.expression)

    def _labels(self, cells: Cells) -> tuple[str, ...]:
        """Targets as class numbers, −1 without a class; the names of the classes, those of training cells."""
        labels = getattr(self, self.classes)
        if labels is None:
            raise UserError(
                f"{cells.origin}: datamodule.classes={self.classes}, but data.{self.classes}_key is null; columns "
                f"read: {', '.join(cells.obs.columns)}"
            )
        names = sorted(set(labels[self.rows["train"]].tolist()) - set(NO_CLUSTER))
        if len(names) < 2:
            raise UserError(
                f"{cells.origin}: datamodule.classes={self.classes} has {len(names)} class among the training cells; "
                "two are the fewest"
            )
        self.targets = pd.Index(names).get_indexer(labels).astype(np.int64)
        used = np.concatenate(list(self.rows.values()))
        if without := int((self.targets[used] < 0).sum()):
            cells.notes.append(f"{without} cells left out: no {self.classes}, or one that no training cell has")
        self.rows = {part: rows[self.targets[rows] >= 0] for part, rows in self.rows.items()}
        return tuple(names)

    @cached_property
    def standardised(self) -> np.ndarray:
        """Expression by mean and standard deviation of the training cells: N × G float32, made when asked for."""
        return self.basis.standardised(self.expression)

    # ---- batches

    def batch(self, rows: np.ndarray) -> Frequencies:
        x, y = self._tensors
        index = torch.from_numpy(rows)
        return Frequencies(x.index_select(0, index), y.index_select(0, index))

    @cached_property
    def _tensors(self) -> tuple[Tensor, Tensor]:
        return torch.from_numpy(self.inputs), torch.from_numpy(self.targets)

    def train_batch(self, step: int, rank: int = 0, world: int = 1) -> Frequencies:
        """Training batch `step`, or the share of it that this process computes."""
        train = self.rows["train"]
        return self.batch(train[cells_of_step(step, len(train), self.batch_size, self.seed)[rank::world]])

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
        return Steps(self.trainer, self.steps_per_epoch, self.train_batch)

    def val_dataloader(self) -> Chunks:
        return Chunks(self, self.rows["validation"][self.trainer.global_rank :: self.trainer.world_size])


def _column(cells: Cells, name: str) -> np.ndarray | None:
    """Labels of the cells, "" where one is missing; None without the column."""
    if name not in cells.obs:
        return None
    labels = cells.obs[name].to_numpy(str)
    return np.where(np.isin(labels, NO_CLUSTER), "", labels)
