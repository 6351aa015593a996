"""A discrete-event simulation of requests in the queues of rankers and shards, compiled by numba.

Legend: N requests, C calls of a request, S shards, K rankers.

A request is a chain of jobs. The client sends the request. Its ranker encodes it and sends C calls. A shard server
serves each call. The ranker receives each answer, and scores after the last one. The client receives the scores.

Every server, and the client, is one event loop: it does one job at a time, in order of arrival. A job that follows from
another one at the same server (calls after encoding, scores after the last answer) runs immediately after it. Each
server has a core of its own, or all share some cores; a shared core then changes between servers after whole jobs.

The whole simulation is in this file, because numba's cache on disk does not notice changes in imported files.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import numba
import numpy as np
import numpy.typing as npt

Function = TypeVar("Function", bound=Callable[..., Any])

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

_CLIENT_SEND, _ENCODE, _SCORE, _CLIENT_RECEIVE = 0, 1, 2, 3
"""Jobs of a request. The jobs of its calls follow them: all _SEND_CALL, then all _SERVE_CALL, then _RECEIVE_ANSWER."""
_NUM_OWN_JOBS = 4
_SEND_CALL, _SERVE_CALL, _RECEIVE_ANSWER = 0, 1, 2
"""Jobs of a call."""


class Timings(NamedTuple):
    """CPU seconds of each job, and network latency of each message; a tuple, because numba requires one."""

    encode_s: Floats
    """CPU time of the ranker before its calls; shape [N]."""
    score_s: Floats
    """CPU time of the ranker after the answers; shape [N]."""
    send_call_s: Floats
    """CPU time of the ranker to send a call; shape [N, C]."""
    serve_call_s: Floats
    """CPU time of the shard server; shape [N, C]."""
    receive_answer_s: Floats
    """CPU time of the ranker to receive an answer; shape [N, C]."""
    call_latency_s: Floats
    """Network latency from ranker to shard; shape [N, C]."""
    answer_latency_s: Floats
    """Network latency from shard to ranker; shape [N, C]."""
    client_latency_s: float
    """One-way network latency between client and ranker."""
    client_s: float
    """CPU time of the client, half to send and half to receive; only on shared cores. 0: the client needs none."""
    cold_encode_s: float = 0.0
    """Extra CPU time to encode at a cold ranker."""
    cold_score_s: float = 0.0
    """Extra CPU time to score at a cold ranker."""
    cold_serve_s: float = 0.0
    """Extra CPU time to serve a call at a cold shard server."""
    cold_client_s: float = 0.0
    """Extra CPU time of a cold client."""


class Servers(NamedTuple):
    """The servers that do the jobs; a tuple, because numba requires one."""

    num_rankers: int
    ranker_of: Integers
    """The ranker of each request; shape [N]."""
    shard_of_call: Integers
    """Shape [C]."""
    replicas: Integers
    """Servers of each shard; shape [S]."""
    first_turn: Integers
    """Index of the server that gets a ranker's first call to a shard (round robin); shape [K, S]."""
    shared_cores: int
    """Cores that all servers and the client share; 0: each server has its own core, and the client takes no time."""
    cooling_s: float = 1.0
    """Time constant of cooling: a server without a request for this long is 1 - 1/e cold."""
    beside_share: float = 0.0
    """Share of the CPU time in threads beside the event loop, which delay other jobs on shared cores only."""
    turn_s: float = 0.003
    """How long a server may keep a shared core while others wait. 3 ms is the longest slice of Linux's fair scheduler,
    which depends on the number of cores; jobs are about as long."""


class Replayed(NamedTuple):
    """The result of a replay."""

    answered_s: Floats
    """When each request's client had its scores; shape [N]."""
    busy_s: Floats
    """CPU time of each server: rankers, then the shards' servers, then the client."""


def replay(arrivals_s: Floats, timings: Timings, servers: Servers) -> Replayed:
    """Return the result for requests at these times, in ascending order, shape [N]; all servers start cold."""
    return Replayed(*_replay(arrivals_s, timings, servers))


class _Events(NamedTuple):
    """A binary heap of jobs, by the time at which they reach their server; ties are resolved by the jobs' numbers."""

    times_s: Floats
    jobs: Integers
    num_events: Integers
    """One number: how many entries of both arrays are in use."""


class _Progress(NamedTuple):
    """The progress of all requests."""

    first_server: Integers
    """The number of each shard's first server, then that of the client; shape [S + 1]."""
    turns: Integers
    """Index of the server that gets a ranker's next call to a shard; shape [K, S]."""
    server_of: npt.NDArray[np.int32]
    """The server of each call that was sent; shape [N, C]."""
    unanswered: Integers
    """Calls of each request that have no answer yet; shape [N]."""
    answered_s: Floats
    """When the client had the scores, or infinity; shape [N]."""


