"""How hard the simulated weak screen (data=programmes) is, without any model.

Five folds: 80 % of the cells fit the principal components (with controls) and the probe (without), 20 % are asked. The
probe is a multinomial logistic regression with C = 0.01; accuracy over the perturbations (chance .25). The reference
that it is to be as hard as: .56 in 50 principal components, .78 on all genes, k-means near chance.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import adjusted_rand_score
from sklearn.model_selection import StratifiedKFold

from stormcell.data.csr import row_normalise_log1p
from stormcell.data.programmes import simulate_programmes

SEEDS = (0, 1, 2)


def fold(x: np.ndarray, condition: np.ndarray, phase: np.ndarray, train: np.ndarray, test: np.ndarray) -> list[float]:
    """Probe in PCA-50, probe on all genes, k-means in PCA-50 (ARI), phase in PCA-50: N × G → 4 numbers of one fold."""
    pca = PCA(50, svd_solver="randomized", random_state=0).fit(x[train])
    low = pca.transform(x)
    seen, asked = (rows[condition[rows] != "control"] for rows in (train, test))

    def probe(features: np.ndarray, labels: np.ndarray, fitted: np.ndarray, judged: np.ndarray) -> float:
        model = LogisticRegression(C=0.01, max_iter=1000).fit(features[fitted], labels[fitted])
        return model.score(features[judged], labels[judged])

    clusters = KMeans(len(set(condition[asked])), n_init=10, random_state=0).fit_predict(low[asked])
    return [
        probe(low, condition, seen, asked),
        probe(x, condition, seen, asked),
        adjusted_rand_score(condition[asked], clusters),
        probe(low, phase, train, test),
    ]


def main() -> None:
    print("seed  library  nonzero  probe PCA-50  probe genes  k-means ARI  phase probe PCA-50")
    rows = []
    for seed in SEEDS:
        made = simulate_programmes(seed=seed)
        library = made.counts.sum(1).A1
        made.counts.data = row_normalise_log1p(made.counts, library)
        x, condition, phase = (
            made.counts.toarray(),
            made.obs["perturbation"].to_numpy(str),
            made.obs["phase"].to_numpy(),
        )
        folds = StratifiedKFold(5, shuffle=True, random_state=seed).split(x, condition)
        found = np.mean([fold(x, condition, phase, train, test) for train, test in folds], axis=0)
        rows.append([library.mean(), (x > 0).mean(), *found])
        print(f"{seed:4d}  {rows[-1][0]:7.1f}  {rows[-1][1]:7.3f}  {found[0]:12.3f}  {found[1]:11.3f}", end="")
        print(f"  {found[2]:11.3f}  {found[3]:18.3f}")
    pca, genes, ari = np.mean(rows, axis=0)[2:5]
    print(f"mean probe: {pca:.3f} in PCA-50 (reference .56), {genes:.3f} on all genes (.78); k-means ARI {ari:.3f} (0)")


if __name__ == "__main__":
    main()
