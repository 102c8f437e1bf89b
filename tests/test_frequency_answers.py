"""Simple answers against closed forms and planted targets; held-out cells never reach a fit."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.model_selection import LeaveOneOut, cross_val_predict
from sklearn.neighbors import KNeighborsRegressor

from stormcell.evaluation import frequency_answers as simple
from stormcell.evaluation.frequency import frequency_board, r2
from stormcell.evaluation.frequency_network import Budget, Part

SHORT = Budget(hidden=16, steps=35, batch=32)


def world(kind: str, n: int = 300, n_genes: int = 60, seed: int = 0):
    """Training, validation and held-out cells with two targets of the first genes: linear, or an even function."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n + 200, n_genes))
    y = (
        np.stack([x[:, 0] - x[:, 1], x[:, 2]], 1)
        if kind == "linear"
        else np.stack([x[:, 0] * x[:, 1], x[:, 2] ** 2], 1)
    )
    y += 0.1 * rng.normal(size=y.shape)
    return Part(x[:n], y[:n]), Part(x[n : n + 100], y[n : n + 100]), Part(x[n + 100 :], y[n + 100 :])


def scores(kind: str, budget: Budget, **size) -> dict[str, float]:
    train, validation, test = world(kind, **size)
    board = frequency_board(simple.answers(train, validation, test.x, budget=budget), test.y, train.y)
    return board.set_index("method")["r2"].to_dict()


def test_a_linear_target_is_found_by_every_linear_answer():
    found = scores("linear", SHORT)
    assert min(found[name] for name in (simple.RIDGE, simple.LASSO, simple.PLS)) > 0.95
    assert abs(found[simple.ZERO]) < 0.05 and abs(found[simple.MEDIAN]) < 0.05


def test_an_even_target_is_beyond_linear_answers_and_not_beyond_the_network():
    found = scores("even", Budget(hidden=64, steps=2000, batch=32, lr=3e-3, loss="mse"), n=600, n_genes=8)
    assert max(found[name] for name in (simple.RIDGE, simple.LASSO, simple.PLS)) < 0.2
    assert found[simple.RELU] > 0.3


def test_ridge_is_the_closed_form_at_the_alpha_of_smallest_leave_one_out_error():
    train, _, _ = world("linear", n=40, n_genes=50)  # more genes than cells
    fitted = simple.ridge(train.x, train.y)
    for f in range(2):
        left = [cross_val_predict(Ridge(a), train.x, train.y[:, f], cv=LeaveOneOut()) for a in simple.ALPHAS[::4]]
        best = min(np.square(one - train.y[:, f]).sum() for one in left)
        own = cross_val_predict(Ridge(fitted.alpha_[f]), train.x, train.y[:, f], cv=LeaveOneOut())
        assert np.square(own - train.y[:, f]).sum() <= best + 1e-9
        x, y, alpha = train.x - train.x.mean(0), train.y[:, f] - train.y[:, f].mean(), fitted.alpha_[f]
        expected = np.linalg.solve(x.T @ x + alpha * np.eye(50), x.T @ y)
        np.testing.assert_allclose(fitted.coef_[f], expected, atol=1e-8)


def test_the_path_of_pls_is_the_fit_of_every_number_of_components():
    from sklearn.cross_decomposition import PLSRegression

    train, _, test = world("linear")
    for k, predicted in enumerate(simple._pls_path(train.x, train.y, 4, test.x), 1):
        own = PLSRegression(k, scale=False).fit(train.x, train.y).predict(test.x)
        np.testing.assert_allclose(predicted, own, atol=1e-6)


def test_nearest_cells_are_those_of_scikit_learn_at_the_best_k():
    rng = np.random.default_rng(1)
    x, asked = rng.normal(size=(200, 3)), rng.normal(size=(50, 3))
    y = np.sin(x) + 0.3 * rng.normal(size=x.shape)
    error = {
        k: np.square(cross_val_predict(KNeighborsRegressor(k), x, y, cv=LeaveOneOut()) - y).sum()
        for k in simple.NEIGHBOURS
    }
    expected = KNeighborsRegressor(min(error, key=error.get)).fit(x, y).predict(asked)
    np.testing.assert_allclose(simple.nearest_mean(x, y, asked), expected)


def test_the_lookup_by_hand():
    found = simple.lookup(["a", "a", "a", "b"], np.array([[1.0], [2], [9], [4]]), ["b", "a", "unknown"])
    assert found.ravel().tolist() == [4, 2, 3]


