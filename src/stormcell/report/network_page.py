"""The report page of a transition network: what was found, the network, the scoreboard, a section for every topic."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from stormcell.report.html import fill, picture
from stormcell.report.method_board import page_boards, page_metrics
from stormcell.report.network_judgement import NetworkJudgement, arrow
from stormcell.report.topics import topics

WORDS = {"cofactors": "co-factors", "differential": "differential edges", "genes": "R² of the target genes"}
CAPTIONS = {
    "network": "Weights are effects of a regulator in a source cell on its target in the coupled cell of the next "
    "state, other regulators held fixed; they are no proof of a direct effect. The false-discovery rate compares them "
    "with networks of couplings that say nothing.",
    "cells": "Networks go along the arrows: from the cells at the tail to those at the head, which are never the same.",
    "scores": "The model in blue, rivals and nulls grey. Random pairs, a shuffled mask and the self edge alone say "
    "what the coupling, the prior network and the regulators add.",
    "fit": "A network that has learned nothing predicts 0 for every cell: a flat cloud on the left, R² 0 on the right.",
    "transitions": "One row over all transitions says what is shared, a change of colour along it what is rewired.",
    "differential": "How far the weight in one transition departs from the weight that all transitions share.",
    "regulators": "A sum of weights grows with the number of targets, and a regulator that changes much needs no "
    "network to be found: a place means something where the two other marks are far behind.",
    "perturbations": "What the regression says of a regulator that is taken away or held high, its effect carried on "
    "through the network; expression stays within what was observed. Only an experiment tells whether it is so.",
    "cofactors": "Regulators that act together on a target beyond the sum of their effects.",
    "loss": "Training in grey, validation in blue; the dashed line is the step whose weights were kept.",
}
TOPICS = (  # title, figures, tables
    ("Beside random pairs, a shuffled mask and the self edge", ("scores",), ("stability",)),
    ("Held-out cells", ("fit",), ("genes", "transitions")),
    ("Edges", ("transitions",), ("edges",)),
    ("What differs between transitions", ("differential",), ("differential",)),
    ("Regulators", ("regulators",), ("regulators",)),
    ("In-silico perturbation", ("perturbations",), ("perturbations",)),
    ("Co-factors", ("cofactors",), ("cofactors",)),
    ("Cells and transitions", ("cells",), ()),
    ("Training", ("loss",), ("history",)),
)


def render(
    judgement: NetworkJudgement,
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
        "network_judgement.html",
        judgement=judgement,
        transitions=[arrow(name) for name in judgement.transitions],
        n_edges=len(judgement.table("edges")),
        network=pictures.get("network"),
        boards=page_boards(judgement),
        metrics=page_metrics(judgement),
        topics=topics(TOPICS, pictures, judgement.tables, WORDS),
        data_card=data_card,
        timing=timing,
        config_yaml=config_yaml,
        commands=commands,
    )
    path.write_text(page, encoding="utf-8")
