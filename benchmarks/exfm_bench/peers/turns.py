"""A process that is measured: it answers with JSON that says how long its work took, and how much memory.

It runs in other programs' environments too, so nothing of exfm is imported, and torch only where it trains.
"""

import json
import os
import resource
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

Settings = Mapping[str, Any]


def serve_turns(train: Callable[[Settings], int]) -> None:
    """Train for each line of JSON on the input, until it ends, and answer each with what that took.

    `train` gets a turn's settings, and returns how many examples it learned.
    """
    import torch

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    print(json.dumps("ready"), file=answers, flush=True)
    for line in sys.stdin:
        settings = json.loads(line)
        torch.set_num_threads(settings["threads"])
        num_examples, taken = _taken(partial(train, settings))
        print(json.dumps({"num_examples": num_examples} | taken), file=answers, flush=True)


def answer_once(work: Callable[[], Any], *, found: Callable[[], Any] | None = None) -> None:
    """Work, and answer with what that took and what it returned; or with what `found` does, which is not timed."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    result, taken = _taken(work)
    print(json.dumps({"found": found() if found else result} | taken), file=answers, flush=True)


def _taken(work: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    before_s, cpu_before_s = time.perf_counter(), _cpu_s()
    result = work()
    seconds, cpu_s = time.perf_counter() - before_s, _cpu_s() - cpu_before_s
    return result, {"seconds": seconds, "cpu_s": cpu_s, "peak_bytes": _peak_bytes()}


def _cpu_s() -> float:
    """Return the CPU time of this process, and of those that it started and that have ended."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in used)


def _peak_bytes() -> int:
    """Return the most memory that this process has had resident."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
