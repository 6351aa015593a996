"""The circuit breaker of a link: after some failures in a row, a shard gets no lookups for a while."""

import asyncio
import logging
import time
from collections.abc import Callable
from enum import Enum, auto

from prometheus_client import Counter, Histogram

from exfm.errors import DeadlineError, OverloadedError, RequestError, ShardUnavailableError, VersionMismatchError
from exfm.models.scoring import NetPooled
from exfm.serving.config import BreakerConfig
from exfm.serving.ranker.shards.link import ShardCall, ShardLink
from exfm.serving.requests.call import Deadline
from exfm.serving.requests.latency import BUCKETS_S

logger = logging.getLogger(__name__)

MISSING = Counter(
    "exfm_ranker_missing_answers",
    "Lookups of a shard without an answer: it was away, late or overloaded, or its circuit breaker was open",
    ["shard"],
)

SECONDS = Histogram(
    "exfm_ranker_lookup_seconds", "Time until a shard's pooled embeddings were there", ["shard"], buckets=BUCKETS_S
)
KEYS = Counter("exfm_ranker_lookup_keys", "Keys that a shard looked up", ["shard"])
BYTES = Counter("exfm_ranker_lookup_bytes", "Pooled embeddings that a shard returned, in bytes", ["shard"])

ALMOST_S, ALMOST_SHARE = 0.005, 0.01
"""A request that gRPC cancels this close to its deadline counts as late, in seconds or as a share of the time allowed:
gRPC sends a deadline with three digits only."""


class Pass(Enum):
    """How a breaker admits a lookup."""

    PLAIN = auto()
    PROBE = auto()
    """The one lookup that tests whether the shard answers again."""


class Breaker:
    """Decides which lookups are sent.

    Closed: every lookup is sent. Open, after some failures in a row: one lookup after each pause, the probe.
    """

    def __init__(self, *, failures: int, pause_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Open after this many failures in a row; 0 never opens."""
        self._max_failures = failures
        self._pause_s = pause_s
        self._clock = clock
        self._num_failures = 0
        self._is_probing = False
        self._next_probe_s = 0.0

    @property
    def is_open(self) -> bool:
        """Return whether only probes are sent."""
        return 0 < self._max_failures <= self._num_failures

    def admit(self) -> Pass | None:
        """Return how a lookup may be sent now, or None. The caller then reports the result by another method."""
        if not self.is_open:
            return Pass.PLAIN
        if self._is_probing or self._clock() < self._next_probe_s:
            return None
        self._is_probing = True
        return Pass.PROBE

    def answered(self) -> None:
        """Close."""
        self._num_failures, self._is_probing = 0, False

    def failed(self, admitted: Pass) -> None:
        """Count a failure. A pause begins with the failure that opens the breaker, and with a failed probe.

        While open, a failure of a lookup sent before does not count: it would lengthen the pause.
        """
        if self.is_open and admitted is Pass.PLAIN:
            return
        self._num_failures += 1
        self._is_probing = False
        self._next_probe_s = self._clock() + self._pause_s

    def learned_nothing(self, admitted: Pass) -> None:
        """Allow another probe, if this lookup was the probe: it ended without a result."""
        if admitted is Pass.PROBE:
            self._is_probing = False


class GuardedShard:
    """A link behind its breaker. Answered lookups are measured, others are counted."""

    def __init__(self, link: ShardLink, *, config: BreakerConfig) -> None:
        self._link = link
        self._config = config
        self._breaker = Breaker(failures=config.failures, pause_s=config.pause_ms * 1e-3)
        label = str(link.shard.shard)  # each metric is exported as 0 before the first lookup
        self._missing, self._seconds = MISSING.labels(shard=label), SECONDS.labels(shard=label)
        self._keys, self._bytes = KEYS.labels(shard=label), BYTES.labels(shard=label)
        self._problem = ""

    def __str__(self) -> str:
        """Return how messages name it."""
        return str(self._link)

    async def lookup(self, call: ShardCall) -> NetPooled:
        """Return the pooled embeddings of a call's bags; raises as the link's, and during a pause at once."""
        had_ms = call.deadline.remaining_s() * 1e3
        if had_ms == 0:  # not a failure of the shard
            call.deadline.check(f"{self} had no lookup yet")
        admitted = self._breaker.admit()
        if admitted is None:
            self._missing.inc()
            raise ShardUnavailableError(f"{self} cannot be reached (its lookups are paused: {self._problem})")
        sent_s = time.perf_counter()
        try:
            pooled = await self._link.lookup(call)
        except asyncio.CancelledError:
            if _is_over(call.deadline):
                self._silent(self._link.late(call.deadline), admitted, had_ms=had_ms)
            else:
                self._breaker.learned_nothing(admitted)
            raise
        except OverloadedError:  # it answers at once, so a pause would save no time
            self._missing.inc()
            self._answered()
            raise
        except DeadlineError as error:
            self._silent(error, admitted, had_ms=had_ms)
            raise
        except ShardUnavailableError as error:
            self._missing.inc()
            self._failed(error, admitted)
            raise
        except VersionMismatchError as error:
            self._link.mismatched(str(error))
            self._answered()
            raise
        except RequestError:  # the lookup may not have been sent
            self._breaker.learned_nothing(admitted)
            raise
        except Exception:
            self._answered()
            raise
        self._seconds.observe(time.perf_counter() - sent_s)
        self._keys.inc(sum(len(of_net.keys) for of_net in call.bags.values()))
        self._bytes.inc(sum(of_net.nbytes for of_net in pooled.values()))
        self._answered()
        return pooled

    def _answered(self) -> None:
        if self._breaker.is_open:
            logger.info("%s answers again", self)
        self._breaker.answered()

    def _silent(self, error: DeadlineError, admitted: Pass, *, had_ms: float) -> None:
        self._missing.inc()
        if had_ms < self._config.patience_ms:
            self._breaker.learned_nothing(admitted)
        else:
            self._failed(error, admitted)

    def _failed(self, error: Exception, admitted: Pass) -> None:
        was_open = self._breaker.is_open
        self._breaker.failed(admitted)
        self._problem = str(error)
        if self._breaker.is_open and not was_open:
            logger.warning(
                "%s failed %d times in a row and gets one lookup every %d ms until it answers: %s",
                self, self._config.failures, self._config.pause_ms, error,
            )  # fmt: skip


def _is_over(deadline: Deadline) -> bool:
    """Return whether the deadline is now, as exactly as it can be known."""
    almost_s = max(ALMOST_S, ALMOST_SHARE * deadline.allowed_ms * 1e-3)
    return abs(deadline.at_s - time.monotonic()) < almost_s
