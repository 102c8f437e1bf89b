"""Is the perturbation, and nothing else, in the salient space, and everything else in the background?

Probes are fitted on training cells and asked about held-out cells; LATENT_METRICS says what each metric means.
Intervals: 95 %, from 200 bootstrap samples of the held-out cells, drawn within each condition, with the answers of
probes, clusters and neighbours held fixed: the noise of fitting a probe, of k-means, and of training the model is not
in them. A sample holds cells twice, which flatters agreement scores: its spread is used, not its place.

Shapes: N cells, K latent dimensions, R rows of weights (weighted.py).
Source: Weinberger, Lin & Lee 2023 (which questions); Efron & Tibshirani 1993 (bootstrap).
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from stormcell.evaluation.latent_answers import Asked, enough
from stormcell.evaluation.latent_metrics import LATENT_METRICS
from stormcell.evaluation.probes import one_thread
from stormcell.evaluation.spaces import CellLabels, Space

__all__ = ["FOLLOWED", "GROUP", "CellLabels", "Space", "chance", "follow", "latent_board", "latent_scores", "reasons"]

GROUP = "held-out cells"
RESAMPLES = 200
FOLLOWED = ("probe", "ari", "salient_auc", "background_auc", "background_auc_knn", "control_norm")
MERGED_MISSING = "no perturbations are named as one phenotype: ari_merged has no value"


def latent_board(
    methods: dict[str, tuple[Space, Space]], train_labels: CellLabels, test_labels: CellLabels, seed: int
) -> pd.DataFrame:
    """One row per method (its training and its held-out space): group, method, n held-out cells, and for each metric
    of LATENT_METRICS the value, <metric>_low and <metric>_high; nan where a method or the cells do not have it."""
    rows = []
    for method, (train, test) in methods.items():
        row = {"group": GROUP, "method": method, "n": len(test_labels.condition)}
        for name, found in latent_scores(train, test, train_labels, test_labels, seed).items():
            row |= dict(zip((name, f"{name}_low", f"{name}_high"), found, strict=True))
        rows.append(row)
    return pd.DataFrame(rows)


def latent_scores(
    train: Space, test: Space, train_labels: CellLabels, test_labels: CellLabels, seed: int
) -> dict[str, tuple[float, float, float]]:
    """Every metric of LATENT_METRICS with its interval: value, low, high; three nan where it has none.

    Raises ValueError for a space that is not finite or of another length than its labels.
    """
    asked = Asked.of(train, test, train_labels, test_labels, seed, RESAMPLES)
    with one_thread():
        return {name: _interval(asked.answer(name)) for name in LATENT_METRICS}


def follow(train: Space, test: Space, train_labels: CellLabels, test_labels: CellLabels, seed: int) -> dict[str, float]:
    """The metrics that are cheap enough to be followed during training, without intervals."""
    asked = Asked.of(train, test, train_labels, test_labels, seed, 0)
    with one_thread():
        return {name: float(asked.answer(name)[0]) for name in FOLLOWED}


def chance(test_labels: CellLabels) -> dict[str, float]:
    """What a space without any information scores on these cells: a line in a figure. Of a metric that is not here
    chance is 0 (nmi a little above)."""
    perturbed = ~test_labels.is_control
    found = dict.fromkeys(("salient_auc", "background_auc", "background_auc_knn"), 0.5)
    found |= dict.fromkeys(("control_norm", "mixing", "mixing_batch"), 1.0)
    asked = {
        "condition": (("probe", perturbed), ("background_probe", perturbed)),
        "batch": (("batch_leak", perturbed), ("background_batch", slice(None))),
        "phase": (("phase_leak", perturbed), ("background_phase", slice(None))),
        "cell_type": (("background_cell_type", slice(None)),),
    }
    for column, metrics in asked.items():
        labels = getattr(test_labels, column)
        if labels is not None:
            found |= {name: 1 / max(len(np.unique(labels[cells])), 1) for name, cells in metrics}
    return found


def reasons(train_labels: CellLabels, test_labels: CellLabels) -> list[str]:
    """Sentences that tell which metrics these cells cannot give to any method, and why."""
    found = []
    asked = {
        "batch": "batch_leak, background_batch and mixing_batch have",
        "phase": "phase_leak and background_phase have",
        "cell_type": "background_cell_type has",
    }
    for name, metrics in asked.items():
        train, test = getattr(train_labels, name), getattr(test_labels, name)
        if train is None or test is None:
            found.append(f"no {name} is known of the cells: {metrics} no value")
        elif len(enough(train, test)) < 2:
            found.append(f"fewer than two values of {name} in training and held-out cells: {metrics} no value")
    if train_labels.library is None or test_labels.library is None:
        found.append("no library size is known of the cells: library_leak has no value")
    for side, labels in ("training", train_labels), ("held-out", test_labels):
        if labels.is_control.all() or not labels.is_control.any():
            missing = "perturbed" if labels.is_control.any() else "control"
            found.append(f"no {missing} cells among the {side} cells: metrics that compare the two have no value")
    return found if test_labels.merged else [*found, MERGED_MISSING]


def _interval(answers: np.ndarray) -> tuple[float, float, float]:
    """The value (first) and the spread of its bootstrap samples (the others) about it: 1 + R → value, low, high."""
    value, samples = answers[0], answers[1:][np.isfinite(answers[1:])]
    if np.isnan(value) or len(samples) < 2:
        return float(value), np.nan, np.nan
    low, high = np.quantile(samples, [0.025, 0.975]) - samples.mean()
    return float(value), float(value + low), float(value + high)
