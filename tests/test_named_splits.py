"""Splits of the literature: the draws of the papers' programs, against second implementations and fixed digests.

The second implementations work as the papers' programs do: GEARS on labels "A+ctrl" in any order and NumPy's global
generator, PerturBench with Python's global generator and scikit-learn, the linear paper with NumPy's global generator.
"""

# ruff: noqa: NPY002 (the papers' programs draw from the global generator)

import hashlib
import random
from functools import partial

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix

from stormcell.check import check_calls
from stormcell.config import UserError
from stormcell.data import named_splits
from stormcell.data.cells import Cells
from stormcell.data.conditions import UNSEEN
from stormcell.data.split_table import from_file

RULES = {
    "gears": named_splits.gears_simulation,
    "perturbench": named_splits.perturbench_combine,
    "linear": named_splits.linear_doubles,
}


def make_cells(conditions, n=2, n_control=16, order=None):
    """n cells of each condition and some controls, in one batch. `order`: seed of a shuffle."""
    labels = [c for c in ["control", *conditions] for _ in range(n_control if c == "control" else n)]
    obs = pd.DataFrame({"condition": labels}, index=[f"{c}-{i:05}" for i, c in enumerate(labels)])
    obs["is_control"] = obs["condition"] == "control"
    if order is not None:
        obs = obs.iloc[np.random.default_rng(order).permutation(len(obs))]
    return Cells(csr_matrix((len(obs), 3), dtype=np.float32), "counts", obs, list("xyz"), "control", "cells.h5ad", "")


def parts(rule, cells, run_seed=1, **keys):
    """condition → part; no condition is in two."""
    split = rule(cells, run_seed, min_cells=2, **keys)
    table = split.table[["condition", "part"]].drop_duplicates()
    table = table[table["condition"] != "control"]
    assert table["condition"].is_unique
    return table.set_index("condition")["part"].to_dict(), split


