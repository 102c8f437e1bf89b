"""Sizes of a genome-wide screen against their limits: pseudobulk, the exact LGEM, and the rank metrics.

python benchmarks/evaluator.py [--share 1.0]

    pseudobulk      1,000,000 cells × 2,000 genes, 8 % non-zero counts, into 1,000 conditions    20 s, 1,000 MB
    exact LGEM      1,000 conditions × 10,000 genes, K = 10, a column for each of 1,000 targets   2 s,   500 MB
    distances       1,000 predictions × 1,000 truths × 5,000 genes, and both ranks                1 s Euclidean and
                    cosine, 5 s L1

Memory is what the process grows by over the data. The peers' ways stand beside: scipy's sparse product for the means, a
double loop over pairs (some rows of it, scaled up) for the ranks. `--share` makes every size smaller.
Last line: `slowest against its limit: X`, the largest of time / limit and memory / limit; 1 or less is good.
"""

from __future__ import annotations

import argparse
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix

from stormcell.analysis.embedding import gene_scores
from stormcell.analysis.linear import two_ridge
from stormcell.analysis.pseudobulk import Pseudobulk
from stormcell.data.csr import group_mean
from stormcell.evaluation.ranks import distances, rank, rank_of_truth

PAGE_MB = 4096 / 2**20


def measured(function: Callable[[], Any]) -> tuple[float, float]:
    """Seconds, and megabytes by which the resident memory of the process grew at its highest."""
    before, highest, done = _resident(), [0.0], threading.Event()

    def watch() -> None:
        while not done.wait(0.005):
            highest[0] = max(highest[0], _resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    start = time.perf_counter()
    function()
    seconds = time.perf_counter() - start
    done.set()
    watcher.join()
    return seconds, max(highest[0] - before, 0.0)


def _resident() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_MB


def counts(cells: int, genes: int, share: float = 0.08) -> csr_matrix:
    """Counts with equally many genes in every cell, one in each bin of 1 / share genes."""
    rng, width = np.random.default_rng(0), round(1 / share)
    per_cell = genes // width
    indices = np.empty((cells, per_cell), np.int32)
    for start in range(0, cells, 100_000):
        block = indices[start : start + 100_000]
        block[:] = np.arange(per_cell, dtype=np.int32) * width + rng.integers(0, width, block.shape, dtype=np.int32)
    data = (1 + rng.integers(0, 3, cells * per_cell, dtype=np.int8)).astype(np.float32)
    return csr_matrix((data, indices.ravel(), np.arange(cells + 1, dtype=np.int64) * per_cell), (cells, genes))


def scipy_means(matrix: csr_matrix, codes: np.ndarray, groups: int) -> np.ndarray:
    """Means by the product with a matrix of members; the values as they are, not log1p."""
    members = csr_matrix((np.ones(len(codes)), (codes, np.arange(len(codes)))), (groups, len(codes)))
    return (members @ matrix).toarray() / np.bincount(codes, minlength=groups)[:, None]


def pairwise(predicted: np.ndarray, true: np.ndarray, rows: int) -> float:
    """Seconds that a double loop over all pairs would take, from some rows of it."""
    start = time.perf_counter()
    for i in range(rows):
        for j in range(len(true)):
            np.linalg.norm(predicted[i] - true[j])
    return (time.perf_counter() - start) * len(predicted) / rows


def of_pseudobulk(cells: int, groups: int) -> tuple[tuple[float, float], str]:
    warm = counts(100, 2000)
    group_mean(warm, np.zeros(100, int), 1, np.ones(100))  # compiles, or reads the compiled code
    matrix, codes = counts(cells, 2000), np.random.default_rng(1).integers(0, groups, cells)
    library = np.asarray(matrix.sum(1)).ravel()
    found = measured(lambda: group_mean(matrix, codes, groups, library))
    plain = measured(lambda: group_mean(matrix, codes, groups))[0]
    peer = measured(lambda: scipy_means(matrix, codes, groups))[0]
    return found, f"without log1p {plain:.2f} s, scipy's product without log1p {peer:.2f} s"


def of_lgem(conditions: int, genes: int) -> tuple[float, float]:
    means = np.abs(np.random.default_rng(1).normal(1, 0.3, (conditions, genes)))
    names = tuple(f"T{i:05}" for i in range(conditions))
    train = Pseudobulk(names, ("all",) * conditions, means, np.ones(conditions, int), {"all": means.mean(0)})
    hot, shifts = np.eye(conditions), train.shifts
    return measured(lambda: two_ridge(shifts, gene_scores(train, 10), hot, 0.1))


def of_ranks(conditions: int, genes: int) -> dict[str, tuple[float, float]]:
    rng = np.random.default_rng(1)
    true = rng.normal(size=(conditions, genes))
    predicted = true + rng.normal(size=true.shape)
    distances(predicted[:3], true[:3], "l1")  # compiles
    loop = pairwise(predicted, true, max(1, conditions // 100))
    print(f"{'':28s}a double loop over pairs, Euclidean: about {loop:.0f} s")

    def ranks(metric: str) -> None:
        matrix = distances(predicted, true, metric)
        rank(matrix), rank_of_truth(matrix)

    return {metric: measured(lambda metric=metric: ranks(metric)) for metric in ("euclidean", "cosine", "l1")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--share", type=float, default=1.0)
    share = parser.parse_args().share
    groups, worst = max(round(1000 * share), 10), []

    def line(name: str, found: tuple[float, float], seconds: float, megabytes: float | None, beside: str = "") -> None:
        worst.extend([found[0] / seconds, *([found[1] / megabytes] if megabytes else [])])
        limit = f"{seconds:g} s" + (f", {megabytes:g} MB" if megabytes else "")
        print(f"{name:30s}{found[0]:7.2f} s {found[1]:8.0f} MB   limit {limit:14s} {beside}".rstrip(), flush=True)

    found, beside = of_pseudobulk(round(1_000_000 * share), groups)
    line("pseudobulk of log1p", found, 20, 1000, beside)
    line("exact LGEM", of_lgem(groups, round(10_000 * share)), 2, 500)
    for metric, measure in of_ranks(groups, round(5000 * share)).items():
        line(f"{metric} distances and ranks", measure, 5 if metric == "l1" else 1, None)
    print(f"slowest against its limit: {max(worst):.2f}")


if __name__ == "__main__":
    main()
