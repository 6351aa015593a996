"""The gRPC form's codec: tensors and parameters in protobuf messages.

The messages are typed Any: protobuf makes their classes at run time.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from exfm.errors import RequestError
from exfm.features.oip import Tensor
from exfm.serving.oip.grpc import protobuf as pb
from exfm.serving.oip.tensors import datatype_of, num_elements_of, number_type, raw_view, tensor_from_bytes
from exfm.serving.requests.call import Answer, Parameter, check_num_values

_CONTENT_FIELDS = {
    "BOOL": "bool_contents", "UINT8": "uint_contents", "UINT16": "uint_contents", "UINT32": "uint_contents",
    "UINT64": "uint64_contents", "INT8": "int_contents", "INT16": "int_contents", "INT32": "int_contents",
    "INT64": "int64_contents", "FP32": "fp32_contents", "FP64": "fp64_contents", "BYTES": "bytes_contents",
}  # fmt: skip
"""The field of InferTensorContents for each datatype; FP16 exists in raw form only."""


def tensors_of(message: Any, *, max_ids: int | None = None) -> dict[str, Tensor]:
    """Return the inputs of a ModelInferRequest, or the outputs of a ModelInferResponse, raw or typed.

    With `max_ids`, values that are read one by one are counted first, since reading them takes time.

    Raises: RequestError if a tensor is malformed, or the values are more than `max_ids`.
    """
    if max_ids is not None:
        is_raw = len(message.raw_input_contents) > 0
        check_num_values(
            sum(
                num_elements_of(item.name, item.shape)
                for item in message.inputs
                if not is_raw or item.datatype == "BYTES"
            ),
            max_ids=max_ids,
        )
    if isinstance(message, pb.ModelInferRequest):
        return _tensors(message.inputs, message.raw_input_contents)
    return _tensors(message.outputs, message.raw_output_contents)


def _tensors(described: Sequence[Any], raw: Sequence[bytes | memoryview]) -> dict[str, Tensor]:
    if raw and len(raw) != len(described):
        raise RequestError(f"there are {len(described)} tensors, but {len(raw)} raw contents; send one for each")
    tensors: dict[str, Tensor] = {}
    for index, item in enumerate(described):
        if item.name in tensors:
            raise RequestError(f"tensor {item.name!r} is given twice")
        if not raw:
            tensors[item.name] = _typed_tensor(item)
        elif item.HasField("contents"):
            raise RequestError(f"tensor {item.name!r} has both contents and raw contents; send one of them")
        else:
            tensors[item.name] = tensor_from_bytes(
                item.name, datatype=item.datatype, shape=list(item.shape), raw=raw[index]
            )
    return tensors


def parameters_of(message: Mapping[str, Any]) -> dict[str, Parameter]:
    """Return the parameters of a request or an answer."""
    return {
        key: getattr(value, value.WhichOneof("parameter_choice") or "string_param") for key, value in message.items()
    }


def answer_message(answer: Answer, *, model_name: str, model_version: str, request_id: str) -> Any:
    """Return the ModelInferResponse of an answer, its tensors in raw form."""
    response = pb.ModelInferResponse(model_name=model_name, model_version=model_version, id=request_id)
    for key, value in answer.parameters.items():
        response.parameters[key].CopyFrom(_parameter(value))
    for name, values in answer.outputs.items():
        response.outputs.add(name=name, datatype=datatype_of(values), shape=values.shape)
        response.raw_output_contents.append(raw_view(values).tobytes())
    return response


def _typed_tensor(item: Any) -> Tensor:
    field = _CONTENT_FIELDS.get(item.datatype)
    if field is None:
        raise RequestError(f"tensor {item.name!r} has datatype {item.datatype!r:.40}; expected {list(_CONTENT_FIELDS)}")
    values = getattr(item.contents, field)
    shape = list(item.shape)
    num_elements = num_elements_of(item.name, shape)
    if len(values) != num_elements:
        raise RequestError(f"input {item.name!r} has shape {shape}, but {len(values)} values in {field}")
    array: npt.NDArray[Any]
    if item.datatype == "BYTES":
        array = np.empty(num_elements, dtype=np.object_)
        array[:] = list(values)
    else:
        try:
            array = np.array(values, dtype=number_type(item.name, item.datatype))
        except OverflowError as error:
            raise RequestError(f"input {item.name!r} holds a number too large for {item.datatype}") from error
    return Tensor(datatype=item.datatype, values=array.reshape(shape))


def _parameter(value: Parameter) -> Any:
    if isinstance(value, bool):
        return pb.InferParameter(bool_param=value)
    return pb.InferParameter(int64_param=value) if isinstance(value, int) else pb.InferParameter(string_param=value)
