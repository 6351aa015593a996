"""The ranker's queue of requests that are scored together: who is taken when, and what becomes of the others."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from exfm.errors import DeadlineError
from exfm.models.dense_part import Scores, Unscored
from exfm.serving.call import Deadline
from exfm.serving.config import RankerConfig
from exfm.serving.ranker.batching import BATCHES, Batcher

LONG = Deadline.after(3600)

LONG_S = 30


class Short(Deadline):
    """A deadline that stays 400 us away."""

    def remaining_s(self) -> float:
        return 400e-6


SHORT = Short(at_s=0.0, allowed_ms=0.4)


class Dense:
    """Scores an item by its bottom number, and remembers which requests came together, by number."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []

    def scores(self, requests: Sequence[Unscored]) -> list[Scores]:
        self.batches.append([int(request.bottom_NY[0, 0]) for request in requests])
        return [request.bottom_NY.numpy() for request in requests]


def request(number: int, *, num_items: int = 2) -> Unscored:
    bottom_NY = torch.full((num_items, 1), float(number))
    return Unscored(
        {"user": [torch.empty(1, 0)], "item": [torch.empty(num_items, 0)]}, bottom_NY, np.array([num_items])
    )


def batcher(
    compute: Callable[[Sequence[Unscored]], list[Scores]], *, max_candidates: int = 100, waits: bool = False
) -> Batcher:
    """Return a queue that waits for others, without an end, or not at all."""
    config = RankerConfig(max_batch_candidates=max_candidates, batch_wait_us=10_000 if waits else 0)
    return Batcher(compute, model="students", config=config, clock=lambda: 0.0)


async def answer(batcher: Batcher, one: Unscored, *, turns: int = 1, deadline: Deadline = LONG) -> Scores:
    """Return a request's scores, after so many turns of the event loop in which it is under way."""
    with batcher.under_way() as score:
        for _ in range(turns):
            await asyncio.sleep(0)
        return await score(one, deadline)


async def answer_all(*answers: Coroutine[Any, Any, Scores]) -> list[Scores | BaseException]:
    return await asyncio.gather(*answers, return_exceptions=True)


def looking(dense: Dense, *, wait_us: int) -> tuple[Batcher, Iterator[float]]:
    """Return a queue whose clock goes on by 100 us each time that it looks, and the clock."""
    times_s = iter(np.arange(100) * 100e-6)
    config = RankerConfig(max_batch_candidates=100, batch_wait_us=wait_us)
    return Batcher(dense.scores, model="students", config=config, clock=lambda: next(times_s)), times_s


async def beside_one_that_never_comes(batcher: Batcher, answered: Awaitable[Any]) -> None:
    """Return once these have their scores, while the shards of another do not answer."""
    with batcher.under_way():
        await answered


@pytest.fixture
def dense() -> Dense:
    return Dense()


def test_requests_are_scored_one_by_one_by_default(dense: Dense) -> None:
    config = RankerConfig()
    alone = Batcher(dense.scores, model="students", config=config)
    asyncio.run(answer_all(*(answer(alone, request(number)) for number in range(3))))
    assert dense.batches == [[0], [1], [2]]


def test_those_that_are_there_at_once_are_scored_together_in_their_order(dense: Dense) -> None:
    asked = batcher(dense.scores)
    found = asyncio.run(answer_all(*(answer(asked, request(number, num_items=number)) for number in (3, 1, 2))))
    assert dense.batches == [[3, 1, 2]]
    assert [scores.tolist() for scores in found if isinstance(scores, np.ndarray)] == [
        [[3.0]] * 3, [[1.0]], [[2.0]] * 2,
    ]  # fmt: skip


def test_one_that_is_alone_waits_for_no_turn_of_the_loop(dense: Dense) -> None:
    coroutine = answer(batcher(dense.scores, waits=True), request(7), turns=0)
    with pytest.raises(StopIteration) as finished:
        coroutine.send(None)  # would return here if it waited for anything
    assert finished.value.value.tolist() == [[7.0], [7.0]]


def test_one_that_is_to_be_scored_alone_is_and_nobody_waits_for_it(dense: Dense) -> None:
    asked = batcher(dense.scores, waits=True)

    async def ask() -> None:
        with asked.under_way(alone=True) as score:
            await answer(asked, request(0))
            await beside_one_that_never_comes(asked, score(request(1), LONG))

    asyncio.run(asyncio.wait_for(ask(), LONG_S))
    assert dense.batches == [[0], [1]]


