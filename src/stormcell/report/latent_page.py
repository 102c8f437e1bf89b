"""The report page of a latent model: what was found, the picture, the scoreboard, and a section for every topic."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from stormcell.evaluation.latent_metrics import LATENT_METRICS
from stormcell.report.html import fill, picture
from stormcell.report.judgement import number
from stormcell.report.latent_judgement import LatentJudgement
from stormcell.report.latent_tables import aim, best, in_order, metrics
from stormcell.report.topics import topics

WORDS = {"de": "differential expression"}
CAPTIONS = {
    "latents": "Every row is a space, every column colours the same cells by something else. Right is: perturbations "
    "apart and nothing else apart in the salient space, nothing but the perturbation apart in the background. "
    "Distances in a UMAP mean little; the small lines are measured in the whole space.",
    "scores": "The model in blue, baselines in grey, ceilings in green. Intervals are over held-out cells and leave "
    "out the noise of training.",
    "escape": "A perturbation whose cells stand in two heaps was not carried out in all of them. One whose cells look "
    "like the controls has no effect that the model sees.",
    "programmes": "Red: up, blue: down, by what the perturbation does to the same cells. Perturbations of one "
    "programme lie near to each other in the salient space.",
    "factor_effects": "A factor is a group of genes that vary together. Red: the perturbation raises its loading.",
    "criticism": "A model of counts must make the zeros and the spread that real cells have; points far below the "
    "line on the left are genes with more zeros than the model expects.",
    "loss": "Training in grey, validation in blue; the dashed line is the step whose weights were kept.",
    "followed": "What the spaces held while the model was trained, on validation cells.",
}
TOPICS = (  # title, figures, tables
    ("Beside the baselines", ("scores",), ()),
    ("Which cells respond", ("escape",), ("escape",)),
    ("Genes and programmes", ("programmes",), ("programmes", "programme_genes", "enrichment", "de")),
    ("Factors of expression", ("factor_effects",), ("factor_effects",)),
    ("Are its counts like the real ones?", ("criticism",), ("criticism",)),
    ("Training", ("followed", "loss"), ("history",)),
)


def render(
    judgement: LatentJudgement,
    figures: Mapping[str, Path],
    data_card: Mapping,
    config_yaml: str,
    commands: list[str],
    timing: Mapping,
    path: Path,
) -> None:
    """Writes the report to `path`; `figures` are PNG files by name."""
    pictures = {name: picture(name, file, CAPTIONS) for name, file in figures.items()}
    page = fill(
        "latent_judgement.html",
        judgement=judgement,
        latents=pictures.get("latents"),
        methods=in_order(judgement),
        panels=_panels(judgement),
        metrics=[{"label": m.label, "meaning": m.meaning, "panel": m.panel} for m in _shown(judgement)],
        topics=topics(TOPICS, pictures, judgement.tables, WORDS),
        data_card=data_card,
        timing=timing,
        config_yaml=config_yaml,
        commands=commands,
    )
    path.write_text(page, encoding="utf-8")


def _shown(judgement: LatentJudgement) -> list:
    return [LATENT_METRICS[name] for name in metrics(judgement)]


def _panels(judgement: LatentJudgement) -> list[dict]:
    """The scoreboard by panels: one line per metric, one cell per method."""
    rows = judgement.scoreboard["method"]
    found: dict[str, list] = {}
    for name in metrics(judgement):
        marks = dict(zip(rows, best(judgement, name), strict=True))
        cells = [_cell(judgement, method, name, marks[method]) for method in in_order(judgement)]
        line = {"label": LATENT_METRICS[name].label, "aim": aim(judgement, name), "cells": cells}
        found.setdefault(LATENT_METRICS[name].panel, []).append(line)
    return [{"title": title, "lines": lines} for title, lines in found.items()]


def _cell(judgement: LatentJudgement, method: str, metric: str, best: bool) -> dict:
    low, high = (judgement.value(method, f"{metric}_{end}") for end in ("low", "high"))
    interval = f"{number(low)} to {number(high)}" if np.isfinite(low) and np.isfinite(high) else ""
    kind = "model" if method in judgement.methods else "baseline" if method in judgement.baselines else "ceiling"
    return {"value": number(judgement.value(method, metric)), "best": bool(best), "interval": interval, "kind": kind}
