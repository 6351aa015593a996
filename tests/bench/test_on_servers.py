import json
import subprocess
import sys
from itertools import chain
from pathlib import Path

import pytest


@pytest.mark.slow
def test_real_servers_are_measured_predicted_and_compared() -> None:
    program = Path(__file__).parent / "measured.py"
    ended = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    prices, _, tables = ended.stdout.partition("\n")
    for end in json.loads(prices).values():
        assert 0 <= end["lookup_us"] < 1_000
        assert 0 < end["byte_ns"] < 100
    for words in (
        "calibrated on",
        "validated on",
        "two shards",
        "P99: off by",
        "of 1 within 15%",
        "100,000 requests/s",
    ):
        assert words in tables


@pytest.mark.slow
def test_sharded_servers_are_measured_beside_unsharded_ones_and_give_the_same_scores(tmp_path: Path) -> None:
    program = Path(__file__).parent / "served.py"
    out = tmp_path / "found"
    ended = subprocess.run([sys.executable, str(program), str(out)], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert "fork" not in ended.stderr, "gRPC says something of each server that is started later"
    found = json.loads((out / "serving.json").read_text(encoding="utf-8"))
    *without_cache, with_cache = found["cases"]
    assert max(with_cache["score_differences"]) <= 1e-6
    assert 0.05 < with_cache["known_shares"][0] < 0.95, "of 1,000 items some come again, as no request does"
    assert [case["load"] for case in without_cache] == [0.0, 0.3]
    for case in without_cache:
        assert set(case["known_shares"]) == {0.0}
        assert case["threads"] in (1, 2)
        assert max(case["score_differences"]) <= 1e-6
        assert case["score_spread"] > 1e-3
        assert [one["way"]["transport"] for one in case["sharded"]] == ["stream", "stream", "grpc", "grpc"]
        asked, not_asked = case["sharded"][::2], case["sharded"][1::2]
        for sharded, local in zip(asked, not_asked, strict=True):
            shards_cpu_ms = [sum(block["shards_cpu_ms"] for block in chain(*one["starts"])) for one in (sharded, local)]
            assert shards_cpu_ms[1] < shards_cpu_ms[0] / 2, "shards all of whose tables the ranker holds are not asked"
        for series in (case["unsharded"], case["same"], *asked):
            assert [len(start) for start in series["starts"]] == [3, 3]
            for block in chain(*series["starts"]):
                assert (block["num_requests"], block["num_failed"]) == (4, 0)
                assert 0 < block["p50_ms"] <= block["p99_ms"]
                assert block["cpu_ms"] > 0
                assert (block["shards_cpu_ms"] > 0) == (series in asked)
        names = [one["name"] for one in (case["unsharded"], case["same"], *case["sharded"])]
        assert [one["name"] for one in case["layers"]] == names
        for one in case["layers"]:
            assert sum(one["wall_ms"].values()) < 1_000
            assert min(one["wall_ms"]["dense operators"], one["cpu_ms"]["dense operators"]) > 0
        unsharded, same, *of_ways = case["layers"]
        without_shards, with_shards = [unsharded, same, *of_ways[1::2]], of_ways[::2]
        for one in with_shards:
            assert 0 < one["shard_ms"]["embedding operator"] < sum(one["shard_ms"].values()) < 1_000
            waits = [other["wall_ms"]["wait for shards"] for other in without_shards]
            assert max(waits) < one["wall_ms"]["wait for shards"]
        assert all(one["shard_ms"] == {} for one in without_shards)
    assert [size["rows"] for size in found["sweep"]["sizes"]] == [64, 128]
    assert [[len(start) for start in size["sharded"]["starts"]] for size in found["sweep"]["sizes"]] == [[3, 3]] * 2
    assert [(one["peer"], one["tuned"]) for one in found["peers"]["peers"]] == [("KServe", False), ("KServe", True)]
    assert found["peers"]["sharded"]["name"] == "2 shards, nsbp, stream, fp16 sums"
    assert all(block["num_failed"] == 0 for one in found["peers"]["peers"] for block in chain(*one["starts"]))
    assert max(found["peers"]["score_differences"]) < 0.2, "of the same weights, in fp32 and int8"
    assert [one["process"] for one in found["memory"]] == ["ranker", "shard 0", "shard 1"] * 2
    for one in found["memory"]:
        assert len(one["anonymous_bytes"]) == 50
        assert (one["requests_a_part"], one["num_failed"]) == (2, 0)
        assert 2**20 < min(one["anonymous_bytes"]) <= max(one["anonymous_bytes"]) < 2**32
    page = (out / "serving.md").read_text(encoding="utf-8")
    for words in (
        "2 shards, load-balanced, stream",
        "Candidates that the ranker had met and kept: 2 shards, load-balanced, stream, 1 MiB of items met: ",
        "unsharded again (A/A)",
        "## Where the time goes",
        "## Memory",
        "| drm3, 16 | unsharded | CPU |",
        "servers on cores",
        "2 crosses of rank 32 and 128-64 units",
        "MALLOC_MMAP_THRESHOLD_",
    ):
        assert words in page
    assert (out / "serving.png").read_bytes().startswith(b"\x89PNG")
