"""What the contrastive model refuses, in one sentence with exit status 2, and what it takes although it looks odd."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from contrastive_world import begun, fit, module, screen
from runs import inside

from stormcell.config import UserError
from stormcell.models.contrastive import _WORDS, Contrastive, Weights
from stormcell.models.decoding import latents

FILE = (
    "model=contrastive", "data=h5ad", "data.path=cells.h5ad", "data.batch_key=batch", "datamodule.batch_size=32",
    "data.library_key=total_counts", "split.min_cells=1", "model.hidden=[16]", "embedding=pca",
    "trainer.max_steps=3",
)  # fmt: skip


@pytest.fixture
def here(tmp_path):
    screen(tmp_path / "cells.h5ad")
    return tmp_path


def changed(folder, change, name="cells.h5ad"):
    file = ad.read_h5ad(folder / "cells.h5ad")
    file = change(file) or file
    file.write_h5ad(folder / name)


def check_refusal(done, folder, *words, left=("cells.h5ad",)):
    """Exit status 2, one sentence with these words, nothing on the screen, nothing new in the folder."""
    assert done.code == 2, (done.out, done.err)
    assert done.err.startswith("stormcell: ") and done.err.count("\n") == 1 and done.err.endswith("\n")
    for word in words:
        assert word in done.err
    assert done.out == ""
    assert sorted(file.name for file in folder.rglob("*")) == sorted(left)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["data.control=ctrl"], ["cells.h5ad: ", "'ctrl' (data.control)", "'control'", "labels: ", "A, B, C"]),
        (["data.perturbations=[control]"], ["data.perturbations", "control"]),
        (["data.perturbations=[A,control]"], ["data.perturbations", "control"]),
        (["data.perturbations=[a]"], ["data.perturbations", "did you mean 'A'"]),
        (["data.scale=log1p"], ["cells.h5ad, X: ", "look like counts", "data.scale=counts"]),
        (["data.covariate_keys=[kind]"], ["cells.h5ad: ", "'kind' (data.covariate_keys) is x in every training cell"]),
        (["data.continuous_covariate_keys=[zero]"], ["cells.h5ad: ", "'zero' (data.continuous_covariate_keys) is 0"]),
        (["data.covariate_keys=[lin]"], ["cells.h5ad: ", "'lin' (data.covariate_keys)", "did you mean 'line'"]),
        (["data.covariate_keys=[plate]", "model.nuisance=condition"], ["cells.h5ad: model.nuisance=condition"]),
        (["model.nuisance=is_control"], ["cells.h5ad: model.nuisance=is_control tells control from perturbed"]),
        (
            ["data.covariate_keys=[guide]", "model.nuisance=guide"],
            ["cells.h5ad: model.nuisance=guide tells the perturbations apart by itself"],
        ),
        (
            ["data.covariate_keys=[plate]", "model.nuisance=plate"],
            ["cells.h5ad: model.nuisance=plate tells the perturbations apart by itself"],
        ),
        (["model.nuisance=bach"], ["cells.h5ad: model.nuisance=bach (did you mean 'batch'?)", "data.covariate_keys"]),
        (["datamodule.batch_size=33"], ["datamodule.batch_size=33 is odd", "take 34"]),
        (["model.n_salient=0"], ["model.n_salient"]),
        (["model.hidden=[]"], ["model.hidden"]),
        (["model.dropout=1"], ["model.dropout=1"]),
        (["model.weights.classifer=1"], ["model.weights.classifer: ", "did you mean 'classifier'"]),
        (["model.weights.w2=high"], ["model.weights.w2='high': a number expected"]),
        (["model.gene_sets=sets.gmt"], ["model.gene_sets=sets.gmt: no such file"]),
        (["model.gene_sets=cells.h5ad"], ["cells.h5ad"]),
        (["model.phenotypes={first:[A,b]}"], ["cells.h5ad: model.phenotypes.first: ", "'b' (did you mean 'B'?)"]),
        (["objective=val/prob"], ["objective=val/prob (did you mean 'val/probe'?)"]),
    ],
    ids=lambda value: value[-1] if value and "=" in value[-1] else "",
)
def test_a_mistake_is_answered_with_one_sentence(here, arguments, words):
    def more(file):
        labels = file.obs["perturbation"].to_numpy(str)
        plate = np.where(labels == "control", np.resize(["A", "B", "C"], len(labels)), labels)
        file.obs = file.obs.assign(kind="x", zero=0.0, guide=[f"{label}-g1" for label in labels], plate=plate)

    changed(here, more)
    check_refusal(inside("train.py", *FILE, *arguments, cwd=here), here, *words)


NEAR = {
    "likelihood": "zero_inflated_negativ_binomial", "dispersion": "gene-batsch", "library": "infered",
    "norm": "leyer", "activation": "relus", "encoder_input": "count", "salient_encoder": "code",
    "background_term": "advesary",
}  # fmt: skip


def test_every_word_key_has_a_wrong_word_here():
    assert set(NEAR) == set(_WORDS)


@pytest.mark.parametrize("key", NEAR)
def test_a_word_that_is_not_known_is_answered_with_the_nearest(here, key):
    done = inside("train.py", *FILE, f"model.{key}={NEAR[key]}", cwd=here)
    check_refusal(done, here, f"model.{key}={NEAR[key]} (did you mean '", *_WORDS[key])


def test_log_normalised_values_are_refused_with_the_way_out(here):
    """Also where data.scale says so truly."""
    changed(here, lambda file: setattr(file, "X", np.log1p(file.X.toarray() / 7)))
    check_refusal(inside("train.py", *FILE, cwd=here), here, "cells.h5ad, X: ", "not integers", "data.scale=counts")
    done = inside("train.py", *FILE, "data.scale=log1p", cwd=here)
    check_refusal(done, here, "model=contrastive", "count likelihood", "data.scale=log1p", "data.layer")


def test_a_perturbation_that_is_named_control_too_overlaps_and_is_refused(here):
    """data.control as a list: both labels are controls then, and neither can be asked for as a perturbation."""
    done = inside("train.py", *FILE, "data.control=[control,A]", "data.perturbations=[A]", cwd=here)
    check_refusal(done, here, "data.perturbations", "A")


def test_a_nuisance_that_several_perturbations_share_is_taken(here):
    data = module(here / "cells.h5ad", covariate_keys=["line"])
    for nuisance in ("line", "batch", "library"):
        model = begun(data, nuisance=nuisance)
        assert len(model._nuisance) == len(data.cells)


@pytest.mark.parametrize("number", [lambda label: float(ord(label[0])), lambda label: float(label != "control")])
def test_a_number_that_stands_for_the_perturbation_is_refused_as_a_nuisance(here, number):
    changed(here, lambda file: file.obs.__setitem__("guide", [number(label) for label in file.obs["perturbation"]]))
    data = module(here / "cells.h5ad", continuous_covariate_keys=["guide"])
    with pytest.raises(UserError, match="has one value in each perturbation"):
        begun(data, nuisance="guide")


@pytest.mark.parametrize(("words", "told"), [({"nuisance": "batch"}, 1), ({"weights": Weights(leak=1.0)}, 1), ({}, 0)])
def test_a_nuisance_without_a_weight_or_a_weight_without_a_nuisance_is_told(here, words, told):
    data = module(here / "cells.h5ad")
    notes = begun(data, **words).notes(data)
    assert len([note for note in notes if "model.weights.leak" in note]) == told


def test_with_one_perturbation_any_nuisance_of_both_kinds_of_cells_is_taken(tmp_path):
    data = module(screen(tmp_path / "cells.h5ad", n_perturbed=(90,)))
    assert begun(data, nuisance="batch")._nuisance.shape == (210, 3)
    with pytest.raises(UserError, match="tells control from perturbed cells by itself"):
        begun(data, nuisance="condition")


# ---- at evaluation


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run with a batch, a category and a number as covariates."""
    home = tmp_path_factory.mktemp("trained")
    screen(home / "cells.h5ad")
    keys = ("data.covariate_keys=[line]", "data.continuous_covariate_keys=[dose]", "hydra.run.dir=run")
    done = inside("train.py", *FILE, *keys, cwd=home)
    assert done.code == 0, done.err
    return home


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda obs: obs.replace({"line": {"K562": "K563"}}), ["line='K563'", "did you mean 'K562'"]),
        (lambda obs: obs.replace({"batch": {"b3": "b4"}}), ["batch='b4' (data.batch_key)", "known: b1, b2, b3"]),
        (lambda obs: obs.drop(columns="dose"), ["no obs column 'dose' (data.continuous_covariate_keys)"]),
        (lambda obs: obs.assign(perturbation="A"), ["'control' (data.control)", "labels: A"]),
    ],
)
def test_covariates_that_training_has_not_seen_are_refused_at_evaluation(trained, tmp_path, change, words):
    file = ad.read_h5ad(trained / "cells.h5ad")
    file.obs = change(file.obs.astype(dict.fromkeys(("line", "batch", "perturbation"), object)))
    file.write_h5ad(tmp_path / "other.h5ad")
    arguments = (f"ckpt={trained}/run/checkpoints/best.ckpt", "data.path=other.h5ad", "hydra.run.dir=again")
    done = inside("evaluate.py", *arguments, cwd=tmp_path)
    check_refusal(done, tmp_path, "other.h5ad: ", *words, left=["other.h5ad"])


