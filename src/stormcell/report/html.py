"""The report of a run: one page that needs nothing but itself (no network, no script, pictures inside)."""

from __future__ import annotations

import base64
import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from stormcell.evaluation.roster import MEANINGS
from stormcell.report import boards
from stormcell.report.judgement import Judgement, number

CAPTIONS = {  # by the beginning of a figure's name
    "generation": "Left: every point is a gene; on the line the prediction is exact. Middle: overlap of the K genes "
    "that change most in truth and in prediction, with 95 % intervals over perturbations. Right: triangles should lie "
    "among the true cells, not among the controls.",
    "shift_heatmap": "Red: up, blue: down, all panels on one scale; genes in one order. A prediction that is right "
    "looks like the panel on the left; one that says the same for every perturbation has rows that are all alike.",
    "shifts": "Every point is a gene; on the line the prediction is exact. Scales differ between panels.",
    "model_against_baseline": "The grey bar joins the model to the best baseline of its group. A black mark is what "
    "the exact mean would be expected to score, given the noise of the real cells; one at 0 means noise alone.",
    "forest": "Methods from best to worst shift correlation. Green line and band: the score that an exact mean would "
    "be expected to reach, or where that is not known the score of one half of the real cells for the other. Grey "
    "lines: chance, or no distance. Half the cells are noisier than all of them, so that a method may pass the halves. "
    "Intervals are over perturbations: two that overlap may still differ, since both methods met the same ones.",
    "ranks": "On the left are predictions that tell their own perturbation from the others; one that says the same for "
    "every perturbation is spread as by chance, or stands in the middle.",
    "calibration": "For every gene the central interval of the predicted cells that should hold so many of the true "
    "cells. Crosses: one half of the real cells in the place of a prediction for the other. Below them the predicted "
    "cells are too much alike, above them too different. Control cells moved by a shift have no zeros where real cells "
    "have them, and their intervals miss these.",
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
    path = Path(path)
    page = fill(
        "judgement.html",
        judgement=judgement,
        metrics=boards.metrics(judgement),
        roster=[(label, meaning) for label, meaning in MEANINGS.values() if label in judgement.baselines],
        core=boards.core(judgement),
        panels=boards.panels(judgement),
        rescaled=boards.rescaled(judgement),
        interactions=boards.interactions(judgement),
        figures=[picture(name, Path(file), CAPTIONS) for name, file in figures.items()],
        per_perturbation=boards.per_perturbation(judgement),
        data_card=data_card,
        timing=timing,
        config_yaml=config_yaml,
        commands=[line for line in (command, evaluate_command) if line],
    )
    path.write_text(page, encoding="utf-8")
    return path


def fill(template: str, **values) -> str:
    """A page of this folder, filled; every text is escaped, and a value that is missing raises."""
    pages = Environment(
        loader=PackageLoader("stormcell", "report"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    pages.filters["plain"] = plain
    return pages.get_template(template).render(values)


def plain(value) -> str:
    """A value of the data card as text: 3,375; 0.94; a string as it is."""
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    if isinstance(value, (int, np.integer)):
        return f"{value:,}"
    if isinstance(value, (float, np.floating)):
        return f"{value:,.0f}" if abs(value) >= 1000 else number(value)
    return "none" if value is None else str(value)


def picture(name: str, file: Path, captions: Mapping[str, str]) -> dict:
    """A PNG as a data address; drawn at 150 dots per inch, shown at 0.62 of its pixels or less."""
    image = file.read_bytes()
    width, height = struct.unpack(">II", image[16:24])
    caption = next((text for start, text in captions.items() if name.startswith(start)), name.replace("_", " "))
    source = f"data:image/png;base64,{base64.b64encode(image).decode()}"
    return {
        "name": name,
        "caption": caption,
        "src": source,
        "width": round(0.62 * width),
        "height": round(0.62 * height),
    }
