"""The whole path: events, labels, teacher, pseudo-labels, vertical models, bundles, registry, a rehearsal, a report."""

from kfp import dsl

from exfm.environment import COMPUTE_ENVIRONMENT
from exfm_components import stages

MAX_PARALLEL = 1
"""Vertical models trained at a time: on one machine more would only share its cores."""


@dsl.pipeline(
    name="exfm-teach-distil-serve",
    description="Teach once, distil many, serve sharded: see docs/architecture.md of exfm.",
)
def teach_distil_serve(
    root: str,
    name: str,
    source: dict,
    feature_schema: dict,
    window_length: int,
    foundation: dict,
    teacher: str,
    vertical_models: list,
    bundle: dict,
    warm_start: str = "",
) -> None:
    """Run every stage in order.

    `root` is a folder or s3://bucket/prefix that all steps see; `teacher` is the foundation model's name; `warm_start`
    an earlier foundation model's URI (empty: none); the structs are the configurations of src/exfm. Nothing is cached:
    what lies behind a path can change without the path.
    """
    events = stages.ingest(root=root, source=source, feature_schema=feature_schema, window_length=window_length)
    labels = stages.make_labels(root=root, events=events.output)
    model = stages.train_foundation(
        root=root, config=foundation, events=events.output, labels=labels.output, warm_start=warm_start
    )
    pseudo = stages.make_pseudo_labels(root=root, events=events.output, foundation=model.output)
    examples = stages.join_examples(root=root, events=events.output, labels=labels.output, pseudo_labels=pseudo.output)
    with dsl.ParallelFor(vertical_models, parallelism=MAX_PARALLEL) as config:
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
    steps = (events, labels, model, pseudo, examples, vertical, sharded, registered, rehearsal, report)
    for step in steps:
        step.set_caching_options(enable_caching=False)
        for variable, value in COMPUTE_ENVIRONMENT.items():
            step.set_env_variable(variable, value)
