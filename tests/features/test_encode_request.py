from typing import Any

import numpy as np
import pytest
from feature_schemas import SCHEMA

from exfm.errors import DataError, RequestError
from exfm.features.batch import NetBatches, RawColumns, RawIds
from exfm.features.keys import keys_of_integers, keys_of_strings
from exfm.features.oip import (
    NUMPY_TYPES,
    Tensor,
    answer_to_json,
    outputs_to_json,
    request_to_json,
    tensors_from_json,
)
from exfm.features.request import encode_request, input_specs
from exfm.schema import Schema

COLUMNS: dict[str, tuple[str, list[Any]]] = {
    "age": ("FP32", [30.0]),
    "tenure": ("FP32", [3]),
    "user_id": ("INT64", [1]),
    "city": ("BYTES", ["Ulm"]),
    "history": ("INT64", [1, 2, 3]),
    "history.lengths": ("INT32", [3]),
    "searches": ("BYTES", []),
    "searches.lengths": ("INT32", [0]),
    "price": ("FP32", [9.5, 0.5]),
    "words": ("BYTES", ["a", "b", "Ω"]),
    "words.lengths": ("INT32", [2, 1]),
    "item_id": ("INT64", [5, 6]),
    "shelves": ("INT64", [7]),
    "shelves.lengths": ("INT64", [0, 1]),
}


def body_of(**changes: tuple[str, list[Any]] | None) -> dict[str, Any]:
    """Return a request for one user and two items, with changes; dots in names are double underscores."""
    columns = COLUMNS | {name.replace("__", "."): column for name, column in changes.items()}
    return {
        "inputs": [
            {"name": name, "datatype": column[0], "shape": [len(column[1])], "data": column[1]}
            for name, column in columns.items()
            if column is not None
        ]
    }


def encoded(**changes: tuple[str, list[Any]] | None) -> NetBatches:
    return encode_request(tensors_from_json(body_of(**changes)), SCHEMA)


def keys(batches: NetBatches, name: str) -> list[int]:
    net = "user" if name in batches.user.bags else "item"
    return batches.of(net).bags[name].keys.tolist()  # type: ignore[arg-type]


def test_a_request_is_for_one_user_by_default() -> None:
    batches = encoded()
    assert (batches.user.num_rows, batches.item.num_rows) == (1, 2)
    assert batches.num_candidates.tolist() == [2]
    assert keys(batches, "words") == keys_of_strings(["a", "b", "Ω"]).tolist()
    assert keys(batches, "shelves") == keys_of_integers(np.array([7])).tolist()
    assert batches.item.bags["shelves"].offsets.tolist() == [0, 0, 1]


def two_users(*num_candidates: int, datatype: str = "INT32") -> NetBatches:
    return encoded(
        age=("FP32", [1, 2]),
        tenure=("FP32", [1, 2]),
        user_id=("INT64", [1, 2]),
        city=("BYTES", ["a", "b"]),
        history__lengths=("INT32", [1, 2]),
        searches__lengths=("INT32", [0, 0]),
        num_candidates=(datatype, list(num_candidates)),
    )


@pytest.mark.parametrize("counts", [(1, 1), (0, 2), (2, 0)])
@pytest.mark.parametrize("datatype", ["INT32", "INT64"])
def test_a_request_may_be_for_several_users(counts: tuple[int, int], datatype: str) -> None:
    batches = two_users(*counts, datatype=datatype)
    assert (batches.user.num_rows, batches.item.num_rows) == (2, 2)
    assert batches.num_candidates.tolist() == list(counts)
    assert batches.num_candidates.dtype == np.int64


@pytest.mark.parametrize("counts", [(1, 2), (0, 0), (1, 0)])
def test_candidates_that_do_not_sum_to_the_items_are_refused(counts: tuple[int, int]) -> None:
    message = rf"num_candidates sums to {sum(counts)} \(least \d\), but the item inputs have 2 rows"
    with pytest.raises(RequestError, match=message):
        two_users(*counts)


def test_a_negative_number_of_candidates_is_refused() -> None:
    with pytest.raises(RequestError, match=r"num_candidates sums to 2 \(least -1\), but the item inputs have 2 rows"):
        two_users(3, -1)


def test_candidates_whose_sum_overflows_are_refused() -> None:
    three = [2**63 - 1, 2**63 - 1, 4]  # sums to 2 in 64 bits
    with pytest.raises(RequestError, match="num_candidates"):
        encoded(
            age=("FP32", [1, 2, 3]), tenure=("FP32", [1, 2, 3]), user_id=("INT64", [1, 2, 3]),
            city=("BYTES", ["a", "b", "c"]), history__lengths=("INT32", [1, 1, 1]),
            searches__lengths=("INT32", [0, 0, 0]), num_candidates=("INT64", three),
        )  # fmt: skip


