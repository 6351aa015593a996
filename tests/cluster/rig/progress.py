"""One line a step, with its seconds."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

WIDTH = 58


def say(text: str) -> None:
    """Print one line at once."""
    print(text, flush=True)


@contextmanager
def step(text: str) -> Iterator[None]:
    """Name a step, run it, and end its line with the seconds that it took, or with `failed`."""
    on_terminal = sys.stdout.isatty()
    if on_terminal:
        print(f"  {text:{WIDTH}}", end="", flush=True)
    start = time.monotonic()
    ending = "failed"
    try:
        yield
        ending = f"{time.monotonic() - start:.1f} s"
    finally:
        print(f"{ending:>8}" if on_terminal else f"  {text:{WIDTH}}{ending:>8}", flush=True)
