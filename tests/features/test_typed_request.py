"""What a person may type wrong, and is told; tests/features/test_features_agree.py has what is right."""

from typing import Any

import pytest
from feature_schemas import SCHEMA

from exfm.errors import DataError, RequestError
from exfm.features.oip import tensors_from_json
from exfm.features.request import encode_request
from exfm.features.typed_request import to_inputs

ITEM = {"item_id": 5, "price": 9.5, "words": ["a"]}


def encode(body: dict[str, Any]) -> list[int]:
    """Return the candidates of each user, if it is encoded."""
    counts: list[int] = encode_request(tensors_from_json(to_inputs(body, SCHEMA)), SCHEMA).num_candidates.tolist()
    return counts


def test_the_user_may_be_left_out_and_there_may_be_no_item() -> None:
    assert encode({"items": [ITEM, ITEM]}) == [2]
    assert encode({"user": {}, "items": []}) == [0]


def test_the_rest_of_a_request_stays() -> None:
    body = {"id": "7", "parameters": {"trace": True}, "outputs": [{"name": "click"}]}
    found = to_inputs({**body, "user": {"age": 3}, "items": [ITEM]}, SCHEMA)
    assert found.pop("inputs")
    assert found == body


def test_the_protocols_form_stays_as_it_is() -> None:
    for body in ({}, {"inputs": []}, {"inputs": None, "id": "7"}):
        assert to_inputs(body, SCHEMA) is body


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"inputs": []}, "the request has `inputs`, and `user` or `items`; send either"),
        ({"items": {"item_id": 5}}, "`items` is .*, expected a list of objects with an item's features each"),
        ({"items": None}, "`items` is None, expected a list"),
        ({"items": [ITEM, 7]}, r"`items\[1\]` is 7, expected an object with the item's features"),
        ({"user": [1]}, r"`user` is \[1\], expected an object with the user's features"),
        ({"user": None}, "`user` is None, expected an object"),
        (
            {"items": [{**ITEM, "colour": 1}]},
            r"`items\[0\]` has 'colour'; the item's features are price, words, item_id",
        ),
        ({"user": {"item_id": 5}}, "`user` has 'item_id'; the user's features are age, tenure, user_id, city"),
        ({"user": {"user_id": [1]}}, r"`user` has \[1\] as 'user_id', expected one id"),
        ({"items": [ITEM, {**ITEM, "words": "a"}]}, r"`items\[1\]` has 'a' as 'words', expected a list of ids"),
        ({"user": {"user_id": "me"}}, "input 'user_id' has value 'me', expected INT64"),
        ({"user": {"history": [1, None]}}, "input 'history' has value None, expected INT64"),
        ({"user": {"age": [30]}}, r"input 'age' has value \[30\], expected FP32"),
        ({"items": [{**ITEM, "words": [["a"]]}]}, r"input 'words' has value \['a'\], expected BYTES"),
    ],
)
def test_what_is_typed_wrong_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        encode({"user": {"user_id": 1}, "items": [ITEM], **changes})


def test_a_request_without_items_is_told_what_it_lacks() -> None:
    with pytest.raises(RequestError, match="`items` is None, expected a list of objects"):
        encode({"user": {"user_id": 1}})


def test_a_number_that_is_needed_is_missed() -> None:
    with pytest.raises(DataError, match=r"feature 'price': row 1 is nan \(missing\), expected a number"):
        encode({"items": [ITEM, {"item_id": 5}]})
