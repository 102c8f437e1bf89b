"""One small network per target on the regulators that the mask gives it: the non-linear row beside the masked ridge.

    ŷ_j = b_j + σ_j Σ_h v_jh silu(Σ_{i ∈ R_j} u_jih (x_i − m_i)/s_i + a_jh)        H hidden units, R_j regulators of j

Targets of equal in-degree are one batched product. No two targets share a parameter, so each is stopped on its own: it
keeps the parameters of the step at which its error on the held-back cells was least, step 0, the mean of y, among them.

Shapes: N cells, G genes, B targets of equal in-degree R, H hidden units.
Source: the classical additive-noise network per target, as in Huynh-Thu et al. 2010 (one regression per target).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from stormcell.analysis.mask import Mask

Blocks = list[tuple[np.ndarray, np.ndarray]]  # (targets B, inputs B × R)


class MaskedMLP(nn.Module):
    """N × G → N × G. A gene without inputs is its intercept."""

    def __init__(self, blocks: Blocks, hidden: int, n_genes: int, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.targets, self.inputs = [], []
        self.first, self.bias, self.second = nn.ParameterList(), nn.ParameterList(), nn.ParameterList()
        for targets, inputs in blocks:
            self.targets.append(torch.as_tensor(targets))
            self.inputs.append(torch.as_tensor(inputs))
            bound = inputs.shape[1] ** -0.5  # as in nn.Linear
            for parameters, shape in (
                (self.first, (len(targets), hidden, inputs.shape[1])),
                (self.bias, (len(targets), hidden, 1)),
            ):
                drawn = torch.empty(shape).uniform_(-bound, bound, generator=generator)
                parameters.append(nn.Parameter(drawn))
            # Zero: training starts at the mean of y.
            self.second.append(nn.Parameter(torch.zeros(len(targets), 1, hidden)))
        self.row = torch.full((n_genes,), sum(map(len, self.targets)))
        if self.targets:
            self.row[torch.cat(self.targets)] = torch.arange(len(torch.cat(self.targets)))
        self.intercept = nn.Parameter(torch.zeros(n_genes))
        for name, value in (("x_mean", 0.0), ("x_scale", 1.0), ("y_mean", 0.0), ("y_scale", 1.0)):
            self.register_buffer(name, torch.full((n_genes,), value))

    def forward(self, x: Tensor) -> Tensor:
        x = (x - self.x_mean) / self.x_scale
        parts = zip(self.inputs, self.first, self.bias, self.second, strict=True)
        # Cells last: products of a few inputs with a few units are slow with the cells in rows.
        outputs = [
            torch.bmm(second, silu(torch.baddbmm(bias, first, x.T[inputs])))[:, 0]
            for inputs, first, bias, second in parts
        ]
        found = torch.cat([*outputs, x.new_zeros(1, len(x))])  # the last row: no inputs
        y = self.intercept + found[self.row].T
        return self.y_mean + self.y_scale * y

    def of_target(self) -> list[tuple[Tensor, Tensor]]:
        """(parameter, gene of each of its rows), for every parameter."""
        rows = [*zip(self.first, self.targets, strict=True), *zip(self.bias, self.targets, strict=True)]
        rows += zip(self.second, self.targets, strict=True)
        return [*rows, (self.intercept, torch.arange(len(self.intercept)))]


def fit(
    x: np.ndarray,
    y: np.ndarray,
    weights: np.ndarray | None,
    mask: Mask,
    *,
    self_edge: bool = True,
    hidden: int = 8,
    steps: int = 500,
    lr: float = 1e-2,
    weight_decay: float = 1e-2,
    batch: int = 64,
    held_back: float = 0.2,
    patience: int = 10,
    seed: int = 0,
) -> MaskedMLP:
    """Fitted by AdamW on weighted squared error, in natural units in and out.

    x, y: N × G, training cells and their barycentres; weights: N, the source marginal (None: equal). self_edge: x_j is
    an input of y_j too, as in the ridge. A share `held_back` of the cells is looked at every 10 steps; training ends
    after `patience` looks at which no target improved. Raises ValueError for shapes that disagree, numbers that are not
    finite, and fewer than 10 cells.
    """
    x, y, weights = _checked(x, y, weights, mask)
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(x), generator=generator)
    n_held = max(1, round(held_back * len(x)))
    held, train = order[:n_held], order[n_held:]
    model = MaskedMLP(_blocks(mask, self_edge), hidden, mask.n_genes, generator)
    for name, values in (("x", x[train]), ("y", y[train])):
        mean, scale = _moments(values, weights[train])
        getattr(model, f"{name}_mean").copy_(mean)
        getattr(model, f"{name}_scale").copy_(scale)
    optimizer = torch.optim.AdamW(model.parameters(), lr, weight_decay=weight_decay)
    best = _Best(model, x[held], y[held], weights[held])
    for step in range(1, steps + 1):
        rows = train[torch.randint(len(train), (min(batch, len(train)),), generator=generator)]
        error = (model(x[rows]) - y[rows]) / model.y_scale
        # Sum over targets: each one's gradient is that of its own network alone.
        loss = (weights[rows, None] * error.square()).mean(0).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 10 == 0 and best.look() >= patience:
            break
    best.restore()
    return model.eval().requires_grad_(False)


class _Best:
    """The parameters of every target at its least error on the held-back cells."""

    def __init__(self, model: MaskedMLP, x: Tensor, y: Tensor, weights: Tensor) -> None:
        self.model, self.x, self.y, self.weights, self.stale = model, x, y, weights, 0
        self.kept = [parameter.detach().clone() for parameter, _ in model.of_target()]
        self.error = self._errors()

    @torch.no_grad()
    def _errors(self) -> Tensor:
        """Weighted squared error of every gene: G."""
        return self.weights @ (self.model(self.x) - self.y).square()

    @torch.no_grad()
    def look(self) -> int:
        """How many looks in a row no target improved by a thousandth."""
        error = self._errors()
        better = error < 0.999 * self.error
        self.error = torch.where(better, error, self.error)
        for kept, (parameter, gene) in zip(self.kept, self.model.of_target(), strict=True):
            kept[better[gene]] = parameter[better[gene]]
        self.stale = 0 if better.any() else self.stale + 1
        return self.stale

    @torch.no_grad()
    def restore(self) -> None:
        for kept, (parameter, _) in zip(self.kept, self.model.of_target(), strict=True):
            parameter.copy_(kept)


def _blocks(mask: Mask, self_edge: bool) -> Blocks:
    if not self_edge:
        return [(targets, regulators) for targets, regulators, _ in mask.blocks()]
    alone = np.flatnonzero(mask.in_degree == 0)
    found = [(targets, np.column_stack([regulators, targets])) for targets, regulators, _ in mask.blocks()]
    return [(alone, alone[:, None]), *found] if len(alone) else found


def _checked(x, y, weights, mask: Mask) -> tuple[Tensor, Tensor, Tensor]:
    x, y = (torch.as_tensor(np.asarray(values), dtype=torch.float32) for values in (x, y))
    weights = torch.ones(len(x)) if weights is None else torch.as_tensor(np.asarray(weights), dtype=torch.float32)
    if x.shape != y.shape or weights.shape != (len(x),) or x.shape[1] != mask.n_genes:
        raise ValueError(f"x {x.shape}, y {y.shape}, weights {weights.shape} and a mask of {mask.n_genes} genes")
    if not (weights.isfinite().all() and (weights >= 0).all()):
        raise ValueError("weights of cells must be finite and not negative")
    seen = weights > 0
    if seen.sum() < 10:
        raise ValueError(f"{int(seen.sum())} cells with weight: a network per target needs 10")
    x, y, weights = x[seen], y[seen], weights[seen]
    if not (x.isfinite().all() and y.isfinite().all()):
        raise ValueError("x and y must be finite")
    return x, y, weights / weights.mean()


def _moments(values: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Weighted mean and standard deviation of every gene, 1 for a constant one: G, G."""
    mean = weights @ values / weights.sum()
    scale = (weights @ (values - mean).square() / weights.sum()).sqrt()
    return mean, torch.where(scale > 1e-6 * (1 + mean.abs()), scale, torch.ones_like(scale))
