"""One server: its model behind two front doors, from its sockets to its last request."""

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
    """Serves a model until SIGTERM or SIGINT, then says that it leaves, and at last lets requests under way end."""

    def __init__(self, model: ServedModel, *, config: ServerConfig, tls: TlsFolder | None) -> None:
        """Make the two front doors; with `tls`, only gRPC's answers requests, those of clients with a certificate."""
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

        Raises: ConfigError if an address cannot be had; what the model's background work raises.
        """
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self._serve_until_signal())

    async def _serve_until_signal(self) -> None:
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        await self._model.open()
        doors = self._model.doors()
        background = [asyncio.create_task(work) for work in self._model.background()]
        background += [asyncio.create_task(door.keep()) for door in doors]
        try:
            grpc_port, http_port = await self._grpc.start(), await self._rest.start()
            ports = [await door.start() for door in doors]
            streams = "".join(f", streams on port {port}" for port in ports)
            name = self._model.name
            logger.info("serving %s: REST on port %d, gRPC on port %d%s", name, http_port, grpc_port, streams)
            await _wait(stop, beside=background)
            if self._models.ready():  # else nobody was sent here
                logger.info("not ready any more, and stopping in %d s", self._config.shutdown.lame_duck_s)
                self._models.is_leaving = True
                await asyncio.sleep(self._config.shutdown.lame_duck_s)
            logger.info("stopping")
        finally:
            for task in background:
                task.cancel()
            await asyncio.gather(*background, return_exceptions=True)  # what ended one of them is on its way already
            await asyncio.gather(self._grpc.stop(), self._rest.stop(), *(door.stop() for door in doors))
            await self._model.close()


async def _wait(stop: asyncio.Event, *, beside: Collection[asyncio.Task[Any]]) -> None:
    """Return when `stop` is set.

    Raises: what one of the tasks beside it raises.
    """
    stopped = asyncio.create_task(stop.wait())
    waiting = {stopped, *beside}
    while stopped in waiting:
        done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()


def run(load: Callable[[], ServedModel], *, config: ServerConfig, tls: TlsFolder | None = None) -> None:
    """Load a model and serve it until a signal: what both entry points do; `tls` is the gRPC door's."""
    # Nothing is served yet. A container's first process has no default action for signals: it would load, and stay.
    signal.signal(signal.SIGTERM, lambda number, frame: os._exit(0))
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    torch.set_num_threads(config.torch_threads)
    model = load()
    gc.freeze()  # the collector need not look at what imports and the model left, in the midst of a request
    Server(model, config=config, tls=tls).start()


def exit_with_message(program: Callable[[], None]) -> None:
    """Run a program; an ExfmError becomes one line on stderr and the error's exit code."""
    try:
        program()
    except ExfmError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
