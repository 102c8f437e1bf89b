"""The source's training run: 1,910 random cells × 3,451 genes, 409 for validation, batch 32, 500 epochs of Adam.

    python benchmarks/bilinear_training.py [--epochs 500] [--threads 2]

plain    a Dataset that copies one row at a time in a DataLoader, two Linears, Adam, .item() at every step
ours     the same network as one product, rows by index from one tensor, fused Adam, the loss read once an epoch; the
         loop of the fits beside a run, without what Lightning adds to each step for its callbacks and logs
Both start from equal weights, see equal batches and look at the validation cells after every epoch. An epoch of one
follows an epoch of the other, and the ratio is of the medians of their times; "curve" is the largest relative
difference of the two losses of an epoch, over the first ten and over all: rounding grows until the training cells are
learnt by heart.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from stormcell.nn.bilinear import Bilinear

TRAINING, VALIDATION, GENES, OUTPUTS, HIDDEN, BATCH = 1910, 409, 3451, 5, 128, 32
ADAM = {"lr": 1e-4, "weight_decay": 1e-4}


class Rows(Dataset):
    """Cells one by one, from arrays."""

    def __init__(self, x: np.ndarray, y: np.ndarray) -> None:
        self.x, self.y = x, y

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        return torch.tensor(self.x[i]), torch.tensor(self.y[i])


class Plain(nn.Module):
    """P (L x ⊙ R x) as it is written, from the weights of ours."""

    def __init__(self, like: Bilinear) -> None:
        super().__init__()
        left, right = (torch.from_numpy(one[:, :-1]).float() for one in like.factor_matrices())
        self.left, self.right = nn.Linear(GENES, HIDDEN, bias=False), nn.Linear(GENES, HIDDEN, bias=False)
        self.out = nn.Linear(HIDDEN, OUTPUTS, bias=False)
        with torch.no_grad():
            for layer, weight in ((self.left, left), (self.right, right), (self.out, like.readout)):
                layer.weight.copy_(weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.left(x) * self.right(x))


def data() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Random cells, and frequencies of the size that unit vectors over 2,730 cells have."""
    rng = np.random.default_rng(0)
    sizes = {"train": TRAINING, "validation": VALIDATION}
    return {
        part: (
            rng.standard_normal((n, GENES), np.float32),
            rng.standard_normal((n, OUTPUTS), np.float32) / np.float32(np.sqrt(2730)),
        )
        for part, n in sizes.items()
    }


def plain(network: Plain, cells: dict, orders: np.ndarray) -> Iterator[tuple[float, float]]:
    """Training and validation loss of every epoch."""
    optimizer, distance = torch.optim.Adam(network.parameters(), **ADAM), nn.L1Loss()
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, len(orders))
    held_out = DataLoader(Rows(*cells["validation"]), BATCH)
    for order in orders:
        losses = []
        for x, y in DataLoader(Rows(*cells["train"]), BATCH, sampler=order.tolist(), drop_last=True):
            loss = distance(network(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        schedule.step()
        with torch.no_grad():
            looked = [(distance(network(x), y).item(), len(x)) for x, y in held_out]
        yield float(np.mean(losses)), sum(value * n for value, n in looked) / VALIDATION


def ours(network: Bilinear, cells: dict, orders: np.ndarray) -> Iterator[tuple[float, float]]:
    """The same."""
    optimizer, distance = torch.optim.Adam(network.parameters(), fused=True, **ADAM), nn.functional.l1_loss
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, len(orders))
    (x, y), (held_x, held_y) = (tuple(map(torch.from_numpy, cells[part])) for part in ("train", "validation"))
    for order in torch.from_numpy(orders):
        total = torch.zeros(())
        for rows in order[: TRAINING // BATCH * BATCH].split(BATCH):
            loss = distance(network(x.index_select(0, rows)), y.index_select(0, rows))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.detach()
        schedule.step()
        with torch.no_grad():
            looked = distance(network(held_x), held_y).item()
        yield total.item() / (TRAINING // BATCH), looked


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=500)
    parser.add_argument("--threads", type=int, default=2)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    torch.manual_seed(0)
    network, cells = Bilinear(GENES, HIDDEN, OUTPUTS, bias=False), data()
    orders = np.stack([np.random.default_rng([0, epoch]).permutation(TRAINING) for epoch in range(asked.epochs)])
    runs = {"plain": plain(Plain(network), cells, orders), "ours": ours(network, cells, orders)}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    losses: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for _ in orders:
        for name, epoch in runs.items():
            start = time.perf_counter()
            losses[name].append(next(epoch))
            seconds[name].append(time.perf_counter() - start)
    curves = {name: np.array(found) for name, found in losses.items()}
    for name, found in seconds.items():
        last = curves[name][-1]
        print(
            f"{name:6} {sum(found):7.1f} s, {1e3 * np.median(found):6.1f} ms per epoch (median); last epoch: training "
            f"{last[0]:.5f}, validation {last[1]:.5f}"
        )
    apart = np.abs(curves["ours"] / curves["plain"] - 1)
    for words, part in (("first ten epochs", apart[:10]), ("all epochs", apart)):
        print(f"curve, {words}: training within {part[:, 0].max():.1e}, validation within {part[:, 1].max():.1e}")
    print(f"ratio to a plain loop: {np.median(seconds['plain']) / np.median(seconds['ours']):.2f}")


if __name__ == "__main__":
    main()
