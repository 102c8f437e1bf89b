"""Predictions of another program: every form gives the same profile, and a mistake is named with its reason."""

import re

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix

from stormcell.analysis.pseudobulk import Pseudobulk
from stormcell.config import UserError
from stormcell.data.predictions import as_method, read_predictions
from stormcell.evaluation.baselines import baselines
from stormcell.evaluation.heldout import HeldOut, Query
from stormcell.evaluation.profiles import mean_profile

GENES = tuple(f"g{i}" for i in range(30))
CONDITIONS = ["A", "A+B", "C"]
RATE = np.random.default_rng(0).lognormal(1.5, 1, len(GENES))  # counts per cell


def log1p_cells(n, seed, factor=1.0):
    """n × G, cells of a negative-binomial kind: log1p(counts / row sum · 1e4), float32."""
    rng = np.random.default_rng(seed)
    counts = rng.poisson(rng.gamma(3, 1 / 3, (n, len(GENES))) * RATE * factor) + np.eye(1, len(GENES))
    return np.log1p(counts / counts.sum(1, keepdims=True) * 1e4).astype(np.float32)


CONTROL_CELLS = csr_matrix(log1p_cells(80, 1))
CONTROL = mean_profile(CONTROL_CELLS)
CELLS = {
    condition: log1p_cells(20 + 5 * i, 10 + i, np.random.default_rng(i).lognormal(0, 0.5, len(GENES)))
    for i, condition in enumerate(CONDITIONS)
}
MEANS = {condition: cells.mean(0, dtype=float) for condition, cells in CELLS.items()}
SHIFTS = {condition: mean - CONTROL for condition, mean in MEANS.items()}


def read(source, **keys):
    keys = {"genes": GENES, "conditions": CONDITIONS, "controls": {"all": CONTROL}} | keys
    return read_predictions(source, **keys)


def anndata_of(rows: dict, genes=GENES, key="perturbation", **obs):
    """One AnnData of {label: n × G or G}."""
    blocks = [np.atleast_2d(block) for block in rows.values()]
    labels = np.repeat(list(rows), [len(block) for block in blocks])
    frame = pd.DataFrame({key: labels, **obs}, index=[str(i) for i in range(len(labels))])
    return ad.AnnData(csr_matrix(np.concatenate(blocks)), obs=frame, var=pd.DataFrame(index=list(genes)))


def table_of(rows: dict, genes=GENES):
    return pd.DataFrame(list(rows.values()), index=list(rows), columns=list(genes))


def counts_of(rows: dict, depth=700):
    """Integer cells of about `depth` counts with the profiles of the given log1p cells."""
    return {label: np.rint(np.expm1(cells) / 1e4 * depth) for label, cells in rows.items()}


def assert_means(predictions, means, rtol=1e-12):
    found = {key: mean_profile(cells) for key, cells in predictions.cells.items()} | predictions.means
    assert set(found) == {(condition, "all") for condition in means}
    for condition, mean in means.items():
        np.testing.assert_allclose(found[condition, "all"], mean, rtol=rtol, atol=1e-12)


# ---- every form


def test_cells_their_means_and_their_shifts_are_the_same_prediction():
    cells = read(anndata_of(CELLS))
    means = read(table_of(MEANS), kind="means")
    shifts = read(table_of(SHIFTS))
    assert (cells.kind, means.kind, shifts.kind) == ("cells", "means", "shifts")
    for predictions in (cells, means, shifts):
        assert_means(predictions, MEANS)
        assert predictions.notes == ()
    for condition, block in CELLS.items():
        np.testing.assert_array_equal(cells.cells[condition, "all"].toarray(), block)
    assert cells.means == {} and means.cells == {}


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".csv.gz", ".tsv.gz"])
@pytest.mark.parametrize("turned", [False, True])
def test_tables_of_every_ending_either_way_round(tmp_path, ending, turned):
    path = tmp_path / f"a.model{ending}"
    table = table_of(SHIFTS)
    (table.T if turned else table).to_csv(path, sep="\t" if "tsv" in ending else ",")
    predictions = read(path)
    assert predictions.name == "a.model"
    assert_means(predictions, MEANS)
    assert any("turned" in note for note in predictions.notes) == turned


