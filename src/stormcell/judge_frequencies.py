"""A model of frequencies beside its simple answers on held-out cells, and its gene modules, as one FrequencyJudgement.

Every answer is fitted on the same training cells, and the network of the comparison has the model's width and budget.
More than MOST_CELLS cells of a part are sampled: nothing here is as large as all cells times all genes.

Shapes: N cells, n of a part, G genes, D inputs, F frequencies or classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd

from stormcell.analysis.hierarchy import Activations, hierarchy
from stormcell.data.frequency import FrequencyDataModule
from stormcell.data.frequency_graph import gaps
from stormcell.evaluation.frequency import class_board, frequency_board, per_block, per_class, per_frequency
from stormcell.evaluation.frequency_answers import COMPONENTS, answers, class_answers, sampled, yardsticks
from stormcell.evaluation.frequency_network import Part
from stormcell.evaluation.frequency_verdict import frequency_verdict
from stormcell.evaluation.latent_baselines import principal_components
from stormcell.judge_modules import Cells, Found, budget_of, find_modules, module_tables
from stormcell.report.frequency_judgement import FrequencyJudgement
from stormcell.report.plane import plane

if TYPE_CHECKING:
    from stormcell.models.bilinear import Bilinear

MOST_CELLS = 20_000


def judge_frequencies(
    model: Bilinear, data: FrequencyDataModule, notes: list[str], embedding: str = "umap"
) -> FrequencyJudgement:
    """Scores beside the simple answers, modules with their stability, lists, gene sets and the hierarchy."""
    name = "trilinear" if model.network.order == 3 else "bilinear"
    parts = {part: _cells(data, part, model.seed) for part in ("train", "validation", "test")}
    train, test = parts["train"], parts["test"]
    said = {name: model.predict(test.inputs).astype(np.float64), **_answers(model, data, parts)}
    found, spaces, told = find_modules(model, data, train)
    tables, more = module_tables(name, model, data, found, train, test)
    tables["subspaces"] = spaces
    if model.classifies:
        said[name] = said[name].argmax(1)
        board = class_board(said, test.y, model.seed)
        tables["per_class"] = per_class(said, test.y, data.spec.outputs)
        aside: tuple[str, ...] = ()
    else:
        board = frequency_board(said, test.y, train.y, model.seed)
        tables["per_frequency"] = per_frequency(said, test.y, train.y, data.spec.eigenvalues, model.seed)
        if data.spectrum.blocks:
            tables["per_block"] = per_block(said, test.y, train.y, data.spectrum.blocks)
        tables["spectrum"], tables["extension"] = spectrum_table(data), data.extension
        tables["hierarchy"] = hierarchy_table(model, data, found, parts)
        aside = yardsticks(not data.transductive)
    baselines = tuple(method for method in said if method not in (name, *aside))
    return FrequencyJudgement(
        model=name,
        methods=(name,),
        baselines=baselines,
        verdict=tuple(frequency_verdict(name, said, test.y, train.y, baselines, aside, tables, model.seed)),
        notes=(*notes, *told, *more),
        undefined=(),
        scoreboard=board,
        tables={key: table for key, table in tables.items() if len(table)},
        points=points(data, embedding),
        adata=cells_with(data, model, found),
    )


def _cells(data: FrequencyDataModule, part: str, seed: int) -> Cells:
    rows = data.rows[part]
    rows = rows[sampled(len(rows), MOST_CELLS, seed)]
    return Cells(rows, data.basis.standardised(data.expression[rows]), data.inputs[rows], data.targets[rows])


# ---- simple answers


def _answers(model: Bilinear, data: FrequencyDataModule, parts: dict[str, Cells]) -> dict[str, np.ndarray]:
    train, validation, test = (parts[key] for key in ("train", "validation", "test"))
    known, chosen = Part(train.genes, train.y), Part(validation.genes, validation.y)
    budget = budget_of(model, data)
    if model.classifies:
        return class_answers(known, chosen, test.genes, data.spec.n_outputs, model.seed, budget)
    labels = data.cluster if data.cluster is not None else data.cell_type
    labels = None if labels is None else (labels[train.rows], labels[test.rows])
    return answers(known, chosen, test.genes, labels, model.seed, budget)


# ---- tables


def spectrum_table(data: FrequencyDataModule) -> pd.DataFrame:
    """Eigenvalue, relative gap, residual, participation, block and whether a frequency may be read alone."""
    found, (gap, apart) = data.spectrum, gaps(data.spectrum)
    block = {f: number for number, one in enumerate(found.blocks, 1) for f in one}
    return pd.DataFrame(
        {
            "frequency": np.arange(1, len(found.values) + 1),
            "eigenvalue": found.values,
            "gap": gap,
            "residual": found.residuals,
            "participation": found.participation,
            "block": [block.get(f, np.nan) for f in range(len(found.values))],
            "trusted": apart,
        }
    )


def hierarchy_table(
    model: Bilinear, data: FrequencyDataModule, found: list[Found], parts: dict[str, Cells]
) -> pd.DataFrame:
    """Clusters at each cut beside the known types, those of the predicted frequencies and of the modules."""
    train, test = parts["train"].rows, parts["test"].rows
    rows = np.concatenate([train, test])
    if len(train) <= data.spec.n_outputs + 1:
        return pd.DataFrame()
    labels = {"cell types": data.cell_type, "clusters": data.cluster}
    labels = {key: values[rows] for key, values in labels.items() if values is not None}
    own = [one.module for one in found]
    active = None
    if own:
        values = np.stack([module.activated(data.inputs[rows]) for module in own], 1)
        active = Activations(values, np.array([module.frequency + 1 for module in own]))
    return hierarchy(
        data.targets[rows].astype(np.float64),
        np.arange(len(train)),
        np.arange(len(train), len(rows)),
        labels,
        components(data, rows, len(train)),
        model.predict(data.inputs[rows]).astype(np.float64),
        active,
        model.seed,
    )


def components(data: FrequencyDataModule, rows: np.ndarray, n_train: int) -> np.ndarray:
    """Principal components of the cells, fitted on the first `n_train`: those of the graph, or 50 where neighbours were
    found among the genes themselves."""
    points = data.points[rows]
    if points.shape[1] <= COMPONENTS:
        return points
    return np.concatenate(principal_components(points[:n_train], points[n_train:], COMPONENTS, data.seed))


# ---- cells


def points(data: FrequencyDataModule, embedding: str) -> pd.DataFrame:
    """Cells in two dimensions of the frequency space (of the inputs, of a classifier), with what is known of each."""
    rows = np.sort(np.concatenate([data.rows[part] for part in ("train", "validation", "test")]))
    rows = rows[sampled(len(rows), MOST_CELLS, data.seed)]
    regresses = data.spec.task == "regression"
    places = plane(data.targets[rows] if regresses else data.inputs[rows], embedding, data.seed)[0]
    frame = pd.DataFrame(places[:, :2], index=data.cells.obs.index[rows], columns=["x", "y"])
    frame["part"] = np.asarray(data.split.part)[rows]
    for key, values in (("cell_type", data.cell_type), ("cluster", data.cluster)):
        if values is not None:
            frame[key] = values[rows]
    if regresses:
        for f, output in enumerate(data.spec.outputs):
            frame[output] = data.targets[rows, f]
    return frame


def cells_with(data: FrequencyDataModule, model: Bilinear, found: list[Found]) -> ad.AnnData:
    """Every cell with its frequencies, what the model says, the activations of the modules; loadings of the genes."""
    obs = pd.DataFrame({"part": np.asarray(data.split.part)}, index=data.cells.obs.index)
    for key, values in (("cell_type", data.cell_type), ("cluster", data.cluster)):
        if values is not None:
            obs[key] = values
    adata = ad.AnnData(obs=obs, var=pd.DataFrame(index=list(data.spec.genes)))
    said = model.predict(data.inputs)
    if model.classifies:
        adata.obs["predicted"] = np.array(data.spec.outputs)[said.argmax(1)]
    else:
        adata.obsm["X_frequencies"] = data.targets
    adata.obsm["X_predicted"] = said
    if found:
        names = [f"{data.spec.outputs[one.module.frequency]}, {one.module.name}" for one in found]
        adata.obsm["X_modules"] = np.stack([one.module.activated(data.inputs) for one in found], 1).astype(np.float32)
        adata.varm["modules"] = np.stack([one.module.loadings for one in found], 1).astype(np.float32)
        adata.uns["modules"] = names
    return adata
