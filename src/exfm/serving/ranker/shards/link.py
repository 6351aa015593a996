"""A shard as a ranker sees it, however it is reached."""

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import grpc
from prometheus_client import Counter

from exfm.errors import (
    DeadlineError,
    OverloadedError,
    RequestError,
    ServingError,
    ShardUnavailableError,
    VersionMismatchError,
)
from exfm.models.lookup import LookupBags
from exfm.models.scoring import NetSums
from exfm.schema import Net
from exfm.serving.profiler.profiler import ShardStopwatch
from exfm.serving.requests.call import Deadline
from exfm.serving.shard_protocol.shard_id import ShardId
from exfm.serving.tls import TlsFiles

logger = logging.getLogger(__name__)

MISMATCHED = Counter(
    "exfm_ranker_mismatched_shards",
    "Lookups and connections that met a server of another shard or bundle; if it goes on, a rollout is at fault",
    ["shard"],
)

NetBags = Mapping[Net, LookupBags]
"""What a shard is asked for, of each net that it has lookups of."""

NO_ANSWER = (ShardUnavailableError, DeadlineError, OverloadedError)
"""What a shard's failure is that another moment, or another server, may mend: the bundle and the request are right."""

LOG_AGAIN_S = 60.0
"""Pause between two lines of a log about the same trouble."""


@dataclass(frozen=True)
class ShardCall:
    """What a shard is asked for."""

    bags: NetBags
    deadline: Deadline
    stopwatch: ShardStopwatch | None = None
    """What takes the lookup's time, if anybody wants to know."""


class ShardLink(ABC):
    """A shard, and what speaks to it."""

    def __init__(self, shard: ShardId, address: str) -> None:
        self.shard = shard
        self.address = address
        self._mismatched = MISMATCHED.labels(shard=str(shard.shard))  # shows 0 before the first
        self._log_mismatch_s = 0.0

    def __str__(self) -> str:
        """Return how messages name it."""
        return f"shard {self.shard.shard} at {self.address}"

    @abstractmethod
    async def sums(self, call: ShardCall) -> NetSums:
        """Return the shard's sums of a call's bags.

        Raises: ShardUnavailableError, OverloadedError, DeadlineError, VersionMismatchError, RequestError if they are
        too many, ServingError; each names the shard.
        """

    @abstractmethod
    async def check_ready(self, *, deadline: Deadline) -> None:
        """Return if the shard says that it is ready to answer from this bundle.

        Raises: as `sums`.
        """

    @abstractmethod
    async def keep(self, tls: TlsFiles | None) -> None:
        """Mend what is lost, and go over to another certificate; called over and over."""

    @abstractmethod
    async def close(self) -> None:
        """Let go of the shard; what is under way is broken off."""

    def check(self, sums: NetSums, bags: NetBags, *, bundle_id: str) -> None:
        """Return if a shard's sums are from this bundle and have the shapes that these bags ask for.

        Raises: VersionMismatchError; ServingError if it is malformed.
        """
        if bundle_id != self.shard.bundle_id:
            raise VersionMismatchError(f"{self} answered from bundle {bundle_id!r}, expected {self.shard.bundle_id}")
        expected = {net: (of_net.num_rows, self.shard.dims[net]) for net, of_net in bags.items()}
        found = {net: tuple(of_net.shape) for net, of_net in sums.items()}
        if found != expected:
            raise ServingError(f"{self} answered sums of shapes {found}, expected {expected}")

    def error(self, code: grpc.StatusCode, details: str, deadline: Deadline) -> ServingError | RequestError:
        """Return what a shard's status means to a ranker's caller."""
        match code:
            case grpc.StatusCode.OUT_OF_RANGE:
                return RequestError(f"{self} refused: {details}")
            case grpc.StatusCode.UNAVAILABLE | grpc.StatusCode.CANCELLED:
                return ShardUnavailableError(f"{self} cannot be reached ({details}); try again when it is back")
            case grpc.StatusCode.DEADLINE_EXCEEDED:
                return self.late(deadline)
            case grpc.StatusCode.RESOURCE_EXHAUSTED:
                return OverloadedError(f"{self} refused: {details}")
            case grpc.StatusCode.FAILED_PRECONDITION | grpc.StatusCode.NOT_FOUND:
                return VersionMismatchError(f"{self} refused: {details}")
            case code:
                return ServingError(f"{self} failed with {code.name}: {details}")

    def mismatched(self, found: str) -> None:
        """Count that a server was found to serve something else, and log it now and then."""
        self._mismatched.inc()
        if time.monotonic() >= self._log_mismatch_s:
            self._log_mismatch_s = time.monotonic() + LOG_AGAIN_S
            logger.error("%s is another one: %s", self, found)

    def too_much(self, details: str) -> RequestError:
        """Return the error of a request, or an answer, that is too large to travel."""
        return RequestError(f"{self} cannot be asked so much at once ({details}): ask in parts")

    def late(self, deadline: Deadline) -> DeadlineError:
        """Return the error of a shard that did not answer in time."""
        return DeadlineError(f"{self} did not answer within the {deadline.allowed_ms:.0f} ms allowed")
