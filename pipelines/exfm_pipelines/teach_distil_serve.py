"""The whole path: events, labels, teacher, pseudo-labels, vertical models, bundles, registry, a rehearsal, a report."""

from typing import Any

from kfp import dsl, kubernetes

from exfm.environment import COMPUTE_ENVIRONMENT
from exfm_components import stages

CONFIG_MAP, ENDPOINTS = "exfm", ("MLFLOW_TRACKING_URI", "AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION")
"""The ConfigMap, and its keys, that a step's environment takes endpoints from."""
SECRET, CREDENTIALS = "exfm", ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
"""The Secret, and its keys, that it takes credentials from."""


def teach_distil_serve(*, max_parallel: int) -> Any:
    """Return the pipeline; `max_parallel` vertical models are trained at a time (KFP wants it when it compiles)."""

    @dsl.pipeline(
        name="exfm-teach-distil-serve",
        description="Teach once, distil many, serve sharded: see docs/architecture.md of exfm.",
    )
    def pipeline(
        root: str,
        name: str,
        source: dict,
        feature_schema: dict,
        window_length: int,
        foundation: dict,
        teacher: str,
        vertical_models: list,
        bundle: dict,
        deploy: bool = False,
        deployment: dict = {},  # noqa: B006  # KFP reads the default, and nothing changes it
        warm_start: str = "",
    ) -> None:
        """Run every stage in order; the structs are the configurations of src/exfm.

        `root` is a folder or s3://bucket/prefix that all steps see; `teacher` is the foundation model's name;
        `warm_start` an earlier foundation model's URI (empty: none). With `deploy`, versions that pass against their
        champions are rolled out in the cluster that the pipeline runs in, as `deployment` says. Nothing is cached:
        what lies behind a path can change without the path. Endpoints and credentials come from the namespace (see
        docs/architecture.md).
        """
        events = stages.ingest(root=root, source=source, feature_schema=feature_schema, window_length=window_length)
        labels = stages.make_labels(root=root, events=events.output)
        model = stages.train_foundation(
            root=root, config=foundation, events=events.output, labels=labels.output, warm_start=warm_start
        )
        pseudo = stages.make_pseudo_labels(root=root, events=events.output, foundation=model.output)
        examples = stages.join_examples(
            root=root, events=events.output, labels=labels.output, pseudo_labels=pseudo.output
        )
        with dsl.ParallelFor(vertical_models, parallelism=max_parallel) as config:
            vertical = stages.train_vertical(
                root=root, config=config, teacher=teacher, examples=examples.outputs["examples"]
            )
            sharded = stages.make_bundle(root=root, config=bundle, vertical_model=config, vertical=vertical.output)
        registered = stages.register(
            root=root, verticals=dsl.Collected(vertical.output), bundles=dsl.Collected(sharded.output)
        )
        rehearsal = stages.ask(root=root, bundles=dsl.Collected(sharded.output))
        report = stages.report(
            root=root,
            name=name,
            foundation=model.output,
            verticals=dsl.Collected(vertical.output),
            bundles=dsl.Collected(sharded.output),
            registrations=registered.output,
            rehearsal=rehearsal.output,
        )
        with dsl.If(deploy == True):  # noqa: E712  # KFP compiles the comparison
            deployed = stages.deploy(
                root=root,
                registrations=registered.output,
                bundles=dsl.Collected(sharded.output),
                config=deployment,
            ).after(report)
        for step in (
            events, labels, model, pseudo, examples, vertical, sharded, registered, rehearsal, report, deployed
        ):  # fmt: skip
            _prepare(step)

    return pipeline


def _prepare(step: dsl.PipelineTask) -> None:
    step.set_caching_options(enable_caching=False)
    for variable, value in COMPUTE_ENVIRONMENT.items():
        step.set_env_variable(variable, value)
    # Optional: without them a step has the environment of its image.
    kubernetes.use_config_map_as_env(step, CONFIG_MAP, {name: name for name in ENDPOINTS}, optional=True)
    kubernetes.use_secret_as_env(step, SECRET, {name: name for name in CREDENTIALS}, optional=True)
