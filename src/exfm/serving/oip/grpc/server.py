"""The gRPC server: the protocol's methods, with limits, deadlines, errors and raw tensors."""

import asyncio
import time
from contextlib import nullcontext
from functools import partial
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from exfm.errors import ConfigError, OverloadedError, RequestError
from exfm.serving.config import LimitsConfig
from exfm.serving.models.served_model import SERVER_METADATA, UNANSWERED, ServedModel
from exfm.serving.oip.grpc import protobuf as pb
from exfm.serving.oip.grpc.message_parts import check_parts
from exfm.serving.oip.grpc.messages import answer_message, parameters_of, tensors_of
from exfm.serving.profiler.breakdown import Layer
from exfm.serving.profiler.profiler import TRACE, Profiler, timed, wants_breakdown
from exfm.serving.profiler.spans import spanned
from exfm.serving.requests.arrivals import Arrivals
from exfm.serving.requests.call import SHOWN, TIMEOUT, Call, Deadline, deadline_of, num_shown_of
from exfm.serving.requests.status import failed_with, given_up
from exfm.serving.tls import TlsFolder, server_credentials

MIN_PING_INTERVAL_MS = 1_000
"""Shortest pause between a client's pings; by gRPC's default, 5 minutes, clients notice a lost server late."""


class Servicer(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc ships no types
    """The protocol's methods, by their names in the protocol.

    Calls are handled as streams of one message: gRPC calls a stream's handler before its message has arrived, so
    requests over `max_concurrency` are refused unread. Health and metadata are always answered.
    """

    def __init__(self, model: ServedModel, *, arrivals: Arrivals) -> None:
        self._model = model
        self._arrivals = arrivals

    def service(self, handler_call_details: Any) -> Any:
        """Return what handles a call that has just arrived; the argument is gRPC's."""
        method = handler_call_details.method
        refusal = self._refusal(method)
        name = method.rpartition("/")[2]

        async def answer(_: Any, context: Any) -> Any:
            try:
                if refusal is not None:
                    raise refusal
                message = await self._message_of(context)
                with self._model.admission.taken() if method == pb.INFER_METHOD else nullcontext():
                    return await getattr(self, name)(message, context)
            except asyncio.CancelledError:
                given_up()
                raise
            except Exception as error:
                status, message = failed_with(error)
                await context.abort(status.grpc, message)

        return grpc.stream_unary_rpc_method_handler(
            answer,
            request_deserializer=None if refusal is not None else partial(self._read, kind=pb.METHODS[name]),
            response_serializer=lambda response: response.SerializeToString(),
        )

    def _refusal(self, method: str) -> Exception | None:
        """Return why a call is refused before its message is read, or None."""
        service, _, name = method.removeprefix("/").rpartition("/")
        if service != pb.SERVICE or name not in pb.METHODS:
            return NotImplementedError(UNANSWERED.get(name, f"there is no method {name!r:.80} here"))
        if method == pb.INFER_METHOD:
            try:
                self._model.admission.check()
            except OverloadedError as error:
                return error
        return None

    async def _message_of(self, context: Any) -> Any:
        """Return a call's decoded message. One that takes long to arrive counts as `max_message_bytes`.

        Raises: as `arriving`; RequestError if the message is missing or malformed.
        """
        async with self._arrivals.arriving(unseen_bytes=self._model.config.limits.max_message_bytes):
            message = await context.read()
        if message is grpc.aio.EOF:
            raise RequestError("the call ended without a message")
        if isinstance(message, RequestError):
            raise message
        return message

    def _read(self, content: bytes, *, kind: Any) -> Any:
        """Return a message, or the error of a malformed one, which gRPC itself would answer by UNKNOWN."""
        try:
            if kind is pb.ModelInferRequest:
                check_parts(content, kind, max_ids=self._model.config.limits.max_ids)
            return kind.FromString(content)
        except RequestError as error:
            return error
        except DecodeError as error:
            return RequestError(f"the message of {len(content)} B is not one of the protocol: {error}")

    async def ServerLive(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Return that the server runs."""
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Return whether the model is ready."""
        return pb.ServerReadyResponse(ready=self._model.is_ready)

    async def ServerMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Return the server's metadata."""
        return pb.ServerMetadataResponse(**SERVER_METADATA)

    async def ModelReady(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Return whether the model is ready."""
        self._model.check_request(request.name, version=request.version)
        return pb.ModelReadyResponse(ready=self._model.is_ready)

    async def ModelMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Return the model's metadata."""
        self._model.check_request(request.name, version=request.version)
        return pb.ModelMetadataResponse(**self._model.metadata())

    async def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Return the model's answer, its tensors in raw form."""
        came_s, model = time.monotonic(), self._model
        model.check_request(request.model_name, version=request.model_version)
        parameters = parameters_of(request.parameters)
        deadline = deadline_of(
            parameters.get(TIMEOUT),
            transport_s=context.time_remaining(),
            default_ms=model.config.deadlines.default_ms,
            came_s=came_s,
        )
        num_shown = num_shown_of(parameters.get(SHOWN))
        is_reported, profiler = wants_breakdown(parameters.get(TRACE)), Profiler()
        headers = context.invocation_metadata() or ()
        with spanned(model.spans, profiler, is_reported=is_reported, headers=headers) as timer:
            with timed(timer, Layer.QUEUE):
                await model.admission.begin()
            message = await self._infer(request, deadline, timer, num_shown=num_shown)
        if is_reported:
            message.parameters[TRACE].string_param = profiler.read().to_json()
        model.seconds.observe(time.monotonic() - came_s)
        return message

    async def _infer(
        self, request: Any, deadline: Deadline, profiler: Profiler | None, *, num_shown: int | None
    ) -> Any:
        model = self._model
        with timed(profiler, Layer.DESERIALIZE):
            tensors = tensors_of(request, max_ids=model.config.limits.max_ids)
        outputs = tuple(output.name for output in request.outputs)
        call = Call(
            tensors,
            deadline=deadline,
            model_version=request.model_version,
            outputs=outputs,
            profiler=profiler,
            num_shown=num_shown,
        )
        answer = await model.answer(call)
        with timed(profiler, Layer.SERIALIZE):
            return answer_message(answer, model_name=model.name, model_version=model.bundle_id, request_id=request.id)


class GrpcServer:
    """The gRPC server."""

    def __init__(self, model: ServedModel, *, arrivals: Arrivals, tls: TlsFolder | None) -> None:
        """Serve a model; with `tls`, only clients with a certificate."""
        self._servicer = Servicer(model, arrivals=arrivals)
        self._config = model.config
        self._tls = tls
        self._server: Any = None

    async def start(self) -> int:
        """Start to serve, and return the port.

        Raises: ConfigError if the address is not free.
        """
        self._server = grpc.aio.server(options=_options(self._config.limits))
        self._server.add_generic_rpc_handlers([self._servicer])
        host = f"[{self._config.listen.host}]" if ":" in self._config.listen.host else self._config.listen.host
        address = f"{host}:{self._config.listen.grpc_port}"
        try:
            port: int
            if self._tls is None:
                port = self._server.add_insecure_port(address)
            else:
                port = self._server.add_secure_port(address, server_credentials(self._tls))
        except RuntimeError as error:
            raise ConfigError(f"gRPC cannot listen on {address} ({error}); is another server there?") from error
        await self._server.start()
        return port

    async def stop(self) -> None:
        """Finish the requests under way, and stop."""
        if self._server is not None:
            await self._server.stop(self._config.shutdown.drain_s)


def _options(limits: LimitsConfig) -> list[tuple[str, str | int]]:
    large_bytes = 4 * 2**20  # requests with many candidates are megabytes; gRPC's default frames are 16 KiB
    return [
        ("grpc.max_send_message_length", limits.max_message_bytes),
        ("grpc.max_receive_message_length", limits.max_message_bytes),
        # No grace period is set: requests under way at that age end by their own deadlines.
        ("grpc.max_connection_age_ms", limits.max_connection_age_s * 1_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", MIN_PING_INTERVAL_MS),
        ("grpc.http2.max_frame_size", large_bytes),
        ("grpc.http2.lookahead_bytes", large_bytes),
        ("grpc.http2.write_buffer_size", large_bytes),
        ("grpc.so_reuseport", 0),  # or two servers could share a port, and each would get some of the requests
    ]
