"""The faults of the source as a user would meet them: through the view, the model, its descent and its exports.

Their mathematics is tested where it lives: 1 to 5 and 7 in test_masked_ridge.py, 7 in test_network.py, 9 in
test_couplings.py, 6 and 10 in test_cluster_mapping.py. Where the faulty rule is short it is written out here, to show
that the test would see it.
"""

import anndata as ad
import networkx as nx
import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score
from transition_world import EDGES, GENES, edge, fitted, module, world

from stormcell.analysis.couplings import Precomputed, Random
from stormcell.judge_networks import judge_networks
from stormcell.report.network_export import export, with_networks

pytestmark = pytest.mark.xdist_group("transitions")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def paired(made):
    return module(made, Precomputed(str(made.plan)))


@pytest.fixture(scope="module")
def model(paired):
    return fitted(paired, ridge=0.05)


@pytest.fixture(scope="module")
def judged(model, paired):
    return judge_networks(model, paired, [])


def test_fault_1_a_mask_of_regulators_and_targets_is_not_fitted_the_other_way(paired, model):
    """x Wᵀ runs as well where the matrix is square, and says nothing of the target."""
    sides = paired.sides(0, "test")
    target = GENES.index("G03")
    x = sides.x - model.mean_x[0].numpy()
    dense = model.matrix(model.shared + model.deviation[0]).detach().numpy()
    true = sides.coupling.barycentre(sides.y)[:, target]
    kept = sides.coupling.source > 0
    left = true[kept] - (x * model.own[0].detach().numpy())[kept, target]
    right, turned = ((x @ matrix)[kept, target] for matrix in (dense, dense.T))
    assert np.corrcoef(right, left)[0, 1] > 0.9
    assert abs(np.corrcoef(turned, left)[0, 1]) < 0.5
    assert np.abs(model.predict(sides.x, 0)[kept, target] - true[kept]).mean() < 0.5


def test_fault_2_the_penalty_of_descent_is_the_squares_of_the_edges_of_the_mask(paired):
    """Neither λ ‖w‖₁ nor the norm of what is not in the mask."""
    model = fitted(paired, ridge=0.3)
    with torch.no_grad():
        penalty = float(model.loss(paired.train_batch(0))["penalty"])
    squares = np.square(model.weights(0)).sum() + model.own.detach().square().sum().item()
    assert penalty == pytest.approx(0.3 * squares, rel=1e-5)
    assert model.deviation.numel() == len(EDGES), "there is no weight outside the mask"


def test_fault_3_more_random_pairs_are_no_more_regulation(made, paired):
    """Descent on random pairs goes to 0, where it finds the network with the true ones."""
    words = {"solver": "sgd", "ridge": 0.05}
    random = fitted(module(made, Random()), 300, **words)
    assert abs(random.weights(0)).max() < 0.1
    assert edge(fitted(paired, 300, **words), "G00", "G03") > 0.4


def test_fault_4_moved_clusters_leave_the_network_as_it_is(made, paired, model, tmp_path):
    """Means belong to the intercept. Without one they would be put into the weights."""
    cells = ad.read_h5ad(made.path)
    moved = cells.X.toarray() + np.where(cells.obs["cluster"] == "A", 10.0, -20.0)[:, None]
    path = rewritten(cells, moved, made, tmp_path)
    again = fitted(module(path, Precomputed(str(made.plan))), ridge=0.05)
    np.testing.assert_allclose(again.weights(0), model.weights(0), atol=2e-4)
    sides = paired.sides(0, "train")
    a, b = np.nonzero(sides.coupling.plan)
    columns = [GENES.index("G00"), GENES.index("G01")]
    bare = [
        Ridge(alpha=1, fit_intercept=False).fit(sides.x[a][:, columns] + shift, sides.y[b][:, 3] - 2 * shift).coef_
        for shift in (0, 5)
    ]
    assert abs(bare[0] - bare[1]).max() > 0.5


def test_fault_5_descent_starts_from_nothing(paired):
    """At its start the loss is the variance of the targets; uniform weights in [0, 1) begin above it."""
    model = fitted(paired, solver="sgd", ridge=0.05)
    assert not model.weights(0).any()
    batch = paired.train_batch(0)
    with torch.no_grad():
        start = float(model.loss(batch)["error"])
        assert start == pytest.approx(float(batch.y.square().sum(1).mean()), rel=1e-5)
        model.deviation.copy_(torch.rand(model.deviation.shape, generator=torch.Generator().manual_seed(0)))
        assert float(model.loss(batch)["error"]) > start


def test_fault_6_pairs_that_are_split_after_they_are_drawn_share_their_cells(paired):
    """The source's order, beside ours: pairs of all cells with replacement, then split."""
    rng = np.random.default_rng(0)
    source = np.flatnonzero(paired.cluster == "A")
    drawn = rng.choice(source, 1000)
    assert set(drawn[:800]) & set(drawn[800:])
    train, test = (set(np.concatenate(paired.sides(0, part).rows)) for part in ("train", "test"))
    assert not train & test


