"""The commands of `exfm das`: what they print, and what they say to mistakes."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from growing_log import DAY_S, SCHEMA
from taught_log import write_week

from exfm.artifact.storage import Ref
from exfm.cli.main import main

pytestmark = pytest.mark.slow

Outcome = tuple[int, str, str]
"""Exit code, stdout and stderr of a command."""


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    """Return a run's file: its log has four days, its foundation model is published later, its vertical one is tiny."""
    log = write_week(tmp_path / "log", days=4)
    run = {
        "name": "test",
        "root": "root",
        "feature_schema": SCHEMA.to_dict(),
        "source": log.source.to_dict(),
        "window_length": DAY_S,
        "foundation_models": [{"name": "fm", "published": str(tmp_path / "fm")}],
        "vertical_models": [
            {
                "name": "vm",
                "domains": ["a"],
                "model": {"network": {"bottom_units": [], "top_units": [4]}},
                "training": {"batch_size": 16},
            }
        ],
    }
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(run), encoding="utf-8")
    return file


@pytest.fixture
def das(settings: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Return what runs a command of `exfm das`, or `exfm progress`, on that run."""

    def run(command: str, *arguments: str) -> Outcome:
        group = [] if command == "progress" else ["das"]
        monkeypatch.setattr(sys, "argv", ["exfm", *group, command, "-c", str(settings), *arguments])
        with pytest.raises(SystemExit) as caught:
            main()
        captured = capsys.readouterr()
        return int(caught.value.code or 0), captured.out, captured.err

    return run


def stages(out: str) -> list[str]:
    """Return the stages of which a command did something, once each."""
    return list(dict.fromkeys(line.partition(": ")[0] for line in out.splitlines() if ": " in line))


def one_line(out: str) -> str:
    return " ".join(out.split())


def change(settings: Path, **values: Any) -> None:
    """Change settings of a run's file."""
    run = yaml.safe_load(settings.read_text(encoding="utf-8"))
    settings.write_text(yaml.safe_dump(run | values), encoding="utf-8")


def test_advance_does_what_is_due_and_progress_tells_where_it_stands(das: Callable[..., Outcome]) -> None:
    code, first, err = das("advance")
    assert (code, err) == (0, "")
    assert stages(first)[:4] == ["ingest", "label", "pseudo-label fm", "join"]
    assert "ingest: impressions day-3.parquet\n" in first
    assert "label: 1970-01-02T00:00:00Z\n" in first
    assert "label: 1970-01-03T00:00:00Z\n" not in first
    _, again, _ = das("advance")
    assert again == das("progress")[1]
    assert first.endswith(again)
    assert "The log is complete until 1970-01-04T" in again
    assert "impressions: 160 rows = 0 rejected, 0 late, 80 pending, 80 examples, 0 duplicates" in one_line(again)


def test_until_completes_the_log(das: Callable[..., Outcome]) -> None:
    das("advance")
    code, out, _ = das("advance", "--until", "1970-01-06")
    assert code == 0
    assert out.startswith("ingest: complete until 1970-01-06T00:00:00Z\nlabel: 1970-01-03T00:00:00Z\n")
    assert "impressions: 160 rows = 0 rejected, 0 late, 0 pending, 160 examples, 0 duplicates" in one_line(out)


def test_another_root_begins_anew(das: Callable[..., Outcome], tmp_path: Path) -> None:
    das("advance")
    code, out, _ = das("advance", "--root", str(tmp_path / "other"))
    assert code == 0
    assert out.startswith("ingest: feedback day-0.parquet\n")
    assert (tmp_path / "other/tables/examples").is_dir()


def test_the_report_shows_the_newest_windows(das: Callable[..., Outcome]) -> None:
    das("advance", "--until", "1970-01-06")
    code, out, err = das("report", "--windows", "2")
    assert (code, err) == (0, "")
    assert "1970-01-04" in out
    assert "1970-01-02" not in out


def test_relabel_counts_what_came_late(das: Callable[..., Outcome], settings: Path) -> None:
    das("advance", "--until", "1970-01-06")
    late = pl.read_parquet(settings.parent / "log/feedback/day-1.parquet").filter(kind="dwell").head(1)
    late.with_columns(value=pl.lit(99.0)).write_parquet(settings.parent / "log/feedback/day-4.parquet")
    assert stages(das("advance")[1])[0] == "ingest"
    code, out, _ = das("relabel")
    assert code == 0
    assert stages(out)[:2] == ["label again", "join"]
    assert "again" not in das("relabel")[1]


def test_rescore_fills_what_went_without_a_foundation_model(
    das: Callable[..., Outcome], tmp_path: Path, foundation: Ref
) -> None:
    das("advance", "--until", "1970-01-06")
    assert "again" not in das("rescore")[1]
    shutil.copytree(foundation.uri, tmp_path / "fm")
    code, out, _ = das("rescore")
    assert code == 0
    assert out.startswith("pseudo-label fm again: 1970-01-03T00:00:00Z\npseudo-label fm again: 1970-01-04T00:00:00Z\n")
    assert "join: 1970-01-03T00:00:00Z\n" in out
    assert "again" not in das("rescore")[1]


def test_verify_tells_what_agrees_and_what_was_changed(das: Callable[..., Outcome], tmp_path: Path) -> None:
    das("advance", "--until", "1970-01-06")
    code, out, _ = das("verify", "--windows", "2", "--seed", "1")
    assert code == 0
    assert out.count("40 rows agree\n") == len(out.splitlines()) == 6
    [path] = (tmp_path / "root/tables/labels/window=1").glob("*.parquet")
    rows = pl.read_parquet(path, hive_partitioning=False)
    rows.with_columns((1 - pl.col("label.click")).alias("label.click")).write_parquet(path)
    code, out, err = das("verify")
    assert code == 2
    assert "table labels, window from 1970-01-02T00:00:00Z: 40 of 40 rows differ when computed again" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--until", "tomorrow"], "time 'tomorrow': Invalid isoformat string"),
        (["--root", "ftp://host/run"], "ftp://host/run"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line_and_exit_code_2(
    das: Callable[..., Outcome], arguments: list[str], message: str
) -> None:
    code, _, err = das("advance", *arguments)
    assert code == 2
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("command", ["advance", "progress"])
def test_a_file_that_changed_is_one_line_and_exit_code_2(
    das: Callable[..., Outcome], settings: Path, command: str
) -> None:
    das("advance")
    path = settings.parent / "log/impressions/day-2.parquet"
    pl.read_parquet(path).head(3).write_parquet(path)
    code, _, err = das(command)
    assert code == 2
    assert "day-2.parquet had" in err
    assert err.count("\n") == 1


def test_changed_label_rules_name_relabel(das: Callable[..., Outcome], settings: Path) -> None:
    das("advance")
    schema = SCHEMA.to_dict()
    schema["labels"][1]["positive_from"] = 7.0
    change(settings, feature_schema=schema)
    code, _, err = das("advance")
    assert code == 2
    assert "run `exfm das relabel`" in err
    assert das("relabel")[0] == 0
    assert das("advance")[0] == 0


def test_follow_goes_on_as_files_come_until_ctrl_c(settings: Path) -> None:
    later = [settings.parent / "log" / part / "day-3.parquet" for part in ("impressions", "feedback")]
    kept = [path.read_bytes() for path in later]
    for path in later:
        path.unlink()
    program = "from exfm.cli.main import main; main()"
    command = [sys.executable, "-c", program, "das", "advance", "--follow", "-c", str(settings)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ)
    assert process.stdout is not None
    assert process.stderr is not None
    while "label: 1970-01-01" not in process.stdout.readline():
        assert process.poll() is None
    for path, content in reversed(list(zip(later, kept, strict=True))):  # feedback arrives first
        (settings.parent / "new").write_bytes(content)
        (settings.parent / "new").rename(path)
    while "label: 1970-01-02" not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert "The log is complete until 1970-01-04T" in out
