"""Checkpoints: plain, complete, whole on the disk, and no way to run somebody's code."""

import os
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from conftest import write_h5ad

from stormcell import checkpoint
from stormcell.config import DataConfig, GeneSelection, UserError
from stormcell.data.control_perturbed import ControlPerturbedDataModule
from stormcell.data.spec import Spec
from stormcell.data.split import held_out_cells
from stormcell.models.cvae import CVAE

MODEL = {
    "_target_": "stormcell.models.cvae.CVAE",
    "_partial_": True,
    "_convert_": "all",
    "latent": 4,
    "hidden": [8],
    "optimizer": {"_target_": "torch.optim.AdamW", "_partial_": True, "lr": 1e-3},
    "scheduler": None,
}
CONFIG = {"model": MODEL, "data": {"name": "small", "batch_key": "batch"}, "split": {"test_cells": 0.2}, "seed": 4}


class Outside(CVAE):
    """A model class that Stormcell does not know."""


def trainer(**keys):
    return pl.Trainer(
        max_steps=2,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        use_distributed_sampler=False,
        plugins=[checkpoint.AtomicCheckpointIO()],
        **keys,
    )


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """Trainer, model and data of two steps on a small file."""
    path = write_h5ad(tmp_path_factory.mktemp("checkpoint") / "cells.h5ad")
    config = DataConfig("small", path=str(path), batch_key="batch", genes=GeneSelection(None))
    data = ControlPerturbedDataModule(config, held_out_cells, batch_size=16)
    data.setup()
    model = CVAE(data.spec, partial(torch.optim.AdamW, lr=1e-2), seed=4, latent=4, hidden=[8])
    model.record = checkpoint.make_record(CONFIG, data)
    fit = trainer()
    fit.fit(model, datamodule=data)
    path.unlink()
    return fit, model.eval(), data


@pytest.fixture
def saved(fitted, tmp_path):
    fitted[0].save_checkpoint(tmp_path / "checkpoints" / "best.ckpt")
    return tmp_path / "checkpoints" / "best.ckpt"


def edited(saved, change):
    """The checkpoint with something changed in it."""
    content = torch.load(saved, weights_only=True)
    change(content)
    torch.save(content, saved)
    return saved


# ---- what is in it


def leaves(node):
    if type(node) is dict:
        assert all(type(key) is str for key in node)
        return [leaf for value in node.values() for leaf in leaves(value)]
    if type(node) is list:
        return [leaf for value in node for leaf in leaves(value)]
    return [node]


def test_the_record_is_plain(saved):
    content = torch.load(saved, weights_only=True)
    kinds = {type(leaf) for leaf in leaves(content["stormcell"])}
    assert kinds <= {str, int, float, bool, type(None), torch.Tensor}
    assert set(content["stormcell"]) >= {"format", "version", "config", "spec", "split_sha256", "data_sha256", "seed"}


def test_a_checkpoint_gives_the_model_back_without_its_cells(fitted, saved):
    _, model, data = fitted
    loaded = checkpoint.load(saved)
    assert type(loaded) is CVAE
    assert not loaded.training
    assert loaded.spec == model.spec == data.spec
    assert loaded.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in loaded.state_dict().items())
    assert loaded.record["split_sha256"] == data.split.sha256
    assert loaded.record["data_sha256"] == data.cells.fingerprint
    assert loaded.record["config"] == CONFIG
    source = data.batch(data.control_rows("all"))
    assert np.array_equal(loaded.generate("A+B", source, "B", 3), model.generate("A+B", source, "B", 3))
    kept, embedding = checkpoint.reference(loaded)
    assert embedding.targets == data.embedding.targets
    assert np.array_equal(embedding.vectors, data.embedding.vectors)
    assert kept.train.conditions == data.reference.train.conditions
    assert np.array_equal(kept.train.means, data.reference.train.means)
    for name in ("pca_mean", "pca_components", "detected"):
        assert np.array_equal(getattr(kept, name), getattr(data.reference, name))


def test_a_spec_survives_its_record():
    spec = Spec(
        ("g1", "g2"), ("A", "B"), ("A", "A+B"), "counts", {"line": ("x", "y"), "dose": ()}, (0.5, 1.0), (1.0, 2.0)
    )
    assert Spec.from_record(spec.record()) == spec
    assert (spec.n_genes, spec.n_targets, spec.n_covariates) == (2, 2, 2)


# ---- what is refused


