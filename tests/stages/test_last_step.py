"""The pipeline's last step: what passes is deployed, and takes the champion's place."""

from pathlib import Path

import pytest

from exfm.artifact.storage import Ref
from exfm.deploy import rollout
from exfm.deploy.cluster import Cluster
from exfm.errors import ConfigError, RolloutError
from exfm.registry.mlflow_registry import Registration, Registry, register_all
from exfm_components.deployment import deploy_models, readable_uri
from exfm_components.deployment_config import DeploymentConfig
from simulated_cluster import SimulatedCluster

pytestmark = pytest.mark.slow

LENIENT = {"max_calibration_error": 10}


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> SimulatedCluster:
    """What the step finds when it connects."""
    one = SimulatedCluster()
    monkeypatch.setattr(Cluster, "connect", lambda **where: one)
    monkeypatch.setattr(rollout, "POLL_S", 0.0)
    return one


@pytest.fixture
def versions(tmp_path: Path, vertical: Ref, bundle: Ref) -> list[Registration]:
    """Two versions of one model, of which the first is champion."""
    return register_all(root=str(tmp_path), models=[vertical, vertical], bundles=[bundle, bundle])


def deploy(root: Path, version: Registration, bundle: Ref, *, promotion: dict[str, float]) -> str:
    config = DeploymentConfig.parse({"served_root": "pvc://models/root", "promotion": promotion}, source="test")
    return deploy_models(
        root=str(root), registrations=[version], bundles=[bundle], config=config, say=lambda line: None
    )


def champion(root: Path) -> int:
    return Registry.at(str(root), create=False).resolve("models:/search-ads@champion").version


def test_a_version_that_passes_serves_from_where_pods_find_it_and_becomes_champion(
    cluster: SimulatedCluster, tmp_path: Path, versions: list[Registration], bundle: Ref
) -> None:
    assert deploy(tmp_path, versions[1], bundle, promotion=LENIENT) == "search-ads v2 serves"
    assert champion(tmp_path) == 2
    assert cluster.ready_rankers() == [2, 2]
    shard = cluster.objects["InferenceService", "search-ads-v2-s0"]["spec"]["predictor"]["model"]
    assert shard["storageUri"].startswith("pvc://models/root/registry/")


def test_a_version_that_does_not_pass_is_not_deployed(
    cluster: SimulatedCluster, tmp_path: Path, versions: list[Registration], bundle: Ref
) -> None:
    line = deploy(tmp_path, versions[0], bundle, promotion={"max_calibration_error": 0})
    assert line.startswith("search-ads v1 is not deployed (click: calibration is off by ")
    assert champion(tmp_path) == 1
    assert cluster.num_writes == 0


def test_a_version_whose_rollout_fails_does_not_become_champion(
    cluster: SimulatedCluster, tmp_path: Path, versions: list[Registration], bundle: Ref
) -> None:
    cluster.broken[2, "ranker"] = "error: no"
    with pytest.raises(RolloutError, match="search-ads v2 is not serving"):
        deploy(tmp_path, versions[1], bundle, promotion=LENIENT)
    assert champion(tmp_path) == 1


@pytest.mark.parametrize(
    ("uris", "served_root", "found"),
    [
        (["s3://a/run/registry/b", "s3://a/run/bundle/b"], "", "s3://a/run/registry/b"),
        (["mlflow-artifacts:/1/b", "s3://a/run/bundle/b"], "", "s3://a/run/bundle/b"),
        (["/root/registry/b"], "pvc://claim/runs/1", "pvc://claim/runs/1/registry/b"),
        (["/rooted/b", "/root/bundle/b"], "pvc://claim", "pvc://claim/bundle/b"),
    ],
)
def test_pods_read_a_bundle_from_the_first_place_that_they_can(uris: list[str], served_root: str, found: str) -> None:
    assert readable_uri(uris, root="/root/", served_root=served_root) == found


def test_a_bundle_that_pods_can_read_nowhere_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"pods can read none of /root/b, mlflow-artifacts:/1/b.*served_root"):
        readable_uri(["/root/b", "mlflow-artifacts:/1/b"], root="/root", served_root="")
