"""A bundle with golden scores, served once for all tests that only ask."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from dns_server import DnsServer
from pods import Pods
from serving_bundles import seal_with_golden_scores

from exfm.artifact.fallback_rows import write_fallback_rows
from exfm.artifact.plan import ShardPlan
from exfm.bundling.shard_files import write_shards
from exfm.models.network import DenseNetwork
from exfm.schema import Schema
from exfm.serving.config import Device, RankerConfig, ShardConfig
from exfm.serving.local.processes import Start
from exfm.serving.local.serving import LocalServing, serve_local


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
    write_shards(folder, tables, plan, hottest={})
    write_fallback_rows(folder, {name: table.mean(dim=0).numpy() for name, table in tables.items()})
    return seal_with_golden_scores(folder, schema, network, plan)


CUDA = pytest.param("cuda", marks=pytest.mark.gpu)


@pytest.fixture(scope="session", params=["cpu", *([CUDA] if torch.cuda.is_available() else [])])
def device(request: pytest.FixtureRequest) -> Device:
    """Return what servers compute on: where there is a GPU, every test of them runs there, too."""
    device: Device = request.param
    return device


@pytest.fixture(scope="session")
def served(bundle: Path, device: Device, start_server: Start) -> Iterator[LocalServing]:
    """Return the bundle's servers, for tests that only ask."""
    ranker, shard = RankerConfig(device=device), ShardConfig(device=device)
    with serve_local(bundle, ranker=ranker, shard=shard, start=start_server) as serving:
        yield serving


@pytest.fixture
def pods(tmp_path: Path, device: Device, start_server: Start) -> Iterator[Pods]:
    """Return what starts servers one by one; those that still run at the end are killed."""
    folder = tmp_path / "pods"
    folder.mkdir()
    pods = Pods(folder, start_server, device)
    yield pods
    for pod in pods.started:
        pod.server.process.kill()
        pod.server.process.wait()


@pytest.fixture
def dns() -> Iterator[DnsServer]:
    """Return a DNS server that knows no names yet."""
    with DnsServer() as server:
        yield server
