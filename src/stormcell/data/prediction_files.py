"""Where predictions come from: .h5ad, .csv, .tsv, AnnData or DataFrame, and which of their rows are asked for.

Shapes: R rows of the source. The values are checked in `predictions.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from stormcell.config import DataConfig, UserError, nearest
from stormcell.data.cells import locate
from stormcell.data.h5ad import read_table
from stormcell.data.labels import canonical, control_labels

if TYPE_CHECKING:
    from anndata import AnnData

ENDINGS = (".csv.gz", ".tsv.gz", ".h5ad", ".csv", ".tsv")
Names = str | Sequence[str]  # a name, or several of which the first that exists is taken


@dataclass
class Source:
    """What a source holds, before any check of its values."""

    name: str
    origin: str  # how an error begins
    values: csr_matrix | pd.DataFrame  # R × every gene; a table may hold other columns, which `obs` repeats
    obs: pd.DataFrame  # R rows
    genes: list[str]
    notes: list[str] = field(default_factory=list)
    named: set[str] = field(default_factory=set)  # columns that a config key asked for

    @property
    def is_table(self) -> bool:
        return isinstance(self.values, pd.DataFrame)

    def column(self, key: Names, config_key: str) -> pd.Series:
        """The column that a config key names; UserError where it is not there."""
        options = [key] if isinstance(key, str) else list(key)
        for option in options:
            if option in self.obs:
                self.named.add(option)
                return self.obs[option]
        columns = [str(column) for column in self.obs.columns]
        raise UserError(
            f"{self.origin}: no column {options[0]!r} ({config_key}={options[0]}){nearest(options[0], columns)}; "
            f"columns: {few(columns, 8) or 'none'}"
        )


def few(names: Sequence[Any], most: int = 3) -> str:
    """The first names, and … for the rest."""
    return ", ".join(map(str, names[:most])) + (", …" if len(names) > most else "")


def read_source(source: str | Path | AnnData | pd.DataFrame, scale: str | None, genes: Sequence[str]) -> Source:
    if isinstance(source, pd.DataFrame):
        return _table("predictions", "predictions", source.copy(deep=False), genes)
    if not isinstance(source, str | Path):
        return _anndata(source, scale)
    ending = next((end for end in ENDINGS if str(source).lower().endswith(end)), None)
    if ending is None:
        raise UserError(f"predictions={source}: the name ends in none of {', '.join(ENDINGS)}")
    path = locate(str(source), "predictions", f"*{ending}")
    name, origin = path.name[: -len(ending)], f"predictions={source}"
    if ending != ".h5ad":
        return _table(name, origin, _read_text(path, origin, "\t" if "tsv" in ending else ","), genes)
    try:
        held = read_table(path, DataConfig(scale=scale or "log1p"))
    except UserError as error:  # it begins with the path
        raise UserError(f"predictions={error}") from error
    return Source(name, origin, held.X, held.obs, held.genes)


def _anndata(adata: AnnData, scale: str | None) -> Source:
    """The layer that a file would be read from: layers['counts'] for counts where it exists, else X."""
    counts = scale == "counts" and "counts" in adata.layers
    held = adata.to_memory() if adata.isbacked else adata
    if not counts and held.X is None:
        raise UserError("predictions: the AnnData has no X")
    X = csr_matrix(held.layers["counts"] if counts else held.X, dtype=np.float32, copy=True)
    X.sum_duplicates()
    return Source("predictions", "predictions", X, held.obs, [str(gene) for gene in held.var_names])


def _read_text(path: Path, origin: str, sign: str) -> pd.DataFrame:
    """The first column as index; names as they stand, because pandas would number those that occur twice."""
    options: dict[str, Any] = {"sep": sign, "header": None, "encoding": "utf-8-sig"}
    try:
        names = pd.read_csv(path, nrows=1, dtype=str, keep_default_na=False, **options).iloc[0].tolist()
        body = pd.read_csv(
            path, skiprows=1, converters={0: str}, low_memory=False, float_precision="round_trip", **options
        )
    except Exception as error:  # pandas, gzip and the decoder raise half a dozen kinds for a damaged file
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{origin}: not readable as a table with a first line of names ({reason})") from error
    if body.shape[1] == len(names) + 1:  # R leaves the column of row names unnamed
        names = ["", *names]
    if len(names) == 1 and names[0].count(";") > 1:
        raise UserError(f"{origin}: its columns are parted by semicolons; save it with commas (.csv) or tabs (.tsv)")
    if body.shape[1] != len(names):
        raise UserError(f"{origin}: the first line has {len(names)} names for {body.shape[1]} columns")
    frame = body.set_index(0)
    return frame.set_axis(names[1:], axis=1).rename_axis(names[0])


def _table(name: str, origin: str, frame: pd.DataFrame, genes: Sequence[str]) -> Source:
    """Conditions × genes, whichever way it stands; duplicate columns stay for `places` to judge."""
    notes = []
    if frame.index.isin(genes).sum() > frame.columns.isin(genes).sum():
        frame = frame.T
        notes.append("the table is genes × conditions: turned")
    frame = frame.set_axis(frame.columns.astype(str), axis=1)
    others = frame.loc[:, ~(frame.columns.isin(genes) | frame.columns.duplicated())]
    return Source(name, origin, frame, others, [str(column) for column in frame.columns], notes)


# ---- which rows


def labelled(
    source: Source, config: DataConfig, conditions: Sequence[str], key: Names, context_key: str | None
) -> pd.DataFrame:
    """Rows of perturbed cells: place in the source, label as it stands, condition, context ("" without a column)."""
    in_column = not source.is_table or any(name in source.obs for name in ([key] if isinstance(key, str) else key))
    labels = source.column(key, "perturbation_key") if in_column else source.values.index.to_series()
    labels = labels.reset_index(drop=True).astype(object)
    labels = labels.astype(str).where(labels.notna(), None)
    made = pd.Series(canonical(labels, config), dtype=object)
    # A file of ours joins targets by + whatever sign the data set uses: what is asked for is canonical already.
    made = made.where(~labels.isin(list(conditions)), labels)
    context = "" if context_key is None else source.column(context_key, "context_key").astype(str).to_numpy()
    rows = pd.DataFrame({"place": np.arange(len(labels)), "label": labels, "condition": made, "context": context})
    if unlabelled := int(made.isna().sum()):
        source.notes.append(f"{unlabelled} rows without a label left out")
    is_control = made == control_labels(config)[0]
    if is_control.any():
        source.notes.append(f"{int(is_control.sum())} rows of control cells left out: the real control cells are used")
    return rows[~is_control & made.notna()]


def asked(
    source: Source, rows: pd.DataFrame, conditions: Sequence[str], contexts: list[str], key: Names,
    context_key: str | None,
) -> pd.DataFrame:  # fmt: skip
    """The rows of asked conditions and known contexts, renumbered; notes say what is left out and what is missing."""
    present = sorted(set(rows["condition"]))
    common = rows[rows["condition"].isin(list(conditions))]
    if common.empty:
        near = next(filter(None, (nearest(condition, conditions) for condition in present[:20])), "")
        raise UserError(
            f"{source.origin}: none of its {len(present)} conditions ({few(present)}) is among the {len(conditions)} "
            f"asked for ({few(conditions)}){near}; perturbation_key={key} names the column of labels"
        )
    if extra := [condition for condition in present if condition not in set(conditions)]:
        source.notes.append(f"{len(extra)} conditions that are not asked for left out ({few(extra)})")
    if context_key is not None:
        common = _in_contexts(source, common, contexts, context_key)
    _one_method(source, common)
    answered = set(common["condition"])
    if missing := [condition for condition in conditions if condition not in answered]:
        source.notes.append(f"no prediction for {len(missing)} of {len(conditions)} conditions ({few(missing)})")
    return common.reset_index(drop=True)


def _in_contexts(source: Source, rows: pd.DataFrame, contexts: list[str], context_key: str) -> pd.DataFrame:
    known = rows[rows["context"].isin(contexts)]
    strange = sorted(set(rows["context"]) - set(contexts))
    if known.empty:
        raise UserError(
            f"{source.origin}: none of the values of column {context_key} ({few(strange)}) is a context of the "
            f"held-out cells ({few(contexts)}){nearest(strange[0], contexts)}; context_key={context_key}"
        )
    if strange:
        source.notes.append(f"{len(strange)} contexts that are not asked for left out ({few(strange)})")
    return known


def _one_method(source: Source, rows: pd.DataFrame) -> None:
    """A predictions.h5ad of ours may hold the cells of several methods, which must not be judged as one."""
    if not source.is_table and "method" in source.obs:
        methods = source.obs["method"].iloc[rows["place"].to_numpy()].unique()
        if len(methods) > 1:
            raise UserError(f"{source.origin}: column 'method' names several ({few(methods)}); keep the rows of one")


def kind_of(source: Source, rows: pd.DataFrame, kind: str | None, scale: str | None) -> str:
    """What the rows are, checked by how many a condition has."""
    sizes = rows.groupby(["condition", "context"], sort=False).size()
    condition, most = sizes.idxmax()[0], int(sizes.max())
    if source.is_table:
        if kind == "cells":
            raise UserError(f"{source.origin}: kind=cells is for .h5ad; a table has one mean or shift per condition")
        if most > 1:
            alike = rows.loc[rows["condition"] == condition, "label"].unique()
            raise UserError(
                f"{source.origin}: condition {condition} stands in {most} rows ({few(alike)}), and a table has one "
                "mean or shift for each; cells go into an .h5ad (kind=cells)"
            )
    elif kind in (None, "cells") and most == 1:
        found = "kind=cells cannot be" if kind else "kind is missing"
        raise UserError(f"{source.origin}: one row per condition, so {found}: say kind=means or kind=shifts")
    elif kind in ("means", "shifts") and most > 1:
        raise UserError(
            f"{source.origin}: condition {condition} has {most} rows, so these are cells (kind={kind}); say "
            "kind=cells, or context_key=COLUMN if the rows are of different contexts"
        )
    kind = kind or ("shifts" if source.is_table else "cells")
    if scale == "counts" and kind != "cells":
        raise UserError(f"{source.origin}: scale=counts is for cells; {kind} are of log1p(counts / library · 1e4)")
    return kind


# ---- which columns


def places(source: Source, genes: Sequence[str]) -> list[int]:
    """Columns of the source that hold the G genes, in their order."""
    place: dict[str, int] = {}
    for number, gene in enumerate(source.genes):
        place.setdefault(gene, number)
    if missing := [gene for gene in genes if gene not in place]:
        raise UserError(
            f"{source.origin}: {len(missing)} of {len(genes)} genes are missing ({few(missing)}); it has "
            f"{few(source.genes)}{nearest(missing[0], place.keys() - set(genes))}"
        )
    wanted = set(genes)
    names = pd.Index(source.genes)
    if twice := [gene for gene in names[names.duplicated()].unique() if gene in wanted]:
        raise UserError(f"{source.origin}: {len(twice)} genes stand in more than one column ({few(twice)})")
    if beyond := place.keys() - wanted - source.named:
        what = "columns" if source.is_table else "genes"
        source.notes.append(f"{len(beyond)} {what} that are not asked for left out ({few(sorted(beyond))})")
    return [place[gene] for gene in genes]
