"""A split that is given as a table: which cell, or which whole condition, is in which part."""

from __future__ import annotations

from typing import Unpack

import pandas as pd

from stormcell.config import UserError, nearest
from stormcell.data.cells import Cells, locate
from stormcell.data.conditions import SEEN, by_singles, conditions_of, known
from stormcell.data.split import PARTS, Rest, Split, divide, finish

WHOLE = ("train", "validation", "test")  # parts that a whole condition can be of


def from_file(cells: Cells, seed: int, /, path: str, **rest: Unpack[Rest]) -> Split:
    """A table (CSV) with a column `part` and a column `cell` or `condition`.

    `cell`: every cell has its row, and nothing is drawn. `condition`: conditions of part test or validation are held
    out whole, every other one trains, and `rest` divides their cells and the controls. Raises UserError when the table
    names what the data does not have, or one thing twice.
    """
    table = _table(path)
    conditions_of(cells)
    key = next((column for column in ("cell", "condition") if column in table), None)
    if key is None or "part" not in table:
        raise UserError(
            f"{path}: columns `part` and `cell` or `condition` are needed (split.path), found {list(table.columns)}"
        )
    wrong = sorted(set(table["part"]) - set(PARTS))
    if wrong:
        raise UserError(f"{path}: part {wrong[0]!r}{nearest(wrong[0], PARTS)}; parts are {', '.join(PARTS)}")
    table = table[[key, "part"]]
    return _conditions(cells, seed, table, path, Rest(**rest)) if key == "condition" else _cells(cells, table, path)


def _conditions(cells: Cells, seed: int, table: pd.DataFrame, path: str, rest: Rest) -> Split:
    if (table["part"] == "truth").any():
        raise UserError(
            f"{path}: part 'truth' of a whole condition (split.path); conditions are of part {', '.join(WHOLE)}, and "
            "split.controls_for_truth divides the controls"
        )
    conditions = conditions_of(cells)
    table = table.assign(condition=["+".join(sorted(name.split("+"))) for name in table["condition"]])
    part = _once(table, path)
    held = {
        whole: [known(name, conditions, f"{path}, split.path") for name in part.index[part == whole]]
        for whole in ("validation", "test")
    }
    return divide(cells, seed, held["test"], rest, validating=held["validation"])


def _cells(cells: Cells, table: pd.DataFrame, path: str) -> Split:
    part = _once(table, path).reindex(cells.obs.index)
    if part.isna().any():
        raise UserError(f"{path}: {int(part.isna().sum())} cells of the data have no row (split.path)")
    wrong = (part == "truth").to_numpy() & ~cells.obs["is_control"].to_numpy()
    if wrong.any():
        raise UserError(f"{path}: {int(wrong.sum())} perturbed cells are of part truth, which is for control cells")
    tested, trained = (set(cells.obs["condition"][(part == word).to_numpy()]) for word in ("test", "train"))
    tested = sorted(tested - {cells.control})
    groups = dict.fromkeys(tested, SEEN) | by_singles([c for c in tested if c not in trained], trained)
    return finish(cells, part.to_numpy(str), groups, None, [])


def _once(table: pd.DataFrame, path: str) -> pd.Series:
    """name -> part; a name may be repeated, but in one part only."""
    table = table.drop_duplicates()
    key = table.columns[0]
    if table[key].duplicated().any():
        twice = table[key][table[key].duplicated()].iloc[0]
        raise UserError(f"{path}: {key} {twice!r} stands in two parts (split.path)")
    return table.set_index(key)["part"]


def _table(path: str) -> pd.DataFrame:
    try:
        return pd.read_csv(locate(path, "split.path", "*.csv"), dtype=str, keep_default_na=False)
    except (ValueError, OSError) as error:  # pandas' parser errors are ValueErrors
        raise UserError(f"{path}: not a table of comma-separated values (split.path)") from error