def test_fault_7_a_gene_that_hardly_varies_does_not_own_the_score(made, paired, tmp_path):
    """Its R² is far below 0; median, weighted mean and share hardly see it."""
    cells = ad.read_h5ad(made.path)
    values = cells.X.toarray()
    rng = np.random.default_rng(0)
    # As before in A; in B it stands still, a little higher in the cells of the test.
    tested = set(paired.cells.obs.index[paired.rows["test"]])
    still = 1 + 1e-3 * rng.normal(size=len(values)) + 0.05 * cells.obs_names.isin(tested)
    still = np.where(cells.obs["cluster"] == "A", values[:, GENES.index("G08")], still)
    values[:, GENES.index("G08")] = still
    data = module(rewritten(cells, values, made, tmp_path), Precomputed(str(made.plan)))
    model = fitted(data, ridge=0.05)
    found, sides = model.held_out_r2(data, "test")[0], data.sides(0, "test")
    kept, asked = sides.coupling.source > 0, model.mask.in_degree > 0
    true, said = sides.coupling.barycentre(sides.y)[kept][:, asked], model.predict(sides.x, 0)[kept][:, asked]
    assert r2_score(true, said) < -10, "the plain mean over genes, which is that gene's"
    assert found["variance_weighted"] > 0.5
    assert found["median_gene"] > 0.5
    assert found["share_above_0"] > 0.8


def test_fault_8_what_was_fitted_is_what_is_exported(judged, model, tmp_path):
    """A fitted network leaves as a table, GraphML, decoupler's form and varp: the same edges, the right way round."""
    (tmp_path / "tables").mkdir()
    export(judged, tmp_path)
    graph = nx.read_graphml(tmp_path / "network.graphml")
    network = pd.read_csv(tmp_path / "tables" / "decoupler.csv").set_index(["source", "target"])["weight"]
    cells = with_networks(judged)
    cells.write_h5ad(tmp_path / "predictions.h5ad")
    varp, names = ad.read_h5ad(tmp_path / "predictions.h5ad").varp["A>B"], list(cells.var_names)
    for regulator, target in EDGES:
        weight = edge(model, regulator, target)
        assert graph.edges[regulator, target]["weight"] == pytest.approx(weight)
        assert abs(network[regulator, target]) == pytest.approx(abs(weight))
        assert varp[names.index(regulator), names.index(target)] == pytest.approx(weight)
    assert not graph.has_edge("G07", "G00")
    assert varp[names.index("G07"), names.index("G00")] == 0


def test_fault_9_likely_pairs_are_drawn_and_unlikely_ones_are_not(made):
    """The likeliest tenth of the pairs is drawn as often as it has mass; a sampler that rejects them would not."""
    data = module(made, batch_size=4000)
    sides = data.sides(0, "train")
    plan = sides.coupling.plan
    likely = plan > np.quantile(plan, 0.9)
    a, b = sides.coupling.sample(4000, np.random.default_rng([data.seed, 3]))
    assert likely[a, b].mean() == pytest.approx(plan[likely].sum(), abs=0.03)
    assert plan[likely].sum() > 0.3
    batch = data.train_batch(3)
    x = sides.x[a] - sides.coupling.source @ sides.x
    np.testing.assert_allclose(batch.x, x, atol=1e-5)


def test_fault_11_signs_do_not_depend_on_the_zero_and_the_unit_of_a_gene(made, judged, paired, tmp_path):
    """Changes over means explode and flip where values are z-scored; ours are differences and correlations."""
    cells = ad.read_h5ad(made.path)
    rng = np.random.default_rng(0)
    unit, zero = rng.uniform(0.2, 5, len(GENES)), rng.normal(0, 3, len(GENES))
    path = rewritten(cells, cells.X.toarray() * unit + zero, made, tmp_path)
    data = module(path, Precomputed(str(made.plan)))
    again = judge_networks(fitted(data, ridge=0.05), data, [])
    one, other = judged.table("edges"), again.table("edges")
    for column in ("weight", "marginal"):
        np.testing.assert_allclose(other[column], one[column], atol=1e-3)
    assert (one["exported_sign"] == other["exported_sign"]).all()
    assert one["marginal"].abs().max() <= 1
    unit = pd.Series(unit, GENES)
    natural = one["weight_natural"] * unit[one["target"]].to_numpy() / unit[one["regulator"]].to_numpy()
    np.testing.assert_allclose(other["weight_natural"], natural, atol=2e-3)
    change = [table.table("regulators").set_index("regulator")["own_change"] for table in (judged, again)]
    np.testing.assert_allclose(change[1][change[0].index], change[0], atol=1e-3)
    raw = [np.array([v[:160].mean(0), v[160:320].mean(0)]) for v in (cells.X.toarray(), cells.X.toarray() + zero)]
    ratios = [(b - a) / (np.maximum(a, b) + 1e-11) for a, b in raw]
    assert (np.sign(ratios[0]) != np.sign(ratios[1])).any(), "the source's relative change flips"


def rewritten(cells, values, made, folder):
    """The world with other values, beside its prior."""
    cells = cells.copy()
    cells.X = values.astype(np.float32)
    cells.write_h5ad(folder / "cells.h5ad")
    (folder / "prior.csv").write_bytes(made.prior.read_bytes())
    return folder / "cells.h5ad"
