"""The cells that a model is asked about: held-out ones at the end, validation ones on the way.

Shapes: G genes, K principal components.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stormcell.analysis.embedding import TargetEmbedding
from stormcell.data.reference import Reference
from stormcell.data.screen import Screen
from stormcell.data.split import SEEN, rows_by
from stormcell.evaluation.heldout import HeldOut, Query
from stormcell.evaluation.profiles import mean_profile


def held_out(data: Screen, reference: Reference, own_cells: bool, embedding: TargetEmbedding | None = None) -> HeldOut:
    """The test cells of the data module beside what methods and metrics may use.

    `own_cells`: the training cells lie in this file too, so that a perturbation's own training cells can stand as a
    baseline.
    """
    cells, split, X = data.cells, data.split, data.expression
    perturbed = ~cells.obs["is_control"].to_numpy()
    condition, context = data.condition, data.context
    test = np.flatnonzero(split.mask("test") & perturbed)
    queries = [
        Query(label, where, split.groups.get(label, SEEN), X[rows])
        for label, mine in rows_by(condition, test).items()
        for where, rows in rows_by(context, mine).items()
    ]
    own = rows_by(condition, data.rows["train"]) if own_cells else {}
    controls, truth = {}, {}
    for where in sorted({query.context for query in queries}):
        controls[where] = X[data.control_rows(where)]
        kept = split.mask("truth") & ~perturbed & (context == where)
        truth[where] = controls[where] if split.shared else X[kept]
    return HeldOut(
        genes=tuple(cells.genes),
        separator="+",
        queries=tuple(queries),
        controls=controls,
        truth_controls=truth,
        shared=split.shared,
        train=reference.train,
        train_cells={label: X[own[label]] for label in reference.train.by_condition if label in own},
        detected=reference.detected,
        pca_mean=reference.pca_mean,
        pca_components=reference.pca_components,
        embedding=embedding,
    )


@dataclass(frozen=True)
class ValidationView:
    """The validation cells of perturbations of seen targets, ready to be compared with generated ones."""

    conditions: list[tuple[str, np.ndarray, np.ndarray]]  # label, mean profile (G), principal coordinates (n × K)
    control_mean: np.ndarray  # G, of the training controls


def validation_view(data: Screen, most: int = 64) -> ValidationView:
    """At most `most` perturbations (evenly spaced names) with two or more validation cells.

    Whole conditions may validate: those with a target that no training cell carries are left out.
    """
    condition, X = data.cells.obs["condition"].to_numpy(str), data.expression
    rows = data.rows["validation"][~data.cells.obs["is_control"].to_numpy()[data.rows["validation"]]]
    names, sizes = np.unique(condition[rows], return_counts=True)
    names = np.array([name for name in names[sizes >= 2] if not data.spec.unknown_targets(name)])
    chosen = names[np.unique(np.linspace(0, len(names) - 1, min(most, len(names))).round().astype(int))]
    found = []
    for name in chosen:
        mine = X[rows[condition[rows] == name]]
        found.append((str(name), mean_profile(mine), data.reference.project(mine.toarray())))
    return ValidationView(found, mean_profile(X[data.control_rows("all")]))
