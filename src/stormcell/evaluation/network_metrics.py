"""The metrics of a transition network: what each asks, and what a method without knowledge would score.

Panels are the groups of the scoreboard: the held-out cells, the network that was planted in simulated cells, and a
known network that was not the mask. Equations: network.py. Sources: Pratapa et al. 2020 (BEELINE: AUPRC ratio, early
precision ratio).
"""

from __future__ import annotations

from stormcell.evaluation.glossary import Metric

CELLS, PLANTED, KNOWN = "held-out cells", "planted network", "known network"

_ALIKE = "no gene varies among the held-out cells"
_NO_SIGN = "no edge with a known sign has a predicted one"

# What a method that knows nothing scores: the mean of the target cluster, edges in random order, signs by coin.
CHANCE = {
    "r2_weighted": 0.0,
    "r2_median_gene": 0.0,
    "r2_pairs_weighted": 0.0,
    "auprc_ratio": 1.0,
    "auprc_centred_ratio": 1.0,
    "early_precision_ratio": 1.0,
    "auprc_every_pair_ratio": 1.0,
    "balanced_sign_accuracy": 0.5,
    "balanced_sign_agreement": 0.5,
    "rank_agreement": 0.0,
}


def _cells() -> list[Metric]:
    return [
        Metric(
            "r2_weighted",
            "R², weighted",
            "Share of the variance of the held-out barycentres (the mean target cell that each source cell is coupled "
            "to) that is predicted, genes weighted by their variance; median over transitions. 0: no better than the "
            "mean of the target cluster",
            "higher",
            CELLS,
            _ALIKE,
        ),
        Metric(
            "r2_median_gene", "R², median gene", "The same for the gene in the middle", "higher", CELLS, _ALIKE
        ),
        Metric(
            "r2_share_above_0",
            "genes above 0",
            "Share of the target genes whose R² is above 0: predicted better than by their mean",
            "higher",
            CELLS,
            _ALIKE,
        ),
        Metric(
            "r2_pairs_weighted",
            "R², single pairs",
            "The same as weighted R² for single target cells instead of barycentres: most of what varies between two "
            "cells is noise, so that even a perfect network stays far below 1",
            "higher",
            CELLS,
            _ALIKE,
        ),
    ]  # fmt: skip


def _planted() -> list[Metric]:
    none = "no edge is planted"
    pooled = "; cells of all states together, so that differences between states count: random pairs look good here"
    centred = "; every state's mean is taken away first, so that only what varies between cells of one state counts"
    return [
        Metric(
            "auprc_centred_ratio",
            "AUPRC ratio, centred",
            "Area under precision and recall of the planted edges ranked by absolute weight, over their share among "
            f"all pairs{centred}. 1 is chance",
            "higher", PLANTED, none,
        ),
        Metric(
            "auprc_ratio", "AUPRC ratio, pooled", f"The same{pooled}. 1 is chance", "higher", PLANTED, none
        ),
        Metric(
            "balanced_sign_accuracy",
            "sign, balanced",
            "Are planted edges given their sign? Mean of the share right among activating and among repressing edges, "
            "so that always + scores 0.5",
            "higher", PLANTED, _NO_SIGN,
        ),
        Metric(
            "early_precision_ratio",
            "early precision ratio",
            "Share of planted edges among the strongest, as many as are planted, over their share among all pairs. "
            "1 is chance",
            "higher", PLANTED, none,
        ),
        Metric(
            "signed_early_precision",
            "signed early precision",
            "Share of planted edges among the strongest, for activating and for repressing edges apart (the other "
            "ones are left out), and the mean of the two; says nothing of the predicted sign",
            "higher", PLANTED, none,
        ),
        Metric(
            "sign_accuracy",
            "sign",
            "Share of planted edges that are given their sign; where most of them activate, always + scores high",
            "higher", PLANTED, _NO_SIGN,
        ),
        Metric(
            "auprc_every_pair_ratio",
            "AUPRC ratio, every pair",
            "The centred AUPRC ratio among all ordered pairs of genes, also those that the prior network leaves out, "
            "which no method with this mask can find. 1 is chance",
            "higher", PLANTED, none,
        ),
        Metric("auprc_centred", "AUPRC, centred", f"The area itself{centred}", "higher", PLANTED, none),
        Metric("auprc", "AUPRC, pooled", f"The area itself{pooled}", "higher", PLANTED, none),
    ]  # fmt: skip


def _known() -> list[Metric]:
    return [
        Metric(
            "balanced_sign_agreement",
            "sign, balanced",
            "Do edges that both networks have carry one sign? Mean of the share among activating and among repressing "
            "edges of the known network, so that always + scores 0.5",
            "higher", KNOWN, _NO_SIGN,
        ),
        Metric(
            "sign_agreement",
            "sign",
            "Share of the edges of the known network that are given its sign; most known edges activate, so that "
            "always + scores high",
            "higher", KNOWN, _NO_SIGN,
        ),
        Metric(
            "rank_agreement",
            "rank",
            "Do the edges of the known network stand before others when all are ranked by absolute weight?",
            "higher", KNOWN, "no edge is in both networks",
        ),
    ]  # fmt: skip


NETWORK_METRICS: dict[str, Metric] = {metric.name: metric for metric in (*_cells(), *_planted(), *_known())}
