"""Conditions by name: which a file has, what held-out ones are called, and draws among them.

Who is drawn depends on a seed and on sorted names alone, never on the order of a file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence

import numpy as np

from stormcell.config import UserError, nearest
from stormcell.data.cells import Cells

# Groups of held-out conditions, beside "pairs, k of 2 singles seen"
SEEN = "held-out cells"
UNSEEN = "held-out perturbations"


def conditions_of(cells: Cells) -> list[str]:
    """Sorted perturbations without control; refuses files without a perturbation column or perturbed cells."""
    if "condition" not in cells.obs:
        raise UserError(
            f"{cells.origin}: this model needs control and perturbed cells, but data.perturbation_key is null; "
            f"columns read: {', '.join(cells.obs.columns) or 'none'}"
        )
    found = sorted(set(cells.obs["condition"]) - {cells.control})
    if not found:
        raise UserError(f"{cells.origin}: no perturbed cells, every cell is {cells.control!r} (data.control)")
    return found


def combinations_of(cells: Cells) -> list[str]:
    """Sorted perturbations of two targets or more; refuses files that have none."""
    found = [c for c in conditions_of(cells) if "+" in c]
    if not found:
        raise UserError(
            f"{cells.origin}: this split holds out combinations, but no label joins two targets (data.separator); "
            "use split=cells or split=perturbations"
        )
    return found


def by_singles(held: Collection[str], trained: Collection[str]) -> dict[str, str]:
    """Held-out conditions -> group; combinations are told apart by how many of their targets train as singles."""
    trained = set(trained)
    return {c: group_of(c, sum(target in trained for target in c.split("+"))) for c in held}


def group_of(condition: str, n_seen: int) -> str:
    """The group of a held-out condition of which `n_seen` targets train as singles."""
    n = condition.count("+") + 1
    return f"{'pairs' if n == 2 else 'combinations'}, {n_seen} of {n} singles seen" if n > 1 else UNSEEN


def shuffled(rows: np.ndarray, seed: int, label: str, batch: str) -> np.ndarray:
    """A permutation that depends on the seed and on names alone."""
    key = hashlib.sha256(f"{label}\0{batch}".encode()).digest()[:8]
    return rows[np.random.default_rng([seed, int.from_bytes(key, "little")]).permutation(len(rows))]


def draw(names: list[str], share: float, seed: int, key: str) -> list[str]:
    """A share of sorted names, sorted; raises UserError when the share is out of range."""
    check_share(share, key)
    chosen = shuffled(np.arange(len(names)), seed, key, "")[: round(share * len(names))]
    return [names[i] for i in sorted(chosen)]


def check_share(share: float, key: str) -> None:
    """Raises UserError unless 0 <= share <= 1."""
    if not 0 <= share <= 1:
        raise UserError(f"{key}={share:g}: a share between 0 and 1 is needed")


def known(name: str, conditions: Sequence[str], key: str) -> str:
    """The canonical label of a perturbation that a user named; raises UserError when the data has none of it."""
    canonical = "+".join(sorted(name.split("+")))
    if canonical not in conditions:
        raise UserError(f"{key}: no perturbation {name!r} in the data{nearest(canonical, conditions)}")
    return canonical
