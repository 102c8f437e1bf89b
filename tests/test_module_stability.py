"""Matching, Jaccard, signs, spans and consensus of modules: counted by hand, rotated, turned and by chance."""

import numpy as np
import pytest

from stormcell.analysis.module_stability import (
    consensus_table,
    jaccard,
    matched,
    stability,
    stability_table,
    subspace_table,
)
from stormcell.analysis.modules import Module, modules

G = 40


def module(loadings, frequency=0, rank=1, eigenvalue=1.0, degree=2):
    nothing = np.zeros(0)
    return Module(frequency, degree, rank, eigenvalue, np.asarray(loadings, float), 0.5, nothing, nothing, 0.0)


def of_genes(genes, **fields):
    """Loadings that fall from the first gene to the last, and 0 elsewhere."""
    loadings = np.zeros(G)
    loadings[list(genes)] = np.linspace(1, 0.9, len(genes))
    return module(loadings, **fields)


def test_jaccard_by_hand():
    assert jaccard(np.array([1, 2, 3]), np.array([3, 4, 2])) == pytest.approx(2 / 4)
    assert jaccard(np.array([1]), np.array([2])) == 0
    assert jaccard(np.array([], int), np.array([], int)) == 0


def test_three_runs_by_hand():
    """Lists of four: {0123}, {0124}, {0156}: Jaccards 3/5, 2/6, 2/6; genes 0 and 1 in all, 2 in two, others in one."""
    runs = [[of_genes(genes)] for genes in ((0, 1, 2, 3), (0, 1, 2, 4), (0, 1, 5, 6))]
    (one,) = stability(runs, sizes=(4,))
    assert one.jaccard[4] == pytest.approx((3 / 5 + 2 / 6 + 2 / 6) / 3)
    assert one.chance[4] == pytest.approx(4 / (2 * G - 4))
    np.testing.assert_allclose(one.gene_frequency[4][:7], np.array([3, 3, 2, 1, 1, 1, 1]) / 3)
    assert list(one.consensus(4)) == [0, 1, 2]
    assert not one.comes_back
    table = consensus_table([one], [f"g{i}" for i in range(G)], 4)
    assert list(table.gene) == ["g0", "g1", "g2"]
    assert list(table.share) == pytest.approx([1, 1, 2 / 3])


def test_the_flag_is_at_one_half_of_the_shortest_list():
    """Six of eight genes shared: 6/10. Four of six: exactly 4/8. Three of six: 3/9."""
    for a, b, comes_back in (
        (range(8), range(2, 10), True),
        (range(6), range(2, 8), True),
        (range(6), range(3, 9), False),
    ):
        (one,) = stability([[of_genes(a)], [of_genes(b)]], sizes=(len(a), 20))
        assert one.comes_back is comes_back


