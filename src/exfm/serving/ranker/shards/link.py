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
from exfm.models.scoring import NetPooled
from exfm.schema import Net
from exfm.serving.profiler.profiler import Profiler
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
"""A lookup's bags, for each net of which the shard has tables."""

NO_ANSWER = (ShardUnavailableError, DeadlineError, OverloadedError)
"""A shard's failures that a retry, or another server, may not have: bundle and request are right."""

LOG_AGAIN_S = 60.0
"""Pause between two log lines about the same problem."""


@dataclass(frozen=True)
class ShardCall:
    """One lookup."""

    bags: NetBags
    deadline: Deadline
    profiler: Profiler | None = None
    """Measures the lookup, if its request is traced."""


class ShardLink(ABC):
    """The ranker's link to one shard."""

    def __init__(self, shard: ShardId, address: str) -> None:
        self.shard = shard
        self.address = address
        self._mismatched = MISMATCHED.labels(shard=str(shard.shard))  # exported as 0 before the first mismatch
        self._log_mismatch_s = 0.0

    def __str__(self) -> str:
        """Return the shard's name in messages."""
        return f"shard {self.shard.shard} at {self.address}"

    @abstractmethod
    async def lookup(self, call: ShardCall) -> NetPooled:
        """Return the pooled embeddings of a call's bags.

        Raises: ShardUnavailableError, OverloadedError, DeadlineError, VersionMismatchError, RequestError if the bags
        are too many, ServingError; each names the shard.
        """

    async def check_ready(self, *, deadline: Deadline) -> None:  # noqa: B027  # tables in this process are ready
        """Return if the shard says that it is ready to answer from this bundle; raises as `lookup`."""

    async def keep(self, tls: TlsFiles | None) -> None:  # noqa: B027  # as `check_ready`
        """Reconnect what is lost, or uses another certificate than `tls`; called again and again."""

    async def close(self) -> None:  # noqa: B027  # as `check_ready`
        """Close the link; lookups under way fail."""

    def check(self, pooled: NetPooled, bags: NetBags, *, bundle_id: str) -> None:
        """Return if a shard's pooled embeddings are from this bundle and have the shapes that these bags need.

        Raises: VersionMismatchError; ServingError if it is malformed.
        """
        if bundle_id != self.shard.bundle_id:
            raise VersionMismatchError(f"{self} answered from bundle {bundle_id!r}, expected {self.shard.bundle_id}")
        expected = {net: (of_net.num_rows, self.shard.dims[net]) for net, of_net in bags.items()}
        found = {net: tuple(of_net.shape) for net, of_net in pooled.items()}
        if found != expected:
            raise ServingError(f"{self} answered pooled embeddings of shapes {found}, expected {expected}")

    def error(self, code: grpc.StatusCode, details: str, deadline: Deadline) -> ServingError | RequestError:
        """Return the error of a ranker's request for a shard's status."""
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
        """Count a server of another shard or bundle, and log it at most once in LOG_AGAIN_S."""
        self._mismatched.inc()
        if time.monotonic() >= self._log_mismatch_s:
            self._log_mismatch_s = time.monotonic() + LOG_AGAIN_S
            logger.error("%s does not serve this shard of this bundle: %s", self, found)

    def late(self, deadline: Deadline) -> DeadlineError:
        """Return the error of a shard that did not answer in time."""
        return DeadlineError(f"{self} did not answer within the {deadline.allowed_ms:.0f} ms allowed")
