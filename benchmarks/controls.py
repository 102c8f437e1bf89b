"""What shared controls do to a shift correlation: the additive prediction of five pairs of Norman et al. 2019.

STORMCELL_DATA=… python benchmarks/controls.py [--draws 200] [--figure docs/shared_controls.png]

    shared      predicted and true shift subtract the same 100 control cells, as the field does it
    separate    50 controls for the prediction, 50 others for the truth; mean and standard deviation over the draws

Pearson r over all 500 genes, and over the 496 that are left without the four that hold 85 % of the squared shift.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from scipy.sparse import csr_matrix

from stormcell.config import DataConfig
from stormcell.data.cells import Cells, read
from stormcell.data.csr import row_normalise_log1p
from stormcell.evaluation.profiles import mean_profile, pearson
from stormcell.report.drawing import BASELINE, MODEL, SMALL, TEXT, dress, new_figure, settle

PAIRS = ("KLF1+MAP2K6", "KLF1+TGFBR2", "MAP2K3+MAP2K6", "MAP2K3+SLC38A2", "MAPK1+TGFBR2")
DOMINATING = ("HBZ", "HBG2", "TMSB4X", "H4C3")


def expression(cells: Cells) -> csr_matrix:
    values = row_normalise_log1p(cells.X, cells.obs["library"].to_numpy())
    return csr_matrix((values, cells.X.indices, cells.X.indptr), cells.X.shape)


def correlations(means: dict[str, np.ndarray], predicting: np.ndarray, true: np.ndarray, genes: np.ndarray) -> list:
    """Additive prediction against each pair, with a control mean for either side: r of the five pairs."""
    found = []
    for pair in PAIRS:
        first, second = pair.split("+")
        predicted = means[first] + means[second] - 2 * predicting
        found.append(float(pearson(predicted[genes], (means[pair] - true)[genes])))
    return found


def figure(shared: dict, separate: dict, path: Path) -> None:
    fall = np.mean(shared["496 genes"]) - separate["496 genes"].mean()
    title = f"A truth with controls of its own takes {fall:.2f} off the additive r (496 genes)"
    drawing = new_figure(10, 4.4, title, "Norman et al. 2019, five pairs; mean and standard deviation over the draws.")
    panels = drawing.subplots(1, 2, sharey=True)
    places = np.arange(len(PAIRS))
    for axes, genes in zip(panels, shared, strict=True):
        mean, sd = separate[genes].mean(0), separate[genes].std(0)
        dress(axes, f"{genes}: {np.mean(shared[genes]):.2f} to {mean.mean():.2f}")
        axes.hlines(places, mean, shared[genes], color="0.8", linewidth=2, zorder=0)
        axes.errorbar(mean, places, xerr=sd, fmt="o", color=MODEL, ms=8, capsize=3, label="controls of its own")
        axes.plot(shared[genes], places, "s", color=BASELINE, ms=8, label="the same controls")
        axes.set_yticks(places, PAIRS, fontsize=SMALL)
        axes.set_xlim(-0.15, 1.02)
        axes.set_xlabel("Pearson r of predicted and true shift", fontsize=TEXT)
    panels[0].invert_yaxis()
    drawing.legend(
        *panels[0].get_legend_handles_labels(), loc="outside lower left", ncols=2, fontsize=SMALL, frameon=False
    )
    settle(drawing)
    path.parent.mkdir(parents=True, exist_ok=True)
    drawing.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--figure", type=Path)
    asked = parser.parse_args()
    cells = read(DataConfig(name="norman", path="norman2019_k562_34perts.h5ad", library_key="total_counts"))
    X, condition = expression(cells), cells.obs["condition"].to_numpy(str)
    needed = {name for pair in PAIRS for name in (pair, *pair.split("+"))}
    means = {name: mean_profile(X[condition == name]) for name in needed}
    controls = X[condition == cells.control]
    rest = ~np.isin(cells.genes, DOMINATING)
    sets = {"500 genes": np.ones(len(rest), bool), "496 genes": rest}
    whole = mean_profile(controls)
    shared = {name: correlations(means, whole, whole, genes) for name, genes in sets.items()}
    rng, half = np.random.default_rng(1), controls.shape[0] // 2
    separate: dict[str, list] = {name: [] for name in sets}
    for _ in range(asked.draws):
        order = rng.permutation(controls.shape[0])
        one, other = mean_profile(controls[order[:half]]), mean_profile(controls[order[half:]])
        for name, genes in sets.items():
            separate[name].append(correlations(means, one, other, genes))
    drawn = {name: np.array(values) for name, values in separate.items()}
    print(f"{'':34s}" + "  ".join(f"{pair:>14s}" for pair in PAIRS))
    for name in sets:
        print(f"{name}, shared controls".ljust(34) + "  ".join(f"{r:14.2f}" for r in shared[name]))
        row = zip(drawn[name].mean(0), drawn[name].std(0), strict=True)
        print(f"{name}, {half} + {half} separate".ljust(34) + "  ".join(f"{m:7.2f} ± {s:4.2f}" for m, s in row))
    print(f"{asked.draws} draws")
    if asked.figure:
        figure(shared, drawn, asked.figure)


if __name__ == "__main__":
    main()
