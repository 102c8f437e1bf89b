"""Training speed and memory of our contrastive VAE against scvi-tools' ContrastiveVI, each as its user starts it.

    pip install -c constraints.txt -e ".[bench]"
    python benchmarks/contrastive_vs_scvi.py [--threads 1,2] [--rounds 3] [--epochs 10]

One simulated file of 20,000 cells × 2,000 genes, negative binomial, 8 % of the counts not zero, half background, half
perturbed; one hidden layer of 128, latents 10 + 10, 128 + 128 cells in a batch, Adam at 1e-3, W2 weight 1. Ours is
train.py with its validation, callbacks and checkpoints, up to the closing test, but without the plain VAE that it else
trains beside for the scoreboard; theirs is ContrastiveVI.train, which validates nothing by default. Either trains in a
process of its own, the two alternate, the fit alone is timed, medians over the rounds; the compilation of our
likelihood, which a machine does once, is timed apart. Memory: the peak of the resident set during the fit over the set
after the cells were loaded, packages imported. Where other jobs share the cores, only the CPU seconds of one thread can
be trusted. Last line, of wall time with the last number of threads: `ratio to scvi-tools: X`.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import runpy
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from unittest.mock import patch

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

ROOT = Path(__file__).parents[1]
HALF, HIDDEN, LATENT = 128, 128, 10
N_PERTURBATIONS, N_CHANGED, THETA = 10, 60, 2.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=20_000)
    parser.add_argument("--genes", type=int, default=2000)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--child", choices=TRAINERS, help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        print(json.dumps(TRAINERS[asked.child](asked.file, asked.epochs)))
        return
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "simulated.h5ad"
        adata = simulated(asked.cells, asked.genes)
        adata.write_h5ad(file)
        share = adata.X.nnz / np.prod(adata.shape, dtype=float)
        print(f"{adata.n_obs} cells × {adata.n_vars} genes, {share:.1%} not zero, {HALF} + {HALF} cells in a batch")
        cold, warm = (trained("ours", file, 0, 1)["fit_s"] for _ in range(2))
        print(f"compilation, once on a machine: {cold - warm:.1f} s")
        ratios = [compared(file, asked.epochs, int(n), asked.rounds) for n in asked.threads.split(",")]
    likelihood = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "likelihood.py")], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    print("likelihood, value and gradient, one thread:", *likelihood, sep="\n  ")
    print(f"ratio to scvi-tools: {ratios[-1]:.2f}")


def compared(file: Path, epochs: int, threads: int, rounds: int) -> float:
    """Prints medians of alternating runs; returns the ratio of the speeds."""
    runs = {name: [] for name in TRAINERS}
    for _ in range(rounds):
        for name, found in runs.items():
            found.append(trained(name, file, epochs, threads))
    wall, cpu = ({n: [r["cells"] / r[key] for r in found] for n, found in runs.items()} for key in ("fit_s", "cpu_s"))
    for name, found in runs.items():
        added = statistics.median(run["added_mb"] for run in found)
        every = " ".join(f"{speed:,.0f}" for speed in wall[name])
        print(
            f"{threads} threads  {name:10s} {statistics.median(wall[name]):8,.0f} cells/s ({every}), "
            f"{statistics.median(cpu[name]):8,.0f} per CPU second, {added:5.0f} MB over the cells"
        )
    of_wall, of_cpu = (statistics.median(s["ours"]) / statistics.median(s["scvi-tools"]) for s in (wall, cpu))
    print(f"{threads} threads  ratio {of_wall:.2f}, of CPU seconds {of_cpu:.2f}")
    return of_wall


def trained(name: str, file: Path, epochs: int, threads: int) -> dict[str, float]:
    """fit_s, cpu_s, cells seen and added_mb of one run in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, "--child", name, "--file", str(file), "--epochs", str(epochs)],
        env={**os.environ, "OMP_NUM_THREADS": str(threads), "NUMBA_CACHE_DIR": str(file.parent / "numba")},
        cwd=file.parent, capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode:
        sys.exit(f"{name} ended with {done.returncode}:\n{done.stderr[-4000:]}")
    return json.loads(done.stdout.splitlines()[-1])


# ---- cells


