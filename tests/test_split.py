"""Splits: who is where depends on names and the seed alone, shares are exact, nothing sits on two sides."""

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix

from stormcell.config import UserError
from stormcell.data import split as splits
from stormcell.data import split_table
from stormcell.data.cells import Cells
from stormcell.data.conditions import UNSEEN

SIZES = {"control": 100, "A": 40, "B": 40, "C": 40, "D": 40, "A+B": 40, "A+E": 40, "E+F": 40, "A+B+C": 40}


def make_cells(sizes=SIZES, batches=("b1", "b2"), lines=("K562",), order=None):
    """Cells named by condition and number; batch and line go round within a condition. `order`: seed of a shuffle."""
    rows = [
        (c, batches[i % len(batches)], lines[i % len(lines)], f"{c}-{i:03}") for c, n in sizes.items() for i in range(n)
    ]
    obs = pd.DataFrame(rows, columns=["condition", "batch", "line", "name"]).set_index("name")
    obs["is_control"] = (obs["condition"] == "control").to_numpy()
    if order is not None:
        obs = obs.iloc[np.random.default_rng(order).permutation(len(obs))]
    return Cells(csr_matrix((len(obs), 3), dtype=np.float32), "counts", obs, list("xyz"), "control", "cells.h5ad", "")


def parts(split, cells):
    return dict(zip(cells.obs.index, split.part, strict=True))


def count(split, cells, **where):
    chosen = np.ones(len(cells), bool)
    for key, value in where.items():
        chosen &= (cells.obs[key] == value).to_numpy()
    return {part: int(n) for part, n in zip(*np.unique(split.part[chosen], return_counts=True), strict=True)}


RULES = {
    "cells": lambda cells, seed=1: splits.held_out_cells(cells, seed),
    "perturbations": lambda cells, seed=1: splits.held_out_perturbations(cells, seed, share=0.5),
    "combinations": lambda cells, seed=1: splits.held_out_combinations(cells, seed, share=0.5, test_cells=0.2),
    "unseen targets": lambda cells, seed=1: splits.held_out_combinations(cells, seed, unseen_targets=0.3),
    "covariate": lambda cells, seed=1: splits.held_out_covariate(cells, seed, key="line", value="THP1"),
    "few-shot": lambda cells, seed=1: splits.held_out_covariate(cells, seed, key="line", value="THP1", share=0.5),
    "other file": lambda cells, seed=1: splits.judged_only(cells, seed, ["A", "B"], 0.5),
}


# ---- what every split keeps


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_the_order_of_the_file_plays_no_part(rule):
    cells = make_cells(lines=("K562", "THP1", "RPE1"))
    split = rule(cells)
    for order in (0, 1):
        shuffled = make_cells(lines=("K562", "THP1", "RPE1"), order=order)
        again = rule(shuffled)
        assert parts(again, shuffled) == parts(split, cells)
        assert again.sha256 == split.sha256
        assert again.groups == split.groups
    other = rule(cells, seed=2)
    assert other.sha256 != split.sha256


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_every_cell_has_one_part_and_the_truth_is_controls(rule):
    cells = make_cells(lines=("K562", "THP1", "RPE1"))
    split = rule(cells)
    masks = np.array([split.mask(part) for part in splits.PARTS])
    assert (masks.sum(0) == 1).all()
    assert cells.obs["is_control"].to_numpy()[split.mask("truth")].all()
    assert split.mask("truth").any()
    assert not split.shared
    assert set(split.groups) >= set(cells.obs["condition"][split.mask("test")])
    assert "control" not in split.groups
    table = split.table.set_index("cell")["part"]
    assert table.to_dict() == parts(split, cells)


def test_the_hash_sees_one_cell_move():
    cells = make_cells()
    split = splits.held_out_cells(cells, 1)
    part = split.part.copy()
    row = np.flatnonzero(split.mask("train"))[0]
    part[row] = "validation"
    assert splits.finish(cells, part, split.groups, None, []).sha256 != split.sha256
    part[row] = "train"
    assert splits.finish(cells, part, split.groups, None, []).sha256 == split.sha256


