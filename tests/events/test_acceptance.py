import re
from datetime import UTC, datetime
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exfm.errors import DataError
from exfm.events.acceptance import sort_out_feedback, sort_out_impressions, too_many_rejected
from exfm.events.rules import impression_columns
from exfm.events.times import TIMESTAMP
from exfm.features.batch import encode_examples
from exfm.features.table import raw_columns
from exfm.schema import EventTime, Schema

SCHEMA = Schema.parse(
    {
        "impression_key": "id",
        "event_time": {"column": "at"},
        "domain": "domain",
        "user": "who",
        "weight": "weight",
        "negative_sampling_rate": "rate",
        "dense": [
            {"name": "age", "net": "user"},
            {"name": "price", "net": "item", "missing": "mean", "normalisation": {"transform": "log1p", "std": 1e-38}},
        ],
        "sparse": [
            {"name": "item", "net": "item", "table": "item"},
            {"name": "words", "net": "item", "kind": "bag", "id_type": "string", "table": "item"},
            {"name": "seen", "net": "user", "kind": "sequence", "table": "item", "max_length": 2},
        ],
        "tables": [{"name": "item", "rows": 8, "dim": 4}],
        "labels": [{"name": "click", "feedback": "click", "attribution_window": 100, "truth": "truth"}],
    },
    source="test",
)
TYPES = {
    "id": pl.String, "at": pl.Int64, "domain": pl.String, "who": pl.Int64, "weight": pl.Float64, "rate": pl.Float64,
    "truth": pl.Float64, "age": pl.Float64, "price": pl.Float64, "item": pl.UInt64, "words": pl.List(pl.String),
    "seen": pl.List(pl.UInt64), "more": pl.Int64, "row": pl.Int64,
}  # fmt: skip
GOOD = {
    "id": "a", "at": 1000, "domain": "feed", "who": None, "weight": 1.0, "rate": 0.5, "truth": 0.1, "age": 30.0,
    "price": 0.0, "item": 7, "words": ["x"], "seen": [1, 2, 3], "more": 5, "row": 40,
}  # fmt: skip
FEEDBACK = {"id": "a", "at": 1000, "kind": "click", "value": 2, "row": 40}


def impressions(*rows: dict[str, Any]) -> pl.DataFrame:
    return pl.DataFrame([GOOD | row for row in rows], schema=TYPES)


def reason_of(**changes: Any) -> str:
    """Return why an impression with these values is rejected."""
    found = sort_out_impressions(impressions({}, changes, {}), SCHEMA, of="a.parquet")
    assert found.accepted.height == 2
    return str(found.rejected["reason"].item())


def test_rows_that_keep_the_rules_are_accepted() -> None:
    found = sort_out_impressions(impressions({}, {"id": "b", "row": 41}), SCHEMA, of="a.parquet")
    assert found.accepted.columns == [*impression_columns(SCHEMA), "row"]
    assert found.accepted["at"].dtype == TIMESTAMP
    assert found.accepted["at"].to_list() == [datetime(1970, 1, 1, 0, 16, 40, tzinfo=UTC)] * 2
    assert found.accepted["row"].to_list() == [40, 41]
    assert found.rejected.is_empty()
    assert found.rejected.schema == {"row": pl.Int64, "key": pl.String, "time": TIMESTAMP, "reason": pl.String}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"id": None}, "id: null, expected the key of an impression"),
        ({"at": None}, "at: null, expected an event time"),
        ({"at": -5}, "at: before 1970, expected seconds since 1970-01-01 UTC"),
        ({"domain": None}, "domain: null, expected a text"),
        ({"weight": None}, "weight: null, expected a number, > 0 and finite, as float32 too"),
        ({"weight": 1e-50}, "weight: out of bounds, expected > 0 and finite, as float32 too"),
        ({"rate": 1.5}, "rate: out of bounds, expected > 0 and <= 1, and weight / rate finite as float32"),
        ({"rate": 1e-30, "weight": 1e30}, "rate: out of bounds, expected > 0 and <= 1, and weight / rate finite as f"),
        ({"truth": float("nan")}, "truth: out of bounds, expected a probability, 0 to 1"),
        ({"age": None}, "age: missing, expected a number, or `missing: mean` in the schema"),
        ({"age": float("nan")}, "age: missing, expected a number, or `missing: mean` in the schema"),
        ({"age": 1e39}, "age: not finite, expected a finite number as float32, also once normalised"),
        ({"price": 100.0}, "price: not finite, expected a finite number as float32, also once normalised"),
        ({"price": -0.5}, "price: less than 0, expected 0 or more, as log1p needs"),
        ({"item": 2**63}, "item: beyond int64, expected ids below 2**63, or text and declare id_type string in the s"),
        ({"words": ["x", None]}, "words: null inside a list, expected ids only"),
        ({"seen": [1, 2**63, 3]}, "seen: beyond int64, expected ids below 2**63, or text and declare id_type string "),
    ],
)
def test_a_row_is_rejected_with_the_reason(changes: dict[str, Any], reason: str) -> None:
    assert reason_of(**changes).startswith(reason)


