"""The story of an examination: evaluate(cfg) judges a checkpoint, or predictions; train() ends with the same report."""

from __future__ import annotations

import logging
import os
import resource
import sys
import time
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from stormcell import checkpoint
from stormcell.check import check_calls
from stormcell.config import DataConfig, UserError, nearest
from stormcell.data.cells import read
from stormcell.data.questions import held_out
from stormcell.data.screen import Screen
from stormcell.evaluator import judge_predictions
from stormcell.judge import judge
from stormcell.report.folder import command, write_judgement

EMBEDDINGS = ("pca", "umap")


def evaluate(cfg: DictConfig) -> None:
    """Judge a checkpoint again, on the cells it was made for or on those of another file; or judge predictions."""
    quiet()
    if cfg.embedding is not None:
        check_word("embedding", cfg.embedding, EMBEDDINGS)
    if (cfg.ckpt is None) == (cfg.predictions is None):
        raise UserError(
            "ckpt is missing: python evaluate.py ckpt=outputs/…/checkpoints/best.ckpt, or predictions=mine.h5ad with "
            "data=… and split=…"
            if cfg.ckpt is None
            else "ckpt and predictions are both given: one at a time is judged"
        )
    if cfg.predictions is not None:
        _judge_predictions(cfg)
        return
    model = checkpoint.load(cfg.ckpt, cfg.trust)
    given = _given(cfg.data)
    was = OmegaConf.create(model.record["config"])
    was.data = OmegaConf.merge(OmegaConf.structured(DataConfig), was.data, given)
    pl.seed_everything(was.seed, verbose=False)
    data, notes = _judged_cells(was, model, elsewhere=bool(given))
    report(model, data, notes, cfg.embedding or was.embedding, [], folder_of_run(), cfg.ckpt, {})


# ---- steps, some of them shared with run.py


def folder_of_run() -> Path:
    return Path(HydraConfig.get().runtime.output_dir)


def check_word(key: str, word: str, options: tuple[str, ...]) -> None:
    if word not in options:
        raise UserError(f"{key}={word}: {' or '.join(options)} expected{nearest(word, options)}")


def quiet() -> None:
    """Lightning adds a handler of its own, which would print every line a second time under Hydra's logging."""
    logging.getLogger("pytorch_lightning").handlers.clear()
    logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.WARNING)
    # Batches come from memory in one call: workers would make them slower (README, "How it is built").
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    # Deterministic runs would else fill every new tensor before it is written.
    torch.utils.deterministic.fill_uninitialized_memory = False
    hold_threads()
    for message in (".*LeafSpec.*", ".*smaller than the logging interval.*", ".*srun.*"):
        warnings.filterwarnings("ignore", message=message)
    # A resumed run: the stream of batches finds its place by the step, and the folder is meant to be its own.
    for message in (".*dataloader is not resumable.*", ".*exists and is not empty.*"):
        warnings.filterwarnings("ignore", message=message)
    # What is logged on validation cells is a sum over all processes already.
    warnings.filterwarnings("ignore", message=".*sync_dist=True.*")


def hold_threads() -> None:
    """One thread, or as many as OMP_NUM_THREADS says.

    Networks of this size gain little from a second thread, and lose tenfold where the cores are shared. Held again
    after the cells are read: the parallel kernels behind scanpy leave torch with a thread for every core.
    """
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or 1))


def data_module(cfg: DictConfig) -> pl.LightningDataModule:
    config = OmegaConf.to_object(cfg.data)
    return instantiate(cfg.datamodule)(data=config, split=instantiate(cfg.split), targets=instantiate(cfg.targets))


def data_of(model: Any) -> pl.LightningDataModule:
    """The cells that a model of a checkpoint was trained on, read and split again."""
    was = OmegaConf.create(model.record["config"])
    was.data = OmegaConf.merge(OmegaConf.structured(DataConfig), was.data)
    data = data_module(was)
    data.setup()
    return data


def _judged_cells(was: DictConfig, model: Any, elsewhere: bool) -> tuple[Any, list[str]]:
    """The data module of a checkpoint: on its own file with its own split, else every perturbed cell of the other."""
    data = data_module(was)
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


