"""Checkpoints: the weights and a plain record of everything that is needed to use them.

record = {format, version, config (data, split, targets, datamodule, model, …), spec, reference, embedding,
          split_sha256, data_sha256, seed}
holds dicts, lists, plain values and tensors only, so that a file loads with torch.load(weights_only=True).
"""

from __future__ import annotations

import inspect
import io
import os
import pkgutil
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from pytorch_lightning.plugins import TorchCheckpointIO

from stormcell import __version__
from stormcell.analysis.embedding import TargetEmbedding
from stormcell.config import UserError
from stormcell.data.frequency_spec import FrequencySpec
from stormcell.data.network_spec import NetworkSpec
from stormcell.data.reference import Reference
from stormcell.data.spec import Spec
from stormcell.models.base import Model

FORMAT = 3  # 3: batches and continuous covariates in the Spec


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the file and renames: a kill or a full disk leaves the checkpoint before it whole."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path, storage_options: Any = None) -> None:
        path = Path(path)
        part = path.with_name(path.name + ".part")
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with part.open("wb") as file:
                file.write(buffer.getbuffer())
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        except OSError as error:
            part.unlink(missing_ok=True)
            kept = "the checkpoint before it is whole" if path.exists() else "no checkpoint stands there"
            raise UserError(f"{path}: could not be written ({error.strerror}); {kept}") from error


def make_record(config: dict[str, Any], data: Any) -> dict[str, Any]:
    """The record of a run: its resolved config and what its data module found."""
    return {
        "format": FORMAT,
        "version": __version__,
        "config": config,
        "spec": data.spec.record(),
        **{name: getattr(data, name).record() for name in ("reference", "embedding") if hasattr(data, name)},
        "split_sha256": data.split.sha256,
        "data_sha256": data.cells.fingerprint,
        "seed": config["seed"],
    }


def load(path: str | Path, trust: bool = False) -> Model:
    """The model of a checkpoint, in evaluation mode, with `model.record`; needs no data.

    Raises UserError for a file that is missing, damaged, not ours or of a newer format, and for a model class outside
    stormcell unless `trust` is set.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"ckpt={path}: no such file; checkpoints lie in <run folder>/checkpoints/best.ckpt")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged archive raises half a dozen kinds
        raise UserError(f"ckpt={path}: truncated, or not a checkpoint ({type(error).__name__} on reading)") from error
    if not isinstance(content, dict) or "stormcell" not in content:
        raise UserError(f"ckpt={path}: a checkpoint, but not written by Stormcell (it has no record)")
    record = content["stormcell"]
    if record["format"] != FORMAT:
        age = "newer" if record["format"] > FORMAT else "older"
        raise UserError(f"ckpt={path}: format {record['format']}, {age} than this Stormcell ({__version__}) reads")
    config = {key: value for key, value in record["config"]["model"].items() if key not in ("optimizer", "scheduler")}
    for part in (config, *(record["config"].get(key) for key in ("split", "targets", "datamodule"))):
        _trusted(part, trust, path)
    kinds = {"transitions": NetworkSpec, "outputs": FrequencySpec}
    spec = next((kind for key, kind in kinds.items() if key in record["spec"]), Spec)
    model = instantiate(config)(spec=spec.from_record(record["spec"]), optimizer=None)
    if "embedding" in record:
        model.shape_like(content["state_dict"], TargetEmbedding.from_record(record["embedding"]))
    model.load_state_dict(content["state_dict"])
    model.record = record
    return model.eval()


def _trusted(node: Any, trust: bool, path: Path) -> None:
    """Every _target_ below a node is a class, or a function of data/, of ours: a name that begins with ours may lead
    elsewhere (stormcell.checkpoint.torch.load)."""
    for value in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        _trusted(value, trust, path)
    target = node.get("_target_") if isinstance(node, dict) else None
    if target is None or trust:
        return
    try:
        found = pkgutil.resolve_name(target) if target.startswith("stormcell.") else None
    except (ImportError, AttributeError) as error:
        raise UserError(f"ckpt={path}: it needs {target}, which this Stormcell ({__version__}) lacks") from error
    if not getattr(found, "__module__", "").startswith("stormcell." if inspect.isclass(found) else "stormcell.data."):
        raise UserError(f"ckpt={path}: its model is {target}, code outside stormcell; trust=true runs it")


def reference(model: Model) -> tuple[Reference, TargetEmbedding]:
    """What the training cells of a model said, and what was known of the targets beside them."""
    return Reference.from_record(model.record["reference"]), TargetEmbedding.from_record(model.record["embedding"])
