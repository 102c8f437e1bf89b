"""Cells: one CSR matrix with checked obs columns, whatever the file looked like.

Shapes: N cells, G genes. The scale is declared (`data.scale`) and checked on every value, never guessed.
"""

from __future__ import annotations

import hashlib
import os
import pkgutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from stormcell.config import DataConfig, UserError, nearest
from stormcell.data.columns import check_continuous, copy_columns, library_sizes, pick
from stormcell.data.h5ad import Table, from_memory, read_table
from stormcell.data.labels import chosen, control_labels
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
    copy_columns(cells, table, config)
    library_sizes(cells, table, config)
    keep = _filter(table, config)
    keep &= _labelled(cells, keep, table, config)
    keep &= _chosen(cells, keep, config)
    keep &= _quality(cells, keep, config)
    if not keep.all():
        cells = cells.take(keep)
    if len(cells) == 0:
        raise UserError(f"{table.origin}: no cell is left after data.filter and data.qc")
    _check_conditions(cells, table, config)
    check_continuous(cells, config)
    return cells


_SCALES = ("counts", "log1p", "continuous")


def _source(config: DataConfig) -> Table:
    """The values and tables of the file, the simulator, the catalogue or scanpy."""
    if config.path is not None:
        return read_table(locate(config.path), config)
    if config.source == "synthetic":
        made = _simulated(config.simulate)
        matrix = made.matrix if hasattr(made, "matrix") else made.counts
        digest = hashlib.sha256(matrix.data.tobytes() + matrix.indices.tobytes()).hexdigest()
        matrix = csr_matrix(matrix, dtype=np.float32)
        return Table(matrix, made.obs, made.genes, "synthetic cells", digest, {**made.truth, "genes": made.genes})
    if config.source == "catalog":
        from stormcell.data.catalog import fetch

        return read_table(fetch(config.dataset), config)
    if config.source == "scanpy":
        from stormcell.data.h5ad import from_scanpy

        return from_scanpy(config)
    raise UserError("data.path is missing: data.path=FILE.h5ad says which cells to read")


SIMULATORS = (
    "stormcell.data.simulate.simulate",
    "stormcell.data.programmes.simulate_programmes",
    "stormcell.data.boolean_cells.simulate_boolean",
)


def _simulated(arguments: dict[str, Any]) -> Any:
    """What a simulator of ours makes; a name elsewhere could be any code, which a checkpoint's record must not run."""
    name = arguments.get("_target_", SIMULATORS[0])
    if name not in SIMULATORS:
        raise UserError(
            f"data.simulate._target_={name}{nearest(name, SIMULATORS)}: it is one of {', '.join(SIMULATORS)}"
        )
    return pkgutil.resolve_name(name)(**{key: value for key, value in arguments.items() if key != "_target_"})


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


# ---- which cells


def _filter(table: Table, config: DataConfig) -> np.ndarray:
    """data.filter: a boolean obs column, or `column=value`."""
    if config.filter is None:
        return np.ones(len(table.obs), bool)
    key, _, value = (part.strip() for part in config.filter.replace("==", "=").partition("="))
    column = table.obs[pick(key, [str(c) for c in table.obs.columns], "data.filter", table.origin)]
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
        key = pick(config.perturbation_key, list(map(str, table.obs.columns)), "", table.origin)
        raise UserError(f"{table.origin}: no cell has a label in obs column {key!r} (data.perturbation_key)")
    if dropped := int((keep & ~known).sum()):
        cells.notes.append(f"{dropped} cells without a perturbation label dropped")
    return known


def _chosen(cells: Cells, keep: np.ndarray, config: DataConfig) -> np.ndarray:
    """Controls and the cells of data.perturbations."""
    if config.perturbations is None:
        return np.ones(len(cells), bool)
    if "condition" not in cells.obs:
        raise UserError(f"{cells.origin}: data.perturbations needs data.perturbation_key, which is null")
    condition = cells.obs["condition"].where(keep)
    present = sorted(set(condition.dropna()) - {cells.control})
    names = chosen(config, present, cells.origin)
    wanted = condition.isin([cells.control, *names]).to_numpy()
    cells.notes.append(
        f"{len(names)} of {len(present)} perturbations kept, {int((keep & ~wanted).sum())} cells of the others dropped "
        "(data.perturbations)"
    )
    return wanted


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
        key = pick(config.perturbation_key, list(map(str, table.obs.columns)), "", table.origin)
        raise UserError(
            f"{table.origin}: no cell is labelled {cells.control!r} (data.control) in obs column "
            f"{key!r}{nearest(cells.control, labels.unique())}; labels: {', '.join(present)}"
            + (", …" if labels.nunique() > 10 else "")
        )
