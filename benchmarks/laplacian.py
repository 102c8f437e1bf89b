"""Graph and certified spectrum of simulated cells: 3,000, 20,000, 100,000 and a million, 10 frequencies.

Cells lie on a branching tree in 50 dimensions. noisy: noise of standard deviation 1 / √(1 + j) in dimension j; thin:
0.15 in two dimensions and 0.01 in the others, a trajectory with a small first eigenvalue. k = 15, union, normalised.

Each row in a process of its own: seconds on the wall and of the processor (with other work on the machine only the
second says what a solver costs), recall of the neighbour search on 200 cells, peak memory, and the certificate:
largest residual, gap at the cut, angle to the second start. At 3,000 cells the iterative solvers are held against
dense eigh as well. A million thin cells only with `--thin`; `--sizes` runs some rows only.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "2")

import argparse
import multiprocessing
import resource
import time

import numpy as np

from stormcell.analysis import certified_pairs
from stormcell.analysis.cell_graph import graph, neighbours, query_neighbours
from stormcell.analysis.laplacian import spectrum

FREQUENCIES, K, ASKED = 10, 15, 200
HEADER = "cells noise | graph wall cpu recall | spectrum wall cpu solver | λ1 residual gap angle | peak GB"


def simulate(n: int, thin: bool, seed: int = 1, branches: int = 7, dims: int = 50) -> np.ndarray:
    """Cells at even density along the branches of a binary tree: n × dims, float32."""
    rng = np.random.default_rng(seed)
    direction = rng.normal(size=(branches, dims))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    length, start = rng.uniform(3, 8, branches), np.zeros((branches, dims))
    for b in range(1, branches):
        parent = (b - 1) // 2
        start[b] = start[parent] + length[parent] * direction[parent]
    branch = rng.choice(branches, n, p=length / length.sum())
    along = rng.random(n) * length[branch]
    sd = np.where(np.arange(dims) < 2, 0.15, 0.01) if thin else 1 / np.sqrt(1 + np.arange(dims))
    return (start[branch] + along[:, None] * direction[branch] + rng.normal(size=(n, dims)) * sd).astype(np.float32)


def timed(function, *arguments):
    """Result, seconds on the wall, seconds of the processor."""
    wall, processor = time.perf_counter(), time.process_time()
    result = function(*arguments)
    return result, time.perf_counter() - wall, time.process_time() - processor


def recall(points: np.ndarray, indices: np.ndarray) -> float:
    """Share of the true neighbours of some cells that were found."""
    asked = np.random.default_rng(0).choice(len(points), ASKED, replace=False)
    # Some cells at a time, so that their search stays an exact one.
    exact = np.concatenate([query_neighbours(points, points[some], K + 1)[0] for some in np.array_split(asked, 4)])
    found = [np.isin(near[near != cell], indices[cell]).sum() for cell, near in zip(asked, exact, strict=True)]
    return float(np.sum(found) / (K * ASKED))


def row(n: int, thin: bool) -> float:
    """Prints one line; seconds on the wall of graph and spectrum."""
    points = simulate(n, thin)
    (indices, _), near_wall, near_cpu = timed(neighbours, points, K)
    adjacency, graph_wall, graph_cpu = timed(graph, indices, n)
    found, wall, cpu = timed(spectrum, adjacency, FREQUENCIES)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(
        f"{n:>9,} {'thin' if thin else 'noisy':5} | {near_wall + graph_wall:6.1f} {near_cpu + graph_cpu:6.1f} "
        f"{recall(points, indices):.3f} | {wall:6.2f} {cpu:6.2f} {found.solver:7} | {found.values[0]:.1e} "
        f"{found.residuals.max():.0e} {found.next_value - found.values[-1]:.1e} {found.restart_angle:.0e} | {peak:.1f}",
        *found.notes,
        flush=True,
    )
    if n <= certified_pairs.DENSE:
        against_dense(adjacency, found)
    return near_wall + graph_wall + wall


def against_dense(adjacency, exact) -> None:
    from scipy.linalg import subspace_angles

    before = certified_pairs.DENSE, certified_pairs.restarts
    for solver, allowed in (("lanczos", 30), ("lobpcg", 1)):
        certified_pairs.DENSE, certified_pairs.restarts = 0, lambda _, allowed=allowed: allowed
        found, wall, cpu = timed(spectrum, adjacency, FREQUENCIES)
        off = np.abs(found.values / exact.values - 1).max()
        angle = subspace_angles(found.vectors, exact.vectors).max()
        print(f"    {found.solver}, asked for {solver}: {wall:.2f} s, {cpu:.2f} of the processor; "
              f"from dense eigh: values {off:.0e}, angle {angle:.0e}", flush=True)  # fmt: skip
    certified_pairs.DENSE, certified_pairs.restarts = before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--thin", action="store_true", help="the million thin cells too")
    parser.add_argument("--sizes", type=int, nargs="+", default=[3_000, 20_000, 100_000, 1_000_000])
    chosen = parser.parse_args()
    print(HEADER, flush=True)
    seconds = {}
    for n in chosen.sizes:
        for thin in (False, True):
            if thin and n >= 1_000_000 and not chosen.thin:
                continue
            with multiprocessing.get_context("spawn").Pool(1) as alone:  # peak memory is of this row only
                seconds[n, thin] = alone.apply(row, (n, thin))
    if (1_000_000, False) in seconds:
        print(f"seconds for 1M noisy cells: {seconds[1_000_000, False]:.0f}")


if __name__ == "__main__":
    main()
