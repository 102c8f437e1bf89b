"""Predictions that need no training run: what a model has to beat before it is worth its training.

c control mean of the query's context, s_p training shift of perturbation p, m mean of s_p over p (weight 1 each), p its
vector in the embedding of targets (conf/targets; without one, a column for each target):

    no change                     c
    proportional to expression    c + a c,  a = ⟨m, c⟩ / ⟨c, c⟩
    training mean                 c + m;  clipped: max(c + m, 0)
    pool of perturbed cells       mean of all perturbed training cells, each with weight 1
    own training mean             c + s_p; no answer where p was not seen
    covariate mean                c + mean of the shifts within the query's own context
    most similar covariate        c + s_p as it was in the context whose control profile is most like c (Pearson)
    additive                      c + Σ s_t over the targets t of p; a target not seen alone counts as m
    matching mean                 c + mean of the same parts (as published, the pool stands for an unseen target, not m)
    nearest perturbation          c + s_q of the other training perturbation q of highest cosine (ties averaged)
    k-NN on embedding             c + mean of s_q of the five of highest cosine, as far as it is positive
    ridge on embedding            c + ridge of the shifts on the vectors, penalty by leave-one-out
    LGEM                          c + G W p + b (analysis/linear.py), K = 10, λ = 0.1; multi-hot: with a column for each
                                  target, where the embedding is another

The cells of "own training mean" and "pool of perturbed cells" are training cells. Every other row moves training
control cells by its shift, not clipped at zero but for the clipped mean: the bar for predicted distributions.

Shapes: P training perturbations, G genes, n cells, D columns of an embedding.
Source: Ahlmann-Eltze, Huber & Anders 2025 (additive, mean, no change, LGEM); Viñas Torné et al. 2025 (matching mean).
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
from scipy.sparse import csr_matrix, vstack

from stormcell.analysis.embedding import TargetEmbedding, gene_scores, multi_hot
from stormcell.analysis.linear import Linear, ridge_leave_one_out, two_ridge
from stormcell.analysis.pseudobulk import Pseudobulk
from stormcell.evaluation.heldout import HeldOut, Method, Query
from stormcell.evaluation.profiles import mean_profile, pearson
from stormcell.evaluation.roster import CONTEXTUAL, LABELS, MULTI_HOT

K, RIDGE, NEIGHBOURS = 10, 0.1, 5
PENALTIES = np.logspace(-3, 3, 13)


def baselines(held_out: HeldOut, n_cells: int, seed: int) -> list[Method]:
    """Every baseline as a method; each gives at most `n_cells` cells, the same control cells for the same query."""
    contexts = {query.context for query in held_out.queries} | set(held_out.train.contexts)
    shared = Shifts.of(held_out)
    left_out = {
        *(CONTEXTUAL if contexts == {"all"} else ()),
        *(MULTI_HOT if shared.embedding.kind == "multi_hot" else ()),
    }
    names = [name for name in LABELS if name not in left_out]
    return [baseline(name, held_out, n_cells, seed, shared) for name in names]


def baseline(name: str, held_out: HeldOut, n_cells: int, seed: int, shifts: Shifts | None = None) -> Method:
    """One baseline, by its key in LABELS."""
    shifts = shifts or Shifts.of(held_out)

    def answer(index: int) -> tuple[np.ndarray, np.ndarray] | None:
        query = held_out.queries[index]
        control = shifts.control[query.context]
        shift = getattr(shifts, name)(query)
        if shift is None:
            return None
        rng = np.random.default_rng([seed, index])
        if name == "own_mean" and query.condition in held_out.train_cells:
            return control + shift, draw(held_out.train_cells[query.condition], n_cells, rng)
        if name == "pool" and held_out.train_cells and query.context == "all":
            return control + shift, _draw_of_all(list(held_out.train_cells.values()), n_cells, rng)
        cells = draw(held_out.controls[query.context], n_cells, rng) + shift.astype(np.float32)
        if name == "clipped_mean":
            return np.maximum(control + shift, 0), np.maximum(cells, 0)
        return control + shift, cells

    return Method(LABELS[name], answer)


def moved_controls(held_out: HeldOut, index: int, shift: np.ndarray, n_cells: int, seed: int) -> np.ndarray:
    """Training control cells of a query's context moved by a shift: G → n × G float32."""
    cells = held_out.controls[held_out.queries[index].context]
    return draw(cells, n_cells, np.random.default_rng([seed, index])) + shift.astype(np.float32)


def draw(cells: csr_matrix, n_cells: int, rng: np.random.Generator) -> np.ndarray:
    """At most n_cells cells, dense. No cell is drawn twice: copies of a cell are at distance zero from each other and
    would worsen the energy distance of a baseline for no fault of its own."""
    rows = rng.permutation(cells.shape[0])[:n_cells]
    return cells[rows].toarray().astype(np.float32, copy=False)


def _draw_of_all(blocks: list[csr_matrix], n_cells: int, rng: np.random.Generator) -> np.ndarray:
    """At most n_cells cells of all blocks together, which are not stacked: they are the whole training data."""
    ends = np.cumsum([block.shape[0] for block in blocks])
    chosen = np.sort(rng.permutation(ends[-1])[:n_cells])
    which = np.searchsorted(ends, chosen, side="right")
    first = ends - [block.shape[0] for block in blocks]
    rows = [blocks[b][chosen[which == b] - first[b]] for b in np.unique(which)]
    cells = vstack(rows, format="csr").toarray().astype(np.float32, copy=False)
    return cells[rng.permutation(len(cells))]


