"""A cluster test that is skipped fails the run that CI makes."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SKIPPED = """
import pytest

@pytest.mark.cluster
def test_nothing():
    pytest.skip("no cluster here")
"""


@pytest.mark.parametrize(("no_skips", "exit_code"), [("0", 0), ("1", 1)])
def test_a_skipped_cluster_test_fails_the_run_where_no_skips_are_allowed(
    tmp_path: Path, no_skips: str, exit_code: int
) -> None:
    shutil.copy(Path(__file__).with_name("conftest.py"), tmp_path)
    (tmp_path / "test_skipped.py").write_text(SKIPPED)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n  cluster\n")
    pytest_run = subprocess.run(
        [sys.executable, "-m", "pytest", "-m", "cluster", "."],
        cwd=tmp_path,
        env=os.environ | {"EXFM_NO_SKIPS": no_skips, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
    )
    assert pytest_run.returncode == exit_code, pytest_run.stdout
