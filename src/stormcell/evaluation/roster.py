"""The baselines by key: what each is called on the scoreboard, and what it says. baselines.py has the equations."""

from __future__ import annotations

MEANINGS = {  # key of model=baseline model.method=… -> label, what it predicts
    "no_change": ("no change", "the control mean"),
    "proportional": (
        "proportional to expression",
        "the multiple of the control mean nearest to the mean training shift",
    ),
    "training_mean": (
        "training mean",
        "control mean plus the mean shift of the training perturbations, each of weight 1",
    ),
    "clipped_mean": ("training mean, clipped", "the same, negative values set to zero"),
    "pool": ("pool of perturbed cells", "all perturbed training cells together, each of weight 1"),
    "own_mean": ("own training mean", "training cells of the same perturbation, where it was seen"),
    "covariate_mean": ("covariate mean", "mean shift of the perturbations seen in the query's own context"),
    "most_similar_covariate": (
        "most similar covariate",
        "shift of the same perturbation in the context whose controls are most alike",
    ),
    "additive": (
        "additive",
        "sum of the shifts of the targets alone; a target not seen alone counts as the training mean",
    ),
    "matching_mean": ("matching mean", "mean of the same shifts"),
    "nearest": (
        "nearest perturbation",
        "shift of the other training perturbation whose vector is most alike; ties averaged",
    ),
    "knn": ("k-NN on embedding", "mean shift of the up to five perturbations whose vectors are most alike"),
    "ridge": ("ridge on embedding", "ridge regression of the shifts on the vectors, its penalty by leaving one out"),
    "lgem": ("LGEM, K = 10, ridge 0.1", "linear gene expression model on the vectors, two ridge solves"),
    "lgem_multi_hot": ("LGEM, multi-hot", "the same on a column for each target"),
}
LABELS = {key: label for key, (label, _) in MEANINGS.items()}
CONTEXTUAL = ("covariate_mean", "most_similar_covariate")  # only where the split tells contexts apart
MULTI_HOT = ("lgem_multi_hot",)  # only where it is not the embedding itself
