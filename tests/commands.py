"""`exfm` in this process, which has imported what commands need: a process of its own takes five seconds more.

No timeout applies: use it for commands that start no server.
"""

import io
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from exfm.cli.main import main


def exfm(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a command, and return what a process of its own would: exit code, stdout and stderr."""
    argv, out, err, code = ["exfm", *map(str, arguments)], io.StringIO(), io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", argv)
        try:
            main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
    return subprocess.CompletedProcess(argv, code, out.getvalue(), err.getvalue())
