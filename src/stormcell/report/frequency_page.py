"""The report page of a model of frequencies: what was found, the cells, the scoreboard, a section for every topic."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from stormcell.report.frequency_judgement import FrequencyJudgement
from stormcell.report.html import fill, picture
from stormcell.report.method_board import page_boards, page_metrics
from stormcell.report.topics import topics

WORDS = {
    "per_frequency": "every method on every frequency",
    "extension": "extension to cells outside the graph",
    "module_summary": "modules and their stability",
    "subspaces": "the spaces that the modules of a frequency span, between seeds",
    "parts": "share of each order",
    "consensus": "genes that come back in half of the fits",
    "modules": "genes of the modules",
    "lists": "overlap of gene lists",
    "improvement": "one regressor on the genes of each list",
    "looked_up": "terms that were looked up",
    "hierarchy": "clusters at every cut",
}
CAPTIONS = {
    "space": "A frequency varies slowly along the graph: neighbours have similar values. Its sign is a convention. One "
    "that sits on few cells marks an outlying cluster, no division of the tissue.",
    "scores": "The model in blue, simple answers grey, yardsticks green. A module is worth reading where the model "
    "predicts better than a ridge, which needs none.",
    "per_frequency": "Every method on every frequency; the best competing value of a column is bold.",
    "spectrum": "A frequency can be read alone where the gap to the next eigenvalue is wide; in a band of near-equal "
    "eigenvalues only the space that its frequencies span is determined, and another draw of cells rotates them.",
    "modules": "A quadratic module adds λ (loading · expression)²: cells far out on either pole, red or blue, push the "
    "frequency up where λ is + and down where it is −; the poles of a linear or cubic module push opposite ways. A "
    "module that does not come back from other seeds and resampled cells is noise of the fit, whatever its genes are.",
    "lists": "Left: a low overlap with the correlation list means new genes only where the same list overlaps well "
    "between seeds. Right: whether the genes of a list are worth more to one and the same regressor than those of "
    "simpler lists.",
    "enrichment": "Over-representation of the genes of a module against all measured genes. A dot: false-discovery "
    "rate at most 5 % over all modules and terms.",
    "hierarchy": "Clusters made of the first frequencies only, more and more of them. Agreement is the adjusted Rand "
    "index: 0 is chance, 1 the same partition.",
    "loss": "Training in grey, validation in blue; the dashed line is the step whose weights were kept.",
}
TOPICS = (  # title, figures, tables
    ("Beside simple answers", ("scores", "per_frequency"), ("per_frequency", "per_class")),
    ("Spectrum of the cell graph", ("spectrum",), ("spectrum", "extension")),
    ("Gene modules", ("modules",), ("module_summary", "subspaces", "parts", "consensus", "modules")),
    ("Beside correlation lists", ("lists",), ("lists", "improvement")),
    ("Enrichment", ("enrichment",), ("looked_up", "enrichment")),
    ("Hierarchy", ("hierarchy",), ("hierarchy",)),
    ("Training", ("loss",), ("history",)),
)


def render(
    judgement: FrequencyJudgement,
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
        "frequency_judgement.html",
        judgement=judgement,
        space=pictures.get("space"),
        boards=page_boards(judgement),
        metrics=page_metrics(judgement),
        topics=topics(TOPICS, pictures, judgement.tables, WORDS),
        data_card=data_card,
        timing=timing,
        config_yaml=config_yaml,
        commands=commands,
    )
    path.write_text(page, encoding="utf-8")
