"""What MLflow keeps of a vertical model with its bundle: metrics, parameters, signature and commit."""

import os
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
from mlflow.entities import Metric
from mlflow.models import Model, ModelSignature
from mlflow.types import Schema as TensorSchema
from mlflow.types import TensorSpec

from exfm.artifact.bundle import GOLDEN_REQUEST, BundleManifest
from exfm.features.oip import NUMPY_TYPES
from exfm.features.request import input_specs
from exfm.training.manifest import ModelManifest

ARTIFACT = "bundle"
"""The name of a version's bundle among its run's artifacts."""

OVERALL = "overall."
"""Prefix of the metrics over all windows together."""


def metrics_of(trained: ModelManifest) -> list[Metric]:
    """Return the qualities of each window, with its index as the step, and of all together."""
    now_ms = int(time.time() * 1000)
    steps = [("", "", window.window, window.tasks) for window in trained.qualities]
    overall = [(OVERALL, "", 0, trained.overall)]
    references = [(OVERALL, f".{line}", 0, tasks) for line, tasks in trained.references.items()]
    return [
        Metric(f"{prefix}{task}.{figure}{source}", value, now_ms, step)
        for prefix, source, step, tasks in [*steps, *overall, *references]
        for task, quality in tasks.items()
        for figure in ("normalized_entropy", "auc", "calibration")
        if (value := getattr(quality, figure)) is not None
    ]


def params_of(trained: ModelManifest) -> dict[str, Any]:
    """Return a model's settings and size."""
    return {
        "model": trained.model.to_dict(),
        "training": trained.training.to_dict(),
        "num_parameters": trained.num_parameters,
        "teachers": ", ".join(trained.teachers),
    }


def write_mlmodel(folder: Path, manifest: BundleManifest, *, run_id: str) -> None:
    """Write the file from which MLflow reads a bundle's inputs and outputs."""
    inputs = [
        TensorSpec(np.dtype(NUMPY_TYPES[spec.datatype]), (-1,), spec.name)
        for spec in input_specs(manifest.feature_schema)
        if spec.required
    ]
    outputs = [TensorSpec(np.dtype(np.float32), (-1,), task) for task in manifest.tasks]
    model = Model(
        artifact_path=ARTIFACT,
        run_id=run_id,
        signature=ModelSignature(inputs=TensorSchema(inputs), outputs=TensorSchema(outputs)),
        saved_input_example_info={"artifact_path": GOLDEN_REQUEST, "type": "json_object"},
    )
    model.add_flavor("exfm", format_version=manifest.format_version, bundle_id=manifest.bundle_id)
    model.save(str(folder / "MLmodel"))


def git_commit() -> str:
    """Return the commit of the working folder, or EXFM_GIT_COMMIT, set where there is no checkout (in a pod)."""
    if commit := os.environ.get("EXFM_GIT_COMMIT", ""):
        return commit
    try:
        found = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return "unknown"
    return found.stdout.strip() or "unknown"
