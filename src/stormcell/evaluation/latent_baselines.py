"""Latent spaces that need no training run: what a model of two spaces has to beat.

    PCA          50 principal components, both as salient and as background space
    LDA          shrinkage discriminants of control and targets in PCA-50; background: the directions of PCA-50 in which
                 all conditions have one mean
    mixscape     expression less the mean of the 20 nearest training controls of the same batch in PCA-50, the first 15
                 principal components of that; background: the mean of those controls in PCA-50
    probe on all genes   the perturbation by multinomial logistic regression on every gene: a ceiling of linear probes

Genes are centred and not scaled. Every salient space has the mean of the training controls at 0.

Shapes: N training cells, M held-out cells, G genes, K components.
"""

from __future__ import annotations

import warnings
from functools import cached_property

import numpy as np
from scipy.sparse import csr_matrix

from stormcell.analysis.discriminants import discriminants
from stormcell.analysis.mixscape import nearest_controls, responding
from stormcell.evaluation.spaces import CellLabels, Space

PCA, LDA, MIXSCAPE, GENES = "PCA, 50 components", "LDA in PCA-50", "mixscape-like", "probe on all genes"
COMPONENTS, OF_DIFFERENCE = 50, 15


class LatentBaselines:
    """Fitted on the training cells: log1p expression N × G and M × G in CSR, and the labels of both.

    Each method is a baseline: () → its space of the training cells and of the held-out cells.
    """

    def __init__(
        self, train: csr_matrix, train_labels: CellLabels, test: csr_matrix, test_labels: CellLabels, seed: int
    ) -> None:
        self.train_labels, self.test_labels, self.seed = train_labels, test_labels, seed
        if not train_labels.is_control.any():
            raise ValueError("no control cells among the training cells: the baselines have no zero")
        self.genes = train, test
        self.components = principal_components(*self.genes, COMPONENTS, seed)

    def all(self) -> dict[str, tuple[Space, Space]]:
        """Every baseline by its name on the scoreboard."""
        return {PCA: self.pca(), LDA: self.lda(), MIXSCAPE: self.mixscape(), GENES: self.all_genes()}

    def pca(self) -> tuple[Space, Space]:
        return self._spaces(self.components, self.components)

    def lda(self) -> tuple[Space, Space]:
        """Background None where the condition means span all components."""
        found = discriminants(self.components[0], self.train_labels.condition)
        across, along = (tuple(side @ part for side in self.components) for part in (found.across, found.along))
        return self._spaces(across, along if found.along.shape[1] else None)

    def mixscape(self) -> tuple[Space, Space]:
        background = tuple(weight @ self.components[0] for weight in self._nearest_controls)
        return self._spaces(self._differences, background)

    def mixscape_perturbed(self) -> tuple[np.ndarray, np.ndarray]:
        """P(perturbed) of the training and the held-out cells under the mixture of their own target: N, M.

        Of a control, and of a target with fewer than two training cells, nan.
        """
        differences, labels = self._differences, (self.train_labels, self.test_labels)
        found = tuple(np.full(len(side.condition), np.nan) for side in labels)
        condition, control = self.train_labels.condition, self.train_labels.control
        names, counts = np.unique(condition, return_counts=True)
        for target in names[(counts >= 2) & (names != control)]:
            for values, side, cells in zip(found, labels, differences, strict=True):
                own = side.condition == target
                values[own] = responding(differences[0], condition, control, target, cells[own])
        return found

    def all_genes(self) -> tuple[Space, Space]:
        """The perturbation that the classifier gives to every cell, fitted on perturbed cells alone; no space."""
        from sklearn.linear_model import LogisticRegression

        condition = self.train_labels.condition
        names, counts = np.unique(condition, return_counts=True)
        names = names[(counts >= 2) & (names != self.train_labels.control)]
        if len(names) < 2:
            return tuple(Space(predicted=np.resize(names, cells.shape[0])) for cells in self.genes)
        rows = np.flatnonzero(np.isin(condition, names))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # 100 steps: the rest changes the third digit
            model = LogisticRegression(max_iter=100).fit(self.genes[0][rows], condition[rows])
        return tuple(Space(predicted=model.predict(cells)) for cells in self.genes)

    @cached_property
    def _nearest_controls(self) -> tuple[csr_matrix, csr_matrix]:
        train, test = self.train_labels, self.test_labels
        batches = [side.batch for side in (train, test)]
        if any(batch is None for batch in batches):
            batches = [np.full(len(side.condition), "all") for side in (train, test)]
        known = self.components[0], train.is_control, batches[0]
        return tuple(nearest_controls(*known, *side) for side in zip(self.components, batches, strict=True))

    @cached_property
    def _differences(self) -> tuple[np.ndarray, np.ndarray]:
        dense = (
            (cells - weight @ self.genes[0]).toarray()
            for cells, weight in zip(self.genes, self._nearest_controls, strict=True)
        )
        return principal_components(*dense, OF_DIFFERENCE, self.seed)

    def _spaces(self, salient, background) -> tuple[Space, Space]:
        zero = salient[0][self.train_labels.is_control].mean(0)
        return tuple(Space(salient[side] - zero, None if background is None else background[side]) for side in (0, 1))


def principal_components(train, test, k: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates on the first k principal components of the training cells, fewer if they have fewer: N × G, M × G,
    sparse or dense → N × K, M × K."""
    from sklearn.decomposition import PCA as Components

    k = min(k, train.shape[0] - 1, train.shape[1] - 1)
    model = Components(k, svd_solver="arpack", random_state=seed).fit(train)
    return model.transform(train), model.transform(test)
