"""The edges of a transition network with their confidence: tables that the judgement holds.

Every edge of every transition has its interval and sign stability from resampled cells, in a share of which the
coupling is solved again, and a false-discovery rate against couplings that say nothing (`unrelated`).
Two signs stand beside each other: that of the weight, given the other regulators, and the marginal one, of the
covariance of x_i and y_j over the coupled cells of all transitions about their common mean. Where regulators are
collinear, conditional signs flip and marginal ones do not, so the marginal sign is exported, and where the two disagree
it is said.

Shapes: T transitions, E edges, G genes, S resamples.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from stormcell.analysis.cofactors import cofactors
from stormcell.analysis.couplings import Exact, Nearest, Sinkhorn
from stormcell.analysis.edge_bootstrap import false_discovery, permuted_moments, resampled_moments, summary
from stormcell.analysis.masked_ridge import Moments, moments
from stormcell.data.stream import seed_of
from stormcell.evaluation.regulator_ranking import regulator_ranking
from stormcell.judge_stability import stability_table

if TYPE_CHECKING:
    from stormcell.data.cluster_mapping import ClusterMappingDataModule, Sides
    from stormcell.models.transition import Transition

NULLS = 10  # fits to couplings that say nothing; edges share them


def edge_tables(model: Transition, data: ClusterMappingDataModule, train: list[Sides]) -> dict[str, pd.DataFrame]:
    """edges, differential (with several transitions that share), stability."""
    T, E = data.spec.n_transitions, data.spec.n_edges
    draws = resampled(model, data, train)
    null = [np.stack([one.values for one in fit]) for fit in networks(model, unrelated(model, data, train))]
    marginal = marginal_correlation([_moments(model, side) for side in train], model)
    genes, mask = np.array(data.spec.genes), model.mask
    named = {"regulator": genes[mask.regulator], "target": genes[mask.target]}
    edges, deviations = [], []
    estimates = np.stack([model.weights(t) for t in range(T)])
    shared, centre = draws.mean(1), estimates.mean(0)
    for t, name in enumerate(data.spec.names):
        about = summary(draws[:, t], estimates[t])
        q = false_discovery(estimates[t], np.stack([one[t] for one in null]))
        conditional = np.sign(estimates[t])
        edges.append(
            pd.DataFrame(
                {
                    "transition": name,
                    **named,
                    "weight": estimates[t],
                    "weight_natural": estimates[t] * model.natural,
                    "low": about.low,
                    "high": about.high,
                    "se": about.standard_error,
                    "sign_stability": about.sign_stability,
                    "fdr": q,
                    "marginal": marginal,
                    "exported_sign": np.sign(marginal).astype(int),
                    "disagrees": (conditional != 0) & (conditional != np.sign(marginal)),
                    "prior_sign": mask.sign.astype(int),
                    "in_mask": True,
                }
            )
        )
        own = summary(draws[:, t] - shared, estimates[t] - centre)
        deviations.append(
            pd.DataFrame(
                {
                    "transition": name,
                    **named,
                    "deviation": estimates[t] - centre,
                    "low": own.low,
                    "high": own.high,
                    "sign_stability": own.sign_stability,
                }
            )
        )
    tables = {"edges": pd.concat(edges, ignore_index=True)}
    if T > 1:
        tables["differential"] = pd.concat(deviations, ignore_index=True)
    if E > 1:
        tables["stability"] = stability_table(model, data, train, draws)
    return tables


def resampled(model: Transition, data: ClusterMappingDataModule, train: list[Sides]) -> np.ndarray:
    """Weights of every resample of the cells: S × T × E float32."""
    streams = []
    for t, side in enumerate(train):
        rng = np.random.default_rng(seed_of(f"bootstrap {t}", model.seed))
        couple = _couple_again(data, t, side)
        streams.append(
            resampled_moments(
                side.x, side.y, side.coupling, model.mask.regulators, model.bootstraps, rng, model.recoupled, couple
            )
        )
    fits = networks(model, streams)
    return np.array([[one.values for one in fit] for fit in fits], np.float32)


def unrelated(model: Transition, data: ClusterMappingDataModule, train: list[Sides]) -> list:
    """Streams of moments under couplings that say nothing of regulation, one per transition.

    Source cells are permuted: each gets the partners of another. Where cells are smoothed that is too easy a null, for
    smoothed cells are alike and permuted ones are not; then the source cells are turned about their mean at random in
    the space of the coupling, and coupled again: which of them are alike stays, which way they lie is lost. (Of cells
    that are not smoothed the turned ones are too hard a null: a rotation is a linear relation too.)
    """
    looks = isinstance(data.rule, (Nearest, Sinkhorn, Exact))  # at the points, which are turned
    made = _turned if looks and data.neighbours > 1 else _permuted
    return [made(model, data, t, side) for t, side in enumerate(train)]


def _permuted(model: Transition, data: ClusterMappingDataModule, t: int, side: Sides):
    rng = np.random.default_rng(seed_of(f"null {t}", model.seed))
    return permuted_moments(side.x, side.y, side.coupling, model.mask.regulators, NULLS, rng)


def _turned(model: Transition, data: ClusterMappingDataModule, t: int, side: Sides):
    rng = np.random.default_rng(seed_of(f"null {t}", model.seed))
    source, target = (data.points[rows] for rows in side.rows)
    left, size, axes = np.linalg.svd(source - source.mean(0), full_matrices=False)
    for _ in range(NULLS):
        rotation = np.linalg.qr(rng.normal(size=(len(size), len(size))))[0]
        placed = (left @ rotation * size) @ axes + source.mean(0)
        yield moments(side.x, side.y, data.rule(placed, target), model.mask.regulators)


def networks(model: Transition, streams: list):
    """One network of every transition for each round of moments, by the model's own solver and λ."""
    for found in zip(*streams, strict=True):
        shared, fitted = model.solved(list(found))
        yield fitted if shared is None else [shared + one for one in fitted]


