"""What is known of which gene may regulate which, as a mask of the regression: rows regulate columns.

Every rule is called with the genes of the cells and answers with a `Prior`: a mask over these genes and sentences on
what of the network it holds. Nothing is dropped or merged in silence.

Shapes: G genes, F regulators, E edges.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from stormcell.analysis.mask import Mask
from stormcell.config import UserError
from stormcell.data.cells import locate
from stormcell.data.conditions import shuffled
from stormcell.data.network_files import ORIENTATIONS, adata_edges, read_edges, read_varp

FOLDED_GAIN = 1.2  # names must match this much better without case to be compared so
MOST_GENES = 500  # that may all regulate each other
FAN = 2  # a network with this many times more regulators than targets lies on its side
FAN_LEAST = 50  # … from this many regulators on
KINDS = "prior=dorothea_mouse, prior=file prior.path=FILE or prior=all"


@dataclass(frozen=True)
class Prior:
    """A mask over the genes of the cells, where it is from, and what a reader must be told."""

    mask: Mask
    notes: list[str]
    source: str


@dataclass(frozen=True)
class FilePrior:
    """A table of edges or a labelled matrix (.csv, .tsv, also .gz), in the working folder or in $STORMCELL_DATA."""

    path: str | None = None
    regulator_column: str | None = None  # null: found by the usual names, as the next two
    target_column: str | None = None
    sign_column: str | None = None
    confidence: Any = None  # levels to keep of the column confidence; null: all
    orientation: str = ORIENTATIONS[0]
    regulators_path: str | None = None  # a list of regulators, one to a line: which side of the network they are
    aliases: Mapping[str, str] = field(default_factory=dict)  # gene in the network → its name in the cells

    def __call__(self, genes: Sequence[str], truth: dict, adata_varp: Any = None) -> Prior:
        """Raises UserError for a file that is no network, is transposed, or shares no edge with the genes."""
        if self.path is None:
            raise UserError(
                "prior.path is missing: prior.path=FILE names a table with columns tf, target and, where known, mor, "
                "or a labelled matrix whose rows regulate its columns (.csv, .tsv, .gz)"
            )
        file = locate(self.path, "prior.path", "*.[ct]sv*")
        columns = (self.regulator_column, self.target_column, self.sign_column)
        edges, notes = read_edges(file, columns, self.confidence, self.orientation)
        listed = None if self.regulators_path is None else read_regulators(self.regulators_path)
        refuse_transposed(edges, listed, file.name)
        return among(edges, genes, file.name, notes, self.aliases)


@dataclass(frozen=True)
class VarpPrior:
    """varp[key] of an .h5ad file, or of the AnnData object that the cells came from."""

    path: str | None = None
    key: str = "network"
    orientation: str = ORIENTATIONS[0]

    def __call__(self, genes: Sequence[str], truth: dict, adata_varp: Any = None) -> Prior:
        """`adata_varp`: an object with var_names and varp, for path null. Raises UserError as FilePrior does."""
        if self.path is not None:
            file = locate(self.path, "prior.path")
            edges, notes = read_varp(file, self.key, self.orientation)
        elif adata_varp is not None:
            edges, notes = adata_edges(adata_varp, self.key, self.orientation)
        else:
            raise UserError("prior.path is missing: prior.path=FILE.h5ad names the file whose varp holds the network")
        where = f"varp[{self.key!r}]" if self.path is None else f"{file.name}, varp[{self.key!r}]"
        refuse_transposed(edges, None, where)
        return among(edges, genes, where, notes, {})


@dataclass(frozen=True)
class AllPrior:
    """Every regulator of a list, or every gene, on every gene but itself."""

    regulators_path: str | None = None
    aliases: Mapping[str, str] = field(default_factory=dict)  # gene in the list → its name in the cells

    def __call__(self, genes: Sequence[str], truth: dict, adata_varp: Any = None) -> Prior:
        """Raises UserError where no regulator of the list is among the genes, and for too many genes without a list."""
        if self.regulators_path is None:
            if len(genes) > MOST_GENES:
                raise UserError(
                    f"prior=all lets each of {len(genes):,} genes regulate every other, {len(genes) ** 2 / 1e6:.1f} "
                    "million edges; list the regulators in prior.regulators_path=FILE, take a network with prior=file "
                    f"prior.path=FILE, or keep fewer genes with data.genes.top={MOST_GENES}"
                )
            return Prior(Mask.full(len(genes), np.arange(len(genes))), ["every gene may regulate every gene"], "all")
        listed = read_regulators(self.regulators_path)
        number, notes = _numbers(listed, genes, self.aliases)
        found = number[number >= 0]
        if not len(found):
            raise _no_overlap(self.regulators_path, "prior.regulators_path", listed, genes, 0)
        notes.append(f"{len(np.unique(found)):,} of {len(listed):,} listed regulators are among the genes")
        return Prior(Mask.full(len(genes), found), notes, self.regulators_path)


@dataclass(frozen=True)
class PlantedPrior:
    """The network of the simulator and false edges beside it, as many to a target as `decoys` times its true ones."""

    decoys: float = 1.0
    seed: int = 0

    def __call__(self, genes: Sequence[str], truth: dict, adata_varp: Any = None) -> Prior:
        """No signs: a sign would tell the true edges from the false. Raises UserError for cells without a truth."""
        if "network" not in truth:
            raise UserError(f"prior=planted needs simulated cells with a network (data=synthetic); else use {KINDS}")
        if self.decoys < 0:
            raise UserError(f"prior.decoys={self.decoys:g} must not be negative")
        regulator, target = _planted(truth, genes)
        pool = np.array(sorted(set(regulator.tolist()), key=lambda number: genes[number]), np.int64)
        false_regulator, false_target = [], []
        for gene in np.unique(target):
            true = regulator[target == gene]
            free = pool[~np.isin(pool, [*true, gene])]
            # Keyed by the name of the target, so that another order of the genes has the same false edges.
            drawn = shuffled(free, self.seed, genes[gene], "decoys")[: round(self.decoys * len(true))]
            false_regulator.append(drawn)
            false_target.append(np.full(len(drawn), gene))
        n_false = sum(map(len, false_regulator))
        mask = Mask.of(
            len(genes), np.concatenate([regulator, *false_regulator]), np.concatenate([target, *false_target])
        )
        note = f"{len(regulator):,} true edges of the simulation and {n_false:,} false ones, their signs hidden"
        return Prior(mask, [note], "planted")


def _planted(truth: dict, genes: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of regulator and target of the true edges among the genes, without self edges: E, E."""
    network, columns = np.asarray(truth["network"]), list(truth.get("genes", genes))
    rows = columns if network.shape[0] == network.shape[1] else list(truth["factors"])
    number = {gene: i for i, gene in enumerate(genes)}
    ends = [(number.get(rows[i], -1), number.get(columns[j], -1)) for i, j in np.argwhere(network)]
    regulator, target = np.array(ends, np.int64).reshape(-1, 2).T
    kept = (regulator >= 0) & (target >= 0) & (regulator != target)
    if not kept.any():
        raise UserError("prior=planted: no true edge is between the genes that were kept; set data.genes.top=null")
    return regulator[kept], target[kept]


