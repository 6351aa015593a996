"""When a shard is not asked, and what a ranker makes of that."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import grpc
import numpy as np
import pytest
import torch
from prometheus_client import REGISTRY

from exfm.errors import (
    DeadlineError,
    OverloadedError,
    RequestError,
    ServingError,
    ShardUnavailableError,
    VersionMismatchError,
)
from exfm.models.lookup import LookupBags
from exfm.serving.config import BreakerConfig
from exfm.serving.ranker.shards.breaker import Breaker, GuardedShard, Pass
from exfm.serving.ranker.shards.fan_out import TURNS_TO_SEND, lookup_all
from exfm.serving.ranker.shards.link import NetBags, NetPooled, ShardCall, ShardLink
from exfm.serving.requests.call import Deadline
from exfm.serving.shard_protocol.shard_id import ShardId

POOLED: NetPooled = {"user": torch.ones(1, 4)}
BAGS: NetBags = {"user": LookupBags(np.arange(3, dtype=np.uint64), np.full((1, 1), 3, dtype=np.int32))}


@dataclass
class Clock:
    now_s: float = 0.0

    def __call__(self) -> float:
        return self.now_s


class ScriptedLink(ShardLink):
    """A shard whose answers are given: errors, or None for pooled embeddings; the last one again and again."""

    def __init__(self, *answers: Exception | None) -> None:
        shard = ShardId("0" * 64, 7, dims={"user": 4})
        super().__init__(shard, "nowhere:1")
        self._answers = list(answers)
        self.num_asked = 0

    async def lookup(self, call: ShardCall) -> NetPooled:
        answer = self._answers[min(self.num_asked, len(self._answers) - 1)]
        self.num_asked += 1
        await asyncio.sleep(0)
        if answer is not None:
            raise answer
        return POOLED


@dataclass
class Breaking:
    """A breaker that opens after 3 failures for 10 s, on a clock of ours."""

    clock: Clock = field(default_factory=Clock)

    def __post_init__(self) -> None:
        self.breaker = Breaker(failures=3, pause_s=10, clock=self.clock)

    def fail(self, times: int) -> None:
        for _ in range(times):
            admitted = self.breaker.admit()
            assert admitted is not None
            self.breaker.failed(admitted)


def test_failures_in_a_row_open_a_breaker() -> None:
    breaking = Breaking()
    breaking.fail(2)
    assert breaking.breaker.admit() is Pass.PLAIN
    breaking.fail(1)
    assert breaking.breaker.admit() is None


def test_an_answer_between_failures_keeps_a_breaker_closed() -> None:
    breaking = Breaking()
    for _ in range(5):
        breaking.fail(2)
        breaking.breaker.answered()
    assert breaking.breaker.admit() is Pass.PLAIN


def test_after_a_pause_one_request_probes_and_its_answer_closes_the_breaker() -> None:
    breaking = Breaking()
    breaking.fail(3)
    breaking.clock.now_s = 9.9
    assert breaking.breaker.admit() is None
    breaking.clock.now_s = 10.0
    assert [breaking.breaker.admit() for _ in range(3)] == [Pass.PROBE, None, None]
    breaking.breaker.answered()
    assert [breaking.breaker.admit() for _ in range(3)] == [Pass.PLAIN] * 3


def test_a_probe_that_fails_begins_another_pause() -> None:
    breaking = Breaking()
    breaking.fail(3)
    breaking.clock.now_s = 10.0
    breaking.fail(1)
    breaking.clock.now_s = 19.9
    assert breaking.breaker.admit() is None
    breaking.clock.now_s = 20.0
    assert breaking.breaker.admit() is Pass.PROBE


def test_a_probe_that_gives_up_leaves_its_turn_to_the_next() -> None:
    breaking = Breaking()
    breaking.fail(3)
    breaking.clock.now_s = 10.0
    assert breaking.breaker.admit() is Pass.PROBE
    breaking.breaker.learned_nothing(Pass.PROBE)
    assert [breaking.breaker.admit() for _ in range(2)] == [Pass.PROBE, None]


def test_what_was_asked_before_a_breaker_opened_neither_lengthens_the_pause_nor_ends_a_probe() -> None:
    breaking = Breaking()
    breaking.fail(3)
    breaking.clock.now_s = 9.0
    breaking.breaker.failed(Pass.PLAIN)
    breaking.clock.now_s = 10.0
    assert breaking.breaker.admit() is Pass.PROBE
    breaking.breaker.learned_nothing(Pass.PLAIN)
    assert breaking.breaker.admit() is None


def test_a_breaker_of_no_failures_never_opens() -> None:
    breaker = Breaker(failures=0, pause_s=10)
    for _ in range(100):
        breaker.failed(Pass.PLAIN)
    assert breaker.admit() is Pass.PLAIN


def ask_often(
    link: ScriptedLink, *, times: int, may_miss: bool, deadline: Deadline | None = None, patience_ms: int = 100
) -> Sequence[NetPooled | Exception | None]:
    """Return what comes of asking a shard behind a breaker of 3 failures, one request after another."""

    config = BreakerConfig(failures=3, pause_ms=60_000, patience_ms=patience_ms)

    async def ask() -> list[NetPooled | Exception | None]:
        shard = GuardedShard(link, config=config)
        found: list[NetPooled | Exception | None] = []
        for _ in range(times):
            try:
                pooled, _ = await lookup_all(
                    [shard], [BAGS], deadline=deadline or Deadline.after(1), meanwhile=lambda: None, may_miss=may_miss
                )
                found += pooled
            except (ServingError, RequestError) as error:
                found.append(error)
        return found

    return asyncio.run(ask())


def missing() -> float:
    return REGISTRY.get_sample_value("exfm_ranker_missing_answers_total", {"shard": "7"}) or 0.0


@pytest.mark.parametrize("error", [ShardUnavailableError("away"), DeadlineError("late")], ids=str)
def test_a_shard_that_gives_no_pooled_embeddings_is_missed_and_then_not_asked(error: Exception) -> None:
    link = ScriptedLink(error)
    before = missing()
    assert ask_often(link, times=10, may_miss=True) == [None] * 10
    assert link.num_asked == 3
    assert missing() == before + 10


def test_lookups_that_gave_pooled_embeddings_are_measured() -> None:
    def samples() -> list[float]:
        names = [f"exfm_ranker_lookup_{of}" for of in ("seconds_count", "seconds_sum", "keys_total", "bytes_total")]
        return [REGISTRY.get_sample_value(name, {"shard": "7"}) or 0.0 for name in names]

    link = ScriptedLink(None, DeadlineError("late"), None)
    before = samples()
    began_s = time.perf_counter()
    assert ask_often(link, times=3, may_miss=True) == [POOLED, None, POOLED]
    count, seconds, keys, num_bytes = np.subtract(samples(), before)
    assert (count, keys, num_bytes) == (2, 2 * 3, 2 * 4 * 4)
    assert 0 < seconds < time.perf_counter() - began_s


def test_where_none_may_miss_a_shard_that_is_not_asked_fails_at_once_and_says_why() -> None:
    link = ScriptedLink(DeadlineError("shard 7 is late"))
    found = ask_often(link, times=5, may_miss=False)
    assert [type(error) for error in found] == [DeadlineError] * 3 + [ShardUnavailableError] * 2
    assert str(found[-1]) == ("shard 7 at nowhere:1 cannot be reached (its lookups are paused: shard 7 is late)")
    assert link.num_asked == 3


def test_an_overloaded_shard_is_missed_but_asked_again() -> None:
    link = ScriptedLink(*[OverloadedError("busy")] * 9, None)
    assert ask_often(link, times=10, may_miss=True) == [None] * 9 + [POOLED]


@pytest.mark.parametrize("allowed_s", [10, 600], ids=["a hurry", "a ranker that took most of the time"])
def test_who_leaves_a_shard_no_time_does_not_take_it_from_others(allowed_s: int) -> None:
    link = ScriptedLink(DeadlineError("late"))
    deadline = Deadline(at_s=time.monotonic() + 10, allowed_ms=allowed_s * 1_000)
    before = missing()
    assert ask_often(link, times=10, may_miss=True, deadline=deadline, patience_ms=60_000) == [None] * 10
    assert link.num_asked == 10
    assert missing() == before + 10


def test_no_shard_is_missed_by_who_has_no_time_to_ask_it() -> None:
    link = ScriptedLink(None)
    before = missing()
    assert ask_often(link, times=10, may_miss=True, deadline=Deadline(at_s=0, allowed_ms=1_000)) == [None] * 10
    assert (link.num_asked, missing()) == (0, before)


def test_a_request_that_is_refused_says_nothing_of_a_shard_that_is_away() -> None:
    away = ShardUnavailableError("away")
    link = ScriptedLink(away, away, RequestError("too large"), away, away)
    found = ask_often(link, times=5, may_miss=False)
    assert [type(error) for error in found] == [
        ShardUnavailableError, ShardUnavailableError, RequestError, ShardUnavailableError, ShardUnavailableError
    ]  # fmt: skip
    assert link.num_asked == 4, "the third failure opened the breaker"


def test_another_bundle_is_counted_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    def mismatched() -> float:
        return REGISTRY.get_sample_value("exfm_ranker_mismatched_shards_total", {"shard": "7"}) or 0.0

    before = mismatched()
    ask_often(ScriptedLink(VersionMismatchError("it serves another bundle")), times=4, may_miss=True)
    assert mismatched() == before + 4
    assert [record.getMessage() for record in caplog.records] == [
        "shard 7 at nowhere:1 does not serve this shard of this bundle: it serves another bundle"
    ]


@pytest.mark.parametrize("error", [VersionMismatchError("another"), ServingError("malformed")], ids=str)
def test_what_is_wrong_with_a_bundle_or_an_answer_is_never_missed(error: Exception) -> None:
    assert ask_often(ScriptedLink(error), times=5, may_miss=True) == [error] * 5


REFUSALS = {
    "load": (grpc.StatusCode.RESOURCE_EXHAUSTED, "64 requests under way", OverloadedError),
    "too large a request": (
        grpc.StatusCode.OUT_OF_RANGE,
        "the pooled embeddings take 80 MB: ask in parts",
        RequestError,
    ),
    "another bundle": (grpc.StatusCode.FAILED_PRECONDITION, "it holds bundle 1", VersionMismatchError),
    "another shard": (grpc.StatusCode.NOT_FOUND, "no model 'students-shard-7' here", VersionMismatchError),
}


@pytest.mark.parametrize(("code", "details", "kind"), REFUSALS.values(), ids=REFUSALS)
def test_refusals_of_a_shard_are_told_apart(code: grpc.StatusCode, details: str, kind: type[Exception]) -> None:
    error = ScriptedLink().error(code, details, Deadline.after(1))
    assert type(error) is kind
    assert str(error) == f"shard 7 at nowhere:1 refused: {details}"


def test_what_a_shard_takes_for_malformed_is_no_fault_of_the_rankers_client() -> None:
    error = ScriptedLink().error(grpc.StatusCode.INVALID_ARGUMENT, "2 of 3 keys are outside", Deadline.after(1))
    assert type(error) is ServingError


def test_requests_are_on_their_way_before_this_server_computes() -> None:
    """Each shard's lookup gets as many turns of the event loop as a stream needs to send it."""
    sent: list[int] = []

    class SendingLink(ScriptedLink):
        async def lookup(self, call: ShardCall) -> NetPooled:
            for _ in range(TURNS_TO_SEND - 1):
                await asyncio.sleep(0)
            sent.append(self.shard.shard)
            return POOLED

    async def ask() -> tuple[list[NetPooled | None], list[int]]:
        shards = [GuardedShard(SendingLink(None), config=BreakerConfig()) for _ in range(4)]
        return await lookup_all(
            shards, [BAGS] * 4, deadline=Deadline.after(1), meanwhile=lambda: list(sent), may_miss=False
        )

    assert asyncio.run(ask()) == ([POOLED] * 4, [7] * 4)


