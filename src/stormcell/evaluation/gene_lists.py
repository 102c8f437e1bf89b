"""Are the genes of a module those that correlate anyway, and do they predict better than those?

Lists of K genes are compared on one footing: the K of largest |score| against the K of largest |score|, or the K of
largest and the K of smallest score, as genes with a sign, against the same. (One pole of an eigenvector against K genes
of both signs cannot agree even where it is right.)
    Jaccard = |A ∩ B| / |A ∪ B|                    random lists of K among G genes: K / (2G − K)
    p       = P(|A ∩ B| ≥ observed), hypergeometric: genes are exchangeable
    null    = the same list against the correlation list of targets whose cells are shuffled. Genes that are expressed
              together enter a list together, so that its Jaccard varies more than the hypergeometric one
Improvement: held-out R² of one regressor, fitted on the K genes of each list and of random lists. It is told for ridge
and for k-NN, since products of genes are what a bilinear module is made of and a ridge cannot see them.

Shapes: N cells, G standardised genes, F frequencies.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
import pandas as pd

from stormcell.evaluation.frequency import frequency_board, per_frequency, r2, r2_difference
from stormcell.evaluation.frequency_answers import correlation, nearest_mean, ridge, sampled, unit

TOP, DRAWS, SHUFFLES, MOST_CELLS = 25, 20, 200, 5_000
CORRELATION, RANDOM = "correlation", "random genes"
FOOTINGS = UNSIGNED, SIGNED = "unsigned", "signed"
REGRESSORS = {"ridge": lambda x, y, asked: ridge(x, y).predict(asked), "k-NN": nearest_mean}

Scores = Mapping[str, np.ndarray]  # list → F × G: a correlation, a coefficient or a loading; NaN is 0


def ridge_scores(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Coefficients of standardised genes, α of each frequency by leave-one-out: N × G, N × F → F × G."""
    return np.atleast_2d(ridge(x, y).coef_)


def strongest(scores: np.ndarray, top: int = TOP) -> np.ndarray:
    """Numbers of the genes of largest |score|, the strongest first: G → at most `top`.

    A gene without a score is in no list; of equal ones the first in the order of the genes.
    """
    strength = np.abs(np.nan_to_num(scores))
    least = np.partition(strength, -top)[-top] if top < len(strength) else 0  # sorting all genes costs ten times more
    able = np.flatnonzero((strength >= least) & (strength > 0))
    return able[np.argsort(-strength[able], kind="stable")[:top]]


