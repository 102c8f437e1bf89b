"""MMD against a double loop, HSIC against tr(K H L H) / n², and the sign of a reversed gradient."""

import math
from itertools import product

import numpy as np
import pytest
import torch

from stormcell.nn.independence import BANDWIDTHS, hsic, kernel, mmd, reverse


def normal(*shape, seed=0, shift=0.0):
    return torch.from_numpy(np.random.default_rng(seed).normal(shift, 1, shape))


def k(x, y):
    """One pair of cells, by the formula."""
    distance = sum((a - b) ** 2 for a, b in zip(x.tolist(), y.tolist(), strict=True))
    return sum(math.exp(-distance / (2 * width * len(x))) for width in BANDWIDTHS) / len(BANDWIDTHS)


def test_the_kernel_is_the_mean_of_four_gaussians():
    x, y = normal(5, 3), normal(7, 3, seed=1)
    expected = [[k(a, b) for b in y] for a in x]
    np.testing.assert_allclose(kernel(x, y), expected, rtol=1e-12)
    assert torch.equal(kernel(x, x).diagonal(), torch.ones(5, dtype=x.dtype))


def test_mmd_is_the_double_loop_over_different_cells():
    a, b = normal(6, 4), normal(9, 4, seed=1, shift=0.5)

    def mean(x, y, same):
        pairs = [(i, j) for i, j in product(range(len(x)), range(len(y))) if not (same and i == j)]
        return sum(k(x[i], y[j]) for i, j in pairs) / len(pairs)

    expected = mean(a, a, True) + mean(b, b, True) - 2 * mean(a, b, False)
    assert mmd(a, b).item() == pytest.approx(expected, rel=1e-10)
    assert mmd(a, b).item() == pytest.approx(mmd(b, a).item(), rel=1e-12)


def test_mmd_of_one_distribution_is_zero_on_average_and_the_biased_one_is_not():
    found, biased = [], []
    for seed in range(400):
        a, b = normal(8, 2, seed=2 * seed), normal(8, 2, seed=2 * seed + 1)
        found.append(mmd(a, b).item())
        biased.append((kernel(a, a).mean() + kernel(b, b).mean() - 2 * kernel(a, b).mean()).item())
    error = np.std(found) / np.sqrt(len(found))
    assert abs(np.mean(found)) < 3 * error
    assert min(found) < 0
    assert np.mean(biased) > 20 * error


def test_mmd_grows_with_the_distance_and_pulls_samples_together():
    a = normal(60, 3)
    found = [mmd(a, normal(60, 3, seed=1, shift=shift)).item() for shift in (0, 0.5, 1, 2)]
    assert found == sorted(found)
    far = normal(60, 3, seed=1, shift=1.0).requires_grad_()
    mmd(a, far).backward()
    assert (far.grad.mean(0) > 0).all(), "downhill is towards the other sample"


@pytest.mark.parametrize("columns", [1, 3])
def test_hsic_is_the_trace(columns):
    x, label = normal(12, 4), normal(12, columns, seed=1)
    K = np.array([[k(a, b) for b in x] for a in x])
    H = np.eye(12) - 1 / 12
    Y = label.numpy()
    expected = np.trace(K @ H @ (Y @ Y.T) @ H) / 12**2
    assert hsic(x, label).item() == pytest.approx(expected, rel=1e-10)
    assert hsic(x, label + 7).item() == pytest.approx(expected, rel=1e-10), "a shift of the label says nothing"


def test_hsic_sees_dependence_that_has_no_correlation():
    x = normal(200, 1)
    circle = x.square() + 0.1 * normal(200, 1, seed=1)
    shuffled = circle[np.random.default_rng(2).permutation(200)]
    assert hsic(x, torch.ones(200, 1, dtype=x.dtype)).item() == pytest.approx(0, abs=1e-12)
    assert hsic(x, circle) > 20 * hsic(x, shuffled)


def test_gradients_of_both_are_finite_differences():
    """At the diagonal of the kernel too, where the distance has no derivative but its square has."""
    a, b, label = normal(5, 3).requires_grad_(), normal(6, 3, seed=1).requires_grad_(), normal(5, 2, seed=2)
    assert torch.autograd.gradcheck(mmd, (a, b))
    assert torch.autograd.gradcheck(lambda x: hsic(x, label), (a,))
    twins = torch.zeros(4, 3, requires_grad=True)
    assert torch.isfinite(torch.autograd.grad(mmd(twins, twins + 1), twins)[0]).all()


def test_reversal_is_the_identity_forwards_and_the_opposite_backwards():
    x = normal(4, 3).requires_grad_()
    out = reverse(x, 2.5)
    assert torch.equal(out, x)
    (plain,) = torch.autograd.grad(x.pow(3).sum(), x)
    (reversed_,) = torch.autograd.grad(reverse(x, 2.5).pow(3).sum(), x)
    assert torch.equal(reversed_, -2.5 * plain)
    assert not torch.autograd.grad(reverse(x, 0.0).sum(), x)[0].any()


def test_an_adversary_wins_nothing_from_what_learns_against_it():
    """A shift between two groups that only the reversed gradient moves goes to 0, and with the sign lost it grows."""
    groups = normal(200, 1)
    label = (torch.arange(200) % 2)[:, None].double()
    ends = []
    for weight in (1.0, -1.0):
        shift = torch.full((1,), 1.0, dtype=torch.float64, requires_grad=True)
        critic = torch.zeros(1, dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.SGD([{"params": [shift], "lr": 0.05}, {"params": [critic], "lr": 1.0}])
        for _ in range(400):
            z = reverse(groups + (label - 0.5) * shift, weight)
            loss = torch.nn.functional.binary_cross_entropy_with_logits(z * critic, label)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        ends.append(shift.item())
    means = groups[1::2].mean() - groups[::2].mean()  # what the shift has to make up for
    assert abs(ends[0] + means.item()) < 0.2
    assert ends[1] > 1.5
