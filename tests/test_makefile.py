"""The Makefile describes itself."""

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_make_help_lists_every_described_target_once_below_its_group() -> None:
    shown = subprocess.run(
        ["make", "--no-print-directory", "help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    groups = [part.splitlines() for part in shown.stdout.split("\n\n")]
    listed = [re.fullmatch(r"  make ([a-z-]+) +(.+)", line) for _, *lines in groups for line in lines]
    described = re.findall(r"^([a-z-]+):.*## (.+)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert [group[0] for group in groups] == ["Use", "Check", "Cluster", "Build"]
    assert [line.groups() for line in listed if line] == described
    assert all(listed)
