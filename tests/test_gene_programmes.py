"""Planted programmes come back; enrichment equals scipy's hypergeometric test and Benjamini–Hochberg over all sets."""

import gzip

import numpy as np
import pandas as pd
import pytest
from scipy.stats import false_discovery_control, hypergeom

from stormcell.analysis.gene_programmes import enrichment, programme_genes, programmes, read_gene_sets
from stormcell.config import UserError

GO = "gmt_go_bp_2021_human.gmt.gz"


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def planted_means(rng, sizes=(5, 4, 3), K=6, spread=0.3):
    centres = 3 * np.eye(len(sizes), K)
    truth = np.repeat(np.arange(len(sizes)), sizes)
    return centres[truth] + spread * rng.normal(size=(len(truth), K)), truth, [f"T{i:02}" for i in range(len(truth))]


def test_planted_programmes_come_back_largest_first(rng):
    means, truth, names = planted_means(rng)
    table = programmes(means, names)
    assert table.groupby("programme")["perturbation"].apply(list).tolist() == [
        [name for name, group in zip(names, truth, strict=True) if group == g] for g in range(3)
    ]
    assert (table["silhouette"] > 0.5).all()


def test_the_order_of_perturbations_does_not_matter(rng):
    means, _, names = planted_means(rng)
    order = rng.permutation(len(names))
    pd.testing.assert_frame_equal(programmes(means, names), programmes(means[order], [names[i] for i in order]))


def test_a_given_number_is_taken(rng):
    means, _, names = planted_means(rng)
    assert [programmes(means, names, n)["programme"].nunique() for n in (1, 2, 5, 12)] == [1, 2, 5, 12]


def test_the_silhouette_is_rousseeuw_s(rng):
    means, _, names = planted_means(rng, sizes=(3, 2))
    table = programmes(means, names, 2).set_index("perturbation")
    distance = np.linalg.norm(means[:, None] - means, axis=-1)
    within, other = distance[0, [1, 2]].mean(), distance[0, [3, 4]].mean()
    np.testing.assert_allclose(table.loc["T00", "silhouette"], (other - within) / max(within, other))


def test_perturbations_at_equal_distances_are_one_programme():
    table = programmes(np.eye(6), [f"T{i}" for i in range(6)])
    assert table["programme"].tolist() == [1] * 6
    assert table["silhouette"].isna().all()


@pytest.mark.parametrize("P", [1, 2])
def test_too_few_to_cluster_are_programmes_of_one(P):
    assert programmes(np.arange(P)[:, None], ["b", "a"][:P])["programme"].tolist() == list(range(1, P + 1))


def test_means_that_are_not_finite_and_impossible_numbers_are_refused():
    with pytest.raises(ValueError, match="finite"):
        programmes(np.array([[np.nan], [1.0]]), ["a", "b"])
    with pytest.raises(ValueError, match="3 programmes"):
        programmes(np.zeros((2, 1)), ["a", "b"], n=3)


def two_programmes():
    return pd.DataFrame({"programme": [1, 1, 2], "perturbation": ["A", "B", "C"], "silhouette": np.nan})


def test_fold_changes_are_weighed_by_their_certainty():
    lfc = np.array([[1.0, -2.0, 0.0], [np.nan, -1.0, 4.0], [3.0, 0.0, -1.0]])  # C, A, B
    weight = np.array([[1.0, 1.0, 1.0], [1.0, 3.0, 1.0], [1.0, 1.0, 0.0]])
    table = programme_genes(two_programmes(), ["C", "A", "B"], lfc, weight, ["x", "y", "z"])
    found = {(row.programme, row.gene): (row.lfc, row.rank, row.direction) for row in table.itertuples()}
    assert found == {
        (1, "z"): (4.0, 1, "up"),  # B has no weight there
        (1, "x"): (3.0, 2, "up"),  # A is not known there
        (1, "y"): (-0.75, 1, "down"),
        (2, "x"): (1.0, 1, "up"),
        (2, "y"): (-2.0, 1, "down"),
    }
    cut = programme_genes(two_programmes(), ["C", "A", "B"], lfc, weight, ["x", "y", "z"], top=1)
    assert cut["gene"].tolist() == ["z", "y", "x", "y"]


def test_weights_of_another_shape_are_refused():
    with pytest.raises(ValueError, match="weight"):
        programme_genes(two_programmes(), ["A", "B", "C"], np.zeros((3, 2)), np.zeros((3, 1)), ["x", "y"])


