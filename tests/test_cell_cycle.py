"""Phases of the cell cycle: planted ones come back, equal to scanpy's, for mouse too, in any order of the file."""

from functools import partial
from importlib.resources import files

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from conftest import write_h5ad
from scipy.sparse import csr_matrix

from stormcell.config import DataConfig, GeneSelection, UserError
from stormcell.data import split as splits
from stormcell.data.cell_cycle import COLUMNS, cell_cycle_genes, score_cell_cycle
from stormcell.data.cells import read
from stormcell.data.control_perturbed import ControlPerturbedDataModule
from stormcell.data.screen import Screen

GENES = cell_cycle_genes()
SPLIT = partial(splits.held_out_cells, controls_for_truth=0.25)


def cycling(path, name=str, n=300, share=1.0):
    """A third of the cells each in G1, S and G2M, whose genes (a share of them) have six times the counts there."""
    rng = np.random.default_rng(5)
    known = {phase: [name(gene) for gene in genes[: round(share * len(genes))]] for phase, genes in GENES.items()}
    genes = [*(f"g{i}" for i in range(300)), *known["S"], *known["G2M"]]
    phase = np.array(["G1", "S", "G2M"])[rng.permutation(n) % 3]
    rate = np.tile(rng.lognormal(-0.5, 0.8, len(genes)), (n, 1))
    for which, mine in known.items():
        rate[np.ix_(phase == which, np.isin(genes, mine))] *= 6
        rate[np.ix_(phase == "G1", np.isin(genes, mine))] /= 3
    order = rng.permutation(len(genes))
    obs = pd.DataFrame(
        {"perturbation": np.array(["control", "A", "B"])[np.arange(n) % 3], "phase": phase},
        index=[f"cell{i:03}" for i in rng.permutation(n)],
    )
    return write_h5ad(path, rng.poisson(rate)[:, order].astype(float), obs, [genes[i] for i in order])


def config(path, **keys):
    return DataConfig(name="test", path=str(path), **{"genes": GeneSelection(top=50), **keys})


def module(path, paired=True, **keys):
    data = ControlPerturbedDataModule(config(path, **keys), SPLIT, 1, 32, paired)
    data.setup()
    return data


def truth_of(path, data):
    return ad.read_h5ad(path).obs["phase"][data.cells.obs.index].to_numpy(str)


# ---- the list


def test_the_list_is_in_the_package_whole_and_cited():
    assert {name: len(genes) for name, genes in GENES.items()} == {"S": 43, "G2M": 54}
    assert not set(GENES["S"]) & set(GENES["G2M"])
    assert len(set(GENES["S"] + GENES["G2M"])) == 97
    assert {"MCM5", "PCNA", "E2F8"} < set(GENES["S"])
    assert {"HMGB2", "MKI67", "CENPA"} < set(GENES["G2M"])
    assert "Tirosh et al. 2016" in files("stormcell.data").joinpath("cell_cycle_genes.txt").read_text()


def test_the_list_is_the_one_that_is_passed_around(shared_data):
    known = shared_data("cell_cycle_genes_human.txt").read_text().split()
    assert [*GENES["S"], *GENES["G2M"]] == known


# ---- scores


@pytest.mark.parametrize("name", [str, str.capitalize, str.lower], ids=["human", "mouse", "lower"])
def test_planted_phases_come_back(tmp_path, name):
    path = cycling(tmp_path / "cells.h5ad", name)
    data = module(path)
    assert len(data.spec.genes) == 50, "scored before the selection"
    assert (data.cells.obs["phase"].to_numpy(str) == truth_of(path, data)).mean() > 0.95
    assert "cell-cycle phase scored by 97 of 97 genes (Tirosh et al. 2016)" in data.cells.notes


def test_the_scores_are_those_of_scanpy(tmp_path):
    path = cycling(tmp_path / "cells.h5ad")
    data = module(path)
    adata = ad.read_h5ad(path)[data.cells.obs.index].copy()
    adata.X = csr_matrix(np.log1p(adata.X.toarray() / adata.X.sum(1).A1[:, None] * 1e4))
    sc.tl.score_genes_cell_cycle(adata, s_genes=list(GENES["S"]), g2m_genes=list(GENES["G2M"]))
    assert (data.cells.obs["phase"].to_numpy(str) == adata.obs["phase"].to_numpy(str)).all()
    for column in COLUMNS[:2]:
        assert np.allclose(data.cells.obs[column], adata.obs[column], atol=1e-5)


def test_log1p_values_are_scored_as_they_are(tmp_path):
    path = cycling(tmp_path / "cells.h5ad")
    file = ad.read_h5ad(path)
    file.X = np.log1p(file.X.toarray() / file.X.sum(1).A1[:, None] * 1e4)
    file.write_h5ad(tmp_path / "logs.h5ad")
    logs = module(tmp_path / "logs.h5ad", scale="log1p", genes=GeneSelection(top=None))
    assert np.allclose(logs.cells.obs["S_score"], module(path).cells.obs["S_score"], atol=1e-5)


