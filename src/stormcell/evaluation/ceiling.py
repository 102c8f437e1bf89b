"""What the real cells allow: how well one half of them answers for the other, and what the exact mean would score.

Shapes: n cells, G genes.
Sources: Spearman 1910, Brown 1910 (reliability of halves).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from stormcell.evaluation.discrimination import discriminate
from stormcell.evaluation.heldout import HeldOut
from stormcell.evaluation.intervals import expected_exact, half_means, halves_r
from stormcell.evaluation.metrics import METRICS
from stormcell.evaluation.panel import KEYS, Controls, Training, Truth, key, sampling_variance
from stormcell.evaluation.profiles import Cells, mean_profile
from stormcell.evaluation.scoring import COLUMNS

SPLIT_HALF, EXACT = "split-half of the real cells", "exact mean (expected)"
CORRELATIONS = {"shift_correlation": "", "shift_correlation_shared": "_shared"}  # metric -> suffix in `reliability`
SPLITS = 3  # of the cells, for metrics that need cells on both sides


def reliability(held_out: HeldOut, seed: int) -> pd.DataFrame:
    """How well the real cells reproduce their own shift, one row per query.

    split_half_r halves cells and truth controls, `_shared` halves the cells alone and flatters; expected_exact is the
    score that the exact shift would then be expected to reach (a predicted shift also carries the noise of the training
    controls, and stays a little below). `shared` repeats `held_out.shared`: the ceiling of
    shift_correlation is then the one with `_shared`, while split_half_r still tells signal from noise.
    """
    halves, whole = {}, {}
    for number, (context, cells) in enumerate(held_out.truth_controls.items()):
        # Halved once for all queries of a context: they are by far the most cells.
        enough = cells.shape[0] >= 2
        halves[context] = half_means(cells, seed=[seed, 1, number]) if enough else None
        whole[context] = (mean_profile(held_out.controls[context]),) * 2
    rows = []
    for index, query in enumerate(held_out.queries):
        r = r_shared = np.nan
        if query.cells.shape[0] >= 2:
            cells = half_means(query.cells, seed=[seed, 0, index])
            r_shared = halves_r(cells, whole[query.context])
            if halves[query.context] is not None:
                r = halves_r(cells, halves[query.context])
        expected, expected_shared = expected_exact(np.array([r, r_shared]))
        rows.append([*key(query).values(), r, expected, r_shared, expected_shared, held_out.shared])
    names = ["split_half_r", "expected_exact", "split_half_r_shared", "expected_exact_shared", "shared"]
    return pd.DataFrame(rows, columns=[*KEYS, "n_cells", *names])


def ceilings(held_out: HeldOut, reliability: pd.DataFrame, seed: int) -> pd.DataFrame:
    """The two ceilings in the form of a table of scores: one row per query for each of them, every metric that it has.

    split-half: one half of the cells answers for the other, one half of the truth controls stands as its control (all
    of them on both sides where controls are shared); median over three random splits. exact mean: see `_exact`.
    The shift correlations are those of `reliability`, from more splits; where controls are shared, the shared ones. Of
    the exact mean the other correlations (beyond a mean, without dominating genes) follow from those of the halves.
    """
    halves, exact = _split_half(held_out, seed), _exact(held_out)
    for metric in METRICS:
        if metric.startswith("shift_correlation"):
            exact[metric] = expected_exact(halves[metric].to_numpy(float))
    for table, column in (halves, "split_half_r"), (exact, "expected_exact"):
        for metric, suffix in CORRELATIONS.items():
            table[metric] = reliability[column + ("_shared" if held_out.shared else suffix)].to_numpy()
    return pd.concat([halves, exact], ignore_index=True)


def _exact(held_out: HeldOut) -> pd.DataFrame:
    """Expected distance of the mean of n cells to the exact one: E‖x̄ − μ‖² = Σ_g var_g / n; nan with one cell.

    L2 and RMSE are the roots of expected squares.
    """
    rows = []
    order = {context: np.argsort(-mean_profile(cells), kind="stable") for context, cells in held_out.controls.items()}
    for query in held_out.queries:
        noise = sampling_variance(query.cells)
        distances = {
            "l2": np.sqrt(noise.sum()),
            "l2_top1000": np.sqrt(noise[order[query.context][:1000]].sum()),
            "mse": noise.mean(),
            "rmse": np.sqrt(noise.mean()),
        }
        rows.append({"method": EXACT, **key(query), "answered": True, "pair": False} | distances)
    return pd.DataFrame(rows, columns=COLUMNS)


def _split_half(held_out: HeldOut, seed: int) -> pd.DataFrame:
    training, names = Training(held_out), list(METRICS)
    found = [_one_split(held_out, training, np.random.default_rng([seed, 2, split])) for split in range(SPLITS)]
    table = found[0].copy()
    table[names] = _nanmedian(np.stack([split[names].to_numpy(float) for split in found]))
    return table


def _one_split(held_out: HeldOut, training: Training, rng: np.random.Generator) -> pd.DataFrame:
    if held_out.shared:
        controls = {context: (Controls.of(cells),) * 2 for context, cells in held_out.controls.items()}
    else:
        controls = {context: _halves_of_controls(cells, rng) for context, cells in held_out.truth_controls.items()}
    shape = len(held_out.queries), len(held_out.genes)
    first, second, rows = np.full(shape, np.nan), np.full(shape, np.nan), []
    for index, query in enumerate(held_out.queries):
        row = {"method": SPLIT_HALF, **key(query), "answered": query.cells.shape[0] > 1, "pair": False}
        if row["answered"]:
            answer, rest = _halves(query.cells, rng)
            truth = Truth(replace(query, cells=rest), training, *controls[query.context])
            first[index], second[index] = mean_profile(answer), truth.mean
            row |= {"pair": truth.singles is not None} | truth.judge(first[index], answer).metrics
        rows.append(row)
    table = pd.DataFrame(rows, columns=COLUMNS)
    known = {context: halves[0].mean for context, halves in controls.items()}
    ranks = discriminate(held_out, first, second, known)
    table[list(ranks)] = ranks
    return table


def _halves(cells: Cells, rng: np.random.Generator) -> tuple[Cells, Cells]:
    order = rng.permutation(cells.shape[0])
    return cells[np.sort(order[: len(order) // 2])], cells[np.sort(order[len(order) // 2 :])]


def _halves_of_controls(cells: Cells, rng: np.random.Generator) -> tuple[Controls, Controls]:
    """A single control cell has no halves: it stands on both sides."""
    return tuple(map(Controls.of, _halves(cells, rng) if cells.shape[0] > 1 else (cells, cells)))


def _nanmedian(values: np.ndarray) -> np.ndarray:
    """Median over splits of what is defined: S × Q × metrics → Q × metrics; nan where nothing is, without a warning."""
    known = np.isfinite(values)
    middle = np.ma.median(np.ma.masked_array(values, ~known), axis=0)
    return np.ma.filled(middle, np.nan)
