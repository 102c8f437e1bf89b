"""What a network of products says as a polynomial, and the eigenvectors of its interactions without any gene × gene.

With x̃ = [x; 1] and factors of two or three matrices, f_o(x) = Σ_h p_oh Π_i (a_ih · x̃). Two factors L, R give

    f_o(x) = xᵀ Q_o x + ℓ_oᵀ x + c_o      Q_o = ½ Σ_h p_oh (l_h r_hᵀ + r_h l_hᵀ)
    [L; R]ᵀ = U T  (thin QR, shared by all outputs)      M_o = ½ (T_L diag(p_o) T_Rᵀ + its transpose) = W Λ Wᵀ

Λ are all non-zero eigenvalues of Q_o and U W their vectors. With a metric S, SᵀS = Σ, the factors are L Sᵀ and R Sᵀ:
the spectrum is that of S Q Sᵀ, which is that of Σ^½ Q Σ^½. S = Z/√n of centred cells needs neither Σ nor its root. A
unit vector w of it has the direction v = Q Sᵀw / λ with S v = w: over the cells, z · v has mean 0 and variance 1, and
zᵀ Q z = Σ_k λ_k (z · v_k)². Without a metric v = w.

Three factors: what they hold below the third order is itself a network of two, see `below_cubic`.

Shapes: N cells, D inputs, H hidden units, F outputs, C columns of a factor (D, or D + 1 with the constant last),
K = min(2H, C, rows of the metric).
Source: Pearce et al. 2024 (bilinear MLPs and the eigenvectors of their interactions).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stormcell.analysis.masked_ridge import one_thread

Factors = Sequence[np.ndarray]
ZERO = 1e-10  # |λ| over the largest: below it an eigenvalue is rounding and its vector arbitrary


@dataclass(frozen=True)
class Spectra:
    """Of every output, by |λ|, both signs."""

    values: np.ndarray  # F × K
    basis: np.ndarray  # C × K, or rows of the metric × K; orthonormal, U
    inner: np.ndarray  # F × K × K, W in columns
    coordinates: np.ndarray  # K × 2H, T: first those of L, then those of R
    readout: np.ndarray  # F × H

    def vectors(self, output: int) -> np.ndarray:
        """Unit eigenvectors in columns, in the space of the basis."""
        return self.basis @ self.inner[output]

    def coefficients(self, output: int, most: int | None = None) -> np.ndarray:
        """B, with directions v = [L; R]ᵀ B in the space of the inputs: 2H × (non-zero eigenvalues, or `most`)."""
        values = self.values[output]
        there = np.flatnonzero(np.abs(values) > ZERO * np.abs(values).max(initial=0))[:most]
        H = self.readout.shape[1]
        swapped = np.concatenate([self.coordinates[:, H:], self.coordinates[:, :H]], 1)
        weights = np.tile(self.readout[output], 2)[:, None]
        return weights * (swapped.T @ self.inner[output][:, there]) / (2 * values[there])


def interaction_spectra(factors: Factors, readout: np.ndarray, metric: np.ndarray | None = None) -> Spectra:
    """Eigenpairs of all symmetrised interaction matrices, exact and in float64: two H × C, F × H, rows × C → Spectra.

    Columns of the factors are taken as they are: leave the constant out for Q alone. Raises ValueError for shapes that
    disagree and for weights that are not finite.
    """
    (left, right), readout = checked(factors, readout, orders=(2,))
    if metric is not None:
        if metric.ndim != 2 or metric.shape[1] != left.shape[1]:
            raise ValueError(f"a metric of shape {metric.shape} for {left.shape[1]} columns")
        left, right = left @ metric.T, right @ metric.T
    H = len(left)
    with one_thread():
        basis, coordinates = np.linalg.qr(np.concatenate([left, right]).T)
        small = (readout[:, None] * coordinates[:, :H]) @ coordinates[:, H:].T
        values, inner = np.linalg.eigh((small + small.transpose(0, 2, 1)) / 2)
    order = np.argsort(-np.abs(values), axis=1, kind="stable")
    values = np.take_along_axis(values, order, 1)
    return Spectra(values, basis, np.take_along_axis(inner, order[:, None], 2), coordinates, readout)


def covariance_root(z: np.ndarray, factor_rows: int) -> np.ndarray:
    """S with SᵀS = zᵀz / N: z/√N, or its D × D triangle where inputs are fewer than cells and than factor_rows.

    factor_rows, those of all factors together, bound the size of the eigenproblem otherwise.
    """
    n, D = z.shape
    scaled = z / np.sqrt(n)
    return np.linalg.qr(scaled, mode="r") if min(n, factor_rows) >= D else scaled


# ---- the polynomial


def checked(factors: Factors, readout: np.ndarray, orders: tuple[int, ...] = (2, 3)) -> tuple[list, np.ndarray]:
    """Factors and readout in float64. Raises ValueError where shapes disagree or weights are not finite."""
    factors, readout = [np.asarray(one, np.float64) for one in factors], np.asarray(readout, np.float64)
    shapes = {one.shape for one in factors}
    if len(factors) not in orders or len(shapes) != 1 or factors[0].ndim != 2:
        raise ValueError(f"factors of shapes {[one.shape for one in factors]}, orders {orders} are known")
    if readout.ndim != 2 or readout.shape[1] != len(factors[0]):
        raise ValueError(f"a readout of shape {readout.shape} for {len(factors[0])} hidden units")
    if not all(np.isfinite(one).all() for one in (*factors, readout)):
        raise ValueError("weights that are not finite: the training diverged")
    return factors, readout


def homogeneous(factors: Factors, n_inputs: int) -> list[np.ndarray]:
    """Factors with the column of the constant, zeros where the network has none: H × D or H × (D + 1) → H × (D + 1)."""
    C = factors[0].shape[1]
    if C not in (n_inputs, n_inputs + 1):
        raise ValueError(f"factors with {C} columns for {n_inputs} inputs, with the constant {n_inputs + 1}")
    return [np.pad(one, ((0, 0), (0, n_inputs + 1 - C))) for one in factors]


def recentred(factors: Factors, centre: np.ndarray) -> list[np.ndarray]:
    """The same function of z = x − centre: H × (D + 1), D → H × (D + 1)."""
    return [np.column_stack([one[:, :-1], one[:, -1] + one[:, :-1] @ centre]) for one in factors]


def linear_part(factors: Factors, readout: np.ndarray) -> np.ndarray:
    """ℓ of every output: H × (D + 1) → F × D."""
    constants = np.stack([one[:, -1] for one in factors])
    others = [np.delete(constants, i, 0).prod(0) for i in range(len(factors))]
    return sum((readout * other) @ one[:, :-1] for other, one in zip(others, factors, strict=True))


def below_cubic(factors: Factors, readout: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
    """Orders 0 to 2 of a network of three factors, as a network of two with 3H + F hidden units; F × (3H + F) readout.

    Quadratic: Σ_h p_h (l₀ r uᵀ + r₀ l uᵀ + u₀ l rᵀ), 3H hidden units without a constant; one more per output holds
    ℓᵀx + c as (0, 1) · x̃ times (ℓ, c) · x̃.
    """
    bare = [one[:, :-1] for one in factors]
    constants = [one[:, -1] for one in factors]
    F, D = len(readout), bare[0].shape[1]
    line = np.column_stack([linear_part(factors, readout), readout @ np.prod(constants, 0)])
    pairs = [(bare[i], bare[j]) for i, j in ((1, 2), (0, 2), (0, 1))]
    one = np.tile(np.eye(D + 1)[-1], (F, 1))
    left, right = (np.pad(np.concatenate([pair[side] for pair in pairs]), ((0, 0), (0, 1))) for side in (0, 1))
    weights = np.concatenate([*(readout * constant for constant in constants), np.eye(F)], 1)
    return [np.concatenate([left, one]), np.concatenate([right, line])], weights


def parts(factors: Factors, readout: np.ndarray, x: np.ndarray) -> np.ndarray:
    """What each order adds to the outputs, the constant first; its sum is the prediction: N × D → degrees × N × F."""
    by_degree = [np.ones((len(x), len(factors[0])))]
    for one in factors:
        product, constant = x @ one[:, :-1].T, one[:, -1]
        by_degree = [
            (by_degree[d] * constant if d < len(by_degree) else 0) + (by_degree[d - 1] * product if d else 0)
            for d in range(len(by_degree) + 1)
        ]
    return np.stack([degree @ readout.T for degree in by_degree])


def variance_shares(factors: Factors, readout: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Share of each output's variance over these cells by order, linear first: N × D → F × orders.

    cov(part, f) / var f, so that the shares sum to 1; one is negative where a part is undone by the others. Parts are
    those around the mean of these cells: of another origin, linear and quadratic are differently split. nan for an
    output that does not vary.
    """
    factors, readout = checked(factors, readout)
    x = np.asarray(x, np.float64)
    centre = x.mean(0)
    found = parts(recentred(homogeneous(factors, x.shape[1]), centre), readout, x - centre)
    return np.stack([covariance_share(part, found.sum(0)) for part in found[1:]], 1)


def covariance_share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """cov(part, whole) / var whole over the first axis; nan where the whole does not vary."""
    centred = whole - whole.mean(0)
    variance = np.square(centred).mean(0)
    # A constant output in float64 leaves rounding, not an exact zero.
    varies = variance > (1e-12 * np.abs(whole).max(0, initial=0)) ** 2
    return np.divide(
        ((part - part.mean(0)) * centred).mean(0), variance, out=np.full_like(variance, np.nan), where=varies
    )
