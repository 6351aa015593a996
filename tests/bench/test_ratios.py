"""Ratios, their intervals, verdicts and blocks: known answers."""

import numpy as np
import pytest

from exfm_bench.ratios import Interval, judge, median_of, ratio_of
from exfm_bench.serving.blocks import Block, Series, Turn, joined, take_blocks
from exfm_bench.serving.config import ServingBenchConfig


@pytest.mark.parametrize(("num_values", "low", "high"), [(6, 1, 6), (25, 8, 18), (100, 40, 61)])
def test_a_medians_interval_lies_between_the_ranks_of_textbooks(num_values: int, low: int, high: int) -> None:
    values = np.random.default_rng(0).permutation(num_values) + 1.0
    assert median_of([list(values)]) == Interval((num_values + 1) / 2, low, high)


def test_of_five_values_there_is_no_interval_of_95_percent() -> None:
    assert median_of([[1.0] * 5]) == Interval(1.0, -np.inf, np.inf)


def test_the_interval_holds_the_true_median_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    found = [median_of([list(generator.lognormal(size=25))]) for _ in range(2_000)]
    share = np.mean([one.low <= 1.0 <= one.high for one in found])
    assert 0.945 < share < 0.97  # 95.7 % by the binomial distribution


def test_of_several_starts_the_interval_is_students_of_their_medians() -> None:
    found = median_of([[0.9, 1.0, 1.3], [2.0], [2.9, 3.0, 3.0, 3.3]])
    assert (found.value, found.low, found.high) == pytest.approx((2, 2 - 4.303 / 3**0.5, 2 + 4.303 / 3**0.5), abs=1e-3)
    assert median_of([[1.5], [1.5]]) == Interval(1.5, 1.5, 1.5)


@pytest.mark.slow
def test_where_starts_differ_more_than_blocks_the_interval_still_holds_the_true_median_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    values = 1 + 0.01 * generator.normal(size=(2_000, 5, 1)) + 0.005 * generator.normal(size=(2_000, 5, 5))
    by_starts = [median_of([list(start) for start in one]) for one in values]
    as_one_start = [median_of([list(one.ravel())]) for one in values]
    assert 0.94 < np.mean([one.low <= 1.0 <= one.high for one in by_starts]) < 0.96
    assert np.mean([one.low <= 1.0 <= one.high for one in as_one_start]) < 0.75


def test_ratios_are_of_the_same_block_so_that_a_slow_block_counts_for_nothing() -> None:
    slowness = np.array([1.0, 9.0, 2.0, 30.0, 1.0, 5.0])
    assert ratio_of([list(1.2 * slowness)], [list(slowness)]).high == pytest.approx(1.2)


QUIET, NOISY = Interval(1.0, 0.995, 1.004), Interval(1.0, 0.96, 1.05)


def test_a_target_is_met_if_the_interval_reaches_it_and_the_same_server_differs_little_from_itself() -> None:
    assert judge(Interval(1.015, 1.005, 1.03), 1.01, of_same=QUIET) == "met"


def test_a_target_below_the_interval_is_not_met() -> None:
    assert judge(Interval(1.03, 1.02, 1.04), 1.01, of_same=QUIET) == "not met"
    assert judge(Interval(1.3, 1.2, 1.4), 1.01, of_same=NOISY) == "not met"


def test_nothing_is_resolved_where_the_same_server_differs_from_itself() -> None:
    assert judge(Interval(0.9, 0.8, 1.005), 1.01, of_same=NOISY) == "not resolved"


def test_nothing_is_resolved_by_a_ratio_that_is_hardly_known() -> None:
    assert judge(Interval(1.1, 0.46, 1.74), 1.01, of_same=QUIET) == "not resolved"


def turn_of(latency_ms: float, *, num_requests: int = 4, cpu_s: float = 0.004) -> Turn:
    return Turn(np.full(num_requests, latency_ms), cpu_s, cpu_s / 2, cpu_s / 4, num_failed=1)


def test_a_block_is_all_its_turns_requests_and_their_mean_cpu_time() -> None:
    block = Block.of([turn_of(1.0), turn_of(3.0, num_requests=12)])
    assert (block.p50_ms, block.p99_ms, block.num_requests, block.num_failed) == (3.0, 3.0, 16, 2)
    assert block.cpu_ms == pytest.approx(1e3 * 0.012 / 16)
    assert block.shards_cpu_ms == pytest.approx(block.cpu_ms / 3)
    assert block.client_cpu_ms == pytest.approx(1e3 * 0.002 / 16)


def test_in_each_turn_all_servers_come_once_in_an_order_of_its_own_and_the_same_again_by_the_same_seed() -> None:
    def taken(seed: int) -> list[tuple[int, int]]:
        calls: list[tuple[int, int]] = []

        def take(server: int, turn: int) -> Turn:
            calls.append((turn, server))
            return turn_of(1.0 + server)

        found = take_blocks(["a", "b", "c"], take, numbers=range(6), num_turns=2, seed=seed)
        assert [series.name for series in found] == ["a", "b", "c"]
        assert [series.median("p50_ms").value for series in found] == [1.0, 2.0, 3.0]
        assert [len(series.blocks) for series in found] == [6, 6, 6]
        return calls

    calls = taken(0)
    turns = [calls[at : at + 3] for at in range(0, len(calls), 3)]
    assert [{turn for turn, _ in of_turn} for of_turn in turns] == [{number} for number in range(12)]
    assert all({server for _, server in of_turn} == {0, 1, 2} for of_turn in turns)
    assert len({tuple(server for _, server in of_turn) for of_turn in turns}) > 1
    assert calls == taken(0) != taken(1)


def test_blocks_of_later_starts_go_on_where_those_before_ended() -> None:
    def taken(numbers: range) -> tuple[list[Series], list[int], list[int]]:
        turns, servers = list[int](), list[int]()

        def take(server: int, turn: int) -> Turn:
            turns.append(turn)
            servers.append(server)
            return turn_of(1.0 + turn)

        return take_blocks(["a", "b"], take, numbers=numbers, num_turns=10, seed=0), turns, servers

    (first, _), _, order = taken(range(3))
    (later, _), turns, later_order = taken(range(3, 6))
    assert sorted(set(turns)) == list(range(30, 60))
    assert later_order != order
    [both] = joined(joined([], [first]), [later])
    assert both.name == "a"
    assert both.starts == (first.blocks, later.blocks)
    assert both.blocks == first.blocks + later.blocks


@pytest.mark.parametrize(
    ("blocks", "starts", "sizes"),
    [(25, 5, [5] * 5), (25, 1, [25]), (7, 3, [2, 2, 3]), (6, 1000, [1] * 6)],
)
def test_blocks_are_spread_over_starts(blocks: int, starts: int, sizes: list[int]) -> None:
    spread = ServingBenchConfig(blocks=blocks, starts=starts).blocks_of_starts()
    assert [len(numbers) for numbers in spread] == sizes
    assert [number for numbers in spread for number in numbers] == list(range(blocks))


def test_two_series_of_one_noisy_server_resolve_nothing() -> None:
    generator = np.random.default_rng(1)
    first, same, other = (
        Series(name, (tuple(Block.of([turn_of(ms)]) for ms in generator.lognormal(0.0, 0.2, size=25)),))
        for name in ("first", "same", "other")
    )
    assert judge(other.ratio("p50_ms", first), 1.01, of_same=same.ratio("p50_ms", first)) == "not resolved"
