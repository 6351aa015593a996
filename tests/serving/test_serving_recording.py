"""A ranker records the requests that it gets, and answers as if it did not."""

import shutil
import signal
import socket
import threading
import time
from pathlib import Path

import httpx
import numpy as np
import pytest
from pods import LONG_S, Pods, wait_for
from prometheus_client import REGISTRY
from serving_requests import make_request

from exfm.artifact.bundle import BundleManifest
from exfm.artifact.trace import Requests, Trace, TraceWriter
from exfm.errors import ConfigError
from exfm.features.batch import NetBatches
from exfm.features.oip import tensors_from_json
from exfm.features.request import encode_request
from exfm.schema import Schema
from exfm.serving.client import ask
from exfm.serving.config import RankerConfig
from exfm.serving.ranker import backlog, recorder
from exfm.serving.ranker.recorder import Recorder
from exfm.sharding.counting import statistics_of_trace

TWO_USERS = make_request(num_candidates=[2, 4])


@pytest.fixture
def batches(schema: Schema) -> NetBatches:
    return encode_request(tensors_from_json(TWO_USERS), schema)


@pytest.fixture
def manifest(bundle: Path) -> BundleManifest:
    return BundleManifest.read(bundle, verify=False)


def record(manifest: BundleManifest, config: RankerConfig, batches: NetBatches, num_requests: int) -> None:
    """Offer a request so many times, a microsecond apart, and write what was taken."""
    recording = Recorder.start(manifest, config)
    assert recording is not None
    for index in range(num_requests):
        recording.offer(batches, arrival_ns=1_000 * index)
    recording.close()


