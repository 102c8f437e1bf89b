"""Mistakes of a user: one sentence that names the file, the key and the nearest right word; exit status 2; no trace."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
from conftest import some_counts, some_obs, write_h5ad
from runs import ended, inside, start

from stormcell.check import check_calls
from stormcell.config import DataConfig, UserError
from stormcell.data.cells import read

FILE = ("data=h5ad", "data.path=cells.h5ad", "datamodule.batch_size=32")


@pytest.fixture
def here(tmp_path):
    """A working folder with a small file in it."""
    write_h5ad(tmp_path / "cells.h5ad", some_counts(300, 8), some_obs(300))
    return tmp_path


def check_refusal(done, folder: Path, *words: str) -> None:
    """Exit status 2, one sentence with these words, nothing on the screen, and nothing new in the folder."""
    assert done.code == 2, (done.out, done.err)
    assert done.err.startswith("stormcell: ")
    assert done.err.count("\n") == 1
    assert done.err.endswith("\n")
    assert "Traceback" not in done.err
    assert done.out == ""
    for word in words:
        assert word in done.err
    assert [file.name for file in folder.rglob("*")] == ["cells.h5ad"]


# ---- in processes of their own


@pytest.mark.parametrize(
    ("script", "arguments", "words"),
    [
        ("train.py", ["modle=cvae"], ["modle: no such config key (did you mean 'model'?)"]),
        ("train.py", ["model.optimizer.lr=abc"], ["model.optimizer.lr='abc': a number"]),
        (
            "train.py",
            [*FILE, "data.control=ctrl"],
            ["cells.h5ad: ", "'ctrl' (data.control)", "(did you mean 'control'?)"],
        ),
        ("evaluate.py", ["ckpt=runs/best.ckpt"], ["ckpt=runs/best.ckpt: no such file"]),
    ],
)
def test_a_process_ends_with_one_sentence(here, script, arguments, words):
    check_refusal(ended(start(script, *arguments, cwd=here)), here, *words)


def test_a_run_folder_that_was_asked_for_is_not_left_behind(here):
    arguments = [*FILE, "datamodule.batch_size=4000", "hydra.run.dir=results/first"]
    check_refusal(inside("train.py", *arguments, cwd=here), here, "than a batch of datamodule.batch_size=4000")


# ---- the command line, in this process


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        # keys and groups
        (["trainr.max_steps=5"], ["trainr.max_steps: no such config key (did you mean 'trainer'?)"]),
        (["data.pth=x"], ["data.pth: no such config key (did you mean 'path'?)"]),
        (["data.qc.min_count=5"], ["data.qc.min_count: no such config key (did you mean 'min_counts'?)"]),
        (["model.latnt=3"], ["model.latnt: no such config key (did you mean 'latent'?)"]),
        (
            ["model=cvea"],
            ["model=cvea: no such option (did you mean 'cvae'?); options: baseline, bilinear, contrastive, cvae"],
        ),
        (["data=normann"], ["data=normann: no such option (did you mean 'norman'?); options: "]),
        (["split=cell"], ["split=cell: no such option (did you mean 'cells'?)"]),
        (["data.path='a"], ["data.path='a: cannot be read as key=value"]),
        # types and arguments
        (["seed=abc"], ["seed=abc: Value 'abc'", "Integer"]),
        (["data.qc.min_counts=many"], ["data.qc.min_counts=many: Value 'many'", "Integer"]),
        (["trainer.max_steps=abc"], ["trainer.max_steps='abc': a whole number"]),
        (["model.hidden=64"], ["model.hidden=64: a list, each item a whole number expected"]),
        (["model.mode=C"], ["model.mode='C': A or B expected"]),
        (["model.sigma=cell"], ["model.sigma='cell': gene or shared expected"]),
        (["split.validation=a_tenth"], ["split.validation='a_tenth': a number expected"]),
        (["datamodule.paired=3"], ["datamodule.paired=3: true or false expected"]),
        (["+model.latnt=3"], ["model.latnt: CVAE has no such argument (did you mean 'latent'?)"]),
        (["+model.optimizer.weight_decy=1"], ["AdamW has no such argument (did you mean 'weight_decay'?)"]),
        (["+split.test_cell=0.1"], ["split.test_cell: ", "no such argument (did you mean 'test_cells'?)"]),
        (
            ["model.optimizer._target_=torch.optim.Adem"],
            ["model.optimizer._target_=torch.optim.Adem: cannot be imported"],
        ),
        # what is missing
        (["ckpt=last.ckpt"], ["ckpt=last.ckpt: no such file"]),
        (["data=h5ad"], ["data.path is missing: data.path=FILE.h5ad"]),
        (["data=h5ad", "data.path=cell.h5ad"], ["data.path=cell.h5ad: no such file", "(did you mean 'cells.h5ad'?)"]),
        (["split=covariate", *FILE], ["split.value is missing: give it with split.value=…"]),
        (["split=file", *FILE], ["split.path is missing: give it"]),
        # data and split
        (["data=krumsiek11"], ["krumsiek11: ", "needs control and perturbed cells, but data.perturbation_key is null"]),
        ([*FILE, "data.perturbation_key=pertubation"], ["cells.h5ad: ", "(did you mean 'perturbation'?)"]),
        ([*FILE, "data.scale=log1p"], ["cells.h5ad, X: ", "look like counts", "data.scale=counts"]),
        ([*FILE, "split.min_cells=101"], ["cells.h5ad: perturbation 'A' has 100 cells", "split.min_cells=101"]),
        ([*FILE, "split.test_cells=2"], ["split.test_cells=2: a share between 0 and 1"]),
        ([*FILE, "split=combinations", "data.separator=_"], ["cells.h5ad: ", "data.separator"]),
        (["seed=-1"], ["seed=-1: a whole number from 0 to"]),
        (["embedding=tsne"], ["embedding=tsne: pca or umap expected"]),
        (["objective_mode=maxi"], ["objective_mode=maxi: max or min expected (did you mean 'max'?)"]),
        ([*FILE, "split.validation=0"], ["cells.h5ad: the split leaves fewer than two validation cells"]),
        (
            ["trainer.max_steps=-1", "trainer.max_epochs=2"],
            ["model.scheduler.T_max=-1: ", "give trainer.max_steps, or model.scheduler=null"],
        ),
        ([*FILE, "datamodule.batch_size=0"], ["datamodule.batch_size=0: at least one cell"]),
        ([*FILE, "data.genes.top=5", "data.genes.flavor=seurat"], ["data.genes.flavor=seurat", "data.scale=counts"]),
    ],
    ids=lambda value: value[-1] if value and "=" in value[-1] else "",
)
def test_a_wrong_command_line_is_answered_with_one_sentence(here, arguments, words):
    check_refusal(inside("train.py", *arguments, cwd=here), here, *words)


def test_a_folder_with_files_of_the_user_is_left_as_it_was(here):
    """Only what Hydra wrote goes when a run is refused; a log of the user's own is not Hydra's."""
    (here / "mine").mkdir()
    (here / "mine" / "measurements.log").write_text("precious")
    done = inside("train.py", *FILE, "data.control=ctrl", "hydra.run.dir=mine", cwd=here)
    assert done.code == 2
    assert (here / "mine" / "measurements.log").read_text() == "precious"


# ---- files, without the command line


def refusal(path, **keys):
    with pytest.raises(UserError) as found:
        read(DataConfig(name="test", path=str(path), **keys))
    sentence = str(found.value)
    assert "\n" not in sentence
    assert Path(path).name in sentence
    return sentence


def test_damaged_files(here):
    whole = (here / "cells.h5ad").read_bytes()
    for name, content in {
        "half.h5ad": whole[: len(whole) // 2],
        "start.h5ad": whole[:100],
        "empty.h5ad": b"",
        "page.h5ad": b"<html>404 Not Found</html>",
    }.items():
        (here / name).write_bytes(content)
        assert "truncated, or not an .h5ad file" in refusal(here / name)


def test_files_of_another_kind(here):
    import h5py

    with h5py.File(here / "other.h5ad", "w") as file:
        file["matrix"] = np.zeros(3)
    assert "without obs and var: not an AnnData .h5ad" in refusal(here / "other.h5ad")
    (here / "folder.h5ad").mkdir()
    assert "no such file" in refusal(here / "folder.h5ad")


def test_no_perturbed_cells(here):
    obs = some_obs(60).assign(perturbation="control")
    write_h5ad(here / "controls.h5ad", some_counts(60, 8), obs)
    (here / "cells.h5ad").unlink()
    (here / "controls.h5ad").rename(here / "cells.h5ad")
    check_refusal(inside("train.py", *FILE, cwd=here), here, "cells.h5ad: no perturbed cells, every cell is 'control'")


@pytest.mark.parametrize(
    ("change", "keys", "words"),
    [
        (lambda x: np.where(x == x.max(), np.nan, x), {}, "values are NaN or infinite"),
        (lambda x: np.where(x == x.max(), np.inf, x), {"scale": "log1p"}, "values are NaN or infinite"),
        (lambda x: x - 1, {}, "the lowest value is -1, so these are not counts (data.scale=counts)"),
        (lambda x: x / 2, {}, "are not integers, so these are not counts (data.scale=counts)"),
        (lambda x: x, {"scale": "log1p"}, "look like counts, not log1p (data.scale=log1p); use data.scale=counts"),
        (lambda x: x, {"library_key": "short"}, "smaller than the counts in the file"),
        (lambda x: x, {"library_key": "shor"}, "no obs column 'shor' (data.library_key) (did you mean 'short'?)"),
        (lambda x: x, {"batch_key": "bach"}, "no obs column 'bach' (data.batch_key) (did you mean 'batch'?)"),
        (lambda x: x, {"batch_key": 5}, "no obs column '5' (data.batch_key)"),
        (lambda x: x, {"layer": "count"}, "no layer 'count' (data.layer); it has X"),
        (
            lambda x: np.log1p(x),
            {"scale": "log1p", "recover_counts": True},
            "every library size would be a multiple of",
        ),
    ],
)
def test_values_and_columns(tmp_path, change, keys, words):
    counts, obs = some_counts(60, 8), some_obs(60).assign(short=1)
    assert words in refusal(write_h5ad(tmp_path / "cells.h5ad", change(counts), obs), **keys)


def test_cells_without_counts_are_dropped_and_told(tmp_path):
    counts = some_counts(60, 8)
    counts[[3, 9, 40]] = 0
    cells = read(DataConfig(name="test", path=str(write_h5ad(tmp_path / "cells.h5ad", counts))))
    assert len(cells) == 57
    assert cells.notes == ["3 cells without counts dropped"]


# ---- arguments against signatures


def test_every_call_of_a_config_is_checked():
    model = {
        "_target_": "stormcell.models.cvae.CVAE",
        "_partial_": True,
        "latent": 8,
        "hidden": [64, 64],
        "match": None,
    }
    wrong = partial(pytest.raises, UserError)
    check_calls({"model": model})
    check_calls({"model": {**model, "optimizer": {"_target_": "torch.optim.SGD", "_partial_": True, "lr": 1}}})
    with wrong(match=r"^model.hidden=\[64, 'x'\]: a list, each item a whole number expected$"):
        check_calls({"model": {**model, "hidden": [64, "x"]}})
    with wrong(match=r"^model.latent=8.5: a whole number expected$"):
        check_calls({"model": {**model, "latent": 8.5}})
    with wrong(match=r"^model.latent=True: a whole number expected$"):
        check_calls({"model": {**model, "latent": True}})
    with wrong(match=r"^callbacks\[0\].patience='long': a whole number expected$"):
        stop = {"_target_": "pytorch_lightning.callbacks.EarlyStopping", "monitor": "x", "patience": "long"}
        check_calls({"callbacks": [stop]})
    with wrong(match=r"^model._target_=stormcell.models.cvea.CVAE: cannot be imported"):
        check_calls({"model": {"_target_": "stormcell.models.cvea.CVAE"}})
