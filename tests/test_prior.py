"""Priors: the right edges the right way round from every kind of file, and everything that is dropped is told."""

import gzip

import hydra
import numpy as np
import pandas as pd
import pytest
from conftest import ROOT
from omegaconf import OmegaConf
from scipy.sparse import csr_matrix

from stormcell.analysis.mask import Mask
from stormcell.config import UserError
from stormcell.data.prior import AllPrior, FilePrior, PlantedPrior, VarpPrior
from stormcell.data.simulate import simulate

GENES = ["Gata1", "Klf1", "Spi1", "Cebpa", "Hbb"]


def write(tmp_path, text, name="net.csv"):
    if name.endswith(".gz"):
        (tmp_path / name).write_bytes(gzip.compress(text.encode()))
    else:
        (tmp_path / name).write_text(text)
    return str(tmp_path / name)


def edges(prior, genes=GENES):
    """{regulator>target: sign} by name."""
    mask = prior.mask
    return {f"{genes[i]}>{genes[j]}": int(s) for i, j, s in zip(mask.regulator, mask.target, mask.sign, strict=True)}


SIGNED = {"Gata1>Klf1": 1, "Spi1>Gata1": -1, "Klf1>Hbb": 0}

# ---- tables of edges


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "tf,target,mor\nGata1,Klf1,1\nSpi1,Gata1,-1\nKlf1,Hbb,\n"),
        ("b.csv.gz", "source,target,sign\nGata1,Klf1,+\nSpi1,Gata1,-\nKlf1,Hbb,unknown\n"),
        ("c.tsv", "Regulator\tGene\tRegulation\nGata1\tKlf1\tActivates\nSpi1\tGata1\tinhibition\nKlf1\tHbb\tUnknown\n"),
        ("d.tsv.gz", "from\tto\teffect\nGata1\tKlf1\t0.3\nSpi1\tGata1\t-2.5\nKlf1\tHbb\tnan\n"),
        ("e.csv", "Gene1,Gene2,Type\nGata1,Klf1,+\nSpi1,Gata1,-\nKlf1,Hbb,\n"),
        ("f.tsv", "Gata1\tKlf1\tActivation\t1\nSpi1\tGata1\tRepression\t2;3\nKlf1\tHbb\tUnknown\t4\n"),
        ("g.csv", "target,weight,tf\nKlf1,2,Gata1\nGata1,-1,Spi1\nHbb,0.5,Klf1\nHbb,0,Gata1\n"),
    ],
)
def test_tables_are_read_by_the_names_of_their_columns(tmp_path, name, text):
    found = edges(FilePrior(write(tmp_path, text, name))(GENES, {}))
    assert found == (SIGNED | {"Klf1>Hbb": 1} if name == "g.csv" else SIGNED)  # weight 0 is no edge


def test_columns_may_be_named_and_confidence_chosen(tmp_path):
    text = "A,B,C,confidence\nKlf1,Gata1,1,A\nGata1,Spi1,-1,B\nHbb,Klf1,0.1,C\n"
    rule = FilePrior(write(tmp_path, text), "B", "A", "C", confidence=["A", "B"])
    assert edges(rule(GENES, {})) == {"Gata1>Klf1": 1, "Spi1>Gata1": -1}


def test_strengths_without_a_negative_one_have_no_sign(tmp_path):
    prior = FilePrior(write(tmp_path, "tf,target,weight\nGata1,Klf1,3.5\nSpi1,Gata1,0.2\n"))(GENES, {})
    assert edges(prior) == {"Gata1>Klf1": 0, "Spi1>Gata1": 0}
    assert any("no weight is negative" in note for note in prior.notes)


def test_repeated_unknown_and_self_edges_are_told(tmp_path):
    text = "tf,target,mor\nGata1,Klf1,1\nGata1,Klf1,-1\nSpi1,Gata1,-1\nSpi1,Gata1,\nKlf1,Klf1,1\nGata1,X,1\nY,Klf1,1\n"
    prior = FilePrior(write(tmp_path, text))(GENES, {})
    assert edges(prior) == {"Gata1>Klf1": 0, "Spi1>Gata1": -1}
    assert prior.notes == [
        "2 of 5 edges, 2 of 4 regulators and 2 of 3 targets of net.csv are among the genes",
        "net.csv: not among the genes of the cells: 2 names, in 2 rows",
        "net.csv: repeated edges merged: 2; sign unknown for both signs: 1",
        "net.csv: self edges left out: 1",
    ]


# ---- names


