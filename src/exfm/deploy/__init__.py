"""Bundles as InferenceServices: what a deployed version is, and how a cluster is brought to it."""
