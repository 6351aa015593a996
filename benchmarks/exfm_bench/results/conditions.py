"""What a part was made of and on, and the CPU time of each of its steps."""

import os
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from time import process_time

from exfm.artifact.manifest import json_bytes, read_json
from exfm.artifact.stores import exists, write_file
from exfm.config import Config
from exfm.das.stages import Done
from exfm.events.examples import ExampleTable
from exfm_bench.machine import processor


class Conditions(Config):
    """The conditions of a part's figures."""

    machine: str
    date: str
    """When it was done last."""
    num_examples: int = 0
    num_windows: int = 0
    cpu_s: dict[str, float] = {}
    """CPU-seconds that each step took."""


class Recorder:
    """Does what is due, and keeps how long it took in a file."""

    def __init__(self, file: Path, *, part: str) -> None:
        """Go on with what is in the file, if it is there; `part` is the name that a finished step is printed with."""
        now = Conditions(machine=f"{os.cpu_count()} cores of {processor()}", date=datetime.now(UTC).date().isoformat())
        before = Conditions.parse(read_json(file), source=str(file)).cpu_s if file.exists() else {}
        self._part, self._file, self._found = part, file, now.model_copy(update={"cpu_s": before})

    def step(self, name: str, out: str, make: Callable[[], object]) -> None:
        """Make a step's file, unless it is there."""
        if not exists(out):
            began_s = process_time()
            make()
            self._add(name, process_time() - began_s)

    def work(self, name: str, stage: Iterable[Done]) -> None:
        """Do what is due of a stage; stages of one name add up."""
        began_s = process_time()
        if sum(1 for _ in stage):
            self._add(name, process_time() - began_s)

    def _add(self, name: str, spent_s: float) -> None:
        print(f"{self._part}: {name}, {spent_s:.0f} s of CPU time", flush=True)
        cpu_s = self._found.cpu_s | {name: self._found.cpu_s.get(name, 0.0) + spent_s}
        self._write(self._found.model_copy(update={"cpu_s": cpu_s}))

    def describe(self, examples: ExampleTable) -> None:
        """Keep how many examples and windows there are."""
        sizes = {"num_examples": examples.num_examples(), "num_windows": len(examples.windows)}
        self._write(self._found.model_copy(update=sizes))

    def _write(self, found: Conditions) -> None:
        self._found = found
        write_file(str(self._file), json_bytes(found.to_dict()))
