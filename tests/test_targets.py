"""What is known of targets beside the cells: the spectra, the files, and who is left without a vector."""

import gzip
import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from scipy.sparse import csr_matrix

from stormcell.analysis.embedding import TargetEmbedding, gene_scores, leading, network_vectors
from stormcell.analysis.linear import two_ridge
from stormcell.analysis.pseudobulk import Pseudobulk
from stormcell.config import DataConfig, UserError
from stormcell.data import targets
from stormcell.data.cells import read
from stormcell.data.csr import group_mean, row_normalise_log1p
from stormcell.data.spec import Spec

CONF = Path(__file__).parents[1] / "conf" / "targets"


def spec_of(names, genes=("g0", "g1")):
    names = sorted(names)
    return Spec(tuple(genes), tuple(names), tuple(names), "counts", {}, (), ())


def ask(function, train_targets, wanted=None, genes=("g0", "g1"), train=None, **keys):
    return function(spec=spec_of(train_targets, genes), train=train, wanted=wanted or train_targets, **keys)


def some_train(n_conditions=6, n_genes=9, seed=0):
    rng = np.random.default_rng(seed)
    shifts = {f"t{i}": rng.normal(size=n_genes) for i in range(n_conditions)}
    return Pseudobulk.of_shifts(shifts, rng.uniform(0, 3, n_genes))


def written(folder, name, text):
    path = folder / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return str(path)


def same_up_to_sign(a, b):
    return a.shape == b.shape and np.allclose(np.abs(np.sum(a * b, 0)), np.linalg.norm(a, axis=0) ** 2)


# ---- the embedding


def test_a_pair_is_the_sum_of_its_targets_and_control_is_zero():
    made = TargetEmbedding("table", ("A", "B"), np.array([[1.0, 2], [10, 20]]))
    assert np.array_equal(made.of(["A", "A+B", "none", "A+C"], "none")[:3], [[1, 2], [11, 22], [0, 0]])
    assert np.isnan(made.of(["A+C"])).all()
    assert made.missing("A+C") == ["C"] and made.missing("control") == []


def test_a_record_is_plain_and_gives_the_same_embedding():
    made = TargetEmbedding("learnable", ("A", "B"), np.random.default_rng(0).normal(size=(2, 3)), ("a note",), 7)
    file = io.BytesIO()
    torch.save(made.record(), file)
    file.seek(0)
    again = TargetEmbedding.from_record(torch.load(file, weights_only=True))
    assert np.array_equal(again.vectors, made.vectors) and again.vectors.dtype == np.float64
    assert (again.kind, again.targets, again.notes, again.dim) == ("learnable", ("A", "B"), ("a note",), 7)


def test_what_needs_no_file():
    made = ask(targets.multi_hot, ["A", "B"], wanted=["A", "B", "Z"])
    assert np.array_equal(made.vectors, np.eye(2)) and made.missing("A+Z") == ["Z"] and made.dim == 2
    made = ask(targets.learnable, ["A", "B"], dim=5)
    assert (made.kind, made.dim) == ("learnable", 5) and np.array_equal(made.vectors, np.eye(2))
    with pytest.raises(UserError, match=r"targets\.dim=0"):
        ask(targets.learnable, ["A"], dim=0)


# ---- spectra


@pytest.mark.parametrize("shape", [(5, 12), (12, 5)])
@pytest.mark.parametrize("form", [np.asarray, csr_matrix])
def test_leading_is_the_svd(shape, form):
    matrix = np.random.default_rng(1).normal(size=shape)
    U, s, _ = np.linalg.svd(matrix, full_matrices=False)
    left, values = leading(form(matrix), 3)
    assert np.allclose(values, s[:3]) and same_up_to_sign(left, U[:, :3])
    assert (left[np.abs(left).argmax(0), range(3)] > 0).all()
    assert leading(form(matrix), 99)[0].shape == (shape[0], 5)


def test_leading_stops_at_the_rank():
    rng = np.random.default_rng(2)
    matrix = rng.normal(size=(8, 2)) @ rng.normal(size=(2, 6))
    assert leading(matrix, 5)[0].shape == (8, 2)
    assert leading(np.zeros((3, 4)), 2)[0].shape == (3, 0)


