import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from recorded_requests import plan_with_hot_rows, random_requests

from exfm.artifact.manifest import write_json
from exfm.artifact.plan import ShardPlan
from exfm.artifact.trace import TraceWriter
from exfm.cli.main import main
from exfm.schema import Schema
from exfm.sharding.counting import statistics_of_trace

Simulate = Callable[..., str]


@pytest.fixture
def simulate(
    tmp_path: Path, schema: Schema, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Simulate:
    """Return what replays a trace of 200 requests in `tmp_path` on a plan, and returns what is told of that."""
    writer = TraceWriter(tmp_path / "trace", model="students", bundle_id="b" * 64, sampling_rate=1.0, schema=schema)
    writer.add(random_requests(schema, 200, seed=0))
    write_json(tmp_path / "schema.yaml", schema.to_dict())

    def run(plan: ShardPlan, *options: str) -> str:
        write_json(tmp_path / "plan.json", plan.to_dict())
        arguments = f"shard simulate {tmp_path}/schema.yaml --requests-per-s 50 --plan {tmp_path}/plan.json"
        monkeypatch.setattr(sys, "argv", ["exfm", *arguments.split(), "--trace", str(tmp_path / "trace"), *options])
        with pytest.raises(SystemExit) as ended:
            main()
        assert not ended.value.code
        return capsys.readouterr().out

    return run


def test_simulate_replays_a_trace(simulate: Simulate, plan: ShardPlan) -> None:
    assert "latency at 50 requests/s" in simulate(plan)


def test_hot_rows_are_those_of_the_trace_if_no_statistics_are_named(
    simulate: Simulate, schema: Schema, tmp_path: Path
) -> None:
    hot = plan_with_hot_rows(schema)
    statistics_of_trace(tmp_path / "trace", schema).write(str(tmp_path / "counted"))
    told = simulate(hot)
    assert "latency at 50 requests/s" in told
    assert told == simulate(hot, "--statistics", str(tmp_path / "counted"))
