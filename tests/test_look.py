"""What look says of a file is true of it, and what it tells the user to type is accepted as typed."""

import re
import subprocess
import sys
from functools import cache

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT, some_counts, some_obs, write_h5ad
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.utils import instantiate
from omegaconf import OmegaConf

from stormcell.config import register
from stormcell.data import contents
from stormcell.data.cells import read
from stormcell.data.contents import conditions_of
from stormcell.data.look import command, look, main


def obs_of(labels, **columns):
    return pd.DataFrame({"guide": labels, **columns}, index=[f"cell{i:04}" for i in range(len(labels))])


def log1p_of(counts, library=None, target=1e4):
    library = counts.sum(1) if library is None else library
    return np.log1p(counts / np.asarray(library)[:, None] * target)


def said(answer, head):
    """Every line under a head."""
    return "\n".join(text for name, text in answer.lines if name == head)


def typed(keys):
    """The arguments that a shell makes of the command."""
    line = command(keys).removeprefix("python train.py")
    out = subprocess.run(["bash", "-c", f"printf '%s\\0' {line}"], capture_output=True, text=True, check=True)
    return out.stdout.split("\0")[:-1]


@cache
def composed(arguments):
    register()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("train", list(arguments))


def accepted(answer):
    """Cells and split by the command that was suggested; whatever it does not name stays as in conf."""
    assert answer.keys
    cfg = composed(tuple(typed(answer.keys)))
    cells = read(OmegaConf.to_object(cfg.data))
    return cells, instantiate(cfg.split)(cells, cfg.seed), cfg


# ---- the command is accepted


def test_counts_beside_log1p_with_totals_of_all_genes(make_h5ad):
    counts, obs = some_counts(90, 30), some_obs(90)
    obs["total_counts"] = counts.sum(1) * 3 + 7
    path = make_h5ad(log1p_of(counts, obs["total_counts"]), obs, layers={"counts": counts})
    answer = look(str(path))
    assert re.search(r"X, CSR float64.*log1p values.*come back exactly", said(answer, "values"))
    assert re.search(r"layers/counts, CSR float64, nonzero values 1 to \d+ \(all seen\).*← sug", said(answer, "values"))
    assert re.search(r"total_counts .* is more than the sum over the 30 genes here", said(answer, "library size"))
    assert said(answer, "control") == "control, 30 cells"
    cells, split, _ = accepted(answer)
    assert cells.scale == "counts"
    assert np.array_equal(cells.X.toarray(), counts)
    assert np.array_equal(cells.obs["library"], obs["total_counts"])
    assert set(cells.obs["batch"]) == {"b1", "b2"}
    assert not split.shared


def test_totals_that_miss_counts_of_a_cell_are_not_suggested(make_h5ad):
    counts, obs = some_counts(90, 8), some_obs(90)
    obs["n_counts"] = counts.sum(1) * 3
    obs.loc["cell0005", "n_counts"] = 0
    obs["nCount_RNA"] = counts.sum(1)
    answer = look(str(make_h5ad(counts, obs)))
    assert "n_counts is less or missing in some cells" in said(answer, "library size")
    assert "nCount_RNA says the same" in said(answer, "library size")
    assert "data.library_key" not in answer.keys
    accepted(answer)


@pytest.mark.parametrize(
    ("form", "change", "kind", "scale"),
    [
        *((form, lambda counts: counts, "integers, so counts", "counts") for form in ("csr", "csc", "dense")),
        ("csr", log1p_of, "integer counts come back exactly", "counts"),  # by data.recover_counts
        ("dense", lambda counts: np.log1p(counts * 0.37), "integer counts do not come back", "log1p"),
        ("dense", lambda counts: counts - 1.3, "negatives among them", "continuous"),
        ("csc", lambda counts: counts * 1000.5, "too large for log1p", "continuous"),
    ],
)
def test_every_scale_in_every_form(make_h5ad, form, change, kind, scale):
    counts = some_counts(90, 30)
    answer = look(str(make_h5ad(change(counts), some_obs(90), form=form)))
    assert kind in said(answer, "values")
    assert f"X, {'dense' if form == 'dense' else form.upper()} float64" in said(answer, "values")
    cells, _, _ = accepted(answer)
    assert cells.scale == scale
    assert np.allclose(cells.X.toarray(), counts if scale == "counts" else change(counts), rtol=1e-5)