def test_a_batch_holds_no_more_candidates_than_its_bound_but_a_larger_request_goes_alone(dense: Dense) -> None:
    asked = batcher(dense.scores, max_candidates=5)
    sizes = [2, 2, 2, 9, 1, 4, 1]
    asyncio.run(answer_all(*(answer(asked, request(at, num_items=size)) for at, size in enumerate(sizes))))
    assert dense.batches == [[0, 1], [2], [3], [4, 5], [6]]


def test_without_a_wait_none_waits_for_those_that_are_under_way(dense: Dense) -> None:
    asked = batcher(dense.scores)
    asyncio.run(answer_all(answer(asked, request(0)), answer(asked, request(1)), answer(asked, request(2), turns=20)))
    assert dense.batches == [[0, 1], [2]]


def test_with_a_wait_a_batch_is_closed_as_soon_as_all_that_are_under_way_are_in_it(dense: Dense) -> None:
    asked = batcher(dense.scores, waits=True)
    asyncio.run(answer_all(*(answer(asked, request(at), turns=turns) for at, turns in enumerate([1, 3, 20]))))
    assert dense.batches == [[0, 1, 2]]


def test_a_full_batch_waits_for_nobody(dense: Dense) -> None:
    asked = batcher(dense.scores, max_candidates=4, waits=True)
    asyncio.run(answer_all(*(answer(asked, request(at), turns=many) for at, many in enumerate([1, 1, 20]))))
    assert dense.batches == [[0, 1], [2]]


def test_the_wait_for_one_that_does_not_come_has_an_end(dense: Dense) -> None:
    asked, times_s = looking(dense, wait_us=300)
    asyncio.run(beside_one_that_never_comes(asked, answer(asked, request(0))))
    assert dense.batches == [[0]]
    assert next(times_s) == pytest.approx(400e-6), "it came at 0 us, and at 300 us was waited for no longer"


def test_nobody_waits_for_others_for_more_than_half_of_the_time_that_is_left(dense: Dense) -> None:
    asked, times_s = looking(dense, wait_us=10_000)
    asyncio.run(beside_one_that_never_comes(asked, answer(asked, request(0), deadline=SHORT)))
    assert dense.batches == [[0]]
    assert next(times_s) == pytest.approx(300e-6), "it came at 0 us, and at 200 us was waited for no longer"


def test_of_those_that_wait_the_one_with_least_time_ends_the_wait(dense: Dense) -> None:
    asked, times_s = looking(dense, wait_us=10_000)
    both = answer_all(answer(asked, request(0)), answer(asked, request(1), deadline=SHORT))
    asyncio.run(beside_one_that_never_comes(asked, both))
    assert dense.batches == [[0, 1]]
    assert next(times_s) == pytest.approx(400e-6), "the second came at 100 us, and would wait until 300 us"


def test_one_that_fails_on_its_way_is_waited_for_no_longer(dense: Dense) -> None:
    asked = batcher(dense.scores, waits=True)

    async def fail() -> Scores:
        with asked.under_way():
            for _ in range(5):
                await asyncio.sleep(0)
            raise ValueError("no sums")

    _, failed = asyncio.run(answer_all(answer(asked, request(0)), fail()))
    assert isinstance(failed, ValueError)
    assert dense.batches == [[0]]


def test_an_error_reaches_every_request_of_its_batch_and_no_other(dense: Dense) -> None:
    def fail_first(requests: Sequence[Unscored]) -> list[Scores]:
        scores = dense.scores(requests)
        if len(dense.batches) == 1:
            raise RuntimeError("out of memory")
        return scores

    asked = batcher(fail_first, max_candidates=4)
    found = asyncio.run(answer_all(*(answer(asked, request(number)) for number in range(4))))
    assert dense.batches == [[0, 1], [2, 3]]
    assert [str(error) for error in found[:2]] == ["out of memory"] * 2
    assert [isinstance(scores, np.ndarray) for scores in found[2:]] == [True, True]


