"""A discrete-event simulation of requests in the queues of rankers and shards, compiled by numba.

Legend: N requests, C calls of a request, S shards, K rankers.

A request is a chain of jobs. Its ranker encodes it and sends C calls. A shard server serves each call. The ranker
receives each answer, and scores after the last one. Then its client has the scores.

Every server is one event loop with a core of its own: it does one job at a time, in order of arrival. A job that
follows from another one at the same server (calls after encoding, scores after the last answer) runs immediately.

The whole simulation is in this file, because numba's cache on disk does not notice changes in imported files.
"""

from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any, NamedTuple, TypeVar

import numba
import numpy as np
import numpy.typing as npt

from exfm.planning.arrays import Floats, Integers

Function = TypeVar("Function", bound=Callable[..., Any])

Events = list[tuple[float, int]]
"""A heap of jobs, with the times at which they reach their servers; ties are resolved by the jobs' numbers."""

ENCODE, SCORE = 0, 1
"""Jobs of a request. The jobs of its calls follow them: all SEND_CALL, then all SERVE_CALL, then RECEIVE_ANSWER."""
NUM_OWN_JOBS = 2
SEND_CALL, SERVE_CALL, RECEIVE_ANSWER = 0, 1, 2
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
    cold_encode_s: float = 0.0
    cold_score_s: float = 0.0
    cold_serve_s: float = 0.0
    """Extra CPU time of a cold server, for each of three jobs."""


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
    cooling_s: float = 1.0
    """Time constant of cooling: a server without a request for this long is 1 - 1/e cold."""


class Replayed(NamedTuple):
    """The result of a replay."""

    answered_s: Floats
    """When each request's client had its scores; shape [N]."""
    busy_s: Floats
    """CPU time of each server: rankers, then the shards' servers."""


class Progress(NamedTuple):
    """The progress of all requests."""

    first_server: Integers
    """The number of each shard's first server, then the number of all servers; shape [S + 1]."""
    turns: Integers
    """Index of the server that gets a ranker's next call to a shard; shape [K, S]."""
    server_of: npt.NDArray[np.int32]
    """The server of each call that was sent; shape [N, C]."""
    unanswered: Integers
    """Calls of each request that have no answer yet; shape [N]."""
    answered_s: Floats
    """When the client had the scores, or infinity; shape [N]."""


class Spent(NamedTuple):
    """What servers have done so far."""

    busy_s: Floats
    """CPU time of each server."""
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
def begin_requests(num_requests: int, servers: Servers) -> Progress:
    """Return the progress of requests that have not arrived yet."""
    return Progress(
        servers.num_rankers + np.append(0, np.cumsum(servers.replicas)),
        servers.first_turn % servers.replicas,
        np.zeros((num_requests, len(servers.shard_of_call)), dtype=np.int32),
        np.full(num_requests, len(servers.shard_of_call)),
        np.full(num_requests, np.inf),
    )


@_compiled
def begin_job(job: int, server: int, now_s: float, timings: Timings, servers: Servers, spent: Spent) -> float:
    """Return the CPU time of a job that a server begins now; it is longer if the server's last request was long ago."""
    num_calls = len(servers.shard_of_call)
    request, step = divmod(job, NUM_OWN_JOBS + 3 * num_calls)
    if step == SCORE:
        cpu_s = timings.score_s[request] + spent.coldness[request] * timings.cold_score_s
    elif step == ENCODE:
        spent.coldness[request] = cool(server, now_s, servers, spent)
        cpu_s = timings.encode_s[request] + spent.coldness[request] * timings.cold_encode_s
    else:
        kind, call = divmod(step - NUM_OWN_JOBS, num_calls)
        if kind == SEND_CALL:
            cpu_s = timings.send_call_s[request, call]
        elif kind == RECEIVE_ANSWER:
            cpu_s = timings.receive_answer_s[request, call]
        else:
            cold_s = cool(server, now_s, servers, spent) * timings.cold_serve_s
            cpu_s = timings.serve_call_s[request, call] + cold_s
    spent.busy_s[server] += cpu_s
    return float(cpu_s)


