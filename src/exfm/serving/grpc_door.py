"""The gRPC front door: KServe's server and servicer with our address, limits, deadlines, errors and raw tensors."""

from collections.abc import Mapping
from typing import Any, NoReturn

import grpc
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from kserve.protocol.grpc import grpc_predict_v2_pb2_grpc
from kserve.protocol.grpc.interceptors import ExceptionToStatusInterceptor
from kserve.protocol.grpc.server import GRPCServer
from kserve.protocol.grpc.servicer import InferenceServicer

from exfm.errors import ConfigError
from exfm.serving.call import TIMEOUT, Call, Parameter, deadline_of
from exfm.serving.config import ServerConfig
from exfm.serving.connections import server_options
from exfm.serving.dataplane import ServedModels
from exfm.serving.messages import answer_message, parameters_of, tensors_of
from exfm.serving.model import ServedModel
from exfm.serving.status import message_of, status_of
from exfm.serving.tls import TlsFolder, server_credentials
from exfm.serving.tracing.breakdown import Layer
from exfm.serving.tracing.spans import TRACEPARENT, spanned
from exfm.serving.tracing.stopwatch import TRACE, Stopwatch, timed, wants_breakdown


class StatusInterceptor(ExceptionToStatusInterceptor):  # type: ignore[misc]  # kserve ships no types
    """Gives every error its status."""

    async def handle_exception(
        self, ex: Exception, request_or_iterator: Any, context: Any, method_name: str
    ) -> NoReturn:
        """End the call with the error's status; the arguments are grpc_interceptor's."""
        await context.abort(status_of(ex).grpc, message_of(ex))
        raise ex


class Servicer(InferenceServicer):  # type: ignore[misc]  # kserve ships no types
    """The protocol's methods, which have the protocol's names."""

    def __init__(self, models: ServedModels) -> None:
        super().__init__(models, None)
        self._models = models

    async def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Return a model's answer, its tensors in raw form."""
        model = self._models.find(request.model_name, version=request.model_version)
        parameters = parameters_of(request.parameters)
        is_told = wants_breakdown(parameters.get(TRACE))
        traceparent = _traceparent_of(context) if model.spans is not None else ""
        with spanned(model.spans, Stopwatch() if is_told else None, traceparent=traceparent) as stopwatch:
            message = await self._infer(request, context, model, parameters, stopwatch)
        if stopwatch is not None and is_told:
            message.parameters[TRACE].string_param = stopwatch.read().to_json()
        return message

    async def _infer(
        self,
        request: Any,
        context: Any,
        model: ServedModel,
        parameters: Mapping[str, Parameter],
        stopwatch: Stopwatch | None,
    ) -> Any:
        deadline = deadline_of(
            parameters.get(TIMEOUT),
            transport_s=context.time_remaining(),
            default_ms=model.config.default_deadline_ms,
        )
        with timed(stopwatch, Layer.DESERIALIZE):
            tensors = tensors_of(request)
        call = Call(tensors, deadline=deadline, model_version=request.model_version, stopwatch=stopwatch)
        answer = await self._models.ask(model, call)
        answer = answer.only([output.name for output in request.outputs])
        with timed(stopwatch, Layer.SERIALIZE):
            return answer_message(answer, model_name=model.name, model_version=model.bundle_id, request_id=request.id)

    async def ModelReady(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Return whether a model is ready."""
        self._models.find(request.name, version=request.version)
        return pb.ModelReadyResponse(ready=await self._models.model_ready(request.name))

    async def ModelMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Return a model's metadata, with the version and platform that KServe's servicer leaves out."""
        self._models.find(request.name, version=request.version)
        return pb.ModelMetadataResponse(**await self._models.model_metadata(request.name))

    async def RepositoryModelLoad(self, request: Any, context: Any) -> NoReturn:  # noqa: N802
        """Refuse: KServe's servicer would let any client do this."""
        raise NotImplementedError("models are loaded when the server starts; start another")

    async def RepositoryModelUnload(self, request: Any, context: Any) -> NoReturn:  # noqa: N802
        """Refuse: KServe's servicer would let any client do this."""
        raise NotImplementedError("models are unloaded when the server stops; stop it")


def _traceparent_of(context: Any) -> str:
    return next((value for key, value in context.invocation_metadata() or () if key == TRACEPARENT), "")


class GrpcServer(GRPCServer):  # type: ignore[misc]  # kserve ships no types
    """The gRPC server; KServe's own binds to every address of the machine and cannot be told otherwise."""

    def __init__(self, models: ServedModels, *, config: ServerConfig, tls: TlsFolder | None) -> None:
        """Serve models; with `tls`, clients with a certificate only."""
        super().__init__(config.grpc_port, models, None, kwargs={}, grace_period=config.drain_s)
        self._tls = tls
        self._config = config
        self._models = models

    async def start(self) -> int:
        """Start to serve, and return the port.

        Raises: ConfigError if the address cannot be had.
        """
        self._server = grpc.aio.server(interceptors=(StatusInterceptor(),), options=server_options(self._config))
        grpc_predict_v2_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Servicer(self._models), self._server)
        host = f"[{self._config.host}]" if ":" in self._config.host else self._config.host
        address = f"{host}:{self._config.grpc_port}"
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
