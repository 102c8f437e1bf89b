"""Simple answers to the question of a model of frequencies, fitted on the training cells: what it has to beat.

    zero, training median      no knowledge of the cell
    ridge                      on all genes and on 50 components; α of each frequency by leave-one-out
    lasso                      of each frequency, on the 500 genes of largest |correlation| with it; α by 3 folds
    PLS                        up to 15 components, their number by 3 folds
    k-NN regressor             mean of the k nearest training cells on 50 components, k by leave-one-out
    ReLU network               W₂ relu(W₁ x + b₁) + b₂ of the model's width and optimiser budget, on all genes and on 50
                               whitened components; the epoch of smallest validation loss
    cluster lookup             median of the training cells of the cell's cluster. Labels come from all cells: a
                               yardstick, not a competitor
Cell types: the commonest, logistic regression (strength by validation cells), k-NN and the ReLU network.

Components are those of the training cells. More than MOST_CELLS training cells are sampled. Targets that were extended
by neighbours (Nyström) are nearly a k-NN regression by construction: there k-NN is a yardstick too (`yardsticks`).

Shapes: N cells of a part, G standardised genes, K components, F frequencies, C classes.
Sources: Hoerl & Kennard 1970 (ridge); Tibshirani 1996 (lasso); Wold 1966 (PLS).
"""

from __future__ import annotations

import warnings

import numpy as np

from stormcell.evaluation.frequency_network import Budget, Part, relu_network
from stormcell.evaluation.latent_baselines import principal_components

ZERO, MEDIAN, LOOKUP = "zero", "training median", "cluster lookup"
RIDGE, RIDGE_COMPONENTS, LASSO, PLS = "ridge", "ridge, 50 components", "lasso", "PLS"
KNN, RELU, RELU_COMPONENTS = "k-NN, 50 components", "ReLU network", "ReLU network, 50 components"
MAJORITY, LOGISTIC = "commonest type", "logistic regression"

MOST_CELLS = 20_000
COMPONENTS = 50
ALPHAS = np.logspace(-1, 7, 25)
SCREENED, FOLDS, MOST_LATENT = 500, 3, 15
NEIGHBOURS = 3, 5, 7, 10, 15, 20, 30
STRENGTHS = 1e-4, 1e-3, 1e-2, 1e-1


def yardsticks(extended: bool) -> tuple[str, ...]:
    """Answers that know what the model may not: they are shown and not beaten. `extended`: by Nyström."""
    return (LOOKUP, KNN) if extended else (LOOKUP,)


def answers(
    train: Part,
    validation: Part,
    test_x: np.ndarray,
    labels: tuple[np.ndarray, np.ndarray] | None = None,
    seed: int = 1,
    budget: Budget | None = None,
) -> dict[str, np.ndarray]:
    """method → predicted frequencies of the held-out cells, N × F float64.

    `labels`: clusters of the training and of the held-out cells; None leaves the lookup out. Raises ValueError for
    sizes that do not agree and fewer than 4 training cells.
    """
    _check(train, validation, test_x)
    rows = sampled(len(train.x), MOST_CELLS, seed)
    budget, n = budget or Budget(), len(test_x)
    middle = np.median(train.y, axis=0)
    found = {ZERO: np.zeros((n, train.y.shape[1])), MEDIAN: np.tile(middle, (n, 1))}
    if labels is not None:
        found[LOOKUP] = lookup(labels[0], train.y, labels[1])
    train = Part(train.x[rows], np.asarray(train.y[rows], np.float64))
    known, chosen, asked = _components(train.x, validation.x, test_x, seed)
    found[RIDGE] = ridge(train.x, train.y).predict(test_x)
    found[RIDGE_COMPONENTS] = ridge(known, train.y).predict(asked)
    found[LASSO] = lasso(train, test_x)
    found[PLS] = partial_least_squares(train, test_x)
    found[KNN] = nearest_mean(known, train.y, asked)
    found[RELU] = relu_network(train, validation, test_x, budget, seed)
    scale = known.std(0)
    found[RELU_COMPONENTS] = relu_network(
        Part(known / scale, train.y), Part(chosen / scale, validation.y), asked / scale, budget, seed
    )
    return {name: _columns(values, n) for name, values in found.items()}


def class_answers(
    train: Part, validation: Part, test_x: np.ndarray, n_classes: int, seed: int = 1, budget: Budget | None = None
) -> dict[str, np.ndarray]:
    """method → predicted classes of the held-out cells, N numbers below C; the y of both parts are such numbers."""
    _check(train, validation, test_x)
    rows = sampled(len(train.x), MOST_CELLS, seed)
    common = np.bincount(train.y, minlength=n_classes).argmax()
    train = Part(train.x[rows], np.asarray(train.y[rows]))
    known, _, asked = _components(train.x, validation.x, test_x, seed)
    scores = nearest_mean(known, np.eye(n_classes)[train.y], asked)
    network = relu_network(train, validation, test_x, budget or Budget(), seed, n_classes)
    return {
        MAJORITY: np.full(len(test_x), common),
        LOGISTIC: logistic(train, validation, test_x),
        KNN: scores.argmax(1),
        RELU: network.argmax(1),
    }


# ---- one answer each


