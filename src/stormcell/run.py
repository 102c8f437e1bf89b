"""The story of a run: train(cfg)."""

from __future__ import annotations

import logging
import os
import sys
import time
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from stormcell import checkpoint
from stormcell.check import check_calls
from stormcell.config import Config, UserError, nearest
from stormcell.data.cells import locate
from stormcell.data.pseudobulk import PseudobulkDataModule
from stormcell.examine import EMBEDDINGS, check_word, data_module, folder_of_run, hold_threads, quiet, report

log = logging.getLogger(__name__)


def train(cfg: DictConfig) -> float | None:
    """Fit a model, judge its best checkpoint on the held-out cells, write the run folder; returns the objective."""
    folder = folder_of_run()
    plain = OmegaConf.to_container(cfg, resolve=True)
    _check(plain)
    _absolute(plain)
    quiet()
    pl.seed_everything(cfg.seed, verbose=False)
    data = data_module(cfg)
    data.setup()
    hold_threads()
    model = instantiate(cfg.model)(spec=data.spec)
    model.initialise(data)
    _fits(model, data, cfg.objective)
    model.record = checkpoint.make_record(plain, data)
    loggers = _loggers(cfg)
    trainer = _trainer(cfg, loggers, data, model)
    done = False
    try:
        if trainer.is_global_zero:
            OmegaConf.save(OmegaConf.create(plain), folder / "config.yaml")
            log.info("%s on %s: %s", plain["model"]["_target_"].split(".")[-1], cfg.data.name, _size(data))
        start = time.perf_counter()
        _fit(trainer, model, data, cfg.ckpt, folder)
        fit_s = time.perf_counter() - start
        objective = _closing_test(cfg, trainer, model, data, loggers, folder, fit_s)
        done = True
    finally:
        _close(loggers, done)
    return objective


# ---- steps


def _absolute(plain: dict[str, Any]) -> None:
    """Paths of files as they can be found from anywhere: evaluate.py may be typed elsewhere."""
    files = ("data", "path", "*.h5ad"), ("split", "path", "*.csv"), ("targets", "path", "*.csv.gz")
    named = [(plain, *file) for file in (*files, ("model", "gene_sets", "*.gmt*"))]
    rules = (
        ("coupling", "path", "*"),
        ("prior", "path", "*"),
        ("prior", "regulators_path", "*.txt*"),
        ("known", "path", "*"),
    )
    named += [(plain["datamodule"], *file) for file in rules]  # where the view has them: other models read no network
    for holder, group, key, like in named:
        given = (holder.get(group) or {}).get(key)
        if given is not None:
            paths = given if isinstance(given, list) else [given]
            found = [str(locate(path, f"{group}.{key}", like).resolve()) for path in paths]
            holder[group][key] = found if isinstance(given, list) else found[0]


def _check(plain: dict[str, Any]) -> None:
    """Everything that can be refused before a cell is read."""
    known = [f.name for f in fields(Config)]
    for key in plain:
        if key not in known:
            raise UserError(f"{key}: no such config key{nearest(key, known)}; python train.py --cfg job lists them")
    if not 0 <= plain["seed"] < 2**32:
        raise UserError(f"seed={plain['seed']}: a whole number from 0 to {2**32 - 1} expected")
    if plain["embedding"] is not None:
        check_word("embedding", plain["embedding"], EMBEDDINGS)
    check_word("objective_mode", plain["objective_mode"], ("max", "min"))
    check_calls(plain["trainer"], "trainer")  # first, because other keys repeat its values
    check_calls({key: value for key, value in plain.items() if key != "data"})
    check_calls({"_target_": "stormcell.data.simulate.simulate", **plain["data"]["simulate"]}, "data.simulate")
    if (plain["model"].get("scheduler") or {}).get("T_max", 1) < 1:
        raise UserError(
            f"model.scheduler.T_max={plain['model']['scheduler']['T_max']}: the learning rate falls over a number of "
            "steps; give trainer.max_steps, or model.scheduler=null"
        )
    devices, nodes = plain["trainer"].get("devices", 1), plain["trainer"].get("num_nodes", 1)
    one = devices in (1, "1") or (isinstance(devices, list) and len(devices) == 1)  # a list names devices
    if not (one and nodes in (1, "1")) and plain["datamodule"]["_target_"].endswith("PseudobulkDataModule"):
        raise UserError(
            f"trainer.devices={devices}: pseudobulk is one table, which one device fits; use trainer.devices=1"
        )
    hydra = HydraConfig.get()
    local = "basic_launcher" in hydra.launcher._target_ or "joblib" in hydra.launcher._target_
    if hydra.mode == RunMode.MULTIRUN and local and not (one and nodes in (1, "1")):
        raise UserError(
            f"trainer.devices={devices} under -m: every further process would run the whole sweep again; use "
            "trainer.devices=1, or hydra/launcher=submitit_slurm, or one command per job"
        )
    fixed = any(override.startswith("hydra.run.dir=") for override in hydra.overrides.hydra)
    if "TORCHELASTIC_RUN_ID" in os.environ and not fixed:
        raise UserError("under torchrun every process makes its own folder: give one with hydra.run.dir=FOLDER")


