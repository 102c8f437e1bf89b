"""Couplings of other programs (moscot, WOT, CellRank): .npz of scipy.sparse, .h5ad, or .csv with labels.

Rows are source cells, columns target cells.

Shapes: A source cells, B target cells.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix, issparse, load_npz

from stormcell.config import UserError, nearest
from stormcell.data.cells import locate

ENDINGS = (".npz", ".h5ad", ".csv", ".csv.gz")


class _PlanFile(NamedTuple):
    values: np.ndarray | csr_matrix
    rows: pd.Index | None  # names of cells
    columns: pd.Index | None


def read_plan(
    path: str, key: str | None, names_x: Sequence[str] | None, names_y: Sequence[str] | None, shape: tuple[int, int]
) -> np.ndarray | csr_matrix:
    """The plan between these cells, scaled to sum to 1: A × B.

    Cells are matched by name where the file has names of them, else its rows and columns stand in their order. Partners
    that are not asked for are left out. Raises UserError for another size, cells that are not there, values that are
    NaN or negative, and source cells without a partner in the file.
    """
    origin = f"{path} (coupling.path)"
    held = _read(path, key, origin)
    rows = _places(held.rows, names_x, shape[0], held.values.shape[0], f"{origin}: rows", "source")
    columns = _places(held.columns, names_y, shape[1], held.values.shape[1], f"{origin}: columns", "target")
    chosen = held.values[rows]
    entries = chosen.data if issparse(chosen) else chosen
    if not np.isfinite(entries).all():
        raise UserError(f"{origin}: {np.count_nonzero(~np.isfinite(entries))} values are no finite numbers")
    if (entries < 0).any():
        raise UserError(f"{origin}: {np.count_nonzero(entries < 0)} values are negative, the least {entries.min():.3g}")
    empty = np.flatnonzero(np.asarray(chosen.sum(1)).ravel() == 0)
    if len(empty):
        named = f", {str(names_x[empty[0]])!r} first" if names_x is not None else f", row {rows[empty[0]] + 1} first"
        raise UserError(f"{origin}: the rows of {len(empty)} of {shape[0]} source cells sum to 0{named}")
    plan = chosen[:, columns]
    total = plan.sum()
    if total == 0:
        raise UserError(f"{origin}: no source cell has a partner among the {shape[1]} target cells")
    return plan / total


def _places(
    held: pd.Index | None, names: Sequence[str] | None, n: int, size: int, origin: str, side: str
) -> np.ndarray:
    """Which rows or columns of the file are the cells."""
    if held is None:
        if size != n:
            raise UserError(
                f"{origin} are {size} without names, where there are {n} {side} cells; a .csv or .h5ad with names of "
                "cells may hold more of them"
            )
        return np.arange(n)
    if names is None:
        raise ValueError(f"{origin} have names, the {side} cells have none")
    if held.has_duplicates:
        raise UserError(f"{origin}: {str(held[held.duplicated()][0])!r} stands more than once")
    places = held.get_indexer(pd.Index(names, dtype=object))
    lost = np.flatnonzero(places < 0)
    if len(lost):
        first = str(names[lost[0]])
        raise UserError(
            f"{origin}: {len(lost)} of {n} {side} cells are not there, {first!r} first{nearest(first, held[:1000])}"
        )
    return places


def _read(path: str, key: str | None, origin: str) -> _PlanFile:
    ending = next((end for end in ENDINGS if str(path).lower().endswith(end)), None)
    if ending is None:
        raise UserError(f"{origin}: the name ends in none of {', '.join(ENDINGS)}")
    if key is not None and ending != ".h5ad":
        raise UserError(f"coupling.key={key}: only an .h5ad has keys, and coupling.path is {path}")
    file = locate(path, "coupling.path", f"*{ending}")
    try:
        if ending == ".npz":
            held = _PlanFile(load_npz(file), None, None)
        else:
            held = _read_h5ad(file, key, origin) if ending == ".h5ad" else _read_csv(file)
        if issparse(held.values):
            values = csr_matrix(held.values, dtype=np.float64)
            values.sum_duplicates()
        else:
            values = np.asarray(held.values, np.float64)
    except (OSError, KeyError, ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(f"{origin}: could not be read as a {ending} plan ({reason})") from error
    if values.ndim != 2:
        raise UserError(f"{origin}: shape {values.shape}, where a matrix of cells by cells is needed")
    return held._replace(values=values)


def _read_csv(file: Path) -> _PlanFile:
    """Names of source cells in the first column, of target cells in the header."""
    header = pd.read_csv(file, header=None, nrows=1, dtype=str, keep_default_na=False).iloc[
        0
    ]  # keeps names that repeat
    frame = pd.read_csv(file, index_col=0, dtype={0: str})
    names = pd.Index(header.iloc[1:].astype(object))
    return _PlanFile(frame.apply(pd.to_numeric, errors="coerce").to_numpy(np.float64), _text(frame.index), names)


def _read_h5ad(file: Path, key: str | None, origin: str) -> _PlanFile:
    """X (obs by var), obsp (obs by obs), or obsm (obs by the names of a table's columns, or by nothing)."""
    import h5py
    from anndata.io import read_elem

    with h5py.File(file, "r") as held:
        obs = _text(read_elem(held["obs"]).index)
        if key is None:
            if "X" not in held:
                raise UserError(f"{origin}: no X; coupling.key names an entry of obsp or obsm: {_keys(held)}")
            return _PlanFile(read_elem(held["X"]), obs, _text(read_elem(held["var"]).index))
        if "obsp" in held and key in held["obsp"]:
            return _PlanFile(read_elem(held["obsp"][key]), obs, obs)
        if "obsm" not in held or key not in held["obsm"]:
            keys = _keys(held)
            raise UserError(f"{origin}: neither obsp nor obsm has {key!r} (coupling.key){nearest(key, keys)}: {keys}")
        values: Any = read_elem(held["obsm"][key])
    if isinstance(values, pd.DataFrame):
        return _PlanFile(values.to_numpy(np.float64), obs, _text(values.columns))
    return _PlanFile(values, obs, None)


def _keys(held: Any) -> list[str]:
    return [name for part in ("obsp", "obsm") if part in held for name in held[part]]


def _text(names: pd.Index) -> pd.Index:
    return pd.Index([str(name) for name in names], dtype=object)
