"""The rank metrics of one method over the held-out queries: which of them does a prediction point at?

Candidates are the queries of the same group and context, the test perturbations alone.

Shapes: Q queries, G genes.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from stormcell.evaluation.glossary import DISCRIMINATION
from stormcell.evaluation.heldout import HeldOut
from stormcell.evaluation.metrics import METRICS
from stormcell.evaluation.profiles import shift
from stormcell.evaluation.ranks import distances, rank, rank_of_truth

NAMES = [name for name, metric in METRICS.items() if metric.panel == DISCRIMINATION]


def discriminate(
    held_out: HeldOut, predicted: np.ndarray, true: np.ndarray, control: dict[str, np.ndarray]
) -> pd.DataFrame:
    """Q rows of rank metrics from means: Q × G, Q × G (NaN: no answer), context → G.

    Both shifts are taken against the same control mean: all candidates share it, so it flatters none.
    """
    number = {gene: i for i, gene in enumerate(held_out.genes)}
    targets = [
        np.array([number[target] for target in query.condition.split(held_out.separator) if target in number], int)
        for query in held_out.queries
    ]
    blocks: dict[tuple[str, str], list[int]] = {}
    for index, query in enumerate(held_out.queries):
        blocks.setdefault((query.group, query.context), []).append(index)
    found = pd.DataFrame(np.nan, index=range(len(held_out.queries)), columns=NAMES)
    for (_, context), rows in blocks.items():
        own = [targets[index] for index in rows]
        for name, values in _block(predicted[rows], true[rows], control[context], own).items():
            found.loc[rows, name] = values
    return found


def _block(predicted: np.ndarray, true: np.ndarray, control: np.ndarray, targets: list[np.ndarray]) -> dict:
    profiles = distances(predicted, true, "euclidean")
    angles = distances(shift(predicted, control), shift(true, control), "cosine", targets)
    nearer = rank_of_truth(profiles)
    return {
        "rank": rank(profiles),
        "rank_of_truth": nearer,
        "pds": 1 - rank_of_truth(distances(predicted, true, "l1", targets)),
        "pds_cosine": 1 - rank_of_truth(angles),
        "centroid_accuracy": 1 - nearer,
    }