def simulated(n_cells: int, n_genes: int) -> ad.AnnData:
    """Negative binomial counts; the second half of the cells carries one of ten perturbations of 60 genes each."""
    rng = np.random.default_rng(0)
    rate = rng.lognormal(0, 1.3, n_genes)
    rate = np.tile(rate / rate.sum(), (1 + N_PERTURBATIONS, 1))
    for changed in rate[1:]:
        changed[rng.choice(n_genes, N_CHANGED, replace=False)] *= np.exp(rng.normal(0, 1, N_CHANGED))
    code = np.where(np.arange(n_cells) < n_cells // 2, 0, 1 + np.arange(n_cells) % N_PERTURBATIONS)
    library = rng.lognormal(np.log(0.1 * n_genes), 0.3, n_cells)  # 0.1 counts in a gene: 8 % of them not zero
    blocks = []
    for start in range(0, n_cells, 2000):
        rows = slice(start, start + 2000)
        mean = rate[code[rows]] * library[rows, None]
        counts = rng.poisson(rng.gamma(THETA, mean / THETA)).astype(np.float32)
        counts[counts.sum(1) == 0, 0] = 1
        blocks.append(sparse.csr_matrix(counts))
    obs = pd.DataFrame(
        {"perturbation": np.array(["control", *(f"P{i}" for i in range(N_PERTURBATIONS))])[code]},
        index=[f"cell{i:05}" for i in range(n_cells)],
    )
    return ad.AnnData(sparse.vstack(blocks, format="csr"), obs, pd.DataFrame(index=[f"g{i}" for i in range(n_genes)]))


def resident(peak: bool) -> float:
    """The resident set of this process in MB: now, or its peak since the last `forget_peak`. Linux counts them."""
    key = "VmHWM" if peak else "VmRSS"
    return int(re.search(rf"{key}:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


# ---- the two trainers


def ours(file: Path, epochs: int) -> dict[str, float]:
    """train.py up to its closing test."""
    import sklearn.cluster
    import sklearn.decomposition
    import sklearn.discriminant_analysis
    import sklearn.linear_model
    import sklearn.manifold
    import sklearn.svm  # noqa: F401  what training uses later, before the memory is looked at

    from stormcell import run

    found, data_module, fit = {}, run.data_module, run._fit

    def loaded(cfg):
        data = data_module(cfg)
        data.setup()
        found["before"] = resident(peak=False)
        return data

    def fitted(*arguments):
        forget_peak()
        start = time.process_time()
        fit(*arguments)
        found["cpu_s"] = time.process_time() - start

    def closing(cfg, trainer, model, data, loggers, folder, fit_s):
        seen = (trainer.global_step - model.first_step) * data.cells_per_step
        found.update(fit_s=fit_s, cells=seen, added_mb=resident(peak=True) - found.pop("before"))

    steps = max(1, epochs * round(0.9 * 10_000 / HALF))
    arguments = [
        "model=contrastive", "data=h5ad", f"data.path={file}", "data.perturbation_key=perturbation",
        "data.control=control", f"datamodule.batch_size={2 * HALF}", f"model.hidden=[{HIDDEN}]",
        f"model.n_background={LATENT}", f"model.n_salient={LATENT}", "model.plain_vae=false",
        f"trainer.max_steps={steps}", "callbacks=fixed_budget",
        f"hydra.run.dir={tempfile.mkdtemp(dir=file.parent)}",
    ]  # fmt: skip
    with (
        patch.object(run, "data_module", loaded),
        patch.object(run, "_fit", fitted),
        patch.object(run, "_closing_test", closing),
        patch.object(sys, "argv", [str(ROOT / "train.py"), *arguments]),
    ):
        runpy.run_path(str(ROOT / "train.py"), run_name="__main__")
    return found


def theirs(file: Path, epochs: int) -> dict[str, float]:
    """ContrastiveVI.train on nine tenths of the cells, which is its default."""
    import scvi.external  # noqa: F401  before the memory is looked at

    adata = ad.read_h5ad(file)
    before = resident(peak=False)
    control = (adata.obs["perturbation"] == "control").to_numpy()
    model = contrastive_vi(adata)
    forget_peak()
    start, cpu = time.perf_counter(), time.process_time()
    model.train(
        np.flatnonzero(control).tolist(), np.flatnonzero(~control).tolist(), max_epochs=epochs, batch_size=HALF,
        accelerator="cpu", enable_progress_bar=False,
    )  # fmt: skip
    found = {"fit_s": time.perf_counter() - start, "cpu_s": time.process_time() - cpu}
    seen = epochs * 2 * round(0.9 * max(control.sum(), (~control).sum()))
    return {**found, "cells": seen, "added_mb": resident(peak=True) - before}


def contrastive_vi(adata: ad.AnnData, batch_key: str | None = None):
    """scvi-tools' model in the size of ours, with the Wasserstein penalty at 1."""
    from scvi.external import ContrastiveVI

    ContrastiveVI.setup_anndata(adata, batch_key=batch_key)
    return ContrastiveVI(
        adata, n_hidden=HIDDEN, n_background_latent=LATENT, n_salient_latent=LATENT, wasserstein_penalty=1
    )


def scvi_spaces(
    adata_train: ad.AnnData, adata_test: ad.AnnData, seed: int, batch_key: str | None = None, **train
) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """(background, salient) of scvi-tools' ContrastiveVI, each of the training and of the test cells: N × 10.

    X holds counts; obs["is_control"] says which cells are the background. `train` goes to ContrastiveVI.train.
    """
    import scvi

    scvi.settings.seed = seed
    adata_train, adata_test = adata_train.copy(), adata_test.copy()
    control = adata_train.obs["is_control"].to_numpy(bool)
    model = contrastive_vi(adata_train, batch_key)
    options = {"batch_size": HALF, "accelerator": "cpu", "enable_progress_bar": False, **train}
    model.train(np.flatnonzero(control).tolist(), np.flatnonzero(~control).tolist(), **options)
    background, salient = (
        tuple(model.get_latent_representation(cells, representation_kind=kind) for cells in (adata_train, adata_test))
        for kind in ("background", "salient")
    )
    return background, salient


TRAINERS = {"ours": ours, "scvi-tools": theirs}

if __name__ == "__main__":
    main()
