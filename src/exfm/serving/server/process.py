"""One server's process: a model served by REST, gRPC and its own protocols, until a signal stops it."""

import asyncio
import gc
import logging
import os
import signal
import sys
from collections.abc import Callable, Collection
from typing import Any

import torch
import uvloop

from exfm.errors import ExfmError
from exfm.serving.config import ServerConfig
from exfm.serving.models.dataplane import ServedModels
from exfm.serving.models.served_model import ServedModel
from exfm.serving.oip.grpc.server import GrpcServer
from exfm.serving.oip.rest.server import RestServer
from exfm.serving.requests.arrivals import Arrivals
from exfm.serving.tls import TlsFolder

logger = logging.getLogger(__name__)


class Server:
    """Serves a model until SIGTERM or SIGINT; then it is not ready for a while, and ends with the last request."""

    def __init__(self, model: ServedModel, *, config: ServerConfig, tls: TlsFolder | None) -> None:
        """Make the REST and gRPC servers; with `tls`, only gRPC infers, and only for clients with a certificate."""
        self._model = model
        self._models = ServedModels([model])
        self._config = config
        arrivals = Arrivals(
            max_requests=config.limits.max_unfinished_requests, max_bytes=config.limits.max_unfinished_bytes
        )
        self._grpc = GrpcServer(self._models, admission=model.admission, arrivals=arrivals, config=config, tls=tls)
        self._rest = RestServer(self._models, arrivals=arrivals, config=config, infers=tls is None)

    def start(self) -> None:
        """Serve until a signal.

        Raises: ConfigError if an address is not free; what the model's background tasks raise.
        """
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self._serve_until_signal())

    async def _serve_until_signal(self) -> None:
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        await self._model.open()
        servers = self._model.protocol_servers()
        background = [asyncio.create_task(work) for work in self._model.background()]
        background += [asyncio.create_task(server.keep()) for server in servers]
        try:
            grpc_port, http_port = await self._grpc.start(), await self._rest.start()
            ports = [await server.start() for server in servers]
            streams = "".join(f", streams on port {port}" for port in ports)
            name = self._model.name
            logger.info("serving %s: REST on port %d, gRPC on port %d%s", name, http_port, grpc_port, streams)
            await _wait(stop, beside=background)
            if self._models.ready():  # otherwise no client was sent here
                logger.info("no longer ready; stopping in %d s", self._config.shutdown.lame_duck_s)
                self._models.is_stopping = True
                await asyncio.sleep(self._config.shutdown.lame_duck_s)
            logger.info("stopping")
        finally:
            for task in background:
                task.cancel()
            await asyncio.gather(
                *background, return_exceptions=True
            )  # the error of one that failed is being raised already
            await asyncio.gather(self._grpc.stop(), self._rest.stop(), *(server.stop() for server in servers))
            await self._model.close()


async def _wait(stop: asyncio.Event, *, beside: Collection[asyncio.Task[Any]]) -> None:
    """Return when `stop` is set.

    Raises: what a task in `beside` raises.
    """
    stopped = asyncio.create_task(stop.wait())
    waiting = {stopped, *beside}
    while stopped in waiting:
        done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()


def run(load: Callable[[], ServedModel], *, config: ServerConfig, tls: TlsFolder | None = None) -> None:
    """Load a model and serve it until a signal; `tls` is for the gRPC server."""
    # A container's first process ignores signals without a handler, and nothing is served yet.
    signal.signal(signal.SIGTERM, lambda number, frame: os._exit(0))
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    torch.set_num_threads(config.torch_threads)
    model = load()
    gc.freeze()  # the collector skips objects of imports and of the model, so it is fast during requests
    Server(model, config=config, tls=tls).start()


def exit_with_message(program: Callable[[], None]) -> None:
    """Run a program; an ExfmError becomes one line on stderr and the error's exit code."""
    try:
        program()
    except ExfmError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
