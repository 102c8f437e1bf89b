"""train.py and evaluate.py as a user types them, for the tests: in a process of their own, or inside this one."""

from __future__ import annotations

import contextlib
import io
import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

ROOT = Path(__file__).resolve().parents[1]
# A run of seconds. 65 validation cells: an odd number, which two processes cannot share evenly.
CELLS = (
    "data.simulate.n_cells=1200", "data.simulate.n_genes=200", "data.simulate.n_singles=6", "data.simulate.n_pairs=3",
    "data.simulate.n_interacting=1", "datamodule.batch_size=64", "model.n_cells=100",
)  # fmt: skip
# What makes the closing test of a model short; of one that is not named, fewer cells to generate.
QUICK = {"contrastive": "model.plain_vae=false", "transition": "model.bootstraps=3", "bilinear": "model.refits=0"}
QUICK["trilinear"] = QUICK["bilinear"]
SHORT = (*CELLS, "trainer.max_steps=60", "trainer.val_check_interval=20", "trainer.log_every_n_steps=10")
# Long enough to be killed on the way; patience, so that it always has the same length.
LONG = (*SHORT, "trainer.max_steps=400", "callbacks.early_stopping.patience=99")


class Ended(NamedTuple):
    """What is left of a command: its exit status and what it said."""

    code: int
    out: str
    err: str


def quick(words: tuple[str, ...] | list[str], model: str) -> list[str]:
    """The words with those that shorten the closing test of this model."""
    return [*(word for word in words if word != CELLS[-1]), QUICK.get(model, CELLS[-1])]


def environment(**more: str) -> dict[str, str]:
    """One thread, and nothing of a run that this process may have made before."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("PL_", "HYDRA_", "WANDB_"))}
    return {**clean, "OMP_NUM_THREADS": "1", "WANDB_MODE": "offline", "WANDB_SILENT": "true", **more}


def start(script: str, *arguments: str, cwd: Path, **more: str) -> subprocess.Popen:
    """python train.py …, begun in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, str(ROOT / script), *arguments],
        cwd=cwd,
        env=environment(**more),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def ended(process: subprocess.Popen, seconds: float = 300) -> Ended:
    out, err = process.communicate(timeout=seconds)
    return Ended(process.returncode, out, err)


def inside(script: str, *arguments: str, cwd: Path, **more: str) -> Ended:
    """The same command without the five seconds that a new interpreter spends on imports."""
    import torch

    out, err = io.StringIO(), io.StringIO()
    code: Any = 0
    with (
        contextlib.chdir(cwd),
        patch.object(sys, "argv", [str(ROOT / script), *arguments]),
        patch.dict(os.environ, environment(**more), clear=True),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            runpy.run_path(str(ROOT / script), run_name="__main__")
        except SystemExit as left:
            code = left.code or 0
        finally:
            torch.use_deterministic_algorithms(False)
    return Ended(code, out.getvalue(), err.getvalue())


_MADE: dict[str, Any] = {}


def reference(base: Any) -> tuple[Path, Ended]:
    """The folder of one long run that nobody disturbed, made once per test process; base: tmp_path_factory."""
    if "reference" not in _MADE:
        folder = base.mktemp("reference") / "run"
        done = ended(start("train.py", *LONG, f"hydra.run.dir={folder}", cwd=base.mktemp("elsewhere")))
        assert done.code == 0, done.err
        _MADE["reference"] = folder, done
    return _MADE["reference"]


def short(base: Any) -> Path:
    """The folder of one short run with seed 1, made once per test process."""
    if "short" not in _MADE:
        folder = base.mktemp("short") / "run"
        done = inside("train.py", *SHORT, f"hydra.run.dir={folder}", cwd=base.mktemp("elsewhere"))
        assert done.code == 0, done.err
        _MADE["short"] = folder
    return _MADE["short"]


def sweep(base: Any) -> Path:
    """The folder of a sweep over two seeds that logs to W&B offline, made once per test process."""
    if "sweep" not in _MADE:
        folder = base.mktemp("sweep") / "jobs"
        arguments = ("-m", "model=cvae", "seed=1,2", "logger=wandb", "logger.wandb.offline=true", *SHORT)
        done = inside("train.py", *arguments, f"hydra.sweep.dir={folder}", cwd=base.mktemp("elsewhere"))
        assert done.code == 0, done.err
        _MADE["sweep"] = folder
    return _MADE["sweep"]


def metrics(folder: Path) -> dict[str, Any]:
    """metrics.json without the timing."""
    found = json.loads((folder / "metrics.json").read_text())
    return {key: value for key, value in found.items() if key != "timing"}


def weights(ckpt: Path) -> dict[str, Any]:
    import torch

    return torch.load(ckpt, weights_only=True)["state_dict"]


def listing(folder: Path) -> set[str]:
    """Every file below a folder, as a relative path."""
    return {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}
