"""The components: each runs one stage of exfm and returns a reference to its output ({uri, digest}).

KFP copies a component's source into the pipeline, so each imports what it needs inside; it only turns parameters
into values, calls the stage and says what came out. Configurations are structs, so that a UI can set them.
"""

import os

from kfp import dsl

IMAGE = os.environ.get("EXFM_IMAGE", "exfm-pipelines:0.1.0")
"""What the components run in on a cluster; read when pipelines are compiled."""


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def ingest(root: str, source: dict, feature_schema: dict, window_length: int) -> dict:
    """Cut a source's impressions and feedback into the windows of an event log."""
    from exfm.artifact.storage import ref_to
    from exfm.events.sources import SourceConfig
    from exfm.events.stage import ingest
    from exfm.schema import Schema
    from exfm_components import layout
    from exfm_components.progress import running

    with running("ingest") as stage:
        manifest = ingest(
            SourceConfig.parse({"source": source}, source="source").source,
            schema=Schema.parse(feature_schema, source="feature_schema"),
            window_length=window_length,
            out=layout.events(root),
        )
        stage.done(manifest.headline())
        return ref_to(layout.events(root)).to_dict()


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def make_labels(root: str, events: dict) -> dict:
    """Attribute feedback to impressions."""
    from exfm.artifact.storage import Ref, ref_to
    from exfm.das.labels import make_labels
    from exfm_components import layout
    from exfm_components.progress import running

    with running("label") as stage:
        manifest = make_labels(Ref.parse(events, source="events"), out=layout.labels(root))
        stage.done(manifest.headline())
        return ref_to(layout.labels(root)).to_dict()


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def train_foundation(root: str, config: dict, events: dict, labels: dict, warm_start: str = "") -> dict:
    """Train the foundation model on all domains' stream; `warm_start` is an earlier one's URI, empty for none."""
    from exfm.artifact.storage import Ref, ref_to
    from exfm.foundation.config import FoundationConfig
    from exfm.foundation.stage import train_foundation
    from exfm_components import layout
    from exfm_components.progress import running

    with running("train-fm") as stage:
        manifest = train_foundation(
            FoundationConfig.parse(config, source="foundation"),
            events=Ref.parse(events, source="events"),
            labels=Ref.parse(labels, source="labels"),
            out=layout.foundation(root),
            warm_start=ref_to(warm_start) if warm_start else None,
            on_window=lambda quality: stage.window(quality.window),
        )
        stage.done(manifest.headline())
        return ref_to(layout.foundation(root)).to_dict()


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def make_pseudo_labels(root: str, events: dict, foundation: dict) -> dict:
    """Score each impression once, by a foundation model old enough."""
    from exfm.artifact.storage import Ref, ref_to
    from exfm.das.pseudo_labels import make_pseudo_labels
    from exfm_components import layout
    from exfm_components.progress import running

    with running("pseudo-label") as stage:
        manifest = make_pseudo_labels(
            events=Ref.parse(events, source="events"),
            foundation=Ref.parse(foundation, source="foundation"),
            out=layout.pseudo_labels(root),
        )
        stage.done(manifest.headline())
        return ref_to(layout.pseudo_labels(root)).to_dict()


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def join_examples(
    root: str, events: dict, labels: dict, pseudo_labels: dict, examples: dsl.Output[dsl.Dataset]
) -> None:
    """Join features, labels and pseudo-labels into one dataset.

    Its reference is an artifact: KFP 2.17's local runner hands an iteration's item to every *parameter* that a loop
    takes from a task outside of it.
    """
    from exfm.artifact.storage import Ref, ref_to
    from exfm.das.join import join_examples
    from exfm_components import layout
    from exfm_components.artifacts import write_ref
    from exfm_components.progress import running

    with running("join") as stage:
        manifest = join_examples(
            events=Ref.parse(events, source="events"),
            labels=Ref.parse(labels, source="labels"),
            pseudo_labels=Ref.parse(pseudo_labels, source="pseudo_labels"),
            out=layout.examples(root),
        )
        stage.done(manifest.headline())
        write_ref(ref_to(layout.examples(root)), examples.path)


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def train_vertical(root: str, config: dict, teacher: str, examples: dsl.Input[dsl.Dataset]) -> dict:
    """Train one vertical model with the teacher's pseudo-labels."""
    from exfm.artifact.storage import ref_to
    from exfm.distill.config import VerticalConfig
    from exfm.distill.stage import train_vertical
    from exfm_components import layout
    from exfm_components.artifacts import read_ref
    from exfm_components.progress import running

    vertical = VerticalConfig.parse(config, source="vertical_models")
    with running(f"train-vm {vertical.name}") as stage:
        manifest = train_vertical(
            vertical,
            teacher=teacher,
            examples=read_ref(examples.path),
            out=layout.vertical(root, vertical.name),
            on_window=lambda quality: stage.window(quality.window),
        )
        stage.done(manifest.headline())
        return ref_to(layout.vertical(root, vertical.name)).to_dict()


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def make_bundle(root: str, config: dict, vertical_model: dict, vertical: dict) -> dict:
    """Plan one vertical model's shards and write its bundle."""
    from exfm.artifact.storage import Ref, ref_to
    from exfm.distill.config import VerticalConfig
    from exfm.sharding.config import BundleConfig
    from exfm.sharding.stage import headline, make_bundle
    from exfm_components import layout
    from exfm_components.progress import running

    name = VerticalConfig.parse(vertical_model, source="vertical_models").name
    with running(f"bundle {name}") as stage:
        manifest = make_bundle(
            BundleConfig.parse(config, source="bundle"),
            vertical=Ref.parse(vertical, source="vertical"),
            out=layout.bundle(root, name),
        )
        stage.done(headline(manifest))
        return ref_to(layout.bundle(root, name)).to_dict()


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def register(root: str, verticals: list, bundles: list) -> list:
    """Add every vertical model to the registry, with its bundle."""
    from exfm.artifact.storage import Ref
    from exfm.registry.mlflow_registry import headline, register_all
    from exfm_components.progress import running

    with running("register") as stage:
        registrations = register_all(
            root=root,
            models=[Ref.parse(item, source="verticals") for item in verticals],
            bundles=[Ref.parse(item, source="bundles") for item in bundles],
        )
        stage.done(headline(registrations))
        return [registration.to_dict() for registration in registrations]


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def ask(root: str, bundles: list) -> str:
    """Serve the first bundle by its shards and ranker, and ask it its golden query; return the answer's URI.

    Request and answer are a file, because a struct would turn the request's ids into floats.
    """
    from exfm.artifact.manifest import json_bytes
    from exfm.artifact.storage import Ref, write_file
    from exfm.serving.rehearsal import rehearse
    from exfm_components import layout
    from exfm_components.progress import running

    with running("ask") as stage:
        rehearsal = rehearse(Ref.parse(bundles[0], source="bundles"))
        write_file(layout.rehearsal(root), json_bytes(rehearsal.to_dict()))
        stage.done(rehearsal.headline())
        return layout.rehearsal(root)


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def report(
    root: str, name: str, foundation: dict, verticals: list, bundles: list, registrations: list, rehearsal: str
) -> None:
    """Draw the run's figures into report.html, and put them into summary.json."""
    import json

    from exfm.artifact.storage import Ref, read_file
    from exfm.report.stage import make_report
    from exfm_components import layout
    from exfm_components.progress import running

    with running("report") as stage:
        summary = make_report(
            report=layout.report(root),
            summary=layout.summary(root),
            query=layout.query(root),
            name=name,
            foundation=Ref.parse(foundation, source="foundation"),
            verticals=[Ref.parse(item, source="verticals") for item in verticals],
            bundles=[Ref.parse(item, source="bundles") for item in bundles],
            registrations=registrations,
            rehearsal=json.loads(read_file(rehearsal)),
        )
        stage.done(summary.headline())


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def deploy(root: str, registrations: list, bundles: list, config: dict) -> str:
    """Roll out every vertical model that passes against its champion; an empty configuration asks for none."""
    from exfm.artifact.storage import Ref
    from exfm.registry.mlflow_registry import Registration
    from exfm_components.deployment import deploy_models
    from exfm_components.deployment_config import DeploymentConfig
    from exfm_components.progress import running

    with running("deploy") as stage:
        text = deploy_models(
            root=root,
            registrations=[Registration.parse(item, source="registrations") for item in registrations],
            bundles=[Ref.parse(item, source="bundles") for item in bundles],
            config=DeploymentConfig.parse(config, source="deployment"),
            say=stage.say,
        )
        stage.done(text)
        return text
