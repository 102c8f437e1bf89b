"""A judged model of frequencies, for the tests of the report."""

from __future__ import annotations

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy.sparse import csr_matrix

from stormcell.report.frequency_judgement import FrequencyJudgement

MODEL, YARDSTICK, GROUP = "bilinear", "cluster lookup", "held-out cells"
BASELINES = ("ridge", "lasso", "PLS", "k-NN, 50 components", "ReLU network", "zero", "training median")
METRICS = {  # metric -> value of the model, the seven simple answers and the yardstick
    "r2": (0.782, 0.669, 0.651, 0.689, 0.749, 0.78, -0.004, -1.2, 0.441),
    "mae_ratio": (0.43, 0.58, 0.6, 0.56, 0.41, 0.44, 1.01, 1.0, 0.67),
    "worst_r2": (0.66, 0.24, np.nan, 0.27, 0.61, 0.49, -0.01, -0.3, 0.11),
}
TYPES = ("Ery", "MEP", "GMP", "Neu", "Mono", "DC", "Baso", "Mk", "Eos", "Lymph")
TERMS = ("heme biosynthetic process", "erythrocyte differentiation", "neutrophil chemotaxis", "antigen processing")


def frequency_judgement(n_frequencies: int = 10, n_cells: int = 500, n_genes: int = 300, seed: int = 0, bare=False):
    """Cells along a tree of ten types; `bare`: a scoreboard and places of cells, nothing else."""
    rng = np.random.default_rng(seed)
    genes = np.array([f"Gene{i}" for i in range(n_genes)])
    genes[:6] = "Hba-a2", "Car2", "Elane", "Mpo", "Cd74", "Pf4"
    numbers = np.arange(1, n_frequencies + 1)
    tables = {}
    if not bare:
        tables = {
            "per_frequency": _scores(rng, numbers),
            "per_class": pd.DataFrame(),
            "spectrum": _spectrum(numbers),
            "extension": pd.DataFrame({"frequency": numbers, "correlation": np.linspace(0.98, 0.2, n_frequencies),
                                       "rotated": np.linspace(0.98, 0.8, n_frequencies), "ceiling": 0.95}),
            **_modules(rng, numbers, genes), **_lists(rng, numbers), **_terms(numbers),
            "hierarchy": _hierarchy(numbers),
        }  # fmt: skip
    points = _points(rng, n_cells, numbers)
    adata = AnnData(csr_matrix((n_cells, n_genes)), obs=points[["cell_type"]], var=pd.DataFrame(index=genes))
    board = pd.DataFrame({"group": GROUP, "method": (MODEL, *BASELINES, YARDSTICK), "n": 409, **METRICS})
    ends = {f"{m}_{end}": board[m] + by for m in ("r2", "mae_ratio") for end, by in (("low", -0.03), ("high", 0.02))}
    return FrequencyJudgement(
        model=MODEL,
        methods=(MODEL,),
        baselines=BASELINES,
        verdict=("beside the best simple answer: +0.00 R² over ReLU network",),
        notes=("frequency 3 sits on few cells",),
        undefined=("lasso: no worst frequency",),
        scoreboard=board if bare else board.assign(**ends),
        tables=tables,
        points=points[["x", "y"]] if bare else points,
        adata=None if bare else adata,
    )


def _points(rng, n: int, numbers) -> pd.DataFrame:
    """Types side by side on an arc; the third frequency sits on one type."""
    kind = rng.choice(len(TYPES), n, p=[0.2, 0.15, 0.15, 0.12, 0.12, 0.04, 0.08, 0.06, 0.05, 0.03])
    along = (kind + rng.uniform(0, 1, n)) / len(TYPES)
    points = pd.DataFrame({"x": 5 * np.cos(3 * along), "y": 5 * np.sin(3 * along)}) + rng.normal(0, 0.3, (n, 2))
    points.index = [f"cell{i}" for i in range(n)]
    points["part"] = rng.choice(["train", "validation", "test"], n)
    points["cell_type"] = np.array(TYPES)[kind]
    for f in numbers:
        value = np.cos(np.pi * f * along) if f != 3 else (kind == 5).astype(float)
        points[f"frequency {f}"] = value / np.sqrt(np.mean(value**2))
    return points


def _scores(rng, numbers) -> pd.DataFrame:
    rows = [
        {"method": m, "frequency": f, "eigenvalue": 0.02 * f,
         "r2": METRICS["r2"][i] + 0.1 - 0.02 * f + rng.normal(0, 0.02), "mae_ratio": METRICS["mae_ratio"][i] + 0.02 * f}
        for i, m in enumerate((MODEL, *BASELINES, YARDSTICK)) for f in numbers
    ]  # fmt: skip
    return pd.DataFrame(rows)


