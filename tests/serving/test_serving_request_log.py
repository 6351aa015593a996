"""A ranker logs requests with their answers, as impressions, and answers as if it did not."""

import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
import tritonclient.grpc
from pods import LONG_S, Pods, wait_for
from prometheus_client import REGISTRY
from serving_requests import grpc_inputs, make_request, scores_of

from exfm.artifact.bundle import BundleManifest
from exfm.bundling.counting import statistics_of_log
from exfm.bundling.request_log import LoggedRequests
from exfm.das.log_tables import Das
from exfm.das.stages import ingest
from exfm.errors import ConfigError, RequestError
from exfm.events.log import FEEDBACK, IMPRESSIONS
from exfm.events.parquet import LogSource
from exfm.features.impressions import ImpressionsFile
from exfm.features.oip import tensors_from_json
from exfm.schema import Schema
from exfm.serving.config import RequestLogConfig
from exfm.serving.exporter import starts_in
from exfm.serving.oip.rest.client import infer
from exfm.serving.ranker import backlog, request_log
from exfm.serving.ranker.request_log import LOGGED_AS, RequestLog
from exfm.serving.requests.call import Answer

TWO_USERS = make_request(num_candidates=[2, 4])
TENSORS = tensors_from_json(TWO_USERS)
ANSWER = Answer(
    outputs={task: np.linspace(0, 1, 6, dtype=np.float32) for task in ("like", "love")},
    parameters={"degraded": False, "degraded_tables": ""},
)


@pytest.fixture
def manifest(bundle: Path) -> BundleManifest:
    return BundleManifest.read(bundle, verify=False)


@pytest.fixture
def start(manifest: BundleManifest, tmp_path: Path) -> Callable[..., RequestLog]:
    """Return what starts a log below the test's folder, of all requests if not told otherwise."""

    def start(**settings: Any) -> RequestLog:
        config = {"folder": str(tmp_path / "log"), "domain": "shop", "sampling_rate": 1.0} | settings
        return RequestLog(manifest, RequestLogConfig.parse(config, source="test"))

    return start


def offer(log: RequestLog, num_requests: int = 1) -> list[Any]:
    """Return what so many answers say that they are logged as."""
    answers = [log.logged(TENSORS, ANSWER, arrival_ns=1_700_000_000 * 10**9 + index) for index in range(num_requests)]
    return [answer.parameters.get(LOGGED_AS) for answer in answers]


def files_of(folder: Path) -> list[Path]:
    return sorted(folder.glob("log/*/impressions/*"))


def rows_of(folder: Path) -> pl.DataFrame:
    return pl.concat([pl.read_parquet(file) for file in files_of(folder)])