@pytest.mark.parametrize("rows, kind", [(CELLS, None), (CELLS, "cells"), (MEANS, "means"), (SHIFTS, "shifts")])
def test_an_anndata_file_and_the_same_anndata_in_memory(tmp_path, rows, kind):
    adata = anndata_of(rows)
    adata.write_h5ad(tmp_path / "mine.h5ad")
    for source, name in ((tmp_path / "mine.h5ad", "mine"), (adata, "predictions")):
        predictions = read(source, kind=kind)
        assert (predictions.name, predictions.kind) == (name, kind or "cells")
        assert_means(predictions, MEANS, rtol=1e-5 if kind in ("means", "shifts") else 1e-12)  # float32 in an AnnData


def test_reading_leaves_what_was_given_as_it_was():
    adata, table = anndata_of(counts_of(CELLS)), table_of(SHIFTS)
    before, frame = adata.copy(), table.copy()
    read(adata, scale="counts")
    read(table)
    np.testing.assert_array_equal(adata.X.toarray(), before.X.toarray())
    pd.testing.assert_frame_equal(adata.obs, before.obs)
    pd.testing.assert_frame_equal(table, frame)


def test_genes_in_another_order_and_beside_others_find_their_place(tmp_path):
    order = np.random.default_rng(5).permutation(len(GENES) + 2)
    names = np.array([*GENES, "x1", "x2"])[order]
    widened = {label: np.c_[block, np.ones((len(block), 2))][:, order] for label, block in CELLS.items()}
    predictions = read(anndata_of(widened, names))
    assert_means(predictions, MEANS)
    assert predictions.notes == ("2 genes that are not asked for left out (x1, x2)",)
    table = table_of({label: np.append(shift, [0, 0])[order] for label, shift in SHIFTS.items()}, names)
    predictions = read(table)
    assert_means(predictions, MEANS)
    assert "2 columns" in predictions.notes[0]


def test_targets_that_are_genes_do_not_turn_the_table():
    conditions = ["g3", "g7", "g9"]
    table = table_of(dict(zip(conditions, SHIFTS.values(), strict=True)))
    for source in (table, table.T):
        predictions = read(source, conditions=conditions)
        np.testing.assert_allclose(predictions.means["g7", "all"], MEANS["A+B"])


def test_r_writes_one_name_fewer_than_columns(tmp_path):
    path = tmp_path / "r.csv"
    lines = [",".join(GENES), *(f"{label}," + ",".join(map(repr, map(float, s))) for label, s in SHIFTS.items())]
    path.write_text("\n".join(lines) + "\n")
    assert_means(read(path), MEANS)


def test_labels_in_a_named_column_and_a_label_that_pandas_takes_for_missing(tmp_path):
    path = tmp_path / "numbered.csv"
    table_of(SHIFTS).rename_axis("perturbation").reset_index().to_csv(path)
    assert_means(read(path), MEANS)
    path = tmp_path / "named_na.csv"
    table_of({"NA": SHIFTS["A"]}).to_csv(path)
    assert_means(read(path, conditions=["NA"]), {"NA": MEANS["A"]})


@pytest.mark.parametrize(
    "labels, keys",
    [
        (["A+ctrl", "B+A", "ctrl+C"], {"control": ["control", "ctrl"]}),
        (["A", "B_A", "C"], {"separator": "_"}),
        (["A", "B_A", "C"], {"separator": ["+", "_"]}),
        (["A", "A+B", "C"], {"separator": "_"}),  # canonical labels, whatever sign the data set has
        ([" A", "B + A", "C "], {}),
    ],
)
def test_labels_are_made_canonical(labels, keys):
    assert_means(read(table_of(dict(zip(labels, SHIFTS.values(), strict=True))), **keys), MEANS)
    assert_means(read(anndata_of(dict(zip(labels, CELLS.values(), strict=True))), **keys), MEANS)


def test_what_is_left_out_and_what_is_missing_is_told():
    rows = {"control": CELLS["C"], "A": CELLS["A"], "Z": CELLS["C"], "C": CELLS["C"]}
    adata = anndata_of(rows)
    adata.obs.loc[adata.obs.index[-1], "perturbation"] = np.nan
    predictions = read(adata)
    assert set(predictions.cells) == {("A", "all"), ("C", "all")}
    assert predictions.cells["C", "all"].shape[0] == len(CELLS["C"]) - 1
    assert predictions.notes == (
        "1 rows without a label left out",
        "30 rows of control cells left out: the real control cells are used",
        "1 conditions that are not asked for left out (Z)",
        "no prediction for 1 of 3 conditions (A+B)",
    )


