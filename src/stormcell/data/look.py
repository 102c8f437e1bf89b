"""What is in an .h5ad file, in plain words, and what to type: python -m stormcell.data.look my.h5ad

It reads and suggests only: training knows nothing but what is then typed.
"""

from __future__ import annotations

import argparse
import re
import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from stormcell.cli import fail
from stormcell.config import UserError
from stormcell.data.cells import locate
from stormcell.data.contents import Conditions, Contents, columns, named, read_contents, totals

# What values of a kind are, and the config keys that they need.
_KINDS = {
    "counts": "integers, so counts: data.scale=counts",
    "exact": "log1p values: data.scale=log1p; the integer counts come back exactly with data.recover_counts=true",
    "log1p": "log1p values: data.scale=log1p; integer counts do not come back from them",
    "continuous": "negatives among them, so scaled values: data.scale=continuous",
    "unlogged": "too large for log1p: take scanpy.pp.log1p, else only data.scale=continuous reads them",
    "empty": "nothing to read",
    "broken": "NaN or infinite values among them: no data.scale takes those, mend them first",
}
_SCALED = {"data.scale": "continuous", "data.genes.top": None}
_KEYS = {
    "exact": {"data.scale": "log1p", "data.recover_counts": True},
    "log1p": {"data.scale": "log1p", "data.genes.flavor": "seurat"},
    "continuous": _SCALED,
    "unlogged": _SCALED,
}
_BOTH, _CELLS = "control and perturbed cells", "cells of any kind"
_CLUSTERS = "an obs column of clusters, and beyond 500 genes a network (prior=file prior.path=…)"
_COUNTED = "counts of control and perturbed cells"
_NEEDS = {
    "cvae": _BOTH,
    "contrastive": _COUNTED,
    "lgem": _BOTH,
    "transition": _CLUSTERS,
    "bilinear": _CELLS,
}  # by model
_MODELS = Path(__file__).parents[3] / "conf" / "model"
_ENSEMBL = r"ENS[A-Z]*G\d{11}"
_KEYWORDS = ("null", "true", "false", "nan", "inf")  # of Hydra
_BATCH, _MIN_CELLS = 256, 10  # datamodule.batch_size and split.min_cells as conf has them


@dataclass
class Answer:
    """Lines that say what is in a file, and the overrides of the command."""

    lines: list[tuple[str, str]] = field(default_factory=list)
    keys: dict[str, Any] = field(default_factory=dict)

    def say(self, head: str, text: str, **keys: Any) -> None:
        """A line, and keys of data.*."""
        self.lines.append((head, text))
        self.keys |= {f"data.{key}": value for key, value in keys.items()}


def look(typed: str) -> Answer:
    """Everything that can be said of a file; raises UserError where it is missing, damaged or not an .h5ad."""
    path, answer = locate(typed), Answer(keys={"data": "h5ad"})
    found = read_contents(path)
    size = f"{len(found.obs):,} cells × {len(found.var):,} genes, {path.stat().st_size / 1e6:,.1f} MB"
    answer.say("file", f"{typed}: {size}", path=typed)
    for part in (_values, _library, _genes, _perturbations, _columns, _training):
        part(found, answer)
    return answer


def _values(found: Contents, answer: Answer) -> None:
    for layer in found.layers:
        seen = f"{len(layer.sums):,} evenly spaced cells" if layer.step > 1 else "all"
        text = f"{layer.name}, {layer.form}, nonzero values {layer.span} ({seen} seen): {_KINDS[layer.kind]}"
        answer.say("values", text + ("  ← suggested" if layer is found.layer else ""))
    if found.layer is not None:
        answer.keys |= _KEYS.get(found.layer.kind, {})
        counts = found.layer.kind == "counts" and "layers/counts" in [layer.name for layer in found.layers]
        if found.layer.name != ("layers/counts" if counts else "X"):
            answer.keys["data.layer"] = found.layer.name


def _library(found: Contents, answer: Answer) -> None:
    """An obs column larger than the row sums tells that the file keeps only some genes."""
    layer, head = found.layer, "library size"
    if layer is None or layer.kind != "counts":
        return
    inside, told = f"the sum over the {len(found.var):,} genes here (median {np.median(layer.sums):,.0f})", ""
    for column, median, size in sorted(totals(found), key=lambda row: row[2] != "more"):
        if size == "more":
            text = f"{column} (median {median:,.0f}) is more than {inside}, so the file keeps only some genes"
            answer.say(head, f"{text}: data.library_key={column}", library_key=column)
            return
        told += f"; {column} {'says the same' if size == 'same' else 'is less or missing in some cells: not usable'}"
    answer.say(head, f"{inside}{told}; were genes left out, data.library_key should name a column of the full totals")


