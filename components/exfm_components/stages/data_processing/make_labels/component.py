"""The component make_labels."""

from kfp import dsl

from exfm_components.stages import component


@component
def make_labels(run: dict, root: str, labels: dsl.Output[dsl.Dataset], share: str = "") -> None:
    """Attribute feedback to the impressions of windows whose attribution windows are over.

    Args:
        run: All settings of the run: its file as JSON, with the schema in it.
        root: Where all outputs lie, a folder or s3://BUCKET/PREFIX; replaces the run's own.
        share: One of the shares of windows that `ingest` returns; empty: all windows that are due.

    Returns:
        labels: Version of the table `labels`.
    """
    from exfm_components.progress import running

    with running(f"label {share}".rstrip()) as stage:
        from exfm.das.shares import Share
        from exfm.das.stages import label
        from exfm_components.artifacts import write_table
        from exfm_components.data_augmentation import das_of, told_windows, work
        from exfm_components.run_config import RunConfig

        das = das_of(RunConfig.parse(run | {"root": root}, source="run"))
        num_done = work(label(das, Share.parse(share)), stage.report)
        write_table(das, "labels", labels)
        stage.done(told_windows(das, "labels", num_done, "impressions labelled"))
