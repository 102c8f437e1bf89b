"""Everything that a run says about the frequencies of its cell graph and the gene modules that predict them.

The examination of the model fills one FrequencyJudgement; tables, figures and the report page are drawn from it alone.
A frequency is a low eigenvector of the Laplacian of the cell graph, named by its number (1: smallest eigenvalue) or, of
a classifier, by its class. A quadratic module is an eigenvector v of an interaction matrix: it adds λ (vᵀx)² to a
frequency, so that both of its poles push the same way, up where λ > 0 and down where λ < 0.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pandas as pd

from stormcell.evaluation.frequency_metrics import CHANCE, FREQUENCY_METRICS
from stormcell.report.method_board import MethodBoard

if TYPE_CHECKING:
    from anndata import AnnData

# Tables that a figure reads, and the columns that they cannot do without.
REQUIRED = {
    "per_frequency": ("method", "frequency"),
    "per_class": ("method", "class", "recall"),
    "spectrum": ("frequency", "eigenvalue"),
    "extension": ("frequency", "correlation"),
    "modules": ("frequency", "module", "gene", "loading"),
    "module_summary": ("frequency", "module"),
    "lists": ("frequency", "list a", "list b", "jaccard"),
    "improvement": ("frequency", "list", "r2"),
    "enrichment": ("frequency", "term", "q"),
    "looked_up": ("lineage", "found"),
    "hierarchy": ("cut",),
}


@dataclass(frozen=True)
class FrequencyJudgement(MethodBoard):
    """How well the frequencies of held-out cells are told beside simple answers, and what the modules are.

    Raises ValueError when the parts do not fit together: the caller's bug, not the user's mistake.
    """

    known: ClassVar = FREQUENCY_METRICS
    chance: ClassVar = CHANCE
    aside: ClassVar = "a yardstick, no rival"

    model: str  # "bilinear" · "trilinear"
    methods: tuple[str, ...]  # rows of the model; the first is the one that the pictures show
    baselines: tuple[str, ...]  # simple answers; every other row of the scoreboard is a yardstick that does not compete
    verdict: tuple[str, ...]  # sentences
    notes: tuple[str, ...]  # what must be told: components of the graph, frequencies on few cells
    undefined: tuple[str, ...]  # metrics without a value and why: on the page, not on the screen
    scoreboard: pd.DataFrame  # group (a panel of FREQUENCY_METRICS), method, n, <metric>, <metric>_low, <metric>_high
    tables: dict[str, pd.DataFrame]  # NAME of tables/NAME.csv; any may be missing, known by name (first those needed):
    # per_frequency: method, frequency; r2, mae_ratio · of a classifier per_class: method, class, recall
    # spectrum: frequency, eigenvalue; gap (to the next, relative), residual, participation, block, trusted (bool)
    # extension: frequency, correlation; rotated, ceiling
    # modules: frequency, module, gene, loading; lambda_sign, explained, rank
    # module_summary: frequency, module, the leading one of a frequency first; lambda_sign, explained, jaccard_seeds,
    #   jaccard_25, overlap_correlation, comes_back (bool)
    # lists: frequency, list a, list b, jaccard; footing (unsigned, signed), chance, p
    # improvement: frequency, list, r2; regressor, low, high
    # enrichment: frequency, term, q · looked_up: lineage, found (bool); term, q
    # hierarchy: cut (so many frequencies); labels (one row each), ari_types, ari_pca, null, ari_activations,
    #   ari_predicted, ari_again, nested, nested_pca
    points: pd.DataFrame  # by cell name: x, y (two dimensions of the frequency space); where known part, cell_type,
    # cluster, "frequency 1", "frequency 2", … (unit root mean square)
    adata: AnnData | None = None  # predictions.h5ad

    def __post_init__(self):
        for name, columns in REQUIRED.items():
            missing = [column for column in columns if column not in self.table(name)]
            if missing and len(self.table(name)):
                raise ValueError(f"table {name!r} has no column {', '.join(missing)}")
        missing = [column for column in ("x", "y") if column not in self.points]
        if missing and len(self.points):
            raise ValueError(f"points have no column {', '.join(missing)}")
        self.check_board()

    @property
    def frequencies(self) -> list[str]:
        """Columns of the points that hold a frequency."""
        return [str(name) for name in self.points if str(name).startswith("frequency ")]


def named(frequency) -> str:
    """A frequency in a sentence: `frequency 3`, or the name of its class."""
    return f"frequency {int(frequency)}" if isinstance(frequency, Real) else str(frequency)


def bare(frequency) -> str:
    """A frequency on an axis: its number, or the name of its class."""
    return named(frequency).removeprefix("frequency ")


def axis(frequencies: Iterable) -> str:
    """What an axis of frequencies, or of classes, is called."""
    return "frequency" if all(named(one).startswith("frequency ") for one in frequencies) else "class"


def column(table: pd.DataFrame, name: str) -> pd.Series:
    """A column of numbers, NaN where it is missing."""
    found = table[name] if name in table else pd.Series(np.nan, index=table.index)
    return pd.to_numeric(found, errors="coerce").astype(float).replace([np.inf, -np.inf], np.nan)


def marked(table: pd.DataFrame, name: str) -> pd.Series:
    """A column of yes and no; what is missing is no."""
    return table[name].eq(True) if name in table else pd.Series(False, index=table.index)
