"""Where a data augmentation system stands: by stage, what is done, what is due, and what the rest waits for."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from exfm.das.closing import LogState, accounts
from exfm.das.ingest import due_files
from exfm.das.joining import due_examples
from exfm.das.line_states import LineStates, known_windows
from exfm.das.log_tables import Das
from exfm.das.pace import NUM_COMMITS, examples_per_s, learned_windows, num_examples_of
from exfm.das.publishing import published_entropies
from exfm.das.reporting import WindowFigures, due_reports, newest_figures
from exfm.das.scoring import FoundationModel, is_waiting, teaching
from exfm.events.source_files import source_files
from exfm.events.sources import Source
from exfm.metrics.quality import normalized_entropy
from exfm.tables.table import Committed
from exfm.training.line import Line
from exfm.training.manifest import SCORE


@dataclass(frozen=True)
class StageProgress:
    """One stage: source files of ingest, windows of the others."""

    stage: str
    done: int
    due: int
    waiting: Mapping[str, int]
    """By what is waited for."""


@dataclass(frozen=True)
class ModelProgress:
    """How far a model has learned."""

    name: str
    learned: int
    """Windows."""
    due: int
    """Windows that it can learn now."""
    until: str
    """Event time of the newest impressions that it learned; empty: it has learned nothing."""
    age: str
    """Event time from there to the watermark; empty: it has learned nothing."""
    newest: Mapping[str, float | None]
    """By task, normalized entropy of its predictions of the newest window that it learned, before it learned it. None:
    the window does not define it."""
    overall: Mapping[str, float | None]
    """Likewise over all counted windows, as its manifest has it; empty: it was not published yet."""
    examples_per_s: float | None
    """How fast it learns; None: no two states were committed one soon after the other."""
    remaining_s: float | None
    """Estimated time to learn what is due; None: not known."""


@dataclass(frozen=True)
class Progress:
    """All stages, and what became of all rows."""

    watermark: str
    """Event time up to which the log is complete; empty: not known."""
    stages: tuple[StageProgress, ...]
    rows: Mapping[str, Mapping[str, int]]
    """By part of the log and by state: how many rows."""
    newest: WindowFigures | None
    """Figures of the newest window that has a report; None: none has."""
    models: tuple[ModelProgress, ...]
    """Those that are trained here."""


def progress(
    das: Das,
    source: Source,
    *,
    foundation_models: Mapping[str, FoundationModel],
    vertical_models: Sequence[Line] = (),
) -> Progress:
    """Return where a system stands; nothing is changed.

    Raises: ConfigError if the tables were made with other lengths of windows or attribution windows; DataError if a
    source file changed since it was ingested, or a new one comes before it by name; StorageError if a table, manifest
    or published model is damaged, the source has no file, or a store does not answer.
    """
    state = LogState.of(das)
    windows, feedback = set(state.windows), set(state.feedback.files)
    files = due_files(source_files(source), state.arrivals, das)
    open_windows = {window for window in windows | feedback if state.closed_with(window) is None}
    not_closed = "the watermark to pass their attribution window"
    labels, reports = state.due_labels(), due_reports(state)
    stages = [
        StageProgress("ingest", done=state.arrivals.num_rows([0]), due=len(files), waiting={}),
        StageProgress(
            "label", len(state.labels.files), len(labels), _counted({not_closed: len(open_windows & windows)})
        ),
    ]
    for fm, model in foundation_models.items():
        with teaching(model, state) as teacher:
            open_scores = state.due_scores(fm)
            waiting = [window for window in open_scores if is_waiting(state, window, teacher)]
        incomplete = [window for window in windows if state.complete_with(window) is None]
        stages.append(
            StageProgress(
                f"pseudo-label {fm}",
                done=len(windows) - len(open_scores) - len(incomplete),
                due=len(open_scores) - len(waiting),
                waiting=_counted({"a snapshot": len(waiting), "the watermark to pass their end": len(incomplete)}),
            )
        )
    examples = due_examples(state, list(foundation_models))
    not_joined = windows - set(state.examples.files) - set(examples)
    num_not_joined = len((windows | feedback) - open_windows - set(state.report.files) - set(reports))
    lacks_labels = not_joined - set(state.labels.files)
    stages += [
        StageProgress(
            "join",
            len(state.examples.files),
            len(examples),
            _counted({"labels": len(lacks_labels), "pseudo-labels": len(not_joined - lacks_labels)}),
        ),
        StageProgress(
            "report",
            len(state.report.files),
            len(reports),
            _counted({not_closed: len(open_windows), "their examples, or those of a window before": num_not_joined}),
        ),
    ]
    lines = [*(model for model in foundation_models.values() if isinstance(model, Line)), *vertical_models]
    watermark, commits = state.timeline.watermark, state.snapshots.newest_commits(NUM_COMMITS)
    newest = newest_figures(state, num_windows=1)
    return Progress(
        watermark="" if watermark is None else das.time_text(watermark),
        stages=tuple(stages),
        rows=_rows(state),
        newest=newest[0] if newest else None,
        models=tuple(_model(state, line, commits) for line in lines),
    )


def _model(state: LogState, line: Line, commits: Sequence[Committed]) -> ModelProgress:
    das, learned, watermark = state.das, LineStates(state, line).learned, state.timeline.watermark
    due = sorted(known_windows(state, line) - set(learned))
    end = das.grid.window(learned[-1]).end if learned else 0
    pace = examples_per_s(learned_windows(state, line, commits), das)
    assert watermark is not None or not learned, "a window was closed"
    return ModelProgress(
        name=line.name,
        learned=len(learned),
        due=len(due),
        until=das.time_text(end) if learned else "",
        age=das.span_text(watermark - end) if learned and watermark is not None else "",
        newest=_entropies(state, line, learned[-1]) if learned else {},
        overall=published_entropies(das, line),
        examples_per_s=pace,
        remaining_s=num_examples_of(state, line, due) / pace if pace and due else None,
    )


def _entropies(state: LogState, line: Line, window: int) -> dict[str, float | None]:
    """Return the normalized entropy of each task's predictions of a window; only columns that it needs are read."""
    columns = {task: [f"{kind}.{task}" for kind in (SCORE, "label", "weight")] for task in line.schema.tasks()}
    wanted = [column for of_task in columns.values() for column in of_task]
    rows = state.predictions.read([window], columns=wanted, part=line.part)
    return {
        task: normalized_entropy(*(rows[column].to_numpy() for column in of_task)) for task, of_task in columns.items()
    }


def _counted(waiting: Mapping[str, int]) -> dict[str, int]:
    return {reason: count for reason, count in waiting.items() if count}


def _rows(state: LogState) -> dict[str, dict[str, int]]:
    rows: dict[str, Counter[str]] = {}
    for account in accounts(state):
        of_part = rows.setdefault(account.part, Counter())
        of_part.update({"arrived": account.arrived, "rejected": account.rejected, "late": account.late})
        of_part.update({"not_shown": account.unshown} if account.unshown else {})
        of_part.update({"pending": account.pending} | dict(account.states or {}))
    return {part: dict(counts) for part, counts in rows.items()}
