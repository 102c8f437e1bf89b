"""Each latent metric on one method's spaces: which cells are asked, by which probe, under which weights.

Shapes: N training cells, M held-out cells, K latent dimensions, R rows of weights: every answer is R scores.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from stormcell.evaluation import probes
from stormcell.evaluation.spaces import CellLabels, Space
from stormcell.evaluation.weighted import (
    adjusted_rand,
    auc,
    balanced_accuracy,
    contingency,
    normalised_mutual_information,
    r_squared,
    resamples,
    weighted_mean,
)

CLASSIFIED, MIXED = 15, 50  # neighbours that classify a cell, that are looked at for mixing


@dataclass(frozen=True)
class Asked:
    """The spaces of one method and the labels of the cells. A metric is a method of its name: () → R, or None where
    it has no value."""

    train: Space
    test: Space
    train_labels: CellLabels
    test_labels: CellLabels
    weights: np.ndarray  # R × M, the first row ones
    seed: int

    @classmethod
    def of(cls, train: Space, test: Space, train_labels: CellLabels, test_labels: CellLabels, seed: int, n: int):
        """With n bootstrap samples. Held-out cells are put in an order of their own: that of a file decides nothing."""
        _check(train, train_labels, "training"), _check(test, test_labels, "held-out")
        rows = _order(test, test_labels, seed)
        test, test_labels = test.take(rows), test_labels.take(rows)
        weights = resamples(test_labels.condition, n, np.random.default_rng([seed, 0]))
        return cls(train, test, train_labels, test_labels, weights, seed)

    def answer(self, name: str) -> np.ndarray:
        """R scores of a metric, all nan where it has no value."""
        found = getattr(self, name)()
        return np.full(len(self.weights), np.nan) if found is None else found

    # ---- the perturbation

    def probe(self) -> np.ndarray | None:
        return self._label("condition", "salient", perturbed=True)

    def background_probe(self) -> np.ndarray | None:
        return self._label("condition", "background", perturbed=True)

    def ari(self) -> np.ndarray | None:
        table = self._agreement(self.test_labels.condition, {})
        return None if table is None else adjusted_rand(table)

    def nmi(self) -> np.ndarray | None:
        table = self._agreement(self.test_labels.condition, {})
        return None if table is None else normalised_mutual_information(table)

    def ari_merged(self) -> np.ndarray | None:
        if not self.test_labels.merged:
            return None
        table = self._agreement(self.test_labels.phenotype, self.test_labels.merged)
        return None if table is None else adjusted_rand(table)

    def silhouette(self) -> np.ndarray | None:
        cells, labels = self._perturbed, self.test_labels.condition
        if self.test.salient is None or len(np.unique(labels[cells])) < 2:
            return None
        values = probes.silhouettes(self.test.salient[cells], labels[cells])
        known = np.isfinite(values)
        return weighted_mean(values[known], self.weights[:, cells][:, known])

    def salient_auc(self) -> np.ndarray | None:
        return self._case_control("salient", probes.log_odds)

    def background_auc(self) -> np.ndarray | None:
        return self._case_control("background", probes.log_odds)

    def background_auc_knn(self) -> np.ndarray | None:
        return self._case_control("background", lambda *sides: probes.neighbour_share(*sides, CLASSIFIED))

    def control_norm(self) -> np.ndarray | None:
        """Σ_control w ‖t‖ / Σ_control w  over  Σ_perturbed w ‖t‖ / Σ_perturbed w."""
        if self.test.salient is None:
            return None
        length, control = np.linalg.norm(self.test.salient, axis=1), self.test_labels.is_control
        controls, others = (weighted_mean(length[side], self.weights[:, side]) for side in (control, ~control))
        return np.divide(controls, others, out=np.full(len(others), np.nan), where=others > 0)

    # ---- nuisances

    def batch_leak(self) -> np.ndarray | None:
        return self._label("batch", "salient", perturbed=True)

    def phase_leak(self) -> np.ndarray | None:
        return self._label("phase", "salient", perturbed=True)

    def background_phase(self) -> np.ndarray | None:
        return self._label("phase", "background", perturbed=False)

    def background_cell_type(self) -> np.ndarray | None:
        return self._label("cell_type", "background", perturbed=False)

    def background_batch(self) -> np.ndarray | None:
        return self._label("batch", "background", perturbed=False)

    def library_leak(self) -> np.ndarray | None:
        train, test, own = self.train_labels, self.test_labels, ~self.train_labels.is_control
        cells = self._perturbed
        if (
            self.test.salient is None
            or train.library is None
            or test.library is None
            or own.sum() < 2
            or not len(cells)
        ):
            return None
        true = np.log(test.library[cells])
        found = probes.ridge_of(self.train.salient[own], np.log(train.library[own]), self.test.salient[cells])
        return r_squared(true, found, self.weights[:, cells])

    def mixing(self) -> np.ndarray | None:
        labels = np.where(self.test_labels.is_control, "control", "perturbed")
        return self._mixed(self.test.background, labels, np.arange(len(labels)))

    def mixing_batch(self) -> np.ndarray | None:
        return self._mixed(self.test.salient, self.test_labels.batch, self._perturbed)

    # ---- what these share

    @cached_property
    def _perturbed(self) -> np.ndarray:
        return np.flatnonzero(~self.test_labels.is_control)

    def _label(self, name: str, space: str, perturbed: bool) -> np.ndarray | None:
        """Balanced accuracy of a label from a space, of perturbed or of all cells, over the labels on both sides."""
        train, test = getattr(self.train_labels, name), getattr(self.test_labels, name)
        given = self.test.predicted if (name, space) == ("condition", "salient") else None
        if train is None or test is None or (given is None and getattr(self.test, space) is None):
            return None
        own, cells = (~side.is_control | (not perturbed) for side in (self.train_labels, self.test_labels))
        names = enough(train[own], test[cells])
        if len(names) < 2:
            return None
        own, cells = np.flatnonzero(own & np.isin(train, names)), np.flatnonzero(cells & np.isin(test, names))
        found = given[cells] if given is not None else None
        if found is None:
            found = probes.class_of(getattr(self.train, space)[own], train[own], getattr(self.test, space)[cells])
        return balanced_accuracy(test[cells], found, self.weights[:, cells])

    def _case_control(self, space: str, score) -> np.ndarray | None:
        own, positive = ~self.train_labels.is_control, ~self.test_labels.is_control
        if getattr(self.test, space) is None or own.all() or not own.any():
            return None
        return auc(positive, score(getattr(self.train, space), own, getattr(self.test, space)), self.weights)

    def _agreement(self, labels: np.ndarray, merged: dict[str, str]) -> np.ndarray | None:
        """Labels of perturbed cells against clusters of their salient vectors, or against the labels that a classifier
        gave them: R × A × B. Where there is one perturbation, control cells are the other label."""
        cells = self._perturbed
        if self.test.predicted is not None:
            found = np.array([merged.get(name, name) for name in self.test.predicted[cells]])
            several = len(np.unique(labels[cells])) > 1
            return contingency(labels[cells], found, self.weights[:, cells]) if several else None
        if len(np.unique(labels[cells])) == 1:
            cells = np.arange(len(labels))
        k = len(np.unique(labels[cells]))
        if k < 2 or self.test.salient is None:
            return None
        return contingency(labels[cells], self._clusters(cells, k), self.weights[:, cells])

    def _clusters(self, cells: np.ndarray, k: int) -> np.ndarray:
        if k not in self._clustered:
            self._clustered[k] = probes.clusters(self.test.salient[cells], k, self.seed)
        return self._clustered[k]

    @cached_property
    def _clustered(self) -> dict[int, np.ndarray]:
        return {}

    def _mixed(self, points: np.ndarray | None, labels: np.ndarray | None, cells: np.ndarray) -> np.ndarray | None:
        if points is None or labels is None or len(np.unique(labels[cells])) < 2:
            return None
        found = probes.mixing(points[cells], labels[cells], MIXED, np.random.default_rng([self.seed, 2]))
        return weighted_mean(found, self.weights[:, cells])


def enough(train: np.ndarray, test: np.ndarray) -> np.ndarray:
    """The labels with at least two training cells and one held-out cell."""
    names, counts = np.unique(train, return_counts=True)
    return np.intersect1d(names[counts >= 2], test)


def _order(space: Space, labels: CellLabels, seed: int) -> np.ndarray:
    """The cells by their place and label, shuffled: cells at one place must not stand by label, for k-NN breaks ties
    by order."""
    places = [part for part in (space.salient, space.background) if part is not None]
    columns = np.concatenate(places, axis=1).T if places else np.empty((0, len(labels.condition)))
    rows = np.lexsort([labels.condition, *columns])
    return rows[np.random.default_rng([seed, 1]).permutation(len(rows))]


def _check(space: Space, labels: CellLabels, side: str) -> None:
    n = len(labels.condition)
    for name in ("salient", "background", "predicted"):
        part = getattr(space, name)
        if part is None:
            continue
        if len(part) != n:
            raise ValueError(f"{name} of {len(part)} {side} cells, labels of {n}")
        if name != "predicted" and not np.isfinite(part).all():
            raise ValueError(f"the {name} vectors of {side} cells are not all finite")
