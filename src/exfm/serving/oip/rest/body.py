"""The REST form's codec: JSON bodies, and the extension for binary tensors.

With the extension a body is JSON, whose length the header Inference-Header-Content-Length gives, followed by the raw
data of those tensors that have the parameter binary_data_size.
"""

import json
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from exfm.errors import RequestError
from exfm.features.oip import Tensor, tensors_from_json
from exfm.serving.oip.tensors import datatype_of, num_elements_of, raw_view, tensor_from_bytes
from exfm.serving.requests.call import Answer, check_num_values

JSON_LENGTH_HEADER = "inference-header-content-length"
BINARY_SIZE = "binary_data_size"

ToInputs = Callable[[dict[str, Any]], dict[str, Any]]
"""Converts a model's own form of a request into one with the protocol's inputs."""

MAX_COMMAS_PER_ID = 2
"""Commas that a body may have for each allowed value: texts may hold commas, too."""


@dataclass(frozen=True)
class Query:
    """A decoded REST request."""

    request_id: str
    tensors: Mapping[str, Tensor]
    parameters: Mapping[str, Any]
    binary_outputs: Mapping[str, bool]
    """Whether each requested output is sent as binary data; empty if all outputs were requested."""


def read_body(
    body: bytes, *, json_length: str | None, max_ids: int, to_inputs: ToInputs = lambda query: query
) -> Query:
    """Return the request in a body; `json_length` is the value of the extension's header.

    A body with far more than `max_ids` values is refused unread: reading it would block the server for seconds.
    `to_inputs` converts a model's own form of a request.

    Raises: RequestError, which says what is wrong with the body.
    """
    text, binary = body, b""
    if json_length is not None:
        digits = json_length.lstrip("0") or json_length[-1:]
        is_number = json_length.isascii() and json_length.isdigit()
        if not is_number or len(digits) > len(str(len(body))) or int(digits) > len(body):
            raise RequestError(
                f"header {JSON_LENGTH_HEADER} is {json_length!r:.40}, expected the length of the JSON in the body's "
                f"{len(body)} B"
            )
        text, binary = body[: int(digits)], body[int(digits) :]
    num_commas = text.count(b",")  # fast to count; every value except the first of a list follows a comma
    if num_commas > MAX_COMMAS_PER_ID * max_ids:
        raise RequestError(
            f"the body has {num_commas} commas, too many for its values; max_ids is {max_ids}: send it in parts"
        )
    try:
        query = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"the body is not JSON: {error}") from error
    if not isinstance(query, dict):
        raise RequestError(f"the body is a JSON {type(query).__name__}, expected an object with inputs")
    query = to_inputs(query)
    return Query(
        request_id=_field(query, "id", str) or str(uuid.uuid4()),
        tensors=_tensors(query, binary, max_ids=max_ids),
        parameters=_field(query, "parameters", dict),
        binary_outputs=_binary_outputs(query),
    )


def answer_body(answer: Answer, query: Query, *, model_name: str, model_version: str) -> tuple[bytes, int | None]:
    """Return an answer's body, and the length of its JSON if binary data follows it."""
    outputs, binary = [], []
    is_binary = query.parameters.get("binary_data_output") is True
    for name, values in answer.outputs.items():
        item: dict[str, Any] = {"name": name, "datatype": datatype_of(values), "shape": list(values.shape)}
        if query.binary_outputs.get(name, is_binary):
            binary.append(raw_view(values))
            item["parameters"] = {BINARY_SIZE: len(binary[-1])}
        else:
            item["data"] = values.ravel().tolist()
        outputs.append(item)
    content = {
        "model_name": model_name,
        "model_version": model_version,
        "id": query.request_id,
        "parameters": dict(answer.parameters),
        "outputs": outputs,
    }
    text = json.dumps(content, separators=(",", ":")).encode()
    return b"".join([text, *binary]), len(text) if binary else None


def _tensors(query: dict[str, Any], binary: bytes, *, max_ids: int) -> dict[str, Tensor]:
    """Return all inputs. The code that reads offline requests reads those in JSON."""
    inputs = query.get("inputs")
    binary_inputs = [item for item in inputs if _binary_size(item) is not None] if isinstance(inputs, list) else []
    if not binary_inputs:
        if binary:
            raise RequestError(f"{len(binary)} B follow the JSON, but no input has the parameter {BINARY_SIZE}")
        return tensors_from_json(query)
    assert isinstance(inputs, list)
    tensors = tensors_from_json({"inputs": [item for item in inputs if _binary_size(item) is None]})
    position = num_texts = 0
    for item in binary_inputs:
        name, datatype, shape, size = item.get("name"), item.get("datatype"), item.get("shape"), _binary_size(item)
        if not isinstance(name, str) or not isinstance(datatype, str) or not _is_shape(shape):
            raise RequestError(f"input {name!r:.80} needs a name, a datatype and a shape of whole numbers")
        if name in tensors:
            raise RequestError(f"input {name!r} is given twice")
        if item.get("data") is not None:
            raise RequestError(f"input {name!r} has both data and {BINARY_SIZE}; send one of them")
        if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size <= len(binary) - position:
            raise RequestError(
                f"input {name!r} has {BINARY_SIZE} {size!r:.40}, but {len(binary) - position} B of the body are left"
            )
        if datatype == "BYTES":  # texts are read one by one
            num_texts += num_elements_of(name, shape)
            check_num_values(num_texts, max_ids=max_ids)
        tensors[name] = tensor_from_bytes(name, datatype=datatype, shape=shape, raw=binary[position : position + size])
        position += size
    if position != len(binary):
        raise RequestError(f"{len(binary) - position} B of the body are left after the last input")
    return tensors


def _binary_size(item: Any) -> Any:
    parameters = item.get("parameters") if isinstance(item, dict) else None
    return parameters.get(BINARY_SIZE) if isinstance(parameters, dict) else None


def _is_shape(shape: Any) -> bool:
    return isinstance(shape, list) and all(isinstance(n, int) and not isinstance(n, bool) for n in shape)


def _binary_outputs(query: dict[str, Any]) -> dict[str, bool]:
    wanted = {}
    for item in _field(query, "outputs", list):
        if not isinstance(item, dict) or not isinstance(item.get("name"), str):
            raise RequestError("an entry of `outputs` has no name; each is {name, parameters}")
        parameters = _field(item, "parameters", dict)
        default = _field(query, "parameters", dict).get("binary_data_output") is True
        wanted[item["name"]] = parameters.get("binary_data", default) is True
    return wanted


def _field(query: dict[str, Any], key: str, kind: type) -> Any:
    value = query.get(key)
    if value is None:
        return kind()
    if not isinstance(value, kind):
        raise RequestError(f"`{key}` is {value!r:.40}, expected a JSON {kind.__name__}")
    return value
