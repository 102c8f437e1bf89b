"""Dense batches of random cells from a CSR matrix: our kernel against scipy and against one cell at a time.

python benchmarks/loader.py [--cells 200000] [--genes 2000]

One process, one thread, the ways alternate, medians over the rounds. Last line: `ratio to scipy: X`.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
import torch
from scipy.sparse import csr_matrix, vstack

from stormcell.data.csr import DenseRows

BATCH = 256


def simulated(cells: int, genes: int, nonzero: float = 0.08) -> csr_matrix:
    """Counts of which `nonzero` are not zero, genes differing widely in how often they are seen."""
    rng = np.random.default_rng(0)
    detected = rng.gamma(0.5, 1, genes)
    detected = np.clip(detected * nonzero / detected.mean(), 0, 1).astype(np.float32)
    detected *= nonzero / detected.mean()
    blocks = []
    for start in range(0, cells, 5000):
        block = csr_matrix(rng.random((min(5000, cells - start), genes), dtype=np.float32) < detected, dtype=np.float32)
        block.data = 1 + rng.negative_binomial(0.5, 0.3, block.nnz).astype(np.float32)
        blocks.append(block)
    return vstack(blocks, format="csr")


def measure(matrix: csr_matrix, rounds: int) -> dict[str, float]:
    """Median cells per second, by way; the slow way takes fewer batches of a round."""
    source = DenseRows(matrix)
    ways = {
        "our kernel, reused buffer": (100, source.rows),
        "X[index].toarray()": (100, lambda index: torch.from_numpy(matrix[index].toarray())),
        "X[i].toarray(), cell by cell": (
            4,
            lambda index: torch.from_numpy(np.concatenate([matrix[i].toarray() for i in index])),
        ),
    }
    rng = np.random.default_rng(1)
    speeds = {name: [] for name in ways}
    for _ in range(rounds + 1):
        for name, (n_batches, batch) in ways.items():
            index = rng.integers(0, matrix.shape[0], (n_batches, BATCH))
            start = time.perf_counter()
            for one in index:
                batch(one)
            speeds[name].append(index.size / (time.perf_counter() - start))
    return {name: statistics.median(values[1:]) for name, values in speeds.items()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=200_000)
    parser.add_argument("--genes", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    matrix = simulated(arguments.cells, arguments.genes)
    share = matrix.nnz / np.prod(matrix.shape, dtype=float)
    print(f"{matrix.shape[0]} cells × {matrix.shape[1]} genes, {share:.1%} not zero, batches of {BATCH}")
    medians = measure(matrix, arguments.rounds)
    ours, scipys, _ = medians.values()
    print(f"{'way':30s} {'cells/s':>12s} {'GB/s dense':>11s} {'ours / it':>10s}")
    for name, speed in medians.items():
        print(f"{name:30s} {speed:12,.0f} {speed * arguments.genes * 4 / 1e9:11.2f} {ours / speed:10.2f}")
    print(f"ratio to scipy: {ours / scipys:.2f}")
