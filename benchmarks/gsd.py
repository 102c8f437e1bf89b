"""BEELINE's example file of gonadal sex determination (GSD): 2,000 cells, 19 genes, 76 edges, two lineages.

    STORMCELL_DATA=folder/of/the/files python benchmarks/gsd.py
    python benchmarks/gsd.py simulated      simulated cells of the four networks, on which the estimators were chosen

Protocol: 10 bins of equal size along the pseudotime of each lineage, a transition is a bin and the next one; genes are
scaled by their standard deviation over all cells, which is also the space of the cost; all 19 genes may regulate; self
edges are never scored. "bins" is the mean of the networks of 5, 10 and 20 bins, each scaled to a mean square of 1.

    plain       one ridge regression on the moments of all transitions, the self edge left out
    strength    Σ_t n_t |w_t| / Σ_t n_t over a ridge regression of every transition, the self edge a nuisance
    λ           by GCV on the effective number of cells. With S the rows of the plan as weights, the barycentres S y
                have errors of covariance S Sᵀ = K: as good as (tr K)² / tr K² independent ones, not one per cell
    centred     every transition around its own means; pooled: around the means of all, so that the changes of the
                means between bins, which random pairs have too, count as well
    sign        of the weight, of the marginal covariance of x_i and y_j (centred), and of the exported one: the same
                covariance around the means of all transitions
Random pairs are sampled, n_a a transition, mean of 5 seeds: their exact moments are 0. They are the null of every
score, and on this file the centred AUPRC does not tell Sinkhorn from them: the noise of a weight follows the variances
of its two genes, and the product of the variances alone ("variance product") ranks the true edges as well. What the
coupling adds here is in the signs. On the simulated cells of VSC and HSC it is in the AUPRC too. Estimators that are as
good there (mean square in place of |w|, a fixed λ, without the self edge) have centred AUPRC .25 to .37 here: one file.

AUPRC in steps; in brackets trapezoids between the points of the curve, as in figures elsewhere.
"""

from __future__ import annotations

import os
import sys

os.environ.setdefault("OMP_NUM_THREADS", "1")

import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix, issparse
from sklearn.metrics import auc, precision_recall_curve

from stormcell.analysis.couplings import Coupling, Nearest, Random, Sinkhorn
from stormcell.analysis.mask import Mask
from stormcell.analysis.masked_ridge import Moments, choose_ridge, moments, solve
from stormcell.data.boolean import NETWORKS
from stormcell.data.boolean_cells import UNDECIDED, simulate_boolean
from stormcell.evaluation.network import recovery
from stormcell.evaluation.network_rivals import (
    centred,
    partial_correlation,
    pearson,
    spearman,
    trees,
    within_state_ridge,
)

BINS, SEEDS, N_TREES = (5, 10, 20), range(5), 500
SCORES = ("plain, pooled", "plain, centred", "strength, centred")
SIGNS = ("sign of weight", "marginal sign", "exported sign")


def read(folder: Path) -> tuple[np.ndarray, list[np.ndarray], np.ndarray]:
    """Cells N × G, the cells of each lineage in the order of pseudotime, signed truth G × G without self edges."""
    x = pd.read_csv(folder / "beeline_gsd_ExpressionData.csv.gz", index_col=0).T
    pseudotime = pd.read_csv(folder / "beeline_gsd_PseudoTime.csv.gz", index_col=0).loc[x.index].to_numpy()
    edges = pd.read_csv(folder / "beeline_gsd_refNetwork.csv")
    truth = np.zeros((x.shape[1],) * 2, int)
    rows, columns = (x.columns.get_indexer(edges[side]) for side in ("Gene1", "Gene2"))
    truth[rows, columns] = np.where(edges["Type"] == "+", 1, -1)
    np.fill_diagonal(truth, 0)
    lineages = [np.argsort(times, kind="stable")[: np.isfinite(times).sum()] for times in pseudotime.T]
    return x.to_numpy(np.float64), lineages, truth


def simulate(network: str, seed: int) -> tuple[np.ndarray, list[np.ndarray], np.ndarray]:
    """The same of 2,000 simulated cells, their time blurred by a twentieth of the duration.

    A lineage is a branch of 100 cells or more, with the cells that have not parted yet.
    """
    duration = NETWORKS[network].duration
    cells = simulate_boolean(network, n_cells=50, n_snapshots=40, step=round(duration / 40, 2), seed=seed)
    time, branch = cells.obs["time"].to_numpy(), cells.obs["branch"].to_numpy()
    time = time + np.random.default_rng(seed).normal(0, duration / 20, len(time))
    names, counts = np.unique(branch[branch != UNDECIDED], return_counts=True)
    members = [np.flatnonzero(np.isin(branch, (name, UNDECIDED))) for name in names[counts >= 100]]
    truth = cells.truth["network"].astype(int) * (1 - np.eye(len(cells.genes), dtype=int))
    return cells.matrix.toarray().astype(np.float64), [own[np.argsort(time[own])] for own in members], truth