def test_modules_are_matched_one_to_one_within_degree_and_frequency():
    """Ranks exchanged, signs turned, a decoy of another degree and one of another frequency with the same loadings."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, G))
    first = [module(a, rank=1), module(b, rank=2)]
    decoys = [module(a, degree=1), module(a, frequency=1), module(b, degree=3)]
    other = [*decoys, module(-b, rank=1), module(a + 0.1 * b, rank=2)]
    assert matched(first, other) == [other[4], other[3]]
    assert matched(first, other[:4]) in ([other[3], None], [None, other[3]])
    assert matched(first, decoys) == [None, None]


def test_the_whole_assignment_is_best_not_the_first_choice():
    """x is nearest to p for both modules; giving the second what it wants costs the first little."""
    p, q, r = np.eye(G)[:3]
    first = [module(p + 0.9 * q), module(p + 0.1 * r)]
    other = [module(p), module(q)]
    assert matched(first, other) == [other[1], other[0]]


def test_a_missing_counterpart_counts_as_nothing():
    (one,) = stability([[of_genes(range(5))], [of_genes(range(5))], []], sizes=(5,))
    assert one.jaccard[5] == pytest.approx(1 / 3)
    assert one.cosine == pytest.approx(1 / 2)
    assert one.same_sign == pytest.approx(1 / 2)


@pytest.mark.parametrize(
    ("degree", "turned", "eigenvalue", "same"),
    [(2, 1, 1, 1), (2, -1, 1, 1), (2, -1, -1, 0), (1, -1, -1, 1), (3, -1, -1, 1), (3, -1, 1, 0), (3, 1, -1, 0)],
)
def test_signs_agree_up_to_the_turn_of_the_loadings(degree, turned, eigenvalue, same):
    """λ a² does not see the turn; λ a and λ a³ change sign with it."""
    loadings = np.random.default_rng(1).normal(size=G)
    first, other = module(loadings, degree=degree), module(turned * loadings, degree=degree, eigenvalue=eigenvalue)
    (one,) = stability([[first], [other]], sizes=(5,))
    assert one.same_sign == same
    assert one.jaccard[5] == 1


def test_exchanged_frequencies_come_back_only_as_a_block():
    rng = np.random.default_rng(2)
    a, b, c = rng.normal(size=(3, G))
    first = [module(a, 0), module(b, 1), module(c, 2)]
    other = [module(b, 0), module(a, 1), module(c, 2)]
    apart = stability([first, other], sizes=(5,))
    assert [one.jaccard[5] == 1 for one in apart] == [False, False, True]
    assert all(one.jaccard[5] == 1 for one in stability([first, other], sizes=(5,), blocks=[(0, 1)]))


def test_rotated_modules_span_the_same_space():
    rng = np.random.default_rng(3)
    a, b = np.linalg.qr(rng.normal(size=(G, 2)))[0].T
    turn = np.pi / 4
    rotated = [np.cos(turn) * a + np.sin(turn) * b, np.cos(turn) * b - np.sin(turn) * a]
    runs = [[module(v, rank=rank) for rank, v in enumerate(pair, 1)] for pair in ((a, b), rotated)]
    assert stability(runs, sizes=(5,))[0].cosine == pytest.approx(np.cos(turn))
    (whole,) = subspace_table(runs, 2).itertuples()
    assert whole.largest_angle == pytest.approx(0, abs=1e-5)
    assert whole.shared == pytest.approx(1)
    assert whole.chance == pytest.approx(2 / G)
    (leading,) = subspace_table(runs, 1).itertuples()
    assert leading.largest_angle == pytest.approx(45)
    assert leading.shared == pytest.approx(1 / 2)


def test_blocks_join_the_frequencies_of_a_span():
    a, b, c = np.eye(G)[:3]
    first = [module(a, 0), module(b, 1), module(c, 2)]
    other = [module(b, 0), module(a, 1), module(c, 2)]
    table = subspace_table([first, other], 1, blocks=[(1, 0)]).set_index("frequencies")
    assert list(table.index) == ["1, 2", "3"]
    np.testing.assert_allclose(table.shared, 1)
    assert list(subspace_table([first, other], 1).shared) == pytest.approx([0, 0, 1])


def test_unrelated_runs_are_at_chance():
    """One module, so that nothing is chosen: 400 pairs of random loadings against K / (2G − K)."""
    rng = np.random.default_rng(4)
    found = [stability([[module(one)] for one in rng.normal(size=(2, 300))], sizes=(10,))[0] for _ in range(400)]
    assert np.mean([one.jaccard[10] for one in found]) == pytest.approx(10 / 590, abs=0.005)
    assert not any(one.comes_back for one in found)


def test_modules_of_bootstrapped_cells_come_back_where_planted_and_not_where_noise():
    """Output 1 is the square of a programme of 8 genes. Output 2 is noise; each resample has its own least squares."""
    rng = np.random.default_rng(5)
    d, n = 30, 1500
    x = rng.normal(size=(n, d))
    programme = np.r_[np.ones(8), np.zeros(d - 8)] / np.sqrt(8)
    y = np.stack([(x @ programme) ** 2 + 0.3 * rng.normal(size=n), rng.normal(size=n)], 1)
    i, j = np.triu_indices(d)
    eye = np.eye(d)
    runs = []
    for seed in range(4):
        rows = np.random.default_rng(seed).integers(n, size=n)
        terms = x[rows][:, i] * x[rows][:, j]
        terms = terms - terms.mean(0)
        weights = np.linalg.solve(terms.T @ terms + 5 * np.eye(len(i)), terms.T @ (y[rows] - y[rows].mean(0)))
        runs.append(modules([eye[i], eye[j]], weights.T, x[rows], most=1))
    table = stability_table(stability(runs, sizes=(8, 10))).query("degree == 2").set_index("frequency")
    assert table.comes_back[1]
    assert table.jaccard_8[1] > 0.9
    assert table.lambda_sign[1] == "+"
    assert table.same_sign[1] == 1
    assert not table.comes_back[2]


def test_bad_input_is_refused():
    one = [of_genes(range(3))]
    for bad in (
        lambda: stability([one]),
        lambda: subspace_table([one], 1),
        lambda: stability([one, one], sizes=(G,)),
        lambda: stability([one, one], sizes=(0,)),
        lambda: stability([one, [module(np.ones(G + 1))]], sizes=(3,)),
    ):
        with pytest.raises(ValueError, match=r"\d"):
            bad()
    assert stability([[], one]) == []
