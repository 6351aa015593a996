"""Vertical models: small, each for some domains, taught by labels and by a foundation model's pseudo-labels."""
