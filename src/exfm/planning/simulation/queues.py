"""Requests replayed through the queues of rankers and shards, event by event, in compiled code.

Legend: N requests, C calls that a request makes, S shards, K rankers.

A request is a chain of jobs: the client sends it; its ranker encodes it and sends C calls; each call's server works on
it; the ranker takes each answer in, and scores after the last; the client takes the scores. Every server, and the
client, is one event loop: it does one job at a time, in order of arrival. Each has a core of its own, or all share some
cores, and then those that have work progress at one pace (processor sharing, which is what a fair scheduler aims at).
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import numba
import numpy as np
import numpy.typing as npt

Function = TypeVar("Function", bound=Callable[..., Any])

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

_SEND, _ENCODE, _SCORE, _RECEIVE = 0, 1, 2, 3
"""Jobs of a request; its calls' follow them, first all asks."""
_NUM_OWN_JOBS = 4
_ASK, _SERVE, _TAKE = 0, 1, 2
"""Jobs of a call."""


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
    cold_share: float = 0.0
    """By how much a job takes longer at a server that had nothing to do for long: 0.5 is half as long again."""
    cooling_s: float = 1.0
    """Idle time after which a server is cold but for a part 1/e."""


class Replayed(NamedTuple):
    """What the replay of some requests gave."""

    answered_s: Floats
    """When each request's scores were with its client; shape [N]."""
    busy_s: Floats
    """CPU time of each server: rankers, then the shards' servers, then the client."""


def replay(arrivals_s: Floats, timings: Timings, servers: Servers) -> Replayed:
    """Return what servers that start cold do with requests that come at these times, which rise; shape [N]."""
    return Replayed(*_replay(arrivals_s, timings, servers))


class _Events(NamedTuple):
    """A binary heap of jobs that reach their server at some time; ties go by the jobs' numbers."""

    times_s: Floats
    jobs: Integers
    num_events: Integers
    """One number: the places of both arrays that are in use."""


class _Progress(NamedTuple):
    """How far requests are."""

    first_server: Integers
    """The number of each shard's first server, then that of the client; shape [S + 1]."""
    turns: Integers
    """The server, from 0, of a ranker's next call to a shard; shape [K, S]."""
    server_of: npt.NDArray[np.int32]
    """Of each call that was sent; shape [N, C]."""
    unanswered: Integers
    """Calls of each request; shape [N]."""
    answered_s: Floats
    """When its client had the scores, or infinity; shape [N]."""


class _Sharing(NamedTuple):
    """Servers on shared cores: the jobs that wait for each, as linked lists, and how far the present ones are."""

    present: Integers
    """The job that each server is at, or -1."""
    last: Integers
    """The last job of each server's line."""
    next_job: Integers
    """The job behind each job in its line, or -1."""
    ends_at_s: Floats
    """The CPU time that a server busy since the start would have got when this one's present job ends."""
    busy: Integers
    """Servers with a job, in no order."""


class _Spent(NamedTuple):
    """What servers did."""

    busy_s: Floats
    free_s: Floats
    """When each ended the last job that it began, or will end it."""


def _compiled(function: Function) -> Function:
    """Return the function compiled when it is first called; what was compiled is kept on disk."""
    compiled: Function = numba.njit(cache=True)(function)
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
    """Return the events with one more: the same arrays, or larger ones."""
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
    """Take the first event away, and return its job."""
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
def _cpu_s(timings: Timings, job: int) -> float:
    num_calls = timings.serve_s.shape[1]
    request, step = divmod(job, _NUM_OWN_JOBS + 3 * num_calls)
    if step in (_SEND, _RECEIVE):
        return timings.client_s / 2
    if step == _ENCODE:
        return float(timings.encode_s[request])
    if step == _SCORE:
        return float(timings.score_s[request])
    kind, call = divmod(step - _NUM_OWN_JOBS, num_calls)
    if kind == _ASK:
        return float(timings.ask_s[request, call])
    return float(timings.serve_s[request, call] if kind == _SERVE else timings.take_s[request, call])


@_compiled
def _begin(job: int, server: int, now_s: float, timings: Timings, servers: Servers, spent: _Spent) -> float:
    """Return the CPU time of a job that a server begins now, the longer the longer the server had nothing to do."""
    idle_s = max(0.0, now_s - spent.free_s[server])
    cpu_s = _cpu_s(timings, job) * (1 + servers.cold_share * (1 - np.exp(-idle_s / servers.cooling_s)))
    spent.busy_s[server] += cpu_s
    return float(cpu_s)


@_compiled
def _server_of(job: int, servers: Servers, progress: _Progress) -> int:
    """Return the server of a job: rankers come first, then the shards' servers; the client is the last."""
    num_calls = len(servers.shard_of_call)
    request, step = divmod(job, _NUM_OWN_JOBS + 3 * num_calls)
    if step in (_SEND, _RECEIVE):
        return int(progress.first_server[-1])
    if step >= _NUM_OWN_JOBS and (step - _NUM_OWN_JOBS) // num_calls == _SERVE:
        return int(progress.server_of[request, (step - _NUM_OWN_JOBS) % num_calls])
    return int(servers.ranker_of[request])


