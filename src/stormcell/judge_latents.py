"""The latent spaces of a contrastive model and of its baselines on the held-out cells, as one LatentJudgement.

Held-out cells are the test cells and the control cells that were kept for the truth. Probes and baselines are fitted on
the training cells; of another file than that of the training, on half of its cells, and asked about the other half.

Shapes: N cells, G genes, P perturbations.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from stormcell.analysis.change import change, log_fold_changes, rate_error
from stormcell.analysis.escape import fit_escape
from stormcell.analysis.factor_effects import factor_effects, fit_factors
from stormcell.analysis.gene_programmes import enrichment, programme_genes, programmes, read_gene_sets
from stormcell.config import UserError
from stormcell.data.cells import locate
from stormcell.evaluation.criticism import criticism
from stormcell.evaluation.latent import Space, latent_board, reasons
from stormcell.evaluation.latent_baselines import GENES, PCA, LatentBaselines
from stormcell.evaluation.latent_verdict import latent_verdict
from stormcell.models.contrastive import cell_labels
from stormcell.models.decoding import Latents, elbo, expression, latents, pairs, posterior_predictive
from stormcell.report.latent_judgement import LatentJudgement

if TYPE_CHECKING:
    from anndata import AnnData

    from stormcell.data.control_perturbed import ControlPerturbedDataModule
    from stormcell.models.contrastive import Contrastive

NAME, PLAIN = "contrastive", "plain VAE"
DECODED = 3000  # held-out cells in predictions.h5ad, and cells of the checks: evenly spaced where there are more
SAMPLED = 2000  # cells of a perturbation, and controls, that differential expression decodes
DRAWS = 10  # of the posterior predictive checks
FACTORS = 10
FACTOR_CELLS = 20_000


def judge_latents(model: Contrastive, data: ControlPerturbedDataModule, notes: list[str]) -> LatentJudgement:
    """Everything that is said of the held-out cells: spaces, scores, genes, programmes, who responded."""
    fitted, held = _cells(data)
    labels = [cell_labels(data, rows, phenotypes(model)) for rows in (fitted, held)]
    own = [latents(model, data, rows) for rows in (fitted, held)]
    spaces = {NAME: tuple(Space(salient=one.salient, background=one.background) for one in own)}
    if own[0].plain is not None:
        spaces[PLAIN] = tuple(Space(salient=one.plain, background=one.plain) for one in own)
    baselines = LatentBaselines(data.expression[fitted], labels[0], data.expression[held], labels[1], model.seed)
    spaces |= baselines.all()
    board = latent_board(spaces, *labels, model.seed)
    cells, tables = _about_cells(model, data, held, own, labels)
    cells["mixscape_probability"] = baselines.mixscape_perturbed()[1]
    tables |= _about_genes(model, data, held, own[1])
    table, summary = _criticism(model, data, held)
    tables |= {"criticism": table, "criticism_summary": pd.DataFrame([summary])}
    tables["factor_effects"], tables["factor_genes"] = _factors(model, data)
    names = [name for name in spaces if name not in (NAME, GENES)]
    return LatentJudgement(
        model=NAME,
        methods=(NAME,),
        baselines=tuple(names),
        verdict=tuple(latent_verdict(board, NAME, names, tables)),
        notes=tuple(notes),
        undefined=tuple(reasons(*labels)),
        scoreboard=board,
        cells=cells,
        spaces={"background": own[1].background, "salient": own[1].salient, "pca": spaces[PCA][1].salient},
        tables={name: found for name, found in tables.items() if found is not None and len(found)},
        criticism=table,
        adata=_adata(model, data, held, own[1], cells),
    )


def phenotypes(model: Contrastive) -> dict[str, str]:
    """Perturbation → phenotype, from model.phenotypes (phenotype → perturbations)."""
    return {name: phenotype for phenotype, members in model.phenotypes.items() for name in members}


def _cells(data: ControlPerturbedDataModule) -> tuple[np.ndarray, np.ndarray]:
    """Rows that probes are fitted on, and rows that they are asked about."""
    fitted = data.rows["train"]
    held = np.sort(np.concatenate([data.rows["test"], data.rows["truth"]]))
    if (data.condition[fitted] != data.cells.control).any():
        return fitted, held
    every = np.sort(np.concatenate([fitted, held]))
    half = np.zeros(len(data.cells), bool)
    for name in np.unique(data.condition[every]):
        half[every[data.condition[every] == name][::2]] = True
    return every[half[every]], every[~half[every]]


def _about_cells(model, data, held, own, labels) -> tuple[pd.DataFrame, dict[str, pd.DataFrame]]:
    """The table of the held-out cells, and the shares of each perturbation's cells that responded."""
    obs = data.cells.obs.iloc[held]
    columns = ["condition", "is_control", "batch", "cell_type", "phase", "S_score", "G2M_score", "library"]
    cells = obs[[column for column in columns if column in obs]].copy()
    cells["elbo"], cells["reconstruction"] = elbo(model, data, held)
    try:
        found = fit_escape(own[0].salient, labels[0].condition, data.cells.control)
    except ValueError:  # no controls, or all of them at one point: nothing to set a cell against
        return cells, {}
    cells["perturbed_probability"] = found.probability(own[1].salient, labels[1].condition)
    if own[1].responding is not None:
        cells["responding"] = own[1].responding
    return cells, {"escape": found.shares(own[1].salient, labels[1].condition, model.seed)}


