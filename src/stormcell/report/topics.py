"""The sections of a report page: each topic with its figures and the first rows of its tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from stormcell.report.html import plain

MOST_ROWS = 40  # of a table on the page; the file has them all


def topics(
    asked: Sequence[tuple[str, Sequence[str], Sequence[str]]],
    pictures: Mapping[str, dict],
    tables: Mapping[str, pd.DataFrame],
    words: Mapping[str, str],
) -> list[dict]:
    """(title, figures, tables) of every topic, filled with what there is; topics without anything are left out.

    Tables of no topic come last. `words`: what a table is called where its name does not say it.
    """
    kept = {name: table for name, table in tables.items() if len(table)}
    placed = {name for _, _, listed in asked for name in listed}
    others = "Further tables", (), [name for name in kept if name not in placed]
    found = [
        {
            "title": title,
            "figures": [pictures[name] for name in shown if name in pictures],
            "tables": [_preview(name, kept[name], words) for name in listed if name in kept],
        }
        for title, shown, listed in (*asked, others)
    ]
    return [topic for topic in found if topic["figures"] or topic["tables"]]


def _preview(name: str, table: pd.DataFrame, words: Mapping[str, str]) -> dict:
    """The first rows of a table in words."""
    rows = [[_word(value) for value in row] for row in table.head(MOST_ROWS).itertuples(index=False)]
    heads = [str(column).replace("_", " ") for column in table.columns]
    title = words.get(name, name.replace("_", " "))
    return {"name": name, "title": title, "n": len(table), "heads": heads, "rows": rows}


def _word(value) -> str:
    """A number as elsewhere on the page, what is missing as a dash."""
    return "-" if pd.api.types.is_scalar(value) and pd.isna(value) else plain(value)
