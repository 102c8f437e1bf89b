"""The lowest eigenpairs of a Laplacian, and the proof that they are the lowest.

A small residual proves that a pair is an eigenpair, not that it is the lowest. Accepted are F frequencies when
(1) every residual ≤ 0.01 min(λ_F+1 − λ_F, λ_1), so that the space is known to 0.01 radian (Davis & Kahan 1970), and
(2) a second start from random vectors orthogonal to them arrives at λ_F+1 and at nothing below it.

Shapes: N cells, F pairs asked for.
"""

from __future__ import annotations

import numpy as np

from stormcell.analysis.low_eigenpairs import Deflated, dense, lanczos, preconditioned, start_block

DENSE = 3_000  # cells up to which all eigenpairs of the matrix are at hand
GUARD = 2  # pairs beyond those asked for: they show the gap at the cut
SHARE = 0.01  # of the gap that a residual may have
ROUNDING = 1e-12  # of the top of the spectrum: eigenvalues closer than this are equal
ANGLE = 0.05  # radians between the first and the second start
SAME = 0.1  # relative difference of λ_F+1 between them
STAGES = 8  # of LOBPCG, of
STAGE = 10  # iterations
REPAIRS = 2  # times that vectors which only the second start found are taken in

Pairs = tuple[np.ndarray, np.ndarray, np.ndarray]  # values, vectors, residuals


class NotCertified(ValueError):
    """Fewer lowest frequencies than asked for are certain; `certified` says how many."""

    def __init__(self, certified: int, message: str) -> None:
        super().__init__(message)
        self.certified = certified


def n_certain(values: np.ndarray, residuals: np.ndarray, F: int, top: float) -> int:
    """The most, up to F, of the lowest pairs that rule 1 accepts; `values` go past F where there are more."""
    values = np.append(values, np.inf)
    residuals = np.append(residuals, 0)
    gap = values[1:] - residuals[1:] - values[:-1]
    bound = np.minimum(SHARE * np.where(gap > ROUNDING * top, gap, 0), SHARE * values[0])
    fine = np.maximum.accumulate(residuals[:-1])[:F] <= bound[:F]
    return int(np.flatnonzero(fine & (bound[:F] > 0)).max(initial=-1)) + 1


def certified(operator: Deflated, F: int, available: int, seed: int) -> tuple[Pairs, str, float]:
    """At least F pairs that both rules accept, the solver, and the angle to the second start."""
    m = min(F + GUARD, available)
    if operator.n <= DENSE:
        pairs = operator.ritz(dense(operator, m))
        _demand(pairs, F, operator.top)
        return pairs, "dense", 0.0
    vectors = lanczos(operator, m, seed, 5e-9 * operator.top, restarts(operator))
    solver = "lobpcg" if vectors is None else "lanczos"
    pairs = operator.ritz(start_block(operator, m + GUARD) if vectors is None else vectors)
    for _ in range(REPAIRS + 1):
        if n_certain(*pairs[::2], F, operator.top) < F:
            pairs, solver = refined(operator, pairs, F), "lobpcg"
        _demand(pairs, F, operator.top)
        joined, angle, same = second_start(operator, pairs, F, seed, solver == "lanczos")
        if same and angle <= ANGLE:
            return pairs, solver, angle
        pairs = tuple(part[..., : m + GUARD] for part in joined)
    raise NotCertified(0, f"a second random start does not give the same {F} frequencies: angle {angle:.2g} radian")


def second_start(operator: Deflated, pairs: Pairs, F: int, seed: int, cheap: bool) -> tuple[Pairs, float, bool]:
    """A search from random vectors orthogonal to the F found: ARPACK where that was `cheap`, or LOBPCG.

    Returns the pairs of both starts together; the largest principal angle between the F found and the F lowest of
    those, which is a right angle for every one that was missed; and whether it arrives at λ_F+1.
    """
    values, vectors, _ = pairs
    found = vectors[:, :F]
    tolerance = SHARE * values[F]  # enough to know which eigenvalue it is
    block = lanczos(operator, GUARD, seed + 1, tolerance, restarts(operator), found) if cheap else None
    if block is None:
        block = operator.project(np.random.default_rng([seed, 2]).normal(size=(operator.n, GUARD + 2)), found)
        block = preconditioned(operator, block, 2 * STAGE, tolerance, found)
    lowest = operator.ritz(operator.project(block, found))[0][0]
    both = operator.ritz(np.column_stack([vectors, block]))
    kept = np.linalg.svd(found.T @ both[1][:, :F], compute_uv=False)
    angle = float(np.arccos(np.clip(kept.min(), 0, 1)))
    return both, angle, abs(lowest - values[F]) <= SAME * values[F]


def restarts(operator: Deflated) -> int:
    """Of ARPACK: a thin graph needs so many that preconditioning is cheaper, the sooner the larger it is."""
    return int(np.clip(6e6 / operator.n, 10, 30))


def refined(operator: Deflated, pairs: Pairs, F: int) -> Pairs:
    """LOBPCG until rule 1 accepts F pairs, or no longer."""
    for _ in range(STAGES):
        values, vectors, _ = pairs
        tolerance = SHARE / 4 * min(abs(values[F] - values[F - 1]), values[0])
        pairs = operator.ritz(preconditioned(operator, vectors, STAGE, max(tolerance, ROUNDING * operator.top)))
        if n_certain(*pairs[::2], F, operator.top) == F:
            break
    return pairs


def _demand(pairs: Pairs, F: int, top: float) -> None:
    values, _, residuals = pairs
    certain = n_certain(values, residuals, F, top)
    if certain < F:
        block = next((b for b in blocks(values, residuals, top) if b[0] < F <= b[-1]), None)
        if block:
            why = (
                f"{block[0] + 1} to {block[-1] + 1} have eigenvalues too close to tell apart, and the cut divides them"
            )
        else:
            gap = values[min(F, len(values) - 1)] - values[F - 1]
            why = f"residual {residuals[:F].max():.1e}, gap at the cut {gap:.1e}, lowest eigenvalue {values[0]:.1e}"
        raise NotCertified(certain, f"{F} frequencies cannot be certified, {certain} can: {why}")


def blocks(values: np.ndarray, residuals: np.ndarray, top: float) -> list[tuple[int, ...]]:
    """Runs of neighbouring frequencies whose eigenvalues differ by less than their residuals allow to tell."""
    doubt = np.maximum(np.maximum(residuals[1:], residuals[:-1]) / SHARE, ROUNDING * top)
    runs = np.split(np.arange(len(values)), np.flatnonzero(np.diff(values) > doubt) + 1)
    return [tuple(map(int, run)) for run in runs if len(run) > 1]
