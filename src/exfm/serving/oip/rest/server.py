"""The REST server: the protocol's routes, with JSON and binary tensors."""

import asyncio
import contextlib
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, NoReturn

import fastapi
import uvicorn
from prometheus_client import REGISTRY
from prometheus_client.exposition import choose_encoder
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from exfm.errors import BodyTooLargeError, ConfigError, ExfmError, OverloadedError, StalledError, UnfinishedError
from exfm.serving.models.served_model import SERVER_METADATA, UNANSWERED, ServedModel
from exfm.serving.oip.rest.body import JSON_LENGTH_HEADER, answer_body, read_body
from exfm.serving.oip.rest.compression import decompressed, encoding_of
from exfm.serving.profiler.breakdown import Layer
from exfm.serving.profiler.profiler import TRACE, Profiler, timed, wants_breakdown
from exfm.serving.profiler.spans import spanned
from exfm.serving.requests.arrivals import ARRIVAL_TICKS, TICK_S, Arrivals
from exfm.serving.requests.call import SHOWN, TIMEOUT, Call, deadline_of, num_shown_of
from exfm.serving.requests.status import failed_with, given_up
from exfm.serving.tls import TlsFolder

RETRY_AFTER_S = "1"
"""Value of the header Retry-After of a refused request; HTTP has whole seconds only."""

KEEP_ALIVE_S = 65
"""Time for which an idle connection stays open: longer than the minute of most gateways, since a request on a
connection that is being closed fails."""

HEADERS_S = ARRIVAL_TICKS * TICK_S
"""Time for all headers of a request, as for its body."""

MAX_HEADER_BYTES = 2**20
"""Most bytes of incomplete headers; they may come with the end of another request, up to 256 KiB."""


class Endpoints:
    """The protocol's routes."""

    def __init__(self, model: ServedModel, *, arrivals: Arrivals, infers: bool) -> None:
        self._model = model
        self._arrivals = arrivals
        self._infers = infers

    async def metrics(self, request: fastapi.Request) -> Response:
        """Return the metrics in the form that the client takes."""
        write, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(write(REGISTRY), headers={"content-type": content_type})

    async def ready(self) -> JSONResponse:
        """Return whether the model is ready: 200 if so, else 503."""
        return self._readiness({})

    async def model_metadata(self, model_name: str, model_version: str = "") -> JSONResponse:
        """Return the model's metadata."""
        self._model.check_request(model_name, version=model_version)
        return JSONResponse(self._model.metadata())

    async def model_ready(self, model_name: str, model_version: str = "") -> JSONResponse:
        """Return whether the model is ready: 200 if so, else 503."""
        self._model.check_request(model_name, version=model_version)
        return self._readiness({"name": model_name})

    async def answer(self, request: fastapi.Request, model_name: str, model_version: str = "") -> Response:
        """Return the model's answer, in the requested form."""
        if not self._infers:
            raise HTTPException(403, "this server answers on its gRPC port only, to clients with a certificate (--tls)")
        model = self._model
        model.check_request(model_name, version=model_version)
        encoding = encoding_of(", ".join(request.headers.getlist("content-encoding")))
        model.admission.check()
        body = await self._read(request)
        came_s = time.monotonic()
        with model.admission.taken():
            await model.admission.begin()
            response = await self._answer(body, encoding, request, model_version, came_s=came_s)
        model.seconds.observe(time.monotonic() - came_s)
        return response

    async def _answer(
        self, body: bytes, encoding: str, request: fastapi.Request, model_version: str, *, came_s: float
    ) -> Response:
        model, limits, profiler = self._model, self._model.config.limits, Profiler()
        with profiler.measure(Layer.DESERIALIZE):
            query = read_body(
                decompressed(body, encoding=encoding, max_bytes=limits.max_message_bytes),
                json_length=request.headers.get(JSON_LENGTH_HEADER),
                max_ids=limits.max_ids,
                to_inputs=model.to_inputs,
            )
        default_ms = model.config.deadlines.default_ms
        deadline = deadline_of(query.parameters.get(TIMEOUT), transport_s=None, default_ms=default_ms, came_s=came_s)
        num_shown = num_shown_of(query.parameters.get(SHOWN))
        is_reported = wants_breakdown(query.parameters.get(TRACE))
        outputs = tuple(query.binary_outputs)
        with spanned(model.spans, profiler, is_reported=is_reported, headers=request.headers.items()) as timer:
            call = Call(
                query.tensors,
                deadline,
                model_version=model_version,
                outputs=outputs,
                profiler=timer,
                num_shown=num_shown,
            )
            answer = await model.answer(call)
            with timed(timer, Layer.SERIALIZE):
                content, num_json = answer_body(answer, query, model_name=model.name, model_version=model.bundle_id)
        if is_reported:  # written again: the trace includes the first writing
            answer = answer.with_parameter(TRACE, profiler.read().to_json())
            content, num_json = answer_body(answer, query, model_name=model.name, model_version=model.bundle_id)
        if num_json is None:
            return Response(content, media_type="application/json")
        headers = {JSON_LENGTH_HEADER: str(num_json)}
        return Response(content, media_type="application/octet-stream", headers=headers)

    async def _read(self, request: fastapi.Request) -> bytes:
        body, limit = bytearray(), self._model.config.limits.max_message_bytes
        async with self._arrivals.arriving() as received:
            async for chunk in request.stream():
                body += chunk
                if len(body) > limit:
                    raise BodyTooLargeError(f"the body is larger than max_message_bytes, {limit} B: send it in parts")
                received(len(chunk))
        return bytes(body)

    def _readiness(self, content: dict[str, Any]) -> JSONResponse:
        ready = self._model.is_ready
        return JSONResponse({**content, "ready": ready}, status_code=200 if ready else 503)


