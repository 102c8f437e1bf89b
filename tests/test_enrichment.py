"""Enrichment equals exact counting and gseapy, offline; random lists find nothing, genes of a cell type its terms."""

from fractions import Fraction
from math import comb
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import false_discovery_control

from stormcell.analysis.enrichment import COLUMNS, enrich, looked_up, random_lists, term_matrix
from stormcell.analysis.gene_sets import match_sets, read_gmt

GENES = [f"g{i}" for i in range(400)]


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def world(rng):
    """Three lists: one planted in `set 0`, one in `set 1`, one random; 60 sets of different sizes."""
    sets = {f"set {k}": list(rng.choice(GENES, rng.integers(8, 40), replace=False)) for k in range(60)}
    lists = {
        "a": sets["set 0"][:8] + list(rng.choice(GENES, 12, replace=False)),
        "b": sets["set 1"][:6] + list(rng.choice(GENES, 25, replace=False)),
        "c": list(rng.choice(GENES, 30, replace=False)),
    }
    return {name: list(dict.fromkeys(genes)) for name, genes in lists.items()}, sets


def exact_p(x, k, m, G):
    """P(X ≥ x) by counting, in whole numbers."""
    return float(Fraction(sum(comb(m, i) * comb(G - m, k - i) for i in range(x, min(k, m) + 1)), comb(G, k)))


@pytest.fixture
def no_network(monkeypatch):
    def refused(*_args, **_kwargs):
        raise AssertionError("the network was asked")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(f"socket.socket.{name}", refused)
    monkeypatch.setattr("socket.getaddrinfo", refused)


def test_p_and_q_are_those_of_counting_over_all_lists_and_sets(world, no_network):
    lists, sets = world
    table = enrich(lists, match_sets(sets, GENES))
    assert list(table.columns) == COLUMNS
    p = {}
    for name, genes in lists.items():
        for term, members in sets.items():
            shared = set(genes) & set(members)
            value = exact_p(len(shared), len(genes), len(members), len(GENES)) if len(shared) >= 2 else 1.0
            p[name, term] = value, ";".join(sorted(shared)), len(genes) * len(members) / len(GENES)
    q = dict(zip(p, false_discovery_control([value for value, _, _ in p.values()]), strict=True))
    assert len(table) == sum(";" in genes for _, genes, _ in p.values())
    for row in table.itertuples():
        value, genes, expected = p[row.module, row.term]
        assert (row.p, row.q, row.expected) == pytest.approx((value, q[row.module, row.term], expected))
        assert row.genes == genes and row.overlap == len(genes.split(";")) and row.size == len(sets[row.term])
    assert table["q"].is_monotonic_increasing
    assert table.loc[0, ["module", "term"]].tolist() == ["a", "set 0"]


def test_gseapy_agrees_offline(world, no_network):
    import gseapy

    lists, sets = world
    table = enrich(lists, match_sets(sets, GENES)).set_index(["module", "term"])
    for name, genes in lists.items():
        peer = gseapy.enrich(genes, sets, background=GENES, outdir=None, no_plot=True).results.set_index("Term")
        mine = table.loc[name]
        np.testing.assert_allclose(mine["p"], peer.loc[mine.index, "P-value"].astype(float))
        np.testing.assert_allclose(mine["odds_ratio"], peer.loc[mine.index, "Odds Ratio"].astype(float))


def test_the_background_is_the_measured_genes(world):
    """Genes that were measured and are in no set count, genes of a set that were not measured do not."""
    lists, sets = world
    wider = enrich(lists, match_sets(sets, [*GENES, *(f"other{i}" for i in range(400))]))
    assert wider["p"][0] == pytest.approx(
        exact_p(wider["overlap"][0], len(lists["a"]), len(sets["set 0"]), 2 * len(GENES))
    )
    foreign = {term: [*members, "foreign1", "foreign2"] for term, members in sets.items()}
    pd.testing.assert_frame_equal(enrich(lists, match_sets(foreign, GENES)), enrich(lists, match_sets(sets, GENES)))


def test_order_and_repetition_play_no_part(world, rng):
    lists, sets = world
    shuffled = {name: [*rng.permutation(genes), genes[0]] for name, genes in lists.items()}
    other = {term: [*rng.permutation(members), members[0]] for term, members in sets.items()}
    again = enrich(shuffled, match_sets(other, rng.permutation(GENES)))
    pd.testing.assert_frame_equal(again, enrich(lists, match_sets(sets, GENES)))


def test_random_lists_find_nothing_and_planted_ones_do(world):
    lists, sets = world
    sets = match_sets(sets, GENES)
    control = random_lists(lists, sets, draws=60).set_index("module")
    assert control.loc["a", "terms"] >= 1 and control.loc["c", "terms"] == 0
    assert control["genes"].tolist() == [len(genes) for genes in lists.values()]
    # q ≤ .05 over all lists of a draw: at most one draw in 20 has anything, give or take 60 draws.
    assert control["random_share"].sum() <= 0.1
    pd.testing.assert_frame_equal(control, random_lists(lists, sets, draws=60).set_index("module"))