def test_predicted_controls_are_never_used():
    shifted = {"control": CONTROL + 3, **MEANS}
    assert_means(read(table_of(shifted), kind="means"), MEANS)
    assert_means(read(table_of({"control": CONTROL, **SHIFTS})), MEANS)


# ---- contexts


def test_rows_without_a_context_answer_for_every_context_with_its_own_control():
    controls = {"x": CONTROL, "y": CONTROL * 1.1}
    shifts = read(table_of(SHIFTS), controls=controls)
    cells = read(anndata_of(CELLS), controls=controls)
    for condition in CONDITIONS:
        for context, control in controls.items():
            np.testing.assert_allclose(shifts.means[condition, context], SHIFTS[condition] + control, atol=1e-12)
            np.testing.assert_array_equal(cells.cells[condition, context].toarray(), CELLS[condition])


def test_a_context_column_separates_the_answers(tmp_path):
    controls = {"x": CONTROL, "y": CONTROL * 1.1}
    table = pd.concat([table_of(SHIFTS).assign(line="x"), table_of(SHIFTS).assign(line="y"), table_of(SHIFTS)])
    table["line"] = table["line"].fillna("z")
    table.to_csv(tmp_path / "lines.csv")
    for source in (table, tmp_path / "lines.csv"):
        predictions = read(source, controls=controls, context_key="line")
        assert set(predictions.means) == {(condition, line) for condition in CONDITIONS for line in "xy"}
        np.testing.assert_allclose(predictions.means["C", "y"], SHIFTS["C"] + CONTROL * 1.1, atol=1e-12)
        assert predictions.notes == ("1 contexts that are not asked for left out (z)",)
    lines = np.resize(["x", "y"], sum(map(len, CELLS.values())))
    predictions = read(anndata_of(CELLS, line=lines), controls=controls, context_key="line")
    np.testing.assert_array_equal(predictions.cells["A", "y"].toarray(), CELLS["A"][1::2])


# ---- counts


def test_counts_are_normalised_by_the_library_before_genes_are_chosen():
    counts, genes = counts_of(CELLS), GENES[:20]
    library = {label: block.sum(1, keepdims=True) for label, block in counts.items()}
    expected = {label: np.log1p(block / library[label] * 1e4)[:, :20].mean(0) for label, block in counts.items()}
    predictions = read(anndata_of(counts), scale="counts", genes=genes, controls={"all": CONTROL[:20]})
    assert_means(predictions, expected, rtol=1e-6)
    assert any("sums over the 30 genes of the source" in note for note in predictions.notes)
    part = {label: block[:, :20] for label, block in counts.items()}
    totals = np.concatenate([library[label].ravel() for label in CELLS])
    adata = anndata_of(part, genes, total=totals)
    adata.layers["counts"] = adata.X
    adata.X = csr_matrix(np.log1p(adata.X.toarray()))
    predictions = read(adata, scale="counts", genes=genes, controls={"all": CONTROL[:20]}, library_key="total")
    assert_means(predictions, expected, rtol=1e-6)
    assert predictions.notes == ()


# ---- refusals: the sentence names what is wrong


def refused(source, *parts, **keys):
    with pytest.raises(UserError) as raised:
        read(source, **keys)
    message = str(raised.value)
    for part in parts:
        assert re.search(part, message), f"{part!r} not in: {message}"
    assert "\n" not in message


def test_words_of_the_keys():
    refused(anndata_of(CELLS), "kind=cell:", "did you mean 'cells'", kind="cell")
    refused(anndata_of(CELLS), "scale=log:", "log1p, counts", scale="log")
    refused(anndata_of(CELLS), "library_key=total", "scale=counts", library_key="total")
    refused(table_of(MEANS), "scale=counts is for cells", "means", kind="means", scale="counts")


