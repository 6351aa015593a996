"""A plan's real servers under a load on this machine: what their clients and the scheduler saw."""

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from exfm.artifact.plan import ShardPlan
from exfm.serving.local.serving import LocalServing, serve_local
from exfm_bench.cpu import CpuClock
from exfm_bench.load import drive
from exfm_bench.workload import GENERATED

Floats = npt.NDArray[np.float64]

NUM_MESSAGES = 300
"""Requests that differ; they come again in turn."""
NUM_REDRAWN = 200
NUM_PROBES, NUM_PROBING = 3, 100
"""A point's CPU time is measured NUM_PROBES times, each with NUM_PROBING requests, to set its rate."""
NUM_WARMUP = 40
"""Requests before those that count, in each round."""


@dataclass(frozen=True)
class Point:
    """A plan under a load."""

    name: str
    plan: ShardPlan
    candidates: int
    requests_per_s: float
    busy: float
    """Part of the machine's cores that the load is to take, with the client: the rate is set by it."""

    def arrivals_s(self, *, num_requests: int, seed: int) -> Floats:
        """Return when requests are due, those of a round's warm-up first (Poisson arrivals)."""
        generator = np.random.default_rng(seed)
        return np.cumsum(generator.exponential(1 / self.requests_per_s, size=NUM_WARMUP + num_requests))


@dataclass(frozen=True)
class Round:
    """Measurements of a point in one round, after the warm-up."""

    arrivals_s: Floats
    """When requests were due, those of the warm-up too."""
    latency_ms: Floats
    """Latency of the requests that count."""
    ranker_cpu_ms: float
    shard_cpu_ms: Floats
    """Shape [S]."""
    client_cpu_ms: float
    """CPU time of the client for a mean request."""
    other_cores: float
    """Cores that other processes of the machine took meanwhile, in the mean."""
    num_failed: int


@dataclass(frozen=True)
class Measured:
    """All rounds of a point."""

    point: Point
    rounds: Sequence[Round]

    @property
    def num_requests(self) -> int:
        """Return how many requests count."""
        return sum(len(one.latency_ms) for one in self.rounds)

    @property
    def ranker_cpu_ms(self) -> float:
        """Return the ranker's CPU time of a mean request."""
        return float(np.mean([one.ranker_cpu_ms for one in self.rounds]))

    @property
    def shard_cpu_ms(self) -> Floats:
        """Return each shard's CPU time of a mean request; shape [S]."""
        mean_S: Floats = np.mean([one.shard_cpu_ms for one in self.rounds], axis=0)
        return mean_S

    @property
    def cpu_ms(self) -> float:
        """Return the CPU time of a mean request, at ranker and shards."""
        return self.ranker_cpu_ms + float(self.shard_cpu_ms.sum())

    @property
    def client_cpu_ms(self) -> float:
        """Return the client's CPU time of a mean request."""
        return float(np.mean([one.client_cpu_ms for one in self.rounds]))

    @property
    def other_cores(self) -> float:
        """Return the cores that other processes took, in the mean."""
        return float(np.mean([one.other_cores for one in self.rounds]))

    @property
    def num_failed(self) -> int:
        """Return the requests without an answer."""
        return sum(one.num_failed for one in self.rounds)

    def quantile_ms(self, share: float) -> float:
        """Return the latency that this share of all rounds' requests kept."""
        return float(np.quantile(np.concatenate([one.latency_ms for one in self.rounds]), share))

    def relative_error(self, share: float) -> float:
        """Return the standard error of `quantile_ms`, relative: that of quantiles of rounds drawn again from these."""
        generator = np.random.default_rng(0)
        drawn = [
            Measured(self.point, [self.rounds[place] for place in places]).quantile_ms(share)
            for places in generator.integers(len(self.rounds), size=(NUM_REDRAWN, len(self.rounds)))
        ]
        return float(np.std(drawn) / self.quantile_ms(share))


def measure(
    points: Sequence[Point], *, num_rounds: int, num_requests: int, seed: int, say: Callable[[str], None]
) -> list[Measured]:
    """Return what the servers of each point's plan did under its load.

    All plans' servers are there from beginning to end, and a round takes the points in an order of its own: a machine
    that is slower for some minutes is so for all points. `num_requests` are a point's, in all rounds together. Before,
    each point's rate is set: the points' own are guesses.

    Raises: ServingError if servers do not start.
    """
    points = list(points)
    rounds: list[list[Round]] = [[] for _ in points]
    messages = [
        GENERATED.messages(NUM_MESSAGES, candidates=candidates, seed=seed)
        for candidates in (point.candidates for point in points)
    ]
    generator = np.random.default_rng(seed)
    with ExitStack() as stack:
        serving: dict[str, LocalServing] = {}
        for point in points:
            if point.name not in serving:
                say(f"starting the servers of {point.name}")
                serving[point.name] = stack.enter_context(_serving_of(point.plan))
        say("setting the loads")
        for place, point in enumerate(points):
            points[place] = _at_its_rate(point, serving[point.name], messages[place], seed=seed)
        for number in range(num_rounds):
            say(f"round {number + 1} of {num_rounds}")
            for place in generator.permutation(len(points)):
                point = points[place]
                arrivals_s = point.arrivals_s(
                    num_requests=-(-num_requests // num_rounds), seed=int(generator.integers(2**31))
                )
                rounds[place].append(_measure_once(serving[point.name], messages[place], arrivals_s))
    return [Measured(point, of_point) for point, of_point in zip(points, rounds, strict=True)]


@contextmanager
def _serving_of(plan: ShardPlan) -> Iterator[LocalServing]:
    with tempfile.TemporaryDirectory(prefix="exfm-bench-") as folder:
        bundle = Path(folder) / "bundle"
        GENERATED.write_bundle(bundle, plan)
        with serve_local(bundle) as serving:
            yield serving


def _at_its_rate(point: Point, serving: LocalServing, messages: Sequence[bytes], *, seed: int) -> Point:
    """Return a point at the rate that keeps the cores as busy as it wants; servers take less for a request the more."""
    for _ in range(NUM_PROBES):
        found = _measure_once(serving, messages, point.arrivals_s(num_requests=NUM_PROBING, seed=seed))
        cpu_s = (found.ranker_cpu_ms + float(found.shard_cpu_ms.sum()) + found.client_cpu_ms) * 1e-3
        rate = point.busy * len(os.sched_getaffinity(0)) / cpu_s
        point = replace(point, requests_per_s=float(np.round(rate, 1)))
    return point


def _measure_once(serving: LocalServing, messages: Sequence[bytes], arrivals_s: Floats) -> Round:
    pids = [*(server.process.pid for server in serving.servers), os.getpid()]
    began: list[CpuClock] = []
    outcome = drive(
        serving.grpc_address, messages, arrivals_s, at=[(NUM_WARMUP, lambda: began.append(CpuClock.read(pids)))]
    )
    spent = CpuClock.read(pids).since(began[0])
    num_requests = len(arrivals_s) - NUM_WARMUP
    ranker_ms, *shards_ms, client_ms = np.array(spent.processes_s) * 1e3 / num_requests
    return Round(
        arrivals_s=arrivals_s,
        latency_ms=outcome.latency_ms[NUM_WARMUP:],
        ranker_cpu_ms=float(ranker_ms),
        shard_cpu_ms=np.array(shards_ms),
        client_cpu_ms=float(client_ms),
        other_cores=(spent.machine_s - sum(spent.processes_s)) / (arrivals_s[-1] - arrivals_s[NUM_WARMUP]),
        num_failed=outcome.num_failed,
    )
