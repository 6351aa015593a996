"""What a server takes at once, and when it begins it."""

import asyncio

import pytest

from exfm.errors import OverloadedError
from exfm.serving.requests.admission import Admission


def test_a_request_over_the_bound_is_refused_until_another_is_answered() -> None:
    admission = Admission("students", max_concurrency=2)
    admission.take()
    admission.take()
    with pytest.raises(OverloadedError, match="'students' has 2 requests under way, and max_concurrency is 2"):
        admission.take()
    admission.release()
    admission.take()


def test_a_request_that_fails_gives_its_place_back() -> None:
    admission = Admission("students", max_concurrency=1)

    async def fail() -> None:
        with admission.taken():
            await admission.begin()
            raise ValueError("no scores")

    for _ in range(3):
        with pytest.raises(ValueError, match="no scores"):
            asyncio.run(fail())


def test_a_request_that_is_given_up_while_it_waits_gives_its_place_back() -> None:
    admission = Admission("students", max_concurrency=2)

    async def answer() -> None:
        with admission.taken():
            await admission.begin()
            await asyncio.sleep(60)

    async def give_up_both() -> None:
        asked = [asyncio.create_task(answer()) for _ in range(2)]
        await asyncio.sleep(0)  # one begins, the other waits for it
        for task in asked:
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)

    asyncio.run(give_up_both())
    admission.take()
    admission.take()


def coming(admission: Admission, *, num_requests: int, turns_between: int) -> tuple[int, int]:
    """Return how many of some requests were refused before the first was begun, and in all.

    They are heard of one after another, with so many turns of the event loop between two.
    """
    refused: list[int] = []
    refused_at_first: list[int] = []

    async def answer() -> None:
        try:
            with admission.taken():
                await admission.begin()
                refused_at_first.append(len(refused))
        except OverloadedError:
            refused.append(1)

    async def hear() -> None:
        asked = []
        for _ in range(num_requests):
            asked.append(asyncio.create_task(answer()))
            for _ in range(turns_between):
                await asyncio.sleep(0)
        await asyncio.gather(*asked)

    asyncio.run(hear())
    return refused_at_first[0], len(refused)


@pytest.mark.parametrize("turns_between", [0, 1, 2])
def test_those_that_the_loop_hears_of_one_by_one_are_counted_before_the_first_is_begun(turns_between: int) -> None:
    admission = Admission("students", max_concurrency=4)
    assert coming(admission, num_requests=30, turns_between=turns_between) == (26, 26)


def test_even_a_flood_without_a_pause_does_not_keep_the_first_from_being_begun() -> None:
    admission = Admission("students", max_concurrency=4)
    at_first, in_all = coming(admission, num_requests=2_000, turns_between=1)
    assert 0 < at_first < in_all


def test_requests_that_come_apart_are_all_answered() -> None:
    assert coming(Admission("students", max_concurrency=1), num_requests=20, turns_between=20) == (0, 0)
