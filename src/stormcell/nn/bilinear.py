"""Bilinear and trilinear networks: products of linear maps, with no other non-linearity, so that the weights explain.

f(x) = P (L x̃ ⊙ R x̃)            order 2: f_o(x) = x̃ᵀ Q_o x̃ with Q_o = ½ Σ_h P_oh (l_h r_hᵀ + r_h l_hᵀ)
f(x) = P (L x̃ ⊙ R x̃ ⊙ U x̃)     order 3
x̃ = [x; 1]: without the constant an order of 2 is even in x, an order of 3 odd, and neither has what the other has.

Inputs may enter with a fixed scale each, which is part of the weights that are read: what a step of the optimizer can
reach is larger along a larger input.

The mean of M such networks is such a network, of M·H hidden units and readout [P₁ … P_M] / M: an ensemble that is read
as one model. Its members are trained side by side, in one matrix product.

Shapes: B cells, D inputs, F outputs, H hidden units of a member, M members.
Source: Pearce et al. 2024 (bilinear layers and their interaction matrices).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn


class Bilinear(nn.Module):
    """M members of H hidden units; called, it is their mean."""

    def __init__(
        self, n_inputs: int, n_hidden: int, n_outputs: int, order: int = 2, bias: bool = True, members: int = 1
    ) -> None:
        super().__init__()
        if order not in (2, 3) or min(n_inputs, n_hidden, n_outputs, members) < 1:
            raise ValueError(f"order {order}: 2 or 3; sizes {n_inputs}, {n_hidden}, {n_outputs}, {members}: from 1 on")
        self.order, self.n_members = order, members
        # All factors in one product: the step of the optimizer is then one loop over one tensor.
        self.factors = nn.Linear(n_inputs, order * members * n_hidden, bias=bias)
        self.readouts = nn.Parameter(torch.empty(members, n_outputs, n_hidden))
        self.register_buffer("scale", torch.ones(n_inputs))
        nn.init.uniform_(self.readouts, -(n_hidden**-0.5), n_hidden**-0.5)

    def hidden(self, x: Tensor) -> Tensor:
        """L x̃ ⊙ R x̃ [⊙ U x̃]: B × D → B × M·H."""
        first, *others = self.factors(x * self.scale).chunk(self.order, -1)
        for other in others:
            first = first * other
        return first

    def by_member(self, x: Tensor) -> Tensor:
        """What every member says: B × D → M × B × F."""
        hidden = self.hidden(x).unflatten(-1, (self.n_members, -1)).transpose(0, 1)
        return hidden @ self.readouts.mT

    def forward(self, x: Tensor) -> Tensor:
        """B × D → B × F."""
        return self.hidden(x) @ self.readout.T

    def another(self) -> Bilinear:
        """A network of the same shape and scale of inputs, from another start."""
        H, bias = self.readouts.shape[-1], self.factors.bias is not None
        made = Bilinear(self.factors.in_features, H, self.readouts.shape[1], self.order, bias, self.n_members)
        made.scale.copy_(self.scale)
        return made

    @property
    def readout(self) -> Tensor:
        """P of the mean of the members: F × M·H."""
        return self.readouts.transpose(0, 1).flatten(1) / self.n_members

    @torch.no_grad()
    def factor_matrices(self) -> list[np.ndarray]:
        """L, R [and U] with the weight of the constant in the last column, 0 without one: each M·H × (D+1) float64."""
        weight = self.factors.weight * self.scale
        bias = weight.new_zeros(len(weight)) if self.factors.bias is None else self.factors.bias
        both = torch.cat([weight, bias[:, None]], 1).double().cpu().numpy()
        return np.split(both, self.order)