def test_the_most_useful_layer_is_named(make_h5ad):
    counts, half = some_counts(90, 8), some_counts(90, 6, seed=1)
    scaled, genes = counts - 0.5, [f"MT-{i}" for i in range(3)] + ["a", "b", "c"]
    answer = look(str(make_h5ad(scaled, some_obs(90), layers={"spliced": counts}, raw=(half, genes))))
    assert answer.keys["data.layer"] == "raw"
    assert "3 mitochondrial (mt-), 50.0% of the genes" in said(answer, "genes")
    cells, _, _ = accepted(answer)
    assert cells.genes == genes
    answer = look(str(make_h5ad(scaled, some_obs(90), layers={"counts": counts * 0.9, "umis": counts})))
    assert answer.keys["data.layer"] == "layers/umis"
    assert np.array_equal(accepted(answer)[0].X.toarray(), counts)


def test_values_that_no_scale_takes(make_h5ad, capsys):
    counts = some_counts(90, 8)
    counts[3, 3] = np.nan
    path = make_h5ad(counts, some_obs(90))
    answer = look(str(path))
    assert "NaN or infinite" in said(answer, "values")
    assert answer.keys == {}
    main([str(path)])
    assert "python train.py" not in capsys.readouterr().out
    answer = look(str(make_h5ad(counts, some_obs(90), layers={"ok": some_counts(90, 8)})))
    assert answer.keys["data.layer"] == "layers/ok"
    accepted(answer)


@pytest.mark.parametrize("form", ["dense", "csr"])
def test_a_large_file_is_seen_by_evenly_spaced_cells(make_h5ad, monkeypatch, form):
    monkeypatch.setattr(contents, "_MANY", 100)
    monkeypatch.setattr(contents, "_ROWS", 20)
    counts, obs = some_counts(90, 8), some_obs(90)
    obs["total_counts"] = counts.sum(1) + np.arange(90)
    answer = look(str(make_h5ad(counts, obs, form=form)))
    assert "(23 evenly spaced cells seen): integers" in said(answer, "values")
    seen = slice(None, None, 4)
    medians = np.median(obs["total_counts"][seen]), np.median(counts.sum(1)[seen])
    assert "(median {:,.0f}) is more than the sum over the 8 genes here (median {:,.0f})".format(*medians) in said(
        answer, "library size"
    )
    accepted(answer)