def couple(x: np.ndarray, y: np.ndarray, rule, seed: int) -> Coupling:
    """The rule's plan; of Random as many pairs as source cells."""
    coupling = rule(x, y, seed=seed)
    if not isinstance(rule, Random):
        return coupling
    pairs = np.arange(len(x)), np.random.default_rng(seed).integers(len(y), size=len(x))
    return Coupling.of(csr_matrix((np.full(len(x), 1 / len(x)), pairs), (len(x), len(y))), "random pairs")


def effective_cells(coupling: Coupling) -> float:
    """(tr K)² / tr K² with K = S Sᵀ, S the rows of the plan over their sums."""
    plan = coupling.plan.toarray() if issparse(coupling.plan) else coupling.plan
    share = plan[coupling.source > 0] / coupling.source[coupling.source > 0][:, None]
    shared = share @ share.T
    return float(np.trace(shared) ** 2 / np.square(shared).sum())


def pool(parts: list[Moments], between: bool) -> Moments:
    """Moments of all transitions together, by default around the means of each; `between` adds those of the means."""
    n = np.array([part.n for part in parts])
    share = n / n.sum()
    names = ("xx", "xg", "gg", "xy", "gy", "yy", "mean_x", "mean_y")
    found = {name: np.tensordot(share, [getattr(part, name) for part in parts], 1) for name in names}
    if between:
        x, y = (np.array([getattr(part, name) for part in parts]) - found[name] for name in ("mean_x", "mean_y"))
        regulators, weighted = parts[0].regulators, x * share[:, None]
        found["xx"] += x[:, regulators].T @ weighted[:, regulators]
        found["xg"] += weighted[:, regulators].T @ x
        found["gg"] += share @ np.square(x)
        found["xy"] += weighted[:, regulators].T @ y
        found["gy"] += share @ (x * y)
        found["yy"] += share @ np.square(y)
    return replace(parts[0], n=float(n.sum()), **found)


def plain(parts: list[Moments], effective: list[float], mask: Mask, between: bool) -> np.ndarray:
    """E weights of one regression on the moments of all transitions."""
    together = pool(parts, between)
    ridge, _ = choose_ridge(replace(together, n=sum(effective)), mask, self_edge=False)
    return solve(together, mask, ridge, self_edge=False).values


def strength(parts: list[Moments], effective: list[float], mask: Mask) -> np.ndarray:
    """E mean absolute weights over the transitions with the sign of the mean weight. It has no pooled form."""
    each = []
    for part, n in zip(parts, effective, strict=True):
        ridge, _ = choose_ridge(replace(part, n=n), mask, self_edge=True)
        each.append(solve(part, mask, ridge, self_edge=True).values)
    share = [part.n for part in parts]
    return np.average(np.abs(each), axis=0, weights=share) * np.sign(np.average(each, axis=0, weights=share))


def networks(x: np.ndarray, lineages: list[np.ndarray], rule, n: int, mask: Mask, seed: int) -> dict[str, np.ndarray]:
    """name → G × G: the weights of either estimator, pooled and centred, and both marginal covariances."""
    parts, effective = [], []
    for lineage in lineages:
        for a, b in pairwise(np.array_split(lineage, n)):
            coupling = couple(x[a], x[b], rule, seed)
            parts.append(moments(x[a], x[b], coupling, mask.regulators))
            effective.append(effective_cells(coupling))
    found = [plain(parts, effective, mask, between) for between in (True, False)] + [strength(parts, effective, mask)]
    dense = {name: mask.dense(values) for name, values in zip(SCORES, found, strict=True)}
    return dense | {SIGNS[1]: pool(parts, False).xy, SIGNS[2]: pool(parts, True).xy}


def row(score: np.ndarray, truth: np.ndarray, signs: dict[str, np.ndarray]) -> dict[str, float]:
    """The metrics of one network, and the accuracy of each kind of sign."""
    found, off = recovery(score, truth), ~np.eye(len(truth), dtype=bool)
    precision, recall, _ = precision_recall_curve(truth[off] != 0, np.abs(score[off]).round(12))
    shown = {"AUPRC": found["auprc"], "(trapezoids)": auc(recall, precision), "ratio": found["auprc_ratio"]}
    shown |= {"EPR": found["early_precision_ratio"], "signed EPR": found["signed_early_precision_ratio"]}
    for name, sign in signs.items():
        accuracy = recovery(score, truth, sign=sign)
        shown |= {name: accuracy["sign_accuracy"], f"{name}, balanced": accuracy["balanced_sign_accuracy"]}
    return shown


