"""Negative binomial log-likelihood and its gradient: the closed form against autograd of the plain formula.

python benchmarks/likelihood.py [--cells 256] [--genes 2000]

One process, one thread, the ways alternate, medians. 8 % of the counts are not zero. Last line: `ratio to plain: X`.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from stormcell.nn.likelihood import negative_binomial_log_prob


def plain(x: torch.Tensor, log_mean: torch.Tensor, log_theta: torch.Tensor) -> torch.Tensor:
    theta, mean = log_theta.exp(), log_mean.exp()
    log_total = torch.log(theta + mean)
    gammas = torch.lgamma(x + theta) - torch.lgamma(theta) - torch.lgamma(x + 1)
    return (gammas + theta * (log_theta - log_total) + x * (log_mean - log_total)).sum(-1)


def of_torch(x: torch.Tensor, log_mean: torch.Tensor, log_theta: torch.Tensor) -> torch.Tensor:
    law = torch.distributions.NegativeBinomial(log_theta.exp(), logits=log_mean - log_theta, validate_args=False)
    return law.log_prob(x).sum(-1)


WAYS = {"closed form (ours)": negative_binomial_log_prob, "plain formula": plain, "torch.distributions": of_torch}


def measure(cells: int, genes: int, repeats: int) -> dict[str, float]:
    """Median milliseconds of value and gradient, by way."""
    torch.manual_seed(0)
    log_mean = torch.randn(cells, genes) * 1.2 - 3.2
    x = torch.poisson(log_mean.exp())
    log_theta = torch.randn(genes)
    print(f"{cells} cells × {genes} genes, {(x > 0).float().mean():.1%} not zero, {torch.get_num_threads()} thread")
    parameters = [log_mean.requires_grad_(), log_theta.requires_grad_()]
    times = {name: [] for name in WAYS}
    for _ in range(repeats + 2):
        for name, log_prob in WAYS.items():
            start = time.perf_counter()
            torch.autograd.grad(log_prob(x, *parameters).sum(), parameters)
            times[name].append(1e3 * (time.perf_counter() - start))
    return {name: statistics.median(values[2:]) for name, values in times.items()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=256)
    parser.add_argument("--genes", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=30)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    medians = measure(arguments.cells, arguments.genes, arguments.repeats)
    ours = medians["closed form (ours)"]
    for name, value in medians.items():
        print(f"{name:22s} {value:8.2f} ms  {value / ours:5.2f} × ours")
    print(f"ratio to plain: {medians['plain formula'] / ours:.2f}")
