"""A bundle with golden scores, served once for all tests that only ask."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import safetensors.torch
import torch
from dns_server import DnsServer
from pods import Pods
from serving_requests import make_request

from exfm.artifact.bundle import DENSE_FILE, GOLDEN_REQUEST, GOLDEN_RESPONSE, seal_bundle, tables_file
from exfm.artifact.manifest import write_json
from exfm.artifact.plan import ShardPlan
from exfm.artifact.storage import MANIFEST
from exfm.features.oip import answer_to_json, tensors_from_json
from exfm.features.request import encode_request
from exfm.models.lookup import flatten_tables
from exfm.models.network import DenseNetwork, NetworkConfig
from exfm.models.scoring import UnshardedScorer
from exfm.schema import Schema
from exfm.serving.local import LocalServing, serve_local


@pytest.fixture(scope="session")
def bundle(
    tmp_path_factory: pytest.TempPathFactory,
    schema: Schema,
    tables: dict[str, torch.Tensor],
    network: DenseNetwork,
    plan: ShardPlan,
) -> Path:
    """Return a bundle's folder; do not write to it."""
    folder = tmp_path_factory.mktemp("serving") / "bundle"
    for file in (DENSE_FILE, GOLDEN_REQUEST, *(tables_file(shard) for shard in range(plan.num_shards))):
        (folder / file).parent.mkdir(parents=True)
    safetensors.torch.save_file(network.state_dict(), folder / DENSE_FILE)
    for shard in range(plan.num_shards):
        safetensors.torch.save_file({"fp32": flatten_tables(tables, plan, shard=shard)}, folder / tables_file(shard))
    sizes = NetworkConfig().to_dict()
    seal = {"name": "students", "schema": schema, "network": sizes, "plan": plan, "lineage": {}}
    manifest = seal_bundle(folder, **seal)
    scorer = UnshardedScorer(folder)
    scores_NT = scorer.scores(encode_request(tensors_from_json(make_request()), schema))
    write_json(folder / GOLDEN_REQUEST, make_request())
    write_json(
        folder / GOLDEN_RESPONSE,
        answer_to_json(
            request_id="", model_name="students", model_version="", tasks=manifest.tasks, scores_NT=scores_NT
        ),
    )
    (folder / MANIFEST).unlink()  # else the new one would list the old
    seal_bundle(folder, **seal)
    return folder


@pytest.fixture(scope="session")
def served(bundle: Path) -> Iterator[LocalServing]:
    """Return the bundle's servers, for tests that only ask."""
    with serve_local(bundle) as serving:
        yield serving


@pytest.fixture(scope="session")
def replacements() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Return where a test puts a server that takes the place of one that it ended."""
    processes: list[subprocess.Popen[bytes]] = []
    yield processes
    for process in processes:
        process.terminate()
        assert process.wait() == 0


@pytest.fixture
def pods(tmp_path: Path) -> Iterator[Pods]:
    """Return what starts servers one by one; those that still run at the end are killed."""
    folder = tmp_path / "pods"
    folder.mkdir()
    pods = Pods(folder)
    yield pods
    for pod in pods.started:
        pod.server.process.kill()
        pod.server.process.wait()


@pytest.fixture
def dns() -> Iterator[DnsServer]:
    """Return a DNS server that knows no names yet."""
    with DnsServer() as server:
        yield server