def count_of(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(f"exfm_ranker_{name}_requests_total", labels) or 0.0


def test_each_candidate_of_each_request_is_an_impression_of_its_own(
    start: Callable[..., RequestLog], tmp_path: Path
) -> None:
    before = count_of("logged")
    log = start()
    told = offer(log, 3)
    log.close()
    assert count_of("logged") == before + 3
    rows = rows_of(tmp_path)
    assert rows["impression_id"].to_list() == [f"{one}-{place}" for one in told for place in range(6)]
    assert rows["impression_id"].n_unique() == 18
    assert rows["score.love"].to_list() == ANSWER.outputs["love"].tolist() * 3


def test_two_starts_give_no_impression_the_same_id(start: Callable[..., RequestLog], tmp_path: Path) -> None:
    logs = [start(folder=str(tmp_path / name)) for name in ("a", "b")]
    assert offer(logs[0]) != offer(logs[1])
    for log in logs:
        log.close()


def test_a_share_of_the_requests_is_logged_at_random_and_the_others_are_told_nothing(
    start: Callable[..., RequestLog], tmp_path: Path
) -> None:
    log = start(sampling_rate=0.25)
    told = offer(log, 2_000)
    log.close()
    num_told = sum(one is not None for one in told)
    assert num_told == pytest.approx(500, abs=116)  # six standard deviations
    rows = rows_of(tmp_path)
    assert rows.height == 6 * num_told
    assert set(rows["served.sampling_rate"]) == {0.25}
    assert rows["served.arrival_ns"].unique().sort().diff().n_unique() > 4  # not every fourth


def test_a_request_without_candidates_is_no_impression(start: Callable[..., RequestLog], tmp_path: Path) -> None:
    log = start()
    nothing = Answer(outputs={"like": np.empty(0, dtype=np.float32)}, parameters=ANSWER.parameters)
    tensors = tensors_from_json(make_request(num_candidates=[0]))
    assert log.logged(tensors, nothing, arrival_ns=1) == nothing
    log.close()
    assert files_of(tmp_path) == []


def test_finished_files_may_be_taken_while_the_log_goes_on(
    start: Callable[..., RequestLog], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backlog, "POLL_S", 0.01)
    log = start(file_s=1)
    first = offer(log)
    wait_for(lambda: len(files_of(tmp_path)) == 1)
    taken = pl.read_parquet(files_of(tmp_path)[0].rename(tmp_path / "taken"))
    second = offer(log)
    log.close()
    assert taken["impression_id"][0] == f"{first[0]}-0"
    assert [file.name for file in files_of(tmp_path)] == ["impressions-0001.parquet"]
    assert rows_of(tmp_path)["impression_id"][0] == f"{second[0]}-0"


def test_an_exporter_sees_whether_files_may_still_come(start: Callable[..., RequestLog], tmp_path: Path) -> None:
    log = start()
    offer(log)
    [of_start] = starts_in(tmp_path / "log")
    assert (of_start.is_open(), of_start.files()) == (True, [])
    log.close()
    assert (of_start.is_open(), of_start.files()) == (False, files_of(tmp_path))
    assert files_of(tmp_path)


def test_a_file_that_is_full_is_finished(
    start: Callable[..., RequestLog], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request_log, "BLOCK_REQUESTS", 2)
    monkeypatch.setattr(request_log, "FILE_BYTES", 1)
    log = start()
    offer(log, 5)
    log.close()
    assert [pl.read_parquet(file).height for file in files_of(tmp_path)] == [12, 12, 6]


def test_requests_that_come_faster_than_they_are_written_are_dropped_counted_and_not_told(
    start: Callable[..., RequestLog], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = count_of("unlogged", reason="full")
    monkeypatch.setattr(backlog, "POLL_S", 60.0)  # the thread does not look before the end
    monkeypatch.setattr(request_log, "MAX_WAITING_BYTES", 5_000)
    log = start()
    told = offer(log, 50)
    log.close()
    num_told = sum(one is not None for one in told)
    assert 1 < num_told < 10
    assert count_of("unlogged", reason="full") == before + 50 - num_told
    assert rows_of(tmp_path)["impression_id"].to_list() == [f"{one}-{n}" for one in told[:num_told] for n in range(6)]


def test_a_request_whose_rows_would_be_too_large_is_not_logged(
    start: Callable[..., RequestLog], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = count_of("unlogged", reason="large")
    monkeypatch.setattr(request_log, "MAX_REQUEST_BYTES", 1_000)
    log = start()
    assert offer(log) == [None]
    log.close()
    assert count_of("unlogged", reason="large") == before + 1


def test_the_rows_of_a_request_are_never_larger_than_they_are_taken_for(
    start: Callable[..., RequestLog], schema: Schema, tmp_path: Path
) -> None:
    log = start()
    offer(log)
    log.close()
    features = rows_of(tmp_path).select(schema.feature_names())
    assert log._bytes_of_rows(TENSORS, ANSWER) >= sum(
        len(str(value)) if isinstance(value, str) else 4
        for row in features.rows()
        for entry in row
        for value in (entry if isinstance(entry, list) else [entry])
    )


def test_a_full_folder_pauses_the_log_until_files_are_taken(
    start: Callable[..., RequestLog], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    before = count_of("unlogged", reason="paused")
    monkeypatch.setattr(backlog, "POLL_S", 0.01)
    monkeypatch.setattr(request_log, "ROOM_BYTES", 32 * 2**20)  # the settings' least: any file is in the way
    log = start(file_s=1, max_mib=32)
    assert offer(log) != [None]
    wait_for(lambda: "no room for another file; move files away from" in caplog.text)
    assert offer(log) == [None]
    assert count_of("unlogged", reason="paused") == before + 1
    files_of(tmp_path)[0].unlink()
    wait_for(lambda: offer(log) != [None])
    log.close()
    assert rows_of(tmp_path).height == 6
    assert caplog.text.count("no room for another file; move files away") == 2  # each time there was a file


@pytest.fixture
def of_an_earlier_start(tmp_path: Path) -> Callable[[int], Path]:
    """Return what makes the folder of a start of this host, in a process of that number."""

    def make(pid: int) -> Path:
        folder = tmp_path / "log" / f"students-20261101T000000-{socket.gethostname()}-{pid}"
        (folder / "impressions").mkdir(parents=True)
        return folder

    return make


def write_mib(path: Path, size_mib: int) -> Path:
    with path.open("wb") as file:
        file.truncate(size_mib * 2**20)
    return path


def test_what_killed_starts_had_begun_to_write_takes_no_room_for_ever(
    start: Callable[..., RequestLog], of_an_earlier_start: Callable[[int], Path]
) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    name = ".impressions-0000.parquet.partial"
    stale = [write_mib(of_an_earlier_start(pid) / name, 20) for pid in (ended.pid, os.getpid())]
    alive = write_mib(of_an_earlier_start(os.getppid()) / name, 1)
    log = start(max_mib=32)
    assert offer(log) != [None]
    log.close()
    assert [path.exists() for path in (*stale, alive)] == [False, False, True]


def test_a_start_without_room_logs_nothing_until_there_is_some(
    start: Callable[..., RequestLog], of_an_earlier_start: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = count_of("unlogged", reason="paused")
    monkeypatch.setattr(backlog, "POLL_S", 0.01)
    full = write_mib(of_an_earlier_start(os.getppid()) / "impressions" / "impressions-0000.parquet", 20)
    log = start(file_s=1, max_mib=32)
    assert offer(log) == [None]
    assert count_of("unlogged", reason="paused") == before + 1
    full.unlink()
    wait_for(lambda: offer(log) != [None])
    log.close()


def test_requests_of_which_no_rows_can_be_made_are_counted_and_cost_no_others(
    start: Callable[..., RequestLog], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed, logged = count_of("unlogged", reason="failed"), count_of("logged")
    monkeypatch.setattr(backlog, "POLL_S", 0.01)
    made = request_log.table_of

    def without_memory(*_: Any) -> pa.Table:
        monkeypatch.setattr(request_log, "table_of", made)
        raise pa.ArrowMemoryError("no memory")

    monkeypatch.setattr(request_log, "table_of", without_memory)
    log = start(file_s=1)
    offer(log, 2)
    wait_for(lambda: count_of("unlogged", reason="failed") == failed + 2)
    offer(log, 3)
    log.close()
    assert count_of("logged") == logged + 3
    assert rows_of(tmp_path).height == 6 * 3


def test_requests_that_cannot_be_written_are_counted_and_no_error_of_the_ranker(
    start: Callable[..., RequestLog], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    before = count_of("unlogged", reason="failed")
    monkeypatch.setattr(backlog, "POLL_S", 60.0)
    log = start()
    shutil.rmtree(tmp_path / "log")
    offer(log, 2)
    log.close()
    assert count_of("unlogged", reason="failed") == before + 2
    assert "2 requests are lost to the log, which pauses" in caplog.text


def test_after_a_failure_the_log_goes_on_when_the_next_file_is_due(
    start: Callable[..., RequestLog], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backlog, "POLL_S", 0.01)
    before = count_of("unlogged", reason="failed")
    log = start(file_s=1)
    (folder,) = (tmp_path / "log").iterdir()
    folder.rename(tmp_path / "away")
    offer(log)
    wait_for(lambda: count_of("unlogged", reason="failed") == before + 1)
    (tmp_path / "away").rename(folder)
    wait_for(lambda: offer(log) != [None])
    log.close()
    assert rows_of(tmp_path).height == 6


def test_a_folder_that_cannot_be_written_is_refused_at_the_start(
    start: Callable[..., RequestLog], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"request_log\.folder: .*/file/.*Not a directory"):
        start(folder=str(tmp_path / "file"))


def test_a_model_whose_requests_tell_no_domain_is_refused_at_the_start(start: Callable[..., RequestLog]) -> None:
    with pytest.raises(ConfigError, match=r"request_log\.folder: the domain 'domain' is no feature of the model"):
        start(domain="")


def test_taking_a_request_waits_for_nothing(
    start: Callable[..., RequestLog], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backlog, "POLL_S", 0.01)
    monkeypatch.setattr(request_log, "BLOCK_REQUESTS", 1)
    is_writing, may_write = threading.Event(), threading.Event()
    add = ImpressionsFile.add

    def add_when_allowed(file: ImpressionsFile, rows: pa.Table) -> None:
        is_writing.set()
        assert may_write.wait(LONG_S)
        add(file, rows)

    monkeypatch.setattr(ImpressionsFile, "add", add_when_allowed)
    log = start()
    told = offer(log)
    assert is_writing.wait(LONG_S)
    told += offer(log, 99)  # while the thread is stuck in its write
    may_write.set()
    log.close()
    assert rows_of(tmp_path)["impression_id"].to_list() == [f"{one}-{place}" for one in told for place in range(6)]


@pytest.mark.slow
def test_what_a_ranker_answers_becomes_impressions_that_feedback_joins(
    bundle: Path, pods: Pods, schema: Schema, tmp_path: Path
) -> None:
    shards = [pods.shard(bundle, shard).lookup_address for shard in range(2)]
    settings = {"request_log": {"folder": str(tmp_path / "log"), "domain": "shop", "sampling_rate": 1.0}}
    ranker = pods.ranker(bundle, shards, settings=settings)
    ranker.wait_until_ready()
    began_s = int(time.time())
    with pytest.raises(RequestError, match="unknown output 'hate'"):  # and so no impression
        infer(ranker.rest_url, "students", TWO_USERS | {"outputs": [{"name": "hate"}]})
    with pytest.raises(RequestError, match="parameter 'shown' is -1, expected a whole number of candidates, 0 or more"):
        infer(ranker.rest_url, "students", TWO_USERS | {"parameters": {"shown": -1}})
    of_love = {"outputs": [{"name": "love"}], "parameters": {"shown": 6}}
    by_rest = infer(ranker.rest_url, "students", TWO_USERS | of_love)
    with tritonclient.grpc.InferenceServerClient(ranker.grpc_address) as client:
        by_grpc = client.infer("students", grpc_inputs(TWO_USERS), parameters={"shown": 6}).get_response()
    assert ranker.counted("exfm_ranker_logged_requests_total") == 0  # waiting for others
    ranker.server.process.send_signal(signal.SIGTERM)
    assert ranker.exit_code() == 0

    told = [by_rest["parameters"]["logged_as"], by_grpc.parameters["logged_as"].string_param]
    liked = pl.DataFrame({"impression_id": [f"{told[1]}-5"], "event_time_s": [began_s + 60], "kind": ["rating"]})
    liked.write_parquet(tmp_path / "feedback.parquet")
    (log,) = (tmp_path / "log").iterdir()
    source = LogSource(impressions=f"{log}/impressions/*.parquet", feedback=str(tmp_path / "feedback.parquet"))
    served = Schema.read(log / "schema.json")
    assert served == schema.model_copy(update={"shown": "served.is_shown"})
    das = Das(root=str(tmp_path / "root"), schema=served, window_length=3600)
    list(ingest(das, source))
    impressions, feedback = (
        table.read(table.files) for table in (das.table(part, {}).state() for part in (IMPRESSIONS, FEEDBACK))
    )
    assert (impressions.height, feedback.height) == (12, 1)

    rows = impressions.sort("impression_id")
    assert set(rows["event_time_s"].dt.epoch("s")) <= set(range(began_s, int(time.time()) + 1))
    assert set(rows["domain"]) == {"shop"}
    for one in told:
        of_request = rows.filter(pl.col("impression_id").str.starts_with(f"{one}-"))
        assert of_request["impression_id"].to_list() == [f"{one}-{place}" for place in range(6)]
        assert of_request["user_id"].to_list() == [7, 7, 8, 8, 8, 8]
        assert of_request["age"].to_list() == [30.0, 30.0, 31.0, 31.0, 31.0, 31.0]
        assert of_request["occupation"].to_list() == ["student"] * 6
        assert of_request["liked_items"].to_list() == [[0, 1]] * 2 + [[0, 1, 2]] * 4
        assert of_request["disliked_items"].to_list() == [[]] * 6
        assert of_request["item_id"].to_list() == [0, 3, 6, 9, 12, 15]
        assert of_request["genres"].to_list() == [["Drama"], ["Drama", "Comedy"]] * 3
    assert feedback.join(rows, on="impression_id")["item_id"].to_list() == [15]

    scored = rows_of(tmp_path)
    assert set(scored["served.model"]) == {"students"}
    assert set(scored["served.bundle_id"]) == {by_rest["model_version"]}
    assert scored["served.user"].to_list() == [0, 0, 1, 1, 1, 1] * 2
    assert set(scored["served.degraded"]) == {False}
    assert scored["score.love"][:6].to_list() == scores_of(by_rest)["love"]
    np.testing.assert_array_equal(scored["score.like"][:6], scored["score.like"][6:])

    counted = statistics_of_log(LoggedRequests.find(tmp_path / "log", schema)).statistics
    assert (counted.num_requests, counted.candidates_mean) == (2, 6)
    genre, user = (next(table for table in counted.tables if table.name == name) for name in ("genre", "user"))
    assert (genre.bags_per_request, genre.keys_per_request) == (6, 9)
    assert (user.bags_per_request, user.keys_per_request) == (2, 2)
