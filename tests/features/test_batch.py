import math

import numpy as np
import pytest
from feature_schemas import SCHEMA
from hypothesis import given
from hypothesis import strategies as st

from exfm.errors import DataError
from exfm.features.batch import Bags, Batch, NetBatches, RawColumns, RawIds, encode, encode_examples
from exfm.features.keys import keys_of_integers, keys_of_strings
from exfm.schema import NETS


def raw_of(num_rows: int = 1, **columns: list[object]) -> RawColumns:
    """Return raw columns for the schema: lists of numbers, or of lists of ids; what is not given is 1 or no id."""
    dense = {
        feature.name: np.array(columns.get(feature.name, [1.0] * num_rows), dtype=np.float32)
        for feature in SCHEMA.dense
    }
    sparse = {}
    for feature in SCHEMA.sparse:
        bags: list[list[object]] = columns.get(feature.name, [[]] * num_rows)  # type: ignore[assignment]
        values = [id_ for bag in bags for id_ in bag]
        sparse[feature.name] = RawIds(
            values=np.array(values, dtype=np.int64 if feature.id_type == "int64" else object),
            lengths=np.array([len(bag) for bag in bags], dtype=np.int64),
        )
    return RawColumns(num_rows=num_rows, dense=dense, sparse=sparse)


def keys_by_row(bags: Bags) -> list[list[int]]:
    return [bags.keys[start:stop].tolist() for start, stop in zip(bags.offsets[:-1], bags.offsets[1:], strict=True)]


def integers(*ids: int) -> list[int]:
    return keys_of_integers(np.array(ids, dtype=np.int64)).tolist()


def test_a_number_is_standardised() -> None:
    batch = encode_examples(raw_of(2, age=[33.0, 56.0]), SCHEMA).user
    np.testing.assert_array_equal(batch.dense_BD[:, 0], np.array([0.0, 2.0], dtype=np.float32))


def test_log1p_comes_before_standardising() -> None:
    batch = encode_examples(raw_of(2, price=[0.0, math.e**5 - 1]), SCHEMA).item
    np.testing.assert_allclose(batch.dense_BD[:, 0], [-0.5, 2.0], rtol=1e-6)


@pytest.mark.parametrize("name", ["age", "tenure"])
def test_a_missing_number_is_the_mean_where_the_schema_says_so(name: str) -> None:
    batch = encode_examples(raw_of(2, **{name: [math.nan, 5.0]}), SCHEMA).user
    column = [feature.name for feature in SCHEMA.dense_of("user")].index(name)
    assert batch.dense_BD[0, column] == 0
    assert batch.dense_BD[1, column] != 0


def test_a_missing_number_is_refused_where_the_schema_does_not_allow_it() -> None:
    with pytest.raises(
        DataError, match=r"feature 'price': row 1 is nan \(missing\), expected a number, or `missing: mean`"
    ):
        encode_examples(raw_of(3, price=[1.0, math.nan, math.nan]), SCHEMA)


def test_a_number_that_has_no_logarithm_is_refused() -> None:
    with pytest.raises(
        DataError, match=r"feature 'price': row 2 is -0\.5 \(less than 0\), expected 0 or more, as log1p"
    ):
        encode_examples(raw_of(3, price=[1.0, 0.0, -0.5]), SCHEMA)


@pytest.mark.parametrize(("name", "number"), [("age", math.inf), ("age", -math.inf), ("price", math.inf)])
def test_an_infinite_number_is_refused(name: str, number: float) -> None:
    with pytest.raises(DataError, match=rf"feature '{name}': row 1 is -?inf \(not finite\), expected a finite number"):
        encode_examples(raw_of(2, **{name: [1.0, number]}), SCHEMA)


def test_dense_columns_are_in_the_schemas_order() -> None:
    batch = encode_examples(raw_of(age=[56.0], tenure=[math.e - 1]), SCHEMA).user
    np.testing.assert_allclose(batch.dense_BD, [[2.0, 1.0]], rtol=1e-6)


