"""Bytes, bodies and deadlines, without a server."""

import json
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exfm.errors import ConfigError, DeadlineError, RequestError
from exfm.features.oip import Tensor
from exfm.serving.config import RankerConfig, ServerConfig
from exfm.serving.oip.rest.body import read_body
from exfm.serving.oip.tensors import raw_form, raw_view, tensor_from_bytes
from exfm.serving.requests.call import Deadline, deadline_of


def raw_bytes(elements: list[bytes]) -> bytes:
    return b"".join(struct.pack("<I", len(one)) + one for one in elements)


@given(st.lists(st.text(max_size=20) | st.binary(max_size=20), max_size=20))
def test_the_raw_form_of_bytes_is_the_protocols(elements: list[str | bytes]) -> None:
    as_bytes = [one.encode() if isinstance(one, str) else one for one in elements]
    values = np.array([*elements, None], dtype=np.object_)[:-1]  # or NumPy would make strings of equal length
    assert raw_form(Tensor("BYTES", values)) == raw_bytes(as_bytes)
    numbers = np.array([1, 2], dtype=np.int32)
    assert raw_form(Tensor("INT32", numbers)) == numbers.tobytes()


@given(st.lists(st.binary(max_size=20), max_size=20))
def test_bytes_come_back_from_their_raw_form(elements: list[bytes]) -> None:
    tensor = tensor_from_bytes("genres", datatype="BYTES", shape=[len(elements)], raw=raw_bytes(elements))
    assert tensor.values.tolist() == elements


@given(st.lists(st.binary(max_size=20), min_size=1, max_size=20), st.data())
def test_raw_bytes_cut_short_are_refused(elements: list[bytes], data: st.DataObject) -> None:
    raw = raw_bytes(elements)
    cut = raw[: data.draw(st.integers(0, len(raw) - 1))]
    with pytest.raises(RequestError, match="'genres' has shape"):
        tensor_from_bytes("genres", datatype="BYTES", shape=[len(elements)], raw=cut)


@given(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=20))
def test_numbers_come_back_from_their_raw_form_without_a_copy(numbers: list[int]) -> None:
    raw = np.array(numbers, dtype=np.int64).tobytes()
    tensor = tensor_from_bytes("ids", datatype="INT64", shape=[len(numbers)], raw=raw)
    assert tensor.values.tolist() == numbers
    assert not tensor.values.flags.owndata


@pytest.mark.parametrize("dtype", ["<f2", ">f4", "?", "<u8"])
def test_numbers_are_viewed_as_the_bytes_that_they_are_sent_as(dtype: str) -> None:
    values = np.arange(12).astype(dtype).reshape(3, 4)
    for part in (values, values[:, ::2], values[:0]):
        sent = part.astype(part.dtype.newbyteorder("<")).tobytes()
        assert bytes(raw_view(part)) == sent


@pytest.mark.parametrize("shape", [[-1], [2**62], [1, 1, 1], [0, 2**40]])
def test_a_shape_that_no_input_has_is_refused(shape: list[int]) -> None:
    with pytest.raises(RequestError, match="expected one dimension"):
        tensor_from_bytes("age", datatype="FP32", shape=shape, raw=b"")


@given(st.binary(max_size=60), st.one_of(st.none(), st.text(max_size=5), st.integers(0, 99).map(str)))
def test_no_body_breaks_the_reader(body: bytes, json_length: str | None) -> None:
    with pytest.raises(RequestError):
        read_body(body, json_length=json_length, max_ids=100)


def test_a_body_of_far_too_many_values_is_not_read() -> None:
    inputs = [{"name": "a", "datatype": "INT64", "shape": [2_000], "data": [1] * 2_000}]
    body = json.dumps({"inputs": inputs}).encode()
    assert read_body(body, json_length=None, max_ids=2_000).tensors["a"].values.size == 2_000
    with pytest.raises(RequestError, match=r"commas, too many for its values; max_ids is 999: send it in parts"):
        read_body(body[:-1], json_length=None, max_ids=999)  # which is no JSON


def test_binary_texts_are_counted_before_they_are_read() -> None:
    parameters = {"binary_data_size": 40}
    inputs = [{"name": name, "datatype": "BYTES", "shape": [10], "parameters": parameters} for name in "ab"]
    text = json.dumps({"inputs": inputs}).encode()
    body, json_length = text + bytes(80), str(len(text))
    assert len(read_body(body, json_length=json_length, max_ids=20).tensors) == 2
    with pytest.raises(RequestError, match="the inputs hold 20 values; max_ids is 19"):
        read_body(body, json_length=json_length, max_ids=19)


@pytest.mark.parametrize(
    ("timeout_us", "transport_s", "expected_ms"),
    [
        (None, None, 1000),
        (0, None, 1000),
        (50_000, None, 50),
        (50_000, 2.0, 50),
        (5_000_000, 2.0, 2000),
        (None, 3.0, 3000),
        (10**400, None, 600_000),
        (None, 1e9, 600_000),
    ],
)
def test_the_earlier_deadline_counts(timeout_us: int | None, transport_s: float | None, expected_ms: float) -> None:
    assert deadline_of(timeout_us, transport_s=transport_s, default_ms=1000, came_s=100.0) == Deadline(
        at_s=100.0 + expected_ms / 1_000, allowed_ms=expected_ms
    )


@pytest.mark.parametrize("timeout_us", [-1, True, "100", 1.5])
def test_a_timeout_that_is_no_number_of_microseconds_is_refused(timeout_us: Any) -> None:
    with pytest.raises(RequestError, match="expected whole microseconds"):
        deadline_of(timeout_us, transport_s=None, default_ms=1000, came_s=0.0)


def test_a_deadline_that_has_passed_says_what_was_under_way() -> None:
    with pytest.raises(DeadlineError, match="0 ms allowed passed while counting"):
        Deadline.after(0).check("counting")


def test_servers_bind_to_loopback_unless_told_otherwise() -> None:
    assert ServerConfig().listen.host == RankerConfig().listen.host == "127.0.0.1"


@pytest.mark.parametrize(
    ("group", "name", "value"),
    [("listen", "http_port", 65_536), ("deadlines", "default_ms", 0), ("limits", "max_candidate", 5)],
)
def test_a_wrong_setting_is_named(group: str, name: str, value: int) -> None:
    with pytest.raises(ConfigError, match=rf"{group}\.{name}"):
        ServerConfig.parse({group: {name: value}}, source="settings.yaml")