@_compiled
def _follow(
    events: _Events, job: int, end_s: float, timings: Timings, servers: Servers, progress: _Progress
) -> _Events:
    """Return the events with those that the end of a job makes."""
    num_calls = len(servers.shard_of_call)
    request, step = divmod(job, _NUM_OWN_JOBS + 3 * num_calls)
    first = job - step
    if step == _SEND:
        return _push(events, end_s + timings.client_way_s, first + _ENCODE)
    if step == _ENCODE:
        for call in range(num_calls):
            events = _push(events, end_s, first + _NUM_OWN_JOBS + call)
        return events if num_calls else _push(events, end_s, first + _SCORE)
    if step == _SCORE and servers.shared_cores:
        return _push(events, end_s + timings.client_way_s, first + _RECEIVE)
    if step in (_SCORE, _RECEIVE):
        progress.answered_s[request] = end_s + (timings.client_way_s if step == _SCORE else 0.0)
        return events
    kind, call = divmod(step - _NUM_OWN_JOBS, num_calls)
    if kind == _ASK:
        shard, ranker = servers.shard_of_call[call], servers.ranker_of[request]
        turn = progress.turns[ranker, shard]
        progress.turns[ranker, shard] = (turn + 1) % servers.replicas[shard]
        progress.server_of[request, call] = progress.first_server[shard] + turn
        return _push(events, end_s + timings.out_s[request, call], job + num_calls)
    if kind == _SERVE:
        return _push(events, end_s + timings.back_s[request, call], job + num_calls)
    progress.unanswered[request] -= 1
    return events if progress.unanswered[request] else _push(events, end_s, first + _SCORE)


@_compiled
def _replay(arrivals_s: Floats, timings: Timings, servers: Servers) -> tuple[Floats, Floats]:
    num_requests, num_calls = timings.serve_s.shape
    num_jobs = _NUM_OWN_JOBS + 3 * num_calls
    first_server = servers.num_rankers + np.append(0, np.cumsum(servers.replicas))
    num_servers = first_server[-1] + 1
    is_shared = servers.shared_cores > 0
    progress = _Progress(
        first_server,
        servers.first_turn % servers.replicas,
        np.zeros((num_requests, num_calls), dtype=np.int32),
        np.full(num_requests, num_calls),
        np.full(num_requests, np.inf),
    )
    events = _Events(np.empty(1024), np.empty(1024, dtype=np.int64), np.zeros(1, dtype=np.int64))
    spent = _Spent(np.zeros(num_servers), np.full(num_servers, -np.inf))
    sharing = _Sharing(
        np.full(num_servers, -1),
        np.full(num_servers, -1),
        np.full(num_requests * num_jobs if is_shared else 1, -1),
        np.zeros(num_servers),
        np.empty(num_servers, dtype=np.int64),
    )
    num_busy, got_s, now_s = 0, 0.0, 0.0  # got_s: CPU time of a server that was busy since the start
    num_arrived = 0
    while num_arrived < num_requests or events.num_events[0] or num_busy:
        arrival_s = arrivals_s[num_arrived] if num_arrived < num_requests else np.inf
        event_s = events.times_s[0] if events.num_events[0] else np.inf
        end_s, ending = np.inf, -1
        pace = min(1.0, servers.shared_cores / num_busy) if num_busy else 1.0
        for place in range(num_busy):
            server = sharing.busy[place]
            if ending < 0 or sharing.ends_at_s[server] < sharing.ends_at_s[sharing.busy[ending]]:
                ending = place
        if num_busy:
            end_s = now_s + max(0.0, sharing.ends_at_s[sharing.busy[ending]] - got_s) / pace
        if arrival_s < min(event_s, end_s):
            first = num_arrived * num_jobs
            num_arrived += 1
            if is_shared:
                events = _push(events, arrival_s, first + _SEND)
            else:
                events = _push(events, arrival_s + timings.client_way_s, first + _ENCODE)
        elif event_s <= end_s:
            job = _pop(events)
            server = _server_of(job, servers, progress)
            if not is_shared:
                begin_s = max(event_s, spent.free_s[server])
                spent.free_s[server] = begin_s + _begin(job, server, begin_s, timings, servers, spent)
                events = _follow(events, job, spent.free_s[server], timings, servers, progress)
                continue
            got_s += (event_s - now_s) * pace
            now_s = event_s
            if sharing.present[server] >= 0:
                sharing.next_job[sharing.last[server]] = job
            else:
                sharing.present[server] = job
                sharing.ends_at_s[server] = got_s + _begin(job, server, now_s, timings, servers, spent)
                sharing.busy[num_busy] = server
                num_busy += 1
            sharing.last[server] = job
        else:
            got_s += (end_s - now_s) * pace
            now_s = end_s
            server = sharing.busy[ending]
            job = sharing.present[server]
            following = sharing.next_job[job]
            sharing.present[server] = following
            spent.free_s[server] = end_s
            if following >= 0:
                sharing.ends_at_s[server] = got_s + _begin(following, server, now_s, timings, servers, spent)
            else:
                num_busy -= 1
                sharing.busy[ending] = sharing.busy[num_busy]
            events = _follow(events, job, end_s, timings, servers, progress)
    return progress.answered_s, spent.busy_s
