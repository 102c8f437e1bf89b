"""Cell-cycle phase of every cell: scanpy's scores of the S and G2/M genes of Tirosh et al. 2016.

score_n = mean over a set's genes of log1p expression − the same over genes of like level, drawn by a fixed seed
phase_n = G1 where both scores are negative, else the set with the higher one

The scores go over all genes of the file, before any are selected, and over all its cells: a label to judge by and to
colour with, fitted to nothing that a model predicts.

Sources: Tirosh et al. 2016, Science 352:189; Satija et al. 2015, Nat Biotechnol 33:495.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.resources import files
from typing import Any

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from stormcell.config import UserError, nearest
from stormcell.data.cells import Cells
from stormcell.data.csr import row_normalise_log1p
from stormcell.data.spec import TARGET_SUM

COLUMNS = ("S_score", "G2M_score", "phase")
LEAST, LEAST_OF_SET = 20, 5  # genes of the list that a file must have, together and of each set


def cell_cycle_genes() -> dict[str, tuple[str, ...]]:
    """The sets S (43) and G2M (54), human symbols."""
    lines = files("stormcell.data").joinpath("cell_cycle_genes.txt").read_text(encoding="utf-8").splitlines()
    words = [line.split() for line in lines if not line.startswith("#")]
    return {name: tuple(gene for head, *genes in words if head == name for gene in genes) for name in ("S", "G2M")}


def score_cell_cycle(cells: Cells, wanted: Any, asked: bool) -> Cells:
    """Cells with S_score, G2M_score and phase in obs, or as they are with a note that says why.

    wanted: data.cell_cycle, true, false or auto, which is `asked` where the genes allow it. An obs column phase that
    was read (data.phase_key) stands. Raises UserError where true cannot be done.
    """
    if wanted not in (True, False, "auto"):
        raise UserError(f"data.cell_cycle={wanted!r}: true, false or auto{nearest(wanted, ('true', 'false', 'auto'))}")
    there = [column for column in COLUMNS if column in cells.obs]
    if wanted is True and there:
        raise UserError(
            f"{cells.origin}: data.cell_cycle=true would write over the obs column {there[0]!r} that was read; leave "
            "one of them out"
        )
    if wanted is False or there or (wanted == "auto" and not asked):
        return cells
    found = {name: _present(genes, cells.genes) for name, genes in cell_cycle_genes().items()}
    n_found = {name: len(genes) for name, genes in found.items()}
    why = None
    if cells.scale == "continuous":
        why = "data.scale=continuous is not log1p expression"
    elif sum(n_found.values()) < LEAST or min(n_found.values()) < LEAST_OF_SET:
        why = (
            f"the file has {n_found['S']} of the 43 genes of S and {n_found['G2M']} of the 54 of G2/M; {LEAST} "
            f"are needed, {LEAST_OF_SET} of each"
        )
    if why is None:
        scores = cycle_scores(_log1p(cells), cells.genes, found).set_index(cells.obs.index)
        note = f"cell-cycle phase scored by {sum(n_found.values())} of 97 genes (Tirosh et al. 2016)"
        return replace(cells, obs=cells.obs.join(scores), notes=[*cells.notes, note])
    if wanted is True:
        raise UserError(f"{cells.origin}: data.cell_cycle=true, but {why}")
    return replace(cells, notes=[*cells.notes, f"no cell-cycle phase: {why}"])


def _present(genes: Sequence[str], names: Sequence[str]) -> list[str]:
    """The names of these genes in the file: as they are, else in another case (Mki67 is mouse's MKI67)."""
    exact, folded = set(names), {name.upper(): name for name in reversed(names)}
    return [gene if gene in exact else folded[gene] for gene in genes if gene in folded]


def _log1p(cells: Cells) -> csr_matrix:
    if cells.scale == "log1p":
        return cells.X
    values = row_normalise_log1p(cells.X, cells.obs["library"].to_numpy(), TARGET_SUM)
    return csr_matrix((values, cells.X.indices, cells.X.indptr), cells.X.shape)


def cycle_scores(expression: csr_matrix, genes: Sequence[str], found: dict[str, list[str]]) -> pd.DataFrame:
    """S_score, G2M_score (N floats) and phase (G1 · S · G2M) by scanpy: N × G log1p expression → N × 3."""
    import scanpy as sc
    from anndata import AnnData

    adata = AnnData(expression, var=pd.DataFrame(index=list(genes)))
    with _own_chance():
        sc.tl.score_genes_cell_cycle(adata, s_genes=found["S"], g2m_genes=found["G2M"], random_state=0)
    return pd.DataFrame({column: adata.obs[column].to_numpy() for column in COLUMNS})


@contextmanager
def _own_chance() -> Iterator[None]:
    """scanpy seeds numpy's global generator; what follows in a run must not depend on whether cells were scored."""
    state = np.random.get_state()  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(state)  # noqa: NPY002
