"""The components that make examples: check of the run, events, labels, pseudo-labels, join.

KFP 2.17's local runner hands an iteration's item to every *parameter* that a loop takes from a task outside of it, so
references that loops take are artifacts. It loops over what a task returns only, not over one of several outputs.
"""

from kfp import dsl

from exfm_components.stages import component


@component
def check(run: dict, root: str, deploy: bool) -> list[dict]:
    """Find out whether a run can work before it begins; return the foundation models' settings, for their loop."""
    from exfm_components.progress import running

    with running("check") as stage:
        from exfm_components.preflight import check_run
        from exfm_components.run_config import RunConfig

        config = RunConfig.parse(run | {"root": root, "deploy": deploy}, source="run")
        stage.done(check_run(config))
        return [model.to_dict() for model in config.foundation_models]


@component
def ingest(run: dict, root: str, log: dsl.Output[dsl.Dataset]) -> dict:
    """Cut a source's impressions and feedback into the windows of an event log."""
    from exfm_components.progress import running

    with running("ingest") as stage:
        from exfm.artifact.storage import ref_to
        from exfm.events.stage import ingest
        from exfm_components import layout
        from exfm_components.artifacts import write_ref
        from exfm_components.run_config import RunConfig

        config = RunConfig.parse(run, source="run")
        manifest = ingest(
            config.source,
            schema=config.feature_schema,
            window_length=config.window_length,
            out=layout.events(root),
            domains={model.name: model.domains for model in config.vertical_models},
        )
        ref = ref_to(layout.events(root))
        write_ref(ref, log, windows=len(manifest.windows), impressions=manifest.num_impressions)
        stage.done(manifest.headline())
        return ref.to_dict()


@component
def make_labels(root: str, events: dict, labels: dsl.Output[dsl.Dataset]) -> dict:
    """Attribute feedback to impressions."""
    from exfm_components.progress import running

    with running("label") as stage:
        from exfm.artifact.storage import Ref, ref_to
        from exfm.das.labels import make_labels
        from exfm_components import layout
        from exfm_components.artifacts import write_ref

        manifest = make_labels(Ref.parse(events, source="events"), out=layout.labels(root))
        ref = ref_to(layout.labels(root))
        write_ref(ref, labels, impressions=manifest.num_impressions, not_yet_known=manifest.num_immature)
        stage.done(manifest.headline())
        return ref.to_dict()


@component
def make_pseudo_labels(
    root: str,
    foundation_model: dict,
    foundation: dict,
    log: dsl.Input[dsl.Dataset],
    scores: dsl.Output[dsl.Dataset],
) -> dict:
    """Score each impression once, by a foundation model's snapshot that is old enough."""
    from exfm.foundation.config import FoundationConfig
    from exfm_components.progress import running

    name = FoundationConfig.parse(foundation_model, source="foundation_model").name
    with running(f"pseudo-label {name}") as stage:
        from exfm.artifact.storage import Ref, ref_to
        from exfm.das.pseudo_labels import make_pseudo_labels
        from exfm_components import layout
        from exfm_components.artifacts import read_ref, write_ref

        manifest = make_pseudo_labels(
            events=read_ref(log.path),
            foundation=Ref.parse(foundation, source="foundation"),
            out=layout.pseudo_labels(root, name),
            on_window=stage.walked,
        )
        ref = ref_to(layout.pseudo_labels(root, name))
        write_ref(ref, scores, scored=manifest.num_scored, unscored=manifest.num_unscored)
        stage.done(manifest.headline())
        return ref.to_dict()


@component
def join_examples(
    run: dict, root: str, events: dict, labels: dict, pseudo_labels: list[dict], examples: dsl.Output[dsl.Dataset]
) -> list[dict]:
    """Join features, labels and pseudo-labels into one dataset; return the vertical models' settings, for a loop."""
    from exfm_components.progress import running

    with running("join") as stage:
        from exfm.artifact.storage import Ref, ref_to
        from exfm.das.join import join_examples
        from exfm_components import layout
        from exfm_components.artifacts import write_ref
        from exfm_components.run_config import RunConfig

        manifest = join_examples(
            events=Ref.parse(events, source="events"),
            labels=Ref.parse(labels, source="labels"),
            pseudo_labels=[Ref.parse(item, source="pseudo_labels") for item in pseudo_labels],
            out=layout.examples(root),
        )
        write_ref(
            ref_to(layout.examples(root)), examples, windows=len(manifest.windows), examples=manifest.num_examples
        )
        stage.done(manifest.headline())
        return [model.to_dict() for model in RunConfig.parse(run, source="run").vertical_models]
