"""What every metric of the scoreboard asks, its best value, what fools it, and when it has no value.

Panels: the mean profile, discrimination (is the prediction nearer to its own perturbation than to others?),
differential expression, the distribution of cells, and the interaction of pairs.
"""

from __future__ import annotations

from dataclasses import dataclass

JACCARD_SIZES = 25, 50, 100
MEAN, DISCRIMINATION, DE, DISTRIBUTION, INTERACTIONS = (
    "mean profile",
    "discrimination",
    "differential expression",
    "distribution",
    "interactions",
)


@dataclass(frozen=True)
class Metric:
    """One column of the scoreboard."""

    name: str
    label: str
    meaning: str
    direction: str  # "higher", "lower", or "target": the best value is `best`
    panel: str
    undefined: str = ""  # why an answer may have no value; "" where every finite answer has one
    best: float | None = None  # of a target
    optional: bool = False  # not asked of every file: left out of the scoreboard where no query asks for it

    @property
    def zero(self) -> bool:
        """Does an answer without a value score 0? One that is the same in every gene agrees with nothing: if it were
        left out, silence on hard queries would raise a median."""
        return self.name.startswith(("shift_correlation", "cosine_logfc", "jaccard", "de_spearman", "interaction_corr"))


def mean_profile() -> list[Metric]:
    alike, few = "a shift that is the same in every gene", "too few training cells or cells of the query"
    return [
        *_correlations("", "", alike),
        *_correlations(
            "_rest",
            ", without the dominating genes",
            alike + ", or no gene is left",
            "the same without the genes that hold 80 % of the squared training shifts, which nearly alone decide the "
            "correlation over all genes; the training mean wins it where effects are alike",
        ),
        Metric(
            "cosine_logfc",
            "cosine logFC",
            "cosine over genes of the log2 fold changes of the mean profiles against control; the training mean wins "
            "it where effects are alike",
            "higher",
            MEAN,
            "no gene changes on one of the sides",
        ),
        *(
            Metric(
                f"jaccard_{k}",
                f"Jaccard@{k}",
                f"overlap of the {k} genes of largest |shift|, common / union; chance is {k} / (2 · genes − {k}), "
                "and a shift proportional to expression wins it on sparse panels",
                "higher",
                MEAN,
                alike,
            )
            for k in JACCARD_SIZES
        ),
        Metric(
            "jaccard_signed_50",
            "signed Jaccard@50",
            "the same of 50 genes with their signs: a gene that moves the other way is not common; a shift "
            "proportional to expression wins it on sparse panels where most genes move one way",
            "higher",
            MEAN,
            alike,
        ),
        Metric("l2", "L2", "Euclidean distance of predicted and true mean profile over all genes", "lower", MEAN),
        Metric(
            "l2_top1000", "L2, top 1,000 genes", "the same over the 1,000 genes of highest control mean", "lower", MEAN
        ),
        Metric("mse", "MSE", "mean over genes of the squared difference of the mean profiles", "lower", MEAN),
        Metric("rmse", "RMSE", "its root, in units of expression", "lower", MEAN),
        Metric("mae", "MAE", "mean over genes of the absolute difference of the mean profiles", "lower", MEAN),
        Metric(
            "weighted_mse",
            "weighted MSE",
            "squared difference, each gene weighted by how far this perturbation differs from the training ones in it",
            "lower",
            MEAN,
            few,
        ),
        Metric(
            "weighted_r2",
            "weighted R²",
            "1 − weighted squared error / that of the training mean, so that the training mean scores 0",
            "higher",
            MEAN,
            few,
        ),
    ]


def _correlations(suffix: str, words: str, alike: str, same: str = "") -> list[Metric]:
    """Shift correlation against four references; `same` replaces what is already said of the first."""
    reference = "the shift is that reference itself, or the same in every gene"
    against = same or (
        "Pearson r over genes of predicted and true shift; the true shift is taken against control cells that no "
        "method has seen; the training mean wins it where effects are alike"
    )
    return [
        Metric(f"shift_correlation{suffix}", f"shift r{words}", against, "higher", MEAN, alike),
        Metric(
            f"shift_correlation_shared{suffix}",
            f"shift r{words}, shared controls (flattering)",
            "the same with both shifts against the training controls: the noise of their mean is in both shifts and "
            "makes them agree even where nothing happened",
            "higher",
            MEAN,
            alike,
        ),
        Metric(
            f"shift_correlation_mean{suffix}",
            f"shift r beyond the mean{words}",
            "the same after the mean training shift is taken off both sides; no change wins it where effects are "
            "weaker than the average one",
            "higher",
            MEAN,
            reference,
        ),
        Metric(
            f"shift_correlation_covariate{suffix}",
            f"shift r beyond the covariate mean{words}",
            "the same after the mean training shift within the query's own context is taken off; no change wins it "
            "where effects are weaker than the average one",
            "higher",
            MEAN,
            reference + ", or its context has no training perturbation",
            optional=True,
        ),
    ]