@pytest.mark.parametrize("control", ["non-targeting", "no guide", "1", "nan"])
def test_words_that_shell_or_hydra_would_take_for_something_else(tmp_path, monkeypatch, control):
    """`1` and `nan` are not controls by their looks: they come in as the user's own choice."""
    monkeypatch.chdir(tmp_path)
    names = np.array([control, "A", "A;B", "B"])[np.arange(160) % 4]
    obs = obs_of(names, **{"gem group's": np.array(["1", "null"])[np.arange(160) // 4 % 2]})
    obs = obs.rename(columns={"guide": 'guide "x" (1)'})
    write_h5ad(tmp_path / "my data=1, $HOME.h5ad", some_counts(160, 8), obs)
    answer = look("my data=1, $HOME.h5ad")
    if control in ("1", "nan"):
        answer.keys |= {"data.control": control, "data.separator": ";"}
    cells, split, cfg = accepted(answer)
    assert cfg.data.control == control
    assert cells.obs["is_control"].sum() == 40
    assert set(cells.obs["condition"]) == {control, "A", "A+B", "B"}
    assert set(cells.obs["batch"]) == {"1", "null"}
    if control not in ("1", "nan"):
        assert split.groups["A+B"] == "pairs, 2 of 2 singles seen"


NAMES = [
    "a b", " a ", "", "a'b", 'a"b', "a\\", 'a\\"', "a\\b", "${seed}", "$(x)", "!x", "a*", "a#b", "~a", "~/x", "../x",
    "/x", "a,b", "[a]", "{a}", "a:b", "a=b", ".5", "-3", "1_0", "True", "null", "inf", "é", "63(mod)_pBA580", "A+B",
    "x/y.h5ad",
]  # fmt: skip


def test_every_name_survives_shell_and_hydra():
    keys = {f"data.key{i}": name for i, name in enumerate(NAMES)} | {
        "data.none": None,
        "data.yes": True,
        "data.all": list(NAMES),
    }
    parsed = OverridesParser.create().parse_overrides(typed(keys))
    read_back = OmegaConf.create({override.key_or_group: override.value() for override in parsed})
    assert OmegaConf.to_container(read_back, resolve=True) == keys


# ---- perturbations


@pytest.mark.parametrize(
    ("labels", "separator", "pairs"),
    [
        (["ctrl", "A+ctrl", "B+ctrl", "A+B", "C+D"], "+", ["A+B"]),
        (["NT", "A", "B", "B_A", "A_C"], "_", ["A+B"]),
        (["NT", "A", "B", "A:B"], ":", ["A+B"]),
        (["NT", "STAT1_g1", "STAT1_g2", "JAK2_g1"], None, []),
        (["non_targeting", "A", "non"], None, []),
        (["NT", "A+B", "C+D"], None, []),
    ],
)
def test_combinations_only_where_the_parts_also_occur_alone(make_h5ad, labels, separator, pairs):
    obs = obs_of(np.array(labels)[np.arange(40 * len(labels)) % len(labels)])
    found = conditions_of(obs)
    assert (found.separator, found.pairs, found.control) == (separator, pairs, labels[0])
    answer = look(str(make_h5ad(some_counts(len(obs), 8), obs)))
    assert answer.keys["split"] == ("pairs_and_cells" if pairs else "cells")
    cells, _, _ = accepted(answer)
    counted = cells.obs["condition"][~cells.obs["is_control"]].value_counts()
    assert counted.to_dict() == found.sizes.to_dict()


@pytest.mark.parametrize(
    "label", ["control", "CTRL", "NT", "NTC", "NTg3", "sgNT", "Non-Targeting", "non_targeting", "negCtrl", "neg_ctrl_2",
              "DMSO", "DMSO_24h", "untreated", "Unstimulated", "WT", "wild-type", "vehicle", "safe-targeting", "AAVS1"],
)  # fmt: skip
def test_labels_that_look_like_controls(label):
    found = conditions_of(obs_of(np.array([label, "GATA1", "KLF1"])[np.arange(90) % 3]))
    assert found.control == label
    assert list(found.sizes) == [30, 30]


@pytest.mark.parametrize("label", ["WT1", "NTRK1", "NT5E", "CTLA4", "CTRB1", "MOCS1", "STAT1"])
def test_genes_that_do_not(label):
    assert conditions_of(obs_of(np.array([label, "GATA1", "KLF1"])[np.arange(90) % 3])).control is None


def test_several_controls_are_read_as_one(make_h5ad):
    obs = obs_of(np.array(["NT1", "non-targeting 2", "non-targeting 2", "A", "B;NT1", "A;B"])[np.arange(240) % 6])
    answer = look(str(make_h5ad(some_counts(240, 8), obs)))
    assert said(answer, "control") == "non-targeting 2, NT1, 120 cells; all are read as one control"
    cells, _, cfg = accepted(answer)
    assert list(cfg.data.control) == ["non-targeting 2", "NT1"]
    assert cells.obs["condition"].value_counts().to_dict() == {"non-targeting 2": 120, "A": 40, "B": 40, "A+B": 40}


def test_the_column_with_a_control_and_the_plainer_name_is_taken(make_h5ad):
    of = np.arange(90) % 3
    obs = obs_of(np.array(["NTg1", "Ag1", "Bg1"])[of], perturbation=np.array(["control", "A", "B"])[of])
    obs["condition"] = np.array(["day 1", "day 2"])[np.arange(90) % 2]
    obs["passed"] = of > 0
    answer = look(str(make_h5ad(some_counts(90, 8), obs)))
    assert answer.keys["data.perturbation_key"] == "perturbation"
    assert "guide could serve too" in said(answer, "perturbation")
    assert said(answer, "filter") == "60 cells are passed: data.filter=passed keeps only these"
    accepted(answer)


def test_no_label_looks_like_a_control(make_h5ad, capsys):
    obs = obs_of(np.array(["GATA1", "KLF1", "empty"])[np.arange(90) % 3])
    path = make_h5ad(some_counts(90, 8), obs)
    answer = look(str(path))
    assert re.search(r"no label looks like one.*LABEL \((\w+, ){2}\w+\)", said(answer, "control"))
    accepted_with = {**answer.keys, "data.control": "empty"}
    assert read(OmegaConf.to_object(composed(tuple(typed(accepted_with))).data)).obs["is_control"].sum() == 30
    main([str(path)])
    assert "data.control=LABEL" in capsys.readouterr().out


def test_a_model_of_counts_needs_counts(make_h5ad, tmp_path, monkeypatch):
    monkeypatch.setattr("stormcell.data.look._MODELS", tmp_path)
    (tmp_path / "contrastive.yaml").touch()
    counts, obs = some_counts(90, 8), some_obs(90)
    assert said(look(str(make_h5ad(counts, obs))), "models").startswith("contrastive can run: it needs counts of")
    answer = look(str(make_h5ad(np.log1p(counts) * 0.7, obs)))
    assert said(answer, "models").startswith("contrastive cannot run: it needs counts of control and perturbed cells")
    assert answer.keys == {}


def test_no_perturbation_column(make_h5ad, tmp_path, monkeypatch):
    obs = some_obs(90).assign(perturbation="control", leiden=[str(i % 4) for i in range(90)], dpt_pseudotime=0.5)
    obs["dpt_pseudotime"] *= np.arange(90)
    path = str(make_h5ad(some_counts(90, 8), obs))
    monkeypatch.setattr("stormcell.data.look._MODELS", tmp_path)
    (tmp_path / "cvae.yaml").touch()
    answer = look(path)
    assert "in perturbation every cell is 'control'" in said(answer, "perturbation")
    assert said(answer, "models") == "cvae cannot run: it needs control and perturbed cells"
    assert "data.perturbation_key=null data.batch_key=batch data.cluster_key=leiden" in said(answer, "still good for")
    assert answer.keys == {}
    (tmp_path / "transition.yaml").touch()
    answer = look(path)
    assert "transition can run" in said(answer, "models")
    assert answer.keys["model"] == "transition"
    (tmp_path / "bilinear.yaml").touch()
    answer = look(path)
    assert answer.keys["model"] == "bilinear"  # it needs no network
    keys = {key: value for key, value in answer.keys.items() if key != "model"}
    cells = read(OmegaConf.to_object(composed(tuple(typed(keys))).data))
    assert cells.obs["cluster"].nunique() == 4
    assert np.array_equal(cells.obs["pseudotime"], obs["dpt_pseudotime"])


# ---- few cells, batches, genes


@pytest.mark.parametrize(
    ("sizes", "keys"),
    [
        ({"NT": 300, "A": 200, "B": 120, "C": 5}, {"split.drop_small": True}),
        ({"NT": 60, "A": 7, "B": 8, "C": 5}, {"split.min_cells": 5, "datamodule.batch_size": 32}),
        ({"NT": 60, "A": 7, "B": 8, "C": 1}, {"split.min_cells": 3, "split.drop_small": True}),
        ({"NT": 12, "A": 60, "B": 60}, {"split.controls_for_truth": 0, "datamodule.batch_size": 64}),
    ],
)
def test_the_command_for_few_cells_trains(make_h5ad, sizes, keys):
    obs = obs_of(np.repeat(list(sizes), list(sizes.values())))
    obs["batch"] = np.array(["b1", "b2"])[np.arange(len(obs)) % 2]
    answer = look(str(make_h5ad(some_counts(len(obs), 8), obs)))
    assert keys.items() <= answer.keys.items()
    _, split, cfg = accepted(answer)
    module = instantiate(cfg.datamodule)(data=OmegaConf.to_object(cfg.data), split=instantiate(cfg.split))
    module.setup()
    assert len(module.rows["train"]) >= module.batch_size
    assert split.mask("test").any()


def test_a_batch_that_keeps_controls_apart_is_not_suggested(make_h5ad):
    of = np.arange(90) % 3
    obs = obs_of(np.array(["NT", "A", "B"])[of], batch=np.array(["x", "y", "y"])[of], donor=np.arange(90) // 3 % 3)
    answer = look(str(make_h5ad(some_counts(90, 8), obs)))
    assert "batch (2 values, useless: most perturbed cells share theirs with no control)" in said(answer, "batch")
    assert answer.keys["data.batch_key"] == "donor"
    accepted(answer)


def test_gene_names(make_h5ad):
    counts, names = some_counts(90, 8), [f"ENSMUSG0000000000{i}" for i in range(8)]
    answer = look(str(make_h5ad(counts, some_obs(90), names)))
    assert ": Ensembl ids; 0 mitochondrial" in said(answer, "genes")
    accepted(answer)
    answer = look(str(make_h5ad(counts, some_obs(90), ["A", "B", "A", "C", "D", "E", "F", "mt-Nd1"])))
    assert "A, B, A, …: symbols; 1 mitochondrial (mt-), 12.5% of the genes" in said(answer, "genes")
    assert "names that stand more than once are refused (1, e.g. A)" in said(answer, "genes")


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("norman2019_k562_34perts.h5ad", {"data.library_key": "total_counts", "split": "pairs_and_cells"}),
        ("mcfaline2023_gbm_10perts.h5ad", {"data.library_key": "total_counts", "data.cell_type_key": "cell_type"}),
        ("hagai2018_lps_toy_100genes.h5ad", {"data.batch_key": "batch", "split": "cells"}),
    ],
)
def test_real_cells(shared_data, name, keys):
    answer = look(str(shared_data(name)))
    assert keys.items() <= answer.keys.items()
    cells, split, _ = accepted(answer)
    assert split.mask("test").any()
    assert said(answer, "control") == f"control, {cells.obs['is_control'].sum():,} cells"


# ---- on the screen


def test_plain_and_narrow_when_piped(make_h5ad, capsys):
    path = make_h5ad(some_counts(90, 8), some_obs(90).assign(cell_type=["[red]T[/red]", "B"] * 45))
    main([str(path)])
    out = capsys.readouterr().out
    assert "\x1b" not in out
    text, _, line = out.partition("To train, type\n")
    assert max(map(len, text.splitlines())) <= 100
    assert line.strip() == command(look(str(path)).keys)


def test_mistakes_are_one_sentence(tmp_path, monkeypatch, capsys):
    import h5py

    monkeypatch.chdir(tmp_path)
    (tmp_path / "table.h5ad").write_text("a,b")
    with h5py.File(tmp_path / "other.h5ad", "w") as file:
        file["X"] = np.ones(3)
    whole = write_h5ad(tmp_path / "whole.h5ad").read_bytes()
    (tmp_path / "half.h5ad").write_bytes(whole[: len(whole) // 2])
    for name, words in {
        "tabel.h5ad": "no such file in .* \\(did you mean 'table.h5ad'\\?\\)",
        "table.h5ad": "table.h5ad: truncated, or not an .h5ad file",
        "half.h5ad": "half.h5ad: truncated, or not an .h5ad file",
        "other.h5ad": "other.h5ad: an HDF5 file, but without obs and var",
    }.items():
        with pytest.raises(SystemExit) as left:
            main([name])
        shown = capsys.readouterr()
        assert left.value.code == 2
        assert shown.out == ""
        assert re.fullmatch(f"stormcell: .*{words}.*\n", shown.err)


def test_as_a_module(make_h5ad):
    arguments = [sys.executable, "-m", "stormcell.data.look", str(make_h5ad(some_counts(90, 8), some_obs(90)))]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert "To train, type\npython train.py data=h5ad" in done.stdout
    assert done.stderr == ""
