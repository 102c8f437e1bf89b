"""Cells of three clusters in a row whose network is known, in a file, with its prior network and its true pairs.

A cell of B was y = 0.8 (x − μ_A) + (x − μ_A) W + μ_B + noise, x a cell of A that is in the file too; C comes from B in
the same way. Rows of W regulate columns. Six regulators stand in the mask; G00 → G03 is strong and goes one way alone.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import NamedTuple

import anndata as ad
import numpy as np
import pandas as pd
import torch
from conftest import write_h5ad

from stormcell.analysis.couplings import Sinkhorn
from stormcell.config import DataConfig, GeneSelection
from stormcell.data.cluster_mapping import ClusterMappingDataModule
from stormcell.data.prior import FilePrior
from stormcell.data.split_clusters import held_out_in_clusters
from stormcell.models.transition import Transition

GENES = [f"G{i:02}" for i in range(12)]
EDGES = {  # of the mask, with the true weight: the others are decoys
    ("G00", "G03"): 1.5, ("G01", "G04"): -1.0, ("G02", "G05"): 0.8, ("G03", "G06"): 0.7, ("G00", "G07"): -0.6,
    ("G03", "G00"): 0.0, ("G01", "G03"): 0.0, ("G02", "G04"): 0.0, ("G04", "G07"): 0.0, ("G05", "G08"): 0.0,
    ("G01", "G08"): 0.9, ("G02", "G06"): 0.0,
}  # fmt: skip
SPLIT = partial(held_out_in_clusters, test_cells=0.25, validation=0.1)


class World(NamedTuple):
    """One folder of files."""

    path: Path  # cells.h5ad
    prior: Path  # prior.csv
    plan: Path  # plan.csv, the true pairs of A and B
    network: np.ndarray  # G × G, in the order of GENES


def world(folder: Path, n: int = 160, noise: float = 0.3, seed: int = 0, **columns) -> World:
    """Writes the files; `columns` are further columns of obs."""
    rng = np.random.default_rng(seed)
    network = np.zeros((len(GENES), len(GENES)))
    for (regulator, target), weight in EDGES.items():
        network[GENES.index(regulator), GENES.index(target)] = weight
    sides, x = [], rng.normal(size=(n, len(GENES)))
    for _ in "ABC":
        mean = rng.normal(size=len(GENES))
        sides.append(x + mean)
        x = 0.8 * x + x @ network + noise * rng.normal(size=x.shape)
        x /= x.std(0)
    names = np.array([f"cell{i:04}" for i in rng.permutation(3 * n)])
    time = np.repeat([0.0, 1.0, 2.0], n) + rng.random(3 * n)
    obs = pd.DataFrame({"cluster": np.repeat(list("ABC"), n), "pseudotime": time, **columns}, index=names)
    path = write_h5ad(folder / "cells.h5ad", np.concatenate(sides), obs, GENES)
    edges = pd.DataFrame([{"source": r, "target": t} for r, t in EDGES])
    edges.to_csv(folder / "prior.csv", index=False)
    pd.DataFrame(np.eye(n), index=names[:n], columns=names[n : 2 * n]).to_csv(folder / "plan.csv")
    return World(path, folder / "prior.csv", folder / "plan.csv", network)


def module(made: World | Path, coupling=None, prior=None, seed=1, split=SPLIT, **keys) -> ClusterMappingDataModule:
    """The view of a file, set up; keys of the data config and of the view alike."""
    path = made.path if isinstance(made, World) else made
    view = {key: keys.pop(key) for key in ("smooth", "components", "batch_size") if key in keys}
    read = {
        "perturbation_key": None, "cluster_key": "cluster", "transitions": ["A>B"], "scale": "continuous",
        "genes": GeneSelection(top=None),
    }  # fmt: skip
    config = DataConfig(name="test", path=str(path), **{**read, **keys})
    prior = prior or FilePrior(str(Path(path).parent / "prior.csv"))
    data = ClusterMappingDataModule(config, split, seed, coupling=coupling or Sinkhorn(), prior=prior, **view)
    data.setup()
    return data


def fitted(data: ClusterMappingDataModule, steps: int = 0, lr: float = 0.02, **words) -> Transition:
    """The model after its closed form, or after so many steps down the gradient."""
    from pytorch_lightning import Trainer

    torch.manual_seed(0)
    words = {"bootstraps": 3, **words}
    scheduler = partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=steps) if steps else None
    model = Transition(data.spec, partial(torch.optim.Adam, lr=lr), scheduler, **words)
    model.initialise(data)
    if steps:
        quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
        trainer = Trainer(
            max_steps=steps, accelerator="cpu", limit_val_batches=0, use_distributed_sampler=False, **quiet
        )
        trainer.fit(model, datamodule=data)
    return model.eval()


def edge(model: Transition, regulator: str, target: str, t: int = 0) -> float:
    """The weight of one edge of the mask."""
    mask, genes = model.mask, model.spec.genes
    here = (mask.regulator == genes.index(regulator)) & (mask.target == genes.index(target))
    assert here.sum() == 1
    return float(model.weights(t)[here][0])


def rewritten(made, folder, change):
    """The file after `change(adata)`, with the prior beside it."""
    cells = ad.read_h5ad(made.path)
    cells = change(cells) or cells
    cells.write_h5ad(folder / "cells.h5ad")
    (folder / "prior.csv").write_bytes(made.prior.read_bytes())
    return folder / "cells.h5ad"


def counts(folder, change=None, n=240, genes=30):
    """Counts of two clusters with a programme; `change(values, names)` before they are written."""
    rng = np.random.default_rng(0)
    rate = np.exp(rng.normal(0.5, 0.7, genes) + rng.normal(size=(n, 1)) * rng.normal(0, 0.4, genes))
    values = rng.poisson(rate).astype(float) + 1
    names = np.array([f"cell{i:04}" for i in rng.permutation(n)])
    if change is not None:
        change(values, names)
    names_of_genes = [f"G{i:02}" for i in range(genes)]
    obs = pd.DataFrame({"cluster": np.where(np.arange(n) % 2, "A", "B")}, index=names)
    pd.DataFrame([{"source": r, "target": t} for r, t in EDGES]).to_csv(folder / "prior.csv", index=False)
    return write_h5ad(folder / "cells.h5ad", values, obs, names_of_genes)
