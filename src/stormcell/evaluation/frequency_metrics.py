"""The metrics of a model of frequencies or cell types: what each asks, and what an answer without knowledge scores.

Equations: frequency.py.
"""

from __future__ import annotations

from stormcell.evaluation.glossary import Metric

CELLS = "held-out cells"

# What the training mean and the training median score. Of classes the row of the commonest one says it.
CHANCE = {"r2": 0.0, "mae_ratio": 1.0, "worst_r2": 0.0}

_CONSTANT = "no frequency varies among the held-out cells"

FREQUENCY_METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric(
            "r2",
            "R²",
            "Share of the variance of a frequency among held-out cells that is predicted, mean over frequencies. 0: no "
            "better than the mean of the training cells",
            "higher",
            CELLS,
            _CONSTANT,
        ),
        Metric(
            "mae_ratio",
            "error over null",
            "Mean absolute error over that of the median of the training cells, mean over frequencies. 1: no better "
            "than the median; a frequency that sits on few cells has a small error whatever is predicted, so that only "
            "the ratio can be read",
            "lower",
            CELLS,
            _CONSTANT,
        ),
        Metric(
            "worst_r2",
            "R², worst frequency",
            "R² of the frequency that is predicted worst: a high mean can hide one that is not predicted at all",
            "higher",
            CELLS,
            _CONSTANT,
        ),
        Metric(
            "balanced_accuracy",
            "accuracy, balanced",
            "Share of the held-out cells of a type that are named right, mean over types: always the commonest type "
            "scores 1 / types",
            "higher",
            CELLS,
        ),
        Metric(
            "accuracy",
            "accuracy",
            "Share of the held-out cells that are named right; where one type is common, always that type scores high",
            "higher",
            CELLS,
        ),
    )
}
