"""Two non-linear rivals of a transition network on its own mask: a masked network per target, and co-factors.

masked MLP               one small network per target on the same regulators (nn/masked_mlp.py), of every transition
ridge with co-factors    ŷ = ŷ_linear + Σ v (x_i x_k − its linear part) over the pairs that were called

ŷ_linear is the model, unchanged: what the row adds to the model's is of the products alone, not of another pooling.
By Frisch–Waugh–Lovell that is the joint refit of products and linear part: with p̃ what the regulators of j, x_j itself
and a constant leave of a product, and e what the model leaves of y_j, (P̃ᵀ R P̃ + λ I) v = P̃ᵀ R e.

Shapes: N source cells, G genes, K called pairs of one target, T transitions. R is the diagonal of the source marginal.
Source: Frisch & Waugh 1933, Lovell 1963.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch

from stormcell.analysis.mask import Mask
from stormcell.nn import masked_mlp

if TYPE_CHECKING:
    from stormcell.data.cluster_mapping import Sides
    from stormcell.models.transition import Transition

MLP, COFACTORS = "masked MLP", "ridge with co-factors"
MOST_WEIGHTS = 20_000  # edges × transitions of the masked MLP
STEPS, FEWEST_CELLS = 100, 20  # of the masked MLP; where there are fewer cells it says the mean
CALLED = 0.05  # largest q of a co-factor

Predict = Callable[[np.ndarray, int], np.ndarray]


def nonlinear(model: Transition, train: list[Sides], cofactors: pd.DataFrame) -> tuple[dict[str, Predict], list[str]]:
    """Rows of the scoreboard, fitted on the training cells, as (cells, transition) → N × G; and what must be told.

    `cofactors`: the table of judge_edges.cofactor_table.
    """
    predictors, notes = {}, []
    n_weights = model.mask.n_edges * len(train)
    if n_weights <= MOST_WEIGHTS:
        predictors[MLP] = masked_mlps(model, train)
    else:
        notes.append(f"{MLP}: not fitted, {n_weights:,} edges of all transitions are more than {MOST_WEIGHTS:,}")
    pairs = called(cofactors)
    if len(pairs):
        predictors[COFACTORS] = with_cofactors(model, train, pairs)
        where = f"{pairs['transition'].nunique()} of {len(train)} transitions"
        notes.append(f"{COFACTORS}: products called in {where}, {len(pairs):,} in all")
    else:
        notes.append(f"{COFACTORS}: none was called, so that there is nothing to add to the ridge")
    return predictors, notes


def masked_mlps(model: Transition, train: list[Sides]) -> Predict:
    """One masked MLP per transition; the mean of the target cluster where it has fewer than 20 source cells."""
    edges = model.mask
    genes = np.union1d(edges.regulator, edges.target)
    mask = Mask.of(len(genes), np.searchsorted(genes, edges.regulator), np.searchsorted(genes, edges.target))
    means = [side.coupling.target @ side.y for side in train]
    fits = [
        _masked_mlp(side, genes, mask, model) if np.count_nonzero(side.coupling.source) >= FEWEST_CELLS else None
        for side in train
    ]

    @torch.no_grad()
    def predict(x: np.ndarray, t: int) -> np.ndarray:
        said = np.array(np.broadcast_to(means[t], x.shape))  # of genes without an edge
        if fits[t] is not None:
            said[:, genes] = fits[t](torch.from_numpy(np.asarray(x[:, genes], np.float32))).numpy()
        return said

    return predict


def _masked_mlp(side: Sides, genes: np.ndarray, mask: Mask, model: Transition) -> masked_mlp.MaskedMLP:
    x, y, weights = side.x[:, genes], side.coupling.barycentre(side.y)[:, genes], side.coupling.source
    return masked_mlp.fit(x, y, weights, mask, self_edge=model.self_edge, steps=STEPS, seed=model.seed)


def called(cofactors: pd.DataFrame) -> pd.DataFrame:
    """Pairs of small q whose interval, of the other half of the cells, leaves 0 out."""
    if cofactors.empty:
        return cofactors
    return cofactors[(cofactors["q"] <= CALLED) & ((cofactors["low"] > 0) | (cofactors["high"] < 0))]


@dataclass(frozen=True)
class Products:
    """The products of one target, less their linear part: (x_i − m_i)(x_k − m_k) − linear @ b."""

    target: int
    pairs: np.ndarray  # K × 2
    columns: np.ndarray  # regulators of the target, and the target itself where it has a self edge
    mean: np.ndarray  # G
    linear: np.ndarray  # (1 + columns) × K
    weight: np.ndarray  # K

    def add(self, x: np.ndarray) -> np.ndarray:
        """What they add to the prediction of the target: N × G → N."""
        return (_products(x - self.mean, self.pairs) - _design(x - self.mean, self.columns) @ self.linear) @ self.weight


def with_cofactors(model: Transition, train: list[Sides], pairs: pd.DataFrame) -> Predict:
    """The model and the called products of every transition."""
    number = {gene: place for place, gene in enumerate(model.spec.genes)}
    numbered = pairs.assign(**{name: pairs[name].map(number) for name in ("target", "regulator_1", "regulator_2")})
    added: list[list[Products]] = []
    for t, (name, side) in enumerate(zip(model.spec.names, train, strict=True)):
        mine = numbered[numbered["transition"] == name]
        left = side.coupling.barycentre(side.y) - model.predict(side.x, t) if len(mine) else None
        added.append(
            [
                fit_products(side.x, left[:, j], side.coupling.source, model, int(j), rows.to_numpy(int))
                for j, rows in mine.groupby("target")[["regulator_1", "regulator_2"]]
            ]
        )

    def predict(x: np.ndarray, t: int) -> np.ndarray:
        said = np.array(model.predict(x, t), float)
        for one in added[t]:
            said[:, one.target] += one.add(x)
        return said

    return predict


def fit_products(
    x: np.ndarray, left: np.ndarray, weights: np.ndarray, model: Transition, target: int, pairs: np.ndarray
) -> Products:
    """Weights of K products for what the model leaves of a target: N × G, N, N (source marginal), K × 2."""
    columns = regulators_of(model.mask, target, model.self_edge)
    mean, ridge = weights @ x, max(float(model.chosen_ridge), 1e-6)
    centred = np.asarray(x, float) - mean
    design, product = _design(centred, columns), _products(centred, pairs)
    penalty = np.diag([0.0, *np.full(len(columns), ridge)])
    linear = np.linalg.solve(design.T @ (weights[:, None] * design) + penalty, design.T @ (weights[:, None] * product))
    own = product - design @ linear
    gram = own.T @ (weights[:, None] * own) + ridge * np.eye(len(pairs))
    return Products(target, pairs, columns, mean, linear, np.linalg.solve(gram, own.T @ (weights * left)))


def regulators_of(mask: Mask, target: int, self_edge: bool) -> np.ndarray:
    found = mask.regulator[mask.target == target]
    return np.append(found, target) if self_edge else found


def _design(centred: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """A constant and the linear columns: N × (1 + R)."""
    return np.column_stack([np.ones(len(centred)), centred[:, columns]])


def _products(centred: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """N × K."""
    return centred[:, pairs[:, 0]] * centred[:, pairs[:, 1]]