def test_files_that_are_no_checkpoint_of_ours(saved, tmp_path):
    with pytest.raises(UserError, match=r"ckpt=.*lost.ckpt: no such file; checkpoints lie in <run folder>/checkpoints"):
        checkpoint.load(tmp_path / "lost.ckpt")
    whole = saved.read_bytes()
    for content in (whole[: len(whole) // 2], whole[:10], b"", b"weights: 1\n"):
        saved.write_bytes(content)
        with pytest.raises(UserError, match=r"best.ckpt: truncated, or not a checkpoint"):
            checkpoint.load(saved)
    torch.save({"state_dict": {}}, saved)
    with pytest.raises(UserError, match=r"best.ckpt: a checkpoint, but not written by Stormcell"):
        checkpoint.load(saved)
    torch.save([1, 2], saved)
    with pytest.raises(UserError, match=r"not written by Stormcell"):
        checkpoint.load(saved)


def test_a_newer_format_is_refused(saved):
    edited(saved, lambda content: content["stormcell"].update(format=checkpoint.FORMAT + 1))
    with pytest.raises(UserError, match=rf"format {checkpoint.FORMAT + 1}, newer than this Stormcell"):
        checkpoint.load(saved)


class Trap:
    """Runs when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("trap",)


def test_a_pickle_with_code_is_not_unpickled(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"stormcell": Trap()}, "evil.ckpt")
    with pytest.raises(UserError, match="truncated, or not a checkpoint"):
        checkpoint.load("evil.ckpt")
    assert not (tmp_path / "trap").exists()


def test_a_class_outside_stormcell_needs_trust(saved):
    target = f"{Outside.__module__}.Outside"
    edited(saved, lambda content: content["stormcell"]["config"]["model"].update(_target_=target))
    with pytest.raises(UserError, match=rf"its model is {target}, code outside stormcell; trust=true runs it"):
        checkpoint.load(saved)
    assert type(checkpoint.load(saved, trust=True)).__name__ == "Outside"


@pytest.mark.parametrize("place", ["model", "beta", "split", "datamodule"])
def test_nothing_outside_stormcell_is_called_through_a_name_inside_it(saved, tmp_path, monkeypatch, place):
    """stormcell.checkpoint.torch.load is torch.load, which runs what it unpickles when it is told to."""
    monkeypatch.chdir(tmp_path)
    torch.save(Trap(), "evil.pt")
    call = {"_target_": "stormcell.checkpoint.torch.load", "f": "evil.pt", "weights_only": False}

    def change(content):
        config = content["stormcell"]["config"]
        (config["model"] if place == "beta" else config)[place] = call

    with pytest.raises(UserError, match=r"stormcell.checkpoint.torch.load, code outside stormcell"):
        checkpoint.load(edited(saved, change))
    assert not (tmp_path / "trap").exists()


# ---- whole on the disk


def fails(number):
    def fsync(_):
        raise OSError(number, os.strerror(number))

    return fsync


def test_a_full_disk_leaves_the_checkpoint_before(fitted, saved, monkeypatch):
    before = saved.read_bytes()
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fails(28))
        with pytest.raises(
            UserError, match=r"best.ckpt: could not be written \(No space left on device\); .* is whole"
        ):
            fitted[0].save_checkpoint(saved)
        with pytest.raises(UserError, match=r"other.ckpt: could not be written .*; no checkpoint stands there"):
            fitted[0].save_checkpoint(saved.with_name("other.ckpt"))
    assert [file.name for file in saved.parent.iterdir()] == ["best.ckpt"]
    assert saved.read_bytes() == before


def test_what_a_killed_process_left_is_written_over(fitted, saved):
    part = saved.with_name("best.ckpt.part")
    part.write_bytes(b"half a checkpoint")
    assert checkpoint.load(saved).record["seed"] == 4
    fitted[0].save_checkpoint(saved)
    assert not part.exists()
    assert checkpoint.load(saved).record["seed"] == 4


LIMITED = """
import resource, sys, torch
from stormcell.checkpoint import AtomicCheckpointIO
from stormcell.config import UserError
path = sys.argv[1]
AtomicCheckpointIO().save_checkpoint({"number": 1}, path)
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
try:
    AtomicCheckpointIO().save_checkpoint({"number": 2, "weights": torch.zeros(100_000)}, path)
except UserError as error:
    print(error)
print(torch.load(path, weights_only=True)["number"])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="limits of a process are POSIX")
def test_a_file_that_may_not_grow_leaves_the_checkpoint_before(tmp_path):
    """A limit on the size of files: the system refuses the bytes beyond it in the middle of the file."""
    path = tmp_path / "last.ckpt"
    done = subprocess.run([sys.executable, "-c", LIMITED, path], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    refusal, number = done.stdout.splitlines()
    assert refusal.startswith(f"{path}: could not be written (")
    assert refusal.endswith("the checkpoint before it is whole")
    assert number == "1"
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]
