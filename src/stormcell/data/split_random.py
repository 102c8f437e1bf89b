"""Held-out cells drawn at random, for views of all cells: no perturbation and no cluster is asked for.

Draws are stratified by cluster, else by cell type, where the file has them. As in split.py they are made on sorted cell
names with a generator keyed by (seed, label).
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from stormcell.config import UserError
from stormcell.data.cells import Cells
from stormcell.data.conditions import check_share, shuffled
from stormcell.data.split import Split, rows_by

FEWEST = 20  # cells of a label, below which it is drawn together with other rare ones: 15 % of 3 cells is no cell


def held_out_at_random(cells: Cells, seed: int, /, test_cells: float = 0.15, validation: float = 0.1765) -> Split:
    """`test_cells` of the cells are for the test, `validation` of what then remains validates.

    No groups, no part truth. Raises UserError where the shares leave nothing to train or to test on.
    """
    check_share(test_cells, "split.test_cells")
    check_share(validation, "split.validation")
    labels = _labels(cells)
    part = np.full(len(cells), "train", dtype="U10")
    for name, rows in rows_by(labels, np.argsort(cells.obs.index.to_numpy(str), kind="stable")).items():
        mine = shuffled(rows, seed, name, "at random")
        n_test = round(test_cells * len(mine))
        n_validation = round(validation * (len(mine) - n_test))
        part[mine[:n_test]] = "test"
        part[mine[n_test : n_test + n_validation]] = "validation"
    for needed, key in (("test", "split.test_cells"), ("train", "split.test_cells and split.validation")):
        if not (part == needed).any():
            raise UserError(
                f"{cells.origin}: test_cells={test_cells:g}, validation={validation:g} of {len(cells)} cells leave no "
                f"{needed} cell; change {key}"
            )
    condition = cells.obs["condition"].to_numpy(str) if "condition" in cells.obs else ""
    table = pd.DataFrame({"cell": cells.obs.index, "condition": condition, "covariate": labels, "part": part})
    table = table.sort_values(["condition", "covariate", "part", "cell"], kind="stable").reset_index(drop=True)
    return Split(part, {}, None, table, [])


def _labels(cells: Cells) -> np.ndarray:
    """The stratum of each cell: N strings; '' where the file has no label or the label is rare."""
    column = next((name for name in ("cluster", "cell_type") if name in cells.obs), None)
    if column is None:
        return np.full(len(cells), "")
    names, codes, sizes = np.unique(cells.obs[column].to_numpy(str), return_inverse=True, return_counts=True)
    return np.where(sizes[codes] < FEWEST, "", names[codes])
