import sys
from pathlib import Path

import pytest
from recorded_requests import random_requests

from exfm.artifact.manifest import write_json
from exfm.artifact.plan import ShardPlan
from exfm.artifact.trace import TraceWriter
from exfm.cli.main import main
from exfm.schema import Schema


def test_simulate_replays_a_trace(
    tmp_path: Path,
    schema: Schema,
    plan: ShardPlan,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    writer = TraceWriter(tmp_path / "trace", model="students", bundle_id="b" * 64, sampling_rate=1.0, schema=schema)
    writer.add(random_requests(schema, 200, seed=0))
    write_json(tmp_path / "schema.yaml", schema.to_dict())
    write_json(tmp_path / "plan.json", plan.to_dict())
    arguments = f"shard simulate {tmp_path}/schema.yaml --requests-per-s 50 --plan {tmp_path}/plan.json"
    monkeypatch.setattr(sys, "argv", ["exfm", *arguments.split(), "--trace", str(tmp_path / "trace")])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    assert "latency at 50 requests/s" in capsys.readouterr().out
