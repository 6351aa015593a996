"""The component score."""

from exfm_components.stages import component


@component
def score(run: dict, root: str, share: str) -> None:
    """Score a share of the complete windows by the foundation models that other runs train.

    Args:
        run: All settings of the run: its file as JSON, with the schema in it.
        root: Where all outputs lie, a folder or s3://BUCKET/PREFIX; replaces the run's own.
        share: One of the shares of windows that `ingest` returns.
    """
    from exfm_components.progress import running

    with running(f"score {share}") as stage:
        from exfm.das.advance import teach
        from exfm.das.shares import Share
        from exfm_components.data_augmentation import das_of, work
        from exfm_components.lines import foundation_model
        from exfm_components.run_config import RunConfig

        config = RunConfig.parse(run | {"root": root}, source="run")
        das, published = das_of(config), [model for model in config.foundation_models if model.published]
        scored = (teach(das, fm.name, foundation_model(config, fm), Share.parse(share)) for fm in published)
        num_done = sum(work(items, stage.report) for items in scored)
        stage.done(f"{num_done} windows now, by {', '.join(fm.name for fm in published)}")
