"""What a step leaves for Kubeflow's UI: references as artifacts, and figures as metrics."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from exfm.artifact.manifest import write_json
from exfm.artifact.storage import Ref
from exfm.das.log_tables import Das
from exfm.metrics.quality import FIGURES, Quality


def write_ref(ref: Ref, artifact: Any, **facts: str | int | float) -> None:
    """Write a reference into a KFP artifact's file, and into its metadata, with facts for people."""
    Path(artifact.path).parent.mkdir(parents=True, exist_ok=True)
    write_json(Path(artifact.path), ref.to_dict())
    artifact.metadata |= {"folder": ref.uri, "digest": ref.digest} | facts


def write_table(das: Das, name: str, artifact: Any) -> None:
    """Write which version of a table there is now into a KFP artifact's file, and into its metadata."""
    table = das.table(name, {})
    state = table.state()
    num_rows, version = state.num_rows(state.files), {"table": table.uri, "version": state.version}
    Path(artifact.path).parent.mkdir(parents=True, exist_ok=True)
    write_json(Path(artifact.path), version)
    artifact.metadata |= version | {"rows": num_rows, "windows": len(state.files)}


def write_empty(artifact: Any) -> None:
    """Write the artifact of a model that has learned nothing."""
    Path(artifact.path).parent.mkdir(parents=True, exist_ok=True)
    write_json(Path(artifact.path), {})


def refs(items: Sequence[Mapping[str, Any]], *, source: str) -> list[Ref]:
    """Return the references that steps gave, without those of models that have learned nothing."""
    return [Ref.parse(item, source=source) for item in items if item]


def log_qualities(metrics: Any, qualities: Mapping[str, Quality], *, source: str) -> None:
    """Log the figures of each task, whose names end with `source`."""
    for task, quality in qualities.items():
        for field, figure in FIGURES.items():
            value = getattr(quality, field)
            if value is not None:
                metrics.log_metric(f"{task} {figure}{source}", round(value, 5))
