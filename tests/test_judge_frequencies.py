"""The closing test of a model of frequencies: scores, modules that come back, lists, gene sets, sentences."""

import numpy as np
import pandas as pd
import pytest
import torch
from test_frequency_data import cells, module

from stormcell.config import UserError
from stormcell.data.frequency import Frequencies
from stormcell.evaluation.frequency import r2
from stormcell.evaluation.frequency_verdict import frequency_verdict
from stormcell.judge_frequencies import judge_frequencies
from stormcell.judge_modules import budget_of, refitted, set_apart
from stormcell.models.bilinear import Bilinear

RECORD = {
    "config": {
        "trainer": {"max_steps": 120},
        "model": {"optimizer": {"lr": 5e-3, "weight_decay": 1e-2}, "hidden": 8, "loss": "mse"},
    }
}


def trained(data, **words) -> Bilinear:
    """By the loop of the refits, so that a test is quick."""
    torch.manual_seed(0)
    model = Bilinear(data.spec, optimizer=None, hidden=8, members=2, **words)
    model.initialise(data)
    model.record = RECORD
    model = refitted(model, data, data.rows["train"], 0)
    model.record = RECORD
    return model


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return module(cells(tmp_path_factory.mktemp("cells")), inputs="components", input_components=6)


@pytest.fixture(scope="module")
def gene_sets(tmp_path_factory):
    path = tmp_path_factory.mktemp("sets") / "sets.gmt"
    names = [f"g{i:02}" for i in range(24)]  # of another case
    path.write_text("".join(f"heme set {k}\tnone\t" + "\t".join(names[k : k + 8]) + "\n" for k in range(0, 16, 4)))
    return path


@pytest.fixture(scope="module")
def model(data, gene_sets):
    return trained(data, gene_sets=str(gene_sets), fold_case=True)


@pytest.fixture(scope="module")
def judged(model, data):
    return judge_frequencies(model, data, ["told"], "pca")


def test_every_simple_answer_stands_beside_the_model(judged, model, data):
    rows = judged.rows("held-out cells").set_index("method")
    assert {
        "bilinear",
        "zero",
        "training median",
        "ridge",
        "lasso",
        "PLS",
        "ReLU network",
        "k-NN, 50 components",
    } <= set(rows.index)
    assert judged.kind("k-NN, 50 components") == "ceiling"  # of targets that are neighbours' means
    assert judged.kind("cluster lookup") == "ceiling"
    assert judged.kind("ridge") == "baseline"
    test, train = data.rows["test"], data.rows["train"]
    expected = r2(data.targets[test], model.predict(data.inputs[test]), data.targets[train])
    assert rows["r2"]["bilinear"] == pytest.approx(expected.mean(), abs=1e-6)
    assert rows["r2"]["bilinear"] > rows["r2"]["training median"] + 0.3
    each = judged.table("per_frequency")
    mine = each[each["method"] == "bilinear"]
    np.testing.assert_allclose(mine["r2"], expected, atol=1e-6)
    np.testing.assert_allclose(mine["eigenvalue"], data.spec.eigenvalues)


def test_the_network_of_the_comparison_has_the_budget_of_the_model(model, data):
    budget = budget_of(model, data)
    assert (budget.hidden, budget.lr, budget.batch) == (8, 5e-3, data.batch_size)
    assert budget.steps == 120
    before = model.record
    model.record = {"config": {**RECORD["config"], "trainer": {"max_steps": 120, "max_epochs": 2}}}
    assert budget_of(model, data).steps == 2 * data.steps_per_epoch
    model.record = before


def test_modules_are_those_of_the_model_and_of_other_fits(judged, model, data):
    summary, genes = judged.table("module_summary"), judged.table("modules")
    assert summary[["jaccard_seeds", "jaccard_resamples", "overlap_correlation"]].stack().between(0, 1).all()
    assert set(summary["frequency"]) <= set(range(1, 5))
    leading = summary.drop_duplicates("frequency")
    assert (summary.groupby("frequency")["explained"].max().to_numpy() == leading["explained"].to_numpy()).all()
    assert set(genes["gene"]) <= set(data.spec.genes)
    spaces = judged.table("subspaces")
    assert spaces["shared"].between(0, 1 + 1e-9).all()
    assert (spaces["shared"] > spaces["chance"]).all()
    parts = judged.table("parts").set_index("frequency")
    np.testing.assert_allclose(parts.sum(axis=1), 1, atol=1e-6)
    # What a reader is given: activations of all cells, whose part of the first output adds up with the others' to it.
    adata = judged.adata
    assert adata.obsm["X_modules"].shape == (len(data.cells), len(summary))
    assert adata.varm["modules"].shape == (data.spec.n_genes, len(summary))
    np.testing.assert_allclose(adata.obsm["X_predicted"], model.predict(data.inputs), atol=1e-6)


