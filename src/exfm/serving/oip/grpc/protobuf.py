"""The Open Inference Protocol's protobuf messages and gRPC methods.

They have their own descriptor pool: KServe and Triton's client register the same names in protobuf's default pool.

Source: https://github.com/kserve/open-inference-protocol, specification/protocol/open_inference_grpc.proto.
"""

from collections.abc import Mapping
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

PACKAGE = "inference"

SERVICE = f"{PACKAGE}.GRPCInferenceService"

INFER_METHOD = f"/{SERVICE}/ModelInfer"
"""The path of the gRPC method that answers requests."""

_REPEATED, _MAP = "repeated ", "map of "

_PARAMETERS = {"parameters": f"{_MAP}InferParameter"}

_DESCRIPTION = {"name": "string", "datatype": "string", "shape": f"{_REPEATED}int64"}

_TENSOR = {**_DESCRIPTION, **_PARAMETERS, "contents": "InferTensorContents"}

_MODEL = {"model_name": "string", "model_version": "string", "id": "string", **_PARAMETERS}

_MESSAGES: Mapping[str, Mapping[str, str]] = {
    "ServerLiveRequest": {},
    "ServerLiveResponse": {"live": "bool"},
    "ServerReadyRequest": {},
    "ServerReadyResponse": {"ready": "bool"},
    "ModelReadyRequest": {"name": "string", "version": "string"},
    "ModelReadyResponse": {"ready": "bool"},
    "ServerMetadataRequest": {},
    "ServerMetadataResponse": {"name": "string", "version": "string", "extensions": f"{_REPEATED}string"},
    "ModelMetadataRequest": {"name": "string", "version": "string"},
    "ModelMetadataResponse": {
        "name": "string",
        "versions": f"{_REPEATED}string",
        "platform": "string",
        "inputs": f"{_REPEATED}ModelMetadataResponse.TensorMetadata",
        "outputs": f"{_REPEATED}ModelMetadataResponse.TensorMetadata",
    },
    "ModelMetadataResponse.TensorMetadata": _DESCRIPTION,
    "ModelInferRequest": {
        **_MODEL,
        "inputs": f"{_REPEATED}ModelInferRequest.InferInputTensor",
        "outputs": f"{_REPEATED}ModelInferRequest.InferRequestedOutputTensor",
        "raw_input_contents": f"{_REPEATED}bytes",
    },
    "ModelInferRequest.InferInputTensor": _TENSOR,
    "ModelInferRequest.InferRequestedOutputTensor": {"name": "string", **_PARAMETERS},
    "ModelInferResponse": {
        **_MODEL,
        "outputs": f"{_REPEATED}ModelInferResponse.InferOutputTensor",
        "raw_output_contents": f"{_REPEATED}bytes",
    },
    "ModelInferResponse.InferOutputTensor": _TENSOR,
    "InferParameter": {"bool_param": "bool", "int64_param": "int64", "string_param": "string"},
    "InferTensorContents": {
        "bool_contents": f"{_REPEATED}bool",
        "int_contents": f"{_REPEATED}int32",
        "int64_contents": f"{_REPEATED}int64",
        "uint_contents": f"{_REPEATED}uint32",
        "uint64_contents": f"{_REPEATED}uint64",
        "fp32_contents": f"{_REPEATED}float",
        "fp64_contents": f"{_REPEATED}double",
        "bytes_contents": f"{_REPEATED}bytes",
    },
}
"""Each message's fields and their types, numbered from 1 in this order. A nested message follows its outer one."""

_CHOICES = {"InferParameter": "parameter_choice"}
"""Messages with a oneof, and its name."""

_METHODS = ("ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata", "ModelInfer")


def _file() -> Any:
    """Return the file descriptor that protobuf's compiler would make of the .proto file."""
    file = descriptor_pb2.FileDescriptorProto(name="open_inference_grpc.proto", package=PACKAGE, syntax="proto3")
    found: dict[str, Any] = {}
    for path, fields in _MESSAGES.items():
        outer, _, name = path.rpartition(".")
        message = found[path] = (found[outer].nested_type if outer else file.message_type).add(name=name)
        if path in _CHOICES:
            message.oneof_decl.add(name=_CHOICES[path])
        for number, (field, kind) in enumerate(fields.items(), start=1):
            is_map, is_repeated = kind.startswith(_MAP), kind.startswith((_REPEATED, _MAP))
            if is_map:
                kind = f"{path}.ParametersEntry"
                entry = message.nested_type.add(name="ParametersEntry", options={"map_entry": True})
                _add_field(entry, "key", "string", number=1)
                _add_field(entry, "value", "InferParameter", number=2)
            added = _add_field(message, field, kind.removeprefix(_REPEATED), number=number)
            if is_repeated:
                added.label = added.LABEL_REPEATED
            if path in _CHOICES:
                added.oneof_index = 0
    return file


def _add_field(message: Any, name: str, kind: str, *, number: int) -> Any:
    field = message.field.add(name=name, number=number, label=descriptor_pb2.FieldDescriptorProto.LABEL_OPTIONAL)
    if kind[0].isupper():
        field.type, field.type_name = field.TYPE_MESSAGE, f".{PACKAGE}.{kind}"
    else:
        field.type = getattr(field, f"TYPE_{kind.upper()}")
    return field


_POOL = descriptor_pool.DescriptorPool()
_POOL.Add(_file())


def _message(name: str) -> Any:
    return message_factory.GetMessageClass(_POOL.FindMessageTypeByName(f"{PACKAGE}.{name}"))


ModelInferRequest = _message("ModelInferRequest")
ModelInferResponse = _message("ModelInferResponse")
InferParameter = _message("InferParameter")
InferTensorContents = _message("InferTensorContents")
ModelMetadataResponse = _message("ModelMetadataResponse")
ModelReadyResponse = _message("ModelReadyResponse")
ServerLiveResponse = _message("ServerLiveResponse")
ServerMetadataResponse = _message("ServerMetadataResponse")
ServerReadyResponse = _message("ServerReadyResponse")

METHODS: Mapping[str, Any] = {name: _message(f"{name}Request") for name in _METHODS}
"""The message that each of the service's methods takes."""
