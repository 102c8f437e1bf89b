"""A model's answers and its baselines' on the held-out cells, as one Judgement."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from stormcell.evaluation.baselines import baselines
from stormcell.evaluation.heldout import HeldOut
from stormcell.evaluation.perturbation import mean_profile, pearson
from stormcell.evaluation.scoreboard import reliability, score, summarise, undefined, verdict
from stormcell.report.judgement import Judgement

if TYPE_CHECKING:
    from stormcell.data.control_perturbed import ControlPerturbedDataModule
    from stormcell.models.base import Model

KEPT = 200  # generated cells per perturbation that go into predictions.h5ad


def judge(
    model: Model, data: ControlPerturbedDataModule, held_out: HeldOut, notes: list[str]
) -> tuple[Judgement, dict[str, list]]:
    """Score the rows of a model and every baseline; also the cells that the model generated, per row and query."""
    rows = model.methods(data, held_out)
    against = baselines(held_out, 500, model.seed)
    names, bars = [row.name for row in rows], [bar.name for bar in against]
    per_query, kept = score(held_out, [*rows, *against], keep=names, kept_cells=KEPT)
    ceiling = reliability(held_out, model.seed)
    notes = [*notes, *against_simulator(data, held_out, kept)]
    judgement = Judgement(
        model=type(model).__name__.lower(),
        methods=tuple(names),
        baselines=tuple(bars),
        verdict=tuple(verdict(per_query, ceiling, names, bars, model.seed)),
        notes=tuple(notes),
        undefined=tuple(undefined(per_query)),
        scoreboard=summarise(per_query, ceiling, model.seed),
        per_query=per_query,
        reliability=ceiling,
        queries=pd.DataFrame(
            [(q.condition, q.context, q.group, q.cells.shape[0]) for q in held_out.queries],
            columns=["condition", "context", "group", "n_cells"],
        ),
        genes=held_out.genes,
        true_shift=_shifts(held_out, [mean_profile(q.cells) for q in held_out.queries], held_out.truth_controls),
        predicted_shift={
            name: _shifts(held_out, [answer and answer[0] for answer in kept[name]], held_out.controls)
            for name in names
        },
        cells=_picture(held_out, kept[names[0]]),
        shared=held_out.shared,
    )
    return judgement, kept


def against_simulator(data: ControlPerturbedDataModule, held_out: HeldOut, kept: dict[str, list]) -> list[str]:
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
        found = ", ".join(f"{np.nanmedian(values):.2f} on {group}" for group, values in by_group.items())
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
