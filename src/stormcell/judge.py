"""A model's answers and its baselines' on the held-out cells, as one Judgement."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from stormcell.evaluation.baselines import baselines
from stormcell.evaluation.ceiling import ceilings, reliability
from stormcell.evaluation.collapse import systematic_variation
from stormcell.evaluation.distributions import coverage
from stormcell.evaluation.heldout import HeldOut
from stormcell.evaluation.profiles import mean_profile, pearson
from stormcell.evaluation.roster import LABELS
from stormcell.evaluation.scoreboard import rescaled, summarise, without_room
from stormcell.evaluation.scoring import score
from stormcell.evaluation.verdict import undefined, verdict
from stormcell.report.judgement import Judgement

if TYPE_CHECKING:
    from stormcell.data.screen import Screen
    from stormcell.models.base import Model

KEPT = 200  # generated cells per perturbation that go into predictions.h5ad
N_CELLS = 500  # of a baseline
CALIBRATED = LABELS["additive"]  # whose cells stand beside the model's where intervals are judged
LEVELS = np.arange(1, 10) / 10


def judge(model: Model, data: Screen, held_out: HeldOut, notes: list[str]) -> tuple[Judgement, dict[str, list]]:
    """Score the rows of a model and every baseline; also the cells that the model generated, per row and query."""
    rows = model.methods(data, held_out)
    against = [bar for bar in baselines(held_out, N_CELLS, model.seed) if bar.name not in {row.name for row in rows}]
    names, bars = [row.name for row in rows], [bar.name for bar in against]
    scores = score(held_out, [*rows, *against], keep=list(dict.fromkeys([*names, CALIBRATED])), kept_cells=KEPT)
    reliable = reliability(held_out, model.seed)
    board = summarise(scores.per_query, ceilings(held_out, reliable, model.seed), model.seed)
    judgement = Judgement(
        model=getattr(model, "name", type(model).__name__.lower()),
        methods=tuple(names),
        baselines=tuple(bars),
        verdict=tuple(verdict(scores, reliable, names, bars, model.seed)),
        notes=(*notes, *_about(held_out), *against_simulator(data, held_out, {n: scores.kept[n] for n in names})),
        undefined=(*undefined(scores.raw), *without_room(board)),
        scoreboard=board,
        per_query=scores.per_query,
        reliability=reliable,
        queries=pd.DataFrame(
            [(q.condition, q.context, q.group, q.cells.shape[0]) for q in held_out.queries],
            columns=["condition", "context", "group", "n_cells"],
        ),
        genes=held_out.genes,
        true_shift=_shifts(held_out, [mean_profile(q.cells) for q in held_out.queries], held_out.truth_controls),
        predicted_shift={
            name: _shifts(held_out, list(means), held_out.controls) for name, means in scores.means.items()
        },
        cells=_picture(held_out, scores.kept[names[0]]),
        shared=held_out.shared,
        rescaled=rescaled(board),
        per_method=scores.per_method,
        interactions=scores.interactions,
        calibration=calibration(held_out, scores.kept),
    )
    return judgement, {name: scores.kept[name] for name in names}


def _about(held_out: HeldOut) -> list[str]:
    """What the data set is like, and what the baselines on an embedding know."""
    variation = systematic_variation(held_out.train)
    found = []
    if np.isfinite(variation):
        found.append(
            f"systematic variation {variation:.2f}: the mean cosine of a training shift with the mean of all; near 1 "
            "every perturbation does the same, and the training mean is hard to beat"
        )
    if held_out.embedding is not None:
        found.append(f"LGEM, ridge, k-NN and nearest perturbation describe targets by {held_out.embedding.kind}")
    return found


def calibration(held_out: HeldOut, kept: dict[str, list]) -> pd.DataFrame:
    """method, level, coverage: the share of true values inside the predicted cells' central intervals, median over
    queries."""
    rows = []
    for name, answers in kept.items():
        pairs = [(answer[1], query.cells) for answer, query in zip(answers, held_out.queries, strict=True) if answer]
        for level in LEVELS:
            found = [coverage(cells, true, held_out.detected, level) for cells, true in pairs]
            rows.append((name, float(level), float(np.median(found)) if found else np.nan))
    return pd.DataFrame(rows, columns=["method", "level", "coverage"])


def against_simulator(data: Screen, held_out: HeldOut, kept: dict[str, list]) -> list[str]:
    """Simulated cells only: the predicted shifts against the true ones, which no count noise blurs."""
    truth = data.cells.truth.get("shift")
    if truth is None:
        return []
    genes = [data.cells.truth["genes"].index(gene) for gene in held_out.genes]
    sentences = []
    for name, answers in kept.items():
        shifts = _shifts(held_out, [answer and answer[0] for answer in answers], held_out.controls)
        by_group: dict[str, list[float]] = {}
        for query, shift in zip(held_out.queries, shifts, strict=True):
            by_group.setdefault(query.group, []).append(float(pearson(truth[query.condition][genes], shift)))
        found = ", ".join(
            f"{np.nanmedian(values):.2f} on {group}" for group, values in by_group.items() if np.isfinite(values).any()
        )
        if found:
            sentences.append(f"against the simulator's true shifts {name} has median r = {found}")
    return sentences


def _shifts(held_out: HeldOut, means: list[np.ndarray | None], controls: dict) -> np.ndarray:
    """Q × G: each mean minus the control mean of its context; NaN where there is no mean."""
    base = {context: mean_profile(cells) for context, cells in controls.items()}
    missing = np.full(len(held_out.genes), np.nan)
    pairs = zip(held_out.queries, means, strict=True)
    return np.array([missing if mean is None else mean - base[query.context] for query, mean in pairs])


def _picture(held_out: HeldOut, answers: list, most: int = 100) -> dict[str, np.ndarray]:
    """Principal coordinates of up to `most` true and generated cells per query, and of the training controls."""
    centre = held_out.pca_mean @ held_out.pca_components

    def project(cells) -> np.ndarray:
        return np.asarray(cells @ held_out.pca_components) - centre

    true = [project(query.cells[:most]) for query in held_out.queries]
    empty = np.zeros((0, held_out.pca_components.shape[1]))
    predicted = [empty if answer is None else project(answer[1][:most]) for answer in answers]
    control = np.concatenate([project(cells[:1000]) for cells in held_out.controls.values()])
    number = np.arange(len(held_out.queries))
    return {
        "true": np.concatenate(true),
        "predicted": np.concatenate(predicted),
        "control": control,
        "true_query": np.repeat(number, [len(cells) for cells in true]),
        "predicted_query": np.repeat(number, [len(cells) for cells in predicted]),
    }
