"""Dense batches are scipy's, to the bit; what is computed on stored values is what the dense matrix would give."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from stormcell.data.csr import RING, DenseRows, group_mean, row_normalise_log1p


def random_counts(n=300, genes=70, density=0.1, seed=0, values=np.float32, indices=np.int32):
    rng = np.random.default_rng(seed)
    matrix = sp.random(n, genes, density, format="csr", random_state=rng, data_rvs=lambda k: rng.integers(1, 900, k))
    matrix = sp.csr_matrix(matrix.astype(values))
    matrix.indices, matrix.indptr = matrix.indices.astype(indices), matrix.indptr.astype(indices)
    return matrix


@pytest.mark.parametrize("values", [np.float32, np.float64, np.uint16, np.int32])
@pytest.mark.parametrize("indices", [np.int32, np.int64])
def test_batch_is_scipys(values, indices):
    matrix = random_counts(values=values, indices=indices)
    source = DenseRows(matrix)
    rng = np.random.default_rng(1)
    for size in (1, 256, 17, 0, 300):
        index = rng.integers(0, 300, size)  # with repeats
        batch = source.rows(index)
        assert batch.dtype == torch.float32
        assert np.array_equal(batch.numpy(), matrix[index].toarray())


def test_odd_matrices():
    empty_rows = sp.csr_matrix(([5.0, 6.0], [3, 0], [0, 0, 2, 2, 2]), shape=(4, 4))  # and unsorted
    duplicates = sp.csr_matrix((np.array([1, 2, 4], np.float32), [1, 1, 0], [0, 3, 3]), shape=(2, 3))
    read_only = random_counts()
    for part in (read_only.data, read_only.indices, read_only.indptr):
        part.flags.writeable = False
    for matrix in (empty_rows, duplicates, read_only, sp.csr_matrix((5, 3), dtype=np.float32)):
        index = np.array([1, 0, 1, matrix.shape[0] - 1])
        assert np.array_equal(DenseRows(matrix).rows(index).numpy(), matrix[index].toarray())


def test_several_values_on_one_sparsity():
    matrix = random_counts(values=np.uint16)
    logs = np.log1p(matrix.data.astype(np.float32))
    counts, log1p = DenseRows(matrix, (matrix.data, logs)).layers(np.array([4, 4, 250]))
    assert np.array_equal(counts.numpy(), matrix[[4, 4, 250]].toarray())
    assert np.array_equal(log1p.numpy(), np.log1p(matrix[[4, 4, 250]].toarray().astype(np.float32)))
    assert counts.data_ptr() != log1p.data_ptr()
    with pytest.raises(ValueError, match="values for a matrix of"):
        DenseRows(matrix, (matrix.data, logs[:-1]))


def test_ring_of_buffers():
    source = DenseRows(random_counts())
    index = np.arange(32)
    batches = [source.rows(index) for _ in range(2 * RING)]
    places = [batch.data_ptr() for batch in batches]
    assert len(set(places)) == RING
    assert places[:RING] == places[RING:]
    kept = source.rows(index).clone()
    for start in range(1, RING):
        latest = source.rows(index + start)
    # Nothing left over from a longer batch or from other rows.
    assert np.array_equal(source.rows(index[:5]).numpy(), kept[:5].numpy())
    assert np.array_equal(latest.numpy(), DenseRows(random_counts()).rows(index + RING - 1).numpy())


def test_into_a_tensor_of_the_caller():
    matrix = random_counts()
    out = torch.full((3, 70), torch.nan)
    found = DenseRows(matrix).rows(np.array([2, 0, 9]), out=out)
    assert found is out
    assert np.array_equal(out.numpy(), matrix[[2, 0, 9]].toarray())
    for wrong in (torch.empty(2, 70), torch.empty(3, 70, dtype=torch.float64), torch.empty(70, 3).T):
        with pytest.raises(ValueError, match="out: contiguous float32"):
            DenseRows(matrix).rows(np.array([2, 0, 9]), out=wrong)


def test_index_given_as_tensor():
    matrix = random_counts()
    index = torch.tensor([5, 1], dtype=torch.int32)
    assert np.array_equal(DenseRows(matrix).rows(index).numpy(), matrix[[5, 1]].toarray())


@pytest.mark.parametrize(("row", "named"), [(300, "300"), (-1, "-1"), (2**40, str(2**40))])
def test_row_out_of_range(row, named):
    with pytest.raises(IndexError, match=f"row {named} of a matrix of 300"):
        DenseRows(random_counts()).rows(np.array([0, row]))


def test_index_of_the_wrong_kind():
    source = DenseRows(random_counts())
    for index in (np.ones(300, bool), np.array([0.0]), np.zeros((2, 2), int)):
        with pytest.raises(ValueError, match="vector of integers"):
            source.rows(index)
    assert source.rows([]).shape == (0, 70)


def test_malformed_matrix_is_refused():
    matrix = random_counts()
    matrix.indices[3] = 70
    with pytest.raises(ValueError, match="indices"):
        DenseRows(matrix)


@pytest.mark.parametrize("values", [np.float32, np.uint16, np.int64])
def test_normalised_as_the_dense_matrix(values):
    counts = random_counts(values=values)
    library = counts.sum(1).A1 + np.random.default_rng(2).integers(1, 500, 300)
    data = row_normalise_log1p(counts, library)
    assert data.dtype == np.float32
    normalised = sp.csr_matrix((data, counts.indices, counts.indptr), counts.shape).toarray()
    expected = np.log1p(counts.toarray() / library[:, None] * 1e4)
    np.testing.assert_allclose(normalised, expected, rtol=1e-7)
    to_a_million = row_normalise_log1p(counts, library, target=1e6)
    np.testing.assert_allclose(np.expm1(to_a_million.astype(float)), 100 * np.expm1(data.astype(float)), rtol=1e-5)


def test_library_that_cannot_be():
    counts = random_counts()
    library = np.full(300, 1e3)
    with pytest.raises(ValueError, match=r"shape \(299,\) for 300 cells"):
        row_normalise_log1p(counts, library[1:])
    for wrong in (0, -3, np.nan, np.inf):
        library[5] = wrong
        with pytest.raises(ValueError, match="1 cells with counts"):
            row_normalise_log1p(counts, library)
    # A cell without counts needs no library.
    empty = sp.csr_matrix(([2.0], [0], [0, 1, 1]), shape=(2, 2))
    assert row_normalise_log1p(empty, np.array([4, 0])) == pytest.approx(np.log1p(5000))


def test_gene_named_twice_cannot_be_normalised():
    with pytest.raises(ValueError, match="1 entries"):
        row_normalise_log1p(sp.csr_matrix(([1.0, 2.0], [1, 1], [0, 2]), shape=(1, 3)), np.array([3]))
    unsorted = sp.csr_matrix(([1.0, 2.0], [2, 0], [0, 2]), shape=(1, 3))
    assert row_normalise_log1p(unsorted, np.array([1e4])) == pytest.approx(np.log1p([1, 2]))


def test_group_means():
    matrix = random_counts()
    codes = np.random.default_rng(3).integers(-1, 4, 300)
    means = group_mean(matrix, codes, 6)
    assert means.dtype == np.float64
    for group in range(4):
        np.testing.assert_allclose(means[group], matrix.toarray()[codes == group].astype(float).mean(0), rtol=1e-12)
    assert np.isnan(means[4:]).all()
    with pytest.raises(ValueError, match="below 3"):
        group_mean(matrix, codes, 3)
    with pytest.raises(ValueError, match="one per cell"):
        group_mean(matrix, codes[1:], 6)


def test_works_where_nothing_can_be_cached():
    """A read-only installation: numba finds no folder for its cache and the kernel is compiled in memory."""
    program = (
        "import numba.core.caching as caching\n"
        "caching.CacheImpl._locator_classes = []\n"
        "import numpy as np, scipy.sparse as sp\n"
        "from stormcell.data.csr import DenseRows\n"
        "print(DenseRows(sp.csr_matrix(np.eye(3))).rows(np.array([2])).tolist())\n"
    )
    source = Path(__file__).parents[1] / "src"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(source), os.environ.get("PYTHONPATH", "")])}
    answer = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert answer.stdout.strip() == "[[0.0, 0.0, 1.0]]", answer.stderr