def test_names_are_compared_without_case_only_where_that_finds_more(tmp_path):
    human = "tf,target,mor\nGATA1,KLF1,1\nSPI1,GATA1,-1\nKLF1,HBB,\n"
    prior = FilePrior(write(tmp_path, human))(GENES, {})
    assert edges(prior) == SIGNED
    assert "gene names compared without case: 4 of 4 are found, 0 exactly" in prior.notes
    mouse = FilePrior(write(tmp_path, "tf,target\nGata1,Klf1\nGATA1,Hbb\nSpi1,Klf1\nCebpa,Klf1\n"))(GENES, {})
    assert edges(mouse) == {"Gata1>Klf1": 0, "Spi1>Klf1": 0, "Cebpa>Klf1": 0}


def test_genes_that_differ_in_case_alone_are_not_guessed(tmp_path):
    prior = FilePrior(write(tmp_path, "tf,target\nGATA1,KLF1\nSPI1,HBB\nSPI1,CEBPA\n"))([*GENES, "gata1"], {})
    assert edges(prior) == {"Spi1>Hbb": 0, "Spi1>Cebpa": 0}


def test_an_alias_serves_genes_of_the_old_name_and_spares_those_of_the_new(tmp_path):
    path, old = write(tmp_path, "tf,target\nSpi1,Gata1\n"), ["Gata1", "Sfpi1"]
    prior = FilePrior(path, aliases={"Spi1": "Sfpi1"})(old, {})
    assert edges(prior, old) == {"Sfpi1>Gata1": 0}
    assert "Spi1 of the network is Sfpi1 in the cells" in prior.notes
    assert edges(FilePrior(path, aliases={"Spi1": "Sfpi1"})([*GENES, "Sfpi1"], {})) == {"Spi1>Gata1": 0}


# ---- matrices


MATRIX = pd.DataFrame([[0, 1.5, 0], [-2, 0, 0.5]], ["Spi1", "Gata1"], ["Gata1", "Klf1", "Spi1"])


def test_one_asymmetric_entry_fixes_the_orientation(tmp_path):
    """Rows regulate columns; the transposed file says the same once its orientation is told."""
    expected = {"Spi1>Klf1": 1, "Gata1>Spi1": 1}  # Gata1 on itself is no edge
    MATRIX.to_csv(tmp_path / "m.csv")
    MATRIX.T.to_csv(tmp_path / "t.tsv.gz", sep="\t")
    assert edges(FilePrior(str(tmp_path / "m.csv"))(GENES, {})) == expected
    turned = FilePrior(str(tmp_path / "t.tsv.gz"), orientation="columns_regulate_rows")
    assert edges(turned(GENES, {})) == expected
    assert edges(FilePrior(str(tmp_path / "t.tsv.gz"))(GENES, {})) == {"Klf1>Spi1": 1, "Spi1>Gata1": 1}


def test_a_matrix_of_ones_has_no_signs(tmp_path):
    (MATRIX != 0).astype(int).to_csv(tmp_path / "m.csv")
    assert set(edges(FilePrior(str(tmp_path / "m.csv"))(GENES, {})).values()) == {0}


@pytest.mark.parametrize("form", [np.asarray, csr_matrix])
def test_varp_of_a_file_and_of_an_object(tmp_path, form):
    import anndata as ad

    values = np.zeros((5, 5))
    values[0, 1], values[2, 0] = 1, -3
    cells = ad.AnnData(np.ones((3, 5), np.float32), var=pd.DataFrame(index=GENES), varp={"grn": form(values)})
    cells.write_h5ad(tmp_path / "cells.h5ad")
    expected = {"Gata1>Klf1": 1, "Spi1>Gata1": -1}
    kept = ["Spi1", "Gata1", "Klf1"]  # another order and fewer genes than the file has
    assert edges(VarpPrior(str(tmp_path / "cells.h5ad"), "grn")(kept, {}), kept) == expected
    assert edges(VarpPrior(key="grn")(kept, {}, cells), kept) == expected
    with pytest.raises(UserError, match=r"no varp 'grm' \(prior\.key\) \(did you mean 'grn'\?\); varp: grn"):
        VarpPrior(str(tmp_path / "cells.h5ad"), "grm")(GENES, {})
    with pytest.raises(UserError, match=r"AnnData object: no varp 'x'"):
        VarpPrior(key="x")(GENES, {}, cells)
    with pytest.raises(UserError, match=r"prior\.path is missing"):
        VarpPrior()(GENES, {})


# ---- transposed


def wide(regulator="tf", target="target"):
    """4 regulators on 200 genes."""
    rows = [f"TF{i % 4},g{i}" for i in range(200)]
    return f"{regulator},{target}\n" + "\n".join(rows) + "\n", [f"g{i}" for i in range(200)] + [
        f"TF{i}" for i in range(4)
    ]


