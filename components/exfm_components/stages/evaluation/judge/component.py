"""The component judge."""

from kfp import dsl

from exfm_components.stages import component


@component
def judge(run: dict, root: str, verticals: list[dict], verdict: dsl.Output[dsl.Markdown]) -> list[dict]:
    """Compare every vertical model with its champion, on windows that the champion had not learned.

    Args:
        run: All settings of the run: its file as JSON, with the schema in it.
        root: Where all outputs lie, a folder or s3://BUCKET/PREFIX; replaces the run's own.
        verticals: References to vertical models, as `train_vertical` returns them.

    Returns:
        verdict: Each figure with its bound and margin.
        Output: A judgement of each model.
    """
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
