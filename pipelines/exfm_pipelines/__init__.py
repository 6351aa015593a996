"""Kubeflow pipelines: they alone know the order of exfm's stages."""