def _size(data: Any) -> str:
    rows, spec = data.rows, data.spec
    what = getattr(spec, "extent", None) or f"{len(spec.conditions)} perturbations in training"
    kept = f", {len(rows['truth']):,} controls kept for the truth" if "truth" in rows else ""
    return (
        f"{len(data.cells):,} cells x {spec.n_genes:,} genes, {what}; {len(rows['train']):,} training, "
        f"{len(rows['validation']):,} validation, {len(rows['test']):,} test cells{kept}"
    )


def _fits(model: pl.LightningModule, data: Any, objective: str) -> None:
    """Refuse before training an objective that nobody logs, a split without validation cells to stop by, and one of
    which the model can answer nothing."""
    logged = [f"val/{name}" for name in (*model.parts, *model.scores)]
    if objective not in logged:
        raise UserError(f"objective={objective}{nearest(objective, logged)}: this model logs {', '.join(logged)}")
    if not model.closed_form and not _validated(data, model):
        raise UserError(
            f"{data.cells.origin}: the split leaves fewer than two validation cells of perturbations that "
            f"{type(model).__name__} can represent, which decide when training stops and which checkpoint is the best; "
            "raise split.validation, or name some in split.path"
        )
    tested = sorted(data.split.groups)
    unknown = {c: model.unknown_targets(c) for c in tested if model.unknown_targets(c)}
    if tested and len(unknown) == len(tested):
        raise UserError(
            f"{type(model).__name__} represents a perturbation by targets that training has seen, but the split holds "
            f"out every cell of {', '.join(tested[:3])}{', …' if len(tested) > 3 else ''}; use split=cells or "
            f"split=combinations{model.way_out}"
        )
    if unknown:
        data.split.notes.append(
            f"{len(unknown)} held-out perturbations have a target that {type(model).__name__} has no representation "
            "of, and get no answer: " + ", ".join(sorted(unknown)[:8]) + (", …" if len(unknown) > 8 else "")
        )


def _validated(data: Any, model: pl.LightningModule) -> bool:
    """Are there two validation cells, or a row of their pseudobulk, of perturbations that the model can represent?"""
    if isinstance(data, PseudobulkDataModule):
        return len(data.validation.shift) > 0
    if model.judged in ("network", "frequencies"):
        return len(data.rows["validation"]) > 0
    names, sizes = np.unique(data.condition[data.rows["validation"]], return_counts=True)
    known = [name != data.cells.control and not model.unknown_targets(str(name)) for name in names]
    return sizes[known].sum() > 1


def _loggers(cfg: DictConfig) -> list:
    loggers = [instantiate(node) for node in (cfg.logger or {}).values()]
    for logger in loggers:
        if type(logger).__name__ == "WandbLogger":
            import wandb

            try:
                _ = logger.experiment  # signs in now, not after the first hundred steps
            except wandb.errors.Error as error:
                wandb.finish(exit_code=1)
                raise UserError(
                    f"logger=wandb: {str(error).splitlines()[0]}; run `wandb login`, or add logger.wandb.offline=true"
                ) from error
    return loggers


