import json
import re
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
import torch
import tritonclient.grpc
from serving_requests import grpc_inputs, infer_by_grpc, make_request
from tritonclient.utils import InferenceServerException

from exfm.errors import DeadlineError, RequestError, UnknownModelError, VersionMismatchError
from exfm.serving.local.serving import LocalServing
from exfm.serving.oip.rest.client import infer

pytestmark = pytest.mark.slow


def changed(name: str, /, **changes: Any) -> dict[str, Any]:
    """Return a good request with some fields of one input changed."""
    body = make_request()
    return {"inputs": [item | (changes if item["name"] == name else {}) for item in body["inputs"]]}


def without(name: str) -> dict[str, Any]:
    return {"inputs": [item for item in make_request()["inputs"] if item["name"] != name]}


TOO_MANY = make_request(num_candidates=[10_001])

BAD = {
    "an unknown feature": (changed("age", name="height"), "unknown input 'height'"),
    "a missing feature": (without("age"), "input 'age' is missing"),
    "a wrong dtype": (changed("user_id", datatype="INT32"), "'user_id' has datatype INT32, expected INT64"),
    "ragged lengths": (changed("genres.lengths", data=[1, 1, 1]), "'genres.lengths' sums to 3, but 'genres' has 4 ids"),
    "lengths that wrap around": (
        changed("genres.lengths", datatype="INT64", data=[2**62, 2**62, 2**63 - 1]), "'genres.lengths'"
    ),
    "nets that differ in rows": (
        changed("release_year", data=[1990.0], shape=[1]), "the item inputs differ in rows"
    ),
    "candidates that do not add up": (
        {"inputs": [*make_request()["inputs"],
                    {"name": "num_candidates", "datatype": "INT32", "shape": [1], "data": [2]}]},
        "num_candidates sums to 2",
    ),
    "numbers that overflow": (changed("age", data=[3e38]), "candidate 0 has no score for 'like'"),
    "too many candidates": (TOO_MANY, "10001 candidates; max_candidates is 10000"),
}  # fmt: skip


@pytest.mark.parametrize(("body", "message"), BAD.values(), ids=BAD)
def test_a_bad_request_is_told_what_is_wrong_by_both_protocols(
    served: LocalServing, body: dict[str, Any], message: str
) -> None:
    with pytest.raises(RequestError, match=re.escape(message)):
        served.infer(body)
    with pytest.raises(InferenceServerException) as caught:
        infer_by_grpc(served.grpc_address, body)
    assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"
    assert message in caught.value.message()


BAD_BODIES: dict[str, tuple[bytes, dict[str, str], str]] = {
    "no JSON": (b"{", {}, "not JSON"),
    "a list": (b"[]", {}, "expected an object"),
    "deep JSON": (b"[" * 100_000, {}, "not JSON"),
    "no text": (b"\xff\xfe", {}, "not JSON"),
    "half a surrogate pair": (json.dumps(changed("gender", data=["\ud800"])).encode(), {}, "surrogate"),
    "an unnamed input": (json.dumps(changed("age", name=[1])).encode(), {}, "expected a string"),
    "a listed datatype": (json.dumps(changed("age", datatype=["FP32"])).encode(), {}, "has datatype"),
    "a huge number": (json.dumps(changed("user_id", data=[10**30])).encode(), {}, "too large"),
    "a negative timeout": (json.dumps(make_request() | {"parameters": {"timeout": -1}}).encode(), {}, "timeout"),
    "an unknown output": (json.dumps(make_request() | {"outputs": [{"name": "hate"}]}).encode(), {}, "'hate'"),
    "a JSON length past the end": (b"{}", {"inference-header-content-length": "3"}, "expected the length of the JSON"),
    "a JSON length that is no number": (b"{}", {"inference-header-content-length": "x"}, "expected the length"),
    "typed items that are none": (b'{"user": {}, "items": 3}', {}, "`items` is 3, expected a list of objects"),
    "a typed name of no feature": (b'{"items": [{"colour": 1}]}', {}, "`items[0]` has 'colour'; the item"),
    "no gzip": (b"{}", {"content-encoding": "gzip"}, "the body of 2 B is not gzip, its content-encoding"),
    "data without an input": (b'{"inputs":[]}1234', {"inference-header-content-length": "13"}, "4 B follow"),
}  # fmt: skip


