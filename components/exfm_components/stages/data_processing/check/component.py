"""The component check."""

from exfm_components.stages import component


@component
def check(run: dict, root: str, deploy: bool) -> list[dict]:
    """Find out whether a run can work before it begins, and begin its run in MLflow.

    Args:
        run: All settings of the run: its file as JSON, with the schema in it.
        root: Where all outputs lie, a folder or s3://BUCKET/PREFIX; replaces the run's own.
        deploy: Whether the run deploys. If true, rights and runtimes in the cluster are checked, too.

    Returns:
        Output: The settings of the foundation models, for a loop over `train_foundation`.
    """
    from exfm_components.progress import running

    with running("check") as stage:
        from exfm_components.preflight import check_run
        from exfm_components.run_config import RunConfig
        from exfm_components.tracking import begin_tracking

        config = RunConfig.parse(run | {"root": root, "deploy": deploy}, source="run")
        found = check_run(config)
        begin_tracking(config)
        stage.done(found)
        return [model.to_dict() for model in config.foundation_models]