def test_files_that_cannot_be_read(tmp_path):
    table_of(SHIFTS).to_csv(tmp_path / "shifts.csv")
    refused(tmp_path / "mine.xlsx", r"predictions=.*mine\.xlsx", r"\.h5ad, ")
    refused(tmp_path / "mine.h5ad", r"predictions=.*mine\.h5ad: no such file")
    (tmp_path / "mine.h5ad").write_bytes(b"not an HDF5 file")
    refused(tmp_path / "mine.h5ad", r"predictions=.*mine\.h5ad: truncated, or not an \.h5ad")
    (tmp_path / "empty.csv").write_text("")
    refused(tmp_path / "empty.csv", r"predictions=.*empty\.csv: not readable as a table")
    (tmp_path / "plain.csv.gz").write_bytes((tmp_path / "shifts.csv").read_bytes())
    refused(tmp_path / "plain.csv.gz", r"plain\.csv\.gz: not readable as a table")
    (tmp_path / "ragged.csv").write_text("x,g0,g1\nA,1,2,3,4\n")
    refused(tmp_path / "ragged.csv", "3 names for 5 columns")


def test_a_misspelt_file_is_named(tmp_path, monkeypatch):
    table_of(SHIFTS).to_csv(tmp_path / "shifts.csv")
    monkeypatch.chdir(tmp_path)
    refused("shfts.csv", "predictions=shfts.csv", "did you mean 'shifts.csv'")
    assert_means(read("shifts.csv"), MEANS)


def test_columns_that_do_not_exist():
    refused(anndata_of(CELLS, key="guide"), r"\(perturbation_key=perturbation\)", "columns: guide")
    refused(
        anndata_of(CELLS), r"'perturbtion' \(perturbation_key", "mean 'perturbation'", perturbation_key="perturbtion"
    )
    refused(anndata_of(CELLS, line="all"), "context_key=lin", "did you mean 'line'", context_key="lin")
    refused(table_of(SHIFTS).assign(line="all"), "context_key=lin", "did you mean 'line'", context_key="lin")
    refused(anndata_of(counts_of(CELLS)), "library_key=total", "columns: pert", scale="counts", library_key="total")


def test_missing_and_duplicate_genes():
    part = {label: block[:, 3:] for label, block in CELLS.items()}
    refused(anndata_of(part, GENES[3:]), "3 of 30 genes are missing", r"\(g0, g1, g2\); it has g3, g4, g5, …$")
    lower = [gene.replace("g", "gene-") for gene in GENES]
    refused(table_of(SHIFTS, ["G0", *lower[1:]]), "30 of 30", "did you mean 'gene-", genes=("gene_0", *GENES[1:]))
    refused(table_of(SHIFTS, [f"ENSG{i}" for i in range(30)]), "30 of 30 genes", "g0, g1, g2, …", "ENSG0, ENSG1")
    twice = table_of(SHIFTS)
    refused(pd.concat([twice, twice[["g4"]]], axis=1), "1 genes stand in more than one column", r"\(g4\)")


def test_duplicate_columns_in_a_file_are_not_renamed(tmp_path):
    table = table_of(SHIFTS)
    pd.concat([table, table[["g4"]]], axis=1).to_csv(tmp_path / "twice.csv")
    refused(tmp_path / "twice.csv", r"predictions=.*twice\.csv", "more than one column", r"\(g4\)")


def test_conditions_that_stand_twice_or_are_not_asked_for():
    refused(table_of(SHIFTS | {"B+A": SHIFTS["C"]}), r"condition A\+B stands in 2 rows", r"A\+B, B\+A")
    other = {"A_B": SHIFTS["A"], "KLF1": SHIFTS["C"]}
    refused(table_of(other), "none of its 2 conditions", "A_B, KLF1", r"did you mean 'A\+B'", "perturbation_key")
    refused(table_of({"control": CONTROL}), "none of its 0 conditions")
    controls = {"K562": CONTROL}
    refused(anndata_of(CELLS, line="k562"), "context_key=line", "K562", controls=controls, context_key="line")


def test_cells_are_not_means_and_means_are_not_cells():
    refused(anndata_of(CELLS), r"condition C has 30 rows", "cells", r"kind=means", kind="means")
    refused(anndata_of(CELLS), "30 rows", "kind=shifts", kind="shifts")
    refused(anndata_of(MEANS), "one row per condition", "kind is missing", "kind=means or kind=shifts")
    refused(anndata_of(MEANS), "one row per condition", "kind=cells cannot be", kind="cells")
    refused(table_of(SHIFTS), r"kind=cells is for \.h5ad", kind="cells")


def test_shifts_are_not_means_and_means_are_not_shifts():
    refused(table_of(MEANS), "mean profiles, not shifts", "kind=means")
    refused(anndata_of(MEANS), "mean profiles, not shifts", kind="shifts")
    refused(table_of(SHIFTS), "shifts, not mean profiles", "kind=shifts", kind="means")
    positive = {label: np.abs(shift) * 0.1 for label, shift in SHIFTS.items()}
    refused(table_of(positive), "shifts need kind=shifts", kind="means")