def test_one_perturbation_more_leaves_the_others_where_they_were():
    cells, more = make_cells(), make_cells({**SIZES, "AA": 40, "Z": 40})
    before, after = (parts(splits.held_out_cells(c, 1), c) for c in (cells, more))
    assert {name: after[name] for name in before} == before


# ---- shares


@pytest.mark.parametrize(("test", "validation", "truth"), [(0.2, 0.1, 0.5), (0.25, 0.2, 0.3), (0.0, 0.1, 0.9)])
def test_shares_are_exact(test, validation, truth):
    cells = make_cells()
    held = {"names": ["D"]}
    split = splits.held_out_perturbations(
        cells, 1, **held, test_cells=test, validation=validation, controls_for_truth=truth
    )
    assert count(split, cells, condition="D") == {"test": 40}
    n_test = round(40 * test)
    n_validation = round((40 - n_test) * validation)
    expected = {"test": n_test, "train": 40 - n_test - n_validation, "validation": n_validation}
    for condition in set(SIZES) - {"control", "D"}:
        assert count(split, cells, condition=condition) == {part: n for part, n in expected.items() if n}
    n_truth = round(50 * truth)
    n_validation = round((50 - n_truth) * validation)
    expected = {"train": 50 - n_truth - n_validation, "truth": n_truth, "validation": n_validation}
    for batch in ("b1", "b2"):
        found = count(split, cells, condition="control", batch=batch)
        assert found == {part: n for part, n in expected.items() if n}


def test_controls_are_divided_within_uneven_batches():
    cells = make_cells(batches=("b1", "b1", "b1", "b2"))
    split = splits.held_out_cells(cells, 1)
    assert count(split, cells, condition="control", batch="b1")["truth"] == round(75 / 2)
    assert count(split, cells, condition="control", batch="b2")["truth"] == round(25 / 2)


def test_shared_controls_are_all_in_training():
    cells = make_cells()
    split = splits.held_out_cells(cells, 1, controls_for_truth=0.0)
    assert split.shared
    assert count(split, cells, condition="control") == {"train": 100}


def test_small_perturbations():
    cells = make_cells({"control": 40, "A": 40, "B": 9, "C": 8})
    with pytest.raises(UserError, match=r"perturbation 'B' has 9 cells, fewer than split.min_cells=10; .*drop_small"):
        splits.held_out_cells(cells, 1)
    split = splits.held_out_cells(cells, 1, drop_small=True)
    assert count(split, cells, condition="B") == {"unused": 9}
    assert split.notes == [
        f"perturbation {c} left out: {n} cells, fewer than split.min_cells=10" for c, n in (("B", 9), ("C", 8))
    ]
    assert set(split.groups) == {"A"}
    # One cell has no distribution: validation takes two where it takes any.
    split = splits.held_out_cells(cells, 1, min_cells=5)
    assert count(split, cells, condition="C") == {"test": 2, "train": 4, "validation": 2}
    lone = make_cells({"control": 40, "A": 40, "B": 1})
    assert count(splits.held_out_cells(lone, 1, min_cells=1), lone, condition="B") == {"train": 1}


def test_a_single_that_is_left_out_is_not_a_seen_one():
    sizes = {"control": 40, "A": 40, "B": 9, "A+B": 40}
    split = splits.held_out_combinations(make_cells(sizes), 1, drop_small=True)
    assert split.groups == {"A": splits.SEEN, "A+B": "pairs, 1 of 2 singles seen"}
    split = splits.held_out_combinations(make_cells(sizes), 1, min_cells=9)
    assert split.groups["A+B"] == "pairs, 2 of 2 singles seen"


# ---- what is held out


