"""Held-out cells of every cluster, drawn before any cell is paired with another.

A transition pairs cells of two clusters: a split of pairs would leave one cell on both sides. As in split.py, draws are
made on sorted cell names with a generator keyed by (seed, cluster).
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from stormcell.config import UserError
from stormcell.data.cells import Cells
from stormcell.data.conditions import check_share, shuffled
from stormcell.data.split import Split, rows_by

NO_CLUSTER = ("nan", "None", "<NA>", "")  # how a missing label reads once it is a string


def held_out_in_clusters(cells: Cells, seed: int, /, test_cells: float = 0.2, validation: float = 0.1) -> Split:
    """`test_cells` of the cells of every cluster are for the test, `validation` of what then remains validates.

    A cluster keeps one training cell at the least; cells without a cluster are unused, and told. No groups, no part
    truth. Raises UserError without obs["cluster"] and where the shares leave nothing to train or to test on.
    """
    check_share(test_cells, "split.test_cells")
    check_share(validation, "split.validation")
    if "cluster" not in cells.obs:
        raise UserError(
            f"{cells.origin}: transitions are between clusters, but data.cluster_key is null; columns read: "
            f"{', '.join(cells.obs.columns) or 'none'}"
        )
    cluster = cells.obs["cluster"].to_numpy(str)
    part, notes = np.full(len(cells), "train", dtype="U10"), []
    for name, rows in rows_by(cluster, np.argsort(cells.obs.index.to_numpy(str), kind="stable")).items():
        if name in NO_CLUSTER:
            part[rows] = "unused"
            notes.append(f"{len(rows)} cells without a cluster left out")
            continue
        mine = shuffled(rows, seed, name, "cluster")
        n_test = min(round(test_cells * len(mine)), len(mine) - 1)
        n_validation = min(round(validation * (len(mine) - n_test)), len(mine) - n_test - 1)
        part[mine[:n_test]] = "test"
        part[mine[n_test : n_test + n_validation]] = "validation"
        if not n_test:
            notes.append(f"cluster {name} has no test cell: {len(mine)} cells, split.test_cells={test_cells:g}")
    if not (part == "test").any():
        raise UserError(f"{cells.origin}: split.test_cells={test_cells:g} leaves no cell of any cluster for the test")
    condition = cells.obs["condition"].to_numpy(str) if "condition" in cells.obs else ""
    table = pd.DataFrame({"cell": cells.obs.index, "condition": condition, "covariate": cluster, "part": part})
    table = table.sort_values(["condition", "covariate", "part", "cell"], kind="stable").reset_index(drop=True)
    return Split(part, {}, None, table, notes)
