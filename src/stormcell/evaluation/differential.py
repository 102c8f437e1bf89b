"""Differential expression of true and of predicted cells against controls, and how far the two agree.

Both sides are tested alike: Wilcoxon rank-sum per gene, Benjamini–Hochberg over genes; a gene is differentially
expressed (DE) where q < 0.05. The metrics ask whether the genes that are DE in truth are found, ranked and moved the
right way. Every metric is nan where the truth has no DE gene, and where a side is not finite.

Ranks know order alone: control cells moved by a constant have left the tied zeros in every gene that is moved at all,
so on sparse data nearly all their genes are DE, however small the move. Metrics that use the fold change of the
prediction (overlap, precision, direction, Spearman) do not see this; recall and PR-AUC do.

Shapes: n, m cells, G genes. Expression is log1p(counts / library · 1e4).
Sources: Wilcoxon 1945, Mann & Whitney 1947; Benjamini & Hochberg 1995; Adduri et al. 2025 (the metrics: cell-eval).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import issparse
from scipy.stats import false_discovery_control, norm, rankdata
from sklearn.metrics import average_precision_score

from stormcell.compiled import compiled
from stormcell.evaluation.profiles import PSEUDOCOUNT, Cells, at_most, pearson

FDR = 0.05


@dataclass(frozen=True)
class Differential:
    """Each gene of some cells against controls."""

    log_fold_change: np.ndarray  # G  log2 of the ratio of mean counts per 10,000
    score: np.ndarray  # G  −log10 p
    q: np.ndarray  # G  Benjamini–Hochberg


def rank_sum(cells: Cells, controls: Cells) -> Differential:
    """Two-sided Wilcoxon rank-sum test of every gene: n × G, m × G → Differential.

    p by the normal approximation, corrected for ties and continuity; 1 where a gene is constant over both sides.
    Fold change: log2 of (mean(expm1) + 0.1) / (control mean(expm1) + 0.1) in counts per 10,000; 0.1 is the mean of a
    gene that is barely seen, so genes without expression have none; a mean below 0 (predicted cells) counts as 0.
    Of more than 200 cells on a side a fixed random 200 are tested, so that the number of DE genes can be compared.
    All nan with fewer than 2 cells on a side; nan in a gene with a value that is not finite.
    """
    cells, controls = at_most(cells), at_most(controls)
    n, m, n_genes = cells.shape[0], controls.shape[0], cells.shape[1]
    if min(n, m) < 2:
        return Differential(*np.full((3, n_genes), np.nan))
    ranks, ties = _rank_sums(*_by_gene(cells), n, *_by_gene(controls), m)
    p = _two_sided(ranks, ties, n, m)
    q, tested = np.full(n_genes, np.nan), np.isfinite(p)
    if tested.any():
        q[tested] = false_discovery_control(p[tested])
    with np.errstate(invalid="ignore", over="ignore"):
        log_means = [np.log2(np.maximum(_mean_counts(side), 0) + PSEUDOCOUNT) for side in (cells, controls)]
        return Differential(np.where(tested, log_means[0] - log_means[1], np.nan), -np.log10(p), q)


def _by_gene(cells: Cells) -> tuple[np.ndarray, np.ndarray]:
    """Values of each gene one after another, and where each gene begins; what is not stored is zero."""
    if issparse(cells):
        columns = cells.tocsc(copy=True)
        columns.sum_duplicates()
        return columns.data.astype(np.float64), columns.indptr.astype(np.int64)
    n, n_genes = cells.shape
    return np.ascontiguousarray(np.asarray(cells, np.float64).T).ravel(), np.arange(n_genes + 1) * n


def _mean_counts(cells: Cells) -> np.ndarray:
    cells = cells.astype(np.float64)
    return np.asarray((cells.expm1() if issparse(cells) else np.expm1(cells)).mean(axis=0)).ravel()


@compiled
def _rank_sums(x, x_starts, n, y, y_starts, m):
    """Per gene, the sum of the ranks of the x values among all n + m, and Σ t³ − t over groups of t tied values.

    Equal values share their mean rank. The values that are not stored are one group of zeros, never written out.
    nan in a gene with a value that is not finite.
    """
    n_genes = len(x_starts) - 1
    ranks, ties = np.zeros(n_genes), np.zeros(n_genes)
    for g in range(n_genes):
        a, b = np.sort(x[x_starts[g] : x_starts[g + 1]]), np.sort(y[y_starts[g] : y_starts[g + 1]])
        if not (np.isfinite(a).all() and np.isfinite(b).all()):
            ranks[g] = np.nan
            continue
        i, j, below, zeros_to_come = 0, 0, 0, True
        while i < len(a) or j < len(b) or zeros_to_come:
            value = np.inf
            if i < len(a):
                value = a[i]
            if j < len(b):
                value = min(value, b[j])
            in_x, in_y = 0, 0
            if zeros_to_come and value >= 0:
                value, in_x, in_y, zeros_to_come = 0.0, n - len(a), m - len(b), False
            while i < len(a) and a[i] == value:
                i, in_x = i + 1, in_x + 1
            while j < len(b) and b[j] == value:
                j, in_y = j + 1, in_y + 1
            tied = np.float64(in_x + in_y)
            ranks[g] += in_x * (below + (tied + 1) / 2)
            ties[g] += tied**3 - tied
            below += in_x + in_y
    return ranks, ties


def _two_sided(ranks: np.ndarray, ties: np.ndarray, n: int, m: int) -> np.ndarray:
    """p of each rank sum: G, G → G."""
    total = n + m
    distance = np.abs(ranks - n * (total + 1) / 2) - 0.5
    spread = np.sqrt(n * m / 12 * (total + 1 - ties / (total * (total - 1))))
    z = np.divide(distance, spread, out=np.zeros_like(spread), where=spread > 0)
    return np.minimum(2 * norm.sf(np.where(np.isfinite(ranks), z, np.nan)), 1)


def n_significant(differential: Differential) -> int:
    """Number of DE genes; a gene that could not be tested is none."""
    return int((differential.q < FDR).sum())


def de_overlap(true: Differential, predicted: Differential, fdr: float = FDR) -> float:
    """Share of the N genes of largest predicted |fold change| that are DE in truth; N = number of true DE genes.

    Chance is N / G. Of genes with the same predicted |fold change|, the mean over their orders is taken: a prediction
    without a fold change is at chance.
    """
    positive = _positive(true, predicted, fdr)
    return np.nan if positive is None else _top_share(predicted, positive, int(positive.sum()))


def de_precision(true: Differential, predicted: Differential, k: int = 50) -> float:
    """Share of the k genes of largest predicted |fold change| that are DE in truth; k is cut to G, ties as above.

    Chance is N / G, and N / k the most that can be reached where the truth has N < k DE genes.
    """
    positive = _positive(true, predicted)
    return np.nan if positive is None else _top_share(predicted, positive, min(k, positive.size))


def de_recall(true: Differential, predicted: Differential) -> float:
    """Share of the true DE genes that are DE in the prediction too."""
    positive = _positive(true, predicted)
    return np.nan if positive is None else float((predicted.q < FDR)[positive].mean())


def de_direction(true: Differential, predicted: Differential) -> float:
    """Share of the true DE genes whose predicted fold change has the true sign; one without a sign has not."""
    positive = _positive(true, predicted)
    if positive is None:
        return np.nan
    return float((np.sign(true.log_fold_change) == np.sign(predicted.log_fold_change))[positive].mean())


def de_spearman(true: Differential, predicted: Differential) -> float:
    """Spearman correlation of true and predicted fold change over the true DE genes; nan where a side is constant."""
    positive = _positive(true, predicted)
    if positive is None:
        return np.nan
    return float(pearson(*(rankdata(side.log_fold_change[positive]) for side in (true, predicted))))


def de_pr_auc(true: Differential, predicted: Differential) -> float:
    """Average precision of the true DE genes when genes are ranked by their predicted −log10 p; chance is N / G.

    p and q give the same order, but q has more ties. nan also where every gene is DE.
    """
    positive = _positive(true, predicted)
    return np.nan if positive is None or positive.all() else float(average_precision_score(positive, predicted.score))


def _positive(true: Differential, predicted: Differential, fdr: float = FDR) -> np.ndarray | None:
    """The true DE genes, G bool; None where a metric is not defined."""
    positive = true.q < fdr
    sides = [values for side in (true, predicted) for values in (side.log_fold_change, side.q)]
    return positive if positive.any() and np.isfinite(sides).all() else None


def _top_share(predicted: Differential, positive: np.ndarray, k: int) -> float:
    """Share of `positive` among the k genes of largest predicted |fold change|, the mean over orders of equal ones."""
    size = np.abs(predicted.log_fold_change)
    limit = np.partition(size, -k)[-k]
    above, tied = size > limit, size == limit
    return float((positive[above].sum() + (k - above.sum()) * positive[tied].mean()) / k)