def count_of(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(f"{name}_total", labels) or 0.0


def test_nothing_is_recorded_by_default(manifest: BundleManifest) -> None:
    assert Recorder.start(manifest, RankerConfig()) is None


def test_requests_are_recorded_with_all_their_keys(
    manifest: BundleManifest, batches: NetBatches, schema: Schema, tmp_path: Path
) -> None:
    before = count_of("exfm_ranker_recorded_requests")
    record(manifest, RankerConfig(trace_folder=str(tmp_path / "new" / "traces")), batches, 3)
    assert count_of("exfm_ranker_recorded_requests") == before + 3
    (requests,) = Trace.read(tmp_path).blocks()
    assert requests.arrival_ns.tolist() == [0, 1_000, 2_000]
    assert {net: counts.tolist() for net, counts in requests.num_rows.items()} == {"user": [2] * 3, "item": [6] * 3}
    for feature in schema.sparse:
        bags = batches.of(feature.net).bags[feature.name]
        np.testing.assert_array_equal(requests.keys[feature.name], np.tile(bags.keys, 3))
        np.testing.assert_array_equal(requests.lengths[feature.name], np.tile(bags.lengths, 3))


def test_traces_of_several_pods_are_one_when_copied_into_one_folder(
    manifest: BundleManifest, batches: NetBatches, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for pod in ("ranker-a", "ranker-b"):
        monkeypatch.setattr(socket, "gethostname", lambda pod=pod: pod)
        record(manifest, RankerConfig(trace_folder=str(tmp_path / pod)), batches, 3)
        shutil.copytree(tmp_path / pod, tmp_path / "copied", dirs_exist_ok=True)
    assert Trace.read(tmp_path / "copied").num_requests == 6


def test_a_file_holds_no_more_requests_than_it_may(
    manifest: BundleManifest, batches: NetBatches, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "FILE_REQUESTS", 2)
    record(manifest, RankerConfig(trace_folder=str(tmp_path)), batches, 5)
    assert [len(block) for block in Trace.read(tmp_path).blocks()] == [2, 2, 1]


def test_requests_that_fill_no_file_are_written_after_a_while(
    manifest: BundleManifest, batches: NetBatches, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "FLUSH_S", 0.0)
    monkeypatch.setattr(backlog, "POLL_S", 0.01)
    recording = Recorder.start(manifest, RankerConfig(trace_folder=str(tmp_path)))
    assert recording is not None
    recording.offer(batches, arrival_ns=1)
    wait_for(lambda: len(list(tmp_path.rglob("requests-*.safetensors"))) == 1)
    recording.close()
    assert Trace.read(tmp_path).num_requests == 1


def test_no_more_requests_are_recorded_than_asked_for(
    manifest: BundleManifest, batches: NetBatches, tmp_path: Path
) -> None:
    record(manifest, RankerConfig(trace_folder=str(tmp_path), trace_max_requests=4), batches, 9)
    assert Trace.read(tmp_path).arrivals_ns().tolist() == [0, 1_000, 2_000, 3_000]


def test_no_more_bytes_are_recorded_than_asked_for(
    manifest: BundleManifest, batches: NetBatches, tmp_path: Path
) -> None:
    record(manifest, RankerConfig(trace_folder=str(tmp_path), trace_max_mib=1), batches, 5_000)
    assert 500 < Trace.read(tmp_path).num_requests < 5_000
    assert 2**19 < sum(file.stat().st_size for file in tmp_path.rglob("requests-*")) < 2**20


@pytest.mark.parametrize(("before_kib", "is_recorded"), [(700, True), (1_024, False)])
def test_what_earlier_starts_of_the_host_left_counts(
    manifest: BundleManifest, batches: NetBatches, tmp_path: Path, before_kib: int, is_recorded: bool
) -> None:
    before = tmp_path / f"{manifest.name}-20260101T000000-{socket.gethostname()}-1"
    before.mkdir()
    (before / "requests-00000.safetensors").write_bytes(bytes(before_kib * 1024))
    record(manifest, RankerConfig(trace_folder=str(tmp_path), trace_max_mib=1), batches, 5_000)
    sizes = [file.stat().st_size for file in tmp_path.rglob("requests-*")]
    assert (len(sizes) > 1) == is_recorded
    assert sum(sizes) <= 2**20


def test_a_share_of_the_requests_is_recorded_at_random(
    manifest: BundleManifest, batches: NetBatches, tmp_path: Path
) -> None:
    record(
        manifest,
        RankerConfig(trace_folder=str(tmp_path), trace_sampling_rate=0.25, trace_max_requests=10**6),
        batches,
        2_000,
    )
    trace = Trace.read(tmp_path)
    assert trace.parts[0][1].sampling_rate == 0.25
    assert trace.num_requests == pytest.approx(500, abs=80)  # four standard deviations
    assert len(set(np.diff(trace.arrivals_ns()))) > 4


def test_requests_that_come_faster_than_they_are_written_are_dropped_and_counted(
    manifest: BundleManifest, batches: NetBatches, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = count_of("exfm_ranker_dropped_requests", reason="full")
    num_values = sum(len(b.keys) + len(b.offsets) for of in (batches.user, batches.item) for b in of.bags.values())
    monkeypatch.setattr(recorder, "MAX_WAITING_VALUES", 3 * num_values)
    monkeypatch.setattr(backlog, "POLL_S", 60.0)  # the thread does not look before the end
    record(manifest, RankerConfig(trace_folder=str(tmp_path)), batches, 5)
    assert count_of("exfm_ranker_dropped_requests", reason="full") == before + 2
    assert Trace.read(tmp_path).num_requests == 3


def test_requests_that_cannot_be_written_are_counted_and_no_error_of_the_ranker(
    manifest: BundleManifest, batches: NetBatches, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = count_of("exfm_ranker_dropped_requests", reason="failed")
    monkeypatch.setattr(backlog, "POLL_S", 60.0)
    recording = Recorder.start(manifest, RankerConfig(trace_folder=str(tmp_path / "traces")))
    assert recording is not None
    shutil.rmtree(tmp_path / "traces")
    recording.offer(batches, arrival_ns=1)
    recording.close()
    assert count_of("exfm_ranker_dropped_requests", reason="failed") == before + 1


def test_a_folder_that_cannot_be_written_is_refused_at_the_start(manifest: BundleManifest, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"trace_folder: .*/file/"):
        Recorder.start(manifest, RankerConfig(trace_folder=str(tmp_path / "file")))


def test_taking_a_request_waits_for_nothing(
    manifest: BundleManifest, batches: NetBatches, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backlog, "POLL_S", 0.01)
    monkeypatch.setattr(recorder, "FILE_REQUESTS", 1)
    is_writing, may_write = threading.Event(), threading.Event()
    add = TraceWriter.add

    def add_when_allowed(writer: TraceWriter, requests: Requests) -> None:
        is_writing.set()
        assert may_write.wait(LONG_S)
        add(writer, requests)

    monkeypatch.setattr(TraceWriter, "add", add_when_allowed)
    recording = Recorder.start(manifest, RankerConfig(trace_folder=str(tmp_path)))
    assert recording is not None
    recording.offer(batches, arrival_ns=0)
    assert is_writing.wait(LONG_S)
    for index in range(1, 100):
        recording.offer(batches, arrival_ns=1_000 * index)  # while the thread is stuck in its write
    may_write.set()
    recording.close()
    assert Trace.read(tmp_path).num_requests == 100


@pytest.mark.slow
def test_a_ranker_records_what_clients_ask_and_no_golden_request(
    bundle: Path, pods: Pods, schema: Schema, tmp_path: Path
) -> None:
    shards = [pods.shard(bundle, shard).lookup_address for shard in range(2)]
    settings = {"trace_folder": str(tmp_path / "traces"), "trace_max_requests": 3}
    ranker = pods.ranker(bundle, shards, settings=settings)
    ranker.wait_until_ready()
    began_ns = time.time_ns()
    for _ in range(4):
        assert ask(ranker.rest_url, "students", TWO_USERS)["model_name"] == "students"
    assert "exfm_ranker_recorded_requests_total" in httpx.get(f"{ranker.rest_url}/metrics").text
    ranker.server.process.send_signal(signal.SIGTERM)
    assert ranker.exit_code() == 0

    trace = Trace.read(tmp_path / "traces")
    assert trace.num_requests == 3
    arrivals_ns = trace.arrivals_ns()
    assert began_ns < arrivals_ns[0] < arrivals_ns[1] < arrivals_ns[2] < time.time_ns()
    counted = statistics_of_trace(tmp_path / "traces", schema).statistics
    assert counted.candidates_mean == 6
    genre = next(table for table in counted.tables if table.name == "genre")
    assert (genre.bags_per_request, genre.keys_per_request) == (6, 9)
