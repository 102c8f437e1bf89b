"""A baseline as a model: what it says is in evaluation/baselines.py, and nothing is trained.

`python train.py model=baseline model.method=additive` gives it a run folder and a checkpoint of its own.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from stormcell.config import UserError, nearest
from stormcell.data.pseudobulk import PseudobulkDataModule, Shifts
from stormcell.data.screen import Screen
from stormcell.data.spec import Spec
from stormcell.evaluation import baselines
from stormcell.evaluation.heldout import HeldOut, Method, Query
from stormcell.evaluation.profiles import pearson
from stormcell.evaluation.roster import LABELS
from stormcell.models.base import Model


class Baseline(Model):
    """One baseline by its key; raises UserError for a key that none has."""

    closed_form = True
    uses_targets = True
    parts = ("loss",)
    scores = ("shift_correlation", "score")

    def __init__(
        self, spec: Spec, optimizer=None, scheduler=None, seed: int = 1, method: str = "additive", n_cells: int = 500
    ) -> None:
        super().__init__(spec, optimizer, scheduler, seed)
        if method not in LABELS:
            known = ", ".join(LABELS)
            raise UserError(f"model.method={method}{nearest(method, LABELS)}; methods: {known}")
        self.method, self.n_cells = method, n_cells
        self.nothing = nn.Parameter(torch.zeros(()))  # a checkpoint needs a parameter

    def loss(self, batch: Shifts) -> dict[str, Tensor]:
        """Zero: nothing is fitted."""
        return {"loss": 0 * self.nothing}

    def unknown_targets(self, condition: str) -> list[str]:
        """None: whether a baseline has an answer is a matter of the perturbation, and told after the test."""
        return []

    def methods(self, data: Screen, held_out: HeldOut) -> list[Method]:
        """One row of the scoreboard, beside all the baselines."""
        found = baselines.baseline(self.method, held_out, self.n_cells, self.seed)
        return [Method(f"baseline: {found.name}", found.predict)]

    def validation_scores(self) -> dict[str, float]:
        """Median shift correlation on validation cells, against training controls."""
        data: PseudobulkDataModule = self.trainer.datamodule
        shifts = baselines.Shifts(data.train, data.embedding, data.train.controls)
        found = data.held_back
        r = []
        for condition, context, shift in zip(found.conditions, found.contexts, found.shifts, strict=True):
            said = getattr(shifts, self.method)(Query(condition, context, "", None))
            r.append(0.0 if said is None else float(np.nan_to_num(pearson(shift, said))))
        median = float(np.median(r)) if r else float("nan")
        return {"shift_correlation": median, "score": median}
