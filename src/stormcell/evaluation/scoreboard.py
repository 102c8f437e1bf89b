"""The scoreboard: every method on every held-out query, beside its baselines and the ceiling that the cells allow.

score -> one row per method and query; reliability -> one row per query; summarise -> one row per group and method;
verdict and undefined -> sentences. Groups of queries (pairs with both singles seen, ...) are never pooled.

Shapes: G genes, K principal components.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from stormcell.evaluation import perturbation
from stormcell.evaluation.heldout import HeldOut, Method, Query
from stormcell.evaluation.perturbation import JACCARD_SIZES, METRICS

KEYS = ["condition", "context", "group"]
SPLIT_HALF, EXACT = "split-half of the real cells", "exact mean (expected)"
CORRELATIONS = {"shift_correlation": "", "shift_correlation_shared": "_shared"}  # metric -> suffix in `reliability`
JUDGED = "shift_correlation", "energy_distance"  # metrics of the verdict: the mean, and the distribution
REPRODUCED = 0.3  # expected score of the exact mean below which the cells do not reproduce their own shift


def score(
    held_out: HeldOut, methods: Sequence[Method], keep: Sequence[str] = (), kept_cells: int = 200
) -> tuple[pd.DataFrame, dict[str, list]]:
    """Asks every method every query once and judges the answers; one query is in memory at a time.

    Returns the long table (method, condition, context, group, n_cells, answered, metrics; n_cells counts the true
    cells) and, for each method named in `keep`, its answers (mean, first `kept_cells` cells) or None per query.
    A metric that is not defined is nan, and `undefined` says why.
    Raises ValueError for an unknown name in `keep`, for a repeated method name, and for an answer of the wrong shape.
    """
    names = [method.name for method in methods]
    if len(set(names)) < len(names) or not set(keep) <= set(names):
        raise ValueError(f"methods {names} must have names of their own and include those to keep, {list(keep)}")
    seen = {context: perturbation.mean_profile(cells) for context, cells in held_out.controls.items()}
    unseen = {context: perturbation.mean_profile(cells) for context, cells in held_out.truth_controls.items()}
    rows, kept = [], {name: [] for name in keep}
    for index, query in enumerate(held_out.queries):
        truth = _Truth.of(query, held_out, seen[query.context], unseen[query.context])
        for method in methods:
            answer = method.predict(index)
            _check(answer, method.name, len(held_out.genes))
            if method.name in kept:
                # A copy: a view would keep every predicted cell in memory.
                kept[method.name].append(answer and (answer[0], np.array(answer[1][:kept_cells])))
            metrics = dict.fromkeys(METRICS, np.nan) if answer is None else truth.judge(*answer)
            row = {"method": method.name, **_key(query), "answered": answer is not None}
            rows.append(row | metrics)
    columns = ["method", *KEYS, "n_cells", "answered", *METRICS]
    return pd.DataFrame(rows, columns=columns), kept


def _key(query: Query) -> dict:
    return {key: getattr(query, key) for key in KEYS} | {"n_cells": query.cells.shape[0]}


def _check(answer: tuple | None, name: str, n_genes: int) -> None:
    if answer is not None and (np.shape(answer[0]) != (n_genes,) or np.shape(answer[1])[1:] != (n_genes,)):
        raise ValueError(f"{name} answers {np.shape(answer[0])}, {np.shape(answer[1])}; there are {n_genes} genes")


@dataclass(frozen=True)
class _Truth:
    """What every answer to one query is compared with, computed once."""

    query: Query
    held_out: HeldOut
    control: np.ndarray  # G, mean of the training controls
    mean: np.ndarray  # G
    shift: np.ndarray  # G, against unseen controls
    shift_shared: np.ndarray  # G, against the training controls
    coordinates: np.ndarray  # cells × K

    @classmethod
    def of(cls, query: Query, held_out: HeldOut, control: np.ndarray, unseen: np.ndarray) -> _Truth:
        mean = perturbation.mean_profile(query.cells)
        shifts = perturbation.shift(mean, unseen), perturbation.shift(mean, control)
        return cls(query, held_out, control, mean, *shifts, _project(query.cells, held_out))

    def judge(self, mean: np.ndarray, cells: np.ndarray) -> dict[str, float]:
        """Every metric of one answer: G, cells × G → numbers."""
        shift = perturbation.shift(mean, self.control)
        return {
            "shift_correlation": perturbation.shift_correlation(self.shift, shift),
            "shift_correlation_shared": perturbation.shift_correlation(self.shift_shared, shift),
            **{f"jaccard_{k}": perturbation.jaccard_at_k(self.shift, shift, k) for k in JACCARD_SIZES},
            "l2": perturbation.l2(self.mean, mean),
            "mse": perturbation.mse(self.mean, mean),
            "energy_distance": perturbation.energy_distance(_project(cells, self.held_out), self.coordinates),
            "variance_ratio": perturbation.variance_ratio(cells, self.query.cells, self.held_out.detected),
        }


def _project(cells: perturbation.Cells, held_out: HeldOut) -> np.ndarray:
    """Principal components of cells, n × G → n × K; the mean is taken off afterwards, so sparse cells stay sparse."""
    return np.asarray(cells @ held_out.pca_components) - held_out.pca_mean @ held_out.pca_components


def reliability(held_out: HeldOut, seed: int) -> pd.DataFrame:
    """How well the real cells reproduce their own shift, one row per query.

    split_half_r halves cells and truth controls, `_shared` halves the cells alone and flatters; expected_exact is the
    score that the exact shift would then be expected to reach (a predicted shift also carries the noise of the training
    controls, and stays a little below). `shared` repeats `held_out.shared`: the ceiling of
    shift_correlation is then the one with `_shared`, while split_half_r still tells signal from noise.
    """
    halves, whole = {}, {}
    for number, (context, cells) in enumerate(held_out.truth_controls.items()):
        # Halved once for all queries of a context: they are by far the most cells.
        enough = cells.shape[0] >= 2
        halves[context] = perturbation.half_means(cells, seed=[seed, 1, number]) if enough else None
        whole[context] = (perturbation.mean_profile(held_out.controls[context]),) * 2
    rows = []
    for index, query in enumerate(held_out.queries):
        r = r_shared = np.nan
        if query.cells.shape[0] >= 2:
            cells = perturbation.half_means(query.cells, seed=[seed, 0, index])
            r_shared = perturbation.halves_r(cells, whole[query.context])
            if halves[query.context] is not None:
                r = perturbation.halves_r(cells, halves[query.context])
        expected, expected_shared = perturbation.expected_exact(np.array([r, r_shared]))
        rows.append([*_key(query).values(), r, expected, r_shared, expected_shared, held_out.shared])
    names = ["split_half_r", "expected_exact", "split_half_r_shared", "expected_exact_shared", "shared"]
    return pd.DataFrame(rows, columns=[*KEYS, "n_cells", *names])


def summarise(per_query: pd.DataFrame, reliability: pd.DataFrame, seed: int) -> pd.DataFrame:
    """One row per group and method, in the order given to `score`, then the two ceilings of the group.

    Columns: group, method, n (queries that it answered), and for each metric the median over those queries, with
    <metric>_low and <metric>_high, its 95 % bootstrap interval over queries (nan for a single one).
    """
    rows = []
    for group, inside in per_query.groupby("group", sort=False):
        for method, answers in inside.groupby("method", sort=False):
            values = {name: answers[name] for name in METRICS}
            rows.append(_row(group, method, int(answers["answered"].sum()), values, seed))
        cells = reliability[reliability["group"] == group]
        for method, column in (SPLIT_HALF, "split_half_r"), (EXACT, "expected_exact"):
            suffixes = dict.fromkeys(CORRELATIONS, "_shared") if cells["shared"].any() else CORRELATIONS
            values = {name: cells[column + suffix] for name, suffix in suffixes.items()}
            rows.append(_row(group, method, len(cells), values, seed))
    bounds = [column for name in METRICS for column in (name, f"{name}_low", f"{name}_high")]
    return pd.DataFrame(rows, columns=["group", "method", "n", *bounds])


def _row(group: str, method: str, n: int, values: dict[str, pd.Series], seed: int) -> dict:
    row = {"group": group, "method": method, "n": n}
    for name, column in values.items():
        low, high = perturbation.bootstrap_ci(column.to_numpy(), seed=seed)
        row |= {name: _median(column), f"{name}_low": low, f"{name}_high": high}
    return row


def _median(values: pd.Series) -> float:
    """Median of the defined values; pandas' own warns where there is none."""
    return float(np.median(values.dropna())) if values.notna().any() else np.nan


