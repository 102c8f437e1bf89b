"""The story of a run: train(cfg) and evaluate(cfg)."""

from __future__ import annotations

import logging
import os
import resource
import sys
import time
import warnings
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from stormcell import checkpoint
from stormcell.check import check_calls
from stormcell.config import Config, DataConfig, UserError, nearest
from stormcell.data.cells import locate
from stormcell.data.questions import held_out
from stormcell.judge import judge
from stormcell.report.folder import write_judgement

log = logging.getLogger(__name__)

EMBEDDINGS = ("pca", "umap")


def train(cfg: DictConfig) -> float | None:
    """Fit a model, judge its best checkpoint on the held-out cells, write the run folder; returns the objective."""
    folder = _folder()
    plain = OmegaConf.to_container(cfg, resolve=True)
    _check(plain)
    if plain["data"]["path"] is not None:
        plain["data"]["path"] = str(locate(plain["data"]["path"]).resolve())  # evaluate.py may be typed elsewhere
    if plain["split"].get("path") is not None:
        plain["split"]["path"] = str(locate(plain["split"]["path"], "split.path", "*.csv").resolve())
    _quiet()
    pl.seed_everything(cfg.seed, verbose=False)
    data = _data_module(cfg)
    data.setup()
    model = instantiate(cfg.model)(spec=data.spec)
    _fits(model, data, cfg.objective)
    model.initialise(data)
    model.record = checkpoint.make_record(plain, data)
    loggers = _loggers(cfg)
    trainer = _trainer(cfg, loggers, data.steps_per_epoch)
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


def evaluate(cfg: DictConfig) -> None:
    """Judge a checkpoint again, on the cells it was made for or on those of another file."""
    _quiet()
    if OmegaConf.is_missing(cfg, "ckpt"):
        raise UserError("ckpt is missing: python evaluate.py ckpt=outputs/…/checkpoints/best.ckpt")
    if cfg.embedding is not None:
        _check_word("embedding", cfg.embedding, EMBEDDINGS)
    model = checkpoint.load(cfg.ckpt, cfg.trust)
    given = {key: value for key, value in OmegaConf.to_container(cfg.data).items() if value is not None}
    was = OmegaConf.create(model.record["config"])
    was.data = OmegaConf.merge(OmegaConf.structured(DataConfig), was.data, given)
    pl.seed_everything(was.seed, verbose=False)
    data, notes = _judged_cells(was, model, elsewhere=bool(given))
    _report(model, data, notes, cfg.embedding or was.embedding, [], _folder(), cfg.ckpt, {})


# ---- steps


def _folder() -> Path:
    return Path(HydraConfig.get().runtime.output_dir)


def _check(plain: dict[str, Any]) -> None:
    """Everything that can be refused before a cell is read."""
    known = [f.name for f in fields(Config)]
    for key in plain:
        if key not in known:
            raise UserError(f"{key}: no such config key{nearest(key, known)}; python train.py --cfg job lists them")
    if not 0 <= plain["seed"] < 2**32:
        raise UserError(f"seed={plain['seed']}: a whole number from 0 to {2**32 - 1} expected")
    _check_word("embedding", plain["embedding"], EMBEDDINGS)
    _check_word("objective_mode", plain["objective_mode"], ("max", "min"))
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


def _check_word(key: str, word: str, options: tuple[str, ...]) -> None:
    if word not in options:
        raise UserError(f"{key}={word}: {' or '.join(options)} expected{nearest(word, options)}")


def _quiet() -> None:
    """Lightning adds a handler of its own, which would print every line a second time under Hydra's logging."""
    logging.getLogger("pytorch_lightning").handlers.clear()
    logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.WARNING)
    # Batches come from memory in one call: workers would make them slower (README, "How it is built").
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    # Networks of this size gain little from a second thread, and lose tenfold where the cores are shared.
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)
    for message in (".*LeafSpec.*", ".*smaller than the logging interval.*", ".*srun.*"):
        warnings.filterwarnings("ignore", message=message)
    # A resumed run: the stream of batches finds its place by the step, and the folder is meant to be its own.
    for message in (".*dataloader is not resumable.*", ".*exists and is not empty.*"):
        warnings.filterwarnings("ignore", message=message)
    # What is logged on validation cells is a sum over all processes already.
    warnings.filterwarnings("ignore", message=".*sync_dist=True.*")


def _data_module(cfg: DictConfig) -> pl.LightningDataModule:
    config = OmegaConf.to_object(cfg.data)
    return instantiate(cfg.datamodule)(data=config, split=instantiate(cfg.split))


def _size(data: Any) -> str:
    rows, spec = data.rows, data.spec
    return (
        f"{len(data.cells):,} cells x {spec.n_genes:,} genes, {len(spec.conditions)} perturbations in training; "
        f"{len(rows['train']):,} training, {len(rows['validation']):,} validation, {len(rows['test']):,} test cells, "
        f"{len(rows['truth']):,} controls kept for the truth"
    )


