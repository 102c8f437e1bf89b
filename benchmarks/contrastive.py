"""The contrastive VAE on held-out cells of four data sets and a simulated screen, three seeds, beside its baselines.

STORMCELL_DATA=… python benchmarks/contrastive.py [--only kang_latents] [--folder runs] [--scvi]

Each line is the mean over seeds of what `python train.py experiment=NAME seed=S` writes into scoreboard.csv; with
--folder runs that are there are read and not made again. --scvi adds scvi-tools' ContrastiveVI (extra `bench`), W2
penalty 0 and warm-up over 400 epochs as it comes, on the same cells.

On the simulated screen also: how well the planted genes are ranked (average precision over 2,000 genes, chance .03) by
the change decoded with and without the salient part on held-out cells, by Wilcoxon tests on all cells, and by the mean
shift rebuilt from 50 principal components. On all 25 knock-outs of Papalexi: genes called where nothing happens.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import mannwhitneyu
from sklearn.decomposition import PCA
from sklearn.metrics import average_precision_score

from stormcell import checkpoint
from stormcell.evaluation.latent import Space, latent_scores
from stormcell.examine import data_of
from stormcell.judge_latents import _cells, cell_labels, phenotypes

SEEDS = 1, 2, 3
EXPERIMENTS = "papalexi_latents", "norman_latents", "kang_latents", "programmes", "papalexi_all"
COLUMNS = {
    "probe": "probe",
    "ari": "ARI",
    "ari_merged": "merged",
    "background_auc": "background AUC",
    "background_auc_knn": "k-NN",
    "control_norm": "control norm",
    "batch_leak": "batch in t",
    "phase_leak": "phase in t",
    "library_leak": "library in t",
    "background_phase": "phase in z",
}
EFFECT = ["JAK2", "IFNGR2", "IFNGR1", "STAT1", "SMAD4", "IRF1", "CUL3", "STAT2", "BRD4"]
SCVI = "scvi-tools ContrastiveVI"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=EXPERIMENTS)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--scvi", action="store_true")
    given = parser.parse_args()
    folder = given.folder or Path(tempfile.mkdtemp())
    for name in [given.only] if given.only else EXPERIMENTS:
        runs = [run(folder, name, seed) for seed in SEEDS]
        boards = [pd.read_csv(one / "scoreboard.csv") for one in runs]
        if given.scvi:
            boards = [pd.concat([board, scvi_row(one)]) for board, one in zip(boards, runs, strict=True)]
        print(f"\n{name}\n{table(boards)}")
        if name == "programmes":
            planted(runs)
        if name == "papalexi_all":
            called(runs)


def run(folder: Path, name: str, seed: int) -> Path:
    """The folder of a run, made where it is not there yet."""
    place = folder / f"{name}{seed}"
    if not (place / "metrics.json").is_file():
        train = str(Path(__file__).parents[1] / "train.py")
        words = [f"experiment={name}", f"seed={seed}", f"hydra.run.dir={place.resolve()}", "embedding=pca"]
        subprocess.run([sys.executable, train, *words], check=True, stdout=subprocess.DEVNULL)
    return place


def table(boards: list[pd.DataFrame]) -> str:
    """Means over seeds, and the range of the model's own."""
    every = pd.concat(boards)
    shown = [column for column in COLUMNS if every[column].notna().any()]
    lines = ["| | " + " | ".join(COLUMNS[column] for column in shown) + " |", "|---" * (len(shown) + 1) + "|"]
    for method, rows in every.groupby("method", sort=False):
        cells = [f"{rows[c].mean():.3f}" if rows[c].notna().any() else "-" for c in shown]
        if method == "contrastive":
            cells = [f"{m} ({rows[c].min():.3f} to {rows[c].max():.3f})" for m, c in zip(cells, shown, strict=True)]
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def load(run: Path):
    """The best checkpoint of a run."""
    return checkpoint.load(run / "checkpoints" / "best.ckpt")