def test_pairs_by_the_singles_that_training_has_seen():
    cells = make_cells()
    split = splits.held_out_combinations(cells, 1, share=1.0, test_cells=0.0)
    assert split.groups == {
        "A+B": "pairs, 2 of 2 singles seen",
        "A+E": "pairs, 1 of 2 singles seen",
        "E+F": "pairs, 0 of 2 singles seen",
        "A+B+C": "combinations, 3 of 3 singles seen",
    }
    for condition in split.groups:
        assert count(split, cells, condition=condition) == {"test": 40}
    two = splits.held_out_combinations(cells, 1, share=1.0, singles_seen=2, test_cells=0.2)
    assert {c for c, group in two.groups.items() if group != splits.SEEN} == {"A+B"}
    assert count(two, cells, condition="A+E")["test"] == 8
    half = splits.held_out_combinations(cells, 1, share=0.5, test_cells=0.0)
    assert len(half.groups) == 2


def test_hidden_targets_are_nowhere_in_training():
    sizes = {
        "control": 60,
        **dict.fromkeys("ABCDEFGH", 20),
        **{f"{a}+{b}": 20 for a, b in ("AB", "CD", "EF", "GH", "AC")},
    }
    cells = make_cells(sizes)
    split = splits.held_out_combinations(cells, 3, share=0.0, unseen_targets=0.25, test_cells=0.0)
    hidden = {c for c, group in split.groups.items() if group == UNSEEN}
    assert len(hidden) == 2
    trained = set(cells.obs["condition"][~split.mask("test")]) - {"control"}
    assert not {target for condition in trained for target in condition.split("+")} & hidden
    for condition, group in split.groups.items():
        targets = set(condition.split("+"))
        if len(targets) == 2:
            assert group == f"pairs, {2 - len(targets & hidden)} of 2 singles seen"


def test_held_out_perturbations():
    cells = make_cells()
    split = splits.held_out_perturbations(cells, 1, names=["B+A", "C"], test_cells=0.0)
    assert split.groups == {"A+B": "pairs, 2 of 2 singles seen", "C": UNSEEN}
    assert not set(cells.obs["condition"][~split.mask("test")]) & {"A+B", "C"}
    drawn = splits.held_out_perturbations(cells, 1, share=0.5, test_cells=0.0)
    assert len(drawn.groups) == 2
    assert all("+" not in c for c in drawn.groups)
    with pytest.raises(UserError, match=r"split.names: no perturbation 'A\+D' in the data"):
        splits.held_out_perturbations(cells, 1, names=["A+D"])


def test_held_out_covariate():
    cells = make_cells(lines=("K562", "THP1", "RPE1"))
    split = splits.held_out_covariate(cells, 1, key="line", value="THP1", test_cells=0.0)
    inside = (cells.obs["line"] == "THP1").to_numpy()
    control = cells.obs["is_control"].to_numpy()
    assert np.array_equal(split.mask("test"), inside & ~control)
    assert split.context_key == "line"
    assert set(split.groups.values()) == {"held-out covariate line=THP1"}
    # Its controls are on both sides, in each batch of it.
    for batch in ("b1", "b2"):
        n = count(split, cells, condition="control", line="THP1", batch=batch)
        assert n["truth"] == round(sum(n.values()) / 2)
    with pytest.raises(UserError, match=r"no column 'lin' \(split.key\) \(did you mean 'line'\?\)"):
        splits.held_out_covariate(cells, 1, key="lin", value="THP1")
    with pytest.raises(UserError, match=r"line='THP2' \(split.value\) \(did you mean 'THP1'\?\): K562, RPE1, THP1"):
        splits.held_out_covariate(cells, 1, key="line", value="THP2")


