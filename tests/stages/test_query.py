"""A request is made of the latest examples."""

from math import nan
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from exfm.bundling.query import latest_query
from exfm.errors import DataError
from exfm.events.examples import ExampleTable
from exfm.features.oip import tensors_from_json
from exfm.features.request import encode_request
from exfm.schema import Schema
from exfm.tables.commit import commit, stage
from exfm.tables.table import Table

SCHEMA = Schema.parse(
    {
        "impression_key": "id",
        "event_time": {"column": "time"},
        "domain": "domain",
        "dense": [
            {"name": "age", "net": "user", "normalisation": {"mean": 33.0, "std": 11.6}, "missing": "mean"},
            {
                "name": "price",
                "net": "item",
                "normalisation": {"transform": "log1p", "mean": 2.0},
                "missing": "mean",
            },
            {"name": "length", "net": "item"},
        ],
        "sparse": [
            {"name": "user", "net": "user", "table": "users"},
            {"name": "item", "net": "item", "table": "items"},
        ],
        "tables": [{"name": "users", "rows": 8, "dim": 4}, {"name": "items", "rows": 8, "dim": 4}],
        "labels": [{"name": "click", "feedback": "click", "attribution_window": 0}],
    },
    source="test",
)

WINDOW_LENGTH = 10

EXAMPLES = {
    "domain": ["a", "a", "a"],
    "user": [1, 2, 3],
    "item": [1, 2, 3],
    "age": [30.0, 31.0, None],
    "price": [None, 3.0, nan],
    "length": [1.0, None, 2.0],
}


def table_of(root: Path, *columns: dict[str, Any]) -> ExampleTable:
    """Return a table of these examples, one window after the other."""
    frames = [pl.DataFrame(of_window).with_row_index("id").cast({"id": pl.Int64}) for of_window in columns]
    table = Table(str(root / "examples"), {**frames[0].schema, "time": pl.Int64()})
    for index, frame in enumerate(frames):
        timed = frame.with_columns(time=pl.col("id") + index * WINDOW_LENGTH)
        commit(table, [stage(table, timed, window=index)], item=f"examples/{index}")
    return ExampleTable(table.state(), SCHEMA, WINDOW_LENGTH)


def test_only_examples_that_miss_what_must_be_there_are_passed_over(tmp_path: Path) -> None:
    examples = table_of(tmp_path, EXAMPLES)
    _, request = latest_query(examples, examples.windows, SCHEMA, domains=["a"], num_candidates=10)
    inputs = {item["name"]: item["data"] for item in request["inputs"]}
    assert (inputs["user"], inputs["item"]) == ([3], [3, 1])
    encoded = encode_request(tensors_from_json(request), SCHEMA)
    np.testing.assert_allclose(encoded.user.dense_BD, [[0]], atol=1e-6)  # as training reads a missing number
    np.testing.assert_allclose(encoded.item.dense_BD, [[0, 2], [0, 1]], atol=1e-6)


def test_examples_that_all_miss_what_must_be_there_make_no_request(tmp_path: Path) -> None:
    missing = pl.Series([None, None, nan], dtype=pl.Float64)
    examples = table_of(tmp_path, EXAMPLES | {"length": missing})
    with pytest.raises(DataError, match="no complete example of domain a: no query can be made of them"):
        latest_query(examples, examples.windows, SCHEMA, domains=["a"], num_candidates=10)


def test_candidates_are_of_the_models_own_domains_though_others_came_later(tmp_path: Path) -> None:
    complete = EXAMPLES | {"age": [30.0] * 3, "price": [1.0] * 3, "length": [1.0] * 3}
    later = complete | {"domain": ["b", "a", "b"], "item": [4, 5, 6]}
    examples = table_of(tmp_path, complete | {"domain": ["a", "b", "a"]}, later)
    for domains, num_candidates, items in [(["a"], 10, [5, 3, 1]), (["a"], 2, [5, 3]), ([], 4, [6, 5, 4, 3])]:
        rows, request = latest_query(examples, examples.windows, SCHEMA, domains=domains, num_candidates=num_candidates)
        inputs = {item["name"]: item["data"] for item in request["inputs"]}
        assert inputs["item"] == rows["item"].to_list() == items
        assert inputs["user"] == [2 if domains else 3]
