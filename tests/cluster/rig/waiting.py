"""Waiting for what others do."""

import time
from collections.abc import Callable
from typing import TypeVar

from rig.errors import RigError

Found = TypeVar("Found")


def wait_for(probe: Callable[[], Found | None], *, what: str, timeout_s: float = 30.0, pause_s: float = 0.05) -> Found:
    """Return the probe's first true answer. Raises: RigError where there is none within `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not (found := probe()):
        if time.monotonic() > deadline:
            raise RigError(f"waited {timeout_s:.0f} s for {what}")
        time.sleep(pause_s)
    return found
