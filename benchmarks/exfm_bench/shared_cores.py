"""The simulation of servers and a client that share some cores of one machine, as on the machine of a benchmark.

A core changes between event loops after whole jobs. Part of a server's CPU time is in threads beside its event loop
(gRPC's). They run in parallel with the loop, and take cores from other servers.
"""

from dataclasses import dataclass
from heapq import heappop, heappush
from typing import NamedTuple

import numba
import numpy as np

from exfm.artifact.plan import ShardPlan
from exfm.planning.arrays import Booleans, Floats, Integers
from exfm.planning.cost_model.costs import CostModel
from exfm.planning.simulation.queues import (
    ENCODE,
    NUM_OWN_JOBS,
    SCORE,
    Events,
    Function,
    Progress,
    Replayed,
    Servers,
    Spent,
    Timings,
    begin_job,
    begin_requests,
    continuation,
    cool,
    end_job,
    server_of,
)
from exfm.planning.simulation.simulator import Requests, jobs_of
from exfm.planning.statistics import Statistics


class SharedCores(NamedTuple):
    """The cores, and the client that shares them with the servers; a tuple, because numba requires one."""

    num_cores: int
    client_s: float = 0.0
    """CPU time of the client per request, half to send and half to receive. 0: the client needs none."""
    cold_client_s: float = 0.0
    """Extra CPU time of a cold client."""
    beside_share: float = 0.0
    """Share of a server's CPU time in threads beside its event loop."""
    turn_s: float = 0.003
    """How long a server may keep a core while others wait. 3 ms is the longest slice of Linux's fair scheduler, which
    depends on the number of cores; jobs are about as long."""


@dataclass(frozen=True)
class ReplayedRequests:
    """The latency and CPU time of replayed requests."""

    latency_ms: Floats
    """Latency of each request, from when it was due until its client had the scores; shape [N]."""
    ranker_cpu_ms: float
    """CPU time of the ranker in a mean request."""
    shard_cpu_ms: Floats
    """CPU time of each shard in a mean request; shape [S]."""
    client_cpu_ms: float
    """CPU time of the client in a mean request."""


def replay_requests(
    requests: Requests, plan: ShardPlan, statistics: Statistics, costs: CostModel, cores: SharedCores, *, seed: int
) -> ReplayedRequests:
    """Return latency and CPU time of given requests to one ranker; `seed` is for their keys and service times.

    Raises: PlanError, as `jobs_of`.
    """
    timings, servers = jobs_of(requests, plan, statistics, costs, rankers=1, seed=seed)
    replayed = replay_on_shared_cores(requests.arrivals_s, timings, servers, cores)
    busy_ms = replayed.busy_s * 1e3 / len(requests.arrivals_s)
    return ReplayedRequests(
        latency_ms=(replayed.answered_s - requests.arrivals_s) * 1e3,
        ranker_cpu_ms=float(busy_ms[0]),
        shard_cpu_ms=np.add.reduceat(busy_ms[1:-1], np.append(0, np.cumsum(servers.replicas[:-1]))),
        client_cpu_ms=float(busy_ms[-1]),
    )


class _Sharing(NamedTuple):
    """Shared cores, and the workers that take turns on them.

    A worker is an event loop, with the number of its server, or the threads beside a loop: numbers after all servers.
    The client is the last server.
    """

    first: Integers
    """The first job in each server's queue, or -1."""
    last: Integers
    """The last job in each server's queue."""
    next_job: Integers
    """The job after each job in its queue, or -1."""
    beside_s: Floats
    """CPU time that the threads beside each loop still need."""
    wants_core: Booleans
    """Whether each worker has a core or waits for one."""
    waiting: Integers
    """Ring buffer of workers that wait for a core."""
    ring: Integers
    """Two numbers: the index of the ring's first worker, and how many wait."""
    on_core: Integers
    """The worker on each core, or -1."""
    job: Integers
    """The job on each core."""
    end_s: Floats
    """When that job ends, or infinity."""
    turn_ends_s: Floats
    """When the worker must give up the core if others wait."""


class _Run(NamedTuple):
    """All that a replay works on."""

    timings: Timings
    servers: Servers
    cores: SharedCores
    progress: Progress
    spent: Spent
    sharing: _Sharing
    first_of_client: int
    """The client's first job. It has two of each request, to send it and to receive the scores."""


def _compiled(function: Function) -> Function:
    """Return the function, compiled by each process: numba's cache on disk does not notice changes in `queues`."""
    compiled: Function = numba.njit(function)
    return compiled


@_compiled
def _begin(run: _Run, job: int, server: int, now_s: float) -> float:
    if job < run.first_of_client:
        return begin_job(job, server, now_s, run.timings, run.servers, run.spent)
    cpu_s = run.cores.client_s / 2
    if (job - run.first_of_client) % 2 == 0:
        cpu_s += cool(server, now_s, run.servers, run.spent) * run.cores.cold_client_s
    run.spent.busy_s[server] += cpu_s
    return cpu_s


