"""A shard holds little beside its tables: it serves all that it has without the libraries that would weigh it down."""

import json
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from pods import Pods
from serving_requests import grpc_inputs, http_inputs

from exfm.artifact.bundle import BundleManifest
from exfm.environment import compute_environment
from exfm.serving.local.processes import ServerProcess, start_command

pytestmark = pytest.mark.slow

HEAVY = ("kserve", "pandas", "kubernetes", "polars", "matplotlib", "pyarrow", "scipy", "sklearn", "numba", "aiohttp")

TORCHS_COMPILERS = ("torch._dynamo", "torch._inductor", "triton", "sympy")

PROGRAM = """
import atexit, json, runpy, sys
atexit.register(lambda: print("modules:", json.dumps(sorted(sys.modules)), flush=True))
sys.argv = sys.argv[1:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""
"""`python -m`, and in the end one line with all that was imported."""

# Of shard 0, which looks up three features of the user net.
LOOKUP = [
    ("user.keys", "UINT64", [0], []),
    ("user.lengths", "INT32", [3, 1], [[0], [0], [0]]),
    ("item.keys", "UINT64", [2], [0, 2**52]),
    ("item.lengths", "INT32", [1, 1], [[2]]),
]


def start(name: str, arguments: Sequence[str], *, log: Path) -> ServerProcess:
    command = [sys.executable, "-c", PROGRAM, *arguments]
    return start_command(name, command, environment={**os.environ, **compute_environment()}, log=log)


def lookup() -> dict[str, Any]:
    return {"inputs": [{"name": n, "datatype": t, "shape": shape, "data": data} for n, t, shape, data in LOOKUP]}


def test_a_shard_answers_all_its_protocols_without_kserve_pandas_or_kubernetes(bundle: Path, pods: Pods) -> None:
    shard = Pods(pods.folder, start, pods.device).shard(bundle, 0)
    pods.started.append(shard)
    shard.wait_until_ready()
    ranker = pods.ranker(bundle, [shard.lookup_address, pods.shard(bundle, 1).lookup_address])
    ranker.wait_until_ready()
    assert ranker.infer()["outputs"]
    version = BundleManifest.read(bundle).bundle_id
    url = f"{shard.rest_url}/v2/models/students-shard-0/versions/{version}"
    for path in ("/", "/metrics", "/v2", "/v2/health/live", "/v2/models"):
        assert httpx.get(f"{shard.rest_url}{path}").status_code == 200
    assert httpx.get(url).json()["versions"] == [version]
    with tritonclient.http.InferenceServerClient(shard.rest_url.removeprefix("http://")) as client:
        result = client.infer("students-shard-0", http_inputs(lookup(), binary=True), model_version=version)
        pooled = result.as_numpy("item.pooled")
    with tritonclient.grpc.InferenceServerClient(shard.grpc_address) as client:
        assert client.is_server_live()
        assert client.get_server_metadata().name == "exfm"
        result = client.infer("students-shard-0", grpc_inputs(lookup()), model_version=version)
        np.testing.assert_array_equal(result.as_numpy("item.pooled"), pooled)
    shard.server.process.terminate()
    assert shard.exit_code() == 0
    [told] = re.findall(r"^modules: (.+)$", shard.server.log.read_text(), re.MULTILINE)
    packages = {name.partition(".")[0] for name in json.loads(told)}
    assert {"torch", "grpc", "uvicorn"} <= packages
    assert packages.isdisjoint(HEAVY)
    assert not set(TORCHS_COMPILERS).intersection(json.loads(told))