def lookup(known: np.ndarray, y: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Median target of the training cells of the same cluster; of an unknown cluster that of all: N × F."""
    known, asked = np.asarray(known).astype(str), np.asarray(asked).astype(str)
    found = np.tile(np.median(y, axis=0), (len(asked), 1))
    for name in np.setdiff1d(np.intersect1d(known, asked), [""]):  # cells without a label are no cluster
        found[asked == name] = np.median(y[known == name], axis=0)
    return found


def ridge(x: np.ndarray, y: np.ndarray):
    """scikit-learn's ridge with the α of each column of y that is best by leave-one-out; `coef_` is F × G."""
    from sklearn.linear_model import RidgeCV

    return RidgeCV(ALPHAS, alpha_per_target=y.ndim == 2 and y.shape[1] > 1).fit(x, y)


def lasso(train: Part, test_x: np.ndarray) -> np.ndarray:
    """One lasso per frequency on the genes of largest |correlation| in the training cells: N × F.

    The screening stands outside the folds, so that the α chosen is a little small; its genes are those that a lasso on
    all would take first.
    """
    from sklearn.linear_model import LassoCV

    strength, found = np.abs(correlation(train.x, train.y)), []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the weakest α of the path may stop before its last digit
        for f, score in enumerate(strength):
            genes = np.sort(np.argsort(-score, kind="stable")[:SCREENED])
            model = LassoCV(alphas=20, eps=1e-2, tol=1e-3, cv=FOLDS, precompute=True)
            found.append(model.fit(train.x[:, genes], train.y[:, f]).predict(test_x[:, genes]))
    return np.stack(found, 1)


def partial_least_squares(train: Part, test_x: np.ndarray) -> np.ndarray:
    """PLS with the number of components of smallest error over the folds: N × F.

    Components are found one after another, so that one fit holds those of every smaller number.
    """
    from sklearn.model_selection import KFold

    most = min(MOST_LATENT, train.x.shape[1], len(train.x) - len(train.x) // FOLDS - 1)
    error = np.zeros(most)
    for fit, left in KFold(FOLDS, shuffle=True, random_state=0).split(train.x):
        path = _pls_path(train.x[fit], train.y[fit], most, train.x[left])
        error += [np.square(train.y[left] - predicted).sum() for predicted in path]
    return _pls_path(train.x, train.y, int(error.argmin()) + 1, test_x)[-1]


def nearest_mean(train: np.ndarray, y: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Mean target of the k nearest training cells, the k of smallest leave-one-out error: N × F."""
    from sklearn.neighbors import NearestNeighbors

    sizes = [k for k in NEIGHBOURS if k < len(train)]
    search = NearestNeighbors(n_neighbors=sizes[-1]).fit(train)
    others = search.kneighbors(return_distance=False)  # a training cell is not its own neighbour
    error = [np.square(y - y[others[:, :k]].mean(1)).sum() for k in sizes]
    best = sizes[int(np.argmin(error))]
    return y[search.kneighbors(asked, best, return_distance=False)].mean(1)


def logistic(train: Part, validation: Part, test_x: np.ndarray) -> np.ndarray:
    """Multinomial logistic regression on all genes, the strength of its penalty by the validation cells: N classes."""
    from sklearn.linear_model import LogisticRegression

    if len(np.unique(train.y)) < 2:
        return np.full(len(test_x), train.y[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # 100 steps: the rest changes the third digit
        models = [LogisticRegression(C=c, max_iter=100).fit(train.x, train.y) for c in STRENGTHS]
    right = [(model.predict(validation.x) == validation.y).mean() for model in models]
    return models[int(np.argmax(right))].predict(test_x)


# ---- parts


def correlation(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Pearson's correlation of every target with every gene: N × G, N × F → F × G; 0 where one of them is constant."""
    return unit(y).T @ unit(x)


def unit(values: np.ndarray) -> np.ndarray:
    """Columns centred and of length 1, N × K float64; a constant one is 0."""
    values = np.asarray(values, np.float64)
    centred = np.where(np.ptp(values, axis=0) > 0, values - values.mean(0), 0)
    length = np.linalg.norm(centred, axis=0)
    return centred / np.where(length > 0, length, 1)


def _pls_path(x: np.ndarray, y: np.ndarray, n_components: int, asked: np.ndarray) -> list[np.ndarray]:
    """Predictions with 1, 2, … components."""
    from sklearn.cross_decomposition import PLSRegression

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nothing is left to explain
        model = PLSRegression(n_components, scale=False).fit(x, y)
    latent, middle = (asked - x.mean(0)) @ model.x_rotations_, y.mean(0)
    return [middle + latent[:, :k] @ model.y_loadings_[:, :k].T for k in range(1, n_components + 1)]


def _components(train: np.ndarray, validation: np.ndarray, test: np.ndarray, seed: int) -> tuple[np.ndarray, ...]:
    known, rest = principal_components(train, np.vstack([validation, test]), COMPONENTS, seed)
    return known, rest[: len(validation)], rest[len(validation) :]


def sampled(n: int, most: int, seed: int) -> np.ndarray:
    """Numbers of at most so many of n cells, in their order."""
    if n <= most:
        return np.arange(n)
    return np.sort(np.random.default_rng(seed).choice(n, most, replace=False))


def _check(train: Part, validation: Part, test_x: np.ndarray) -> None:
    sizes = {np.shape(x)[1] for x in (train.x, validation.x, test_x)}
    if len(sizes) > 1 or len(train.x) != len(train.y) or len(validation.x) != len(validation.y) or len(train.x) < 4:
        raise ValueError(
            f"training {np.shape(train.x)} and {np.shape(train.y)}, validation {np.shape(validation.x)} and "
            f"{np.shape(validation.y)}, test {np.shape(test_x)}: at least 4 training cells, and one number of genes"
        )


def _columns(values: np.ndarray, n: int) -> np.ndarray:
    return np.asarray(values, np.float64).reshape(n, -1)
