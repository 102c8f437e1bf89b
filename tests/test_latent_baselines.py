"""The baselines of latent metrics on planted expression, and on real cells against what others measured."""

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from sklearn.decomposition import PCA as Components
from sklearn.metrics import roc_auc_score

from stormcell.analysis.discriminants import discriminants
from stormcell.evaluation.latent import CellLabels, latent_board
from stormcell.evaluation.latent_baselines import GENES, LDA, MIXSCAPE, PCA, LatentBaselines, principal_components

TARGETS = ["A", "B", "C"]


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def expression(rng, n, n_genes=70) -> tuple[csr_matrix, CellLabels, np.ndarray]:
    """log1p Poisson: a strong programme in every cell, 6 genes up in each target, half of whose cells escaped."""
    condition, batch = rng.choice(["control", *TARGETS], n, p=[0.4, 0.2, 0.2, 0.2]), rng.choice(["b1", "b2"], n)
    responded = (condition != "control") & (rng.random(n) < 0.5)
    log_mean = np.zeros((n, n_genes)) + rng.normal(size=(n, 1)) * np.r_[np.full(20, 0.9), np.zeros(n_genes - 20)]
    log_mean[batch == "b2", 20:30] += 0.7
    for i, name in enumerate(TARGETS):
        log_mean[np.ix_(responded & (condition == name), range(40 + 6 * i, 46 + 6 * i))] += 1.6
    labels = CellLabels(condition, "control", batch=batch, library=np.full(n, 100.0))
    return csr_matrix(np.log1p(rng.poisson(np.exp(log_mean))).astype(np.float32)), labels, responded


@pytest.fixture
def fitted(rng):
    train, test = expression(rng, 1600), expression(rng, 500)
    return LatentBaselines(*train[:2], *test[:2], 0), train[1], test[1], (train[2], test[2])


def test_components_are_those_of_the_dense_decomposition(rng):
    train, test = expression(rng, 300)[0], expression(rng, 50)[0]
    found = principal_components(train, test, 5, 0)
    reference = Components(5, svd_solver="full").fit(train.toarray().astype(float))
    for own, cells in zip(found, (train, test), strict=True):
        np.testing.assert_allclose(np.abs(own), np.abs(reference.transform(cells.toarray())), atol=1e-3)
    assert principal_components(train[:4], test, 50, 0)[1].shape == (50, 3)


def test_every_salient_space_has_the_training_controls_at_zero(fitted):
    baselines, train, _, _ = fitted
    for name, (space, _) in baselines.all().items():
        if name != GENES:
            assert np.abs(space.salient[train.is_control].mean(0)).max() < 1e-4, name


def test_the_background_of_lda_has_one_mean_and_what_it_had_before(fitted):
    baselines, train, _, _ = fitted
    space = baselines.lda()[0]
    assert space.salient.shape[1] == 3 and space.background.shape[1] == 50 - 3
    means = np.array([space.background[train.condition == name].mean(0) for name in ["control", *TARGETS]])
    np.testing.assert_allclose(means, means[[0]].repeat(4, 0), atol=1e-4)
    along = discriminants(baselines.components[0], train.condition).along
    np.testing.assert_allclose(along.T @ along, np.eye(47), atol=1e-5)


def test_discriminants_find_the_direction_of_fisher(rng):
    """Two conditions: S_w⁻¹ (m₁ − m₀), here not the difference of the means."""
    spread = np.array([[1.0, 0.9], [0.9, 1.0]])
    condition = np.repeat(["x", "y"], 20_000)
    points = rng.multivariate_normal([0, 0], spread, 40_000) + (condition == "y")[:, None] * [1.0, 0]
    found = discriminants(points, condition)
    expected = np.linalg.solve(spread, [1.0, 0])
    cosine = found.across[:, 0] @ expected / np.linalg.norm(found.across[:, 0]) / np.linalg.norm(expected)
    assert abs(cosine) > 0.999
    assert abs(found.along[0, 0]) < 0.05 and found.along.shape == (2, 1)


def test_discriminants_leave_single_cells_out_and_need_two_conditions(rng):
    points = rng.normal(size=(9, 3))
    condition = np.array(["x"] * 4 + ["y"] * 4 + ["z"])
    assert discriminants(points, condition).across.shape == (3, 1)
    with pytest.raises(ValueError, match="two conditions with two cells each, found 1"):
        discriminants(points[:5], condition[:5])


def test_many_conditions_leave_no_background(rng):
    """More conditions than components: their means span everything."""
    points = csr_matrix(rng.poisson(1.0, size=(120, 6)).astype(np.float32))
    labels = CellLabels(np.repeat(["control", *(f"t{i}" for i in range(9))], 12), "control")
    assert LatentBaselines(points, labels, points, labels, 0).lda()[0].background is None


def test_the_board_ranks_planted_baselines_as_their_definitions_say(fitted):
    baselines, train, test, _ = fitted
    board = latent_board(baselines.all(), train, test, 0).set_index("method")
    assert list(board.index) == [PCA, LDA, MIXSCAPE, GENES]
    assert (board["probe"] > 0.55).all()  # half of the cells say nothing: 1/2 + 1/2 · 1/3 is the most
    assert (board["probe"] < 0.75).all()
    assert board.loc[PCA, "background_auc"] == board.loc[PCA, "salient_auc"] > 0.65
    assert board.loc[LDA, "background_auc"] == pytest.approx(0.5, abs=0.08)
    assert board.loc[PCA, "batch_leak"] > 0.8 > 0.7 > board.loc[MIXSCAPE, "batch_leak"]
    assert board.loc[MIXSCAPE, "background_batch"] > 0.9
    assert board.loc[GENES, ["salient_auc", "background_auc", "control_norm"]].isna().all()


