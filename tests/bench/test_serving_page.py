"""Targets are judged, and told, by what was measured: here made up."""

import json
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from exfm.report.breakdown.layers import Group
from exfm_bench.serving.bench import NUMBERS, PAGE, PICTURE, write
from exfm_bench.serving.blocks import Block, Series, Turn
from exfm_bench.serving.config import Scenario, ServingBenchConfig, Variant
from exfm_bench.serving.findings import Findings
from exfm_bench.serving.layers import MeanBreakdown, mean_of_starts, rounds_of_start
from exfm_bench.serving.measuring import BASELINES, Measured
from exfm_bench.serving.memory import Grown
from exfm_bench.serving.page import memory_text, page
from exfm_bench.serving.peer_servers import Peer
from exfm_bench.serving.peers import PeersFound, is_faster
from exfm_bench.serving.picture import draw
from exfm_bench.serving.sweep import SweepFound, Swept, is_flat
from exfm_bench.serving.targets import judged

MIB = 2**20

TWO, ONE = Variant(), Variant(strategy="one-shard", num_shards=1)


def series_of(name: str, times: float, *, noise: float = 0.0) -> Series:
    """Return 25 blocks, of 5 starts, of a server that takes `times` as long, and as much CPU time, as one of 10 ms."""
    factors = times * np.exp(noise * np.random.default_rng(len(name)).normal(size=25))
    turns = (Turn(np.full(100, 10 * one), 0.5 * one, 0.5 * one * (times > 1), 0.1, num_failed=0) for one in factors)
    blocks = [Block.of([turn]) for turn in turns]
    return Series(name, tuple(tuple(blocks[first : first + 5]) for first in range(0, 25, 5)))


def measured_of(*variants: tuple[Variant, float], candidates: int = 512, noise: float = 0.0) -> Measured:
    first, same = (series_of(name, 1.0, noise=noise) for name in BASELINES)
    return Measured(
        scenario=Scenario(model="drm3", candidates=candidates, loads=(0.3,)),
        load=0.3,
        requests_per_s=12.5,
        threads=1,
        table_bytes=150 * 2**20,
        unsharded=first,
        same=same,
        sharded=tuple((variant, series_of(str(variant), times)) for variant, times in variants),
        score_differences=tuple(1e-7 for _ in variants),
        score_spread=0.1,
        layers=tuple(layered_of(str(name), times) for name, times in [*((name, 1.0) for name in BASELINES), *variants]),
    )


def layered_of(name: str, times: float) -> MeanBreakdown:
    """Return where a request spends `times` 10 ms, all but 8 of them waiting."""
    nothing = dict.fromkeys(Group, 0.0)
    return MeanBreakdown(
        name,
        wall_ms=nothing | {Group.DENSE: 8.0, Group.WAIT: 10 * times - 8},
        cpu_ms=nothing | {Group.DENSE: 16.0, Group.EMBEDDING: 0.5},
        shard_ms=nothing | {Group.EMBEDDING: 0.25, Group.NETWORK: times} if times > 1 else {},
    )


def test_layers_are_means_over_starts() -> None:
    found = mean_of_starts([layered_of("sharded", 1.2), layered_of("sharded", 1.4)])
    assert found.name == "sharded"
    assert (found.wall_ms[Group.DENSE], found.wall_ms[Group.WAIT]) == pytest.approx((8.0, 5.0))
    assert found.cpu_ms[Group.DENSE] == 16.0
    assert found.shard_ms[Group.NETWORK] == pytest.approx(1.3)
    assert mean_of_starts([layered_of("unsharded", 1.0)] * 2).shard_ms == {}


@pytest.mark.parametrize(("num_starts", "num_rounds"), [(1, 14), (2, 7), (3, 5), (5, 4), (40, 4)])
def test_rounds_of_traced_requests_are_spread_over_starts_but_for_a_few_of_each(
    num_starts: int, num_rounds: int
) -> None:
    assert rounds_of_start(num_starts) == num_rounds


def test_each_way_is_held_to_every_target() -> None:
    found = judged([measured_of((TWO, 1.015), (ONE, 1.0))])
    assert [(one.variant, one.target.statistic, one.verdict) for one in found] == [
        (TWO, "p50_ms", "met"),  # at most 1.02
        (TWO, "p99_ms", "not met"),  # 1.01
        (TWO, "cpu_ms", "not met"),  # 1.05, of which the made-up shards take half more
        (ONE, "p50_ms", "met"),
        (ONE, "p99_ms", "met"),
        (ONE, "cpu_ms", "met"),
    ]


def test_few_candidates_are_promised_nothing_and_many_no_cpu_time() -> None:
    assert judged([measured_of((TWO, 2.0), candidates=64)]) == []
    found = judged([measured_of((TWO, 1.0), candidates=2048)])
    assert [one.target.statistic for one in found] == ["p50_ms", "p99_ms"]


