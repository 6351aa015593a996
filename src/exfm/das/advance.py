"""Work = what is due - what is done: a first replay, a daily run and the run after a crash are one code path."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from exfm.das.closing import LogState
from exfm.das.learning import FoundationWorker, LineWorker, VerticalWorker
from exfm.das.log_tables import Das
from exfm.das.publishing import publish_learned
from exfm.das.scoring import FoundationModel, is_waiting, score_window, teaching
from exfm.das.shares import WHOLE, Share
from exfm.das.stages import POLL_S, Done, ingest, join, label, of_window, remove
from exfm.events.sources import Source
from exfm.training.crew import SOLO, Crew
from exfm.training.line import Line


def advance(
    das: Das,
    source: Source,
    *,
    foundation_models: Mapping[str, FoundationModel],
    vertical_models: Sequence[Line] = (),
    until: int | None = None,
) -> Iterator[Done]:
    """Do whatever is due, in order of time, and yield each item that this run did; run again, it does nothing.

    At its end it publishes the models.

    `until` (in ticks) says that the log is complete up to there.

    Raises: what the stages below raise.
    """
    yield from ingest(das, source, until=until)
    yield from label(das)
    for name, model in foundation_models.items():
        yield from teach(das, name, model)
    yield from join(das, list(foundation_models))
    for line in vertical_models:
        yield from learn(das, line)
    lines = [*(model for model in foundation_models.values() if isinstance(model, Line)), *vertical_models]
    yield from remove(das, lines)
    for line in lines:
        publish_learned(das, line)


def teach(das: Das, name: str, model: FoundationModel, share: Share = WHOLE, *, crew: Crew = SOLO) -> Iterator[Done]:
    """Have a foundation model score the windows that are complete, and learn those that are closed.

    The others of a crew do the same by `Crew.follow`.
    Only a published one may have a share of the windows: another one's states need each other.

    Raises: ConfigError if a published model does not fit the log; DataError for unusable examples, or if the model
    diverged; StorageError if it is damaged, or a store does not answer.
    """
    state = LogState.of(das)
    if isinstance(model, Line):
        assert share == WHOLE, f"{name} learns window after window"
        worker = FoundationWorker(state, model, crew)
        yield from _models(das, worker, predicting="pseudo-label", learning="train-fm")
        return
    with teaching(model, state) as teacher:
        for window in share.windows(state.due_scores(name)):
            if not is_waiting(state, window, teacher) and score_window(state, window, name, teacher):
                yield of_window(das, f"pseudo-label {name}", window)


def is_due(das: Das, line: Line) -> bool:
    """Return whether `teach` would have a foundation model score or learn a window; no row is read.

    Raises: StorageError if a store does not answer.
    """
    worker = FoundationWorker(LogState.of(das), line)
    return bool(worker.open() or worker.known() - set(worker.states.learned))


def learn(das: Das, line: Line) -> Iterator[Done]:
    """Have a vertical model predict, then learn, the examples that it has not.

    Raises: DataError for unusable examples, or if the model diverged; StorageError if a store does not answer.
    """
    worker = VerticalWorker(LogState.of(das), line)
    yield from _models(das, worker, predicting="predict", learning="train-vm")


def follow(work: Callable[[], Iterator[Done]]) -> Iterator[Done]:
    """Do what is due over and over, as files and snapshots come; it never ends."""
    while True:
        yield from work()
        time.sleep(POLL_S)


def _models(das: Das, worker: LineWorker, *, predicting: str, learning: str) -> Iterator[Done]:
    for did, window in worker.advance():
        yield of_window(das, f"{predicting if did == 'predict' else learning} {worker.line.name}", window)
