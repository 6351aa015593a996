"""Strategies side by side, on a terminal and as a picture."""

from io import StringIO
from pathlib import Path

import pytest
from made_models import COSTS, model, shards, table
from rich.console import Console

from exfm.errors import ConfigError, PlanError
from exfm.planning.config import ShardingConfig
from exfm.planning.planner import make_plan
from exfm.planning.reporting.comparison import Row, compare, compared_plan, comparison_table
from exfm.planning.reporting.drawing import draw_comparison
from exfm.planning.sizes import three_digits

STRATEGIES = ["singular", "one-shard", "capacity-balanced", "load-balanced", "nsbp", "auto"]


@pytest.fixture(scope="module")
def config() -> ShardingConfig:
    demand = {"requests_per_s": 500.0, "p99_ms": 30.0, "simulated_requests": 1000}
    return shards(2, memory_bytes=2**20, demand=demand)


@pytest.fixture(scope="module")
def rows(config: ShardingConfig) -> tuple[Row, ...]:
    tables = [table(f"t{index}", rows=500 * index, net="user" if index % 2 else "item") for index in range(1, 6)]
    return compare(*model(*tables), config, COSTS)


def printed(rows: tuple[Row, ...]) -> str:
    console = Console(file=StringIO(), width=120)
    console.print(comparison_table(rows))
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_every_strategy_has_a_row_and_auto_comes_last(rows: tuple[Row, ...]) -> None:
    assert [row.strategy for row in rows] == STRATEGIES
    assert all(row.meets and row.candidate and row.prediction for row in rows)
    text = printed(rows)
    assert [line.split()[0].rstrip(":") for line in text.splitlines()[3:9]] == STRATEGIES


def test_a_request_makes_a_call_a_shard_and_a_singular_one_none(rows: tuple[Row, ...]) -> None:
    calls = {row.strategy: row.prediction.calls for row in rows if row.prediction}
    assert (calls["singular"], calls["one-shard"], calls["load-balanced"]) == (0, 1, 2)


def test_sparing_the_calls_spares_time(rows: tuple[Row, ...]) -> None:
    of = {row.strategy: row.candidate.needs for row in rows if row.candidate}
    needs = {strategy: one.ranker_cpu_s + one.shard_cpu_s.sum() for strategy, one in of.items()}
    assert needs["singular"] < needs["one-shard"] < needs["capacity-balanced"]


@pytest.mark.slow
def test_servers_that_cannot_keep_up_are_overloaded_and_miss_the_demand(tmp_path: Path) -> None:
    tables = [table(f"t{index}", rows=500 * index, net="user" if index % 2 else "item") for index in range(1, 6)]
    demand = {"requests_per_s": 663.0, "max_utilisation": 0.999, "candidates_p99": 500, "seed": 2}  # of large requests
    config = shards(2, memory_bytes=2**20, demand=demand)
    rows = compare(*model(*tables), config, COSTS)
    by_name = {row.strategy: row for row in rows}
    assert by_name["one-shard"].is_overloaded
    assert not by_name["one-shard"].meets
    assert by_name["singular"].meets
    assert by_name["one-shard"].problem.startswith(
        "one-shard: overloaded with 2 pods at 663 requests/s: rankers are 100"
    )
    lines = {line.split()[0]: line.split() for line in printed(rows).splitlines()[3:9]}
    assert lines["one-shard"].count("overload") == 1
    assert "overload" not in lines["singular"]
    draw_comparison(rows, config, title="a model", out=tmp_path / "comparison.svg")
    assert "<!-- (overloaded) -->" in (tmp_path / "comparison.svg").read_text(encoding="utf-8")


def test_the_printed_cpu_time_is_the_predicted_one(rows: tuple[Row, ...]) -> None:
    lines = {line.split()[0].rstrip(":"): line.split() for line in printed(rows).splitlines()[3:9]}
    for row in rows[:-1]:
        assert row.prediction is not None
        assert lines[row.strategy][-4] == three_digits(row.prediction.cpu_ms)


def test_a_row_says_how_far_the_bottleneck_is_above_its_bound(rows: tuple[Row, ...]) -> None:
    lines = {line.split()[0].rstrip(":"): line.split() for line in printed(rows).splitlines()[3:9]}
    distances = {row.strategy: row.candidate.placement.distance for row in rows if row.candidate}
    assert distances["one-shard"] is None
    assert f"{distances['load-balanced']:.2%}" in lines["load-balanced"]


def test_a_strategy_without_a_plan_says_why_and_the_others_have_theirs() -> None:
    config = shards(3, memory_bytes=2**14, demand={"simulated_requests": 1000})
    rows = compare(*model(table("large", rows=2000), table("small")), config, COSTS)
    by_name = {row.strategy: row for row in rows}
    assert by_name["one-shard"].problem.startswith("one-shard: all tables take 32.8 KiB, but a shard has 16.0 KiB")
    assert not by_name["one-shard"].meets
    assert by_name["auto"].meets
    assert "–" in printed(rows)  # noqa: RUF001


@pytest.mark.slow
@pytest.mark.parametrize(("suffix", "start"), [("png", b"\x89PNG"), ("svg", b"<?xml")])
def test_a_drawing_is_png_or_svg_by_its_name(
    rows: tuple[Row, ...], config: ShardingConfig, tmp_path: Path, suffix: str, start: bytes
) -> None:
    out = tmp_path / "deep" / f"comparison.{suffix}"
    draw_comparison(rows, config, title="a model", out=out)
    assert out.read_bytes().startswith(start)


@pytest.mark.slow
def test_the_same_comparison_is_the_same_svg_with_every_strategy_in_it(
    rows: tuple[Row, ...], config: ShardingConfig, tmp_path: Path
) -> None:
    for name in ("one.svg", "two.svg"):
        draw_comparison(rows, config, title="a model", out=tmp_path / name)
    drawn = (tmp_path / "one.svg").read_text(encoding="utf-8")
    assert drawn == (tmp_path / "two.svg").read_text(encoding="utf-8")
    assert all(f"<!-- {strategy} -->" in drawn for strategy in STRATEGIES)


def test_a_drawing_of_another_kind_or_of_nothing_is_refused(
    rows: tuple[Row, ...], config: ShardingConfig, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"comparison.pdf: a drawing must be PNG or SVG"):
        draw_comparison(rows, config, title="a model", out=tmp_path / "comparison.pdf")
    with pytest.raises(ConfigError, match="no strategy has a plan"):
        draw_comparison([], config, title="a model", out=tmp_path / "comparison.svg")


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["auto", "nsbp"])
def test_the_plan_out_of_a_comparison_is_the_one_that_would_be_made(strategy: str) -> None:
    schema, statistics = model(*(table(f"t{index}", rows=500 * index) for index in range(1, 5)), table("u", net="user"))
    demand = {"requests_per_s": 200.0, "p99_ms": 30.0, "simulated_requests": 1000}
    config = shards(2, memory_bytes=2**20, strategy=strategy, demand=demand)
    rows = compare(schema, statistics, config, COSTS)
    plan = compared_plan(rows, schema, statistics, config, COSTS)
    assert plan == make_plan(schema, statistics, config, COSTS)


def test_a_comparison_without_the_wanted_plan_refuses_as_a_planner_does() -> None:
    config = shards(3, memory_bytes=2**14, strategy="one-shard", demand={"simulated_requests": 1000})
    schema, statistics = model(table("large", rows=2000), table("small"))
    rows = compare(schema, statistics, config, COSTS)
    with pytest.raises(PlanError, match="one-shard: all tables take"):
        compared_plan(rows, schema, statistics, config, COSTS)