class SilentLink(ScriptedLink):
    """A shard that hangs."""

    async def lookup(self, call: ShardCall) -> NetPooled:
        self.num_asked += 1
        await asyncio.sleep(60)
        raise AssertionError("it hangs")


@pytest.mark.parametrize(
    ("left_s", "allowed_ms", "num_missing", "num_asked"),
    [(0.05, 600_000, 4, 3), (60, 600_000, 0, 4), (0.01, 100, 0, 4)],
    ids=["at the deadline", "before", "after, when an answer may have come"],
)
def test_a_shard_is_to_blame_for_a_request_that_is_broken_off_at_its_deadline_alone(
    left_s: float, allowed_ms: int, num_missing: int, num_asked: int
) -> None:
    link = SilentLink()
    before = missing()

    async def ask() -> None:
        config = BreakerConfig(failures=3, pause_ms=60_000, patience_ms=0)
        shard = GuardedShard(link, config=config)
        for _ in range(4):
            deadline = Deadline(at_s=time.monotonic() + left_s, allowed_ms=allowed_ms)
            lookup = asyncio.create_task(shard.lookup(ShardCall(BAGS, deadline)))
            await asyncio.wait([lookup], timeout=0.05)
            lookup.cancel()
            await asyncio.wait([lookup])

    asyncio.run(ask())
    assert (missing() - before, link.num_asked) == (num_missing, num_asked)


def test_a_probe_whose_request_is_broken_off_is_followed_by_another() -> None:
    async def ask() -> NetPooled:
        link = ScriptedLink(ShardUnavailableError("away"), None)
        shard = GuardedShard(link, config=BreakerConfig(failures=1, pause_ms=10))
        with pytest.raises(ShardUnavailableError):
            await shard.lookup(ShardCall(BAGS, Deadline.after(1)))
        await asyncio.sleep(0.02)
        probe = asyncio.create_task(shard.lookup(ShardCall(BAGS, Deadline.after(1))))
        await asyncio.sleep(0)
        probe.cancel()
        await asyncio.wait([probe])
        return await shard.lookup(ShardCall(BAGS, Deadline.after(1)))

    assert asyncio.run(ask()) == POOLED
