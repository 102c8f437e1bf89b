"""Files that say something of genes: tables of numbers, regulons and gene sets.

Shapes: T rows of a table, K columns.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from stormcell.config import UserError, nearest

_SOURCE, _TARGET = ("source", "tf", "regulator"), ("target", "gene")
_SIGN = ("mor", "sign", "weight", "interaction")
_WORDS = {"activation": 1, "repression": -1, "unknown": 0, "+": 1, "-": -1, "": 0}


def number_table(file: Path, key: str) -> tuple[list[str], np.ndarray]:
    """Names of the first column and the numbers of the others, from a CSV or TSV file: T, T × K.

    `key` is the config key that named the file. Raises UserError for a file without a header or number columns, a name
    that is empty or stands twice, and a value that is no finite number.
    """
    frame = _read(file, key)
    names = [str(name).strip() for name in frame.iloc[:, 0]]
    if frame.shape[1] < 2 or not names:
        raise UserError(f"{file} ({key}): {len(names)} rows of {frame.shape[1]} columns; names and numbers are needed")
    columns, numbers = [str(column) for column in frame.columns[1:]], [str(i) for i in range(frame.shape[1])]
    if pd.to_numeric(pd.Series(columns), errors="coerce").notna().all() and columns not in (numbers[:-1], numbers[1:]):
        raise UserError(f"{file} ({key}): the first row holds numbers; names of columns belong there")
    _unique(names, f"{file} ({key})")
    values = frame.iloc[:, 1:].apply(pd.to_numeric, errors="coerce").to_numpy(np.float64)
    wrong = np.argwhere(~np.isfinite(values))
    if len(wrong):
        row, column = wrong[0]
        found, more = frame.iloc[row, column + 1], f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise UserError(
            f"{file} ({key}): {str(found)!r} in row {names[row]!r}, column {frame.columns[column + 1]!r}{more}: "
            "no finite number"
        )
    return names, values


def _unique(names: Sequence[str], where: str) -> None:
    twice = sorted({name for name, count in zip(*np.unique(names, return_counts=True), strict=True) if count > 1})
    if twice:
        raise UserError(
            f"{where}: names stand more than once in the first column ({', '.join(twice[:3])}"
            f"{f', … {len(twice)} in all' if len(twice) > 3 else ''}); keep one row of each"
        )
    if "" in names:
        raise UserError(f"{where}: row {list(names).index('') + 2} has no name in the first column")


def _read(file: Path, key: str) -> pd.DataFrame:
    """A CSV table, or a TSV one where the name says .tsv or .txt; only columns of plain numbers are numbers."""
    separator = "\t" if file.name.removesuffix(".gz").endswith((".tsv", ".txt")) else ","
    try:
        frame = pd.read_csv(file, sep=separator, dtype={0: str}, keep_default_na=False, low_memory=False)
    except (ValueError, OSError, EOFError, zlib.error) as error:  # pandas' parser errors are ValueErrors
        reason = str(error).splitlines()[0].removeprefix("Error tokenizing data. C error: ")
        raise UserError(f"{file} ({key}): could not be read as a table ({reason})") from error
    # R writes no name above the row names; pandas then makes an index of them.
    return frame if isinstance(frame.index, pd.RangeIndex) else frame.reset_index()


# ---- networks


def read_network(files: Iterable[Path], key: str = "targets.path") -> tuple[dict[tuple[str, str], int], dict[str, str]]:
    """Features of the genes of all files, (gene, feature) → sign, with names in capitals, and name → its spelling.

    A set that stands in two files is one set, an edge that stands twice is one edge. An edge is negative where all that
    is known of its sign says so; else it is positive, as most known edges are. Raises UserError for a file that is
    neither regulons nor gene sets.
    """
    members: dict[tuple[str, str], int] = {}
    signs: dict[tuple[str, str], set[int]] = {}
    spellings: dict[str, str] = {}

    def upper(name: str) -> str:
        """Of two spellings the one in small letters stays: capitals are how gene sets are written down."""
        spellings[name.upper()] = max(name, spellings.get(name.upper(), name))
        return name.upper()

    for file in files:
        if file.name.removesuffix(".gz").endswith(".gmt"):
            for gene, name in _gene_sets(file, key):
                members[upper(gene), f"in {name}"] = 1
        else:
            for source, target, sign in _regulons(file, key):
                signs.setdefault((upper(source), upper(target)), set()).add(sign)
    for (source, target), known in signs.items():
        sign = -1 if known - {0} == {-1} else 1
        members[source, f"regulates {target}"] = members[target, f"regulated by {source}"] = sign
    return members, spellings


def _gene_sets(file: Path, key: str) -> Iterator[tuple[str, str]]:
    """(gene, set) of a .gmt file: name, description, genes, separated by tabs; a weight after a comma is left out."""
    opener = gzip.open if file.suffix == ".gz" else open
    try:
        with opener(file, "rt", encoding="utf-8") as lines:
            rows = [line.rstrip("\r\n").split("\t") for line in lines if line.strip()]
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise UserError(f"{file} ({key}): could not be read as gene sets ({error})") from error
    short = next((row for row in rows if len(row) < 3), None)
    if short is not None or not rows:
        found = f"{short[0][:40]!r} has no genes" if short else "it is empty"
        raise UserError(f"{file} ({key}): not a .gmt file of gene sets (name, description, genes by tabs): {found}")
    for name, _, *genes in rows:
        for gene in genes:
            if symbol := gene.split(",")[0].strip():
                yield symbol, name.strip()


def _regulons(file: Path, key: str) -> Iterator[tuple[str, str, int]]:
    """(source, target, sign) of a table of edges; sign 0 where none is known. Edges of weight 0 are none."""
    frame = _read(file, key)
    lower = {str(column).strip().lower(): column for column in frame.columns}
    source, target, sign = (next((lower[name] for name in names if name in lower), None) for names in _NAMES)
    for column, names in ((source, _SOURCE), (target, _TARGET)):
        if column is None:
            raise UserError(
                f"{file} ({key}): no column {' or '.join(names)}{nearest(names[0], lower)}; regulons need both ends of "
                f"an edge, gene sets end in .gmt; columns: {', '.join(map(str, frame.columns))}"
            )
    values = [0] * len(frame) if sign is None else _signs(frame[sign], file, key)
    for start, end, value in zip(frame[source].astype(str), frame[target].astype(str), values, strict=True):
        if value is not None and start.strip() and end.strip():
            yield start.strip(), end.strip(), value


_NAMES = (_SOURCE, _TARGET, _SIGN)


def _signs(column: pd.Series, file: Path, key: str) -> list[int | None]:
    """+1, −1, 0 for unknown, None for a weight of zero."""
    words = column.astype(str).str.strip().str.lower()
    numbers = pd.to_numeric(words, errors="coerce")
    unread = numbers.isna() & ~words.isin([*_WORDS, "nan"])
    if unread.any():
        raise UserError(
            f"{file} ({key}): {column[unread].iloc[0]!r} in column {column.name!r} is no sign; a number, Activation, "
            "Repression or Unknown is needed"
        )
    known = [_WORDS.get(word, 0) for word in words]
    return [word if np.isnan(x) else (int(np.sign(x)) or None) for x, word in zip(numbers, known, strict=True)]
