"""The pipeline's steps one by one, on this machine: each takes what the steps before it left under the root."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kfp import dsl

from exfm.artifact.bundle import find_bundle
from exfm.artifact.storage import ref_to
from exfm_components import layout, stages
from exfm_components.artifacts import write_ref
from exfm_components.run_config import RunConfig


def ingest(run: RunConfig) -> None:
    """Make the event log."""
    run.check(is_counted=False)
    with _scratch() as scratch:
        stages.ingest.python_func(run=run.to_dict(), root=run.root, log=dsl.Dataset(uri=f"{scratch}/log"))


def label(run: RunConfig) -> None:
    """Make the labels."""
    with _scratch() as scratch:
        stages.make_labels.python_func(
            root=run.root, events=_ref(layout.events(run.root)), labels=dsl.Dataset(uri=f"{scratch}/labels")
        )


def train_foundation(run: RunConfig) -> None:
    """Train the foundation model."""
    with _scratch() as scratch:
        stages.train_foundation.python_func(
            run=run.to_dict(),
            root=run.root,
            events=_ref(layout.events(run.root)),
            labels=_ref(layout.labels(run.root)),
            model=dsl.Model(uri=f"{scratch}/model"),
            metrics=dsl.Metrics(),
        )


def pseudo_label(run: RunConfig) -> None:
    """Make the pseudo-labels."""
    with _scratch() as scratch:
        stages.make_pseudo_labels.python_func(
            root=run.root,
            events=_ref(layout.events(run.root)),
            foundation=_ref(layout.foundation(run.root)),
            scores=dsl.Dataset(uri=f"{scratch}/scores"),
        )


def join(run: RunConfig) -> None:
    """Make the examples."""
    with _scratch() as scratch:
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
    with _scratch() as scratch:
        examples = dsl.Dataset(uri=f"{scratch}/examples")
        write_ref(ref_to(layout.examples(run.root)), examples)
        stages.train_vertical.python_func(
            run=run.to_dict(),
            root=run.root,
            vertical_model=run.vertical_model(name).to_dict(),
            examples=examples,
            model=dsl.Model(uri=f"{scratch}/model"),
            metrics=dsl.Metrics(),
        )


def make_bundle(run: RunConfig, *, name: str) -> None:
    """Make one vertical model's bundle.

    Raises: ConfigError if the run has no such model.
    """
    with _scratch() as scratch:
        stages.make_bundle.python_func(
            run=run.to_dict(),
            root=run.root,
            vertical_model=run.vertical_model(name).to_dict(),
            vertical=_ref(layout.vertical(run.root, name)),
            bundle=dsl.Model(uri=f"{scratch}/bundle"),
        )


def judge(run: RunConfig) -> str:
    """Hold all vertical models against their champions, and return the page with the verdicts."""
    return _judge(run)[1]


def register(run: RunConfig) -> str:
    """Judge all vertical models, add those with something new to the registry, and return the verdicts' page."""
    judgements, page = _judge(run)
    stages.register.python_func(root=run.root, verticals=_verticals(run), bundles=_bundles(run), judgements=judgements)
    return page


def smoke_test(run: RunConfig) -> None:
    """Serve the first vertical model and send it a request."""
    stages.smoke_test.python_func(root=run.root, bundles=_bundles(run))


def report(run: RunConfig) -> None:
    """Report what the stages left, without the registry."""
    with _scratch() as scratch:
        stages.report.python_func(
            run=run.to_dict(),
            root=run.root,
            foundation=_ref(layout.foundation(run.root)),
            verticals=_verticals(run),
            bundles=_bundles(run),
            registrations=[],
            smoke_test=layout.smoke_test(run.root),
            page=dsl.HTML(uri=f"{scratch}/page"),
        )


def _judge(run: RunConfig) -> tuple[list[dict[str, Any]], str]:
    with _scratch() as scratch:
        verdict = dsl.Markdown(uri=f"{scratch}/verdict")
        judgements = stages.judge.python_func(
            run=run.to_dict(), root=run.root, verticals=_verticals(run), verdict=verdict
        )
        return judgements, Path(verdict.path).read_text(encoding="utf-8")


def _verticals(run: RunConfig) -> list[dict[str, Any]]:
    return [_ref(layout.vertical(run.root, model.name)) for model in run.vertical_models]


def _bundles(run: RunConfig) -> list[dict[str, Any]]:
    return [_ref(find_bundle(layout.bundles(run.root, model.name))) for model in run.vertical_models]


def _ref(uri: str) -> dict[str, Any]:
    return ref_to(uri).to_dict()


@contextmanager
def _scratch() -> Iterator[str]:
    """Yield a folder for the artifacts that only Kubeflow's UI shows."""
    with tempfile.TemporaryDirectory(prefix="exfm-") as folder:
        yield folder