def _genes(found: Contents, answer: Answer) -> None:
    names = pd.Index([str(gene) for gene in found.var.index])
    twice, mito = names[names.duplicated()].unique(), names.str.lower().str.startswith("mt-")
    kind = "Ensembl ids" if names.str.match(_ENSEMBL).mean() > 0.5 else "symbols"
    text = f"{', '.join(names[:3])}, …: {kind}; {mito.sum():,} mitochondrial (mt-), {mito.mean():.1%} of the genes"
    if len(twice):
        text += f"; names that stand more than once are refused ({len(twice)}, e.g. {', '.join(twice[:3])}): "
        text += "adata.var_names_make_unique() and adata.write_h5ad(…) first"
    answer.say("genes", text)


def _perturbations(found: Contents, answer: Answer) -> None:
    asked, head = found.conditions, "perturbation"
    if asked is None:
        one = [c for c in named(found.obs, head) if found.obs[c].nunique() == 1]
        why = f"; in {one[0]} every cell is {str(found.obs[one[0]].iloc[0])!r}" if one else ""
        answer.say(head, f"no obs column tells control from perturbed cells{why}", perturbation_key=None)
        return
    sizes, key = asked.sizes, asked.key
    text = f"{key}: {sizes.index[0]}, {sizes.iloc[0]:,} cells"
    if len(sizes) > 1:
        text = f"{key}: {len(sizes):,} perturbations; cells of each: median {sizes.median():,.0f}, fewest "
        text += f"{sizes.iloc[0]:,} ({sizes.index[0]})"
    text += f"; {asked.unlabelled:,} cells without a label are dropped" if asked.unlabelled else ""
    text += f"; {', '.join(asked.others[:3])} could serve too" if asked.others else ""
    answer.say(head, text, perturbation_key=key)
    if asked.control is None:
        labels = ", ".join(sizes.index[::-1][:8]) + (", …" if len(sizes) > 8 else "")
        answer.say("control", f"no label looks like one: type the right one for LABEL ({labels})", control="LABEL")
    else:
        text = f"{', '.join(asked.alike[:8])}{', …' if len(asked.alike) > 8 else ''}, {asked.is_control.sum():,} cells"
        several = "; all are read as one control" if len(asked.alike) > 1 else ""
        answer.say("control", text + several, control=asked.alike if several else asked.control)
    _combinations(asked, answer)


def _combinations(asked: Conditions, answer: Answer) -> None:
    text = f"joined by {asked.separator!r}; pairs whose two targets also occur alone: {len(asked.pairs)}"
    if asked.separator is None:
        text = "their parts do not occur alone: if + belongs to a name, add data.separator=@@"
    if together := [c for c in asked.sizes.index if "+" in c]:
        key = {} if asked.separator in (None, "+") else {"separator": asked.separator}
        answer.say("combinations", f"{len(together)} of the perturbations, e.g. {together[-1]}, {text}", **key)


def _columns(found: Contents, answer: Answer) -> None:
    """Batch, cell type, cluster, pseudotime, and yes/no columns; of each the first usable one goes to the command."""
    for role in ("batch", "cell_type", "cluster", "pseudotime"):
        rows = columns(found, role)
        usable = [column for column, _, why in rows if not why]
        text = [f"{column} ({n:,} values{why and ', '}{why})" for column, n, why in rows]
        taken = usable and (found.conditions is None or role in ("batch", "cell_type"))
        if rows:
            answer.say(role.replace("_", " "), ", ".join(text), **({f"{role}_key": usable[0]} if taken else {}))
    for column in found.obs.select_dtypes(bool):
        key = shlex.quote(_typed("data.filter", column))
        answer.say("filter", f"{found.obs[column].sum():,} cells are {column}: {key} keeps only these")


