"""python -m exfm_bench.das.work: a piece of the system's work, in a process of its own, which says what it took."""

import json
import sys
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import torch

from exfm.das import stages
from exfm.das.advance import advance
from exfm.das.attribution import ARRIVAL, ROW
from exfm.das.closing import LogState, commit_labels, labels_of
from exfm.das.joining import examples_of, join_window
from exfm.das.log_tables import Das
from exfm.das.scoring import Teacher, scores_of
from exfm.events.examples import label_column
from exfm.features.batch import encode_examples
from exfm.features.table import raw_columns
from exfm.models.config import ModelConfig
from exfm.models.ranking import RankingModel
from exfm.tables.commit import StagedFile, commit, stage
from exfm.tables.table import Table
from exfm.training.checkpoint import save_weights
from exfm.training.learner import LabelLearner
from exfm.training.manifest import Snapshot
from exfm_bench.das.log import SCHEMA, das_at, source_of, write_days
from exfm_bench.peers.turns import answer_once

FM = "fm"


def ingest(job: dict[str, Any]) -> None:
    """Put all source files into tables."""
    for _ in stages.ingest(_das(job), source_of(Path(job["log"]))):
        pass


def label_and_join(job: dict[str, Any]) -> None:
    """Commit labels and examples of all closed windows."""
    state = LogState.of(_das(job))
    for window in state.due_labels():
        commit_labels(state, window)
    state = LogState.of(state.das)
    for window in sorted(state.labels.files):
        join_window(state, window, [])


def go_on(job: dict[str, Any]) -> None:
    """Do whatever is due."""
    for _ in advance(_das(job), source_of(Path(job["log"])), foundation_models={}):
        pass


def days_more(job: dict[str, Any]) -> list[dict[str, float]]:
    """Go on with nothing due, and with a day more that came, again and again."""
    das, taken = _das(job), []
    for day in job["days"]:
        idle = _timed({"idle": partial(go_on, job)})
        write_days(Path(job["log"]), day, day + 1, rows=job["rows"], seed=job["seed"])
        more = _timed({"day": partial(go_on, job)})
        taken.append(idle | more | {"num_windows": len(LogState.of(das).examples.files)})
    return taken


def label_and_join_in_parts(job: dict[str, Any]) -> dict[str, Any]:
    """Do what `label_and_join` does; return what commits took by window, and rows and positive labels."""
    das, found = _das(job), {"num_rows": 0} | dict.fromkeys(SCHEMA.tasks(), 0)
    commits_s: dict[int, float] = {}
    commits_cpu_s = 0.0

    def put(table: Table, rows: pl.DataFrame, window: int) -> None:
        nonlocal commits_cpu_s
        file: StagedFile = stage(table, rows, window=window)
        before_s, cpu_before_s = time.perf_counter(), time.process_time()
        commit(table, [file], item=f"{table.name}/{window}", replaces=window)
        commits_s[window] = commits_s.get(window, 0.0) + time.perf_counter() - before_s
        commits_cpu_s += time.process_time() - cpu_before_s

    state = LogState.of(das)
    for window in state.due_labels():
        labels = labels_of(state, window, until=state.closed_with(window))
        put(das.labels(labels.schema[das.rules.key]), labels, window)
    state = LogState.of(das)
    for window in sorted(state.labels.files):
        examples = examples_of(state, window, [])
        put(das.examples(state.impression_columns, []), examples, window)
        found["num_rows"] += examples.height
        for task in SCHEMA.tasks():
            found[task] += int(examples[label_column(task)].sum())
    return {"counts": found, "commits_s": list(commits_s.values()), "commits_cpu_s": commits_cpu_s}


class _OneState:
    """A foundation model with one state, for all windows."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot

    def for_window(self, window: int) -> Snapshot | None:
        """Return it."""
        return self.snapshot

    def may_bring_newer(self, window: int) -> bool:
        """Return that there is no other."""
        return False


def score(job: dict[str, Any]) -> list[dict[str, float]]:
    """Score a window in turn with the system, which reads and writes tables, and by encode and forward alone."""
    torch.set_num_threads(1)
    das, folder = _das(job), Path(job["root"]) / "states"
    config = ModelConfig.parse(job["model"], source="the benchmark's settings")
    model = RankingModel(SCHEMA, config)
    folder.mkdir()
    save_weights(LabelLearner(model), folder)
    snapshot = Snapshot(version="1", folder=str(folder), window=-1, known_until=0)
    teacher = Teacher(SCHEMA, config, _OneState(snapshot))
    state, window = LogState.of(das), 1
    frames = list(state.impressions.files_of(window))
    table = das.pseudo_labels(state.impressions.columns[das.rules.key])

    def by_system() -> None:
        for scores in scores_of(state, window, FM, teacher, snapshot):
            stage(table, scores, window=window, part=FM)

    def bare() -> None:
        for rows in frames:
            model.probabilities(encode_examples(raw_columns(rows.drop(ARRIVAL, ROW).to_arrow(), SCHEMA), SCHEMA))

    works = {"system": by_system, "bare": bare}
    _timed(works)  # the first loads the state
    return [_timed(works) for _ in range(job["turns"])]


def _timed(works: dict[str, Callable[[], None]]) -> dict[str, float]:
    taken = {}
    for name, work in works.items():
        before_s, cpu_before_s = time.perf_counter(), time.process_time()
        work()
        taken[f"{name}_s"] = time.perf_counter() - before_s
        taken[f"{name}_cpu_s"] = time.process_time() - cpu_before_s
    return taken


def _das(job: dict[str, Any]) -> Das:
    return das_at(Path(job["root"]))


WORKS: Iterable[Callable[[dict[str, Any]], Any]] = (
    ingest, label_and_join, go_on, days_more, label_and_join_in_parts, score
)  # fmt: skip


def main() -> None:
    """Do the work that the first argument's file names, and answer."""
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    [work] = [work for work in WORKS if work.__name__ == job["work"]]
    answer_once(lambda: work(job))


if __name__ == "__main__":
    main()
