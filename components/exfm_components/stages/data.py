"""The components that make examples: check of the run, ingest, labels, join.

Each does what is due in the tables below the root, so run again it goes on, or does nothing.

KFP 2.17's local runner loops over what a task returns only, not over one of several outputs.
"""

from kfp import dsl

from exfm_components.stages import component


@component
def check(run: dict, root: str, deploy: bool) -> list[dict]:
    """Find out whether a run can work before it begins; return the foundation models' settings, for their loop."""
    from exfm_components.progress import running

    with running("check") as stage:
        from exfm_components.preflight import check_run
        from exfm_components.run_config import RunConfig

        config = RunConfig.parse(run | {"root": root, "deploy": deploy}, source="run")
        stage.done(check_run(config))
        return [model.to_dict() for model in config.foundation_models]


@component
def ingest(run: dict, root: str, until: str, log: dsl.Output[dsl.Dataset]) -> list[str]:
    """Take the source files that have arrived into the log's tables; with `until`, the log is complete up to there.

    Returns the shares of a backfill, for loops; none, if one pod does it all.
    """
    from exfm_components.progress import running

    with running("ingest") as stage:
        from exfm.das.stages import ingest
        from exfm_components.artifacts import write_table
        from exfm_components.data_augmentation import das_of, require_known_domains, shares_of, told_log, work
        from exfm_components.run_config import RunConfig

        config = RunConfig.parse(run | {"root": root}, source="run")
        das = das_of(config)
        num_done = work(ingest(das, config.source, until=das.time_of(until) if until else None), stage.report)
        require_known_domains(config)
        write_table(das, "impressions", log)
        stage.done(told_log(das, num_done))
        return [str(share) for share in shares_of(config)]


@component
def make_labels(run: dict, root: str, labels: dsl.Output[dsl.Dataset], share: str = "") -> None:
    """Attribute feedback to the impressions of windows, or a share of them, whose attribution windows are over."""
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


@component
def score(run: dict, root: str, share: str) -> None:
    """Score a share of the complete windows by the foundation models that are published."""
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


@component
def join_examples(
    run: dict, root: str, foundations: list[dict], examples: dsl.Output[dsl.Dataset], share: str = ""
) -> list[dict]:
    """Join features, labels and pseudo-labels into one table; return the vertical models' settings, for a loop.

    Reports what became of each row, and ends with an error if the newest window is out of bounds. Who has a share of
    the windows only joins them. `foundations` are read by nothing: the pseudo-labels are there once they are.
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
