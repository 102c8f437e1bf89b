"""The run folder: every file that a judged model leaves, and the last lines on the screen."""

from __future__ import annotations

import json
import platform
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
from omegaconf import OmegaConf
from rich.console import Console
from scipy.sparse import csr_matrix

from stormcell.report import figures, html, tables
from stormcell.report.dashboards import publish
from stormcell.report.forest import forest
from stormcell.report.generation import generation_panel
from stormcell.report.heatmap import shift_heatmap
from stormcell.report.judgement import Judgement
from stormcell.report.latent_judgement import LatentJudgement
from stormcell.report.network_judgement import NetworkJudgement
from stormcell.report.panels import calibration, rank_histogram

PACKAGES = ("stormcell", "torch", "pytorch-lightning", "hydra-core", "anndata", "scanpy", "numpy", "scipy", "pandas")


def write_judgement(
    judgement: Judgement,
    kept: dict[str, list],
    data: Any,
    config: dict[str, Any],
    folder: Path,
    embedding: str,
    again: str,
    timing: dict[str, float],
    loggers: list,
) -> None:
    """scoreboard.csv, tables/, figures/, metrics.json, predictions.h5ad and report.html, then the closing lines.

    `config`: plain, of the run; `again`: the command that judges the same thing again.
    """
    card = data_card(data)
    tables.write(judgement, folder)
    data.split.table.to_csv(folder / "tables" / "split.csv", index=False)
    drawn = {
        "generation": generation_panel(judgement, embedding),
        "forest": forest(judgement),
        "shift_heatmap": shift_heatmap(judgement),
        "shifts": figures.shift_scatter_grid(judgement),
        "model_against_baseline": figures.model_against_baseline(judgement),
        "ranks": rank_histogram(judgement),
        "calibration": calibration(judgement),
    }
    drawn = {name: figure for name, figure in drawn.items() if figure is not None}
    logged = history(folder)
    if len(logged):
        drawn["loss"] = figures.loss_curves(logged, config["objective"], config["objective_mode"])
    paths = figures.save(drawn, folder / "figures")
    write_metrics(judgement, card, timing, folder)
    _predictions(judgement, kept, folder / "predictions.h5ad")
    publish(loggers, judgement, paths, config, flat(judgement, judgement.methods))
    html.render(
        judgement,
        paths,
        card,
        OmegaConf.to_yaml(OmegaConf.create(config)),
        command(),
        timing,
        folder / "report.html",
        again,
    )
    tables.print_scoreboard(judgement, screen())
    close(folder, again)


def history(folder: Path) -> pd.DataFrame:
    """The values logged in training, one row per step; none for a closed form, which has no curve."""
    path = folder / "history.csv"
    logged = pd.read_csv(path) if path.is_file() else pd.DataFrame({"step": []})
    return logged if logged["step"].nunique() > 1 else logged.iloc[:0]


