"""cells.read: one set of checked cells from any form of file, and a reason where a file is not what was said of it."""

import re

import numpy as np
import pandas as pd
import pytest
from conftest import some_counts, some_obs
from scipy import sparse

from stormcell.config import DataConfig, GeneSelection, QualityControl, UserError
from stormcell.data import h5ad
from stormcell.data.cells import read
from stormcell.data.fit import select_genes


def config(path, **keys):
    return DataConfig(name="test", path=str(path), **keys)


def log1p_of(counts, library=None, target=1e4):
    library = counts.sum(1) if library is None else library
    return np.log1p(counts / np.asarray(library)[:, None] * target)


def labelled(labels, **columns):
    return pd.DataFrame({"perturbation": labels, **columns}, index=[f"cell{i:04}" for i in range(len(labels))])


# ---- values


@pytest.mark.parametrize("block", [7, 4096])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32, np.uint16])
@pytest.mark.parametrize("form", ["csr", "csc", "dense"])
def test_every_form_on_disk_gives_the_same_cells(make_h5ad, monkeypatch, form, dtype, block):
    monkeypatch.setattr(h5ad, "_ROWS", block)
    counts = some_counts(60, 8)
    cells = read(config(make_h5ad(counts.astype(dtype), form=form)))
    assert isinstance(cells.X, sparse.csr_matrix)
    assert cells.X.dtype == np.float32
    assert cells.X.has_canonical_format
    assert np.array_equal(cells.X.toarray(), counts)
    assert cells.genes == [f"g{i}" for i in range(8)]
    assert list(cells.obs.index) == list(some_obs(60).index)


def test_stored_zeros_are_not_stored_values(make_h5ad):
    matrix = sparse.csr_matrix(some_counts(60, 8))
    matrix.data[::3] = 0
    cells = read(config(make_h5ad(matrix, some_obs(60))))
    assert (cells.X.data != 0).all()
    assert np.array_equal(cells.X.toarray(), matrix.toarray())


def test_which_layer_is_read(make_h5ad):
    counts = some_counts(60, 8)
    logs, half = log1p_of(counts), np.concatenate([counts[:, :3], 2 * counts[:, :2]], 1)
    path = make_h5ad(logs, layers={"counts": counts, "spliced": 3 * counts}, raw=(half, list("abcde")))

    def values(**keys):
        return read(config(path, **keys)).X.toarray()

    assert np.array_equal(values(), counts)
    assert np.allclose(values(scale="log1p"), logs, rtol=1e-6)
    assert np.array_equal(values(layer="spliced"), 3 * counts)
    assert np.array_equal(values(layer="layers/spliced"), 3 * counts)
    raw = read(config(path, layer="raw"))
    assert np.array_equal(raw.X.toarray(), half)
    assert raw.genes == list("abcde")
    with pytest.raises(UserError, match=r"these are not counts.*the file also has layers/counts, layers/spliced, raw"):
        read(config(path, layer="X"))
    with pytest.raises(UserError, match=r"no layer 'splicd' \(data.layer\) \(did you mean 'layers/spliced'\?\)"):
        read(config(path, layer="splicd"))


def test_a_file_without_x_says_which_layers_it_has(tmp_path):
    import anndata as ad

    counts = some_counts(60, 8)
    ad.AnnData(None, obs=some_obs(60), shape=(60, 8), layers={"counts": counts}).write_h5ad(tmp_path / "cells.h5ad")
    assert np.array_equal(read(config(tmp_path / "cells.h5ad")).X.toarray(), counts)
    with pytest.raises(UserError, match=r"cells.h5ad: no layer 'X' \(data.layer\); it has layers/counts"):
        read(config(tmp_path / "cells.h5ad", scale="log1p"))


COUNTS = some_counts(60, 8)


def changed(value, values=COUNTS):
    values = values.copy()
    values[5, 2] = value
    return values