def test_lengths_whose_sum_overflows_are_refused() -> None:
    with pytest.raises(RequestError, match=r"input 'shelves\.lengths' sums to .*, but 'shelves' has 1 ids"):
        encoded(
            price=("FP32", [1, 2, 3]), item_id=("INT64", [1, 2, 3]), words__lengths=("INT32", [1, 1, 1]),
            shelves__lengths=("INT64", [2**63 - 1, 2**63 - 1, 3]),
        )  # fmt: skip


def test_candidates_for_another_number_of_users_are_refused() -> None:
    with pytest.raises(RequestError, match="the user inputs have 1 rows, but num_candidates has 2"):
        encoded(num_candidates=("INT32", [1, 1]))


def test_several_users_without_candidates_are_refused() -> None:
    message = r"the user inputs have 2 rows, but num_candidates has 1 \(without it there is one user\)"
    with pytest.raises(RequestError, match=message):
        encoded(
            age=("FP32", [1, 2]), tenure=("FP32", [1, 2]), user_id=("INT64", [1, 2]), city=("BYTES", ["a", "b"]),
            history__lengths=("INT32", [1, 2]), searches__lengths=("INT32", [0, 0]),
        )  # fmt: skip


def test_a_request_may_have_no_items() -> None:
    batches = encoded(
        price=("FP32", []), item_id=("INT64", []), words=("BYTES", []), words__lengths=("INT32", []),
        shelves=("INT64", []), shelves__lengths=("INT32", []),
    )  # fmt: skip
    assert batches.item.num_rows == 0
    assert batches.item.bags["words"].offsets.tolist() == [0]
    assert batches.num_candidates.tolist() == [0]


def test_a_single_id_may_be_missing() -> None:
    batches = encoded(user_id=("INT64", []), user_id__lengths=("INT32", [0]))
    assert batches.user.bags["user_id"].lengths.tolist() == [0]


def test_a_single_feature_with_two_ids_is_refused() -> None:
    with pytest.raises(RequestError, match="input 'user_id' is single, but a row has 2 ids; at most 1"):
        encoded(user_id=("INT64", [1, 2]), user_id__lengths=("INT32", [2]))


@pytest.mark.parametrize("name", COLUMNS)
def test_a_missing_input_is_named(name: str) -> None:
    with pytest.raises(RequestError, match=f"input '{name}' is missing; the model's inputs are age, tenure, user_id"):
        encoded(**{name: None})


def test_all_missing_inputs_are_named_at_once() -> None:
    with pytest.raises(RequestError, match="input 'age', 'words' is missing"):
        encoded(age=None, words=None)


def test_an_unknown_input_is_named() -> None:
    with pytest.raises(RequestError, match="unknown input 'colour'; the model's inputs are age"):
        encoded(colour=("INT64", [1]))


@pytest.mark.parametrize("name", ["age.lengths", "colour.lengths"])
def test_lengths_of_what_has_none_are_unknown(name: str) -> None:
    with pytest.raises(RequestError, match=f"unknown input '{name}'"):
        encoded(**{name: ("INT32", [1])})


@pytest.mark.parametrize(
    ("name", "column", "expected"),
    [
        ("age", ("INT64", [1]), "FP32"),
        ("user_id", ("INT32", [1]), "INT64"),
        ("user_id", ("BYTES", ["1"]), "INT64"),
        ("city", ("INT64", [1]), "BYTES"),
        ("words", ("FP32", [1, 2, 3]), "BYTES"),
        ("words.lengths", ("FP32", [2, 1]), "INT32 or INT64"),
        ("num_candidates", ("FP32", [2]), "INT32 or INT64"),
    ],
)
def test_an_input_of_another_datatype_is_refused(name: str, column: tuple[str, list[Any]], expected: str) -> None:
    with pytest.raises(RequestError, match=f"input '{name}' has datatype {column[0]}, expected {expected}"):
        encoded(**{name: column})


@pytest.mark.parametrize("lengths", [[2, 2], [1, 1], [0, 0], [4, 0]])
def test_lengths_that_do_not_add_up_are_refused(lengths: list[int]) -> None:
    with pytest.raises(RequestError, match=rf"input 'words\.lengths' sums to {sum(lengths)}, but 'words' has 3 ids"):
        encoded(words__lengths=("INT32", lengths))


def test_a_negative_length_is_refused() -> None:
    with pytest.raises(RequestError, match=r"input 'words\.lengths' has a negative length, -1"):
        encoded(words__lengths=("INT32", [4, -1]))


@pytest.mark.parametrize(
    "changes", [{"price": ("FP32", [1.0])}, {"item_id": ("INT64", [1, 2, 3])}, {"words__lengths": ("INT32", [3])}]
)
def test_item_inputs_that_differ_in_rows_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(
        RequestError, match=r"the item inputs differ in rows: price [12], words [12], item_id [23], shel"
    ):
        encoded(**changes)


