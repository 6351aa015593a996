"""The pipeline's steps one by one, on this machine: each takes what the steps before it left under the root."""

import tempfile
from typing import Any

from kfp import dsl

from exfm.artifact.storage import ref_to
from exfm.distill.config import VerticalConfig
from exfm.errors import ConfigError
from exfm_components import layout, stages
from exfm_components.artifacts import write_ref
from exfm_pipelines.run_config import RunConfig


def ingest(run: RunConfig) -> None:
    """Make the event log."""
    arguments = run.arguments(is_counted=False)
    names = ("root", "source", "feature_schema", "window_length")
    stages.ingest.python_func(**{name: arguments[name] for name in names})


def label(run: RunConfig) -> None:
    """Make the labels."""
    stages.make_labels.python_func(root=run.root, events=_ref(layout.events(run.root)))


def train_foundation(run: RunConfig) -> None:
    """Train the foundation model."""
    stages.train_foundation.python_func(
        root=run.root,
        config=run.foundation.to_dict(),
        events=_ref(layout.events(run.root)),
        labels=_ref(layout.labels(run.root)),
        warm_start=run.warm_start,
    )


def pseudo_label(run: RunConfig) -> None:
    """Make the pseudo-labels."""
    stages.make_pseudo_labels.python_func(
        root=run.root, events=_ref(layout.events(run.root)), foundation=_ref(layout.foundation(run.root))
    )


def join(run: RunConfig) -> None:
    """Make the examples."""
    with tempfile.TemporaryDirectory(prefix="exfm-") as scratch:
        stages.join_examples.python_func(
            root=run.root,
            events=_ref(layout.events(run.root)),
            labels=_ref(layout.labels(run.root)),
            pseudo_labels=_ref(layout.pseudo_labels(run.root)),
            examples=dsl.Dataset(uri=f"{scratch}/examples"),
        )


def train_vertical(run: RunConfig, *, name: str) -> None:
    """Train one vertical model.

    Raises: ConfigError if the run has no such model.
    """
    with tempfile.TemporaryDirectory(prefix="exfm-") as scratch:
        examples = dsl.Dataset(uri=f"{scratch}/examples")
        write_ref(ref_to(layout.examples(run.root)), examples.path)
        stages.train_vertical.python_func(
            root=run.root, config=_vertical(run, name).to_dict(), teacher=run.foundation.name, examples=examples
        )


def make_bundle(run: RunConfig, *, name: str) -> None:
    """Make one vertical model's bundle.

    Raises: ConfigError if the run has no such model.
    """
    stages.make_bundle.python_func(
        root=run.root,
        config=run.bundle.to_dict(),
        vertical_model=_vertical(run, name).to_dict(),
        vertical=_ref(layout.vertical(run.root, name)),
    )


def register(run: RunConfig) -> None:
    """Add all vertical models to the registry."""
    stages.register.python_func(root=run.root, verticals=_verticals(run), bundles=_bundles(run))


def ask(run: RunConfig) -> None:
    """Serve the first vertical model and ask it."""
    stages.ask.python_func(root=run.root, bundles=_bundles(run))


def report(run: RunConfig) -> None:
    """Report what the stages left; the registry is not asked."""
    stages.report.python_func(
        root=run.root,
        name=run.name,
        foundation=_ref(layout.foundation(run.root)),
        verticals=_verticals(run),
        bundles=_bundles(run),
        registrations=[],
        rehearsal=layout.rehearsal(run.root),
    )


def _verticals(run: RunConfig) -> list[dict[str, Any]]:
    return [_ref(layout.vertical(run.root, model.name)) for model in run.vertical_models]


def _bundles(run: RunConfig) -> list[dict[str, Any]]:
    return [_ref(layout.bundle(run.root, model.name)) for model in run.vertical_models]


def _ref(uri: str) -> dict[str, Any]:
    return ref_to(uri).to_dict()


def _vertical(run: RunConfig, name: str) -> VerticalConfig:
    found = [model for model in run.vertical_models if model.name == name]
    if not found:
        names = ", ".join(model.name for model in run.vertical_models)
        raise ConfigError(f"no vertical model {name!r} in the run; there are {names}")
    return found[0]
