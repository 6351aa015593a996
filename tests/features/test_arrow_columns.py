from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from feature_schemas import SCHEMA, row
from hypothesis import given
from hypothesis import strategies as st

from exfm.errors import DataError
from exfm.features.batch import RawIds
from exfm.features.table import raw_columns

ARROW_SCHEMA = pa.schema(
    [
        ("age", pa.float64()), ("price", pa.float32()), ("tenure", pa.int32()), ("user_id", pa.int64()),
        ("words", pa.list_(pa.string())), ("city", pa.string()), ("history", pa.list_(pa.int64())),
        ("item_id", pa.int32()), ("searches", pa.large_list(pa.large_string())), ("shelves", pa.list_(pa.int16())),
    ]
)  # fmt: skip


def table_of(*rows: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=ARROW_SCHEMA)


def with_column(name: str, array: Any) -> pa.Table:
    table = table_of(*[row()] * len(array))
    return table.set_column(table.schema.get_field_index(name), name, array)


def ids_of(raw: RawIds) -> list[list[Any]]:
    """Return each row's ids, in plain Python."""
    values = raw.values if raw.codes is None else raw.values[raw.codes]
    ends = np.cumsum(raw.lengths)
    assert ends[-1] == len(values) if len(ends) else not len(values)
    return [values[end - length : end].tolist() for end, length in zip(ends, raw.lengths, strict=True)]


def words_of(table: pa.Table) -> list[list[Any]]:
    return ids_of(raw_columns(table, SCHEMA).sparse["words"])


def test_known_columns() -> None:
    raw = raw_columns(table_of(row(), row(user_id=None, history=[], age=None, words=["b", "b"])), SCHEMA)
    assert raw.num_rows == 2
    np.testing.assert_array_equal(raw.dense["age"], np.array([30, np.nan], dtype=np.float32))
    assert raw.dense["tenure"].dtype == np.float32
    assert ids_of(raw.sparse["user_id"]) == [[1], []]
    assert ids_of(raw.sparse["history"]) == [[1, 2, 3], []]
    assert ids_of(raw.sparse["words"]) == [["a", "b"], ["b", "b"]]
    assert ids_of(raw.sparse["item_id"]) == [[5], [5]]


def test_only_the_columns_of_the_nets_asked_for_are_read() -> None:
    raw = raw_columns(table_of(row()).select(["price", "words", "item_id", "shelves"]), SCHEMA, nets=["item"])
    assert set(raw.dense) == {"price"}
    assert set(raw.sparse) == {"words", "item_id", "shelves"}


@pytest.mark.parametrize("name", SCHEMA.feature_names())
def test_a_missing_column_is_named(name: str) -> None:
    with pytest.raises(DataError, match=f"column '{name}' is missing; the columns are "):
        raw_columns(table_of(row()).drop_columns([name]), SCHEMA)


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        (
            "age",
            pa.array(["1"]),
            "column 'age' is string; a dense feature needs an integer or floating type; convert",
        ),
        ("age", pa.nulls(1), "column 'age' has no value in any row, and so no type; write it as a number, or leave"),
        ("age", pa.array([True]), "column 'age' is bool; a dense feature needs"),
        ("user_id", pa.array(["1"]), "column 'user_id' has ids of type string, expected int64; convert them"),
        ("user_id", pa.array([1.0]), "column 'user_id' has ids of type double, expected int64; convert them"),
        ("user_id", pa.array([[1]]), "column 'user_id' is list<.*>; a single feature needs one id a row"),
        ("city", pa.array([1]), "column 'city' has ids of type int64, expected string; convert them"),
        ("city", pa.array([b"a"]), "column 'city' has ids of type binary, expected string; convert them"),
        ("city", pa.nulls(1), "column 'city' has no value in any row, and so no type; write it as string, or leave"),
        ("words", pa.array([[]], pa.list_(pa.null())), "column 'words' has no value in any row, and so no type"),
        ("words", pa.array(["a"]), "column 'words' is string; a bag feature needs a list of ids a row"),
        ("words", pa.array([[1]]), "column 'words' has ids of type int64, expected string; convert them"),
        ("history", pa.array([["a"]]), "column 'history' has ids of type string, expected int64; convert them"),
        ("history", pa.array([1]), "column 'history' is int64; a sequence feature needs a list of ids a row"),
        ("history", pa.array([2**63], pa.uint64()), "column 'history' is uint64; a sequence feature needs a list"),
        ("user_id", pa.array([2**63], pa.uint64()), "column 'user_id' holds an id beyond int64: .*9223372036854775808"),
        ("shelves", pa.array([[2**63]], pa.list_(pa.uint64())), "column 'shelves' holds an id beyond int64"),
    ],
)
def test_a_column_of_a_wrong_type_is_named(name: str, array: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        raw_columns(with_column(name, array), SCHEMA)


@pytest.mark.parametrize(("name", "ids"), [("words", ["a", None]), ("history", [None, 1, None])])
def test_nulls_inside_a_list_are_refused(name: str, ids: list[Any]) -> None:
    with pytest.raises(DataError, match=f"column '{name}' has {ids.count(None)} nulls inside its lists; remove them"):
        raw_columns(table_of(row(), row(**{name: ids})), SCHEMA)


def test_a_null_list_is_an_empty_one() -> None:
    assert words_of(table_of(row(), row(words=None), row(words=[]), row(words=["c"]))) == [["a", "b"], [], [], ["c"]]


def test_a_null_list_over_values_is_an_empty_one() -> None:
    mask = pa.array([False, True, False])
    array = pa.ListArray.from_arrays(pa.array([0, 1, 3, 4], pa.int32()), pa.array(["a", "x", "y", "b"]), mask=mask)
    assert words_of(with_column("words", array)) == [["a"], [], ["b"]]


STRING_TYPES = [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())]


