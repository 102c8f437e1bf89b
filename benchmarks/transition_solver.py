"""The exact transition network against the source text's own training, at the size of a real prior network.

python benchmarks/transition_solver.py [--rounds 5] [--epochs 20]

    exact           2,000 genes × 60,000 edges (30 per target out of 300 regulators), 1,000 cells a side, a dense plan:
                    moments and Cholesky                                                            0.3 s, 150 MB
    bootstrap       the same, 100 resamples of the cells of both sides                              5 s
    λ               generalised cross-validation over 25 values
    null            100 permuted plans
    sparse Adam     as the source text describes it: a COO matrix of the mask's values, uniform [0, 1) at the start,
                    x @ W without intercept, mean squared error + 0.001 ‖w‖₁, Adam with rate 0.01, 1,000 epochs of all
                    cells. Timed on 20 epochs and scaled; --epochs trains longer for its loss. Its orientation is put
                    right, and it is given the barycentres, which have the same best network as all pairs
    large           10,000 genes × 300,000 edges, 1,000 cells a side

Exact solves and epochs alternate; times are medians over the rounds. Memory is what the process grows by over the data.
Losses are of centred barycentres: the mean squared error, and what the source minimises, whose own exact minimum
(analysis/elastic_net.py) stands beside. Last line: `ratio to sparse Adam: X`, seconds of 1,000 epochs over those of the
exact network.
"""

from __future__ import annotations

import argparse
import ctypes
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from evaluator import measured

from stormcell.analysis.edge_bootstrap import permuted_moments, resampled
from stormcell.analysis.elastic_net import elastic_net
from stormcell.analysis.mask import Mask
from stormcell.analysis.masked_ridge import Edges, choose_ridge, moments, partners, solve

CELLS, PER_TARGET, REGULATORS, RIDGE = 1000, 30, 300, 1e-2
EPOCHS, TIMED, RATE, PENALTY = 1000, 20, 0.01, 0.001


def world(n_genes: int) -> SimpleNamespace:
    """Planted weights; target cell b follows source cell b, of which the plan knows nine parts in ten."""
    rng = np.random.default_rng(0)
    target = np.repeat(np.arange(n_genes), PER_TARGET)
    ranked = rng.random((n_genes, REGULATORS))
    ranked[range(REGULATORS), range(REGULATORS)] = 2  # never itself
    mask = Mask.of(n_genes, ranked.argpartition(PER_TARGET, 1)[:, :PER_TARGET].ravel(), target)
    planted = rng.normal(0, PER_TARGET**-0.5, mask.n_edges)
    x = rng.normal(size=(CELLS, n_genes)).astype(np.float32)
    y = Edges(planted, np.zeros(n_genes), np.zeros(n_genes)).predict(x, mask)
    y = (y + rng.normal(0, 0.5, y.shape)).astype(np.float32)
    plan = 0.9 * np.eye(CELLS) / CELLS + 0.1 * rng.gamma(0.5, size=(CELLS, CELLS)) / CELLS**2 * 2
    plan /= plan.sum(1, keepdims=True) * CELLS
    return SimpleNamespace(
        x=x, y=y, mask=mask, planted=planted, coupling=SimpleNamespace(plan=plan, source=plan.sum(1))
    )


def exact(data: SimpleNamespace) -> Edges:
    return solve(moments(data.x, data.y, data.coupling, data.mask.regulators), data.mask, RIDGE)


class SparseAdam:
    """The source text's training, from its description."""

    def __init__(self, mask: Mask, x: np.ndarray, y: np.ndarray) -> None:
        self.x, self.y = torch.from_numpy(x), torch.from_numpy(y)
        self.place = torch.from_numpy(np.stack([mask.regulator, mask.target]))
        self.size = (mask.n_genes, mask.n_genes)
        self.values = torch.rand(mask.n_edges, generator=torch.Generator().manual_seed(0)).requires_grad_()
        self.optimizer = torch.optim.Adam([self.values], lr=RATE)

    def train(self, epochs: int) -> float:
        """Seconds."""
        start = time.perf_counter()
        for _ in range(epochs):
            self.optimizer.zero_grad()
            weight = torch.sparse_coo_tensor(self.place, self.values, self.size, check_invariants=False)
            error = torch.nn.functional.mse_loss(self.x @ weight, self.y)
            (error + PENALTY * self.values.norm(1)).backward()
            self.optimizer.step()
        return time.perf_counter() - start


