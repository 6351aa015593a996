"""The Open Inference Protocol's JSON form of a request's inputs and of an answer.

A request in this form means the same to a ranker (REST), to `exfm score` and to a bundle's golden query.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from exfm.errors import RequestError
from exfm.features.batch import RawColumns
from exfm.schema import NETS, Net, Schema, SparseFeature

Datatype = Literal["INT64", "INT32", "FP32", "BYTES"]

LENGTHS_SUFFIX = ".lengths"
"""Suffix of the input that says how many ids each row of a bag has."""

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
        if not isinstance(item["name"], str):
            raise RequestError(f"an input is named {item['name']!r:.40}, expected a string")
        if item["name"] in tensors:
            raise RequestError(f"input {item['name']!r} is given twice")
        tensors[item["name"]] = _tensor_from_json(item)
    return tensors


def datatype_of_ids(feature: SparseFeature) -> Datatype:
    """Return the datatype of a feature's ids."""
    return "INT64" if feature.id_type == "int64" else "BYTES"


def json_tensor(name: str, datatype: Datatype, data: list[Any]) -> dict[str, Any]:
    """Return an input or output of one dimension in OIP's JSON form."""
    return {"name": name, "datatype": datatype, "shape": [len(data)], "data": data}


def request_to_json(raw: Mapping[Net, RawColumns], schema: Schema) -> dict[str, Any]:
    """Return a request for one user in OIP's JSON form: the inverse of `tensors_from_json` and what follows it."""
    inputs = []
    for net in NETS:
        dense = {name: values.tolist() for name, values in raw[net].dense.items()}
        sparse = {}
        for name, ids in raw[net].sparse.items():
            values = ids.values if ids.codes is None else ids.values[ids.codes]
            sparse[name] = (values.tolist(), ids.lengths.tolist())
        inputs += inputs_of_net(schema, net, dense=dense, sparse=sparse)
    return {"inputs": inputs}


def inputs_of_net(
    schema: Schema, net: Net, *, dense: Mapping[str, list[Any]], sparse: Mapping[str, tuple[list[Any], list[int]]]
) -> list[dict[str, Any]]:
    """Return one net's inputs in OIP's JSON form, of each dense feature's values and each sparse one's ids and lengths.

    Lengths of a single are left out where each row has one id.
    """
    inputs = [json_tensor(feature.name, "FP32", dense[feature.name]) for feature in schema.dense_of(net)]
    for feature in schema.sparse_of(net):
        ids, lengths = sparse[feature.name]
        inputs.append(json_tensor(feature.name, datatype_of_ids(feature), ids))
        if feature.kind != "single" or any(length != 1 for length in lengths):
            inputs.append(json_tensor(feature.name + LENGTHS_SUFFIX, "INT32", lengths))
    return inputs


def answer_to_json(
    *, model_name: str, model_version: str, request_id: str, tasks: Sequence[str], scores_NT: npt.NDArray[np.float32]
) -> dict[str, Any]:
    """Return an answer in OIP's JSON form, as a ranker gives it when no table is missing; an empty id is left out."""
    return {
        "model_name": model_name,
        "model_version": model_version,
        **({"id": request_id} if request_id else {}),
        "parameters": answer_parameters(),
        "outputs": outputs_to_json(tasks, scores_NT),
    }


def answer_parameters(degraded_tables: Collection[str] = ()) -> dict[str, bool | str]:
    """Return an answer's parameters; `degraded_tables` are those of which a row was missing."""
    return {"degraded": len(degraded_tables) > 0, "degraded_tables": ",".join(sorted(degraded_tables))}


def requested_outputs(body: dict[str, Any], tasks: Sequence[str]) -> list[str]:
    """Return the outputs that a request in JSON form names, or all of them if it names none.

    Raises: RequestError if there is no such output.
    """
    wanted = body.get("outputs", [])
    if not isinstance(wanted, list) or not all(isinstance(item, dict) and "name" in item for item in wanted):
        raise RequestError(f"`outputs` is {wanted!r:.80}; expected a list of {{name}}")
    return chosen_outputs([item["name"] for item in wanted], tasks)


def chosen_outputs(names: Sequence[str], outputs: Sequence[str]) -> list[str]:
    """Return the outputs that a client names; all if it names none.

    Raises: RequestError if there is no such output.
    """
    unknown = [name for name in names if name not in outputs]
    if unknown:
        raise RequestError(f"unknown output {unknown[0]!r:.80}; the model's outputs are {', '.join(outputs)}")
    return list(names or outputs)


def require_numbers(outputs: Mapping[str, npt.NDArray[np.floating[Any]]]) -> None:
    """Return if every score is a number; `outputs` has each task's, [N].

    Training and export refuse weights and rows that are not numbers, so a request's dense features overflowed.

    Raises: RequestError, which names the first candidate without a score.
    """
    for task, scores_N in outputs.items():
        is_none_N = np.isnan(scores_N)
        if is_none_N.any():
            raise RequestError(
                f"candidate {int(is_none_N.argmax())} has no score for {task!r}: its dense features are too large to "
                "compute with; send them as the model was trained on them"
            )


def outputs_to_json(tasks: Sequence[str], scores_NT: npt.NDArray[np.float32]) -> list[dict[str, Any]]:
    """Return an answer's outputs: one FP32 [N] for each task, named by it."""
    return [json_tensor(task, "FP32", scores_N.tolist()) for task, scores_N in zip(tasks, scores_NT.T, strict=True)]


def _tensor_from_json(item: dict[str, Any]) -> Tensor:
    name, datatype, data, shape = item["name"], item["datatype"], item["data"], item["shape"]
    if not isinstance(datatype, str) or datatype not in NUMPY_TYPES:
        raise RequestError(f"input {name!r} has datatype {datatype!r}; expected one of {', '.join(NUMPY_TYPES)}")
    if not isinstance(data, list) or shape != [len(data)]:
        found = len(data) if isinstance(data, list) else type(data).__name__
        raise RequestError(f"input {name!r} has shape {shape} and data of length {found}; expected a flat list as long")
    accepted: type | tuple[type, ...] = {"BYTES": (str,), "FP32": (int, float)}.get(datatype, (int,))
    for value in data:
        if not isinstance(value, accepted) or isinstance(value, bool):
            raise RequestError(f"input {name!r} has value {value!r:.40}, expected {datatype}")
    try:
        if datatype == "BYTES":
            data = [value.encode() for value in data]
        with np.errstate(over="raise"):  # or 1e39 would become an infinity
            return Tensor(datatype=datatype, values=np.array(data, dtype=NUMPY_TYPES[datatype]))
    except UnicodeEncodeError as error:
        raise RequestError(f"input {name!r} has a text that is not valid Unicode: {error}") from error
    except (OverflowError, FloatingPointError) as error:
        raise RequestError(f"input {name!r} holds a number too large for {datatype}") from error