def test_gene_scores_are_those_of_the_profiles_and_not_of_the_shifts():
    train = some_train()
    X = np.column_stack([*train.means, train.controls["all"]])
    U, s, _ = np.linalg.svd(X - X.mean(0), full_matrices=False)
    found = gene_scores(train, 4)
    assert same_up_to_sign(found / s[:4], U[:, :4]) and np.allclose(np.linalg.norm(found, axis=0), s[:4])
    shifts = train.shifts.T - train.shifts.T.mean(0)
    assert not np.allclose(np.linalg.norm(found, axis=0), np.linalg.svd(shifts, compute_uv=False)[:4], rtol=0.01)


def test_gene_row_is_the_row_of_a_measured_target():
    train = some_train(n_genes=9)
    genes = [f"t{i}" if i < 4 else f"g{i}" for i in range(9)]
    made = ask(targets.gene_row, ["t0", "t1", "t2"], ["t0", "t3"], genes, train, dim=4)
    assert np.array_equal(made.of(["t3"])[0], gene_scores(train, 4)[3])
    with pytest.raises(UserError, match=r"targets=gene_row: only 2 of 4 targets are measured genes, not x, y;.*=drop"):
        ask(targets.gene_row, ["t0", "x"], ["t0", "t3", "x", "y"], genes, train)
    made = ask(targets.gene_row, ["t0", "x"], ["t0", "t3", "x", "y"], genes, train, dim=99, missing="drop")
    assert made.missing("t0+x") == ["x"]
    assert "left out: x, y" in made.notes[0]
    assert "targets.dim=99 asked for, but the data span only 7" in made.notes[1]


# ---- tables


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("p.csv", "gene,a,b\nA,1,2\nB,3,4\n"),
        ("p.csv.gz", ",0,1\nA,1,2\nB,3,4\n"),
        ("p.tsv", "gene\ta\tb\nA\t1\t2\nB\t3\t4\n"),
        ("p.txt.gz", "V1\tV2\nA\t1\t2\nB\t3\t4\n"),  # as R writes row names
    ],
)
def test_a_table_is_read_whatever_wrote_it(tmp_path, name, text):
    made = ask(targets.table, ["A", "B"], path=written(tmp_path, name, text))
    assert made.targets == ("A", "B") and np.array_equal(made.vectors, [[1, 2], [3, 4]])


def test_names_that_look_like_missing_values_are_names(tmp_path):
    made = ask(targets.table, ["NA", "1"], path=written(tmp_path, "p.csv", "g,a\nNA,1\n1,2\n"))
    assert np.array_equal(made.of(["1", "NA"]), [[2], [1]])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("g,a\nA,1\nB,2\nA,3\n", r"p\.csv \(targets\.path\): names stand more than once.*\(A\)"),
        ("g,a,b\nA,1,2\nB,3,high\n", r"'high' in row 'B', column 'b': no finite number"),
        ("g,a\nA,1\nB,\n", r"'' in row 'B', column 'a'"),
        ("g,a\nA,1\nB,nan\n", r"'nan' in row 'B'"),
        ("g,a\nA,inf\nB,-inf\n", r"'inf' in row 'A', column 'a' and 1 more"),
        ("g,a\nA,1\n,2\n", "row 3 has no name"),
        ("A,1.5,2\nB,3,4\n", "the first row holds numbers"),
        ("A;1\nB;2\n", "names and numbers are needed"),
        ("g,a\n", "0 rows"),
        ("", "could not be read as a table"),
        ("g,a\nA,1\nB,2,3,4\n", "could not be read as a table"),
        ("g,a\na,1\nb,2\n", r"only 0 of 2 targets.*not A, B \(did you mean 'a' for A\?\); no training target does"),
        ("g,a\nA,1\n", r"only 1 of 2 targets stand in .*p\.csv, not B; targets\.missing=drop"),
        ("g,a\nA,1\nb,1\n", r"not B \(did you mean 'b' for B\?\); targets\.missing=drop"),
    ],
)
def test_a_table_is_refused_with_the_reason(tmp_path, text, said):
    with pytest.raises(UserError, match=said):
        ask(targets.table, ["A", "B"], path=written(tmp_path, "p.csv", text))


