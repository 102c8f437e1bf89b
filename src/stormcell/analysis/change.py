"""Differential expression with the background removed: the same cells decoded with their salient part and without it.

For a sampled cell n with one posterior draw (z, t), and shares s = decode(·) of a cell's counts,
    lfc_ng = log2(s_g(z, t) + ε) − log2(s_g(z, 0) + ε)
Change mode: P_g = P(|lfc_g| > δ) over the draws, its log odds (the Bayes factor of change against none), and the
genes of largest P_g for as long as the mean of their 1 − P_g stays within the false discovery rate that is asked for.

That rule believes the model: a salient part that carries noise moves the genes of every cell, half of them up and half
of them down, and is called a change. Control cells decoded likewise (their own t against 0) show that noise:
    effect_g = mean lfc of the cells − mean lfc of the controls,
    p from effect_g / √(var / n + var₀ / n₀) on Welch's degrees of freedom, q by Benjamini–Hochberg
With controls a gene is DE where q is within the rate and |effect| > δ. Without effect this calls at most the rate,
where the first rule calls nearly every gene if the noise is wider than δ (`tests/test_change.py`). It holds for cells
that the model was not fitted to: a classifier on t moves the t of its training cells away from the controls even where
the perturbation does nothing. The decoder errs for all cells alike, which their spread cannot show. What it knows of a
gene it has from the counts of the training cells, so their error joins the other (`rate_error`, of both groups):
    r_g = Σ x_ng / Σ l_n,  Var r_g = Σ (x_ng − r_g l_n)² / (Σ l_n)²,  se log2(r_g + ε) = √Var r_g / ((r_g + ε) ln 2)
A model that shares what it learns among perturbations errs less, so that p is careful.

Shapes: n sampled cells, n₀ control cells, G genes.
Sources: Lopez et al. 2018, Boyeau et al. 2019 (change mode, expected FDR); Welch 1947; Benjamini & Hochberg 1995.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix
from scipy.stats import false_discovery_control
from scipy.stats import t as student

from stormcell.evaluation.profiles import PSEUDOCOUNT

# The same for every group of cells, so that fold changes of two perturbations can be compared: 0.1 counts per 10,000.
OFFSET = PSEUDOCOUNT / 1e4
BLOCK = 512  # genes whose statistics are worked out at a time


def change(
    pairs: Iterable[tuple[np.ndarray, np.ndarray]],
    genes: Sequence[str],
    delta: float = 0.25,
    fdr: float = 0.05,
    offset: float | str = "auto",
    null: np.ndarray | None = None,
    shared_error: np.ndarray | None = None,
) -> pd.DataFrame:
    """One row per gene, in their order; `pairs` are chunks (with, without) of cells × G shares, read once.

    null: n₀ × G, the fold changes of control cells as `log_fold_changes` gives them, with the same offset.
    shared_error: G, the standard error in log2 of what all cells share.
    `scale_*` are mean shares; `is_de_posterior` is the rule of change mode. Where `null` is None `is_de` is the same
    and `effect`, `se`, `p`, `q` are nan, as they are with fewer than 2 cells on a side (then no gene is DE).
    The n × G fold changes are held in float32: 5,000 cells × 5,000 genes take 100 MB, twice that while they are joined.
    Raises ValueError where shapes disagree, there is no cell, or a share is negative or not finite.
    """
    lfc, scales = _collect(pairs, offset, len(genes))
    if null is not None and (null.ndim != 2 or null.shape[1] != len(genes)):
        raise ValueError(f"null {null.shape}, {len(genes)} genes")
    table = pd.concat([_summary(lfc[:, block], delta) for block in _blocks(len(genes))], ignore_index=True)
    table.insert(0, "gene", list(genes))
    table.insert(1, "scale_with", scales[0])
    table.insert(2, "scale_without", scales[1])
    table["expected_fdr"] = expected_fdr(table["proba_de"].to_numpy())
    table["is_de_posterior"] = table["expected_fdr"] <= fdr
    calibrated = np.full((4, len(genes)), np.nan) if null is None else _against(lfc, null, shared_error)
    table[["effect", "se", "p", "q"]] = calibrated.T
    moved = (table["q"] <= fdr) & (table["effect"].abs() > delta)
    table["is_de"] = table["is_de_posterior"] if null is None else moved
    return table


def log_fold_changes(pairs: Iterable[tuple[np.ndarray, np.ndarray]], offset: float | str = "auto") -> np.ndarray:
    """lfc of every sampled cell, n × G float32. "auto" is 0.1 counts per 10,000, as elsewhere in the scoreboard."""
    return _collect(pairs, offset, None)[0]


def expected_fdr(probability: np.ndarray) -> np.ndarray:
    """Expected share of false discoveries if a gene and all of larger probability are called: G → G.

    Genes of equal probability are called together.
    """
    order = np.argsort(-probability, kind="stable")
    running = np.cumsum(1 - probability[order]) / np.arange(1, len(order) + 1)
    last = np.searchsorted(-probability[order], -probability, side="right") - 1
    return running[last]


def _collect(pairs, offset: float | str, n_genes: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Fold changes n × G of all chunks, and the mean shares with and without, 2 × G."""
    epsilon = OFFSET if offset == "auto" else float(offset)
    if not epsilon > 0:
        raise ValueError(f"offset {offset}")
    chunks, total = [], 0.0
    for with_effect, without in pairs:
        sides = np.stack([np.asarray(with_effect, np.float64), np.asarray(without, np.float64)])
        if sides.ndim != 3 or (n_genes is not None and sides.shape[2] != n_genes):
            raise ValueError(f"shares {sides.shape[1:]}, {n_genes} genes")
        if not (np.isfinite(sides).all() and (sides >= 0).all()):
            raise ValueError("shares must be finite and not negative")
        total = total + sides.sum(1)
        chunks.append(np.subtract(*np.log2(sides + epsilon)).astype(np.float32))
    lfc = np.concatenate(chunks) if chunks else np.empty((0, 0))
    if not len(lfc):
        raise ValueError("no cells to decode")
    return lfc, total / len(lfc)


