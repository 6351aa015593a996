"""A run's data augmentation system, and what its steps tell of it."""

from collections.abc import Callable, Iterator

from exfm.das.closing import LogState
from exfm.das.log_tables import Das
from exfm.das.shares import Share, shares
from exfm.das.stages import Done
from exfm.distill.domains import require_domains
from exfm_components.run_config import RunConfig


def das_of(run: RunConfig) -> Das:
    """Return the system of a run."""
    return Das(root=run.root, schema=run.feature_schema, window_length=run.window_length, config=run.das)


def work(items: Iterator[Done], report: Callable[[str], None]) -> int:
    """Do items of a stage, report each one, and return how many files or windows they were of."""
    found: set[str] = set()
    for done in items:
        found.add(done.item)
        report(f"{done.stage}: {done.item}")
    return len(found)


def shares_of(run: RunConfig) -> list[Share]:
    """Return among which pods the windows that are due are shared; none: one pod does them.

    Due is what is to be labelled or joined, or to be scored by a foundation model that is published.
    """
    if run.platform.backfill_pods == 1:
        return []
    state = LogState.of(das_of(run))
    due = state.closed(set(state.windows) - set(state.examples.files))
    published = (state.due_scores(model.name) for model in run.foundation_models if model.published)
    return shares(max(map(len, [due, *published])), at_most=run.platform.backfill_pods)


def told_log(das: Das, num_done: int) -> str:
    """Return a line about the log's tables, and how many files came in now."""
    state = LogState.of(das)
    watermark = state.timeline.watermark
    until = f", complete until {das.time_text(watermark)}" if watermark is not None else ""
    rows = (table.num_rows(table.files) for table in (state.impressions, state.feedback))
    impressions, feedback = (f"{count:,}" for count in rows)
    return f"{num_done} files now; {impressions} impressions and {feedback} feedbacks{until}"


def told_windows(das: Das, table: str, num_done: int, what: str) -> str:
    """Return a line about one of the tables, and how many windows were done now."""
    state = das.table(table, {}).state()
    return f"{num_done} windows now; {state.num_rows(state.files):,} {what} in {len(state.files)} windows"


def require_known_domains(run: RunConfig) -> None:
    """Return if each domain of a vertical model that has learned nothing has impressions, or if there are none at all.

    Raises: ConfigError if one has none.
    """
    state = LogState.of(das_of(run))
    parts = {file.part for files in state.snapshots.files.values() for file in files}
    begun = {part.rpartition("-")[0] for part in parts}
    models = [model for model in run.vertical_models if model.name not in begun]
    if state.impressions.files:
        require_domains(models, state.impressions, column=run.feature_schema.domain, row="impression")