def test_the_order_of_the_file_plays_no_part(tmp_path):
    path = cycling(tmp_path / "cells.h5ad")
    file = ad.read_h5ad(path)
    file[np.random.default_rng(1).permutation(file.n_obs)].copy().write_h5ad(tmp_path / "shuffled.h5ad")
    one, other = module(path).cells.obs, module(tmp_path / "shuffled.h5ad").cells.obs
    assert one[list(COLUMNS)].equals(other[list(COLUMNS)])


def test_the_generator_of_numpy_is_left_as_it_was(tmp_path):
    cells = read(config(cycling(tmp_path / "cells.h5ad")))
    np.random.seed(12)  # noqa: NPY002
    score_cell_cycle(cells, True, asked=False)
    drawn = np.random.random(3)  # noqa: NPY002
    np.random.seed(12)  # noqa: NPY002
    assert np.array_equal(drawn, np.random.random(3))  # noqa: NPY002


def test_real_cells_are_scored(shared_data):
    """Interferon does not move the cycle of blood cells much; mouse progenitors cycle."""
    cells = read(config(shared_data("paul2015_myeloid.h5ad"), perturbation_key=None))
    scored = score_cell_cycle(cells, "auto", asked=True)
    assert "cell-cycle phase scored by 50 of 97 genes (Tirosh et al. 2016)" in scored.notes
    assert scored.obs["phase"].value_counts(normalize=True).min() > 0.1
    assert len(scored) == len(cells)
    assert "phase" not in cells.obs


# ---- who asks


def test_only_a_paired_view_asks(tmp_path):
    path = cycling(tmp_path / "cells.h5ad")
    unpaired, never = module(path, paired=False), module(path, cell_cycle=False)
    for data in (unpaired, never):
        assert not set(COLUMNS) & set(data.cells.obs)
        assert not [note for note in data.cells.notes if "cycle" in note]
    screen = Screen(config(path, cell_cycle=True), SPLIT)
    screen.setup()
    assert set(COLUMNS) < set(screen.cells.obs)


def test_another_file_is_scored_over_its_own_genes(tmp_path):
    path = cycling(tmp_path / "cells.h5ad")
    data = module(path)
    other = ControlPerturbedDataModule(config(path), SPLIT, 1, 32, paired=True)
    other.setup_elsewhere(data.spec, 0.5)
    assert other.cells.obs["phase"].equals(data.cells.obs["phase"])


def test_a_column_of_the_file_stands_for_the_scores(tmp_path):
    path = cycling(tmp_path / "cells.h5ad")
    for keys in ({"phase_key": "phase"}, {"phase_key": ["stage", "phase"]}, {"covariate_keys": ["phase"]}):
        data = module(path, **keys)
        assert np.array_equal(data.cells.obs["phase"].to_numpy(str), truth_of(path, data))
        assert "S_score" not in data.cells.obs
    with pytest.raises(UserError, match=r"data.cell_cycle=true would write over the obs column 'phase' that was read"):
        module(path, phase_key="phase", cell_cycle=True)
    with pytest.raises(UserError, match=r"no obs column 'fase' \(data.phase_key\) \(did you mean 'phase'\?\)"):
        module(path, phase_key="fase")


# ---- refusals


@pytest.mark.parametrize(("share", "scored"), [(0.2, True), (0.18, False)])
def test_too_few_genes_are_said_or_refused(tmp_path, share, scored):
    path = cycling(tmp_path / "cells.h5ad", share=share)
    data = module(path)
    assert ("phase" in data.cells.obs) == scored
    if not scored:
        words = "the file has 8 of the 43 genes of S and 10 of the 54 of G2/M; 20 are needed, 5 of each"
        assert f"no cell-cycle phase: {words}" in data.cells.notes


def test_one_set_alone_is_not_enough(tmp_path):
    path = cycling(tmp_path / "cells.h5ad")
    file = ad.read_h5ad(path)
    file[:, ~file.var_names.isin(GENES["S"][4:])].copy().write_h5ad(path)
    assert "phase" not in module(path).cells.obs
    words = (
        r"cells.h5ad: data.cell_cycle=true, but the file has 4 of the 43 genes of S and 54 of the 54 of G2/M; 20 are"
    )
    with pytest.raises(UserError, match=words):
        module(path, cell_cycle=True)


def test_values_that_are_no_expression_are_not_scored(tmp_path):
    path = cycling(tmp_path / "cells.h5ad")
    keys = {"scale": "continuous", "genes": GeneSelection(top=None)}
    assert "no cell-cycle phase: data.scale=continuous is not log1p expression" in module(path, **keys).cells.notes
    with pytest.raises(UserError, match=r"data.cell_cycle=true, but data.scale=continuous"):
        module(path, cell_cycle=True, **keys)
    with pytest.raises(UserError, match=r"data.cell_cycle='aut': true, false or auto \(did you mean 'auto'\?\)"):
        module(path, cell_cycle="aut")
