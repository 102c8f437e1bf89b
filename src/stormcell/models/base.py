"""What the models share: optimizer and scheduler from the config, logged loss parts, the record in the checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric

from stormcell.analysis.embedding import TargetEmbedding
from stormcell.data.spec import Spec


class Model(pl.LightningModule):
    """A LightningModule whose subclass says `loss(batch)` and names the parts of it.

    Training: each part is logged as train/<part>. Validation: each part is a sum over cells and a count of cells, so
    that the mean is exact for any number of processes and any size of the last batch; then `validation_scores` adds
    what the user asked for, and val/score is what stops and picks best.ckpt (`objective`).
    """

    closed_form = False  # fitted by `initialise`; training is then one step of length zero, which writes a checkpoint
    uses_targets = False  # the vectors of targets (conf/targets), which are for the baselines otherwise
    judged = "profiles"  # what the closing test looks at: predicted profiles, or latents
    way_out = ""  # what to try where no held-out perturbation can be represented
    parts: tuple[str, ...] = ("loss",)
    scores: tuple[str, ...] = ()  # what validation_scores returns

    def __init__(
        self,
        spec: Spec,
        optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer],
        scheduler: Callable[[torch.optim.Optimizer], Any] | None = None,
        seed: int = 1,
    ) -> None:
        super().__init__()
        self.spec, self.seed = spec, seed
        self.make_optimizer, self.make_scheduler = optimizer, scheduler
        self.first_step = 0  # of this process: a run that goes on begins later
        self.record: dict[str, Any] = {}  # config, split hash, versions: written into every checkpoint
        self.validation_means = nn.ModuleDict({part: MeanMetric() for part in self.parts})

    def loss(self, batch: Any) -> dict[str, Tensor]:
        """Mean over the cells of the batch: `loss`, which is minimised, and every named part of it."""
        raise TypeError(f"{type(self).__name__} has no loss")

    def initialise(self, data: Any) -> None:
        """Start from what the training cells give in closed form; nothing by default."""

    def shape_like(self, state: dict[str, Tensor], embedding: TargetEmbedding) -> None:
        """Make the parameters of a checkpoint whose sizes the Spec does not tell; nothing by default."""

    def unknown_targets(self, condition: str) -> list[str]:
        """Targets that keep the model from an answer; [] where it has one."""
        return self.spec.unknown_targets(condition)

    def notes(self, data: Any) -> list[str]:
        """What a reader must be told of the fitted model, in sentences."""
        return []

    def validation_scores(self) -> dict[str, float]:
        """Scores on validation cells beyond the loss; equal on every process."""
        return {}

    @property
    def progress(self) -> float:
        """Share of the training budget that is spent, 0 to 1."""
        budget = self.trainer.estimated_stepping_batches
        return min(1.0, self.global_step / budget) if budget else 1.0

    def on_train_start(self) -> None:
        self.first_step = self.global_step

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        parts = self.loss(batch)
        # Not at every step: Lightning's log costs as much as a small network's step.
        if (self.global_step + 1) % self.trainer.log_every_n_steps == 0:
            self.log_dict(
                {f"train/{name}": value.detach() for name, value in parts.items()}, batch_size=1, sync_dist=True
            )  # shards of a training batch are equal, so the mean over processes is exact
        return parts["loss"]

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        for name, value in self.loss(batch).items():
            self.validation_means[name].update(value, weight=len(batch[0]))

    def on_validation_epoch_end(self) -> None:
        for name, mean in self.validation_means.items():
            self.log(f"val/{name}", mean.compute(), prog_bar=name == "loss")
            mean.reset()
        if not self.trainer.sanity_checking:
            for name, value in self.validation_scores().items():
                self.log(f"val/{name}", torch.as_tensor(value, dtype=torch.float64), prog_bar=name == "score")

    def parameter_groups(self) -> Iterable[nn.Parameter] | list[dict[str, Any]]:
        """What the optimizer is given; a group with a `rate` moves at that share of the learning rate."""
        return self.parameters()

    def configure_optimizers(self) -> dict[str, Any]:
        if self.closed_form:
            return {"optimizer": torch.optim.SGD(self.parameters(), lr=0.0)}
        optimizer = self.make_optimizer(self.parameter_groups())
        for group in optimizer.param_groups:
            group["lr"] *= group.get("rate", 1.0)
        if self.make_scheduler is None:
            return {"optimizer": optimizer}
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": self.make_scheduler(optimizer), "interval": "step"},
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        # The length of a cosine belongs to the budget that is asked for now; past an old one its rate would rise again.
        for schedule in checkpoint.get("lr_schedulers", ()):
            schedule.pop("T_max", None)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["stormcell"] = self.record
