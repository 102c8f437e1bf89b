"""A column that a salient space is to be kept from, as numbers; refused where it is the perturbation itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from stormcell.config import UserError, nearest

if TYPE_CHECKING:
    from stormcell.data.screen import Screen

EXPLAINED = 0.999  # of the variance of numbers, by the perturbation, from which on they are its name


def read_nuisance(data: Screen, key: str) -> np.ndarray:
    """obs column `key` of every cell: N × D float32, one-hot, or z-scored by the training cells where it is numbers.

    Of `library` the logarithm. Raises UserError for a column that was not read, and for one that tells control from
    perturbed cells, or the perturbations apart.
    """
    obs, train = data.cells.obs, data.rows["train"]
    if key not in obs:
        raise UserError(
            f"{data.cells.origin}: model.nuisance={key}{nearest(key, obs.columns)} was not read; columns: "
            f"{', '.join(obs.columns)}; data.covariate_keys reads others"
        )
    column = obs[key]
    if column.dtype.kind in "fiu":
        values = column.to_numpy(float)
        values = np.log(values) if key == "library" else values
        if not np.isfinite(values).all():
            raise UserError(f"{data.cells.origin}: model.nuisance={key} has values that are not finite numbers")
        if _explained(values[train], data.condition[train]) > EXPLAINED:
            raise UserError(
                f"{data.cells.origin}: model.nuisance={key} has one value in each perturbation, so taking it out of t "
                "would take the perturbation out; name a column whose values are shared"
            )
        return ((values - values[train].mean()) / (values[train].std() + 1e-9))[:, None].astype(np.float32)
    names, code = np.unique(column.to_numpy(str), return_inverse=True)
    control = obs["is_control"].to_numpy()[train]
    shares = np.array([control[code[train] == i].mean() for i in np.unique(code[train])])
    mine = train[~control]
    pairs = np.unique(np.stack([code[mine].astype(str), data.condition[mine]]), axis=1)
    alone = len(np.unique(pairs[1])) > 1 and len(np.unique(pairs[0])) == pairs.shape[1]
    if alone or np.isin(shares, (0, 1)).all():
        what = "the perturbations apart" if alone else "control from perturbed cells"
        raise UserError(
            f"{data.cells.origin}: model.nuisance={key} tells {what} by itself, so taking it out of t would take the "
            "perturbation out; name a column whose values are shared"
        )
    return np.eye(len(names), dtype=np.float32)[code]


def _explained(values: np.ndarray, condition: np.ndarray) -> float:
    """Share of the variance of N numbers that lies between conditions; 0 where they do not vary, or each is alone."""
    _, code, counts = np.unique(condition, return_inverse=True, return_counts=True)
    if np.ptp(values) == 0 or counts.max() == 1:
        return 0.0
    within = values - (np.bincount(code, values) / counts)[code]
    return float(1 - within.var() / values.var())
