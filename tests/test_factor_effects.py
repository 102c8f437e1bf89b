"""Planted factors come back orthogonal; adjusted effects are right where the difference of means is not."""

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import linear_sum_assignment
from scipy.sparse import csr_matrix
from scipy.stats import ttest_ind

from stormcell.analysis.factor_effects import factor_effects, fit_factors

K, PER = 4, 15


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def planted_expression(rng, N=400, noise=0.5):
    """K groups of genes with a factor each, 20 genes of noise, a mean for every gene: log1p-like, with many zeros."""
    weights = np.zeros((K, K * PER + 20))
    for k in range(K):
        weights[k, k * PER : (k + 1) * PER] = rng.uniform(0.5, 1.5, PER)
    level = rng.gamma(1, 1, (N, K))
    mean = rng.uniform(-0.5, 1, weights.shape[1])
    return np.maximum(mean + level @ weights + noise * rng.normal(size=(N, weights.shape[1])), 0), weights, level


def test_factors_are_orthogonal_non_negative_and_the_planted_ones(rng):
    expression, truth, level = planted_expression(rng)
    found = fit_factors(expression, K)
    np.testing.assert_allclose(found.weights @ found.weights.T, np.eye(K), atol=1e-12)
    assert (found.weights >= 0).all()
    planted = np.arange(truth.shape[1]) < K * PER
    overlap = (found.weights > 0).astype(float) @ (truth > 0).T
    rows, columns = linear_sum_assignment(-overlap)
    assert overlap[rows, columns].sum() == planted.sum()
    r = np.corrcoef(found.loadings(expression).T, level.T)[:K, K:]
    assert r[rows, columns].min() > 0.95


def test_they_reconstruct_nearly_what_the_best_directions_do(rng):
    expression, *_ = planted_expression(rng)
    found = fit_factors(expression, K)
    standard = (expression - found.mean) / found.scale
    left = np.square(standard - found.loadings(expression) @ found.weights).sum()
    values = np.linalg.svd(standard, compute_uv=False) ** 2
    assert left < 1.05 * values[K:].sum()
    assert left < 0.5 * values.sum()


def test_no_single_gene_can_be_added_moved_or_reweighed_for_more(rng):
    """A local best: no other factor of unit length that is near holds more covariation."""
    expression, *_ = planted_expression(rng, noise=2.0)
    found = fit_factors(expression, K)
    C = np.corrcoef(expression.T)
    np.fill_diagonal(C, 0)

    def held(weights):
        return np.einsum("kg,gh,kh->", weights, C, weights)

    best = held(found.weights)
    for _ in range(200):
        gene, to = rng.integers(C.shape[0]), rng.integers(K)
        other = found.weights.copy()
        other[:, gene] = 0
        other[to, gene] = rng.uniform(0, 0.4)
        assert held(other / np.linalg.norm(other, axis=1, keepdims=True)) <= best * (1 + 1e-3)


def test_sparse_cells_and_their_order_change_nothing(rng):
    expression, *_ = planted_expression(rng)
    one, two = fit_factors(expression, K), fit_factors(csr_matrix(expression[rng.permutation(len(expression))]), K)
    np.testing.assert_allclose(one.weights, two.weights, atol=1e-8)
    np.testing.assert_allclose(one.loadings(expression), two.loadings(csr_matrix(expression)), atol=1e-7)
    np.testing.assert_allclose(one.loadings(expression).mean(0), 0, atol=1e-9)


def test_genes_of_a_factor_are_named_largest_first(rng):
    expression, truth, _ = planted_expression(rng)
    found = fit_factors(expression, K)
    table = found.genes([f"g{i}" for i in range(truth.shape[1])], top=5)
    assert table.groupby("factor").size().tolist() == [5] * K
    for k, part in table.groupby("factor"):
        best = np.argsort(-found.weights[k - 1])[:5]
        assert part["gene"].tolist() == [f"g{i}" for i in best]
        assert part["weight"].is_monotonic_decreasing
    assert len(found.genes([f"g{i}" for i in range(truth.shape[1])], top=99)) == (found.weights > 0).sum()


