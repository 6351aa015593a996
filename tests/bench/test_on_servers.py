import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_real_servers_are_measured_predicted_and_compared() -> None:
    program = Path(__file__).parent / "measured.py"
    ended = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    prices, _, tables = ended.stdout.partition("\n")
    for end in json.loads(prices).values():
        assert 0 <= end["lookup_us"] < 1_000
        assert 0 < end["byte_ns"] < 100
    for words in (
        "calibrated on",
        "validated on",
        "two shards",
        "P99: off by",
        "of 1 within 15%",
        "100,000 requests/s",
    ):
        assert words in tables
