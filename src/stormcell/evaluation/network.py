"""Is the network right, does it predict, is it stable, and does it agree with what is known?

Every ordered pair of genes without itself is a candidate edge, unless a set of candidates is given. Edges are ranked by
|score|; the sign of the score is the predicted sign. With K true edges among N candidates, density d = K / N:
    AUPRC = Σ_k (recall_k − recall_k−1) precision_k            (average precision; ties form one step), chance d
    early precision = share of true edges among the K first     (ties at the threshold in expectation), chance d
    signed early precision: the same for the K₊ activating edges with the inhibiting ones taken off the list, and the
        other way round; the predicted sign plays no part
A score that is NaN is 0: no opinion. So constant and missing scores are at chance.

Shapes: G genes, E edges, N cells; rows of G × G regulate columns.
Sources: Pratapa et al. 2020 (BEELINE: early precision and its signed form); Davis & Goadrich 2006 (no linear
interpolation between points of a precision-recall curve, which rewards ties).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np

CONSTANT = 1e-6  # a gene whose variance is below this share of the mean variance says nothing about the fit
DIGITS = 9  # |scores| are equal where they agree to so many digits of the largest: r_ij and r_ji differ by rounding


def recovery(
    score: np.ndarray,
    truth: np.ndarray,
    candidates: np.ndarray | None = None,
    regulators: Sequence[int] | None = None,
    sign: np.ndarray | None = None,
) -> dict[str, float]:
    """score G × G, truth G × G of −1, 0, 1, candidates G × G bool, gene numbers that may regulate → the metrics.

    `sign` G × G is the predicted sign where it is not that of the score (a marginal sign beside a conditional weight).
    `unsigned` counts the true edges without a predicted sign, which the sign accuracies leave out; these are nan
    where no true edge has one, and the balanced one is the mean over the kinds of edges that occur.
    Raises ValueError for other shapes, other signs in the truth, and candidates without a true edge.
    """
    score, truth, asked = _network(score), np.asarray(truth), _candidates(np.shape(truth), candidates, regulators)
    sign = np.sign(score if sign is None else _network(sign))
    if not score.shape == sign.shape == truth.shape or not np.isin(truth, (-1, 0, 1)).all():
        raise ValueError(f"score {score.shape}, sign {sign.shape}, truth {truth.shape} with values of −1, 0 and 1")
    strength, truth, sign = _ties(np.abs(score[asked])), truth[asked], sign[asked]
    true = truth != 0
    if not true.any():
        raise ValueError("no true edge among the candidates")
    density, auprc, early = true.mean(), average_precision(strength, true), early_precision(strength, true)
    kinds = {"activating": truth > 0, "inhibiting": truth < 0}
    signed, ratio = {}, {}
    for kind, own in kinds.items():
        left = own | ~true
        signed[kind] = early_precision(strength[left], own[left]) if own.any() else np.nan
        ratio[kind] = signed[kind] / own[left].mean() if own.any() else np.nan
    return {
        "auprc": auprc,
        "auprc_ratio": auprc / density,
        "early_precision": early,
        "early_precision_ratio": early / density,
        "signed_early_precision": _mean(signed.values()),
        "signed_early_precision_ratio": _mean(ratio.values()),
        **{f"early_precision_{kind}": value for kind, value in signed.items()},
        **{f"early_precision_ratio_{kind}": value for kind, value in ratio.items()},
        **sign_accuracies(sign, truth),
        "n_edges": int(true.sum()),
        "density": float(density),
    }


def average_precision(strength: np.ndarray, true: np.ndarray) -> float:
    """Area under the precision-recall curve: E numbers, E bool → one number; ties are one step of the curve."""
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(true, strength))


def early_precision(strength: np.ndarray, true: np.ndarray) -> float:
    """Share of true edges among the first k, k the number of true edges: E numbers, E bool → one number.

    Of edges tied at the threshold as many are taken as are missing to k, each with equal probability: the expectation.
    """
    k = int(true.sum())
    threshold = np.partition(strength, -k)[-k]
    above, tied = strength > threshold, strength == threshold
    return float((true[above].sum() + (k - above.sum()) * true[tied].mean()) / k)


def sign_accuracies(sign: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Predicted and true signs E (0: none) → accuracy over the true edges that have a predicted sign, the mean of the
    accuracies over activating and over inhibiting ones, and the number of true edges without a predicted sign."""
    asked = (truth != 0) & (sign != 0)
    right = np.sign(sign) == np.sign(truth)
    kinds = [right[asked & (np.sign(truth) == kind)] for kind in (1, -1)]
    return {
        "sign_accuracy": float(right[asked].mean()) if asked.any() else np.nan,
        "balanced_sign_accuracy": _mean(kind.mean() for kind in kinds if len(kind)),
        "unsigned": int((truth != 0).sum() - asked.sum()),
    }


