"""A client that asks where its requests' time goes, one request at a time."""

import time
from collections.abc import Mapping, Sequence

import grpc
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb

from exfm.errors import RequestError, ServingError
from exfm.features.oip import Tensor
from exfm.serving.requests import request_bytes
from exfm.serving.tracing.breakdown import Breakdown, Traced
from exfm.serving.tracing.stopwatch import TRACE
from exfm.serving.wire import INFER_METHOD

ANSWER_TIMEOUT_S = 20.0


def ask_traced(
    address: str, requests: Sequence[Mapping[str, Tensor]], *, model_name: str, num_requests: int
) -> list[Traced]:
    """Return what a ranker's gRPC door told of so many requests, these in turn, sent one after another.

    Raises: ServingError if it cannot be reached, refuses a request, or tells nothing.
    """
    messages = [request_bytes(tensors, model_name=model_name, is_traced=True) for tensors in requests]
    found = []
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(address, options=options) as channel:
        ask = channel.unary_unary(INFER_METHOD)
        for number in range(num_requests):
            message = messages[number % len(messages)]
            sent_ns = time.perf_counter_ns()
            try:
                answer = ask(message, timeout=ANSWER_TIMEOUT_S)
            except grpc.RpcError as error:
                raise ServingError(f"{address} did not answer ({error.code().name}): {error.details()}") from error
            client_ns = time.perf_counter_ns() - sent_ns
            found.append(Traced(client_ns=client_ns, ranker=_told(answer, address)))
    return found


def _told(answer: bytes, address: str) -> Breakdown:
    try:
        return Breakdown.from_json(pb.ModelInferResponse.FromString(answer).parameters[TRACE].string_param)
    except RequestError as error:
        raise ServingError(f"{address} did not tell of its time ({error}); is it of another release?") from error