def _fits(model: pl.LightningModule, data: Any, objective: str) -> None:
    """Refuse before training an objective that nobody logs, a split without validation cells to stop by, and one of
    which the model can answer nothing."""
    logged = [f"val/{name}" for name in (*model.parts, *model.scores)]
    if objective not in logged:
        raise UserError(f"objective={objective}{nearest(objective, logged)}: this model logs {', '.join(logged)}")
    perturbed = ~data.cells.obs["is_control"].to_numpy()[data.rows["validation"]]
    if perturbed.sum() < 2:
        raise UserError(
            f"{data.cells.origin}: the split leaves {perturbed.sum()} perturbed validation cells, which decide when "
            "training stops and which checkpoint is the best; raise split.validation, or name some in split.path"
        )
    tested = sorted(data.split.groups)
    unknown = {c: data.spec.unknown_targets(c) for c in tested if data.spec.unknown_targets(c)}
    if tested and len(unknown) == len(tested):
        raise UserError(
            f"{type(model).__name__} represents a perturbation by targets that training has seen, but the split holds "
            f"out every cell of {', '.join(tested[:3])}{', …' if len(tested) > 3 else ''}; use split=cells or "
            "split=combinations"
        )
    if unknown:
        data.split.notes.append(
            f"{len(unknown)} held-out perturbations have a target that no training cell carries, and get no answer: "
            + ", ".join(sorted(unknown)[:8])
        )


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


def _trainer(cfg: DictConfig, loggers: list, steps_per_epoch: int) -> pl.Trainer:
    callbacks = [instantiate(node) for node in (cfg.callbacks or {}).values() if node is not None]
    if not sys.stdout.isatty():
        callbacks = [c for c in callbacks if not isinstance(c, pl.callbacks.RichProgressBar)]
    options: dict[str, Any] = {}
    if not cfg.trainer.get("fast_dev_run"):
        options["enable_checkpointing"] = True
    budgets = cfg.trainer.get("max_steps", -1), (cfg.trainer.get("max_epochs") or -1) * steps_per_epoch
    steps = min((budget for budget in budgets if budget > 0), default=-1)
    interval = cfg.trainer.get("val_check_interval")
    if isinstance(interval, int) and 0 < steps < interval:
        options["val_check_interval"] = steps  # a short run is looked at once, at its end
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
    seen = (trainer.global_step - model.first_step) * data.batch_size
    if best:
        model, value = checkpoint.load(best), saver.best_model_score
    model = model.cpu().eval()
    timing = {"fit_s": round(fit_s, 2), "cells_per_s": round(seen / fit_s, 1)}
    shown = Path(best or "(no checkpoint: fast_dev_run)")
    _report(model, data, [], cfg.embedding, loggers, folder, shown, timing)
    return None if value is None else float(value)


def _judged_cells(was: DictConfig, model: Any, elsewhere: bool) -> tuple[Any, list[str]]:
    """The data module of a checkpoint: on its own file with its own split, else every perturbed cell of the other."""
    data = _data_module(was)
    if not elsewhere:
        data.setup()
        if data.split.sha256 == model.record["split_sha256"] and data.spec.record() == model.record["spec"]:
            return data, []
        if data.cells.fingerprint == model.record["data_sha256"]:
            raise UserError(
                f"{data.cells.origin}: the file of the training cells, but data.* reads it otherwise than training "
                "did; leave out every key of data but data.path"
            )
        raise UserError(
            f"{data.cells.origin}: not the cells that this checkpoint was trained and split on (split "
            f"{data.split.sha256[:12]}, expected {model.record['split_sha256'][:12]}); name the file with data.path=… "
            "to judge all its cells"
        )
    from stormcell.data.cells import read

    same = read(data.config).fingerprint == model.record["data_sha256"]
    if same:
        return _judged_cells(was, model, elsewhere=False)
    data.setup_elsewhere(model.spec, was.split.get("controls_for_truth", 0.5))
    note = f"cells of another file than the training cells: {data.cells.origin}"
    if _same_cells(data, model):
        note += (
            "; but names and labels are those of the training file, so most were seen in training and every figure "
            "flatters; judge the file of the training for held-out cells"
        )
    return data, [note]


def _same_cells(data: Any, model: Any) -> bool:
    """Whether another file holds the training file's cells again: the rule of the split then divides them alike."""
    try:
        return data.split_rule(data.cells, data.seed).sha256 == model.record["split_sha256"]
    except UserError:  # the rule cannot divide these cells
        return False


def _report(model, data, notes: list[str], embedding: str, loggers, folder: Path, ckpt, timing: dict) -> None:
    """Judge on the CPU, where numbers are the same to the last digit, and write everything down."""
    start = time.perf_counter()
    reference = checkpoint.reference(model)
    own = data.cells.fingerprint == model.record["data_sha256"]
    told = [*notes, *data.cells.notes, *data.split.notes, *model.notes(data)]
    with torch.no_grad():
        judgement, kept = judge(model, data, held_out(data, reference, own_cells=own), told)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform == "linux" else 1024**2)
    timing = {**timing, "test_s": round(time.perf_counter() - start, 2), "peak_rss_mb": round(peak, 1)}
    write_judgement(judgement, kept, data, model.record, folder, embedding, str(ckpt), timing, loggers)


def _close(loggers: list, done: bool) -> None:
    """W&B keeps one run open for all jobs of a sweep unless each is closed."""
    if any(type(logger).__name__ == "WandbLogger" for logger in loggers):
        import wandb

        wandb.finish(exit_code=0 if done else 1)
