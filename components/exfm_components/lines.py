"""A run's models, which learn from its tables, and what a step leaves of one."""

from typing import Any

from exfm.artifact.storage import Ref, reading, ref_to
from exfm.das.closing import LogState
from exfm.das.log_tables import Das
from exfm.das.publishing import publish_learned
from exfm.das.scoring import FoundationModel
from exfm.distill.config import VerticalConfig
from exfm.distill.line import vertical_line
from exfm.foundation.config import FoundationConfig
from exfm.foundation.line import foundation_line
from exfm.foundation.published import published_model
from exfm.training.line import Line
from exfm.training.manifest import ModelManifest
from exfm_components.artifacts import log_qualities, write_empty, write_ref
from exfm_components.run_config import RunConfig


def foundation_models(run: RunConfig) -> dict[str, FoundationModel]:
    """Return the run's foundation models by name: to be trained, or published; None: not published yet."""
    return {model.name: foundation_model(run, model) for model in run.foundation_models}


def foundation_model(run: RunConfig, model: FoundationConfig) -> FoundationModel:
    """Return one of them.

    Raises: ConfigError if a published one does not fit the run's schema; StorageError if it cannot be read.
    """
    return (published_model if model.published else foundation_line)(model, run.feature_schema)


def vertical_model(run: RunConfig, model: VerticalConfig) -> Line:
    """Return one of the run's vertical models."""
    return vertical_line(model, run.feature_schema, teachers=run.teachers_of(model))


def vertical_models(run: RunConfig) -> list[Line]:
    """Return the run's vertical models."""
    return [vertical_model(run, model) for model in run.vertical_models]


def lines_of(run: RunConfig) -> list[Line]:
    """Return all models that the run trains."""
    trained = [foundation_line(model, run.feature_schema) for model in run.foundation_models if not model.published]
    return trained + vertical_models(run)


def published_models(run: RunConfig) -> dict[str, Ref]:
    """Return the run's foundation models that other runs train, as they are now; without those not published yet."""
    found = {model.name: foundation_model(run, model) for model in run.foundation_models if model.published}
    return {name: ref for name, ref in found.items() if isinstance(ref, Ref)}


def write_model(das: Das, line: Line, *, model: Any, metrics: Any) -> tuple[dict[str, Any], str]:
    """Publish a model, and write its artifacts: where it is, and its qualities over all counted windows.

    Return what the steps after it take, and a line about it. A model that has learned nothing is {} to them.
    """
    ref = publish_learned(das, line)
    if ref is None:
        write_empty(model)
        return {}, f"{line.name} has learned nothing yet: it waits for a window of its examples to be closed"
    with reading(ref) as folder:
        manifest = ModelManifest.read(folder)
    write_ref(ref, model, name=manifest.name, parameters=manifest.num_parameters, windows=len(manifest.qualities))
    log_qualities(metrics, manifest.overall, source="")
    for reference, qualities in manifest.references.items():
        log_qualities(metrics, qualities, source=f" {reference.replace('_', ' ')}")
    return ref.to_dict(), manifest.headline()


def write_published(das: Das, config: FoundationConfig, ref: Ref | None, *, num_done: int, model: Any) -> str:
    """Write the artifact of a published foundation model, where one is, and return a line about it.

    `num_done` is how many windows got its pseudo-labels now, or went without.
    """
    num_waiting = len(LogState.of(das).due_scores(config.name))
    if ref is None:
        write_empty(model)
        return (
            f"{config.name}: nothing is published at {config.published} yet: {num_done} windows now go without "
            f"pseudo-labels, {num_waiting} wait"
        )
    ref = ref_to(config.published)  # its run may have published it again while windows were scored
    with reading(ref) as folder:
        manifest = ModelManifest.read(folder)
    write_ref(ref, model, name=config.name, parameters=manifest.num_parameters)
    return (
        f"{config.name}: learns nothing here; scored {num_done} windows now, {num_waiting} wait for its next snapshot; "
        f"{ref.uri} has learned up to {das.time_text(das.ticks(manifest.learned_until))}"
    )
