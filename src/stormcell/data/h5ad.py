"""Reading an AnnData file: only the layer that is needed, as CSR, whatever its form on disk."""

from __future__ import annotations

import hashlib
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse
from scipy.sparse import csr_matrix

from stormcell.config import DataConfig, UserError, nearest

if TYPE_CHECKING:
    from anndata import AnnData

_ROWS = 4096  # rows of a dense matrix that are in memory at a time


@dataclass
class Table:
    """What a source holds before any check: values N × G, obs as it stands, gene names."""

    X: csr_matrix
    obs: pd.DataFrame
    genes: list[str]
    origin: str
    fingerprint: str
    truth: dict[str, Any] = field(default_factory=dict)
    layer: str = "X"
    layers: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_table(path: Path, config: DataConfig) -> Table:
    """One layer of an .h5ad (CSR, CSC or dense) with obs and gene names.

    Raises UserError where the file is not an AnnData file, is truncated, or has no such layer.
    """
    import h5py
    from anndata.io import read_elem

    try:
        with h5py.File(path, "r") as file:
            missing = [part for part in ("obs", "var") if part not in file]
            if missing:
                raise UserError(f"{path}: an HDF5 file, but without {' and '.join(missing)}: not an AnnData .h5ad")
            layers = _layers(file)
            layer = _layer(config, layers, path)
            group = file if not layer.startswith("raw") else file["raw"]
            obs, var = read_elem(file["obs"]), read_elem(group["var"])
            matrix = _to_csr(file[_PLACE.get(layer, layer)])
    except UserError:
        raise
    except Exception as error:  # h5py and anndata raise half a dozen kinds for a damaged file
        raise UserError(f"{path}: truncated, or not an .h5ad file ({_first_line(error)})") from error
    with path.open("rb") as stream:
        fingerprint = hashlib.file_digest(stream, "sha256").hexdigest()
    return _table(matrix, obs, var, str(path), fingerprint, layer, layers)


def from_scanpy(config: DataConfig) -> Table:
    """A data set that scanpy carries inside its package, or fetches by itself (paul15)."""
    import scanpy

    load = getattr(scanpy.datasets, str(config.dataset), None)
    if load is None:
        raise UserError(f"data.dataset={config.dataset}: no such function in scanpy.datasets")
    try:
        with _hushed():
            adata = load()
    except OSError as error:
        raise UserError(
            f"data={config.name} needs scanpy.datasets.{config.dataset}(), which downloads and could not "
            f"({_first_line(error)}): give a local file with data.path=… or use data=synthetic"
        ) from error
    return from_memory(adata, config, f"scanpy {config.dataset}")


def from_memory(adata: AnnData, config: DataConfig, origin: str) -> Table:
    """One layer of an AnnData object; raises UserError where it has no such layer."""
    layers = ["X", *(f"layers/{name}" for name in adata.layers), *(["raw"] if adata.raw is not None else [])]
    layer = _layer(config, layers, origin)
    held = adata.raw if layer == "raw" else adata
    matrix = csr_matrix(adata.layers[layer[7:]] if layer.startswith("layers/") else held.X, dtype=np.float32, copy=True)
    digest = hashlib.sha256(matrix.data.tobytes() + matrix.indices.tobytes()).hexdigest()
    return _table(matrix, adata.obs, held.var, origin, digest, layer, layers)


@contextmanager
def _hushed() -> Iterator[None]:
    """AnnData's remarks on names and categories: a note of ours says what matters of them."""
    anndata = logging.getLogger("anndata")
    before = anndata.level
    anndata.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        anndata.setLevel(before)


_PLACE = {"raw": "raw/X"}


def _table(matrix, obs, var, origin, fingerprint, layer, layers) -> Table:
    notes = []
    obs = obs.copy()
    obs.index = obs.index.astype(str)
    if obs.index.has_duplicates:
        notes.append("cell names are not unique: numbered in the order of the file")
        obs.index = pd.Index(obs.index + "-" + obs.groupby(level=0).cumcount().astype(str).to_numpy())
    matrix.sum_duplicates()
    matrix.eliminate_zeros()
    genes = [str(gene) for gene in var.index]
    return Table(matrix, obs, genes, origin, fingerprint, {}, layer, layers, notes)


def _layers(file) -> list[str]:
    named = [f"layers/{name}" for name in file.get("layers", {})]
    return [*(["X"] if "X" in file else []), *named, *(["raw"] if "raw" in file and "X" in file["raw"] else [])]


def _layer(config: DataConfig, layers: list[str], origin: Any) -> str:
    """data.layer; null is layers['counts'] for counts where it exists, else X."""
    wanted = config.layer
    if wanted is None:
        wanted = "layers/counts" if config.scale == "counts" and "layers/counts" in layers else "X"
    for name in (wanted, f"layers/{wanted}"):
        if name in layers:
            return name
    raise UserError(f"{origin}: no layer {wanted!r} (data.layer){nearest(wanted, layers)}; it has {', '.join(layers)}")


def _to_csr(element) -> csr_matrix:
    """CSR float32 from a CSR or CSC group, or from a dense data set a block of rows at a time."""
    from anndata.io import read_elem

    if not hasattr(element, "shape") or element.attrs.get("encoding-type") in ("csr_matrix", "csc_matrix"):
        return csr_matrix(read_elem(element), dtype=np.float32)
    blocks = [
        csr_matrix(element[start : start + _ROWS], dtype=np.float32) for start in range(0, element.shape[0], _ROWS)
    ]
    return csr_matrix(sparse.vstack(blocks, format="csr")) if blocks else csr_matrix(element.shape, dtype=np.float32)


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:160]
