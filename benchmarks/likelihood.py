"""Count likelihoods and their gradients: ours against autograd of the plain formula, and of torch.distributions.

python benchmarks/likelihood.py [--cells 256] [--genes 2000]

One process, one thread, the ways alternate, medians. 8 % of the counts are not zero. The negative binomial is a closed
form on tensors, the zero-inflated one a compiled sweep. Last lines: `ratio to plain: X` and `zero-inflated, ratio to
plain: X`.
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


def plain_entries(x: Tensor, log_mean: Tensor, log_theta: Tensor) -> Tensor:
    theta, mean = log_theta.exp(), log_mean.exp()
    log_total = torch.log(theta + mean)
    gammas = torch.lgamma(x + theta) - torch.lgamma(theta) - torch.lgamma(x + 1)
    return gammas + theta * (log_theta - log_total) + x * (log_mean - log_total)


def plain(x: Tensor, log_mean: Tensor, log_theta: Tensor) -> Tensor:
    return plain_entries(x, log_mean, log_theta).sum(-1)


def plain_zero_inflated(x: Tensor, log_mean: Tensor, log_theta: Tensor, logit: Tensor) -> Tensor:
    entries = plain_entries(x, log_mean, log_theta)
    return torch.where(x == 0, softplus(entries - logit) - softplus(-logit), entries - softplus(logit)).sum(-1)


def of_torch(x: Tensor, log_mean: Tensor, log_theta: Tensor) -> Tensor:
    law = torch.distributions.NegativeBinomial(log_theta.exp(), logits=log_mean - log_theta, validate_args=False)
    return law.log_prob(x).sum(-1)


NEGATIVE_BINOMIAL = {"ours": negative_binomial_log_prob, "plain formula": plain, "torch.distributions": of_torch}
ZERO_INFLATED = {"ours": zero_inflated_negative_binomial_log_prob, "plain formula": plain_zero_inflated}


def measure(ways: dict[str, Callable], x: Tensor, parameters: list[Tensor], repeats: int) -> dict[str, float]:
    """Median milliseconds of value and gradient, by way."""
    times = {name: [] for name in ways}
    for _ in range(repeats + 2):
        for name, log_prob in ways.items():
            start = time.perf_counter()
            torch.autograd.grad(log_prob(x, *parameters).sum(), parameters)
            times[name].append(1e3 * (time.perf_counter() - start))
    return {name: statistics.median(values[2:]) for name, values in times.items()}


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
    parameters = [log_mean.requires_grad_(), torch.randn(asked.genes, requires_grad=True)]
    gated = [*parameters, torch.randn(asked.cells, asked.genes, requires_grad=True)]
    found = measure(NEGATIVE_BINOMIAL, x, parameters, asked.repeats), measure(ZERO_INFLATED, x, gated, asked.repeats)
    for title, medians in zip(("negative binomial", "zero-inflated"), found, strict=True):
        for name, value in medians.items():
            print(f"{title:20s}{name:22s} {value:8.2f} ms  {value / medians['ours']:5.2f} × ours")
    print(f"ratio to plain: {found[0]['plain formula'] / found[0]['ours']:.2f}")
    print(f"zero-inflated, ratio to plain: {found[1]['plain formula'] / found[1]['ours']:.2f}")


if __name__ == "__main__":
    main()
