"""Kubeflow Pipelines components, one a stage: each turns parameters into values and calls the stage in exfm."""
