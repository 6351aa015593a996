"""A ranker's log is read as the requests that it was written of."""

import shutil
import tracemalloc
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exfm.bundling.request_keys import RequestKeys
from exfm.bundling.request_log import TYPES, LoggedRequests, highest_of
from exfm.errors import DataError, StorageError
from exfm.features.batch import NetBatches, encode
from exfm.features.impressions import Answered
from exfm.schema import NETS, Schema
from logged_requests import random_requests, write_log


def encoded(request: Answered, schema: Schema) -> NetBatches:
    """Return a request as a ranker encodes it."""
    return encode(request.raw.columns, schema, num_candidates=request.raw.num_candidates)


def assert_same(found: Sequence[RequestKeys], expected: Sequence[Answered], schema: Schema) -> None:
    arrivals_ns = [one.arrival_ns for one in expected]
    batches = [encoded(one, schema) for one in expected]
    assert np.concatenate([block.arrival_ns for block in found]).tolist() == arrivals_ns
    for net in NETS:
        num_rows = np.concatenate([block.num_rows[net] for block in found])
        assert num_rows.tolist() == [one.of(net).num_rows for one in batches]
    for feature in schema.sparse:
        bags = [one.of(feature.net).bags[feature.name] for one in batches]
        for part in ("keys", "lengths"):
            values = np.concatenate([getattr(block, part)[feature.name] for block in found])
            np.testing.assert_array_equal(values, np.concatenate([getattr(one, part) for one in bags]))


@pytest.mark.slow
@settings(max_examples=20)
@given(st.integers(0, 2**31), st.lists(st.lists(st.integers(1, 5), min_size=1, max_size=3), min_size=1, max_size=3))
def test_requests_are_read_as_they_were_encoded(
    schema: Schema, tmp_path_factory: pytest.TempPathFactory, seed: int, files: list[list[int]]
) -> None:
    requests = random_requests(schema, sum(map(sum, files)), seed=seed)
    left = iter(requests)
    blocks = [[[next(left) for _ in range(num)] for num in file] for file in files]
    log = LoggedRequests.find(write_log(tmp_path_factory.mktemp("log") / "start", schema, *blocks), schema)
    assert log.num_requests == len(requests)
    assert log.arrivals_ns.tolist() == [one.arrival_ns for one in requests]
    assert_same(list(log.blocks()), requests, schema)


def test_a_request_may_be_in_several_row_groups(schema: Schema, tmp_path: Path) -> None:
    requests = random_requests(schema, 20, seed=0)
    (file,) = write_log(tmp_path / "start", schema, [requests]).glob("impressions/*")
    pl.read_parquet(file).write_parquet(tmp_path / "again.parquet", row_group_size=2)
    assert_same(list(LoggedRequests.find(tmp_path / "again.parquet", schema).blocks()), requests, schema)


@pytest.mark.parametrize("place", ["", "a", "a/impressions", "a/impressions/impressions-0000.parquet"])
def test_a_log_is_a_file_or_all_files_of_a_folder(place: str, schema: Schema, tmp_path: Path) -> None:
    for seed, start in enumerate("ab" if not place else "a"):
        write_log(tmp_path / "logs" / start, schema, [random_requests(schema, 3, seed=seed)])
    log = LoggedRequests.find(tmp_path / "logs" / place, schema)
    assert log.num_requests == (3 if place else 6)


def test_a_file_that_is_still_written_does_not_count(schema: Schema, tmp_path: Path) -> None:
    start = write_log(tmp_path / "start", schema, [random_requests(schema, 3, seed=0)])
    (start / ".impressions-0001.parquet.partial").write_bytes(b"PAR1")
    assert LoggedRequests.find(tmp_path, schema).num_requests == 3


