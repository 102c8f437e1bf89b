"""Every metric of one answer to one query; the ranks among queries come afterwards (scoreboard.py).

Shifts are taken against four references, the true and the predicted side each with its own control mean:

    ""            true mean − unseen control          predicted mean − training control
    "_shared"     true mean − training control        predicted mean − training control
    "_mean"       both of "" minus the mean training shift
    "_covariate"  both of "" minus the mean training shift within the query's own context

Shapes: n cells, G genes, K principal components.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.sparse import issparse
from scipy.spatial.distance import pdist

from stormcell.evaluation import differential, distributions, interactions, profiles
from stormcell.evaluation.glossary import DISCRIMINATION
from stormcell.evaluation.heldout import HeldOut, Query
from stormcell.evaluation.metrics import JACCARD_SIZES, METRICS
from stormcell.evaluation.profiles import Cells, at_most, mean_profile, variances

KEYS = ["condition", "context", "group"]
JUDGED_HERE = [name for name, metric in METRICS.items() if metric.panel != DISCRIMINATION]
INTERACTING = 100  # genes that the singles change most: what the distances between the others hold is noise
# but not that of a prediction made from the same singles


def key(query: Query) -> dict:
    """The columns by which a query is known in every table."""
    return {name: getattr(query, name) for name in KEYS} | {"n_cells": query.cells.shape[0]}


@dataclass(frozen=True)
class Controls:
    """Control cells with their mean."""

    mean: np.ndarray  # G
    cells: Cells  # n × G

    @classmethod
    def of(cls, cells: Cells) -> Controls:
        return cls(mean_profile(cells), cells)


class Training:
    """What the training cells say, the same for every query."""

    def __init__(self, held_out: HeldOut) -> None:
        self.held_out, self.train = held_out, held_out.train
        shifts = np.reshape(list(self.train.by_condition.values()), (-1, len(held_out.genes)))
        self.rest = ~profiles.dominating_genes(shifts)  # G bool
        within = {where: list(self.train.in_context(where).values()) for where in set(self.train.contexts) - {"all"}}
        self.context_shift = {where: np.mean(shifts, axis=0) for where, shifts in within.items()}

    def singles(self, condition: str) -> tuple[np.ndarray, np.ndarray] | None:
        """Training shifts of the two targets of a pair, G and G; None for another condition and an unseen single."""
        shifts = [self.train.by_condition.get(target) for target in condition.split(self.held_out.separator)]
        return tuple(shifts) if len(shifts) == 2 and all(shift is not None for shift in shifts) else None

    @cached_property
    def _sums(self) -> tuple[int, np.ndarray, np.ndarray]:
        return tuple(sum(parts) for parts in zip(*map(_sums, self.held_out.train_cells.values()), strict=True))

    def others(self, condition: str) -> tuple[np.ndarray, np.ndarray, int] | None:
        """Mean, variance and number of the training cells of all other perturbations: G, G; None below 2 cells."""
        if not self.held_out.train_cells:
            return None
        own = self.held_out.train_cells.get(condition)
        n, first, second = self._sums if own is None else (a - b for a, b in zip(self._sums, _sums(own), strict=True))
        if n < 2:
            return None
        return first / n, np.maximum(second / n - np.square(first / n), 0) * n / (n - 1), n


def _sums(cells: Cells) -> tuple[int, np.ndarray, np.ndarray]:
    square = cells.multiply(cells) if issparse(cells) else np.square(cells)
    return cells.shape[0], *(mean_profile(side) * cells.shape[0] for side in (cells, square))


@dataclass(frozen=True)
class Answer:
    """What is found of one answer to one query."""

    metrics: dict[str, float]  # all but the ranks
    n_de: tuple[float, float]  # genes that differ from control in the true and in the predicted cells; nan: not known
    interactions: dict[str, float]  # <score>_true, <score>_predicted of a pair; empty where none is asked for


class Truth:
    """What every answer to one query is compared with, computed once."""

    def __init__(self, query: Query, training: Training, control: Controls, unseen: Controls) -> None:
        """`control`: the cells that the methods know; `unseen`: those that the true shift is taken against."""
        self.query, self.training, self.control, self.unseen = query, training, control, unseen
        self.mean, self.noise = mean_profile(query.cells), sampling_variance(query.cells).sum()
        held_out, mean_shift = training.held_out, training.train.mean_shift
        self.singles = training.singles(query.condition)
        self.references = {"": (unseen.mean, control.mean), "_shared": (control.mean, control.mean)}
        for name, taken in ("_mean", mean_shift), ("_covariate", training.context_shift.get(query.context)):
            if taken is not None:
                self.references[name] = unseen.mean + taken, control.mean + taken
        self.shifts = {name: profiles.shift(self.mean, pair[0]) for name, pair in self.references.items()}
        self.coordinates = project(at_most(query.cells), held_out)
        self.median = float(np.median(pdist(self.coordinates))) if len(self.coordinates) > 1 else np.nan
        self.differential = differential.rank_sum(query.cells, unseen.cells)
        self.n_de = float(differential.n_significant(self.differential)) if query.cells.shape[0] > 1 else np.nan
        others = training.others(query.condition)
        self.weights = None if others is None else profiles.effect_weights(query.cells, *others)
        self.interactions = self._interactions(self.shifts[""])

    def judge(self, mean: np.ndarray, cells: Cells) -> Answer:
        """Every metric of one answer but its ranks: G, n × G → Answer. What is not defined is nan."""
        metrics, n_de, scores = dict.fromkeys(JUDGED_HERE, np.nan), np.nan, {}
        if np.isfinite(mean).all():
            shift = profiles.shift(mean, self.control.mean)
            scores = self._interactions(shift)
            metrics |= self._mean_profile(mean, shift) | self._pair(shift, scores)
        if cells.shape[0] > 1 and np.isfinite(cells.data if issparse(cells) else cells).all():
            tested = differential.rank_sum(cells, self.control.cells)
            n_de = float(differential.n_significant(tested))
            metrics |= self._differential(tested) | self._distribution(cells)
        sides = {"true": self.interactions, "predicted": scores} if scores else {}
        both = {f"{name}_{side}": value for side, values in sides.items() for name, value in values.items()}
        return Answer(metrics, (self.n_de, n_de), both)

    def silence(self) -> Answer:
        """What is found where a method has no answer."""
        return Answer(dict.fromkeys(JUDGED_HERE, np.nan), (self.n_de, np.nan), {})

    def _mean_profile(self, mean: np.ndarray, shift: np.ndarray) -> dict[str, float]:
        found, rest, true = {}, self.training.rest, self.shifts[""]
        for name, (_, reference) in self.references.items():
            sides = self.shifts[name], profiles.shift(mean, reference)
            found[f"shift_correlation{name}"] = profiles.shift_correlation(*sides)
            if rest.sum() > 1:
                found[f"shift_correlation{name}_rest"] = profiles.shift_correlation(*(side[rest] for side in sides))
        found |= {f"jaccard_{k}": profiles.jaccard_at_k(true, shift, k) for k in JACCARD_SIZES}
        found |= {name: getattr(profiles, name)(self.mean, mean) for name in ("l2", "mse", "rmse", "mae")}
        found["jaccard_signed_50"] = profiles.jaccard_signed_at_k(true, shift, 50)
        found["cosine_logfc"] = profiles.cosine_logfc(self.mean, mean, self.unseen.mean, self.control.mean)
        found["l2_top1000"] = profiles.l2_top(self.mean, mean, self.control.mean)
        if self.weights is not None:
            found["weighted_mse"] = profiles.weighted_mse(self.mean, mean, self.weights)
            if "_mean" in self.references:
                reference = self.references["_mean"][1]
                found["weighted_r2"] = profiles.weighted_r2(self.mean, mean, reference, self.weights)
        return found

    def _differential(self, tested: differential.Differential) -> dict[str, float]:
        names = {"de_precision_50": "de_precision"}
        asked = [name for name in JUDGED_HERE if name.startswith("de_")]
        return {name: getattr(differential, names.get(name, name))(self.differential, tested) for name in asked}

    def _distribution(self, cells: Cells) -> dict[str, float]:
        true, detected = self.query.cells, self.training.held_out.detected
        some = at_most(cells)
        x, y = project(some, self.training.held_out), self.coordinates
        return {
            "energy_distance": distributions.energy_distance(x, y),
            "mmd": distributions.mmd(x, y, self.median),
            "sliced_wasserstein": distributions.sliced_wasserstein(x, y),
            "wasserstein": distributions.wasserstein(x, y),
            "variance_ratio": distributions.variance_ratio(cells, true, detected),
            "coverage_50": distributions.coverage(some, true, detected, 0.5),
            "coverage_90": distributions.coverage(some, true, detected, 0.9),
        }

    def _pair(self, shift: np.ndarray, scores: dict[str, float]) -> dict[str, float]:
        if self.singles is None:
            return {}
        correlation = interactions.interaction_correlation(self.shifts[""], shift, sum(self.singles))
        error = abs(scores["magnitude"] - self.interactions["magnitude"]) if scores else np.nan
        return {"interaction_correlation": correlation, "interaction_magnitude_error": error}

    def _interactions(self, shift: np.ndarray) -> dict[str, float]:
        """Interaction scores of a shift (G); none where the query is no pair."""
        if self.singles is None:
            return {}
        genes = np.argsort(-np.square(self.singles).sum(axis=0), kind="stable")[:INTERACTING]
        return interactions.interaction_scores(*(side[genes] for side in (shift, *self.singles)))


def project(cells: Cells, held_out: HeldOut) -> np.ndarray:
    """Principal components of cells, n × G → n × K; the mean is taken off afterwards, so sparse cells stay sparse."""
    return np.asarray(cells @ held_out.pca_components) - held_out.pca_mean @ held_out.pca_components


def sampling_variance(cells: Cells) -> np.ndarray:
    """Variance of the mean of these cells, variance / n: n × G → G; nan with fewer than 2 cells."""
    n = cells.shape[0]
    return variances(cells) / n if n > 1 else np.full(cells.shape[1], np.nan)