class Shifts:
    """The shift of each baseline for a query: Query → G, or None where it has no answer.

    `control`: context → G, mean of its training controls.
    """

    def __init__(self, train: Pseudobulk, embedding: TargetEmbedding | None, control: dict[str, np.ndarray]) -> None:
        self.train, self.control = train, control
        targets = {target for name in train.by_condition for target in name.split("+")}
        self.embedding = multi_hot(sorted(targets)) if embedding is None else embedding

    @classmethod
    def of(cls, held_out: HeldOut) -> Shifts:
        control = {context: mean_profile(cells) for context, cells in held_out.controls.items()}
        return cls(held_out.train, held_out.embedding, control)

    def no_change(self, query: Query) -> np.ndarray:
        return np.zeros_like(self.control[query.context])

    def proportional(self, query: Query) -> np.ndarray | None:
        """The multiple of the control profile that is nearest to the mean training shift by least squares."""
        mean, control = self.train.mean_shift, self.control[query.context]
        return None if mean is None or not control.any() else (mean @ control) / (control @ control) * control

    def training_mean(self, query: Query) -> np.ndarray | None:
        return self.train.mean_shift

    def clipped_mean(self, query: Query) -> np.ndarray | None:
        return self.train.mean_shift

    def pool(self, query: Query) -> np.ndarray | None:
        return self.train.pool_shift

    def own_mean(self, query: Query) -> np.ndarray | None:
        return self.train.by_condition.get(query.condition)

    def covariate_mean(self, query: Query) -> np.ndarray | None:
        inside = self.train.in_context(query.context)
        return np.mean(list(inside.values()), axis=0) if inside else None

    def most_similar_covariate(self, query: Query) -> np.ndarray | None:
        train, own = self.train, self.control[query.context]
        rows = [
            row
            for row, (condition, context) in enumerate(zip(train.conditions, train.contexts, strict=True))
            if condition == query.condition and context != query.context
        ]
        if not rows:
            return None
        return train.shifts[max(rows, key=lambda row: np.nan_to_num(pearson(train.controls[train.contexts[row]], own)))]

    def additive(self, query: Query) -> np.ndarray | None:
        parts = self._parts(query)
        return None if parts is None else np.sum(parts, axis=0)

    def matching_mean(self, query: Query) -> np.ndarray | None:
        parts = self._parts(query)
        return None if parts is None else np.mean(parts, axis=0)

    def _parts(self, query: Query) -> list[np.ndarray] | None:
        """Training shifts of the single targets; the mean shift for a target that was not seen alone."""
        single, mean = self.train.by_condition, self.train.mean_shift
        parts = [single.get(target, mean) for target in query.condition.split("+")]
        return None if any(part is None for part in parts) else parts

    # ---- on the embedding of targets

    @cached_property
    def _known(self) -> tuple[list[str], np.ndarray, np.ndarray]:
        """Training perturbations with a vector: names, vectors (P × D), shifts (P × G)."""
        shifts = self.train.by_condition
        names = [name for name in shifts if not self.embedding.missing(name)]
        return names, self.embedding.of(names), np.array([shifts[name] for name in names])

    def _vector(self, query: Query) -> np.ndarray | None:
        if self.embedding.missing(query.condition) or len(self._known[0]) < 2:
            return None
        return self.embedding.of([query.condition])[0]

    def _cosines(self, query: Query) -> np.ndarray | None:
        """Cosine of the query's vector with those of the training perturbations: P."""
        vector = self._vector(query)
        if vector is None or not vector.any():
            return None
        vectors = self._known[1]
        norms = np.linalg.norm(vectors, axis=1) * np.linalg.norm(vector)
        return np.divide(vectors @ vector, norms, out=np.zeros(len(vectors)), where=norms > 0)

    def nearest(self, query: Query) -> np.ndarray | None:
        cosines = self._cosines(query)
        if cosines is None:
            return None
        cosines = np.where([name == query.condition for name in self._known[0]], -np.inf, cosines)
        # On a column for each target every perturbation without a common target is equally far: then there is none.
        near = np.isclose(cosines, cosines.max(), atol=1e-9)
        return self._known[2][near].mean(0) if cosines.max() > 0 else None

    def knn(self, query: Query) -> np.ndarray | None:
        cosines = self._cosines(query)
        if cosines is None or cosines.max() <= 0:
            return None
        near = [row for row in np.argsort(-cosines, kind="stable")[:NEIGHBOURS] if cosines[row] > 0]
        return self._known[2][near].mean(0)

    def ridge(self, query: Query) -> np.ndarray | None:
        vector = self._vector(query)
        return None if vector is None else self._ridge.predict(vector[None])[0]

    @cached_property
    def _ridge(self) -> Linear:
        _, vectors, shifts = self._known
        scale = np.square(vectors - vectors.mean(0)).sum() / vectors.shape[1]
        return ridge_leave_one_out(shifts, vectors, PENALTIES * max(scale, 1e-12))

    def lgem(self, query: Query) -> np.ndarray | None:
        vector = self._vector(query)
        return None if vector is None else self._lgem.predict(vector[None])[0]

    def lgem_multi_hot(self, query: Query) -> np.ndarray | None:
        return self._on_multi_hot.lgem(query)

    @cached_property
    def _on_multi_hot(self) -> Shifts:
        return Shifts(self.train, None, self.control)

    @cached_property
    def _lgem(self) -> Linear:
        _, vectors, shifts = self._known
        # The control is a condition too: no target, no shift.
        vectors = np.concatenate([vectors, np.zeros((1, vectors.shape[1]))])
        shifts = np.concatenate([shifts, np.zeros((1, shifts.shape[1]))])
        return two_ridge(shifts, gene_scores(self.train, K), vectors, RIDGE)