def test_one_that_is_given_up_leaves_the_batch_to_the_others(dense: Dense) -> None:
    asked = batcher(dense.scores, waits=True)

    async def ask() -> list[Scores | BaseException]:
        with asked.under_way():
            tasks = [asyncio.create_task(answer(asked, request(number))) for number in range(3)]
            for _ in range(3):
                await asyncio.sleep(0)
            tasks[1].cancel()
        return await asyncio.gather(*tasks, return_exceptions=True)

    first, cancelled, last = asyncio.run(ask())
    assert isinstance(cancelled, asyncio.CancelledError)
    assert dense.batches == [[0, 2]]
    assert isinstance(first, np.ndarray)
    assert isinstance(last, np.ndarray)


def test_one_that_is_given_up_does_not_count_as_one_that_waits(dense: Dense) -> None:
    asked = batcher(dense.scores, waits=True)

    async def ask() -> None:
        tasks = [asyncio.create_task(answer(asked, request(at), turns=many)) for at, many in enumerate([1, 1, 20])]
        for _ in range(3):
            await asyncio.sleep(0)
        tasks[1].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(ask())
    assert dense.batches == [[0, 2]], "the last is under way, and waited for"


def test_one_whose_time_is_over_leaves_the_batch_to_the_others(dense: Dense) -> None:
    asked = batcher(dense.scores)
    late = Deadline(at_s=0.0, allowed_ms=5)
    found = asyncio.run(
        answer_all(answer(asked, request(0)), answer(asked, request(1), deadline=late), answer(asked, request(2)))
    )
    assert dense.batches == [[0, 2]]
    assert isinstance(found[1], DeadlineError)
    assert str(found[1]).startswith("the 5 ms allowed passed while others were waited for")


def test_a_batch_of_none_that_still_want_scores_is_not_computed(dense: Dense) -> None:
    asked = batcher(dense.scores)
    late = Deadline(at_s=0.0, allowed_ms=5)
    found = asyncio.run(answer_all(*(answer(asked, request(number), deadline=late) for number in range(2))))
    assert dense.batches == []
    assert all(isinstance(error, DeadlineError) for error in found)


@given(
    asked=st.lists(st.tuples(st.integers(1, 9), st.integers(0, 6), st.booleans()), min_size=1, max_size=12),
    max_candidates=st.integers(1, 20),
    waits=st.booleans(),
)
def test_nothing_is_lost_or_mixed_up(asked: list[tuple[int, int, bool]], max_candidates: int, waits: bool) -> None:
    dense = Dense()
    together = batcher(dense.scores, max_candidates=max_candidates, waits=waits)

    async def ask() -> list[Scores | BaseException]:
        tasks = [
            asyncio.create_task(answer(together, request(number, num_items=size), turns=turns))
            for number, (size, turns, _) in enumerate(asked)
        ]
        for _ in range(3):
            await asyncio.sleep(0)
        for task, (_, _, is_given_up) in zip(tasks, asked, strict=True):
            if is_given_up:
                task.cancel()
        return await asyncio.gather(*tasks, return_exceptions=True)

    for number, ((size, _, is_given_up), found) in enumerate(zip(asked, asyncio.run(ask()), strict=True)):
        if isinstance(found, asyncio.CancelledError):
            assert is_given_up
        else:
            assert isinstance(found, np.ndarray)
            assert found.tolist() == [[float(number)]] * size
    for batch in dense.batches:
        assert batch
        assert len(batch) == 1 or sum(asked[number][0] for number in batch) <= max_candidates


def test_how_many_were_scored_together_is_counted(dense: Dense) -> None:
    def counted() -> dict[str, float]:
        [metric] = BATCHES.collect()
        return {
            f"{one.name} {one.labels.get('le', '')}".strip(): one.value
            for one in metric.samples
            if one.labels["model"] == "counted" and not one.name.endswith("_created")
        }

    assert counted() == {}
    Batcher(dense.scores, model="counted", config=RankerConfig())
    assert counted() == {}, "nothing is shown while batching is off"
    asked = Batcher(dense.scores, model="counted", config=RankerConfig(max_batch_candidates=100))
    asyncio.run(answer_all(*(answer(asked, request(number)) for number in range(3))))
    asyncio.run(answer_all(answer(asked, request(0))))
    found = counted()
    name = "exfm_ranker_batch_requests"
    assert (found[f"{name}_count"], found[f"{name}_sum"]) == (2, 4)
    assert (found[f"{name}_bucket 1.0"], found[f"{name}_bucket 2.0"], found[f"{name}_bucket 4.0"]) == (1, 1, 2)
