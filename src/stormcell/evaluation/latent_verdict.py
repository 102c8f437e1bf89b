"""The scoreboard of a latent model in sentences."""

from __future__ import annotations

import numpy as np
import pandas as pd

JUDGED = {"probe": "perturbation probe", "ari": "ARI"}  # the first that has a value
APART = 0.05  # of an AUC from one half that is told as a trace of the perturbation


def latent_verdict(board: pd.DataFrame, model: str, baselines: list[str], tables: dict[str, pd.DataFrame]) -> list[str]:
    """What the salient space holds beside the best baseline, what the background keeps, and how many genes move."""
    rows = board.set_index("method")
    sentences = []
    for metric, words in JUDGED.items():
        if metric in rows and np.isfinite(rows.loc[model, metric]):
            sentences.append(_against(rows, metric, words, model, baselines))
            break
    else:
        sentences.append(
            f"salient space: control against perturbed AUC {rows.loc[model, 'salient_auc']:.2f}; with one perturbation "
            "there is nothing to probe"
        )
    sentences.append(_background(rows, model))
    if np.isfinite(rows.loc[model, "control_norm"]):
        sentences.append(
            f"salient vectors of control cells are {rows.loc[model, 'control_norm']:.2f} times as long as those of "
            "perturbed cells"
        )
    if len(de := tables.get("de", pd.DataFrame())):
        found = de.groupby("condition")["is_de"].sum()
        sentences.append(
            f"with the background removed, {int((found > 0).sum())} of {len(found)} perturbations move genes "
            f"(5 % FDR against held-out controls), a median of {found.median():.0f}"
        )
    return [f"{text[0].upper()}{text[1:]}." for text in sentences]


def _against(rows: pd.DataFrame, metric: str, words: str, model: str, baselines: list[str]) -> str:
    others = rows.loc[[name for name in baselines if np.isfinite(rows.loc[name, metric])], metric]
    mine, low, high = (rows.loc[model, f"{metric}{end}"] for end in ("", "_low", "_high"))
    text = f"{words}: {model} {mine:.3f} [{low:.3f}, {high:.3f}]"
    if others.empty:
        return text
    best = others.idxmax()
    # The intervals are of the cells, which both are asked about: beyond the other's value is a hint, not a test.
    standing = "ahead of" if low > others[best] else "behind" if high < others[best] else "level with"
    return f"{text}, {standing} the best baseline, {best} ({others[best]:.3f})"


def _background(rows: pd.DataFrame, model: str) -> str:
    linear, near = (rows.loc[model, name] for name in ("background_auc", "background_auc_knn"))
    if not np.isfinite(linear):
        return "the background cannot be judged without held-out control and perturbed cells"
    kept = max(linear, near) - 0.5 > APART  # below one half a probe of the training cells is wrong about these
    end = "still holds some of the perturbation" if kept else "does not tell perturbed cells from controls"
    return f"the background {end} (AUC {linear:.2f} linear, {near:.2f} by neighbours; .50 is chance)"