def generated(n_singles=105, n_doubles=131):
    """Sorted names of singles and of pairs, made by arithmetic alone: as many as Norman et al. 2019 have."""
    singles = [f"G{i:03}" for i in range(n_singles)]
    pairs = [f"{singles[i]}+{singles[i + step]}" for step in range(1, n_singles) for i in range(n_singles - step)]
    return sorted(singles + pairs[:: len(pairs) // n_doubles][:n_doubles])


@pytest.fixture
def norman(shared_data):
    """The 105 singles and 131 doubles of Norman et al. 2019, in the order of that file."""
    names = pd.read_csv(shared_data("norman2019_pairwise_edist.csv.gz"), index_col=0).index
    return ["+".join(sorted(name.split("_"))) for name in names if name != "control"]


# ---- second implementations


def gears_step(labels, gene_share, pair_share, seed):
    """One step on labels "A+ctrl" and "A+B": what stays, and GEARS' subgroups of what is held out."""
    genes = np.unique([half for label in labels for half in label.split("+") if half != "ctrl"])
    np.random.seed(seed)
    drawn = np.random.choice(genes, int(len(genes) * gene_share), replace=False)
    groups = {"unseen_single": [], "combo_seen0": [], "combo_seen1": []}
    stay, both = [], []
    for label in labels:
        n = np.isin(label.split("+"), drawn).sum()
        if label.endswith("+ctrl"):
            (stay if n else groups["unseen_single"]).append(label)
        else:
            (both if n == 2 else groups[f"combo_seen{n}"]).append(label)
    np.random.seed(seed)
    kept = np.random.choice(np.sort(both), int(len(both) * pair_share), replace=False) if both else []
    groups["combo_seen2"] = sorted(set(both) - set(kept))
    return stay + list(kept), groups


def ours(label):
    return label.removesuffix("+ctrl")


def gears(names, seed, gene_share=0.75, pair_share=0.75):
    """condition → part, and condition → GEARS' subgroup of the test."""
    labels = [name if "+" in name else f"{name}+ctrl" for name in names]
    trained, tested = gears_step(labels, gene_share, pair_share, seed)
    trained, validating = gears_step(trained, 0.9, 0.9, seed)
    found = {ours(label): "train" for label in trained}
    found |= {ours(label): "validation" for group in validating.values() for label in group}
    found |= {ours(label): "test" for group in tested.values() for label in group}
    return found, {ours(label): group for group, held in tested.items() for label in held}


def perturbench(names, seed, share=0.7):
    from sklearn.model_selection import train_test_split

    combinations = sorted(name for name in names if "+" in name)
    random.seed(seed)
    held = random.sample(combinations, k=min(int(len(combinations) * share), 200))
    validating, tested = train_test_split(held, test_size=0.5, stratify=["K562"] * len(held), random_state=seed)
    found = dict.fromkeys(names, "train")
    return found | dict.fromkeys(validating, "validation") | dict.fromkeys(tested, "test")


def linear(names, seed):
    np.random.seed(seed)
    doubles = np.unique([name for name in names if "+" in name])
    trained = list(np.random.choice(doubles, size=len(doubles) // 2, replace=False))
    left = [name for name in doubles if name not in trained]
    tested = np.random.choice(left, size=len(left) // 2, replace=False)
    return {name: "test" if name in tested else "validation" if name in left else "train" for name in names}


def second(rule, names, seed):
    return {"gears": lambda: gears(names, seed)[0], "perturbench": lambda: perturbench(names, seed)}.get(
        rule, lambda: linear(names, seed)
    )()


@pytest.fixture(autouse=True)
def global_generators():
    """The second implementations seed the global generators: put them back."""
    states = random.getstate(), np.random.get_state()
    yield
    random.setstate(states[0])
    np.random.set_state(states[1])


SIZES = [(105, 131), (20, 3), (7, 11), (60, 400)]


@pytest.mark.parametrize("seed", [1, 2, 42])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("rule", RULES)
def test_the_draws_are_those_of_the_papers_programs(rule, size, seed):
    names = generated(*size)
    assert len(names) == sum(size)
    assert parts(RULES[rule], make_cells(names), seed=seed)[0] == second(rule, names, seed)


@pytest.mark.parametrize("seed", [1, 42])
@pytest.mark.parametrize("rule", RULES)
def test_the_draws_on_the_names_of_norman(rule, seed, norman):
    assert parts(RULES[rule], make_cells(norman), seed=seed)[0] == second(rule, norman, seed)


@pytest.mark.parametrize(("gene_share", "pair_share"), [(0.5, 0.75), (0.75, 0.5), (0.9, 1.0), (0.2, 0.0)])
def test_other_shares_of_gears(gene_share, pair_share):
    names = generated()
    found, _ = parts(RULES["gears"], make_cells(names), train_gene_share=gene_share, seen_share=pair_share)
    assert found == gears(names, 1, gene_share, pair_share)[0]


# ---- what never changes


def digest(found):
    return hashlib.sha256("".join(f"{c},{part}\n" for c, part in sorted(found.items())).encode()).hexdigest()[:16]


def n_by_part(found):
    """Singles and combinations of each part."""
    mine = {part: [c for c, p in found.items() if p == part] for part in ("train", "validation", "test")}
    return {part: (sum("+" not in c for c in names), sum("+" in c for c in names)) for part, names in mine.items()}


GENERATED = {
    "gears": ("782083890e208d23", {"train": (70, 41), "validation": (8, 15), "test": (27, 75)}),
    "perturbench": ("0855414a0d26ad82", {"train": (105, 40), "validation": (0, 45), "test": (0, 46)}),
    "linear": ("2b67eb7fe993490d", {"train": (105, 65), "validation": (0, 33), "test": (0, 33)}),
}
NORMAN = {
    "gears": ("cebde97ca0dc387f", {"train": (70, 39), "validation": (8, 13), "test": (27, 79)}),
    "perturbench": ("49d7861cbedcc911", {"train": (105, 40), "validation": (0, 45), "test": (0, 46)}),
    "linear": ("cfcccbcd0e1e5ced", {"train": (105, 65), "validation": (0, 33), "test": (0, 33)}),
}


@pytest.mark.parametrize("rule", RULES)
def test_fixed_digests(rule):
    found, _ = parts(RULES[rule], make_cells(generated()))
    assert (digest(found), n_by_part(found)) == GENERATED[rule]


@pytest.mark.parametrize("rule", RULES)
def test_fixed_digests_on_the_names_of_norman(rule, norman):
    assert (sum("+" not in c for c in norman), sum("+" in c for c in norman)) == (105, 131)
    found, _ = parts(RULES[rule], make_cells(norman))
    assert (digest(found), n_by_part(found)) == NORMAN[rule]


@pytest.mark.parametrize("rule", RULES)
def test_names_and_the_splits_own_seed_alone_decide(rule):
    names = generated(30, 40)
    found, split = parts(RULES[rule], make_cells(names))
    for order in (0, 1):
        again, shuffled = parts(RULES[rule], make_cells(names, order=order))
        assert (again, shuffled.sha256, shuffled.groups) == (found, split.sha256, split.groups)
    # Runs of other seeds are judged on the same cells, unless the split takes the run's seed.
    assert parts(RULES[rule], make_cells(names), run_seed=7)[1].sha256 == split.sha256
    seven, other = parts(RULES[rule], make_cells(names), seed=7)
    assert seven != found
    assert parts(RULES[rule], make_cells(names), run_seed=7, seed=None)[1].sha256 == other.sha256


# ---- groups


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_groups_of_gears(seed):
    names = generated()
    found, split = parts(RULES["gears"], make_cells(names), seed=seed)
    _, theirs = gears(names, seed)
    trained = {c for c, part in found.items() if part == "train"}
    assert set(split.groups) == set(theirs)
    for c, group in split.groups.items():
        seen = sum(target in trained for target in c.split("+"))
        assert group == (f"pairs, {seen} of 2 singles seen" if "+" in c else UNSEEN)
        # Ours differs from GEARS' where the single of a drawn target validates, and nowhere else.
        validating = sum(found[target] == "validation" for target in c.split("+"))
        assert theirs[c] == (f"combo_seen{seen + validating}" if "+" in c else "unseen_single")
    other = [c for c in theirs if "+" in c and not split.groups[c].startswith(f"pairs, {theirs[c][-1]} of")]
    assert other
    (note,) = split.notes
    for group in set(theirs.values()):
        assert f"{sum(g == group for g in theirs.values())} {group}" in note
    assert f"for {len(other)} of these" in note


def test_a_target_that_gears_has_not_drawn_is_nowhere_in_training():
    names = generated(40, 60)
    found, split = parts(RULES["gears"], make_cells(names))
    trained = {target for c, part in found.items() if part == "train" for target in c.split("+")}
    assert not trained & {c for c, group in split.groups.items() if group == UNSEEN}
    assert not trained & {c for c, part in found.items() if part == "validation" and "+" not in c}


def test_without_a_note_the_groups_are_those_of_gears():
    names = generated(20, 6)
    agreeing = 0
    for seed in range(20):
        _, split = parts(RULES["gears"], make_cells(names), seed=seed)
        theirs = gears(names, seed)[1].items()
        same = all(split.groups[c] == f"pairs, {group[-1]} of 2 singles seen" for c, group in theirs if "+" in c)
        assert same == (not split.notes)
        agreeing += same
    assert 0 < agreeing < 20


@pytest.mark.parametrize("rule", RULES)
def test_combinations_of_three(rule):
    names = generated(30, 40)
    singles = [name for name in names if "+" not in name]
    triples = ["+".join(singles[i : i + 3]) for i in range(0, 30, 3)]
    found, split = parts(RULES[rule], make_cells([*names, *triples]))
    trained = {c for c, part in found.items() if part == "train"}
    assert {found[triple] for triple in triples} >= {"train", "test"}
    for triple in triples:
        seen = sum(target in trained for target in triple.split("+"))
        if found[triple] == "test":
            assert split.groups[triple] == f"combinations, {seen} of 3 singles seen"
        if rule == "gears" and found[triple] == "train":
            assert seen == 3
    if rule != "gears":
        assert set(singles) < trained
        assert found == second(rule, [*names, *triples], {"perturbench": 42, "linear": 1}[rule])


# ---- cells and controls


@pytest.mark.parametrize("rule", RULES)
def test_all_cells_of_training_perturbations_train_and_controls_keep_our_rule(rule):
    cells = make_cells(generated(30, 40), n=12)
    split = RULES[rule](cells, 1)
    control = cells.obs["is_control"].to_numpy()
    assert {p: int((split.part[control] == p).sum()) for p in set(split.part[control])} == {"train": 8, "truth": 8}
    shared = RULES[rule](cells, 1, controls_for_truth=0.0)
    assert shared.shared
    assert (shared.part[control] == "train").all()
    some = RULES[rule](cells, 1, validation=0.25, test_cells=0.25)
    trained = split.mask("train") & ~control
    assert np.array_equal(some.part[~trained & ~control], split.part[~trained & ~control])
    assert {p: (some.part[trained] == p).mean() for p in ("test", "validation")} == {
        "test": 3 / 12,
        "validation": 2 / 12,
    }
    with pytest.raises(UserError, match=r"has 12 cells, fewer than split.min_cells=13"):
        RULES[rule](cells, 1, min_cells=13)


@pytest.mark.parametrize("rule", RULES)
def test_the_saved_table_is_the_split(rule, tmp_path):
    cells = make_cells(generated(30, 40))
    found, split = parts(RULES[rule], cells)
    split.table[["cell", "part"]].to_csv(tmp_path / "cells.csv", index=False)
    pd.DataFrame(found.items(), columns=["condition", "part"]).to_csv(tmp_path / "conditions.csv", index=False)
    for table, keys in (("cells.csv", {}), ("conditions.csv", {"test_cells": 0.0, "validation": 0.0, "min_cells": 2})):
        again = from_file(cells, 1, str(tmp_path / table), **keys)
        assert again.groups == split.groups
        assert np.array_equal(again.part == "test", split.part == "test")
        assert np.array_equal(again.part == "validation", split.part == "validation")


def test_a_share_holds_out_two_hundred_at_the_most():
    found, _ = parts(RULES["perturbench"], make_cells(generated(60, 400)))
    assert n_by_part(found) == {"train": (60, 200), "validation": (0, 100), "test": (0, 100)}


def test_the_sizes_of_the_linear_paper():
    """124 doubles: 62 are held out (Ahlmann-Eltze et al. 2025), half of them for the test."""
    found, _ = parts(RULES["linear"], make_cells(generated(100, 124)))
    assert n_by_part(found) == {"train": (100, 62), "validation": (0, 31), "test": (0, 31)}


# ---- refusals


def test_splits_that_cannot_be_made():
    singles, one, two = ["A", "B", "C", "D", "E"], ["A+B"], ["A+B", "C+D"]
    for rule in ("perturbench", "linear"):
        with pytest.raises(UserError, match=r"cells.h5ad: this split holds out combinations, but no label joins two"):
            parts(RULES[rule], make_cells(singles))
    with pytest.raises(UserError, match=r"split.share=0.7 of 2 combinations holds out 1; two are needed"):
        parts(RULES["perturbench"], make_cells(singles + two))
    with pytest.raises(UserError, match=r"1 combinations are too few .*use split=combinations"):
        parts(RULES["linear"], make_cells(singles + one))
    with pytest.raises(UserError, match=r"split.share=1.5: a share between 0 and 1"):
        parts(RULES["perturbench"], make_cells(singles + two), share=1.5)
    for key in ("train_gene_share", "seen_share"):
        with pytest.raises(UserError, match=rf"split.{key}=-1: a share between 0 and 1"):
            parts(RULES["gears"], make_cells(singles), **{key: -1})
    with pytest.raises(UserError, match=r"no perturbed cell for the test"):
        parts(RULES["gears"], make_cells(singles), train_gene_share=1.0)
    for rule in RULES.values():
        for seed in (-1, 2**32):
            with pytest.raises(UserError, match=rf"split.seed={seed}: a whole number from 0 to 4294967295, or null"):
                parts(rule, make_cells(generated(30, 40)), seed=seed)


def test_gears_draws_among_singles_alone():
    found, split = parts(RULES["gears"], make_cells(["A", "B", "C", "D", "E", "F", "G", "H"]))
    assert n_by_part(found) == {"train": (5, 0), "validation": (1, 0), "test": (2, 0)}
    assert set(split.groups.values()) == {UNSEEN}
    assert split.notes == []


@pytest.mark.parametrize(
    ("target", "keys", "words"),
    [
        ("named_splits.gears_simulation", {"sed": 1}, r"split.sed: gears_simulation has no such argument .*'seed'"),
        ("named_splits.gears_simulation", {"test_cels": 0}, r"split.test_cels: .*'test_cells'"),
        ("named_splits.gears_simulation", {"seed": 0.5}, r"split.seed=0.5: a whole number or null expected"),
        ("named_splits.perturbench_combine", {"min_cells": "ten"}, r"split.min_cells='ten': a whole number expected"),
        ("named_splits.linear_doubles", {"drop_small": 1}, r"split.drop_small=1: true or false expected"),
        ("split_table.from_file", {"pth": "x"}, r"split.pth: from_file has no such argument .*'path'"),
        ("split.held_out_cells", {"seed": 1}, r"split.seed: held_out_cells has no such argument"),
        ("split.held_out_cells", {"rest": 1}, r"split.rest: held_out_cells has no such argument"),
    ],
)
def test_keys_are_checked_before_data_is_read(target, keys, words):
    with pytest.raises(UserError, match=words):
        check_calls({"_target_": f"stormcell.data.{target}", "_partial_": True, **keys}, "split")
    right = {"test_cells": 0.1, "validation": 0, "controls_for_truth": 0.5, "min_cells": 3, "drop_small": True}
    check_calls({"_target_": f"stormcell.data.{target}", "_partial_": True, **right}, "split")


def test_the_rules_stand_as_partials():
    """As Hydra makes them of the YAML: the run's seed is given by position, the split's by name."""
    split = partial(named_splits.linear_doubles, seed=1, min_cells=2)(make_cells(generated(30, 40)), 5)
    assert split.sha256 == named_splits.linear_doubles(make_cells(generated(30, 40)), 9, min_cells=2).sha256