def losses(data: SimpleNamespace, x: np.ndarray, y: np.ndarray, values: np.ndarray, own: np.ndarray) -> str:
    fitted = Edges(values, own, np.zeros(data.mask.n_genes))
    error = np.square(y - fitted.predict(x, data.mask)).mean()
    correlation = np.corrcoef(values, data.planted)[0, 1] if values.any() else 0.0
    whole = error + PENALTY * np.abs(values).sum()
    return (
        f"squared error {error:8.3f}   with the source's penalty {whole:8.3f}   r with the planted {correlation:5.2f}"
    )


def beside_adam(data: SimpleNamespace, rounds: int, epochs: int) -> tuple[float, float]:
    """Prints both losses; median seconds of the exact network and of one epoch."""
    found = moments(data.x, data.y, data.coupling, data.mask.regulators)
    x = data.x - found.mean_x.astype(np.float32)
    y = partners(data.coupling.plan, data.y)[0] - found.mean_y.astype(np.float32)
    adam, of_exact, of_epoch = SparseAdam(data.mask, x, y), [], []
    each = max(TIMED // rounds, 1)
    for _ in range(rounds):
        start = time.perf_counter()
        fitted = exact(data)
        of_exact.append(time.perf_counter() - start)
        of_epoch.append(adam.train(each) / each)
    done = rounds * each
    adam.train(max(epochs - done, 0))
    nothing = np.zeros(data.mask.n_genes)
    print(f"exact ridge, λ = {RIDGE:g}       {losses(data, x, y, fitted.values, fitted.own)}")
    trained = adam.values.detach().double().numpy()
    print(f"sparse Adam, {max(epochs, done):5d} epochs  {losses(data, x, y, trained, nothing)}")
    # Its mean runs over genes too, so that its penalty on the network of one target is G / 2 as large in our units.
    minimum = elastic_net(found, data.mask, 0.0, PENALTY * data.mask.n_genes / 2, self_edge=False)
    print(f"its exact minimum         {losses(data, x, y, minimum.values, nothing)}")
    return float(np.median(of_exact)), float(np.median(of_epoch))


def line(name: str, function: Callable[[], Any], limit: str = "") -> None:
    ctypes.CDLL(None).malloc_trim(0)  # memory that others freed but the process kept would hide what this one takes
    found = measured(function)
    print(f"{name:34s}{found[0]:8.3f} s {found[1]:7.0f} MB   {limit and 'limit ' + limit}".rstrip(), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=TIMED)
    arguments = parser.parse_args()
    exact(world(REGULATORS))  # loads the libraries
    data = world(2000)
    line("exact, 60,000 edges", lambda: exact(data), "0.3 s, 150 MB")
    rng, given = np.random.default_rng(1), (data.x, data.y, data.coupling)
    line("100 bootstraps", lambda: [one.values for one in resampled(*given, data.mask, RIDGE, 100, rng)], "5 s")
    found = moments(*given, data.mask.regulators)
    line("λ by GCV, 25 values", lambda: choose_ridge(found, data.mask))
    null = permuted_moments(*given, data.mask.regulators, 100, rng)
    line("100 null fits", lambda: [solve(one, data.mask, RIDGE).values for one in null])
    seconds, epoch = beside_adam(data, arguments.rounds, arguments.epochs)
    large = world(10_000)
    line("exact, 300,000 edges", lambda: exact(large), "a few seconds")
    print(
        f"exact {seconds:.3f} s (median of {arguments.rounds}), limit 0.3 s; sparse Adam {epoch:.3f} s per epoch, ",
        end="",
    )
    print(f"{EPOCHS * epoch:.0f} s for {EPOCHS:,} epochs (scaled from {TIMED})")
    print(f"ratio to sparse Adam: {EPOCHS * epoch / seconds:.0f}")


if __name__ == "__main__":
    main()
