"""How well are the frequencies of held-out cells predicted: each, in blocks that may rotate, and together?

    R²_f    = 1 − Σ_n (y_nf − ŷ_nf)² / Σ_n (y_nf − μ_f)²           μ the mean of the training cells: it scores 0
    ratio_f = Σ_n |y_nf − ŷ_nf| / Σ_n |y_nf − m_f|                 m the median of the training cells: it scores 1
    R²_B    = 1 − Σ_n,f∈B (y − ŷ)² / Σ_n,f∈B (y − μ)²              unchanged by a rotation of the vectors of block B
The scoreboard has the mean of R² and of the ratio over frequencies. A frequency that does not vary among the held-out
cells has no value and is left out of the mean; a prediction that is not finite takes the value from its method.

Intervals are bootstraps over cells, the same draws for every method. Neighbours on the graph have like targets, so that
cells are not independent: they say how sure a score is on this graph, not what another graph would give.

Shapes: N held-out cells, n training cells, F frequencies, U units that are drawn (cells, or random bags of them).
Source: Efron & Tibshirani 1993 (percentile bootstrap).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd

from stormcell.evaluation.frequency_metrics import CELLS
from stormcell.evaluation.intervals import bootstrap_ci
from stormcell.evaluation.network import CONSTANT, r_squared

MOST_UNITS = 2_000  # more cells are put into so many random bags: the same interval, and no matrix of draws × cells

Predictions = Mapping[str, np.ndarray]  # method → N × F, or N classes


def r2(truth: np.ndarray, predicted: np.ndarray, train: np.ndarray) -> np.ndarray:
    """R² of each frequency: N × F, N × F, targets of the training cells n × F → F; nan where the truth is constant."""
    return r_squared(truth, predicted, mean=_targets(train).mean(0))


def mae_ratio(truth: np.ndarray, predicted: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Mean absolute error of each frequency over that of the training median: N × F, N × F, n × F → F."""
    return _ratio(*(sums.sum(0) for sums in _absolute(truth, predicted, train)), _varies(truth, train))


def block_r2(
    truth: np.ndarray, predicted: np.ndarray, train: np.ndarray, blocks: Sequence[Sequence[int]]
) -> np.ndarray:
    """R² of each block of frequencies as a space: N × F, N × F, n × F, B tuples of columns → B."""
    error, spread = (sums.sum(0) for sums in _squared(truth, predicted, train))
    varies = _varies(truth, train)
    columns = [np.asarray(block, int)[varies[np.asarray(block, int)]] for block in blocks]
    return np.array([1 - error[b].sum() / spread[b].sum() if len(b) else np.nan for b in columns])


def frequency_board(predictions: Predictions, truth: np.ndarray, train: np.ndarray, seed: int = 0) -> pd.DataFrame:
    """One row per method: mean R² and mean ratio over frequencies with 95 % intervals, and the R² of the worst.

    method → N × F, truth N × F, targets of the training cells n × F. Raises ValueError for other shapes.
    """
    varies, rows = _varies(truth, train), []
    for method, predicted in predictions.items():
        each = r2(truth, predicted, train)[varies]
        rows.append(
            {
                "group": CELLS,
                "method": method,
                "n": len(truth),
                **_with_interval("r2", _squared(truth, predicted, train), varies, _one_minus, seed),
                **_with_interval("mae_ratio", _absolute(truth, predicted, train), varies, np.divide, seed),
                "worst_r2": float(each.min()) if len(each) else np.nan,
            }
        )
    return pd.DataFrame(rows)


def per_frequency(
    predictions: Predictions, truth: np.ndarray, train: np.ndarray, eigenvalues: Sequence[float] = (), seed: int = 0
) -> pd.DataFrame:
    """One row per method and frequency (1, 2, …): eigenvalue (nan if not given), r2 with its interval, mae_ratio."""
    varies, rows = _varies(truth, train), []
    values = eigenvalues if len(eigenvalues) else [np.nan] * len(varies)
    for method, predicted in predictions.items():
        squares, ratios = _squared(truth, predicted, train), mae_ratio(truth, predicted, train)
        for f, value in enumerate(values):
            only = varies & (np.arange(len(varies)) == f)
            score = _with_interval("r2", squares, only, _one_minus, seed)
            rows.append({"method": method, "frequency": f + 1, "eigenvalue": float(value), **score})
            rows[-1]["mae_ratio"] = float(ratios[f])
    return pd.DataFrame(rows)


def per_block(
    predictions: Predictions, truth: np.ndarray, train: np.ndarray, blocks: Sequence[Sequence[int]]
) -> pd.DataFrame:
    """One row per method and block: its frequencies ("6, 7"), and the R² of the space that they span."""
    names = [", ".join(str(f + 1) for f in block) for block in blocks]
    return pd.DataFrame(
        [
            {"method": method, "block": name, "size": len(block), "r2": value}
            for method, predicted in predictions.items()
            for name, block, value in zip(names, blocks, block_r2(truth, predicted, train, blocks), strict=True)
        ],
        columns=["method", "block", "size", "r2"],
    )


def r2_difference(
    truth: np.ndarray, one: np.ndarray, other: np.ndarray, train: np.ndarray, seed: int = 0
) -> tuple[float, float, float]:
    """Mean R² of one method less that of another, and its 95 % interval over the same cells: (value, low, high)."""
    error, spread = _squared(truth, one, train)
    found = _with_interval(
        "r2", (_squared(truth, other, train)[0] - error, spread), _varies(truth, train), np.divide, seed
    )
    return found["r2"], found["r2_low"], found["r2_high"]


