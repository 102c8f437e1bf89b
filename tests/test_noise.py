"""The keyed noise is the right distribution, without correlation along any of its keys, and belongs to the cell."""

import numpy as np
import pytest
import scipy.stats
import torch

from stormcell.nn.noise import keyed_normal, keyed_uniform

CELLS = torch.arange(4000)


def correlation(a, b):
    return np.corrcoef(np.ravel(a), np.ravel(b))[0, 1]


@pytest.mark.parametrize(("draw", "law"), [(keyed_normal, scipy.stats.norm), (keyed_uniform, scipy.stats.uniform)])
def test_distribution(draw, law):
    values = draw(1, 0, CELLS, 25).numpy().ravel()
    count = len(values)
    assert abs(values.mean() - law.mean()) < 4 * law.std() / count**0.5
    assert abs(values.var() / law.var() - 1) < 0.02
    assert scipy.stats.kstest(values, law.cdf).pvalue > 0.01
    # Along each key alone: many steps of one cell, many columns of one cell, many seeds of one cell.
    one = torch.tensor([7])
    by_step = np.concatenate([draw(1, step, one, 3).numpy().ravel() for step in range(700)])
    by_seed = np.concatenate([draw(seed, 0, one, 3).numpy().ravel() for seed in range(700)])
    by_column = draw(1, 0, one, 20_000).numpy().ravel()
    for sample in (by_step, by_seed, by_column):
        assert scipy.stats.kstest(sample, law.cdf).pvalue > 0.01


def test_tails_of_the_normal():
    values = keyed_normal(3, 0, torch.arange(20_000), 50).numpy()
    assert scipy.stats.kurtosis(values.ravel()) == pytest.approx(0, abs=0.03)
    for cut in (2, 3, 4):
        expected = 2 * scipy.stats.norm.sf(cut) * values.size
        assert abs((abs(values) > cut).sum() - expected) < 4 * expected**0.5


@pytest.mark.parametrize("draw", [keyed_normal, keyed_uniform])
def test_neighbours_are_independent(draw):
    base = draw(1, 5, CELLS, 24).numpy()
    bound = 4 / base.size**0.5
    others = {
        "step": draw(1, 6, CELLS, 24).numpy(),
        "seed": draw(2, 5, CELLS, 24).numpy(),
        "stream": draw(1, 5, CELLS, 24, stream=1).numpy(),
        "seed and step exchanged": draw(5, 1, CELLS, 24).numpy(),
        "next cell": draw(1, 5, CELLS + 1, 24).numpy(),
        "far cell": draw(1, 5, CELLS + 2**40, 24).numpy(),
    }
    for other in others.values():
        assert abs(correlation(base, other)) < bound
        # The two halves of a Box-Muller pair share a radius: squares must not be correlated across keys either.
        assert abs(correlation(base**2, other**2)) < bound
    columns = np.corrcoef(base.T) - np.eye(24)
    squares = np.corrcoef((base**2).T) - np.eye(24)
    assert max(abs(columns).max(), abs(squares).max()) < 5 / len(base) ** 0.5


def test_normal_and_uniform_share_no_bits():
    uniform = keyed_uniform(1, 2, CELLS, 8).numpy()
    normal = scipy.stats.norm.cdf(keyed_normal(1, 2, CELLS, 8).numpy())
    assert abs(correlation(uniform, normal)) < 4 / uniform.size**0.5


@pytest.mark.parametrize("draw", [keyed_normal, keyed_uniform])
def test_noise_belongs_to_the_cell(draw):
    cells = torch.randperm(1003, generator=torch.Generator().manual_seed(0)) * 977
    whole = draw(9, 4, cells, 13)
    order = torch.randperm(1003, generator=torch.Generator().manual_seed(1))
    assert torch.equal(draw(9, 4, cells[order], 13), whole[order])
    assert torch.equal(torch.cat([draw(9, 4, part, 13) for part in cells.split(17)]), whole)
    assert torch.equal(torch.cat([draw(9, 4, cells[rank::3], 13) for rank in range(3)]).sort(0)[0], whole.sort(0)[0])
    assert torch.equal(draw(9, 4, cells, 5), whole[:, :5])


def test_shapes_and_range():
    assert keyed_normal(1, 1, CELLS[:0], 4).shape == (0, 4)
    assert keyed_normal(1, 1, CELLS[:3], 0).shape == (3, 0)
    values = keyed_uniform(1, 1, torch.arange(200_000), 10)
    assert values.dtype == torch.float32
    assert 0 < values.min() < 1e-5
    assert 1 - 1e-5 < values.max() < 1


def test_index_that_is_no_vector_of_int64():
    with pytest.raises(ValueError, match="int64"):
        keyed_normal(1, 1, torch.arange(3, dtype=torch.int32), 4)
    with pytest.raises(ValueError, match=r"shape \(1, 3\)"):
        keyed_uniform(1, 1, torch.arange(3)[None], 4)
