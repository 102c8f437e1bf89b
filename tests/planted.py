"""Planted worlds of held-out pairs, for the tests of the scoreboard: cells around profiles that are known."""

from dataclasses import replace

import numpy as np
from scipy.sparse import csr_matrix

from stormcell.analysis.pseudobulk import Pseudobulk
from stormcell.evaluation.baselines import baselines
from stormcell.evaluation.heldout import HeldOut, Query
from stormcell.evaluation.profiles import mean_profile

G, GROUP = 300, "pairs, both singles seen"
BASELINES = ["no change", "proportional to expression", "training mean", "own training mean", "additive"]


def world(effect: float, shared: bool = False, n_controls: int = 80, n_pairs: int = 8, seed: int = 0):
    """Normal cells around a profile; shift of a single = common + own part, of a pair = sum of its singles."""
    rng = np.random.default_rng(seed)
    base = rng.uniform(0.5, 3, G)
    common = rng.normal(size=G)
    singles = {f"T{i:02}": effect * (common + rng.normal(size=G)) for i in range(2 * n_pairs)}
    names = sorted(singles)
    pairs = {f"{a}+{b}": singles[a] + singles[b] for a, b in zip(names[::2], names[1::2], strict=True)}

    def cells(shift, n=60):
        return csr_matrix((base + shift + rng.normal(size=(n, G))).astype(np.float32))

    controls = cells(0, n_controls)
    train = {name: cells(shift) for name, shift in singles.items()}
    truth_controls = controls if shared else cells(0, n_controls)
    queries = [Query(name, "all", GROUP, cells(shift)) for name, shift in pairs.items()]
    held_out = asked(queries, controls, truth_controls, train, [f"gene {i}" for i in range(G)], shared)
    exact = [(base + shift, cells(shift, 100).toarray()) for shift in pairs.values()]
    return held_out, exact


def asked(queries, controls, truth_controls, train, genes, shared=False, context="all") -> HeldOut:
    """Queries of one context, with principal components and shifts of the training cells (condition -> cells)."""
    everything = np.concatenate([controls.toarray(), *(each.toarray() for each in train.values())])
    mean = everything.mean(0)
    _, _, axes = np.linalg.svd(everything - mean, full_matrices=False)
    control = mean_profile(controls)
    shifts = {name: mean_profile(each) - control for name, each in train.items()}
    bulk = Pseudobulk.of_shifts(shifts, control)
    return HeldOut(
        genes=tuple(genes),
        separator="+",
        queries=tuple(queries),
        controls={context: controls},
        truth_controls={context: truth_controls},
        shared=shared,
        train=replace(bulk, contexts=(context,) * len(train), controls={context: control}),
        train_cells=train,
        detected=np.ones(len(mean), bool),
        pca_mean=mean,
        pca_components=axes[:20].T,
    )


def bars(held_out: HeldOut, names=BASELINES):
    """Some of the baselines, 60 cells each."""
    return [method for method in baselines(held_out, 60, seed=0) if method.name in names]
