"""Named splits that do not depend on the order of cells in the file.

Every draw is made on sorted cell names, with a generator keyed by (seed, condition, batch): another order of the file,
or one condition more, leaves every other condition as it was. Parts: train, validation, test, and truth (control cells
that no method sees; the true shift is taken against them).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from stormcell.config import UserError, nearest
from stormcell.data.cells import Cells

PARTS = ("train", "validation", "test", "truth")
SEEN = "held-out cells"
UNSEEN = "held-out perturbations"
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
            _check_share(getattr(self, name), f"split.{name}")


def held_out_cells(cells: Cells, seed: int, **rest) -> Split:
    """Test on held-out cells of perturbations that training has seen."""
    return _divide(cells, seed, {}, Rest(**rest))


def held_out_perturbations(
    cells: Cells, seed: int, share: float = 0.2, names: Sequence[str | int] | None = None, **rest
) -> Split:
    """Test on whole perturbations: named ones, or a share of the single-target ones."""
    conditions = _conditions(cells)
    if names is not None:
        held = [_known(str(name), conditions, "split.names") for name in names]
    else:
        singles = [c for c in conditions if "+" not in c]
        held = _draw(singles, share, seed, "split.share")
    return _divide(cells, seed, dict.fromkeys(held, UNSEEN), Rest(**rest))


def held_out_combinations(
    cells: Cells, seed: int, share: float = 1.0, singles_seen: int | None = None, unseen_targets: float = 0.0, **rest
) -> Split:
    """Test on combinations, told apart by how many of their targets are seen as singles in training.

    `singles_seen=2` holds out only pairs of two seen singles; `unseen_targets` first holds out every condition with a
    share of the targets (Roohani et al. 2023), which makes the groups with one and with no seen single.
    """
    conditions = _conditions(cells)
    targets = sorted({t for c in conditions for t in c.split("+")})
    hidden = set(_draw(targets, unseen_targets, seed, "split.unseen_targets")) if unseen_targets else set()
    held = {c: UNSEEN for c in conditions if "+" not in c and c in hidden}
    singles = {c for c in conditions if "+" not in c and c not in hidden}
    combinations = [c for c in conditions if "+" in c]
    if not combinations:
        raise UserError(
            f"{cells.origin}: split.share={share:g} holds out combinations, but no label joins two targets "
            "(data.separator); use split=cells or split=perturbations"
        )
    seen = {c: sum(t in singles for t in c.split("+")) for c in combinations}
    forced = [c for c in combinations if set(c.split("+")) & hidden]
    free = [c for c in combinations if c not in forced and singles_seen in (None, seen[c])]
    for c in forced + _draw(free, share, seed, "split.share"):
        n = len(c.split("+"))
        held[c] = f"{'pairs' if n == 2 else 'combinations'}, {seen[c]} of {n} singles seen"
    return _divide(cells, seed, held, Rest(**rest))


def held_out_covariate(cells: Cells, seed: int, key: str, value: str | int, **rest) -> Split:
    """Test on a cell type or donor that is never seen perturbed; its controls are split between methods and truth."""
    _conditions(cells)
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
    held = inside & ~cells.obs["is_control"].to_numpy()
    if not (inside & cells.obs["is_control"].to_numpy()).any():
        raise UserError(f"{cells.origin}: {key}={value} has no control cells to start from; choose another split.value")
    conditions = sorted(cells.obs["condition"][held].unique())
    groups = dict.fromkeys(conditions, f"{COVARIATE} {key}={value}")
    split = _divide(cells, seed, groups, Rest(**rest), held_cells=held, context_key=key)
    for part in ("train",) if split.shared else ("train", "truth"):
        if not (inside & split.mask(part)).any():
            raise UserError(
                f"{cells.origin}: {key}={value} has {int((inside & ~held).sum())} control cells, too few for both the "
                "methods and the truth; set split.controls_for_truth=0 to share them, or choose another split.value"
            )
    return split


def from_file(cells: Cells, seed: int, path: str, **rest) -> Split:
    """A table with a column `part` and a column `cell` or `condition`; conditions of part `test` are held out whole."""
    table, conditions = _table(path), _conditions(cells)
    key = next((column for column in ("cell", "condition") if column in table), None)
    if key is None or "part" not in table:
        raise UserError(
            f"{path}: columns `part` and `cell` or `condition` are needed (split.path), found {list(table.columns)}"
        )
    wrong = sorted(set(table["part"]) - set(PARTS))
    if wrong:
        raise UserError(f"{path}: part {wrong[0]!r}{nearest(wrong[0], PARTS)}; parts are {', '.join(PARTS)}")
    if key == "condition":
        if other := sorted(set(table["part"]) - {"train", "test"}):
            raise UserError(
                f"{path}: part {other[0]!r} of a whole condition (split.path); conditions are of part train or test, "
                "and split.validation and split.controls_for_truth divide the rest"
            )
        names = ["+".join(sorted(name.split("+"))) for name in table["condition"][table["part"] == "test"]]
        held = {_known(name, conditions, f"{path}, split.path"): UNSEEN for name in names}
        return _divide(cells, seed, _by_singles(held, conditions), Rest(**rest))
    part = _part_of_cells(table[["cell", "part"]].drop_duplicates(), cells, path)
    tested = sorted(cells.obs["condition"][(part == "test").to_numpy()].unique())
    trained = set(cells.obs["condition"][(part == "train").to_numpy()])
    groups = {c: SEEN if c in trained else UNSEEN for c in tested if c != cells.control}
    conditions = sorted(trained | set(tested))
    return _finish(cells, part.to_numpy(str), {**groups, **_by_singles(_only(groups, UNSEEN), conditions)}, None, [])


def _table(path: str) -> pd.DataFrame:
    from stormcell.data.cells import locate

    try:
        return pd.read_csv(locate(path, "split.path", "*.csv"), dtype=str, keep_default_na=False)
    except (ValueError, OSError) as error:  # pandas' parser errors are ValueErrors
        raise UserError(f"{path}: not a table of comma-separated values (split.path)") from error


def _part_of_cells(table: pd.DataFrame, cells: Cells, path: str) -> pd.Series:
    if table["cell"].duplicated().any():
        twice = table["cell"][table["cell"].duplicated()].iloc[0]
        raise UserError(f"{path}: cell {twice!r} stands in two parts (split.path)")
    part = table.set_index("cell")["part"].reindex(cells.obs.index)
    if part.isna().any():
        raise UserError(f"{path}: {int(part.isna().sum())} cells of the data have no row (split.path)")
    wrong = (part == "truth").to_numpy() & ~cells.obs["is_control"].to_numpy()
    if wrong.any():
        raise UserError(f"{path}: {int(wrong.sum())} perturbed cells are of part truth, which is for control cells")
    return part


def judged_only(cells: Cells, seed: int, trained: Sequence[str], controls_for_truth: float) -> Split:
    """Cells that a finished model is judged on: every perturbed cell is a test cell."""
    conditions = _conditions(cells)
    groups = {c: SEEN if c in trained else UNSEEN for c in conditions}
    groups |= _by_singles(_only(groups, UNSEEN), [*trained, *conditions])
    part = np.where(cells.obs["is_control"].to_numpy(), "train", "test").astype("U10")
    names, order = cells.obs.index.to_numpy(str), np.arange(len(cells))
    rows = order[np.argsort(names, kind="stable")]
    batch = cells.obs["batch"].to_numpy(str) if "batch" in cells.obs else np.full(len(cells), "")
    rest = Rest(validation=0.0, controls_for_truth=controls_for_truth)
    _divide_controls(part, rows[cells.obs["is_control"].to_numpy()[rows]], batch, seed, rest, cells)
    return _finish(cells, part, groups, None, [])


# ---- the parts every split shares


def _divide(
    cells: Cells,
    seed: int,
    held: dict[str, str],
    rest: Rest,
    held_cells: np.ndarray | None = None,
    context_key: str | None = None,
) -> Split:
    """Held-out conditions go to test whole; of the rest shares go to test, truth and validation."""
    conditions = _conditions(cells)
    condition = cells.obs["condition"].to_numpy(str)
    batch = cells.obs["batch"].to_numpy(str) if "batch" in cells.obs else np.full(len(cells), "")
    if context_key is not None:
        batch = np.char.add(np.char.add(batch, "\0"), cells.obs[context_key].to_numpy(str))
    names = cells.obs.index.to_numpy(str)
    order = np.argsort(names, kind="stable")
    part = np.full(len(cells), "train", dtype="U10")
    notes: list[str] = []
    groups = dict(held)
    mine = rows_by(condition, order)
    for label in [cells.control, *conditions]:
        rows = mine[label]
        if held_cells is not None:
            part[rows[held_cells[rows]]] = "test"
            rows = rows[~held_cells[rows]]
        elif label in held:
            part[rows] = "test"
            continue
        if label == cells.control:
            _divide_controls(part, rows, batch, seed, rest, cells)
        elif len(rows):
            _divide_condition(part, rows, label, seed, rest, cells, groups, notes, whole=held_cells is not None)
    return _finish(cells, part, groups, context_key, notes)


def _divide_controls(part, rows, batch, seed, rest: Rest, cells: Cells) -> None:
    """Half of the controls of each batch (and held-out covariate) are kept for the truth side only."""
    for name in np.unique(batch[rows]):
        mine = _shuffled(rows[batch[rows] == name], seed, cells.control, name)
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
    rows = _shuffled(rows, seed, label, "")
    n_test = 0 if whole else round(rest.test_cells * len(rows))
    part[rows[:n_test]] = "test"
    # Two at the least, since one cell has no distribution to be compared with; one must be left to train on.
    n_validation = max(round(rest.validation * (len(rows) - n_test)), 2 if rest.validation else 0)
    n_validation = min(n_validation, len(rows) - n_test - 1)
    part[rows[n_test : n_test + n_validation]] = "validation"
    if n_test:
        groups[label] = SEEN


def _finish(cells: Cells, part, groups: dict[str, str], context_key: str | None, notes: list[str]) -> Split:
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


def _conditions(cells: Cells) -> list[str]:
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


def rows_by(labels: np.ndarray, rows: np.ndarray) -> dict[str, np.ndarray]:
    """The rows of each label, in the order given: one sort, where a screen has thousands of labels."""
    names, codes = np.unique(labels[rows], return_inverse=True)
    sizes = np.bincount(codes, minlength=len(names))
    pieces = np.split(rows[np.argsort(codes, kind="stable")], np.cumsum(sizes)[:-1])
    return dict(zip(names.tolist(), pieces, strict=True))


def _shuffled(rows: np.ndarray, seed: int, label: str, batch: str) -> np.ndarray:
    """A permutation that depends on the seed and on names alone."""
    key = hashlib.sha256(f"{label}\0{batch}".encode()).digest()[:8]
    return rows[np.random.default_rng([seed, int.from_bytes(key, "little")]).permutation(len(rows))]


def _check_share(share: float, key: str) -> None:
    if not 0 <= share <= 1:
        raise UserError(f"{key}={share:g}: a share between 0 and 1 is needed")


def _draw(names: list[str], share: float, seed: int, key: str) -> list[str]:
    """A share of sorted names."""
    _check_share(share, key)
    chosen = _shuffled(np.arange(len(names)), seed, key, "")[: round(share * len(names))]
    return [names[i] for i in sorted(chosen)]


def _known(name: str, conditions: Sequence[str], key: str) -> str:
    canonical = "+".join(sorted(name.split("+")))
    if canonical not in conditions:
        raise UserError(f"{key}: no perturbation {name!r} in the data{nearest(canonical, conditions)}")
    return canonical


def _only(groups: dict[str, str], group: str) -> dict[str, str]:
    return {c: g for c, g in groups.items() if g == group}


def _by_singles(held: dict[str, str], conditions: Sequence[str]) -> dict[str, str]:
    """Held-out combinations named by how many of their singles stay in training."""
    singles = {c for c in conditions if "+" not in c and c not in held}
    named = {}
    for c, group in held.items():
        targets = c.split("+")
        seen = sum(t in singles for t in targets)
        kind = "pairs" if len(targets) == 2 else "combinations"
        named[c] = f"{kind}, {seen} of {len(targets)} singles seen" if len(targets) > 1 else group
    return named