def test_random_lists_tell_sets_that_chance_fills():
    """All measured genes: any list of the same size holds the same sets, so a count beside it can be no finding."""
    sets = match_sets({"a": GENES[:50]}, GENES)
    control = random_lists({"all": GENES}, sets, draws=5)
    assert control[["terms", "random_most"]].to_numpy().tolist() == [[0, 0]]  # p = 1, whatever the overlap
    with pytest.raises(ValueError, match="0 draws"):
        random_lists({"all": GENES}, sets, draws=0)


def test_modules_name_their_frequency(world):
    lists, sets = world
    lists = {(1, "+"): lists["a"], (1, "-"): lists["c"], (2, "+"): lists["b"]}
    table = enrich(lists, match_sets(sets, GENES), {name: name[0] for name in lists})
    assert table["module"][0] == (1, "+") and table["frequency"][0] == 1
    assert all(row.frequency == row.module[0] for row in table.itertuples())
    with pytest.raises(ValueError, match="module 'b' has no frequency"):
        enrich({"b": GENES[:3]}, match_sets(sets, GENES), {"a": 1})


def test_nothing_shared_is_an_empty_table_with_its_columns(world):
    sets = match_sets({"a": GENES[:10]}, GENES)
    for lists in ({}, {"m": []}, {"m": GENES[20:30]}, {"m": [GENES[0], GENES[30]]}):
        table = enrich(lists, sets)
        assert table.empty and list(table.columns) == COLUMNS
        assert term_matrix(table).shape == (0, 0) and term_matrix(table, frequencies=[1, 2]).shape == (2, 0)
        assert not looked_up(table)["found"].any()
        assert random_lists(lists, sets)["terms"].sum() == 0


def test_a_gene_that_was_not_measured_is_named(world):
    with pytest.raises(ValueError, match="module 'm': 'G7' is no measured gene \\(did you mean 'g7'"):
        enrich({"m": ["g3", "G7"]}, match_sets(world[1], GENES))


# ---- reading the table


def rows(*values):
    table = pd.DataFrame(values, columns=["module", "frequency", "term", "q"])
    return table.assign(genes="x;y", p=table["q"])


def test_a_lineage_is_looked_up_by_beginnings_of_words():
    table = rows(
        ("m1", 1, "labelling scheme", 1e-9),
        ("m2", 2, "HALLMARK_HEME_METABOLISM", 1e-4),
        ("m3", 3, "erythrocyte_differentiation(5)", 1e-3),
        ("m4", 1, "negative regulation of neutrophil migration (GO:1)", 0.2),
    )
    found = looked_up(table).set_index("lineage")
    assert found.loc["erythroid", ["term", "module", "frequency", "found"]].tolist() == [
        "HALLMARK_HEME_METABOLISM", "m2", 2, True,
    ]  # fmt: skip
    assert found.loc["granulocyte-monocyte", ["module", "found"]].tolist() == ["m4", False]  # q is not small enough
    none = looked_up(table, {"neuron": ("axon",)}).iloc[0]
    assert none["term"] == "" and np.isnan(none["q"]) and none["frequency"] is None and not none["found"]


def test_the_matrix_holds_the_best_q_of_each_frequency():
    table = rows(
        ("a", 1, "t1", 1e-3),
        ("b", 1, "t1", 1e-5),
        ("c", 10, "t1", 1e-1),
        ("c", 10, "t2", 1e-2),
        ("d", 2, "t3", 0.06),
        ("d", 2, "t4", 1e-4),
        ("d", 2, "t5", 1e-3),
    )
    found = term_matrix(table)
    assert found.index.tolist() == [1, 2, 10] and found.columns.tolist() == ["t1", "t4", "t5", "t2"]
    np.testing.assert_allclose(found.to_numpy(), [[5, 0, 0, 0], [0, 4, 3, 0], [1, 0, 0, 2]])
    # A frequency with strong terms does not crowd out the only one of another.
    assert set(term_matrix(table, most=3).columns) == {"t1", "t4", "t2"}
    assert term_matrix(table, frequencies=[2, 3]).to_numpy().tolist() == [[4, 3], [0, 0]]
    assert np.isfinite(term_matrix(rows(("a", 1, "t", 0.0))).to_numpy()).all()


# ---- real cells


def test_genes_of_erythrocytes_have_erythroid_terms(shared_data, no_network):
    """A positive control that knows no frequency: the 50 genes highest in one cell type over the others."""
    import anndata as ad

    cells = ad.read_h5ad(shared_data("paul2015_myeloid.h5ad"))
    counts = cells.layers["counts"]
    library = np.asarray(counts.sum(1)).ravel()
    x = np.log1p(counts.multiply(1e4 / library[:, None])).toarray()
    kind = cells.obs["cell_type"].astype(str).to_numpy()
    names = {"Erythrocyte": "erythroid", "Neutrophils": "granulocyte-monocyte"}
    lists = {}
    for name in names:
        t = x[kind == name].mean(0) - x[kind != name].mean(0)
        lists[name] = cells.var_names[np.argsort(-t)[:50]].tolist()
    path = Path(shared_data("gmt_go_bp_2015_mouse.gmt.gz"))
    sets = match_sets(read_gmt(path), cells.var_names, fold_case=True)
    found = looked_up(enrich(lists, sets)).set_index("lineage")
    assert found["found"].all(), found
    assert {lineage: found.loc[lineage, "module"] for lineage in found.index} == {v: k for k, v in names.items()}
