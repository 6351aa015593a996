"""Requests replayed through the queues of rankers and shards, event by event, in compiled code.

Legend: N requests, C calls that a request makes, S shards, K rankers.

A request is a chain of jobs: the client sends it; its ranker encodes it and sends C calls; each call's server works on
it; the ranker takes each answer in, and scores after the last; the client takes the scores. Every server, and the
client, is one event loop: it does one job at a time, in order of arrival. Each has a core of its own, or all share some
cores, and then those that have work progress at one pace (processor sharing, which is what a fair scheduler aims at).
"""

from typing import NamedTuple

import numba
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

_SEND, _ENCODE, _SCORE, _RECEIVE = 0, 1, 2, 3
_NUM_OWN_JOBS = 4
"""Of a request, apart from the three of each of its calls (ask, serve, take), whose numbers follow."""


class Timings(NamedTuple):
    """CPU seconds of each job, and seconds on the way of each message; a tuple, as compiled code takes it."""

    encode_s: Floats
    """At the ranker, before its calls; shape [N]."""
    score_s: Floats
    """At the ranker, after the answers; shape [N]."""
    ask_s: Floats
    """At the ranker, to send a call; shape [N, C]."""
    serve_s: Floats
    """At the shard; shape [N, C]."""
    take_s: Floats
    """At the ranker, to take an answer in; shape [N, C]."""
    out_s: Floats
    """On the way to the shard; shape [N, C]."""
    back_s: Floats
    """On the way to the ranker; shape [N, C]."""
    client_way_s: float
    """On the way between client and ranker, each way."""
    client_s: float
    """At the client, half of it to send and half to receive; only on shared cores."""


class Servers(NamedTuple):
    """Who does the jobs; a tuple, as compiled code takes it."""

    num_rankers: int
    ranker_of: Integers
    """The ranker of each request; shape [N]."""
    shard_of_call: Integers
    """Shape [C]."""
    replicas: Integers
    """Servers of each shard; shape [S]."""
    first_turn: Integers
    """The server, from 0, of a ranker's first call to a shard; the next call goes to the next one. Shape [K, S]."""
    shared_cores: int
    """That all servers and the client share; 0 gives each server a core of its own, and the client takes no time."""


def replay(arrivals_s: Floats, timings: Timings, servers: Servers) -> Floats:
    """Return when each request's scores are with its client; `arrivals_s` rise. Shape [N] both."""
    answered_s: Floats = _replay(arrivals_s, timings, servers)
    return answered_s


class _Events(NamedTuple):
    """A binary heap of jobs that reach their server at some time; ties go by the jobs' numbers."""

    times_s: Floats
    jobs: Integers


@numba.njit(cache=True)
def _comes_first(events: _Events, a: int, b: int) -> bool:
    if events.times_s[a] != events.times_s[b]:
        return bool(events.times_s[a] < events.times_s[b])
    return bool(events.jobs[a] < events.jobs[b])


@numba.njit(cache=True)
def _swap(events: _Events, a: int, b: int) -> None:
    events.times_s[a], events.times_s[b] = events.times_s[b], events.times_s[a]
    events.jobs[a], events.jobs[b] = events.jobs[b], events.jobs[a]


