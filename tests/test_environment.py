"""That processes with tensors start in the environment that they want, and that users have the last word."""

from pathlib import Path

import pytest

from exfm.environment import COMPUTE_ENVIRONMENT
from exfm.serving.local.processes import start_process, stop_processes


def test_a_server_starts_in_it_but_for_what_its_user_has_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in COMPUTE_ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GOMP_SPINCOUNT", "0")
    server = start_process("sleeper", ["timeit", "-n1", "-r1", "import time; time.sleep(60)"], log=tmp_path / "log")
    try:
        variables = Path(f"/proc/{server.process.pid}/environ").read_text().split("\0")
    finally:
        stop_processes([server], timeout_s=10)
    found = dict(variable.split("=", 1) for variable in variables if variable)
    assert found.items() >= {**COMPUTE_ENVIRONMENT, "GOMP_SPINCOUNT": "0"}.items()