def r_squared(
    true: np.ndarray, predicted: np.ndarray, weights: np.ndarray | None = None, mean: np.ndarray | None = None
) -> np.ndarray:
    """1 − Σ_n w_n (y − ŷ)² / Σ_n w_n (y − ȳ)² of each gene: N × G, N × G, weights of the cells N → G.

    ȳ is the mean of these cells, or `mean` (G): of the training cells, so that predicting it scores 0. nan for a
    (near-)constant gene, whose score would be a quotient of rounding errors.
    """
    error, spread = _squares(true, predicted, weights, mean)
    found = np.full(len(error), np.nan)
    varies = _varies(true, spread)
    found[varies] = 1 - error[varies] / spread[varies]
    return found


def r_squared_summary(
    true: np.ndarray, predicted: np.ndarray, weights: np.ndarray | None = None, mean: np.ndarray | None = None
) -> dict[str, float]:
    """R² of the median gene, over all genes by their variance, share of genes above 0, and genes left out as constant.

    No plain mean over genes: a single gene that hardly varies would own it.
    """
    error, spread = _squares(true, predicted, weights, mean)
    varies, each = _varies(true, spread), r_squared(true, predicted, weights, mean)
    if not varies.any():
        return {"median_gene": np.nan, "variance_weighted": np.nan, "share_above_0": np.nan, "constant": len(each)}
    return {
        "median_gene": float(np.median(each[varies])),
        "variance_weighted": float(1 - error[varies].sum() / spread[varies].sum()),
        "share_above_0": float((each[varies] > 0).mean()),
        "constant": int((~varies).sum()),
    }


