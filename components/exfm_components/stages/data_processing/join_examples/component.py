"""The component join_examples."""

from kfp import dsl

from exfm_components.stages import component


@component
def join_examples(
    run: dict, root: str, foundations: list[dict], examples: dsl.Output[dsl.Dataset], share: str = ""
) -> list[dict]:
    """Join features, labels and pseudo-labels into one table.

    It also reports what became of each row. It fails if the newest window is out of the run's bounds.

    Args:
        run: All settings of the run: its file as JSON, with the schema in it.
        root: Where all outputs lie, a folder or s3://BUCKET/PREFIX; replaces the run's own.
        foundations: What `train_foundation` returns; it only makes this component wait for pseudo-labels.
        share: One of the shares that `ingest` returns, which is joined without a report. Empty: all windows that
            are due.

    Returns:
        examples: Version of the table `examples`.
        Output: The settings of the vertical models, for a loop over `train_vertical`.
    """
    from exfm_components.progress import running

    with running(f"join {share}".rstrip()) as stage:
        from exfm.das.shares import Share
        from exfm.das.stages import join
        from exfm_components.artifacts import write_table
        from exfm_components.data_augmentation import das_of, told_windows, work
        from exfm_components.run_config import RunConfig

        config = RunConfig.parse(run | {"root": root}, source="run")
        das, names = das_of(config), [model.name for model in config.foundation_models]
        num_done = work(join(das, names, Share.parse(share)), stage.report)
        write_table(das, "examples", examples)
        stage.done(told_windows(das, "examples", num_done, f"examples with pseudo-labels of {', '.join(names)}"))
        return [model.to_dict() for model in config.vertical_models]
