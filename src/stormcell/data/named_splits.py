"""Splits of the literature by name: the draws of the papers' programs, made on sorted names.

Each rule says which perturbations are held out whole, for the test and for validation; all others train. Cells and
controls are then divided as in every split (data/split.py): the defaults `test_cells=0, validation=0` leave all cells
of a training perturbation to training, as the papers do; `controls_for_truth=0` would share the controls too.

Every draw of a rule is keyed by its own `seed`, the papers' default, so that runs of other seeds are judged on the same
split; null takes the seed of the run. NumPy's RandomState is frozen for ever; Python promises nothing of random.sample,
so a test holds its draw fixed.

Groups are named by the singles that are in training. Sources: Roohani, Huang & Leskovec 2024 (GEARS); Wu et al. 2024
(PerturBench); Ahlmann-Eltze, Huber & Anders 2025 (linear baselines).
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Collection, Sequence
from typing import Unpack

import numpy as np

from stormcell.config import UserError
from stormcell.data.cells import Cells
from stormcell.data.conditions import check_share, combinations_of, conditions_of, group_of
from stormcell.data.split import Rest, Split, divide

GEARS_VALIDATION = 0.9, 0.9  # shares of targets and of combinations that go on training when validation is drawn
PERTURBENCH_MOST = 200  # held-out combinations, whatever the share


def gears_simulation(
    cells: Cells,
    run_seed: int,
    /,
    seed: int | None = 1,
    train_gene_share: float = 0.75,
    seen_share: float = 0.75,
    **rest: Unpack[Rest],
) -> Split:
    """GEARS' split `simulation`: targets are drawn first, and what holds a target that was not drawn is for the test.

    `train_gene_share` of the targets are drawn; singles of the others and combinations with one of the others are
    tested, and of the combinations of drawn targets all but `seen_share`. Validation is held out of training by the
    same two steps with shares of .9 and .9 and the same seed. GEARS has no combination of three targets or more; here
    such a one counts as drawn when all of its targets are.

    GEARS names a test combination by how many of its targets were drawn in the first step; some of these then only
    validate. A group here counts singles that train; a note says how many combinations differ, and GEARS' own counts.
    Raises UserError on a share or seed out of range, or when nothing is left to test.
    """
    seed = _seed(seed, run_seed)
    check_share(train_gene_share, "split.train_gene_share")
    check_share(seen_share, "split.seen_share")
    trained, tested = simulation(conditions_of(cells), seed, train_gene_share, seen_share)
    _, validating = simulation(trained, seed, *GEARS_VALIDATION)
    split = _divided(cells, seed, tested, validating, rest)
    if note := _told_by_gears(tested, split.groups):
        split.notes.append(note)
    return split


def perturbench_combine(
    cells: Cells, run_seed: int, /, seed: int | None = 42, share: float = 0.7, **rest: Unpack[Rest]
) -> Split:
    """PerturBench's task `combine`: a share of the combinations is held out, half to validate and half to test.

    int(share · n) combinations, 200 at the most, are sampled; the smaller half validates. PerturBench samples from
    conditions in the order of the file, so that its own split needs its own file; here they are sorted. All cells are
    one covariate group, as in its experiments on the cells of Norman et al. 2019. Any label of two targets or more is a
    combination. Raises UserError when fewer than two are held out.
    """
    seed = _seed(seed, run_seed)
    check_share(share, "split.share")
    combinations = combinations_of(cells)
    n_held = min(int(share * len(combinations)), PERTURBENCH_MOST)
    if n_held < 2:
        raise UserError(
            f"{cells.origin}: split.share={share:g} of {len(combinations)} combinations holds out {n_held}; two are "
            "needed, one to validate and one to test"
        )
    held = random.Random(seed).sample(combinations, n_held)
    # What scikit-learn's stratified train_test_split does where there is one stratum.
    order = np.random.RandomState(seed).permutation(n_held)
    validating, tested = ([held[i] for i in part] for part in np.split(order, [n_held // 2]))
    return _divided(cells, seed, tested, validating, rest)


def linear_doubles(cells: Cells, run_seed: int, /, seed: int | None = 1, **rest: Unpack[Rest]) -> Split:
    """Half of the doubles train, with every single; of the other half, half is for the test and the rest validates.

    Sizes are n // 2 and (n − n // 2) // 2, drawn one after the other from one stream, as that paper's program does for
    the cells as scFoundation processed them; it scores test and validation alike. A combination of three targets or
    more is drawn among the doubles. Raises UserError on fewer than three combinations.
    """
    seed = _seed(seed, run_seed)
    doubles = combinations_of(cells)
    if len(doubles) < 3:
        raise UserError(
            f"{cells.origin}: {len(doubles)} combinations are too few to train, to validate and to test "
            "(split=linear_doubles); use split=combinations"
        )
    stream = np.random.RandomState(seed)
    trained = stream.choice(doubles, len(doubles) // 2, replace=False)
    left = np.setdiff1d(doubles, trained)
    tested = stream.choice(left, len(left) // 2, replace=False).tolist()
    return _divided(cells, seed, tested, set(left.tolist()) - set(tested), rest)


def simulation(
    names: Sequence[str], seed: int, target_share: float, combination_share: float
) -> tuple[list[str], dict[str, int]]:
    """One step of GEARS' split: sorted names that stay, and each name held out with its number of drawn targets.

    The generator starts anew before the combinations are drawn, as in GEARS.
    """
    targets = sorted({target for name in names for target in name.split("+")})
    drawn = _chosen(targets, target_share, seed)
    n_drawn = {name: sum(target in drawn for target in name.split("+")) for name in sorted(names)}
    whole = [name for name, n in n_drawn.items() if n == len(name.split("+"))]
    kept = _chosen([name for name in whole if "+" in name], combination_share, seed)
    stay = [name for name in whole if "+" not in name or name in kept]
    return stay, {name: n for name, n in n_drawn.items() if name not in stay}


def _chosen(names: list[str], share: float, seed: int) -> set[str]:
    """int(share · n) of the names."""
    return set(np.random.RandomState(seed).choice(names, int(share * len(names)), replace=False).tolist())


def _told_by_gears(tested: dict[str, int], groups: dict[str, str]) -> str | None:
    """Where the groups differ from GEARS' own."""
    other = [c for c, n in tested.items() if groups[c] != group_of(c, n)]
    if not other:
        return None
    count = Counter(f"combo_seen{n}" if "+" in c else "unseen_single" for c, n in tested.items())
    return (
        f"GEARS counts {', '.join(f'{count[group]} {group}' for group in sorted(count))}: for {len(other)} of these it "
        "takes a target as seen whose single does not train, and the groups here do not: "
        + ", ".join(other[:8])
        + (", …" if len(other) > 8 else "")
    )


def _seed(seed: int | None, run_seed: int) -> int:
    chosen = run_seed if seed is None else seed
    if not 0 <= chosen < 2**32:
        raise UserError(f"split.seed={chosen}: a whole number from 0 to {2**32 - 1}, or null for the run's seed")
    return chosen


def _divided(cells: Cells, seed: int, tested: Collection[str], validating: Collection[str], rest: dict) -> Split:
    papers = {"test_cells": 0.0, "validation": 0.0}
    return divide(cells, seed, tested, Rest(**{**papers, **rest}), validating)