def discrimination() -> list[Metric]:
    alone = "no other query of its group and context is there to be told apart"
    targets = "; the genes that either perturbation targets are left out, a constant prediction scores 0.5 on average"
    return [
        Metric(
            "rank",
            "rank",
            "share of the predictions for other perturbations that lie nearer to the truth than its own prediction, "
            "Euclidean distance of mean profiles; 0.5 is chance and what a constant prediction has",
            "lower",
            DISCRIMINATION,
            alone,
        ),
        Metric(
            "rank_of_truth",
            "rank of the truth",
            "share of the other truths that lie nearer to the prediction than its own truth; 0.5 is chance",
            "lower",
            DISCRIMINATION,
            alone,
        ),
        Metric(
            "pds",
            "perturbation discrimination",
            "share of the other truths that lie farther from the prediction than its own truth, L1 distance of signed "
            "shifts" + targets,
            "higher",
            DISCRIMINATION,
            alone,
        ),
        Metric(
            "pds_cosine",
            "perturbation discrimination, cosine",
            "the same by the angle between the shifts" + targets,
            "higher",
            DISCRIMINATION,
            alone,
        ),
        Metric(
            "centroid_accuracy",
            "centroid accuracy",
            "share of the other truths of the group that lie farther from the prediction than its own truth, Euclidean "
            "distance over all genes: 1 − rank of the truth",
            "higher",
            DISCRIMINATION,
            alone,
        ),
    ]


def differential_expression() -> list[Metric]:
    none = "fewer than 2 cells on a side, cells that are not finite, or no gene that changes significantly in the truth"
    large = "of largest predicted fold change"
    asked = {
        "de_overlap": (
            "DE overlap",
            "N genes are differentially expressed (DE) in the true cells against control, by a rank-sum test at a "
            f"false discovery rate of 5 %; of the N genes {large}, the share that are",
        ),
        "de_precision_50": ("DE precision@50", f"of the 50 genes {large}, the share that are DE; N / 50 at most"),
        "de_recall": (
            "DE recall",
            "share of the DE genes that are also DE in the predicted cells; cells in which every gene differs from "
            "control win it",
        ),
        "de_direction": ("DE direction", "share of the DE genes that are predicted to move the right way"),
        "de_spearman": ("DE Spearman", "Spearman correlation of true and predicted fold change over the DE genes"),
        "de_pr_auc": (
            "DE PR-AUC",
            "average precision of the DE genes when genes are ranked by predicted p value; control cells moved by a "
            "shift make every moved gene significant, which this does not forgive",
        ),
    }
    more = {"de_spearman": ", or the same fold change in all of them", "de_pr_auc": ", or every gene changes"}
    return [
        Metric(name, label, meaning, "higher", DE, none + more.get(name, ""))
        for name, (label, meaning) in asked.items()
    ]


def distribution() -> list[Metric]:
    few = "fewer than 2 cells on a side, or cells that are not finite"
    where = "on principal components of the training cells, at most 200 cells a side"
    return [
        Metric(
            "energy_distance",
            "energy distance",
            f"distance of predicted and true cells as distributions, U statistic {where}; around 0 where they agree, "
            "so slightly negative values occur",
            "lower",
            DISTRIBUTION,
            few,
        ),
        Metric(
            "mmd",
            "MMD²",
            f"squared maximum mean discrepancy, Gaussian kernels of half, one and two median distances, {where}; "
            "around 0 where the distributions agree",
            "lower",
            DISTRIBUTION,
            few + ", or true cells that are all alike",
        ),
        Metric(
            "sliced_wasserstein",
            "sliced Wasserstein",
            f"2-Wasserstein distance, root mean square over 100 directions, {where}",
            "lower",
            DISTRIBUTION,
            few,
        ),
        Metric(
            "wasserstein",
            "Wasserstein",
            f"exact 2-Wasserstein distance {where}; above 0 even between two samples of the same cells",
            "lower",
            DISTRIBUTION,
            few,
        ),
        Metric(
            "variance_ratio",
            "variance ratio",
            "predicted / true variance between cells, median over detected genes; 0: all predicted cells are alike",
            "target",
            DISTRIBUTION,
            few + ", or no detected gene that varies",
            best=1,
        ),
        *(
            Metric(
                f"coverage_{level}",
                f"coverage of the {level} % interval",
                f"share of true values of detected genes within the central {level} % of the predicted cells; shared "
                "zeros count as covered, so right cells may cover more",
                "target",
                DISTRIBUTION,
                few + ", or no detected gene",
                best=level / 100,
            )
            for level in (50, 90)
        ),
    ]


def interactions() -> list[Metric]:
    return [
        Metric(
            "interaction_correlation",
            "interaction r",
            "pairs: Pearson r over genes of what is left of the shifts when the sum of the measured single shifts is "
            "taken off; the noise of the singles is in both sides, so compare with the split halves",
            "higher",
            INTERACTIONS,
            "the prediction is the sum of the singles itself",
            optional=True,
        ),
        Metric(
            "interaction_magnitude_error",
            "interaction magnitude error",
            "pairs: |predicted − true| strength of the pair in units of its singles, sqrt(a² + b²) of the fit pair = "
            "a · first + b · second, least squares over the 100 genes that the singles change most",
            "lower",
            INTERACTIONS,
            "a shift of zero, or singles that are proportional",
            optional=True,
        ),
    ]
