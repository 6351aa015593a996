"""What a step leaves for Kubeflow's UI: references as artifacts, and figures as metrics."""

from pathlib import Path
from typing import Any

from exfm.artifact.manifest import read_json, write_json
from exfm.artifact.storage import Ref
from exfm.metrics import Quality
from exfm.training.manifest import ModelManifest

FIGURES = {"normalized_entropy": "NE", "auc": "AUC", "calibration": "calibration"}
"""Name on the screen of each field of a quality."""


def write_ref(ref: Ref, artifact: Any, **facts: str | int | float) -> None:
    """Write a reference into a KFP artifact's file, and into its metadata, with facts for people."""
    Path(artifact.path).parent.mkdir(parents=True, exist_ok=True)
    write_json(Path(artifact.path), ref.to_dict())
    artifact.metadata |= {"folder": ref.uri, "digest": ref.digest} | facts


def read_ref(path: str) -> Ref:
    """Return the reference in an artifact's file."""
    return Ref.parse(read_json(Path(path)), source=path)


def write_model(manifest: ModelManifest, ref: Ref, *, model: Any, metrics: Any) -> None:
    """Write a trained model's artifacts: where it is, and its qualities over all counted windows."""
    write_ref(ref, model, name=manifest.name, parameters=manifest.num_parameters, windows=len(manifest.qualities))
    _log(metrics, manifest.overall, source="")
    for line, qualities in manifest.references.items():
        _log(metrics, qualities, source=f" {line.replace('_', ' ')}")


def _log(metrics: Any, qualities: dict[str, Quality], *, source: str) -> None:
    for task, quality in qualities.items():
        for field, figure in FIGURES.items():
            value = getattr(quality, field)
            if value is not None:
                metrics.log_metric(f"{task} {figure}{source}", round(value, 5))