def stability(networks: Sequence[np.ndarray], top: int = 100) -> dict[str, float]:
    """Networks on the same edges, E numbers each → mean over their pairs of the rank correlation of the signed weights
    and of the Jaccard index of their `top` strongest edges (at most half of the edges), beside that of random ones.

    An edge without weight is never among the strongest. A constant network has rank correlation 0 with any.
    Raises ValueError for fewer than two networks and for unequal lengths.
    """
    networks = [np.nan_to_num(np.asarray(network, np.float64)) for network in networks]
    if len(networks) < 2 or len({network.shape for network in networks}) > 1 or networks[0].ndim != 1:
        raise ValueError(f"stability compares two networks or more on the same edges: {[n.shape for n in networks]}")
    n_edges = len(networks[0])
    top = max(1, min(top, n_edges // 2))
    first = [_strongest(network, top) for network in networks]
    pairs = list(combinations(range(len(networks)), 2))
    shared = [len(first[a] & first[b]) / max(len(first[a] | first[b]), 1) for a, b in pairs]
    overlap = top * top / n_edges  # expected number in common of two random sets
    return {
        "rank_correlation": float(np.mean([_spearman(networks[a], networks[b]) for a, b in pairs])),
        "jaccard": float(np.mean(shared)),
        "jaccard_chance": float(overlap / (2 * top - overlap)),
        "top": top,
    }


def agreement(
    sign: np.ndarray, known: np.ndarray, weight: np.ndarray, present: np.ndarray | None = None
) -> dict[str, float]:
    """Agreement with another network: our signs E, its signs E (0: unknown or not there), our weights E, which of our
    edges it has (E bool; without it those with a known sign) → sign accuracies beside "always +", and whether the
    edges that it has are our strong ones (average precision with its ratio to chance, Spearman's correlation).

    nan where the other network has none of the edges, or all of them.
    """
    sign, known, strength = (np.nan_to_num(np.asarray(values, np.float64)) for values in (sign, known, np.abs(weight)))
    present = known != 0 if present is None else np.asarray(present, bool)
    if not sign.shape == known.shape == strength.shape == present.shape:
        raise ValueError(f"signs {sign.shape}, known {known.shape}, weights {strength.shape}, present {present.shape}")
    ranked = present.any() and not present.all()
    auprc = average_precision(_ties(strength), present) if ranked else np.nan
    return {
        **sign_accuracies(sign, known),
        "always_plus": float((known[known != 0] > 0).mean()) if known.any() else np.nan,
        "auprc": auprc,
        "auprc_ratio": auprc / present.mean() if ranked else np.nan,
        "spearman": _spearman(strength, present.astype(float)) if ranked else np.nan,
        "n_shared": int(present.sum()),
        "n_signed": int((known != 0).sum()),
    }


def _network(values: np.ndarray) -> np.ndarray:
    return np.nan_to_num(
        np.asarray(values, np.float64), nan=0.0, posinf=np.finfo(float).max, neginf=np.finfo(float).min
    )


def _candidates(shape: tuple[int, ...], candidates, regulators) -> np.ndarray:
    """G × G bool, never a self edge."""
    if len(shape) != 2 or shape[0] != shape[1] or (candidates is not None and np.shape(candidates) != shape):
        raise ValueError(f"truth {shape} and candidates {np.shape(candidates)} must be genes × genes")
    asked = np.ones(shape, bool) if candidates is None else np.array(candidates, bool)
    if regulators is not None:
        asked[np.setdiff1d(np.arange(shape[0]), regulators)] = False
    np.fill_diagonal(asked, False)
    return asked


def _ties(strength: np.ndarray) -> np.ndarray:
    largest = strength.max(initial=0)
    return np.round(strength / largest, DIGITS) if largest > 0 else strength


def _squares(
    true: np.ndarray, predicted: np.ndarray, weights: np.ndarray | None, mean: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Weighted sums of squares of the error and around the mean, weights of sum 1: G, G."""
    true, predicted = np.asarray(true, np.float64), np.asarray(predicted, np.float64)
    if true.shape != predicted.shape or true.ndim != 2 or not len(true):
        raise ValueError(f"{true.shape} true and {predicted.shape} predicted values, cells × genes")
    weights = np.full(len(true), 1 / len(true)) if weights is None else np.asarray(weights, float) / np.sum(weights)
    return weights @ np.square(true - predicted), weights @ np.square(true - (weights @ true if mean is None else mean))


def _varies(true: np.ndarray, spread: np.ndarray) -> np.ndarray:
    return spread > CONSTANT * max(spread.mean(), np.finfo(float).eps * np.square(true, dtype=float).mean())


def _strongest(network: np.ndarray, top: int) -> set[int]:
    order = np.argsort(-np.abs(network), kind="stable")[:top]
    return set(order[network[order] != 0].tolist())


def _spearman(a: np.ndarray, b: np.ndarray) -> float:
    from scipy.stats import spearmanr

    return 0.0 if np.ptp(a) == 0 or np.ptp(b) == 0 else float(spearmanr(a, b).statistic)


def _mean(values) -> float:
    """Mean of the values that are there, nan without any."""
    found = [value for value in values if not np.isnan(value)]
    return float(np.mean(found)) if found else np.nan
