"""Early stopping that a resumed run obeys."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl


class EarlyStopping(pl.callbacks.EarlyStopping):
    """Lightning's, but for a run that goes on.

    A run that was killed after it had stopped early stays stopped, so that it ends as the undisturbed one; and the
    patience is what the config says now, not what it said when the checkpoint was written.
    """

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict({**state_dict, "patience": self.patience})

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        trainer.should_stop = trainer.should_stop or self.wait_count >= self.patience