def test_mixscape_tells_who_escaped(fitted):
    baselines, train, test, responded = fitted
    for found, labels, truth in zip(baselines.mixscape_perturbed(), (train, test), responded, strict=True):
        own = ~labels.is_control
        assert np.isnan(found[~own]).all()
        assert roc_auc_score(truth[own], found[own]) > 0.93
        assert found[own].mean() == pytest.approx(0.5, abs=0.12)


def test_an_equal_seed_gives_equal_numbers_and_the_order_of_cells_does_not_matter(rng):
    (train, train_labels, _), (test, test_labels, _) = expression(rng, 500), expression(rng, 200)
    first = LatentBaselines(train, train_labels, test, test_labels, 0).all()
    again = LatentBaselines(train, train_labels, test, test_labels, 0).all()
    order = rng.permutation(500)
    shuffled = LatentBaselines(train[order], train_labels.take(order), test, test_labels, 0).all()
    for name in (PCA, LDA, MIXSCAPE):
        np.testing.assert_array_equal(first[name][1].salient, again[name][1].salient)
        # A component may turn its sign: distances to the control mean may not.
        lengths = [np.linalg.norm(found[name][1].salient, axis=1) for found in (first, shuffled)]
        np.testing.assert_allclose(*lengths, rtol=5e-3, err_msg=name)
    assert (first[GENES][1].predicted == shuffled[GENES][1].predicted).mean() > 0.99


def test_one_perturbation_no_batches_and_a_single_cell(rng):
    train, labels, _ = expression(rng, 200)
    condition = np.where(labels.is_control, "control", "A")
    condition[np.flatnonzero(~labels.is_control)[0]] = "single"
    labels = CellLabels(condition, "control")
    baselines = LatentBaselines(train, labels, train, labels, 0)
    spaces = baselines.all()
    assert set(spaces[GENES][1].predicted) == {"A"}
    assert np.isnan(baselines.mixscape_perturbed()[0][condition == "single"])
    assert np.isfinite(latent_board(spaces, labels, labels, 0)["control_norm"][:3]).all()


def test_no_controls_is_refused(rng):
    train, labels, _ = expression(rng, 100)
    own = np.flatnonzero(~labels.is_control)
    with pytest.raises(ValueError, match="no control cells among the training cells"):
        LatentBaselines(train[own], labels.take(own), train, labels, 0)


def test_real_cells_score_as_others_measured(shared_data):
    """THP-1 knock-outs, nine targets with an effect: the figures of others, on an 80/20 split that is not this one."""
    import anndata as ad
    from sklearn.model_selection import train_test_split

    interferon = dict.fromkeys(("JAK2", "IFNGR1", "IFNGR2", "STAT1"), "interferon receptor")
    kept = ["control", *interferon, "SMAD4", "IRF1", "CUL3", "STAT2", "BRD4"]
    adata = ad.read_h5ad(shared_data("papalexi2021_thp1_eccite_299genes.h5ad"))
    adata = adata[(adata.obs["clean_single_guide"] & adata.obs["perturbation"].isin(kept)).to_numpy()]
    library = adata.obs["total_counts"].to_numpy(float)
    counts = csr_matrix(adata.layers["counts"], dtype=np.float64)
    scaled = counts.multiply(1e4 / library[:, None]).tocsr().log1p().astype(np.float32)
    condition, batch = (adata.obs[name].astype(str).to_numpy() for name in ("perturbation", "batch"))
    labels = CellLabels(condition, "control", batch=batch, library=library, merged=interferon)
    assert len(condition) == 7519
    train, test = train_test_split(np.arange(7519), test_size=0.2, stratify=condition, random_state=0)
    sides = scaled[train], labels.take(train), scaled[test], labels.take(test)
    board = latent_board(LatentBaselines(*sides, 0).all(), sides[1], sides[3], 0).set_index("method")
    for method, metric, measured, within in (
        (PCA, "probe", 0.300, 0.03), (PCA, "ari", 0.039, 0.015), (PCA, "ari_merged", 0.074, 0.04),
        (PCA, "nmi", 0.102, 0.02), (PCA, "silhouette", -0.02, 0.01), (PCA, "background_auc", 0.798, 0.06),
        (PCA, "background_auc_knn", 0.697, 0.04), (PCA, "batch_leak", 0.50, 0.04), (PCA, "library_leak", 0.84, 0.03),
        (LDA, "probe", 0.281, 0.03), (LDA, "background_auc", 0.531, 0.06), (LDA, "background_auc_knn", 0.528, 0.03),
        (LDA, "background_probe", 0.111, 0.01), (LDA, "control_norm", 0.84, 0.03), (LDA, "batch_leak", 0.45, 0.03),
        (MIXSCAPE, "probe", 0.271, 0.04), (MIXSCAPE, "background_auc_knn", 0.634, 0.03),
        (MIXSCAPE, "background_batch", 0.90, 0.05), (MIXSCAPE, "control_norm", 0.84, 0.03),
        (GENES, "probe", 0.298, 0.045), (GENES, "ari", 0.107, 0.02), (GENES, "ari_merged", 0.426, 0.05),
    ):  # fmt: skip
        assert board.loc[method, metric] == pytest.approx(measured, abs=within), (method, metric)
