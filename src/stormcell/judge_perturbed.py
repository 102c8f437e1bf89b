"""In-silico perturbation: what the networks of the transitions say when one regulator is held at a level.

The source cells of a transition, natural units, with the regulator held at 0 (knock-out) or at its highest value among
the training cells (over-expression); its effect runs `model.steps` steps through the network (analysis/propagate.py).
Where transitions follow each other, the cells of the first cluster also go through all of them in order. Every gene
stays within its range among the training cells. A network is a regression on what was observed: the shift is a question
to an experiment, no answer of one.

Shapes: N cells, G genes, T transitions. Rows of W regulate columns.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.sparse import csr_array, diags_array

from stormcell.analysis.propagate import knocked_out, over_expressed, propagate

if TYPE_CHECKING:
    from stormcell.data.cluster_mapping import ClusterMappingDataModule
    from stormcell.models.transition import Transition

KNOCK_OUT, OVER = "knock-out", "over-expression"
MOST_REGULATORS, MOST_GENES = 3, 100  # perturbed unasked; rows of one perturbation
MOST_PATHS = 8  # from a first cluster to a last one


def perturbation_table(model: Transition, data: ClusterMappingDataModule, regulators: pd.DataFrame) -> pd.DataFrame:
    """One row per shifted gene, the largest first: transition (or path), regulator, kind, gene, shift and its standard
    deviation over the cells, in natural units.

    `regulators`: the table whose `strength` chooses where model.perturb does not. The regulator itself, whose shift is
    set and not predicted, and genes that do not move are left out.
    """
    genes, rows = np.array(data.spec.genes), []
    networks = [natural_network(model, t) for t in range(data.spec.n_transitions)]
    seen = data.values[data.rows["train"]].astype(float)
    lowest, highest = seen.min(0), seen.max(0)
    for regulator in perturbed_regulators(model, regulators):
        place, of_one = data.spec.genes.index(regulator), []
        for order, name in routes(data.spec.transitions):
            x, path = source_cells(data, order[0]), [networks[t] for t in order]
            for kind in (KNOCK_OUT, OVER):
                level = held_level(x, place, kind, lowest, highest)
                cells = propagate(x, path, place, level, model.steps, lowest, highest).cells
                shift, spread = cells.mean(0), cells.std(0)
                moved = np.flatnonzero((shift != 0) & (genes != regulator))
                top = moved[np.argsort(-np.abs(shift[moved]), kind="stable")[:MOST_GENES]]
                named = {"transition": name, "regulator": regulator, "kind": kind}
                of_one.append(pd.DataFrame(named | {"gene": genes[top], "shift": shift[top], "shift_sd": spread[top]}))
        rows.append(pd.concat(of_one).sort_values("shift", key=lambda v: -v.abs(), kind="stable"))
    return pd.concat(rows, ignore_index=True) if rows else pd.DataFrame()


def perturbed_regulators(model: Transition, regulators: pd.DataFrame) -> list[str]:
    """Those of model.perturb, else those of largest summed strength over all transitions."""
    if model.perturb is not None:
        return list(dict.fromkeys(model.perturb))
    total = regulators.groupby("regulator", sort=True)["strength"].sum()
    return total.sort_values(ascending=False, kind="stable").index[:MOST_REGULATORS].astype(str).tolist()


def routes(transitions: tuple[tuple[str, str], ...]) -> list[tuple[list[int], str]]:
    """Every transition by itself, and the paths of two or more from a cluster that none enters to one that none leaves.

    (numbers of the transitions in order, `A>B>C`).
    """
    leaving: dict[str, list[int]] = {}
    for t, (source, _) in enumerate(transitions):
        leaving.setdefault(source, []).append(t)
    entered = {target for _, target in transitions}
    open_paths = [[t] for t, (source, _) in enumerate(transitions) if source not in entered]
    paths: list[list[int]] = []
    while open_paths and len(paths) < MOST_PATHS:
        path = open_paths.pop(0)
        visited = {transitions[t][0] for t in path}
        onward = [t for t in leaving.get(transitions[path[-1]][1], []) if transitions[t][1] not in visited]
        open_paths = [[*path, t] for t in onward] + open_paths
        if not onward and len(path) > 1:
            paths.append(path)
    orders = [[t] for t in range(len(transitions))] + paths
    return [(order, ">".join([transitions[order[0]][0], *(transitions[t][1] for t in order)])) for order in orders]


def source_cells(data: ClusterMappingDataModule, t: int) -> np.ndarray:
    """Training and test cells of the source cluster, denoised, natural units: N × G."""
    rows = np.concatenate([data.sides(t, part).rows[0] for part in ("train", "test")])
    return data.values[rows].astype(float)


def held_level(x: np.ndarray, regulator: int, kind: str, lowest: np.ndarray, highest: np.ndarray) -> np.ndarray:
    """Level of the regulator in every cell: N."""
    if kind == OVER:
        return over_expressed(x, regulator, highest)
    # Continuous values may lie below 0: what is not expressed has the lowest of them.
    return knocked_out(x, regulator) + min(0.0, lowest[regulator])


def natural_network(model: Transition, t: int) -> csr_array:
    """Weights in natural units, self edges, which have no unit, on the diagonal: G × G."""
    mask, own = model.mask, model.own[t].detach().double().numpy()
    edges = csr_array((model.weights(t) * model.natural, (mask.regulator, mask.target)), shape=(len(own), len(own)))
    return (edges + diags_array(own)).tocsr()