def test_shifts_proportional_to_the_control_and_means_slightly_below_zero_are_let_through():
    assert_means(read(table_of({"A": CONTROL * 0.1})), {"A": CONTROL * 1.1})
    assert_means(read(table_of({"A": CONTROL * 0})), {"A": CONTROL})
    low = CONTROL.copy()
    low[3] = -0.02
    predictions = read(table_of({"A": low}), kind="means")
    assert_means(predictions, {"A": low})
    assert any("down to -0.02" in note for note in predictions.notes)


def test_values_that_are_not_of_the_declared_scale():
    refused(anndata_of(counts_of(CELLS)), "integers", r"not log1p \(scale=log1p\)", "scale=counts")
    refused(anndata_of(CELLS), "are not counts", "scale=counts", "scale=log1p", scale="counts")
    refused(anndata_of({k: -v for k, v in counts_of(CELLS).items()}), "are not counts", scale="counts")


@pytest.mark.parametrize(
    "changed",
    [
        lambda x: np.log1p(np.expm1(x) * 1e4),  # another target sum
        lambda x: np.expm1(x),  # no logarithm
        lambda x: x / 4,
        lambda x: np.zeros_like(x),
    ],
)
def test_another_scale_is_refused_in_every_form(changed):
    cells = {label: changed(block) for label, block in CELLS.items()}
    means = {label: block.mean(0, dtype=float) for label, block in cells.items()}
    refused(anndata_of(cells), "times the real control mean", "another scale", "scale=log1p")
    refused(table_of(means), "times the real control mean", "another scale", kind="means")


def test_shifts_of_another_scale_and_libraries_of_a_part_of_the_genes():
    refused(table_of({label: shift + 5 for label, shift in MEANS.items()} | {"A": -MEANS["A"]}), "another scale")
    panel = {label: block[:, :6] + 1 for label, block in counts_of(CELLS).items()}
    few = {"genes": GENES[:6], "controls": {"all": CONTROL[:6] / 3}}
    refused(anndata_of(panel, GENES[:6]), "another scale", "scale=counts", "library_key", scale="counts", **few)


def test_log2_is_within_the_bounds_and_is_told():
    predictions = read(anndata_of({label: block / np.float32(np.log(2)) for label, block in CELLS.items()}))
    assert any("log2 values would have 1.44 times" in note for note in predictions.notes)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_no_numbers_name_their_condition(tmp_path, value):
    table = table_of(SHIFTS)
    table.loc["A+B", "g7"] = value
    table.to_csv(tmp_path / "bad.csv")
    for source in (table, table.T, tmp_path / "bad.csv"):
        refused(source, "1 values are missing, NaN or infinite", r"in A\+B$")
    cells = {label: block.copy() for label, block in CELLS.items()}
    cells["C"][4, 2] = value
    refused(anndata_of(cells), "1 values are missing, NaN or infinite", "in C$")
    refused(anndata_of({k: np.rint(v) for k, v in cells.items()}), "NaN or infinite", "in C$", scale="counts")


def test_words_between_the_numbers_are_named(tmp_path):
    table = table_of(SHIFTS).astype(object)
    table.loc["C", "g7"] = "much"
    table.to_csv(tmp_path / "bad.csv")
    for source in (table, table.T, tmp_path / "bad.csv"):
        refused(source, "'much' in the row of C is no number")


@pytest.mark.parametrize("library", [0, -3, np.nan, np.inf, "many"])
def test_library_sizes_that_cannot_be(library):
    counts = counts_of(CELLS)
    totals = np.array([700] * sum(map(len, counts.values())), object)
    totals[3] = library
    refused(anndata_of(counts, total=totals), "1 cells", r"library_key=total", scale="counts", library_key="total")


def test_cells_of_several_methods_are_not_judged_as_one():
    methods = np.resize(["mode A", "mode B"], sum(map(len, CELLS.values())))
    refused(anndata_of(CELLS, method=methods), "column 'method'", "mode A, mode B")
    assert_means(read(anndata_of(CELLS, method="mode A")), MEANS)


# ---- as a row of the scoreboard