@pytest.mark.parametrize(("body", "headers", "message"), BAD_BODIES.values(), ids=BAD_BODIES)
def test_a_malformed_body_is_a_400_with_one_message(
    served: LocalServing, body: bytes, headers: dict[str, str], message: str
) -> None:
    response = httpx.post(f"{served.rest_url}/v2/models/students/infer", content=body, headers=headers)
    assert response.status_code == 400
    assert message in response.json()["error"]


@pytest.mark.parametrize(
    ("size", "data", "message"),
    [(4, b"\0\0", "2 B of the body are left"), (2, b"\0\0", "hence 4 B, but 2 B"), (4, b"\0" * 6, "2 B of the body")],
    ids=["short body", "short tensor", "long body"],
)
def test_a_binary_tensor_of_the_wrong_length_is_a_400(
    served: LocalServing, size: int, data: bytes, message: str
) -> None:
    age = {"name": "age", "datatype": "FP32", "shape": [1], "parameters": {"binary_data_size": size}}
    text = json.dumps({"inputs": [age, *without("age")["inputs"]]}).encode()
    response = httpx.post(
        f"{served.rest_url}/v2/models/students/infer",
        content=text + data,
        headers={"Inference-Header-Content-Length": str(len(text))},
    )
    assert response.status_code == 400
    assert message in response.json()["error"]


def test_a_raw_tensor_of_the_wrong_length_is_an_invalid_argument(served: LocalServing) -> None:
    inputs = grpc_inputs(make_request())
    inputs[0].set_shape([2])
    with (
        tritonclient.grpc.InferenceServerClient(served.grpc_address) as client,
        pytest.raises(InferenceServerException, match=r"'age' has shape \[2\] of FP32, hence 8 B, but 4 B"),
    ):
        client.infer("students", inputs)


def test_a_bytes_element_past_the_end_is_an_invalid_argument(served: LocalServing) -> None:
    inputs = grpc_inputs(make_request())
    gender = next(one for one in inputs if one.name() == "gender")
    gender._raw_content = b"\x09\0\0\0F"
    with (
        tritonclient.grpc.InferenceServerClient(served.grpc_address) as client,
        pytest.raises(InferenceServerException, match="'gender' has shape for 1 BYTES"),
    ):
        client.infer("students", inputs)


def test_another_models_name_is_not_found(served: LocalServing) -> None:
    with pytest.raises(UnknownModelError, match="no model 'teachers' here; this server has students"):
        infer(served.rest_url, "teachers", make_request())
    with (
        tritonclient.grpc.InferenceServerClient(served.grpc_address) as client,
        pytest.raises(InferenceServerException) as caught,
    ):
        client.infer("teachers", grpc_inputs(make_request()))
    assert caught.value.status() == "StatusCode.NOT_FOUND"


def test_another_bundles_version_is_a_failed_precondition(served: LocalServing) -> None:
    with pytest.raises(VersionMismatchError, match=f"served from bundle {served.bundle_id}"):
        infer(served.rest_url, "students/versions/1", make_request())
    with pytest.raises(InferenceServerException) as caught:
        infer_by_grpc(served.grpc_address, make_request(), model_version="1")
    assert caught.value.status() == "StatusCode.FAILED_PRECONDITION"


def test_tritons_timeout_is_a_deadline(served: LocalServing) -> None:
    with pytest.raises(DeadlineError):
        served.infer(make_request() | {"parameters": {"timeout": 1}})
    with pytest.raises(InferenceServerException) as caught:
        infer_by_grpc(served.grpc_address, make_request(), timeout=1)
    assert caught.value.status() == "StatusCode.DEADLINE_EXCEEDED"


def test_no_client_can_unload_a_model(served: LocalServing) -> None:
    assert httpx.post(f"{served.rest_url}/v2/repository/models/students/unload").status_code == 404
    with (
        tritonclient.grpc.InferenceServerClient(served.grpc_address) as client,
        pytest.raises(InferenceServerException) as caught,
    ):
        client.unload_model("students")
    assert caught.value.status() == "StatusCode.UNIMPLEMENTED"
    assert "models are unloaded when the server stops" in str(caught.value)
    assert served.infer(make_request())


