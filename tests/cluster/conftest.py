"""The cluster that tests speak to, and the rule that none of them is skipped where EXFM_NO_SKIPS=1."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

_skipped: list[str] = []


@pytest.fixture(scope="session")
def cluster() -> Path:
    """Return the kubeconfig of the cluster to test on. Fails, not skips, where there is none."""
    path = os.environ.get("KUBECONFIG")
    if not path:
        pytest.fail("no KUBECONFIG: run `make test-cluster`, or `make cluster` and export what it prints")
    return Path(path)


@pytest.fixture(scope="session")
def kubectl(cluster: Path) -> Callable[..., str]:
    """Return what runs kubectl with the arguments given, `text` on its input, and returns what it printed."""

    def run(*arguments: str, text: str | None = None) -> str:
        command = [os.environ.get("EXFM_KUBECTL", "kubectl"), f"--kubeconfig={cluster}", *arguments]
        process = subprocess.run(command, input=text, capture_output=True, text=True, timeout=180)
        assert process.returncode == 0, f"kubectl {' '.join(arguments)}: {process.stderr}"
        return process.stdout

    return run


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.skipped and "cluster" in report.keywords:
        _skipped.append(report.nodeid)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    if report.skipped:
        _skipped.append(report.nodeid)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if _skipped and os.environ.get("EXFM_NO_SKIPS") == "1":
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _skipped and os.environ.get("EXFM_NO_SKIPS") == "1":
        terminalreporter.write_line(f"EXFM_NO_SKIPS=1, but skipped: {', '.join(_skipped)}", red=True)