def _spectrum(numbers) -> pd.DataFrame:
    values = 0.013 + 0.27 * (numbers / 10.0) ** 1.5
    return pd.DataFrame(
        {"frequency": numbers, "eigenvalue": values, "gap": np.diff(values, append=0.4) / values, "residual": 1e-9,
         "participation": np.where(numbers == 3, 48.7, 1.3 + 0.3 * numbers), "block": np.where(numbers > 5, 1, np.nan),
         "trusted": numbers <= 5}
    )  # fmt: skip


def _modules(rng, numbers, genes) -> dict[str, pd.DataFrame]:
    rows, summary = [], []
    for f in numbers:
        for place, module in enumerate(("quadratic 1", "quadratic 2", "linear")):
            sign, stable = ("+", "-")[(f + place) % 2], place != 1
            chosen = np.append(f % 6, rng.choice(np.arange(6, len(genes)), 24, replace=False))
            loading = np.sort(rng.gamma(2, 0.1, 25))[::-1] * rng.choice([-1, 1], 25)
            rows += [
                {"frequency": f, "module": module, "lambda_sign": sign, "explained": 0.4 / (place + 1),
                 "rank": rank + 1, "gene": genes[g], "loading": v}
                for rank, (g, v) in enumerate(zip(chosen, loading, strict=True))
            ]  # fmt: skip
            summary.append(
                {"frequency": f, "module": module, "lambda_sign": sign, "explained": 0.4 / (place + 1),
                 "jaccard_seeds": 0.88 if stable else 0.3, "overlap_correlation": 0.15, "comes_back": stable}
            )  # fmt: skip
    return {"modules": pd.DataFrame(rows), "module_summary": pd.DataFrame(summary)}


def _lists(rng, numbers) -> dict[str, pd.DataFrame]:
    pairs = (("correlation", "bilinear", 0.15), ("correlation", "ridge", 0.3), ("bilinear", "ridge", 0.2))
    overlaps = [
        {"frequency": f, "footing": footing, "list a": a, "list b": b, "jaccard": share + rng.uniform(-0.1, 0.1),
         "chance": 0.025, "p": 1e-4}
        for f in numbers for a, b, share in pairs for footing in ("unsigned", "signed")
    ]  # fmt: skip
    told = {"bilinear": 0.62, "correlation": 0.55, "ridge": 0.58, "random genes": 0.3}
    improvement = [
        {"frequency": f, "list": name, "regressor": regressor, "r2": value + more - 0.02 * f,
         "low": value + more - 0.02 * f - 0.05, "high": value + more - 0.02 * f + 0.05}
        for regressor, more in (("ridge", 0), ("k-NN", 0.05)) for f in numbers for name, value in told.items()
    ]  # fmt: skip
    return {"lists": pd.DataFrame(overlaps), "improvement": pd.DataFrame(improvement)}


def _terms(numbers) -> dict[str, pd.DataFrame]:
    rows = [
        {"module": f"{f} quadratic 1", "frequency": f, "term": TERMS[i] if i < 4 else f"GO_TERM_NUMBER_{i}",
         "overlap": 5, "q": 10.0 ** -(1 + (7 * i + 3 * int(f)) % 9), "genes": "Hba-a2;Car2"}
        for f in numbers for i in range(8) if (i + f) % 3 == 0
    ]  # fmt: skip
    looked = [
        {"lineage": "erythroid", "term": TERMS[0], "q": 1e-9, "module": "1 quadratic 1", "frequency": 1, "found": True},
        {"lineage": "granulocyte-monocyte", "term": "", "q": np.nan, "module": None, "frequency": None, "found": False},
    ]
    return {"enrichment": pd.DataFrame(rows), "looked_up": pd.DataFrame(looked)}


def _hierarchy(numbers) -> pd.DataFrame:
    rows = []
    for cut in numbers:
        for kind, height in (("cell_type", 0.7), ("cluster", 0.5)):
            ari = height * (1 - np.exp(-cut / 3))
            rows.append(
                {"cut": cut, "clusters": cut + 1, "labels": kind, "n": 90, "ari_types": ari, "ari_pca": 0.9 * ari,
                 "null": 0.001, "ari_again": 0.95 - 0.03 * cut, "ari_predicted": 0.9 - 0.04 * cut,
                 "ari_activations": 0.6 - 0.02 * cut, "nested": np.nan if cut == 1 else 0.9 - 0.01 * cut,
                 "nested_pca": np.nan if cut == 1 else 0.8}
            )  # fmt: skip
    return pd.DataFrame(rows)
