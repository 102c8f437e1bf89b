"""Stormcell: models of single-cell gene expression under perturbation, judged beside their baselines."""

__version__ = "0.1.0"