def test_an_input_of_two_dimensions_is_refused() -> None:
    tensors = tensors_from_json(body_of())
    tensors["age"] = Tensor("FP32", np.ones((1, 1), dtype=np.float32))
    with pytest.raises(RequestError, match=r"input 'age' has shape \[1, 1\], expected one dimension"):
        encode_request(tensors, SCHEMA)


def test_a_number_outside_its_transform_names_the_feature() -> None:
    with pytest.raises(DataError, match="feature 'price': row 1 is -2"):
        encoded(price=("FP32", [1, -2]))


def test_an_infinite_number_names_the_feature() -> None:
    with pytest.raises(DataError, match="feature 'age': row 0 is inf"):
        encoded(age=("FP32", [float("inf")]))


# The JSON form


@pytest.mark.parametrize("body", [None, [], "inputs", {}, {"inputs": {}}, {"inputs": None}])
def test_a_body_without_inputs_is_refused(body: Any) -> None:
    with pytest.raises(RequestError, match="the request has no list `inputs`"):
        tensors_from_json(body)


@pytest.mark.parametrize("key", ["name", "datatype", "shape", "data"])
def test_an_input_without_one_of_its_parts_is_refused(key: str) -> None:
    part = {"name": "a", "datatype": "INT64", "shape": [1], "data": [1]}
    part.pop(key)
    with pytest.raises(RequestError, match=f"an input lacks {key}; each has name, datatype, shape and data"):
        tensors_from_json({"inputs": [part]})


@pytest.mark.parametrize("item", [None, 1, "name datatype shape data", ["name", "datatype", "shape", "data"]])
def test_an_input_that_is_no_mapping_is_refused(item: Any) -> None:
    with pytest.raises(RequestError, match="an input lacks data, datatype, name, shape"):
        tensors_from_json({"inputs": [item]})


def test_an_input_given_twice_is_refused() -> None:
    body = body_of()
    body["inputs"].append(body["inputs"][0])
    with pytest.raises(RequestError, match="input 'age' is given twice"):
        tensors_from_json(body)


@pytest.mark.parametrize("name", [1, None, ["a"]])
def test_an_input_whose_name_is_no_string_is_refused(name: Any) -> None:
    with pytest.raises(RequestError, match=r"an input is named .*, expected a string"):
        tensors_from_json({"inputs": [{"name": name, "datatype": "INT64", "shape": [1], "data": [1]}]})


@pytest.mark.parametrize("datatype", ["FP64", "int64", "", None, ["INT64"], {}])
def test_a_datatype_that_no_input_has_is_refused(datatype: Any) -> None:
    with pytest.raises(RequestError, match=r"input 'a' has datatype .*; expected one of INT64, INT32, FP32, BYTES"):
        tensors_from_json({"inputs": [{"name": "a", "datatype": datatype, "shape": [1], "data": [1]}]})


@pytest.mark.parametrize(
    ("shape", "data"), [([2], [1]), ([], [1]), ([1, 1], [[1]]), (1, [1]), ([1], 1), ([1], "1"), (None, [])]
)
def test_data_of_another_shape_is_refused(shape: Any, data: Any) -> None:
    with pytest.raises(RequestError, match=r"input 'a' has shape .* and data of length .*; expected a flat list"):
        tensors_from_json({"inputs": [{"name": "a", "datatype": "INT64", "shape": shape, "data": data}]})


@pytest.mark.parametrize(
    ("datatype", "value"),
    [
        ("INT64", True), ("INT64", 1.0), ("INT64", "1"), ("INT64", None), ("INT64", [1]), ("INT32", False),
        ("FP32", True), ("FP32", "1"), ("FP32", None), ("BYTES", 1), ("BYTES", None), ("BYTES", b"a"),
    ],
)  # fmt: skip
def test_a_value_that_is_not_of_the_datatype_is_refused(datatype: str, value: Any) -> None:
    good = {"INT64": 1, "INT32": 1, "FP32": 1, "BYTES": "a"}[datatype]
    with pytest.raises(RequestError, match=f"input 'a' has value .*, expected {datatype}"):
        tensors_from_json({"inputs": [{"name": "a", "datatype": datatype, "shape": [2], "data": [good, value]}]})


@pytest.mark.parametrize(
    ("datatype", "value"),
    [
        ("INT64", 2**63), ("INT64", -(2**63) - 1), ("INT32", 2**31), ("INT32", -(2**31) - 1), ("FP32", 10**400),
        ("FP32", 1e39), ("FP32", -1e300), ("FP32", 10**39),
    ],
)  # fmt: skip
def test_a_number_too_large_for_its_datatype_is_refused(datatype: str, value: float) -> None:
    with pytest.raises(RequestError, match=f"input 'a' holds a number too large for {datatype}"):
        tensors_from_json({"inputs": [{"name": "a", "datatype": datatype, "shape": [1], "data": [value]}]})


