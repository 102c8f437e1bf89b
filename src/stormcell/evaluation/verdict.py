"""The scoreboard in sentences: who beats the best baseline, what the cells allow, and what has no value and why."""

from __future__ import annotations

import numpy as np
import pandas as pd

from stormcell.evaluation.collapse import NARROW
from stormcell.evaluation.intervals import paired_difference
from stormcell.evaluation.metrics import METRICS, Metric, distance_from_best
from stormcell.evaluation.scoreboard import median
from stormcell.evaluation.scoring import Scores

JUDGED = "shift_correlation", "energy_distance"  # metrics of the verdict: the mean, and the distribution
TOLD_APART, CHANCE = "pds", 0.5
REPRODUCED = 0.3  # expected score of the exact mean below which the cells do not reproduce their own shift


def verdict(scores: Scores, reliability: pd.DataFrame, models: list[str], baselines: list[str], seed: int) -> list[str]:
    """A few sentences per group: the best baseline, and whether each model beats it, is level or is behind.

    Compared are shift correlation and energy distance, by the difference of the medians over the same queries: a
    model beats only where the 95 % paired bootstrap interval excludes 0. Candidates are the baselines with a value for
    every query of the group. Perturbation discrimination and collapse are told beside. Where the real cells do not
    reproduce their own shift, the sentence says that instead.
    """
    sentences = []
    for group, rows in scores.per_query.groupby("group", sort=False):
        cells = reliability[reliability["group"] == group]
        r, expected = median(cells["split_half_r"]), median(cells["expected_exact"])
        ceiling = f"split-half r = {r:.2f}, an exact mean would reach {expected:.2f}"
        nothing = "so no score here means that a method works"
        if np.isnan(expected):
            parts = [f"the real cells are too few to see whether they reproduce their own shift, {nothing}"]
        elif expected < REPRODUCED:
            parts = [f"the real cells of this file do not reproduce their own shift ({ceiling}), {nothing}"]
        else:
            parts = [f"the real cells reproduce their own shift with {ceiling}"]
            parts += [_compare(rows, name, models, baselines, seed) for name in JUDGED]
            parts += _told_apart(rows, models, baselines)
            if len(cells) < 3:
                parts.append("so small an n cannot tell a model from a baseline")
            elif len(cells) < 6:
                # Five fair coins fall on one side in 1 of 16 throws; the bootstrap does not see this.
                parts.append("fewer than 6 queries can agree by chance, so this is a hint and no proof")
        parts += _collapsed(scores.per_method, group, models)
        if cells["shared"].any():
            parts.append("shift r is against shared controls here, which flatters every method")
        parts[1:] = [part[0].upper() + part[1:] for part in parts[1:]]
        sentences.append(f"{group} (n = {len(cells)}): {'. '.join(parts)}.")
    return sentences


def _compare(rows: pd.DataFrame, name: str, models: list[str], baselines: list[str], seed: int) -> str:
    metric, table = METRICS[name], _by_query(rows, name)
    best = _best(table, name, baselines)
    if best is None:
        return f"no baseline has a value of {metric.label} for every query"
    standings = [_standing(table[model], table[best], metric, seed) for model in models]
    return f"on {metric.label} the best baseline is {best} ({table[best].median():.3f}): {'; '.join(standings)}"


def _by_query(rows: pd.DataFrame, name: str) -> pd.DataFrame:
    """One metric: query × method, without the queries for which nobody can have a value."""
    # Rows of a method follow the queries, so their number pairs them even where a condition occurs in two contexts.
    table = rows.assign(query=rows.groupby("method").cumcount()).pivot(index="query", columns="method", values=name)
    return table.dropna(how="all")


def _best(table: pd.DataFrame, name: str, baselines: list[str]) -> str | None:
    """The baseline of best median among those with a value for every query."""
    able = [baseline for baseline in baselines if baseline in table and table[baseline].notna().all()]
    if table.empty or not able:
        return None
    return min(able, key=lambda baseline: distance_from_best(table[baseline].median(), name))


def _standing(model: pd.Series, best: pd.Series, metric: Metric, seed: int) -> str:
    missing = int(model.isna().sum())
    if missing:
        return f"{model.name} has no value for {missing} of {len(model)} queries and is not compared"
    if len(model) < 3:
        return f"{model.name} reaches {model.median():.3f}"
    difference, low, high = paired_difference(model.to_numpy(), best.to_numpy(), seed=seed)
    above, below = ("beats it", "is behind") if metric.direction == "higher" else ("is behind", "beats it")
    word = above if low > 0 else below if high < 0 else "is level"
    return f"{model.name} {word} ({model.median():.3f}, difference {difference:+.3f}, 95 % {low:+.3f} to {high:+.3f})"


