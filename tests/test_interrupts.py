"""Ctrl-C ends work that goes on."""

import os
import signal
import time

import pytest

from exfm.cli import interrupts
from exfm.cli.interrupts import until_interrupted


def test_an_interrupt_that_is_swallowed_is_raised_again_until_the_work_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interrupts, "AGAIN_S", 0.05)
    before, num_swallowed = signal.getsignal(signal.SIGINT), 0
    with until_interrupted():
        while True:
            try:
                if not num_swallowed:
                    os.kill(os.getpid(), signal.SIGINT)
                time.sleep(60)
            except KeyboardInterrupt:
                num_swallowed += 1
                if num_swallowed == 3:
                    raise
    assert num_swallowed == 3
    assert signal.getsignal(signal.SIGINT) == before
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


def test_other_errors_pass() -> None:
    with pytest.raises(ValueError, match="wrong"), until_interrupted():
        raise ValueError("wrong")