def _trainer(cfg: DictConfig, loggers: list, data: Any, model: pl.LightningModule) -> pl.Trainer:
    callbacks = [instantiate(node) for node in (cfg.callbacks or {}).values() if node is not None]
    if not sys.stdout.isatty():
        callbacks = [c for c in callbacks if not isinstance(c, pl.callbacks.RichProgressBar)]
    options: dict[str, Any] = {}
    if not cfg.trainer.get("fast_dev_run"):
        options["enable_checkpointing"] = True
        if model.closed_form:
            options["enable_checkpointing"] = _validated(data, model)
            options |= {"max_steps": 1, "max_epochs": -1, "log_every_n_steps": 1}
    budgets = cfg.trainer.get("max_steps", -1), (cfg.trainer.get("max_epochs") or -1) * data.steps_per_epoch
    steps = options.get("max_steps") or min((budget for budget in budgets if budget > 0), default=-1)
    interval = cfg.trainer.get("val_check_interval")
    if isinstance(interval, int) and 0 < steps < interval:
        options["val_check_interval"] = steps  # a short run is looked at once, at its end
    if not _validated(data, model):  # a closed form needs none: then its only weights are the best
        options["limit_val_batches"] = 0
        watching = pl.callbacks.EarlyStopping, pl.callbacks.ModelCheckpoint
        callbacks = [c for c in callbacks if not isinstance(c, watching)]
    try:
        return instantiate(cfg.trainer)(
            callbacks=callbacks,
            logger=loggers or False,
            plugins=[checkpoint.AtomicCheckpointIO()],
            use_distributed_sampler=False,
            enable_progress_bar=sys.stdout.isatty(),
            **options,
        )
    except (MisconfigurationException, ValueError) as error:
        raise UserError(f"trainer: {' '.join(str(error).split())}") from error


def _fit(trainer: pl.Trainer, model: pl.LightningModule, data: Any, ckpt: str | None, folder: Path) -> None:
    """Train; Ctrl-C ends the program, and says how to go on."""
    try:
        # weights_only: a checkpoint of ours holds nothing but plain values and tensors
        trainer.fit(model, datamodule=data, ckpt_path=ckpt, weights_only=True)
    except (KeyboardInterrupt, SystemExit):
        last = folder / "checkpoints" / "last.ckpt"
        if trainer.is_global_zero and last.exists():
            print(f"\nstopped; go on with: python train.py ckpt={last}", file=sys.stderr)
        raise


def _closing_test(cfg, trainer, model, data, loggers, folder: Path, fit_s: float) -> float | None:
    """The best checkpoint, read back from the disk, judged by the first process."""
    value = trainer.callback_metrics.get(cfg.objective)
    saver = trainer.checkpoint_callback
    best = saver.best_model_path if saver is not None else ""
    if not trainer.is_global_zero:
        return None
    if saver is None and not trainer.fast_dev_run:  # no validation cells, and nothing that could be better
        best = str(folder / "checkpoints" / "best.ckpt")
        trainer.save_checkpoint(best)
    seen = (trainer.global_step - model.first_step) * data.cells_per_step
    if best:
        model, value = checkpoint.load(best), saver and saver.best_model_score
    model = model.cpu().eval()
    timing = {"fit_s": round(fit_s, 2), "cells_per_s": round(seen / fit_s, 1)}
    shown = Path(best or "(no checkpoint: fast_dev_run)")
    report(model, data, [], cfg.embedding, loggers, folder, shown, timing)
    return None if value is None else float(value)


def _close(loggers: list, done: bool) -> None:
    """W&B keeps one run open for all jobs of a sweep unless each is closed."""
    if any(type(logger).__name__ == "WandbLogger" for logger in loggers):
        import wandb

        wandb.finish(exit_code=0 if done else 1)