# ---- odd, but taken


def test_one_perturbed_cell_of_a_group_and_cells_without_counts(here):
    """The group keeps its cell in training; empty cells are left out, and the report says how many."""

    def odd(file):
        labels = file.obs["perturbation"].to_numpy(str).astype(object)
        labels[np.flatnonzero(labels == "A")[0]] = "alone"
        file.obs["perturbation"] = labels
        counts = file.X.toarray()
        counts[np.flatnonzero(labels == "control")[:3]] = 0
        file.X = counts

    changed(here, odd)
    data = module(here / "cells.h5ad")
    assert "alone" in data.spec.conditions and len(data.cells) == 297
    model = begun(data)
    fit(model, data, 5)
    found = latents(model.eval(), data, np.arange(297))
    assert all(np.isfinite(part).all() for part in found)
    done = inside("train.py", *FILE, "hydra.run.dir=run", cwd=here)
    assert done.code == 0, done.err
    assert "3 cells without counts dropped" in " ".join(done.out.split())
    tables = here / "run" / "tables"
    split = pd.read_csv(tables / "split.csv")
    assert list(split.loc[split["condition"] == "alone", "part"]) == ["train"]
    assert "alone" not in set(pd.read_csv(tables / "cells.csv")["condition"])


def test_a_wrong_word_is_refused_without_the_command_line_too(here):
    data = module(here / "cells.h5ad")
    with pytest.raises(UserError, match=r"^model.norm=leyer \(did you mean 'layer'\?\): layer, batch are known$"):
        Contrastive(data.spec, None, norm="leyer")
