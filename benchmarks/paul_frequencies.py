"""Frequencies of Paul's myeloid progenitors, transductive: the bilinear network beside ridge, k-NN and ReLU networks.

    STORMCELL_DATA=folder/of/the/files python benchmarks/paul_frequencies.py [--splits 1 2 3]

normalised   1,000 variable genes of log1p values, 50 components, 15 neighbours, normalised Laplacian, 10 frequencies
source       the source's protocol: all genes, scaled, cosine, 10 neighbours, unnormalised Laplacian, 5 frequencies
Mean R² over the frequencies of held-out cells, about their mean: "validation", which chose every setting and the epoch
of every network, and "test". Networks have 100 epochs of AdamW and squared error; "bilinear" and "trilinear" are means
of four members of 128 products, the ReLU networks have 128 units and the better of two learning
rates. The last lines say the median test R² of the splits, and which answer wins.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from functools import partial

import numpy as np
import pandas as pd
import torch

from stormcell.config import DataConfig, GeneSelection
from stormcell.data.frequency import FrequencyDataModule
from stormcell.data.split_random import held_out_at_random
from stormcell.evaluation.frequency_answers import nearest_mean, ridge
from stormcell.evaluation.frequency_network import Budget, Part, relu_network
from stormcell.models.bilinear import Bilinear

EPOCHS, RATE = 100, 3e-3
PROTOCOLS = {
    "normalised": ({"scale": "log1p", "layer": "X", "genes": GeneSelection(top=1000, flavor="seurat")}, {}),
    "source": (
        {"library_key": "total_counts", "genes": GeneSelection(top=None)},
        {
            "laplacian": "unnormalised", "metric": "cosine", "neighbours": 10, "graph_components": None,
            "n_frequencies": 5,
        },
    ),
}  # fmt: skip


def cells(protocol: str, split: int) -> FrequencyDataModule:
    reading, view = PROTOCOLS[protocol]
    config = DataConfig(
        name="paul15", path="paul2015_myeloid.h5ad", perturbation_key=None, cluster_key="cluster", **reading
    )
    data = FrequencyDataModule(config, held_out_at_random, split, transductive=True, inputs="components", **view)
    data.setup()
    return data


def trained(data: FrequencyDataModule, **words) -> Bilinear:
    """The model with its defaults but for these, at its best epoch on the validation cells."""
    torch.manual_seed(data.seed)
    model = Bilinear(data.spec, partial(torch.optim.AdamW, lr=RATE, weight_decay=1e-2, fused=True), **words)
    model.initialise(data)
    optimizer = model.configure_optimizers()["optimizer"]
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS * data.steps_per_epoch)
    best, kept = -np.inf, model.state_dict()
    for epoch in range(EPOCHS):
        for step in range(epoch * data.steps_per_epoch, (epoch + 1) * data.steps_per_epoch):
            optimizer.zero_grad()
            model.loss(data.train_batch(step))["loss"].backward()
            optimizer.step()
            schedule.step()
        score = float(np.nanmean(model.held_out(data, "validation")))
        if score > best:
            best, kept = score, {name: value.clone() for name, value in model.state_dict().items()}
    model.load_state_dict(kept)
    return model.eval()


def answers(data: FrequencyDataModule) -> Iterator[tuple[str, np.ndarray]]:
    """method, its frequencies of all cells: N × F."""
    rows = data.rows
    for name, x in (("genes", data.standardised), ("50 components", data.inputs)):
        train, validation = (Part(x[rows[part]], data.targets[rows[part]]) for part in ("train", "validation"))
        budget = Budget(steps=EPOCHS * data.steps_per_epoch, loss="mse", lr=RATE)
        yield f"ReLU network, {name}", relu_network(train, validation, x, budget, data.seed)
        if name == "genes":
            yield "ridge", ridge(train.x, train.y).predict(x)
    coordinates = data.inputs / np.linalg.norm(data.basis.matrix, axis=0)  # with their own variance
    yield "k-NN", nearest_mean(coordinates[rows["train"]], data.targets[rows["train"]], coordinates)
    yield "bilinear, one member, white", trained(data, input_power=0.0).predict(data.inputs)
    yield "bilinear, one member", trained(data).predict(data.inputs)
    yield "bilinear", trained(data, members=4).predict(data.inputs)
    yield "trilinear", trained(data, members=4, order=3).predict(data.inputs)


def r2(true: np.ndarray, said: np.ndarray) -> float:
    """Mean over frequencies."""
    return float(np.mean(1 - np.square(true - said).sum(0) / np.square(true - true.mean(0)).sum(0)))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--splits", type=int, nargs="+", default=[1, 2, 3])
    torch.set_num_threads(1)
    found = []
    for split in parser.parse_args().splits:
        for protocol in PROTOCOLS:
            data = cells(protocol, split)
            start = time.process_time()
            for method, said in answers(data):
                parts = {
                    part: r2(data.targets[rows], said[rows]) for part, rows in data.rows.items() if part != "train"
                }
                seconds, start = time.process_time() - start, time.process_time()
                found.append({"protocol": protocol, "split": split, "method": method, **parts, "CPU s": seconds})
                print(" ".join(f"{v:.3f}" if isinstance(v, float) else str(v) for v in found[-1].values()), flush=True)
    median = pd.DataFrame(found).drop(columns="split").groupby(["protocol", "method"], sort=False).median()
    print(median.round(3).to_string())
    for protocol, table in median.groupby(level=0, sort=False):
        test = table.droplevel(0)["test"]
        print(f"{protocol}: {test.idxmax()} wins with test R² {test.max():.3f}; bilinear {test['bilinear']:.3f}")


if __name__ == "__main__":
    main()