def test_a_network_on_its_side_is_refused_by_its_numbers(tmp_path):
    text, genes = wide()
    assert FilePrior(write(tmp_path, text))(genes, {}).mask.n_edges == 200
    text, genes = wide("target", "tf")
    with pytest.raises(UserError, match=r"net\.csv \(prior\.path\) looks transposed: 200 regulators such as g0 of 4"):
        FilePrior(write(tmp_path, text))(genes, {})
    matrix = pd.DataFrame(np.ones((200, 4)), genes[:200], genes[200:])
    matrix.to_csv(tmp_path / "m.csv")
    with pytest.raises(UserError, match=r"prior\.orientation=columns_regulate_rows"):
        FilePrior(str(tmp_path / "m.csv"))(genes, {})


def test_a_list_of_regulators_has_the_last_word(tmp_path):
    text, genes = wide("target", "tf")
    targets = write(tmp_path, "\n".join(genes[:200]), "regulators.txt")
    assert FilePrior(write(tmp_path, text), regulators_path=targets)(genes, {}).mask.n_edges == 200
    few = "tf,target\ng0,TF1\ng1,TF2\n"  # too few for numbers to tell
    assert FilePrior(write(tmp_path, few))(genes, {}).mask.n_edges == 2
    factors = write(tmp_path, "tf0\ntf1\ntf2\ntf3\n", "regulators.txt")
    with pytest.raises(UserError, match="is transposed: 100% of its targets but 0% of its regulators"):
        FilePrior(write(tmp_path, few), regulators_path=factors)(genes, {})


# ---- bad input


@pytest.mark.parametrize(
    ("text", "keys", "says"),
    [
        ("tf,target\nENSG1,ENSG2\n", {}, r"net\.csv \(prior\.path\): none of .* ENSG1, ENSG2, the cells Gata1, Klf1"),
        ("tf,target\nGata1,X\nY,Klf1\n", {}, "2 of its genes are among those of the cells, but no edge joins two"),
        ("tf,targt\nA,B\n", {}, r"no column target, to, .* \(did you mean 'targt'\?\); name it with prior\.target_"),
        ("a,b\nGata1,Klf1\n", {}, r"neither a table of edges .* nor a matrix: 'Klf1' is no finite number"),
        ("tf,target,mor\nGata1,Klf1,maybe\n", {}, r"\(prior\.sign_column\): 'maybe' in column 'mor' is no sign"),
        ("tf,target\nGata1,Klf1\n", {"sign_column": "mor"}, r"no column 'mor' \(prior\.sign_column\); columns: tf"),
        ("tf,target\nGata1,Klf1\n", {"confidence": "A"}, r"no column confidence for prior\.confidence"),
        ("tf,target,confidence\nGata1,Klf1,A\n", {"confidence": ["A", "B"]}, r"no edge of confidence 'B'.*levels: A"),
        ("tf,target\nGata1,Klf1\n", {"orientation": "rows"}, r"prior\.orientation=rows.*: rows_regulate_columns or"),
        ("tf,target\nGata1,Klf1\n", {"orientation": "columns_regulate_rows"}, "is of matrices, and this is a table"),
        ("x,Klf1\nGata1,1\n", {"confidence": "A"}, r"a matrix has no prior\.confidence"),
    ],
)  # fmt: skip
def test_bad_files(tmp_path, text, keys, says):
    with pytest.raises(UserError, match=says):
        FilePrior(write(tmp_path, text), **keys)(GENES, {})


def test_a_missing_path_says_what_to_give():
    with pytest.raises(
        UserError, match=r"prior\.path is missing: prior\.path=FILE names a table with columns tf, target"
    ):
        FilePrior()(GENES, {})
    with pytest.raises(UserError, match=r"prior\.path=nowhere\.csv: no such file"):
        FilePrior("nowhere.csv")(GENES, {})


# ---- every edge, planted edges


def test_every_listed_regulator_on_every_gene(tmp_path):
    prior = AllPrior(write(tmp_path, "Spi1\nGATA2\nGata1\n\n", "tf.txt"))(GENES, {})
    np.testing.assert_array_equal(prior.mask.regulators, [0, 2])
    assert prior.mask.n_edges == 2 * 5 - 2
    assert prior.notes == ["2 of 3 listed regulators are among the genes"]
    assert AllPrior()(GENES, {}).mask.n_edges == 5 * 4
    with pytest.raises(UserError, match=r"prior=all lets each of 501 genes .* prior.regulators_path=FILE"):
        AllPrior()([f"g{i}" for i in range(501)], {})
    with pytest.raises(UserError, match=r"tf\.txt \(prior\.regulators_path\): none of its genes"):
        AllPrior(write(tmp_path, "X\n", "tf.txt"))(GENES, {})


