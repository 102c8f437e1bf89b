"""Networks that stand beside that of the model, fitted on the same training cells with the same rule for λ.

random pairs             the plan with its source cells permuted: as many partners each, no relation between the sides
shuffled mask            the same in-degree of every target, other regulators
self edge alone          no regulator at all
within the source state  genes on their regulators among source cells: no target cell decides a weight
all regulators           every regulator of the mask on every target

Shapes: T transitions, E edges, G genes, n cells.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from stormcell.analysis.couplings import Coupling
from stormcell.analysis.mask import Mask
from stormcell.analysis.masked_ridge import Edges, choose_ridge, moments, solve
from stormcell.data.cluster_mapping import Sides

if TYPE_CHECKING:
    from stormcell.models.transition import Transition

RANDOM, SHUFFLED, SELF = "random pairs", "shuffled mask", "self edge alone"
WITHIN, EVERY = "within the source state", "all regulators"
MOST_REGULATORS = 400  # of a target, in the row with all regulators


@dataclass(frozen=True)
class Fit:
    """A network of every transition, on the mask of the model or another one."""

    mask: Mask
    edges: list[Edges]

    def predict(self, x: np.ndarray, t: int) -> np.ndarray:
        """n × G source cells → n × G."""
        return self.edges[t].predict(x, self.mask)

    def score(self) -> np.ndarray:
        """T × E weights."""
        return np.array([one.values for one in self.edges])


def rivals(model: Transition, train: list[Sides]) -> dict[str, Fit]:
    """Every null and rival that is a network, fitted on the training cells."""
    mask, rng = model.mask, np.random.default_rng([model.seed, 7])
    shuffled = mask.shuffled(rng)
    permuted = [permuted_side(side, rng) for side in train]
    every = Mask.full(mask.n_genes, mask.regulators)
    wanted = np.isin(every.target, np.flatnonzero(mask.in_degree))
    every = Mask.of(mask.n_genes, every.regulator[wanted], every.target[wanted])
    found = {
        RANDOM: fit_like(model, permuted, mask),
        SHUFFLED: fit_like(model, train, shuffled),
        SELF: fit_like(model, train, Mask.of(mask.n_genes, [], [])),
        WITHIN: within(model, train),
    }
    if len(mask.regulators) <= MOST_REGULATORS:
        found[EVERY] = fit_like(model, train, every)
    return found


def permuted_side(side: Sides, rng: np.random.Generator) -> Sides:
    """The plan with its source cells permuted."""
    plan = side.coupling.plan[rng.permutation(len(side.x))]
    return replace(side, coupling=Coupling.of(plan, RANDOM))


def fit_like(model: Transition, sides: list[Sides], mask: Mask) -> Fit:
    """The model's own solver on other couplings or another mask, λ chosen anew where the model chose it."""
    found = [moments(side.x, side.y, side.coupling, model.mask.regulators) for side in sides]
    shared, fitted = model.solved(found, mask, model.ridge_of(found, [side.coupling for side in sides], mask))
    return Fit(mask, fitted if shared is None else [shared + one for one in fitted])


def within(model: Transition, train: list[Sides]) -> Fit:
    """Genes on their regulators among the source cells; the mean of the target cluster is all that it knows of that."""
    edges = []
    for side in train:
        found = moments(side.x, side.x, None, model.mask.regulators)
        ridge = choose_ridge(found, model.mask, False)[0] if model.ridge == "gcv" else float(model.ridge)
        one = solve(found, model.mask, ridge, False)
        moved = side.coupling.target @ side.y - side.x.mean(0)
        edges.append(replace(one, intercept=one.intercept + moved))
    return Fit(model.mask, edges)
