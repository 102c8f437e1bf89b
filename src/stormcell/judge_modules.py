"""Gene modules of a fitted network of frequencies: whether they come back, and whether they are more than correlation.

The network is fitted again from other starts, and on resampled training cells, for the steps of the run by AdamW; its
modules are matched to those of the run. The targets stay: resampled cells keep the place that the graph of the run gave
them.

Shapes: N cells, n training cells, G genes, D inputs, F outputs.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
import torch

from stormcell.analysis.enrichment import enrich, looked_up, random_lists
from stormcell.analysis.interaction_spectra import variance_shares
from stormcell.analysis.module_stability import (
    Stability,
    consensus_table,
    stability,
    stability_table,
    subspace_table,
)
from stormcell.analysis.modules import Module, module_table, modules
from stormcell.data.frequency import Frequencies, FrequencyDataModule
from stormcell.data.stream import cells_of_step, seed_of
from stormcell.evaluation.frequency_answers import correlation
from stormcell.evaluation.frequency_network import Budget
from stormcell.evaluation.gene_lists import compare_lists, improvement, ridge_scores, strongest, top_lists

if TYPE_CHECKING:
    from stormcell.models.bilinear import Bilinear

MOST = 3  # quadratic, or cubic, modules of an output
SHORT, LONG = 10, 25  # genes of a list
TESTED = 50  # genes of a pole whose terms are looked for, as many as in the source


class Cells(NamedTuple):
    """Some cells of a part of the split."""

    rows: np.ndarray  # n
    genes: np.ndarray  # n × G float32, standardised
    inputs: np.ndarray  # n × D float32
    y: np.ndarray  # n × F, or n classes


@dataclass(frozen=True)
class Found:
    """A module, and how it came back."""

    module: Module
    seeds: Stability | None
    resamples: Stability | None


# ---- fits


def find_modules(
    model: Bilinear, data: FrequencyDataModule, train: Cells
) -> tuple[list[Found], pd.DataFrame, list[str]]:
    """The modules of the run, those that explain most of a frequency first; whether the spaces that they span come
    back (`subspace_table`, against the other starts); and what must be told."""
    own = read_modules(model, data, train)
    if not own:
        return [], pd.DataFrame(), ["the network uses none of its inputs: no module"]
    own.sort(key=lambda module: (module.frequency, -module.explained))
    G = len(own[0].loadings)
    sizes = tuple(size for size in (SHORT, LONG) if size <= G / 2)
    if not model.refits or not sizes:
        why = "model.refits=0" if not model.refits else f"{G} genes are too few for lists of {SHORT}"
        told = [f"modules were not compared with those of other fits: {why}"]
        return [Found(module, None, None) for module in own], pd.DataFrame(), told
    rows, rng = data.rows["train"], np.random.default_rng(seed_of("resampled cells", model.seed))
    again = {
        "seeds": [refitted(model, data, rows, turn) for turn in range(1, model.refits + 1)],
        "resamples": [refitted(model, data, rng.choice(rows, len(rows)), -turn) for turn in range(1, model.refits + 1)],
    }
    runs = {key: [own, *(read_modules(one, data, train) for one in fits)] for key, fits in again.items()}
    blocks = () if model.classifies else data.spectrum.blocks
    compared = {key: stability(run, sizes, blocks) for key, run in runs.items()}
    found = [Found(*three) for three in zip(own, compared["seeds"], compared["resamples"], strict=True)]
    return found, subspace_table(runs["seeds"], MOST, blocks), []


def budget_of(model: Bilinear, data: FrequencyDataModule) -> Budget:
    """Width of a member, steps and AdamW of the run: for fits beside it, and for the network it is compared with."""
    config = model.record["config"]
    trainer, rate = config["trainer"], config["model"]["optimizer"]
    limits = trainer.get("max_steps", -1), (trainer.get("max_epochs") or -1) * data.steps_per_epoch
    steps = min((limit for limit in limits if limit > 0), default=3000)
    return Budget(
        hidden=config["model"]["hidden"],
        steps=int(trainer.get("fast_dev_run") or steps),
        batch=data.batch_size,
        lr=rate.get("lr", 1e-3),
        weight_decay=rate.get("weight_decay", 1e-2),
        loss=config["model"]["loss"],
    )


def read_modules(model: Bilinear, data: FrequencyDataModule, train: Cells) -> list[Module]:
    """Through the data-weighted spectrum, on these training cells."""
    genes = train.genes if data.basis.matrix is not None else None
    factors, readout = weights(model)
    return modules(factors, readout, train.inputs, genes, data.basis.matrix, MOST, seed=model.seed)


def weights(model: Bilinear) -> tuple[list[np.ndarray], np.ndarray]:
    """Factors, each H × (D + 1), and readout F × H of the mean of the members."""
    return model.network.factor_matrices(), model.network.readout.detach().double().numpy()


def refitted(model: Bilinear, data: FrequencyDataModule, rows: np.ndarray, turn: int) -> Bilinear:
    """The same network from another start, on these cells, for as many steps as a run that does not stop early."""
    other = copy.deepcopy(model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(f"refit {turn}", model.seed) % 2**63)
        other.network = model.network.another()
    budget = budget_of(model, data)
    rate = {"lr": budget.lr, "weight_decay": budget.weight_decay, "fused": True}
    optimizer = torch.optim.AdamW(other.network.parameters(), **rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, budget.steps)
    x, y = torch.from_numpy(data.inputs), torch.from_numpy(data.targets)
    other.train()
    for step in range(budget.steps):
        some = torch.from_numpy(rows[cells_of_step(step, len(rows), data.batch_size, data.seed + turn % 1000)])
        optimizer.zero_grad()
        other.loss(Frequencies(x[some], y[some]))["loss"].backward()
        optimizer.step()
        schedule.step()
    return other.eval()


# ---- tables


def module_tables(
    name: str, model: Bilinear, data: FrequencyDataModule, found: list[Found], train: Cells, test: Cells
) -> tuple[dict[str, pd.DataFrame], list[str]]:
    """modules, module_summary, consensus, subspaces, parts, lists, improvement and, with gene sets, their terms."""
    tables: dict[str, pd.DataFrame] = {"parts": parts_table(model, data, train)}
    if not found:
        return tables, []
    y, asked = (one_hot(part.y, data.spec.n_outputs) if model.classifies else part.y for part in (train, test))
    own, genes = [one.module for one in found], data.spec.genes
    correlated = np.nan_to_num(correlation(train.genes, y))
    tables["modules"] = module_table(own, genes, LONG)
    tables["module_summary"] = summary_table(data, found, train, correlated)
    if found[0].seeds is not None:
        tables["consensus"] = consensus_table([one.seeds for one in found], genes, max(found[0].seeds.jaccard))
    lists = {name: leading(own, len(correlated), len(genes)), "ridge": ridge_scores(train.genes, y)}
    tables["lists"] = compare_lists(lists, train.genes, y, LONG, free_sign=(name,), seed=model.seed)
    chosen = top_lists({name: lists[name], "correlation": correlated, "ridge": lists["ridge"]}, LONG)
    worth = improvement(chosen, train.genes, y, test.genes, asked, model.seed)
    tables["improvement"], tables["improvement_mean"] = worth.per_frequency, worth.mean
    if model.classifies:
        names = dict(enumerate(data.spec.outputs, 1))
        for key in ("modules", "module_summary", "consensus", "lists", "improvement"):  # by name, as the others
            if key in tables:
                tables[key] = tables[key].assign(frequency=tables[key]["frequency"].map(names))
    terms, told = enrichment_tables(model, data, own, correlated)
    return tables | terms, told


def one_hot(classes: np.ndarray, n: int) -> np.ndarray:
    return np.eye(n, dtype=np.float32)[classes]


def leading(own: list[Module], n_outputs: int, n_genes: int) -> np.ndarray:
    """Loadings of the module that explains most of each output, 0 without one: F × G."""
    scores = np.zeros((n_outputs, n_genes))
    for module in reversed(own):  # the first of an output is written last
        scores[module.frequency] = module.loadings
    return scores


def parts_table(model: Bilinear, data: FrequencyDataModule, train: Cells) -> pd.DataFrame:
    """Share of the variance of every output that its linear, quadratic and cubic part carries."""
    factors, readout = weights(model)
    shares = variance_shares(factors, readout, train.inputs)
    frame = pd.DataFrame(shares, columns=["linear", "quadratic", "cubic"][: shares.shape[1]])
    outputs = data.spec.outputs if model.classifies else range(1, data.spec.n_outputs + 1)
    frame.insert(0, "frequency", list(outputs))
    return frame


def summary_table(data: FrequencyDataModule, found: list[Found], train: Cells, correlated: np.ndarray) -> pd.DataFrame:
    """One row per module: what it explains, whether it comes back, its overlap with correlation, whom it sets apart."""
    own = [one.module for one in found]
    if found[0].seeds is not None:
        table = stability_table([one.seeds for one in found])
        again = stability_table([one.resamples for one in found])
        short = next(key for key in table if key.startswith("jaccard_"))
        table["jaccard_seeds"], table["jaccard_resamples"] = table[short], again[short]
        table["comes_back"] &= again["comes_back"]
    else:
        head = [(m.frequency + 1, m.name, m.degree, "-+"[m.eigenvalue > 0], m.explained) for m in own]
        table = pd.DataFrame(head, columns=["frequency", "module", "degree", "lambda_sign", "explained"])
    table["overlap_correlation"] = [_overlap(module, correlated[module.frequency]) for module in own]
    labels = data.cell_type if data.cell_type is not None else data.cluster
    if labels is not None:
        apart = [set_apart(module, labels[train.rows]) for module in own]
        table["sets_apart"], table["auc"] = zip(*apart, strict=True)
    return table


def _overlap(module: Module, scores: np.ndarray) -> float:
    """Jaccard of the first genes with those of largest correlation, signs apart from it."""
    mine, other = set(module.top(SHORT).tolist()), set(strongest(scores, SHORT).tolist())
    return len(mine & other) / max(len(mine | other), 1)


def set_apart(module: Module, labels: np.ndarray) -> tuple[str, float]:
    """The label whose cells the module's part sets most apart from all others, and the area under the ROC curve."""
    from scipy.stats import rankdata

    part = module.eigenvalue * module.activation**module.degree
    place, best, area = rankdata(part), "", 0.5
    for label in np.unique(labels):
        mine = labels == label
        n, rest = int(mine.sum()), int((~mine).sum())
        if not label or n < 2 or rest < 2:
            continue
        found = (place[mine].sum() - n * (n + 1) / 2) / (n * rest)
        if abs(found - 0.5) > abs(area - 0.5):
            best, area = str(label), float(found)
    return best, area