def planted(runs: list[Path]) -> None:
    """Average precision of the planted genes."""
    found: dict[str, list[float]] = {"decoded change": [], "Wilcoxon, all cells": [], "PCA-50 shift": []}
    called_right, called_wrong = [], []
    for one in runs:
        data = data_of(load(one))
        truth, de = data.cells.truth["lfc"], pd.read_csv(one / "tables" / "de.csv")
        control = data.condition == data.cells.control
        expression = data.expression.toarray()
        train = np.isin(np.arange(len(control)), data.rows["train"])
        pca = PCA(50, random_state=0).fit(expression[train])
        rebuilt = pca.inverse_transform(pca.transform(expression))
        for name, lfc in truth.items():
            right, mine = lfc != 0, data.condition == name
            rows = de[de["condition"] == name]
            z = (rows["effect"].abs() / rows["se"]).fillna(0).clip(upper=1e6)  # se = 0: the model never saw the gene
            found["decoded change"].append(average_precision_score(right, z.to_numpy()))
            p = np.nan_to_num(mannwhitneyu(expression[mine], expression[control], axis=0).pvalue.astype(float), nan=1.0)
            found["Wilcoxon, all cells"].append(average_precision_score(right, -p))
            shift = rebuilt[mine & train].mean(0) - rebuilt[control & train].mean(0)
            found["PCA-50 shift"].append(average_precision_score(right, np.abs(shift)))
            is_de = rows["is_de"].to_numpy(bool)
            called_right.append((is_de & right).sum()), called_wrong.append((is_de & ~right).sum())
    print("\naverage precision of the planted genes, mean over perturbations and seeds")
    for name, values in found.items():
        print(f"  {name:22s} {np.mean(values):.3f}")
    share = np.sum(called_wrong) / max(np.sum(called_wrong) + np.sum(called_right), 1)
    print(f"  called at 5 % FDR: {np.mean(called_right):.1f} of 60 right, {share:.2f} of all called wrong")


def called(runs: list[Path]) -> None:
    """DE genes of the knock-outs without a measurable effect, the target itself excepted."""
    counts, strong = [], []
    for one in runs:
        de = pd.read_csv(one / "tables" / "de.csv")
        de = de[de["is_de"] & (de["gene"] != de["condition"])].groupby("condition").size()
        names = pd.read_csv(one / "tables" / "de.csv", usecols=["condition"])["condition"].unique()
        counts += [int(de.get(name, 0)) for name in names if name not in EFFECT]
        strong += [int(de.get(name, 0)) for name in EFFECT]
    print(f"\nDE genes of 299: median {np.median(counts):.0f}, largest {max(counts)}, of 16 knock-outs without effect")
    print(f"              median {np.median(strong):.0f}, largest {max(strong)}, of the 9 with one")


def scvi_row(run: Path) -> pd.DataFrame:
    """The line of scvi-tools on the cells of a run."""
    import anndata as ad
    from contrastive_vs_scvi import scvi_spaces

    model = load(run)
    data = data_of(model)
    parts = _cells(data)
    labels = [cell_labels(data, rows, phenotypes(model)) for rows in parts]
    obs = data.cells.obs
    batch = "batch" if "batch" in obs and obs["batch"].nunique() > 1 else None
    cells = [ad.AnnData(data.cells.X[rows], obs=obs.iloc[rows].astype(str)) for rows in parts]
    for one, rows in zip(cells, parts, strict=True):
        one.obs["is_control"] = obs["is_control"].to_numpy()[rows]
    background, salient = scvi_spaces(*cells, seed=model.seed, batch_key=batch)
    spaces = [Space(salient=t, background=z) for t, z in zip(salient, background, strict=True)]
    scores = latent_scores(*spaces, *labels, model.seed)
    return pd.DataFrame([{"method": SCVI, **{name: value[0] for name, value in scores.items()}}])


if __name__ == "__main__":
    main()
