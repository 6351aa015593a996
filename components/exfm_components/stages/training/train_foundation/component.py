"""The component train_foundation."""

from kfp import dsl

from exfm_components.stages import component


@component
def train_foundation(
    run: dict,
    root: str,
    foundation_model: dict,
    model: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
) -> dict:
    """Have one foundation model score complete windows, which gives pseudo-labels, and learn labelled ones.

    A model that another run trains (`published`) scores only. A model with several processes (`training.nodes`,
    `processes_per_node`, `gpu`) is trained by a TrainJob of Kubeflow Trainer.

    Args:
        run: All settings of the run: its file as JSON, with the schema in it.
        root: Where all outputs lie, a folder or s3://BUCKET/PREFIX; replaces the run's own.
        foundation_model: The settings of the model, one of those that `check` returns.

    Returns:
        model: Where the model is, with the digest of its manifest.
        metrics: NE, AUC and calibration of each task, also of the reference lines.
        Output: A reference to the model ({uri, digest}); {} if it has learned nothing yet, or if another run trains
            it.
    """
    from exfm.foundation.config import FoundationConfig
    from exfm_components.progress import running

    foundation = FoundationConfig.parse(foundation_model, source="foundation_model")
    with running(f"train-fm {foundation.name}") as stage:
        from exfm.das.advance import teach
        from exfm.training.line import Line
        from exfm_components.data_augmentation import das_of, work
        from exfm_components.lines import foundation_model as model_of
        from exfm_components.lines import write_model, write_published
        from exfm_components.processes import train_apart, trains_apart
        from exfm_components.run_config import RunConfig

        config = RunConfig.parse(run | {"root": root}, source="run")
        das, teacher = das_of(config), model_of(config, foundation)
        if trains_apart(foundation):
            train_apart(config, foundation, report=stage.report)
            num_done = 0
        else:
            num_done = work(teach(das, foundation.name, teacher), stage.report)
        if isinstance(teacher, Line):
            ref, told = write_model(das, teacher, model=model, metrics=metrics)
        else:
            ref, told = {}, write_published(das, foundation, teacher, num_done=num_done, model=model)
        stage.done(told)
        return ref
