"""What the tests share: one thread, real cells where they are, and small files of cells."""

from __future__ import annotations

import os
from pathlib import Path

# Before torch and numpy are imported, here and in every process that a test starts.
os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

ROOT = Path(__file__).parents[1]
BESIDE = ROOT.parent / "shared" / "data"  # where CI keeps the real cells
NO_REAL_CELLS = "no real cells"
if "STORMCELL_DATA" not in os.environ and BESIDE.is_dir():
    os.environ["STORMCELL_DATA"] = str(BESIDE)


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    import torch

    torch.set_num_threads(1)


# ---- real cells


@pytest.fixture(scope="session")
def shared_data():
    """name → path of a real file; without it the test is skipped and the summary says so.

    Under CI=true a file that lacks in a folder that is there is a failure.
    """

    def find(name: str) -> Path:
        folders = [Path(folder) for folder in (os.environ.get("STORMCELL_DATA"), BESIDE) if folder]
        for folder in folders:
            if (folder / name).is_file():
                return folder / name
        reason = f"{NO_REAL_CELLS}: {name} is not in $STORMCELL_DATA or {BESIDE}"
        if os.environ.get("CI") == "true" and any(folder.is_dir() for folder in folders):
            pytest.fail(reason)
        pytest.skip(reason)

    return find


def pytest_terminal_summary(terminalreporter):
    skipped = [report for report in terminalreporter.stats.get("skipped", []) if NO_REAL_CELLS in str(report.longrepr)]
    if skipped:
        terminalreporter.section("REAL CELLS WERE NOT TESTED", red=True, bold=True)
        terminalreporter.line(
            f"{len(skipped)} tests on real cells did not run: set STORMCELL_DATA to the folder with their files"
        )


# ---- small files


def some_obs(n: int, names: str = "cell") -> pd.DataFrame:
    """A third of the cells are controls, a third A, a third A+B; two batches."""
    labels = np.array(["control", "A", "A+B"])[np.arange(n) % 3]
    batch = np.array(["b1", "b2"])[(np.arange(n) // 3) % 2]
    return pd.DataFrame({"perturbation": labels, "batch": batch}, index=[f"{names}{i:04}" for i in range(n)])


def some_counts(n: int, n_genes: int, seed: int = 0) -> np.ndarray:
    """N × G counts with zeros among them and no empty cell."""
    counts = np.random.default_rng(seed).poisson(0.8, (n, n_genes)).astype(float)
    counts[:, 0] += 1
    return counts


def write_h5ad(path, values=None, obs=None, genes=None, form="csr", layers=None, raw=None) -> Path:
    """An AnnData file: X in the form csr, csc or dense, further layers by name, and raw as (values, genes)."""
    import anndata as ad

    shape = {"csr": sparse.csr_matrix, "csc": sparse.csc_matrix, "dense": np.asarray}[form]
    values = some_counts(60, 8) if values is None else values
    obs = some_obs(len(values)) if obs is None else obs
    genes = [f"g{i}" for i in range(np.shape(values)[1])] if genes is None else genes
    adata = ad.AnnData(shape(values), obs=obs, var=pd.DataFrame(index=genes))
    if raw is not None:
        adata.raw = ad.AnnData(shape(raw[0]), obs=obs, var=pd.DataFrame(index=raw[1]))
    for name, layer in (layers or {}).items():
        adata.layers[name] = shape(layer)
    adata.write_h5ad(path)
    return Path(path)


@pytest.fixture
def make_h5ad(tmp_path):
    """A factory of small AnnData files in tmp_path: make_h5ad(values, obs, genes, form=, layers=, raw=, name=)."""

    def make(values=None, obs=None, genes=None, name="cells.h5ad", **parts) -> Path:
        return write_h5ad(tmp_path / name, values, obs, genes, **parts)

    return make


# ---- a planted world


class Planted:
    """Negative binomial cells whose log effects of the targets add up, with a shared programme that differs by cell.

    Controls, four singles and two of their pairs; `shift[condition]` is the true mean shift of
    log1p(counts / library · 1e4), integrated over 20,000 cells; `programme` the place of each cell in the programme.
    """

    def __init__(self, path: Path, n_genes: int = 60, per_condition: int = 240, seed: int = 3) -> None:
        rng = np.random.default_rng(seed)
        self.targets = ["A", "B", "C", "D"]
        self.conditions = [*self.targets, "A+B", "C+D"]
        self.base = rng.normal(np.log(40), 0.7, n_genes)  # log counts per 10,000
        self.loading = rng.normal(0, 0.5, n_genes) * (rng.random(n_genes) < 0.5)
        self.effect = {t: rng.normal(0, 0.9, n_genes) * (rng.random(n_genes) < 0.3) for t in self.targets}
        self.theta = 5.0
        labels = np.repeat(["control", "control", *self.conditions], per_condition)
        library = np.rint(rng.lognormal(np.log(4000), 0.4, len(labels)))
        self.programme = pd.Series(rng.normal(size=len(labels)), [f"cell{i:05}" for i in range(len(labels))])
        counts = np.concatenate(
            [self.draw(label, library[[i]], self.programme.to_numpy()[[i]], rng) for i, label in enumerate(labels)]
        )
        library = np.maximum(library, counts.sum(1))
        batch = np.array(["b1", "b2", "b3"])[rng.integers(3, size=len(labels))]
        obs = pd.DataFrame({"perturbation": labels, "batch": batch, "total_counts": library}, self.programme.index)
        shuffled = rng.permutation(len(labels))
        genes = [f"g{i}" for i in range(n_genes)]
        self.path = write_h5ad(path, counts[shuffled], obs.iloc[shuffled], genes)
        control = self.mean("control", np.random.default_rng(0))
        self.shift = {c: self.mean(c, np.random.default_rng(0)) - control for c in self.conditions}

    def draw(self, condition, library, programme, rng) -> np.ndarray:
        """Counts of cells of one condition: N × G."""
        moved = sum(self.effect[t] for t in condition.split("+")) if condition != "control" else 0
        rate = np.exp(self.base + moved + programme[:, None] * self.loading) / 1e4
        return rng.poisson(rng.gamma(self.theta, 1 / self.theta, rate.shape) * rate * library[:, None]).astype(float)

    def mean(self, condition: str, rng, n: int = 20_000) -> np.ndarray:
        library = np.rint(rng.lognormal(np.log(4000), 0.4, n))
        counts = self.draw(condition, library, rng.normal(size=n), rng)
        return np.log1p(counts / library[:, None] * 1e4).mean(0)


@pytest.fixture(scope="session")
def planted(tmp_path_factory):
    return Planted(tmp_path_factory.mktemp("planted") / "planted.h5ad")
