"""The component ingest."""

from kfp import dsl

from exfm_components.stages import component


@component
def ingest(run: dict, root: str, until: str, log: dsl.Output[dsl.Dataset]) -> list[str]:
    """Take the source files that have arrived into the tables of the log.

    Args:
        run: All settings of the run: its file as JSON, with the schema in it.
        root: Where all outputs lie, a folder or s3://BUCKET/PREFIX; replaces the run's own.
        until: Date up to which the log is complete, such as 2026-01-31; empty: what its files say.

    Returns:
        log: Version of the table `impressions`.
        Output: Shares of a backfill, for loops over `make_labels`, `score` and `join_examples`; empty: one pod does
            it all.
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
