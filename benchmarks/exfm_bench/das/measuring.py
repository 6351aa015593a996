"""All that is measured, each piece of work in a process of its own; ratios are of pieces that took turns."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from exfm.artifact.manifest import write_json
from exfm.environment import compute_environment
from exfm.errors import ConfigError, StageError
from exfm_bench import peers
from exfm_bench.das.config import DasBenchConfig
from exfm_bench.das.log import CLICK_WITHIN_S, DAYS_AFTER, DWELL_WITHIN_S, LONG, file_name, write_days

PROGRAMS = Path(peers.__file__).parent

SYSTEM, POLARS, DUCKDB = "exfm's tables", "polars, bare", "DuckDB"

INGEST, JOIN, REST = "ingest", "labels and join", "reports and accounts"

_WORKS = {INGEST: "ingest", JOIN: "label_and_join", REST: "go_on"}

_LOG_LINES_SHOWN = 8

Say = Callable[[str], None]


@dataclass(frozen=True)
class Taken:
    """What a piece of work took."""

    seconds: float
    cpu_s: float
    peak_bytes: int
    """Most memory that its process had resident."""
    process_s: float
    """Time from the start of its process to its end."""
    found: Any
    """What it returned."""


@dataclass(frozen=True)
class Log:
    """The work of a replay of so many windows, and of what comes after."""

    num_windows: int
    replay: Mapping[str, Taken]
    """By piece of work, in order: INGEST, JOIN, and of the long log REST."""
    idle: Taken | None = None
    """A run with nothing due; None: of the short log."""
    days: tuple[Mapping[str, float], ...] = ()
    """Time and CPU time of a run with nothing due and of one with a day more, in turn, in one process."""


@dataclass(frozen=True)
class Measured:
    """All that was measured."""

    joins: Mapping[str, tuple[Taken, ...]]
    """Turns of labels and join by SYSTEM, POLARS and DUCKDB."""
    scores: tuple[Mapping[str, float], ...]
    """Turns of scoring: time and CPU time, of the system and of encode and forward alone."""
    few: Log
    many: Log

    def to_dict(self) -> dict[str, Any]:
        """Return the raw numbers, as JSON can hold them."""
        return asdict(self)


def measure(config: DasBenchConfig, folder: Path, *, say: Say) -> Measured:
    """Return what is measured; all files come into a folder.

    Raises: ConfigError if the environment of DuckDB has none; StageError if a process ends with an error.
    """
    require_duckdb(config.duckdb)
    say(f"labels and join of {config.join_windows} windows of {config.join_rows:,} rows")
    joins = _joined(config, folder / "join", say)
    say("scoring")
    job = {"root": str(folder / "join" / "root"), "model": config.model.to_dict(), "turns": config.turns}
    scores = run({"work": "score"} | job, folder / "score.json")
    logs = [_replayed(config, folder / str(windows), windows, say) for windows in (config.few, config.many)]
    return Measured(joins=joins, scores=tuple(scores.found), few=logs[0], many=logs[1])


def require_duckdb(environment: str) -> None:
    """Return if no environment is named, or it has DuckDB.

    Raises: ConfigError if it has none.
    """
    if environment and not list(Path(environment).glob("lib/python*/site-packages/duckdb")):
        raise ConfigError(
            f"{environment}: no virtual environment with duckdb; make one: python -m venv {environment} && "
            f"{environment}/bin/pip install duckdb"
        )


def run(job: Mapping[str, Any], file: Path, *, command: tuple[str, ...] = ()) -> Taken:
    """Do a piece of work in a process of its own, and return what it took; `file` keeps what it was told.

    Raises: StageError if the process ends with an error.
    """
    write_json(file, dict(job))
    command = command or (sys.executable, "-m", "exfm_bench.das.work")
    before_s = time.perf_counter()
    ended = subprocess.run(
        [*command, str(file)], capture_output=True, text=True, env={**os.environ, **compute_environment()}, check=False
    )
    process_s = time.perf_counter() - before_s
    if ended.returncode:
        lines = ended.stderr.strip().splitlines()[-_LOG_LINES_SHOWN:]
        how = f"{' '.join(command)} {file} ended with exit code {ended.returncode}; its last lines:"
        raise StageError("\n  ".join([how, *(lines or ["(none)"])]))
    return Taken(process_s=process_s, **json.loads(ended.stdout))


def _joined(config: DasBenchConfig, folder: Path, say: Say) -> dict[str, tuple[Taken, ...]]:
    """Return turns of labels and join, each time all in an order drawn anew; `folder/root` has the log ingested."""
    log, root = folder / "log", folder / "root"
    write_days(log, 0, config.join_windows + DAYS_AFTER, rows=config.join_rows, seed=config.seed)
    run({"work": "ingest", "log": str(log), "root": str(root)}, folder / "ingest.json")

    def by_system() -> Taken:
        copy = folder / "copy"
        shutil.copytree(root, copy, copy_function=os.link)  # files of tables never change
        taken = run({"work": "label_and_join_in_parts", "root": str(copy)}, folder / "system.json")
        shutil.rmtree(copy)
        return taken

    job = {"days": _days(log, folder / "bare", config.join_windows), "long": LONG}
    job |= {"click_within_s": CLICK_WITHIN_S, "dwell_within_s": DWELL_WITHIN_S}
    (folder / "bare").mkdir()
    interpreters = {POLARS: Path(sys.executable)}
    if config.duckdb:
        interpreters[DUCKDB] = Path(config.duckdb) / "bin" / "python"
    works: dict[str, Callable[[], Taken]] = {SYSTEM: by_system}
    for name, interpreter in interpreters.items():
        program = f"{name.split(',')[0].lower()}_join.py"
        # -E: not the modules of exfm's environment
        command = (str(interpreter), *(("-E",) if name == DUCKDB else ()), str(PROGRAMS / program))
        works[name] = partial(run, job, folder / f"{program}.json", command=command)

    generator = np.random.default_rng(config.seed)
    turns: dict[str, list[Taken]] = {name: [] for name in works}
    for number in range(config.turns):
        say(f"  turn {number + 1} of {config.turns}")
        for name in generator.permutation(list(works)):
            turns[name].append(works[name]())
    _require_same(turns)
    return {name: tuple(of_name) for name, of_name in turns.items()}


def _days(log: Path, out: Path, num_windows: int) -> list[dict[str, Any]]:
    """Return the files of each day's query: feedback comes on the day itself or on the next one."""
    return [
        {
            "impressions": str(log / "impressions" / file_name(day)),
            "feedback": [str(log / "feedback" / file_name(of)) for of in (day, day + 1)],
            "out": str(out / file_name(day)),
        }
        for day in range(num_windows)
    ]


