"""Gene sets of another case are offered and taken, those of too many genes cut, other identifiers refused."""

import gzip
from math import comb

import pytest

from stormcell.analysis.enrichment import enrich
from stormcell.analysis.gene_sets import UnmatchedSets, match_sets, read_gmt

GENES = [f"g{i}" for i in range(400)]


def test_sets_of_another_case_are_offered_and_taken():
    human = {"erythroid": ["GATA1", "KLF1", "EPOR", "HBA1", "ALAS2", "TAL1"]}
    mouse = ["Gata1", "Klf1", "Epor", "Alas2", "Tal1", "Elane"]
    with pytest.raises(
        UnmatchedSets, match=r"'ALAS2' there, 'Alas2' here.*0 genes match as written and 5 without case"
    ):
        match_sets(human, mouse)
    with pytest.raises(UnmatchedSets, match="fold_case=true"):
        match_sets(human, mouse)
    folded = match_sets(human, mouse, fold_case=True)
    assert folded.sizes.tolist() == [5] and any("without case: 0 as written, 5" in note for note in folded.notes)
    table = enrich({"m": ["Gata1", "Klf1"]}, folded)
    assert table["genes"].tolist() == ["Gata1;Klf1"]


def test_a_partial_match_by_case_is_told():
    sets = {"as here": [f"g{i}" for i in range(5)], "as there": [f"G{i}" for i in range(5, 40)]}
    matched = match_sets(sets, GENES)
    assert matched.terms == ("as here",)
    assert any("5 genes match as written and 40 without case" in note for note in matched.notes)


def test_other_identifiers_are_refused_with_an_example():
    sets = {"a": [f"ENSG{i}" for i in range(9)]}
    for fold_case in (False, True):
        with pytest.raises(UnmatchedSets, match=r"'ENSG0' there, 'g0' here.*0 genes match even without case"):
            match_sets(sets, GENES, fold_case=fold_case)


def test_symbols_that_differ_in_case_only_are_not_mixed_up():
    """Two species in one matrix: a symbol as written is itself, any other spelling is nobody's."""
    genes = ["GATA1", "Gata1", "Klf1"]
    sets = {"written": ["GATA1", "KLF1"], "neither": ["gata1", "klf1"]}
    matched = match_sets(sets, genes, fold_case=True, smallest=1)
    members = [[genes[g] for g in row] for row in (matched.members[[i]].indices for i in range(2))]
    assert members == [["GATA1", "Klf1"], ["Klf1"]]


def test_a_set_larger_than_the_background_is_cut_and_told():
    sets = {"everything": [*GENES, *(f"other{i}" for i in range(100))], "some": GENES[:20]}
    matched = match_sets(sets, GENES)
    assert matched.sizes.tolist() == [400, 20]
    assert any("more genes than the 400 measured ('everything': 500)" in note for note in matched.notes)
    p = enrich({"m": GENES[:10]}, matched)["p"]
    assert p.tolist() == pytest.approx([comb(20, 10) / comb(400, 10), 1.0])


def test_sizes_count_measured_genes():
    sets = {"4 of 9": [*GENES[:4], *"abcde"], "5": GENES[:5], "60": GENES[:60]}
    assert match_sets(sets, GENES, largest=50).terms == ("5",)
    assert match_sets(sets, GENES, smallest=4).terms == ("4 of 9", "5", "60")
    for wrong in ({"smallest": 0}, {"smallest": 9, "largest": 8}):
        with pytest.raises(ValueError, match="sets of"):
            match_sets(sets, GENES, **wrong)
    with pytest.raises(ValueError, match="0 measured genes"):
        match_sets(sets, [])
    with pytest.raises(UnmatchedSets, match="none of 0 gene sets"):
        match_sets({}, GENES)


def test_a_file_is_read_as_written(tmp_path):
    path = tmp_path / "own.gmt.gz"
    path.write_bytes(gzip.compress(b"one\t\tA\tb,1.0\t\t\ntwo words\tabout\tC\r\n\none\t\td\n"))
    assert read_gmt(path) == {"one": ["A", "b", "d"], "two words": ["C"]}