def poles(scores: np.ndarray, top: int = TOP) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the genes of largest positive and of largest negative score: G → at most `top` each."""
    scores = np.nan_to_num(scores)
    return strongest(np.maximum(scores, 0), top), strongest(np.minimum(scores, 0), top)


def top_lists(scores: Scores, top: int = TOP) -> dict[str, list[np.ndarray]]:
    """list → for each frequency the numbers of its `top` genes: what `improvement` asks for."""
    return {name: [strongest(row, top) for row in np.atleast_2d(rows)] for name, rows in scores.items()}


# ---- comparison


class Ranked(NamedTuple):
    """One list of one frequency, on both footings."""

    scores: np.ndarray  # G
    strongest: frozenset[int]
    poles: tuple[frozenset[int], frozenset[int]]


def ranked(scores: np.ndarray, top: int = TOP) -> Ranked:
    """G → its list of `top` genes, and its lists of `top` genes of each sign."""
    scores = np.nan_to_num(np.asarray(scores, np.float64))
    up, down = (frozenset(pole.tolist()) for pole in poles(scores, top))
    return Ranked(scores, frozenset(strongest(scores, top).tolist()), (up, down))


def jaccard(a: Ranked, b: Ranked, footing: str = UNSIGNED, turned: bool = False) -> float:
    """Genes in common over all genes of both, on the signed footing counted with their sign; nan of two empty lists."""
    pairs = _pairs(a, b, footing, turned)
    common, all_ = sum(len(one & other) for one, other in pairs), sum(len(one) + len(other) for one, other in pairs)
    return common / (all_ - common) if all_ else np.nan


def overlap(a: Ranked, b: Ranked, footing: str = UNSIGNED, turned: bool = False) -> dict[str, float]:
    """Jaccard, number in common, Jaccard of random lists of these lengths, and p: hypergeometric.

    On the signed footing the numbers in common of the two poles add up as if they were independent. A list that was
    turned is favoured: its p leaves the choice of the side out, the permutation null does not.
    """
    from scipy.stats import hypergeom

    pairs, n_genes, chances = _pairs(a, b, footing, turned), len(a.scores), np.ones(1)
    for one, other in pairs:
        possible = np.arange(min(len(one), len(other)) + 1)
        chances = np.convolve(chances, hypergeom.pmf(possible, n_genes, len(one), len(other)))
    common = sum(len(one & other) for one, other in pairs)
    expected = sum(len(one) * len(other) for one, other in pairs) / n_genes
    all_ = sum(len(one) + len(other) for one, other in pairs)
    return {
        "jaccard": jaccard(a, b, footing, turned),
        "common": common,
        "chance": expected / (all_ - expected) if all_ else np.nan,
        "p": float(min(chances[common:].sum(), 1)),
    }


def compare_lists(
    scores: Scores,
    x: np.ndarray,
    y: np.ndarray,
    top: int = TOP,
    free_sign: Sequence[str] = (),
    seed: int = 0,
    shuffles: int = SHUFFLES,
) -> pd.DataFrame:
    """One row per frequency, footing and pair of lists; the correlation list is that of the training cells, N × G and
    N × F.

    `free_sign`: lists of eigenvectors, whose sign is arbitrary. On the signed footing they are turned to the side on
    which they agree with the other list over all genes, and so are the shuffled ones. Pairs with the correlation list
    have null_mean, null_high (95 % quantile) and null_p = (1 + draws at least as large) / (1 + draws).
    Raises ValueError for scores of another shape.
    """
    everything = {CORRELATION: correlation(x, y), **scores}
    shape = everything[CORRELATION].shape
    for name, rows in everything.items():
        if np.shape(rows) != shape:
            raise ValueError(f"scores of {name} {np.shape(rows)}, {shape} frequencies × genes expected")
    lists = {name: [ranked(row, top) for row in rows] for name, rows in everything.items()}
    null, rows = _null(lists, free_sign, x, y, top, seed, shuffles), []
    for f in range(shape[0]):
        for a, b in combinations(lists, 2):
            for footing in FOOTINGS:
                row = {"frequency": f + 1, "footing": footing, "list a": a, "list b": b}
                row |= overlap(lists[a][f], lists[b][f], footing, a in free_sign or b in free_sign)
                if a == CORRELATION:
                    row |= _beside(row["jaccard"], null[f, b, footing])
                rows.append(row)
    return pd.DataFrame(rows)


def _pairs(a: Ranked, b: Ranked, footing: str, turned: bool) -> list[tuple[frozenset[int], frozenset[int]]]:
    if footing == UNSIGNED:
        return [(a.strongest, b.strongest)]
    away = turned and a.scores @ b.scores < 0
    return list(zip(a.poles, b.poles[::-1] if away else b.poles, strict=True))


def _null(lists: dict, free_sign: Sequence[str], x, y, top: int, seed: int, shuffles: int) -> dict[tuple, np.ndarray]:
    """Jaccard of every list with the correlation lists of shuffled cells: (frequency, list, footing) → draws.

    All frequencies are shuffled together, so that one product serves them.
    """
    rng, others = np.random.default_rng(seed), [name for name in lists if name != CORRELATION]
    found = {(f, b, footing): [] for f in range(y.shape[1]) for b in others for footing in FOOTINGS}
    genes, targets = unit(x), unit(y)
    for _ in range(shuffles if others else 0):
        for f, row in enumerate(targets[rng.permutation(len(y))].T @ genes):
            draw = ranked(row, top)
            for b in others:
                for footing in FOOTINGS:
                    found[f, b, footing].append(jaccard(draw, lists[b][f], footing, b in free_sign))
    return {key: np.array(values) for key, values in found.items()}


def _beside(value: float, null: np.ndarray) -> dict[str, float]:
    if not len(null):
        return {"null_mean": np.nan, "null_high": np.nan, "null_p": np.nan}
    return {
        "null_mean": float(null.mean()),
        "null_high": float(np.quantile(null, 0.95)),
        "null_p": float((1 + (null >= value - 1e-12).sum()) / (1 + len(null))),
    }


# ---- improvement


class Improvement(NamedTuple):
    """What the lists predict of held-out cells."""

    per_frequency: pd.DataFrame  # regressor, list, frequency, r2, low, high
    mean: pd.DataFrame  # regressor, list, r2, low, high, and the difference to the correlation list with its interval


def improvement(
    lists: Mapping[str, Sequence[np.ndarray]],
    train_x: np.ndarray,
    train_y: np.ndarray,
    test_x: np.ndarray,
    test_y: np.ndarray,
    seed: int = 0,
    draws: int = DRAWS,
) -> Improvement:
    """Held-out R² of one regressor on the genes of each list and on as many random genes: list → genes of each of F.

    low and high are a 95 % interval over held-out cells; of random genes the 2.5 and 97.5 % quantiles of the draws,
    beyond which a list has found something. More than MOST_CELLS training cells are sampled. An empty list predicts
    the training mean. Raises ValueError where a list does not have F entries.
    """
    for name, genes in lists.items():
        if len(genes) != train_y.shape[1]:
            raise ValueError(f"list {name} is of {len(genes)} frequencies, the targets of {train_y.shape[1]}")
    rows = sampled(len(train_x), MOST_CELLS, seed)
    known, y = train_x[rows], np.asarray(train_y[rows], np.float64)
    size = max(len(genes) for one in lists.values() for genes in one)
    rng, n_genes = np.random.default_rng(seed), train_x.shape[1]
    chosen = [rng.choice(n_genes, min(size, n_genes), replace=False) for _ in range(draws)]
    each, means = [], []
    for word, fit in REGRESSORS.items():
        said = {name: _predict(fit, known, y, test_x, genes) for name, genes in lists.items()}
        at_random = np.array([r2(test_y, _fit(fit, known, y, test_x, genes), train_y) for genes in chosen])
        each += [_per_frequency(said, test_y, train_y, seed), _quantiles(at_random)]
        means += [_means(said, test_y, train_y, seed), _quantiles(np.nanmean(at_random, 1, keepdims=True))]
        for table in (*each[-2:], *means[-2:]):
            table.insert(0, "regressor", word)
    return Improvement(
        pd.concat(each, ignore_index=True), pd.concat(means, ignore_index=True).drop(columns="frequency")
    )


def _predict(fit: Callable, x: np.ndarray, y: np.ndarray, asked: np.ndarray, genes: Sequence[np.ndarray]) -> np.ndarray:
    """Every frequency from its own genes: N × F."""
    return np.hstack([_fit(fit, x, y[:, [f]], asked, own) for f, own in enumerate(genes)])


def _fit(fit: Callable, x: np.ndarray, y: np.ndarray, asked: np.ndarray, genes: np.ndarray) -> np.ndarray:
    if not len(genes):
        return np.tile(y.mean(0), (len(asked), 1))
    return fit(x[:, genes], y, asked[:, genes]).reshape(len(asked), -1)


def _per_frequency(said: dict[str, np.ndarray], truth: np.ndarray, train: np.ndarray, seed: int) -> pd.DataFrame:
    table = per_frequency(said, truth, train, seed=seed)
    names = {"method": "list", "r2_low": "low", "r2_high": "high"}
    return table.rename(columns=names)[["list", "frequency", "r2", "low", "high"]]


def _means(said: dict[str, np.ndarray], truth: np.ndarray, train: np.ndarray, seed: int) -> pd.DataFrame:
    board = frequency_board(said, truth, train, seed)
    table = board.rename(columns={"method": "list", "r2_low": "low", "r2_high": "high"})[["list", "r2", "low", "high"]]
    if CORRELATION in said:
        beside = [r2_difference(truth, one, said[CORRELATION], train, seed) for one in said.values()]
        table[["over_correlation", "over_low", "over_high"]] = beside
    return table


def _quantiles(draws: np.ndarray) -> pd.DataFrame:
    """Draws × F → mean and quantiles of each frequency."""
    low, high = np.quantile(draws, [0.025, 0.975], axis=0)
    numbers = np.arange(1, draws.shape[1] + 1)
    return pd.DataFrame({"list": RANDOM, "frequency": numbers, "r2": draws.mean(0), "low": low, "high": high})
