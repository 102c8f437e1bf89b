"""The edge of the program: what a user typed goes in, and every mistake comes out as one sentence with exit status 2.

Nothing heavy is imported here.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, OverrideParseException
from hydra.types import RunMode
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from stormcell.config import UserError, nearest


def guarded(main: Callable[[], Any]) -> None:
    """Run a Hydra entry point; a user's mistake ends in one sentence on stderr and exit status 2."""
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # Hydra then raises instead of printing and exiting with 1
    try:
        sys.argv[1:] = resumed(sys.argv[1:])
        check_free(sys.argv[1:])
        main()
    except UserError as error:
        fail(str(error))
    except (HydraException, OmegaConfBaseException) as error:
        fail(_sentence(error))
    except ValueError as error:  # Hydra's own, for group=null
        if "Config group override" not in str(error):
            raise
        emptied = [argument for argument in sys.argv[1:] if argument.endswith("=null")]
        fail(f"{', '.join(emptied)}: a group takes one of its options; --help lists them")


def task(run: Callable[[Any], Any], cfg: Any) -> Any:
    """Run one job. A mistake in a sweep fails its job only; else it ends the program and takes the folder along."""
    hydra = HydraConfig.get()
    try:
        return run(cfg)
    except UserError as error:
        if hydra.mode == RunMode.MULTIRUN:
            raise  # the folder stays, and summary.csv lists the job as failed
        discard(Path(hydra.runtime.output_dir), f"{hydra.job.name}.log")
        fail(str(error))


def fail(sentence: str) -> NoReturn:
    sys.stderr.write(f"stormcell: {sentence}\n")
    sys.exit(2)


def discard(folder: Path, log: str) -> None:
    """Remove a run folder in which nothing but Hydra's own files stands, and its empty parents below outputs."""
    files = [file for file in folder.rglob("*") if file.is_file()]
    if all(file.parent == folder / ".hydra" or file == folder / log for file in files):
        shutil.rmtree(folder, ignore_errors=True)
        for parent in list(folder.parents)[:3]:  # outputs/<model>/<data>
            if parent == Path.cwd() or not parent.is_dir() or any(parent.iterdir()):
                break
            parent.rmdir()


def resumed(arguments: list[str]) -> list[str]:
    """`ckpt=<run>/checkpoints/last.ckpt` of train.py: the run's own command line, in the run's own folder.

    What is typed beside it comes last and wins, e.g. trainer.max_steps=6000.
    """
    given = [argument for argument in arguments if argument.startswith("ckpt=")]
    if Path(sys.argv[0]).stem == "evaluate" or not given or given[-1] in ("ckpt=null", "ckpt="):
        return arguments
    path = Path(given[-1].removeprefix("ckpt=").strip("'\""))
    if not path.is_file():
        raise UserError(
            f"ckpt={path}: no such file; a run's last checkpoint lies in <run folder>/checkpoints/last.ckpt"
        )
    folder = path.resolve().parent.parent
    before = folder / ".hydra" / "overrides.yaml"
    if not before.is_file():
        raise UserError(f"ckpt={path}: to go on, the checkpoint must lie in its run folder ({before} is missing)")
    typed = [a for a in OmegaConf.to_object(OmegaConf.load(before)) if not a.startswith(("ckpt=", "hydra."))]
    return [*typed, f"hydra.run.dir='{folder}'", *arguments]


def check_free(arguments: list[str]) -> None:
    """Another run in hydra.run.dir is refused here: later, Hydra has written over the .hydra that it goes on by."""
    evaluating = Path(sys.argv[0]).stem == "evaluate"
    given = [argument.partition("=")[2].strip("'\"") for argument in arguments if argument.startswith("hydra.run.dir=")]
    goes_on = any(argument.startswith("ckpt=") and argument != "ckpt=null" for argument in arguments) and not evaluating
    if given and not goes_on and (last := Path(given[-1]) / "checkpoints" / "last.ckpt").exists():
        raise UserError(
            f"{given[-1]} holds a run already: give another hydra.run.dir"
            + ("" if evaluating else f", or go on with it by ckpt={last}")
        )


def _sentence(error: BaseException) -> str:
    """Hydra's and OmegaConf's refusals in one sentence, with the nearest right word."""
    if isinstance(error, OverrideParseException):
        return (
            f"{error.override}: cannot be read as key=value; a value with special characters needs quotes: 'key=\"…\"'"
        )
    text = " ".join(f"{error}\n{error.__cause__ or ''}".split())
    if found := re.search(r"Could not find '([^']+)' Available options in '([^']+)': (.+)", text):
        wrong, group, options = found[1].split("/")[-1], found[2], found[3].split(" Config search path")[0].split()
        return f"{group}={wrong}: no such option{nearest(wrong, options)}; options: {', '.join(options)}"
    if found := re.search(r"Could not override '([^']+)'.*?(?:Key '([^']+)' (?:is )?not in )", text):
        return (
            f"{found[1]}: no such config key{_near_key(found[1])}; python {Path(sys.argv[0]).name} --cfg job lists them"
        )
    if found := re.search(
        r"(?:Error merging override|Could not override) '?([^ ']+)'?.*?(Value .+?)(?: full_key|$)", text
    ):
        return f"{found[1]}: {found[2]}"
    if found := re.search(r"Key '([^']+)' not in '(\w+)'", text):
        return (
            f"{found[1]}: no such config key{_near_key(found[1])}; python {Path(sys.argv[0]).name} --cfg job lists them"
        )
    return text.split(" full_key:")[0].split(" See https")[0].strip()


def _near_key(key: str) -> str:
    """The nearest key beside the first wrong part, found in the config of the groups that were chosen."""
    from hydra import compose, initialize_config_dir

    script = Path(sys.argv[0])
    parts = key.lstrip("+~").split(".")
    chosen = [a for a in sys.argv[1:] if re.fullmatch(r"[a-z]+=[\w-]+", a) and a.split("=")[0] != parts[-1]]
    try:
        with initialize_config_dir(str(script.resolve().parent / "conf"), version_base="1.3"):
            node = compose(script.stem, chosen)
            while parts[0] in node:
                node = node[parts.pop(0)]
            return nearest(parts[0], list(node))
    except (HydraException, OmegaConfBaseException, TypeError, IndexError):
        return ""
