"""The components that release models: judgement, registry, smoke test, report, deployment."""

from kfp import dsl

from exfm_components.stages import component


@component
def judge(run: dict, root: str, verticals: list[dict], verdict: dsl.Output[dsl.Markdown]) -> list[dict]:
    """Compare every vertical model with its champion, on windows that the champion had not learned."""
    from exfm_components.progress import running

    with running("judge") as stage:
        from pathlib import Path

        from exfm.registry.judging import judge
        from exfm.registry.mlflow_registry import Registry
        from exfm.registry.promotion import verdict as verdict_on
        from exfm.report.verdicts import headline, to_markdown
        from exfm_components.artifacts import refs
        from exfm_components.run_config import RunConfig

        registry = Registry.at(root, create=True)
        judgements = judge(registry, refs(verticals, source="verticals"))
        rule = RunConfig.parse(run, source="run").deployment.promotion
        verdicts = [verdict_on(judgement, rule) for judgement in judgements]
        Path(verdict.path).write_text(to_markdown(verdicts), encoding="utf-8")
        stage.done(headline(verdicts))
        return [judgement.to_dict() for judgement in judgements]


@component
def register(root: str, verticals: list[dict], bundles: list[dict], judgements: list[dict]) -> list[dict]:
    """Add every vertical model that has something new to the registry, with its bundle and judgement."""
    from exfm_components.progress import running

    with running("register") as stage:
        from exfm.registry.promotion import Judgement
        from exfm.registry.registration import headline, register_all
        from exfm_components.artifacts import refs

        registrations = register_all(
            root=root,
            models=refs(verticals, source="verticals"),
            bundles=refs(bundles, source="bundles"),
            judgements=[Judgement.parse(item, source="judgements") for item in judgements],
        )
        stage.done(headline(registrations))
        return [registration.to_dict() for registration in registrations]


@component
def smoke_test(root: str, bundles: list[dict]) -> str:
    """Serve the first bundle by its shards and ranker, and send it its golden query; return the answer's URI.

    Request and answer are a file, because a struct would turn the request's ids into floats.
    """
    from exfm_components.progress import running

    with running("smoke-test") as stage:
        from exfm.artifact.manifest import json_bytes
        from exfm.artifact.stores import write_file
        from exfm.serving.smoke_test import run_smoke_test
        from exfm_components import layout
        from exfm_components.artifacts import refs

        there = refs(bundles, source="bundles")
        if not there:
            stage.done("no model has learned yet: there is nothing to serve")
            return ""
        found = run_smoke_test(there[0])
        write_file(layout.smoke_test(root), json_bytes(found.to_dict()))
        stage.done(found.headline())
        return layout.smoke_test(root)


@component
def report(
    run: dict,
    root: str,
    foundations: list[dict],
    verticals: list[dict],
    bundles: list[dict],
    registrations: list[dict],
    smoke_test: str,
    page: dsl.Output[dsl.HTML],
    comparison: str = "",
) -> None:
    """Draw the run's figures into report.html, put them into summary.json, and log those of windows in MLflow.

    Then remove windows that are not kept.

    `comparison` is a URI, or empty.
    """
    from exfm_components.progress import running

    with running("report") as stage:
        from pathlib import Path

        from exfm.artifact.manifest import parse_json
        from exfm.artifact.stores import read_file
        from exfm.das.stages import remove
        from exfm.registry.log_run import log_windows
        from exfm.registry.mlflow_registry import Registry
        from exfm.report.stage import make_report
        from exfm_components import layout
        from exfm_components.artifacts import refs
        from exfm_components.data_augmentation import das_of, work
        from exfm_components.lines import lines_of, published_models
        from exfm_components.run_config import RunConfig

        config = RunConfig.parse(run | {"root": root}, source="run")
        das = das_of(config)
        models = refs(verticals, source="verticals")
        if not models:
            Path(page.path).write_text("No vertical model has learned yet.")
            stage.done("no vertical model has learned yet: there is nothing to report")
            return
        summary = make_report(
            report=layout.report(root),
            summary=layout.summary(root),
            query=layout.query(root),
            name=config.name,
            das=das,
            source=config.source,
            foundations=refs(foundations, source="foundations"),
            published=published_models(config),
            verticals=models,
            bundles=refs(bundles, source="bundles"),
            registrations=registrations,
            smoke_test=parse_json(read_file(smoke_test), source=smoke_test),
            comparison=comparison,
        )
        Path(page.path).write_bytes(read_file(layout.report(root)))
        log_windows(Registry.at(root, create=True), das, name=config.name)
        work(remove(das, lines_of(config)), stage.report)
        stage.done(summary.headline())


@component
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

        from exfm.registry.promotion import Judgement
        from exfm.registry.registration import Registration
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
