"""The component deploy."""

from kfp import dsl

from exfm_components.stages import component


@component
def deploy(
    run: dict,
    root: str,
    registrations: list[dict],
    judgements: list[dict],
    outcome: dsl.Output[dsl.Markdown],
    deployed: dsl.Output[dsl.Metrics],
) -> None:
    """Roll out every vertical model that passes against its champion.

    It fails if a rollout fails.

    Args:
        run: All settings of the run: its file as JSON, with the schema in it.
        root: Where all outputs lie, a folder or s3://BUCKET/PREFIX; replaces the run's own.
        registrations: What became of each model in the registry, as `register` returns it.
        judgements: Judgements of the vertical models, as `judge` returns them.

    Returns:
        outcome: What became of each model.
        deployed: The version of each model, by model and outcome.
    """
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
