"""The ReLU network that a model of frequencies or cell types is compared with, of its width and optimiser budget.

f(x) = W₂ relu(W₁ x + b₁) + b₂, AdamW, learning rate down to 0 along a cosine, from the model's rate and from a third of
it; of all epochs of both the one of smallest validation loss.

Shapes: N cells of a part, D inputs, F frequencies, C classes.
Source: Loshchilov & Hutter 2017, 2019 (cosine, decoupled weight decay).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from stormcell.analysis.masked_ridge import one_thread

LOSSES = {"l1": nn.L1Loss, "mse": nn.MSELoss, "huber": nn.HuberLoss}


class Part(NamedTuple):
    """Cells of training or validation."""

    x: np.ndarray  # N × D
    y: np.ndarray  # N × F, or N classes


@dataclass(frozen=True)
class Budget:
    """How the network of the comparison is trained: as the model is."""

    hidden: int = 128
    steps: int = 3000
    batch: int = 128
    lr: float = 1e-3
    weight_decay: float = 1e-2
    loss: str = "l1"


def relu_network(
    train: Part,
    validation: Part,
    test_x: np.ndarray,
    budget: Budget,
    seed: int,
    n_classes: int | None = None,
) -> np.ndarray:
    """Outputs of the epoch of smallest validation loss for the held-out cells: N × F float64, or logits N × C."""
    kind = torch.float32 if n_classes is None else torch.int64
    x, y = _tensor(train.x), torch.as_tensor(np.asarray(train.y), dtype=kind)
    seen, wanted = _tensor(validation.x), torch.as_tensor(np.asarray(validation.y), dtype=kind)
    criterion = nn.CrossEntropyLoss() if n_classes else LOSSES[budget.loss]()
    epochs, asked = max(1, round(budget.steps / -(-len(x) // budget.batch))), _tensor(test_x)
    best, kept = np.inf, torch.empty(0)
    for rate in (budget.lr, budget.lr / 3):
        # A parallel numba function before this leaves torch more threads than it was given: small steps wait for them.
        with one_thread(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = nn.Sequential(
                nn.Linear(x.shape[1], budget.hidden), nn.ReLU(), nn.Linear(budget.hidden, n_classes or y.shape[1])
            )
            optimizer = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=budget.weight_decay, fused=True)
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * -(-len(x) // budget.batch))
            for _ in range(epochs):
                for some in torch.randperm(len(x)).split(budget.batch):
                    optimizer.zero_grad()
                    criterion(network(x[some]), y[some]).backward()
                    optimizer.step()
                    schedule.step()
                with torch.no_grad():
                    loss = float(criterion(network(seen), wanted))
                    if loss < best or not len(kept):
                        best, kept = loss, network(asked)
    return kept.double().numpy()


def _tensor(values: np.ndarray) -> Tensor:
    return torch.as_tensor(np.ascontiguousarray(values, np.float32))