# ---- classes


def class_board(predictions: Predictions, truth: np.ndarray, seed: int = 0) -> pd.DataFrame:
    """One row per method: accuracy and balanced accuracy with 95 % intervals; method → N classes, truth N classes.

    Balanced: the mean over the classes that occur of the share of their cells that are named right.
    """
    truth, rows = np.asarray(truth), []
    kinds = truth[:, None] == np.unique(truth)[None]  # N × C
    for method, predicted in predictions.items():
        right = _classes(predicted, truth) == truth
        hits = right[:, None] & kinds
        everything = np.ones((len(truth), 1))
        rows.append(
            {
                "group": CELLS,
                "method": method,
                "n": len(truth),
                **_with_interval("accuracy", (right[:, None], everything), np.array([True]), np.divide, seed),
                **_with_interval("balanced_accuracy", (hits, kinds), kinds.any(0), np.divide, seed),
            }
        )
    return pd.DataFrame(rows)


def per_class(predictions: Predictions, truth: np.ndarray, names: Sequence[str]) -> pd.DataFrame:
    """One row per method and class that occurs: its held-out cells, and the share of them that is named right."""
    truth = np.asarray(truth)
    return pd.DataFrame(
        [
            {"method": method, "class": names[c], "n": int(own.sum()), "recall": float((predicted[own] == c).mean())}
            for method, predicted in predictions.items()
            for c, own in ((c, truth == c) for c in np.unique(truth))
        ]
    )


def _classes(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    if np.shape(predicted) != truth.shape or truth.ndim != 1 or not len(truth):
        raise ValueError(f"{truth.shape} true and {np.shape(predicted)} predicted classes, one per cell")
    return np.asarray(predicted)


# ---- sums over cells


def _targets(train: np.ndarray) -> np.ndarray:
    train = np.asarray(train, np.float64)
    if train.ndim != 2 or not len(train):
        raise ValueError(f"targets of the training cells {train.shape}, cells × frequencies")
    return train


def _varies(truth: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Frequencies whose truth varies among the held-out cells: F bool; the rule of `network.r_squared`."""
    spread = np.square(np.asarray(truth, np.float64) - _targets(train).mean(0)).mean(0)
    return spread > CONSTANT * max(spread.mean(), np.finfo(float).eps * np.square(truth, dtype=float).mean())


def _squared(truth: np.ndarray, predicted: np.ndarray, train: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Squared error and squared distance to the training mean of every cell: N × F, N × F."""
    return np.square(_error(truth, predicted)), np.square(truth - _targets(train).mean(0))


def _absolute(truth: np.ndarray, predicted: np.ndarray, train: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.abs(_error(truth, predicted)), np.abs(truth - np.median(_targets(train), axis=0))


def _error(truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    truth, predicted = np.asarray(truth, np.float64), np.asarray(predicted, np.float64)
    if truth.shape != predicted.shape or truth.ndim != 2 or not len(truth):
        raise ValueError(f"{truth.shape} true and {predicted.shape} predicted values, cells × frequencies")
    return truth - predicted


def _ratio(above: np.ndarray, below: np.ndarray, varies: np.ndarray) -> np.ndarray:
    """above / below where the frequency varies and the null errs, nan elsewhere."""
    return np.divide(above, below, out=np.full(len(varies), np.nan), where=varies & (below > 0))


def _one_minus(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return 1 - above / below


# ---- intervals


def _with_interval(
    name: str, sums: tuple[np.ndarray, np.ndarray], columns: np.ndarray, score: Callable, seed: int
) -> dict[str, float]:
    """Mean over `columns` of score(Σ above, Σ below), and its interval when cells are drawn with replacement.

    A draw without any spread in a column (a class, or the cells of a localised frequency, that was not drawn) leaves
    the column out.
    """
    above, below = (_bags(np.asarray(side, np.float64)[:, columns], seed) for side in sums)

    def drawn(units: np.ndarray, axis: int = -1) -> np.ndarray:
        weight = np.stack([np.bincount(draw, minlength=len(above)) for draw in units.astype(int)])
        over, under = weight @ above, weight @ below
        there = under > 0
        with np.errstate(invalid="ignore"):
            return np.where(there, score(over, np.where(there, under, 1)), 0).sum(axis) / there.sum(axis)

    if not columns.any():
        return {name: np.nan, f"{name}_low": np.nan, f"{name}_high": np.nan}
    value = drawn(np.arange(len(above))[None])[0]
    finite = np.isfinite(above).all()
    low, high = bootstrap_ci(np.arange(len(above)), drawn, seed=seed) if finite else (np.nan, np.nan)
    return {name: float(value) if finite else np.nan, f"{name}_low": low, f"{name}_high": high}


def _bags(values: np.ndarray, seed: int) -> np.ndarray:
    """Sums over random bags of cells of equal size, N × C → U × C; every cell its own bag up to MOST_UNITS."""
    if len(values) <= MOST_UNITS:
        return values
    bag = np.random.default_rng(seed).permutation(len(values)) % MOST_UNITS
    sums = np.zeros((MOST_UNITS, values.shape[1]))
    np.add.at(sums, bag, values)
    return sums
