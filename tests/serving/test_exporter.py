"""An exporter uploads the finished files of a request log, each once, and loses none."""

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pods import LONG_S, wait_for

from exfm.artifact.stores import entries, join, read_file
from exfm.serving import exporter
from exfm.serving.exporter import HEARTBEAT, Exporter, Start, starts_in
from faulty_s3 import FaultyS3

COMMAND = [sys.executable, "-m", "exfm.serving.exporter"]


@pytest.fixture
def log(tmp_path: Path) -> Callable[..., Path]:
    """Return what makes the folder of a start of a model's ranker, with finished files of these contents."""

    def make(*contents: str, start: str = "students-20261101T000000-pod-a-7") -> Path:
        folder = tmp_path / "log" / start
        (folder / "impressions").mkdir(parents=True)
        (folder / "schema.json").write_text(start)
        for number, content in enumerate(contents):
            (folder / "impressions" / f"impressions-{number:04}.parquet").write_text(content)
        return folder

    return make


def uploaded(to: str, model: str = "students") -> list[str]:
    """Return the contents of a model's uploaded files, in the order of their names."""
    folder = join(to, model, "impressions")
    return [read_file(join(folder, name)).decode() for name in names_in(folder)]


def names_in(folder: str) -> list[str]:
    return sorted(name for entry in entries(folder) if not (name := entry["name"]).startswith("."))


def test_finished_files_are_uploaded_in_order_and_removed(log: Callable[..., Path], tmp_path: Path) -> None:
    start, to = log("first", "second"), str(tmp_path / "to")
    assert Exporter(tmp_path / "log", to).export() == 0
    assert uploaded(to) == ["first", "second"]
    assert list((start / "impressions").iterdir()) == []


def test_a_file_that_is_not_finished_stays(log: Callable[..., Path], tmp_path: Path) -> None:
    start, to = log("first"), str(tmp_path / "to")
    partial = start / ".impressions-0001.parquet.partial"
    partial.write_text("half")
    Exporter(tmp_path / "log", to).export()
    assert uploaded(to) == ["first"]
    assert partial.read_text() == "half"


def test_what_is_no_log_of_a_start_stays(log: Callable[..., Path], tmp_path: Path) -> None:
    other = log("mine", start="my-own-folder")
    Exporter(tmp_path / "log", str(tmp_path / "to")).export()
    assert not (tmp_path / "to").exists()
    assert [file.read_text() for file in (other / "impressions").iterdir()] == ["mine"]


def test_each_model_has_a_folder_of_its_own(log: Callable[..., Path], tmp_path: Path) -> None:
    log("news", start="news-20261101T000000-pod-a-7")
    log("shop", start="shop-2-20261101T000000-pod-b-7")
    Exporter(tmp_path / "log", str(tmp_path / "to")).export()
    assert uploaded(str(tmp_path / "to"), "news") == ["news"]
    assert uploaded(str(tmp_path / "to"), "shop-2") == ["shop"]


def test_a_name_begins_with_the_time_of_the_upload_and_says_whose_file_it_is(
    log: Callable[..., Path], tmp_path: Path
) -> None:
    log("first")
    before = datetime.now(UTC)
    Exporter(tmp_path / "log", str(tmp_path / "to")).export()
    [name] = names_in(str(tmp_path / "to" / "students" / "impressions"))
    time, rest = name[:27], name[27:]
    assert before <= datetime.strptime(time, "%Y-%m-%dT%H-%M-%S.%fZ").replace(tzinfo=UTC) <= datetime.now(UTC)
    assert rest == "-students-20261101T000000-pod-a-7-impressions-0000.parquet"


