"""Table statistics counted on requests, held against plain Python."""

import math
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exfm.bundling.counting import statistics_of_examples, statistics_of_log
from exfm.bundling.request_log import LoggedRequests
from exfm.errors import ConfigError, DataError, StorageError
from exfm.events.examples import ExampleTable
from exfm.features.batch import encode
from exfm.features.impressions import Answered
from exfm.planning.counted import STATISTICS_FILE, Counted
from exfm.planning.row_counts import RowCounts, ranked, skew_of, sum_by_row
from exfm.planning.statistics import TableStatistics
from exfm.schema import Schema
from exfm.tables.commit import commit, stage
from exfm.tables.table import Table
from logged_requests import random_requests, write_log


def by_name(counted: Counted) -> dict[str, TableStatistics]:
    return {table.name: table for table in counted.statistics.tables}


def plain_bags(request: Answered, schema: Schema) -> dict[str, list[list[int]]]:
    """Return a request's bags of keys, as its ranker asks for them, by feature."""
    batches = encode(request.raw.columns, schema, num_candidates=request.raw.num_candidates)
    bags = {feature.name: batches.of(feature.net).bags[feature.name] for feature in schema.sparse}
    return {
        name: [one.keys[start:end].tolist() for start, end in pairwise(one.offsets.tolist())]
        for name, one in bags.items()
    }


