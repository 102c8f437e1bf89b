"""Everything that a run of a latent model says about its held-out cells, in plain arrays and tables.

The examination of the model fills one LatentJudgement; the tables, figures and the report page are drawn from it alone.
Shapes: N held-out cells, G genes, K dimensions of a space.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from anndata import AnnData

REQUIRED = ("condition", "is_control")


@dataclass(frozen=True)
class LatentJudgement:
    """The held-out cells in the spaces of the model, what the spaces hold beside those of the baselines, and what the
    model says about genes and perturbations.

    Raises ValueError when the parts do not fit together: the caller's bug, not the user's mistake.
    """

    model: str  # "contrastive"
    methods: tuple[str, ...]  # rows of the model; the first is the one that the pictures show
    baselines: tuple[str, ...]  # rows that the model must beat; every other row of the scoreboard is a ceiling
    verdict: tuple[str, ...]  # sentences
    notes: tuple[str, ...]  # what must be told: dropped cells, a column that is not there
    undefined: tuple[str, ...]  # metrics without a value and why: on the page, not on the screen
    scoreboard: pd.DataFrame  # group (one name), method, n, <metric>, <metric>_low, <metric>_high
    cells: pd.DataFrame  # N rows by cell name: condition, is_control; where known batch, cell_type, phase, library,
    # perturbed_probability (0 to 1), elbo and reconstruction (nats per cell)
    spaces: dict[str, np.ndarray]  # "background", "salient", "pca": N × K
    tables: dict[
        str, pd.DataFrame
    ]  # NAME of tables/NAME.csv -> de (condition, gene, lfc_mean in log2, proba_de, is_de),
    # programmes (programme, perturbation), factor_effects (condition, factor, effect, low, high, q), and any other
    criticism: pd.DataFrame = field(default_factory=pd.DataFrame)  # one row per gene: mean, zero (share of cells) and
    # variance, each with _observed and _predicted
    adata: AnnData | None = None  # predictions.h5ad

    def __post_init__(self):
        missing = [column for column in REQUIRED if column not in self.cells]
        if missing:
            raise ValueError(f"cells has no column {', '.join(missing)}")
        for name, space in self.spaces.items():
            if space.ndim != 2 or len(space) != len(self.cells):
                raise ValueError(f"space {name!r} has shape {space.shape}, but {len(self.cells)} cells were judged")
        if not set(self.methods) <= set(self.scoreboard["method"]):
            raise ValueError(f"scoreboard has no row of {set(self.methods) - set(self.scoreboard['method'])}")
        if self.scoreboard["method"].duplicated().any():
            raise ValueError("scoreboard has two rows of one method")

    @property
    def group(self) -> str:
        """What the rows of the scoreboard were judged on: `held-out cells`."""
        return str(self.scoreboard["group"].iloc[0])

    @property
    def perturbations(self) -> list[str]:
        """Perturbations of the held-out cells, those of most cells first."""
        counts = self.cells.loc[~self.is_control, "condition"].astype(str).value_counts()
        return sorted(counts.index, key=lambda name: (-counts[name], name))

    @property
    def is_control(self) -> np.ndarray:
        """N booleans."""
        return self.cells["is_control"].to_numpy(bool)

    def table(self, name: str) -> pd.DataFrame:
        """A table by name; one without rows where there is none."""
        return self.tables.get(name, pd.DataFrame())

    def value(self, method: str, metric: str) -> float:
        """One number of the scoreboard; NaN where there is none."""
        rows = self.scoreboard[self.scoreboard["method"] == method]
        return float(rows[metric].iloc[0]) if metric in rows and len(rows) else np.nan
