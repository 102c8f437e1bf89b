"""The multi-layer perceptron that encoders and decoders are made of."""

from __future__ import annotations

from itertools import pairwise

from torch import nn


def mlp(n_in: int, hidden: list[int], n_out: int) -> nn.Sequential:
    """n_in → hidden … → n_out with LayerNorm and SiLU between.

    LayerNorm, not BatchNorm: per-process batch statistics would make one and two processes differ.
    """
    layers: list[nn.Module] = []
    for a, b in pairwise([n_in, *hidden]):
        layers += [nn.Linear(a, b), nn.LayerNorm(b), nn.SiLU()]
    return nn.Sequential(*layers, nn.Linear(hidden[-1] if hidden else n_in, n_out))
