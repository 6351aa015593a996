"""A foundation model that another run trained: it scores this run's windows, and learns nothing here."""

from exfm.artifact.storage import MANIFEST, Ref, reading, ref_to
from exfm.artifact.stores import exists, join
from exfm.errors import ConfigError
from exfm.foundation.config import FoundationConfig
from exfm.schema import Schema
from exfm.training.manifest import ModelManifest


def published_model(config: FoundationConfig, schema: Schema) -> Ref | None:
    """Return the model that a foundation model's `published` names; None: nothing is published there yet.

    `schema` is the log's.

    Raises: SchemaError for an unknown task; ConfigError if something else is published there, or if it does not fit the
    log; StorageError if it is damaged, or the store does not answer.
    """
    if not exists(join(config.published, MANIFEST)):
        return None
    ref = ref_to(config.published)
    with reading(ref) as folder:
        manifest = ModelManifest.read(folder)
    name = f"foundation model {config.name!r}, published at {ref.uri},"
    if manifest.kind != "foundation":
        raise ConfigError(
            f"{name} is vertical model {manifest.name!r}; name the folder models/NAME of a foundation model"
        )
    of_model = manifest.feature_schema
    if of_model.event_time.kind != schema.event_time.kind:
        raise ConfigError(
            f"{name} knows {of_model.event_time.kind} time, and the log has {schema.event_time.kind} time; name a "
            "model of such a log, or train one"
        )
    wrong = _other_features(of_model, schema)
    if wrong:
        raise ConfigError(
            f"{name} reads {', '.join(wrong)}, which the log's schema lacks, or has as other features; name a model of "
            "this schema, or train one"
        )
    untaught = [task for task in schema.select(tasks=config.tasks).tasks() if task not in of_model.tasks()]
    if untaught:
        raise ConfigError(
            f"{name} does not teach {', '.join(untaught)}; set `tasks` to those that it teaches: "
            f"{', '.join(of_model.tasks())}"
        )
    return ref


def _other_features(of_model: Schema, schema: Schema) -> list[str]:
    """Return the features of a model that a schema lacks, or has otherwise."""
    reads, known = (
        {feature.name: feature.to_dict() for features in (of.dense, of.sparse) for feature in features}
        for of in (of_model, schema)
    )
    return [name for name, feature in reads.items() if known.get(name) != feature]
