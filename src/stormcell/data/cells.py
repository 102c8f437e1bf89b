"""Cells: one CSR matrix with checked obs columns, whatever the file looked like.

Shapes: N cells, G genes. The scale is declared (`data.scale`) and checked on every value, never guessed.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from stormcell.config import DataConfig, UserError, nearest
from stormcell.data.h5ad import Table, from_memory, read_table
from stormcell.data.recover import recover_counts

if TYPE_CHECKING:
    from anndata import AnnData


@dataclass
class Cells:
    """Checked cells. obs has canonical columns: condition, is_control, library, batch, cell_type, cluster, …"""

    X: csr_matrix  # N × G float32: counts, log1p or continuous values, as `scale` says
    scale: str
    obs: pd.DataFrame
    genes: list[str]
    control: str
    origin: str
    fingerprint: str  # sha256 of the file, or of the simulated counts
    truth: dict[str, Any] = field(default_factory=dict)  # of the simulator
    notes: list[str] = field(default_factory=list)  # what a reader must be told

    def __len__(self) -> int:
        return self.X.shape[0]

    def take(self, keep: np.ndarray) -> Cells:
        """The cells of a boolean mask or of an index, in its order."""
        return replace(self, X=self.X[keep], obs=self.obs.iloc[np.arange(len(self))[keep]])


def read(config: DataConfig, adata: AnnData | None = None) -> Cells:
    """Read, check and tidy the cells that the data config names, or those of an AnnData object.

    Raises UserError for everything that a user can mend: file, columns, labels, values that are not of the declared
    scale, duplicate gene names.
    """
    if config.scale not in ("counts", "log1p", "continuous"):
        raise UserError(f"data.scale={config.scale!r}: counts, log1p or continuous{nearest(config.scale, _SCALES)}")
    table = _source(config) if adata is None else from_memory(adata, config, "AnnData object")
    _check_genes(table)
    _check_values(table, config)
    notes = list(table.notes)
    cells = Cells(
        table.X, config.scale, pd.DataFrame(index=table.obs.index), table.genes, control_labels(config)[0],
        table.origin, table.fingerprint, table.truth, notes,
    )  # fmt: skip
    if config.recover_counts:
        _recover(cells)
    _copy_columns(cells, table, config)
    _library(cells, table, config)
    keep = _filter(table, config)
    keep &= _labelled(cells, keep, table, config)
    keep &= _quality(cells, keep, config)
    if not keep.all():
        cells = cells.take(keep)
    if len(cells) == 0:
        raise UserError(f"{table.origin}: no cell is left after data.filter and data.qc")
    _check_conditions(cells, table, config)
    return cells


_SCALES = ("counts", "log1p", "continuous")


def _source(config: DataConfig) -> Table:
    """The values and tables of the file, the simulator, the catalogue or scanpy."""
    if config.path is not None:
        return read_table(locate(config.path), config)
    if config.source == "synthetic":
        from stormcell.data.simulate import simulate

        made = simulate(**config.simulate)
        digest = hashlib.sha256(made.counts.data.tobytes() + made.counts.indices.tobytes()).hexdigest()
        matrix = csr_matrix(made.counts, dtype=np.float32)
        return Table(matrix, made.obs, made.genes, "synthetic cells", digest, {**made.truth, "genes": made.genes})
    if config.source == "catalog":
        from stormcell.data.catalog import fetch

        return read_table(fetch(config.dataset), config)
    if config.source == "scanpy":
        from stormcell.data.h5ad import from_scanpy

        return from_scanpy(config)
    raise UserError("data.path is missing: data.path=FILE.h5ad says which cells to read")


def locate(path: str, key: str = "data.path", like: str = "*.h5ad") -> Path:
    """The file that a config key names: as given, else below $STORMCELL_DATA."""
    folders = [Path(), *([Path(os.environ["STORMCELL_DATA"])] if os.environ.get("STORMCELL_DATA") else [])]
    for folder in folders:
        if (folder / path).is_file():
            return folder / path
    present = [file.name for folder in folders for file in folder.glob(like)]
    where = " and ".join(str(folder.resolve()) for folder in folders)
    where += "" if os.environ.get("STORMCELL_DATA") else " ($STORMCELL_DATA, the second place, is not set)"
    raise UserError(f"{key}={path}: no such file in {where}{nearest(path, present)}")


# ---- values


def _check_genes(table: Table) -> None:
    names = pd.Index(table.genes)
    if names.has_duplicates:
        twice = names[names.duplicated()].unique()
        raise UserError(
            f"{table.origin}: {len(twice)} gene names stand more than once in var ({', '.join(twice[:3])}, …); make "
            "them unique first, e.g. adata.var_names_make_unique()"
        )


def _check_values(table: Table, config: DataConfig) -> None:
    """Every stored value against the declared scale; zeros are of any scale."""
    values, where = table.X.data, f"{table.origin}, {table.layer}"
    if not np.isfinite(values).all():
        raise UserError(f"{where}: {int((~np.isfinite(values)).sum())} values are NaN or infinite")
    if config.scale == "continuous":
        return
    lowest = values.min(initial=0)
    if lowest < 0:
        raise UserError(
            f"{where}: the lowest value is {lowest:g}, so these are not {config.scale} (data.scale={config.scale}); "
            "scaled values need data.scale=continuous"
        )
    whole = bool((values == np.rint(values)).all())
    if config.scale == "counts" and not whole:
        odd = values[values != np.rint(values)][0]
        raise UserError(
            f"{where}: values such as {odd:g} are not integers, so these are not counts (data.scale=counts); "
            f"{_advice(table)}"
        )
    if config.scale == "log1p" and ((whole and len(values)) or values.max(initial=0) > LARGEST_LOG1P):
        raise UserError(
            f"{where}: the values are {'integers' if whole else f'up to {values.max():g}'}, so they look like counts, "
            "not log1p (data.scale=log1p); use data.scale=counts"
        )


LARGEST_LOG1P = np.log1p(1e6)  # a gene that holds every count of a cell, at a target sum of a million


def _advice(table: Table) -> str:
    others = [name for name in table.layers if name != table.layer]
    return "data.scale=log1p reads them as they are" + (f"; the file also has {', '.join(others)}" if others else "")


def _recover(cells: Cells) -> None:
    if cells.scale != "log1p":
        raise UserError("data.recover_counts=true needs data.scale=log1p")
    cells.X, cells.obs["library"] = recover_counts(cells.X, cells.origin)
    cells.scale = "counts"
    cells.notes.append("integer counts and library sizes recovered exactly from log1p values")


# ---- obs


def _pick(key: Any, columns: Sequence[str], config_key: str, origin: str) -> str | None:
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


def _copy_columns(cells: Cells, table: Table, config: DataConfig) -> None:
    columns = [str(column) for column in table.obs.columns]
    for name in _NAMED:
        key = _pick(getattr(config, f"{name}_key"), columns, f"data.{name}_key", table.origin)
        if key is not None:
            column = table.obs[key]
            cells.obs[name] = _numbers(column, table.origin) if name == "pseudotime" else column.astype(str).to_numpy()
    for covariate in config.covariate_keys:
        key = _pick(covariate, columns, "data.covariate_keys", table.origin)
        taken = key in _OURS
        if key in _NAMED:  # obs[key] was made of a column that may be another
            taken = _pick(getattr(config, f"{key}_key"), columns, "", table.origin) not in (None, key)
        if taken:
            raise UserError(
                f"{table.origin}: data.covariate_keys: {key!r} is the name of a column that is made here; rename it in "
                "the file"
            )
        cells.obs[key] = table.obs[key].astype(str).to_numpy()
    key = _pick(config.perturbation_key, columns, "data.perturbation_key", table.origin)
    if key is not None:
        labels = table.obs[key]
        cells.obs["condition"] = canonical(labels.astype(object).where(labels.notna(), None), config)
        cells.obs["is_control"] = (cells.obs["condition"] == cells.control).to_numpy()
        if cells.obs["condition"].astype(str).str.contains(_PLUS).any():
            cells.notes.append(f"a + within the name of a target is written {_PLUS}, because + joins targets")


_PLUS = "⁺"  # of CD4+, where the labels are joined by another sign
_OURS = ("condition", "is_control", "library")
_NAMED = ("batch", "cell_type", "cluster", "pseudotime")  # read from the column that data.<name>_key says


def _numbers(column: pd.Series, origin: str) -> np.ndarray:
    values = pd.to_numeric(column.astype(object), errors="coerce").to_numpy(float)
    wrong = column[np.isnan(values) & column.notna().to_numpy()]
    if len(wrong):
        raise UserError(
            f"{origin}: obs column {column.name!r} (data.pseudotime_key) holds {wrong.iloc[0]!r}, not numbers"
        )
    return values


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
        targets = {target(part.strip()).replace("+", _PLUS) for part in str(label).split(separator)} - {""}
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


def _library(cells: Cells, table: Table, config: DataConfig) -> None:
    """Counts of a cell over all its genes: from obs where the file keeps only some genes."""
    columns = [str(column) for column in table.obs.columns]
    key = _pick(config.library_key, columns, "data.library_key", table.origin)
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


def _filter(table: Table, config: DataConfig) -> np.ndarray:
    """data.filter: a boolean obs column, or `column=value`."""
    if config.filter is None:
        return np.ones(len(table.obs), bool)
    key, _, value = (part.strip() for part in config.filter.replace("==", "=").partition("="))
    column = table.obs[_pick(key, [str(c) for c in table.obs.columns], "data.filter", table.origin)]
    if value:
        keep = (column.astype(str) == value).to_numpy()
        if not keep.any():
            raise UserError(f"{table.origin}: no cell has {key}={value} (data.filter){nearest(value, column.unique())}")
        return keep
    if not set(column.unique()) <= {True, False}:
        raise UserError(f"{table.origin}: obs column {key!r} (data.filter) is not boolean; write {key}=VALUE")
    return column.to_numpy(bool)


def _labelled(cells: Cells, keep: np.ndarray, table: Table, config: DataConfig) -> np.ndarray:
    if "condition" not in cells.obs:
        return np.ones(len(cells), bool)
    known = cells.obs["condition"].notna().to_numpy()
    if keep.any() and not (keep & known).any():
        key = _pick(config.perturbation_key, list(map(str, table.obs.columns)), "", table.origin)
        raise UserError(f"{table.origin}: no cell has a label in obs column {key!r} (data.perturbation_key)")
    if dropped := int((keep & ~known).sum()):
        cells.notes.append(f"{dropped} cells without a perturbation label dropped")
    return known


def _quality(cells: Cells, keep: np.ndarray, config: DataConfig) -> np.ndarray:
    """Cells that pass data.qc; each rule says how many it dropped. Genes are filtered on the training cells later."""
    keep, rules = keep.copy(), config.qc
    total = np.asarray(cells.X.sum(1)).ravel()
    checks = []
    if cells.scale == "counts":
        checks.append(("without counts", total > 0))
        if rules.min_counts is not None:
            checks.append((f"with fewer than {rules.min_counts} counts", cells.obs["library"] >= rules.min_counts))
        if rules.max_mitochondrial_share is not None:
            mito = np.array([gene.lower().startswith(rules.mitochondrial_prefix.lower()) for gene in cells.genes])
            if not mito.any():
                raise UserError(
                    f"{cells.origin}: data.qc.max_mitochondrial_share is set, but no gene name begins with "
                    f"{rules.mitochondrial_prefix!r} (data.qc.mitochondrial_prefix)"
                )
            share = cells.X @ mito.astype(np.float32) / np.maximum(cells.obs["library"], 1)
            label = f"with a mitochondrial share above {rules.max_mitochondrial_share:g}"
            checks.append((label, share <= rules.max_mitochondrial_share))
    elif rules.min_counts is not None or rules.max_mitochondrial_share is not None:
        raise UserError(f"data.qc: counts are needed for min_counts and max_mitochondrial_share, not {cells.scale}")
    for label, passed in checks:
        dropped = int((keep & ~np.asarray(passed)).sum())
        if dropped:
            cells.notes.append(f"{dropped} cells {label} dropped")
        keep &= np.asarray(passed)
    return keep


def _check_conditions(cells: Cells, table: Table, config: DataConfig) -> None:
    if "condition" not in cells.obs:
        return
    labels = cells.obs["condition"]
    if not cells.obs["is_control"].any():
        present = labels.value_counts().index[:10]
        key = _pick(config.perturbation_key, list(map(str, table.obs.columns)), "", table.origin)
        raise UserError(
            f"{table.origin}: no cell is labelled {cells.control!r} (data.control) in obs column "
            f"{key!r}{nearest(cells.control, labels.unique())}; labels: {', '.join(present)}"
            + (", …" if labels.nunique() > 10 else "")
        )
