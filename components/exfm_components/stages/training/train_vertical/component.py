"""The component train_vertical."""

from kfp import dsl

from exfm_components.stages import component


@component
def train_vertical(
    run: dict,
    root: str,
    vertical_model: dict,
    model: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
) -> dict:
    """Have one vertical model predict, then learn, its domains' examples with its teachers' pseudo-labels.

    Args:
        run: All settings of the run: its file as JSON, with the schema in it.
        root: Where all outputs lie, a folder or s3://BUCKET/PREFIX; replaces the run's own.
        vertical_model: The settings of the model, one of those that `join_examples` returns.

    Returns:
        model: Where the model is, with the digest of its manifest.
        metrics: NE, AUC and calibration of each task, also of the reference lines.
        Output: A reference to the model ({uri, digest}); {} if it has learned nothing yet.
    """
    from exfm.distill.config import VerticalConfig
    from exfm_components.progress import running

    vertical = VerticalConfig.parse(vertical_model, source="vertical_model")
    with running(f"train-vm {vertical.name}") as stage:
        from exfm.das.advance import learn
        from exfm_components.data_augmentation import das_of, work
        from exfm_components.lines import vertical_model as line_of
        from exfm_components.lines import write_model
        from exfm_components.run_config import RunConfig

        config = RunConfig.parse(run | {"root": root}, source="run")
        das, line = das_of(config), line_of(config, vertical)
        work(learn(das, line), stage.report)
        ref, told = write_model(das, line, model=model, metrics=metrics)
        stage.done(told)
        return ref
