"""Predictions that another program made, read and checked so that the scoreboard can judge them.

Three forms are one: cells (n × G), their mean profile y, or the shift s = y − c against the control mean c. A shift
becomes y = s + c with the real control mean of the context; control cells that a file predicts are never used.

Everything is log1p(counts / library · 1e4). Shapes: R rows of the source, n cells of one prediction, G genes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from stormcell.config import DataConfig, UserError, nearest
from stormcell.data.csr import row_normalise_log1p
from stormcell.data.prediction_files import Names, Source, asked, few, kind_of, labelled, places, read_source
from stormcell.evaluation.baselines import draw, moved_controls
from stormcell.evaluation.heldout import HeldOut, Method
from stormcell.evaluation.profiles import ROUNDING, mean_profile, pearson

if TYPE_CHECKING:
    from anndata import AnnData

Key = tuple[str, str]  # condition, context
KINDS, SCALES = ("cells", "means", "shifts"), ("log1p", "counts")
ALIKE = 0.5  # r with the control mean: mean profiles have more (0.8 and up on real cells)
NOTED = 1.25  # and beyond this ratio a note asks whether the scale is right
LARGEST_RATIO = 2.0  # of predicted to control mean, summed over genes; conditions of real cells stay within 0.9 to 1.3


@dataclass(frozen=True)
class Predictions:
    """What a program predicts, by condition and context; one of `cells` and `means` is empty."""

    name: str
    kind: str  # cells · means · shifts, as the source has them
    genes: tuple[str, ...]  # G, in the order asked for
    cells: dict[Key, csr_matrix]  # n × G float32
    means: dict[Key, np.ndarray]  # G float64; to a shift the control mean of the context is added
    notes: tuple[str, ...]  # what was left out, and what else a reader must be told


def read_predictions(
    source: str | Path | AnnData | pd.DataFrame, *, genes: tuple[str, ...], conditions: Sequence[str],
    controls: dict[str, np.ndarray], control: Names = "control", separator: Names = "+", kind: str | None = None,
    scale: str | None = None, perturbation_key: Names = "perturbation", context_key: str | None = None,
    library_key: str | None = None,
) -> Predictions:  # fmt: skip
    """Predictions of the asked conditions from a file (.h5ad, .csv, .tsv, .csv.gz, .tsv.gz), AnnData or DataFrame.

    genes, conditions: those judged, labels canonical (A+B). In the source genes may stand in any order, beside others,
        and labels be B+A or A+control. A table has a row per condition, its label first, or is genes × conditions.
    controls: context -> G, mean of the real training controls. Without `context_key` a row answers for every context.
    kind: cells (many rows per condition), means or shifts (one). None: an AnnData with several rows for a condition is
        cells, a table is shifts.
    scale: log1p (None means it), or counts: cells only, divided by obs[library_key], else by the sum of the row.

    An AnnData is read in float32, a table in float64.

    Raises UserError with the reason for all that is not as it is said to be, and for values of another scale.
    """
    _check_words(kind, scale, library_key)
    found = read_source(source, scale, genes)
    rows = labelled(found, DataConfig(control=control, separator=separator), conditions, perturbation_key, context_key)
    wanted = asked(found, rows, conditions, list(controls), perturbation_key, context_key)
    kind = kind_of(found, rows, kind, scale)
    columns = places(found, genes)
    if kind == "cells":
        values = _cells(found, wanted, columns, scale or "log1p", library_key)
        cells, means = _by_query(values, wanted, controls), {}
        profiles = {key: mean_profile(block) for key, block in cells.items()}
    else:
        values = _numbers(found, wanted, columns)
        cells, means = {}, {key: block[0] for key, block in _by_query(values, wanted, controls).items()}
        profiles = means = _as_means(found, means, controls, kind)
    _check_scale(found, profiles, controls, kind, scale)
    return Predictions(found.name, kind, tuple(genes), cells, means, tuple(found.notes))


def as_method(predictions: Predictions, held_out: HeldOut, n_cells: int, seed: int) -> Method:
    """The predictions as a row of the scoreboard: mean (G) and at most `n_cells` cells, or None where there are none.

    Cells: a fixed draw of those given, the mean is over all of them. Means: the mean as given, and training control
    cells of the context moved by mean − control mean, as for the baselines (same seed, same cells).
    Raises ValueError where the predictions were read for other genes.
    """
    if predictions.genes != held_out.genes:
        raise ValueError("the predictions were read for other genes than those held out")
    control_means = {context: mean_profile(cells) for context, cells in held_out.controls.items()}

    def predict(index: int) -> tuple[np.ndarray, np.ndarray] | None:
        query = held_out.queries[index]
        key = query.condition, query.context
        if key in predictions.cells:
            return mean_profile(predictions.cells[key]), draw(
                predictions.cells[key], n_cells, np.random.default_rng([seed, index])
            )
        if key not in predictions.means:
            return None
        mean = predictions.means[key]
        return mean, moved_controls(held_out, index, mean - control_means[query.context], n_cells, seed)

    return Method(predictions.name, predict)


def _check_words(kind: str | None, scale: str | None, library_key: str | None) -> None:
    for key, word, words in ("kind", kind, KINDS), ("scale", scale, SCALES):
        if word is not None and word not in words:
            raise UserError(f"{key}={word}: {', '.join(words)} or null{nearest(word, words)}")
    if library_key is not None and scale != "counts":
        raise UserError(f"library_key={library_key}: library sizes are for counts; say scale=counts or leave it out")


# ---- values


def _by_query(values: csr_matrix | np.ndarray, rows: pd.DataFrame, controls: dict[str, np.ndarray]) -> dict:
    """(condition, context) -> its rows of the values; rows without a context are those of every context."""
    found = {}
    for (condition, context), mine in rows.groupby(["condition", "context"]).indices.items():
        block = values[mine]
        found |= {(condition, where): block for where in ([context] if context else controls)}
    return found


def _cells(source: Source, rows: pd.DataFrame, columns: list[int], scale: str, library_key: str | None) -> csr_matrix:
    """log1p values of the asked rows and genes, n × G."""
    X = source.values[rows["place"].to_numpy()]
    if scale == "log1p":
        X = X[:, columns]
    _check_finite(source, X.data, np.repeat(rows["condition"].to_numpy(), np.diff(X.indptr)))
    whole = X.data == np.rint(X.data)
    if scale == "counts":  # of every gene that the source has: they are in the library
        wrong = X.data[~whole | (X.data < 0)]
        if len(wrong):
            raise UserError(
                f"{source.origin}: values such as {wrong[0]:g} are not counts (scale=counts); say scale=log1p"
            )
        logs = row_normalise_log1p(X, _library(source, X, rows, library_key))
        return csr_matrix((logs, X.indices, X.indptr), X.shape)[:, columns]
    if len(whole) and whole.all():
        raise UserError(
            f"{source.origin}: all values are integers, so they look like counts, not log1p "
            "(scale=log1p); say scale=counts"
        )
    return X


def _library(source: Source, X: csr_matrix, rows: pd.DataFrame, library_key: str | None) -> np.ndarray:
    """Counts of each cell over all genes: a column of the source, else the sum over the genes that it has."""
    if library_key is None:
        source.notes.append(f"library sizes are the sums over the {X.shape[1]} genes of the source (no library_key)")
        return np.asarray(X.sum(1, dtype=np.float64)).ravel()
    column = source.column(library_key, "library_key").iloc[rows["place"].to_numpy()]
    library = pd.to_numeric(column.astype(object), errors="coerce").to_numpy(float)
    wrong = ~(np.isfinite(library) & (library > 0))
    if wrong.any():
        raise UserError(
            f"{source.origin}: {int(wrong.sum())} cells have a library size (library_key={library_key}) that is not a "
            f"positive number, such as {column[wrong].iloc[0]!r}"
        )
    return library


def _numbers(source: Source, rows: pd.DataFrame, columns: list[int]) -> np.ndarray:
    """Means or shifts of the asked rows and genes: P × G float64."""
    place = rows["place"].to_numpy()
    if not source.is_table:
        values = source.values[place][:, columns].toarray().astype(np.float64)
    else:
        table = source.values.iloc[place, columns]
        wordy = not all(map(pd.api.types.is_numeric_dtype, table.dtypes))
        numeric = table.apply(pd.to_numeric, errors="coerce") if wordy else table
        values = numeric.to_numpy(np.float64)
        words = np.argwhere(np.isnan(values) & table.notna().to_numpy())
        if len(words):
            word = table.iat[tuple(words[0])]
            raise UserError(f"{source.origin}: {word!r} in the row of {rows['label'].iloc[words[0][0]]} is no number")
    _check_finite(source, values, rows["condition"].to_numpy()[:, None])
    return values


def _check_finite(source: Source, values: np.ndarray, conditions: np.ndarray) -> None:
    """`conditions` names the condition of each value, or of each row."""
    wrong = ~np.isfinite(values)
    if wrong.any():
        named = sorted(set(np.broadcast_to(conditions, values.shape)[wrong]))
        raise UserError(f"{source.origin}: {int(wrong.sum())} values are missing, NaN or infinite, in {few(named)}")


def _as_means(
    source: Source, values: dict[Key, np.ndarray], controls: dict[str, np.ndarray], kind: str
) -> dict[Key, np.ndarray]:
    """Means as they are, shifts with the control mean added; refused where one looks like the other."""
    r = pearson(np.array(list(values.values())), np.array([controls[context] for _, context in values]))
    r = np.median(r[np.isfinite(r)]) if np.isfinite(r).any() else np.nan
    ratio = _ratio(values, controls)
    lowest = min(vector.min() for vector in values.values())
    if kind == "shifts":
        # A shift may be proportional to the control mean, but then it is a small part of it.
        if lowest >= 0 and r > ALIKE and ratio > 1 / LARGEST_RATIO:
            raise UserError(
                f"{source.origin}: no value is negative and r = {r:.2f} with the real control mean, so these are mean "
                "profiles, not shifts (kind=shifts); say kind=means"
            )
        means = {key: vector + controls[key[1]] for key, vector in values.items()}
    else:
        # Linear models predict means a little below zero; a shift is of another shape or size.
        if lowest < 0 and (r < ALIKE or ratio < 1 / LARGEST_RATIO):
            raise UserError(
                f"{source.origin}: values down to {lowest:.3g} and r = {r:.2f} with the real control mean, so these "
                "are shifts, not mean profiles (kind=means); say kind=shifts"
            )
        means = values
    lowest = min(vector.min() for vector in means.values())
    if lowest < -ROUNDING:
        source.notes.append(f"predicted means reach down to {lowest:.2g}: a mean of log1p values is never below zero")
    return means


def _ratio(profiles: dict[Key, np.ndarray], controls: dict[str, np.ndarray]) -> float:
    """Sum of the profiles over the sum of the control means of their contexts; nan where these are zero."""
    base = sum(controls[context].sum() for _, context in profiles)
    return float(sum(profile.sum() for profile in profiles.values()) / base) if base > 0 else np.nan


def _check_scale(
    source: Source, profiles: dict[Key, np.ndarray], controls: dict[str, np.ndarray], kind: str, scale: str | None
) -> None:
    """Predicted mean profiles against the real control mean, both summed over genes."""
    ratio = _ratio(profiles, controls)
    if ratio > LARGEST_RATIO or ratio < 1 / LARGEST_RATIO:
        advice = "CPM, log2 or scaled values cannot be judged; or the real cells lack their data.library_key"
        if scale == "counts":
            advice = "the library sizes must count all genes of a cell (library_key)"
        elif kind == "means" and ratio < 1:
            advice = "shifts need kind=shifts"
        raise UserError(
            f"{source.origin}: the predicted means sum to {ratio:.2g} times the real control mean, which is another "
            f"scale than log1p(counts / library · 1e4) (scale={scale or 'log1p'}); {advice}"
        )
    if not 1 / NOTED <= ratio <= NOTED:
        source.notes.append(
            f"the predicted means sum to {ratio:.2f} times the real control mean; log2 values would have 1.44 times"
        )
