"""The gRPC form's client: its messages, and a client that traces its requests."""

import time
from collections.abc import Mapping, Sequence
from itertools import cycle, islice
from types import TracebackType
from typing import Self

import grpc

from exfm.errors import RequestError, ServingError
from exfm.features.oip import Tensor
from exfm.serving.oip.grpc import protobuf as pb
from exfm.serving.oip.grpc.messages import tensors_of
from exfm.serving.oip.tensors import raw_form
from exfm.serving.profiler.breakdown import Breakdown, Traced
from exfm.serving.profiler.profiler import TRACE

ANSWER_TIMEOUT_S = 20.0


def request_bytes(
    tensors: Mapping[str, Tensor], *, model_name: str, model_version: str = "", is_traced: bool = False
) -> bytes:
    """Return the serialized ModelInferRequest with these inputs, in raw form; without a version, any bundle answers."""
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


class TracedRanker:
    """A client that requests traces of a ranker by gRPC, over one connection."""

    def __init__(
        self, address: str, requests: Sequence[Mapping[str, Tensor]], *, model_name: str, model_version: str = ""
    ) -> None:
        """Send these requests in turn; with a version, only a ranker of that bundle answers."""
        self._address = address
        messages = [
            request_bytes(one, model_name=model_name, model_version=model_version, is_traced=True) for one in requests
        ]
        self._messages = cycle(messages)
        options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        self._channel = grpc.insecure_channel(address, options=options)
        self._ask = self._channel.unary_unary(pb.INFER_METHOD)

    def __enter__(self) -> Self:
        """Return it."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Close the connection."""
        self._channel.close()

    def ask(self, num_requests: int) -> list[Traced]:
        """Send the next requests one after another, and return their traces.

        Raises: ServingError if the ranker cannot be reached, refuses a request, or returns no trace.
        """
        found = []
        for message in islice(self._messages, num_requests):
            sent_ns = time.perf_counter_ns()
            try:
                answer = self._ask(message, timeout=ANSWER_TIMEOUT_S)
            except grpc.RpcError as error:
                raise ServingError(
                    f"{self._address} did not answer ({error.code().name}): {error.details()}"
                ) from error
            client_ns = time.perf_counter_ns() - sent_ns
            found.append(Traced(client_ns=client_ns, ranker=_breakdown_of(answer, self._address)))
        return found


def _breakdown_of(answer: bytes, address: str) -> Breakdown:
    try:
        return Breakdown.from_json(pb.ModelInferResponse.FromString(answer).parameters[TRACE].string_param)
    except RequestError as error:
        raise ServingError(f"{address} returned a malformed trace ({error}); use one release of exfm") from error