class BoundedProtocol(HttpToolsProtocol):
    """Closes connections that send no request, or not all headers of a request; uvicorn would wait for ever."""

    _headers_timer: asyncio.TimerHandle | None = None
    _num_header_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        """Give a new connection as much time as an idle one; the argument is asyncio's."""
        super().connection_made(transport)
        self.timeout_keep_alive_task = self.loop.call_later(KEEP_ALIVE_S, self.timeout_keep_alive_handler)

    def data_received(self, data: bytes) -> None:
        """Read bytes, and close the connection if headers take too many."""
        super().data_received(data)
        if self._headers_timer is not None:
            self._num_header_bytes += len(data)
            if self._num_header_bytes > MAX_HEADER_BYTES:
                self.transport.abort()

    def on_message_begin(self) -> None:
        """Wait HEADERS_S for the headers; called at a request's first byte."""
        super().on_message_begin()
        self._num_header_bytes = 0
        self._headers_timer = self.loop.call_later(HEADERS_S, self.transport.abort)

    def on_headers_complete(self) -> None:
        """Wait no longer."""
        self._stop_timer()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no longer; the argument is asyncio's."""
        self._stop_timer()
        super().connection_lost(exc)

    def _stop_timer(self) -> None:
        if self._headers_timer is not None:
            self._headers_timer.cancel()
            self._headers_timer = None


class ConnectionCloser:
    """Closes each connection of a stopping server with its next answer.

    Load balancers open no new connections to it, but clients keep the connections that they have.
    """

    def __init__(self, app: ASGIApp, *, model: ServedModel) -> None:
        self._app = app
        self._model = model

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer; the arguments are ASGI's."""

        async def send_on(message: Message) -> None:
            if self._model.is_stopping and message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], (b"connection", b"close")]}
            await send(message)

        await self._app(scope, receive, send_on)


