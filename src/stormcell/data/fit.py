"""What is fitted on the training cells before a model sees them: gene selection and the Spec."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from stormcell.config import DataConfig, GeneSelection, UserError, nearest
from stormcell.data.cells import Cells, locate
from stormcell.data.csr import row_normalise_log1p
from stormcell.data.spec import TARGET_SUM, Spec
from stormcell.data.target_files import number_table


def select_genes(cells: Cells, train: np.ndarray, config: DataConfig) -> np.ndarray:
    """Gene numbers, in the order of the file: data.qc.min_cells_per_gene, then data.genes.top by scanpy."""
    X, qc, genes = cells.X[train], config.qc, config.genes
    keep = np.arange(X.shape[1])
    if qc.min_cells_per_gene is not None:
        keep = np.flatnonzero(np.bincount(X.indices, minlength=X.shape[1]) >= qc.min_cells_per_gene)
        cells.notes.append(
            f"{X.shape[1] - len(keep)} genes found in fewer than {qc.min_cells_per_gene} training cells dropped"
        )
    if len(keep) == 0:
        raise UserError(f"{cells.origin}: data.qc.min_cells_per_gene={qc.min_cells_per_gene} leaves no gene")
    if genes.top is None or len(keep) <= genes.top:
        return keep
    if genes.top < 1:
        raise UserError(f"data.genes.top={genes.top}: at least one gene is needed, or null for every gene")
    fitting = _FLAVORS[cells.scale]
    if genes.flavor not in fitting:
        takes = f"this scale takes data.genes.flavor={' or '.join(fitting)}, or" if fitting else "it takes none:"
        raise UserError(
            f"{cells.origin}: data.genes.flavor={genes.flavor} does not fit data.scale={cells.scale}"
            f"{nearest(genes.flavor, fitting)}; {takes} keep every gene with data.genes.top=null"
        )
    # Genes without a count break the loess fit of seurat_v3.
    keep = keep[np.bincount(X.indices, minlength=X.shape[1])[keep] > 0]
    if len(keep) <= genes.top:
        return keep
    chosen = keep[_highly_variable(X[:, keep], genes, cells.origin)]
    cells.notes.append(f"{len(chosen)} highly variable genes of {X.shape[1]} ({genes.flavor}, on the training cells)")
    return chosen


_FLAVORS = {  # of scanpy, by the scale that each is defined on
    "counts": ("seurat_v3", "seurat_v3_paper"),
    "log1p": ("seurat", "cell_ranger"),
    "continuous": (),
}


def _highly_variable(X: csr_matrix, genes: GeneSelection, origin: str) -> np.ndarray:
    """scanpy's choice: N × G → G bool."""
    import scanpy as sc
    from anndata import AnnData

    try:
        table = sc.pp.highly_variable_genes(
            AnnData(X.copy()), n_top_genes=genes.top, flavor=genes.flavor, inplace=False
        )
    except ValueError as error:  # the loess fit of seurat_v3 is singular where cells or counts are few
        raise UserError(
            f"{origin}: scanpy could not choose genes with data.genes.flavor={genes.flavor} "
            f"({' '.join(str(error).split())[:160]}); keep every gene with data.genes.top=null"
        ) from error
    return table["highly_variable"].to_numpy(bool)


def fit_spec(cells: Cells, train: np.ndarray, config: DataConfig) -> Spec:
    """Names, categories and library statistics of the training cells."""
    X, obs = cells.X[train], cells.obs[train]
    expression = X
    if cells.scale == "counts":
        library = obs["library"].to_numpy(float)
        expression = csr_matrix((row_normalise_log1p(X, library, TARGET_SUM), X.indices, X.indptr), X.shape)
        # Half a count keeps the log of a gene that training has not seen finite.
        mean = np.log((np.asarray(X.sum(0), float).ravel() + 0.5) / library.sum())
    else:
        mean = np.asarray(X.mean(0), float).ravel()
    centre = np.asarray(expression.mean(0), float).ravel()
    square = np.asarray(expression.multiply(expression).mean(0), float).ravel()
    conditions = sorted(set(obs["condition"]) - {cells.control}) if "condition" in obs else []
    return Spec(
        genes=tuple(cells.genes),
        targets=tuple(sorted({target for condition in conditions for target in condition.split("+")})),
        conditions=tuple(conditions),
        scale=cells.scale,
        covariates=_covariates(obs, config, cells.origin),
        gene_mean=tuple(float(value) for value in mean),
        gene_sd=tuple(float(value) for value in np.sqrt(np.maximum(square - centre**2, 0))),
        control=cells.control,
        batches=_batches(obs),
        continuous=_continuous(obs, config, cells.origin),
    )