def test_what_a_gene_shares_with_no_other_is_no_factor(rng):
    """Six genes that share something, eight without any correlation, and more factors asked for than there are."""
    independent, _ = np.linalg.qr(np.column_stack([np.ones(60), rng.normal(size=(60, 15))]))
    expression = 10 * independent[:, 1:15]
    expression[:, :6] += 20 * independent[:, [15]]
    one = fit_factors(expression, 1)
    np.testing.assert_allclose(one.weights, [[np.sqrt(1 / 6)] * 6 + [0] * 8], atol=1e-6)
    many = fit_factors(expression, 5).weights
    assert ((many > 0).sum(1) >= 2).all()
    assert not many[:, 6:].any()


def test_genes_that_do_not_vary_belong_nowhere(rng):
    expression, *_ = planted_expression(rng)
    expression[:, 3] = 1.5
    found = fit_factors(expression, K)
    assert (found.weights[:, 3] == 0).all()
    assert np.isfinite(found.loadings(expression)).all()
    with pytest.raises(ValueError, match="no factor"):
        fit_factors(np.ones((9, 5)), 2)
    with pytest.raises(ValueError, match="9 factors"):
        fit_factors(np.ones((9, 5)), 9)
    with pytest.raises(ValueError, match="finite"):
        fit_factors(np.full((9, 5), np.nan), 2)


class Screen:
    """Loadings that follow the background in a curve, perturbations given to cells by their background."""

    def __init__(self, rng, per=120, n_controls=600, factors=K, chosen=0.0, D=3):
        n = n_controls + 3 * per
        z = rng.normal(size=(n, D))
        labels = np.full(n, "control", dtype=object)
        free = np.ones(n, bool)
        for name, direction in (("A", 1.0), ("B", -1.0), ("C", 0.0)):
            odds = np.exp(chosen * direction * z[:, 0]) * free
            mine = rng.choice(n, per, replace=False, p=odds / odds.sum())
            labels[mine], free[mine] = name, False
        self.effect = {name: rng.choice([0.0, 0.5, -1.0], factors) for name in "ABC"}
        curve = 1.5 * z[:, [0]] + np.sin(2 * z[:, [1]])
        moved = np.array([self.effect.get(name, np.zeros(factors)) for name in labels])
        self.loadings = curve + moved + rng.normal(size=(n, factors)) * np.exp(0.2 * z[:, [1]])
        self.background, self.condition = z, labels.astype(str)
        scale = self.loadings[labels == "control"].std(0, ddof=1)
        self.truth = {(name, k + 1): value / scale[k] for name in "ABC" for k, value in enumerate(self.effect[name])}

    def table(self, seed=0):
        table = factor_effects(self.loadings, self.background, self.condition, "control", seed)
        return table.assign(truth=[self.truth[key] for key in zip(table["condition"], table["factor"], strict=True)])


def test_the_adjusted_effect_is_right_where_the_difference_of_means_is_not(rng):
    table = Screen(rng, chosen=1.0).table()
    chosen = table["condition"].isin(["A", "B"])
    assert (table["naive"] - table["truth"])[chosen].abs().min() > 0.4
    assert (table["effect"] - table["truth"]).abs().mean() < 0.1
    assert table.loc[chosen, "n_controls"].max() < table.loc[~chosen, "n_controls"].min()


@pytest.mark.parametrize("chosen", [0.0, 0.7])
def test_intervals_cover_the_truth_as_often_as_they_say(chosen):
    tables = [
        Screen(np.random.default_rng(seed), per=60, n_controls=400, factors=20, chosen=chosen).table()
        for seed in range(12)
    ]
    table = pd.concat(tables)
    covered = (table["low"] <= table["truth"]) & (table["truth"] <= table["high"])
    assert 0.9 <= covered.mean() <= 0.99
    null = table["truth"] == 0
    assert 0.01 <= (table["p"] < 0.05)[null].mean() <= 0.1
    assert (table["q"] < 0.05)[table["truth"].abs() > 0.4].mean() > 0.8


