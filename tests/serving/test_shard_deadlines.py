"""The time that a ranker leaves to its shards, as it reaches them."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

PROGRAM = Path(__file__).with_name("told_deadlines.py")
ALLOWED_S = 20.0
"""What it allows at first, and then half of that."""
WITHIN_S = 5.0
"""Of that, until the shard reads it, on a busy machine."""


@pytest.mark.parametrize("transport", ["grpc", "stream"])
def test_a_shard_is_told_the_time_that_is_left_of_the_requests(transport: str) -> None:
    command = [sys.executable, str(PROGRAM), transport, str(ALLOWED_S)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode == 0, ended.stderr
    whole_s, half_s = map(float, ended.stdout.split())
    assert ALLOWED_S - WITHIN_S < whole_s <= ALLOWED_S
    assert ALLOWED_S / 2 - WITHIN_S < half_s <= ALLOWED_S / 2
