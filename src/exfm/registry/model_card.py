"""What MLflow keeps of a model: metrics, parameters and commit, and of a bundle its signature."""

import json
import os
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlflow.entities import Dataset, DatasetInput, InputTag, Metric
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, DataType
from mlflow.types import Schema as ColumnSchema
from mlflow.types.schema import AnyType
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT

from exfm.artifact.bundle import GOLDEN_REQUEST, BundleManifest
from exfm.metrics.quality import FIGURES
from exfm.registry.promotion import number
from exfm.schema import time_text
from exfm.tables.reference import TableRef
from exfm.training.manifest import ModelManifest

PYFUNC, LOADER = "python_function", "exfm.registry.pyfunc"
"""MLflow's name of models for DataFrames, whose own module takes seconds to import, and the module that loads a bundle
as one."""

ARTIFACT = "bundle"
"""The name of a version's bundle among its run's artifacts."""

WINDOWS = "windows/"
"""Prefix of the metrics of windows; those over all windows together have none, so that people see these first."""

TRAINING = "training"
"""The context in which MLflow shows the tables that a model learned from."""


def metrics_of(trained: ModelManifest) -> list[Metric]:
    """Return the qualities over all windows together, and of each window, at its end and with its index as the step."""
    now_ms = int(time.time() * 1000)
    ends_ms = {window.index: _time_ms(window.end, trained, otherwise=now_ms) for window in trained.windows}
    windows = [(WINDOWS, "", one.window, ends_ms[one.window], one.tasks) for one in trained.qualities]
    overall = [("", "", 0, now_ms, trained.overall)]
    references = [("", f".{line}", 0, now_ms, tasks) for line, tasks in trained.references.items()]
    return [
        Metric(f"{prefix}{task}.{figure}{source}", value, at_ms, step)
        for prefix, source, step, at_ms, tasks in [*windows, *overall, *references]
        for task, quality in tasks.items()
        for figure in FIGURES
        if (value := getattr(quality, figure)) is not None
    ]


def datasets_of(trained: ModelManifest, tables: Mapping[str, TableRef]) -> list[DatasetInput]:
    """Return the versions of tables that a model learned from and is measured by, as MLflow's datasets."""
    span = {"windows": len(trained.windows), "from": _text(trained, first=True), "until": _text(trained, first=False)}
    return [
        DatasetInput(
            Dataset(
                name=name,
                digest=f"version {ref.version}",
                source_type="delta",
                source=json.dumps(ref.to_dict()),
                profile=json.dumps(span),
            ),
            tags=[InputTag(MLFLOW_DATASET_CONTEXT, TRAINING)],
        )
        for name, ref in tables.items()
    ]


def description_of(trained: ModelManifest) -> str:
    """Return what people read of a version first, in Markdown: its figures beside those of the reference lines."""
    lines = {trained.name: trained.overall} | trained.references
    heads = ["task", "model", *FIGURES.values()]
    rows = [
        [task, line.replace("_", " "), *(number(getattr(quality, figure)) for figure in FIGURES)]
        for task in trained.overall
        for line, tasks in lines.items()
        if (quality := tasks.get(task)) is not None
    ]
    table = "\n".join(f"| {' | '.join(row)} |" for row in [heads, ["---", "---", *["--:"] * len(FIGURES)], *rows])
    taught = f", taught by {', '.join(trained.teachers)}" if trained.teachers else ""
    domains = f" of {', '.join(trained.domains)}" if trained.domains else ""
    warnings = "".join(f"**{warning}.**\n\n" for warning in trained.warnings())
    return (
        f"{trained.num_parameters:,} parameters{taught}. Learned examples{domains} up to "
        f"{_text(trained, first=False)}. Figures are of predictions before learning, on {len(trained.counted)} windows "
        f"after the warm-up.\n\n{warnings}{table}\n"
    )


def params_of(trained: ModelManifest) -> dict[str, Any]:
    """Return a model's settings and size."""
    return {
        "model": trained.model.to_dict(),
        "training": trained.training.to_dict(),
        "num_parameters": trained.num_parameters,
        "teachers": ", ".join(trained.teachers),
    }


def write_mlmodel(folder: Path, manifest: BundleManifest, *, run_id: str) -> None:
    """Write the file from which MLflow reads a bundle's inputs and outputs, and how to load it for DataFrames.

    The inputs have no types: MLflow would refuse integers for a number, which exfm takes.
    """
    schema = manifest.feature_schema
    inputs = [ColSpec(AnyType(), name) for name in schema.feature_names()]
    outputs = [ColSpec(DataType.float, task) for task in manifest.tasks]
    model = Model(
        artifact_path=ARTIFACT,
        run_id=run_id,
        signature=ModelSignature(inputs=ColumnSchema(inputs), outputs=ColumnSchema(outputs)),
        saved_input_example_info={"artifact_path": GOLDEN_REQUEST, "type": "json_object"},
    )
    model.add_flavor("exfm", format_version=manifest.format_version, bundle_id=manifest.bundle_id)
    model.add_flavor(PYFUNC, loader_module=LOADER)
    model.save(str(folder / "MLmodel"))


def _text(trained: ModelManifest, *, first: bool) -> str:
    """Return the start of the first window, or the end of the last one that was learned, as people write it."""
    time = trained.windows[0].start if first else trained.learned_until
    return time_text(time, kind=trained.feature_schema.event_time.kind)


def _time_ms(time: int, trained: ModelManifest, *, otherwise: int) -> int:
    """Return an event time in milliseconds since 1970; ordinal time has none."""
    return otherwise if trained.feature_schema.event_time.kind == "ordinal" else time * 1000


def git_commit() -> str:
    """Return the commit of the working folder, or EXFM_GIT_COMMIT, set where there is no checkout (in a pod)."""
    if commit := os.environ.get("EXFM_GIT_COMMIT", ""):
        return commit
    try:
        found = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return "unknown"
    return found.stdout.strip() or "unknown"
