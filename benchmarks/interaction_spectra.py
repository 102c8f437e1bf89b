"""Spectra of all interaction matrices through the hidden units against dense eigendecompositions, at the source's size.

python benchmarks/interaction_spectra.py [--rounds 5] [--genes 3451] [--hidden 128] [--outputs 5]

    exact      one QR of [L; R]ᵀ, an eigh of 2H × 2H per output, all in float64; and with all gene vectors formed
    weighted   the same of Σ^½ Q Σ^½ on 1,911 random cells
    dense      Q of every output formed (genes × genes) and numpy's eigh of it, in float64
    cubic      first part of one output of three factors, 30 starts of the power iteration

Random weights. Medians over the rounds, of cubic and dense one round: seconds on the clock and of the processor, all
threads together, which other work on the machine changes less. The error is the largest difference of an eigenvalue
over the largest of its output, zeros of the dense matrix included. Last line: `ratio to dense: X`, on the clock, of
dense over exact with all vectors.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from stormcell.analysis.interaction_spectra import covariance_root, interaction_spectra
from stormcell.analysis.trilinear_modules import cubic_components

CELLS = 1911


def timed(rounds: int, call: Callable[[], Any]) -> tuple[np.ndarray, Any]:
    """Median seconds, clock and processor, and what the last call gave."""
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter(), time.process_time()
        found = call()
        seconds.append((time.perf_counter() - start[0], time.process_time() - start[1]))
    return np.median(seconds, 0), found


def dense(left: np.ndarray, right: np.ndarray, readout: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    found = []
    for weights in readout:
        half = (left.T * weights) @ right / 2
        found.append(np.linalg.eigh(half + half.T))
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    for name, value in {"rounds": 5, "genes": 3451, "hidden": 128, "outputs": 5}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    asked = parser.parse_args()
    rng = np.random.default_rng(0)
    left, right, third = rng.normal(size=(3, asked.hidden, asked.genes)) / np.sqrt(asked.genes)
    readout = rng.normal(size=(asked.outputs, asked.hidden))
    z = rng.normal(size=(CELLS, asked.genes))
    z -= z.mean(0)

    interaction_spectra([left, right], readout)  # threads of the linear algebra start
    exact, spectra = timed(asked.rounds, lambda: interaction_spectra([left, right], readout))
    formed, vectors = timed(asked.rounds, lambda: [spectra.vectors(output) for output in range(asked.outputs)])
    metric = covariance_root(z, 2 * asked.hidden)
    weighted, _ = timed(asked.rounds, lambda: interaction_spectra([left, right], readout, metric))
    cubic, _ = timed(1, lambda: cubic_components([left, right, third], readout[0], 1))
    slow, reference = timed(1, lambda: dense(left, right, readout))

    worst, alike = 0.0, 1.0
    for output, (values, columns) in enumerate(reference):
        order = np.argsort(-np.abs(values))
        ours = np.pad(spectra.values[output], (0, max(asked.genes - spectra.values.shape[1], 0)))
        worst = max(worst, np.abs(ours - values[order]).max() / np.abs(values).max())
        alike = min(alike, abs(vectors[output][:, 0] @ columns[:, order[0]]))
    print(f"{asked.outputs} outputs, {asked.genes:,} genes, {asked.hidden} hidden units\n{'':24s}   clock  processor")
    rows = {"exact": exact, "exact and all vectors": exact + formed, "weighted": weighted}
    for name, (clock, processor) in (rows | {"cubic, one part": cubic, "dense": slow}).items():
        print(f"{name:24s}{clock:8.3f}{processor:9.3f} s")
    print(f"largest error of an eigenvalue {worst:.1e}, least |cosine| of a leading vector {alike:.10f}")
    print(f"ratio to dense: {slow[0] / (exact + formed)[0]:.0f}")


if __name__ == "__main__":
    main()
