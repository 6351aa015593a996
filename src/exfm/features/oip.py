"""The Open Inference Protocol's JSON form of a request's inputs and of an answer.

A request in this form means the same to a ranker (REST), to `exfm score` and to a bundle's golden request.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from exfm.errors import RequestError

Datatype = Literal["INT64", "INT32", "FP32", "BYTES"]

NUMPY_TYPES: dict[Datatype, npt.DTypeLike] = {
    "INT64": np.int64, "INT32": np.int32, "FP32": np.float32, "BYTES": np.object_,
}  # fmt: skip


@dataclass(frozen=True)
class Tensor:
    """One input of a request; values have the datatype's numpy type (BYTES: objects that are str or bytes)."""

    datatype: str
    values: npt.NDArray[Any]


def tensors_from_json(body: Any) -> dict[str, Tensor]:
    """Return the inputs of a request in OIP's JSON form.

    Raises: RequestError if the body is not of that form, or a value does not fit its datatype.
    """
    inputs = body.get("inputs") if isinstance(body, dict) else None
    if not isinstance(inputs, list):
        raise RequestError('the request has no list `inputs`; send {"inputs": [{name, datatype, shape, data}, ...]}')
    tensors: dict[str, Tensor] = {}
    for item in inputs:
        missing = {"name", "datatype", "shape", "data"} - set(item if isinstance(item, dict) else ())
        if missing:
            raise RequestError(f"an input lacks {', '.join(sorted(missing))}; each has name, datatype, shape and data")
        if item["name"] in tensors:
            raise RequestError(f"input {item['name']!r} is given twice")
        tensors[item["name"]] = _tensor_from_json(item)
    return tensors


def answer_to_json(
    *, model_name: str, model_version: str, tasks: Sequence[str], scores_NT: npt.NDArray[np.float32]
) -> dict[str, Any]:
    """Return an answer in OIP's JSON form: one FP32 output [N] for each task, named by it."""
    return {
        "model_name": model_name,
        "model_version": model_version,
        "outputs": [
            {"name": task, "datatype": "FP32", "shape": [len(scores_NT)], "data": scores_NT[:, column].tolist()}
            for column, task in enumerate(tasks)
        ],
    }


def _tensor_from_json(item: dict[str, Any]) -> Tensor:
    name, datatype, data, shape = item["name"], item["datatype"], item["data"], item["shape"]
    if datatype not in NUMPY_TYPES:
        raise RequestError(f"input {name!r} has datatype {datatype!r}; expected one of {', '.join(NUMPY_TYPES)}")
    if not isinstance(data, list) or shape != [len(data)]:
        found = len(data) if isinstance(data, list) else type(data).__name__
        raise RequestError(f"input {name!r} has shape {shape} and data of length {found}; expected a flat list as long")
    accepted: type | tuple[type, ...] = {"BYTES": (str,), "FP32": (int, float)}.get(datatype, (int,))
    for value in data:
        if not isinstance(value, accepted) or isinstance(value, bool):
            raise RequestError(f"input {name!r} holds {value!r:.40}, which is no {datatype}")
    try:
        return Tensor(datatype=datatype, values=np.array(data, dtype=NUMPY_TYPES[datatype]))
    except OverflowError as error:
        raise RequestError(f"input {name!r} holds a number too large for {datatype}") from error
