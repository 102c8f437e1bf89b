"""What a trained contrastive model says about cells: latents, ELBO, expression under another salient part, new counts.

Every function goes through the cells in blocks and keeps nothing of a block but what it returns. Latent draws are keyed
by (seed, draw, cell): a cell gets the same draw in any selection of cells.

Shapes: N cells (rows of the data module), G genes, Z background and T salient dimensions.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from stormcell.config import UserError, nearest
from stormcell.evaluation.spaces import CellLabels
from stormcell.nn.noise import keyed_normal

if TYPE_CHECKING:
    from stormcell.data.control_perturbed import ControlPerturbedDataModule, PerturbedCells
    from stormcell.models.contrastive import Contrastive
    from stormcell.nn.count_vae import Network, Posterior

BLOCK = 512  # cells at a time: 512 × 2,000 floats are 4 MB


class Latents(NamedTuple):
    """Of N cells: posterior means, or draws."""

    background: np.ndarray  # N × Z
    salient: np.ndarray  # N × T; of control cells too, though the decoder is given 0 for them
    responding: np.ndarray | None  # N: 1 − P(control | x); None for an encoder without codes
    plain: np.ndarray | None  # N × (Z + T) of the plain VAE beside it


@torch.no_grad()
def latents(model: Contrastive, data: ControlPerturbedDataModule, rows: np.ndarray, draw: int | None = None) -> Latents:
    """Posterior means of the cells in `rows`, or with `draw` (0, 1, …) one draw of the posterior."""
    found: list[list[np.ndarray]] = [[], [], [], []]
    for batch in _blocks(model, data, rows):
        q = model.encode(batch, model.network)
        z, t = (q.z, q.t) if draw is None else drawn(model, batch, q, draw)
        odds = None if q.log_odds is None else 1 - q.log_odds.softmax(-1)[:, 0]
        plain = None if model.plain is None else model.encode(batch, model.plain).z
        for kept, part in zip(found, (z, t, odds, plain), strict=True):
            if part is not None:
                kept.append(part.cpu().numpy().copy())
    return Latents(*(np.concatenate(part) if part else None for part in found))


def drawn(model: Contrastive, batch: PerturbedCells, q: Posterior, draw: int) -> tuple[Tensor, Tensor]:
    """One draw of z and t for each cell of a batch."""
    noise = keyed_normal(model.seed, -2 - draw, batch.index, q.z.shape[1] + q.t.shape[1], stream=11).to(q.z)
    z = q.z + (0.5 * q.z_log_var).exp() * noise[:, : q.z.shape[1]]
    return z, q.t + (0.5 * q.t_log_var).exp() * noise[:, q.z.shape[1] :]


@torch.no_grad()
def expression(
    model: Contrastive,
    data: ControlPerturbedDataModule,
    rows: np.ndarray,
    salient: str | np.ndarray = "own",
    draw: int | None = None,
    batch: str | None = None,
) -> np.ndarray:
    """Normalised expression: share of each gene in the counts of a cell, N × G float32.

    salient
        `own`: the cell's t (0 for a control); `zero`: without the perturbation; a perturbation: the mean t of its
        training cells; or a vector of T numbers. The background of each cell stays as it is.
    draw
        One posterior draw of the latents; without it their means.
    batch
        Decode as if every cell came from this batch; without it each from its own.

    Raises UserError for a perturbation or a batch that training has not seen.
    """
    given = _salient_of(model, data, salient)
    found = []
    for cells in _blocks(model, data, rows):
        if batch is not None:
            cells = cells._replace(batch=_batch_hot(model, batch, len(cells.x)))
        q = model.encode(cells, model.network)
        z, t = (q.z, q.t) if draw is None else drawn(model, cells, q, draw)
        found.append(_decode(model, cells, z, _gated(data, cells, t, given)).exp().cpu().numpy())
    return np.concatenate(found)


@torch.no_grad()
def pairs(
    model: Contrastive, data: ControlPerturbedDataModule, rows: np.ndarray, draw: int = 0
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Blocks of (decode(z, t), decode(z, 0)) of the same cells and the same draw; a control keeps its own t here."""
    for cells in _blocks(model, data, rows):
        z, t = drawn(model, cells, model.encode(cells, model.network), draw)
        both = (_decode(model, cells, z, part).exp().cpu().numpy() for part in (t, torch.zeros_like(t)))
        yield tuple(both)