def test_what_may_be_missing_rejects_no_row() -> None:
    rows = impressions({"who": None, "price": None, "item": None, "words": None, "seen": []}, {"price": float("nan")})
    assert sort_out_impressions(rows, SCHEMA, of="a.parquet").accepted.height == 2


def test_a_rejected_row_tells_place_key_and_time() -> None:
    rows = impressions({"row": 10}, {"id": None, "row": 11}, {"at": 10**12, "row": 12}, {"age": None, "row": 13})
    rejected = sort_out_impressions(rows, SCHEMA, of="a.parquet").rejected
    at = datetime(1970, 1, 1, 0, 16, 40, tzinfo=UTC)
    assert rejected.select("row", "key", "time").rows() == [(11, None, at), (12, "a", None), (13, "a", at)]
    of_a_file = sort_out_impressions(rows.drop("row"), SCHEMA, of="a.parquet")
    assert of_a_file.rejected["row"].to_list() == [1, 2, 3]
    assert "row" not in of_a_file.accepted.columns


def test_a_row_with_many_faults_has_one_reason() -> None:
    assert reason_of(weight=0.0, domain=None, age=None) == "domain: null, expected a text"


def test_repeated_keys_are_no_reason() -> None:
    assert sort_out_impressions(impressions({}, {}), SCHEMA, of="a.parquet").accepted.height == 2


def test_ordinal_time_stays_a_number() -> None:
    schema = SCHEMA.model_copy(update={"event_time": EventTime(column="at", kind="ordinal")})
    found = sort_out_impressions(impressions({"at": -5}, {"at": None}), schema, of="a.parquet")
    assert found.accepted["at"].to_list() == [-5]
    assert found.rejected["time"].dtype == pl.Int64


def test_a_file_without_rows_is_sorted_out_too() -> None:
    found = sort_out_impressions(impressions().clear(), SCHEMA, of="a.parquet")
    assert found.accepted.is_empty()
    assert found.rejected.is_empty()


@pytest.mark.parametrize("name", [name for name in TYPES if name not in {"more", "row"}])
def test_a_missing_column_is_the_fault_of_the_file(name: str) -> None:
    with pytest.raises(DataError, match=rf"^a\.parquet: column '{name}' is missing; the columns are "):
        sort_out_impressions(impressions({}).drop(name), SCHEMA, of="a.parquet")


@pytest.mark.parametrize("name", [name for name in TYPES if name not in {"more", "row"}])
@pytest.mark.parametrize("value", [b"x", None])
def test_a_column_of_a_wrong_type_or_without_any_is_the_fault_of_the_file(name: str, value: bytes | None) -> None:
    wrong = impressions({"age": None}, {}).with_columns(pl.lit(value).alias(name))
    with pytest.raises(DataError, match=rf"^a\.parquet: column '{name}'"):
        sort_out_impressions(wrong, SCHEMA, of="a.parquet")


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("id", [1.0], "column 'id' is Float64, expected Int64 or String; convert it"),
        ("id", [None], "column 'id' is null in every row, expected Int64 or String; fill it"),
        ("at", [1.0], "column 'at' is Float64, expected Int64 (seconds since 1970-01-01 UTC) or a timestamp"),
        ("domain", [None], "column 'domain' is null in every row, expected String; fill it"),
        ("who", [1.0], "column 'who' is Float64, expected an integer or String (the user); convert it"),
        ("who", [[1]], "column 'who' is List(Int64), expected an integer or String (the user); convert it"),
        ("weight", ["1"], "column 'weight' is String, expected a number"),
        ("age", [None], "column 'age' has no value in any row, and so no type; write it as a number, or leave the fea"),
        ("item", ["7"], "column 'item' has ids of type string, expected int64; convert them"),
        ("item", [None], "column 'item' has no value in any row, and so no type; write it as int64, or leave the feat"),
    ],
)
def test_a_wrong_type_is_told_with_the_expected_one(column: str, values: list[Any], message: str) -> None:
    with pytest.raises(DataError, match=rf"^a\.parquet: {re.escape(message)}"):
        sort_out_impressions(impressions({}).with_columns(pl.Series(column, values)), SCHEMA, of="a.parquet")


