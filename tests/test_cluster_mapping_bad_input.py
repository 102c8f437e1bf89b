"""The view of transitions: what it tells of odd cells and masks, and what it refuses in one sentence."""

from functools import partial

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix, save_npz
from transition_world import EDGES, GENES, counts, module, rewritten, world

from stormcell.analysis.couplings import Nearest, Precomputed, PseudotimeLag
from stormcell.config import UserError
from stormcell.data.prior import FilePrior
from stormcell.data.split import held_out_cells
from stormcell.data.split_clusters import held_out_in_clusters


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return world(tmp_path_factory.mktemp("world"))


# ---- what is told


def test_constant_genes_leave_the_mask_and_are_told(made, tmp_path):
    def constant(cells):
        cells.X = cells.X.toarray()
        cells.X[:, GENES.index("G03")] = np.where(cells.obs["cluster"] == "A", 2.0, 3.0)  # varies between clusters
        cells.X = csr_matrix(cells.X)

    data = module(rewritten(made, tmp_path, constant))
    gone = [edge for edge in EDGES if "G03" in edge]
    assert data.spec.n_edges == len(EDGES) - len(gone)
    assert any("1 genes do not vary within the clusters" in note for note in data.cells.notes)
    assert all(np.isfinite(side).all() for side in (data.sides(0, "test").x, data.sides(0, "test").y))


def test_more_regulators_than_cells_is_told(made, tmp_path):
    keep = np.r_[0:8, 160:200]
    path = rewritten(made, tmp_path, lambda cells: cells[keep].copy())
    pd.DataFrame([{"source": r, "target": "G11"} for r in GENES[:10]]).to_csv(tmp_path / "prior.csv", index=False)
    data = module(path, components=3)
    assert any("up to 10 regulators: ridge decides" in note for note in data.cells.notes)


def test_unknown_genes_and_duplicates_are_told(made, tmp_path):
    table = pd.DataFrame({"source": ["G00", "G00", "NEW"], "target": ["G03", "G03", "G04"]})
    table.to_csv(tmp_path / "mine.csv", index=False)
    data = module(made, prior=FilePrior(str(tmp_path / "mine.csv")))
    told = " ".join(data.cells.notes)
    assert data.spec.n_edges == 1
    assert "not among the genes of the cells: 1 names" in told
    assert "repeated edges merged: 1" in told


def test_cells_without_a_cluster_stand_in_no_transition(tmp_path):
    """Also where cells are smoothed: they have no neighbour in training."""
    path = counts(tmp_path)
    cells = ad.read_h5ad(path)
    labels = cells.obs["cluster"].astype(object).to_numpy()
    labels[:10] = np.nan
    cells.obs["cluster"] = pd.Categorical(labels)
    cells.write_h5ad(path)
    data = module(path, scale="counts", components=5)
    lost = np.isin(data.cells.obs.index, cells.obs_names[:10])
    for part in ("train", "validation", "test"):
        assert not lost[np.concatenate(data.sides(0, part).rows)].any()


def test_a_small_cluster_needs_no_validation_cell(made, tmp_path):
    path = rewritten(made, tmp_path, lambda cells: cells[np.r_[0:160, 160:320, 320:327]].copy())
    split = partial(held_out_in_clusters, test_cells=0.2, validation=0.05)
    data = module(path, transitions=["A>B>C"], split=split)
    assert data.with_cells("validation") == [0]
    assert data.with_cells("test") == [0, 1]


def test_without_any_validation_cell_of_a_transition_none_is_looked_at(made, tmp_path):
    path = rewritten(made, tmp_path, lambda cells: cells[np.r_[0:160, 320:327]].copy())
    split = partial(held_out_in_clusters, test_cells=0.2, validation=0.05)
    assert len(module(path, transitions=["A>C"], split=split).rows["validation"]) == 0


# ---- refusals