@pytest.mark.parametrize(
    ("values", "scale", "words"),
    [
        (changed(-1), "counts", r"the lowest value is -1, so these are not counts \(data.scale=counts\).*continuous"),
        (changed(0.5), "counts", r"values such as 0.5 are not integers, so these are not counts"),
        (log1p_of(COUNTS), "counts", r"not integers.*data.scale=log1p reads them as they are"),
        (COUNTS, "log1p", r"the values are integers, so they look like counts, not log1p \(data.scale=log1p\)"),
        (changed(50.5), "log1p", r"the values are up to 50.5, so they look like counts"),
        (changed(-0.5, log1p_of(COUNTS)), "log1p", r"the lowest value is -0.5, so these are not log1p"),
        (changed(np.nan), "counts", r"1 values are NaN or infinite"),
        (changed(np.inf), "log1p", r"1 values are NaN or infinite"),
        (changed(-np.inf), "continuous", r"1 values are NaN or infinite"),
        (COUNTS, "count", r"data.scale='count': .*\(did you mean 'counts'\?\)"),
    ],
)
def test_values_that_are_not_of_the_declared_scale(make_h5ad, values, scale, words):
    with pytest.raises(UserError, match=words) as refusal:
        read(config(make_h5ad(values), scale=scale))
    assert scale == "count" or "cells.h5ad, X" in str(refusal.value)


def test_scales_are_read_as_declared(make_h5ad):
    scaled = np.random.default_rng(0).normal(size=(60, 8))
    cells = read(config(make_h5ad(scaled), scale="continuous"))
    assert np.allclose(cells.X.toarray(), scaled, rtol=1e-6)
    assert cells.obs["library"].isna().all()
    logs = log1p_of(COUNTS)
    assert np.allclose(read(config(make_h5ad(logs), scale="log1p")).X.toarray(), logs, rtol=1e-6)


# ---- recovery of counts


@pytest.mark.parametrize("name", ["norman2019_k562_34perts.h5ad", "mcfaline2023_gbm_10perts.h5ad"])
def test_recovered_counts_are_the_stored_ones(shared_data, name):
    path = shared_data(name)
    recovered = read(config(path, layer="X", scale="log1p", recover_counts=True))
    stored = read(config(path, layer="counts", library_key="total_counts"))
    assert recovered.scale == "counts"
    assert (recovered.X != stored.X).nnz == 0
    assert np.array_equal(recovered.obs["library"], stored.obs["library"])
    assert "recovered exactly" in recovered.notes[-1]


def a_panel(n=400, seed=0):
    """Counts of 40 genes beside libraries of which they hold a part, as float64 log1p values."""
    rng = np.random.default_rng(seed)
    library = np.rint(rng.lognormal(np.log(6000), 0.8, n))
    counts = rng.poisson(rng.gamma(1, 1, (n, 40)) * library[:, None] / 4000).astype(float)
    counts[:, 0] += 1
    return counts, library


def test_recovery_from_float64_of_a_panel(make_h5ad):
    counts, library = a_panel()
    path = make_h5ad(log1p_of(counts, library), some_obs(400))
    cells = read(config(path, scale="log1p", recover_counts=True))
    assert np.array_equal(cells.X.toarray(), counts)
    assert np.array_equal(cells.obs["library"], library)


@pytest.mark.parametrize("target", [1e3, 5e3, 1.5e4, 2e4, 1e6, 7777.7])
def test_recovery_is_refused_for_another_target_sum(make_h5ad, target):
    """5,000 gives integers too, but every library size doubled; 20,000 gives every second cell doubled counts."""
    counts, library = a_panel()
    path = make_h5ad(np.minimum(log1p_of(counts, library, target), 13.8), some_obs(400))
    with pytest.raises(UserError, match=r"cells.h5ad: data.recover_counts=true, but .*; leave it false"):
        read(config(path, scale="log1p", recover_counts=True))


def test_recovery_is_refused_for_one_nudged_value(make_h5ad):
    counts, library = a_panel()
    logs = log1p_of(counts, library)
    row, column = np.argwhere(counts > 2)[17]
    logs[row, column] *= 1.001
    with pytest.raises(UserError, match=r"1 of 400 cells are not log1p\(counts / library · 1e4\) of integers"):
        read(config(make_h5ad(logs, some_obs(400)), scale="log1p", recover_counts=True))
    with pytest.raises(UserError, match=r"recover_counts=true needs data.scale=log1p"):
        read(config(make_h5ad(counts, some_obs(400)), recover_counts=True))


# ---- library size


def test_library_sizes(make_h5ad):
    counts = some_counts(60, 8)
    inside = counts.sum(1)
    obs = some_obs(60).assign(total=inside + 7, short=inside - (np.arange(60) == 3), missing=inside + 1)
    obs.iloc[9, obs.columns.get_loc("missing")] = np.nan
    path = make_h5ad(counts, obs)
    assert np.array_equal(read(config(path)).obs["library"], inside)
    assert np.array_equal(read(config(path, library_key="total")).obs["library"], inside + 7)
    for key in ("short", "missing"):
        with pytest.raises(UserError, match=rf"1 cells have a library size \({key}, data.library_key\)"):
            read(config(path, library_key=key))
    with pytest.raises(UserError, match=r"no obs column 'totl' \(data.library_key\) \(did you mean 'total'\?\)"):
        read(config(path, library_key="totl"))


