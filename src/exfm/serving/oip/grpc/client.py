"""The client's side of the gRPC form: messages, and a client that asks where its requests' time goes."""

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


class TracedRanker:
    """A ranker's gRPC door, which is asked where its requests' time goes, over one connection."""

    def __init__(
        self, address: str, requests: Sequence[Mapping[str, Tensor]], *, model_name: str, model_version: str = ""
    ) -> None:
        """Ask these requests in turn; with a version, of that bundle's ranker alone."""
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
        """Return what it told of the next requests, sent one after another.

        Raises: ServingError if it cannot be reached, refuses a request, or tells nothing.
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
            found.append(Traced(client_ns=client_ns, ranker=_told(answer, self._address)))
        return found


def _told(answer: bytes, address: str) -> Breakdown:
    try:
        return Breakdown.from_json(pb.ModelInferResponse.FromString(answer).parameters[TRACE].string_param)
    except RequestError as error:
        raise ServingError(f"{address} did not tell of its time ({error}); is it of another release?") from error