def no_pseudotime(cells):
    cells.obs["pseudotime"] = np.where(np.arange(len(cells)) % 50 == 0, np.nan, cells.obs["pseudotime"])


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"transitions": ["A>D"]}, r"data\.transitions: no cluster 'D'.*clusters: A, B, C"),
        ({"transitions": ["A>A"]}, r"from cluster 'A' into itself"),
        ({"cluster_key": "clusters"}, r"no obs column 'clusters' \(data\.cluster_key\).*'cluster'"),
        ({"cluster_key": None}, r"data\.cluster_key"),
        ({"cluster_key": None, "split": held_out_cells}, r"data\.cluster_key"),
        ({"transitions": None}, r"data\.pseudotime_key"),
        ({"coupling": PseudotimeLag()}, r"data\.pseudotime_key"),
        ({"coupling": Nearest(k=1000)}, r"coupling\.k=1000"),
        ({"coupling": Precomputed("nowhere.npz")}, r"coupling\.path"),
        ({"smooth": 0}, r"datamodule\.smooth=0"),
        ({"components": 0}, r"datamodule\.components=0"),
        ({"batch_size": 0}, r"datamodule\.batch_size=0"),
    ],
)
def test_words_that_are_refused(made, keys, says):
    with pytest.raises(UserError, match=says):
        module(made, **keys)


@pytest.mark.parametrize("keys", [{"transitions": None}, {"coupling": PseudotimeLag()}])
def test_a_pseudotime_with_gaps_is_refused(made, tmp_path, keys):
    path = rewritten(made, tmp_path, no_pseudotime)
    with pytest.raises(UserError, match=r"no finite pseudotime.*data\.filter"):
        module(path, pseudotime_key="pseudotime", **keys)


@pytest.mark.parametrize(
    ("n", "split", "says"),
    [
        (5, 0.25, r"cluster 'B' has 4 training cells; 5 are the fewest"),
        (8, 0.05, r"no test cell of cluster 'B'; raise split\.test_cells"),
    ],
)
def test_too_few_cells(made, tmp_path, n, split, says):
    path = rewritten(made, tmp_path, lambda cells: cells[np.r_[0:160, 160 : 160 + n]].copy())
    with pytest.raises(UserError, match=says):
        module(path, split=partial(held_out_in_clusters, test_cells=split, validation=0))


def test_masks_that_do_not_go_with_the_cells(made, tmp_path):
    pd.DataFrame({"source": ["X1"], "target": ["X2"]}).to_csv(tmp_path / "other.csv", index=False)
    with pytest.raises(UserError, match="none of its genes is among those of the cells"):
        module(made, prior=FilePrior(str(tmp_path / "other.csv")))
    (tmp_path / "tf.txt").write_text("G00\nG01\nG02\n")
    edges = [(target, regulator) for regulator in ("G00", "G01") for target in GENES[5:]]
    pd.DataFrame(edges, columns=["source", "target"]).to_csv(tmp_path / "turned.csv", index=False)
    with pytest.raises(UserError, match=r"transposed.*prior\.orientation"):
        module(made, prior=FilePrior(str(tmp_path / "turned.csv"), regulators_path=str(tmp_path / "tf.txt")))


def test_a_mask_of_constant_genes_alone(made, tmp_path):
    path = rewritten(made, tmp_path, lambda cells: cells.obs.drop(columns="pseudotime") is None)
    cells = ad.read_h5ad(path)
    values = cells.X.toarray()
    values[:, GENES.index("G03")] = 1
    cells.X = csr_matrix(values)
    cells.write_h5ad(path)
    pd.DataFrame({"source": ["G00"], "target": ["G03"]}).to_csv(tmp_path / "prior.csv", index=False)
    with pytest.raises(UserError, match="no edge of the prior network joins two genes that vary"):
        module(path)


def test_plans_that_do_not_go_with_the_cells(made, tmp_path):
    save_npz(tmp_path / "small.npz", csr_matrix(np.ones((3, 4))))
    with pytest.raises(UserError, match=r"rows are 3 without names, where there are \d+ source cells"):
        module(made, Precomputed(str(tmp_path / "small.npz")))
    plan = pd.read_csv(made.plan, index_col=0)
    plan.iloc[:40] = 0
    plan.to_csv(tmp_path / "empty.csv")
    with pytest.raises(UserError, match=r"source cells sum to 0"):
        module(made, Precomputed(str(tmp_path / "empty.csv")))
    plan.iloc[:, ::2].to_csv(tmp_path / "half.csv")
    with pytest.raises(UserError, match=r"target cells are not there"):
        module(made, Precomputed(str(tmp_path / "half.csv")))


def test_a_network_is_not_judged_on_another_file(made):
    with pytest.raises(UserError, match="held-out cells of its own file"):
        module(made).setup_elsewhere(None, 0.5)