def _about_genes(model, data, held: np.ndarray, own: Latents) -> dict[str, pd.DataFrame]:
    """Differential expression with the background removed, gene programmes, and what gene sets they hold.

    On held-out cells: a classifier on t has learnt the training cells by heart, where even a guide without effect seems
    to do something.
    """
    genes, condition = list(model.spec.genes), data.condition[held]
    controls = held[condition == data.cells.control]
    null = log_fold_changes(pairs(model, data, _evenly(controls, SAMPLED))) if len(controls) > 1 else None
    learnt = {name: data.rows["train"][data.condition[data.rows["train"]] == name] for name in set(condition)}
    names = [name for name in np.unique(condition) if name != data.cells.control]
    names = [name for name in names if (condition == name).sum() > 1]
    found = []
    for name in names:
        rows = _evenly(held[condition == name], SAMPLED)
        table = change(pairs(model, data, rows), genes, null=null, shared_error=_learnt_error(data, learnt, name))
        table.insert(0, "condition", name)
        table.insert(1, "n_cells", len(rows))
        found.append(table)
    if not found:
        return {}
    tables = {"de": pd.concat(found, ignore_index=True)}
    means = np.array([own.salient[condition == name].mean(0) for name in names])
    groups = programmes(means, names)
    lfc = np.array([table["effect" if null is not None else "lfc_mean"] for table in found])
    # A gene counts by how sure its change is: one over its variance.
    error = np.array([table["se"] for table in found]) if null is not None else np.ones_like(lfc)
    weight = 1 / (error**2 + 1e-6)
    tables |= {"programmes": groups, "programme_genes": programme_genes(groups, names, lfc, weight, genes)}
    if model.gene_sets is not None:
        path = locate(model.gene_sets, "model.gene_sets", "*.gmt*")
        try:
            sets = read_gene_sets(path, genes)
        except ValueError as error:
            raise UserError(f"model.gene_sets={path}: {error}") from error
        tables["enrichment"] = enrichment(tables["programme_genes"], sets, genes)
    return tables


def _learnt_error(data, learnt: dict[str, np.ndarray], name: str) -> np.ndarray | None:
    """What training cells of a perturbation and controls leave open about each gene; None where there are none."""
    sides = [learnt[name], learnt.get(data.cells.control, np.zeros(0, int))]
    if min(len(rows) for rows in sides) == 0:
        return None
    library = data.cells.obs["library"].to_numpy(float)
    return np.hypot(*(rate_error(data.cells.X[rows], library[rows]) for rows in sides))


def _criticism(model, data, held: np.ndarray) -> tuple[pd.DataFrame, dict[str, float]]:
    """Do counts drawn from the model look like those of the held-out cells?"""
    rows = _evenly(held, DECODED)
    draws = (posterior_predictive(model, data, rows, draw) for draw in range(DRAWS))
    return criticism(data.cells.X[rows], draws, list(model.spec.genes))


def _factors(model, data) -> tuple[pd.DataFrame | None, pd.DataFrame | None]:
    """Effects on orthogonal non-negative factors of expression, adjusted for the background of each cell."""
    rows = _evenly(np.arange(len(data.cells)), FACTOR_CELLS)
    try:
        factors = fit_factors(data.expression[rows], FACTORS, model.seed)
        background = latents(model, data, rows).background
        effects = factor_effects(
            factors.loadings(data.expression[rows]), background, data.condition[rows], data.cells.control, model.seed
        )
    except ValueError:  # too few controls, or genes that share nothing
        return None, None
    return effects, factors.genes(list(model.spec.genes))


def _adata(model, data, held: np.ndarray, own: Latents, cells: pd.DataFrame) -> AnnData:
    """Held-out cells: X their normalised expression, log1p(1e4 · share), decoded with their own salient part, a layer
    without it, and both latents; evenly spaced ones where there are many."""
    import anndata as ad

    shown = np.flatnonzero(np.isin(held, _evenly(held, DECODED)))
    rows = held[shown]
    obs = cells.iloc[shown]
    words = [column for column in obs if obs[column].dtype.kind == "O"]  # anndata would make them categories, aloud
    adata = ad.AnnData(
        np.log1p(expression(model, data, rows) * 1e4),
        obs=obs.astype(dict.fromkeys(words, "category")),
        var=pd.DataFrame(index=list(model.spec.genes)),
    )
    adata.layers["without_salient"] = np.log1p(expression(model, data, rows, "zero") * 1e4)
    adata.obsm["X_background"], adata.obsm["X_salient"] = own.background[shown], own.salient[shown]
    return adata


def _evenly(rows: np.ndarray, most: int) -> np.ndarray:
    return rows if len(rows) <= most else rows[np.linspace(0, len(rows) - 1, most).round().astype(int)]