# ---- which cells


def test_filters(make_h5ad):
    obs = some_obs(60).assign(good=np.arange(60) < 30, passed=(np.arange(60) % 2), line=["K562", "THP1"] * 30)
    path = make_h5ad(None, obs)

    def kept(rule):
        return list(read(config(path, filter=rule)).obs.index)

    assert kept("good") == list(obs.index[:30])
    assert kept("passed") == list(obs.index[1::2])
    assert kept("line=K562") == kept("line == K562") == list(obs.index[::2])
    for rule, words in {
        "line": r"obs column 'line' \(data.filter\) is not boolean; write line=VALUE",
        "line=K652": r"no cell has line=K652 \(data.filter\) \(did you mean 'K562'\?\)",
        "god": r"no obs column 'god' \(data.filter\) \(did you mean 'good'\?\)",
    }.items():
        with pytest.raises(UserError, match=words):
            kept(rule)


def test_quality_rules_say_what_they_drop(make_h5ad):
    counts = np.zeros((12, 4))
    counts[:, 0] = [0, 0, 3, 3, 9, 9, 9, 9, 9, 9, 9, 9]
    counts[4:7, 3] = 30
    obs = labelled(["control", "A"] * 6, inside=np.arange(12) != 3, nobody=False)
    path = make_h5ad(counts, obs, ["g0", "g1", "g2", "MT-ND1"])
    assert read(config(path)).notes == ["2 cells without counts dropped"]
    rules = QualityControl(min_counts=5, max_mitochondrial_share=0.5)
    cells = read(config(path, qc=rules, filter="inside"))
    assert list(cells.obs.index) == list(obs.index[7:])
    # Cell 3 is outside the filter, so it is not among the dropped.
    assert cells.notes == [
        "2 cells without counts dropped",
        "1 cells with fewer than 5 counts dropped",
        "3 cells with a mitochondrial share above 0.5 dropped",
    ]
    with pytest.raises(UserError, match=r"no gene name begins with 'mito-' \(data.qc.mitochondrial_prefix\)"):
        read(config(path, qc=QualityControl(max_mitochondrial_share=0.1, mitochondrial_prefix="mito-")))
    with pytest.raises(UserError, match=r"no cell is left after data.filter and data.qc"):
        read(config(path, qc=QualityControl(min_counts=1000)))
    with pytest.raises(UserError, match=r"no cell is left after data.filter and data.qc"):
        read(config(path, filter="nobody"))
    with pytest.raises(UserError, match=r"counts are needed for min_counts"):
        read(config(make_h5ad(log1p_of(COUNTS)), scale="log1p", qc=QualityControl(min_counts=5)))


def test_the_mitochondrial_share_is_of_the_whole_library(make_h5ad):
    counts = np.tile([2.0, 8.0], (60, 1))
    path = make_h5ad(counts, some_obs(60).assign(total=100), ["g0", "mt-Nd1"])
    rule = QualityControl(max_mitochondrial_share=0.1)
    assert len(read(config(path, library_key="total", qc=rule))) == 60
    with pytest.raises(UserError, match="no cell is left"):
        read(config(path, qc=rule))


def test_genes_are_dropped_and_chosen_on_the_training_cells_alone(make_h5ad):
    counts = some_counts(200, 30)
    counts[:, 7], counts[150:, 7] = 0, 5  # seen outside the training cells only
    rng = np.random.default_rng(1)
    counts[:150, 3] = rng.poisson(0.8 * rng.gamma(0.1, 10, 150))  # by far the most variable
    train = np.arange(200) < 150
    settings = config(make_h5ad(counts, some_obs(200)))
    cells = read(settings)
    settings.qc = QualityControl(min_cells_per_gene=1)
    assert list(select_genes(cells, train, settings)) == [g for g in range(30) if g != 7]
    assert cells.notes == ["1 genes found in fewer than 1 training cells dropped"]
    settings.qc, settings.genes = QualityControl(), GeneSelection(top=10)
    chosen = select_genes(cells, train, settings)
    assert len(chosen) == 10
    assert list(chosen) == sorted(chosen)
    assert 3 in chosen
    assert 7 not in chosen
    altered = read(settings)
    altered.X.data[altered.X.indptr[150] :] *= 50
    assert np.array_equal(select_genes(altered, train, settings), chosen)
    settings.genes.flavor = "seurat"
    with pytest.raises(UserError, match=r"data.genes.flavor=seurat does not fit data.scale=counts"):
        select_genes(cells, train, settings)
    settings.genes = GeneSelection(top=0)
    with pytest.raises(UserError, match=r"data.genes.top=0: at least one gene"):
        select_genes(cells, train, settings)


