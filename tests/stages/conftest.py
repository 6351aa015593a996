"""A small log that went through the stages, once for all tests."""

import shutil
from pathlib import Path

import pytest
from stream import Stream, copied

from exfm.artifact.bundle import find_bundle
from exfm.artifact.storage import Ref, ref_to
from exfm.bundling.config import BundleConfig
from exfm.bundling.stage import make_bundle
from exfm.deploy import rollout
from exfm.deploy.cluster import Cluster
from exfm.distill.config import DistillationConfig, VerticalConfig
from exfm.events.examples import ExampleTable
from exfm.events.schemas import SYNTHETIC
from exfm.events.synthetic import SyntheticSource
from exfm.foundation.config import FoundationConfig, FoundationTrainingConfig
from exfm.models.config import ModelConfig, NetworkConfig
from exfm.registry.mlflow_registry import Registry
from exfm.schema import Schema
from exfm.training.config import TrainingConfig
from exfm.training.manifest import ModelManifest
from simulated_cluster import SimulatedCluster

SMALL_MODEL = ModelConfig(network=NetworkConfig(bottom_units=(4,), num_cross_layers=1, cross_rank=4, top_units=(8,)))


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an empty registry's database, which MLflow takes seconds to make."""
    root = tmp_path_factory.mktemp("empty")
    Registry.at(str(root), create=True).require()
    return root / "registry/mlflow.db"


@pytest.fixture
def registry(tmp_path: Path, empty_database: Path) -> Registry:
    """Return an empty registry."""
    (tmp_path / "registry").mkdir()
    shutil.copy(empty_database, tmp_path / "registry")
    return Registry.at(str(tmp_path), create=True)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> SimulatedCluster:
    """Return what a deployment finds when it connects."""
    one = SimulatedCluster()
    monkeypatch.setattr(Cluster, "connect", lambda **where: one)
    monkeypatch.setattr(rollout, "POLL_S", 0.0)
    return one


@pytest.fixture(scope="session")
def stream(tmp_path_factory: pytest.TempPathFactory) -> Stream:
    """Return 4,000 impressions of five days in ten windows."""
    source = SyntheticSource(
        kind="synthetic", num_impressions=4000, num_users=200, num_ads=100, duration_s=432_000, seed=1
    )
    root = tmp_path_factory.mktemp("stream")
    return Stream(
        root=root, schema=Schema.read(SYNTHETIC).select(tasks=("click",)), source=source, window_length=43_200
    )


@pytest.fixture(scope="session")
def foundation_config() -> FoundationConfig:
    """Return a small foundation model for a label that is soon known, so that snapshots are ready early."""
    return FoundationConfig(
        name="fm",
        tasks=("click",),
        model=SMALL_MODEL.model_copy(update={"dim_factor": 2}),
        training=FoundationTrainingConfig(batch_size=32, learning_rate=0.005, warmup_windows=2),
    )


@pytest.fixture(scope="session")
def foundation(stream: Stream, foundation_config: FoundationConfig) -> Ref:
    """Return that model, which learned the stream."""
    [foundation], _ = stream.run([foundation_config])
    return foundation


@pytest.fixture(scope="session")
def examples(stream: Stream, foundation: Ref) -> ExampleTable:
    """Return the stream's examples with that model's pseudo-labels."""
    return stream.examples()


@pytest.fixture(scope="session")
def vertical_config() -> VerticalConfig:
    return VerticalConfig(
        name="search-ads",
        domains=("search",),
        tasks=("click",),
        model=SMALL_MODEL,
        training=TrainingConfig(batch_size=64, warmup_windows=2),
        distillation=DistillationConfig(method="ah"),
    )


@pytest.fixture(scope="session")
def vertical(stream: Stream, foundation: Ref, vertical_config: VerticalConfig) -> Ref:
    """Return a vertical model of one domain, taught by that foundation model."""
    return stream.learn(vertical_config, teachers=("fm",))


@pytest.fixture(scope="session")
def bundle(stream: Stream, vertical: Ref) -> Ref:
    """Return that vertical model's bundle on two shards."""
    out = str(stream.root / "bundle")
    make_bundle(BundleConfig(golden_candidates=20), vertical=vertical, out=out)
    return ref_to(find_bundle(out))


@pytest.fixture(scope="session")
def before(vertical: Ref, tmp_path_factory: pytest.TempPathFactory) -> Ref:
    """Return the vertical model as it was before the last window's labels were known."""
    model = ModelManifest.read(Path(vertical.uri))
    earlier = {name: getattr(model, name)[:-1] for name in ("windows", "qualities", "snapshots")}
    return copied(vertical, tmp_path_factory.mktemp("before") / "search-ads", **earlier)