def test_bags_are_in_the_schemas_order() -> None:
    batches = encode_examples(raw_of(), SCHEMA)
    for net in NETS:
        assert list(batches.of(net).bags) == [feature.name for feature in SCHEMA.sparse_of(net)]


def test_a_bag_keeps_its_first_ids() -> None:
    bags = [["e"], ["a", "b", "c", "d", "e"], [], ["a", "b", "c"]]
    found = encode_examples(raw_of(4, words=bags), SCHEMA).item.bags["words"]
    assert keys_by_row(found) == [keys_of_strings(bag[:3]).tolist() for bag in bags]


def test_a_sequence_keeps_its_last_ids() -> None:
    bags = [[9], [1, 2, 3, 4, 5, 6], [], [1, 2, 3, 4]]
    found = encode_examples(raw_of(4, history=bags), SCHEMA).user.bags["history"]
    assert keys_by_row(found) == [integers(9), integers(3, 4, 5, 6), [], integers(1, 2, 3, 4)]


@given(st.lists(st.lists(st.integers(0, 9), max_size=9), max_size=9))
def test_truncation_is_slicing(bags: list[list[int]]) -> None:
    batches = encode_examples(raw_of(len(bags), history=bags, shelves=bags), SCHEMA)
    assert keys_by_row(batches.user.bags["history"]) == [integers(*bag[-4:]) for bag in bags]
    assert keys_by_row(batches.item.bags["shelves"]) == [integers(*bag[:2]) for bag in bags]
    assert batches.item.bags["shelves"].lengths.tolist() == [min(len(bag), 2) for bag in bags]


def test_codes_say_which_value_each_row_has() -> None:
    raw = raw_of(2, city=[["x"], ["x"]])
    words = RawIds(
        values=np.array(["a", "b"], dtype=object), lengths=np.array([2, 1]), codes=np.array([1, 0, 1], dtype=np.int64)
    )
    batches = encode_examples(RawColumns(num_rows=2, dense=raw.dense, sparse={**raw.sparse, "words": words}), SCHEMA)
    assert keys_by_row(batches.item.bags["words"]) == [
        keys_of_strings(["b", "a"]).tolist(),
        keys_of_strings(["b"]).tolist(),
    ]


def test_users_and_items_may_differ_in_number() -> None:
    counts = np.array([3], dtype=np.int64)
    batches = encode({"user": raw_of(1), "item": raw_of(3)}, SCHEMA, num_candidates=counts)
    assert (batches.user.num_rows, batches.item.num_rows) == (1, 3)
    assert batches.num_candidates is counts


def same(found: Batch, expected: Batch) -> None:
    assert found.num_rows == expected.num_rows
    np.testing.assert_array_equal(found.dense_BD, expected.dense_BD)
    assert list(found.bags) == list(expected.bags)
    for name, bags in expected.bags.items():
        assert found.bags[name].keys.tolist() == bags.keys.tolist()
        assert found.bags[name].offsets.tolist() == bags.offsets.tolist()


@given(st.lists(st.tuples(st.floats(0, 9, width=32), st.lists(st.integers(0, 9), max_size=6)), max_size=8), st.data())
def test_rows_of_a_batch_are_the_batch_of_the_rows(rows: list[tuple[float, list[int]]], data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(rows)))
    stop = data.draw(st.integers(start, len(rows)))

    def batch_of(part: list[tuple[float, list[int]]]) -> NetBatches:
        prices, bags = [price for price, _ in part], [bag for _, bag in part]
        return encode_examples(raw_of(len(part), price=prices, history=bags, shelves=bags), SCHEMA)

    found, expected = batch_of(rows).rows(start, stop), batch_of(rows[start:stop])
    for net in NETS:
        same(found.of(net), expected.of(net))
    assert found.num_candidates.tolist() == expected.num_candidates.tolist()


def test_rows_of_a_batch_share_its_keys() -> None:
    bags = encode_examples(raw_of(3, history=[[1], [2, 3], [4]]), SCHEMA).user.bags["history"]
    assert np.shares_memory(bags.rows(1, 3).keys, bags.keys)
