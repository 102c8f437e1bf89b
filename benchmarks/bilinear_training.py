"""The source's training run: 1,910 random cells × 3,451 genes, 409 for validation, batch 32, 500 epochs of Adam.

    python benchmarks/bilinear_training.py [--epochs 500] [--threads 2]

plain    a Dataset that copies one row at a time in a DataLoader, two Linears, Adam, .item() at every step
ours     the same network as one product, rows by index from one tensor, fused Adam, the loss read once an epoch
Both start from equal weights, see equal batches and look at the validation cells after every epoch. Times are those of
whole runs, one after the other; "curve" is the largest relative difference of the two losses of an epoch.
"""

from __future__ import annotations

import argparse
import time

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


def plain(network: Plain, cells: dict, orders: np.ndarray) -> tuple[list[float], list[float]]:
    """Training and validation loss of every epoch."""
    optimizer, distance = torch.optim.Adam(network.parameters(), **ADAM), nn.L1Loss()
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, len(orders))
    held_out = DataLoader(Rows(*cells["validation"]), BATCH)
    curves: tuple[list[float], list[float]] = [], []
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
        curves[0].append(float(np.mean(losses)))
        curves[1].append(sum(value * n for value, n in looked) / VALIDATION)
    return curves


def ours(network: Bilinear, cells: dict, orders: np.ndarray) -> tuple[list[float], list[float]]:
    """The same."""
    optimizer, distance = torch.optim.Adam(network.parameters(), fused=True, **ADAM), nn.functional.l1_loss
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, len(orders))
    (x, y), (held_x, held_y) = (tuple(map(torch.from_numpy, cells[part])) for part in ("train", "validation"))
    curves: tuple[list[float], list[float]] = [], []
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
            curves[1].append(distance(network(held_x), held_y).item())
        curves[0].append(total.item() / (TRAINING // BATCH))
    return curves


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=500)
    parser.add_argument("--threads", type=int, default=2)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    torch.manual_seed(0)
    network, cells = Bilinear(GENES, HIDDEN, OUTPUTS, bias=False), data()
    orders = np.stack([np.random.default_rng([0, epoch]).permutation(TRAINING) for epoch in range(asked.epochs)])
    seconds, cpu_seconds, curves = {}, {}, {}
    for name, run, model in (("plain", plain, Plain(network)), ("ours", ours, network)):
        wall, cpu = time.perf_counter(), time.process_time()
        curves[name] = np.array(run(model, cells, orders))
        seconds[name], cpu_seconds[name] = time.perf_counter() - wall, time.process_time() - cpu
        last = curves[name][:, -1]
        print(
            f"{name:6} {seconds[name]:7.1f} s, {cpu_seconds[name]:7.1f} s of CPU, "
            f"{1e3 * seconds[name] / asked.epochs:6.1f} ms per epoch; last epoch: training {last[0]:.5f}, "
            f"validation {last[1]:.5f}",
            flush=True,
        )
    apart = np.abs(curves["ours"] / curves["plain"] - 1).max(1)
    print(f"curve: training within {apart[0]:.1e}, validation within {apart[1]:.1e}")
    print(f"ratio of CPU time: {cpu_seconds['plain'] / cpu_seconds['ours']:.2f}")
    print(f"ratio to a plain loop: {seconds['plain'] / seconds['ours']:.2f}")


if __name__ == "__main__":
    main()
