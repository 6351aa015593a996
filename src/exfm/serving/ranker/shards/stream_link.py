"""A shard reached by streams: one connection to each of its servers, used in turn."""

import asyncio
import logging
from collections.abc import Callable, Collection
from itertools import chain, count
from typing import TypeVar

import grpc
import torch
from prometheus_client import Counter

from exfm.errors import RequestError, ServingError, ShardUnavailableError, VersionMismatchError
from exfm.models.scoring import NetPooled
from exfm.serving.config import RankerConfig
from exfm.serving.profiler.breakdown import Layer
from exfm.serving.profiler.profiler import awaited, timed
from exfm.serving.profiler.spans import carried_on, is_sampled, trace_note
from exfm.serving.ranker.shards.link import ShardCall, ShardLink
from exfm.serving.requests.call import Deadline
from exfm.serving.shard_protocol.client import Place, ShardConnection
from exfm.serving.shard_protocol.connection import new_staging
from exfm.serving.shard_protocol.frames import (
    Frame,
    Kind,
    read_answer,
    read_error,
    request_frame,
    split_note,
    with_note,
)
from exfm.serving.shard_protocol.resolving import host_of, resolve
from exfm.serving.shard_protocol.shard_id import ShardId
from exfm.serving.tls import TlsFiles, client_context

Parsed = TypeVar("Parsed")

Problem = tuple[grpc.StatusCode, str]
"""Why there is no connection: the status that the lookup fails with, and details."""

logger = logging.getLogger(__name__)

CONNECT_S = 2.0
"""Timeout of a connection attempt and of a DNS lookup."""
RESOLVE_S = 5.0
"""Pause between two DNS lookups while all servers are connected. An added server waits this long for lookups."""

LOOKUP_ATTEMPTS = 3
"""Attempts of a lookup while its shard's servers cannot be reached, within its deadline."""
RECONNECT_S = 0.5
"""Pause between two attempts to reach a shard that has no connection left."""

RETRIED = Counter("exfm_ranker_retried_lookups", "Lookups sent again because a stream broke", ["shard"])

_STATUSES = {code.value[0]: code for code in grpc.StatusCode}


