"""Gene sets of .gmt files, matched to the genes that were measured.

A set counts with its measured genes only: a gene that could not have been found says nothing about a list. Symbols are
compared as they are written; without case where that is asked for, which also lets a human symbol (GATA1) stand for the
mouse gene of the same name (Gata1), an ortholog by name only.

Shapes: T sets (terms), G measured genes.
Source: the GMT format of the Broad Institute (name, description, genes; tabs between).
"""

from __future__ import annotations

import gzip
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.sparse import csr_array

from stormcell.config import UserError, nearest

SIZES = (5, 500)  # measured genes of a set; smaller ones are chance, larger ones say nothing


class UnmatchedSets(ValueError):
    """No set has enough measured genes; the sentence says what was found, and what would help."""


@dataclass(frozen=True)
class GeneSets:
    """Sets of a size to be tested, over the measured genes."""

    terms: tuple[str, ...]
    genes: tuple[str, ...]  # the background: all measured genes, in no set or in some
    members: csr_array  # T × G of 0 and 1
    notes: tuple[str, ...]  # what was cut or left out, a sentence each

    @property
    def sizes(self) -> np.ndarray:
        """Measured genes of each set: T."""
        return np.diff(self.members.indptr)


def read_gmt(path: Path) -> dict[str, list[str]]:
    """name → genes of a .gmt or .gmt.gz file, as written; a weight after a comma is left out, sets of one name are one.

    Raises UserError for a file that is not there or not of this form.
    """
    path = Path(path)
    if not path.is_file():
        beside = [file.name for file in path.parent.glob("*.gmt*")] if path.parent.is_dir() else []
        raise UserError(f"{path}: no such file of gene sets{nearest(path.name, beside)}")
    try:
        text = (gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()).decode()
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as {'gzipped ' * (path.suffix == '.gz')}text: {error}") from error
    lines = [line.split("\t") for line in text.splitlines() if line.strip()]
    short = next((number for number, fields in enumerate(lines, 1) if len(fields) < 3), None)
    if short or not lines:
        raise UserError(f"{path}: line {short or 1} is no gene set: a name, a description and genes, with tabs between")
    sets: dict[str, list[str]] = {}
    for name, _, *genes in lines:
        symbols = (gene.split(",")[0].strip() for gene in genes)
        sets.setdefault(name.strip(), []).extend(symbol for symbol in symbols if symbol)
    return sets


def match_sets(
    gene_sets: Mapping[str, Sequence[str]],
    background: Iterable[str],
    fold_case: bool = False,
    smallest: int = SIZES[0],
    largest: int = SIZES[1],
) -> GeneSets:
    """Cut to the measured genes (background), those with smallest to largest of them.

    With `fold_case` a symbol that was not measured as written stands for the one measured gene of the same letters.
    Raises UnmatchedSets where no set is left, ValueError for an empty background or sizes that no set can have.
    """
    genes = tuple(dict.fromkeys(map(str, background)))
    if not genes or not 1 <= smallest <= largest:
        raise ValueError(f"{len(genes)} measured genes, sets of {smallest} to {largest}")
    written = {gene: i for i, gene in enumerate(genes)}
    folded = _folded(genes)
    lookup = folded | written if fold_case else written
    own = {name: _numbers(members, lookup, fold_case) for name, members in gene_sets.items()}
    kept = {name: found for name, found in own.items() if smallest <= len(found) <= largest}
    symbols = {str(gene) for members in gene_sets.values() for gene in members}
    as_written = len(symbols & written.keys())
    without_case = len({folded[symbol.casefold()] for symbol in symbols if symbol.casefold() in folded})
    if not kept:
        raise UnmatchedSets(
            f"none of {len(gene_sets):,} gene sets has {smallest} to {largest} of the {len(genes):,} measured genes "
            f"({_example(symbols, genes)}); " + _offer(as_written, without_case, fold_case)
        )
    notes = _notes(gene_sets, len(kept), len(genes), (smallest, largest))
    if fold_case and without_case > 2 * as_written:
        notes.append(f"symbols were matched without case: {as_written:,} as written, {without_case:,} without")
    elif not fold_case and without_case > 2 * as_written:
        notes.append(_offer(as_written, without_case, fold_case))
    pointer = np.cumsum([0, *map(len, kept.values())])
    columns = np.concatenate(list(kept.values()))
    members = csr_array((np.ones(len(columns)), columns, pointer), shape=(len(kept), len(genes)))
    return GeneSets(tuple(kept), genes, members, tuple(notes))


def _folded(genes: Sequence[str]) -> dict[str, int]:
    """Folded symbol → number; symbols that differ in their case only are nobody's when folded."""
    found: dict[str, int] = {}
    for i, gene in enumerate(genes):
        found[gene.casefold()] = -1 if gene.casefold() in found else i
    return {symbol: i for symbol, i in found.items() if i >= 0}


def _numbers(members: Iterable[str], lookup: Mapping[str, int], fold_case: bool) -> np.ndarray:
    """The measured genes of a set, ascending, each once."""
    found = {lookup[gene] for gene in map(str, members) if gene in lookup}
    if fold_case:
        found |= {lookup[gene.casefold()] for gene in map(str, members) if gene.casefold() in lookup}
    return np.array(sorted(found), np.int64)


def _notes(gene_sets: Mapping[str, Sequence[str]], kept: int, G: int, sizes: tuple[int, int]) -> list[str]:
    notes = [f"{kept:,} of {len(gene_sets):,} gene sets tested: those with {sizes[0]} to {sizes[1]} measured genes"]
    larger = {name: len(set(members)) for name, members in gene_sets.items() if len(set(members)) > G}
    if larger:
        name = max(larger, key=larger.get)
        sets = f"{len(larger)} gene sets name" if len(larger) > 1 else "1 gene set names"
        notes.append(
            f"{sets} more genes than the {G:,} measured ({name!r}: {larger[name]:,}); only the measured ones count"
        )
    return notes


def _example(symbols: set[str], genes: Sequence[str]) -> str:
    """One gene as both sides write it where there is such a gene, else the first of each."""
    own = {gene.casefold(): gene for gene in genes}
    shared = min((symbol for symbol in symbols if symbol.casefold() in own), default=None)
    if shared is not None:
        return f"{shared!r} there, {own[shared.casefold()]!r} here"
    return f"{min(symbols, default='none')!r} there, {genes[0]!r} here"


def _offer(as_written: int, without_case: int, fold_case: bool) -> str:
    if not fold_case and without_case > as_written:
        return (
            f"{as_written:,} genes match as written and {without_case:,} without case, as for another species: "
            "model.fold_case=true matches them so"
        )
    return f"{without_case:,} genes match even without case: other identifiers, or sets of other sizes?"