@pytest.mark.parametrize(
    ("scale", "flavor", "words"),
    [
        (
            "log1p",
            "seurat_v3",
            r"\(did you mean 'seurat'\?\); this scale takes .*=seurat or cell_ranger, or keep",
        ),
        ("log1p", "seurrat", r"did you mean 'seurat'"),
        ("continuous", "seurat", r"data.scale=continuous; it takes none: keep every gene with data.genes.top=null"),
    ],
)
def test_a_way_of_choosing_genes_belongs_to_a_scale(make_h5ad, scale, flavor, words):
    settings = config(make_h5ad(np.log1p(some_counts(60, 8)), some_obs(60)), scale=scale)
    settings.genes = GeneSelection(top=4, flavor=flavor)
    with pytest.raises(UserError, match=words):
        select_genes(read(settings), np.ones(60, bool), settings)


# ---- labels


@pytest.mark.parametrize(
    ("labels", "separator", "expected"),
    [
        (["control", "B+A", "A+B", "A+A"], "+", ["control", "A+B", "A+B", "A"]),
        (["control", "A+control", "control+A", "control+control"], "+", ["control", "A", "A", "control"]),
        (["control", "B_A", " B _ A "], ["+", "_"], ["control", "A+B", "A+B"]),
        (["control", "B+A", "HLA_A"], ["+", "_"], ["control", "A+B", "HLA_A"]),
        (["control", "B_A"], "+", ["control", "B_A"]),
        (["control", "C;A;B"], ";", ["control", "A+B+C"]),
        (["control", "CD4+_B", "CD4+"], "_", ["control", "B+CD4⁺", "CD4⁺"]),
    ],
)
def test_labels_become_sorted_targets(make_h5ad, labels, separator, expected):
    cells = read(config(make_h5ad(some_counts(len(labels), 8), labelled(labels)), separator=separator))
    assert list(cells.obs["condition"]) == expected
    assert list(cells.obs["is_control"]) == [label == "control" for label in expected]


def test_other_control_labels_and_numbers(make_h5ad):
    cells = read(config(make_h5ad(some_counts(4, 8), labelled(["NT", "NT+x", "x", "NT"])), control="NT"))
    assert list(cells.obs["condition"]) == ["NT", "x", "x", "NT"]
    cells = read(config(make_h5ad(some_counts(4, 8), labelled([0, 1, 2, 0])), control="0"))
    assert list(cells.obs["condition"]) == ["0", "1", "2", "0"]
    cells = read(config(make_h5ad(some_counts(4, 8), labelled([0, 1, 2, 0])), control=0))
    assert list(cells.obs["is_control"]) == [True, False, False, True]
    for nothing in (None, []):
        with pytest.raises(UserError, match=r"data.control is empty"):
            read(config(make_h5ad(some_counts(4, 8), labelled([0, 1, 2, 0])), control=nothing))


@pytest.mark.parametrize("separator", [None, "", [], ["+", ""]])
def test_a_separator_is_a_sign(make_h5ad, separator):
    with pytest.raises(UserError, match=r"data.separator=.*: a sign such as \+ is needed"):
        read(config(make_h5ad(some_counts(2, 8), labelled(["control", "A"])), separator=separator))


def test_a_plus_within_a_name_is_told(make_h5ad):
    cells = read(config(make_h5ad(some_counts(2, 8), labelled(["control", "CD4+"])), separator="_"))
    assert cells.notes == ["a + within the name of a target is written ⁺, because + joins targets"]