@pytest.mark.slow
@settings(max_examples=20)
@given(st.integers(0, 2**31), st.integers(1, 3), st.integers(4, 30))
def test_a_log_is_counted_as_plain_python_counts_its_requests(
    schema: Schema, tmp_path_factory: pytest.TempPathFactory, seed: int, num_files: int, num_requests: int
) -> None:
    files = [random_requests(schema, num_requests, seed=seed + i, first_ns=10**6 * i) for i in range(num_files)]
    log = write_log(tmp_path_factory.mktemp("log") / "start", schema, *([file] for file in files))
    counted = statistics_of_log(LoggedRequests.find(log, schema))
    answered = [request for file in files for request in file]
    num_candidates = sum(int(request.raw.num_candidates.sum()) for request in answered)
    requests = [plain_bags(request, schema) for request in answered]
    assert counted.statistics.num_requests == len(requests)
    assert counted.statistics.candidates_mean == pytest.approx(num_candidates / len(requests))
    for table in schema.tables:
        found = by_name(counted)[table.name]
        features = [feature.name for feature in schema.sparse if feature.table == table.name]
        bags = [bag for request in requests for name in features for bag in request[name]]
        lengths = sorted(map(len, bags))
        assert found.num_features == len(features)
        assert found.bags_per_request == pytest.approx(len(bags) / len(requests))
        assert found.pooling_mean == pytest.approx(sum(lengths) / len(lengths))
        assert found.pooling_p99 == lengths[math.ceil(0.99 * len(lengths)) - 1]
        asking = [any(any(request[name]) for name in features) for request in requests]
        assert found.request_share == pytest.approx(sum(asking) / len(requests))
        halves = [Counter[int](), Counter[int]()]
        for index, request in enumerate(requests):
            keys = [key for name in features for bag in request[name] for key in bag]
            halves[index >= (len(requests) - 1) / 2].update(key * table.rows // 2**64 for key in keys)
        hottest = counted.hottest[table.name].tolist()
        total = halves[0] + halves[1]
        assert hottest == sorted(total, key=lambda row: (-total[row], row))
        early = sorted(halves[0], key=lambda row: (-halves[0][row], row))
        for point in found.skew:
            mass = sum(halves[1][row] for row in early[: point.num_rows]) / halves[1].total()
            assert point.mass == pytest.approx(mass)
        assert bool(found.skew) == all(halves)
        assert not found.skew or found.skew[-1].num_rows == len(early) <= len(hottest)


def test_a_rows_mass_is_that_of_requests_which_did_not_choose_it() -> None:
    generator = np.random.default_rng(0)
    early, late = (np.unique(generator.integers(0, 10**6, 10**5), return_counts=True) for _ in range(2))
    skew = skew_of(ranked(early[0], early[1].astype(float)), late[0], late[1].astype(float))
    # All rows are wanted alike: a share of the rows has that share of the mass, however often chance showed some.
    for point in skew:
        assert point.mass == pytest.approx(point.num_rows / 10**6, abs=0.002)


def test_known_points_of_a_skew() -> None:
    rows, weights = np.arange(10), np.array([55.0, 20, 10, 5, 4, 2, 1, 1, 1, 1])
    skew = skew_of(ranked(rows, weights), rows, weights)
    assert [(point.num_rows, round(point.mass, 6)) for point in skew] == [
        (1, 0.55), (2, 0.75), (3, 0.85), (4, 0.9), (6, 0.96), (8, 0.98), (10, 1.0),
    ]  # fmt: skip


@given(st.lists(st.lists(st.integers(0, 20)), max_size=6))
def test_counts_of_parts_add_up(parts: list[list[int]]) -> None:
    counts = RowCounts()
    for part in parts:
        counts.add(np.array(part, dtype=np.int64))
    rows, weights = counts.merged()
    expected = Counter(row for part in parts for row in part)
    assert dict(zip(rows.tolist(), weights.tolist(), strict=True)) == expected
    assert rows.tolist() == sorted(expected)
    assert sum_by_row([(rows, weights), (rows, weights)])[1].tolist() == [2 * weight for weight in weights.tolist()]


@pytest.fixture
def examples(tmp_path: Path, schema: Schema) -> ExampleTable:
    """Return three windows: in each ten examples of domain a, with users and items that rise, and one of domain b."""
    for window in range(3):
        first = 10 * window
        frame = pl.DataFrame(
            {
                schema.impression_key: range(11),
                schema.event_time.column: range(100 * window, 100 * window + 11),
                "domain": ["a"] * 10 + ["b"],
                "user_id": [5, 5, 5, 5, 5, 5, 6, 6, *range(first, first + 2), 7],
                "gender": ["F"] * 11,
                "occupation": ["student", None] + ["farmer"] * 9,
                "liked_items": [[1, 2, 3]] * 10 + [[9] * 9],
                "disliked_items": [[]] * 11,
                "item_id": [*range(9), None, 1],
                "genres": [["Drama", "Comedy"]] * 11,
            },
            schema_overrides={"disliked_items": pl.List(pl.Int64)},
        )
        table = Table(str(tmp_path / "examples"), dict(frame.schema))
        commit(table, [stage(table, frame, window=window)], item=f"examples/{window}")
    return ExampleTable(table.state(), schema, 100)


def test_examples_are_counted_as_requests_of_many_items(examples: ExampleTable, schema: Schema) -> None:
    counted = statistics_of_examples(examples, examples.windows, schema, domains=["a"], candidates_mean=100)
    assert (counted.statistics.num_requests, counted.statistics.candidates_mean) == (30, 100)
    tables = by_name(counted)
    assert (tables["user"].bags_per_request, tables["user"].pooling_mean, tables["user"].request_share) == (1, 1, 1)
    assert (tables["profile"].bags_per_request, tables["profile"].pooling_mean) == (2, pytest.approx(1.9 / 2))
    assert tables["item_disliked"].request_share == tables["item_disliked"].keys_per_request == 0
    # Of one user's three liked items and of 100 items, nine of ten with an id.
    assert tables["item"].bags_per_request == 101
    assert tables["item"].keys_per_request == pytest.approx(3 + 100 * 0.9)
    assert tables["item"].pooling_p99 == 1
    assert tables["genre"].keys_per_request == 200
    assert tables["genre"].request_share == 1


def test_the_domain_may_be_a_feature_too(examples: ExampleTable, schema: Schema) -> None:
    by_gender = Schema.parse(schema.to_dict() | {"domain": "gender"}, source="x")
    examples = ExampleTable(examples.state, by_gender, examples.window_length)
    counted = statistics_of_examples(examples, examples.windows, by_gender, domains=["F"], candidates_mean=10)
    assert counted.statistics.num_requests == 33


def test_the_newest_examples_decide_which_rows_are_hot(
    examples: ExampleTable, schema: Schema, monkeypatch: pytest.MonkeyPatch
) -> None:
    every = statistics_of_examples(examples, examples.windows, schema, domains=[], candidates_mean=10)
    assert every.statistics.num_requests == 33
    monkeypatch.setattr("exfm.bundling.counting.MAX_EXAMPLES", 12)
    newest = statistics_of_examples(examples, examples.windows, schema, domains=[], candidates_mean=10)
    assert newest.statistics.num_requests == 22
    assert len(newest.hottest["user"]) < len(every.hottest["user"])


def test_a_domain_without_examples_is_named(examples: ExampleTable, schema: Schema) -> None:
    with pytest.raises(DataError, match="0 examples of domain c"):
        statistics_of_examples(examples, examples.windows, schema, domains=["c"], candidates_mean=10)


def test_what_was_counted_is_read_as_it_was_written(examples: ExampleTable, schema: Schema, tmp_path: Path) -> None:
    counted = statistics_of_examples(examples, examples.windows, schema, domains=[], candidates_mean=10)
    counted.write(str(tmp_path / "counted"))
    found = Counted.read(str(tmp_path / "counted"))
    assert found.statistics == counted.statistics
    assert {name: rows.tolist() for name, rows in found.hottest.items()} == {
        name: rows.tolist() for name, rows in counted.hottest.items()
    }


@pytest.mark.parametrize(("content", "error"), [("{", StorageError), ("[]", ConfigError), ("{}", ConfigError)])
def test_statistics_that_are_malformed_are_named(content: str, error: type[Exception], tmp_path: Path) -> None:
    (tmp_path / STATISTICS_FILE).write_text(content)
    with pytest.raises(error, match=str(tmp_path)):
        Counted.read(str(tmp_path))


def test_statistics_that_are_missing_are_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="no such file"):
        Counted.read(str(tmp_path))
