"""The discriminant against scikit-learn's, the codes against Mahalanobis distances, and planted effects."""

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from sklearn.covariance import EmpiricalCovariance, shrunk_covariance
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from stormcell.analysis import codes
from stormcell.analysis.codes import shrinkage_discriminant

G = 12
PRIOR = np.array([0.5, 0.2, 0.2, 0.1])


def sample(sizes=(200, 80, 60, 40), seed=0, effect=0.8, same=()):
    """Correlated genes, a third of the values 0; class c moves genes of its own, those of `same` the same ones."""
    rng = np.random.default_rng(seed)
    moved = effect * rng.normal(size=(len(sizes), G)) * (rng.random((len(sizes), G)) < 0.5)
    moved[0] = 0
    for a, b in same:
        moved[b] = moved[a]
    classes = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    mixing = np.random.default_rng(1).normal(size=(G, G)) / 3
    X = rng.normal(size=(len(classes), G)) @ mixing + moved[classes] + 0.3
    return csr_matrix(np.maximum(X, 0)), classes


def at(monkeypatch, alpha, *arguments, **keys):
    """The discriminant with its shrinkage held at α."""
    monkeypatch.setattr(codes, "SHARES", (alpha,) * len(codes.SHARES))
    return shrinkage_discriminant(*arguments, **keys)


class Shrunk(EmpiricalCovariance):
    """Covariance of a class, shrunk by `alpha`: the pooled one is then shrunk by as much."""

    def __init__(self, alpha=0.0):
        super().__init__()
        self.alpha = alpha

    def fit(self, X, y=None):
        super().fit(X)
        self.covariance_ = shrunk_covariance(self.covariance_, self.alpha)
        return self


# ---- log odds


@pytest.mark.parametrize("alpha", [0.03, 0.3, 0.9])
@pytest.mark.parametrize("way", ["lsqr", "eigen", "estimator"])
def test_log_odds_are_those_of_scikit_learn(monkeypatch, alpha, way):
    X, classes = sample()
    found = at(monkeypatch, alpha, X, classes, PRIOR, 3)
    assert found.shrinkage == alpha
    keys = {"solver": way, "shrinkage": alpha}
    if way == "estimator":
        keys = {"solver": "lsqr", "covariance_estimator": Shrunk(alpha)}
    theirs = LinearDiscriminantAnalysis(priors=PRIOR, **keys).fit(X.toarray(), classes)
    new = sample(seed=5)[0]
    odds, expected = found.log_odds(new), theirs.decision_function(new.toarray())
    np.testing.assert_allclose(odds - odds[:, :1], expected - expected[:, :1], rtol=1e-3, atol=1e-4)
    probability = np.exp(odds) / np.exp(odds).sum(1, keepdims=True)
    np.testing.assert_allclose(probability, theirs.predict_proba(new.toarray()), atol=1e-4)


def test_shrinkage_is_little_where_cells_are_many_and_much_where_they_are_few():
    """Of 12 correlated genes the covariance is known from thousands of cells and not from a few."""
    many = shrinkage_discriminant(*sample((4000, 1500, 1500, 1500)), PRIOR, 3)
    few = shrinkage_discriminant(*sample((12, 8, 8, 8), seed=3), PRIOR, 3)
    assert many.shrinkage == min(codes.SHARES)
    assert few.shrinkage > many.shrinkage


def test_the_shrinkage_is_the_best_of_the_grid_on_left_out_cells():
    """Chosen by cells that the trial has not seen: on its own cells less shrinkage would always win."""
    X, classes = sample((30, 20, 20, 20), seed=2)
    chosen = shrinkage_discriminant(X, classes, PRIOR, 3, seed=4).shrinkage
    new, theirs = sample((3000, 1000, 1000, 1000), seed=2)
    mixed = {}
    for alpha in codes.SHARES:
        lda = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=alpha, priors=PRIOR).fit(X.toarray(), classes)
        for name, cells, labels in (("own", X, classes), ("new", new, theirs)):
            loss = -lda.predict_log_proba(cells.toarray())[np.arange(len(labels)), labels]
            mixed[name, alpha] = np.average(loss, weights=PRIOR[labels] / np.bincount(labels)[labels])
    own, other = ([mixed[name, alpha] for alpha in codes.SHARES] for name in ("own", "new"))
    assert np.argmin(own) == 0
    assert other[codes.SHARES.index(chosen)] < other[0]


# ---- codes


def mahalanobis(X, classes, alpha, prior=PRIOR):
    """Squared distances of class means from control and from each other, with what is due to the noise of the means.

    Σ is scikit-learn's covariance of the classes, shrunk.
    """
    lda = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=alpha, priors=prior).fit(X.toarray(), classes)
    raw = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.0, priors=prior).fit(X.toarray(), classes)
    inverse = np.linalg.inv(lda.covariance_)
    away = lda.means_[1:] - lda.means_[0]
    n = np.bincount(classes)
    noise = np.trace(inverse @ raw.covariance_) * (np.diag(1 / n[1:]) + 1 / n[0])
    return away @ inverse @ away.T, noise


def test_inner_products_of_codes_are_those_of_mahalanobis_less_their_noise(monkeypatch):
    X, classes = sample(effect=1.5)
    found = at(monkeypatch, 0.3, X, classes, PRIOR, 3)
    products, noise = mahalanobis(X, classes, 0.3)
    assert np.linalg.eigvalsh(products - noise).min() > 0, "three dimensions hold three perturbations"
    np.testing.assert_allclose(found.codes @ found.codes.T, products - noise, rtol=1e-5, atol=1e-4)
    wide = at(monkeypatch, 0.3, X, classes, PRIOR, 7)
    np.testing.assert_allclose(wide.codes[:, :3], found.codes, atol=1e-4)
    assert not wide.codes[:, 3:].any()


