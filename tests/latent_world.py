"""A judged latent model with planted clusters, for the tests of the report."""

from __future__ import annotations

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy.sparse import csr_matrix

from stormcell.evaluation.latent_metrics import LATENT_METRICS
from stormcell.report.latent_judgement import LatentJudgement

MODEL, BASELINES, CEILING = "contrastive", ("pca 50", "lda", "mixscape-like", "plain VAE"), "probe on all genes"
K = 6


def latent_judgement(
    n_cells: int = 400, n_perturbations: int = 6, n_genes: int = 40, bare: bool = False, seed: int = 0
) -> LatentJudgement:
    """Half of the cells are controls; perturbation i is at corner i of the salient space, phases are in the background.

    Cells of the last perturbation are controls in disguise. `bare`: no phase, one batch, no table, nothing optional.
    """
    rng = np.random.default_rng(seed)
    names = [f"KO{i}" for i in range(n_perturbations)]
    control = np.arange(n_cells) % 2 == 0
    which = rng.integers(0, n_perturbations, n_cells)
    condition = np.where(control, "control", np.array(names)[which])
    corners = 4 * np.random.default_rng(1).normal(size=(n_perturbations, K))
    corners[-1] = 0
    phase = rng.integers(0, 3, n_cells)
    salient = np.where(control[:, None], 0, corners[which]) + rng.normal(0, 0.5, (n_cells, K))
    background = 4 * np.eye(K)[phase] + rng.normal(0, 0.5, (n_cells, K))
    cells = pd.DataFrame(
        {"condition": condition, "is_control": control}, index=[f"cell{i:04d}" for i in rng.permutation(n_cells)]
    )
    spaces = {"salient": salient, "background": background, "pca": np.hstack([salient, background])}
    if not bare:
        reach = np.where(control | (condition == names[-1]), rng.beta(1, 12, n_cells), rng.beta(8, 2, n_cells))
        cells = cells.assign(
            batch=np.array(["lane1", "lane2"])[rng.integers(0, 2, n_cells)],
            phase=np.array(["G1", "S", "G2M"])[phase],
            library=rng.integers(500, 5000, n_cells).astype(float),
            perturbed_probability=reach,
            elbo=-rng.gamma(50, 4, n_cells),
        )
    return LatentJudgement(
        model="contrastive",
        methods=(MODEL,),
        baselines=BASELINES,
        verdict=("Perturbations: found in the salient space", "Background: free of them"),
        notes=("3 cells without a count were dropped",),
        undefined=("no cell_type is known of the cells: background_cell_type has no value",),
        scoreboard=board(n_cells, bare),
        cells=cells,
        spaces=spaces,
        tables={} if bare else planted_tables(names, n_genes),
        criticism=pd.DataFrame() if bare else genes_of_counts(n_genes),
        adata=None if bare else AnnData(csr_matrix((n_cells, n_genes)), obs=cells, obsm={"X_salient": salient}),
    )


def board(n_cells: int, bare: bool) -> pd.DataFrame:
    """Random values with intervals; cell type has none, and the model has the best probe."""
    rng = np.random.default_rng(2)
    rows = []
    for method in (MODEL, *BASELINES, CEILING):
        row = {"group": "held-out cells", "method": method, "n": n_cells}
        for name in LATENT_METRICS:
            value = rng.uniform(0.1, 0.6)
            no = name == "background_cell_type" or (bare and name != "probe") or (method == CEILING and name != "probe")
            value = np.nan if no else {("contrastive", "probe"): 0.81}.get((method, name), value)
            row |= {name: value, f"{name}_low": value - 0.04, f"{name}_high": value + 0.05}
        rows.append(row)
    return pd.DataFrame(rows)


def planted_tables(names: list[str], n_genes: int) -> dict[str, pd.DataFrame]:
    """Perturbations of one programme move the same genes; the last one moves none."""
    rng = np.random.default_rng(3)
    genes = [f"GENE{i}" for i in range(n_genes)]
    programme = {name: 1 + i % 3 for i, name in enumerate(names)}
    effects = {p: np.where(rng.random(n_genes) < 0.3, rng.normal(0, 1.5, n_genes), 0) for p in (1, 2, 3)}
    blocks, factors = [], []
    for i, name in enumerate(names):
        lfc = effects[programme[name]] * (i < len(names) - 1)
        noisy = lfc + rng.normal(0, 0.05, n_genes)
        called = {"lfc_mean": noisy, "proba_de": 0.9 * (lfc != 0), "is_de": np.abs(lfc) > 0.25}
        blocks.append(pd.DataFrame({"condition": name, "gene": genes, **called}))
        effect = rng.normal(0, 0.1, 5) + 2 * (np.arange(5) == i % 5)
        ends = {"low": effect - 0.3, "high": effect + 0.3, "q": np.where(effect > 1, 0.001, 0.6)}
        factors.append(pd.DataFrame({"condition": name, "factor": range(5), "effect": effect, **ends}))
    return {
        "de": pd.concat(blocks, ignore_index=True),
        "programmes": pd.DataFrame({"programme": programme.values(), "perturbation": list(names), "silhouette": 0.4}),
        "factor_effects": pd.concat(factors, ignore_index=True),
        "enrichment": pd.DataFrame(columns=["programme", "term", "q"]),
    }


def genes_of_counts(n_genes: int) -> pd.DataFrame:
    """Negative binomial genes as observed, and a model that makes 5 % too few zeros and half the variance."""
    mean = np.geomspace(0.01, 30, n_genes)
    zero = (1 + mean) ** -1.0
    variance = mean + mean**2
    columns = {"mean_observed": mean, "zero_observed": zero, "variance_observed": variance}
    columns |= {
        "mean_predicted": mean,
        "zero_predicted": np.maximum(zero - 0.05, 0),
        "variance_predicted": variance / 2,
    }
    return pd.DataFrame({"gene": [f"GENE{i}" for i in range(n_genes)], **columns})


def history(steps: int = 8) -> pd.DataFrame:
    """What training logged: losses at every step, the followed metrics at every second one."""
    step = np.arange(1, steps + 1) * 100
    late = np.where(np.arange(steps) % 2, np.linspace(0.2, 0.8, steps), np.nan)
    logged = {"step": step, "train/loss": 500 / np.sqrt(step), "val/loss": 510 / np.sqrt(step), "val/score": late}
    return pd.DataFrame(logged | {"val/probe": late, "val/background_auc": 1.1 - late, "val/ari": np.nan})
