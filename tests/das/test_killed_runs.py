"""Whatever stops a run, and wherever: the next one goes on, and leaves the rows of a run that nothing disturbed."""

import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import polars as pl
import pytest
import yaml
from delta_logs import items, unreferenced
from growing_log import CONFIG, DAY_S, SCHEMA, GrowingLog, assert_same, das_at, rows_of
from small_log import SmallLog, run, small_das
from taught_log import write_week

from exfm.artifact.storage import MANIFEST, Ref
from exfm.das.advance import advance
from exfm.das.log_tables import Das
from exfm.errors import StorageError
from exfm.events.parquet import LogSource
from faulty_s3 import running_faulty_s3

pytestmark = pytest.mark.slow

Rows = dict[str, pl.DataFrame]


def assert_done_once(das: Das, expected: Rows) -> None:
    """Assert that the tables have these rows, that nothing was committed twice, and that no file is left over."""
    assert_same(rows_of(das), expected)
    done = items(das)
    assert done
    assert {item: count for item, count in done.items() if count > 1} == {}
    assert unreferenced(das) == set()


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> GrowingLog:
    log = GrowingLog(tmp_path_factory.mktemp("log"), days=6, rows_a_day=40)
    log.arrive_all()
    return log


@pytest.fixture(scope="module")
def undisturbed(log: GrowingLog, tmp_path_factory: pytest.TempPathFactory) -> Rows:
    das = das_at(tmp_path_factory.mktemp("undisturbed"))
    list(advance(das, log.source, foundation_models={}))
    return rows_of(das)


