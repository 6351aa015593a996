"""The gRPC server: the protocol's methods, with limits, deadlines, errors and raw tensors."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from functools import partial
from typing import Any, NoReturn

import grpc
from google.protobuf.message import DecodeError

from exfm.errors import ConfigError, OverloadedError, RequestError
from exfm.serving.config import ServerConfig
from exfm.serving.models.dataplane import UNANSWERED, ServedModels
from exfm.serving.models.served_model import ServedModel
from exfm.serving.oip.grpc import protobuf as pb
from exfm.serving.oip.grpc.message_parts import check_parts
from exfm.serving.oip.grpc.messages import RawResponse, answer_message, parameters_of, tensors_of
from exfm.serving.oip.grpc.options import server_options
from exfm.serving.oip.grpc.protobuf import INFER_METHOD
from exfm.serving.profiler.breakdown import Layer
from exfm.serving.profiler.profiler import TRACE, Profiler, timed, wants_breakdown
from exfm.serving.profiler.spans import spanned
from exfm.serving.requests.admission import Admission
from exfm.serving.requests.arrivals import Arrivals
from exfm.serving.requests.call import TIMEOUT, Call, Deadline, deadline_of
from exfm.serving.requests.status import failed_with, given_up
from exfm.serving.tls import TlsFolder, server_credentials


class StatusInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[misc]  # grpc ships no types
    """Gives every error its status, also a malformed message, for which gRPC itself returns UNKNOWN and a traceback."""

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        """Return what handles a call; the arguments are gRPC's."""
        handler = await continuation(handler_call_details)

        async def answer(messages: Any, context: Any) -> Any:
            try:
                return await handler.stream_unary(messages, context)
            except asyncio.CancelledError:
                given_up()
                raise
            except Exception as error:
                status, message = failed_with(error)
                await context.abort(status.grpc, message)

        return grpc.stream_unary_rpc_method_handler(
            answer,
            request_deserializer=handler.request_deserializer and _or_error(handler.request_deserializer),
            response_serializer=handler.response_serializer and _or_raw(handler.response_serializer),
        )


class AdmissionInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[misc]  # grpc ships no types
    """Refuses requests over `max_concurrency` before their message is read; health and metadata are always answered.

    Calls are handled as streams of one message: gRPC calls a stream's handler before its message has arrived. A
    message is visible only once it is complete; one that takes long counts as `max_message_bytes`.
    """

    def __init__(self, admission: Admission, arrivals: Arrivals, *, config: ServerConfig) -> None:
        self._admission = admission
        self._arrivals = arrivals
        self._max_ids = config.limits.max_ids
        self._max_message_bytes = config.limits.max_message_bytes

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        """Return what handles a call; the arguments are gRPC's."""
        is_request = handler_call_details.method == INFER_METHOD
        if is_request:
            try:
                self._admission.check()
            except OverloadedError as error:
                return grpc.stream_unary_rpc_method_handler(_raise(error))
        handler = await continuation(handler_call_details)
        if handler is None:
            name = handler_call_details.method.rpartition("/")[2]
            reason = UNANSWERED.get(name, f"there is no method {name!r:.80} here")
            return grpc.stream_unary_rpc_method_handler(_raise(NotImplementedError(reason)))

        async def answer(_: Any, context: Any) -> Any:
            message = await self._message_of(context)
            with self._admission.taken() if is_request else nullcontext():
                return await handler.unary_unary(message, context)

        read = handler.request_deserializer
        return grpc.stream_unary_rpc_method_handler(
            answer,
            request_deserializer=partial(self._read, read=read) if is_request else read,
            response_serializer=handler.response_serializer,
        )

    async def _message_of(self, context: Any) -> Any:
        """Return a call's decoded message.

        Raises: as `arriving`; RequestError if the message is missing or malformed.
        """
        async with self._arrivals.arriving(unseen_bytes=self._max_message_bytes):
            message = await context.read()
        if message is grpc.aio.EOF:
            raise RequestError("the call ended without a message")
        if isinstance(message, RequestError):
            raise message
        return message

    def _read(self, content: bytes, *, read: Callable[[bytes], Any]) -> Any:
        check_parts(content, pb.ModelInferRequest, max_ids=self._max_ids)
        return read(content)


