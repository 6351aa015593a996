"""A trainer's process: for each line of JSON on its input it trains, and it answers with how long that took.

It runs in other trainers' environments too, so nothing of exfm is imported.
"""

import json
import os
import resource
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

Settings = Mapping[str, Any]


def serve_turns(train: Callable[[Settings], int]) -> None:
    """Answer turns until the input ends. `train` gets a turn's settings, and returns how many examples it learned."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    print(json.dumps("ready"), file=answers, flush=True)
    for line in sys.stdin:
        settings = json.loads(line)
        torch.set_num_threads(settings["threads"])
        before_s, cpu_before_s = time.perf_counter(), _cpu_s()
        num_examples = train(settings)
        taken_s, cpu_s = time.perf_counter() - before_s, _cpu_s() - cpu_before_s
        answer = {"num_examples": num_examples, "seconds": taken_s, "cpu_s": cpu_s, "peak_bytes": _peak_bytes()}
        print(json.dumps(answer), file=answers, flush=True)


def _cpu_s() -> float:
    """Return the CPU time of this process, and of those that it started and that have ended."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in used)


def _peak_bytes() -> int:
    """Return the most memory that this process has had resident."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
