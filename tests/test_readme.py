"""Every command of README.md that begins with `python` runs, shortened where it trains.

What a command needs is said in its comment. These can be had here: `# needs real cells` (the files in $STORMCELL_DATA),
`# needs my.h5ad` (a file with the columns that the command names) and `# needs a run` (the folder of a short run). A
command that needs anything else (network, a GPU) is not run.
"""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import runs

pytestmark = pytest.mark.xdist_group("runs")

README = (runs.ROOT / "README.md").read_text()
AT_HAND = ("real cells", "my.h5ad", "a run")


def commands(text):
    """(words, environment, comment) of every line of a bash fence, or part of one after &&, that starts Python."""
    found = []
    for block in re.findall(r"^```bash\n(.*?)^```", text, re.M | re.S):
        for line in block.replace("\\\n", " ").splitlines():
            line, _, comment = line.partition(" #")
            for part in line.removeprefix("$ ").split("&&"):
                words = shlex.split(part)
                given = [word for word in words if re.fullmatch(r"[A-Z_]+=.*", word)]
                if words[len(given) :][:1] == ["python"]:
                    found.append((tuple(words[len(given) + 1 :]), tuple(given), comment.strip()))
    return list(dict.fromkeys(found))


def need(comment):
    """What `# needs X` or `# needs X: why` names; empty where the command needs nothing."""
    return comment.removeprefix("needs ").partition(":")[0].strip() if comment.startswith("needs ") else ""


def value(words, key):
    return next((word.partition("=")[2] for word in words if word.startswith(f"{key}=")), None)


def write_cells(path, words):
    """Simulated cells in a file of the reader's own, under the names and on the scale that the command says."""
    import anndata as ad
    import numpy as np
    import pandas as pd
    from scipy.sparse import diags

    from stormcell.data.simulate import simulate

    made = simulate(n_cells=1200, n_genes=200, n_singles=6, n_pairs=3, n_interacting=1, seed=2)
    key, control = value(words, "data.perturbation_key") or "perturbation", value(words, "data.control") or "control"
    obs = made.obs.rename(columns={"perturbation": key})
    obs[key] = obs[key].astype(str).replace("control", control)
    X = made.counts
    if value(words, "data.scale") == "log1p":
        X = (diags(1e4 / np.maximum(np.asarray(X.sum(1)).ravel(), 1)) @ X).log1p().tocsr().astype(np.float32)
    ad.AnnData(X, obs=obs, var=pd.DataFrame(index=made.genes)).write_h5ad(path)


def with_a_run(words, base, cwd):
    """The placeholder checkpoint (outputs/…/best.ckpt) replaced by one that exists."""
    ckpt = value(words, "ckpt")
    if ckpt is None or Path(ckpt).is_file():
        return words
    folder = runs.short(base)
    if words[0] == "train.py":  # it goes on in the folder of the run: not in one that other tests read
        folder = cwd / "begun"
        assert runs.inside("train.py", *runs.SHORT, f"hydra.run.dir={folder}", cwd=cwd).code == 0
    return [word.replace(ckpt, str(folder / "checkpoints" / Path(ckpt).name)) for word in words]


def shortened(words):
    """Twenty steps more, or twenty steps, in folders below the working folder; of a benchmark its options."""
    if words[0].startswith("benchmarks/"):
        return [*words, "--help"]
    if words[0] != "train.py" or {"--help", "--cfg"} & set(words):
        return words
    if value(words, "ckpt") is not None:
        return [*words, "trainer.max_steps=80"]
    words = [*words, "hydra.sweep.dir=jobs" if "-m" in words else "hydra.run.dir=run"]
    if value(words, "data") in (None, "synthetic") and value(words, "experiment") is None:
        words += runs.CELLS
    if value(words, "sweep") == "optuna":
        words.append("hydra.sweeper.n_trials=2")
    words += ["trainer.max_steps=20", "trainer.val_check_interval=10"]
    experiment = runs.ROOT / "conf" / "experiment" / f"{value(words, 'experiment')}.yaml"
    chosen = re.search(r"override /model: (\w+)", experiment.read_text()) if experiment.is_file() else None
    return runs.quick(words, value(words, "model") or (chosen[1] if chosen else "cvae"))


def test_the_parser_finds_what_a_reader_would_type():
    text = (
        "```bash\npip install . && python train.py  # first\nA=1 python evaluate.py \\\n  ckpt=x\nls\n```\n"
        "python not.py\n```\nthe screen's words\n```\n"
        "```bash\npython train.py trainer=gpu # needs a GPU: any\n```\n"
    )
    assert commands(text) == [
        (("train.py",), (), "first"),
        (("evaluate.py", "ckpt=x"), ("A=1",), ""),
        (("train.py", "trainer=gpu"), (), "needs a GPU: any"),
    ]
    assert [need(comment) for _, _, comment in commands(text)] == ["", "", "a GPU"]


def test_the_readme_shows_how_to_train_and_to_judge_again():
    scripts = {words[0] for words, _, comment in commands(README) if need(comment) in ("", *AT_HAND)}
    assert {"train.py", "evaluate.py"} <= scripts


@pytest.mark.parametrize(
    ("words", "given", "comment"), commands(README), ids=[" ".join(words) for words, _, _ in commands(README)]
)
def test_a_command_of_the_readme_runs(words, given, comment, tmp_path, tmp_path_factory, shared_data):
    if need(comment) not in ("", *AT_HAND):
        pytest.skip(comment)
    words, more = list(words), dict(word.split("=", 1) for word in given)
    if need(comment) == "real cells" or "STORMCELL_DATA" in more:
        more["STORMCELL_DATA"] = str(shared_data("norman2019_k562_34perts.h5ad").parent)
    for word in words:
        if (name := word.rpartition("=")[2]) in ("my.h5ad", "other.h5ad"):
            write_cells(tmp_path / name, words)
    words = shortened(with_a_run(words, tmp_path_factory, tmp_path))
    if words[0] in ("train.py", "evaluate.py") and value(words, "trainer") != "ddp":
        done = runs.inside(*words, cwd=tmp_path, **more)
        assert done.code == 0, done.err
        return
    script = [str(runs.ROOT / words[0]), *words[1:]] if words[0].endswith(".py") else words
    done = subprocess.run(
        [sys.executable, *script], cwd=tmp_path, env=runs.environment(**more), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