@pytest.mark.parametrize("value", [2**63 - 1, -(2**63)])
def test_the_largest_numbers_are_taken(value: int) -> None:
    tensors = tensors_from_json({"inputs": [{"name": "a", "datatype": "INT64", "shape": [1], "data": [value]}]})
    assert tensors["a"].values.tolist() == [value]


def test_half_of_a_surrogate_pair_is_refused() -> None:
    with pytest.raises(RequestError, match=r"input 'a' has a text that is not valid Unicode: .*surrogates"):
        tensors_from_json({"inputs": [{"name": "a", "datatype": "BYTES", "shape": [1], "data": ["\ud800"]}]})


@pytest.mark.parametrize("datatype", NUMPY_TYPES)
def test_an_input_without_values_has_its_datatypes_type(datatype: str) -> None:
    tensors = tensors_from_json({"inputs": [{"name": "a", "datatype": datatype, "shape": [0], "data": []}]})
    assert tensors["a"].values.shape == (0,)
    assert tensors["a"].values.dtype == NUMPY_TYPES[datatype]  # type: ignore[index]


def test_an_answer_has_one_output_for_each_task() -> None:
    scores = np.array([[0.5, 0.25], [1.0, 0.0], [0.5, 0.5]], dtype=np.float32)
    answer = answer_to_json(model_name="m", model_version="v", request_id="", tasks=["like", "love"], scores_NT=scores)
    assert answer == {
        "model_name": "m",
        "model_version": "v",
        "parameters": {"degraded": False, "degraded_tables": ""},
        "outputs": [
            {"name": "like", "datatype": "FP32", "shape": [3], "data": [0.5, 1.0, 0.5]},
            {"name": "love", "datatype": "FP32", "shape": [3], "data": [0.25, 0.0, 0.5]},
        ],
    }
    assert outputs_to_json(["like", "love"], scores) == answer["outputs"]


# The inputs of a model


def test_inputs_are_required_unless_they_have_a_default() -> None:
    optional = [spec.name for spec in input_specs(SCHEMA) if not spec.required]
    assert optional == ["user_id.lengths", "city.lengths", "item_id.lengths", "num_candidates"]


def test_every_input_is_named_once(schema: Schema) -> None:
    for some in (schema, SCHEMA):
        names = [spec.name for spec in input_specs(some)]
        assert len(names) == len(set(names))


@pytest.mark.parametrize("features", [["item_id", "price"], ["user_id", "age"]])
def test_a_net_may_have_no_features(features: list[str]) -> None:
    part = SCHEMA.select(features=features)
    full = {name: tensor for name, tensor in tensors_from_json(body_of()).items() if name in features}
    batches = encode_request(full, part)
    for net in ("user", "item"):
        with_features = bool(part.feature_names([net]))  # type: ignore[list-item]
        assert batches.of(net).num_rows == (len(full[features[0]].values) if with_features else 1)  # type: ignore[arg-type]
        assert batches.of(net).dense_BD.shape[1] == int(with_features)  # type: ignore[arg-type]


def test_a_net_without_features_has_the_rows_that_num_candidates_gives() -> None:
    part = SCHEMA.select(features=["user_id"])
    batches = encode_request(
        {"user_id": Tensor("INT64", np.array([1, 2])), "num_candidates": Tensor("INT64", np.array([2, 3]))}, part
    )
    assert batches.item.num_rows == 5


def test_a_net_without_features_and_a_negative_number_of_candidates_is_refused() -> None:
    part = SCHEMA.select(features=["user_id"])
    tensors = {"user_id": Tensor("INT64", np.array([1])), "num_candidates": Tensor("INT64", np.array([-2]))}
    with pytest.raises(RequestError, match=r"num_candidates sums to -2"):
        encode_request(tensors, part)


def test_a_request_names_repeated_ids_in_full() -> None:
    part = SCHEMA.select(features=["user_id", "words"])
    words = RawIds(np.array(["a", "Ω"], dtype=object), np.array([2, 0]), codes=np.array([1, 1]))
    raw = {
        "user": RawColumns(1, {}, {"user_id": RawIds(np.array([3]), np.array([1]))}),
        "item": RawColumns(2, {}, {"words": words}),
    }
    body = request_to_json(raw, part)
    assert [(i["name"], i["data"]) for i in body["inputs"]] == [
        ("user_id", [3]), ("words", ["Ω", "Ω"]), ("words.lengths", [2, 0]),
    ]  # fmt: skip