def verdict(
    per_query: pd.DataFrame, reliability: pd.DataFrame, models: list[str], baselines: list[str], seed: int
) -> list[str]:
    """A few sentences per group: the best baseline, and whether each model beats it, is level or is behind.

    Compared are shift correlation and energy distance, by the difference of the medians over the same queries: a
    model beats only where the 95 % paired bootstrap interval excludes 0. Candidates are the baselines with a value for
    every query of the group. Where the real cells do not reproduce their own shift, the sentence says that instead.
    """
    sentences = []
    for group, rows in per_query.groupby("group", sort=False):
        cells = reliability[reliability["group"] == group]
        r, expected = _median(cells["split_half_r"]), _median(cells["expected_exact"])
        ceiling = f"split-half r = {r:.2f}, an exact mean would reach {expected:.2f}"
        nothing = "so no score here means that a method works"
        if np.isnan(expected):
            parts = [f"the real cells are too few to see whether they reproduce their own shift, {nothing}"]
        elif expected < REPRODUCED:
            parts = [f"the real cells of this file do not reproduce their own shift ({ceiling}), {nothing}"]
        else:
            parts = [f"the real cells reproduce their own shift with {ceiling}"]
            parts += [_compare(rows, name, models, baselines, seed) for name in JUDGED]
            if len(cells) < 3:
                parts.append("so small an n cannot tell a model from a baseline")
            elif len(cells) < 6:
                # Five fair coins fall on one side in 1 of 16 throws; the bootstrap does not see this.
                parts.append("fewer than 6 queries can agree by chance, so this is a hint and no proof")
        if cells["shared"].any():
            parts.append("shift r is against shared controls here, which flatters every method")
        parts[1:] = [part[0].upper() + part[1:] for part in parts[1:]]
        sentences.append(f"{group} (n = {len(cells)}): {'. '.join(parts)}.")
    return sentences


