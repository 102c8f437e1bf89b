"""What is in an .h5ad file, in plain words, and what to type: python -m stormcell.data.look my.h5ad

It reads and suggests only; training takes nothing from here but what the user then types.
One layer is in memory at a time, of a large one some rows.

Shapes: N cells, G genes, S rows looked at.
"""

from __future__ import annotations

import argparse
import re
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from stormcell.config import DataConfig, UserError
from stormcell.data.cells import _LARGEST_LOG1P, _canonical, locate
from stormcell.data.h5ad import _PLACE, _first_line, _layers
from stormcell.data.recover import recover_counts

# Names of obs columns by what they hold, the likeliest first; every name is compared without case.
_COLUMNS = {
    "perturbation": (r"^perturbations?$", r"^condition$", r"perturb|condition", r"target|knock", r"guide|grna",
                     r"treat|stim|drug|compound|cytokine|ligand|genotype|^label$"),
    "batch": (r"batch", r"gem.?group", r"replicate|^rep$", r"donor|patient|individual|mouse|^sample",
              r"plate|lane|orig\.ident|channel"),
    "cell_type": (r"^cell[_. ]?types?$", r"cell.?type|cell.?line|annotation"),
    "cluster": (r"^clusters?$", r"leiden|louvain|cluster"),
    "pseudotime": (r"pseudotime", r"latent.?time|palantir"),
    "library": (r"^total[_. ]?(counts?|umis?)$", r"^n[_. ]?(counts?|umis?)(_rna)?$", r"^(umi|library|lib).?(counts?|size)$"),
}  # fmt: skip
_CONTROL = re.compile(
    r"(sg)?((neg|negative)[ _-]?)?(control|ctrl|ctl)s?[ _-]?\d*|(sg)?ntc?[ _-]?g?\d*|(sg)?(non|safe)[ _-]?target.*|"
    r"dmso.*|vehicle|mock|pbs|medium|untreated|un-?stimulated|unstim|unperturbed|unedited|resting|wt|wild[ _-]?type|"
    r"scrambled?|aavs1|empty[ _-]?vector|no[ _-](perturbation|treatment|drug|stimulation|guide)",
    re.IGNORECASE,
)
_SEPARATORS = "+_;:"
_PARTIAL = re.compile(r"spliced|ambiguous")  # layers that hold a part of the counts
_ENSEMBL = re.compile(r"ENS[A-Z]*G\d{11}")
_NEEDS = {"cvae": "control", "contrastive": "control", "lgem": "control", "transition": "cluster", "bilinear": "cells"}
_MODELS = Path(__file__).parents[3] / "conf" / "model"

_MANY, _ROWS, _TRIED = 30_000_000, 2_000, 500  # stored values that are all read; else rows; rows of a recovery
_BATCH, _MIN_CELLS = 256, 10  # datamodule.batch_size and split.min_cells as conf has them


class Said(NamedTuple):
    """One line of the answer, and the config keys that it adds to the command."""

    head: str
    text: str
    keys: dict[str, Any] | None = None


@dataclass(frozen=True)
class Layer:
    """One matrix of the file; kind: counts, log1p, continuous, unlogged, empty or broken."""

    name: str
    form: str  # e.g. "CSR float32"
    kind: str
    low: float
    high: float
    step: int  # every step-th row was looked at
    sums: np.ndarray  # S row sums
    exact: bool  # log1p values that give integer counts back


@dataclass(frozen=True)
class Conditions:
    """What an obs column says as data.perturbation_key; the control is None where no label looks like one."""

    key: str
    control: str | None
    alike: list[str]  # further labels that look like a control
    separator: str | None  # joins targets that also occur alone
    sizes: pd.Series  # cells of each canonical condition but the control
    is_control: np.ndarray  # N
    unlabelled: int

    @property
    def pairs(self) -> list[str]:
        """Pairs of which both targets also occur alone: what split=pairs_and_cells holds out."""
        return [c for c in self.sizes.index if c.count("+") == 1 and set(c.split("+")) <= set(self.sizes.index)]


