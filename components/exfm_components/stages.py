"""The components: each runs one stage of exfm, and returns a reference to its output ({uri, digest}).

KFP copies a component's source into the pipeline, so each imports what it needs inside; it only turns parameters
into values, calls the stage and says what came out. `run` is a whole exfm_components.run_config.RunConfig, so that a
UI can set it; `root` takes the place of the run's own.
"""

from importlib.metadata import version

from kfp import dsl

IMAGE = f"exfm-pipelines:{version('exfm')}"
"""What the components run in on a cluster, where no image is named."""


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def check(run: dict, root: str, deploy: bool) -> list[dict]:
    """Find out whether a run can work before it begins; return the vertical models' settings, for the loop."""
    from exfm_components.progress import running

    with running("check") as stage:
        from exfm_components.preflight import check_run
        from exfm_components.run_config import RunConfig

        config = RunConfig.parse(run | {"root": root, "deploy": deploy}, source="run")
        stage.done(check_run(config))
        return [model.to_dict() for model in config.vertical_models]


@dsl.component(base_image=IMAGE, install_kfp_package=False)
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


@dsl.component(base_image=IMAGE, install_kfp_package=False)
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


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def train_foundation(
    run: dict, root: str, events: dict, labels: dict, model: dsl.Output[dsl.Model], metrics: dsl.Output[dsl.Metrics]
) -> dict:
    """Train the foundation model on all domains' stream."""
    from exfm_components.progress import running

    with running("train-fm") as stage:
        from exfm.artifact.storage import Ref, ref_to
        from exfm.foundation.stage import train_foundation
        from exfm_components import layout
        from exfm_components.artifacts import write_model
        from exfm_components.run_config import RunConfig

        config = RunConfig.parse(run, source="run")
        manifest = train_foundation(
            config.foundation,
            events=Ref.parse(events, source="events"),
            labels=Ref.parse(labels, source="labels"),
            out=layout.foundation(root),
            warm_start=ref_to(config.warm_start) if config.warm_start else None,
            on_window=stage.walked,
        )
        ref = ref_to(layout.foundation(root))
        write_model(manifest, ref, model=model, metrics=metrics)
        stage.done(manifest.headline())
        return ref.to_dict()


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def make_pseudo_labels(root: str, events: dict, foundation: dict, scores: dsl.Output[dsl.Dataset]) -> dict:
    """Score each impression once, by a foundation model old enough."""
    from exfm_components.progress import running

    with running("pseudo-label") as stage:
        from exfm.artifact.storage import Ref, ref_to
        from exfm.das.pseudo_labels import make_pseudo_labels
        from exfm_components import layout
        from exfm_components.artifacts import write_ref

        manifest = make_pseudo_labels(
            events=Ref.parse(events, source="events"),
            foundation=Ref.parse(foundation, source="foundation"),
            out=layout.pseudo_labels(root),
            on_window=stage.walked,
        )
        ref = ref_to(layout.pseudo_labels(root))
        write_ref(ref, scores, scored=manifest.num_scored, unscored=manifest.num_unscored)
        stage.done(manifest.headline())
        return ref.to_dict()


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def join_examples(
    root: str, events: dict, labels: dict, pseudo_labels: dict, examples: dsl.Output[dsl.Dataset]
) -> None:
    """Join features, labels and pseudo-labels into one dataset.

    Its reference is an artifact: KFP 2.17's local runner hands an iteration's item to every *parameter* that a loop
    takes from a task outside of it.
    """
    from exfm_components.progress import running

    with running("join") as stage:
        from exfm.artifact.storage import Ref, ref_to
        from exfm.das.join import join_examples
        from exfm_components import layout
        from exfm_components.artifacts import write_ref

        manifest = join_examples(
            events=Ref.parse(events, source="events"),
            labels=Ref.parse(labels, source="labels"),
            pseudo_labels=Ref.parse(pseudo_labels, source="pseudo_labels"),
            out=layout.examples(root),
        )
        write_ref(
            ref_to(layout.examples(root)), examples, windows=len(manifest.windows), examples=manifest.num_examples
        )
        stage.done(manifest.headline())


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def train_vertical(
    run: dict,
    root: str,
    vertical_model: dict,
    examples: dsl.Input[dsl.Dataset],
    model: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
) -> dict:
    """Train one vertical model with the teacher's pseudo-labels."""
    from exfm.distill.config import VerticalConfig
    from exfm_components.progress import running

    vertical = VerticalConfig.parse(vertical_model, source="vertical_model")
    with running(f"train-vm {vertical.name}") as stage:
        from exfm.artifact.storage import ref_to
        from exfm.distill.stage import train_vertical
        from exfm_components import layout
        from exfm_components.artifacts import read_ref, write_model
        from exfm_components.run_config import RunConfig

        manifest = train_vertical(
            vertical,
            teacher=RunConfig.parse(run, source="run").foundation.name,
            examples=read_ref(examples.path),
            out=layout.vertical(root, vertical.name),
            on_window=stage.walked,
        )
        ref = ref_to(layout.vertical(root, vertical.name))
        write_model(manifest, ref, model=model, metrics=metrics)
        stage.done(manifest.headline())
        return ref.to_dict()


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def make_bundle(run: dict, root: str, vertical_model: dict, vertical: dict, bundle: dsl.Output[dsl.Model]) -> dict:
    """Plan one vertical model's shards and write its bundle, below its id."""
    from exfm.distill.config import VerticalConfig
    from exfm_components.progress import running

    name = VerticalConfig.parse(vertical_model, source="vertical_model").name
    with running(f"bundle {name}") as stage:
        from exfm.artifact.storage import Ref, ref_to
        from exfm.bundling.stage import headline, make_bundle
        from exfm_components import layout
        from exfm_components.artifacts import write_ref
        from exfm_components.run_config import RunConfig

        manifest = make_bundle(
            RunConfig.parse(run, source="run").bundle,
            vertical=Ref.parse(vertical, source="vertical"),
            out=layout.bundles(root, name),
        )
        ref = ref_to(layout.bundle(root, name, manifest.bundle_id))
        write_ref(ref, bundle, name=name, shards=manifest.plan.num_shards)
        stage.done(headline(manifest))
        return ref.to_dict()


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def judge(run: dict, root: str, verticals: list[dict], verdict: dsl.Output[dsl.Markdown]) -> list[dict]:
    """Hold every vertical model against its champion, on windows that the champion had not learned."""
    from exfm_components.progress import running

    with running("judge") as stage:
        from pathlib import Path

        from exfm.artifact.storage import Ref
        from exfm.registry.judging import judge_all
        from exfm.registry.promotion import verdict as verdict_on
        from exfm.report.verdicts import headline, to_markdown
        from exfm_components.run_config import RunConfig

        judgements = judge_all(root=root, models=[Ref.parse(item, source="verticals") for item in verticals])
        rule = RunConfig.parse(run, source="run").deployment.promotion
        verdicts = [verdict_on(judgement, rule) for judgement in judgements]
        Path(verdict.path).write_text(to_markdown(verdicts), encoding="utf-8")
        stage.done(headline(verdicts))
        return [judgement.to_dict() for judgement in judgements]


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def register(root: str, verticals: list[dict], bundles: list[dict], judgements: list[dict]) -> list[dict]:
    """Add every vertical model that has something new to the registry, with its bundle and judgement."""
    from exfm_components.progress import running

    with running("register") as stage:
        from exfm.artifact.storage import Ref
        from exfm.registry.mlflow_registry import headline, register_all
        from exfm.registry.promotion import Judgement

        registrations = register_all(
            root=root,
            models=[Ref.parse(item, source="verticals") for item in verticals],
            bundles=[Ref.parse(item, source="bundles") for item in bundles],
            judgements=[Judgement.parse(item, source="judgements") for item in judgements],
        )
        stage.done(headline(registrations))
        return [registration.to_dict() for registration in registrations]


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def smoke_test(root: str, bundles: list[dict]) -> str:
    """Serve the first bundle by its shards and ranker, and send it its golden query; return the answer's URI.

    Request and answer are a file, because a struct would turn the request's ids into floats.
    """
    from exfm_components.progress import running

    with running("smoke-test") as stage:
        from exfm.artifact.manifest import json_bytes
        from exfm.artifact.storage import Ref, write_file
        from exfm.serving.smoke_test import run_smoke_test
        from exfm_components import layout

        found = run_smoke_test(Ref.parse(bundles[0], source="bundles"))
        write_file(layout.smoke_test(root), json_bytes(found.to_dict()))
        stage.done(found.headline())
        return layout.smoke_test(root)


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def report(
    run: dict,
    root: str,
    foundation: dict,
    verticals: list[dict],
    bundles: list[dict],
    registrations: list[dict],
    smoke_test: str,
    page: dsl.Output[dsl.HTML],
) -> None:
    """Draw the run's figures into report.html, and put them into summary.json."""
    from exfm_components.progress import running

    with running("report") as stage:
        import json
        from pathlib import Path

        from exfm.artifact.storage import Ref, read_file
        from exfm.report.stage import make_report
        from exfm_components import layout
        from exfm_components.run_config import RunConfig

        summary = make_report(
            report=layout.report(root),
            summary=layout.summary(root),
            query=layout.query(root),
            name=RunConfig.parse(run, source="run").name,
            foundation=Ref.parse(foundation, source="foundation"),
            verticals=[Ref.parse(item, source="verticals") for item in verticals],
            bundles=[Ref.parse(item, source="bundles") for item in bundles],
            registrations=registrations,
            smoke_test=json.loads(read_file(smoke_test)),
        )
        Path(page.path).write_bytes(read_file(layout.report(root)))
        stage.done(summary.headline())


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def deploy(
    run: dict,
    root: str,
    registrations: list[dict],
    judgements: list[dict],
    outcome: dsl.Output[dsl.Markdown],
    deployed: dsl.Output[dsl.Metrics],
) -> None:
    """Roll out every vertical model that passes against its champion."""
    from exfm_components.progress import running

    with running("deploy") as stage:
        from pathlib import Path

        from exfm.registry.mlflow_registry import Registration
        from exfm.registry.promotion import Judgement
        from exfm_components.deployment import Candidate, deploy_models, require_deployed, to_markdown
        from exfm_components.run_config import RunConfig

        results = deploy_models(
            [
                Candidate(
                    Registration.parse(registration, source="registrations"),
                    Judgement.parse(judgement, source="judgements"),
                )
                for registration, judgement in zip(registrations, judgements, strict=True)
            ],
            root=root,
            config=RunConfig.parse(run, source="run").deployment,
            report=stage.report,
        )
        Path(outcome.path).write_text(to_markdown(results), encoding="utf-8")
        for result in results:
            deployed.log_metric(f"{result.name} {result.outcome}", result.version)
        require_deployed(results)
        stage.done(", ".join(map(str, results)))