@pytest.mark.parametrize("type_", STRING_TYPES, ids=str)
def test_a_column_of_any_string_type_is_read(type_: pa.DataType) -> None:
    array = pa.array(["a", None, "Ω", "a"], pa.string()).cast(type_)
    assert ids_of(raw_columns(with_column("city", array), SCHEMA).sparse["city"]) == [["a"], [], ["Ω"], ["a"]]


@pytest.mark.parametrize("type_", STRING_TYPES, ids=str)
@pytest.mark.parametrize("list_type", [pa.ListArray, pa.LargeListArray])
def test_lists_of_any_string_type_are_read(type_: pa.DataType, list_type: Any) -> None:
    array = list_type.from_arrays([0, 2, None, 2, 3], pa.array(["a", "b", "Ω"]).cast(type_))
    assert words_of(with_column("words", array)) == [["a", "b"], [], [], ["Ω"]]


def test_a_null_in_a_dictionary_is_a_missing_id() -> None:
    array = pa.DictionaryArray.from_arrays(pa.array([0, 1, None], pa.int8()), pa.array(["a", None]))
    assert ids_of(raw_columns(with_column("city", array), SCHEMA).sparse["city"]) == [["a"], [], []]


def test_a_null_in_the_dictionary_of_a_list_is_refused() -> None:
    values = pa.DictionaryArray.from_arrays(pa.array([0, 1], pa.int8()), pa.array(["a", None]))
    with pytest.raises(DataError, match="column 'words' has 1 nulls inside its lists"):
        raw_columns(with_column("words", pa.ListArray.from_arrays([0, 2], values)), SCHEMA)


def test_chunks_with_dictionaries_of_their_own_are_read_as_one() -> None:
    chunks = [pa.array(["a", "b"]).dictionary_encode(), pa.array(["b", "c"]).dictionary_encode()]
    raw = raw_columns(with_column("city", pa.chunked_array(chunks)), SCHEMA)
    assert ids_of(raw.sparse["city"]) == [["a"], ["b"], ["b"], ["c"]]


@pytest.mark.parametrize("chunked", [False, True])
def test_a_table_without_rows_is_read(chunked: bool) -> None:
    table = table_of(row()).slice(0, 0) if chunked else ARROW_SCHEMA.empty_table()
    raw = raw_columns(table, SCHEMA)
    assert raw.num_rows == 0
    assert all(len(values) == 0 for values in raw.dense.values())
    assert all(ids_of(ids) == [] for ids in raw.sparse.values())


INT64 = st.integers(-(2**63), 2**63 - 1)
ROWS = st.fixed_dictionaries(
    {
        "age": st.none() | st.floats(-100, 100, width=32),
        "price": st.floats(0, 1000, width=32),
        "tenure": st.none() | st.integers(0, 1000),
        "user_id": st.none() | INT64,
        "words": st.none() | st.lists(st.text(max_size=3), max_size=4),
        "city": st.none() | st.text(max_size=3),
        "history": st.none() | st.lists(INT64, max_size=5),
        "item_id": st.none() | st.integers(-(2**31), 2**31 - 1),
        "searches": st.none() | st.lists(st.text(max_size=3), max_size=3),
        "shelves": st.none() | st.lists(st.integers(-(2**15), 2**15 - 1), max_size=3),
    }
)


@pytest.mark.slow
@given(st.lists(ROWS, min_size=1, max_size=8), st.data())
def test_a_slice_of_chunks_is_read_as_its_rows_are(rows: list[dict[str, Any]], data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(rows)))
    start = data.draw(st.integers(0, len(rows)))
    stop = data.draw(st.integers(start, len(rows)))
    table = pa.concat_tables([table_of(*rows[:cut]), table_of(*rows[cut:])]).slice(start, stop - start)
    raw = raw_columns(table, SCHEMA)
    for name, ids in raw.sparse.items():
        found = [example[name] for example in rows[start:stop]]
        assert ids_of(ids) == [
            value if isinstance(value, list) else [] if value is None else [value] for value in found
        ]
    for name, values in raw.dense.items():
        expected = [np.nan if example[name] is None else example[name] for example in rows[start:stop]]
        np.testing.assert_array_equal(values, np.array(expected, dtype=np.float32))


def test_a_frame_of_categories_is_read() -> None:
    rows = [row(), row(city=None), row(city="Bonn")]
    frame = pl.DataFrame(rows, schema_overrides={"city": pl.Categorical, "words": pl.List(pl.Categorical)})
    raw = raw_columns(frame.with_columns(shelves=pl.col("shelves").cast(pl.List(pl.Int64))).to_arrow(), SCHEMA)
    assert ids_of(raw.sparse["city"]) == [["Ulm"], [], ["Bonn"]]
    assert ids_of(raw.sparse["words"]) == [["a", "b"]] * 3
