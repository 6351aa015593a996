"""The component report."""

from kfp import dsl

from exfm_components.stages import component


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
    """Draw the run's figures into report.html, and put them into summary.json and MLflow.

    Then remove windows that are not kept.

    Args:
        run: All settings of the run: its file as JSON, with the schema in it.
        root: Where all outputs lie, a folder or s3://BUCKET/PREFIX; replaces the run's own.
        foundations: References to foundation models, as `train_foundation` returns them.
        verticals: References to vertical models, as `train_vertical` returns them.
        bundles: References to bundles, as `make_bundle` returns them.
        registrations: What became of each model in the registry, as `register` returns it.
        smoke_test: The URI of request and answer, as `smoke_test` returns it.
        comparison: The URI of figures, as `compare` returns it; empty: none.

    Returns:
        page: The report.
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
        from exfm_components.tracking import end_tracking

        config = RunConfig.parse(run | {"root": root}, source="run")
        das = das_of(config)
        models = refs(verticals, source="verticals")
        if not models:
            Path(page.path).write_text("No vertical model has learned yet.")
            end_tracking(config)
            stage.done("no vertical model has learned yet: there is nothing to report")
            return
        made = make_report(
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
        end_tracking(config, files=[layout.report(root)], plots=made.plots)
        work(remove(das, lines_of(config)), stage.report)
        stage.done(made.summary.headline())
