"""Perturbations of targets never seen: LGEM on a network of genes, its nearest neighbour, and the mean.

STORMCELL_DATA=… python benchmarks/unseen.py [--draws 200]

    Papalexi   each of the nine knocked-out genes that are in the panel left out in turn; network: CollecTRI
               regulons and GO biological process. r of predicted and true shift with the controls shared between both,
               as the peers were measured, and against half of the controls kept for the truth.
    simulator  100 factors of one planted network perturbed, half of them held out; network: its signed regulons.

Intervals: 95 %, the left-out cells (and the truth's controls) drawn again, less the bias that
the noise of drawing again adds; over factors for the simulator.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from functools import partial
from pathlib import Path

import numpy as np

from stormcell.config import DataConfig, GeneSelection
from stormcell.data import split, targets
from stormcell.data.pseudobulk import PseudobulkDataModule
from stormcell.data.simulate import simulate
from stormcell.evaluation.baselines import LABELS, Shifts
from stormcell.evaluation.heldout import Query
from stormcell.evaluation.intervals import bootstrap_ci
from stormcell.evaluation.profiles import mean_profile, pearson

IN_PANEL = ("CMTM6", "IFNGR2", "JAK2", "NFKBIA", "STAT1", "STAT2", "STAT3", "TNFRSF14", "UBE2L6")
SHOWN = ("lgem", "nearest", "knn", "ridge", "training_mean", "pool")
FILES = ["net_collectri_human.csv.gz", "gmt_go_bp_2021_human.gmt.gz"]


def said(data: PseudobulkDataModule, condition: str) -> dict[str, np.ndarray]:
    """The shift of every method shown for one condition, NaN where it has no answer."""
    shifts = Shifts(data.train, data.embedding, data.train.controls)
    answers = {name: getattr(shifts, name)(Query(condition, "all", "", None)) for name in SHOWN}
    silent = np.full(data.spec.n_genes, np.nan)
    return {name: silent if shift is None else shift for name, shift in answers.items()}


def halves(cells, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Mean profiles of two halves of some cells."""
    order = rng.permutation(cells.shape[0])
    half = cells.shape[0] // 2
    return mean_profile(cells[order[:half]]), mean_profile(cells[order[half:]])


def left_out(target: str, controls_for_truth: float, draws: int) -> dict[str, tuple[float, float, float]]:
    """r and its interval for each method, the target left out; `split-half` beside them."""
    config = DataConfig(
        name="papalexi", path="papalexi2021_thp1_eccite_299genes.h5ad", batch_key="batch", library_key="total_counts",
        filter="clean_single_guide", genes=GeneSelection(top=None),
    )  # fmt: skip
    rule = partial(split.held_out_perturbations, names=[target], validation=0.0, test_cells=0.0,
                   controls_for_truth=controls_for_truth)  # fmt: skip
    data = PseudobulkDataModule(config, rule, targets=partial(targets.network, path=FILES, missing="drop"))
    data.setup()
    X = data.expression
    cells = X[data.rows["test"]]
    controls = X[data.rows["truth"] if controls_for_truth else data.control_rows("all")]
    answers = said(data, target)
    truth = mean_profile(cells) - mean_profile(controls)
    rng = np.random.default_rng(1)
    drawn: dict[str, list[float]] = {name: [] for name in answers}
    for _ in range(draws):
        again = mean_profile(cells[rng.integers(cells.shape[0], size=cells.shape[0])])
        base = mean_profile(controls[rng.integers(controls.shape[0], size=controls.shape[0])])
        base = base if controls_for_truth else mean_profile(controls)
        for name, shift in answers.items():
            drawn[name].append(float(pearson(again - base, shift)))
    found = {}
    for name, shift in answers.items():
        r, again = float(pearson(truth, shift)), np.array(drawn[name])
        found[name] = (r, *(np.quantile(again, [0.025, 0.975]) + r - again.mean()))
    reliability = []
    for _ in range(20):
        (one, other), base = halves(cells, rng), mean_profile(controls)
        bases = halves(controls, rng) if controls_for_truth else (base, base)
        reliability.append(float(pearson(one - bases[0], other - bases[1])))
    return {**found, "split-half": (float(np.mean(reliability)), np.nan, np.nan)}


def simulated(seed: int) -> tuple[dict[str, np.ndarray], int]:
    """r of each held-out factor's predicted shift with its true, noiseless one, by method; how many were held out."""
    world = {"n_cells": 20_000, "n_genes": 165, "n_factors": 100, "n_singles": 100, "n_pairs": 0, "n_interacting": 0,
             "kinds": ["knock-out"], "seed": seed}  # fmt: skip
    made = simulate(**world)
    truth = made.truth
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.csv"
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["source", "target", "mor"])
            for row, column in zip(*np.nonzero(truth["network"]), strict=True):
                writer.writerow(
                    [truth["factors"][row], made.genes[column], int(np.sign(truth["network"][row, column]))]
                )
        config = DataConfig(name="synthetic", source="synthetic", simulate=world, library_key="total_counts",
                            genes=GeneSelection(top=None))  # fmt: skip
        rule = partial(split.held_out_perturbations, share=0.5, validation=0.0, test_cells=0.0, controls_for_truth=0.5)
        data = PseudobulkDataModule(config, rule, seed, targets=partial(targets.network, path=str(path), dim=50))
        data.setup()
        held = sorted(data.split.groups)
        order = [made.genes.index(gene) for gene in data.spec.genes]
        rows = [said(data, name) for name in held]
    r = {
        m: np.array([pearson(truth["shift"][n][order], row[m]) for n, row in zip(held, rows, strict=True)])
        for m in SHOWN
    }
    return r, len(held)


def cell(r: float, low: float, high: float) -> str:
    if not np.isfinite(r):
        return "-"
    return f"{r:.2f}" + (f" ({low:.2f}..{high:.2f})" if np.isfinite(low) else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=200)
    draws = parser.parse_args().draws
    names = [*SHOWN, "split-half"]
    for share, title in ((0.0, "shared controls (set-up of the peers)"), (0.5, "half of the controls for the truth")):
        print(f"\n## Papalexi, target left out, {title}")
        print(f"{'':10s}" + "".join(f"{LABELS.get(name, name)[:22]:>24s}" for name in names))
        for target in IN_PANEL:
            found = left_out(target, share, draws)
            print(f"{target:10s}" + "".join(f"{cell(*found[name]):>24s}" for name in names), flush=True)
    for seed in (1, 2, 3):
        r, n = simulated(seed)
        print(f"\n## simulator, {n} of 100 factors held out, seed {seed}: median r with the true shift")
        for name, values in r.items():
            low, high = bootstrap_ci(values)
            print(f"{LABELS[name]:28s}{np.nanmedian(values):6.2f} ({low:.2f}..{high:.2f})", flush=True)


if __name__ == "__main__":
    main()