@_compiled
def _end(run: _Run, events: Events, job: int, end_s: float) -> bool:
    """Add the event that follows from the end of a job, if any; return whether the job was its request's last one."""
    latency_s = run.timings.client_latency_s
    num_jobs = NUM_OWN_JOBS + 3 * len(run.servers.shard_of_call)
    if job < run.first_of_client:
        end_job(events, job, end_s, run.timings, run.servers, run.progress)
        if job % num_jobs != SCORE or run.cores.client_s <= 0:
            return job % num_jobs == SCORE
        heappush(events, (end_s + latency_s, run.first_of_client + 2 * (job // num_jobs) + 1))
        return False
    request, is_receipt = divmod(job - run.first_of_client, 2)
    if is_receipt:
        run.progress.answered_s[request] = end_s
    else:
        heappush(events, (end_s + latency_s, request * num_jobs + ENCODE))
    return is_receipt == 1


@_compiled
def _want_core(sharing: _Sharing, worker: int) -> None:
    if not sharing.wants_core[worker]:
        sharing.wants_core[worker] = True
        size = len(sharing.waiting)
        sharing.waiting[(sharing.ring[0] + sharing.ring[1]) % size] = worker
        sharing.ring[1] += 1


@_compiled
def _go_on(run: _Run, core: int, now_s: float) -> None:
    """Start the next job of the worker on a core."""
    sharing = run.sharing
    worker, num_servers = sharing.on_core[core], len(sharing.first)
    if worker >= num_servers:
        sharing.end_s[core] = now_s + sharing.beside_s[worker - num_servers]
        sharing.beside_s[worker - num_servers] = 0.0
        return
    job = sharing.first[worker]
    sharing.first[worker] = sharing.next_job[job]
    cpu_s = _begin(run, job, worker, now_s)
    sharing.job[core] = job
    sharing.end_s[core] = now_s + cpu_s * (1 - run.cores.beside_share)
    if run.cores.beside_share > 0:
        sharing.beside_s[worker] += cpu_s * run.cores.beside_share
        _want_core(sharing, num_servers + worker)


@_compiled
def _fill_cores(run: _Run, now_s: float) -> None:
    """Give free cores to waiting workers, in order."""
    sharing = run.sharing
    for core in range(len(sharing.on_core)):
        if sharing.on_core[core] < 0 and sharing.ring[1]:
            sharing.on_core[core] = sharing.waiting[sharing.ring[0]]
            sharing.ring[0] = (sharing.ring[0] + 1) % len(sharing.waiting)
            sharing.ring[1] -= 1
            sharing.turn_ends_s[core] = now_s + run.cores.turn_s
            _go_on(run, core, now_s)


@_compiled
def _queue(run: _Run, job: int) -> None:
    sharing = run.sharing
    num_servers = len(sharing.first)
    server = num_servers - 1 if job >= run.first_of_client else server_of(job, run.servers, run.progress)
    if sharing.first[server] < 0:
        sharing.first[server] = job
    else:
        sharing.next_job[sharing.last[server]] = job
    sharing.last[server] = job
    _want_core(sharing, server)


@_compiled
def _end_on(run: _Run, events: Events, core: int, now_s: float) -> bool:
    """End the job on a core, and start the next one there; return whether a request is answered."""
    sharing = run.sharing
    worker, job, num_servers = sharing.on_core[core], sharing.job[core], len(sharing.first)
    is_answered = False
    if worker < num_servers:
        is_answered = _end(run, events, job, now_s)
        following = continuation(job, run.servers, run.progress) if job < run.first_of_client else -1
        if following >= 0:
            sharing.next_job[following] = sharing.first[worker]
            sharing.last[worker] = following if sharing.first[worker] < 0 else sharing.last[worker]
            sharing.first[worker] = following
    is_done = sharing.first[worker] < 0 if worker < num_servers else sharing.beside_s[worker - num_servers] <= 0
    if is_done or (sharing.ring[1] and now_s >= sharing.turn_ends_s[core]):
        sharing.on_core[core], sharing.end_s[core] = -1, np.inf
        sharing.wants_core[worker] = False
        if not is_done:
            _want_core(sharing, worker)
    else:
        _go_on(run, core, now_s)
    return is_answered


@_compiled
def replay_on_shared_cores(arrivals_s: Floats, timings: Timings, servers: Servers, cores: SharedCores) -> Replayed:
    """Return the result as `replay` does, with the client's CPU time after that of the servers."""
    num_requests, num_calls = timings.serve_call_s.shape
    num_jobs = NUM_OWN_JOBS + 3 * num_calls
    progress = begin_requests(num_requests, servers)
    num_servers = progress.first_server[-1] + 1
    sharing = _Sharing(
        np.full(num_servers, -1),
        np.full(num_servers, -1),
        np.full(num_requests * (num_jobs + 2), -1),
        np.zeros(num_servers),
        np.zeros(2 * num_servers, dtype=np.bool_),
        np.empty(2 * num_servers, dtype=np.int64),
        np.zeros(2, dtype=np.int64),
        np.full(cores.num_cores, -1),
        np.full(cores.num_cores, -1),
        np.full(cores.num_cores, np.inf),
        np.zeros(cores.num_cores),
    )
    spent = Spent(np.zeros(num_servers), np.full(num_servers, -np.inf), np.zeros(num_requests))
    run = _Run(timings, servers, cores, progress, spent, sharing, num_requests * num_jobs)
    has_client = cores.client_s > 0
    first_latency_s = 0.0 if has_client else timings.client_latency_s
    events = [(np.inf, 0)]  # numba infers the list's type from the entry, which never comes
    num_arrived, num_left = 0, num_requests
    while num_left:
        arrival_s = arrivals_s[num_arrived] + first_latency_s if num_arrived < num_requests else np.inf
        core = int(np.argmin(sharing.end_s))
        now_s = sharing.end_s[core]
        if min(arrival_s, events[0][0]) > now_s:
            num_left -= _end_on(run, events, core, now_s)
        elif arrival_s <= events[0][0]:
            now_s = arrival_s
            _queue(run, run.first_of_client + 2 * num_arrived if has_client else num_arrived * num_jobs + ENCODE)
            num_arrived += 1
        else:
            now_s, job = heappop(events)
            _queue(run, job)
        _fill_cores(run, now_s)
    return Replayed(progress.answered_s, spent.busy_s)