def test_fewer_dimensions_keep_most_of_the_inner_products(monkeypatch):
    """Eckart–Young: the best approximation of that rank."""
    X, classes = sample(effect=1.5)
    products, noise = mahalanobis(X, classes, 0.3)
    found = at(monkeypatch, 0.3, X, classes, PRIOR, 2).codes
    left = np.linalg.norm(products - noise - found @ found.T)
    assert left == pytest.approx(np.sort(np.linalg.eigvalsh(products - noise))[0], rel=1e-6)


def test_perturbations_that_do_the_same_have_one_code_and_one_that_does_nothing_none():
    sizes = (900, 500, 500, 500, 500)
    X, classes = sample(sizes, effect=1.0, same=[(1, 2), (0, 4)])
    found = shrinkage_discriminant(X, classes, np.array([0.5, *[0.125] * 4]), 4).codes
    length = np.linalg.norm(found, axis=1)
    assert np.linalg.norm(found[0] - found[1]) < 0.3 * length[0]
    assert np.linalg.norm(found[0] - found[2]) > length[0] / 2
    assert length[3] < 0.25 * length[:3].min()


def test_without_any_effect_codes_are_short_however_few_cells_there_are():
    """The noise of the means would else be a code that is longer the fewer cells there are."""
    length = []
    for seed in range(20):
        X, classes = sample((200, 20, 20, 20), seed=seed, effect=0.0)
        length.append(np.square(shrinkage_discriminant(X, classes, PRIOR, 3).codes).sum(1).mean())
    noise = mahalanobis(X, classes, 0.3)[1]
    assert np.mean(length) < 0.7 * np.diag(noise).mean()


# ---- what plays no part, and small classes


def test_the_order_of_cells_plays_no_part(monkeypatch):
    X, classes = sample()
    order = np.random.default_rng(3).permutation(len(classes))
    one = at(monkeypatch, 0.3, X, classes, PRIOR, 3)
    other = at(monkeypatch, 0.3, X[order], classes[order], PRIOR, 3)
    for name in ("weight", "bias", "codes"):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=1e-7, atol=1e-5, err_msg=name)


def test_one_seed_gives_one_discriminant():
    X, classes = sample((40, 30, 30, 30))
    one, other = (shrinkage_discriminant(X, classes, PRIOR, 3, seed=5) for _ in range(2))
    assert one.shrinkage == other.shrinkage
    assert np.array_equal(one.weight, other.weight) and np.array_equal(one.codes, other.codes)


@pytest.mark.filterwarnings("ignore:Only one sample available")
def test_a_class_of_one_cell_has_a_code_and_is_never_left_out():
    X, classes = sample((200, 80, 60, 1))
    found = shrinkage_discriminant(X, classes, PRIOR, 3)
    assert np.isfinite(found.codes).all() and np.isfinite(found.weight).all()
    theirs = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=found.shrinkage, priors=PRIOR)
    odds, expected = found.log_odds(X), theirs.fit(X.toarray(), classes).decision_function(X.toarray())
    np.testing.assert_allclose(odds - odds[:, :1], expected - expected[:, :1], atol=1e-4)


def test_a_class_without_a_cell_is_refused():
    X, classes = sample()
    with pytest.raises(ValueError, match="5 shares of a prior"):
        shrinkage_discriminant(X, classes, np.full(5, 0.2), 3)
    with pytest.raises(ValueError, match="in 4 classes"):
        shrinkage_discriminant(X, np.where(classes == 2, 1, classes), PRIOR, 3)


def test_of_many_cells_the_covariance_is_of_a_sample_and_the_means_are_of_all(monkeypatch):
    X, classes = sample((1500, 500, 500, 3), effect=1.0)
    whole = at(monkeypatch, 0.3, X, classes, PRIOR, 3)
    monkeypatch.setattr(codes, "MOST", 600)
    monkeypatch.setattr(codes, "_Moments", spy := Spy(codes._Moments))
    found = shrinkage_discriminant(X, classes, PRIOR, 3)
    sizes, given = zip(*spy.seen, strict=True)
    assert max(sizes) == 600
    exact = np.stack([X[classes == c].toarray().mean(0) for c in range(4)])
    np.testing.assert_allclose(given[-1], exact, rtol=1e-12)
    odds, expected = (one.log_odds(X) for one in (found, whole))
    same = (odds.argmax(1) == expected.argmax(1)).mean()
    assert same > 0.95
    assert np.abs(found.codes - whole.codes)[:2].max() < 0.35 * np.abs(whole.codes[:2]).max()


class Spy:
    """Counts the cells that moments are made of, and keeps the means that are used."""

    def __init__(self, made) -> None:
        self.made, self.seen = made, []

    def __call__(self, X, *arguments, **keys):
        moments = self.made(X, *arguments, **keys)
        self.seen.append((X.shape[0], moments.means))
        return moments


def test_genes_without_a_count_are_harmless():
    X, classes = sample()
    dense = X.toarray()
    dense[:, 3] = 0
    found = shrinkage_discriminant(csr_matrix(dense), classes, PRIOR, 3)
    assert np.isfinite(found.codes).all()
    assert np.abs(found.weight[:, 3]).max() == 0
