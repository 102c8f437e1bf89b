"""Count likelihoods, value and gradient: our three paths against torch.distributions and scvi-tools.

python benchmarks/likelihood.py [--cells 256] [--genes 2000]

One process, one thread, the ways alternate, medians of its CPU time, which other processes disturb least. About 7 % of
the counts are not zero. Every way gets the parameters it likes best: scvi-tools the mean, ours its logarithm. `off` is
the largest relative error of a gradient (norm of the difference by the norm), against the plain formula in float64.
Last line: `ratio to scvi-tools: X`, of the zero-inflated likelihood, where the `bench` extra is installed.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import softplus

from stormcell.nn.likelihood import negative_binomial_log_prob, zero_inflated_negative_binomial_log_prob

PATHS = ("compiled", "closed_form", "plain")
Way = tuple[Callable[..., Tensor], list[Tensor]]  # log-probability, and what it is differentiated in


def torch_entries(x: Tensor, log_mean: Tensor, log_theta: Tensor) -> Tensor:
    law = torch.distributions.NegativeBinomial(log_theta.exp(), logits=log_mean - log_theta, validate_args=False)
    return law.log_prob(x)


def torch_zero_inflated(x: Tensor, log_mean: Tensor, log_theta: Tensor, logit: Tensor) -> Tensor:
    entries = torch_entries(x, log_mean, log_theta)
    return torch.where(x == 0, softplus(entries - logit) - softplus(-logit), entries - softplus(logit)).sum(-1)


def of_scvi(parameters: list[Tensor]) -> Way | None:
    """The zero-inflated likelihood of scvi-tools, where it is installed."""
    try:
        from scvi.distributions import ZeroInflatedNegativeBinomial
    except ImportError:
        return None
    log_mean, log_theta, logit = parameters

    def log_prob(x: Tensor, mean: Tensor, log_theta: Tensor, logit: Tensor) -> Tensor:
        return ZeroInflatedNegativeBinomial(mu=mean, theta=log_theta.exp(), zi_logits=logit).log_prob(x).sum(-1)

    return log_prob, [log_mean.detach().exp().requires_grad_(), log_theta, logit]


def measure(ways: dict[str, Way], x: Tensor, repeats: int) -> dict[str, float]:
    """Median CPU milliseconds of value and gradient, by way."""
    times = {name: [] for name in ways}
    for _ in range(repeats + 2):
        for name, (log_prob, parameters) in ways.items():
            start = time.process_time()
            torch.autograd.grad(log_prob(x, *parameters).sum(), parameters)
            times[name].append(1e3 * (time.process_time() - start))
    return {name: statistics.median(values[2:]) for name, values in times.items()}


def error(name: str, way: Way, exact: Way, x: Tensor) -> float:
    """Largest relative error of a gradient against the plain formula in float64."""
    (log_prob, parameters), (plain, originals) = way, exact
    gradients = torch.autograd.grad(log_prob(x, *parameters).sum(), parameters)
    if name == "scvi-tools":  # ∂/∂log μ = μ ∂/∂μ
        gradients = gradients[0] * parameters[0], *gradients[1:]
    doubles = [one.detach().double().requires_grad_() for one in originals]
    wanted = torch.autograd.grad(plain(x.double(), *doubles).sum(), doubles)
    pairs = zip(gradients, wanted, strict=True)
    return max(((found - want).norm() / want.norm()).item() for found, want in pairs)


def compare(title: str, ours: Callable, others: dict[str, Way], x: Tensor, parameters: list[Tensor], repeats: int):
    """Prints one table and gives its medians."""

    def on(path: str) -> Way:
        return lambda *inputs: ours(*inputs, path=path), parameters

    ways = {path: on(path) for path in PATHS} | others
    medians = measure(ways, x, repeats)
    for name, median in medians.items():
        off = error(name, ways[name], ways["plain"], x)
        ratio = median / medians["compiled"]
        print(f"{title:18s}  {name:20s}{median:8.2f} ms  {ratio:6.2f} × compiled  off {off:.0e}")
    return medians


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=256)
    parser.add_argument("--genes", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=30)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    log_mean = torch.randn(asked.cells, asked.genes) * 1.2 - 3.2
    x = torch.poisson(log_mean.exp())
    print(f"{asked.cells} cells × {asked.genes} genes, {(x > 0).float().mean():.1%} not zero, one thread")
    counted = [log_mean.requires_grad_(), torch.randn(asked.genes, requires_grad=True)]
    gated = [*counted, torch.randn(asked.cells, asked.genes, requires_grad=True)]

    others = {"torch.distributions": (lambda *inputs: torch_entries(*inputs).sum(-1), counted)}
    compare("negative binomial", negative_binomial_log_prob, others, x, counted, asked.repeats)
    others, scvi = {"torch.distributions": (torch_zero_inflated, gated)}, of_scvi(gated)
    if scvi:
        others["scvi-tools"] = scvi
    medians = compare("zero-inflated", zero_inflated_negative_binomial_log_prob, others, x, gated, asked.repeats)
    print(f"ratio to plain: {medians['plain'] / medians['compiled']:.2f}")
    if not scvi:
        print('scvi-tools: the `bench` extra is not installed (pip install -c constraints.txt -e ".[bench]")')
        return
    print(f"ratio of the closed form to scvi-tools: {medians['scvi-tools'] / medians['closed_form']:.2f}")
    print(f"ratio to scvi-tools: {medians['scvi-tools'] / medians['compiled']:.2f}")


if __name__ == "__main__":
    main()