def planted_truth():
    made = simulate(n_cells=50, n_genes=80, n_factors=8, n_singles=2, n_pairs=0, n_interacting=0)
    truth = {**made.truth, "genes": made.genes}
    dense = np.zeros((80, 80))
    dense[:8] = made.truth["network"]
    np.fill_diagonal(dense, 0)
    return made.genes, truth, dense


def test_the_planted_network_and_as_many_false_edges():
    genes, truth, dense = planted_truth()
    bare = PlantedPrior(decoys=0)(genes, truth).mask
    np.testing.assert_array_equal(bare.dense(np.ones(bare.n_edges)), dense != 0)
    mask = PlantedPrior(decoys=1)(genes, truth).mask
    true = (dense != 0).sum(0)
    room = (true > 0) * (len(np.unique(np.nonzero(dense)[0])) - true - np.isin(np.arange(80), np.nonzero(dense)[0]))
    np.testing.assert_array_equal(mask.in_degree, true + np.minimum(true, room))
    assert (mask.dense(np.ones(mask.n_edges))[dense != 0] == 1).all()
    assert not mask.sign.any()  # or the signs would give the false edges away
    assert set(mask.regulators) <= set(np.nonzero(dense)[0])


def test_the_false_edges_depend_on_names_and_seed_alone():
    genes, truth, _ = planted_truth()
    order = np.random.default_rng(0).permutation(80)
    moved = [genes[i] for i in order]
    found = set(edges(PlantedPrior()(genes, truth), genes))
    assert set(edges(PlantedPrior()(moved, truth), moved)) == found
    assert set(edges(PlantedPrior(seed=1)(genes, truth), genes)) != found


def test_a_square_truth_and_a_part_of_its_genes():
    network = np.array([[1, -1, 0], [0, 0, 1], [1, 0, 0]])  # A ⊣ B → C → A, A → A
    truth = {"network": network, "genes": ["A", "B", "C"]}
    genes = ["C", "x", "B", "A"]
    assert set(edges(PlantedPrior(0)(genes, truth), genes)) == {"A>B", "B>C", "C>A"}
    assert set(edges(PlantedPrior(0)(["B", "C"], truth), ["B", "C"])) == {"B>C"}
    with pytest.raises(UserError, match="no true edge is between the genes that were kept"):
        PlantedPrior()(["A", "x"], truth)
    with pytest.raises(UserError, match=r"prior=planted needs simulated cells .*prior=file prior\.path=FILE"):
        PlantedPrior()(genes, {})


# ---- configs and real networks


def config(name, **values):
    return hydra.utils.instantiate(OmegaConf.merge(OmegaConf.load(ROOT / "conf" / "prior" / f"{name}.yaml"), values))


def test_the_configs_are_the_rules():
    assert config("planted") == PlantedPrior()
    assert config("all") == AllPrior()
    assert config("file") == FilePrior()
    assert config("varp", path=None) == VarpPrior()


REAL = {
    "dorothea_mouse": (1153, 72, 655, "1,153 of 12,895 edges, 72 of 273 regulators and 655 of 5,130 targets"),
    "trrust_mouse": (519, 120, 243, "519 of 6,490 edges, 120 of 827 regulators and 243 of 2,092 targets"),
    "dorothea_human": (None, None, None, "gene names compared without case"),
    "collectri_human": (None, None, None, "gene names compared without case"),
}


@pytest.mark.parametrize("name", REAL)
def test_real_networks_on_real_genes(shared_data, name):
    """The counts are those of a join of the two lists of names, found by another program for DoRothEA."""
    import h5py
    from anndata.io import read_elem

    rule = config(name)
    shared_data(rule.path)
    with h5py.File(shared_data("paul2015_myeloid.h5ad")) as file:
        genes = list(read_elem(file["var"]).index)
    prior = rule(genes, {})
    n_edges, n_regulators, n_targets, note = REAL[name]
    assert any(note in told for told in prior.notes)
    if n_edges is not None:
        mask = prior.mask
        assert (mask.n_edges, len(mask.regulators), len(np.unique(mask.target))) == (n_edges, n_regulators, n_targets)
        assert mask.out_degree[genes.index("Sfpi1")] > 0
    assert isinstance(prior.mask, Mask)


def test_real_networks_turned_round_are_refused(shared_data):
    """DoRothEA and TRRUST, mouse: by numbers, and by a list of regulators."""
    path, regulators = str(shared_data("net_dorothea_ABC_mouse.csv.gz")), str(shared_data("tf_mouse.txt"))
    other = str(shared_data("net_trrust_v2_mouse.csv.gz"))
    for file, listed in ((path, None), (path, regulators), (other, None), (other, regulators)):
        with pytest.raises(UserError, match="transposed"):
            FilePrior(file, "target", "tf", regulators_path=listed)(GENES, {})
        assert FilePrior(file, regulators_path=listed)(["Gata1", "Nfe2"], {}).mask.n_edges
