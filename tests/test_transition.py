"""model=transition: the exact network against scikit-learn, descent against the exact one, the null."""

import math
from dataclasses import replace

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import ElasticNet, Ridge
from transition_world import EDGES, GENES, edge, fitted, module, world

from stormcell.analysis.couplings import Precomputed, Random
from stormcell.analysis.masked_ridge import moments
from stormcell.config import UserError
from stormcell.models.transition import DEVIATIONS, Transition

pytestmark = pytest.mark.xdist_group("transitions")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def paired(made):
    """The view with the true pairs."""
    return module(made, Precomputed(str(made.plan)))


@pytest.fixture(scope="module")
def chain(made):
    """Two transitions, by transport."""
    return module(made, transitions=["A>B>C"])


# ---- the exact network


@pytest.mark.parametrize("self_edge", [True, False])
def test_true_pairs_give_the_ridge_of_scikit_learn(made, paired, self_edge):
    """From the file alone: pairs of training cells, scaled, each target on its regulators and itself."""
    model = fitted(paired, ridge=0.2, self_edge=self_edge)
    cells = ad.read_h5ad(made.path).to_df() / np.array(paired.spec.gene_sd)
    plan = pd.read_csv(made.plan, index_col=0).stack()
    train = set(paired.cells.obs.index[paired.rows["train"]])
    pairs = [(a, b) for (a, b), mass in plan.items() if mass > 0 and {a, b} <= train]
    x, y = cells.loc[[a for a, _ in pairs]], cells.loc[[b for _, b in pairs]]
    for target in sorted({target for _, target in EDGES}):
        columns = [regulator for regulator, other in EDGES if other == target]
        every = [*columns, target] if self_edge else columns
        expected = Ridge(alpha=0.2 * len(pairs)).fit(x[every], y[target])
        found = [edge(model, regulator, target) for regulator in columns]
        np.testing.assert_allclose(found, expected.coef_[: len(columns)], atol=2e-5)
        said = model.predict(x.to_numpy(np.float32), 0)[:, GENES.index(target)]
        np.testing.assert_allclose(said, expected.predict(x[every]), atol=2e-4)


def test_transport_gives_the_ridge_of_its_barycentres(chain):
    model = fitted(chain, pooling="independent", ridge=0.1)
    for t in range(2):
        sides = chain.sides(t, "train")
        true = sides.coupling.barycentre(sides.y)
        target = GENES.index("G03")
        columns = [GENES.index(name) for name in ("G00", "G01", "G03")]
        expected = Ridge(alpha=0.1).fit(sides.x[:, columns], true[:, target], sample_weight=sides.coupling.source)
        found = [edge(model, "G00", "G03", t), edge(model, "G01", "G03", t)]
        np.testing.assert_allclose(found, expected.coef_[:2], atol=2e-5)


def test_the_elastic_net_is_that_of_scikit_learn(paired):
    model = fitted(paired, ridge=0.1, lasso=0.1)
    sides = paired.sides(0, "train")
    a, b = np.nonzero(sides.coupling.plan)
    x, y = sides.x[a], sides.y[b][:, GENES.index("G08")]
    x = np.delete(x, GENES.index("G08"), 1) if model.self_edge else x
    own = sides.x[a][:, GENES.index("G08")]
    columns = [GENES.index(name) for name in ("G01", "G05")]
    partial = y - y.mean() - model.own[0, GENES.index("G08")].item() * (own - own.mean())
    expected = ElasticNet(alpha=0.2, l1_ratio=0.5, tol=1e-10).fit(sides.x[a][:, columns], partial).coef_
    found = [edge(model, name, "G08") for name in ("G01", "G05")]
    np.testing.assert_allclose(found, expected, atol=2e-4)
    weak = fitted(paired, ridge=0.1, lasso=0.3).weights(0)
    assert (weak == 0).any()
    assert (weak != 0).any()


def test_an_edge_goes_from_its_regulator_to_its_target(made, paired):
    """Both ways stand in the mask; the cells have one."""
    model = fitted(paired)
    assert edge(model, "G00", "G03") > 0.4
    assert abs(edge(model, "G03", "G00")) < 0.1
    sd = dict(zip(GENES, paired.spec.gene_sd, strict=True))
    here = (model.mask.regulator == GENES.index("G00")) & (model.mask.target == GENES.index("G03"))
    assert model.natural[here][0] == pytest.approx(sd["G03"] / sd["G00"])
    known = np.array([made.network[i, j] for i, j in zip(model.mask.regulator, model.mask.target, strict=True)])
    assert np.corrcoef(model.weights(0), known)[0, 1] > 0.95
    assert (np.sign(model.weights(0)) == np.sign(known))[known != 0].all()


