"""`exfm bench transports`: what it takes to carry a lookup to a shard and its sums back, by each transport."""

import asyncio
import os
import socket
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, contextmanager
from functools import partial
from pathlib import Path

import grpc
import numpy as np
import uvloop
from rich.console import Console

from exfm.bench.cpu import CpuClock
from exfm.bench.machine import processor
from exfm.bench.serving.blocks import STATISTICS, Series, Turn, take_blocks
from exfm.bench.serving.servers import cores_of_servers, on_cores
from exfm.bench.serving.tables import Table
from exfm.bench.transports.carriers import CARRIERS, Ask, Carrier
from exfm.errors import ServingError
from exfm.serving.local import START_TIMEOUT_S, STOP_TIMEOUT_S
from exfm.serving.processes import LOOPBACK, ServerProcess, claim_ports, start_process, stop_processes

NUM_TURNS, NUM_REQUESTS, NUM_WARMUP = 7, 15, 3
"""Parts of a block, in each of which every transport comes once; requests of a part, and those before that do not
count."""

ANSWER_TIMEOUT_S = 20.0


def bench_transports(console: Console, *, asked_bytes: int, answered_bytes: int, num_blocks: int) -> None:
    """Measure and print.

    Raises: ConfigError on a machine of one core; ServingError if a server does not start or answer.
    """
    found, missing = measured(asked_bytes=asked_bytes, answered_bytes=answered_bytes, num_blocks=num_blocks)
    console.print(_table(found).rich())
    for why in missing:
        console.print(why, soft_wrap=True)
    console.print(
        f"{asked_bytes:,} B asked and {answered_bytes:,} B answered, one request at a time, between two processes on "
        f"two cores of {processor()}, no TLS; CPU time is of both. Medians of {num_blocks} blocks of "
        f"{NUM_TURNS * NUM_REQUESTS} requests; ratios with 95 % intervals, in the same block.",
        soft_wrap=True,
    )


def choose(carriers: Mapping[str, Carrier]) -> tuple[dict[str, str], list[str]]:
    """Return the titles of those that are installed, with versions, and why others are left out."""
    titled, missing = {}, []
    for name, carrier in carriers.items():
        if version := carrier.version():
            titled[name] = f"{carrier.title} ({carrier.package} {version})"
        else:
            missing.append(f"{carrier.title}: left out, as {carrier.package} is not installed")
    return titled, missing


def measured(*, asked_bytes: int, answered_bytes: int, num_blocks: int) -> tuple[list[Series], list[str]]:
    """Return what was found of each transport, and why others are left out; of the first there are two servers.

    Raises: as `bench_transports`.
    """
    titled, missing = choose(CARRIERS)
    first, *others = titled
    names = [first, first, *others]
    titles = [titled[first], f"{CARRIERS[first].title} again (A/A)", *(titled[name] for name in others)]
    with ExitStack() as stack:
        stack.enter_context(on_cores(cores_of_servers()))
        servers = stack.enter_context(_servers(names, answered_bytes=answered_bytes))
        runner = stack.enter_context(asyncio.Runner(loop_factory=uvloop.new_event_loop))
        connections = AsyncExitStack()
        stack.callback(lambda: runner.run(connections.aclose()))
        asks = [
            runner.run(connections.enter_async_context(CARRIERS[name].connect(port)))
            for name, (_, port) in zip(names, servers, strict=True)
        ]
        message = b"1" * asked_bytes

        def take(server: int, turn: int) -> Turn:
            process, _ = servers[server]
            return runner.run(_ask(asks[server], message, process, answered_bytes=answered_bytes))

        return take_blocks(titles, take, numbers=range(num_blocks), num_turns=NUM_TURNS, seed=0), missing


async def _ask(ask: Ask, message: bytes, server: ServerProcess, *, answered_bytes: int) -> Turn:
    """Return what a turn took; the client has the part of a ranker, the server that of a shard."""
    pids = [os.getpid(), server.process.pid]

    async def ask_once() -> float:
        """Return the milliseconds until an answer."""
        sent_s = time.perf_counter()
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                answer = await ask(message)
        except (TimeoutError, ConnectionError, grpc.aio.AioRpcError) as error:
            server.process.kill()  # a thread of this process may wait for it
            raise ServingError(f"{server.name} did not answer: {str(error) or 'it took too long'}") from error
        taken_ms = (time.perf_counter() - sent_s) * 1e3
        if len(answer) != answered_bytes:
            raise ServingError(f"{server.name} answered {len(answer)} B, expected {answered_bytes}")
        return taken_ms

    for _ in range(NUM_WARMUP):
        await ask_once()
    began = CpuClock.read(pids)
    latency_ms = np.array([await ask_once() for _ in range(NUM_REQUESTS)])
    client_s, server_s = CpuClock.read(pids).since(began).processes_s
    return Turn(latency_ms, front_cpu_s=client_s, shards_cpu_s=server_s, client_cpu_s=0.0, num_failed=0)


@contextmanager
def _servers(names: Sequence[str], *, answered_bytes: int) -> Iterator[list[tuple[ServerProcess, int]]]:
    """Yield a server's process and port for each of these carriers; all listen."""
    ports = claim_ports([0] * len(names))
    started: list[ServerProcess] = []
    with tempfile.TemporaryDirectory(prefix="exfm-bench-") as folder:
        try:
            for number, (name, port) in enumerate(zip(names, ports, strict=True)):
                arguments = ["exfm.bench.transports", name, str(port), str(answered_bytes)]
                log = Path(folder) / f"{number}.log"
                started.append(start_process(f"{name} on port {port}", arguments, log=log))
            for server, port in zip(started, ports, strict=True):
                server.wait_until(partial(_listens, port), timeout_s=START_TIMEOUT_S)
            yield list(zip(started, ports, strict=True))
        finally:
            stop_processes(started, timeout_s=STOP_TIMEOUT_S)


def _listens(port: int) -> bool:
    try:
        socket.create_connection((LOOPBACK, port), timeout=1.0).close()
    except OSError:
        return False
    return True


def _table(found: Sequence[Series]) -> Table:
    rows = []
    for series in found:
        medians = [f"{series.median(figure).value:.2f}" for figure in STATISTICS]
        ratios = [str(series.ratio(figure, found[0])) if series is not found[0] else "1" for figure in STATISTICS]
        rows.append((series.name, *medians, *ratios))
    heads = ("transport", "P50 ms", "P99 ms", "CPU ms", "P50 ratio", "P99 ratio", "CPU ratio")
    return Table(heads, rows)
