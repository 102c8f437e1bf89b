"""The report of a run: one page that needs nothing but itself (no network, no script, pictures inside)."""

from __future__ import annotations

import base64
import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from stormcell.evaluation.scoreboard import METRICS
from stormcell.report.judgement import Judgement, number
from stormcell.report.tables import SHARED, best_in_group

AIMS = {"higher": "higher is better", "lower": "lower is better", "one": "1 is best"}
PER_PERTURBATION = ("shift_correlation", "jaccard_50", "energy_distance")
CAPTIONS = {  # by the beginning of a figure's name
    "generation": "Left: every point is a gene; on the line the prediction is exact. Middle: overlap of the K genes "
    "that change most in truth and in prediction, with 95 % intervals over perturbations. Right: triangles should lie "
    "among the true cells, not among the controls.",
    "shift": "Every point is a gene; on the line the prediction is exact. Scales differ between panels.",
    "model_against_baseline": "The grey bar joins the model to the best baseline of its group. A black mark is what "
    "the exact mean would be expected to score, given the noise of the real cells; one at 0 means noise alone.",
    "loss": "Training in grey, validation in blue; the dashed line is the step whose weights were kept.",
}


def render(
    judgement: Judgement,
    figures: Mapping[str, Path | str],
    data_card: Mapping,
    config_yaml: str,
    command: str,
    timing: Mapping,
    path: Path | str,
    evaluate_command: str = "",
) -> Path:
    """Writes the report to `path`; `figures` are PNG files by name, in the order of the page.

    `data_card` and `timing` are nested dicts of plain values. Every text is escaped. Returns the path.
    """
    pages = Environment(
        loader=PackageLoader("stormcell", "report"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    pages.filters["plain"] = plain
    page = pages.get_template("template.html").render(
        judgement=judgement,
        metrics=_metrics(judgement),
        groups=[_group(judgement, group) for group in judgement.groups],
        figures=[_figure(name, Path(file)) for name, file in figures.items()],
        per_perturbation=_per_perturbation(judgement),
        data_card=data_card,
        timing=timing,
        config_yaml=config_yaml,
        commands=[line for line in (command, evaluate_command) if line],
    )
    path = Path(path)
    path.write_text(page, encoding="utf-8")
    return path


def plain(value) -> str:
    """A value of the data card as text: 3,375; 0.94; a string as it is."""
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    if isinstance(value, (int, np.integer)):
        return f"{value:,}"
    if isinstance(value, (float, np.floating)):
        return f"{value:,.0f}" if abs(value) >= 1000 else number(value)
    return "none" if value is None else str(value)


def _metrics(judgement: Judgement) -> list[dict]:
    """The metrics of the scoreboard, in its order."""
    return [
        {
            "name": name,
            "label": judgement.label(name),
            "meaning": metric.meaning,
            "aim": AIMS[metric.direction],
            "flattering": name == SHARED or (judgement.shared and name == "shift_correlation"),
        }
        for name, metric in METRICS.items()
        if name in judgement.scoreboard and not (judgement.shared and name == SHARED)  # then it is the first again
    ]


def _group(judgement: Judgement, group: str) -> dict:
    """The scoreboard of one group: rows of the model, baselines, then what the real cells allow."""
    rows = judgement.scoreboard[judgement.scoreboard["group"] == group]
    names = [metric["name"] for metric in _metrics(judgement)]
    best = {name: best_in_group(judgement, group, name) for name in names}
    table = []
    for index, row in rows.iterrows():
        kind = "ceiling"
        if row["method"] in judgement.methods:
            kind = "model"
        elif row["method"] in judgement.baselines:
            kind = "baseline"
        cells = [
            {"value": number(row[name]), "best": best[name][index], "interval": interval(row, name)} for name in names
        ]
        table.append({"method": row["method"], "kind": kind, "n": row["n"], "cells": cells})
    return {"name": group, "n": rows["n"].max(), "rows": table}


def interval(row, metric: str) -> str:
    """95 % interval of a median over perturbations, "" where there is none: `0.71 to 0.94`."""
    low, high = row.get(f"{metric}_low", np.nan), row.get(f"{metric}_high", np.nan)
    return f"{number(low)} to {number(high)}" if np.isfinite(low) and np.isfinite(high) else ""


def _figure(name: str, file: Path) -> dict:
    """A PNG as a data address; drawn at 150 dots per inch, shown at 0.62 of its pixels or less."""
    image = file.read_bytes()
    width, height = struct.unpack(">II", image[16:24])
    caption = next((text for start, text in CAPTIONS.items() if name.startswith(start)), name.replace("_", " "))
    source = f"data:image/png;base64,{base64.b64encode(image).decode()}"
    return {
        "name": name,
        "caption": caption,
        "src": source,
        "width": round(0.62 * width),
        "height": round(0.62 * height),
    }


def _per_perturbation(judgement: Judgement) -> dict:
    """One row per query: reliability of its cells, then each metric for the model's rows and the best baseline."""
    metrics = [name for name in PER_PERTURBATION if name in judgement.per_query]
    rivals = {(group, name): judgement.best_baseline(group, name) for group in judgement.groups for name in metrics}
    values = {
        (method, name): judgement.values(method, name)
        for name in metrics
        for method in {*judgement.methods, *(rivals[group, name] for group in judgement.groups)}
    }
    exact = judgement.expected_exact()
    rows = []
    for query, row in enumerate(judgement.queries.to_dict("records")):
        cells = [number(exact[query])]
        for name in metrics:
            cells += [
                number(values[method, name][query]) for method in (*judgement.methods, rivals[row["group"], name])
            ]
        rows.append({"name": judgement.name(query), "group": row["group"], "n_cells": row["n_cells"], "cells": cells})
    heads = [(judgement.label(name), [*judgement.methods, "best baseline"]) for name in metrics]
    return {"heads": heads, "rows": rows}
