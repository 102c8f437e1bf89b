"""Splits of cells within clusters: exact shares, names and seed alone decide, every cluster can be learnt from."""

import hydra
import numpy as np
import pandas as pd
import pytest
from conftest import ROOT
from omegaconf import OmegaConf
from scipy.sparse import csr_matrix

from stormcell.config import UserError
from stormcell.data.cells import Cells
from stormcell.data.split_clusters import held_out_in_clusters

SIZES = {"A": 100, "B": 50, "C": 7, "D": 1}


def make_cells(sizes=SIZES, order=None):
    obs = pd.DataFrame({"cluster": np.repeat(list(sizes), list(sizes.values()))})
    obs.index = [f"{c}{i:03}" for c, n in sizes.items() for i in range(n)]
    if order is not None:
        obs = obs.iloc[np.random.default_rng(order).permutation(len(obs))]
    return Cells(csr_matrix((len(obs), 3), dtype=np.float32), "counts", obs, list("xyz"), "control", "cells.h5ad", "")


def parts(split, cells):
    return dict(zip(cells.obs.index, split.part, strict=True))


def test_every_cluster_is_split_by_the_shares():
    cells = make_cells()
    split = held_out_in_clusters(cells, 1, test_cells=0.2, validation=0.1)
    counted = pd.crosstab(cells.obs["cluster"], split.part)
    assert counted.loc["A"].to_dict() == {"test": 20, "train": 72, "validation": 8}
    assert counted.loc["B"].to_dict() == {"test": 10, "train": 36, "validation": 4}
    assert counted.loc["C"].to_dict() == {"test": 1, "train": 5, "validation": 1}
    assert counted.loc["D"].to_dict() == {"test": 0, "train": 1, "validation": 0}
    assert split.notes == ["cluster D has no test cell: 1 cells, split.test_cells=0.2"]
    assert split.groups == {}
    assert split.shared
    assert split.table.set_index("cell")["part"].to_dict() == parts(split, cells)


def test_the_order_of_the_file_and_other_clusters_play_no_part():
    cells, moved, more = make_cells(), make_cells(order=0), make_cells({**SIZES, "E": 30})
    split = held_out_in_clusters(cells, 1)
    again = held_out_in_clusters(moved, 1)
    assert parts(again, moved) == parts(split, cells)
    assert again.sha256 == split.sha256
    assert parts(split, cells).items() <= parts(held_out_in_clusters(more, 1), more).items()
    assert held_out_in_clusters(cells, 2).sha256 != split.sha256


def test_clusters_are_drawn_apart():
    """Equal numbers would be held out of A and B if the cluster were no part of the key."""
    cells = make_cells({"A": 100, "B": 100})
    held = {name[1:] for name, part in parts(held_out_in_clusters(cells, 1), cells).items() if part == "test"}
    assert len(held) > 25


def test_all_but_one_cell_can_be_held_out():
    split = held_out_in_clusters(make_cells(), 1, test_cells=1.0, validation=1.0)
    assert (split.part == "train").sum() == len(SIZES)


def test_cells_without_a_cluster_are_left_out():
    cells = make_cells({"A": 20, "nan": 5})
    split = held_out_in_clusters(cells, 1)
    assert set(split.part[20:]) == {"unused"}
    assert split.notes == ["5 cells without a cluster left out"]


def test_bad_input():
    cells = make_cells()
    with pytest.raises(UserError, match=r"split\.test_cells=2: a share between 0 and 1"):
        held_out_in_clusters(cells, 1, test_cells=2)
    with pytest.raises(UserError, match=r"split\.test_cells=0 leaves no cell of any cluster"):
        held_out_in_clusters(cells, 1, test_cells=0)
    cells.obs = cells.obs.rename(columns={"cluster": "cell_type"})
    with pytest.raises(UserError, match=r"cells\.h5ad: .*data\.cluster_key is null; columns read: cell_type"):
        held_out_in_clusters(cells, 1)


def test_the_config_is_the_rule():
    rule = hydra.utils.instantiate(OmegaConf.load(ROOT / "conf" / "split" / "clusters.yaml"))
    assert rule(make_cells(), 1).sha256 == held_out_in_clusters(make_cells(), 1).sha256
