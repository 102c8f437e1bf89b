"""What may be known of the targets of perturbations beside the cells (`targets=…`), read and checked.

Each function makes one TargetEmbedding of
    spec      of the training cells; its targets decide what is fitted
    train     pseudobulk of the training cells
    wanted    names of every target in the data, held-out ones too: names alone, never a cell of theirs
and of the keys of its YAML in conf/targets. A target without a vector is named and refused, or left out by
`targets.missing=drop`.

Shapes: T targets, K dimensions, G genes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from difflib import get_close_matches
from typing import Literal

import numpy as np
from scipy.sparse import csr_matrix

from stormcell.analysis import embedding
from stormcell.analysis.embedding import TargetEmbedding, gene_scores, leading, network_vectors
from stormcell.analysis.pseudobulk import Pseudobulk
from stormcell.config import DataConfig, UserError, nearest
from stormcell.data.cells import Cells, locate, read
from stormcell.data.csr import group_mean, row_normalise_log1p
from stormcell.data.spec import TARGET_SUM, Spec
from stormcell.data.target_files import number_table, read_network

Missing = Literal["refuse", "drop"]


def multi_hot(spec: Spec, train: Pseudobulk, wanted: Sequence[str]) -> TargetEmbedding:
    """One column for each training target; nothing is known of the others."""
    return embedding.multi_hot(spec.targets)


def learnable(spec: Spec, train: Pseudobulk, wanted: Sequence[str], dim: int = 10) -> TargetEmbedding:
    """Vectors of K = `dim` that the model learns, one for each training target."""
    return TargetEmbedding("learnable", spec.targets, np.eye(spec.n_targets), learnt_dim=_positive(dim))


def gene_row(
    spec: Spec, train: Pseudobulk, wanted: Sequence[str], dim: int = 10, missing: Missing = "refuse"
) -> TargetEmbedding:
    """The target's own row of the gene scores of the training pseudobulk: only for targets that are measured genes."""
    vectors = gene_scores(train, _positive(dim))
    return _checked("gene_row", spec.genes, vectors, spec, wanted, missing, "are measured genes", dim)


def table(
    spec: Spec, train: Pseudobulk, wanted: Sequence[str], path: str, missing: Missing = "refuse"
) -> TargetEmbedding:
    """Vectors from a CSV or TSV file: names in the first column, numbers in the others.

    Raises UserError where a name stands twice, a value is no finite number, or no name is that of a target.
    """
    file = locate(path, "targets.path", "*.[ct]sv*")
    names, vectors = number_table(file, "targets.path")
    return _checked("table", names, vectors, spec, wanted, missing, f"stand in {file}")


def network(
    spec: Spec,
    train: Pseudobulk,
    wanted: Sequence[str],
    path: str | list[str],
    dim: int = 10,
    missing: Missing = "refuse",
) -> TargetEmbedding:
    """Spectral vectors of a network of genes, joined of regulons (tables) and gene sets (.gmt), one file or several.

    Names are compared without case, since gene sets often are in capitals: a gene has the spelling of the data.
    """
    files = [locate(one, "targets.path", "*.gz") for one in ([path] if isinstance(path, str) else path)]
    if not files:
        raise UserError("targets.path=[]: a file of regulons or gene sets is needed")
    members, spelling = read_network(files)
    spelling |= {name.upper(): name for name in wanted}
    anchors = [target.upper() for target in spec.targets]
    found, vectors = network_vectors(members, anchors, _positive(dim))
    names = [spelling[name] for name in found]
    where = f"are in {', '.join(file.name for file in files)}"
    made = _checked("network", names, vectors, spec, wanted, missing, where, dim)
    alone = sorted({name for name in wanted if not made.missing(name) and not made.of([name]).any()})
    if not alone:
        return made
    note = (
        f"targets=network: {len(alone)} of {len(set(wanted))} targets share no set, regulator or regulated gene with a "
        f"training target; their vector is zero, and what is predicted from it the mean: {_listed(alone)}"
    )
    return replace(made, notes=(*made.notes, note))