def _compare(rows: pd.DataFrame, name: str, models: list[str], baselines: list[str], seed: int) -> str:
    metric = METRICS[name]
    # Rows of a method follow the queries, so their number pairs them even where a condition occurs in two contexts.
    table = rows.assign(query=rows.groupby("method").cumcount()).pivot(index="query", columns="method", values=name)
    table = table.dropna(how="all")  # a query for which nobody can have a value
    able = [baseline for baseline in baselines if baseline in table and table[baseline].notna().all()]
    if table.empty or not able:
        return f"no baseline has a value of {metric.label} for every query"
    pick = max if metric.direction == "higher" else min
    best = pick(able, key=lambda baseline: table[baseline].median())
    standings = [_standing(table[model], table[best], metric, seed) for model in models]
    return f"on {metric.label} the best baseline is {best} ({table[best].median():.3f}): {'; '.join(standings)}"


def _standing(model: pd.Series, best: pd.Series, metric: perturbation.Metric, seed: int) -> str:
    missing = int(model.isna().sum())
    if missing:
        return f"{model.name} has no value for {missing} of {len(model)} queries and is not compared"
    if len(model) < 3:
        return f"{model.name} reaches {model.median():.3f}"
    difference, low, high = perturbation.paired_difference(model.to_numpy(), best.to_numpy(), seed=seed)
    above, below = ("beats it", "is behind") if metric.direction == "higher" else ("is behind", "beats it")
    word = above if low > 0 else below if high < 0 else "is level"
    return f"{model.name} {word} ({model.median():.3f}, difference {difference:+.3f}, 95 % {low:+.3f} to {high:+.3f})"


def undefined(per_query: pd.DataFrame) -> list[str]:
    """Sentences that say which method has no answer, and which metric no value, for how many queries and why."""
    sentences = []
    for (group, method), rows in per_query.groupby(["group", "method"], sort=False):
        answered = rows[rows["answered"]]
        silent = len(rows) - len(answered)
        if silent:
            sentences.append(f"{group}: {method} has no answer for {silent} of {len(rows)} queries.")
        infinite = int((~np.isfinite(answered["mse"])).sum())
        if infinite:
            sentences.append(f"{group}: {method} predicts no finite mean for {infinite} of {len(rows)} queries.")
        finite = answered[np.isfinite(answered["mse"])]
        for names, reason in _REASONS.items():
            count = int((~np.isfinite(finite[list(names)])).any(axis=1).sum())
            if count:
                labels = ", ".join(METRICS[name].label for name in names)
                sentences.append(
                    f"{group}: {labels} of {method} undefined for {count} of {len(rows)} queries ({reason})."
                )
    return sentences


_REASONS = {
    (*CORRELATIONS, *(f"jaccard_{k}" for k in JACCARD_SIZES)): "a shift that is the same in every gene",
    ("energy_distance",): "fewer than 2 cells on a side, or cells that are not finite",
    ("variance_ratio",): "fewer than 2 cells on a side, cells that are not finite, or no detected gene that varies",
}