def test_transport_finds_the_signs_and_random_pairs_nothing(made):
    transported = module(made, transitions=["A>B>C"])
    for coupling, pools in ((None, "shared_deviation"), (Random(), "shared_deviation"), (Random(), "independent")):
        data = module(made, coupling, transitions=["A>B>C"])
        model = fitted(data, pooling=pools)
        truth = np.array([made.network[i, j] for i, j in zip(data.spec.regulator, data.spec.target, strict=True)])
        r2 = [one["variance_weighted"] for one in model.held_out_r2(transported, "test")]
        if coupling is None:
            assert np.corrcoef(model.weights(0), truth)[0, 1] > 0.6
            assert min(r2) > 0.2
        else:
            assert abs(model.weights(0)).max() < 1e-6
            assert abs(model.own).max() < 1e-6
            assert max(r2) < 1e-6


def test_stiff_deviations_are_one_network(chain):
    model = fitted(chain, ridge=0.1, ridge_deviation=math.inf)
    np.testing.assert_array_equal(model.weights(0), model.weights(1))
    assert abs(model.weights(0)).max() > 0.1
    parts = model.loss(chain.train_batch(0))
    assert all(torch.isfinite(value) for value in parts.values())
    loose = fitted(chain, ridge=0.1, ridge_deviation=0.1)
    assert abs(loose.weights(0) - loose.weights(1)).max() > 0.01


def test_the_deviation_is_chosen_by_validation_cells(chain):
    """By the R² that a run logs, among models whose deviation is given."""
    scores = {}
    for value in DEVIATIONS:
        model = fitted(chain, ridge=0.1, ridge_deviation=value)
        scores[value] = np.median([one["variance_weighted"] for one in model.held_out_r2(chain, "validation")])
    chosen = fitted(chain, ridge=0.1)
    assert float(chosen.chosen_deviation) == pytest.approx(max(scores, key=scores.get))
    assert len(set(scores.values())) == len(DEVIATIONS)
    same = fitted(chain, ridge=0.1, ridge_deviation=float(chosen.chosen_deviation))
    np.testing.assert_allclose(chosen.weights(0), same.weights(0), atol=1e-7)
    assert "validation cells" in chosen.notes(chain)[0]
    begun = fitted(chain, ridge=0.1, solver="sgd")
    assert not begun.shared.any() and not begun.deviation.any() and not begun.own.any()
    assert begun.chosen_deviation == chosen.chosen_deviation


# ---- descent


def objective(model: Transition, data) -> float:
    """Of the docstring of analysis/pooled_ridge.py, with the error of the barycentres: the rest of it is constant."""
    found, total = [], float(model.chosen_ridge) * model.shared.square().sum().item()
    sides = [data.sides(t, "train") for t in range(data.spec.n_transitions)]
    for t, side in enumerate(sides):
        said = model.predict(side.x, t)
        r = side.coupling.source
        error = float(r @ np.square(side.coupling.barycentre(side.y) - said).sum(1))
        ridge = float(model.chosen_deviation) if model.shares else float(model.chosen_ridge)
        own = float(model.chosen_ridge) * model.own[t].square().sum().item()
        found.append(error + own + ridge * model.deviation[t].square().sum().item())
    n = np.array([moments(s.x, s.y, s.coupling, model.mask.regulators).n for s in sides])
    return total + float(np.array(found) @ (n / n.sum()))