class _Sharing(NamedTuple):
    """Shared cores, and the workers that take turns on them.

    A worker is an event loop, with the number of its server, or the threads beside a loop: numbers after all servers.
    """

    first: Integers
    """The first job in each server's queue, or -1."""
    last: Integers
    """The last job in each server's queue."""
    next_job: Integers
    """The job after each job in its queue, or -1."""
    beside_s: Floats
    """CPU time that the threads beside each loop still need."""
    wants_core: npt.NDArray[np.bool_]
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


class _Spent(NamedTuple):
    """What servers have done so far."""

    busy_s: Floats
    """CPU time of each server."""
    free_s: Floats
    """When each server with its own core ends its last job."""
    last_began_s: Floats
    """When each server began its last new request or call."""
    coldness: Floats
    """How cold each request's ranker was, from 0 to 1; shape [N]."""


def _compiled(function: Function) -> Function:
    """Return the function, compiled at its first call; numba caches the result on disk if it can."""
    compiled: Function
    try:
        compiled = numba.njit(cache=True)(function)
    except RuntimeError:  # numba can write no cache (read-only installation, no home): each process compiles, some 10 s
        compiled = numba.njit(function)
    return compiled


@_compiled
def _comes_first(events: _Events, a: int, b: int) -> bool:
    if events.times_s[a] != events.times_s[b]:
        return bool(events.times_s[a] < events.times_s[b])
    return bool(events.jobs[a] < events.jobs[b])


@_compiled
def _swap(events: _Events, a: int, b: int) -> None:
    events.times_s[a], events.times_s[b] = events.times_s[b], events.times_s[a]
    events.jobs[a], events.jobs[b] = events.jobs[b], events.jobs[a]


