"""Cells of a source cluster coupled to cells of a target cluster, for every transition of a trajectory.

Cells are split before they are paired. Expression is denoised by training cells alone, scaled by one standard deviation
per gene (within clusters, over training cells), and coupled in principal components; the cells of a part are coupled to
those of the same part. Rows regulate columns everywhere.

Shapes: N cells, G genes, E edges, T transitions, n_a and n_b cells of the two clusters, B pairs in a batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from stormcell.analysis.couplings import Coupling, Sinkhorn
from stormcell.analysis.denoise import smooth, smooth_by_metacells
from stormcell.config import DataConfig, UserError, nearest
from stormcell.data.cells import Cells, read
from stormcell.data.expression import log_expression, principal_components, spread_within
from stormcell.data.fit import select_genes
from stormcell.data.network_spec import NetworkSpec
from stormcell.data.prior import AllPrior, Prior
from stormcell.data.split import Split
from stormcell.data.stream import Steps, seed_of
from stormcell.data.transitions import neighbouring, parse

DENOISING = {"neighbours": smooth, "metacells": smooth_by_metacells}
FEWEST = 5  # training cells of a cluster
CONSTANT = 1e-6  # standard deviation within clusters below which a gene is constant


class Pairs(NamedTuple):
    """One batch of coupled cells, drawn from the plan of one transition."""

    x: Tensor  # B × G  scaled expression of source cells, as departure from their cluster's mean
    y: Tensor  # B × G  the same of target cells
    transition: Tensor  # B int64


@dataclass(frozen=True)
class Sides:
    """The two clusters of a transition in one part of the split."""

    x: np.ndarray  # n_a × G float32, denoised, scaled
    y: np.ndarray  # n_b × G
    coupling: Coupling
    rows: tuple[np.ndarray, np.ndarray]  # numbers of the cells


class ClusterMappingDataModule(pl.LightningDataModule):
    """Transitions between clusters, with a prior network and a coupling.

    Parameters
    ----------
    smooth
        Training cells of its own cluster that a cell is averaged over; 1 leaves it as it is; null: 20 for counts and
        log1p, 1 for continuous values. On raw counts no regression predicts anything, whatever the pairing.
    denoise
        What these cells are: the nearest `neighbours` of the cell, or the `metacells` that k-means makes of so many.
    known
        A network that is not the mask, which the edges are compared to; null: none.
    components
        Principal components, fitted on the training cells, in which cells are coupled and smoothed.
    """

    def __init__(
        self,
        data: DataConfig,
        split: Callable[..., Split],
        seed: int = 1,
        targets: object = None,
        coupling: Callable[..., Coupling] | None = None,
        prior: Callable[..., Prior] | None = None,
        known: Callable[..., Prior] | None = None,
        smooth: int | None = None,
        denoise: str = "neighbours",
        components: int = 20,
        batch_size: int = 256,
    ) -> None:
        super().__init__()
        for key, value in (("smooth", smooth), ("components", components), ("batch_size", batch_size)):
            if value is not None and value < 1:
                raise UserError(f"datamodule.{key}={value}: a whole number of at least 1")
        if denoise not in DENOISING:
            raise UserError(
                f"datamodule.denoise={denoise}{nearest(denoise, DENOISING)}: {' or '.join(DENOISING)} expected"
            )
        self.config, self.split_rule, self.seed, self.denoise = data, split, seed, denoise
        self.rule, self.prior_rule = coupling or Sinkhorn(), prior or AllPrior()
        self.known_rule = known
        self.k, self.components, self.batch_size = smooth, components, batch_size
        self.cells: Cells | None = None

    # ---- reading

    def setup(self, stage: str | None = None) -> None:
        if self.cells is not None:
            return
        cells = read(self.config)
        cells = cells.take(np.argsort(cells.obs.index.to_numpy(str), kind="stable"))
        if "cluster" not in cells.obs:
            raise UserError(f"{cells.origin}: data.cluster_key is missing: transitions are between clusters")
        self.split = self.split_rule(cells, self.seed)
        train = self.split.mask("train")
        prior, genes, variable = self._genes(cells, train)
        self.cells = replace(cells, X=cells.X[:, genes].tocsr(), genes=[cells.genes[g] for g in genes])
        self.prior = prior
        self.known = self._known()
        self.rows = {part: np.flatnonzero(self.split.mask(part)) for part in ("train", "validation", "test")}
        self.cluster = cells.obs["cluster"].to_numpy(str)
        self.condition = self.cluster  # what is counted in the notes of a run
        pseudotime = cells.obs["pseudotime"].to_numpy(float) if "pseudotime" in cells.obs else None
        self.pseudotime = pseudotime
        self.expression = log_expression(self.cells)
        self.points = principal_components(self.expression[:, variable], train, self.components)
        found = self._transitions(train)
        self.values = self._denoised(train)
        sd = spread_within(self.values, self.cluster, train, {name for pair in found for name in pair})
        constant = sd < CONSTANT
        if constant.any():
            self.cells.notes.append(f"{int(constant.sum())} genes do not vary within the clusters: no edge of theirs")
        self.scale = np.where(constant, 1.0, sd)
        mask = prior.mask
        keep = ~(constant[mask.regulator] | constant[mask.target])
        if not keep.any():
            raise UserError(
                f"{cells.origin}: no edge of the prior network joins two genes that vary within the clusters"
            )
        self.spec = NetworkSpec(
            genes=tuple(self.cells.genes),
            regulator=tuple(mask.regulator[keep].tolist()),
            target=tuple(mask.target[keep].tolist()),
            sign=tuple(mask.sign[keep].tolist()),
            transitions=tuple(found),
            scale=cells.scale,
            gene_sd=tuple(self.scale.tolist()),
        )
        if not self.with_cells("validation"):
            self.rows["validation"] = np.empty(0, int)
        self._told(train)

    def setup_elsewhere(self, spec: NetworkSpec, controls_for_truth: float) -> None:
        raise UserError(
            f"{read(self.config).origin}: a transition network is judged on held-out cells of its own file; train on "
            "this one with python train.py model=transition data.path=…"
        )

    def _genes(self, cells: Cells, train: np.ndarray) -> tuple[Prior, np.ndarray, np.ndarray]:
        """The prior, the genes that are kept (variable ones and those of the prior) and which of them are variable."""
        variable = select_genes(cells, train, self.config)
        if isinstance(self.prior_rule, AllPrior):
            names = [cells.genes[g] for g in variable]
            return self.prior_rule(names, cells.truth), variable, np.arange(len(variable))
        mask = self.prior_rule(cells.genes, cells.truth).mask
        genes = np.union1d(variable, np.union1d(mask.regulator, mask.target)).astype(int)
        prior = self.prior_rule([cells.genes[g] for g in genes], cells.truth)
        return prior, genes, np.searchsorted(genes, variable)

    def _known(self) -> Prior | None:
        """The network that ours is compared to, over the genes that are kept."""
        if self.known_rule is None:
            return None
        try:
            return self.known_rule(self.cells.genes, self.cells.truth)
        except UserError as error:
            raise UserError(f"datamodule.known: {error}") from error

    def _transitions(self, train: np.ndarray) -> list[tuple[str, str]]:
        """Asked for, or neighbouring; each cluster has training cells to go on."""
        present = np.unique(self.cluster)
        if self.config.transitions is not None:
            found = parse(self.config.transitions, present.tolist(), "data.transitions")
        else:
            pseudotime = None if self.pseudotime is None else self.pseudotime[train]
            found = neighbouring(self.points[train], self.cluster[train], pseudotime, self.config.root)
        for name in sorted({name for pair in found for name in pair}):
            n, tested = (int((self.cluster[self.rows[part]] == name).sum()) for part in ("train", "test"))
            if n < FEWEST:
                raise UserError(
                    f"{self.cells.origin}: cluster {name!r} has {n} training cells; {FEWEST} are the fewest"
                )
            if not tested:
                raise UserError(
                    f"{self.cells.origin}: the split leaves no test cell of cluster {name!r}; raise split.test_cells, "
                    "or leave its transitions out of data.transitions"
                )
        return found

    @property
    def neighbours(self) -> int:
        """Training cells that a cell is averaged over."""
        return self.k or (1 if self.config.scale == "continuous" else 20)

    def _denoised(self, train: np.ndarray) -> np.ndarray:
        """N × G float32; a cell is the mean of training cells of its cluster."""
        k = self.neighbours
        if k == 1:
            return self.expression.toarray().astype(np.float32)
        codes = np.unique(self.cluster, return_inverse=True)[1]
        # Cells without a cluster, and clusters without training cells, have no neighbours: they stand in no transition.
        mine = np.isin(codes, codes[train])
        values = np.zeros(self.expression.shape, np.float32)
        averaged = DENOISING[self.denoise]
        values[mine] = averaged(self.expression[mine], self.points[mine], codes[mine], k, train[mine])
        return values

    def _told(self, train: np.ndarray) -> None:
        """What the notes of a run say of the view."""
        self.cells.notes += self.prior.notes
        if self.known is not None:
            self.cells.notes += [f"known network: {note}" for note in self.known.notes]
            mine, known = (
                set(zip(one.regulator, one.target, strict=True)) for one in (self.spec.mask, self.known.mask)
            )
            self.cells.notes.append(
                f"known network: {len(mine & known):,} of the {len(mine):,} edges of ours are in it"
            )
        degree = self.spec.mask.in_degree.max()
        fewest = min(len(self.sides(t, "train").x) for t in range(len(self.spec.transitions)))
        if fewest <= degree:
            self.cells.notes.append(
                f"a source cluster has {fewest} training cells and a target up to {degree} regulators: ridge decides"
            )

    # ---- transitions

    def sides(self, t: int, part: str, rule: Callable[..., Coupling] | None = None) -> Sides:
        """The clusters of transition t in a part of the split, coupled by the rule of the view or another one."""
        if rule is None:
            if (t, part) not in self._coupled:
                self._coupled[t, part] = self._couple(t, part, self.rule)
            return self._coupled[t, part]
        return self._couple(t, part, rule)

    @cached_property
    def _coupled(self) -> dict[tuple[int, str], Sides]:
        return {}

    def _couple(self, t: int, part: str, rule: Callable[..., Coupling]) -> Sides:
        rows = [self.rows[part][self.cluster[self.rows[part]] == name] for name in self.spec.transitions[t]]
        x, y = (self.values[side] / self.scale.astype(np.float32) for side in rows)
        return Sides(x, y, self.coupled(t, *rows, rule), (rows[0], rows[1]))

    def coupled(self, t: int, source: np.ndarray, target: np.ndarray, rule: Callable[..., Coupling]) -> Coupling:
        """The coupling of these cells, numbers with or without repeats, by a rule."""
        rows = (source, target)
        times = [None if self.pseudotime is None else self.pseudotime[side] for side in rows]
        names = [self.cells.obs.index.to_numpy(str)[side] for side in rows]
        seed = seed_of(f"coupling {t}", self.seed)
        return rule(*(self.points[side] for side in rows), *times, seed=seed, names_x=names[0], names_y=names[1])

    def with_cells(self, part: str) -> list[int]:
        """The transitions of which both clusters have cells in a part: small ones may lack validation cells."""
        present = set(self.cluster[self.rows[part]])
        return [t for t, pair in enumerate(self.spec.transitions) if present.issuperset(pair)]

    # ---- batches, for models that are fitted step by step

    def train_batch(self, step: int, rank: int = 0, world: int = 1) -> Pairs:
        """Pairs of training batch `step`, drawn from the plan of one transition after the other."""
        t = step % len(self.spec.transitions)
        return self._pairs(t, "train", np.random.default_rng([self.seed, step]), rank, world)

    def _pairs(self, t: int, part: str, rng: np.random.Generator, rank: int = 0, world: int = 1) -> Pairs:
        sides = self.sides(t, part)
        a, b = (drawn[rank::world] for drawn in sides.coupling.sample(self.batch_size, rng))
        pairs = (
            torch.from_numpy((side - mean).astype(np.float32))
            for side, mean in zip((sides.x[a], sides.y[b]), self._means[t], strict=True)
        )
        return Pairs(*pairs, torch.full((len(a),), t))

    @cached_property
    def _means(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Of both clusters of every transition, over the training cells as the plan weighs them: G, G."""
        train = [self.sides(t, "train") for t in range(len(self.spec.transitions))]
        return [(side.coupling.source @ side.x, side.coupling.target @ side.y) for side in train]

    @property
    def cells_per_step(self) -> int:
        return self.batch_size

    @property
    def steps_per_epoch(self) -> int:
        return max(-(-len(self.rows["train"]) // self.batch_size), len(self.spec.transitions))

    def train_dataloader(self) -> Steps:
        return Steps(self.trainer, self.steps_per_epoch, self.train_batch)

    def val_dataloader(self) -> DataLoader:
        """One batch of every transition that has validation cells; the same at every look."""
        mine = self.with_cells("validation")[self.trainer.global_rank :: self.trainer.world_size]
        batches = [self._pairs(t, "validation", np.random.default_rng([self.seed, t])) for t in mine]
        return DataLoader(batches, batch_size=None)