def test_nothing_in_common_is_refused_even_when_targets_may_be_dropped(tmp_path):
    path = written(tmp_path, "p.csv", "g,a\nX,1\nZ,2\n")
    with pytest.raises(UserError, match=r"only 1 of 3 targets.*no training target does, names there are like X, Z"):
        ask(targets.table, ["A", "B"], ["A", "B", "Z"], path=path, missing="drop")


def test_keys_that_are_wrong(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = written(tmp_path, "vectors.csv", "g,a\nA,1\n")
    with pytest.raises(UserError, match=r"targets\.path=vector\.csv: no such file.*'vectors\.csv'"):
        ask(targets.table, ["A"], path="vector.csv")
    with pytest.raises(UserError, match=r"targets\.missing=dropp.*'drop'"):
        ask(targets.table, ["A"], path=path, missing="dropp")
    with pytest.raises(UserError, match=r"targets\.path=\[\]"):
        ask(targets.network, ["A"], path=[])


def test_many_missing_targets_are_counted_and_eight_named(tmp_path):
    names = [f"x{i:02}" for i in range(20)]
    with pytest.raises(UserError, match=r"only 1 of 21 targets.*not x00, .*x07, … \(20 in all\)"):
        ask(targets.table, ["A", *names], path=written(tmp_path, "p.csv", "g,a\nA,1\n"))


# ---- networks


def two_communities(seed=0, negative=0.2):
    """Regulons (tf, target, mor) and gene sets of two groups of 20 genes, a tenth of the edges across."""
    rng = np.random.default_rng(seed)
    group = [[f"{letter}{i:02}" for i in range(20)] for letter in "PQ"]
    edges = []
    for side in (0, 1):
        for tf in group[side][:6]:
            for target in rng.choice(group[side], 8, replace=False):
                other = group[1 - side][rng.integers(20)] if rng.random() < 0.1 else target
                edges.append((tf, str(other), 1 - 2 * int(rng.random() < negative)))
    sets = [(f"set {side}{i}", rng.choice(group[side], 7, replace=False)) for side in (0, 1) for i in range(5)]
    return edges, [f"{name}\tabout\t" + "\t".join(genes) for name, genes in sets]


def write_network(folder, edges, sets):
    table = written(folder, "net.csv", "tf,target,mor\n" + "".join(f"{a},{b},{sign}\n" for a, b, sign in edges))
    return [table, written(folder, "sets.gmt.gz", "\n".join(sets) + "\n")]


def dense_network(edges, sets, anchors, k):
    """The definition, gene by gene on dense matrices, for edges that stand once."""
    named = [(a, ("regulates", b), s) for a, b, s in edges] + [(b, ("regulated by", a), s) for a, b, s in edges]
    named += [(gene, line.split("\t")[0], 1) for line in sets for gene in line.split("\t")[2:]]
    genes, features = sorted({g for g, _, _ in named}), sorted({f for _, f, _ in named}, key=str)
    A = np.zeros((len(genes), len(features)))
    for gene, feature, sign in named:
        A[genes.index(gene), features.index(feature)] = sign
    A = A[:, np.abs(A).sum(0) > 1]
    B = A / np.sqrt(np.abs(A).sum(0))
    B /= np.maximum(np.linalg.norm(B, axis=1, keepdims=True), 1e-12)
    rows = B[[genes.index(name) for name in anchors]]
    V = np.linalg.svd(rows, full_matrices=False)[2][:k].T
    return genes, B @ V / np.sqrt(np.square(rows @ V).sum(1).mean()), B


ANCHORS = ["P00", "P03", "P09", "P14", "Q01", "Q05", "Q11", "Q16"]


def test_network_vectors_equal_their_definition(tmp_path):
    edges, sets = two_communities()
    edges = list({(a, b): (a, b, s) for a, b, s in edges}.values())
    made = ask(targets.network, ANCHORS, path=write_network(tmp_path, edges, sets), dim=3)
    genes, expected, _ = dense_network(edges, sets, ANCHORS, 3)
    assert made.targets == tuple(genes) and same_up_to_sign(made.vectors, expected)
    assert np.isclose(np.square(made.of(ANCHORS)).sum(1).mean(), 1)


def test_with_all_dimensions_a_linear_model_loses_nothing(tmp_path):
    """Products with the vectors of the training targets are those of the whole rows, up to the one factor."""
    edges, sets = two_communities(1)
    edges = list({(a, b): (a, b, s) for a, b, s in edges}.values())
    made = ask(targets.network, ANCHORS, path=write_network(tmp_path, edges, sets), dim=99)
    genes, _, B = dense_network(edges, sets, ANCHORS, 8)
    assert np.allclose(made.vectors @ made.of(ANCHORS).T, B @ B[[genes.index(a) for a in ANCHORS]].T)
    assert any("targets.dim=99" in note for note in made.notes)


def test_targets_of_one_community_are_near(tmp_path):
    made = ask(targets.network, ANCHORS, path=write_network(tmp_path, *two_communities(2, negative=0)), dim=2)
    held = [name for name in made.targets if name not in ANCHORS and made.of([name]).any()]
    vectors, anchors = made.of(held), made.of(ANCHORS)
    cosine = vectors @ anchors.T / np.outer(np.linalg.norm(vectors, axis=1), np.linalg.norm(anchors, axis=1))
    nearest = [ANCHORS[i][0] for i in cosine.argmax(1)]
    assert len(held) > 20 and np.mean([name[0] == side for name, side in zip(held, nearest, strict=True)]) > 0.9
    same = np.array([[name[0] == anchor[0] for anchor in ANCHORS] for name in held])
    assert cosine[same].mean() > cosine[~same].mean() + 0.25


def test_the_order_of_rows_and_files_and_repeats_change_nothing(tmp_path):
    edges, sets = two_communities(3)
    paths = write_network(tmp_path, edges, sets)
    made = ask(targets.network, ANCHORS, path=paths, dim=4)
    (tmp_path / "other").mkdir()
    mixed = write_network(tmp_path / "other", [*edges[::-1], *edges[:5]], sets[::-1])
    again = ask(targets.network, ANCHORS[::-1], path=[*mixed[::-1], *paths], dim=4)
    assert again.targets == made.targets and np.array_equal(again.vectors, made.vectors)


def test_regulators_of_opposite_sign_are_opposite(tmp_path):
    rows = [("A", g, 1) for g in "uvwx"] + [("B", g, -1) for g in "uvwx"] + [("C", g, 1) for g in "uvyz"]
    made = ask(targets.network, ["A", "C"], ["A", "B", "C"], path=write_network(tmp_path, rows, ["s\t\tk\tl"])[0])
    A, B, C = made.of(["A", "B", "C"])
    assert np.allclose(A, -B) and 0.1 < A @ C / np.linalg.norm(A) / np.linalg.norm(C) < 0.9


@pytest.mark.parametrize(
    "text",
    [
        "source,target,weight\nA,u,-0.7\nA,v,2\nA,w,0\nB,u,1\nB,v,1\n",
        "TF\tTarget\tinteraction\nA\tu\tRepression\nA\tu\tUnknown\nA\tv\tActivation\nA\tv\tRepression\nB\tu\t+\nB\tv\t\n",
        "regulator,gene,sign,pmid\nA,u,-1,1\nA,v,nan,2\nB,u,1,3\n B , v ,1,4\n",
    ],
)
def test_every_way_to_write_signed_edges(tmp_path, text):
    path = written(tmp_path, "net.tsv" if "\t" in text else "net.csv", text)
    made = ask(targets.network, ["A", "B"], path=path)
    assert made.targets == ("A", "B", "u", "v")
    edges = [("A", "u", -1), ("A", "v", 1), ("B", "u", 1), ("B", "v", 1)]
    members = {(a, f"regulates {b}"): sign for a, b, sign in edges}
    members |= {(b, f"regulated by {a}"): sign for a, b, sign in edges}
    names, expected = network_vectors(members, ["A", "B"], 10)
    assert names == ("A", "B", "u", "v")
    assert np.array_equal(made.vectors, expected)


def test_what_stands_alone_says_nothing(tmp_path):
    """A set of one gene, or a private one, makes no gene like another; a gene with no more has the zero vector."""
    sets = ["s1\t\tA\tB", "s2\t\tB\tC", "own\t\tA", "far\t\tX\tY", "t\t\tZ"]
    made = ask(targets.network, ["A", "B"], list("ABCXZ"), path=written(tmp_path, "s.gmt", "\n".join(sets)))
    assert not made.of(["X", "Z", "Y"]).any() and made.of(["C"]).any()
    assert "2 of 5 targets share no set" in made.notes[-1] and made.notes[-1].endswith("the mean: X, Z")
    without = ask(targets.network, ["A", "B"], ["A"], path=written(tmp_path, "s.gmt", "\n".join(sets[:2])))
    assert np.array_equal(made.of(["A", "B", "C"]), without.of(["A", "B", "C"]))


def test_case_is_that_of_the_data(tmp_path):
    """Mouse gene sets in capitals meet mouse regulons in small letters."""
    sets = written(tmp_path, "s.gmt", "s1\t\tSTAT1\tIRF1\tJAK2\ns2\t\tJAK2\tSPI1,0.5\n")
    table = written(tmp_path, "n.csv", "tf,target\nStat1,Irf1\nSpi1,Jak2\n")
    made = ask(targets.network, ["Stat1", "Jak2"], ["Stat1", "Jak2", "sPI1"], path=[sets, table])
    assert made.targets == ("Irf1", "Jak2", "sPI1", "Stat1")


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("n.csv", "tf,gen,mor\nA,B,1\n", r"n\.csv \(targets\.path\): no column target or gene.*columns: tf, gen, mor"),
        ("n.csv", "tf,target,mor\nA,B,up\n", "'up' in column 'mor' is no sign"),
        ("n.csv.gz", "", "could not be read as a table"),
        ("s.gmt", "set one\tabout\n", r"not a \.gmt file.*'set one' has no genes"),
        ("s.gmt", "\n", "it is empty"),
        ("n.csv", "tf,target\nA,u\n", r"only 1 of 2 targets are in n\.csv, not B; targets\.missing=drop"),
    ],
)
def test_a_network_is_refused_with_the_reason(tmp_path, name, text, said):
    with pytest.raises(UserError, match=said):
        ask(targets.network, ["A", "B"], path=written(tmp_path, name, text))


