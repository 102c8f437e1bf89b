"""What the edges hang on: the cells that were drawn, the half that was measured, and how widely cells are coupled.

A network that another draw of cells, or another ε of the coupling, would not give again is a matter of chance or of
taste. Each row compares weights on the same edges, the mean over the transitions.

Shapes: T transitions, E edges, S resamples.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from stormcell.analysis.couplings import PseudotimeLag, Sinkhorn
from stormcell.analysis.masked_ridge import moments
from stormcell.evaluation.network import stability

if TYPE_CHECKING:
    from stormcell.data.cluster_mapping import ClusterMappingDataModule, Sides
    from stormcell.models.transition import Transition

COMPARED = 20  # resamples that are compared with each other
HALVES = 3  # times that the cells are halved
FACTORS = (0.25, 4.0)  # of ε, or of the width of the kernel over pseudotime


def stability_table(
    model: Transition, data: ClusterMappingDataModule, train: list[Sides], draws: np.ndarray
) -> pd.DataFrame:
    """Rows: what was changed; rank correlation of the weights, Jaccard index of the strongest, that of chance.

    `draws`: S × T × E weights of resampled cells.
    """
    T = range(data.spec.n_transitions)
    own = np.stack([model.weights(t) for t in T])
    rows = [{"compared": "resampled cells with each other", **_mean([list(draws[:COMPARED, t]) for t in T])}]
    halves = [_halves(model, data, train, draw) for draw in range(HALVES)]
    found = pd.DataFrame([_mean([[one[t], other[t]] for t in T]) for one, other in halves])
    rows.append({"compared": "one half of the cells with the other", **found.mean().to_dict()})
    for name, rule in _widths(data.rule):
        sides = [data.coupled(t, *side.rows, rule) for t, side in enumerate(train)]
        other = _weights(model, [replace(side, coupling=c) for side, c in zip(train, sides, strict=True)])
        rows.append({"compared": name, **_mean([[own[t], other[t]] for t in T])})
    return pd.DataFrame(rows)


def _mean(networks: list[list[np.ndarray]]) -> dict[str, float]:
    return pd.DataFrame([stability(one) for one in networks]).mean().to_dict()


def _widths(rule: object) -> list[tuple[str, object]]:
    """The rule of the coupling, narrower and wider."""
    key = {Sinkhorn: "epsilon", PseudotimeLag: "width"}.get(type(rule))
    if key is None:
        return []
    values = [getattr(rule, key) * factor for factor in FACTORS]
    return [
        (f"coupling.{key}={value:g} with {getattr(rule, key):g}", replace(rule, **{key: value})) for value in values
    ]


def _halves(model: Transition, data: ClusterMappingDataModule, train: list[Sides], draw: int) -> list[np.ndarray]:
    """Networks of the two halves of the cells of each side, coupled by themselves: T × E, T × E."""
    rng = np.random.default_rng([model.seed, 10, draw])
    parts: tuple[list[Sides], list[Sides]] = ([], [])
    for t, side in enumerate(train):
        orders = [rng.permutation(len(rows)) for rows in side.rows]
        for half in range(2):
            a, b = (np.sort(order[half::2]) for order in orders)
            rows = side.rows[0][a], side.rows[1][b]
            coupling = data.coupled(t, *rows, data.rule)
            parts[half].append(replace(side, x=side.x[a], y=side.y[b], coupling=coupling, rows=rows))
    return [_weights(model, half) for half in parts]


def _weights(model: Transition, sides: list[Sides]) -> np.ndarray:
    """The model's own solver and penalties: T × E."""
    found = [moments(side.x, side.y, side.coupling, model.mask.regulators) for side in sides]
    shared, fitted = model.solved(found)
    return np.stack([one.values + (0 if shared is None else shared.values) for one in fitted])