def test_a_noisy_machine_resolves_no_target() -> None:
    found = judged([measured_of((TWO, 1.0), noise=0.3)])
    assert {one.verdict for one in found if one.target.statistic != "cpu_ms"} == {"not resolved"}


def test_who_fails_requests_keeps_no_promise() -> None:
    measured = measured_of((TWO, 0.5))
    [(variant, series)] = measured.sharded
    failing = with_a_failure(series)
    assert {one.verdict for one in judged([replace(measured, sharded=((variant, failing),))])} == {"not met"}
    first = with_a_failure(measured.unsharded)
    assert {one.verdict for one in judged([replace(measured, unsharded=first)])} == {"not resolved"}


def with_a_failure(series: Series) -> Series:
    (first, *blocks), *starts = series.starts
    return Series(series.name, ((replace(first, num_failed=1), *blocks), *starts))


def test_few_blocks_or_starts_resolve_nothing_and_blocks_of_few_requests_no_p99() -> None:
    measured = measured_of((TWO, 1.0))

    def verdicts(*, num_blocks: int, num_requests: int, num_starts: int = 5) -> list[str]:
        def less(series: Series) -> Series:
            blocks = [replace(one, num_requests=num_requests) for one in series.blocks[:num_blocks]]
            return Series(series.name, tuple(tuple(blocks[start::num_starts]) for start in range(num_starts)))

        [(variant, series)] = measured.sharded
        arms = {
            "unsharded": less(measured.unsharded),
            "same": less(measured.same),
            "sharded": ((variant, less(series)),),
        }
        return [one.verdict for one in judged([replace(measured, **arms)])]

    assert verdicts(num_blocks=25, num_requests=100) == ["met", "met", "met"]
    assert verdicts(num_blocks=24, num_requests=100) == ["not resolved"] * 3
    assert verdicts(num_blocks=25, num_requests=100, num_starts=4) == ["not resolved"] * 3
    assert verdicts(num_blocks=25, num_requests=99) == ["met", "not resolved", "met"]


def grown_of(bytes_a_request: float, *, step: int = 0) -> Grown:
    """Return a process that settles at 100 MiB, and once more takes `step` bytes at a time."""
    held = [50 * MIB + place * 5 * MIB for place in range(10)] + [
        100 * MIB + int(2_000 * place * bytes_a_request) + step * (place > 30) for place in range(40)
    ]
    return Grown("ranker", 2_000, tuple(held), num_failed=0)


@pytest.mark.parametrize(
    ("grown", "is_flat_"),
    [(grown_of(0), True), (grown_of(0, step=MIB), True), (grown_of(2), True), (grown_of(16), False)],
    ids=["flat", "one step", "a drift below any object's size", "an object a request"],
)
def test_memory_is_flat_unless_requests_leave_something(grown: Grown, is_flat_: bool) -> None:
    assert grown.is_flat == is_flat_
    assert ("Memory is flat" in memory_text([grown])) == is_flat_


def test_memory_of_servers_that_fail_requests_is_not_called_flat() -> None:
    assert not replace(grown_of(0), num_failed=1).is_flat


@pytest.mark.parametrize(("times", "said"), [(1.0, "flat"), (1.2, "not flat")])
def test_latency_is_flat_if_it_hardly_grows_with_rows(times: float, said: str) -> None:
    assert is_flat(sweep_of(times).growth(sharded=False)) == said
    assert is_flat(sweep_of(times).growth(sharded=True)) == said


def sweep_of(times: float) -> SweepFound:
    sizes = [
        Swept(rows, rows * 36, series_of("unsharded", growth), series_of("sharded", 1.1 * growth))
        for rows, growth in ((1_000, 1.0), (1_000_000, times))
    ]
    return SweepFound(threads=1, sizes=sizes, same=series_of("same", 1.0))


KSERVE = Peer("KServe", "0.21.0", Path("python"), tuned=True)
PEERS = PeersFound(
    model="drm3",
    candidates=512,
    threads=1,
    unsharded=series_of("unsharded", 1.0),
    same=series_of("unsharded again (A/A)", 1.0),
    sharded=series_of(str(TWO), 1.02),
    peers=((KSERVE, series_of(str(KSERVE), 5.1)),),
    missing=("MLServer: left out",),
    layers=(layered_of("unsharded", 1.0), layered_of(str(TWO), 1.02)),
    score_differences=(3e-3,),
    fp32_bytes=360,
    int8_bytes=100,
)


def test_series_of_a_sweep_are_those_of_their_sizes_and_the_last_is_of_the_second_server() -> None:
    names = ("64, unsharded", "64, sharded", "128, unsharded", "128, sharded", "64, unsharded again")
    found = SweepFound.of([series_of(name, 1.0) for name in names], table_bytes={64: 10, 128: 20}, threads=2)
    assert [(one.rows, one.table_bytes, one.unsharded.name, one.sharded.name) for one in found.sizes] == [
        (64, 10, "64, unsharded", "64, sharded"),
        (128, 20, "128, unsharded", "128, sharded"),
    ]
    assert (found.threads, found.same.name) == (2, "64, unsharded again")