def test_a_damaged_file_is_no_bug(tmp_path):
    for name in ("s.gmt.gz", "n.csv.gz"):
        whole = gzip.compress(b"tf,target\n" + b"A,B\n" * 1000)
        (tmp_path / name).write_bytes(whole[: len(whole) // 2])
        with pytest.raises(UserError, match="could not be read"):
            ask(targets.network, ["A", "B"], path=str(tmp_path / name))


# ---- another data set


def other_cells(make_h5ad):
    rng = np.random.default_rng(5)
    labels = np.repeat(["NT", "A", "B", "C", "A+B"], 12)
    obs = pd.DataFrame({"guide": labels, "total_counts": 500}, index=[f"c{i}" for i in range(60)])
    counts = rng.poisson(3, (60, 7)).astype(float)
    return make_h5ad(counts, obs, name="other.h5ad"), counts, labels


def test_transfer_is_the_pca_of_the_single_perturbations(make_h5ad):
    path, counts, labels = other_cells(make_h5ad)
    keys = {"perturbation_key": "guide", "control": "NT", "library_key": "total_counts"}
    made = ask(targets.transfer, ["A", "B"], path=str(path), dim=2, **keys)
    profiles = np.log1p(counts / 500 * 1e4)
    means = np.array([profiles[labels == name].mean(0) for name in "ABC"])
    U, s, _ = np.linalg.svd(means - means.mean(0), full_matrices=False)
    assert made.targets == ("A", "B", "C")
    expected = U[:, :2] * s[:2]
    assert np.allclose(made.vectors @ made.vectors.T, expected @ expected.T, atol=1e-4)
    assert np.allclose(np.abs(made.vectors), np.abs(expected), atol=1e-4)


def test_transfer_is_refused_in_the_words_of_its_own_keys(make_h5ad):
    path, *_ = other_cells(make_h5ad)
    right = {"path": str(path), "perturbation_key": "guide", "control": "NT"}
    for change, said in (
        ({"perturbation_key": "guid"}, r"no obs column 'guid' \(targets\.perturbation_key\).*'guide'"),
        ({"control": "nt"}, r"no cell is labelled 'nt' \(targets\.control\)"),
        ({"path": str(path) + "x"}, r"targets\.path=.*no such file"),
        ({"scale": "log1p"}, r"targets\.scale=log1p"),
        ({"filter": "guide=A+B", "control": "A+B"}, r"0 single perturbations \(targets\.path\)"),
    ):
        with pytest.raises(UserError, match=said):
            ask(targets.transfer, ["A"], **(right | change))
    with pytest.raises(UserError, match=r"targets=transfer: only 1 of 2 targets are perturbed alone in .*, not Q;"):
        ask(targets.transfer, ["A", "Q"], **right)


# ---- the YAMLs


@pytest.mark.parametrize("name", [file.stem for file in sorted(CONF.glob("*.yaml"))])
def test_every_yaml_makes_an_embedding_of_its_kind(make_h5ad, tmp_path, name):
    node = OmegaConf.load(CONF / f"{name}.yaml")
    edges, sets = two_communities()
    paths = {
        "network": write_network(tmp_path, edges, sets),
        "table": written(tmp_path, "p.csv", "g,a,b\nP00,1,2\nQ05,3,4\n"),
        "transfer": str(make_h5ad(obs=pd.DataFrame({"perturbation": ["control", "P00", "Q05"] * 20}).set_index(
            pd.Index([f"c{i}" for i in range(60)])))),
    }  # fmt: skip
    if name in paths:
        node.path = paths[name]
    names, genes = ["P00", "Q05"], ("P00", "Q05", "g2")
    train = Pseudobulk.of_shifts({"P00": np.array([1.0, 0, 0]), "Q05": np.array([0, 1.0, 2])}, np.array([1.0, 2, 4]))
    made = instantiate(node)(spec=spec_of(names, genes), train=train, wanted=names)
    assert made.kind == name and np.isfinite(made.of(["P00", "P00+Q05"])).all()


# ---- real cells


def test_a_network_predicts_unseen_interferon_receptors(shared_data):
    """Papalexi, one target left out, LGEM (K = 10, λ = 0.1) and the nearest target, controls shared: r of the shift."""
    path = shared_data("papalexi2021_thp1_eccite_299genes.h5ad")
    network = [str(shared_data(name)) for name in ("gmt_go_bp_2021_human.gmt.gz", "net_collectri_human.csv.gz")]
    cells = read(DataConfig(name="papalexi", path=str(path), filter="clean_single_guide", library_key="total_counts"))
    data = row_normalise_log1p(cells.X, cells.obs["library"].to_numpy(float))
    names, codes = np.unique(cells.obs["condition"].to_numpy(str), return_inverse=True)
    X = csr_matrix((data, cells.X.indices, cells.X.indptr), cells.X.shape)
    means = dict(zip(names, group_mean(X, codes, len(names)), strict=True))
    control = means.pop("control")
    shifts = {name: mean - control for name, mean in means.items()}
    for held in ("JAK2", "IFNGR2"):
        train = Pseudobulk.of_shifts({name: shift for name, shift in shifts.items() if name != held}, control)
        made = ask(targets.network, train.conditions, sorted(shifts), cells.genes, train, path=network, missing="drop")
        assert len(made.targets) > 15_000 and "left out: MARCH8 (did you mean 'MARCHF8'" in made.notes[0]
        known = [name for name in train.conditions if not made.missing(name)]
        Y, P = np.array([shifts[name] for name in known] + [0 * control]), made.of([*known, "control"])
        predicted = two_ridge(Y, gene_scores(train, 10), P, 0.1).predict(made.of([held]))[0]
        cosine = P[:-1] @ made.of([held])[0] / np.maximum(np.linalg.norm(P[:-1], axis=1), 1e-9)
        nearest = shifts[known[int(np.argmax(cosine))]]
        assert np.corrcoef(predicted, shifts[held])[0, 1] >= 0.95
        assert np.corrcoef(nearest, shifts[held])[0, 1] >= 0.95