def planted_signs(truth: dict, genes: Sequence[str]) -> np.ndarray:
    """The true network among these genes, rows regulate columns: G × G of −1, 0, 1."""
    network, columns = np.asarray(truth["network"]), list(truth.get("genes", genes))
    rows = columns if network.shape[0] == network.shape[1] else list(truth["factors"])
    known = pd.DataFrame(np.sign(network).astype(int), index=rows, columns=columns)
    found = known.reindex(index=list(genes), columns=list(genes), fill_value=0).to_numpy()
    np.fill_diagonal(found, 0)
    return found


# ---- named edges onto the genes of the cells


def among(edges: pd.DataFrame, genes: Sequence[str], where: str, notes: list[str], aliases: Mapping[str, str]) -> Prior:
    """The edges (regulator, target, sign) both of whose ends are genes: merged, counted, told.

    Raises UserError where there are none.
    """
    names = edges.groupby(["regulator", "target"], sort=False).ngroups
    both = pd.unique(pd.concat([edges["regulator"], edges["target"]]))
    matched, told = _numbers(list(both), genes, aliases)
    number = pd.Series(matched, index=both)
    regulator, target = (number[edges[end]].to_numpy() for end in ("regulator", "target"))
    known = (regulator >= 0) & (target >= 0)
    itself = known & (regulator == target)
    kept = known & ~itself
    if not kept.any():
        raise _no_overlap(where, "prior.path", list(both), genes, int((matched >= 0).sum()))
    sign = edges["sign"].to_numpy()[kept]
    pair, inverse = np.unique(target[kept] * len(genes) + regulator[kept], return_inverse=True)
    up, down = (np.bincount(inverse[sign == way], minlength=len(pair)) > 0 for way in (1, -1))
    mask = Mask.of(len(genes), pair % len(genes), pair // len(genes), up.astype(np.int8) - down)
    notes = [*notes, *told]
    notes.append(
        f"{mask.n_edges:,} of {names:,} edges, {len(mask.regulators):,} of {edges['regulator'].nunique():,} regulators "
        f"and {len(np.unique(mask.target)):,} of {edges['target'].nunique():,} targets of {where} are among the genes"
    )
    if unknown := int((matched < 0).sum()):
        notes.append(f"{where}: not among the genes of the cells: {unknown:,} names, in {int((~known).sum()):,} rows")
    if repeated := int(kept.sum()) - mask.n_edges:
        notes.append(
            f"{where}: repeated edges merged: {repeated:,}; sign unknown for both signs: {int((up & down).sum()):,}"
        )
    if itself.any():
        notes.append(f"{where}: self edges left out: {int(itself.sum()):,}")
    return Prior(mask, notes, where)


def _numbers(names: Sequence[str], genes: Sequence[str], aliases: Mapping[str, str]) -> tuple[np.ndarray, list[str]]:
    """The number of each name among the genes, −1 for none, and what was done to find them."""
    exact = {gene: i for i, gene in enumerate(genes)}
    # An alias is for genes that go by the other name: it must not take a gene from a file that has the first.
    renamed = {name: alias for name, alias in aliases.items() if name not in exact and alias in exact}
    used = sorted(set(names) & set(renamed))
    notes = [f"{name} of the network is {renamed[name]} in the cells" for name in used]
    asked = [renamed.get(name, name) for name in names]
    found = np.array([exact.get(name, -1) for name in asked], np.int64)
    folded: dict[str, int] = {}
    for gene, i in exact.items():
        folded[gene.casefold()] = -1 if gene.casefold() in folded else i  # two genes that differ in case alone: neither
    loose = np.array([folded.get(name.casefold(), -1) for name in asked], np.int64)
    n_exact, n_loose = int((found >= 0).sum()), int((loose >= 0).sum())
    if n_loose > FOLDED_GAIN * n_exact:
        notes.append(f"gene names compared without case: {n_loose:,} of {len(asked):,} are found, {n_exact:,} exactly")
        found = loose
    return found, notes


def _no_overlap(where: str, key: str, names: Sequence[str], genes: Sequence[str], n_shared: int) -> UserError:
    if n_shared:
        return UserError(
            f"{where} ({key}): {n_shared:,} of its genes are among those of the cells, but no edge joins two"
        )
    return UserError(
        f"{where} ({key}): none of its genes is among those of the cells; it names {', '.join(map(str, names[:4]))}, "
        f"the cells {', '.join(map(str, genes[:4]))}: the kind of identifier and the species must agree"
    )


def read_regulators(path: str) -> list[str]:
    """Names of a list, one to a line."""
    file = locate(path, "prior.regulators_path", "*.txt*")
    names = [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not names:
        raise UserError(f"{file} (prior.regulators_path): an empty list; one regulator to a line is needed")
    return list(dict.fromkeys(names))


def refuse_transposed(edges: pd.DataFrame, listed: Sequence[str] | None, where: str) -> None:
    """UserError where the targets look like the regulators: by a list of regulators, else by how many there are."""
    regulators, targets = set(edges["regulator"]), set(edges["target"])
    ways = (
        f"prior.orientation={ORIENTATIONS[1]} for a matrix, prior.regulator_column and prior.target_column for a table"
    )
    if listed is not None:
        known = {name.casefold() for name in listed}
        share = [np.mean([name.casefold() in known for name in side]) if side else 0 for side in (regulators, targets)]
        if share[1] > 1.5 * share[0]:
            raise UserError(
                f"{where} (prior.path) is transposed: {share[1]:.0%} of its targets but {share[0]:.0%} of its "
                f"regulators stand in prior.regulators_path; turn it round with {ways}"
            )
    elif len(regulators) >= max(FAN * len(targets), FAN_LEAST):
        raise UserError(
            f"{where} (prior.path) looks transposed: {len(regulators):,} regulators such as {sorted(regulators)[0]} of "
            f"{len(targets):,} targets such as {sorted(targets)[0]}; turn it round with {ways}, or give the list of "
            "regulators in prior.regulators_path if it is right"
        )