def _require_same(turns: Mapping[str, list[Taken]]) -> None:
    """Return if all found the same rows and as many positive labels."""
    counts = {name: [one.found.get("counts", one.found) for one in of_name] for name, of_name in turns.items()}
    if any(one != counts[POLARS][0] for of_name in counts.values() for one in of_name):
        raise StageError(f"the same labels and join gave other rows: {counts}; a query of the benchmark is wrong")


def _replayed(config: DasBenchConfig, folder: Path, num_windows: int, say: Say) -> Log:
    """Return the replay of a log, and if it is the long one, days more after it."""
    say(f"a log of {num_windows} windows of {config.rows:,} rows")
    log, days = folder / "log", num_windows + DAYS_AFTER
    write_days(log, 0, days, rows=config.rows, seed=config.seed)
    job: dict[str, Any] = {"log": str(log), "root": str(folder / "root")}

    def done(work: str) -> Taken:
        say(f"  {work}")
        return run(job | {"work": work}, folder / f"{work}.json")

    if num_windows == config.few:
        return Log(num_windows, {name: done(_WORKS[name]) for name in (INGEST, JOIN)})
    replay = {name: done(work) for name, work in _WORKS.items()}
    idle = done("go_on")
    job |= {"rows": config.rows, "seed": config.seed, "days": list(range(days, days + config.turns))}
    return Log(num_windows, replay, idle, tuple(done("days_more").found))
