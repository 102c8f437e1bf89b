"""Files of regulatory networks: tables of edges, labelled matrices, varp of AnnData files.

All of them become one table of named edges. Of a matrix the rows regulate the columns unless the user says otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.sparse import coo_matrix

from stormcell.config import UserError, nearest
from stormcell.data.target_files import _read, _signs

REGULATOR, TARGET = ("tf", "source", "regulator", "from", "gene1"), ("target", "to", "gene", "gene2")
SIGN = ("mor", "sign", "mode", "weight", "effect", "regulation", "interaction", "type")
CONFIDENCE = "confidence"
AMOUNTS = ("weight", "effect")  # columns that may hold strengths without a sign
HEADERLESS = ("tf", "target", "mode", "pmid")  # TRRUST's own tables begin with the first edge
WORDS = {
    **dict.fromkeys(("activates", "activator", "activating", "stimulation", "positive"), "activation"),
    **dict.fromkeys(("represses", "repressor", "repressing", "inhibition", "negative"), "repression"),
}
ORIENTATIONS = ("rows_regulate_columns", "columns_regulate_rows")


def read_edges(
    file: Path,
    columns: tuple[str | None, str | None, str | None] = (None, None, None),
    confidence: str | Sequence[str] | None = None,
    orientation: str = ORIENTATIONS[0],
) -> tuple[pd.DataFrame, list[str]]:
    """Edges (regulator, target: names; sign: −1, 0, 1) of a table or labelled matrix, and what a reader must be told.

    `columns` names those of the regulator, the target and the sign; None: found by their usual names. `confidence`: the
    levels to keep. Raises UserError for a file that is neither table nor matrix of a network.
    """
    if orientation not in ORIENTATIONS:
        raise UserError(
            f"prior.orientation={orientation}{nearest(orientation, ORIENTATIONS)}: {' or '.join(ORIENTATIONS)}"
        )
    frame = _with_header(file)
    lower = {column.strip().lower(): column for column in frame.columns}
    source, target = (
        _column(frame, file, asked, names, key, lower)
        for asked, names, key in zip(columns, (REGULATOR, TARGET), ("regulator", "target"), strict=False)
    )
    if source is None and target is None and frame.shape[1] > 1:
        return _from_matrix(frame, file, columns, confidence, orientation)
    for column, names, key in ((source, REGULATOR, "regulator"), (target, TARGET, "target")):
        if column is None:
            raise UserError(
                f"{file} (prior.path): no column {', '.join(names[:-1])} or {names[-1]}{nearest(names[0], lower)}; "
                f"name it with prior.{key}_column; columns: {', '.join(frame.columns)}"
            )
    if orientation != ORIENTATIONS[0]:
        raise UserError(
            f"{file} (prior.path): prior.orientation={orientation} is of matrices, and this is a table of edges; use "
            "prior.regulator_column and prior.target_column"
        )
    return _from_table(frame, file, source, target, columns[2], confidence, lower)


def _with_header(file: Path) -> pd.DataFrame:
    """The table; TRRUST's own files begin with their first edge, which must not be lost as a header."""
    frame = _read(file, "prior.path")
    if frame.shape[1] > 2 and str(frame.columns[2]).strip().lower() in ("activation", "repression", "unknown"):
        separator = "\t" if file.name.removesuffix(".gz").endswith((".tsv", ".txt")) else ","
        frame = pd.read_csv(file, sep=separator, header=None, dtype=str, keep_default_na=False)
        frame.columns = [*HEADERLESS, *range(len(HEADERLESS), frame.shape[1])][: frame.shape[1]]
    return frame.set_axis(frame.columns.astype(str), axis=1)


def _column(
    frame: pd.DataFrame, file: Path, asked: str | None, names: Sequence[str], key: str, lower: dict[str, str]
) -> str | None:
    """The column that the user names, or the first of the usual names."""
    if asked is None:
        return next((lower[name] for name in names if name in lower), None)
    if asked not in frame:
        raise UserError(
            f"{file} (prior.path): no column {asked!r} (prior.{key}_column){nearest(asked, frame.columns)}; columns: "
            f"{', '.join(frame.columns)}"
        )
    return asked


def _from_table(
    frame: pd.DataFrame, file: Path, source: str, target: str, sign: str | None, confidence: Any, lower: dict[str, str]
) -> tuple[pd.DataFrame, list[str]]:
    notes = []
    if confidence is not None:
        frame = _confident(frame, file, confidence, lower)
    sign = _column(frame, file, sign, SIGN, "sign", lower)
    if sign is None:
        values, notes = [0] * len(frame), [f"{file.name} has no column of signs"]
    else:
        words = frame[sign].astype(str).str.strip().str.lower().replace(WORDS)
        values = _signs(words.rename(sign), file, "prior.sign_column")
    edges = pd.DataFrame(
        {"regulator": frame[source].astype(str).str.strip(), "target": frame[target].astype(str).str.strip()}
    )
    edges["sign"] = [np.nan if value is None else value for value in values]
    edges = edges[edges["sign"].notna() & (edges["regulator"] != "") & (edges["target"] != "")]
    edges = edges.astype({"sign": np.int8}).reset_index(drop=True)
    if sign is not None and sign.strip().lower() in AMOUNTS:
        notes += _unsigned(edges, file.name)
    return edges, notes


