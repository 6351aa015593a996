"""Requests to a ranker, in the form that its gRPC door takes."""

from collections.abc import Mapping

from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb

from exfm.features.oip import Tensor
from exfm.serving.wire import raw_numbers


def request_bytes(tensors: Mapping[str, Tensor], *, model_name: str) -> bytes:
    """Return the serialized ModelInferRequest with these inputs, which are numbers, in raw form."""
    request = pb.ModelInferRequest(model_name=model_name)
    for name, tensor in tensors.items():
        request.inputs.add(name=name, datatype=tensor.datatype, shape=tensor.values.shape)
        request.raw_input_contents.append(raw_numbers(tensor.values))
    message: bytes = request.SerializeToString()
    return message