def write_metrics(
    judgement: Judgement | LatentJudgement | NetworkJudgement,
    card: dict[str, Any],
    timing: dict[str, float],
    folder: Path,
) -> None:
    """metrics.json: the scoreboard flat, what it was made of, and what it took."""
    metrics = {
        "test": flat(judgement, judgement.methods),
        "baselines": {name: flat(judgement, (name,)) for name in judgement.baselines},
        "data": {key: card[key] for key in ("source", "sha256", "cells", "genes", "split_sha256")},
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "timing": timing,
    }
    (folder / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")


def flat(
    judgement: Judgement | LatentJudgement | NetworkJudgement, methods: tuple[str, ...]
) -> dict[str, float | None]:
    """{"group/method/metric": value on the scoreboard}; the method is left out where there is one."""
    board, found = judgement.scoreboard, {}
    skip = {"group", "method", "n"}
    for _, row in board[board["method"].isin(methods)].iterrows():
        name = f"{row['group']}/{row['method']}" if len(methods) > 1 else row["group"]
        for column in board.columns:
            if column not in skip and not column.endswith(("_low", "_high")):
                value = row[column]
                found[f"{name}/{column}"] = None if pd.isna(value) else float(value)
    return found


def write_cells(adata: ad.AnnData, path: Path) -> None:
    """An h5ad that is whole or not there."""
    part = path.with_name(path.name + ".part")
    adata.write_h5ad(part, compression="gzip")
    part.replace(path)


def screen() -> Console:
    """Where the scoreboard is printed: as wide as the terminal, or as a scoreboard with its intervals."""
    return Console(width=None if sys.stdout.isatty() else tables.WIDTH)


def close(folder: Path, again: str) -> None:
    """The last lines on the screen."""
    print(f"\nfolder    {folder}\nreport    {folder / 'report.html'}\nevaluate  {again}", flush=True)


def data_card(data: Any) -> dict[str, Any]:
    """What a reader must know of the cells."""
    cells, split, obs = data.cells, data.split, data.cells.obs
    parts = {part: int(split.mask(part).sum()) for part in np.unique(split.part)}
    qc = {key: value for key, value in vars(data.config.qc).items() if key != "mitochondrial_prefix"}
    card = {
        "name": data.config.name,
        "source": Path(cells.origin).name,
        "sha256": cells.fingerprint,
        "cells": len(cells),
        "genes": data.spec.n_genes,
        "scale": cells.scale,
        **_question(data),
        "split": parts,
        "split_sha256": split.sha256,
        "quality control": qc,
        "notes": [*cells.notes, *split.notes],
    }
    if cells.scale == "counts":
        card["counts per cell (median, all genes)"] = float(obs["library"].median())
    for key in ("batch", "cell_type"):
        if key in obs:
            card[key] = {str(name): int(n) for name, n in obs[key].value_counts().sort_index().items()}
    return card


def _question(data: Any) -> dict[str, Any]:
    """What the cells are asked, by the kind of the view."""
    obs, spec = data.cells.obs, data.spec
    if hasattr(spec, "transitions"):
        return _transitions(data)
    if hasattr(spec, "outputs"):
        what = {"frequencies": spec.n_outputs} if spec.task == "regression" else {"classes": list(spec.outputs)}
        return what | {"inputs": f"{spec.n_inputs} {spec.inputs}"}
    return {
        "perturbations": int(obs["condition"].nunique() - 1),
        "perturbed targets in training": data.spec.n_targets,
        "control cells": int(obs["is_control"].sum()),
    }


def _transitions(data: Any) -> dict[str, Any]:
    """Of cells without perturbations: their clusters, and the transitions between them."""
    return {
        "clusters": {str(name): int(n) for name, n in data.cells.obs["cluster"].value_counts(sort=False).items() if n},
        "transitions": data.spec.names,
        "edges that may be": data.spec.n_edges,
    }


def command() -> str:
    """The command line that was typed."""
    return " ".join(["python", Path(sys.argv[0]).name, *sys.argv[1:]])


def _predictions(judgement: Judgement, kept: dict[str, list], path: Path) -> None:
    """Generated cells as AnnData: obs names the method and the query, var the genes; X is log1p, CSR."""
    blocks, rows = [], []
    for method, answers in kept.items():
        for number, answer in enumerate(answers):
            if answer is not None:
                query = judgement.queries.iloc[number]
                blocks.append(csr_matrix(answer[1]))
                rows += [(method, query["condition"], query["context"], query["group"])] * len(answer[1])
    if not blocks:
        return
    from scipy.sparse import vstack

    obs = pd.DataFrame(rows, columns=["method", "perturbation", "context", "group"])
    obs.index = obs.index.astype(str)
    adata = ad.AnnData(
        vstack(blocks, format="csr"), obs=obs.astype("category"), var=pd.DataFrame(index=list(judgement.genes))
    )
    write_cells(adata, path)
