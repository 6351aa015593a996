"""No training/serving skew: one row has the same keys, offsets and numbers by all ways in."""

import json
import math
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from feature_schemas import SCHEMA, row
from hypothesis import given
from hypothesis import strategies as st

from exfm.features.batch import Batch, NetBatches, encode_examples
from exfm.features.impressions import Answered, Served, columns_of, table_of
from exfm.features.oip import Tensor, request_to_json, tensors_from_json
from exfm.features.request import encode_request, raw_request
from exfm.features.table import raw_columns
from exfm.features.typed_request import to_inputs
from exfm.schema import NETS

ARROW_TYPES = {
    "int64": pa.int64(),
    "string": pa.string(),
}
POLARS_TYPES = {"int64": pl.Int64(), "string": pl.String()}


def arrow_schema() -> pa.Schema:
    fields = [(feature.name, pa.float64()) for feature in SCHEMA.dense]
    for feature in SCHEMA.sparse:
        type_ = ARROW_TYPES[feature.id_type]
        fields.append((feature.name, type_ if feature.kind == "single" else pa.list_(type_)))
    return pa.schema(fields)


def polars_schema() -> dict[str, pl.DataType]:
    dense = {feature.name: pl.Float64() for feature in SCHEMA.dense}
    types = {feature.name: POLARS_TYPES[feature.id_type] for feature in SCHEMA.sparse}
    single = {feature.name: feature.kind == "single" for feature in SCHEMA.sparse}
    return dense | {name: type_ if single[name] else pl.List(type_) for name, type_ in types.items()}


def by_reader(rows: list[dict[str, Any]]) -> NetBatches:
    """Return a batch as the trainer's reader makes it."""
    return encode_examples(raw_columns(pa.Table.from_pylist(rows, schema=arrow_schema()), SCHEMA), SCHEMA)


def by_das(rows: list[dict[str, Any]]) -> NetBatches:
    """Return a batch as the scorer of the data augmentation system makes it."""
    return encode_examples(raw_columns(pl.DataFrame(rows, schema=polars_schema()).to_arrow(), SCHEMA), SCHEMA)


def tensors_of(rows: list[dict[str, Any]]) -> dict[str, Tensor]:
    """Return a request for the first row's user and all rows' items."""
    table = pa.Table.from_pylist(rows, schema=arrow_schema())
    raw = {
        "user": raw_columns(table.slice(0, 1), SCHEMA, nets=["user"]),
        "item": raw_columns(table, SCHEMA, nets=["item"]),
    }
    body = json.loads(json.dumps(request_to_json(raw, SCHEMA)))  # Python's JSON has NaN
    return tensors_from_json(body)


def by_request(rows: list[dict[str, Any]]) -> NetBatches:
    """Return a batch as the ranker makes it of that request."""
    return encode_request(tensors_of(rows), SCHEMA)


def by_hand(rows: list[dict[str, Any]]) -> NetBatches:
    """Return a batch as the ranker makes it of that request typed by a person: what is missing is null or left out."""
    user, *items = [
        {name: value for name in SCHEMA.feature_names([net]) if (value := row[name]) is not None or name < "m"}
        for net, of_net in (("user", rows[:1]), ("item", rows))
        for row in of_net
    ]
    body = json.loads(json.dumps({"user": user, "items": items}))
    return encode_request(tensors_from_json(to_inputs(body, SCHEMA)), SCHEMA)


def by_log(rows: list[dict[str, Any]]) -> NetBatches:
    """Return a batch as the trainer's reader makes it of what a ranker logs of that request."""
    scores = {"click": np.zeros(len(rows), dtype=np.float32)}
    answered = [Answered("a", 0, raw_request(tensors_of(rows), SCHEMA), scores, is_degraded=False)]
    columns = list(columns_of(answered, SCHEMA, domain="here", served=Served("a", "b", 1.0)))
    return encode_examples(raw_columns(table_of(columns, answered), SCHEMA), SCHEMA)


def assert_equal(found: Batch, expected: Batch) -> None:
    assert found.num_rows == expected.num_rows
    assert found.dense_BD.dtype == expected.dense_BD.dtype == np.float32
    np.testing.assert_array_equal(found.dense_BD, expected.dense_BD)
    assert list(found.bags) == list(expected.bags)
    for name, bags in expected.bags.items():
        np.testing.assert_array_equal(found.bags[name].keys, bags.keys)
        np.testing.assert_array_equal(found.bags[name].offsets, bags.offsets)
        assert found.bags[name].keys.dtype == bags.keys.dtype
        assert found.bags[name].offsets.dtype == bags.offsets.dtype


def missing_or(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | values


IDS = st.integers(-(2**63), 2**63 - 1)
TEXTS = st.text(max_size=8)
ROWS = st.fixed_dictionaries(
    {
        "age": missing_or(st.floats(-1e6, 1e6)),
        "price": st.floats(0, 1e6),
        "tenure": missing_or(st.just(math.nan) | st.floats(0, 1e6)),
        "user_id": missing_or(IDS),
        "words": missing_or(st.lists(TEXTS, max_size=5)),
        "city": missing_or(TEXTS),
        "history": missing_or(st.lists(IDS, max_size=7)),
        "item_id": missing_or(IDS),
        "searches": missing_or(st.lists(TEXTS, max_size=4)),
        "shelves": missing_or(st.lists(IDS, max_size=4)),
    }
)


@given(ROWS)
def test_one_row_is_equal_by_all_ways(example: dict[str, Any]) -> None:
    expected = by_reader([example])
    for found in (by_das([example]), by_request([example]), by_hand([example]), by_log([example])):
        for net in NETS:
            assert_equal(found.of(net), expected.of(net))
        assert found.num_candidates.tolist() == expected.num_candidates.tolist() == [1]


@pytest.mark.slow
@given(st.lists(ROWS, min_size=1, max_size=5))
def test_a_users_items_are_equal_by_all_ways(rows: list[dict[str, Any]]) -> None:
    expected = by_reader(rows)
    assert_equal(by_das(rows).user, expected.user)
    assert_equal(by_das(rows).item, expected.item)
    for found in (by_request(rows), by_hand(rows)):
        assert_equal(found.item, expected.item)
        assert_equal(found.user, expected.user.rows(0, 1))
        assert found.num_candidates.tolist() == [len(rows)]
    assert_equal(by_log(rows).item, expected.item)
    assert_equal(by_log(rows).user, by_reader([rows[0]] * len(rows)).user)


def test_the_rows_compared_reach_truncation_and_missing_values() -> None:
    batches = by_reader([row(history=[1, 2, 3, 4, 5], words=["a"] * 5, user_id=None, age=None)])
    assert batches.user.bags["history"].lengths.tolist() == [4]
    assert batches.item.bags["words"].lengths.tolist() == [3]
    assert batches.user.bags["user_id"].lengths.tolist() == [0]
    assert batches.user.dense_BD[0, 0] == 0
