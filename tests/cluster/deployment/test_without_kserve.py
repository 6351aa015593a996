"""The end: exfm taken off the cluster, and a cluster that has no KServe. Its name puts it last."""

import json
import os

import pytest
from operators import CLIENTS, MODELS_CLAIM, NAMESPACE, Operator

pytestmark = pytest.mark.cluster

DEFINITION = "inferenceservices.serving.kserve.io"


def test_uninstalling_leaves_nothing_of_ours(either: Operator) -> None:
    either.exfm("undeploy", either.vm, "-c", str(either.settings))
    either.kubectl("delete", "persistentvolumeclaim", f"--namespace={NAMESPACE}", MODELS_CLAIM, "--wait=false")
    either.uninstall("base")
    kinds = either.kubectl("api-resources", "--verbs=list", "--output=name").split()
    listed = ",".join(kind for kind in kinds if not kind.startswith("events"))
    found = either.kubectl(
        "get", listed, "--all-namespaces", "--selector=app.kubernetes.io/part-of=exfm", "--output=name"
    )
    assert found == ""
    assert NAMESPACE not in either.names("namespaces")
    assert CLIENTS in either.names("namespaces")


def test_a_cluster_without_kserve_is_told_apart_from_one_without_models(operator: Operator) -> None:
    if "EXFM_RIG_DIR" not in os.environ:
        pytest.skip("KServe is taken off the rig only, never off a cluster of somebody's")
    assert operator.exfm("status").stdout == f"nothing is deployed in namespace {NAMESPACE}\n"
    definition = json.loads(operator.kubectl("get", "customresourcedefinition", DEFINITION, "--output=json"))
    operator.kubectl("delete", "customresourcedefinition", DEFINITION, "--timeout=60s")
    try:
        for arguments in (["status"], operator.deploy_arguments(1)):
            process = operator.exfm(*arguments, check=False)
            assert process.returncode == 3
            assert process.stderr == "exfm: the cluster has no API for InferenceService: install KServe 0.20 or later\n"
    finally:
        kept = ("name", "annotations", "labels")
        metadata = {key: value for key, value in definition["metadata"].items() if key in kept}
        operator.apply({**definition, "metadata": metadata, "status": None})