def _confident(frame: pd.DataFrame, file: Path, confidence: str | Sequence[str], lower: dict[str, str]) -> pd.DataFrame:
    levels = [confidence] if isinstance(confidence, str) else list(map(str, confidence))
    if CONFIDENCE not in lower:
        raise UserError(
            f"{file} (prior.path): no column {CONFIDENCE} for prior.confidence={levels}; columns: "
            f"{', '.join(frame.columns)}"
        )
    column = frame[lower[CONFIDENCE]].astype(str)
    present = sorted(column.unique())
    for level in levels:
        if level not in present:
            raise UserError(
                f"{file} (prior.path): no edge of confidence {level!r} (prior.confidence){nearest(level, present)}; "
                f"levels: {', '.join(present)}"
            )
    return frame[column.isin(levels)].reset_index(drop=True)


def _from_matrix(
    frame: pd.DataFrame, file: Path, columns: Sequence[str | None], confidence: Any, orientation: str
) -> tuple[pd.DataFrame, list[str]]:
    """Names in the first column and the first row, numbers between; zero is no edge."""
    values = frame.iloc[:, 1:].apply(pd.to_numeric, errors="coerce").to_numpy(float)
    wrong = np.argwhere(~np.isfinite(values))
    if len(wrong) or not len(frame):
        row, column = wrong[0] if len(wrong) else (0, 0)
        found = f"{str(frame.iloc[row, column + 1])!r} is no finite number" if len(wrong) else "it has no rows"
        raise UserError(
            f"{file} (prior.path): neither a table of edges (no column {', '.join(REGULATOR)}) nor a matrix: {found}; "
            f"prior.regulator_column and prior.target_column name the columns: {', '.join(frame.columns[:8])}"
        )
    if confidence is not None or columns[2] is not None:
        key = "confidence" if confidence is not None else "sign_column"
        raise UserError(f"{file} (prior.path): a matrix has no prior.{key}; leave it null")
    names, labels = ([str(name).strip() for name in axis] for axis in (frame.iloc[:, 0], frame.columns[1:]))
    return matrix_edges(values, names, labels, orientation, file.name)


def matrix_edges(
    values: Any, rows: Sequence[str], columns: Sequence[str], orientation: str, where: str
) -> tuple[pd.DataFrame, list[str]]:
    """Edges of the entries that are not zero, dense or sparse; a matrix without a negative one has no signs."""
    found = coo_matrix(values)
    found.eliminate_zeros()
    ends = [np.asarray(rows, object)[found.row], np.asarray(columns, object)[found.col]]
    if orientation != ORIENTATIONS[0]:
        ends.reverse()
    edges = pd.DataFrame({"regulator": ends[0], "target": ends[1], "sign": np.sign(found.data).astype(np.int8)})
    return edges, _unsigned(edges, where)


def _unsigned(edges: pd.DataFrame, where: str) -> list[str]:
    """Strengths of which none is negative say nothing of the sign."""
    if (edges["sign"] < 0).any():
        return []
    edges["sign"] = np.int8(0)
    return [f"{where}: no weight is negative, so the signs are taken as unknown"]


def read_varp(file: Path, key: str, orientation: str) -> tuple[pd.DataFrame, list[str]]:
    """Edges of varp[key] of an .h5ad file, which is read without its cells."""
    import h5py
    from anndata.io import read_elem

    try:
        with h5py.File(file) as content:
            present = sorted(content["varp"]) if "varp" in content else []
            if key not in present:
                raise _no_varp(key, present, str(file))
            names = [str(name) for name in read_elem(content["var"]).index]
            values = read_elem(content["varp"][key])
    except (OSError, KeyError) as error:
        raise UserError(f"{file} (prior.path): could not be read as an .h5ad file ({error})") from error
    return matrix_edges(values, names, names, orientation, f"{file.name}, varp[{key!r}]")


def _no_varp(key: str, present: Sequence[str], where: str) -> UserError:
    return UserError(
        f"{where}: no varp {key!r} (prior.key){nearest(key, present)}; varp: {', '.join(present) or 'none'}"
    )


def adata_edges(adata: Any, key: str, orientation: str) -> tuple[pd.DataFrame, list[str]]:
    """Edges of varp[key] of an AnnData object in memory."""
    if key not in adata.varp:
        raise _no_varp(key, sorted(adata.varp), "AnnData object")
    names = [str(name) for name in adata.var_names]
    return matrix_edges(adata.varp[key], names, names, orientation, f"varp[{key!r}]")