def top_genes(up, down=(), programme=1):
    rows = [(programme, gene, 1.0, 1, way) for way, genes in (("up", up), ("down", down)) for gene in genes]
    return pd.DataFrame(rows, columns=["programme", "gene", "lfc", "rank", "direction"])


def test_p_is_hypergeometric_and_q_counts_the_sets_without_a_hit():
    genes = [f"{i}" for i in range(100)]  # names that are numbers too
    sets = {f"set {k}": genes[6 * k : 6 * k + 6] for k in range(16)}
    up, down = [*genes[:5], *genes[6:8], *genes[20:23]], genes[30:34]
    table = enrichment(top_genes(up, down), sets, genes)
    p = {
        ("up", "set 0"): hypergeom.sf(4, 100, 6, 10),
        ("up", "set 1"): hypergeom.sf(1, 100, 6, 10),
        ("up", "set 3"): hypergeom.sf(2, 100, 6, 10),
        ("down", "set 5"): hypergeom.sf(3, 100, 6, 4),
    }
    found = table.set_index(["direction", "term"])
    assert set(found.index) == set(p)
    np.testing.assert_allclose(found.loc[list(p), "p"], list(p.values()))
    np.testing.assert_allclose(
        found.loc[list(p), "q"], false_discovery_control([*p.values(), *np.ones(28)])[:4]
    )  # 2 × 16 tests
    assert found.loc[("up", "set 0"), "overlap"] == "5/6"
    assert found.loc[("up", "set 0"), "genes"] == "0;1;2;3;4"
    assert table["p"].is_monotonic_increasing


def test_nothing_enriched_is_an_empty_table_with_its_columns():
    genes = [f"g{i}" for i in range(20)]
    table = enrichment(top_genes(genes[:1]), {"a": genes[:6]}, genes)
    assert table.empty
    assert {"programme", "term", "overlap", "p", "q", "genes"} <= set(table.columns)


def test_random_genes_are_not_enriched(rng):
    genes = [f"g{i}" for i in range(500)]
    sets = {f"set {k}": list(rng.choice(genes, 20, replace=False)) for k in range(200)}
    least = [enrichment(top_genes(rng.choice(genes, 40, replace=False)), sets, genes)["q"].min() for _ in range(20)]
    assert np.mean(np.array(least) < 0.05) <= 0.1


def test_interferon_genes_of_real_sets_are_found_offline(shared_data, monkeypatch):
    path = shared_data(GO)
    with gzip.open(path, "rt") as lines:
        members = [line.rstrip("\n").split("\t") for line in lines]
    everything = sorted({gene for fields in members for gene in fields[2:]})
    genes = [gene.capitalize() for gene in everything[::5]]  # another case, some of the genes
    name = "cellular response to type I interferon (GO:0071357)"
    truth = [g for fields in members if fields[0] == name for g in fields[2:]]
    up = [gene for gene in genes if gene.upper() in truth][:30]

    def no_network(*_args, **_kwargs):
        raise AssertionError("the network was asked")

    monkeypatch.setattr("socket.socket.connect", no_network)
    table = enrichment(top_genes(up), read_gene_sets(path, genes), genes)
    assert name in table["term"].head(2).tolist()
    assert table["q"][0] < 1e-6


def test_sets_are_cut_to_the_genes_of_the_model(tmp_path):
    path = tmp_path / "own.gmt"
    path.write_text("small\t\tA\tB\nkept\tabout\ta\tb\tC\tD\tE\tF\tA\n")
    assert read_gene_sets(path, ["A", "b", "c", "D", "e", "x"]) == {"kept": ["A", "D", "b", "c", "e"]}


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("missing.gmt", None, "missing.gmt: no such file of gene sets \\(did you mean 'missin.gmt'"),
        ("commas.gmt", "a,b,c\n", "line 1 is no gene set"),
        ("empty.gmt", "", "line 1 is no gene set"),
        ("mouse.gmt", "a\t\tEnsmus1\tEnsmus2\tEnsmus3\tEnsmus4\tEnsmus5\n", "'Ensmus1' there, 'A' here"),
        ("plain.gmt.gz", "a\t\tA\n", "gzipped text"),
    ],
)
def test_a_file_that_cannot_serve_is_named(tmp_path, name, text, found):
    (tmp_path / "missin.gmt").write_text("a\t\tA\n")
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=found):
        read_gene_sets(tmp_path / name, ["A", "B"])
