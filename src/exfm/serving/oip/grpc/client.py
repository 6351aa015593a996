"""The gRPC form's client, which traces its requests."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import cycle

import grpc

from exfm.errors import RequestError, ServingError
from exfm.features.oip import Tensor
from exfm.serving.oip.grpc import protobuf as pb
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


@contextmanager
def traced_ranker(
    address: str, requests: Sequence[Mapping[str, Tensor]], *, model_name: str, model_version: str = ""
) -> Iterator[Callable[[int], list[Traced]]]:
    """Yield a function. It sends the given number of requests, in turn, over one connection, and returns their traces.

    With a version, only a ranker of that bundle answers.

    The function raises: ServingError if the ranker cannot be reached, refuses a request, or returns no trace.
    """
    messages = cycle(
        [request_bytes(one, model_name=model_name, model_version=model_version, is_traced=True) for one in requests]
    )
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(address, options=options) as channel:
        infer = channel.unary_unary(pb.INFER_METHOD)

        def traced() -> Traced:
            message, sent_ns = next(messages), time.perf_counter_ns()
            try:
                answer = infer(message, timeout=ANSWER_TIMEOUT_S)
            except grpc.RpcError as error:
                raise ServingError(f"{address} did not answer ({error.code().name}): {error.details()}") from error
            client_ns = time.perf_counter_ns() - sent_ns
            return Traced(client_ns=client_ns, ranker=_breakdown_of(answer, address))

        yield lambda num_requests: [traced() for _ in range(num_requests)]


def _breakdown_of(answer: bytes, address: str) -> Breakdown:
    try:
        return Breakdown.from_json(pb.ModelInferResponse.FromString(answer).parameters[TRACE].string_param)
    except RequestError as error:
        raise ServingError(f"{address} returned a malformed trace ({error}); use one release of exfm") from error
