"""One server's process: a model served until a signal stops it."""

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
from exfm.serving.models.served_model import READY, ServedModel
from exfm.serving.oip.grpc.server import GrpcServer
from exfm.serving.oip.rest.server import RestServer
from exfm.serving.requests.arrivals import Arrivals
from exfm.serving.tls import TlsFolder

logger = logging.getLogger(__name__)


async def _serve_until_signal(model: ServedModel, *, tls: TlsFolder | None) -> None:
    """Serve until SIGTERM or SIGINT; then the model is not ready for a while, and the last request ends.

    With `tls`, only gRPC infers, and only for clients with a certificate.

    Raises: ConfigError if an address is not free; what the model's background tasks raise.
    """
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    READY.set_function(lambda: model.is_ready)
    limits = model.config.limits
    arrivals = Arrivals(max_requests=limits.max_unfinished_requests, max_bytes=limits.max_unfinished_bytes)
    by_grpc, by_rest = GrpcServer(model, arrivals=arrivals, tls=tls), RestServer(model, arrivals=arrivals, tls=tls)
    await model.open()
    background = [asyncio.create_task(work) for work in model.background()]
    try:
        grpc_port, http_port = await by_grpc.start(), await by_rest.start()
        logger.info("serving %s: REST on port %d, gRPC on port %d", model.name, http_port, grpc_port)
        await _wait(stop, beside=background)
        if model.is_ready:  # otherwise no client was sent here
            lame_duck_s = model.config.shutdown.lame_duck_s
            logger.info("no longer ready; stopping in %d s", lame_duck_s)
            model.is_stopping = True
            await asyncio.sleep(lame_duck_s)
        logger.info("stopping")
    finally:
        for task in background:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)  # an error of one is being raised already
        await asyncio.gather(by_grpc.stop(), by_rest.stop(), model.stop())
        await model.close()


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
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve_until_signal(model, tls=tls))


def exit_with_message(program: Callable[[], None]) -> None:
    """Run a program; an ExfmError becomes one line on stderr and the error's exit code."""
    try:
        program()
    except ExfmError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