def test_held_out_cells_do_not_reach_a_fit_and_an_equal_seed_gives_equal_answers():
    train, validation, test = world("linear", n=120)
    labels = np.arange(120) % 3, np.arange(100) % 3
    one = simple.answers(train, validation, test.x, labels, budget=SHORT)
    other = test.x.copy()
    other[50:] = 100 * np.random.default_rng(9).normal(size=other[50:].shape)
    two = simple.answers(train, validation, other, labels, budget=SHORT)
    for name, values in one.items():
        np.testing.assert_allclose(two[name][:50], values[:50], atol=1e-5, err_msg=name)
    again = simple.answers(train, validation, test.x, labels, budget=SHORT)
    assert all(np.array_equal(one[name], again[name]) for name in one)
    assert simple.LOOKUP in one and simple.LOOKUP not in simple.answers(train, validation, test.x, budget=SHORT)


def test_the_order_of_genes_plays_no_part_in_the_answers_without_a_random_start():
    train, validation, test = world("linear", n=120)
    order = np.random.default_rng(2).permutation(60)
    one = simple.answers(train, validation, test.x, budget=SHORT)
    two = simple.answers(
        Part(train.x[:, order], train.y), Part(validation.x[:, order], validation.y), test.x[:, order], budget=SHORT
    )
    for name in set(one) - {simple.RELU, simple.RELU_COMPONENTS}:
        np.testing.assert_allclose(one[name], two[name], atol=1e-3, err_msg=name)


def test_correlation_is_that_of_numpy_and_0_of_a_constant_gene():
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(50, 4)), rng.normal(size=(50, 2))
    x[:, 2] = 0.1
    found = simple.correlation(x, y)
    assert (found[:, 2] == 0).all()
    np.testing.assert_allclose(found[1, 3], np.corrcoef(x[:, 3], y[:, 1])[0, 1])


def test_types_are_named_and_the_commonest_is_the_null():
    rng = np.random.default_rng(4)
    y = rng.choice(3, 400, p=[0.6, 0.3, 0.1])
    x = rng.normal(size=(400, 30)) + 2 * np.eye(3, 30)[y]
    parts = Part(x[:200], y[:200]), Part(x[200:300], y[200:300])
    found = simple.class_answers(*parts, x[300:], 3, budget=Budget(hidden=16, steps=300, batch=32))
    accuracy = {name: (named == y[300:]).mean() for name, named in found.items()}
    assert min(accuracy[name] for name in (simple.LOGISTIC, simple.KNN, simple.RELU)) > 0.75
    assert set(found[simple.MAJORITY]) == {0}


def test_sizes_that_do_not_agree_are_refused():
    train, validation, test = world("linear", n=50)
    with pytest.raises(ValueError, match="one number of genes"):
        simple.answers(train, validation, test.x[:, 1:])
    with pytest.raises(ValueError, match="at least 4 training cells"):
        simple.answers(Part(train.x[:3], train.y[:3]), validation, test.x)


def test_real_cells_score_near_what_was_measured_before(shared_data):
    """Normalised Laplacian of 15 neighbours, transductive: ridge on components .64 and k-NN .75 on another split."""
    import anndata as ad
    from scipy.linalg import eigh
    from sklearn.decomposition import PCA
    from sklearn.neighbors import kneighbors_graph

    x = ad.read_h5ad(shared_data("paul2015_myeloid.h5ad")).X.toarray()
    x = x[:, np.argsort(-x.var(0))[:1000]]
    x = (x - x.mean(0)) / x.std(0)
    graph = kneighbors_graph(PCA(50, random_state=0).fit_transform(x), 15).toarray()
    graph = np.maximum(graph, graph.T)
    root = np.sqrt(graph.sum(1))
    n = len(x)
    vectors = eigh(graph / np.outer(root, root), subset_by_index=[n - 11, n - 2])[1] / root[:, None]
    y = vectors / np.sqrt(np.square(vectors).mean(0))
    order = np.random.default_rng(0).permutation(n)
    train, test = order[: int(0.7 * n)], order[int(0.85 * n) :]
    known, _, asked = simple._components(x[train], x[:10], x[test], 1)
    linear = r2(y[test], simple.ridge(known, y[train]).predict(asked), y[train]).mean()
    nearest = r2(y[test], simple.nearest_mean(known, y[train], asked), y[train]).mean()
    assert 0.5 < linear < 0.75 and 0.65 < nearest < 0.9 and nearest > linear