class Servicer:
    """The protocol's methods, by their names in the protocol."""

    def __init__(self, models: ServedModels) -> None:
        self._models = models

    def handlers(self) -> Any:
        """Return gRPC's handlers of the methods."""
        handlers = {
            name: grpc.unary_unary_rpc_method_handler(
                getattr(self, name),
                request_deserializer=request.FromString,
                response_serializer=response.SerializeToString,
            )
            for name, (request, response) in pb.METHODS.items()
        }
        return grpc.method_handlers_generic_handler(pb.SERVICE, handlers)

    async def ServerLive(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Return that the server runs."""
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Return whether all models are ready."""
        return pb.ServerReadyResponse(ready=self._models.ready())

    async def ServerMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Return the server's metadata."""
        return pb.ServerMetadataResponse(**self._models.metadata())

    async def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Return a model's answer, its tensors in raw form."""
        came_s = time.monotonic()
        model = self._models.find(request.model_name, version=request.model_version)
        parameters = parameters_of(request.parameters)
        deadline = deadline_of(
            parameters.get(TIMEOUT),
            transport_s=context.time_remaining(),
            default_ms=model.config.deadlines.default_ms,
            came_s=came_s,
        )
        is_reported = wants_breakdown(parameters.get(TRACE))
        with spanned(
            model.spans, Profiler() if is_reported else None, headers=lambda: context.invocation_metadata() or ()
        ) as profiler:
            with timed(profiler, Layer.QUEUE):
                await model.admission.begin()
            message = await self._infer(request, model, deadline, profiler)
        if profiler is not None and is_reported:
            message.head.parameters[TRACE].string_param = profiler.read().to_json()
        model.seconds.answered(came_s=came_s)
        return message

    async def _infer(
        self, request: Any, model: ServedModel, deadline: Deadline, profiler: Profiler | None
    ) -> RawResponse:
        with timed(profiler, Layer.DESERIALIZE):
            tensors = tensors_of(request, max_ids=model.config.limits.max_ids)
        outputs = tuple(output.name for output in request.outputs)
        call = Call(tensors, deadline=deadline, model_version=request.model_version, outputs=outputs, profiler=profiler)
        answer = await self._models.ask(model, call)
        with timed(profiler, Layer.SERIALIZE):
            return answer_message(answer, model_name=model.name, model_version=model.bundle_id, request_id=request.id)

    async def ModelReady(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Return whether a model is ready."""
        model = self._models.find(request.name, version=request.version)
        return pb.ModelReadyResponse(ready=self._models.model_ready(model))

    async def ModelMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Return a model's metadata."""
        model = self._models.find(request.name, version=request.version)
        return pb.ModelMetadataResponse(**self._models.model_metadata(model))

    async def RepositoryModelLoad(self, request: Any, context: Any) -> NoReturn:  # noqa: N802
        """Refuse: clients cannot load or unload models."""
        raise NotImplementedError("models are loaded when the server starts; start another")

    async def RepositoryModelUnload(self, request: Any, context: Any) -> NoReturn:  # noqa: N802
        """Refuse: clients cannot load or unload models."""
        raise NotImplementedError("models are unloaded when the server stops; stop it")


class GrpcServer:
    """The gRPC server."""

    def __init__(
        self,
        models: ServedModels,
        *,
        admission: Admission,
        arrivals: Arrivals,
        config: ServerConfig,
        tls: TlsFolder | None,
    ) -> None:
        """Serve models; with `tls`, only clients with a certificate."""
        self._tls = tls
        self._admission = admission
        self._arrivals = arrivals
        self._config = config
        self._models = models
        self._server: Any = None

    async def start(self) -> int:
        """Start to serve, and return the port.

        Raises: ConfigError if the address is not free.
        """
        admission = AdmissionInterceptor(self._admission, self._arrivals, config=self._config)
        interceptors = (StatusInterceptor(), admission)
        self._server = grpc.aio.server(interceptors=interceptors, options=server_options(self._config))
        self._server.add_generic_rpc_handlers([Servicer(self._models).handlers()])
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


def _raise(error: Exception) -> Callable[[Any, Any], Awaitable[NoReturn]]:
    async def handle(request: Any, context: Any) -> NoReturn:
        raise error

    return handle


def _or_raw(write: Callable[[Any], bytes]) -> Callable[[Any], bytes]:
    """Return a serializer of protobuf messages and of RawResponse."""

    def write_or_raw(message: Any) -> bytes:
        return message.to_bytes() if isinstance(message, RawResponse) else write(message)

    return write_or_raw


def _or_error(read: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    """Return a deserializer that returns a malformed message's error instead of raising it."""

    def read_or_error(content: bytes) -> Any:
        try:
            return read(content)
        except RequestError as error:
            return error
        except DecodeError as error:
            return RequestError(f"the message of {len(content)} B is not one of the protocol: {error}")

    return read_or_error