def test_of_a_long_log_the_newest_requests_are_read(
    schema: Schema, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new, old = random_requests(schema, 5, seed=0, first_ns=10**9), random_requests(schema, 5, seed=1)
    write_log(tmp_path / "start", schema, [new], [old])
    monkeypatch.setattr("exfm.bundling.request_log.MAX_REQUESTS", 7)
    log = LoggedRequests.find(tmp_path, schema)
    assert log.num_requests == 10
    assert log.arrivals_ns.tolist() == [one.arrival_ns for one in (*old[3:], *new)]
    assert_same(list(log.blocks()), [*new, *old[3:]], schema)


@given(st.lists(st.lists(st.integers(-(2**63), 2**63 - 1))), st.integers(1, 5))
def test_the_highest_numbers_of_some_parts_are_those_of_all(parts: list[list[int]], most: int) -> None:
    highest, num = highest_of((np.array(part, dtype=np.int64) for part in parts), most)
    together = sorted(chain.from_iterable(parts))
    assert (highest.tolist(), num) == (together[-most:], len(together))


def test_of_a_long_log_only_the_newest_arrivals_are_kept() -> None:
    parts = (np.arange(part, 10**6, 1_000) for part in range(1_000))
    tracemalloc.start()
    try:
        _, num = highest_of(parts, 1_000)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert num == 10**6
    assert peak_bytes < 200_000  # all are 8 MB


def test_of_requests_that_came_at_once_none_is_read_rather_than_some(
    schema: Schema, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = [replace(one, arrival_ns=max(one.arrival_ns, 2_000)) for one in random_requests(schema, 6, seed=0)]
    write_log(tmp_path / "start", schema, [requests])  # at 2, 2, 2, 3, 4 and 5 us
    monkeypatch.setattr("exfm.bundling.request_log.MAX_REQUESTS", 5)
    log = LoggedRequests.find(tmp_path, schema)
    assert_same(list(log.blocks()), requests[3:], schema)
    assert log.arrivals_ns.tolist() == [3_000, 4_000, 5_000]


def test_a_log_of_requests_that_all_came_at_once_is_refused(
    schema: Schema, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = [replace(one, arrival_ns=1) for one in random_requests(schema, 6, seed=0)]
    write_log(tmp_path / "start", schema, [requests])
    monkeypatch.setattr("exfm.bundling.request_log.MAX_REQUESTS", 5)
    with pytest.raises(DataError, match="the newest 6 requests have the same arrival time; name a log as a ranker"):
        LoggedRequests.find(tmp_path, schema)


def test_a_user_without_candidates_is_not_logged(schema: Schema, tmp_path: Path) -> None:
    (request,) = random_requests(schema, 1, seed=2)
    assert len(request.raw.num_candidates) > 1
    num_items = int(request.raw.num_candidates.sum())
    request.raw.num_candidates[:] = 0
    request.raw.num_candidates[-1] = num_items
    write_log(tmp_path / "start", schema, [[request]])
    (block,) = LoggedRequests.find(tmp_path, schema).blocks()
    assert {net: counts.tolist() for net, counts in block.num_rows.items()} == {"user": [1], "item": [num_items]}


def test_a_place_without_requests_is_refused(schema: Schema, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"/none: there is no such file or folder; name a request log"):
        LoggedRequests.find(tmp_path / "none", schema)
    with pytest.raises(StorageError, match="0 Parquet files, expected at least one; let a ranker log requests"):
        LoggedRequests.find(tmp_path, schema)
    (file,) = write_log(tmp_path / "start", schema, [random_requests(schema, 1, seed=0)]).glob("impressions/*")
    pl.read_parquet(file).clear().write_parquet(file)
    with pytest.raises(StorageError, match="0 requests in 1 Parquet files, expected at least one"):
        LoggedRequests.find(tmp_path, schema)


def test_a_file_that_was_copied_twice_is_refused(schema: Schema, tmp_path: Path) -> None:
    start = write_log(tmp_path / "a", schema, *([random_requests(schema, 3, seed=seed)] for seed in range(2)))
    copy = tmp_path / "b" / "again.parquet"
    copy.parent.mkdir()
    shutil.copy(start / "impressions" / "impressions-0001.parquet", copy)
    problem = (
        r"/impressions-0001\.parquet and .*/b/again\.parquet both start with impression '1-0-0', .* remove the copy"
    )
    with pytest.raises(DataError, match=problem):
        LoggedRequests.find(tmp_path, schema)


def test_a_trace_of_an_earlier_release_is_refused(schema: Schema, tmp_path: Path) -> None:
    (tmp_path / "students-1").mkdir()
    for name in ("manifest.json", "requests-0000.safetensors"):
        (tmp_path / "students-1" / name).touch()
    with pytest.raises(StorageError, match=r"0 Parquet files, .*; let a ranker log requests \(`request_log.folder`\)"):
        LoggedRequests.find(tmp_path, schema)


def test_a_log_of_an_earlier_release_is_refused(schema: Schema, tmp_path: Path) -> None:
    (file,) = write_log(tmp_path, schema, [random_requests(schema, 1, seed=0)]).glob("impressions/*")
    pl.read_parquet(file).drop(TYPES).write_parquet(file)
    with pytest.raises(
        DataError,
        match=r"-0000\.parquet: column 'served\.\w+' is missing; .*; name a log as a ranker wrote it",
    ):
        LoggedRequests.find(tmp_path, schema)


@pytest.mark.parametrize("content", [b"", b"no Parquet", b"PAR1" * 5])
def test_a_file_that_cannot_be_read_is_named(content: bytes, schema: Schema, tmp_path: Path) -> None:
    write_log(tmp_path / "start", schema, [random_requests(schema, 1, seed=0)])
    (tmp_path / "start" / "impressions" / "z.parquet").write_bytes(content)
    with pytest.raises(StorageError, match=r"/impressions/z\.parquet: no Parquet file that can be read; remove it"):
        LoggedRequests.find(tmp_path, schema)


def test_a_file_that_was_taken_away_meanwhile_is_named(schema: Schema, tmp_path: Path) -> None:
    start = write_log(tmp_path / "start", schema, [random_requests(schema, 1, seed=0)])
    log = LoggedRequests.find(tmp_path, schema)
    shutil.rmtree(start)
    with pytest.raises(StorageError, match=r"impressions-0000\.parquet: .*No such file"):
        list(log.blocks())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (pl.exclude("served.model"), "column 'served.model' is missing; the columns are "),
        (pl.exclude("genres"), "column 'genres' is missing"),
        (pl.exclude("impression_id"), "column 'impression_id' is missing"),
    ],
)
def test_a_log_without_a_column_is_refused(change: pl.Expr, message: str, schema: Schema, tmp_path: Path) -> None:
    check_is_refused(pl.DataFrame.select, change, message=message, schema=schema, folder=tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (pl.col("item_id").cast(pl.String), "column 'item_id' has ids of type string, expected int64"),
        (pl.col("genres").list.first(), "column 'genres' is string; a bag feature needs a list of ids a row"),
        (
            pl.int_range(pl.len()).alias("impression_id"),
            "'impression_id' is int64 with 0 nulls, expected string with",
        ),
        (pl.lit("x").alias("served.sampling_rate"), "'served.sampling_rate' is string with 0 nulls, expected double"),
        (pl.lit(None, pl.Int64).alias("served.user"), "'served.user' is int64 with [1-9][0-9]* nulls, expected int64"),
        (pl.all().shuffle(seed=0), "the rows of 5 requests are in [0-9]+ runs, expected one run per request"),
    ],
)
def test_a_log_of_another_kind_is_refused(change: pl.Expr, message: str, schema: Schema, tmp_path: Path) -> None:
    check_is_refused(pl.DataFrame.with_columns, change, message=message, schema=schema, folder=tmp_path)