@torch.no_grad()
def posterior_predictive(
    model: Contrastive, data: ControlPerturbedDataModule, rows: np.ndarray, draw: int
) -> np.ndarray:
    """Counts drawn from p(x | z, t), latents from the posterior of each cell: N × G float32.

    Latents belong to a cell and a draw; the counts also to the rows asked for, in blocks of which they are drawn.
    """
    found = []
    for cells in _blocks(model, data, rows):
        q = model.encode(cells, model.network)
        z, t = drawn(model, cells, q, draw)
        decoded = model.network.decode(z, _gated(data, cells, t, None), model.covariates(cells), cells.batch)
        library, _ = model.draw_library(cells, q, -2 - draw)
        mean = (decoded.log_share + library).double().exp().cpu().numpy()
        rng = np.random.default_rng([model.seed, draw, int(cells.index[0])])
        if model.likelihood != "poisson":
            theta = decoded.log_theta.double().exp().expand(mean.shape).cpu().numpy()
            mean = rng.gamma(theta, mean / theta)
        counts = rng.poisson(mean).astype(np.float32)
        if decoded.logit is not None:
            counts[rng.random(counts.shape) < decoded.logit.sigmoid().cpu().numpy()] = 0
        found.append(counts)
    return np.concatenate(found)


@torch.no_grad()
def elbo(
    model: Contrastive, data: ControlPerturbedDataModule, rows: np.ndarray, draw: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """ELBO (one draw) and log-likelihood of the reconstruction of each cell, in nats: N, N."""
    found: list[list[np.ndarray]] = [[], []]
    for cells in _blocks(model, data, rows):
        q = model.encode(cells, model.network)
        z, t = drawn(model, cells, q, draw)
        t = _gated(data, cells, t, None)
        decoded = model.network.decode(z, t, model.covariates(cells), cells.batch)
        library, kl_library = model.draw_library(cells, q, -2 - draw)
        likelihood = model.log_prob(cells.counts, decoded, library)
        perturbed = torch.from_numpy(_perturbed(data, cells)).to(likelihood)
        bound = likelihood - model.kl(q, perturbed) - kl_library
        for kept, part in zip(found, (bound, likelihood), strict=True):
            kept.append(part.cpu().numpy().copy())
    return np.concatenate(found[0]), np.concatenate(found[1])


def cell_labels(data: ControlPerturbedDataModule, rows: np.ndarray, merged: dict[str, str] | None = None) -> CellLabels:
    """What is known of some cells beside their counts."""
    obs = data.cells.obs
    columns = {key: obs[key].to_numpy(str)[rows] for key in ("batch", "cell_type", "phase") if key in obs}
    return CellLabels(
        condition=data.condition[rows],
        control=data.cells.control,
        library=obs["library"].to_numpy(float)[rows],
        merged=merged or {},
        **columns,
    )


# ---- parts


def _blocks(model: Contrastive, data: ControlPerturbedDataModule, rows: np.ndarray) -> Iterator[PerturbedCells]:
    for start in range(0, len(rows), BLOCK):
        batch = data.batch(rows[start : start + BLOCK])
        yield type(batch)(*(None if field is None else field.to(model.device) for field in batch))


def _decode(model: Contrastive, cells: PerturbedCells, z: Tensor, t: Tensor) -> Tensor:
    """log share, N × G."""
    network: Network = model.network
    return network.decode(z, t, model.covariates(cells), cells.batch).log_share


def _perturbed(data: ControlPerturbedDataModule, cells: PerturbedCells) -> np.ndarray:
    return ~data.cells.obs["is_control"].to_numpy()[cells.index.cpu().numpy()]


def _gated(data: ControlPerturbedDataModule, cells: PerturbedCells, t: Tensor, given: Tensor | None) -> Tensor:
    """The t that the decoder is given: the cell's own, 0 for a control, or the same vector for all."""
    if given is not None:
        return given.to(t).expand_as(t)
    return t * torch.from_numpy(_perturbed(data, cells)).to(t)[:, None]


def _salient_of(model: Contrastive, data: ControlPerturbedDataModule, salient: str | np.ndarray) -> Tensor | None:
    if not isinstance(salient, str):
        vector = torch.as_tensor(np.asarray(salient, np.float32))
        if vector.shape != (model.network.n_salient,):
            raise ValueError(f"salient vector of shape {tuple(vector.shape)}, ({model.network.n_salient},) needed")
        return vector
    if salient == "own":
        return None
    if salient == "zero":
        return torch.zeros(model.network.n_salient)
    if salient not in model.spec.conditions:
        known = ["own", "zero", *model.spec.conditions]
        raise UserError(f"salient={salient!r}: own, zero or a perturbation seen in training{nearest(salient, known)}")
    mine = data.rows["train"][data.condition[data.rows["train"]] == salient]
    if len(mine) == 0:
        raise UserError(
            f"salient={salient!r}: the mean of its training cells, of which {data.cells.origin} has none; take "
            "decoding.latents of the data the model was trained on, and give their mean as a vector"
        )
    return torch.from_numpy(latents(model, data, mine).salient.mean(0))


def _batch_hot(model: Contrastive, name: str, n: int) -> Tensor:
    known = model.spec.batches
    if name not in known:
        raise UserError(f"batch={name!r}{nearest(name, known)}: batches of the training cells are {', '.join(known)}")
    return torch.eye(len(known))[known.index(name)].to(model.device).expand(n, -1)
