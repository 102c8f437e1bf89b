"""A perturbation screen: control and perturbed cells, split, with what was fitted on the training part of them.

The views (control/perturbed cells, pseudobulk) are built on it, and predictions of other programs are judged on it.

Shapes: N cells, G genes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property

import numpy as np
import pytorch_lightning as pl
from scipy.sparse import csr_matrix

from stormcell.analysis.embedding import TargetEmbedding
from stormcell.config import DataConfig, UserError
from stormcell.data.cell_cycle import score_cell_cycle
from stormcell.data.cells import Cells, read
from stormcell.data.csr import row_normalise_log1p
from stormcell.data.fit import align_genes, fit_spec, refuse_unread, refuse_unseen, select_genes
from stormcell.data.reference import Reference, fit_reference
from stormcell.data.spec import TARGET_SUM, Spec
from stormcell.data.split import PARTS, Split, judged_only
from stormcell.data.targets import multi_hot


class Screen(pl.LightningDataModule):
    """Reads cells, splits them, selects genes and fits the Spec; subclasses serve batches.

    `targets` says what is known of the targets beside the cells (conf/targets); none is a column for each target.
    """

    def __init__(
        self,
        data: DataConfig,
        split: Callable[..., Split],
        seed: int = 1,
        targets: Callable[..., TargetEmbedding] = multi_hot,
    ) -> None:
        super().__init__()
        self.config, self.split_rule, self.targets, self.seed = data, split, targets, seed
        self.cells: Cells | None = None

    def setup(self, stage: str | None = None) -> None:
        """Read, split, select genes and fit the Spec, once."""
        if self.cells is None:
            self.use(read(self.config))

    def use(self, cells: Cells) -> None:
        """Split cells that were read, select genes and fit the Spec."""
        cells = self._scored(cells)
        self.split = self.split_rule(cells, self.seed)
        train = self.split.mask("train")
        genes = select_genes(cells, train, self.config)
        cells = replace(cells, X=cells.X[:, genes].tocsr(), genes=[cells.genes[g] for g in genes])
        self._use(cells, fit_spec(cells, train, self.config))

    def setup_elsewhere(self, spec: Spec, controls_for_truth: float) -> None:
        """Another file than the one a model was trained on: every perturbed cell is a test cell.

        Genes are taken by name, in the order of the spec. Raises UserError when one is missing.
        """
        cells = align_genes(self._scored(read(self.config)), spec)
        for key, categories in spec.covariates.items():
            refuse_unseen(cells, key, categories, "data.cell_type_key or data.covariate_keys")
        for key in spec.continuous:
            refuse_unread(cells, key, "data.continuous_covariate_keys")
        self.split = judged_only(cells, self.seed, spec.conditions, controls_for_truth)
        self._use(cells, spec)

    @property
    def asks_phase(self) -> bool:
        """Whether data.cell_cycle=auto scores the cells; a view whose models are judged by phase says yes."""
        return False

    def _scored(self, cells: Cells) -> Cells:
        """Sorted by cell name, so that the order of the file plays no part in anything, and with a phase, if asked."""
        cells = cells.take(np.argsort(cells.obs.index.to_numpy(str), kind="stable"))
        return score_cell_cycle(cells, self.config.cell_cycle, self.asks_phase)

    def _use(self, cells: Cells, spec: Spec) -> None:
        self.cells, self.spec = cells, spec
        self.expression = cells.X
        if spec.has_counts:
            shares = row_normalise_log1p(cells.X, cells.obs["library"].to_numpy(), TARGET_SUM)
            self.expression = csr_matrix((shares, cells.X.indices, cells.X.indptr), cells.X.shape)
        self.rows = {part: np.flatnonzero(self.split.mask(part)) for part in PARTS}
        key = self.split.context_key
        self.context = cells.obs[key].to_numpy(str) if key else np.full(len(cells), "all")
        self.condition = cells.obs["condition"].to_numpy(str)

    @cached_property
    def reference(self) -> Reference:
        """Pseudobulk and principal components of the training cells."""
        train = self.rows["train"]
        return fit_reference(self.expression[train], self.condition[train], self.context[train], self.cells.control)

    @cached_property
    def embedding(self) -> TargetEmbedding:
        """What is known of every target in the file, held-out ones too: names alone, no cell of theirs."""
        named = set(self.condition) - {self.cells.control}
        wanted = sorted({target for condition in named for target in condition.split("+")})
        made = self.targets(spec=self.spec, train=self.reference.train, wanted=wanted)
        if made.source == self.cells.fingerprint:
            raise UserError(
                f"{self.cells.origin}: targets.path is the file of the cells themselves, held-out ones among them; "
                "vectors must come from another data set"
            )
        return made

    def control_rows(self, context: str) -> np.ndarray:
        """Training controls behind a query's context: what a generated cell may start from."""
        mine = self.rows["train"]
        mine = mine[self.cells.obs["is_control"].to_numpy()[mine]]
        return mine if context == "all" else mine[self.context[mine] == context]

    def test_values(self, condition: str, context: str, column: str) -> np.ndarray:
        """Values of an obs column over the test cells of a query."""
        obs, rows = self.cells.obs, self.rows["test"]
        mine = (self.condition[rows] == condition) & (self.context[rows] == context)
        return obs[column].to_numpy(str)[rows[mine]]