UNANSWERED = {"get_model_config": "there is no model config here", "get_model_repository_index": "no model repository"}


@pytest.mark.parametrize(("method", "reason"), UNANSWERED.items())
def test_tritons_extensions_are_refused_with_a_reason(served: LocalServing, method: str, reason: str) -> None:
    arguments = ["students"] if method == "get_model_config" else []
    with (
        tritonclient.http.InferenceServerClient(served.rest_url.removeprefix("http://")) as by_rest,
        pytest.raises(InferenceServerException, match=reason) as caught,
    ):
        getattr(by_rest, method)(*arguments)
    assert caught.value.status() == "501"
    with (
        tritonclient.grpc.InferenceServerClient(served.grpc_address) as by_grpc,
        pytest.raises(InferenceServerException, match=reason) as caught,
    ):
        getattr(by_grpc, method)(*arguments)
    assert caught.value.status() == "StatusCode.UNIMPLEMENTED"


def test_a_method_that_there_is_not_is_refused_by_its_name(served: LocalServing) -> None:
    with (
        tritonclient.grpc.InferenceServerClient(served.grpc_address) as client,
        pytest.raises(InferenceServerException, match="there is no method 'ModelStatistics' here") as caught,
    ):
        client.get_inference_statistics()
    assert caught.value.status() == "StatusCode.UNIMPLEMENTED"


def test_a_body_in_an_encoding_that_is_not_read_is_a_415(served: LocalServing) -> None:
    response = httpx.post(
        f"{served.rest_url}/v2/models/students/infer", content=b"{}", headers={"content-encoding": "br"}
    )
    assert response.status_code == 415
    assert "content-encoding is 'br', expected one of gzip, deflate" in response.json()["error"]


# Shard 0 looks up three features of the user net, and item_id of the item net in the first 1000 of 4096 rows.
NUM_USER_LOOKUPS = 3
KEY_OUTSIDE = 2**64 - 1


def shard_inputs(
    *,
    item_keys: list[int],
    item_lengths: list[list[int]],
    user_lengths: list[list[int]] | None = None,
    user_lookups: list[int] | None = None,
) -> list[tritonclient.grpc.InferInput]:
    """Return the inputs of a request to shard 0, with no keys of the user net."""
    inputs = []
    lookups = [] if user_lookups is None else [("user.lookups", "INT32", np.array(user_lookups, dtype=np.int32))]
    for name, datatype, values in [
        *lookups,
        ("user.keys", "UINT64", np.array([], dtype=np.uint64)),
        ("user.lengths", "INT32", np.array(user_lengths or [[0]] * NUM_USER_LOOKUPS, dtype=np.int32)),
        ("item.keys", "UINT64", np.array(item_keys, dtype=np.uint64)),
        ("item.lengths", "INT32", np.array(item_lengths, dtype=np.int32)),
    ]:
        tensor = tritonclient.grpc.InferInput(name, list(values.shape), datatype)
        tensor.set_data_from_numpy(values)
        inputs.append(tensor)
    return inputs


@pytest.fixture
def shard(served: LocalServing) -> Iterator[tritonclient.grpc.InferenceServerClient]:
    with tritonclient.grpc.InferenceServerClient(served.shard_addresses[0]) as client:
        yield client


def refused_keys(served: LocalServing) -> float:
    """Return how many keys of table `item` shard 0 has refused."""
    lines = httpx.get(f"{served.shard_urls[0]}/metrics").text.splitlines()
    return float(next(one for one in lines if one.startswith('exfm_shard_refused_keys_total{table="item"}')).split()[1])


def test_a_shard_sums_the_rows_of_its_keys(
    served: LocalServing, shard: tritonclient.grpc.InferenceServerClient, tables: dict[str, torch.Tensor]
) -> None:
    inputs = shard_inputs(item_keys=[0, 2**52, 0], item_lengths=[[2, 0, 1]])  # rows 0, 1 and 0 of 2**12
    result = shard.infer("students-shard-0", inputs, model_version=served.bundle_id)
    row_0, row_1 = tables["item"][0].numpy(), tables["item"][1].numpy()
    np.testing.assert_allclose(result.as_numpy("item.pooled"), [row_0 + row_1, 0 * row_0, row_0], atol=1e-6)
    assert result.get_response().model_version == served.bundle_id