class StreamLink(ShardLink):
    """The link to one shard by streams."""

    def __init__(self, shard: ShardId, address: str, *, tls: TlsFiles | None, config: RankerConfig) -> None:
        """Start to connect in the running event loop, without waiting. Without `tls`, nothing is encrypted."""
        super().__init__(shard, address)
        self._tls = tls
        self._config = config
        self._staging = new_staging()
        self._connections: dict[Place, ShardConnection] = {}
        self._retired: set[ShardConnection] = set()
        self._places: tuple[Place, ...] = ()
        self._next_lookup_s = 0.0
        self._turns, self._retry_turns = count(), count()
        self._next_request = 0
        self._problem: Problem = (grpc.StatusCode.UNAVAILABLE, "no connection yet")
        self._retry_at_s = 0.0
        self._opened = asyncio.Event()
        self._retried = RETRIED.labels(shard=str(shard.shard))
        self._attempt = asyncio.create_task(self._connect_all())

    async def lookup(self, call: ShardCall) -> NetPooled:
        """Return the pooled embeddings of a call's bags; raises as ShardLink's.

        A lookup changes nothing, so a lookup whose connection was lost is sent again to another server.
        """
        tried: set[ShardConnection] = set()
        for number in range(LOOKUP_ATTEMPTS):
            connection = self._next_connection(tried) or await self._connected(call.deadline)
            if number:
                self._retried.inc()
            tried.add(connection)
            try:
                return await self._lookup(connection, call)
            except ConnectionError as error:
                problem = str(error)
        raise self.error(grpc.StatusCode.UNAVAILABLE, f"{problem}, {LOOKUP_ATTEMPTS} times", call.deadline)

    async def check_ready(self, *, deadline: Deadline) -> None:
        """Return if a server of the shard is connected: it has said that it holds this shard of this bundle."""
        if self._next_connection() is None:
            await self._connected(deadline)

    async def keep(self, tls: TlsFiles | None) -> None:
        """Connect to new and lost servers, disconnect from removed ones; reconnect if the certificate changed."""
        self._tls = tls
        for connection in (*self._connections.values(), *self._retired):
            connection.check_alive()
        await asyncio.shield(self._attempted())

    async def close(self) -> None:
        """Close all connections; requests under way fail."""
        self._attempt.cancel()
        for connection in (*self._connections.values(), *self._retired):
            connection.transport.abort()

    async def _lookup(self, connection: ShardConnection, call: ShardCall) -> NetPooled:
        self._next_request += 1
        remaining_s, profiler = call.deadline.remaining_s(), call.profiler
        with timed(profiler, Layer.SERIALIZE_REQUESTS):
            frame = request_frame(
                call.bags,
                request=self._next_request,
                shard=self.shard.shard,
                bundle_id=self.shard.bundle_id,
                allowed_us=int(remaining_s * 1e6),
            )
        if profiler is not None or is_sampled(carried_on()):
            frame = b"".join(with_note([frame], trace_note(carried_on())))
        limit = self._config.limits.max_message_bytes
        if len(frame) > limit:
            raise RequestError(
                f"the request takes {len(frame)} B to {self}; max_message_bytes is {limit}: send it in parts"
            )
        try:
            with awaited(profiler, self.shard.shard):
                answer = await connection.send_request(frame, request=self._next_request, timeout_s=remaining_s)
        except TimeoutError as error:
            raise self.late(call.deadline) from error
        except RequestError as error:
            raise RequestError(f"{self} cannot answer so large a lookup ({error}): send it in parts") from error
        if answer.kind != Kind.TRACED_ANSWER:
            return self._read(answer, call)
        with timed(profiler, Layer.DESERIALIZE_ANSWERS):
            plain, note = self._parsed(split_note, answer)
            pooled = self._read(plain, call)
        if profiler is not None:
            profiler.reported(self.shard.shard, note)
        return pooled

    def _read(self, answer: Frame, call: ShardCall) -> NetPooled:
        if answer.kind == Kind.ERROR:
            status, details = self._parsed(read_error, answer)
            raise self.error(_STATUSES.get(status, grpc.StatusCode.UNKNOWN), details, call.deadline)
        bundle_id, answers = self._parsed(read_answer, answer)
        pooled = {net: torch.from_numpy(of_net) for net, of_net in answers.items()}
        self.check(pooled, call.bags, bundle_id=bundle_id)
        return pooled

    def _parsed(self, read: Callable[[Frame], Parsed], answer: Frame) -> Parsed:
        try:
            return read(answer)
        except RequestError as error:
            raise ServingError(f"{self} answered a malformed frame: {error}") from error

    def _next_connection(self, tried: Collection[ShardConnection] = ()) -> ShardConnection | None:
        """Return the connection whose turn it is; one that this lookup has not tried, if there is one.

        Retries have their own turns: a shared counter would send each next lookup to the server that was just lost.
        """
        usable = [one for one in self._connections.values() if not one.transport.is_closing()]
        others = [one for one in usable if one not in tried] or usable
        turns = self._retry_turns if tried else self._turns
        return others[next(turns) % len(others)] if others else None

    async def _connected(self, deadline: Deadline) -> ShardConnection:
        """Return a connection as soon as there is one.

        After a failure, the next attempt waits for RECONNECT_S; until then requests fail at once.
        """
        if not self._attempt.done() or asyncio.get_running_loop().time() >= self._retry_at_s:
            attempt, opened = self._attempted(), asyncio.create_task(self._opened.wait())
            try:
                done, _ = await asyncio.wait(
                    {attempt, opened}, timeout=deadline.remaining_s(), return_when=asyncio.FIRST_COMPLETED
                )
            finally:
                opened.cancel()
            if not done:
                raise self.late(deadline)
        connection = self._next_connection()
        if connection is None:
            raise self.error(*self._problem, deadline)
        return connection

    def _attempted(self) -> asyncio.Task[None]:
        """Return the connection attempt that is under way, or start one: there is one at a time."""
        if self._attempt.done():
            self._opened.clear()
            self._attempt = asyncio.create_task(self._connect_all())
        return self._attempt

    async def _connect_all(self) -> None:
        """Connect to all missing servers. Known servers do not wait for DNS, which may be slow or down."""
        clock = asyncio.get_running_loop().time
        known = self._missing()
        if known or clock() >= self._next_lookup_s:
            problems = chain(*await asyncio.gather(self._open_all(known), self._open_others(known)))
            # A version mismatch is reported only if no other server may come back.
            mismatch = grpc.StatusCode.FAILED_PRECONDITION
            self._problem = min(problems, key=lambda one: one[0] == mismatch, default=self._problem)
        if not self._connections:
            self._retry_at_s = clock() + RECONNECT_S

    async def _open_others(self, known: Collection[Place]) -> list[Problem]:
        """Resolve the name, disconnect from servers that it no longer has, and connect to unknown ones."""
        try:
            self._places = await resolve(self.address, timeout_s=CONNECT_S)
        except ShardUnavailableError as error:  # the known servers stay
            return [(grpc.StatusCode.UNAVAILABLE, str(error))]
        self._next_lookup_s = asyncio.get_running_loop().time() + RESOLVE_S
        for gone in self._connections.keys() - set(self._places):
            self._retire(gone)
        return await self._open_all([place for place in self._missing() if place not in known])

    async def _open_all(self, places: Collection[Place]) -> list[Problem]:
        """Connect to these servers, and return the problems of those that the name still has."""
        found = await asyncio.gather(*map(self._open, places))
        return [one for place, one in zip(places, found, strict=True) if one is not None and place in self._places]

    def _missing(self) -> list[Place]:
        """Return the servers without a connection under the current certificate."""
        return [
            place
            for place in self._places
            if place not in self._connections or self._connections[place].tls != self._tls
        ]

    async def _open(self, place: Place) -> Problem | None:
        tls = self._tls
        connection = ShardConnection(
            self, place, tls=tls, max_body_bytes=self._config.limits.max_message_bytes, staging=self._staging
        )
        where = f"{place[0]}:{place[1]}"
        try:
            context = client_context(tls) if tls is not None else None
            async with asyncio.timeout(CONNECT_S):
                await asyncio.get_running_loop().create_connection(
                    lambda: connection, *place, ssl=context, server_hostname=host_of(self.address) if context else None
                )
                await connection.greet()
        except (OSError, ValueError) as error:  # ssl.SSLError and TimeoutError are OSErrors
            return (grpc.StatusCode.UNAVAILABLE, f"{where}: {str(error) or 'no answer'}")
        except VersionMismatchError as error:
            found = f"{where}: {error}"
            self.mismatched(found)
            return (grpc.StatusCode.FAILED_PRECONDITION, found)
        if place not in self._places:  # DNS dropped it during the attempt
            connection.transport.abort()
            return None
        if place in self._connections:
            self._retire(place)
        if not self._connections:
            logger.info("%s: connected", self)
        self._connections[place] = connection
        self._opened.set()
        return None

    def _retire(self, place: Place) -> None:
        """Send this server no new lookup, and close its connection after the last answer."""
        connection = self._connections.pop(place)
        self._retired.add(connection)
        connection.close_when_idle()

    def on_goaway(self, connection: ShardConnection) -> None:
        """Send no new lookup to a server that sent GOAWAY."""
        if self._connections.get(connection.place) is connection:
            self._retire(connection.place)

    def on_lost(self, connection: ShardConnection, problem: str) -> None:
        """Drop a closed connection."""
        self._retired.discard(connection)
        if self._connections.get(connection.place) is connection:
            del self._connections[connection.place]
            where = f"{connection.place[0]}:{connection.place[1]}"
            self._problem = (grpc.StatusCode.UNAVAILABLE, f"{where}: {problem}")
            logger.warning("%s: lost %s (%s), %d left", self, where, problem, len(self._connections))