@pytest.mark.parametrize(
    "users", [pl.Series([5, None, 5], dtype=pl.UInt32), pl.Series(["a", "b", None])], ids=["integer", "string"]
)
def test_a_user_is_an_integer_or_a_text_or_not_known(users: pl.Series) -> None:
    rows = impressions({}, {}, {}).with_columns(users.alias("who"))
    assert sort_out_impressions(rows, SCHEMA, of="a.parquet").accepted["who"].to_list() == users.to_list()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"id": None}, "id: null, expected the key of an impression"),
        (
            {"at": 10**11},
            "at: after the year 5138, expected seconds since 1970-01-01 UTC (milliseconds? set",
        ),
        ({"kind": None}, "kind: null, expected a text"),
        ({"value": None}, "value: null, expected a number, finite"),
        ({"value": float("nan")}, "value: out of bounds, expected finite"),
    ],
)
def test_feedback_is_rejected_with_the_reason(changes: dict[str, Any], reason: str) -> None:
    rows = pl.DataFrame([FEEDBACK, FEEDBACK | changes | {"row": 41}], strict=False)
    found = sort_out_feedback(rows, SCHEMA, of="a.parquet")
    assert found.accepted.columns == ["id", "at", "kind", "value", "row"]
    assert found.accepted["row"].to_list() == [40]
    assert found.accepted["value"].to_list() == [2.0]
    assert found.rejected["row"].to_list() == [41]
    assert found.rejected["reason"].item().startswith(reason)


@pytest.mark.parametrize("values", [[], [pl.Series("value", [3], dtype=pl.Decimal(5, 2))]])
def test_the_value_of_feedback_becomes_a_float(values: list[pl.Series]) -> None:
    rows = pl.DataFrame([FEEDBACK]).drop("value").with_columns(values)
    accepted = sort_out_feedback(rows, SCHEMA, of="a.parquet").accepted
    assert accepted["value"].dtype == pl.Float64
    assert accepted["value"].to_list() == ([3.0] if values else [1.0])


def test_too_many_rejected_rows_are_told_with_the_most_frequent_reasons() -> None:
    counts = {f"{name}: null, expected a number": count for name, count in zip("abcdefg", range(1, 8), strict=True)}
    error = too_many_rejected(counts, num_rows=1400, max_rejected=0.01, of="impressions in a.parquet")
    assert str(error) == (
        "impressions in a.parquet: 28 of 1,400 rows (2.00%) are rejected, max_rejected allows 1.00%: 7 rows, g: null, "
        "expected a number; 6 rows, f: null, expected a number; 5 rows, e: null, expected a number; 4 rows, d: null, "
        "expected a number; 3 rows, c: null, expected a number; 2 more reasons. Correct the file or the schema "
        "(`exfm ingest check` tells more), or raise max_rejected"
    )


NUMBERS = st.none() | st.floats() | st.sampled_from([0.0, 1.0, 1e-40, 1e39, -1.0])
ROWS = st.fixed_dictionaries(
    {},
    optional={
        "id": st.none() | st.text(max_size=2),
        "at": st.none() | st.integers(-(2**63), 2**63 - 1) | st.integers(0, 10**11),
        "domain": st.none() | st.just("feed"),
        "who": st.none() | st.integers(0, 5),
        "weight": NUMBERS,
        "rate": NUMBERS,
        "truth": NUMBERS,
        "age": NUMBERS,
        "price": NUMBERS,
        "item": st.none() | st.integers(0, 2**64 - 1),
        "words": st.none() | st.lists(st.none() | st.text(max_size=2), max_size=3),
        "seen": st.none() | st.lists(st.none() | st.integers(0, 2**64 - 1), max_size=3),
    },
)


def keeps_the_rules(row: dict[str, Any]) -> bool:
    """Return whether a row may be an impression: features by what training says, the rest in plain Python."""
    if row["id"] is None or row["domain"] is None or row["at"] is None or not 0 <= row["at"] < 10**11:
        return False
    if row["weight"] is None or row["rate"] is None or row["truth"] is None or not 0 <= row["truth"] <= 1:
        return False
    with np.errstate(all="ignore"):
        weight, of_negative = np.float32(row["weight"]), np.float32(row["weight"]) / np.float32(row["rate"])
    if not (0 < row["rate"] <= 1 and all(np.isfinite(number) and number > 0 for number in (weight, of_negative))):
        return False
    try:
        encode_examples(raw_columns(impressions(row).to_arrow(), SCHEMA), SCHEMA)
    except DataError:
        return False
    return True


@pytest.mark.slow
@settings(max_examples=50, deadline=None)
@given(st.lists(ROWS, min_size=1, max_size=6))
def test_rows_are_accepted_if_they_may_be_impressions_and_rejected_else(changes: list[dict[str, Any]]) -> None:
    rows = impressions(*({"id": f"{place}", **row, "row": place} for place, row in enumerate(changes)))
    found = sort_out_impressions(rows, SCHEMA, of="a.parquet")
    assert found.accepted["row"].to_list() == [row["row"] for row in rows.to_dicts() if keeps_the_rules(row)]
    assert sorted([*found.accepted["row"], *found.rejected["row"]]) == rows["row"].to_list()
    encode_examples(raw_columns(found.accepted.to_arrow(), SCHEMA), SCHEMA)
