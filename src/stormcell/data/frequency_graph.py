"""The frequencies of a graph of cells, their extension to cells outside it, and how good that is.

The accuracy of the extension is measured inside the training cells: a tenth is held out of a second graph, extended
into it, and compared with the values that the graph of all training cells gave it. Eigenvectors of two graphs turn into
each other where eigenvalues are close, so each is compared as it is, and after a rotation fitted on the cells of both.

Shapes: N cells of the graph, M others, K coordinates, F frequencies.
Source: Bengio et al. 2004 (Nyström extension of spectral embeddings); Schönemann 1966 (rotation).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from stormcell.analysis.cell_graph import graph, neighbours, query_neighbours
from stormcell.analysis.laplacian import NotCertified, Spectrum, extend, nystrom_weights, spectrum
from stormcell.config import UserError
from stormcell.data.stream import seed_of

HELD = 0.1  # share of the cells held out of the second graph
FEWEST = 5  # of them, over which a correlation is taken
APART = 0.1  # gap to the next eigenvalue, as a share of its own, above which a single vector is compared
LOCAL = 10.0  # participation ratio above which a frequency sits on few cells: a tenth of them or fewer
COLUMNS = ("frequency", "eigenvalue", "gap", "trusted", "correlation", "rotated", "ceiling", "rotated_r2")


@dataclass(frozen=True)
class CellGraph:
    """How cells become a graph, and how many of its frequencies are asked for."""

    neighbours: int
    metric: str  # euclidean · cosine
    normalised: bool
    n_frequencies: int
    seed: int
    origin: str  # for messages

    def spectrum(self, points: np.ndarray) -> Spectrum:
        """N × K → the frequencies. Raises UserError where there are too few cells, or more is asked than is certain."""
        if len(points) <= self.neighbours:
            raise UserError(
                f"{self.origin}: the graph has {len(points)} cells, fewer than datamodule.neighbours="
                f"{self.neighbours} and the cell itself; lower it"
            )
        try:
            return self._spectrum(points, self.n_frequencies)
        except NotCertified as error:
            raise UserError(
                f"{self.origin}: datamodule.n_frequencies={self.n_frequencies}, but {error.certified} can be "
                f"certified on the graph of {len(points)} cells: {error}"
            ) from error

    def _spectrum(self, points: np.ndarray, n_frequencies: int) -> Spectrum:
        near, _ = neighbours(points, self.neighbours, self.metric, self.seed)
        return spectrum(graph(near, len(points)), n_frequencies, self.normalised, self.seed)

    def extended(self, found: Spectrum, points: np.ndarray, asked: np.ndarray) -> np.ndarray:
        """Frequencies of cells outside the graph: N × K, M × K → M × F. Raises UserError for eigenvalues too large."""
        if not len(asked):
            return np.empty((0, len(found.values)))
        try:
            return extend(found, self._weights(points, asked), found.degree.mean())
        except ValueError as error:
            raise UserError(
                f"{self.origin}: {error}; lower datamodule.n_frequencies={self.n_frequencies}, or put all cells in "
                "the graph with datamodule.transductive=true"
            ) from error

    def _weights(self, points: np.ndarray, asked: np.ndarray):
        """Each other cell as the mean of its nearest cells of the graph: M × N, rows sum to 1."""
        near, _ = query_neighbours(points, asked, self.neighbours, self.metric, self.seed)
        return nystrom_weights(near, len(points))

    def accuracy(self, found: Spectrum, points: np.ndarray) -> pd.DataFrame:
        """One row for each frequency of the graph of all these points: N × K → COLUMNS.

        correlation: |r| over the held-out tenth of the extended with the true values; rotated: after the rotation;
        ceiling: of the mean of the neighbours' true values, which no extension through neighbours is far above;
        rotated_r2: R² after the rotation, which an error of the scale lowers too. A
        frequency that the second graph does not certify has no correlation. Raises ValueError where the second graph
        cannot be made, certifies nothing, or has eigenvalues too large to extend.
        """
        n_held = round(HELD * len(points))
        if n_held < FEWEST:
            raise ValueError(f"a tenth of {len(points)} cells is fewer than {FEWEST}")
        order = np.random.default_rng(seed_of("extension", self.seed)).permutation(len(points))
        held, kept = np.sort(order[:n_held]), np.sort(order[n_held:])
        truth, second = found.frequencies, self._second(points[kept])
        weights = self._weights(points[kept], points[held])
        values = extend(second, weights, second.degree.mean())
        rotation = _rotation(second.frequencies, truth[kept])
        plain = np.full(len(found.values), np.nan)
        plain[: values.shape[1]] = _correlation(values, truth[held][:, : values.shape[1]])
        gap, trusted = gaps(found)
        table = {
            "frequency": np.arange(1, len(found.values) + 1),
            "eigenvalue": found.values,
            "gap": gap,
            "trusted": trusted,
            "correlation": plain,
            "rotated": _correlation(values @ rotation, truth[held]),
            "ceiling": _correlation(weights @ truth[kept], truth[held]),
            "rotated_r2": 1
            - np.square(values @ rotation - truth[held]).sum(0) / np.square(truth[held] - truth[held].mean(0)).sum(0),
        }
        return pd.DataFrame(table, columns=COLUMNS)

    def _second(self, points: np.ndarray) -> Spectrum:
        """As many frequencies as this smaller graph certifies."""
        try:
            return self._spectrum(points, self.n_frequencies)
        except NotCertified as error:
            if error.certified < 1:
                raise
            return self._spectrum(points, error.certified)


def gaps(found: Spectrum) -> tuple[np.ndarray, np.ndarray]:
    """(λ_{i+1} − λ_i) / λ_i, and whether it is above APART on both sides of i: F, F bool."""
    values = np.concatenate([found.values, [found.next_value]])
    relative = np.diff(values) / values[:-1]
    below = np.concatenate([[np.inf], relative[:-1]])  # below the first is zero
    return relative, (relative > APART) & (below > APART)


def told(found: Spectrum, table: pd.DataFrame, n: int) -> list[str]:
    """What a reader must know of the graph and its frequencies, in sentences."""
    cut = found.next_value - found.values[-1]
    again = f", angle {found.restart_angle:.1g} to the space of a second random start"
    notes = [
        f"graph of {n:,} cells: {len(found.values)} frequencies by {found.solver}, eigenvalues "
        f"{found.values[0]:.3g} to {found.values[-1]:.3g}; largest residual {found.residuals.max():.1g} against a gap "
        f"of {cut:.2g} at the cut" + ("" if found.solver == "dense" else again),
        *found.notes,
    ]
    if found.blocks:
        together = "; ".join(", ".join(str(i + 1) for i in block) for block in found.blocks)
        notes.append(f"frequencies with one eigenvalue, of which only the common space is certain: {together}")
    sizes = np.flatnonzero(found.participation > LOCAL)
    if len(sizes):
        each = ", ".join(f"{i + 1} on about {n / found.participation[i]:,.0f}" for i in sizes)
        notes.append(f"the energy of some frequencies sits on few of the {n:,} cells: {each}")
    if len(table):
        notes.append(
            f"extension to held-out cells, checked on a tenth of the training cells: correlation "
            f"{_range(table['correlation'])} vector by vector, {_range(table['rotated'])} after one rotation "
            f"(neighbours' mean of the true values: {_range(table['ceiling'])})"
        )
    close = np.flatnonzero(~gaps(found)[1]) + 1
    if len(close):
        notes.append(
            f"frequencies {', '.join(map(str, close))} are closer than {APART:.0%} to one beside them: on other cells "
            "they turn into each other, so only the space that they span is comparable"
        )
    return notes


def _range(values: pd.Series) -> str:
    return f"{values.min():.2f} to {values.max():.2f}"


def _rotation(of: np.ndarray, onto: np.ndarray) -> np.ndarray:
    """The orthogonal map that brings `of` closest to `onto`: n × E, n × F → E × F."""
    u, _, vt = np.linalg.svd(of.T @ onto, full_matrices=False)
    return u @ vt


def _correlation(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """|Pearson r| column by column; NaN where a column does not vary."""
    a, b = one - one.mean(0), other - other.mean(0)
    scale = np.sqrt((a**2).sum(0) * (b**2).sum(0))
    return np.abs(np.divide((a * b).sum(0), scale, out=np.full(len(scale), np.nan), where=scale > 0))
