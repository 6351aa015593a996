"""Requests to a ranker, and its answers, in the form that its gRPC door takes and gives."""

from collections.abc import Mapping

from exfm.features.oip import Tensor
from exfm.serving import oip_protobuf as pb
from exfm.serving.messages import tensors_of
from exfm.serving.tracing.stopwatch import TRACE
from exfm.serving.wire import raw_form


def request_bytes(
    tensors: Mapping[str, Tensor], *, model_name: str, model_version: str = "", is_traced: bool = False
) -> bytes:
    """Return the serialized ModelInferRequest with these inputs, in raw form; without a version, for any."""
    request = pb.ModelInferRequest(model_name=model_name, model_version=model_version)
    for name, tensor in tensors.items():
        request.inputs.add(name=name, datatype=tensor.datatype, shape=tensor.values.shape)
        request.raw_input_contents.append(raw_form(tensor))
    if is_traced:
        request.parameters[TRACE].bool_param = True
    message: bytes = request.SerializeToString()
    return message


def outputs_of(answer: bytes) -> dict[str, Tensor]:
    """Return the outputs of a serialized ModelInferResponse.

    Raises: RequestError if they are not of the form that the protocol asks for.
    """
    response = pb.ModelInferResponse.FromString(answer)
    if response.raw_output_contents:
        for output in response.outputs:
            output.ClearField("contents")  # KServe's own server sends them too, empty
    return tensors_of(response)