def test_refits_start_elsewhere_and_are_the_same_again(model, data):
    rows = data.rows["train"]
    one, again, other = (refitted(model, data, rows, turn) for turn in (1, 1, 2))
    assert torch.equal(one.network.readouts, again.network.readouts)
    assert not torch.allclose(one.network.readouts, other.network.readouts)
    assert torch.equal(one.network.scale, model.network.scale)
    with torch.no_grad():
        loss = [
            float(fit.loss(Frequencies(*map(torch.from_numpy, (data.inputs[rows], data.targets[rows]))))["loss"])
            for fit in (model, one, other)
        ]
    assert max(loss) < 0.5 * float(np.square(data.targets[rows]).mean())


def test_lists_and_what_they_are_worth(judged):
    lists, worth = judged.table("lists"), judged.table("improvement")
    assert set(lists["list a"]) | set(lists["list b"]) == {"bilinear", "correlation", "ridge"}
    assert set(worth["list"]) == {"bilinear", "correlation", "ridge", "random genes"}
    assert set(worth["regressor"]) == {"ridge", "k-NN"}


def test_terms_are_looked_for_with_all_measured_genes_behind_them(judged, gene_sets):
    assert judged.table("looked_up").set_index("lineage").loc["erythroid", "term"].startswith("heme set")
    assert set(judged.table("looked_up")["lineage"]) == {"erythroid", "granulocyte-monocyte"}
    assert any("without case" in note for note in judged.notes)
    assert len(judged.table("enrichment_correlation"))


def test_gene_sets_of_another_species_are_offered_a_way(model, data, gene_sets):
    model.fold_case = False
    try:
        with pytest.raises(UserError, match=r"model\.gene_sets=.*sets\.gmt: .*fold_case"):
            judge_frequencies(model, data, [], "pca")
    finally:
        model.fold_case = True


def test_the_hierarchy_is_told_beside_principal_components(judged):
    table = judged.table("hierarchy")
    assert set(table["labels"]) == {"cell types", "clusters"}
    assert table["cut"].max() == 4
    assert np.isfinite(table[["ari_types", "ari_pca", "ari_activations", "ari_predicted"]]).all(axis=None)


def test_sentences_say_who_wins(judged):
    said = judged.verdict
    assert said[0].startswith("held-out R², mean of 4 frequencies")
    assert any("Jaccard" in one and "chance" in one for one in said)
    assert any(one.startswith("ridge on 25 genes") for one in said)
    assert any("erythroid" in one for one in said)


@pytest.mark.parametrize(
    ("noise", "word"), [((0.1, 1.0), "better"), ((1.0, 0.1), "worse"), ((0.5, 0.5), "no difference")]
)
def test_the_first_sentence_follows_the_numbers(noise, word):
    rng = np.random.default_rng(0)
    truth, train = rng.normal(size=(300, 3)), rng.normal(size=(500, 3))
    own = truth + noise[0] * rng.normal(size=truth.shape)
    other = own[:, ::1] if noise[0] == noise[1] else truth + noise[1] * rng.normal(size=truth.shape)
    said = frequency_verdict("bilinear", {"bilinear": own, "ridge": other}, truth, train, ["ridge"], (), {}, 0)
    assert word in said[0]


def test_a_module_sets_apart_the_label_that_it_was_made_for(judged, model, data):
    from stormcell.judge_frequencies import _cells
    from stormcell.judge_modules import read_modules

    found = read_modules(model, data, _cells(data, "train", 1))[0]
    planted = np.where(found.eigenvalue * found.activation**found.degree > 0, "high", "low")
    name, area = set_apart(found, planted)
    assert name in ("high", "low") and area in (0.0, 1.0)
    assert set_apart(found, np.full(len(planted), "one")) == ("", 0.5)


def test_without_refits_modules_are_not_compared(data, gene_sets):
    judged = judge_frequencies(trained(data, refits=0), data, [], "pca")
    assert "jaccard_seeds" not in judged.table("module_summary")
    assert any("not compared" in note for note in judged.notes)
    assert not len(judged.table("enrichment"))


def test_classes_are_judged_by_accuracy(tmp_path):
    data = module(cells(tmp_path), classes="cluster", inputs="components", input_components=6)
    judged = judge_frequencies(trained(data), data, [], "pca")
    rows = judged.rows("held-out cells").set_index("method")
    assert {"bilinear", "commonest type", "logistic regression", "ReLU network"} <= set(rows.index)
    assert rows["accuracy"]["bilinear"] > rows["accuracy"]["commonest type"]
    assert set(judged.table("modules")["frequency"]) <= set("ABC")
    assert set(judged.table("per_class")["class"]) == set("ABC")
    assert not len(judged.table("hierarchy"))
    assert "accuracy" in judged.verdict[0]


def test_triples_are_read_too(data):
    judged = judge_frequencies(trained(data, order=3), data, [], "pca")
    assert judged.model == "trilinear"
    assert {"linear", "quadratic", "cubic"} <= set(judged.table("parts"))
    assert judged.table("module_summary")["module"].str.startswith("cubic").any()


def test_one_seed_one_judgement(model, data, judged):
    again = judge_frequencies(model, data, ["told"], "pca")
    pd.testing.assert_frame_equal(again.scoreboard, judged.scoreboard)
    pd.testing.assert_frame_equal(again.table("module_summary"), judged.table("module_summary"))