# ---- gene sets


def enrichment_tables(
    model: Bilinear, data: FrequencyDataModule, own: list[Module], correlated: np.ndarray
) -> tuple[dict[str, pd.DataFrame], list[str]]:
    """Terms of both poles of the leading module of every output, and of the genes that correlate with it; lineages are
    looked up in the lower half of the frequencies."""
    if model.gene_sets is None:
        return {}, []
    path, genes, sets = Path(model.gene_sets), list(data.spec.genes), model.matched_sets()
    scores = {"module": leading(own, len(correlated), len(genes)), "correlation": correlated}
    found, told = {}, [f"{path.name}: {note}" for note in sets.notes]
    for kind, rows in scores.items():
        lists, serves = {}, {}
        for output, row in zip(data.spec.outputs, rows, strict=True):
            number = int(output.removeprefix("frequency ")) if not model.classifies else output
            for pole, turned in (("+", row), ("-", -row)):
                best = np.argsort(-turned, kind="stable")[:TESTED]
                lists[f"{output} {pole}"] = [genes[gene] for gene in best[turned[best] > 0]]
                serves[f"{output} {pole}"] = number
        lists = {key: names for key, names in lists.items() if names}
        found[kind] = enrich(lists, sets, serves)
        chance = random_lists(lists, sets, seed=model.seed)
        told.append(
            f"{int(chance['terms'].sum())} terms of {path.name} in the {kind} lists of {TESTED} genes at a "
            f"false-discovery rate of 5 %; random lists of as many genes {chance['random_mean'].sum():.1f}"
        )
    low = set(list(serves.values())[: len(serves) // 2]) if not model.classifies else set(serves.values())
    lineages = {kind: looked_up(table[table["frequency"].isin(low)]) for kind, table in found.items()}
    return {
        "enrichment": found["module"],
        "enrichment_correlation": found["correlation"],
        "looked_up": lineages["module"],
        "looked_up_correlation": lineages["correlation"],
    }, told