def test_adjustment_makes_the_interval_narrower_than_the_t_test_where_nothing_is_confounded(rng):
    screen = Screen(rng)
    table = screen.table().query("condition == 'A'")
    mine, controls = screen.condition == "A", screen.condition == "control"
    scale = screen.loadings[controls].std(0, ddof=1)
    plain = ttest_ind(screen.loadings[mine] / scale, screen.loadings[controls] / scale, equal_var=False)
    np.testing.assert_allclose(table["naive"], plain.statistic * plain._standard_error)
    assert (table["se"].to_numpy() < 0.8 * plain._standard_error).all()


def test_a_background_that_says_nothing_leaves_the_t_test(rng):
    n = 3000
    condition = np.where(np.arange(n) < 2000, "control", "A")
    loadings = rng.normal(size=(n, 2)) + 0.3 * (condition == "A")[:, None]
    table = factor_effects(loadings, rng.normal(size=(n, 1)), condition, "control")
    np.testing.assert_allclose(table["effect"], table["naive"], atol=0.02)
    plain = ttest_ind(*(loadings[condition == c] / loadings[:2000].std(0, ddof=1) for c in ("A", "control")))
    np.testing.assert_allclose(table["se"], plain._standard_error, rtol=0.03)


def test_the_order_of_cells_does_not_matter(rng):
    screen = Screen(rng, chosen=0.5)
    one, order = screen.table(), rng.permutation(len(screen.condition))
    screen.loadings, screen.background = screen.loadings[order], screen.background[order]
    screen.condition = screen.condition[order]
    pd.testing.assert_frame_equal(one, screen.table())


def test_one_perturbed_cell_has_no_effect_and_counts_in_no_q(rng):
    screen = Screen(rng)
    few = np.flatnonzero(screen.condition == "A")
    screen.condition[few[1:]] = "control"
    table = screen.table().set_index("condition")
    assert table.loc["A", ["effect", "low", "high", "p", "q", "n_controls"]].isna().all(axis=None)
    assert (table.loc["A", "n"] == 1).all()
    assert table.loc["B", "q"].notna().all()


def test_what_cannot_be_compared_is_refused(rng):
    screen = Screen(rng)
    with pytest.raises(ValueError, match="'NT'"):
        factor_effects(screen.loadings, screen.background, screen.condition, "NT")
    with pytest.raises(ValueError, match="labels"):
        factor_effects(screen.loadings, screen.background[1:], screen.condition, "control")
    with pytest.raises(ValueError, match="finite"):
        factor_effects(screen.loadings * np.nan, screen.background, screen.condition, "control")
    alone = screen.condition == "control"
    assert factor_effects(screen.loadings[alone], screen.background[alone], screen.condition[alone], "control").empty


def test_the_interferon_factor_of_real_cells_falls_without_its_receptor(shared_data):
    import anndata as ad

    cells = ad.read_h5ad(shared_data("papalexi2021_thp1_eccite_299genes.h5ad"))
    cells = cells[cells.obs["clean_single_guide"] & cells.obs["perturbation"].isin(["control", "IFNGR1", "ATF2"])]
    rate = cells.X.astype(np.float64).multiply(1e4 / cells.obs["total_counts"].to_numpy()[:, None]).tocsr()
    expression = rate.log1p()
    found = fit_factors(expression, 10)
    table = found.genes(list(cells.var_names), top=8)
    interferon = table.loc[table["gene"] == "STAT1", "factor"].item()
    assert {"PSMB9", "UBE2L6", "BTG1"} <= set(table.loc[table["factor"] == interferon, "gene"])
    library = np.log(cells.obs["total_counts"].to_numpy())[:, None]
    effects = factor_effects(found.loadings(expression), library, cells.obs["perturbation"].to_numpy(), "control")
    effects = effects.set_index(["condition", "factor"])
    assert effects.loc[("IFNGR1", interferon), "high"] < -0.8
    assert (effects.loc["ATF2", "q"] > 0.05).mean() >= 0.8
