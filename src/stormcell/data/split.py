"""Named splits that do not depend on the order of cells in the file.

Every draw is made on sorted cell names, with a generator keyed by (seed, condition, batch): another order of the file,
or one condition more, leaves every other condition as it was. Parts: train, validation, test, and truth (control cells
that no method sees; the true shift is taken against them). The rules of the literature are in named_splits.py, a table
of one's own is read by split_table.py; all of them end in `divide` or `finish`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Unpack

import numpy as np
import pandas as pd

from stormcell.config import UserError, nearest
from stormcell.data.cells import Cells
from stormcell.data.conditions import (
    SEEN,
    by_singles,
    check_share,
    combinations_of,
    conditions_of,
    draw,
    known,
    shuffled,
)

PARTS = ("train", "validation", "test", "truth")
COVARIATE = "held-out covariate"


@dataclass(frozen=True)
class Split:
    """The part of each cell and, for the conditions under test, the group that they are judged in."""

    part: np.ndarray  # N strings of PARTS
    groups: dict[str, str]  # condition -> group
    context_key: str | None  # obs column whose held-out value the test is about
    table: pd.DataFrame  # cell, condition, covariate, part; sorted
    notes: list[str] = field(default_factory=list)

    @property
    def sha256(self) -> str:
        """Digest of the sorted (cell, condition, covariate, part) rows."""
        return hashlib.sha256(self.table.to_csv(index=False, lineterminator="\n").encode()).hexdigest()

    def mask(self, part: str) -> np.ndarray:
        return self.part == part

    @property
    def shared(self) -> bool:
        """No controls were kept aside: the truth is then taken against the training controls."""
        return not (self.part == "truth").any()


@dataclass(frozen=True)
class Rest:
    """How the cells that no rule holds out are divided."""

    test_cells: float = 0.2  # share of the cells of every seen perturbation
    validation: float = 0.1  # share of what then remains, of controls too
    controls_for_truth: float = 0.5  # share of the controls, within each batch
    min_cells: int = 10
    drop_small: bool = False  # leave perturbations below min_cells out instead of stopping

    def __post_init__(self) -> None:
        for name in ("test_cells", "validation", "controls_for_truth"):
            check_share(getattr(self, name), f"split.{name}")


def held_out_cells(cells: Cells, seed: int, /, **rest: Unpack[Rest]) -> Split:
    """Test on held-out cells of perturbations that training has seen."""
    return divide(cells, seed, (), Rest(**rest))


def held_out_perturbations(
    cells: Cells,
    seed: int,
    /,
    share: float = 0.2,
    names: Sequence[str | int] | None = None,
    **rest: Unpack[Rest],
) -> Split:
    """Test on whole perturbations: named ones, or a share of the single-target ones."""
    conditions = conditions_of(cells)
    if names is not None:
        held = [known(str(name), conditions, "split.names") for name in names]
    else:
        singles = [c for c in conditions if "+" not in c]
        held = draw(singles, share, seed, "split.share")
    return divide(cells, seed, held, Rest(**rest))


def held_out_combinations(
    cells: Cells,
    seed: int,
    /,
    share: float = 1.0,
    singles_seen: int | None = None,
    unseen_targets: float = 0.0,
    **rest: Unpack[Rest],
) -> Split:
    """Test on combinations, told apart by how many of their targets are seen as singles in training.

    `singles_seen=2` holds out only pairs of two seen singles; `unseen_targets` first holds out every condition with a
    share of the targets (Roohani et al. 2023), which makes the groups with one and with no seen single.
    """
    conditions = conditions_of(cells)
    targets = sorted({t for c in conditions for t in c.split("+")})
    hidden = set(draw(targets, unseen_targets, seed, "split.unseen_targets")) if unseen_targets else set()
    combinations = combinations_of(cells)
    singles = {c for c in conditions if "+" not in c and c not in hidden}
    seen = {c: sum(t in singles for t in c.split("+")) for c in combinations}
    forced = [c for c in combinations if set(c.split("+")) & hidden]
    free = [c for c in combinations if c not in forced and singles_seen in (None, seen[c])]
    held = [c for c in conditions if c in hidden] + forced + draw(free, share, seed, "split.share")
    return divide(cells, seed, held, Rest(**rest))


def held_out_covariate(
    cells: Cells, seed: int, /, key: str, value: str | int, share: float = 1.0, **rest: Unpack[Rest]
) -> Split:
    """Test on a cell type or donor that is never seen perturbed; its controls are split between methods and truth.

    `share` below 1 holds out that share of the perturbations of the value only, drawn on sorted names; the others train
    there too (few-shot transfer, Wu et al. 2024, PerturBench).
    """
    conditions_of(cells)
    value = str(value)
    if key not in cells.obs:
        raise UserError(
            f"{cells.origin}: no column {key!r} (split.key){nearest(key, cells.obs.columns)}; set data.cell_type_key, "
            f"data.batch_key or data.covariate_keys first; columns read: {', '.join(cells.obs.columns)}"
        )
    values = sorted(cells.obs[key].unique())
    if value not in values:
        raise UserError(f"{cells.origin}: {key}={value!r} (split.value){nearest(value, values)}: {', '.join(values)}")
    inside = (cells.obs[key] == value).to_numpy()
    control = cells.obs["is_control"].to_numpy()
    if not (inside & control).any():
        raise UserError(f"{cells.origin}: {key}={value} has no control cells to start from; choose another split.value")
    chosen = draw(sorted(cells.obs["condition"][inside & ~control].unique()), share, seed, "split.share")
    held = inside & cells.obs["condition"].isin(chosen).to_numpy()
    group = f"{COVARIATE} {key}={value}"
    split = divide(cells, seed, chosen, Rest(**rest), group=group, held_cells=held, context_key=key)
    for part in ("train",) if split.shared else ("train", "truth"):
        if not (inside & split.mask(part)).any():
            raise UserError(
                f"{cells.origin}: {key}={value} has {(inside & control).sum()} control cells, too few for both the "
                "methods and the truth; set split.controls_for_truth=0 to share them, or choose another split.value"
            )
    return split


def judged_only(cells: Cells, seed: int, trained: Sequence[str], controls_for_truth: float) -> Split:
    """Cells that a finished model is judged on: every perturbed cell is a test cell."""
    conditions = conditions_of(cells)
    groups = dict.fromkeys(conditions, SEEN) | by_singles(set(conditions) - set(trained), trained)
    part = np.where(cells.obs["is_control"].to_numpy(), "train", "test").astype("U10")
    names, order = cells.obs.index.to_numpy(str), np.arange(len(cells))
    rows = order[np.argsort(names, kind="stable")]
    batch = cells.obs["batch"].to_numpy(str) if "batch" in cells.obs else np.full(len(cells), "")
    rest = Rest(validation=0.0, controls_for_truth=controls_for_truth)
    _divide_controls(part, rows[cells.obs["is_control"].to_numpy()[rows]], batch, seed, rest, cells)
    return finish(cells, part, groups, None, [])


# ---- the parts every split shares


def divide(
    cells: Cells,
    seed: int,
    held: Collection[str],
    rest: Rest,
    validating: Collection[str] = (),
    group: str | None = None,
    held_cells: np.ndarray | None = None,
    context_key: str | None = None,
) -> Split:
    """Held-out conditions go to test whole, `validating` ones to validation; of the rest shares go to test, truth and
    validation. With `held_cells` (N bool) a held-out condition goes to test with these cells alone.

    Held-out conditions are judged in `group`; without one, in groups named by their singles in training.
    """
    held, validating = set(held), set(validating)
    conditions = conditions_of(cells)
    condition = cells.obs["condition"].to_numpy(str)
    batch = cells.obs["batch"].to_numpy(str) if "batch" in cells.obs else np.full(len(cells), "")
    if context_key is not None:
        batch = np.char.add(np.char.add(batch, "\0"), cells.obs[context_key].to_numpy(str))
    names = cells.obs.index.to_numpy(str)
    order = np.argsort(names, kind="stable")
    part = np.full(len(cells), "train", dtype="U10")
    notes: list[str] = []
    groups: dict[str, str] = {}
    mine = rows_by(condition, order)
    for label in [cells.control, *conditions]:
        rows = mine[label]
        if held_cells is not None:
            part[rows[held_cells[rows]]] = "test"
            rows = rows[~held_cells[rows]]
        elif label in held or label in validating:
            part[rows] = "test" if label in held else "validation"
            continue
        if label == cells.control:
            _divide_controls(part, rows, batch, seed, rest, cells)
        elif len(rows):
            _divide_condition(part, rows, label, seed, rest, cells, groups, notes, whole=held_cells is not None)
    # Last, because a single that was too small and left out is no single in training.
    trained = set(condition[part == "train"])
    groups |= by_singles(sorted(held), trained) if group is None else dict.fromkeys(sorted(held), group)
    return finish(cells, part, groups, context_key, notes)


def _divide_controls(part, rows, batch, seed, rest: Rest, cells: Cells) -> None:
    """Half of the controls of each batch (and held-out covariate) are kept for the truth side only."""
    for name in np.unique(batch[rows]):
        mine = shuffled(rows[batch[rows] == name], seed, cells.control, name)
        n_truth = round(rest.controls_for_truth * len(mine))
        part[mine[:n_truth]] = "truth"
        left = mine[n_truth:]
        # With shared controls every control is in training: the peers' set-up.
        n_validation = round(rest.validation * len(left)) if rest.controls_for_truth > 0 else 0
        part[left[:n_validation]] = "validation"


def _divide_condition(part, rows, label, seed, rest: Rest, cells, groups, notes, whole: bool) -> None:
    if len(rows) < rest.min_cells:
        if not rest.drop_small:
            raise UserError(
                f"{cells.origin}: perturbation {label!r} has {len(rows)} cells, fewer than split.min_cells="
                f"{rest.min_cells}; lower it, or leave such perturbations out with split.drop_small=true"
            )
        notes.append(f"perturbation {label} left out: {len(rows)} cells, fewer than split.min_cells={rest.min_cells}")
        part[rows] = "unused"
        return
    rows = shuffled(rows, seed, label, "")
    # A perturbation of a single cell can be learnt from, not judged.
    n_test = 0 if whole or len(rows) == 1 else round(rest.test_cells * len(rows))
    part[rows[:n_test]] = "test"
    # Two at the least, since one cell has no distribution to be compared with; one must be left to train on.
    n_validation = max(round(rest.validation * (len(rows) - n_test)), 2 if rest.validation else 0)
    n_validation = min(n_validation, len(rows) - n_test - 1)
    part[rows[n_test : n_test + n_validation]] = "validation"
    if n_test:
        groups[label] = SEEN


def finish(cells: Cells, part, groups: dict[str, str], context_key: str | None, notes: list[str]) -> Split:
    covariate = cells.obs[context_key].astype(str) if context_key else ""
    table = pd.DataFrame(
        {"cell": cells.obs.index, "condition": cells.obs["condition"].to_numpy(), "covariate": covariate, "part": part}
    )
    table = table.sort_values(["condition", "covariate", "part", "cell"], kind="stable").reset_index(drop=True)
    perturbed = ~cells.obs["is_control"].to_numpy()
    if ((part == "train") & ~perturbed).sum() < 2:
        raise UserError(
            f"{cells.origin}: of {int((~perturbed).sum())} control cells ({cells.control!r}) fewer than two are left "
            "for training; split.controls_for_truth=0 shares them all"
        )
    if not ((part == "test") & perturbed).any():
        raise UserError(f"{cells.origin}: the split leaves no perturbed cell for the test; see split.* in --cfg job")
    return Split(part, groups, context_key, table, notes)


def rows_by(labels: np.ndarray, rows: np.ndarray) -> dict[str, np.ndarray]:
    """The rows of each label, in the order given: one sort, where a screen has thousands of labels."""
    names, codes = np.unique(labels[rows], return_inverse=True)
    sizes = np.bincount(codes, minlength=len(names))
    pieces = np.split(rows[np.argsort(codes, kind="stable")], np.cumsum(sizes)[:-1])
    return dict(zip(names.tolist(), pieces, strict=True))