@_compiled
def _push(events: _Events, time_s: float, job: int) -> _Events:
    """Return the events with one more, in the same arrays or in larger ones."""
    place = events.num_events[0]
    if place == len(events.jobs):
        times_s, jobs = np.empty(2 * place, dtype=np.float64), np.empty(2 * place, dtype=np.int64)
        times_s[:place], jobs[:place] = events.times_s, events.jobs
        events = _Events(times_s, jobs, events.num_events)
    events.num_events[0] += 1
    events.times_s[place], events.jobs[place] = time_s, job
    while place and _comes_first(events, place, (place - 1) // 2):
        _swap(events, place, (place - 1) // 2)
        place = (place - 1) // 2
    return events


@_compiled
def _pop(events: _Events) -> int:
    """Remove the first event and return its job."""
    events.num_events[0] -= 1
    num_events = events.num_events[0]
    _swap(events, 0, num_events)
    place = 0
    while True:
        child = 2 * place + 1
        if child + 1 < num_events and _comes_first(events, child + 1, child):
            child += 1
        if child >= num_events or not _comes_first(events, child, place):
            return int(events.jobs[num_events])
        _swap(events, child, place)
        place = child


@_compiled
def _has_client(timings: Timings, servers: Servers) -> bool:
    return servers.shared_cores > 0 and timings.client_s > 0


@_compiled
def _cpu_s(timings: Timings, job: int) -> float:
    num_calls = timings.serve_call_s.shape[1]
    request, step = divmod(job, _NUM_OWN_JOBS + 3 * num_calls)
    if step in (_CLIENT_SEND, _CLIENT_RECEIVE):
        return timings.client_s / 2
    if step == _ENCODE:
        return float(timings.encode_s[request])
    if step == _SCORE:
        return float(timings.score_s[request])
    kind, call = divmod(step - _NUM_OWN_JOBS, num_calls)
    if kind == _SEND_CALL:
        return float(timings.send_call_s[request, call])
    return float(
        timings.serve_call_s[request, call] if kind == _SERVE_CALL else timings.receive_answer_s[request, call]
    )


@_compiled
def _begin(job: int, server: int, now_s: float, timings: Timings, servers: Servers, spent: _Spent) -> float:
    """Return the CPU time of a job that a server begins now; it is longer if the server's last request was long ago."""
    num_calls = len(servers.shard_of_call)
    request, step = divmod(job, _NUM_OWN_JOBS + 3 * num_calls)
    cpu_s = _cpu_s(timings, job)
    if step in (_CLIENT_SEND, _ENCODE) or (
        step >= _NUM_OWN_JOBS and (step - _NUM_OWN_JOBS) // num_calls == _SERVE_CALL
    ):
        coldness = 1 - np.exp((spent.last_began_s[server] - now_s) / servers.cooling_s)
        spent.last_began_s[server] = now_s
        if step == _ENCODE:
            spent.coldness[request] = coldness
            cpu_s += coldness * timings.cold_encode_s
        else:
            cpu_s += coldness * (timings.cold_client_s if step == _CLIENT_SEND else timings.cold_serve_s)
    elif step == _SCORE:
        cpu_s += spent.coldness[request] * timings.cold_score_s
    spent.busy_s[server] += cpu_s
    return float(cpu_s)


@_compiled
def _server_of(job: int, servers: Servers, progress: _Progress) -> int:
    """Return the server of a job: rankers have the first numbers, then shard servers, then the client."""
    num_calls = len(servers.shard_of_call)
    request, step = divmod(job, _NUM_OWN_JOBS + 3 * num_calls)
    if step in (_CLIENT_SEND, _CLIENT_RECEIVE):
        return int(progress.first_server[-1])
    if step >= _NUM_OWN_JOBS and (step - _NUM_OWN_JOBS) // num_calls == _SERVE_CALL:
        return int(progress.server_of[request, (step - _NUM_OWN_JOBS) % num_calls])
    return int(servers.ranker_of[request])


@_compiled
def _follow(
    events: _Events, job: int, end_s: float, timings: Timings, servers: Servers, progress: _Progress
) -> _Events:
    """Return the events with those that follow from the end of a job."""
    num_calls = len(servers.shard_of_call)
    request, step = divmod(job, _NUM_OWN_JOBS + 3 * num_calls)
    first = job - step
    if step == _CLIENT_SEND:
        return _push(events, end_s + timings.client_latency_s, first + _ENCODE)
    if step == _ENCODE:
        return events
    if step == _SCORE and _has_client(timings, servers):
        return _push(events, end_s + timings.client_latency_s, first + _CLIENT_RECEIVE)
    if step in (_SCORE, _CLIENT_RECEIVE):
        progress.answered_s[request] = end_s + (timings.client_latency_s if step == _SCORE else 0.0)
        return events
    kind, call = divmod(step - _NUM_OWN_JOBS, num_calls)
    if kind == _SEND_CALL:
        shard, ranker = servers.shard_of_call[call], servers.ranker_of[request]
        turn = progress.turns[ranker, shard]
        progress.turns[ranker, shard] = (turn + 1) % servers.replicas[shard]
        progress.server_of[request, call] = progress.first_server[shard] + turn
        return _push(events, end_s + timings.call_latency_s[request, call], job + num_calls)
    if kind == _SERVE_CALL:
        return _push(events, end_s + timings.answer_latency_s[request, call], job + num_calls)
    progress.unanswered[request] -= 1
    return events


@_compiled
def _continuation(job: int, servers: Servers, progress: _Progress) -> int:
    """Return the job that the same server does immediately after this one, before its queue, or -1."""
    num_calls = len(servers.shard_of_call)
    request, step = divmod(job, _NUM_OWN_JOBS + 3 * num_calls)
    first = job - step
    if step == _ENCODE:
        return first + (_NUM_OWN_JOBS if num_calls else _SCORE)
    if step < _NUM_OWN_JOBS:
        return -1
    kind, call = divmod(step - _NUM_OWN_JOBS, num_calls)
    if kind == _SEND_CALL and call + 1 < num_calls:
        return job + 1
    return first + _SCORE if kind == _RECEIVE_ANSWER and not progress.unanswered[request] else -1


@_compiled
def _replay_on_own_cores(
    arrivals_s: Floats, timings: Timings, servers: Servers, progress: _Progress, spent: _Spent
) -> None:
    num_requests, num_calls = timings.serve_call_s.shape
    events = _Events(np.empty(1024), np.empty(1024, dtype=np.int64), np.zeros(1, dtype=np.int64))
    num_arrived = 0
    while num_arrived < num_requests or events.num_events[0]:
        if num_arrived < num_requests and (not events.num_events[0] or arrivals_s[num_arrived] < events.times_s[0]):
            first = num_arrived * (_NUM_OWN_JOBS + 3 * num_calls)
            events = _push(events, arrivals_s[num_arrived] + timings.client_latency_s, first + _ENCODE)
            num_arrived += 1
            continue
        event_s = events.times_s[0]
        job = _pop(events)
        server = _server_of(job, servers, progress)
        while job >= 0:
            begin_s = max(event_s, spent.free_s[server])
            spent.free_s[server] = begin_s + _begin(job, server, begin_s, timings, servers, spent)
            events = _follow(events, job, spent.free_s[server], timings, servers, progress)
            job = _continuation(job, servers, progress)


@_compiled
def _want_core(sharing: _Sharing, worker: int) -> None:
    if not sharing.wants_core[worker]:
        sharing.wants_core[worker] = True
        size = len(sharing.waiting)
        sharing.waiting[(sharing.ring[0] + sharing.ring[1]) % size] = worker
        sharing.ring[1] += 1


@_compiled
def _go_on(sharing: _Sharing, core: int, now_s: float, timings: Timings, servers: Servers, spent: _Spent) -> None:
    """Start the next job of the worker on a core."""
    worker, num_servers = sharing.on_core[core], len(sharing.first)
    if worker >= num_servers:
        sharing.end_s[core] = now_s + sharing.beside_s[worker - num_servers]
        sharing.beside_s[worker - num_servers] = 0.0
        return
    job = sharing.first[worker]
    sharing.first[worker] = sharing.next_job[job]
    cpu_s = _begin(job, worker, now_s, timings, servers, spent)
    sharing.job[core] = job
    sharing.end_s[core] = now_s + cpu_s * (1 - servers.beside_share)
    if servers.beside_share > 0:
        sharing.beside_s[worker] += cpu_s * servers.beside_share
        _want_core(sharing, num_servers + worker)


@_compiled
def _fill_cores(sharing: _Sharing, now_s: float, timings: Timings, servers: Servers, spent: _Spent) -> None:
    """Give free cores to waiting workers, in order."""
    for core in range(len(sharing.on_core)):
        if sharing.on_core[core] < 0 and sharing.ring[1]:
            sharing.on_core[core] = sharing.waiting[sharing.ring[0]]
            sharing.ring[0] = (sharing.ring[0] + 1) % len(sharing.waiting)
            sharing.ring[1] -= 1
            sharing.turn_ends_s[core] = now_s + servers.turn_s
            _go_on(sharing, core, now_s, timings, servers, spent)


@_compiled
def _replay_on_shared_cores(
    arrivals_s: Floats, timings: Timings, servers: Servers, progress: _Progress, spent: _Spent
) -> None:
    num_requests, num_calls = timings.serve_call_s.shape
    num_jobs = _NUM_OWN_JOBS + 3 * num_calls
    num_servers = progress.first_server[-1] + 1
    events = _Events(np.empty(1024), np.empty(1024, dtype=np.int64), np.zeros(1, dtype=np.int64))
    sharing = _Sharing(
        np.full(num_servers, -1),
        np.full(num_servers, -1),
        np.full(num_requests * num_jobs, -1),
        np.zeros(num_servers),
        np.zeros(2 * num_servers, dtype=np.bool_),
        np.empty(2 * num_servers, dtype=np.int64),
        np.zeros(2, dtype=np.int64),
        np.full(servers.shared_cores, -1),
        np.full(servers.shared_cores, -1),
        np.full(servers.shared_cores, np.inf),
        np.zeros(servers.shared_cores),
    )
    first_step, last_step = (_CLIENT_SEND, _CLIENT_RECEIVE) if _has_client(timings, servers) else (_ENCODE, _SCORE)
    first_latency_s = 0.0 if first_step == _CLIENT_SEND else timings.client_latency_s
    num_arrived, num_left = 0, num_requests
    while num_left:
        arrival_s = arrivals_s[num_arrived] + first_latency_s if num_arrived < num_requests else np.inf
        event_s = events.times_s[0] if events.num_events[0] else np.inf
        core = int(np.argmin(sharing.end_s))
        now_s = sharing.end_s[core]
        if min(arrival_s, event_s) <= now_s:
            if arrival_s <= event_s:
                now_s, job = arrival_s, num_arrived * num_jobs + first_step
                num_arrived += 1
            else:
                now_s = event_s
                job = _pop(events)
            server = _server_of(job, servers, progress)
            if sharing.first[server] < 0:
                sharing.first[server] = job
            else:
                sharing.next_job[sharing.last[server]] = job
            sharing.last[server] = job
            _want_core(sharing, server)
            _fill_cores(sharing, now_s, timings, servers, spent)
            continue
        worker, job = sharing.on_core[core], sharing.job[core]
        if worker < num_servers:
            events = _follow(events, job, now_s, timings, servers, progress)
            num_left -= job % num_jobs == last_step
            following = _continuation(job, servers, progress)
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
            _go_on(sharing, core, now_s, timings, servers, spent)
        _fill_cores(sharing, now_s, timings, servers, spent)


@_compiled
def _replay(arrivals_s: Floats, timings: Timings, servers: Servers) -> tuple[Floats, Floats]:
    num_requests, num_calls = timings.serve_call_s.shape
    first_server = servers.num_rankers + np.append(0, np.cumsum(servers.replicas))
    num_servers = first_server[-1] + 1
    progress = _Progress(
        first_server,
        servers.first_turn % servers.replicas,
        np.zeros((num_requests, num_calls), dtype=np.int32),
        np.full(num_requests, num_calls),
        np.full(num_requests, np.inf),
    )
    spent = _Spent(np.zeros(num_servers), np.zeros(num_servers), np.full(num_servers, -np.inf), np.zeros(num_requests))
    if servers.shared_cores:
        _replay_on_shared_cores(arrivals_s, timings, servers, progress, spent)
    else:
        _replay_on_own_cores(arrivals_s, timings, servers, progress, spent)
    return progress.answered_s, spent.busy_s
