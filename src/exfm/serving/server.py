"""One server: KServe's ModelServer around our two front doors, from its sockets to its last request."""

import asyncio
import gc
import logging
import signal
import sys
from collections.abc import Callable

import kserve
import torch

from exfm.errors import ExfmError
from exfm.serving.config import ServerConfig
from exfm.serving.dataplane import ServedModels
from exfm.serving.grpc_door import GrpcServer
from exfm.serving.model import ServedModel
from exfm.serving.rest_door import RestServer

logger = logging.getLogger(__name__)


class Server(kserve.ModelServer):  # type: ignore[misc]  # kserve ships no types
    """Serves models until SIGTERM or SIGINT, then lets requests under way end."""

    def __init__(self, *, config: ServerConfig) -> None:
        super().__init__(
            http_port=config.http_port,
            grpc_port=config.grpc_port,
            enable_latency_logging=False,
            grace_period=config.drain_s,
        )
        self.dataplane = ServedModels(self.registered_models)
        self._grpc = GrpcServer(self.dataplane, config=config)
        self._rest = RestServer(self.dataplane, config=config)

    def start(self, models: list[ServedModel]) -> None:
        """Serve until a signal; KServe's own stops its two servers one after another, by two handlers.

        Raises: ConfigError if an address cannot be had.
        """
        self._register_and_check_atleast_one_model_is_ready(models)
        asyncio.run(self._serve_until_signal(models))

    async def _serve_until_signal(self, models: list[ServedModel]) -> None:
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        for model in models:
            await model.open()
        try:
            grpc_port, http_port = await self._grpc.start(), await self._rest.start()
            names = ", ".join(model.name for model in models)
            logger.info("serving %s: REST on port %d, gRPC on port %d", names, http_port, grpc_port)
            await stop.wait()
            logger.info("stopping")
        finally:
            await asyncio.gather(self._grpc.stop(), self._rest.stop())
            for model in models:
                await model.close()


def run(load: Callable[[], ServedModel], *, config: ServerConfig) -> None:
    """Load a model and serve it until a signal: what both entry points do."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    torch.set_num_threads(config.torch_threads)
    model = load()
    gc.freeze()  # the collector need not look at what imports and the model left, in the midst of a request
    Server(config=config).start([model])


def exit_with_message(program: Callable[[], None]) -> None:
    """Run a program; an ExfmError becomes one line on stderr and the error's exit code."""
    try:
        program()
    except ExfmError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
