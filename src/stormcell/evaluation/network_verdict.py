"""What a run of a transition network found, in sentences: beside random pairs, the shuffled mask and the self edge."""

from __future__ import annotations

import numpy as np
import pandas as pd

from stormcell.evaluation.intervals import bootstrap_ci

SCORE = "r2_weighted"


def network_verdict(
    each: pd.DataFrame, board: pd.DataFrame, tables: dict[str, pd.DataFrame], names: dict[str, str]
) -> list[str]:
    """`each`: R² of every method in every transition; `names`: role → row of the scoreboard."""
    wide = each.pivot(index="transition", columns="method", values=SCORE)
    own = wide[names["model"]]
    found = [
        f"held-out R² of the barycentre, weighted by variance, median of {len(own)} transition{'s' * (len(own) > 1)}: "
        + (f"{own.median():.2f}" if own.notna().any() else "undefined, since every source cell has the same partners")
    ]
    found.append(_beside(wide, names, "random", "what the coupling adds over random pairs"))
    found.append(_beside(wide, names, "shuffled", "what the prior network adds over a shuffle of the same in-degrees"))
    found.append(_beside(wide, names, "self", "what regulators add over the self edge alone"))
    edges = tables["edges"]
    certain = edges[(edges["fdr"] <= 0.05) & (edges["sign_stability"] >= 0.95)]
    found.append(
        f"{len(certain):,} of {len(edges):,} edges have a false-discovery rate of 5 % against couplings that say "
        f"nothing and keep their sign in 95 % of the bootstrap samples; conditional and marginal sign disagree on "
        f"{edges['disagrees'].mean():.0%}"
    )
    planted = board[board["group"] == "planted network"].set_index("method")
    if len(planted):
        mine = planted.loc[names["model"]]
        known = planted["auprc_centred"].get(names["oracle"])
        rest = planted["auprc_centred"].drop([names["model"], names["oracle"]], errors="ignore").dropna()
        best = rest.idxmax()
        found.append(
            f"planted network: AUPRC {mine['auprc']:.2f} pooled and {mine['auprc_centred']:.2f} centred per transition "
            f"(chance {mine['auprc'] / mine['auprc_ratio']:.2f}), sign accuracy {mine['sign_accuracy']:.2f}; the best "
            f"other method, centred, is {best} ({rest[best]:.2f})"
            + ("" if known is None else f"; with the cells' true partners known it is {known:.2f}")
        )
    found += _stability(tables.get("stability", pd.DataFrame()))
    return found


def _stability(table: pd.DataFrame) -> list[str]:
    """What the weights hang on, most of all."""
    rows = [
        f"{row['compared']} {row['rank_correlation']:.2f} ({row['jaccard']:.2f} of the strongest {row['top']:.0f})"
        for row in table.to_dict("records")
    ]
    return ["rank correlation of the weights: " + "; ".join(rows)] if rows else []


def _beside(wide: pd.DataFrame, names: dict[str, str], role: str, what: str) -> str:
    """One difference with its interval over transitions, and whether it is one."""
    if names[role] not in wide:
        return f"{what}: not measured"
    difference = (wide[names["model"]] - wide[names[role]]).dropna().to_numpy()
    if not len(difference):
        return f"{what}: undefined"
    value = float(np.median(difference))
    text = f"{what}: {value:+.2f} R²"
    if len(difference) < 3:
        return text + f" ({wide[names[role]].median():.2f} without it)"
    low, high = bootstrap_ci(difference, np.median)
    word = "an addition" if low > 0 else "a loss" if high < 0 else "none that can be told"
    return (
        text
        + f" (95 % {low:+.2f} to {high:+.2f}, better in {int((difference > 0).sum())} of {len(difference)}): {word}"
    )