def make_app(model: ServedModel, *, arrivals: Arrivals, infers: bool) -> fastapi.FastAPI:
    """Return the REST application; without `infers`, only with health, metadata and metrics."""
    endpoints = Endpoints(model, arrivals=arrivals, infers=infers)
    app = fastapi.FastAPI(title="exfm", docs_url=None, redoc_url=None, openapi_url=None)
    routes: dict[str, Callable[..., Any]] = {
        "/": _saying({"status": "alive"}),  # as KServe's servers say it
        "/metrics": endpoints.metrics,
        "/v2": _saying(SERVER_METADATA),
        "/v2/models": _saying({"models": [model.name]}),
        "/v2/health/live": _saying({"live": True}),
        "/v2/health/ready": endpoints.ready,
    }
    for of_model in ("/v2/models/{model_name}", "/v2/models/{model_name}/versions/{model_version}"):
        routes[of_model] = endpoints.model_metadata
        routes[f"{of_model}/ready"] = endpoints.model_ready
        routes[f"{of_model}/config"] = _refusing("ModelConfig")
        app.add_api_route(f"{of_model}/infer", endpoints.answer, methods=["POST"], response_model=None)
    for path, endpoint in routes.items():
        app.add_api_route(path, endpoint, methods=["GET"], response_model=None)
    app.add_api_route("/v2/repository/index", _refusing("RepositoryIndex"), methods=["POST"], response_model=None)
    for kind in (ExfmError, NotImplementedError, Exception):
        app.add_exception_handler(kind, _error_response)
    app.add_exception_handler(HTTPException, _http_error_response)
    app.add_exception_handler(ClientDisconnect, _no_response)
    return app


def _saying(content: dict[str, Any]) -> Callable[[], Awaitable[Response]]:
    async def say() -> Response:
        return JSONResponse(content)

    return say


def _refusing(extension: str) -> Callable[[], Awaitable[NoReturn]]:
    async def refuse() -> NoReturn:
        raise NotImplementedError(UNANSWERED[extension])

    return refuse


class RestServer(uvicorn.Server):
    """The REST server."""

    def __init__(self, model: ServedModel, *, arrivals: Arrivals, tls: TlsFolder | None) -> None:
        """Serve a model; with `tls`, only health, metadata and metrics."""
        super().__init__(
            uvicorn.Config(
                ConnectionCloser(make_app(model, arrivals=arrivals, infers=tls is None), model=model),
                log_config=None,
                access_log=False,
                lifespan="off",
                http=BoundedProtocol,
                ws="none",
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=model.config.shutdown.drain_s,
            )
        )
        self._address = (model.config.listen.host, model.config.listen.http_port)
        self._serving: asyncio.Task[None] | None = None

    async def start(self) -> int:
        """Start to serve, and return the port.

        Raises: ConfigError if the address is not free.
        """
        host, port = self._address
        try:
            listener = socket.create_server(
                self._address, family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=2048
            )
        except OSError as error:
            raise ConfigError(
                f"REST cannot listen on {host}:{port} ({error.strerror}); is another server there?"
            ) from error
        # asyncio leaves Nagle's algorithm on for a socket made like this: on a kept connection each answer, two writes,
        # would wait for the client's delayed acknowledgement, some 40 ms.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._serving = asyncio.create_task(self.serve(sockets=[listener]))
        bound_port: int = listener.getsockname()[1]
        return bound_port

    async def stop(self) -> None:
        """Finish the requests under way, and stop."""
        self.should_exit = True
        if self._serving is not None:
            await self._serving

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Ignore signals: the process handles them for both servers; uvicorn would stop only this one."""
        yield


async def _error_response(request: fastapi.Request, error: Exception) -> Response:
    headers = {}
    if isinstance(error, OverloadedError):
        headers["Retry-After"] = RETRY_AFTER_S
    if isinstance(error, StalledError | UnfinishedError):  # or the connection would wait for the rest of the body
        headers["Connection"] = "close"
    status, message = failed_with(error)
    return JSONResponse({"error": message}, status_code=status.http, headers=headers)


async def _no_response(request: fastapi.Request, error: Exception) -> Response:
    """Return any response: the client closed the connection before its body was complete, and reads none."""
    given_up()
    return Response(status_code=400)


async def _http_error_response(request: fastapi.Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse(
        {"error": f"{request.method} {request.url.path}: {error.detail}"}, status_code=error.status_code
    )
