"""The metrics of two latent spaces: what each asks, which value is right, what chance gives.

Panels: what the salient space should hold (the perturbation), what it should not (nuisances), and the same of the
background. Equations: weighted.py and probes.py; which cells and labels each is asked on: latent.py.
"""

from __future__ import annotations

from stormcell.evaluation.glossary import Metric

SALIENT, LEAK, BACKGROUND = "perturbation in the salient space", "leaks into the salient space", "background space"

_BATCH, _PHASE, _TYPE = "fewer than two batches", "fewer than two cell-cycle phases", "fewer than two cell types"
_ONE = "fewer than two perturbations"
_ALONE = "one perturbation and no control cells"


def _metrics() -> list[Metric]:
    return [*_salient(), *_leaks(), *_background(), *_pinned_and_mixed()]


def _salient() -> list[Metric]:
    return [
        Metric(
            "probe",
            "perturbation probe",
            "Which perturbation does a perturbed cell carry, by multinomial logistic regression on its salient "
            "vector? Balanced accuracy: every perturbation counts the same",
            "higher",
            SALIENT,
            _ONE,
        ),
        Metric(
            "ari",
            "ARI",
            "Do clusters of the salient space (k-means, one for each perturbation) agree with the perturbations? "
            "0 is chance; perturbations with one phenotype lower it, see the merged one. Of a single perturbation: two "
            "clusters of all cells against control or perturbed",
            "higher",
            SALIENT,
            _ALONE,
        ),
        Metric(
            "ari_merged",
            "ARI, phenotypes merged",
            "The same where perturbations with one phenotype are one label, and as many clusters as labels",
            "higher",
            SALIENT,
            "no perturbations are named as one phenotype",
        ),
        Metric(
            "nmi",
            "NMI",
            "How much do these clusters tell about the perturbation? Normalised mutual information; above 0 by chance",
            "higher",
            SALIENT,
            _ALONE,
        ),
        Metric(
            "silhouette",
            "silhouette",
            "Are perturbed cells nearer to those of their own perturbation than to the nearest other, −1 to 1?",
            "higher",
            SALIENT,
            _ONE,
        ),
        Metric(
            "salient_auc",
            "control against perturbed, salient",
            "Does the salient vector tell perturbed cells from control cells (AUC of logistic regression)?",
            "higher",
            SALIENT,
            "control or perturbed cells are missing",
        ),
    ]


def _leaks() -> list[Metric]:
    return [
        Metric(
            f"{name}_leak",
            f"{words} in salient",
            f"Does the salient vector of perturbed cells betray their {words}? Balanced accuracy; chance is 1 / labels",
            "lower",
            LEAK,
            missing,
        )
        for name, words, missing in (("batch", "batch", _BATCH), ("phase", "cell-cycle phase", _PHASE))
    ] + [
        Metric(
            "library_leak",
            "library in salient",
            "How much of log library size does ridge regression on the salient vector explain (R²)? 0 is none",
            "lower",
            LEAK,
            "no library sizes",
        )
    ]


def _background() -> list[Metric]:
    both = "control or perturbed cells are missing"
    return [
        Metric(
            "background_auc",
            "control against perturbed, background",
            "Does the background vector tell perturbed cells from control cells (AUC of logistic regression)?",
            "target",
            BACKGROUND,
            both,
            best=0.5,
        ),
        Metric(
            "background_auc_knn",
            "control against perturbed, background, by neighbours",
            "Does the share of perturbed cells among the 15 nearest training cells tell them apart (AUC)? Sees what is "
            "not linear",
            "target",
            BACKGROUND,
            both,
            best=0.5,
        ),
        Metric(
            "background_probe",
            "perturbation in background",
            "Which perturbation does a perturbed cell carry, from its background vector? Chance is 1 / perturbations",
            "lower",
            BACKGROUND,
            _ONE,
        ),
        *(
            Metric(
                f"background_{name}",
                f"{words} in background",
                f"Does the background vector tell the {words}? Balanced accuracy; chance is 1 / labels",
                direction,
                BACKGROUND,
                missing,
            )
            for name, words, direction, missing in (
                ("phase", "cell-cycle phase", "higher", _PHASE),
                ("cell_type", "cell type", "higher", _TYPE),
                ("batch", "batch", "lower", _BATCH),
            )
        ),
    ]


def _pinned_and_mixed() -> list[Metric]:
    return [
        Metric(
            "control_norm",
            "control norm",
            "How long is the salient vector of control cells against that of perturbed cells? 1 is as long",
            "lower",
            SALIENT,
            "control or perturbed cells are missing, or the salient space is zero",
        ),
        Metric(
            "mixing",
            "mixing, background",
            "Are control and perturbed cells mixed among 50 neighbours in the background? 0 apart, 1 as if at random",
            "target",
            BACKGROUND,
            "control or perturbed cells are missing",
            best=1.0,
        ),
        Metric(
            "mixing_batch",
            "mixing of batches, salient",
            "Are batches of perturbed cells mixed among 50 neighbours in the salient space? 0 apart, 1 as if at random",
            "target",
            LEAK,
            _BATCH,
            best=1.0,
        ),
    ]


LATENT_METRICS: dict[str, Metric] = {metric.name: metric for metric in _metrics()}
