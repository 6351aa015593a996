"""A scenario measured: unsharded servers and sharded ones, of the same bundle's content, under the same requests."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from exfm_bench.load import Floats
from exfm_bench.serving.blocks import Series, Turn, joined, take_blocks
from exfm_bench.serving.client import Client
from exfm_bench.serving.config import Scenario, ServingBenchConfig, Variant
from exfm_bench.serving.layers import MeanBreakdown, mean_of_starts, trace_layers
from exfm_bench.serving.servers import NUM_CORES, ONE_SHARD, Bundles, serving
from exfm_bench.serving.starts import NUM_SCORED, Arm, started, take_series
from exfm_bench.workload import GeneratedModel, messages_of

Say = Callable[[str], None]

BASELINES = ("unsharded", "unsharded again (A/A)")
"""Two servers of one kind: how far their ratios are from 1 is chance."""

CHOOSING_BLOCKS, CHOOSING_REQUESTS = 9, 20
"""Blocks, and requests of each, in which the best number of threads is found."""


@dataclass(frozen=True)
class Measured:
    """Servers under one load."""

    scenario: Scenario
    load: float
    requests_per_s: float
    """Rate of the open loop; 0 in a closed loop."""
    threads: int
    """Threads of torch in each server that the client sends requests to."""
    table_bytes: int
    unsharded: Series
    same: Series
    """Blocks of a second unsharded server."""
    sharded: tuple[tuple[Variant, Series], ...]
    score_differences: tuple[float, ...]
    """Largest difference of each variant's scores from the unsharded server's."""
    score_spread: float
    """Standard deviation of the unsharded server's scores."""
    layers: tuple[MeanBreakdown, ...]
    """Breakdowns of the unsharded servers, then of the sharded ones, one request at a time."""


def measure_scenario(
    scenario: Scenario, config: ServingBenchConfig, bundles: Bundles, *, say: Say
) -> Iterator[list[Measured]]:
    """Yield what was measured of a scenario, again after each start: of some variants after others, under all loads.

    Raises: PlanError if a strategy finds no place for its tables; ServingError if servers do not start or answer.
    """
    model = config.model(scenario.model)
    requests = model.requests(config.distinct_requests, candidates=scenario.candidates, seed=config.seed)
    messages = messages_of(requests)
    variants = scenario.variants()
    placements = {ONE_SHARD, *(variant.placement() for variant in variants)}
    paths = {
        variant: bundles.of(scenario.model, model, variant, candidates=scenario.candidates) for variant in placements
    }
    threads = config.threads or best_threads(paths[ONE_SHARD], messages, config)
    say(f"  {threads} thread{'s' * (threads > 1)} of torch")
    starts = config.blocks_of_starts()
    found: list[Measured] = []
    for first in range(0, len(variants), config.variants_at_once):
        some = variants[first : first + config.variants_at_once]
        arms = [Arm(name, None, paths[ONE_SHARD]) for name in BASELINES]
        arms += [Arm(str(variant), variant, paths[variant.placement()]) for variant in some]
        names = "; ".join(map(str, some))
        layers: list[list[MeanBreakdown]] = []
        scores: list[Sequence[Floats]] = []
        taken: dict[float, list[Series]] = {}
        for start, numbers in enumerate(starts, start=1):
            scored = messages[:NUM_SCORED]
            with started(arms, messages, scored=scored, start=start, threads=threads, config=config) as running:
                client, servers, which = running.client, running.servers, f"start {start} of {len(starts)}"
                scores.append(running.scores)
                say(f"  {names}: {which}: traced")
                layers.append(
                    trace_layers(running.addresses, requests, num_starts=len(starts), seed=(config.seed, start))
                )
                if start == 1:
                    rates = {load: load * client.requests_per_s(servers[0]) if load else 0.0 for load in scenario.loads}
                for load, rate in rates.items():
                    how = f"an open loop of {rate:.1f} requests/s" if rate else "a closed loop"
                    say(f"  {names}: {which}: {how}")
                    series = take_series(
                        client, servers, config, numbers=numbers, num_requests=scenario.requests, requests_per_s=rate
                    )
                    taken[load] = joined(taken.get(load, []), series)
            of_some = [
                Measured(
                    scenario=scenario,
                    load=load,
                    requests_per_s=rates[load],
                    threads=threads,
                    table_bytes=bytes_of(model),
                    unsharded=unsharded,
                    same=same,
                    sharded=tuple(zip(some, sharded, strict=True)),
                    score_differences=tuple(
                        max(float(np.abs(of_start[place] - of_start[0]).max()) for of_start in scores)
                        for place in range(len(BASELINES), len(arms))
                    ),
                    score_spread=float(scores[0][0].std()),
                    layers=tuple(map(mean_of_starts, zip(*layers, strict=True))),
                )
                for load, (unsharded, same, *sharded) in taken.items()
            ]
            yield [*found, *of_some]
        found += of_some


def best_threads(bundle: Path, messages: Sequence[bytes], config: ServingBenchConfig) -> int:
    """Return the number of torch's threads with which an unsharded server answers fastest, one request at a time."""
    every = range(1, NUM_CORES + 1)
    with ExitStack() as stack, Client() as client:
        ours = [
            stack.enter_context(serving(bundle, threads=threads, precision=config.dense_precision)) for threads in every
        ]
        servers = [client.server(str(n), local, messages) for n, local in zip(every, ours, strict=True)]

        def take(server: int, turn: int) -> Turn:
            first = turn * CHOOSING_REQUESTS
            return client.turn(servers[server], CHOOSING_REQUESTS, first=first, num_warmup=3, due_s=None)

        found = take_blocks(
            [one.name for one in servers], take, numbers=range(CHOOSING_BLOCKS), num_turns=1, seed=config.seed
        )
    return min(every, key=lambda threads: found[threads - 1].median("p50_ms").value)


def bytes_of(model: GeneratedModel) -> int:
    """Return what a model's tables take as they are served."""
    return model.statistics(candidates=1).size_bytes("int8")