def _given(node: Any) -> dict[str, Any]:
    """The keys of a config that are not null."""
    plain = OmegaConf.to_container(node) if OmegaConf.is_config(node) else node
    nested = {key: _given(value) if isinstance(value, dict) else value for key, value in plain.items()}
    return {key: value for key, value in nested.items() if value is not None and value != {}}


def _judge_predictions(cfg: DictConfig) -> None:
    """The scoreboard of predictions that another program made."""
    plain = {"data": {"name": "h5ad", **_given(cfg.data)}, "seed": cfg.seed, "predictions": cfg.predictions}
    for group, ask in (("split", "split=pairs_and_cells, or split=file split.path=mine.csv"), ("data", "data=norman")):
        if not _given(cfg[group] or {}):
            raise UserError(f"{group} is missing: {ask} says which cells the predictions are judged on")
    check_calls({"split": OmegaConf.to_container(cfg.split), "targets": _given(cfg.targets or {})})
    config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(DataConfig), plain["data"]))
    start = time.perf_counter()
    targets = {} if cfg.targets is None else {"targets": instantiate(cfg.targets)}
    screen = Screen(config, instantiate(cfg.split), cfg.seed, **targets)
    screen.setup()
    reading = {
        key: cfg[key] for key in ("kind", "scale", "perturbation_key", "separator", "context_key", "library_key")
    }
    judgement, kept = judge_predictions(screen, cfg.predictions, **reading)
    timing = {"test_s": round(time.perf_counter() - start, 2)}
    again = " ".join(word for word in command().split(" ") if not word.startswith("hydra.run.dir="))
    plain |= {"split": OmegaConf.to_container(cfg.split, resolve=True), **reading}
    write_judgement(judgement, kept, screen, plain, folder_of_run(), cfg.embedding or "pca", again, timing, [])


def report(model, data, notes: list[str], embedding: str, loggers, folder: Path, ckpt, timing: dict) -> None:
    """Judge on the CPU, where numbers are the same to the last digit, and write everything down."""
    start = time.perf_counter()
    hold_threads()
    told = [*notes, *data.cells.notes, *data.split.notes]
    # The first UMAP of a process costs 20 s: only a model whose space is the question is drawn by it unasked.
    embedding = embedding or ("umap" if model.judged in ("latents", "frequencies") else "pca")
    judges = {
        "profiles": _profiles,
        "latents": _latents,
        "network": partial(_network, embedding),
        "frequencies": partial(_frequencies, embedding),
    }
    write, judged = judges[model.judged](model, data, told)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform == "linux" else 1024**2)
    timing = {**timing, "test_s": round(time.perf_counter() - start, 2), "peak_rss_mb": round(peak, 1)}
    again = f"python evaluate.py ckpt={ckpt}"
    write(*judged, data, model.record["config"], folder, embedding, again, timing, loggers)


def _profiles(model, data, told: list[str]) -> tuple:
    reference, vectors = checkpoint.reference(model)
    own = data.cells.fingerprint == model.record["data_sha256"]
    told = [*told, *vectors.notes, *model.notes(data)]
    if vectors.kind != "multi_hot" and not model.uses_targets:
        told.append(f"targets={vectors.kind} serves the baselines; {type(model).__name__} has columns of its own")
    with torch.no_grad():
        return write_judgement, judge(model, data, held_out(data, reference, own, vectors), told)


def _latents(model, data, told: list[str]) -> tuple:
    from stormcell.judge_latents import judge_latents
    from stormcell.report.latent_folder import write_latent_judgement

    return write_latent_judgement, (judge_latents(model, data, [*told, *model.notes(data)]),)


def _network(embedding: str, model, data, told: list[str]) -> tuple:
    from stormcell.judge_networks import judge_networks
    from stormcell.report.network_folder import write_network_judgement

    return write_network_judgement, (judge_networks(model, data, [*told, *model.notes(data)], embedding),)


def _frequencies(embedding: str, model, data, told: list[str]) -> tuple:
    from stormcell.judge_frequencies import judge_frequencies
    from stormcell.report.frequency_folder import write_frequency_judgement

    return write_frequency_judgement, (judge_frequencies(model, data, [*told, *model.notes(data)], embedding),)
