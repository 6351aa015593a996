"""exfm on the cluster as its users install it, a client pod beside it, and two versions of the demo's model."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from bundle_versions import derive_version, golden
from operators import (
    CLIENT,
    CLIENTS,
    LOADS,
    MODELS_CLAIM,
    NAMESPACE,
    NODE_FOLDER,
    REPOSITORY,
    Operator,
    folder_as_volume,
)

from exfm.artifact.bundle import BundleManifest, find_bundle

HERE = Path(__file__).parent
IMAGE = os.environ.get("EXFM_SERVING_IMAGE", "localhost/exfm-serving:rig")
SETTINGS = {
    # Small enough for a node of two cores; a server's own memory is about 700 MiB (torch).
    "ranker": {"cpu_request_m": 50, "cpu_limit_m": 2000, "overhead_mib": 900, "replicas": 2},
    "shard": {"cpu_request_m": 50, "cpu_limit_m": 2000, "overhead_mib": 900},
    "ready_timeout_s": 150,
}


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Two versions of the demo's first model: what it trained, and one with all tables changed."""
    folder = Path(os.environ.get("EXFM_DEMO", REPOSITORY / "out" / "movielens")) / "bundle" / "students"
    trained = Path(find_bundle(str(folder)))
    if not trained.is_dir():
        pytest.fail(f"no bundle in {trained}: run `make demo`, or have EXFM_DEMO name a run's root")
    changed = tmp_path_factory.mktemp("bundles") / "v2"
    derive_version(trained, changed, scale=1.5)
    found = {1: trained, 2: changed}
    before, after = (golden(bundle)[1] for bundle in found.values())
    assert max(abs(one - other) for one, other in zip(before["like"], after["like"], strict=True)) > 0.05
    return found


@pytest.fixture(scope="session")
def operator(
    cluster: Path, kubectl: Callable[..., str], bundles: dict[int, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Operator]:
    """Whoever operates exfm, with the manifests applied; afterwards nothing of it is left."""
    settings = tmp_path_factory.mktemp("settings") / "deploy.yaml"
    settings.write_text(yaml.safe_dump(SETTINGS), encoding="utf-8")
    cold = settings.with_name("cold.yaml")
    cold.write_text(yaml.safe_dump({**SETTINGS, "hot_s": 0}), encoding="utf-8")
    manifests = {version: BundleManifest.read(bundle) for version, bundle in bundles.items()}
    one = Operator(
        kubeconfig=cluster,
        kubectl=kubectl,
        bundles=bundles,
        ids={version: manifest.bundle_id for version, manifest in manifests.items()},
        settings=settings,
        cold_settings=cold,
        vm=manifests[1].name,
    )
    one.install("base")
    one.apply(*_claim(), *_client())
    kubectl("wait", "--for=condition=Ready", f"--namespace={CLIENTS}", f"pod/{CLIENT}", "--timeout=120s")
    for version, bundle in bundles.items():
        one.copy_to_claim(bundle, f"v{version}")
    yield one
    one.undeploy()
    one.uninstall("base")
    kubectl("delete", "namespace", CLIENTS, "--timeout=120s", "--ignore-not-found")
    kubectl("delete", "persistentvolume", "--selector=exfm.dev/test=true", "--timeout=60s")


@pytest.fixture
def either(operator: Operator) -> Operator:
    """The operator, with version 1 or 2 serving, whichever it is."""
    if not any(row["state"] == "serving" and row["version"] in (1, 2) for row in operator.status()):
        operator.deploy(1)
    return operator


@pytest.fixture
def served(operator: Operator) -> Operator:
    """The operator, with version 1 serving and nothing of another one there."""
    operator.serve_only_first()
    return operator


def _claim() -> list[Any]:
    """Return a claim on a folder of the node: read by servers, written by the client pod."""
    return [
        folder_as_volume("", claim=MODELS_CLAIM),
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": MODELS_CLAIM, "namespace": NAMESPACE},
            "spec": {
                "accessModes": ["ReadOnlyMany"],
                "storageClassName": "",
                "volumeName": "exfm-test-models",
                "resources": {"requests": {"storage": "1Gi"}},
            },
        },
    ]


def _client() -> list[Any]:
    """Return a client pod in a namespace that the front door is open to."""
    return [
        {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": CLIENTS, "labels": {"exfm.dev/front-door": "true"}},
        },
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": CLIENT, "namespace": CLIENTS},
            "data": {"client.py": (HERE / "client.py").read_text(encoding="utf-8")},
        },
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": CLIENT, "namespace": CLIENTS},
            "spec": {
                "terminationGracePeriodSeconds": 1,
                "securityContext": {"runAsUser": 0},  # it writes to a folder of the node
                "containers": [
                    {
                        "name": "client",
                        "image": IMAGE,
                        "imagePullPolicy": "IfNotPresent",
                        "command": ["python", "/client/client.py", LOADS],
                        "volumeMounts": [
                            {"name": "client", "mountPath": "/client"},
                            {"name": "models", "mountPath": "/models"},
                        ],
                    }
                ],
                "volumes": [
                    {"name": "client", "configMap": {"name": CLIENT}},
                    {"name": "models", "hostPath": {"path": NODE_FOLDER, "type": "DirectoryOrCreate"}},
                ],
            },
        },
    ]


@pytest.fixture
def quota(operator: Operator) -> Iterator[Callable[..., None]]:
    """A function that limits the namespace; the limit goes when the test ends."""

    def limit(**hard: str) -> None:
        operator.apply(
            {
                "apiVersion": "v1",
                "kind": "ResourceQuota",
                "metadata": {"name": "test", "namespace": NAMESPACE},
                "spec": {"hard": {key.replace("__", "."): value for key, value in hard.items()}},
            }
        )
        operator.kubectl(
            "wait", "--for=jsonpath={.status.hard}", f"--namespace={NAMESPACE}", "resourcequota/test", "--timeout=30s"
        )

    yield limit
    operator.kubectl("delete", "resourcequota", f"--namespace={NAMESPACE}", "test", "--ignore-not-found")
