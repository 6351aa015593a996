"""Work that goes on until Ctrl-C."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

AGAIN_S = 5.0
"""Time after which an interrupt that did not end the work is raised again, in seconds."""


@contextmanager
def until_interrupted() -> Iterator[None]:
    """Run the block until it ends, or Ctrl-C ends it; for the main thread.

    The exception is raised until the block ends, because native code, such as of data frames, may swallow it.
    """

    def interrupt(number: int, frame: FrameType | None) -> None:
        signal.setitimer(signal.ITIMER_REAL, AGAIN_S)
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGALRM)}
    try:
        with suppress(KeyboardInterrupt):
            yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)
