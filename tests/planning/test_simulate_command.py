import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from exfm.artifact.manifest import write_json
from exfm.artifact.plan import ShardPlan
from exfm.bundling.counting import statistics_of_log
from exfm.bundling.request_log import LoggedRequests
from exfm.cli.main import main
from exfm.schema import Schema
from logged_requests import plan_with_hot_rows, random_requests, write_log

Simulate = Callable[..., str]


@pytest.fixture
def simulate(
    tmp_path: Path, schema: Schema, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Simulate:
    """Return what replays a log of 200 requests in `tmp_path` on a plan, and returns what is told of that."""
    write_log(tmp_path / "log", schema, [random_requests(schema, 200, seed=0)])
    write_json(tmp_path / "schema.yaml", schema.to_dict())

    def run(plan: ShardPlan, *options: str) -> str:
        write_json(tmp_path / "plan.json", plan.to_dict())
        arguments = f"shard simulate {tmp_path}/schema.yaml --requests-per-s 50 --plan {tmp_path}/plan.json"
        monkeypatch.setattr(sys, "argv", ["exfm", *arguments.split(), "--log", str(tmp_path / "log"), *options])
        with pytest.raises(SystemExit) as ended:
            main()
        assert not ended.value.code
        return capsys.readouterr().out

    return run


def test_simulate_replays_a_log(simulate: Simulate, plan: ShardPlan) -> None:
    assert "latency at 50 requests/s" in simulate(plan)


def test_hot_rows_are_those_of_the_log_if_no_statistics_are_named(
    simulate: Simulate, schema: Schema, tmp_path: Path
) -> None:
    hot = plan_with_hot_rows(schema)
    statistics_of_log(LoggedRequests.find(tmp_path / "log", schema)).write(str(tmp_path / "counted"))
    told = simulate(hot)
    assert "latency at 50 requests/s" in told
    assert told == simulate(hot, "--statistics", str(tmp_path / "counted"))
