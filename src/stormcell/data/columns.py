"""The obs columns of the cells: copied from those of the file under one name, checked, made where they lack.

A config key of a column may be a list of names: the first that the file has is taken.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from stormcell.config import DataConfig, UserError, nearest
from stormcell.data.h5ad import Table
from stormcell.data.labels import PLUS, canonical

if TYPE_CHECKING:
    from stormcell.data.cells import Cells

_OURS = ("condition", "is_control", "library")
_NAMED = ("batch", "cell_type", "cluster", "pseudotime", "phase")  # read from the column that data.<name>_key says


def pick(key: Any, columns: Sequence[str], config_key: str, origin: str) -> str | None:
    """The obs column that a config key names: of a list the first that exists."""
    if key is None:
        return None
    options = list(key) if isinstance(key, list | tuple) else [str(key)]
    for option in options:
        if option is None or option in columns:
            return option
    raise UserError(
        f"{origin}: no obs column {options[0]!r} ({config_key}){nearest(options[0], columns)}; "
        f"columns: {', '.join(columns) or 'none'}"
    )


def copy_columns(cells: Cells, table: Table, config: DataConfig) -> None:
    columns = [str(column) for column in table.obs.columns]
    for name in _NAMED:
        key = pick(getattr(config, f"{name}_key"), columns, f"data.{name}_key", table.origin)
        if key is not None:
            column = table.obs[key]
            numbers = name == "pseudotime"
            cells.obs[name] = (
                _numbers(column, f"data.{name}_key", table.origin) if numbers else column.astype(str).to_numpy()
            )
    for covariate in config.covariate_keys:
        key = _covariate(covariate, "data.covariate_keys", columns, table, config)
        cells.obs[key] = table.obs[key].astype(str).to_numpy()
    for covariate in config.continuous_covariate_keys:
        key = _covariate(covariate, "data.continuous_covariate_keys", columns, table, config)
        if key in cells.obs and key != "pseudotime":
            raise UserError(
                f"{table.origin}: data.continuous_covariate_keys: {key!r} is read as categories too; name it once"
            )
        cells.obs[key] = _numbers(table.obs[key], "data.continuous_covariate_keys", table.origin)
    key = pick(config.perturbation_key, columns, "data.perturbation_key", table.origin)
    if key is not None:
        labels = table.obs[key]
        cells.obs["condition"] = canonical(labels.astype(object).where(labels.notna(), None), config)
        cells.obs["is_control"] = (cells.obs["condition"] == cells.control).to_numpy()
        if cells.obs["condition"].astype(str).str.contains(PLUS).any():
            cells.notes.append(f"a + within the name of a target is written {PLUS}, because + joins targets")


def _covariate(wanted: str, config_key: str, columns: list[str], table: Table, config: DataConfig) -> str:
    """The obs column of a covariate, whose name must not be that of another column here."""
    key = pick(wanted, columns, config_key, table.origin)
    taken = key in _OURS
    if key in _NAMED:  # obs[key] was made of a column that may be another
        taken = pick(getattr(config, f"{key}_key"), columns, "", table.origin) not in (None, key)
    if taken:
        raise UserError(
            f"{table.origin}: {config_key}: {key!r} is the name of a column that is made here; rename it in the file"
        )
    return key


def _numbers(column: pd.Series, config_key: str, origin: str) -> np.ndarray:
    values = pd.to_numeric(column.astype(object), errors="coerce").to_numpy(float)
    wrong = column[np.isnan(values) & column.notna().to_numpy()]
    if len(wrong):
        raise UserError(f"{origin}: obs column {column.name!r} ({config_key}) holds {wrong.iloc[0]!r}, not numbers")
    return values


def check_continuous(cells: Cells, config: DataConfig) -> None:
    for key in map(str, config.continuous_covariate_keys):
        missing = int((~np.isfinite(cells.obs[key].to_numpy(float))).sum())
        if missing:
            raise UserError(
                f"{cells.origin}: {missing} cells have no number in obs column {key!r} "
                "(data.continuous_covariate_keys); leave these cells out with data.filter, or the column"
            )


def library_sizes(cells: Cells, table: Table, config: DataConfig) -> None:
    """Counts of a cell over all its genes: from obs where the file keeps only some genes."""
    columns = [str(column) for column in table.obs.columns]
    key = pick(config.library_key, columns, "data.library_key", table.origin)
    if cells.scale != "counts":
        cells.obs["library"] = np.nan
        return
    inside = np.asarray(cells.X.sum(1)).ravel()
    if key is not None:
        cells.obs["library"] = pd.to_numeric(table.obs[key], errors="coerce").to_numpy(float)
    elif "library" not in cells.obs:
        cells.obs["library"] = inside.astype(float)
        cells.notes += _fuller_totals(table.obs, inside)
    wrong = ~(cells.obs["library"].to_numpy() >= inside)
    if wrong.any():
        raise UserError(
            f"{table.origin}: {int(wrong.sum())} cells have a library size ({key}, data.library_key) that is missing "
            "or smaller than the counts in the file; it must count every gene of the cell"
        )


def _fuller_totals(obs: pd.DataFrame, inside: np.ndarray) -> list[str]:
    """A sentence where obs has larger totals than the file's genes sum to: the file then lacks genes of its cells."""
    for column in obs.columns:
        values = pd.to_numeric(obs[column], errors="coerce").to_numpy(float) if _TOTAL.match(str(column)) else None
        if values is not None and (values >= inside).all() and np.median(values) > 1.05 * np.median(inside):
            return [
                f"library sizes are the sums over the genes of the file, {np.median(inside):,.0f} counts per cell; obs "
                f"column {column!r} has {np.median(values):,.0f}: data.library_key={column} if it counts every gene"
            ]
    return []


_TOTAL = re.compile(r"(total|n)[_.]?(counts?|umis?)", re.IGNORECASE)