def transfer(
    spec: Spec,
    train: Pseudobulk,
    wanted: Sequence[str],
    path: str,
    perturbation_key: str = "perturbation",
    control: str = "control",
    separator: str = "+",
    label_pattern: str | None = None,
    library_key: str | None = None,
    scale: str = "counts",
    filter: str | None = None,
    dim: int = 10,
    missing: Missing = "refuse",
) -> TargetEmbedding:
    """Principal component scores of the single perturbations of another data set: profiles centred over perturbations.

    Source: Ahlmann-Eltze, Huber & Anders 2025 (the best of the vectors that they tried).
    """
    file = locate(path, "targets.path", "*.h5ad")
    keys = {"perturbation_key": perturbation_key, "control": control, "separator": separator, "scale": scale}
    keys |= {"label_pattern": label_pattern, "library_key": library_key, "filter": filter}
    try:
        other = read(DataConfig(name="transfer", path=str(file), **keys))
    except UserError as error:  # it speaks of data.*, but here the keys are targets.*
        ours = "|".join(("path", *keys))
        raise UserError(re.sub(rf"\bdata\.(?=({ours})\b)", "targets.", str(error))) from error
    names, means = _single_means(other)
    vectors = np.multiply(*leading(means - means.mean(0), _positive(dim)))
    made = _checked("transfer", names, vectors, spec, wanted, missing, f"are perturbed alone in {file}", dim)
    return replace(made, source=other.fingerprint)


def _single_means(other: Cells) -> tuple[list[str], np.ndarray]:
    """Names and mean profiles (log1p-normalised) of the perturbations with one target: T, T × G."""
    condition = other.obs["condition"].to_numpy(str)
    names = sorted(name for name in set(condition) - {other.control} if "+" not in name)
    if len(names) < 2:
        raise UserError(f"{other.origin}: {len(names)} single perturbations (targets.path); at least 2 are needed")
    X = other.X
    if other.scale == "counts":
        shares = row_normalise_log1p(X, other.obs["library"].to_numpy(float), TARGET_SUM)
        X = csr_matrix((shares, X.indices, X.indptr), X.shape)
    number = {name: i for i, name in enumerate(names)}
    codes = np.array([number.get(label, -1) for label in condition])
    return names, group_mean(X, codes, len(names))


# ---- who has a vector


def _positive(dim: int) -> int:
    if dim < 1:
        raise UserError(f"targets.dim={dim}: at least one dimension is needed")
    return dim


def _checked(
    kind: str,
    names: Sequence[str],
    vectors: np.ndarray,
    spec: Spec,
    wanted: Sequence[str],
    missing: str,
    where: str,
    dim: int | None = None,
) -> TargetEmbedding:
    """The embedding, once every target of the data has a vector or may do without; raises UserError.

    `where` ends the sentence "only n of m targets …".
    """
    if missing not in ("refuse", "drop"):
        raise UserError(f"targets.missing={missing}: refuse or drop{nearest(missing, ('refuse', 'drop'))}")
    have = set(names)
    lacking = sorted(set(wanted) - have)
    count = f"targets={kind}: only {len(set(wanted)) - len(lacking)} of {len(set(wanted))} targets {where}"
    usable = bool(have & set(spec.targets))
    if lacking and (missing == "refuse" or not usable):
        some = f"no training target does, names there are like {', '.join(list(names)[:3])}"
        way = "targets.missing=drop leaves these out" if usable else some
        raise UserError(f"{count}, not {_listed(lacking)}{_alike(lacking, names)}; {way}")
    notes = [f"{count}; left out: {_listed(lacking)}{_alike(lacking, names)}"] if lacking else []
    if dim is not None and vectors.shape[1] < dim:
        notes.append(f"targets.dim={dim} asked for, but the data span only {vectors.shape[1]}: taken")
    return TargetEmbedding(kind, tuple(names), np.ascontiguousarray(vectors, dtype=np.float64), tuple(notes))


def _alike(lacking: Sequence[str], names: Sequence[str]) -> str:
    """A name that is meant for one of the lacking ones: another case first, else a spelling that is very near."""
    capitals = {name.upper(): name for name in names}
    for name in lacking:
        if name.upper() in capitals:
            return f" (did you mean {capitals[name.upper()]!r} for {name}?)"
    for name in lacking[:8]:
        if close := get_close_matches(name, names, n=1, cutoff=0.9):
            return f" (did you mean {close[0]!r} for {name}?)"
    return ""


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (f", … ({len(names)} in all)" if len(names) > 8 else "")
