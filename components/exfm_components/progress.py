"""Lines that a component prints for whoever runs the pipeline: one protocol for a log viewer and for `exfm run`."""

import json
from dataclasses import asdict, dataclass
from typing import Literal

PREFIX = "exfm-progress "

Event = Literal["started", "window", "done"]


@dataclass(frozen=True)
class Progress:
    """Something a stage has to say."""

    event: Event
    stage: str
    text: str = ""


def say(event: Event, stage: str, text: str = "") -> None:
    """Print one line of progress."""
    print(PREFIX + json.dumps(asdict(Progress(event=event, stage=stage, text=text))), flush=True)


def parse(line: str) -> Progress | None:
    """Return the progress in a line of a component's output, or None if the line is something else."""
    _, found, text = line.partition(PREFIX)
    return Progress(**json.loads(text)) if found else None