def coupled(x: np.ndarray, lineages: list[np.ndarray], truth: np.ndarray, mask: Mask) -> pd.DataFrame:
    """One row for each coupling, estimator and number of bins."""
    rules = {"Sinkhorn .05": Sinkhorn(0.05), "random pairs": Random(), "nearest": Nearest(1)}
    rows, z = [], x / x.std(0)
    for name, rule in rules.items():
        for seed in SEEDS if name == "random pairs" else SEEDS[:1]:
            found = {str(n): networks(z, lineages, rule, n, mask, seed) for n in BINS}
            found["bins"] = {key: sum(_unit(made[key]) for made in found.values()) for key in found["10"]}
            for n, made in found.items():
                for key in SCORES:
                    signs = dict(zip(SIGNS, (made[key], made[SIGNS[1]], made[SIGNS[2]]), strict=True))
                    rows.append({"method": name, "score": key, "bins": n, **row(made[key], truth, signs)})
    return pd.DataFrame(rows).groupby(["method", "score", "bins"], sort=False).mean().reset_index()


def uncoupled(x: np.ndarray, lineages: list[np.ndarray], truth: np.ndarray, mask: Mask) -> pd.DataFrame:
    """Networks from the same cells without a coupling; a cell of both lineages has the bin of the last one."""
    state = np.zeros(len(x), int)
    for number, cells in enumerate(cells for lineage in lineages for cells in np.array_split(lineage, 10)):
        state[cells] = number
    low, rows = centred(x, state), []
    methods: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "Pearson": lambda cells: pearson(cells, mask),
        "Spearman": lambda cells: spearman(cells, mask),
        "partial correlation": lambda cells: partial_correlation(cells, mask),
        "ridge within states": lambda cells: within_state_ridge(cells, state, mask, 0.1),
        "GENIE3": lambda cells: trees(cells, mask, "genie3", N_TREES),
        "GRNBoost2": lambda cells: trees(cells, mask, "grnboost2", N_TREES),
        "variance product": lambda cells: mask.dense(
            np.multiply.outer(*[cells.var(0)] * 2)[mask.regulator, mask.target]
        ),
    }
    unsigned = ("GENIE3", "GRNBoost2", "variance product")
    for name, method in methods.items():
        for key, cells in (("pooled", x), ("centred", low)):
            if name == "ridge within states" and key == "pooled":
                continue  # it is centred by itself
            score = method(cells)
            signs = {} if name in unsigned else {SIGNS[0]: score}
            rows.append({"method": name, "score": key, "bins": "10", **row(score, truth, signs)})
    return pd.DataFrame(rows)


def simulated() -> pd.DataFrame:
    """AUPRC ratio and sign accuracy of the weights on every simulated network, mean over 5 seeds."""
    rows = []
    for network in NETWORKS:
        for seed in SEEDS:
            x, lineages, truth = simulate(network, seed)
            mask = Mask.full(x.shape[1], range(x.shape[1]))
            for name, rule in (("Sinkhorn .05", Sinkhorn(0.05)), ("random pairs", Random())):
                made = networks(x / x.std(0), lineages, rule, 10, mask, seed)
                for key in SCORES:
                    found = row(made[key], truth, {"sign": made[key]})
                    rows.append({"method": name, "score": key, "network": network, **found})
    return pd.DataFrame(rows).pivot_table(["ratio", "sign"], ["method", "score"], "network")


def _unit(network: np.ndarray) -> np.ndarray:
    return network / np.sqrt(np.square(network).mean())


def main() -> None:
    started = time.perf_counter()
    if sys.argv[1:] == ["simulated"]:
        print(simulated().to_string(float_format="%.2f"))
        return
    x, lineages, truth = read(Path(os.environ["STORMCELL_DATA"]))
    mask = Mask.full(x.shape[1], range(x.shape[1]))
    table = pd.concat([coupled(x, lineages, truth, mask), uncoupled(x, lineages, truth, mask)], ignore_index=True)
    print(table.to_string(index=False, float_format="%.3f", na_rep="-"))
    ten = table[table.bins == "10"].set_index(["method", "score"])
    print(f"{time.perf_counter() - started:.0f} s")
    for score, bar in (("strength, centred", 0.325), ("plain, pooled", 0.39)):
        ours, null = (ten.loc[(method, score)] for method in ("Sinkhorn .05", "random pairs"))
        print(f"{score}: AUPRC {ours['AUPRC']:.3f} (bar {bar}), random pairs {null['AUPRC']:.3f}", end="; ")
        print(f"sign of weight {ours[SIGNS[0]]:.2f}, random pairs {null[SIGNS[0]]:.2f}")
    print(f"exported sign {ours[SIGNS[2]]:.2f} (bar .90), random pairs {null[SIGNS[2]]:.2f}")


if __name__ == "__main__":
    main()
