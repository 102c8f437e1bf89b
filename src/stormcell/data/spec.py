"""What a model must know of the data: names, categories, library statistics. Made from the training part only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

import numpy as np

TARGET_SUM = 1e4  # expression is log1p(counts / library · TARGET_SUM)


@dataclass(frozen=True)
class Spec:
    """Plain values that ride in every checkpoint; the sizes of a network are properties of it.

    A condition is the canonical label of a perturbation: its targets sorted and joined by "+"; control has none.
    """

    genes: tuple[str, ...]
    targets: tuple[str, ...]  # columns of the multi-hot: every target perturbed in the training cells
    conditions: tuple[str, ...]  # perturbations of the training cells, without control
    scale: str  # counts · log1p · continuous
    covariates: dict[str, tuple[str, ...]]  # categorical obs columns, one-hot in this order
    gene_mean: tuple[float, ...]  # counts: log of the pooled rate counts / library; else the mean expression
    gene_sd: tuple[float, ...]  # of the expression that a network reads
    control: str = "control"
    batches: tuple[str, ...] = ()  # of the training cells; none where there is only one
    continuous: dict[str, tuple[float, float]] = field(default_factory=dict)  # mean, sd over the training cells

    @property
    def n_genes(self) -> int:
        return len(self.genes)

    @property
    def n_targets(self) -> int:
        return len(self.targets)

    @property
    def n_covariates(self) -> int:
        """Columns of the covariates together: the one-hots, then one for each continuous covariate."""
        return sum(len(categories) for categories in self.covariates.values()) + len(self.continuous)

    @property
    def n_batches(self) -> int:
        """Columns of the one-hot of the batch: none where training has seen one batch."""
        return len(self.batches)

    @property
    def has_counts(self) -> bool:
        return self.scale == "counts"

    def unknown_targets(self, condition: str) -> list[str]:
        """Targets of a condition that no training cell carries; [] where the condition can be represented."""
        return [] if condition == self.control else [t for t in condition.split("+") if t not in self.targets]

    def multi_hot(self, conditions: Sequence[str]) -> np.ndarray:
        """conditions → n × C float32, one at each perturbed target that is known; control is all zero."""
        column = {target: i for i, target in enumerate(self.targets)}
        hot = np.zeros((len(conditions), self.n_targets), np.float32)
        for row, condition in enumerate(conditions):
            if condition != self.control:
                hot[row, [column[target] for target in condition.split("+") if target in column]] = 1
        return hot

    def record(self) -> dict:
        """Dicts, lists and plain values only (a checkpoint loads with weights_only=True)."""
        plain = asdict(self)
        for name in _TABLES:
            plain[name] = {key: list(values) for key, values in plain[name].items()}
        return {key: list(value) if isinstance(value, tuple) else value for key, value in plain.items()}

    @classmethod
    def from_record(cls, record: dict) -> Spec:
        lists = {key: tuple(value) for key, value in record.items() if isinstance(value, list)}
        tables = {name: {key: tuple(v) for key, v in record[name].items()} for name in _TABLES if name in record}
        return cls(**{**record, **lists, **tables})


_TABLES = ("covariates", "continuous")
