"""Kubeflow Trainer's and JobSet's own definitions and webhooks, changed for controllers that run beside the cluster."""

from pathlib import Path

import yaml

from rig import webhooks
from rig.addons import Applied
from rig.binaries import TRAINER_TOOLS, required_version

GROUPS = ("jobset.x-k8s.io", "trainer.kubeflow.org")
SYSTEM = "kubeflow-system"
JOBSET_LABEL = "jobset.sigs.k8s.io/jobset-name"
"""Of the pods of a JobSet."""


def definition_files(trainer: Path, jobset: Path) -> dict[str, Path]:
    """Return each custom resource definition's name and file."""
    files = [*(trainer / "crds").glob("*_*.yaml"), *(jobset / "crd/bases").glob("*.yaml")]
    return {".".join(reversed(file.stem.split("_"))): file for file in files}


def public_objects(trainer: Path) -> list[Applied]:
    """Return what clients read about the Trainer that is installed: its version, and everybody's right to read it."""
    version = required_version((TRAINER_TOOLS.source / "go.mod").read_text(), "github.com/kubeflow/trainer/v2")
    name = "kubeflow-trainer-public"
    config = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": SYSTEM},
        "data": {"kubeflow_trainer_version": version},
    }
    rights = [
        yaml.safe_load((trainer / f"rbac/public_configmap_{kind}.yaml").read_text())
        for kind in ("role", "role_binding")
    ]
    authorization = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{SYSTEM}"
    return [
        ("/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SYSTEM}}),
        (f"/api/v1/namespaces/{SYSTEM}/configmaps", config),
        *((f"{authorization}/{value['kind'].lower()}s", value) for value in rights),
    ]


def webhook_objects(trainer: Path, jobset: Path, *, authority: bytes) -> list[Applied]:
    """Return the webhook configurations of both; JobSet's for pods see those of JobSets alone.

    Upstream every pod that is created passes through them, and none starts while JobSet's controller is away.
    """
    found = []
    for controller, manifests in (("jobset", jobset), ("trainer", trainer)):
        for path, value in webhooks.local(
            manifests / "webhook/manifests.yaml", controller=controller, authority=authority
        ):
            value["metadata"]["name"] = f"{controller}-{value['metadata']['name']}"  # both have the same names
            for webhook in value["webhooks"]:
                if webhook["rules"][0]["resources"] == ["pods"]:
                    webhook["objectSelector"] = {"matchExpressions": [{"key": JOBSET_LABEL, "operator": "Exists"}]}
            found.append((path, value))
    return found
