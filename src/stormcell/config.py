"""The schema of the configuration, and the error that a user can read.

Nothing heavy is imported here: `train.py --help` passes through this file.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, field, is_dataclass, make_dataclass
from typing import Any, get_type_hints

from omegaconf import MISSING


class UserError(Exception):
    """A mistake in what the user gave: one sentence, shown without a traceback, exit status 2."""


def nearest(word: str, options: Iterable[str]) -> str:
    """` (did you mean 'x'?)` for the option most like `word`, or nothing when none is like it."""
    folded = {str(option).casefold(): str(option) for option in options}  # jak2 is JAK2
    close = difflib.get_close_matches(str(word).casefold(), list(folded), n=1, cutoff=0.5)
    return f" (did you mean {folded[close[0]]!r}?)" if close else ""


@dataclass
class QualityControl:
    """Cells and genes that are left out before anything else; null leaves the rule out."""

    min_counts: int | None = None  # counts per cell
    min_cells_per_gene: int | None = None
    max_mitochondrial_share: float | None = None  # of the counts of a cell, 0 to 1
    mitochondrial_prefix: str = "mt-"  # compared without case


@dataclass
class GeneSelection:
    """Highly variable genes, chosen on the training cells; `top` null keeps every gene."""

    top: int | None = 2000
    flavor: str = "seurat_v3"  # of scanpy; for log1p data `seurat`


@dataclass
class DataConfig:
    """Which cells. A key of an obs column may be a list of names: the first that the file has is taken."""

    name: str = MISSING
    source: str = "file"  # file · synthetic · catalog · scanpy
    dataset: str | None = None  # entry of the catalogue, or function of scanpy.datasets
    path: str | None = None  # an .h5ad file, in the working folder or in $STORMCELL_DATA
    perturbation_key: Any = "perturbation"
    control: Any = "control"  # label of the control cells, or a list of labels; the first names them all
    separator: Any = "+"
    perturbations: list[str] | None = None  # these and control only; null: all
    label_pattern: str | None = None  # regular expression whose first group is the target: guide labels, '(.+)g\\d+'
    batch_key: Any = None
    cell_type_key: Any = None
    cluster_key: Any = None
    pseudotime_key: Any = None
    transitions: list[str] | None = None  # between clusters, A>B; null: neighbours along the trajectory
    root: str | None = None  # cluster that transitions lead away from; null: pseudotime says
    phase_key: Any = None  # of the cell cycle; null: data.cell_cycle may score it
    cell_cycle: Any = "auto"  # true · false · auto: phases scored where a paired view asks and the genes are there
    covariate_keys: list[str] = field(default_factory=list)
    continuous_covariate_keys: list[str] = field(default_factory=list)  # numbers; z-scored on the training cells
    library_key: Any = None  # counts of a cell over all genes, where the file keeps only some
    layer: str | None = None  # null: layers['counts'] where it exists, else X
    scale: str = "counts"  # counts · log1p · continuous
    recover_counts: bool = False  # log1p values back to the integer counts, exactly or not at all
    filter: str | None = None  # boolean obs column: only these cells
    qc: QualityControl = field(default_factory=QualityControl)
    genes: GeneSelection = field(default_factory=GeneSelection)
    simulate: dict[str, Any] = field(default_factory=dict)  # arguments of data/simulate.py, or of _target_


@dataclass
class Config:
    """The top-level keys; anything else on the command line is refused."""

    data: DataConfig = field(default_factory=DataConfig)
    split: Any = MISSING
    targets: Any = MISSING
    coupling: Any = MISSING  # of the cells of two clusters (model=transition)
    prior: Any = MISSING  # network of the edges that may be (model=transition)
    datamodule: Any = MISSING
    model: Any = MISSING
    trainer: Any = MISSING
    callbacks: Any = MISSING
    logger: Any = None
    seed: int = 1
    ckpt: str | None = None  # last.ckpt of a run to go on with
    objective: str = "val/score"  # validation metric that stops, picks best.ckpt and goes back to a sweeper
    objective_mode: str = "max"  # min for val/loss and val/energy_distance
    embedding: str | None = None  # pca · umap: the picture; null: umap for latent spaces, else pca (20 s less)


def _unset(schema: type) -> type:
    """A schema of the same keys, all null."""
    keys = []
    for name, hint in get_type_hints(schema).items():
        nested = _unset(hint) if is_dataclass(hint) else None
        keys.append((name, nested, field(default_factory=nested)) if nested else (name, Any, field(default=None)))
    return make_dataclass(f"Unset{schema.__name__}", keys)


@dataclass
class EvaluateConfig:
    """The keys of evaluate.py: a checkpoint, or the predictions of any program with data= and split=."""

    ckpt: str | None = None
    predictions: str | None = None  # cells, mean profiles or mean shifts: .h5ad, .csv, .tsv
    kind: str | None = None  # of the predictions: cells · means · shifts
    scale: str | None = None  # of predicted cells: log1p · counts
    perturbation_key: str = "perturbation"  # obs column of the predictions
    separator: str | None = None  # between the targets in their labels; null: as in data.separator
    context_key: str | None = None  # obs column of the predictions: the covariate that the split tells apart
    library_key: str | None = None  # obs column of predicted counts
    data: Any = field(default_factory=_unset(DataConfig))  # beside ckpt: what is otherwise than in training
    split: Any = None
    targets: Any = None
    prior: Any = None  # which data=… may name; nothing here reads it
    seed: int = 1
    trust: bool = False  # instantiate a model class outside stormcell
    embedding: str | None = None  # pca · umap; null: as in training


def register() -> None:
    """Make the schemas known to Hydra."""
    from hydra.core.config_store import ConfigStore

    store = ConfigStore.instance()
    store.store("schema", Config)
    store.store("evaluate_schema", EvaluateConfig)
