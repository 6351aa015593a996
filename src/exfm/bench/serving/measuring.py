"""A case measured: unsharded servers and sharded ones, of the same bundle's content, under the same requests."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from operator import add
from pathlib import Path

import numpy as np

from exfm.bench.load import Floats
from exfm.bench.serving.blocks import Series, Turn, take_blocks
from exfm.bench.serving.client import Client, Server
from exfm.bench.serving.config import Case, ServingBenchConfig, Way
from exfm.bench.serving.layers import Layered, trace_layers
from exfm.bench.serving.servers import NUM_CORES, ONE_SHARD, Bundles, serving
from exfm.bench.workload import GeneratedModel

Say = Callable[[str], None]

BASELINES = ("unsharded", "unsharded again (A/A)")
"""Two servers of one kind: what their ratios are off 1 is chance."""

NUM_SCORED = 10
"""Requests whose scores are compared."""

CHOOSING_BLOCKS, CHOOSING_REQUESTS = 9, 20
"""In which the best number of threads is found."""

OPEN_REQUESTS = 20
"""Of a part of a block in an open loop, at least, or it is one: its queue begins empty, and wants time to build up."""


@dataclass(frozen=True)
class Measured:
    """Servers under one load."""

    case: Case
    load: float
    requests_per_s: float
    """Of the open loop; 0 in a closed one."""
    threads: int
    """Of torch, in each server that clients ask."""
    table_bytes: int
    unsharded: Series
    same: Series
    """Of a second unsharded server."""
    sharded: tuple[tuple[Way, Series], ...]
    score_differences: tuple[float, ...]
    """Of each way's scores from the unsharded server's, at most."""
    score_spread: float
    """Standard deviation of the unsharded server's scores."""
    layers: tuple[Layered, ...]
    """Where the time goes at the unsharded servers, then at the sharded ones, one request at a time."""


@dataclass(frozen=True)
class Arm:
    """A server that is measured: unsharded, or in a way of sharding."""

    name: str
    way: Way | None
    bundle: Path


def measure_case(case: Case, config: ServingBenchConfig, bundles: Bundles, *, say: Say) -> list[Measured]:
    """Return what was measured of a case: of some ways after others, under one load after another.

    Raises: PlanError if a strategy finds no place for its tables; ServingError if servers do not start or answer.
    """
    model = config.model(case.model)
    messages = model.messages(config.distinct_requests, candidates=case.candidates, seed=config.seed)
    traced = model.requests(config.distinct_requests, candidates=case.candidates, seed=config.seed)
    ways = case.ways()
    placements = {ONE_SHARD, *(way.placement() for way in ways)}
    paths = {way: bundles.of(case.model, model, way, candidates=case.candidates) for way in placements}
    threads = config.threads or best_threads(paths[ONE_SHARD], messages, config)
    say(f"  {threads} thread{'s' * (threads > 1)} of torch")
    found = []
    for first in range(0, len(ways), config.ways_at_once):
        some = ways[first : first + config.ways_at_once]
        arms = [Arm(name, None, paths[ONE_SHARD]) for name in BASELINES]
        arms += [Arm(str(way), way, paths[way.placement()]) for way in some]
        names = "; ".join(map(str, some))
        starts = config.blocks_of_starts()
        taken: dict[float, list[Series]] = {}
        for start, numbers in enumerate(starts, start=1):
            with _running(arms, messages, start=start, threads=threads, config=config) as (client, servers, addresses):
                # Of every start: its first requests are slower than others.
                scores = [client.scores(server, min(NUM_SCORED, len(messages))) for server in servers]
                if start == 1:
                    say(f"  {names}: traced")
                    layers = trace_layers(addresses, traced, seed=config.seed)
                    rates = {load: load * client.requests_per_s(servers[0]) if load else 0.0 for load in case.loads}
                for load, rate in rates.items():
                    how = f"an open loop of {rate:.1f} requests/s" if rate else "a closed loop"
                    say(f"  {names}: {how}, start {start} of {len(starts)}")
                    series = take_series(
                        client, servers, config, numbers=numbers, num_requests=case.requests, requests_per_s=rate
                    )
                    taken[load] = [*map(add, taken[load], series)] if load in taken else series
        for load, (unsharded, same, *sharded) in taken.items():
            found.append(
                Measured(
                    case=case,
                    load=load,
                    requests_per_s=rates[load],
                    threads=threads,
                    table_bytes=bytes_of(model),
                    unsharded=unsharded,
                    same=same,
                    sharded=tuple(zip(some, sharded, strict=True)),
                    score_differences=tuple(float(np.abs(one - scores[0]).max()) for one in scores[2:]),
                    score_spread=float(scores[0].std()),
                    layers=layers,
                )
            )
    return found


@contextmanager
def _running(
    arms: Sequence[Arm], messages: Sequence[bytes], *, start: int, threads: int, config: ServingBenchConfig
) -> Iterator[tuple[Client, list[Server], list[tuple[str, str]]]]:
    """Yield a client, the servers that it asks, and their names and addresses.

    They were started now, in an order drawn for this start: the first of two of one kind took 0.7 % longer in the
    mean of 18 starts (standard error 0.3; 2 vCPU of an Intel Xeon, 2026-11).
    """
    order = np.random.default_rng((config.seed, start)).permutation(len(arms))
    with ExitStack() as stack, Client() as client:
        started = {
            place: stack.enter_context(
                serving(arms[place].bundle, threads=threads, precision=config.dense_precision, way=arms[place].way)
            )
            for place in order
        }
        connected = {place: client.server(arms[place].name, local, messages) for place, local in started.items()}
        servers = [connected[place] for place in range(len(arms))]
        yield client, servers, [(arm.name, started[place].grpc_address) for place, arm in enumerate(arms)]


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
    num_turns = min(config.turns, max(1, num_requests // OPEN_REQUESTS)) if requests_per_s else config.turns
    per_turn = -(-num_requests // num_turns)

    def take(server: int, turn: int) -> Turn:
        due_s: Floats | None = None
        if requests_per_s:
            arrivals = np.random.default_rng((config.seed, turn))  # the same for all servers
            due_s = np.cumsum(arrivals.exponential(1 / requests_per_s, size=per_turn))
        return client.turn(servers[server], per_turn, first=turn * per_turn, num_warmup=config.warmup, due_s=due_s)

    names = [server.name for server in servers]
    return take_blocks(names, take, numbers=numbers, num_turns=num_turns, seed=config.seed)


def best_threads(bundle: Path, messages: Sequence[bytes], config: ServingBenchConfig) -> int:
    """Return the number of torch's threads with which an unsharded server answers fastest, one request at a time."""
    every = range(1, NUM_CORES + 1)
    with ExitStack() as stack, Client() as client:
        started = [
            stack.enter_context(serving(bundle, threads=threads, precision=config.dense_precision)) for threads in every
        ]
        servers = [client.server(str(n), local, messages) for n, local in zip(every, started, strict=True)]

        def take(server: int, turn: int) -> Turn:
            first = turn * CHOOSING_REQUESTS
            return client.turn(servers[server], CHOOSING_REQUESTS, first=first, num_warmup=3, due_s=None)

        found = take_blocks(
            [one.name for one in servers], take, numbers=range(CHOOSING_BLOCKS), num_turns=1, seed=config.seed
        )
    return min(every, key=lambda threads: found[threads - 1].median("p50_ms").median)


def bytes_of(model: GeneratedModel) -> int:
    """Return what a model's tables take as they are served."""
    return model.statistics(candidates=1).size_bytes("int8")