@numba.njit(cache=True)
def _push(events: _Events, size: int, time_s: float, job: int) -> _Events:
    """Return the events with one more: the same arrays, or larger ones."""
    if size == len(events.jobs):
        times_s, jobs = np.empty(2 * size, dtype=np.float64), np.empty(2 * size, dtype=np.int64)
        times_s[:size], jobs[:size] = events.times_s, events.jobs
        events = _Events(times_s, jobs)
    events.times_s[size], events.jobs[size] = time_s, job
    while size and _comes_first(events, size, (size - 1) // 2):
        _swap(events, size, (size - 1) // 2)
        size = (size - 1) // 2
    return events


@numba.njit(cache=True)
def _pop(events: _Events, size: int) -> None:
    """Put the first event behind the others, which are `size` - 1."""
    size -= 1
    _swap(events, 0, size)
    parent = 0
    while True:
        child = 2 * parent + 1
        if child >= size:
            return
        if child + 1 < size and _comes_first(events, child + 1, child):
            child += 1
        if not _comes_first(events, child, parent):
            return
        _swap(events, child, parent)
        parent = child


@numba.njit(cache=True)
def _work_s(timings: Timings, request: int, step: int) -> float:
    """Return the CPU time of a request's job."""
    num_calls = timings.serve_s.shape[1]
    if step < _NUM_OWN_JOBS:
        if step == _ENCODE:
            return float(timings.encode_s[request])
        if step == _SCORE:
            return float(timings.score_s[request])
        return timings.client_s / 2
    kind, call = divmod(step - _NUM_OWN_JOBS, num_calls)
    if kind == 0:
        return float(timings.ask_s[request, call])
    if kind == 1:
        return float(timings.serve_s[request, call])
    return float(timings.take_s[request, call])


@numba.njit(cache=True)
def _replay(arrivals_s: Floats, timings: Timings, servers: Servers) -> Floats:
    num_requests, num_calls = timings.serve_s.shape
    num_jobs = _NUM_OWN_JOBS + 3 * num_calls
    is_shared = servers.shared_cores > 0
    first_server = np.cumsum(servers.replicas) - servers.replicas + servers.num_rankers
    client = servers.num_rankers + servers.replicas.sum()
    turns = servers.first_turn % servers.replicas
    server_of = np.zeros((num_requests, num_calls), dtype=np.int32)
    unanswered = np.full(num_requests, num_calls)
    answered_s = np.full(num_requests, np.inf)
    events = _Events(np.empty(1024), np.empty(1024, dtype=np.int64))
    num_events = 0
    # Servers with cores of their own: when each is free. On shared cores: the jobs that wait for each, as linked lists,
    # and the work that every busy server has got since the start, in which the end of its present job is told.
    free_s = np.zeros(client + 1)
    next_job = np.full(num_requests * num_jobs if is_shared else 1, -1)
    present, last = np.full(client + 1, -1), np.full(client + 1, -1)
    ends_at_work_s = np.zeros(client + 1)
    busy = np.empty(client + 1, dtype=np.int64)
    num_busy = 0
    work_s, now_s = 0.0, 0.0
    num_arrived, num_answered = 0, 0
    while num_answered < num_requests:
        arrival_s = arrivals_s[num_arrived] if num_arrived < num_requests else np.inf
        event_s = events.times_s[0] if num_events else np.inf
        pace = min(1.0, servers.shared_cores / num_busy) if num_busy else 1.0
        first, end_s = -1, np.inf
        for place in range(num_busy):
            if first < 0 or ends_at_work_s[busy[place]] < ends_at_work_s[busy[first]]:
                first = place
        if first >= 0:
            end_s = now_s + max(0.0, ends_at_work_s[busy[first]] - work_s) / pace
        if arrival_s < min(event_s, end_s):
            job = num_arrived * num_jobs + (_SEND if is_shared else _ENCODE)
            on_the_way_s = 0.0 if is_shared else timings.client_way_s
            events = _push(events, num_events, arrival_s + on_the_way_s, job)
            num_events += 1
            num_arrived += 1
            continue
        if event_s <= end_s:
            job = events.jobs[0]
            _pop(events, num_events)
            num_events -= 1
            request, step = divmod(job, num_jobs)
            if step in (_SEND, _RECEIVE):
                server = client
            elif step < _NUM_OWN_JOBS or (step - _NUM_OWN_JOBS) // num_calls != 1:
                server = servers.ranker_of[request]
            else:
                server = server_of[request, (step - _NUM_OWN_JOBS) % num_calls]
            if is_shared:
                work_s += (event_s - now_s) * pace
                now_s = event_s
                if present[server] >= 0:
                    next_job[last[server]] = job
                else:
                    present[server] = job
                    ends_at_work_s[server] = work_s + _work_s(timings, request, step)
                    busy[num_busy] = server
                    num_busy += 1
                last[server] = job
                continue
            end_s = max(event_s, free_s[server]) + _work_s(timings, request, step)
            free_s[server] = end_s
        else:
            work_s += (end_s - now_s) * pace
            now_s = end_s
            server = busy[first]
            job = present[server]
            request, step = divmod(job, num_jobs)
            present[server] = next_job[job]
            if present[server] >= 0:
                next_request, next_step = divmod(present[server], num_jobs)
                ends_at_work_s[server] = work_s + _work_s(timings, next_request, next_step)
            else:
                num_busy -= 1
                busy[first] = busy[num_busy]
        # The job ends at end_s: what follows it?
        base = request * num_jobs
        if step == _SEND:
            events = _push(events, num_events, end_s + timings.client_way_s, base + _ENCODE)
            num_events += 1
        elif step == _ENCODE:
            for call in range(num_calls):
                events = _push(events, num_events, end_s, base + _NUM_OWN_JOBS + call)
                num_events += 1
            if not num_calls:
                events = _push(events, num_events, end_s, base + _SCORE)
                num_events += 1
        elif step == _SCORE and is_shared:
            events = _push(events, num_events, end_s + timings.client_way_s, base + _RECEIVE)
            num_events += 1
        elif step in (_SCORE, _RECEIVE):
            answered_s[request] = end_s + (timings.client_way_s if step == _SCORE else 0.0)
            num_answered += 1
        else:
            kind, call = divmod(step - _NUM_OWN_JOBS, num_calls)
            if kind == 0:
                shard = servers.shard_of_call[call]
                turn = turns[servers.ranker_of[request], shard]
                turns[servers.ranker_of[request], shard] = (turn + 1) % servers.replicas[shard]
                server_of[request, call] = first_server[shard] + turn
                events = _push(events, num_events, end_s + timings.out_s[request, call], job + num_calls)
                num_events += 1
            elif kind == 1:
                events = _push(events, num_events, end_s + timings.back_s[request, call], job + num_calls)
                num_events += 1
            else:
                unanswered[request] -= 1
                if unanswered[request] == 0:
                    events = _push(events, num_events, end_s, base + _SCORE)
                    num_events += 1
    return answered_s
