"""A model beside the reference lines of its own run, on the same examples."""

from typing import Literal

from exfm.config import Config
from exfm.distill.config import Method
from exfm.metrics.quality import Quality
from exfm.training.evaluation import over_line, predictions_of
from exfm.training.manifest import BASE_RATE, LOGISTIC, Excess, ModelManifest

REFERENCES = (BASE_RATE, LOGISTIC)
"""Names of the reference lines, from the simplest."""


class TaskLines(Config):
    """One task of a model, after the warm-up."""

    quality: Quality
    over: dict[str, Excess]
    """Normalized entropy less that of each reference line, by its name."""


class ModelLines(Config):
    """A trained model."""

    name: str
    method: Method | Literal[""]
    """Empty: a foundation model."""
    num_parameters: int
    tasks: dict[str, TaskLines]


def lines_of(manifest: ModelManifest, method: Method | Literal[""]) -> ModelLines:
    """Return what is known of a model and of its reference lines.

    Raises: StorageError if predictions are missing.
    """
    rows = predictions_of(manifest, manifest.windows[manifest.training.warmup_windows :])
    tasks = {}
    for task, quality in manifest.overall.items():
        found = {line: over_line(rows, task, line=line) for line in REFERENCES}
        tasks[task] = TaskLines(quality=quality, over={line: excess for line, excess in found.items() if excess})
    return ModelLines(name=manifest.name, method=method, num_parameters=manifest.num_parameters, tasks=tasks)
