"""Predictions that need no model: what a model has to beat before it is worth its training.

c control mean of the query's context, s_p training shift of perturbation p, m mean of s_p over p (weight 1 each):

    no change                     c
    proportional to expression    c + a c,  a = ⟨m, c⟩ / ⟨c, c⟩
    training mean                 c + m
    own training mean             c + s_p, cells: the training cells of p; no answer where p was not seen
    additive                      c + Σ s_t over the targets t of p; a target not seen alone counts as m

But for "own training mean", the cells are training control cells moved by the shift, not clipped at zero: the cells of
"additive" are the control cells moved by the additive shift, and they are the bar for predicted distributions.

Shapes: G genes, n cells. Source: Ahlmann-Eltze, Huber & Anders 2025 (additive, training mean, no change).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.sparse import csr_matrix

from stormcell.evaluation.heldout import HeldOut, Method
from stormcell.evaluation.perturbation import mean_profile

Shift = Callable[[str, np.ndarray], np.ndarray | None]  # condition, control mean (G) -> shift (G) or None


def baselines(held_out: HeldOut, n_cells: int, seed: int) -> list[Method]:
    """Every baseline as a method; each gives at most `n_cells` cells, the same control cells for the same query.

    No cell is drawn twice, so fewer come back where there are fewer: copies of a cell are at distance zero from each
    other and would worsen the energy distance of a baseline for no fault of its own.
    """
    training_mean = mean_shift(held_out)
    shifts: dict[str, Shift] = {
        "no change": lambda condition, control: np.zeros_like(control),
        "proportional to expression": lambda condition, control: _proportional(training_mean, control),
        "training mean": lambda condition, control: training_mean,
        "own training mean": lambda condition, control: held_out.train_shift.get(condition),
        "additive": lambda condition, control: additive_shift(condition, held_out, training_mean),
    }
    control_means = {context: mean_profile(cells) for context, cells in held_out.controls.items()}

    def answer(name: str, index: int) -> tuple[np.ndarray, np.ndarray] | None:
        query = held_out.queries[index]
        control = control_means[query.context]
        shift = shifts[name](query.condition, control)
        if shift is None:
            return None
        rng = np.random.default_rng([seed, index])
        own = held_out.train_cells.get(query.condition) if name == "own training mean" else None
        if own is not None:
            return control + shift, _draw(own, n_cells, rng)
        moved = _draw(held_out.controls[query.context], n_cells, rng) + shift.astype(np.float32)
        return control + shift, moved

    return [Method(name, lambda index, name=name: answer(name, index)) for name in shifts]


def mean_shift(held_out: HeldOut) -> np.ndarray | None:
    """Mean training shift, G: each perturbation has weight 1, however many cells it has. None without one."""
    return np.mean(list(held_out.train_shift.values()), axis=0) if held_out.train_shift else None


def additive_shift(condition: str, held_out: HeldOut, fallback: np.ndarray | None) -> np.ndarray | None:
    """Sum of the training shifts of the single targets, G; `fallback` for a target that was not seen alone."""
    parts = [held_out.train_shift.get(target, fallback) for target in condition.split(held_out.separator)]
    return None if any(part is None for part in parts) else np.sum(parts, axis=0)


def _proportional(training_mean: np.ndarray | None, control: np.ndarray) -> np.ndarray | None:
    """The multiple of the control profile (G) that is nearest to the mean training shift by least squares."""
    if training_mean is None or not control.any():
        return None
    return (training_mean @ control) / (control @ control) * control


def _draw(cells: csr_matrix, n_cells: int, rng: np.random.Generator) -> np.ndarray:
    rows = rng.permutation(cells.shape[0])[:n_cells]
    return cells[rows].toarray().astype(np.float32, copy=False)
