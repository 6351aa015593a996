"""A model beside the reference lines of its own run, on the same examples."""

from pathlib import Path
from typing import Literal

from exfm.config import Config
from exfm.distill.config import Method
from exfm.metrics import Quality
from exfm.training.evaluation import over_line, read_predictions
from exfm.training.manifest import BASE_RATE, LOGISTIC, PREDICTIONS, Excess, ModelManifest

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


def lines_of(folder: Path, method: Method | Literal[""]) -> ModelLines:
    """Return what a model's folder says of it and of its reference lines.

    Raises: StorageError if predictions are missing.
    """
    manifest = ModelManifest.read(folder)
    tested = [quality.window for quality in manifest.qualities][manifest.training.warmup_windows :]
    rows = read_predictions(folder / PREDICTIONS, [window for window in manifest.windows if window.index in tested])
    tasks = {}
    for task, quality in manifest.overall.items():
        found = {line: over_line(rows, task, line=line) for line in REFERENCES}
        tasks[task] = TaskLines(quality=quality, over={line: excess for line, excess in found.items() if excess})
    return ModelLines(name=manifest.name, method=method, num_parameters=manifest.num_parameters, tasks=tasks)