@pytest.mark.parametrize("pooling", ["shared_deviation", "independent"])
def test_descent_reaches_the_exact_objective(made, tmp_path, pooling):
    """Clusters of unlike size: the shared network weighs transitions by their cells."""
    cells = ad.read_h5ad(made.path)
    cells[np.r_[0:160, 160:200, 320:480]].copy().write_h5ad(tmp_path / "cells.h5ad")
    data = module(tmp_path / "cells.h5ad", prior=module(made).prior_rule, transitions=["A>B>C"], batch_size=512)
    words = {"pooling": pooling, "ridge": 0.1, "ridge_deviation": 1.0}
    exact, descended = fitted(data, **words), fitted(data, 1500, solver="sgd", **words)
    best, reached = objective(exact, data), objective(descended, data)
    # In exact arithmetic nothing is below the exact solution: it is the minimum.
    assert best * (1 - 1e-5) < reached < best * 1.001
    np.testing.assert_allclose(descended.weights(0), exact.weights(0), atol=0.05)
    start = objective(fitted(data, 1, solver="sgd", **words), data)
    assert start > 1.1 * best, "the start is no solution"


@pytest.mark.parametrize("steps", [1, 400])
def test_descent_with_a_lasso_has_real_zeros(paired, steps):
    """Also after the very last step; and those of the exact elastic net where it is decided."""
    exact = fitted(paired, ridge=0.1, lasso=0.25)
    model = fitted(paired, steps, solver="sgd", ridge=0.1, lasso=0.25)
    weights = model.weights(0)
    zero = exact.weights(0) == 0
    assert (weights == 0).any()
    if steps > 1:
        assert (weights[zero] == 0).mean() > 0.7
        np.testing.assert_allclose(weights, exact.weights(0), atol=0.05)
        assert (weights[abs(exact.weights(0)) > 0.1] != 0).all()


def test_shared_deviations_with_a_lasso_by_descent(chain):
    model = fitted(chain, 150, solver="sgd", ridge=0.1, ridge_deviation=0.1, lasso=0.3)
    assert (model.shared == 0).any()
    assert (model.deviation == 0).any()
    assert (model.shared != 0).any()


def test_a_loss_has_the_gradient_of_what_is_in_the_mask_alone(chain):
    model = fitted(chain, 1, solver="sgd", ridge=0.1)
    dense = model.matrix(torch.ones(model.spec.n_edges))
    assert dense.sum() == len(EDGES)
    for i, j in zip(*torch.nonzero(dense, as_tuple=True), strict=True):
        assert (GENES[i], GENES[j]) in EDGES
    model.zero_grad()
    model.loss(chain.train_batch(1))["loss"].backward()
    assert not model.deviation.grad[0].any(), "a batch is of one transition"
    assert model.deviation.grad[1].any()


# ---- the model alone


def test_a_checkpoint_holds_the_network(chain, tmp_path):
    model = fitted(chain)
    torch.save(model.state_dict(), tmp_path / "weights.ckpt")
    bare = Transition(type(chain.spec).from_record(chain.spec.record()), None, seed=7)
    bare.load_state_dict(torch.load(tmp_path / "weights.ckpt", weights_only=True))
    x = chain.sides(1, "test").x
    assert np.array_equal(bare.predict(x, 1), model.predict(x, 1))
    assert np.array_equal(bare.weights(0), model.weights(0))
    assert float(bare.chosen_ridge) == float(model.chosen_ridge)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ({"solver": "exakt"}, r"model\.solver=exakt.*'exact'"),
        ({"pooling": "shared"}, r"model\.pooling=shared.*'shared_deviation'"),
        ({"ridge": "loo"}, r"model\.ridge=loo: .*gcv"),
        ({"ridge": -1.0}, r"model\.ridge=-1"),
        ({"ridge": math.inf}, r"model\.ridge=inf"),
        ({"ridge_deviation": 0.0}, r"model\.ridge_deviation=0"),
        ({"ridge_deviation": "validated"}, r"model\.ridge_deviation=validated: validation, or a number"),
        ({"lasso": -0.1}, r"model\.lasso=-0\.1"),
        ({"lasso": 0.1}, r"model\.lasso=0\.1: exact with model\.pooling=independent"),
        ({"bootstraps": 0}, r"model\.bootstraps=0"),
        ({"recoupled": 2.0}, r"model\.recoupled=2"),
        ({"perturb": ["g00"]}, r"model\.perturb=g00.*'G00'"),
        ({"steps": 0}, r"model\.steps=0"),
    ],
)
def test_words_that_are_refused(chain, words, says):
    with pytest.raises(UserError, match=says):
        Transition(chain.spec, None, **words)


def test_one_transition_shares_with_none(chain):
    one = replace(chain.spec, transitions=chain.spec.transitions[:1])
    assert not Transition(one, None, lasso=0.1).shares
