"""Small screens with planted effects, and small contrastive models on them, for the tests."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytorch_lightning as pl
import torch
from conftest import write_h5ad

from stormcell.config import DataConfig, GeneSelection
from stormcell.data import split as splits
from stormcell.data.control_perturbed import ControlPerturbedDataModule, PerturbedCells
from stormcell.models.contrastive import Contrastive

ADAM = partial(torch.optim.AdamW, lr=3e-3)
CELLS = partial(splits.held_out_cells, min_cells=1, controls_for_truth=0.25)
SMALL = {"n_background": 4, "n_salient": 3, "hidden": (16, 12)}


def counts_of(labels: np.ndarray, batch: np.ndarray, n_genes: int, seed: int) -> np.ndarray:
    """Negative binomial counts, N × G: every perturbation moves a quarter of the genes, every batch all a little."""
    rng = np.random.default_rng(seed)
    rate = rng.normal(0.3, 0.8, n_genes) + 0.2 * rng.normal(size=(9, n_genes))[np.unique(batch, return_inverse=True)[1]]
    for name in np.unique(labels):
        moved = rng.normal(0, 1.2, n_genes) * (rng.random(n_genes) < 0.25)
        rate[labels == name] += moved if name != "control" else 0
    depth = rng.lognormal(0, 0.3, (len(labels), 1))
    return rng.negative_binomial(3, 3 / (3 + np.exp(rate) * depth)).astype(float)


def screen(path: Path, n_control=120, n_perturbed=(90, 60, 30), n_genes=40, seed=3, batches=("b1", "b2", "b3")) -> Path:
    """Perturbations A, B, …; total_counts holds a quarter more than the genes of the file."""
    sizes = [n_control, *n_perturbed]
    labels = np.repeat(["control", *"ABCDEFGH"[: len(n_perturbed)]], sizes)
    rng = np.random.default_rng(seed)
    batch = np.resize(batches, len(labels))
    counts = counts_of(labels, batch, n_genes, seed)
    counts[:, 0] += 1
    obs = pd.DataFrame(
        {
            "perturbation": labels,
            "batch": batch,
            "line": rng.choice(["K562", "THP1"], len(labels)),
            "dose": rng.normal(5, 2, len(labels)).round(3),
            "total_counts": np.ceil(counts.sum(1) * rng.uniform(1.15, 1.35, len(labels))),
        },
        index=[f"cell{i:05}" for i in rng.permutation(len(labels))],
    )
    return write_h5ad(path, counts, obs)


def module(path, batch_size=32, split=CELLS, **keys) -> ControlPerturbedDataModule:
    given = {"genes": GeneSelection(None), "batch_key": "batch", "library_key": "total_counts", **keys}
    data = ControlPerturbedDataModule(DataConfig("screen", path=str(path), **given), split, 1, batch_size, paired=True)
    data.setup()
    return data


def begun(data, seed=7, **arguments) -> Contrastive:
    """A small model as training begins with it."""
    torch.manual_seed(seed)
    model = Contrastive(data.spec, arguments.pop("optimizer", ADAM), seed=seed, **{**SMALL, **arguments})
    model.initialise(data)
    return model


def shaken(data, seed=0, **arguments) -> Contrastive:
    """In evaluation mode, with every weight away from its start: nothing is zero by accident."""
    model = begun(data, **arguments)
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model.eval()


def cells(data, rows) -> PerturbedCells:
    """A batch whose tensors are its own, not those of the ring of buffers."""
    return PerturbedCells(*(value.clone() for value in data.batch(np.asarray(rows))))


def some(data, step=0) -> PerturbedCells:
    return cells(data, data.step_rows(step))


def part_of(batch: PerturbedCells, where) -> PerturbedCells:
    return PerturbedCells(*(value[where] for value in batch))


def in_training(monkeypatch, model: Contrastive, step: int) -> Contrastive:
    monkeypatch.setattr(Contrastive, "global_step", property(lambda self: step))
    return model.train()


def gradients(value: torch.Tensor, model: Contrastive) -> dict[str, torch.Tensor]:
    """Of a loss in every parameter, zero where it has none."""
    names, parameters = zip(*((name, p) for name, p in model.named_parameters() if p.requires_grad), strict=True)
    found = torch.autograd.grad(value, parameters, allow_unused=True)
    return {name: torch.zeros_like(p) if g is None else g for name, p, g in zip(names, parameters, found, strict=True)}


def fit(model: Contrastive, data, steps: int, **options) -> pl.Trainer:
    """Training on the CPU without a file; without validation, unless it is asked for."""
    given = {"limit_val_batches": 0, "logger": False, "enable_checkpointing": False, **options}
    trainer = pl.Trainer(
        accelerator="cpu", max_steps=steps, use_distributed_sampler=False, num_sanity_val_steps=0,
        log_every_n_steps=1, enable_progress_bar=False, enable_model_summary=False, **given,
    )  # fmt: skip
    trainer.fit(model, datamodule=data)
    return trainer