@pytest.fixture
def held_out():
    queries = [("A", "x"), ("A+B", "x"), ("A", "y"), ("D", "x")]
    controls = {"x": CONTROL_CELLS, "y": csr_matrix(log1p_cells(40, 2))}
    return HeldOut(
        genes=GENES,
        separator="+",
        queries=tuple(Query(condition, context, "any", CONTROL_CELLS) for condition, context in queries),
        controls=controls,
        truth_controls=controls,
        shared=True,
        train=Pseudobulk.of_shifts({"A": np.zeros(len(GENES))}, CONTROL),
        train_cells={},
        detected=np.ones(len(GENES), bool),
        pca_mean=np.zeros(len(GENES)),
        pca_components=np.eye(len(GENES)),
    )


def method_of(held_out, source, n_cells=12, seed=3, **keys):
    controls = {context: mean_profile(cells) for context, cells in held_out.controls.items()}
    conditions = sorted({query.condition for query in held_out.queries})
    return as_method(read(source, conditions=conditions, controls=controls, **keys), held_out, n_cells, seed)


def test_cells_answer_with_a_fixed_draw_and_the_mean_of_all(held_out):
    method = method_of(held_out, anndata_of(CELLS))
    mean, cells = method.predict(1)
    np.testing.assert_allclose(mean, MEANS["A+B"], rtol=1e-12)
    assert cells.shape == (12, len(GENES)) and cells.dtype == np.float32
    given = [tuple(cell) for cell in CELLS["A+B"]]
    assert len({given.index(tuple(cell)) for cell in cells}) == 12
    np.testing.assert_array_equal(cells, method.predict(1)[1])
    assert not np.array_equal(cells, method_of(held_out, anndata_of(CELLS), seed=4).predict(1)[1])
    assert method_of(held_out, anndata_of(CELLS), n_cells=500).predict(1)[1].shape[0] == len(CELLS["A+B"])


def test_means_and_shifts_move_the_control_cells_that_the_baselines_move(held_out):
    still = next(m for m in baselines(held_out, 12, 3) if m.name == "no change")
    shifts = method_of(held_out, table_of(SHIFTS))
    for index, context in ((0, "x"), (2, "y")):
        mean, cells = shifts.predict(index)
        control = mean_profile(held_out.controls[context])
        np.testing.assert_allclose(mean, control + SHIFTS["A"], atol=1e-12)
        moved = cells - still.predict(index)[1]
        np.testing.assert_allclose(moved, np.tile(SHIFTS["A"], (12, 1)), atol=1e-5)
    mean, cells = method_of(held_out, table_of(MEANS), kind="means").predict(2)
    np.testing.assert_allclose(mean, MEANS["A"], rtol=1e-12)
    assert cells.dtype == np.float32


def test_no_answer_where_the_source_has_none(held_out):
    for method in (method_of(held_out, anndata_of(CELLS)), method_of(held_out, table_of(SHIFTS))):
        assert method.name == "predictions"
        assert method.predict(3) is None
        assert method.predict(0) is not None


def test_predictions_of_other_genes_are_a_bug(held_out):
    predictions = read(table_of(SHIFTS), genes=GENES[::-1], controls={"all": CONTROL[::-1]})
    with pytest.raises(ValueError, match="other genes"):
        as_method(predictions, held_out, 5, 0)


# ---- real cells


def test_the_measured_profiles_of_real_cells_pass_every_check(shared_data):
    adata = ad.read_h5ad(shared_data("norman2019_k562_34perts.h5ad"))
    labels = adata.obs["perturbation"].astype(str)
    control = mean_profile(adata.X[(labels == "control").to_numpy()])
    conditions = sorted(set(labels) - {"control"})
    keys = {"genes": tuple(adata.var_names), "conditions": conditions, "controls": {"all": control}}
    logs = read(adata, **keys)
    counts = read(adata, scale="counts", library_key="total_counts", **keys)
    table = pd.DataFrame({c: mean_profile(logs.cells[c, "all"]) - control for c in conditions}, adata.var_names)
    shifts = read(table, **keys)
    for condition in conditions:
        mean = mean_profile(logs.cells[condition, "all"])
        np.testing.assert_allclose(mean_profile(counts.cells[condition, "all"]), mean, atol=1e-6)
        np.testing.assert_allclose(shifts.means[condition, "all"], mean, atol=1e-12)
    refused(adata, "another scale", "library_key", scale="counts", **keys)  # 500 genes hold 1 % of the counts