def test_a_shard_gives_a_sequences_rows_one_by_one(
    served: LocalServing, shard: tritonclient.grpc.InferenceServerClient, tables: dict[str, torch.Tensor]
) -> None:
    inputs = shard_inputs(item_keys=[2**52, 0, 2**52], item_lengths=[[1, 1, 1]])
    result = shard.infer("students-shard-0", inputs, model_version=served.bundle_id)
    np.testing.assert_allclose(result.as_numpy("item.pooled"), tables["item"][[1, 0, 1]].numpy(), atol=1e-6)


def test_a_shard_refuses_and_counts_keys_outside_its_slices(
    served: LocalServing, shard: tritonclient.grpc.InferenceServerClient
) -> None:
    before = refused_keys(served)
    inputs = shard_inputs(item_keys=[0, KEY_OUTSIDE, KEY_OUTSIDE], item_lengths=[[3]])
    with pytest.raises(InferenceServerException, match="2 of 3 keys are outside") as caught:
        shard.infer("students-shard-0", inputs, model_version=served.bundle_id)
    assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"
    assert refused_keys(served) == before + 2


@pytest.mark.parametrize("version", ["", "0" * 64])
def test_a_shard_refuses_a_request_for_another_bundle(
    shard: tritonclient.grpc.InferenceServerClient, version: str
) -> None:
    with pytest.raises(InferenceServerException, match="the request is for") as caught:
        shard.infer("students-shard-0", shard_inputs(item_keys=[], item_lengths=[[0]]), model_version=version)
    assert caught.value.status() == "StatusCode.FAILED_PRECONDITION"


ONE_ITEM: dict[str, Any] = {"item_lengths": [[0]]}
BAD_BAGS: dict[str, tuple[dict[str, Any], str]] = {
    "lengths that do not add up": ({"item_lengths": [[1]]}, "'item.lengths' sums to 1"),
    "negative lengths": ({"item_lengths": [[-1, 1]]}, "least -1"),
    "lengths for other lookups": ({"item_lengths": [[0], [0]]}, "lengths for 2 lookups; this shard has 1"),
    "lengths of one dimension": ({"item_lengths": [0]}, "expected INT32 of 2 dimensions"),
    "a lookup that there is not": ({**ONE_ITEM, "user_lookups": [0, 1, 3]}, "positions of 3 lookups"),
    "a lookup twice": ({**ONE_ITEM, "user_lookups": [0, 1, 1]}, "'user.lookups' is [0, 1, 1], expected rising"),
    "a lookup before the first": ({**ONE_ITEM, "user_lookups": [-1, 0, 1]}, "positions of 3 lookups"),
    "lengths for more than is asked": ({**ONE_ITEM, "user_lookups": [0, 1]}, "3 lookups; 'user.lookups' has 2"),
}


def test_a_shard_tells_too_large_a_request_from_a_malformed_one(
    served: LocalServing, shard: tritonclient.grpc.InferenceServerClient
) -> None:
    inputs = shard_inputs(item_keys=[], item_lengths=[[0] * 10_001])
    with pytest.raises(InferenceServerException, match="10001 item rows; max_candidates is 10000") as caught:
        shard.infer("students-shard-0", inputs, model_version=served.bundle_id)
    assert caught.value.status() == "StatusCode.OUT_OF_RANGE"


@pytest.mark.parametrize(("bags", "message"), BAD_BAGS.values(), ids=BAD_BAGS)
def test_a_shard_refuses_malformed_bags(
    served: LocalServing, shard: tritonclient.grpc.InferenceServerClient, bags: dict[str, Any], message: str
) -> None:
    with pytest.raises(InferenceServerException, match=re.escape(message)) as caught:
        shard.infer("students-shard-0", shard_inputs(item_keys=[], **bags), model_version=served.bundle_id)
    assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"
