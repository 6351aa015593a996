"""What is refused of a message before protobuf reads it, since it would make too much of it."""

from collections.abc import Callable
from typing import Any

import pytest
from tritonclient.grpc import service_pb2 as pb

from exfm.errors import RequestError
from exfm.serving.oip.grpc.message_parts import MAX_FIELDS, MAX_UNCOUNTED_BYTES, check_parts

MAX_IDS = 20_000
MAX_VALUES = MAX_IDS + MAX_FIELDS


def of_inputs(count: int) -> Any:
    return pb.ModelInferRequest(inputs=[pb.ModelInferRequest.InferInputTensor() for _ in range(count)])


def of_numbers(count: int) -> Any:
    message = pb.ModelInferRequest()
    message.inputs.add().contents.int64_contents.extend([300] * count)
    return message


def of_dimensions(count: int) -> Any:
    message = pb.ModelInferRequest()
    message.inputs.add(shape=[1] * count)
    return message


def of_texts(count: int) -> Any:
    message = pb.ModelInferRequest()
    message.inputs.add().contents.bytes_contents.extend([b""] * count)
    return message


def of_parameters(count: int) -> Any:
    message = pb.ModelInferRequest()
    for number in range(count // 4):  # an entry, its key, its value, and what that holds
        message.parameters[str(number)].int64_param = number
    return message


def check(message: Any, *, cut: int = 0) -> None:
    content = message.SerializeToString() + pb.ModelInferRequest(id="a" * MAX_UNCOUNTED_BYTES).SerializeToString()
    check_parts(content[: len(content) - cut], pb.ModelInferRequest, max_ids=MAX_IDS)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "most"),
    [
        (of_inputs, MAX_FIELDS),
        (of_parameters, MAX_FIELDS),
        (of_numbers, MAX_VALUES),
        (of_dimensions, MAX_VALUES),
        (of_texts, MAX_VALUES),
    ],
)
def test_a_message_has_as_many_parts_as_its_values_need(make: Callable[[int], Any], most: int) -> None:
    check(make(most - 10))
    message = f"more than {MAX_FIELDS} fields or {MAX_VALUES} values; max_ids is {MAX_IDS}: send it in parts"
    for cut in (0, 100):
        with pytest.raises(RequestError, match=message):
            check(make(most + 10), cut=cut)


def test_raw_values_are_no_parts() -> None:
    check(pb.ModelInferRequest(raw_input_contents=[bytes(16 * MAX_VALUES)]))


def test_a_small_message_is_not_counted() -> None:
    content = of_inputs(MAX_UNCOUNTED_BYTES // 2).SerializeToString()
    check_parts(content, pb.ModelInferRequest, max_ids=1)


def test_what_is_no_message_is_left_to_protobuf() -> None:
    for content in (b"\xff" * 2 * MAX_UNCOUNTED_BYTES, b"\x2a\xff" * MAX_UNCOUNTED_BYTES):
        check_parts(content, pb.ModelInferRequest, max_ids=MAX_IDS)


def test_a_group_is_refused() -> None:
    with pytest.raises(RequestError, match="a protobuf group, which the protocol does not use"):
        check_parts(b"\x0b\x0c" * MAX_UNCOUNTED_BYTES, pb.ModelInferRequest, max_ids=MAX_IDS)


def test_as_many_values_of_as_many_features_as_are_allowed_may_come_in_typed_form() -> None:
    message = pb.ModelInferRequest()
    for number in range(2_000):
        contents = message.inputs.add(name=f"feature {number}", datatype="INT64", shape=[10]).contents
        contents.int64_contents.extend(range(10))
    check(message)