def test_names_grow_even_if_the_clock_is_set_back(
    log: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class SetBack(datetime):
        now_ = datetime(2026, 11, 1, tzinfo=UTC)

        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            cls.now_ -= timedelta(hours=1)
            return cls.now_

    monkeypatch.setattr(exporter, "datetime", SetBack)
    log(*map(str, range(5)))
    Exporter(tmp_path / "log", str(tmp_path / "to")).export()
    assert uploaded(str(tmp_path / "to")) == ["0", "1", "2", "3", "4"]


def test_the_schema_is_that_of_the_newest_start(log: Callable[..., Path], tmp_path: Path) -> None:
    newest = "students-20261102T000000-pod-a-8"
    log("new", start=newest)
    one = Exporter(tmp_path / "log", str(tmp_path / "to"))
    one.export()
    log("old", start="students-20261101T000000-pod-a-7")
    one.export()
    assert (tmp_path / "to" / "students" / "schema.json").read_text() == newest


def test_files_wait_for_a_folder_that_cannot_be_written(
    log: Callable[..., Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log("first", "second")
    (tmp_path / "to").write_text("a file, not a folder")
    one = Exporter(tmp_path / "log", str(tmp_path / "to"))
    assert one.export() == 2
    assert "2 files of " in caplog.text
    assert "wait for the next attempt: " in caplog.text
    (tmp_path / "to").unlink()
    assert one.export() == 0
    assert uploaded(str(tmp_path / "to")) == ["first", "second"]


def test_an_error_of_ours_ends_no_exporter(
    log: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    log("first")
    monkeypatch.setattr(exporter, "write_file", lambda *_: 1 / 0)
    assert Exporter(tmp_path / "log", str(tmp_path / "to")).export() == 1
    assert "ZeroDivisionError" in caplog.text


def test_each_attempt_moves_the_heartbeat_even_if_the_store_takes_nothing(
    log: Callable[..., Path], tmp_path: Path
) -> None:
    log("first")
    (tmp_path / "to").write_text("a file, not a folder")
    one, heartbeat = Exporter(tmp_path / "log", str(tmp_path / "to")), tmp_path / "log" / HEARTBEAT
    for _ in range(2):
        assert one.export() == 1
        assert time.time() - heartbeat.stat().st_mtime < LONG_S
        os.utime(heartbeat, (0, 0))


def test_an_upload_that_hangs_lets_the_heartbeat_age(
    log: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log("first", "second")
    heartbeat, ages = tmp_path / "log" / HEARTBEAT, list[float]()

    def hang(uri: str, content: bytes) -> None:
        """Stand for a long upload: what is there while it goes on is what a probe sees."""
        ages.append(time.time() - heartbeat.stat().st_mtime)
        os.utime(heartbeat, (0, 0))

    monkeypatch.setattr(exporter, "write_file", hang)
    Exporter(tmp_path / "log", str(tmp_path / "to")).export()
    assert len(ages) == 3, "the schema and two files"
    assert max(ages) < LONG_S
    assert heartbeat.stat().st_mtime == 0, "nothing touches it meanwhile"


def test_a_start_is_over_when_its_ranker_lets_its_schema_go(log: Callable[..., Path], tmp_path: Path) -> None:
    folder = log()
    [start] = starts_in(tmp_path / "log")
    assert start == Start("students", "20261101T000000-pod-a-7", folder)
    with (folder / "schema.json").open("rb") as schema:
        fcntl.flock(schema, fcntl.LOCK_EX)
        assert start.is_open()
    assert not start.is_open()


@pytest.mark.parametrize("every_s", ["0", "3601", "1.5", "soon"])
def test_a_pause_out_of_bounds_is_refused(every_s: str) -> None:
    command = [*COMMAND, "--folder", "a", "--to", "b", f"--every-s={every_s}"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert f"'{every_s}', expected whole seconds, 1 to 3600" in done.stderr


def test_an_exporter_imports_nothing_that_takes_a_rankers_memory() -> None:
    code = "import sys, exfm.serving.exporter; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "fsspec" in modules
    assert not {"torch", "polars", "pyarrow", "numpy"} & {*modules}


@pytest.mark.slow
@pytest.mark.parametrize("code", [403, 503])
def test_files_wait_while_the_store_refuses_them(
    log: Callable[..., Path],
    tmp_path: Path,
    bucket: str,
    faulty_s3: FaultyS3,
    caplog: pytest.LogCaptureFixture,
    code: int,
) -> None:
    start, to = log("first", "second"), join(bucket, "requests")
    one = Exporter(tmp_path / "log", to)
    faulty_s3.refuse("PUT", "impressions-0001", code=code)
    assert one.export() == 1
    assert uploaded(to) == ["first"]
    assert [file.read_text() for file in (start / "impressions").iterdir()] == ["second"]
    assert "1 files of " in caplog.text
    faulty_s3.refuse("PUT", "", code=code, times=0)
    assert one.export() == 0
    assert uploaded(to) == ["first", "second"]


def test_an_exporter_that_is_told_to_stop_ends_once_its_ranker_has_and_all_is_uploaded(
    log: Callable[..., Path], tmp_path: Path
) -> None:
    folder, to = log("first"), str(tmp_path / "to")
    with (folder / "schema.json").open("rb") as schema:
        fcntl.flock(schema, fcntl.LOCK_EX)
        process = subprocess.Popen([*COMMAND, "--folder", str(tmp_path / "log"), "--to", to, "--every-s", "3600"])
        wait_for(lambda: uploaded(to) == ["first"])
        process.send_signal(signal.SIGTERM)
        (folder / "impressions" / "impressions-0001.parquet").write_text("last")
        wait_for(lambda: uploaded(to) == ["first", "last"])
        assert process.poll() is None
        partial = folder / ".impressions-0002.parquet.partial"
        partial.write_text("very last")
        partial.rename(folder / "impressions" / "impressions-0002.parquet")
    assert process.wait(LONG_S) == 0
    assert uploaded(to) == ["first", "last", "very last"]