# ---- reading


def layer_of(name: str, element: Any) -> Layer:
    """What a stored matrix holds: all its values, or those of evenly spaced rows where they are very many."""
    from anndata.io import read_elem, sparse_dataset

    kind = {"csr": "CSR", "csc": "CSC"}.get(str(element.attrs.get("encoding-type", ""))[:3], "dense")
    values = element if kind == "dense" else element["data"]
    step = 1
    if kind != "CSC" and values.size > _MANY:  # the rows of a CSC matrix are not to be had one by one
        step = max(len(element if kind == "dense" else element["indptr"]) // _ROWS, 1)
    whole = kind != "dense" and step == 1
    X = read_elem(element) if whole else (element if kind == "dense" else sparse_dataset(element))[::step]
    X = csr_matrix(X, dtype=np.float32)
    X.sum_duplicates()
    X.eliminate_zeros()
    low, high = (X.data.min(), X.data.max()) if X.nnz else (0.0, 0.0)
    content = _kind(X.data, low, high)
    sums = np.asarray(X.sum(1, dtype=float)).ravel()
    exact = content == "log1p" and _gives_counts(X[:: -(-X.shape[0] // _TRIED)])
    return Layer(name, f"{kind} {values.dtype}", content, float(low), float(high), step, sums, exact)


def _kind(values: np.ndarray, low: float, high: float) -> str:
    if not len(values) or not np.isfinite([low, high]).all():
        return "broken" if len(values) else "empty"
    if low < 0:
        return "continuous"
    if (values == np.rint(values)).all():
        return "counts"
    return "log1p" if high <= _LARGEST_LOG1P else "unlogged"


def _gives_counts(X: csr_matrix) -> bool:
    try:
        recover_counts(X, "")
    except UserError:
        return False
    return True


@dataclass(frozen=True)
class Found:
    """A file as `find` saw it."""

    path: str  # as it was typed
    size: int  # bytes
    obs: pd.DataFrame
    var: pd.DataFrame  # of the layer that is suggested
    layers: list[Layer]
    layer: Layer | None  # the one that is suggested
    conditions: Conditions | None


def find(typed: str) -> Found:
    """Look at a file; raises UserError where it is missing, damaged or not an .h5ad."""
    import h5py
    from anndata.io import read_elem

    path = locate(typed)
    try:
        with h5py.File(path, "r") as file:
            if missing := [part for part in ("obs", "var") if part not in file]:
                raise UserError(f"{path}: an HDF5 file, but without {' and '.join(missing)}: not an AnnData .h5ad")
            obs = read_elem(file["obs"]).rename(columns=str)
            layers = [layer_of(name, file[_PLACE.get(name, name)]) for name in _layers(file)]
            layer = min(filter(_usable, layers), key=_preference, default=None)
            var = read_elem((file["raw"] if layer and layer.name == "raw" else file)["var"])
    except UserError:
        raise
    except Exception as error:  # h5py and anndata raise half a dozen kinds for a damaged file
        raise UserError(f"{path}: truncated, or not an .h5ad file ({_first_line(error)})") from error
    return Found(typed, path.stat().st_size, obs, var, layers, layer, conditions_of(obs))


def _usable(layer: Layer) -> bool:
    return layer.kind not in ("empty", "broken") and not _PARTIAL.search(layer.name)


def _preference(layer: Layer) -> tuple[int, int]:
    """Counts, then values that give counts back, then log1p; layers/counts before X, raw last."""
    kind = "exact" if layer.exact else layer.kind
    places = ["layers/counts", "X", layer.name if layer.name != "raw" else "", "raw"]
    return ["counts", "exact", "log1p", "continuous", "unlogged"].index(kind), places.index(layer.name)


def _named(obs: pd.DataFrame, role: str) -> list[str]:
    """obs columns whose names say that they hold this, the likeliest first."""
    found = [c for pattern in _COLUMNS[role] for c in obs.columns if re.search(pattern, c, re.IGNORECASE)]
    return list(dict.fromkeys(found))


def _labels(column: pd.Series) -> list[str]:
    """The words of a column, most cells first; none where it holds numbers, or where nearly every cell has its own."""
    if pd.api.types.is_numeric_dtype(column.dtype):
        return []
    counts = column.value_counts()
    names = list(counts.index[counts > 0])
    return names if all(isinstance(name, str) for name in names) and 1 < len(names) <= len(column) / 2 else []


def conditions_of(obs: pd.DataFrame) -> Conditions | None:
    """The column that says what was done to each cell: one with a label like a control, else one named like it."""
    named = _named(obs, "perturbation")
    others = [c for role in ("batch", "cell_type", "cluster") for c in _named(obs, role)]
    ranked = []
    for column in dict.fromkeys([*named, *obs.columns]):
        labels = _labels(obs[column])
        alike = [label for label in labels if _CONTROL.fullmatch(label)]
        if labels and (alike or column in named):
            ranked.append((not alike, column not in named, column in others, len(ranked), column, labels, alike))
    if not ranked:
        return None
    *_, key, labels, alike = min(ranked)
    control, separator = next(iter(alike), None), None
    separator = _separator(labels, control)
    canonical = _canonical(
        obs[key].astype(object).where(obs[key].notna(), None),
        DataConfig(control=control or "control", separator=separator or "+"),
    )
    is_control = canonical == control if control else np.zeros(len(obs), bool)
    sizes = pd.Series(canonical[~is_control], dtype=object).value_counts().sort_index().sort_values(kind="stable")
    unlabelled = int(pd.isna(canonical).sum())
    return Conditions(key, control, alike[1:], separator, sizes, is_control, unlabelled)


def _separator(labels: list[str], control: str | None) -> str | None:
    """The sign between targets that also occur alone, in one label at least, and half known in most."""
    for sign in _SEPARATORS:
        parts = {label: {p.strip() for p in label.split(sign)} - {"", control} for label in labels if label != control}
        singles = {part for found in parts.values() if len(found) == 1 for part in found}
        known = [(len(found & singles), len(found)) for found in parts.values() if len(found) > 1]
        if any(n == of for n, of in known) and sum(n > 0 for n, _ in known) >= len(known) / 2:
            return sign
    return None


# ---- what is said


def sections(found: Found) -> Iterator[Said]:
    """The answer, line by line."""
    genes, mb = len(found.var), found.size / 1e6
    yield Said(
        "file",
        f"{found.path}: {len(found.obs):,} cells × {genes:,} genes, {mb:,.1f} MB",
        {"data": "h5ad", "data.path": found.path},
    )
    yield from _values(found)
    yield _library(found)
    yield _genes([str(gene) for gene in found.var.index], found.var)
    yield from _perturbations(found)
    yield from _columns(found)
    yield from _training(found)


_MEANS = {
    "counts": "integers: counts, data.scale=counts",
    "log1p": "fractions: log1p, data.scale=log1p",
    "continuous": "negatives among them: scaled, data.scale=continuous",
    "unlogged": "fractions too large for log1p: take scanpy.pp.log1p first, else only data.scale=continuous reads them",
    "empty": "no value but zero",
    "broken": "NaN or infinite values among them: no scale takes them, mend them first",
}


def _values(found: Found) -> Iterator[Said]:
    """Each layer: form, range, and what the values are."""
    for layer in found.layers:
        text = f"{layer.name} ({layer.form}), {layer.low:.4g} to {layer.high:.4g}, {_MEANS[layer.kind]}"
        if layer.kind == "log1p":
            text += f"; integer counts {'come' if layer.exact else 'do not come'} back exactly from it"
            text += " (data.recover_counts=true)" if layer.exact else ""
        text += f" [seen: {len(layer.sums):,} evenly spaced rows]" if layer.step > 1 else ""
        yield Said("values", text + ("  ← suggested" if layer is found.layer else ""))
