"""Servers started anew for parts of the blocks, as where their memory lies is a start's chance."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from exfm_bench.load import Floats
from exfm_bench.serving.blocks import Series, Turn, take_blocks
from exfm_bench.serving.client import Client, Server
from exfm_bench.serving.config import ServingBenchConfig, Variant
from exfm_bench.serving.servers import serving

NUM_SCORED = 10
"""Requests whose scores are compared."""

OPEN_REQUESTS = 20
"""Requests of a part of a block in an open loop, at least: its queue begins empty, and needs time to build up."""


@dataclass(frozen=True)
class Parts:
    """How a block's requests are divided into parts."""

    num_parts: int
    num_timed: int
    """Requests of a part that count."""
    num_warmup: int
    """Requests before those that count."""

    @classmethod
    def of(cls, num_requests: int, config: ServingBenchConfig, *, is_open: bool) -> Self:
        """Return the parts of so many requests, of a closed or an open loop."""
        num_parts = min(config.turns, max(1, num_requests // OPEN_REQUESTS)) if is_open else config.turns
        return cls(num_parts, -(-num_requests // num_parts), config.warmup)

    def first_of(self, part: int) -> int:
        """Return the number of the first request of a part, which counts on from block to block."""
        return part * (self.num_warmup + self.num_timed)


@dataclass(frozen=True)
class Arm:
    """A server that is measured: unsharded, or in a variant of sharding."""

    name: str
    variant: Variant | None
    bundle: Path


@dataclass(frozen=True)
class Running:
    """All arms' servers, started and warm, and their client."""

    client: Client
    servers: Sequence[Server]
    addresses: Sequence[tuple[str, str]]
    """Name and gRPC address of each server."""
    scores: Sequence[Floats]
    """Scores of each server for the messages whose scores are compared."""


@contextmanager
def started(
    arms: Sequence[Arm],
    messages: Sequence[bytes],
    *,
    scored: Sequence[bytes],
    start: int,
    threads: int,
    config: ServingBenchConfig,
) -> Iterator[Running]:
    """Yield the arms' servers, started now, in an order drawn for the start of this number.

    In a fixed order the server that starts first would be at a disadvantage (docs/measurements.md).

    Raises: ServingError if servers do not start or answer.
    """
    order = np.random.default_rng((config.seed, start)).permutation(len(arms))
    with ExitStack() as stack, Client() as client:
        local = {
            place: stack.enter_context(
                serving(
                    arms[place].bundle, threads=threads, precision=config.dense_precision, variant=arms[place].variant
                )
            )
            for place in order
        }
        servers = [client.server(arm.name, local[place], messages) for place, arm in enumerate(arms)]
        addresses = [(arm.name, local[place].grpc_address) for place, arm in enumerate(arms)]
        # Of every start: its first requests are slower than others.
        scores = [client.scores(server, scored) for server in servers]
        yield Running(client, servers, addresses, scores)


def take_series(
    client: Client,
    servers: Sequence[Server],
    config: ServingBenchConfig,
    *,
    numbers: range,
    num_requests: int,
    requests_per_s: float = 0.0,
) -> list[Series]:
    """Return each server's blocks of these numbers, of so many requests.

    They come so many a second, or 0: in a closed loop.
    """
    parts = Parts.of(num_requests, config, is_open=requests_per_s > 0)

    def take(server: int, turn: int) -> Turn:
        due_s: Floats | None = None
        if requests_per_s:
            arrivals = np.random.default_rng((config.seed, turn))  # the same for all servers
            due_s = np.cumsum(arrivals.exponential(1 / requests_per_s, size=parts.num_timed))
        return client.turn(
            servers[server],
            parts.num_timed,
            first=parts.first_of(turn),
            num_warmup=parts.num_warmup,
            due_s=due_s,
        )

    names = [server.name for server in servers]
    return take_blocks(names, take, numbers=numbers, num_turns=parts.num_parts, seed=config.seed)