def _blocks(n_genes: int) -> list[slice]:
    return [slice(start, start + BLOCK) for start in range(0, n_genes, BLOCK)]


def _summary(lfc: np.ndarray, delta: float) -> pd.DataFrame:
    """Change mode of some genes: n × G. The log odds add half a draw to both sides, so that they are finite."""
    lfc, n = lfc.astype(np.float64), len(lfc)
    changed = (np.abs(lfc) > delta).sum(0)
    return pd.DataFrame(
        {
            "lfc_mean": lfc.mean(0),
            "lfc_median": np.median(lfc, axis=0),
            "lfc_std": lfc.std(0, ddof=1) if n > 1 else np.nan,
            "lfc_min": lfc.min(0),
            "lfc_max": lfc.max(0),
            "proba_de": changed / n,
            "bayes_factor": np.log(changed + 0.5) - np.log(n - changed + 0.5),
        }
    )


def rate_error(counts: csr_matrix, library: np.ndarray, offset: float = OFFSET) -> np.ndarray:
    """Standard error of log2(rate + offset) of each gene over a group of cells: N × G counts, N libraries → G.

    A gene without counts has the error of one count.
    """
    total = library.sum()
    summed = np.asarray(counts.sum(0), np.float64).ravel()
    rate = summed / total
    square = np.asarray(counts.multiply(counts).sum(0), np.float64).ravel()
    cross = np.asarray(counts.T @ library, np.float64).ravel()
    spread = np.maximum(square - 2 * rate * cross + rate**2 * (library**2).sum(), np.maximum(summed, 1))
    return np.sqrt(spread) / total / ((rate + offset) * np.log(2))


def _against(lfc: np.ndarray, null: np.ndarray, shared: np.ndarray | None) -> np.ndarray:
    """effect, its standard error, p and q of every gene: n × G, n₀ × G → 4 × G. A gene that never moves has p = 1."""
    n, n0 = len(lfc), len(null)
    if min(n, n0) < 2:
        return np.full((4, lfc.shape[1]), np.nan)
    effect = lfc.mean(0, dtype=np.float64) - null.mean(0, dtype=np.float64)
    # numpy's var makes a float64 copy of what it is given, so block by block
    parts = [
        np.concatenate([side[:, block].var(0, ddof=1, dtype=np.float64) for block in _blocks(side.shape[1])])
        / len(side)
        for side in (lfc, null)
    ]
    squared = parts[0] + parts[1] + (0 if shared is None else shared**2)
    with np.errstate(divide="ignore", invalid="ignore"):
        freedom = squared**2 / (parts[0] ** 2 / (n - 1) + parts[1] ** 2 / (n0 - 1))
        p = 2 * student.sf(np.abs(effect) / np.sqrt(squared), freedom)
    p = np.where(squared > 0, p, np.where(effect == 0, 1.0, 0.0))
    return np.stack([effect, np.sqrt(squared), p, false_discovery_control(p)])
