"""The breakdown of traced requests: no time is lost, and none counts twice."""

from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from exfm.errors import ConfigError, ServingError
from exfm.report.breakdown.layers import GROUPS, Group, LayerTimes, layer_times, middle_half
from exfm.report.breakdown.picture import COLOURS, draw_layers
from exfm.report.breakdown.table import layers_table
from exfm.serving.profiler.breakdown import Breakdown, Layer, LayerTime, ShardBreakdown, Traced

MS = 1_000_000


def traced(client_ms: int, *, ranker_cpu_ms: int, shard_cpu_ms: int) -> Traced:
    """Return a request of 10 ms at the ranker and 3 ms at a shard; the CPU times are the processes' until then."""
    shard = Breakdown(
        total_ns=3 * MS,
        process_cpu_ns=shard_cpu_ms * MS,
        layers={Layer.EMBEDDING: LayerTime(wall_ns=2 * MS, cpu_ns=1 * MS)},
    )
    layers = {
        Layer.ENCODE: LayerTime(wall_ns=2 * MS, cpu_ns=2 * MS),
        Layer.WAIT: LayerTime(wall_ns=4 * MS, cpu_ns=0),
        Layer.DENSE: LayerTime(wall_ns=1 * MS, cpu_ns=1 * MS),
    }
    ranker = Breakdown(
        total_ns=10 * MS,
        process_cpu_ns=ranker_cpu_ms * MS,
        layers=layers,
        shards={1: ShardBreakdown(wall_ns=5 * MS, server=shard)},
    )
    return Traced(client_ns=client_ms * MS, ranker=ranker)


REQUESTS = [
    traced(90, ranker_cpu_ms=100, shard_cpu_ms=50),
    traced(12, ranker_cpu_ms=107, shard_cpu_ms=53),
    traced(15, ranker_cpu_ms=113, shard_cpu_ms=55),
]


def found(server: str, layer: str) -> LayerTimes:
    [one] = [one for one in layer_times(REQUESTS) if (one.server, one.layer) == (server, layer)]
    return one


def test_wall_times_of_the_ranker_add_up_to_the_clients_latency() -> None:
    walls = [one.wall_ms_R for one in layer_times(REQUESTS) if one.server == "ranker"]
    np.testing.assert_allclose(np.sum(walls, axis=0), [12, 15])
    np.testing.assert_allclose(found("ranker", "client's wait").wall_ms_R, [2, 5])
    np.testing.assert_allclose(found("ranker", "RPC service").wall_ms_R, [3, 3])


def test_wall_times_of_a_shard_add_up_to_the_rankers_wait_for_it() -> None:
    walls = [one.wall_ms_R for one in layer_times(REQUESTS) if one.server == "shard 1"]
    np.testing.assert_allclose(np.sum(walls, axis=0), [5, 5])
    np.testing.assert_allclose(found("shard 1", "network").wall_ms_R, [2, 2])
    np.testing.assert_allclose(found("shard 1", "RPC service").wall_ms_R, [1, 1])


def test_cpu_times_add_up_to_the_processs_since_the_request_before() -> None:
    for server, expected in (("ranker", [7, 6]), ("shard 1", [3, 2])):
        cpus = [one.cpu_ms_R for one in layer_times(REQUESTS) if one.server == server]
        np.testing.assert_allclose(np.sum(cpus, axis=0), expected)
    np.testing.assert_allclose(found("ranker", "RPC service").cpu_ms_R, [4, 3])
    np.testing.assert_allclose(found("shard 1", "RPC service").cpu_ms_R, [2, 1])


def test_a_shard_that_was_away_for_a_while_is_named() -> None:
    away = REQUESTS[1].ranker.model_copy(update={"shards": {}})
    requests = [REQUESTS[0], Traced(client_ns=20 * MS, ranker=away), REQUESTS[2]]
    with pytest.raises(ServingError, match="shard 1 answered 2 of 3 requests, not all; profile again"):
        layer_times(requests)


def test_the_middle_half_is_without_the_fastest_and_slowest_quarter() -> None:
    every = [traced(ms, ranker_cpu_ms=0, shard_cpu_ms=0) for ms in (1000, 20, 11, 12, 13, 14, 99, 15, 16)]
    assert middle_half(every).tolist() == [False, False, False, True, True, False, True, True]


def test_every_layer_has_a_group_and_every_group_a_colour() -> None:
    assert set(GROUPS) == set(Layer)
    assert set(COLOURS) == set(Group)
    assert len(set(COLOURS.values())) == len(Group)


def test_the_table_has_every_layer_with_its_share() -> None:
    console = Console(width=120)
    with console.capture() as capture:
        console.print(layers_table(layer_times(REQUESTS), np.array([True, True])))
    lines = [line.split() for line in capture.get().splitlines()]
    assert ["wait", "for", "shards", "4.000", "4.000", "29.6%"] in lines
    assert ["all", "13.500", "14.970", "6.500", "6.990"] in lines


def test_the_picture_is_png_or_svg(tmp_path: Path) -> None:
    every = layer_times(REQUESTS)
    draw_layers(every, np.array([True, True]), title="two requests", out=tmp_path / "profile.svg")
    text = (tmp_path / "profile.svg").read_text()
    for words in ("two requests", "shard 1", "wait for shards", " 13.50", " 6.50"):
        assert f"<!-- {words} -->" in text
    with pytest.raises(ConfigError, match="PNG or SVG"):
        draw_layers(every, np.array([True, True]), title="", out=tmp_path / "profile.gif")
