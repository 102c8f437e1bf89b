"""Every method on every held-out query, beside the tables that need all answers of a method: ranks, collapse.

Shapes: Q queries, n cells, G genes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from stormcell.evaluation.collapse import collapse
from stormcell.evaluation.discrimination import discriminate
from stormcell.evaluation.heldout import HeldOut, Method
from stormcell.evaluation.metrics import METRICS
from stormcell.evaluation.panel import KEYS, Answer, Controls, Training, Truth, key
from stormcell.evaluation.profiles import shift

COLUMNS = ["method", *KEYS, "n_cells", "answered", "pair", *METRICS]  # of every table with a row per query


@dataclass(frozen=True)
class Scores:
    """What `score` finds. `pair`: two targets, both seen alone: interaction metrics are asked of these queries only."""

    per_query: pd.DataFrame  # method, condition, context, group, n_cells (true ones), answered, pair, <metric>
    raw: pd.DataFrame  # the same with nan where a value is undefined, also where that counts as 0 in `per_query`
    per_method: pd.DataFrame  # group, method, collapsed, spread, n_de_spearman (collapse.py)
    interactions: pd.DataFrame  # of pairs: method, condition, context, group, <score>_true, <score>_predicted
    kept: dict[str, list]  # method -> (mean, some cells) or None for each query
    means: dict[str, np.ndarray]  # method -> Q × G float32, predicted mean profiles; NaN where there is no answer


def score(held_out: HeldOut, methods: Sequence[Method], keep: Sequence[str] = (), kept_cells: int = 200) -> Scores:
    """Asks every method every query once and judges the answers; the cells of one query are in memory at a time.

    `kept` has the answers of the methods named in `keep`, with their first `kept_cells` cells.
    A metric that is not defined is nan, or 0 where a correlation of a finite answer is (Metric.zero) while another
    method has a value for the query; `undefined` says how many and why.
    Raises ValueError for an unknown name in `keep`, for a repeated method name, and for an answer of the wrong shape.
    """
    names = [method.name for method in methods]
    if len(set(names)) < len(names) or not set(keep) <= set(names):
        raise ValueError(f"methods {names} must have names of their own and include those to keep, {list(keep)}")
    training = Training(held_out)
    seen = {context: Controls.of(cells) for context, cells in held_out.controls.items()}
    unseen = {context: Controls.of(cells) for context, cells in held_out.truth_controls.items()}
    sheet = _Sheet(held_out, names)
    kept: dict[str, list] = {name: [] for name in keep}
    for index, query in enumerate(held_out.queries):
        truth = Truth(query, training, seen[query.context], unseen[query.context])
        sheet.ask(index, truth)
        for method in methods:
            answer = method.predict(index)
            _check(answer, method.name, len(held_out.genes))
            sheet.write(index, truth, method.name, answer)
            if method.name in kept:
                # A copy: a view would keep every predicted cell in memory.
                kept[method.name].append(answer and (answer[0], np.array(answer[1][:kept_cells])))
    controls = [{context: of.mean for context, of in known.items()} for known in (seen, unseen)]
    raw = sheet.per_query(controls[0])
    return Scores(with_zeros(raw), raw, sheet.per_method(*controls), sheet.interactions(), kept, sheet.means)


def with_zeros(raw: pd.DataFrame) -> pd.DataFrame:
    """The scores with 0 for what counts as 0 (see `score`)."""
    found, finite = raw.copy(), np.isfinite(raw["mse"])
    for name, metric in METRICS.items():
        if metric.zero:
            known = raw[name].notna().groupby([raw[column] for column in KEYS]).transform("any")
            found.loc[raw[name].isna() & finite & known, name] = 0.0
    return found


def _check(answer: tuple | None, name: str, n_genes: int) -> None:
    if answer is not None and (np.shape(answer[0]) != (n_genes,) or np.shape(answer[1])[1:] != (n_genes,)):
        raise ValueError(f"{name} answers {np.shape(answer[0])}, {np.shape(answer[1])}; there are {n_genes} genes")


class _Sheet:
    """The answers of all methods as they come in."""

    def __init__(self, held_out: HeldOut, names: list[str]) -> None:
        shape = len(held_out.queries), len(held_out.genes)
        self.held_out, self.names = held_out, names
        self.true, self.noise = np.empty(shape), np.empty(shape[0])
        self.means = {name: np.full(shape, np.nan, np.float32) for name in names}
        self.found: list[tuple[dict, Answer]] = []  # by query, then by method

    def ask(self, index: int, truth: Truth) -> None:
        self.true[index], self.noise[index] = truth.mean, truth.noise

    def write(self, index: int, truth: Truth, name: str, answer: tuple | None) -> None:
        about = {"method": name, **key(truth.query), "answered": answer is not None, "pair": truth.singles is not None}
        if answer is not None:
            self.means[name][index] = answer[0]
        self.found.append((about, truth.silence() if answer is None else truth.judge(*answer)))

    def per_query(self, control: dict[str, np.ndarray]) -> pd.DataFrame:
        table = pd.DataFrame([about | answer.metrics for about, answer in self.found], columns=COLUMNS)
        for name in self.names:
            ranks = discriminate(self.held_out, self.means[name], self.true, control)
            table.loc[table["method"] == name, list(ranks)] = ranks.to_numpy()
        return table

    def per_method(self, control: dict[str, np.ndarray], unseen: dict[str, np.ndarray]) -> pd.DataFrame:
        queries, mean_shift = self.held_out.queries, self.held_out.train.mean_shift
        groups, n_de = [query.group for query in queries], np.array([answer.n_de for _, answer in self.found])
        own, apart = (np.array([base[query.context] for query in queries]) for base in (control, unseen))
        true, tables = self.true - apart, []
        for place, name in enumerate(self.names):
            counts = n_de[place :: len(self.names)]
            table = collapse(groups, shift(self.means[name], own), true, self.noise, counts, mean_shift)
            tables.append(table.assign(method=name))
        columns = ["group", "method", "collapsed", "spread", "n_de_spearman"]
        found = pd.concat(tables)[columns]
        return found.sort_values("group", key=lambda group: group.map(groups.index), kind="stable", ignore_index=True)

    def interactions(self) -> pd.DataFrame:
        pairs = [(about, answer.interactions) for about, answer in self.found if answer.interactions]
        return pd.DataFrame([{name: about[name] for name in ("method", *KEYS)} | scores for about, scores in pairs])
