"""Judges predictions that any program made, on the scoreboard that judges our own models.

    from stormcell.data.named_splits import linear_doubles
    from stormcell.evaluator import evaluate

    judgement = evaluate("mine.h5ad", data="norman.h5ad", split=linear_doubles)

and from the command line `python evaluate.py predictions=mine.h5ad data=norman split=linear_doubles`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stormcell.analysis.embedding import TargetEmbedding
from stormcell.config import DataConfig, UserError, nearest
from stormcell.data.cells import read
from stormcell.data.predictions import Predictions, as_method, read_predictions
from stormcell.data.questions import held_out
from stormcell.data.screen import Screen
from stormcell.data.split import Split
from stormcell.data.targets import multi_hot
from stormcell.evaluation.heldout import HeldOut, Method
from stormcell.evaluation.profiles import mean_profile
from stormcell.judge import judge
from stormcell.report.judgement import Judgement

if TYPE_CHECKING:
    from anndata import AnnData
    from pandas import DataFrame

RULES = (
    "linear_doubles", "gears_simulation", "perturbench_combine", "held_out_cells", "held_out_combinations",
    "held_out_perturbations",
)  # fmt: skip
N_CELLS = 1000  # of a prediction that enter the distribution metrics


class Judged:
    """Predictions in the place of a model."""

    def __init__(self, predictions: Predictions, seed: int) -> None:
        self.predictions, self.seed, self.name = predictions, seed, predictions.name

    def methods(self, data: Screen, held_out: HeldOut) -> list[Method]:
        return [as_method(self.predictions, held_out, N_CELLS, self.seed)]


def evaluate(
    predictions: str | Path | AnnData | DataFrame,
    data: str | Path | AnnData,
    split: str | Callable[..., Split],
    config: DataConfig | None = None,
    targets: Callable[..., TargetEmbedding] = multi_hot,
    seed: int = 1,
    **reading: Any,
) -> Judgement:
    """The Judgement of predictions: scoreboard, per_query, verdict and every table of a run.

    Parameters
    ----------
    predictions
        Cells, mean profiles or mean shifts, as a file, an AnnData or a table; `reading` says how to read them
        (kind, scale, perturbation_key, separator, context_key, library_key of data/predictions.py).
    data
        The real cells: an .h5ad file or an AnnData; `config` says how to read them.
    split
        The rule that says which cells are judged: a function of stormcell.data.split or named_splits, its name, or a
        partial of one.
    targets
        What is known of the targets, for the baselines on an embedding: a function of stormcell.data.targets.

    Raises UserError for every mistake that a user can mend.
    """
    config = config or DataConfig(name="h5ad")
    split = _rule(split) if isinstance(split, str) else split
    if isinstance(data, (str, Path)):
        config, adata = replace(config, path=str(data)), None
    else:
        adata = data
    screen = Screen(config, split, seed, targets)
    screen.use(read(config, adata))
    return judge_predictions(screen, predictions, **reading)[0]


def _rule(name: str) -> Callable[..., Split]:
    """The function of a split by its name; raises UserError for a name that none has."""
    from stormcell.data import named_splits, split

    rules = {key: rule for module in (split, named_splits) for key, rule in vars(module).items() if key in RULES}
    if name not in rules:
        raise UserError(f"split={name!r}: no such rule{nearest(name, RULES)}; rules: {', '.join(RULES)}")
    return rules[name]


def judge_predictions(screen: Screen, predictions: Any, **keys: Any) -> tuple[Judgement, dict[str, list]]:
    """Read predictions against the held-out cells of a screen that is set up, and judge them."""
    questions = held_out(screen, screen.reference, True, screen.embedding)
    config = screen.config
    found = read_predictions(
        predictions,
        genes=questions.genes,
        conditions=sorted({query.condition for query in questions.queries}),
        controls={context: mean_profile(cells) for context, cells in questions.controls.items()},
        control=config.control,
        separator=keys.pop("separator", None) or config.separator,
        **keys,
    )
    notes = [*found.notes, *screen.cells.notes, *screen.split.notes, *screen.embedding.notes]
    return judge(Judged(found, screen.seed), screen, questions, notes)
