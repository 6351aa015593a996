"""Benchmarks that start servers, each in one small run: what they find, but not how fast."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from exfm.features.request import encode_request
from exfm.models.scoring import UnshardedScorer
from exfm.planning.config import ShardingConfig
from exfm.planning.cost_model.costs import DEFAULT_COSTS
from exfm.planning.planner import make_plan
from exfm_bench.peers.plain_model import PlainModel
from exfm_bench.serving.models import scaled
from exfm_bench.serving.peer_servers import write_plain

HERE = Path(__file__).parent


def run(module: str, *arguments: str) -> str:
    command = [
        sys.executable,
        "-c",
        f"import {module}; {module}.main()",
        *arguments,
    ]  # no file that servers import again
    path = os.pathsep.join([str(HERE), str(HERE.parent), *sys.path])
    ended = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert "fork" not in ended.stderr, "gRPC says something of each server that is started later"
    return ended.stdout


@pytest.mark.slow
def test_real_servers_are_measured_and_predicted() -> None:
    told = run("measured")
    for words in (
        "calibrated on",
        "validated on",
        "two shards",
        "P99: off by",
        "of 1 within 15%",
        "100 requests after 2000 over 128 shards (10.0 TB of tables) at 100,000 requests/s",
    ):
        assert words in told


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return where the two runs of served.py wrote what they found."""
    out = tmp_path_factory.mktemp("served")
    run("served", str(out))
    return out


def found_in(folder: Path) -> Any:
    return json.loads((folder / "serving.json").read_text(encoding="utf-8"))


def blocks_of(series: Any) -> Sequence[Any]:
    return list(chain(*series["starts"]))


@pytest.mark.slow
def test_sharded_servers_are_measured_beside_unsharded_ones_and_give_the_same_scores(served: Path) -> None:
    found = found_in(served / "scenario")
    assert [scenario["load"] for scenario in found["scenarios"]] == [0.0, 0.3]
    for scenario in found["scenarios"]:
        assert scenario["threads"] in (1, 2), "those with which the unsharded server was faster"
        assert max(scenario["score_differences"]) <= 1e-6
        assert scenario["score_spread"] > 1e-3
        [sharded] = scenario["sharded"]
        for series in (scenario["unsharded"], scenario["same"], sharded):
            assert len(blocks_of(series)) == 6
            for block in blocks_of(series):
                assert (block["num_requests"], block["num_failed"]) == (4, 0)
                assert 0 < block["p50_ms"] <= block["p99_ms"]
                assert block["cpu_ms"] > 0
                assert (block["shards_cpu_ms"] > 0) == (series is sharded)
    page = (served / "scenario" / "serving.md").read_text(encoding="utf-8")
    for words in (
        "2 shards, load-balanced",
        "unsharded again (A/A)",
        "## Where the time goes",
        "| drm3, 16 | unsharded | CPU |",
        "servers on cores",
        "2 crosses of rank 32 and 128-64 units",
        "MALLOC_MMAP_THRESHOLD_",
    ):
        assert words in page
    assert (served / "scenario" / "serving.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_time_is_found_in_the_layers_of_each_server_and_of_its_shards(served: Path) -> None:
    for scenario in found_in(served / "scenario")["scenarios"]:
        names = [one["name"] for one in (scenario["unsharded"], scenario["same"], *scenario["sharded"])]
        assert [one["name"] for one in scenario["layers"]] == names
        for one in scenario["layers"]:
            assert sum(one["wall_ms"].values()) < 1_000
            assert min(one["wall_ms"]["dense operators"], one["cpu_ms"]["dense operators"]) > 0
        *unsharded, sharded = scenario["layers"]
        assert all(one["shard_ms"] == {} for one in unsharded)
        assert 0 < sharded["shard_ms"]["embedding operator"] < sum(sharded["shard_ms"].values()) < 1_000
        assert sharded["wall_ms"]["wait for shards"] > max(one["wall_ms"]["wait for shards"] for one in unsharded)


@pytest.mark.slow
def test_tables_of_more_rows_and_memory_are_measured(served: Path) -> None:
    found = found_in(served / "beside")
    [size] = found["sweep"]["sizes"]
    assert size["rows"] == 64
    for series in (size["unsharded"], size["sharded"], found["sweep"]["same"]):
        assert [block["num_failed"] for block in blocks_of(series)] == [0] * 6
    assert [one["process"] for one in found["memory"]] == ["ranker", "shard 0", "shard 1"]
    for one in found["memory"]:
        assert len(one["anonymous_bytes"]) == 50
        assert (one["requests_a_part"], one["num_failed"]) == (1, 0)
        assert 2**20 < min(one["anonymous_bytes"]) <= max(one["anonymous_bytes"]) < 2**32
    assert "## Memory" in (served / "beside" / "serving.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_kserves_own_server_gives_the_plain_models_scores_however_it_is_asked(served: Path, tmp_path: Path) -> None:
    found = found_in(served / "beside")["peers"]
    assert [(one["peer"], one["tuned"]) for one in found["peers"]] == [("KServe", False), ("KServe", True)]
    assert found["sharded"]["name"] == "2 shards, nsbp, fp16 pooled"
    assert all(block["num_failed"] == 0 for one in found["peers"] for block in blocks_of(one))
    assert found["score_differences"] == pytest.approx([difference_of_the_plain_model(tmp_path)] * 2, abs=1e-5)


def difference_of_the_plain_model(folder: Path) -> float:
    """Return how much the model's scores in fp32 and in int8 differ at most, for the requests of served.py."""
    model = scaled("drm3", bytes_factor=1e-5, dim_factor=0.125, network="small", seed=0)
    plan = make_plan(
        model.schema(), model.statistics(candidates=8), ShardingConfig(strategy="one-shard"), DEFAULT_COSTS
    )
    scorer = UnshardedScorer(folder / "bundle", model.write_bundle(folder / "bundle", plan))
    write_plain(model, folder / "plain")
    plain = PlainModel(folder / "plain")
    return max(
        float(np.abs(plain.scores({name: one.values for name, one in request.items()}) - scores).max())
        for request in model.requests(4, candidates=8, seed=0)
        for scores in [scorer.scores(encode_request(request, model.schema()))[:, 0]]
    )