def check_is_refused(apply: Any, change: pl.Expr, *, message: str, schema: Schema, folder: Path) -> None:
    (file,) = write_log(folder / "start", schema, [random_requests(schema, 5, seed=0)]).glob("impressions/*")
    apply(pl.read_parquet(file), change).write_parquet(file)
    problem = rf"impressions-0000\.parquet: .*{message}.*; name a log as a ranker wrote it, of a model with this schema"
    with pytest.raises(DataError, match=problem):
        list(LoggedRequests.find(folder, schema).blocks())


def test_logs_of_different_models_with_equal_features_are_not_read_together(schema: Schema, tmp_path: Path) -> None:
    for seed, (start, model) in enumerate([("a", "students"), ("b", "nurses")]):
        write_log(tmp_path / start, schema, [random_requests(schema, 1, seed=seed)], model=model)
    problem = r"/b/.* has requests for model 'nurses', .*/a/.* for 'students'; keep each model's log in its own"
    with pytest.raises(DataError, match=problem):
        LoggedRequests.find(tmp_path, schema)


def test_logs_of_other_sampling_rates_are_not_read_together(schema: Schema, tmp_path: Path) -> None:
    for seed, (start, rate) in enumerate([("a", 1.0), ("b", 0.01)]):
        write_log(tmp_path / start, schema, [random_requests(schema, 1, seed=seed)], sampling_rate=rate)
    problem = (
        r"/b/.* has a `request_log.sampling_rate` of 0.01, .*/a/.* of 1, .*; count them separately, or log at one rate"
    )
    with pytest.raises(DataError, match=problem):
        LoggedRequests.find(tmp_path, schema)
    assert LoggedRequests.find(tmp_path / "b", schema).num_requests == 1
