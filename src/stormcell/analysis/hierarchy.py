"""Is the space of frequencies a hierarchy of cell types? Clusters at each cut of the spectrum.

At cut m the cells are clustered by their first m frequencies with k = m + 1 centres: m indicator vectors and the
constant one tell m + 1 pieces of a graph apart. k-means runs on the frequencies as they are, of unit RMS and without
normalising rows (Shi & Malik; the rows of Ng, Jordan & Weiss lose the distance from the origin, which at cut 1 is
everything but the sign). Centres come from training cells, and everything is told of test cells assigned to them:

    ari_types    adjusted Rand index with known labels; beside it PCA k-means of the same k and permuted labels
    ari_again    ARI of the clusters of frequencies with those from a bootstrap of the training cells: what two
                 clusterings can agree to, the ceiling of the next two
    ari_predicted, ari_activations
                 ARI of clusters of the true frequencies with clusters of the predicted ones, and of the activations of
                 the model's modules, z-scored; at cut m those of the modules that serve frequencies 1 … m
    nested       homogeneity of the coarser clusters (cut m − 1) within the finer: 1 − H(coarse | fine) / H(coarse),
                 1 where every finer cluster lies within one coarser; nested_pca the same for PCA k-means
    nested_clusters   share of the finer clusters with at least 90 % of their cells in one coarser

Shapes: N cells, F frequencies, M modules, K principal components.
Sources: Shi & Malik 2000; Hubert & Arabie 1985 (ARI); Rosenberg & Hirschberg 2007 (homogeneity).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

STARTS = 10  # of k-means
FITTED = 20_000  # training cells that centres are found on at most
PERMUTATIONS = 20
WITHIN = 0.9  # share of a finer cluster in one coarser that counts as within
COLUMNS = ["cut", "clusters", "labels", "n", "types", "ari_types", "nmi_types", "ari_pca", "nmi_pca", "null"]
COLUMNS += ["null_high", "ari_again", "ari_predicted", "ari_activations", "nested", "nested_clusters", "nested_pca"]


class Activations(NamedTuple):
    """What the modules of a model say of each cell."""

    values: np.ndarray  # N × M
    serves: np.ndarray  # M, number of the frequency (from 1) whose module it is


def hierarchy(
    frequencies: np.ndarray,
    train: np.ndarray,
    test: np.ndarray,
    labels: Mapping[str, Sequence],
    points: np.ndarray,
    predicted: np.ndarray | None = None,
    activations: Activations | None = None,
    seed: int = 1,
) -> pd.DataFrame:
    """One row for each cut and each kind of labels (cell types, clusters); without labels one for each cut.

    N × F, rows of the training and of the test cells, name → N labels (missing: None, nan or ''), N × K points of the
    PCA, N × F, N × M. Numbers are of the test cells; ARI and NMI of those with a label (n). What is not given, or not
    defined (labels of one class; nothing coarser than cut 1), is nan. Raises ValueError where shapes disagree and for
    fewer training cells than clusters.
    """
    spaces = {"points": points, "predicted": predicted, "activations": activations and activations.values}
    _check(frequencies, train, spaces | dict(labels))
    if activations is not None and activations.values.shape[1] != len(activations.serves):
        raise ValueError(f"activations {activations.values.shape} of {len(activations.serves)} modules")
    classes = {name: _codes(values)[test] for name, values in labels.items()}
    nulls = {name: _permuted(codes, seed) for name, codes in classes.items()}
    rows, coarser = [], None
    for cut in range(1, frequencies.shape[1] + 1):
        spaces = _spaces(cut, frequencies, points, predicted, activations, train)
        found = {name: kmeans(space[train], space[test], cut + 1, seed) for name, space in spaces.items()}
        first, again = spaces["frequencies"], np.random.default_rng([seed, cut]).choice(train, len(train))
        found["again"] = kmeans(first[again], first[test], cut + 1, seed)
        shared = {"cut": cut, "clusters": cut + 1} | _agreement(found) | _nestedness(found, coarser)
        for name, codes in classes.items() or [(None, None)]:
            rows.append(shared | ({} if name is None else _known(name, codes, nulls[name], found)))
        coarser = found
    return pd.DataFrame(rows, columns=COLUMNS)


def _check(frequencies: np.ndarray, train: np.ndarray, others: Mapping[str, Sequence | None]) -> None:
    N, F = frequencies.shape
    for name, values in others.items():
        if values is not None and len(values) != N:
            raise ValueError(f"{name}: {len(values)} cells, frequencies of {N}")
    if others["predicted"] is not None and others["predicted"].shape != (N, F):
        raise ValueError(f"predicted {others['predicted'].shape}, frequencies {frequencies.shape}")
    if len(train) < F + 1:
        raise ValueError(f"{len(train)} training cells for {F + 1} clusters")


# ---- clusters


def _spaces(
    cut: int,
    frequencies: np.ndarray,
    points: np.ndarray,
    predicted: np.ndarray | None,
    activations: Activations | None,
    train: np.ndarray,
) -> dict[str, np.ndarray]:
    """What is clustered at this cut: N × D each."""
    spaces = {"frequencies": frequencies[:, :cut], "pca": points}
    if predicted is not None:
        spaces["predicted"] = predicted[:, :cut]
    if activations is not None:
        mine = activations.values[:, np.asarray(activations.serves) <= cut]
        if mine.shape[1]:
            spaces["activations"] = _standardised(mine, train)
    return spaces


def kmeans(train: np.ndarray, test: np.ndarray, k: int, seed: int) -> np.ndarray:
    """The nearest of k centres of the training cells: N × D, M × D → M codes. On 20,000 training cells at most."""
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    if len(train) > FITTED:
        train = train[np.random.default_rng(seed).choice(len(train), FITTED, replace=False)]
    train, test = (np.ascontiguousarray(side, np.float64) for side in (train, test))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct cells than k: fewer clusters
        return KMeans(k, n_init=STARTS, random_state=seed).fit(train).predict(test)


def _standardised(values: np.ndarray, train: np.ndarray) -> np.ndarray:
    """z-scores by the training cells: an activation has no scale of its own."""
    sd = values[train].std(0)
    return (values - values[train].mean(0)) / np.where(sd > 0, sd, 1)


# ---- what they agree with


def _codes(values: Sequence) -> np.ndarray:
    """Names of classes → numbers, −1 where there is none; what a class is called plays no part."""
    series = pd.Series(np.asarray(values, object))
    return pd.factorize(series.where(series.notna() & (series != ""), None))[0]


def _permuted(codes: np.ndarray, seed: int) -> list[np.ndarray]:
    known = codes[codes >= 0]
    rng = np.random.default_rng([seed, 0])
    return [rng.permutation(known) for _ in range(PERMUTATIONS)]


def _known(name: str, codes: np.ndarray, permuted: list[np.ndarray], found: Mapping[str, np.ndarray]) -> dict:
    """Agreement with known labels of the test cells that have one."""
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    known = codes >= 0
    truth, clusters, pca = codes[known], found["frequencies"][known], found["pca"][known]
    row = {"labels": name, "n": int(known.sum()), "types": len(np.unique(truth))}
    if row["types"] < 2:
        return row
    null = [adjusted_rand_score(other, clusters) for other in permuted]
    return row | {
        "ari_types": adjusted_rand_score(truth, clusters),
        "nmi_types": normalized_mutual_info_score(truth, clusters),
        "ari_pca": adjusted_rand_score(truth, pca),
        "nmi_pca": normalized_mutual_info_score(truth, pca),
        "null": float(np.mean(null)),
        "null_high": float(np.quantile(null, 0.95)),
    }


def _agreement(found: Mapping[str, np.ndarray]) -> dict[str, float]:
    """With the clusters of the true frequencies."""
    from sklearn.metrics import adjusted_rand_score

    others = ("again", "predicted", "activations")
    return {f"ari_{name}": adjusted_rand_score(found["frequencies"], found[name]) for name in others if name in found}


def _nestedness(finer: Mapping[str, np.ndarray], coarser: Mapping[str, np.ndarray] | None) -> dict[str, float]:
    """Of the clusters of one cut in those of the cut before; nothing at the first."""
    from sklearn.metrics import homogeneity_score

    if coarser is None:
        return {}
    within = list(_largest_shares(coarser["frequencies"], finer["frequencies"]))
    return {
        "nested": homogeneity_score(coarser["frequencies"], finer["frequencies"]),
        "nested_clusters": float(np.mean(np.array(within) >= WITHIN)),
        "nested_pca": homogeneity_score(coarser["pca"], finer["pca"]),
    }


def _largest_shares(coarse: np.ndarray, fine: np.ndarray) -> Iterator[float]:
    """Share of each finer cluster in the coarser one that has most of it."""
    for cluster in np.unique(fine):
        yield np.bincount(coarse[fine == cluster]).max() / (fine == cluster).sum()