def test_several_control_labels_and_guides(make_h5ad):
    labels = ["NT1", "NT2", "STAT1g2", "STAT1g1+NT2", "STAT1g1+JAK2g1", "plain", "NT1+NT2"]
    path = make_h5ad(some_counts(7, 8), labelled(labels))
    cells = read(config(path, control=["NT1", "NT2"], label_pattern=r"(.+)g\d+"))
    assert cells.control == "NT1"
    assert list(cells.obs["condition"]) == ["NT1", "NT1", "STAT1", "STAT1", "JAK2+STAT1", "plain", "NT1"]
    with pytest.raises(UserError, match=r"data.label_pattern='\(' *: not a regular expression"):
        read(config(path, control="NT1", label_pattern="("))
    with pytest.raises(UserError, match=r"data.label_pattern='.\+g': no group in round brackets"):
        read(config(path, control="NT1", label_pattern=".+g"))


def test_cells_without_a_label_are_dropped_and_never_controls(make_h5ad):
    obs = labelled(["control", "A", None, "A", "", " + "])
    cells = read(config(make_h5ad(some_counts(6, 8), obs)))
    assert list(cells.obs.index) == ["cell0000", "cell0001", "cell0003"]
    assert cells.notes == ["3 cells without a perturbation label dropped"]


def test_no_label_at_all_is_said(make_h5ad):
    obs = labelled([""] * 4)
    with pytest.raises(UserError, match=r"no cell has a label in obs column 'perturbation' \(data.perturbation_key\)"):
        read(config(make_h5ad(some_counts(4, 8), obs)))


def test_cell_names_that_repeat_are_numbered(make_h5ad):
    obs = some_obs(60)
    obs.index = ["twin", "twin", *obs.index[2:]]
    with pytest.warns(UserWarning, match="not unique"):
        path = make_h5ad(None, obs)
    cells = read(config(path))
    assert list(cells.obs.index[:3]) == ["twin-0", "twin-1", "cell0002-0"]
    assert cells.notes == ["cell names are not unique: numbered in the order of the file"]


def test_the_first_column_of_a_list_that_exists_is_taken(make_h5ad):
    path = make_h5ad(None, some_obs(60).rename(columns={"perturbation": "guide"}))
    keys = {"perturbation_key": ["gene", "guide"], "batch_key": ["lane", "batch"], "cell_type_key": ["x", None]}
    cells = read(config(path, **keys))
    assert set(cells.obs["condition"]) == {"control", "A", "A+B"}
    assert set(cells.obs["batch"]) == {"b1", "b2"}
    assert "cell_type" not in cells.obs
    with pytest.raises(UserError, match=r"no obs column 'gene' \(data.perturbation_key\).*; columns: guide, batch$"):
        read(config(path, perturbation_key=["gene", "target"]))


def test_covariates_and_further_columns(make_h5ad):
    obs = some_obs(60).assign(dose=np.arange(60) % 2, time=np.linspace(0, 1, 60), phase=["G1", "S"] * 30)
    path = make_h5ad(None, obs)
    cells = read(config(path, covariate_keys=["dose"], pseudotime_key="time", cluster_key="phase"))
    assert list(cells.obs["dose"][:2]) == ["0", "1"]
    assert np.allclose(cells.obs["pseudotime"], obs["time"])
    assert list(cells.obs["cluster"][:2]) == ["G1", "S"]
    with pytest.raises(UserError, match=r"obs column 'phase' \(data.pseudotime_key\) holds 'G1', not numbers"):
        read(config(path, pseudotime_key="phase"))


@pytest.mark.parametrize("name", ["condition", "library", "is_control"])
def test_a_covariate_does_not_take_the_place_of_a_column_of_ours(make_h5ad, name):
    """A covariate that overwrote `condition` would tell the network the answer."""
    path = make_h5ad(None, some_obs(60).assign(**{name: "x"}))
    with pytest.raises(UserError, match=rf"data.covariate_keys: {name!r} .* rename"):
        read(config(path, covariate_keys=[name]))


def test_a_covariate_called_batch_is_not_taken_for_the_batch_that_was_named(make_h5ad):
    path = make_h5ad(None, some_obs(60).assign(donor=["p", "q"] * 30))
    with pytest.raises(UserError, match=r"data.covariate_keys: 'batch' .* rename"):
        read(config(path, batch_key="donor", covariate_keys=["batch"]))
    same = read(config(path, batch_key="batch", covariate_keys=["batch", "donor"]))
    assert list(same.obs["batch"]) == list(read(config(path, covariate_keys=["batch"])).obs["batch"])


# ---- refusals