def _told_apart(rows: pd.DataFrame, models: list[str], baselines: list[str]) -> list[str]:
    """One clause on discrimination; none where a group has a single query, or no method a value."""
    table = _by_query(rows, TOLD_APART)
    best = _best(table, TOLD_APART, baselines)
    known = [model for model in models if model in table and table[model].notna().any()]
    values = [f"{table[model].median():.2f} by {model}" for model in known]
    if not values:
        return []
    beside = f", beside {table[best].median():.2f} by the best baseline, {best}" if best else ""
    if best and table[best].median() <= CHANCE:
        beside = ", and no baseline is above chance"
    return [f"{METRICS[TOLD_APART].label} (0.5 is chance) is {', '.join(values)}{beside}"]


def _collapsed(per_method: pd.DataFrame, group: str, models: list[str]) -> list[str]:
    rows = per_method[(per_method["group"] == group) & per_method["method"].isin(models) & per_method["collapsed"]]
    found = []
    for method, spread in zip(rows["method"], rows["spread"], strict=True):
        if np.isfinite(spread) and spread < NARROW:
            said = f"its shifts vary between perturbations by {spread:.0%} of the variance of the true ones"
        else:
            said = "beyond the training mean its shifts point one way, whatever the perturbation"
        found.append(f"{method} has collapsed: {said}")
    return found


def undefined(per_query: pd.DataFrame) -> list[str]:
    """Sentences that say which method has no answer, and which metric no value, for how many queries and
    why; of `Scores.raw`.

    A metric that no query asks for (interactions of a single target) is not undefined.
    """
    sentences = []
    for group, inside in per_query.groupby("group", sort=False):
        for method, rows in inside.groupby("method", sort=False):
            answered = rows[rows["answered"]]
            silent = len(rows) - len(answered)
            if silent:
                sentences.append(f"{group}: {method} has no answer for {silent} of {len(rows)} queries.")
            infinite = int((~np.isfinite(answered["mse"])).sum())
            if infinite:
                sentences.append(f"{group}: {method} predicts no finite mean for {infinite} of {len(rows)} queries.")
        sentences += _without_value(group, inside[inside["answered"] & np.isfinite(inside["mse"])], inside)
    return sentences


def _without_value(group: str, finite: pd.DataFrame, everybody: pd.DataFrame) -> list[str]:
    """One sentence for each reason, method and number of queries; one for all methods where it is the same for all."""
    counts: dict[tuple[str, int, int], dict[str, list[str]]] = {}
    for name, metric in METRICS.items():
        asked = _asked(finite, name)
        for method, missing in (~np.isfinite(finite.loc[asked, name])).groupby(finite["method"], sort=False):
            if missing.any():
                total = int(_asked(everybody, name)[everybody["method"] == method].sum())
                reason = metric.undefined + "; counts as 0" * metric.zero
                labels = counts.setdefault((reason, int(missing.sum()), total), {})
                labels.setdefault(method, []).append(metric.label)
    sentences = []
    for (reason, count, total), by_method in counts.items():
        told: dict[str, list[str]] = {}
        for method, labels in by_method.items():
            told.setdefault("; ".join(labels), []).append(method)
        for labels, methods in told.items():
            whose = _all_or_some(methods, list(finite["method"].unique()))
            sentences.append(f"{group}: {labels} of {whose} undefined for {count} of {total} queries ({reason}).")
    return sentences


def _all_or_some(methods: list[str], everybody: list[str]) -> str:
    """Names, or those that are missing where these are fewer: what the truth lacks, nearly all methods lack."""
    others = [method for method in everybody if method not in methods]
    if len(methods) < 3 or len(others) >= len(methods):
        return "; ".join(methods)
    return "every method" + (f" but {'; '.join(others)}" if others else "")


def _asked(rows: pd.DataFrame, name: str) -> pd.Series:
    if name.startswith("interaction_"):
        return rows["pair"]
    if name.startswith("shift_correlation_covariate"):
        return rows["context"] != "all"
    return pd.Series(True, index=rows.index)