def test_a_share_of_the_perturbations_of_a_covariate():
    cells = make_cells(lines=("K562", "THP1", "RPE1"))
    rule = {"key": "line", "value": "THP1", "test_cells": 0.0}
    split = splits.held_out_covariate(cells, 1, **rule, share=0.5)
    assert set(split.groups.values()) == {"held-out covariate line=THP1"}
    assert len(split.groups) == 4  # of 8
    inside = (cells.obs["line"] == "THP1").to_numpy()
    for condition in set(SIZES) - {"control"}:
        mine = inside & (cells.obs["condition"] == condition).to_numpy()
        if condition in split.groups:
            assert (split.part[mine] == "test").all()
        else:
            assert "train" in split.part[mine]
            assert "test" not in split.part[mine]
    assert not (split.mask("test") & ~inside).any()
    whole = splits.held_out_covariate(cells, 1, **rule, share=1.0)
    assert whole.sha256 == splits.held_out_covariate(cells, 1, **rule).sha256
    assert set(split.groups) < set(whole.groups) == set(SIZES) - {"control"}
    with pytest.raises(UserError, match=r"no perturbed cell for the test"):
        splits.held_out_covariate(cells, 1, **rule, share=0.0)
    with pytest.raises(UserError, match=r"split.share=2: a share between 0 and 1"):
        splits.held_out_covariate(cells, 1, **rule, share=2)


def test_a_held_out_covariate_needs_controls_on_both_sides():
    cells = make_cells({"control": 40, "A": 40}, lines=("K562",))
    where = cells.obs.columns.get_loc("line")
    cells.obs.iloc[40:60, where] = "RPE1"
    with pytest.raises(UserError, match=r"line=RPE1 has no control cells to start from"):
        splits.held_out_covariate(cells, 1, key="line", value="RPE1")
    cells.obs.iloc[0, where] = "RPE1"
    with pytest.raises(UserError, match=r"line=RPE1 has 1 control cells, too few for both the methods and the truth"):
        splits.held_out_covariate(cells, 1, key="line", value="RPE1")
    shared = splits.held_out_covariate(cells, 1, key="line", value="RPE1", controls_for_truth=0.0)
    assert shared.part[0] == "train"


# ---- from a file


def test_a_table_of_cells(tmp_path):
    cells = make_cells()
    split = splits.held_out_combinations(cells, 1, share=1.0, test_cells=0.2)
    table = split.table[["cell", "part"]].sample(frac=1, random_state=0)
    table.to_csv(tmp_path / "parts.csv", index=False)
    again = split_table.from_file(cells, 5, str(tmp_path / "parts.csv"))
    assert parts(again, cells) == parts(split, cells)
    assert again.sha256 == split.sha256
    assert again.groups == split.groups


def test_a_table_of_conditions(tmp_path):
    cells = make_cells()
    (tmp_path / "held.csv").write_text("condition,part\nB+A,test\nC,test\nD,train\n")
    split = split_table.from_file(cells, 1, str(tmp_path / "held.csv"), test_cells=0.0)
    assert split.groups == {"A+B": "pairs, 2 of 2 singles seen", "C": UNSEEN}
    same = splits.held_out_perturbations(cells, 1, names=["A+B", "C"], test_cells=0.0)
    assert split.sha256 == same.sha256


