"""Gene modules: directions of expression whose square, or cube, a network of products adds to a frequency.

Around the mean of the cells, z = x − mean, every output is (see `interaction_spectra`)

    f_o(z) = constant + ℓᵀz + Σ_k λ_k a_k² (+ Σ_k λ_k a_k³),      a_k = z · v_k

A module is one k. Both poles of a quadratic module push the output the same way, that of λ's sign; the sign of v is
arbitrary, and the loading of largest size is made positive. The linear part is a module of its own, of degree 1, whose
poles push opposite ways, as those of a cubic one.

Weighted reading: λ and v from Σ^½ Q Σ^½, so that activations a_k have variance 1 and are uncorrelated over the cells,
and loadings are the covariances of standardised genes with a_k, their correlations. Where genes outnumber cells, the
cells leave directions undetermined: eigenvectors of Q hold what training began with there, covariances do not.
Plain reading: eigenvectors of Q itself; from principal components a direction v is that of the genes matrix · v, which
has the same activation of every cell.

explained is cov(λ a^degree, f) / var f; modules of a degree are ranked by the s.d. of λ a^degree.

Shapes: N cells, D inputs, G genes, H hidden units, F outputs.
Source: Pearce et al. 2024; Haufe et al. 2014 (a weight is no pattern: the covariance with the activation is).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd

from stormcell.analysis.interaction_spectra import (
    Factors,
    below_cubic,
    checked,
    covariance_root,
    covariance_share,
    homogeneous,
    interaction_spectra,
    linear_part,
    parts,
    recentred,
)
from stormcell.analysis.trilinear_modules import cubic_components

DEGREES = {1: "linear", 2: "quadratic", 3: "cubic"}
UNSEEN = 1e-6  # s.d. of a part over that of the output: below it the part is rounding


@dataclass(frozen=True)
class Module:
    """One direction of expression and what it does to one output."""

    frequency: int  # number of the output, from 0
    degree: int  # 1, 2 or 3: the part is eigenvalue · activation ** degree
    rank: int  # from 1 within the output and degree, by s.d. of the part
    eigenvalue: float  # its sign says which way both poles of a quadratic module push
    loadings: np.ndarray  # G, signed, the largest in size positive
    explained: float  # share of the output's variance over the cells; may be negative
    activation: np.ndarray  # N
    direction: np.ndarray  # D
    offset: float  # activation of other cells: x · direction − offset

    @property
    def name(self) -> str:
        return DEGREES[self.degree] + (f" {self.rank}" if self.degree > 1 else "")

    def activated(self, x: np.ndarray) -> np.ndarray:
        """Activation of any cells: N × D → N."""
        return x @ self.direction - self.offset

    def top(self, k: int) -> np.ndarray:
        """Numbers of the k genes of largest |loading|, largest first; the lower number first among equals."""
        return np.argsort(-np.abs(self.loadings), kind="stable")[:k]


class Component(NamedTuple):
    """A direction before it is read as genes."""

    degree: int
    value: float
    direction: np.ndarray  # D


def modules(
    factors: Factors,
    readout: np.ndarray,
    x: np.ndarray,
    genes: np.ndarray | None = None,
    matrix: np.ndarray | None = None,
    most: int = 5,
    weighted: bool = True,
    seed: int = 1,
) -> list[Module]:
    """The linear part and the `most` first modules of each higher degree, for every output.

    factors: two or three of H × (D + 1), the constant last, or H × D. readout: F × H. x: N × D, the training cells.
    Where inputs are principal components: genes N × G, the standardised genes of the same cells, for the weighted
    reading; matrix G × D, components = genes · matrix, for the plain one. Without them loadings are of the inputs.
    A degree that an output does not use has no module. Raises ValueError for shapes that disagree, inputs or weights
    that are not finite, and fewer than 2 cells.
    """
    factors, readout = checked(factors, readout)
    x = _cells(x, genes, matrix)
    centre = x.mean(0)
    z = x - centre
    factors = recentred(homogeneous(factors, x.shape[1]), centre)
    whole = parts(factors, readout, z).sum(0)
    patterns = z if genes is None else genes
    found = []
    for output, components in enumerate(_components(factors, readout, z, most, weighted, seed)):
        ranks = dict.fromkeys(DEGREES, 0)
        for component in components:
            a = z @ component.direction
            if (component.value * a**component.degree).std() <= UNSEEN * whole[:, output].std():
                continue
            ranks[component.degree] += 1
            if weighted:
                loadings = np.asarray(a @ patterns, np.float64) / len(a)
            else:
                loadings = component.direction if matrix is None else matrix @ component.direction
            read = _read(component, a, loadings, whole[:, output], centre)
            found.append(Module(frequency=output, rank=ranks[component.degree], **read))
    return found


def _cells(x: np.ndarray, genes: np.ndarray | None, matrix: np.ndarray | None) -> np.ndarray:
    """Inputs in float64, or a ValueError where they, genes and matrix disagree."""
    x = np.asarray(x, np.float64)
    if x.ndim != 2 or len(x) < 2 or not np.isfinite(x).all():
        raise ValueError(f"inputs of shape {x.shape}, finite: {bool(np.isfinite(x).all())}; 2 cells or more are needed")
    if genes is not None and len(genes) != len(x):
        raise ValueError(f"genes of {len(genes)} cells for inputs of {len(x)}")
    if matrix is not None and matrix.shape[1] != x.shape[1]:
        raise ValueError(f"a matrix of shape {matrix.shape} for {x.shape[1]} inputs")
    return x


def _read(component: Component, a: np.ndarray, loadings: np.ndarray, whole: np.ndarray, centre: np.ndarray) -> dict:
    """Fields of a module, its sign chosen: an odd degree takes the flip into its eigenvalue."""
    degree, value, direction = component
    flip = -1.0 if loadings[np.abs(loadings).argmax()] < 0 else 1.0
    return {
        "degree": degree,
        "eigenvalue": float(value * flip**degree),
        "loadings": flip * loadings,
        "explained": float(covariance_share(value * a**degree, whole)),
        "activation": flip * a,
        "direction": flip * direction,
        "offset": float(flip * (centre @ direction)),
    }


def _components(
    factors: Factors, readout: np.ndarray, z: np.ndarray, most: int, weighted: bool, seed: int
) -> Iterator[list[Component]]:
    """For each output in turn: the linear part, then quadratic and cubic components by the s.d. of what they add."""
    lower, weights = (factors, readout) if len(factors) == 2 else below_cubic(factors, readout)
    bare = [one[:, :-1] for one in lower]
    slopes = linear_part(factors, readout)
    rows = np.concatenate(bare)
    metric = covariance_root(z, len(rows)) if weighted else None
    spectra = interaction_spectra(bare, weights, metric)
    hidden = z @ rows.T
    for output, slope in enumerate(slopes):
        found = [_linear(slope, z, weighted)]
        coefficients = spectra.coefficients(output)
        values = spectra.values[output][: coefficients.shape[1]]
        spread = np.abs(values) * np.square(hidden @ coefficients).std(0)
        first = np.argsort(-spread, kind="stable")[:most]
        directions = rows.T @ coefficients[:, first]
        found += [Component(2, float(values[k]), v) for k, v in zip(first, directions.T, strict=True)]
        if len(factors) == 3:
            found += _cubic(factors, readout[output], z, metric, most, seed)
        yield found


def _linear(slope: np.ndarray, z: np.ndarray, weighted: bool) -> Component:
    """ℓ of variance 1 over the cells, or of length 1, and the number that this takes out of it."""
    size = (z @ slope).std() if weighted else np.linalg.norm(slope)
    return Component(1, float(size), slope / size if size > 0 else slope)


def _cubic(
    factors: Factors, weights: np.ndarray, z: np.ndarray, metric: np.ndarray | None, most: int, seed: int
) -> list[Component]:
    bare = [one[:, :-1] for one in factors]
    seen = bare if metric is None else [one @ metric.T for one in bare]
    cubic = cubic_components(seen, weights, most, seed)
    directions = np.concatenate(bare).T @ cubic.coefficients
    spread = cubic.values * ((z @ directions) ** 3).std(0)
    return [Component(3, float(cubic.values[k]), directions[:, k]) for k in np.argsort(-spread, kind="stable")]


def module_table(found: Sequence[Module], genes: Sequence[str], top: int = 25) -> pd.DataFrame:
    """A row per gene of a module, the `top` of largest |loading|; frequency counted from 1.

    Columns frequency, module, degree, eigenvalue, lambda_sign (+ or -), explained, rank (of the gene, from 1), gene,
    loading, pole (+ or -, the side of the module the gene is on).
    """
    rows = []
    for module in found:
        if len(module.loadings) != len(genes):
            raise ValueError(f"{len(module.loadings)} loadings for {len(genes)} genes")
        head = (module.frequency + 1, module.name, module.degree, module.eigenvalue, "-+"[module.eigenvalue > 0])
        for rank, gene in enumerate(module.top(top), start=1):
            loading = float(module.loadings[gene])
            rows.append((*head, module.explained, rank, genes[gene], loading, "-+"[loading > 0]))
    columns = ["frequency", "module", "degree", "eigenvalue", "lambda_sign"]
    return pd.DataFrame(rows, columns=[*columns, "explained", "rank", "gene", "loading", "pole"])