@_compiled
def cool(server: int, now_s: float, servers: Servers, spent: Spent) -> float:
    """Return how cold a server is that begins a new request or call now, from 0 to 1."""
    coldness = 1 - np.exp((spent.last_began_s[server] - now_s) / servers.cooling_s)
    spent.last_began_s[server] = now_s
    return float(coldness)


@_compiled
def server_of(job: int, servers: Servers, progress: Progress) -> int:
    """Return the server of a job: rankers have the first numbers, then shard servers."""
    num_calls = len(servers.shard_of_call)
    request, step = divmod(job, NUM_OWN_JOBS + 3 * num_calls)
    if step >= NUM_OWN_JOBS and (step - NUM_OWN_JOBS) // num_calls == SERVE_CALL:
        return int(progress.server_of[request, (step - NUM_OWN_JOBS) % num_calls])
    return int(servers.ranker_of[request])


@_compiled
def end_job(events: Events, job: int, end_s: float, timings: Timings, servers: Servers, progress: Progress) -> None:
    """Add the event that follows from the end of a job, if any."""
    num_calls = len(servers.shard_of_call)
    request, step = divmod(job, NUM_OWN_JOBS + 3 * num_calls)
    if step == SCORE:
        progress.answered_s[request] = end_s + timings.client_latency_s
    if step < NUM_OWN_JOBS:
        return
    kind, call = divmod(step - NUM_OWN_JOBS, num_calls)
    if kind == SEND_CALL:
        shard, ranker = servers.shard_of_call[call], servers.ranker_of[request]
        turn = progress.turns[ranker, shard]
        progress.turns[ranker, shard] = (turn + 1) % servers.replicas[shard]
        progress.server_of[request, call] = progress.first_server[shard] + turn
        heappush(events, (end_s + timings.call_latency_s[request, call], job + num_calls))
    elif kind == SERVE_CALL:
        heappush(events, (end_s + timings.answer_latency_s[request, call], job + num_calls))
    else:
        progress.unanswered[request] -= 1


@_compiled
def continuation(job: int, servers: Servers, progress: Progress) -> int:
    """Return the job that the same server does immediately after this one, before its queue, or -1."""
    num_calls = len(servers.shard_of_call)
    request, step = divmod(job, NUM_OWN_JOBS + 3 * num_calls)
    first = job - step
    if step == ENCODE:
        return first + (NUM_OWN_JOBS if num_calls else SCORE)
    if step == SCORE:
        return -1
    kind, call = divmod(step - NUM_OWN_JOBS, num_calls)
    if kind == SEND_CALL and call + 1 < num_calls:
        return job + 1
    return first + SCORE if kind == RECEIVE_ANSWER and not progress.unanswered[request] else -1


@_compiled
def replay(arrivals_s: Floats, timings: Timings, servers: Servers) -> Replayed:
    """Return the result for requests at these times, in ascending order, shape [N]; all servers start cold."""
    num_requests, num_calls = timings.serve_call_s.shape
    progress = begin_requests(num_requests, servers)
    num_servers = progress.first_server[-1]
    spent = Spent(np.zeros(num_servers), np.full(num_servers, -np.inf), np.zeros(num_requests))
    free_s = np.zeros(num_servers)  # when each server ends its last job
    events = [(arrivals_s[0] + timings.client_latency_s, ENCODE)]
    num_arrived = 1
    while num_arrived < num_requests or events:
        if num_arrived < num_requests and (not events or arrivals_s[num_arrived] < events[0][0]):
            job = num_arrived * (NUM_OWN_JOBS + 3 * num_calls) + ENCODE
            heappush(events, (arrivals_s[num_arrived] + timings.client_latency_s, job))
            num_arrived += 1
            continue
        event_s, job = heappop(events)
        server = server_of(job, servers, progress)
        while job >= 0:
            begin_s = max(event_s, free_s[server])
            free_s[server] = begin_s + begin_job(job, server, begin_s, timings, servers, spent)
            end_job(events, job, free_s[server], timings, servers, progress)
            job = continuation(job, servers, progress)
    return Replayed(progress.answered_s, spent.busy_s)