def _couple_again(data: ClusterMappingDataModule, t: int, side: Sides):
    """Numbers of the drawn cells → their coupling."""

    def couple(rows: np.ndarray, columns: np.ndarray):
        return data.coupled(t, side.rows[0][rows], side.rows[1][columns], data.rule)

    return couple


def _moments(model: Transition, side: Sides) -> Moments:
    return moments(side.x, side.y, side.coupling, model.mask.regulators)


def marginal_correlation(found: list[Moments], model: Transition) -> np.ndarray:
    """Correlation of x_i and y_j over the coupled cells of all transitions, about their common means: E."""
    share = np.array([one.n for one in found]) / sum(one.n for one in found)
    i, j = model.mask.regulator, model.mask.target
    row = np.searchsorted(found[0].regulators, i)
    mean_x, mean_y = (
        sum(p * getattr(one, key) for p, one in zip(share, found, strict=True)) for key in ("mean_x", "mean_y")
    )
    both = x = y = 0.0
    for p, one in zip(share, found, strict=True):
        dx, dy = (one.mean_x - mean_x), (one.mean_y - mean_y)
        both = both + p * (one.xy[row, j] + dx[i] * dy[j])
        x, y = x + p * (one.gg[i] + dx[i] ** 2), y + p * (one.yy[j] + dy[j] ** 2)
    scale = np.sqrt(x * y)
    return np.divide(both, scale, out=np.zeros_like(both), where=scale > 0)


def regulator_table(model: Transition, data: ClusterMappingDataModule, train: list[Sides]) -> pd.DataFrame:
    """Regulators of every transition: strengths, PageRank, and the two rankings that need no network."""
    T = data.spec.n_transitions
    change = np.stack([s.coupling.target @ s.y - s.coupling.source @ s.x for s in train])
    found = regulator_ranking(model.mask, np.stack([model.weights(t) for t in range(T)]), change)
    names = np.array(data.spec.genes)[model.mask.regulators]
    rows = []
    for t, transition in enumerate(data.spec.names):
        frame = pd.DataFrame({"transition": transition, "regulator": names})
        frame["strength"], frame["signed_strength"] = found["strength"][t], found["signed"][t]
        frame["centrality"], frame["n_targets"] = found["pagerank"][t], found["targets"][t].astype(int)
        frame["own_change"] = change[t][model.mask.regulators]
        for key in ("strength", "centrality", "n_targets", "own_change"):
            frame[f"rank_{key}"] = frame[key].abs().rank(ascending=False, method="average")
        rows.append(frame.sort_values("rank_strength", kind="stable"))
    return pd.concat(rows, ignore_index=True)


def cofactor_table(model: Transition, data: ClusterMappingDataModule, train: list[Sides]) -> pd.DataFrame:
    """Pairs of regulators whose product acts on their target beyond both alone."""
    genes, rows = np.array(data.spec.genes), []
    for t, side in enumerate(train):
        if len(side.x) < 40:  # two halves of twenty
            continue
        found = cofactors(
            side.x,
            side.coupling.barycentre(side.y),
            side.coupling.source,
            model.mask,
            ridge=max(float(model.chosen_ridge), 1e-3),
            keep=50,
            seed=model.seed,
        )
        for column in ("target", "regulator_1", "regulator_2"):
            found[column] = genes[found[column].to_numpy(int)]
        rows.append(found.assign(transition=data.spec.names[t]))
    return pd.concat(rows, ignore_index=True) if rows else pd.DataFrame()