@pytest.mark.parametrize(("times", "said"), [(4.2, "met"), (3.9, "not met")])
def test_a_peer_is_so_many_times_slower_or_not(times: float, said: str) -> None:
    assert is_faster(PEERS, series_of("KServe", 1.02 * times)) == said


def test_a_peer_tells_nothing_by_few_blocks_or_if_it_fails_requests() -> None:
    peer = series_of("KServe", 5.1)
    assert is_faster(PEERS, with_a_failure(peer)) == "not resolved"
    few = replace(PEERS, sharded=replace(PEERS.sharded, starts=PEERS.sharded.starts[:4]))
    assert is_faster(few, replace(peer, starts=peer.starts[:4])) == "not resolved"
    assert is_faster(replace(PEERS, sharded=with_a_failure(PEERS.sharded)), peer) == "not met"


@pytest.mark.slow
def test_page_and_picture_tell_all_that_was_found(tmp_path: Path) -> None:
    findings = Findings(
        facts={"processor": "a made-up one"},
        config=ServingBenchConfig(),
        scenarios=(measured_of((TWO, 1.015), (ONE, 1.04)),),
        sweep=sweep_of(1.2),
        peers=PEERS,
    )
    findings = replace(findings, memory=(grown_of(16),))
    text = page(findings, picture="serving.png")
    for words in (
        "- processor: a made-up one",
        "| drm3, 512, 30% open (12.5/s) | 2 shards, load-balanced | P99 | 1.01 | 1.015 [1.015, 1.015] |",
        "latency is unsharded not flat (P50 ratio 1.200 [1.200, 1.200])",
        "| ms | dense operators | embedding operator | wait for shards | network, and the client's wait | all |",
        "| drm3, 512 | unsharded | wall | 8.00 |  | 2.00 |  | 10.00 |",
        "| drm3, 512 | 1 shard | wall | 8.00 |  | 2.40 |  | 10.40 |",
        "| drm3, 512 | 1 shard | slowest shard's wall |  | 0.25 |  | 1.04 | 1.29 |",
        "| drm3, 512 | 1 shard | CPU | 16.00 | 0.50 |  |  | 16.50 |",
        "| drm3, 512 | 1 shard | +0.00 | +0.40 | +0.40 |",
        "MLServer: left out",
        "| drm3, 512 | 2 shards, load-balanced | wall | 8.00 |  | 2.20 |  | 10.20 |",
        "Sharded serving is 5.000 [5.000, 5.000] times as fast as KServe, tuned (4 or more: met);",
        "of 3.60 times the bytes (3.5 or more: met)",
        "| ranker | 100,000 | 95.0 | 101.2 | 16.00 [16.00, 16.00] | 0 |",
        "Memory grows, or that is not resolved: ranker.",
    ):
        assert words in text
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # what has no room
        draw(findings, tmp_path / "serving.png")
    assert (tmp_path / "serving.png").read_bytes().startswith(b"\x89PNG")
    raw = findings.to_dict()
    assert [len(start) for start in raw["scenarios"][0]["sharded"][1]["starts"]] == [5] * 5
    assert raw["scenarios"][0]["layers"][2]["wall_ms"]["wait for shards"] == pytest.approx(2.15)
    assert raw["peers"]["peers"][0]["tuned"] is True


@pytest.mark.slow
def test_a_run_that_goes_on_says_how_far_it_is_and_its_files_take_the_place_of_earlier_ones(tmp_path: Path) -> None:
    (tmp_path / PAGE).write_text("of an earlier run", encoding="utf-8")
    whole = measured_of((TWO, 1.015))

    def after(num_starts: int) -> Findings:
        def some(series: Series) -> Series:
            return Series(series.name, series.starts[:num_starts])

        sharded = tuple((variant, some(series)) for variant, series in whole.sharded)
        scenario = replace(whole, unsharded=some(whole.unsharded), same=some(whole.same), sharded=sharded)
        config = ServingBenchConfig(blocks=25, starts=5)
        return Findings(facts={}, config=config, scenarios=(scenario,), sweep=None, peers=None)

    write(after(1), tmp_path)
    text = (tmp_path / PAGE).read_text(encoding="utf-8")
    assert "Starts that were measured: drm3, 512, 30% open (12.5/s): 1 of 5." in text
    assert "| P50 | 1.02 | 1.015 [-inf, inf] | 1.000 [-inf, inf] | not resolved |" in text
    write(after(5), tmp_path)
    text = (tmp_path / PAGE).read_text(encoding="utf-8")
    assert "Starts that were measured" not in text
    assert "| P50 | 1.02 | 1.015 [1.015, 1.015] | 1.000 [1.000, 1.000] | met |" in text
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted((PAGE, PICTURE, NUMBERS))
    [scenario] = json.loads((tmp_path / NUMBERS).read_text(encoding="utf-8"))["scenarios"]
    assert [len(start) for start in scenario["unsharded"]["starts"]] == [5] * 5
