"""KServe's own definitions, configuration and webhooks, changed for a manager that runs beside the cluster."""

from pathlib import Path

import yaml

from rig import webhooks
from rig.addons import Applied
from rig.configuration import STORAGE_INITIALIZER_IMAGE, rig_inference_config

NAMESPACE: Applied = (
    "/api/v1/namespaces",
    {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "kserve"}},
)


def definition_files(manifests: Path) -> dict[str, Path]:
    """Return each custom resource definition's name and file, as KServe's kustomization lists them."""
    files = _listed(manifests / "crd/full")
    return {".".join(reversed(file.stem.split("_"))): file for file in files}


def _listed(folder: Path) -> list[Path]:
    listed = yaml.safe_load((folder / "kustomization.yaml").read_text())["resources"]
    paths = [folder / entry for entry in listed]
    return [file for path in paths for file in ([path] if path.is_file() else _listed(path))]


def config_objects(manifests: Path) -> list[Applied]:
    """Return the manager's configuration and the default storage container, with images of the rig's own."""
    config = yaml.safe_load((manifests / "configmap/inferenceservice.yaml").read_text())
    config["metadata"]["namespace"] = "kserve"
    config["data"] = rig_inference_config(config["data"])
    storage = yaml.safe_load((manifests / "storagecontainers/default.yaml").read_text())
    storage["spec"]["container"]["image"] = STORAGE_INITIALIZER_IMAGE
    return [
        ("/api/v1/namespaces/kserve/configmaps", config),
        ("/apis/serving.kserve.io/v1alpha1/clusterstoragecontainers", storage),
    ]


def webhook_objects(manifests: Path, *, authority: bytes) -> list[Applied]:
    """Return KServe's webhook configurations, which call the manager on the API server's own loopback."""
    return webhooks.local(manifests / "webhook/manifests.yaml", controller="kserve", authority=authority)