@pytest.fixture(scope="module")
def undisturbed_by_command(log: GrowingLog, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the root that the command leaves."""
    folder = tmp_path_factory.mktemp("command")
    subprocess.run(command(folder, log), check=True, capture_output=True)
    return folder / "root"


def command(folder: Path, log: GrowingLog) -> list[str]:
    """Return a command that advances a log and tiny models, with its root in a folder."""
    network = {"bottom_units": [], "num_cross_layers": 1, "cross_rank": 2, "top_units": [4]}
    model = {"model": {"network": network}, "training": {"batch_size": 16}}
    settings = {
        "name": "test",
        "root": str(folder / "root"),
        "feature_schema": SCHEMA.to_dict(),
        "source": log.source.to_dict(),
        "window_length": DAY_S,
        "foundation_models": [{"name": "fm"} | model],
        "vertical_models": [{"name": "vm", "domains": ["all"]} | model],
        "das": CONFIG.to_dict(),
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    program = "from exfm.cli.main import main; main()"
    return [sys.executable, "-c", program, "das", "advance", "-c", str(folder / "run.yaml")]


def states(root: Path) -> dict[str, bytes]:
    """Return all files of models' states."""
    files = [path for path in (root / "models").rglob("*") if path.is_file()]
    return {str(path.relative_to(root)): path.read_bytes() for path in files if path.name != MANIFEST}


def test_a_run_that_is_stopped_at_any_step_is_gone_on_with(tmp_path: Path, foundation: Ref) -> None:
    log, stopped = write_week(tmp_path / "log", days=3, repeat=True), tmp_path / "stopped"
    num_steps = 0

    def keep(step: str) -> None:
        """Keep the tables as a process leaves them that stops here."""
        nonlocal num_steps
        num_steps += 1
        if (root := tmp_path / "root").exists():
            shutil.copytree(root, stopped / f"{num_steps:03d}")

    das = small_das(tmp_path / "root", on_step=keep)
    run(das, log, until=4, fm=foundation)
    expected = rows_of(das)
    assert expected["pseudo_labels"].drop_nulls().height == 40
    assert_done_once(das, expected)
    roots = sorted(stopped.iterdir())
    assert len(roots) == num_steps - 1 > 40
    for root in roots:
        again = small_das(root)
        run(again, log, until=4, fm=foundation)
        assert_done_once(again, expected)
        shutil.rmtree(root)


def test_three_kills_leave_the_rows_and_states_of_an_undisturbed_run(
    tmp_path: Path, log: GrowingLog, undisturbed_by_command: Path
) -> None:
    moments, again = random.Random(1), command(tmp_path, log)
    for _ in range(3):
        process = subprocess.Popen(again, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        for _ in range(moments.randint(1, 12)):
            assert process.stdout.readline()
        time.sleep(moments.uniform(0, 0.1))
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        process.stdout.close()
    subprocess.run(again, check=True, capture_output=True)
    assert_done_once(das_at(tmp_path / "root"), rows_of(das_at(undisturbed_by_command)))
    assert states(tmp_path / "root") == states(undisturbed_by_command)


def test_two_processes_on_one_root_do_each_item_once(
    tmp_path: Path, log: GrowingLog, undisturbed_by_command: Path
) -> None:
    both = [subprocess.Popen(command(tmp_path, log), stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert_done_once(das_at(tmp_path / "root"), rows_of(das_at(undisturbed_by_command)))
    assert states(tmp_path / "root") == states(undisturbed_by_command)
    stages = ("ingest: ", "label: ", "pseudo-label ", "join: ", "predict ", "train-fm ", "train-vm ", "report: ")
    done = [line for text in said for line in text.splitlines() if line.startswith(stages)]
    assert done
    assert len(done) == len(set(done))


def test_a_process_that_lags_behind_another_one_does_nothing_twice(
    tmp_path: Path, log: GrowingLog, undisturbed: Rows
) -> None:
    """The one that lags has listed its files, and knows the watermark before them."""
    other = das_at(tmp_path)

    def overtake(step: str) -> None:
        if not list(tmp_path.iterdir()):
            list(advance(other, log.source, foundation_models={}))

    das = das_at(tmp_path, on_step=overtake)
    assert list(advance(das, log.source, foundation_models={})) == []
    assert_done_once(das, undisturbed)


@contextmanager
def largest_file(size_bytes: int) -> Iterator[None]:
    """Let no file of this process grow over a size, as on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_one_error_and_with_space_the_run_goes_on(
    tmp_path: Path, log: GrowingLog, undisturbed: Rows
) -> None:
    das = das_at(tmp_path)
    for size_bytes in (100, 1_700, 2_500):
        with pytest.raises(StorageError, match=f"{tmp_path}/tables/.*") as raised, largest_file(size_bytes):
            list(advance(das, log.source, foundation_models={}))
        assert "\n" not in str(raised.value)
    list(advance(das, log.source, foundation_models={}))
    assert_done_once(das, undisturbed)


def test_a_log_and_tables_on_s3_leave_the_rows_of_a_disk(bucket: str, log: GrowingLog, undisturbed: Rows) -> None:
    from s3fs import S3FileSystem

    for part in ("impressions", "feedback"):
        S3FileSystem().put(str(log.folder / part), f"{bucket}/log/{part}", recursive=True)
    source = LogSource(impressions=f"{bucket}/log/impressions", feedback=f"{bucket}/log/feedback")
    das = Das(root=f"{bucket}/run", schema=SCHEMA, window_length=DAY_S, config=CONFIG)
    list(advance(das, source, foundation_models={}))
    assert_done_once(das, undisturbed)
    assert list(advance(das, source, foundation_models={})) == []


@pytest.mark.parametrize(("method", "part"), [("PUT", "window="), ("PUT", "_delta_log"), ("GET", "tables/")])
def test_an_s3_that_is_away_is_one_error_and_once_it_answers_the_run_goes_on(
    bucket: str, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, method: str, part: str
) -> None:
    from s3fs import S3FileSystem

    log, das, on_disk = SmallLog(tmp_path / "log"), small_das(f"{bucket}/run"), small_das(tmp_path / "root")
    log.show("1", (1, 0.1), (2, 0.9))
    log.react("1", (1, 0.2))
    with running_faulty_s3(s3_endpoint) as store:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{store.server_port}")
        S3FileSystem.clear_instance_cache()
        run(das, log)
        store.refuse(method, part, code=503)
        with pytest.raises(StorageError, match=f"{bucket}/run/tables/.*") as raised:
            run(das, log, until=2)
        assert "\n" not in str(raised.value)
        store.refuse(method, part, code=503, times=0)
        run(das, log, until=2)
    run(on_disk, log)
    run(on_disk, log, until=2)
    assert rows_of(on_disk)["examples"].height == 2
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_endpoint)
    S3FileSystem.clear_instance_cache()
    assert_done_once(das, rows_of(on_disk))