def test_a_table_that_holds_conditions_out_for_validation(tmp_path):
    cells = make_cells()
    (tmp_path / "held.csv").write_text("condition,part\nA+B,test\nB,validation\nE+F,validation\nC,train\n")
    split = split_table.from_file(cells, 1, str(tmp_path / "held.csv"), test_cells=0.0, validation=0.0)
    for condition, part in [
        ("A+B", "test"),
        ("B", "validation"),
        ("E+F", "validation"),
        ("C", "train"),
        ("D", "train"),
    ]:
        assert count(split, cells, condition=condition) == {part: 40}
    assert split.groups == {"A+B": "pairs, 1 of 2 singles seen"}  # B validates, and no cell of it trains
    # The table of its cells is the same split again.
    split.table[["cell", "part"]].to_csv(tmp_path / "cells.csv", index=False)
    again = split_table.from_file(cells, 2, str(tmp_path / "cells.csv"))
    assert (again.sha256, again.groups) == (split.sha256, split.groups)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("cell,set\nA-001,test\n", r"columns `part` and `cell` or `condition` are needed \(split.path\)"),
        (
            "condition,part\nA,tets\n",
            r"part 'tets' \(did you mean 'test'\?\); parts are train, validation, test, truth",
        ),
        ("condition,part\nA,\n", r"part ''; parts are"),
        ("condition,part\nA,test\nC,truth\n", r"part 'truth' of a whole condition .* train, validation, test, and"),
        ("condition,part\nA+B,test\nB+A,validation\n", r"condition 'A\+B' stands in two parts \(split.path\)"),
        ("condition,part\nA,test\nX,validation\n", r"no perturbation 'X' in the data"),
        ("condition,part\nA,test\ncontrol,validation\n", r"no perturbation 'control' in the data"),
        ("condition,part\nX+Y,test\n", r"no perturbation 'X\+Y' in the data"),
        ("cell,part\nA-001,test\n", r"419 cells of the data have no row \(split.path\)"),
        ("cell,part\nA-001,test\nA-001,train\n", r"cell 'A-001' stands in two parts"),
        ("\0\1\2", r"not a table|columns `part`"),
        ("", r"not a table"),
    ],
)
def test_tables_that_are_refused(tmp_path, text, words):
    (tmp_path / "split.csv").write_text(text)
    with pytest.raises(UserError, match=words):
        split_table.from_file(make_cells(), 1, str(tmp_path / "split.csv"))


def test_a_table_that_is_missing_or_leaves_perturbed_cells_to_the_truth(tmp_path):
    cells = make_cells()
    with pytest.raises(UserError, match=r"split.path=.*splt.csv: no such file"):
        split_table.from_file(cells, 1, str(tmp_path / "splt.csv"))
    table = splits.held_out_cells(cells, 1).table
    table.loc[table["cell"] == "A-001", "part"] = "truth"
    table.to_csv(tmp_path / "split.csv", index=False)
    with pytest.raises(UserError, match=r"1 perturbed cells are of part truth"):
        split_table.from_file(cells, 1, str(tmp_path / "split.csv"))


# ---- refusals


def test_splits_that_cannot_be_made():
    with pytest.raises(UserError, match=r"cells.h5ad: no perturbed cells, every cell is 'control' \(data.control\)"):
        splits.held_out_cells(make_cells({"control": 40}), 1)
    with pytest.raises(UserError, match=r"split=cells or split=perturbations"):
        splits.held_out_combinations(make_cells({"control": 40, "A": 40}), 1)
    with pytest.raises(UserError, match=r"of 2 control cells \('control'\) fewer than two are left for training"):
        splits.held_out_cells(make_cells({"control": 2, "A": 40}, batches=("b1",)), 1)
    with pytest.raises(UserError, match=r"no perturbed cell for the test"):
        splits.held_out_cells(make_cells(), 1, test_cells=0.0)
    for key in ("test_cells", "validation", "controls_for_truth"):
        with pytest.raises(UserError, match=rf"split.{key}=1.5: a share between 0 and 1"):
            splits.held_out_cells(make_cells(), 1, **{key: 1.5})
    with pytest.raises(UserError, match=r"split.share=-1: a share between 0 and 1"):
        splits.held_out_perturbations(make_cells(), 1, share=-1)
    cells = make_cells()
    cells.obs = cells.obs.drop(columns=["condition", "is_control"])
    with pytest.raises(UserError, match=r"needs control and perturbed cells, but data.perturbation_key is null"):
        splits.held_out_cells(cells, 1)


def test_cells_of_another_file_are_all_judged():
    cells = make_cells()
    split = splits.judged_only(cells, 1, ["A", "B", "E", "A+E"], 0.5)
    perturbed = ~cells.obs["is_control"].to_numpy()
    assert np.array_equal(split.mask("test"), perturbed)
    assert split.groups["A"] == split.groups["A+E"] == splits.SEEN
    assert split.groups["C"] == UNSEEN
    assert split.groups["A+B"] == "pairs, 2 of 2 singles seen"
    assert split.groups["E+F"] == "pairs, 1 of 2 singles seen"
    assert count(split, cells, condition="control") == {"train": 50, "truth": 50}
