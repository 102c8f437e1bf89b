"""The stream of training batches: a function of (seed, step), the same for any number of processes.

The epochs' permutations stand end to end, and batch k is the k-th slice of this line. So every batch is full, every
cell comes once in each permutation, no cell is dropped, and a resumed run needs to know the step and nothing else.
Two streams with seeds of their own (control and perturbed cells) are reshuffled each at its own wrap.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from pytorch_lightning import Trainer


@lru_cache(maxsize=4)
def _permutation(n: int, seed: int, lap: int) -> np.ndarray:
    return np.random.default_rng([seed, lap]).permutation(n)


def cells_of_step(step: int, n: int, batch_size: int, seed: int) -> np.ndarray:
    """Positions (0 … n − 1) of the cells in global batch `step`: batch_size of them."""
    # A lap shorter than a batch is needed once, and would push the long laps of another stream out of the cache.
    draw = _permutation if n > batch_size else _permutation.__wrapped__
    place = np.arange(step * batch_size, (step + 1) * batch_size)
    laps, within = place // n, place % n
    chosen = np.empty(batch_size, np.int64)
    for lap in np.unique(laps):
        here = laps == lap
        chosen[here] = draw(n, seed, int(lap))[within[here]]
    return chosen


def seed_of(stream: str, seed: int) -> int:
    """A seed of its own for a stream that is named: 64 bits of (stream, seed)."""
    return int.from_bytes(hashlib.blake2b(f"{stream} {seed}".encode(), digest_size=8).digest(), "little")


class Steps:
    """The batches of one pass through the training cells, from wherever the trainer stands."""

    def __init__(self, trainer: Trainer, n_steps: int, batch: Callable[[int, int, int], Any]) -> None:
        self.trainer, self.n_steps, self.batch = trainer, n_steps, batch  # batch(step, rank, world)

    def __len__(self) -> int:
        return self.n_steps

    def __iter__(self) -> Iterator[Any]:
        start = self.trainer.fit_loop.epoch_loop.batch_progress.total.completed
        for step in range(start, (start // self.n_steps + 1) * self.n_steps):
            yield self.batch(step, self.trainer.global_rank, self.trainer.world_size)
