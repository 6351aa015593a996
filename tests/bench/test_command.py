"""`exfm bench` is there where exfm-bench is installed, and says what to install where it is not."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

REPOSITORY = Path(__file__).parents[2]

pytestmark = pytest.mark.slow


def project(folder: str) -> Any:
    return tomllib.loads((REPOSITORY / folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def exfm(*arguments: str, installed: Path, commands: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run the command line beside an exfm-bench that brings these commands.

    It comes first on the path, so that it counts instead of one that is installed where the tests run.
    """
    info = installed / f"exfm_bench-{project('benchmarks')['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: exfm-bench\n")
    lines = ["[exfm.commands]", *(f"{name} = {target}" for name, target in commands.items())]
    (info / "entry_points.txt").write_text("\n".join(lines))
    return subprocess.run(
        [sys.executable, "-c", "from exfm.cli.main import main; main()", *arguments],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(installed), *sys.path]), "COLUMNS": "200"},
        cwd=installed,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def commands() -> dict[str, str]:
    """Return the commands that exfm-bench brings."""
    found: dict[str, str] = project("benchmarks")["entry-points"]["exfm.commands"]
    return found


def test_the_benchmarks_are_a_command_with_a_subcommand_a_promise(tmp_path: Path, commands: dict[str, str]) -> None:
    done = exfm("bench", "--help", installed=tmp_path, commands=commands)
    assert done.returncode == 0, done.stderr
    for name in ("planner", "simulator", "degraded", "precision", "serving", "train"):
        assert f" {name} " in done.stdout


def test_help_names_a_command_that_another_distribution_brings(tmp_path: Path, commands: dict[str, str]) -> None:
    done = exfm("--help", installed=tmp_path, commands=commands)
    assert done.returncode == 0, done.stderr
    assert " bench " in done.stdout.partition("Installed beside exfm")[2]


def test_without_the_benchmarks_their_command_says_what_to_install(tmp_path: Path) -> None:
    done = exfm("bench", "serving", "--out", "out", installed=tmp_path, commands={})
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "exfm: `exfm bench` is not installed here; it comes with exfm-bench, which production images leave out; "
        "in exfm's repository run: pip install ./benchmarks\n"
    )


def test_without_the_benchmarks_help_does_not_name_them(tmp_path: Path) -> None:
    done = exfm("--help", installed=tmp_path, commands={})
    assert done.returncode == 0, done.stderr
    assert "bench" not in done.stdout


def test_costs_are_not_written_to_a_folder_named_s3(tmp_path: Path, commands: dict[str, str]) -> None:
    done = exfm("bench", "simulator", "--out", "s3://bucket/costs.json", installed=tmp_path, commands=commands)
    assert done.returncode == 2, done.stderr
    assert "is written on this machine only; name a path" in done.stderr
    assert [path.suffix for path in tmp_path.iterdir()] == [".dist-info"]


def test_the_benchmarks_want_exfm_of_their_own_release_and_extras_that_it_has() -> None:
    ours, [wanted, *_] = project("."), map(Requirement, project("benchmarks")["dependencies"])
    assert wanted.name == ours["name"]
    assert str(wanted.specifier) == f"=={ours['version']}"
    assert wanted.extras <= ours["optional-dependencies"].keys()
