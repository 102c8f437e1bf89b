"""The metrics of the scoreboard by name, and how far a value is from the best one."""

from __future__ import annotations

import numpy as np

from stormcell.evaluation import glossary
from stormcell.evaluation.glossary import JACCARD_SIZES, Metric

__all__ = ["JACCARD_SIZES", "METRICS", "Metric", "distance_from_best"]

METRICS: dict[str, Metric] = {
    metric.name: metric
    for panel in (
        glossary.mean_profile,
        glossary.discrimination,
        glossary.differential_expression,
        glossary.distribution,
        glossary.interactions,
    )
    for metric in panel()
}


def distance_from_best(value: np.ndarray | float, metric: str) -> np.ndarray:
    """How far values of a metric are from its best: smaller is better, +inf for what is undefined.

    A target of 1 is that of a ratio, of which 1/2 and 2 are equally far: |log value|. Of a share, |value − best|.
    """
    value, about = np.asarray(value, dtype=float), METRICS[metric]
    if about.direction == "higher":
        distance = -value
    elif about.direction == "lower":
        distance = value
    elif about.best == 1:
        with np.errstate(divide="ignore", invalid="ignore"):
            distance = np.abs(np.log(np.maximum(value, 0)))
    else:
        distance = np.abs(value - about.best)
    return np.where(np.isnan(distance), np.inf, distance)
