"""The settings of one run of the pipeline, a YAML file."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Self, TypeVar

from pydantic import Field, model_validator

from exfm.artifact.stores import is_local, resolve_path
from exfm.bundling.config import BundleConfig
from exfm.bundling.fit import check_bundle
from exfm.config import Config, like, read_yaml
from exfm.das.config import DasConfig
from exfm.distill.config import VerticalConfig
from exfm.errors import ConfigError
from exfm.evaluation.config import ComparisonConfig, Methods
from exfm.events.sources import Source, places_of, resolve
from exfm.foundation.config import FoundationConfig
from exfm.planning.counted import Counted
from exfm.planning.statistics import statistics_of_schema
from exfm.schema import Schema
from exfm_components.deployment_config import DeploymentConfig
from exfm_components.platform import PlatformConfig


class RunConfig(Config):
    """A run: its data, its models, and where its outputs go. Relative paths start at the file's own folder."""

    removed: ClassVar[Mapping[str, str]] = {
        "foundation": "set foundation_models, a list, such as `foundation_models: [{name: fm}]`",
        "warm_start": "a model goes on from its last state below the root; leave it out",
    }

    name: Annotated[
        str,
        like("[a-z][-a-z0-9]{0,39}", "a lower-case letter, then such, digits and dashes; at most 40 in all"),
    ]
    """Name in titles: lower-case letters, digits and dashes, 40 at most."""
    root: str
    """Where outputs go: a folder, or s3://bucket/prefix."""
    feature_schema: Schema
    """Schema of the log, or the path of its YAML file."""
    source: Source
    """Where the events come from."""
    window_length: Annotated[int, Field(ge=1)]
    """Event time from one window to the next: seconds, or steps of ordinal time; at least 1."""
    das: DasConfig = DasConfig()
    """Data augmentation system: when windows are complete and closed, what is kept, and bounds."""
    foundation_models: Annotated[tuple[FoundationConfig, ...], Field(min_length=1)] = (FoundationConfig(),)
    """Foundation models (FMs), one at least, with names of their own; not given: one FM `fm` with all defaults."""
    vertical_models: Annotated[tuple[VerticalConfig, ...], Field(min_length=1)]
    """Vertical models (VMs), one at least, with names of their own."""
    bundle: BundleConfig = BundleConfig()
    compare: Methods = ()
    """Methods by which the step `compare` trains each vertical model, one seed each, with the model's own weight and
    learning rate; `label` is one of them. The report has what they gain. Empty: there is no such step."""
    comparison: ComparisonConfig = ComparisonConfig()
    """How `exfm distill compare` compares methods of a finished run: tuned alike, several seeds."""
    deploy: bool = False
    """Whether the last step rolls out the models that pass against their champions."""
    deployment: DeploymentConfig = DeploymentConfig()
    platform: PlatformConfig = PlatformConfig()
    """How the steps run on a Kubeflow cluster."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        for kind, models in (("foundation", self.foundation_models), ("vertical", self.vertical_models)):
            twice = [name for name, count in Counter(model.name for model in models).items() if count > 1]
            if twice:
                raise ValueError(f"{kind} model {', '.join(twice)} is named more than once; rename all but one")
        both = {model.name for model in self.foundation_models} & {model.name for model in self.vertical_models}
        if both:
            raise ValueError(
                f"{', '.join(sorted(both))} is a foundation model and a vertical model; give one of them another name"
            )
        columns = (self.feature_schema.domain, *self.feature_schema.feature_names())
        unknown = [name for name in self.das.bounds.max_drift if name not in columns]
        if unknown:
            raise ValueError(
                f"das.bounds.max_drift names {', '.join(unknown)}, expected the domain's column or features: "
                f"{', '.join(columns)}"
            )
        return self

    def check(self, *, is_counted: bool = True) -> None:
        """Check, before anything runs, what would otherwise fail late; no model is planned.

        `is_counted`: whether the statistics that `bundle` names exist; those of the run's own models do not before they
        are trained.

        Raises: SchemaError if the schema lacks a model's feature; ConfigError if a vertical model has no teacher for
        its tasks, one twice, or one that the run lacks, or if a model's tables do not suit its network's interaction;
        PlanError if a model's tables do not fit the shards, or a named plan or named statistics are for another model;
        StorageError if a file cannot be read.
        """
        schema = self.feature_schema
        for foundation in self.foundation_models:
            _part(schema, foundation, f"foundation model {foundation.name!r}")
        for model in self.vertical_models:
            own = _part(schema, model, f"vertical model {model.name!r}")
            if not own.feature_names(["item"]):
                raise ConfigError(
                    f"vertical model {model.name!r} has no feature of net `item`, so it has no items to rank; add one"
                )
            served, settings = own.widen(model.model.dim_factor), self.bundle.of_model(model.name)
            if settings.table_statistics and is_counted:
                statistics = Counted.read(settings.table_statistics).statistics
            else:
                statistics = statistics_of_schema(served, candidates_mean=settings.candidates_mean)
            check_bundle(settings, served, statistics)
            self._check_teachers(model)

    def teachers_of(self, model: VerticalConfig) -> tuple[str, ...]:
        """Return the foundation models that teach a vertical model: those that it names, or all that have its tasks."""
        return model.teachers or tuple(
            foundation.name for foundation in self.foundation_models if not self._untaught(model, foundation)
        )

    def _untaught(self, model: VerticalConfig, foundation: FoundationConfig) -> str:
        """Return the tasks of a vertical model that a foundation model does not teach."""
        tasks, taught = (self.feature_schema.select(tasks=one.tasks).tasks() for one in (model, foundation))
        return ", ".join(task for task in tasks if task not in taught)

    def _check_teachers(self, model: VerticalConfig) -> None:
        trained = {foundation.name: foundation for foundation in self.foundation_models}
        twice = [name for name, count in Counter(model.teachers).items() if count > 1]
        if twice:
            raise ConfigError(
                f"vertical model {model.name!r} has teacher {', '.join(twice)} more than once; leave one of them"
            )
        unknown = [name for name in model.teachers if name not in trained]
        if unknown:
            raise ConfigError(
                f"vertical model {model.name!r} has teacher {', '.join(unknown)}, but the run's foundation models are "
                f"{', '.join(trained)}; correct `teachers`, or leave it out"
            )
        for name in model.teachers:
            untaught = self._untaught(model, trained[name])
            if untaught:
                raise ConfigError(
                    f"vertical model {model.name!r} has task {untaught}, which its teacher {name!r} does not teach; "
                    f"add it to the `tasks` of {name!r}, or leave it out"
                )
        if not self.teachers_of(model) and (model.distillation.method != "label" or self.compare):
            lacks = "; ".join(f"{name!r} does not teach {self._untaught(model, fm)}" for name, fm in trained.items())
            raise ConfigError(
                f"vertical model {model.name!r} has no foundation model that teaches all its tasks: {lacks}; add to "
                "the `tasks` of a foundation model, or leave tasks out of the vertical model"
            )

    def step_comparison(self) -> ComparisonConfig:
        """Return how the step `compare` compares the methods of `compare`.

        Raises: ConfigError if there are none.
        """
        settings = {"methods": self.compare, "num_seeds": 1, "weights": (), "learning_rates": ()}
        return ComparisonConfig.parse(settings | {"num_bootstrap_samples": 200}, source="compare")

    def require_registry(self) -> None:
        """Return if the registry's place is known.

        Raises: ConfigError if the root is remote, and the environment names no MLflow server.
        """
        if not is_local(self.root) and "MLFLOW_TRACKING_URI" not in os.environ:
            raise ConfigError(
                f"root {self.root} is remote; set MLFLOW_TRACKING_URI to an MLflow server for the registry"
            )

    def local_places(self) -> list[str]:
        """Return the settings that name places on this machine, which pods cannot read."""
        published = {f"published of {model.name!r}": model.published for model in self.foundation_models}
        places = {"root": self.root, **places_of(self.source), **published, **self.bundle.places()}
        places["deployment.replay.log"] = self.deployment.replay.log
        return [f"{key} {place}" for key, place in places.items() if place and is_local(place)]

    def vertical_model(self, name: str) -> VerticalConfig:
        """Return a vertical model's settings.

        Raises: ConfigError if the run has none of that name.
        """
        return _named(name, self.vertical_models, kind="vertical")

    def foundation_model(self, name: str) -> FoundationConfig:
        """Return a foundation model's settings.

        Raises: ConfigError if the run has none of that name.
        """
        return _named(name, self.foundation_models, kind="foundation")


M = TypeVar("M", FoundationConfig, VerticalConfig)


def _named(name: str, models: Sequence[M], *, kind: str) -> M:
    found = [model for model in models if model.name == name]
    if not found:
        names = ", ".join(model.name for model in models)
        raise ConfigError(f"no {kind} model {name!r} in the run; there are {names}")
    return found[0]


def _part(schema: Schema, model: FoundationConfig | VerticalConfig, name: str) -> Schema:
    try:
        part = schema.select(features=model.features, tasks=model.tasks)
        model.model.network.require_dims(part)
    except ConfigError as error:
        raise type(error)(f"{name}: {error}") from error
    return part


def read_run_config(path: Path, *, root: str = "") -> RunConfig:
    """Return the run in a YAML file, with its schema and with paths made absolute.

    `root`, where given, replaces the file's.

    Raises: ConfigError, which names every wrong key; SchemaError if the schema is wrong.
    """
    base = path.parent.resolve()
    written = read_yaml(path)
    if isinstance(written, Mapping) and isinstance(written.get("feature_schema"), str):
        schema = Schema.read(base / written["feature_schema"])
        written = {**written, "feature_schema": schema.to_dict()}
    config = RunConfig.parse(written, source=str(path))
    return config.model_copy(
        update={
            "root": resolve_path(root, base=Path.cwd()) if root else resolve_path(config.root, base=base),
            "source": resolve(config.source, base=base),
            "foundation_models": tuple(model.resolved(base) for model in config.foundation_models),
            "bundle": config.bundle.resolved(base),
            "deployment": config.deployment.resolved(base),
        }
    )
