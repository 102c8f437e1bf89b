"""What an .h5ad file holds, judged by names and values: for look.py, which suggests; training never asks here.

One layer is in memory at a time. Shapes: N cells, G genes, S rows seen.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from stormcell.config import DataConfig, UserError
from stormcell.data.cells import LARGEST_LOG1P
from stormcell.data.h5ad import _PLACE, _first_line, _layers
from stormcell.data.labels import canonical
from stormcell.data.recover import recover_counts

# Names of obs columns by what they hold, the likeliest first; every name is compared without case.
_COLUMNS = {
    "perturbation": "^perturbations?$ ^condition$ perturb|condition target|knock guide|grna "
    "treat|stim|drug|compound|cytokine|ligand|genotype|^label$",
    "batch": r"batch gem.?group replicate|^rep$ donor|patient|individual|mouse|^sample plate|lane|orig\.ident|channel",
    "cell_type": "^cell[_.]?types?$ cell.?type|cell.?line|annotation",
    "cluster": "^clusters?$ leiden|louvain|cluster",
    "pseudotime": "pseudotime latent.?time|palantir",
    "library": "^total[_.]?(counts?|umis?)$ ^n[_.]?(counts?|umis?)(_rna)?$ ^(umi|library|lib).?(counts?|size)$",
}
_CONTROL = re.compile(
    r"(sg)?((neg|negative)[ _-]?)?(control|ctrl|ctl)s?[ _-]?\d*|(sg)?ntc?[ _-]?g?\d*|(sg)?(non|safe)[ _-]?target.*|"
    r"dmso.*|vehicle|mock|pbs|medium|untreated|un-?stimulated|unstim|unperturbed|unedited|resting|wt|wild[ _-]?type|"
    r"scrambled?|aavs1|empty[ _-]?vector|no[ _-](perturbation|treatment|drug|stimulation|guide)",
    re.IGNORECASE,
)
_SEPARATORS = "+_;:"
_PARTIAL = re.compile("spliced|ambiguous")  # layers that hold a part of the counts
KINDS = ("counts", "exact", "log1p", "continuous", "unlogged", "empty", "broken")  # of values, the most useful first
_USELESS = KINDS[-2:]

_CATEGORIES = 200  # values of a covariate that fit_spec takes
_MANY, _ROWS, _TRIED = 30_000_000, 2_000, 500  # stored values that are all seen; else rows; rows of a recovery


@dataclass(frozen=True)
class Layer:
    """One matrix of the file, seen through every step-th row."""

    name: str
    form: str  # e.g. "CSR float32"
    kind: str  # of KINDS; exact: log1p values that give integer counts back
    span: str  # smallest and largest value that is not zero
    step: int
    sums: np.ndarray  # S row sums


@dataclass(frozen=True)
class Conditions:
    """An obs column as data.perturbation_key; the control is None where no label looks like one."""

    key: str
    control: str | None
    alike: list[str]  # every label that looks like one, most cells first
    others: list[str]  # further columns with such labels
    separator: str | None  # joins targets that also occur alone
    sizes: pd.Series  # cells of each canonical condition but the control, fewest first
    is_control: np.ndarray  # N
    unlabelled: int

    @property
    def pairs(self) -> list[str]:
        """Pairs of which both targets also occur alone: what split=pairs_and_cells holds out."""
        return [c for c in self.sizes.index if c.count("+") == 1 and set(c.split("+")) <= set(self.sizes.index)]


@dataclass(frozen=True)
class Contents:
    obs: pd.DataFrame
    var: pd.DataFrame  # of the layer that suits best
    layers: list[Layer]
    layer: Layer | None  # the one that suits best
    conditions: Conditions | None


def read_contents(path: Path) -> Contents:
    """Raises UserError where the file is damaged or not an .h5ad."""
    import h5py
    from anndata.io import read_elem

    try:
        with h5py.File(path, "r") as file:
            if missing := [part for part in ("obs", "var") if part not in file]:
                raise UserError(f"{path}: an HDF5 file, but without {' and '.join(missing)}: not an AnnData .h5ad")
            obs = read_elem(file["obs"]).rename(columns=str)
            layers = [layer_of(name, file[_PLACE.get(name, name)]) for name in _layers(file)]
            layer = min((x for x in layers if x.kind not in _USELESS), key=_preference, default=None)
            var = read_elem((file["raw"] if layer and layer.name == "raw" else file)["var"])
    except UserError:
        raise
    except Exception as error:  # h5py and anndata raise half a dozen kinds for a damaged file
        raise UserError(f"{path}: truncated, or not an .h5ad file ({_first_line(error)})") from error
    return Contents(obs, var, layers, layer, conditions_of(obs))


# ---- values


def layer_of(name: str, element: Any) -> Layer:
    """All values of a stored matrix, or those of evenly spaced rows where they are very many."""
    from anndata.io import read_elem, sparse_dataset

    form = {"csr": "CSR", "csc": "CSC"}.get(str(element.attrs.get("encoding-type", ""))[:3], "dense")
    values, step = element if form == "dense" else element["data"], 1
    if form != "CSC" and values.size > _MANY:  # rows of a CSC matrix are not to be had one by one
        step = max((len(element) if form == "dense" else len(element["indptr"]) - 1) // _ROWS, 1)
    rows = read_elem(element) if step == 1 else (element if form == "dense" else sparse_dataset(element))[::step]
    X = csr_matrix(rows, dtype=np.float32)
    X.sum_duplicates()
    X.eliminate_zeros()
    span = f"{X.data.min():.4g} to {X.data.max():.4g}" if X.nnz else "none"
    return Layer(name, f"{form} {values.dtype}", _kind(X), span, step, np.asarray(X.sum(1, dtype=float)).ravel())


def _kind(X: csr_matrix) -> str:
    """One of KINDS, by the rules of cells.read."""
    if X.nnz == 0:
        return "empty"
    if not np.isfinite(X.data).all():
        return "broken"
    if X.data.min() < 0:
        return "continuous"
    if (X.data == np.rint(X.data)).all():
        return "counts"
    if X.data.max() > LARGEST_LOG1P:
        return "unlogged"
    try:
        recover_counts(X[:: -(-X.shape[0] // _TRIED)], "")
    except UserError:
        return "log1p"
    return "exact"


def _preference(layer: Layer) -> tuple[bool, int, int]:
    """The most useful kind; among equals layers/counts, then X, raw last."""
    places = ["layers/counts", "X", layer.name if layer.name != "raw" else "", "raw"]
    return bool(_PARTIAL.search(layer.name)), KINDS.index(layer.kind), places.index(layer.name)


# ---- obs


def named(obs: pd.DataFrame, role: str) -> list[str]:
    """obs columns whose names say that they hold this, the likeliest first."""
    found = [c for pattern in _COLUMNS[role].split() for c in obs.columns if re.search(pattern, c, re.IGNORECASE)]
    return list(dict.fromkeys(found))


def columns(contents: Contents, role: str) -> list[tuple[str, int, str]]:
    """Columns of a role with several values: name, number of values, and why it cannot serve, if so.

    A batch cannot where most perturbed cells share theirs with no control: it would stand for the perturbation.
    """
    obs, asked, found = contents.obs, contents.conditions, []
    for column in named(obs, role):
        n, names = obs[column].nunique(), obs[column].astype(str)
        if n < 2 or (asked is not None and column == asked.key):
            continue
        why = "too many" if n > _CATEGORIES and role != "pseudotime" else ""
        if role == "batch" and asked is not None and asked.control is not None:
            beside = names[~asked.is_control].isin(names[asked.is_control]).mean()
            why = why if beside >= 0.5 else "useless: most perturbed cells share theirs with no control"
        found.append((column, n, why))
    return found


def totals(contents: Contents) -> list[tuple[str, float, str]]:
    """Columns of library sizes: name, median, and whether they are "more", "same" or "less" than the row sums.

    More, in no cell less, says that the file keeps only some of the genes that were counted.
    """
    found, layer = [], contents.layer
    for column in named(contents.obs, "library"):
        given = pd.to_numeric(contents.obs[column], errors="coerce").to_numpy(float)[:: layer.step]
        words = "more" if (given > layer.sums).any() else "same"
        found.append((column, float(np.median(given)), words if (given >= layer.sums).all() else "less"))
    return found


def conditions_of(obs: pd.DataFrame) -> Conditions | None:
    """The column that says what was done to each cell: one with a label like a control, else one named like it."""
    likely = named(obs, "perturbation")
    elsewhere = [c for role in ("batch", "cell_type", "cluster") for c in named(obs, role)]
    ranked = []
    for column in dict.fromkeys([*likely, *obs.columns]):
        labels = _labels(obs[column])
        alike = [label for label in labels if _CONTROL.fullmatch(label)]
        if labels and (alike or column in likely):
            ranked.append((not alike, column not in likely, column in elsewhere, len(ranked), column, labels, alike))
    if not ranked:
        return None
    *_, key, labels, alike = min(ranked)
    others = [row[4] for row in sorted(ranked) if row[6] and row[4] not in (key, *elsewhere)]
    control = next(iter(alike), None)
    separator = _separator(labels, alike)
    config = DataConfig(control=alike or "control", separator=separator or "+")
    labels_of = canonical(obs[key].astype(object).where(obs[key].notna(), None), config)
    is_control, unlabelled = labels_of == control, pd.isna(labels_of)
    perturbed = pd.Series(labels_of[~is_control & ~unlabelled], dtype=object)
    if perturbed.empty:
        return None
    sizes = perturbed.value_counts().sort_index().sort_values(kind="stable")
    return Conditions(key, control, alike, others, separator, sizes, is_control & ~unlabelled, unlabelled.sum())


def _labels(column: pd.Series) -> list[str]:
    """The words of a column, most cells first; none where it holds numbers, or where nearly every cell has its own."""
    counts = column.value_counts()
    names = list(counts.index[counts > 0])
    return names if all(isinstance(name, str) for name in names) and 1 < len(names) <= len(column) / 2 else []


def _separator(labels: list[str], controls: list[str]) -> str | None:
    """The sign whose parts also occur alone: all of them in one label at least, one of them in most."""
    for sign in _SEPARATORS:
        parts = [{p.strip() for p in label.split(sign)} - {"", *controls} for label in labels if label not in controls]
        singles = {next(iter(found)) for found in parts if len(found) == 1}
        known = [(len(found & singles), len(found)) for found in parts if len(found) > 1]
        if any(n == of for n, of in known) and sum(n > 0 for n, _ in known) >= len(known) / 2:
            return sign
    return None
