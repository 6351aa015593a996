import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from exfm.artifact.storage import MANIFEST
from exfm.artifact.trace import Requests, Trace, TraceWriter, require_features
from exfm.errors import DataError, StorageError
from exfm.schema import Schema


def requests_of(schema: Schema, *arrival_ns: int) -> Requests:
    """Return requests of one user and two items each, with one key in each bag."""
    rows = {"user": 1, "item": 2}
    num_bags = {feature.name: rows[feature.net] * len(arrival_ns) for feature in schema.sparse}
    return Requests(
        arrival_ns=np.array(arrival_ns),
        num_rows={net: np.full(len(arrival_ns), count) for net, count in rows.items()},
        keys={name: np.arange(num, dtype=np.uint64) + np.uint64(2**64 - 100) for name, num in num_bags.items()},
        lengths={name: np.ones(num, dtype=np.int32) for name, num in num_bags.items()},
    )


def writer_of(folder: Path, schema: Schema, **changes: Any) -> TraceWriter:
    return TraceWriter(
        folder, **{"model": "students", "bundle_id": "b", "sampling_rate": 0.5, "schema": schema} | changes
    )


@pytest.fixture
def folder(tmp_path: Path, schema: Schema) -> Path:
    """Return a trace of three requests in two files."""
    writer = writer_of(tmp_path / "trace", schema)
    writer.add(requests_of(schema, 5, 7))
    writer.add(requests_of(schema, 9))
    return tmp_path / "trace"


def assert_same(found: Requests, expected: Requests) -> None:
    np.testing.assert_array_equal(found.arrival_ns, expected.arrival_ns)
    for part in ("num_rows", "keys", "lengths"):
        assert list(getattr(found, part)) == list(getattr(expected, part))
        for name, values in getattr(expected, part).items():
            assert getattr(found, part)[name].dtype == values.dtype
            np.testing.assert_array_equal(getattr(found, part)[name], values)


def test_requests_are_read_as_they_were_recorded(folder: Path, schema: Schema) -> None:
    trace = Trace.read(folder)
    assert trace.num_requests == 3
    assert trace.arrivals_ns().tolist() == [5, 7, 9]
    assert trace.features == {feature.name: feature.net for feature in schema.sparse}
    for found, expected in zip(trace.blocks(), [requests_of(schema, 5, 7), requests_of(schema, 9)], strict=True):
        assert_same(found, expected)


def test_a_trace_that_is_still_written_is_readable(tmp_path: Path, schema: Schema) -> None:
    writer = writer_of(tmp_path / "trace", schema)
    for num_requests in (1, 2, 3):
        writer.add(requests_of(schema, num_requests))
        assert Trace.read(tmp_path / "trace").num_requests == num_requests


def test_traces_below_a_folder_are_read_one_after_another(tmp_path: Path, schema: Schema) -> None:
    for name, arrival_ns in (("b", 1), ("a", 2)):
        writer_of(tmp_path / name, schema).add(requests_of(schema, arrival_ns))
    writer_of(tmp_path / "empty", schema)
    assert Trace.read(tmp_path).arrivals_ns().tolist() == [2, 1]


def test_a_folder_without_a_recorded_request_is_refused(tmp_path: Path, schema: Schema) -> None:
    with pytest.raises(StorageError, match="0 traces with a request; let a ranker record some"):
        Trace.read(tmp_path)
    writer_of(tmp_path / "trace", schema)
    with pytest.raises(StorageError, match="0 traces with a request, 1 without; let a ranker record some"):
        Trace.read(tmp_path)


def test_traces_of_other_features_are_not_read_together(tmp_path: Path, schema: Schema) -> None:
    less = schema.select(features=["user_id", "item_id"])
    for name, of_trace in (("a", schema), ("b", less)):
        writer_of(tmp_path / name, of_trace).add(requests_of(of_trace, 1))
    with pytest.raises(StorageError, match=r"/b and .*/a are traces of models with other features"):
        Trace.read(tmp_path)


def test_traces_of_other_models_are_not_read_together_though_their_features_are_alike(
    tmp_path: Path, schema: Schema
) -> None:
    for name, model in (("a", "students"), ("b", "nurses")):
        writer_of(tmp_path / name, schema, model=model).add(requests_of(schema, 1))
    problem = r"/b is a trace of model 'nurses', .*/a of 'students'; keep each model's in a folder of its own"
    with pytest.raises(StorageError, match=problem):
        Trace.read(tmp_path)


def test_traces_of_other_sampling_rates_are_not_read_together(tmp_path: Path, schema: Schema) -> None:
    for name, rate in (("a", 1.0), ("b", 0.01)):
        writer_of(tmp_path / name, schema, sampling_rate=rate).add(requests_of(schema, 1))
    problem = r"/b has a share of 0.01 of a ranker's requests, .*/a of 1, .*; count them apart, or record at one"
    with pytest.raises(StorageError, match=problem):
        Trace.read(tmp_path)
    assert Trace.read(tmp_path / "b").num_requests == 1


def test_a_trace_is_not_written_over(folder: Path, schema: Schema) -> None:
    with pytest.raises(StorageError, match="holds a trace already"):
        writer_of(folder, schema)


def test_a_damaged_file_is_named(folder: Path) -> None:
    file = folder / "requests-00001.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    blocks = Trace.read(folder).blocks()
    next(blocks)
    with pytest.raises(StorageError, match=r"requests-00001\.safetensors is damaged"):
        next(blocks)


def test_lengths_that_do_not_fit_the_keys_are_named(tmp_path: Path, schema: Schema) -> None:
    requests = requests_of(schema, 1)
    requests.lengths["genres"][:] = 3  # type: ignore[index]
    writer_of(tmp_path / "trace", schema).add(requests)
    with pytest.raises(
        StorageError, match="feature 'genres' has 2 bags for 2 rows of its net, and 2 keys where their lengths sum to 6"
    ):
        list(Trace.read(tmp_path / "trace").blocks())


@pytest.mark.parametrize("change", [{"format_version": 2}, {"sampling_rate": 0}, {"files": 3}])
def test_a_manifest_that_is_no_traces_is_named(change: dict[str, Any], folder: Path) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps(manifest | change))
    with pytest.raises(StorageError, match=next(iter(change))):
        Trace.read(folder)


def test_a_trace_without_a_schemas_feature_is_refused(tmp_path: Path, schema: Schema) -> None:
    less = schema.select(features=["user_id", "item_id"])
    writer_of(tmp_path / "trace", less).add(requests_of(less, 1))
    trace = Trace.read(tmp_path / "trace")
    require_features(trace, less)
    with pytest.raises(DataError, match="feature 'gender' of net 'user' is missing in the trace"):
        require_features(trace, schema)


def test_a_trace_that_cannot_be_written_says_where(tmp_path: Path, schema: Schema) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=f"{tmp_path}/file/trace"):
        writer_of(tmp_path / "file" / "trace", schema)
    writer = writer_of(tmp_path / "trace", schema)
    shutil.rmtree(tmp_path / "trace")
    with pytest.raises(StorageError, match=r"requests-00000\.safetensors: .*; make room, or let this user write there"):
        writer.add(requests_of(schema, 1))
