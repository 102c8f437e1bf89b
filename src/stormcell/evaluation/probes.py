"""Small classifiers on latent vectors: what can be read out of a space.

Every probe is fitted on training cells and answers for held-out cells. Linear ones see each dimension divided by its
training deviation; neighbours, clusters and silhouettes see the space as it is, since a model that has no use for a
dimension makes it short.

Shapes: N training cells, M held-out cells, K latent dimensions.
Sources: Rousseeuw 1987 (silhouette); Korsunsky et al. 2019 (inverse Simpson index of neighbours).
"""

from __future__ import annotations

import warnings
from contextlib import AbstractContextManager

import numpy as np

SILHOUETTE_CELLS = 3000  # all pairs of cells are compared


def one_thread() -> AbstractContextManager:
    """Everything here is small: more threads wait for each other longer than they work, most of all where training
    has the other cores."""
    import sklearn.cluster
    import sklearn.neighbors  # noqa: F401  a pool of threads that is not loaded cannot be limited
    from threadpoolctl import threadpool_limits

    return threadpool_limits(1)


def class_of(train: np.ndarray, labels: np.ndarray, test: np.ndarray) -> np.ndarray:
    """The label that multinomial logistic regression (L2, C = 1, labels weighted as they are) gives: M."""
    model, test = _logistic(train, labels, test)
    return model.predict(test)


def log_odds(train: np.ndarray, positive: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Log odds of being positive by logistic regression: N × K, N bool, M × K → M."""
    model, test = _logistic(train, positive, test)
    return model.decision_function(test)


def neighbour_share(train: np.ndarray, positive: np.ndarray, test: np.ndarray, k: int) -> np.ndarray:
    """Share of positive cells among the k nearest training cells: N × K, N bool, M × K → M."""
    from sklearn.neighbors import NearestNeighbors

    near = NearestNeighbors(n_neighbors=min(k, len(train))).fit(train).kneighbors(test, return_distance=False)
    return positive[near].mean(1)


def ridge_of(train: np.ndarray, values: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Ridge regression (penalty 1) of values on the space: N × K, N, M × K → M."""
    from sklearn.linear_model import Ridge

    train, test = standardised(train, test)
    return Ridge(1.0).fit(train, values).predict(test)


def clusters(points: np.ndarray, k: int, seed: int) -> np.ndarray:
    """k-means, the best of ten starts; at most as many clusters as cells: M × K → M."""
    from sklearn.cluster import KMeans

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fewer distinct points than k: then there are fewer clusters
        return KMeans(min(k, len(points)), n_init=10, random_state=seed).fit_predict(points)


def silhouettes(points: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(b − a) / max(a, b): a mean distance to the own label, b to the nearest other: M × K, M → M.

    nan beyond the first 3,000 cells, for a label with one cell 0.
    """
    from sklearn.metrics import silhouette_samples

    found = np.full(len(points), np.nan)
    some = slice(SILHOUETTE_CELLS)
    if 2 <= len(np.unique(labels[some])) < len(points[some]):
        found[some] = silhouette_samples(points[some], labels[some])
    return found


def mixing(points: np.ndarray, labels: np.ndarray, k: int, rng: np.random.Generator) -> np.ndarray:
    """Inverse Simpson index of the labels of k neighbours, 0 where all are one and on average 1 at random: M × K → M.

    1 / Σ_c p_c², less 1, over the mean of the same with the labels permuted over the same neighbours: what the numbers
    of the labels and k allow. p_c ∝ neighbours of label c / cells of label c: without the division, a rare label that
    gathers somewhere would raise the index there.
    """
    from sklearn.neighbors import NearestNeighbors

    k = min(k, len(points) - 1)
    near = NearestNeighbors(n_neighbors=k).fit(points).kneighbors(return_distance=False)
    names, numbers, cells = np.unique(labels, return_inverse=True, return_counts=True)

    def excess(numbers: np.ndarray) -> np.ndarray:
        shares = np.stack([(numbers[near] == label).sum(1) for label in range(len(names))], axis=1) / cells
        return np.square(shares.sum(1)) / np.square(shares).sum(1) - 1

    expected = np.mean([excess(rng.permutation(numbers)).mean() for _ in range(5)])
    return excess(numbers) / expected if expected > 0 else np.full(len(points), np.nan)


def standardised(train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Training mean 0 and deviation 1 of each dimension; one that is constant in training becomes 0 everywhere."""
    # lbfgs stops too early in single precision.
    train, test = np.asarray(train, np.float64), np.asarray(test, np.float64)
    mean, deviation = train.mean(0), train.std(0)
    # Rounding of a constant is no deviation.
    scale = np.divide(1, deviation, out=np.zeros_like(deviation), where=deviation > 1e-7 * (1 + np.abs(mean)))
    return (train - mean) * scale, (test - mean) * scale


def _logistic(train: np.ndarray, labels: np.ndarray, test: np.ndarray):
    from sklearn.linear_model import LogisticRegression

    train, test = standardised(train, test)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the last digits of the optimum change no ranking
        return LogisticRegression(max_iter=300).fit(train, labels), test
