"""Labels of perturbations: one canonical form, whatever sign joins the targets in the file.

A condition is the canonical label of a perturbation: its targets sorted and joined by "+"; control has none.
"""

from __future__ import annotations

import re
from collections.abc import Collection

import numpy as np
import pandas as pd

from stormcell.config import DataConfig, UserError, nearest

PLUS = "⁺"  # of CD4+, where the labels are joined by another sign


def control_labels(config: DataConfig) -> list[str]:
    """data.control as a list; the first label names all control cells."""
    labels = config.control if isinstance(config.control, list | tuple) else [config.control]
    if not labels or any(label is None for label in labels):
        raise UserError("data.control is empty: give the label of the control cells, or a list of labels")
    return [str(label) for label in labels]


def canonical(labels: pd.Series, config: DataConfig) -> np.ndarray:
    """Labels → targets sorted and joined by "+", without parts that say control (A+ctrl is A); empty ones → None."""
    separators = config.separator if isinstance(config.separator, list | tuple) else [config.separator]
    if not separators or not all(isinstance(sign, str) and sign for sign in separators):
        raise UserError(
            f"data.separator={config.separator!r}: a sign such as + is needed, or a list of them; where no label joins "
            "targets, one that occurs in none, such as @@"
        )
    controls = control_labels(config)
    codes, names = pd.factorize(labels)
    separator = next((s for s in separators if any(s in str(n) for n in names if n not in controls)), separators[0])
    pattern = _pattern(config.label_pattern)

    def target(part: str) -> str:
        found = pattern.fullmatch(part) if pattern else None
        return found[1] or part if found else part

    def one(label: str) -> str | None:
        if label in controls:
            return controls[0]
        targets = {target(part.strip()).replace("+", PLUS) for part in str(label).split(separator)} - {""}
        return "+".join(sorted(targets - set(controls))) or (controls[0] if targets else None)

    return np.array([*(one(name) for name in names), None], dtype=object)[codes]


def _pattern(text: str | None) -> re.Pattern | None:
    if text is None:
        return None
    try:
        pattern = re.compile(text)
    except re.error as error:
        raise UserError(f"data.label_pattern={text!r}: not a regular expression ({error})") from error
    if pattern.groups == 0:
        raise UserError(f"data.label_pattern={text!r}: no group in round brackets, which is to hold the target")
    return pattern


def chosen(config: DataConfig, present: Collection[str], origin: str) -> list[str]:
    """data.perturbations in canonical form; raises UserError for a name that the file does not have, or has as control.

    present: canonical labels of the perturbed cells.
    """
    if not config.perturbations:
        raise UserError("data.perturbations is empty: name perturbations, or leave null for all of them")
    controls, found = control_labels(config), []
    for name in config.perturbations:
        label = "+".join(sorted(name.split("+")))
        if label not in present:
            label = canonical(pd.Series([name]), config)[0]
        if name in controls or label in controls:
            raise UserError(
                f"data.perturbations: {name!r} is a label of the control cells (data.control), and control and "
                "perturbed cells must not overlap; leave it out of one of the two"
            )
        if label not in present:
            raise UserError(f"{origin}: data.perturbations: no cell is labelled {name!r}{nearest(name, present)}")
        if label in found:
            raise UserError(f"data.perturbations: {name!r} stands there twice")
        found.append(label)
    return found