def _training(found: Contents, answer: Answer) -> None:
    """The models of conf that can run, and the split; no keys where nothing can."""
    asked = found.conditions
    counted = found.layer is not None and found.layer.kind in ("counts", "exact")
    has = {_CELLS: True, _BOTH: asked is not None, _CLUSTERS: bool(columns(found, "cluster"))}
    has[_COUNTED] = has[_BOTH] and counted
    installed = [model for model in _NEEDS if (_MODELS / f"{model}.yaml").is_file()]
    can = [model for model in installed if has[_NEEDS[model]] and found.layer is not None]
    for model in installed:
        answer.say("models", f"{model} {'can' if model in can else 'cannot'} run: it needs {_NEEDS[model]}")
    if asked is None:
        keys = " ".join(shlex.quote(_typed(*item)) for item in answer.keys.items() if item[0].endswith("_key"))
        answer.say("still good for", f"models of cell states that ask for no perturbation, with {keys}")
        # The one that needs no second file, where it can run.
        answer.keys |= {"model": "bilinear" if "bilinear" in can else can[0]} if can else {}
    elif asked.control is not None:
        _split(asked, answer)
    if not can:
        answer.keys.clear()


def _split(asked: Conditions, answer: Answer) -> None:
    """The split, and what it and the batches need where cells are few."""
    sizes, pairs, keys, n_control = asked.sizes, asked.pairs, answer.keys, int(asked.is_control.sum())
    keys["split"] = "pairs_and_cells" if pairs else "cells"
    held = f"pairs whose targets also occur alone ({len(pairs)}), and on " if pairs else ""
    text = f"split={keys['split']} tests on {held}a fifth of the cells of each {'other ' if pairs else ''}perturbation"
    least = _MIN_CELLS if sizes.median() >= _MIN_CELLS else max(3, int(sizes.iloc[0]))
    keys |= {"split.min_cells": least} if least < _MIN_CELLS else {}
    if small := int((sizes < least).sum()):
        keys["split.drop_small"] = True
        text += f"; split.drop_small=true leaves out those of fewer than {least} cells ({small} of {len(sizes)}); "
        text += f"split.min_cells={sizes.iloc[0]} instead would keep them"
    if shared := n_control < 2 * _MIN_CELLS:
        keys["split.controls_for_truth"] = 0
        text += "; the controls are too few to keep half of them for the truth"
    trained = 0.72 * sizes.drop(pairs)[lambda n: n >= least].sum() + n_control * (1 if shared else 0.45)
    if trained * 0.9 < _BATCH:
        keys["datamodule.batch_size"] = 2 ** int(np.log2(max(trained * 0.9, 2)))
    answer.say("split", text)


def command(keys: dict[str, Any]) -> str:
    """The command, quoted for Hydra and for the shell, in lines of at most 100 columns."""
    lines = ["python train.py"]
    for key, value in keys.items():
        word = shlex.quote(_typed(key, value))
        if len(lines[-1]) + len(word) > 96:
            lines[-1] += " \\"
            lines.append("   ")
        lines[-1] += f" {word}"
    return "\n".join(lines)


def _typed(key: str, value: Any) -> str:
    """An override as Hydra reads it."""
    return f"{key}=[{','.join(map(_word, value))}]" if isinstance(value, list) else f"{key}={_word(value)}"


def _word(value: Any) -> str:
    """A value; a name that Hydra would take for something else stands in double quotes."""
    if not isinstance(value, str):
        return "null" if value is None else str(value).lower()
    if re.fullmatch(r"([A-Za-z_]|\.{0,2}/)[\w./+-]*", value, re.ASCII) and value.lower() not in _KEYWORDS:
        return value
    escaped = re.sub(r'(\\*)("|$)', lambda m: 2 * m[1] + ('\\"' if m[2] else ""), value.replace("${", "\\${"))
    return f'"{escaped}"'


def main(arguments: list[str]) -> None:
    """Print what is in a file, and the command."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    parser = argparse.ArgumentParser(prog="python -m stormcell.data.look", description=__doc__.split(":")[0])
    parser.add_argument("file", help="an .h5ad file, here or in $STORMCELL_DATA")
    try:
        answer = look(parser.parse_args(arguments).file)
    except UserError as error:
        fail(str(error))
    console = Console(width=min(100, Console().width) if sys.stdout.isatty() else 100)
    grid, before = Table.grid(padding=(0, 2)), ""
    for head, text in answer.lines:
        grid.add_row(Text("" if head == before else head, "bold"), Text(text))
        before = head
    console.print(grid)
    end = "\nTo train, type" if answer.keys else "\nNo model of conf/model can be trained on this file as it is."
    console.print(Text(end, "bold"))
    if answer.keys:
        console.print(Text(command(answer.keys)), soft_wrap=True)


if __name__ == "__main__":
    main(sys.argv[1:])