def test_a_wrong_column_or_control_is_answered_with_the_nearest_word(make_h5ad):
    path = make_h5ad()
    with pytest.raises(UserError, match=r"no obs column 'perturbaton' .*\(did you mean 'perturbation'\?\); columns: p"):
        read(config(path, perturbation_key="perturbaton"))
    words = r"no cell is labelled 'Control' \(data.control\) in obs column 'perturbation'.*\?\); labels: "
    with pytest.raises(UserError, match=words) as refusal:
        read(config(path, control="Control"))
    assert set(re.split(", ", str(refusal.value).rsplit("labels: ")[1])) == {"control", "A", "A+B"}


def test_gene_names_that_repeat_are_refused(make_h5ad):
    with pytest.warns(UserWarning, match="not unique"):
        path = make_h5ad(some_counts(60, 4), None, ["g0", "g1", "g1", "g2"])
    with pytest.raises(UserError, match=r"1 gene names stand more than once in var \(g1"):
        read(config(path))


def test_where_files_are_looked_for(make_h5ad, tmp_path, monkeypatch):
    path = make_h5ad()
    monkeypatch.setenv("STORMCELL_DATA", str(tmp_path))
    assert len(read(config("cells.h5ad"))) == 60
    with pytest.raises(UserError, match=rf"data.path=cels.h5ad: no such file in .* and {tmp_path} \(did you mean 'ce"):
        read(config("cels.h5ad"))
    monkeypatch.delenv("STORMCELL_DATA")
    assert len(read(config(path))) == 60
    with pytest.raises(UserError, match=r"data.path is missing"):
        read(DataConfig(name="test"))


def test_the_fingerprint_is_that_of_the_file(make_h5ad):
    import hashlib

    path = make_h5ad()
    assert read(config(path)).fingerprint == hashlib.sha256(path.read_bytes()).hexdigest()


# ---- perturbations by name


def sixty(labels):
    return some_counts(60, 8), labelled(np.resize(labels, 60))


def test_only_the_named_perturbations_and_control_are_kept(make_h5ad):
    path = make_h5ad(*sixty(["control", "A", "B_A", "C", "D"]))
    cells = read(config(path, separator="_", perturbations=["A+B", "D"]))
    assert set(cells.obs["condition"]) == {"control", "A+B", "D"}
    assert len(cells) == 36
    assert cells.notes == ["2 of 4 perturbations kept, 24 cells of the others dropped (data.perturbations)"]
    typed_as_in_the_file = read(config(path, separator="_", perturbations=["B_A", "D"]))
    assert list(typed_as_in_the_file.obs.index) == list(cells.obs.index)
    assert len(read(config(path, separator="_"))) == 60


def test_guides_are_named_by_their_target(make_h5ad):
    path = make_h5ad(*sixty(["control", "JAK2g1", "JAK2g2", "STAT1g1"]))
    keys = {"label_pattern": r"(.+)g\d+"}
    assert set(read(config(path, perturbations=["JAK2"], **keys)).obs["condition"]) == {"control", "JAK2"}
    assert len(read(config(path, perturbations=["JAK2g2"], **keys))) == 45, "a guide is read as its target here too"


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["A", "stat2"], r"data.perturbations: no cell is labelled 'stat2' \(did you mean 'STAT1'\?\)"),
        (["A", "NT"], r"data.perturbations: 'NT' is a label of the control .* control and perturbed cells must not ov"),
        (["NT2"], r"data.perturbations: 'NT2' is a label of the control"),
        (["A+NT", "A"], r"data.perturbations: 'A' stands there twice"),
        (["B+A", "A+B"], r"data.perturbations: 'A\+B' stands there twice"),
        ([], r"data.perturbations is empty: name perturbations, or leave null"),
        (["E"], r"no cell is labelled 'E'"),
    ],
)
def test_perturbations_that_cannot_be_chosen(make_h5ad, names, words):
    counts, obs = sixty(["NT", "NT2", "A", "A+B", "STAT1"])
    obs["ok"] = True
    obs.loc[obs.index[:3], ["perturbation", "ok"]] = "E", False
    path = make_h5ad(counts, obs)
    with pytest.raises(UserError, match=words):
        read(config(path, perturbations=names, control=["NT", "NT2"], filter="ok"))


def test_perturbations_without_a_column_of_them(make_h5ad):
    with pytest.raises(UserError, match=r"data.perturbations needs data.perturbation_key, which is null"):
        read(config(make_h5ad(), perturbation_key=None, perturbations=["A"]))
