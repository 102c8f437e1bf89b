"""A run of a model of frequencies in sentences: who predicts best, which modules come back, what they add."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from stormcell.evaluation.frequency import r2, r2_difference

STABLE = 0.85  # between-seed Jaccard from which the leading modules are called stable


def frequency_verdict(
    name: str,
    said: Mapping[str, np.ndarray],
    truth: np.ndarray,
    train: np.ndarray,
    baselines: Sequence[str],
    aside: Sequence[str],
    tables: Mapping[str, pd.DataFrame],
    seed: int,
) -> list[str]:
    """`said`: method → predictions of the held-out cells; `aside`: yardsticks that know what the model may not."""
    if truth.ndim == 1:
        found = _classes(name, said, truth, baselines)
    else:
        found = _beside(name, said, truth, train, baselines, aside, seed)
    for key, sentence in (
        ("module_summary", _modules),
        ("improvement_mean", lambda table: _improvement(table, name)),
        ("looked_up", _looked_up),
        ("hierarchy", _hierarchy),
    ):
        if len(table := tables.get(key, pd.DataFrame())):
            found += sentence(table)
    return found


def _beside(name, said, truth, train, baselines, aside, seed) -> list[str]:
    score = {method: float(np.nanmean(r2(truth, values, train))) for method, values in said.items()}
    best = max(baselines, key=lambda method: np.nan_to_num(score[method], nan=-np.inf))
    value, low, high = r2_difference(truth, said[name], said[best], train, seed)
    word = "better" if low > 0 else "worse" if high < 0 else "no difference that can be told"
    found = [
        f"held-out R², mean of {truth.shape[1]} frequencies: {score[name]:.2f}; the best simple answer is {best} "
        f"({score[best]:.2f}): {value:+.2f} (95 % {low:+.2f} to {high:+.2f}), {word}"
    ]
    known = [f"{method} {score[method]:.2f}" for method in aside if method in score]
    return found + ([f"yardsticks that do not compete: {', '.join(known)}"] if known else [])


def _classes(name, said, truth, baselines) -> list[str]:
    right = {method: float((np.asarray(values) == truth).mean()) for method, values in said.items()}
    best = max(baselines, key=right.get)
    return [f"held-out accuracy: {right[name]:.2f}; the best simple answer is {best} ({right[best]:.2f})"]


def _modules(table: pd.DataFrame) -> list[str]:
    leading = table.drop_duplicates("frequency")
    found = []
    if "jaccard_seeds" in table and table["jaccard_seeds"].notna().any():
        mean, chance = leading["jaccard_seeds"].mean(), leading["chance_10"].mean()
        found.append(
            f"{int(table['comes_back'].sum())} of {len(table)} modules come back from other seeds and resampled cells; "
            f"the ten first genes of the leading module of a frequency have Jaccard {mean:.2f} between seeds "
            f"(chance {chance:.3f})" + (": read them as stable" if mean >= STABLE else ": do not read single genes")
        )
    if "overlap_correlation" in table and leading["overlap_correlation"].notna().any():
        found.append(
            f"with the ten genes that correlate most with its frequency the leading module has Jaccard "
            f"{leading['overlap_correlation'].mean():.2f}: new genes are to be believed as far as they come back"
        )
    return found


def _improvement(table: pd.DataFrame, name: str) -> list[str]:
    found = []
    for regressor, part in table.groupby("regressor", sort=False):
        mean = part.set_index("list")
        told = f"{regressor} on 25 genes of a list: "
        told += ", ".join(f"{key} {value:.2f}" for key, value in mean["r2"].items())
        if np.isfinite(mean["over_correlation"].get(name, np.nan)):
            value, low, high = mean.loc[name, ["over_correlation", "over_low", "over_high"]]
            word = "more than" if low > 0 else "less than" if high < 0 else "as far as can be told as much as"
            told += f"; the modules' genes are worth {word} correlation's "
            told += f"({value:+.2f}, 95 % {low:+.2f} to {high:+.2f})"
        found.append(told)
    return found


def _output(frequency) -> str:
    return str(frequency) if isinstance(frequency, str) else f"frequency {frequency}"


def _looked_up(table: pd.DataFrame) -> list[str]:
    rows = [
        f"{row['lineage']} {'found' if row['found'] else 'not found'}"
        + (f" ({row['term']}, {_output(row['frequency'])}, q {row['q']:.2g})" if row["term"] else "")
        for row in table.to_dict("records")
    ]
    return ["terms looked up in the modules (of frequencies, the lower half): " + "; ".join(rows)]


def _hierarchy(table: pd.DataFrame) -> list[str]:
    found, once = [], table.drop_duplicates("cut")
    for labels, part in table.groupby("labels", sort=False) if "labels" in table else ():
        if part["ari_types"].notna().any():
            best = part.loc[part["ari_types"].idxmax()]
            found.append(
                f"clusters in frequency space agree best with {labels} at {best['cut']:.0f} frequencies: ARI "
                f"{best['ari_types']:.2f} (principal components {best['ari_pca']:.2f})"
            )
    last = once.iloc[-1]
    if np.isfinite(last["ari_activations"]) and np.isfinite(last["ari_again"]):
        found.append(
            "clusters of the modules' activations are not those of the frequencies: ARI "
            f"{last['ari_activations']:.2f}, where another draw of cells reaches {last['ari_again']:.2f}"
            if last["ari_activations"] < last["ari_again"]
            else f"clusters of the modules' activations are those of the frequencies as far as another draw of cells "
            f"is: ARI {last['ari_activations']:.2f} against {last['ari_again']:.2f}"
        )
    if once["nested"].notna().any():
        found.append(
            f"a coarser clustering is {once['nested'].mean():.0%} known from the next finer one (principal components "
            f"{once['nested_pca'].mean():.0%}): the hierarchy is no property of the frequencies alone"
            if once["nested_pca"].mean() >= once["nested"].mean() - 0.05
            else f"a coarser clustering is {once['nested'].mean():.0%} known from the next finer one (principal "
            f"components {once['nested_pca'].mean():.0%})"
        )
    return found
