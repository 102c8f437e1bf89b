"""Network parts and likelihoods: plain torch, no Lightning, no Hydra, no AnnData."""
