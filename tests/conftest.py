"""Real objects that many tests share: a schema, a bundle with known tables, a request for it."""

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import safetensors.torch
import torch

from exfm.artifact.bundle import DENSE_FILE, BundleManifest, draft_bundle, seal_bundle, tables_file
from exfm.artifact.plan import Assignment, ShardPlan, assign
from exfm.models.config import NetworkConfig
from exfm.models.network import DenseNetwork
from exfm.models.shard_tables import flatten_tables
from exfm.schema import Schema
from faulty_s3 import FaultyS3, running_faulty_s3
from forked_servers import ForkedServers

REPOSITORY = Path(__file__).parent.parent

LONGEST = (
    "tests/pipelines/test_whole_run.py",
    "tests/components/test_ranks.py",
    "tests/das/test_killed_runs.py",
    "tests/pipelines/test_published_teacher.py",
    "tests/test_docs.py",
    "tests/bench/test_on_servers.py",
    "tests/bench/test_das_bench.py",
)
"""Files that take minutes, the longest first."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start the longest files first: a worker runs a whole file, and the others have none left if it comes last."""
    places = {REPOSITORY / file: place for place, file in enumerate(LONGEST)}
    assert all(map(Path.is_file, places)), "LONGEST names a file that is not there"
    items.sort(key=lambda item: places.get(item.path, len(places)))


# No deadline: cores are shared, and a slow minute is no failure.
hypothesis.settings.register_profile("exfm", deadline=None, max_examples=50)
hypothesis.settings.register_profile("fast", deadline=None, max_examples=10)
hypothesis.settings.load_profile("exfm")


@pytest.fixture(scope="session")
def start_server() -> ForkedServers:
    """Return what starts servers; in a fraction of the time that a program of its own takes."""
    return ForkedServers()


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """Yield the address of an S3 server that takes any key."""
    pytest.importorskip("s3fs")
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def image_registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Yield the host and port of a registry that this process trusts: it has `team/exfm:1` for anybody."""
    from oci_registry import running_registry

    with running_registry() as (host, authority):
        monkeypatch.setenv("SSL_CERT_FILE", authority)
        yield host


@pytest.fixture
def bucket(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Yield the URL of an empty bucket that the environment gives access to."""
    from s3fs import S3FileSystem

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_endpoint)
    S3FileSystem.clear_instance_cache()  # a client keeps the environment that it was made in
    name = f"bucket-{uuid.uuid4().hex}"
    S3FileSystem().mkdir(name)
    yield f"s3://{name}"
    S3FileSystem.clear_instance_cache()


@pytest.fixture
def faulty_s3(s3_endpoint: str, bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyS3]:
    """Yield a server before the bucket's, which refuses and counts; the environment names it from now on."""
    from s3fs import S3FileSystem

    with running_faulty_s3(s3_endpoint) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        S3FileSystem.clear_instance_cache()
        yield server


@pytest.fixture(scope="session")
def schema() -> Schema:
    """Return the demo's schema: both nets, dense features, singles, a bag, sequences, shared and mean-pooled tables."""
    return Schema.read(REPOSITORY / "examples/movielens/schema.yaml")


@pytest.fixture(scope="session")
def tables(schema: Schema) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {table.name: torch.randn(table.rows, table.dim, generator=generator) for table in schema.tables}


@pytest.fixture(scope="session")
def network(schema: Schema) -> DenseNetwork:
    torch.manual_seed(0)
    return DenseNetwork(schema, NetworkConfig()).eval()


@pytest.fixture(scope="session")
def plan(schema: Schema) -> ShardPlan:
    """Return a plan for two shards that splits table `item` between them by rows."""
    assignments = [Assignment("item", 0, 0, 1000), Assignment("item", 1, 1000, schema.table("item").rows - 1000)]
    others = [table for table in schema.tables if table.name != "item"]
    assignments += [Assignment(table.name, index % 2, 0, table.rows) for index, table in enumerate(others)]
    return ShardPlan(strategy="by-hand", num_shards=2, replicas=(1, 1), slices=assign(schema, assignments, 2))


@pytest.fixture
def make_bundle(
    schema: Schema, tables: dict[str, torch.Tensor], network: DenseNetwork, plan: ShardPlan
) -> Callable[[Path], BundleManifest]:
    """Return what writes a bundle named `students` into a folder that it makes."""

    def make(folder: Path) -> BundleManifest:
        (folder / DENSE_FILE).parent.mkdir(parents=True)
        safetensors.torch.save_file(network.state_dict(), folder / DENSE_FILE)
        for shard in range(plan.num_shards):
            file = folder / tables_file(shard)
            file.parent.mkdir(parents=True)
            safetensors.torch.save_file({"fp32": flatten_tables(tables, plan, shard=shard)}, file)
        return seal_bundle(
            folder,
            draft_bundle(name="students", schema=schema, network=NetworkConfig().to_dict(), plan=plan, lineage={}),
        )

    return make


@pytest.fixture
def request_body() -> dict[str, Any]:
    """Return a request in JSON form: one user, three movies."""
    columns: list[tuple[str, str, list[Any]]] = [
        ("age", "FP32", [30.0]),
        ("user_id", "INT64", [7]),
        ("gender", "BYTES", ["F"]),
        ("occupation", "BYTES", ["student"]),
        ("liked_items", "INT64", [7, 9]),
        ("liked_items.lengths", "INT32", [2]),
        ("disliked_items", "INT64", []),
        ("disliked_items.lengths", "INT32", [0]),
        ("release_year", "FP32", [1990.0, 1991.0, 1980.0]),
        ("item_id", "INT64", [7, 9, 10]),
        ("genres", "BYTES", ["Drama", "Comedy", "Drama", "Children's"]),
        ("genres.lengths", "INT32", [2, 1, 1]),
    ]
    return {
        "inputs": [
            {"name": name, "datatype": datatype, "shape": [len(data)], "data": data} for name, datatype, data in columns
        ]
    }
