"""A shard that is not asked for a while after it failed some times in a row: the circuit breaker before a link."""

import asyncio
import logging
import time
from collections.abc import Callable
from enum import Enum, auto

from prometheus_client import Counter

from exfm.errors import DeadlineError, OverloadedError, RequestError, ShardUnavailableError, VersionMismatchError
from exfm.models.scoring import NetSums
from exfm.serving.config import BreakerConfig
from exfm.serving.ranker.shards.link import ShardCall, ShardLink
from exfm.serving.ranker.shards.lookup_metrics import LookupMetrics
from exfm.serving.requests.call import Deadline

logger = logging.getLogger(__name__)

MISSING = Counter(
    "exfm_ranker_missing_answers",
    "Lookups of a shard that gave no sums: it was away, late, overloaded, or not asked because of that",
    ["shard"],
)

ALMOST_S, ALMOST_SHARE = 0.005, 0.01
"""Time from a deadline, in seconds or as a share of the time allowed, within which another clock may see the deadline:
gRPC breaks a request off at its client's deadline, of which it sends three digits."""


class Pass(Enum):
    """How a breaker lets a lookup pass."""

    PLAIN = auto()
    PROBE = auto()
    """To see whether the failures are over."""


class Breaker:
    """Tells whether to ask: not after some failures in a row; then, after each pause, one to see whether that is over.

    Closed: all ask. Open: none does, but for the probe.
    """

    def __init__(self, *, failures: int, pause_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Open after that many failures in a row; 0 never opens."""
        self._max_failures = failures
        self._pause_s = pause_s
        self._clock = clock
        self._num_failures = 0
        self._is_probing = False
        self._next_probe_s = 0.0

    @property
    def is_open(self) -> bool:
        """Return whether nothing but probes may ask."""
        return 0 < self._max_failures <= self._num_failures

    def admit(self) -> Pass | None:
        """Return how to ask now, or None; who asks then tells what came of it, by one of the other methods."""
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
        """Count a failure; at the last that is let pass, or a probe's, a pause begins.

        While open, what was asked before is not counted: it would lengthen the pause.
        """
        if self.is_open and admitted is Pass.PLAIN:
            return
        self._num_failures += 1
        self._is_probing = False
        self._next_probe_s = self._clock() + self._pause_s

    def learned_nothing(self, admitted: Pass) -> None:
        """Let another one probe, if this was the one: it gave up by itself."""
        if admitted is Pass.PROBE:
            self._is_probing = False


class GuardedShard:
    """A link behind its breaker; what gave sums is measured, and what gave none is counted."""

    def __init__(self, link: ShardLink, *, config: BreakerConfig) -> None:
        self._link = link
        self._config = config
        self._breaker = Breaker(failures=config.failures, pause_s=config.pause_ms * 1e-3)
        self._missing = MISSING.labels(shard=str(link.shard.shard))
        self._metrics = LookupMetrics(link.shard.shard)
        self._problem = ""

    def __str__(self) -> str:
        """Return how messages name it."""
        return str(self._link)

    async def sums(self, call: ShardCall) -> NetSums:
        """Return the shard's sums of a call's bags; raises as the link's, and during a pause at once."""
        had_ms = call.deadline.remaining_s() * 1e3
        if had_ms == 0:  # through no fault of the shard
            call.deadline.check(f"{self} was not asked yet")
        admitted = self._breaker.admit()
        if admitted is None:
            self._missing.inc()
            raise ShardUnavailableError(f"{self} cannot be reached (not asked for a while, since {self._problem})")
        asked_s = time.perf_counter()
        try:
            sums = await self._link.sums(call)
        except asyncio.CancelledError:
            if _is_over(call.deadline):
                self._silent(self._link.late(call.deadline), admitted, had_ms=had_ms)
            else:
                self._breaker.learned_nothing(admitted)
            raise
        except OverloadedError:  # it answers at once: there is nothing to wait for, hence to save
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
        except RequestError:  # which may not have been sent
            self._breaker.learned_nothing(admitted)
            raise
        except Exception:
            self._answered()
            raise
        self._metrics.answered(call.bags, sums, seconds=time.perf_counter() - asked_s)
        self._answered()
        return sums

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
                "%s failed %d times in a row and is asked once in %d ms until it answers: %s",
                self, self._config.failures, self._config.pause_ms, error,
            )  # fmt: skip


def _is_over(deadline: Deadline) -> bool:
    """Return whether this is the moment of a deadline."""
    almost_s = max(ALMOST_S, ALMOST_SHARE * deadline.allowed_ms * 1e-3)
    return abs(deadline.at_s - time.monotonic()) < almost_s