def _covariates(obs: pd.DataFrame, config: DataConfig, origin: str) -> dict[str, tuple[str, ...]]:
    """Categories of data.covariate_keys, and of the cell type where the training cells have several."""
    found = {str(key): _categories(obs[str(key)], origin) for key in config.covariate_keys}
    for key, values in found.items():
        if len(values) == 1:
            raise UserError(_constant(origin, "data.covariate_keys", key, values[0]))
    if "cell_type" in obs and obs["cell_type"].nunique() > 1:
        found.setdefault("cell_type", _categories(obs["cell_type"], origin))
    return found


def _continuous(obs: pd.DataFrame, config: DataConfig, origin: str) -> dict[str, tuple[float, float]]:
    """Mean and standard deviation of data.continuous_covariate_keys."""
    found = {}
    for key in map(str, config.continuous_covariate_keys):
        values = obs[key].to_numpy(float)
        if np.ptp(values) == 0:
            raise UserError(_constant(origin, "data.continuous_covariate_keys", key, f"{values[0]:g}"))
        found[key] = (float(values.mean()), float(values.std()))
    return found


def _constant(origin: str, config_key: str, column: str, value: str) -> str:
    return (
        f"{origin}: covariate {column!r} ({config_key}) is {value} in every training cell, so a model can learn "
        "nothing of it; leave it out"
    )


def _batches(obs: pd.DataFrame) -> tuple[str, ...]:
    """Sorted batches of the training cells; one is as good as none."""
    found = tuple(sorted(pd.unique(obs["batch"]))) if "batch" in obs else ()
    return found if len(found) > 1 else ()


def _categories(column: pd.Series, origin: str) -> tuple[str, ...]:
    found = tuple(sorted(pd.unique(column)))
    if len(found) > 200:
        raise UserError(
            f"{origin}: covariate {column.name!r} has {len(found)} different values, too many for a category "
            "(data.covariate_keys); bin it first, or name it in data.continuous_covariate_keys if it is a number"
        )
    return found


def refuse_unread(cells: Cells, column: str, config_key: str) -> None:
    """UserError where an obs column that a model was trained with is missing."""
    if column not in cells.obs:
        raise UserError(
            f"{cells.origin}: the model was trained with the covariate {column!r}, which was not read; name it with "
            f"{config_key}"
        )


def refuse_unseen(cells: Cells, column: str, known: Sequence[str], config_key: str) -> None:
    """UserError where such a column is missing, or has a value that no training cell of the model had."""
    refuse_unread(cells, column, config_key)
    if unseen := sorted(set(cells.obs[column]) - set(known)):
        raise UserError(
            f"{cells.origin}: {column}={unseen[0]!r} ({config_key}) is in no training cell of the model"
            f"{nearest(unseen[0], known)}; known: {', '.join(known[:10])}{', …' if len(known) > 10 else ''}"
        )


def align_genes(cells: Cells, spec: Spec) -> Cells:
    """The cells with the genes of the spec, by name and in its order; raises UserError when one is missing."""
    place = pd.Index(cells.genes).get_indexer(list(spec.genes))
    missing = [gene for gene, where in zip(spec.genes, place, strict=True) if where < 0]
    if missing:
        none = len(missing) == spec.n_genes
        raise UserError(
            f"{cells.origin}: {'none' if none else 'not all'} of the model's {spec.n_genes} genes are in the file "
            f"(missing {len(missing)}: {', '.join(missing[:5])}{', …' if len(missing) > 5 else ''})"
            + (f"; its genes are named like {', '.join(cells.genes[:3])}" if none else "")
        )
    if cells.scale != spec.scale:
        raise UserError(f"{cells.origin}: data.scale={cells.scale}, but the model was trained on {spec.scale}")
    X = cells.X[:, place].tocsr()
    X.sort_indices()  # sums of float32 then run in the order of the spec, whatever the order of the file
    return replace(cells, X=X, genes=list(spec.genes))


def scores_of_file(path: str, genes: tuple[str, ...]) -> np.ndarray:
    """Gene scores from a table (first column gene names, numbers beside): G × K in the order of `genes`.

    Raises UserError where a gene has no row.
    """
    file = locate(path, "model.G", "*.[ct]sv*")
    names, values = number_table(file, "model.G")
    place = pd.Index(names).get_indexer(list(genes))
    missing = [gene for gene, where in zip(genes, place, strict=True) if where < 0]
    if missing:
        raise UserError(
            f"{file}: {len(missing)} of {len(genes)} genes have no row (model.G): {', '.join(missing[:5])}"
            f"{', …' if len(missing) > 5 else ''}{nearest(missing[0], names)}"
        )
    return values[place]
