"""What is known of tables: from a schema, from examples, from recorded requests."""

import pytest

from exfm.artifact.plan import ENCODINGS
from exfm.errors import ConfigError
from exfm.planning.statistics import HotRows, Statistics, TableStatistics, rows_of_text, statistics_of_schema
from exfm.schema import Schema


def by_name(statistics: Statistics) -> dict[str, TableStatistics]:
    return {table.name: table for table in statistics.tables}


def test_statistics_of_a_schema_have_the_size_and_the_net_of_each_table(schema: Schema) -> None:
    statistics = statistics_of_schema(schema, candidates_mean=50)
    assert [(t.name, t.rows, t.dim) for t in statistics.tables] == [(t.name, t.rows, t.dim) for t in schema.tables]
    assert {table.name: table.net for table in statistics.tables} == {
        "user": "user", "profile": "user", "item": "both", "item_disliked": "user", "genre": "item",
    }  # fmt: skip
    assert (statistics.num_requests, statistics.candidates_mean) == (0, 50)
    user = by_name(statistics)["user"]
    assert {encoding: user.size_bytes(encoding) for encoding in ENCODINGS} == {
        "fp32": 2048 * 32, "fp16": 2048 * 16, "int8": 2048 * (4 + 8),
    }  # fmt: skip


def test_a_schema_alone_gives_singles_one_id_and_lists_half_of_their_limit(schema: Schema) -> None:
    statistics = by_name(statistics_of_schema(schema, candidates_mean=50))
    profile, item = statistics["profile"], statistics["item"]
    assert (profile.num_features, profile.bags_per_request, profile.pooling_mean, profile.pooling_p99) == (2, 2, 1, 1)
    limit = next(feature.max_length for feature in schema.sparse if feature.name == "liked_items")
    assert (item.num_features, item.bags_per_request) == (2, 51)  # one user's liked items, 50 candidates
    assert item.keys_per_request == pytest.approx(50 + limit / 2)
    assert item.pooling_p99 == limit


def test_statistics_are_printed_with_units() -> None:
    skew = (HotRows(num_rows=1, mass=0.4), HotRows(num_rows=1024, mass=0.9), HotRows(num_rows=4096, mass=0.98))
    table = TableStatistics(
        name="t", net="item", rows=2**20, dim=16, request_share=0.5, bags_per_request=100, pooling_mean=1.5,
        pooling_p99=4, skew=skew,
    )  # fmt: skip
    (row,) = rows_of_text(Statistics(tables=(table,), num_requests=1, candidates_mean=100))
    assert row == {
        "table": "t", "net": "item", "rows": "1,048,576", "dim": "16",
        "fp32": "64.0 MiB", "fp16": "32.0 MiB", "int8": "20.0 MiB",
        "bags": "100.0", "keys": "150.0", "keys a bag": "1.50", "p99": "4", "used": "50.0%",
        "hot rows": "1,024 / 1,024 / -",
    }  # fmt: skip


def test_tables_of_one_name_are_refused() -> None:
    table = TableStatistics(
        name="t", net="item", rows=4, dim=4, request_share=1, bags_per_request=1, pooling_mean=1, pooling_p99=1
    ).to_dict()
    with pytest.raises(ConfigError, match="tables 't' are named more than once"):
        Statistics.parse({"tables": [table, table], "num_requests": 1, "candidates_mean": 1}, source="x")


@pytest.mark.parametrize("points", [[(2, 0.5), (1, 0.6)], [(1, 0.5), (2, 0.4)], [(8, 1.0)]])
def test_a_skew_that_falls_or_has_more_rows_than_the_table_is_refused(points: list[tuple[int, float]]) -> None:
    skew = tuple(HotRows(num_rows=num_rows, mass=mass) for num_rows, mass in points)
    with pytest.raises(ValueError, match="table 't': its skew"):
        TableStatistics(
            name="t", net="item", rows=4, dim=4, request_share=1, bags_per_request=1, pooling_mean=1, pooling_p99=1,
            skew=skew,
        )  # fmt: skip
