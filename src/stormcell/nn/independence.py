"""What makes a latent space say nothing of a label: a distance, a dependence, or an adversary.

mmd    E k(a, a') + E k(b, b') − 2 E k(a, b), unbiased: 0 where two samples have one distribution
hsic   tr(K H L H) / n²: 0 where latent and label are independent; K of the latent, L = Y Yᵀ, H = I − 1/n
reverse   the identity, whose gradient is multiplied by −weight: what is behind it learns against what is before it

k(x, y) is the mean of four Gaussian kernels of bandwidths σ² = K · (0.1, 0.3, 1, 3): a latent that follows its prior
N(0, I) has a mean squared distance of 2 K.

Shapes: n cells, K latent dimensions, D columns of a label.
Source: Gretton et al. 2012 (MMD); Gretton et al. 2005 (HSIC); Ganin & Lempitsky 2015 (gradient reversal).
"""

from __future__ import annotations

import torch
from torch import Tensor

BANDWIDTHS = (0.1, 0.3, 1.0, 3.0)  # times K


def kernel(x: Tensor, y: Tensor) -> Tensor:
    """n × K, m × K → n × m."""
    distance = torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").square()
    return sum(torch.exp(distance * (-0.5 / (width * x.shape[1]))) for width in BANDWIDTHS) / len(BANDWIDTHS)


def mmd(a: Tensor, b: Tensor) -> Tensor:
    """Squared maximum mean discrepancy, unbiased, so it may be below 0: n × K, m × K → (). From two cells a side on."""
    n, m = len(a), len(b)
    own_a, own_b = kernel(a, a), kernel(b, b)
    within = (own_a.sum() - own_a.trace()) / (n * (n - 1)) + (own_b.sum() - own_b.trace()) / (m * (m - 1))
    return within - 2 * kernel(a, b).mean()


def hsic(x: Tensor, label: Tensor) -> Tensor:
    """Hilbert–Schmidt independence criterion, biased by 1/n: n × K, n × D → ()."""
    k = kernel(x, x)
    centred = k - k.mean(0) - k.mean(1, keepdim=True) + k.mean()
    return (centred * (label @ label.T)).mean()


class _Reverse(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: float) -> Tensor:
        ctx.weight = weight
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        return -ctx.weight * grad, None


def reverse(x: Tensor, weight: float) -> Tensor:
    """x, with a gradient of −weight times what comes."""
    return _Reverse.apply(x, weight)
