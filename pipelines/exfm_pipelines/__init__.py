"""Kubeflow pipelines: only they know the order of exfm's stages."""
