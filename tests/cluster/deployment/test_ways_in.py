"""Who may deploy: the pipeline's last step, by its own account, and nobody without rights."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from operators import CLIENTS, NAMESPACE, Operator

from exfm.artifact.storage import ref_to
from exfm.registry.mlflow_registry import register_all

pytestmark = pytest.mark.cluster

KUBEFLOW, RUNNER = "kubeflow", "pipeline-runner"
ACCOUNT = f"system:serviceaccount:{KUBEFLOW}:{RUNNER}"


@pytest.fixture(scope="module")
def pipelines(operator: Operator) -> Iterator[Operator]:
    """The namespace and the account of Kubeflow Pipelines' steps."""
    operator.apply(
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": KUBEFLOW}},
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": RUNNER, "namespace": KUBEFLOW}},
    )
    yield operator
    operator.kubectl("delete", "namespace", KUBEFLOW, "--timeout=60s")


Access = tuple[str, str, str]
"""A verb, a resource with its group, as kubectl writes it, or pods/exec, and a namespace."""


def allowed(operator: Operator, accesses: set[Access]) -> set[Access]:
    """Return those accesses that the account has."""
    asked = sorted(accesses)
    reviews = []
    for verb, what, namespace in asked:
        resource, _, group = what.partition(".")
        resource, _, subresource = resource.partition("/")
        attributes = {"verb": verb, "resource": resource, "group": group, "namespace": namespace}
        attributes |= {"subresource": subresource} if subresource else {}
        reviews.append({
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": attributes},
        })  # fmt: skip
    listed = {"apiVersion": "v1", "kind": "List", "items": reviews}
    line = "--output=jsonpath={.status.allowed}{'\\n'}"
    answers = operator.kubectl("create", "--filename=-", line, f"--as={ACCOUNT}", text=json.dumps(listed)).split()
    return {access for access, answer in zip(asked, answers, strict=True) if answer == "true"}


def test_a_pipelines_step_may_manage_inference_services_here_and_nothing_elsewhere(pipelines: Operator) -> None:
    manage = ("get", "list", "create", "patch", "delete")
    services = ("inferenceservices.serving.kserve.io", "services")
    granted = {(verb, what) for verb in manage for what in services}
    granted |= {(verb, what) for verb in ("get", "list") for what in ("pods", "events", "resourcequotas")}
    read = ("deployments.apps", "servingruntimes.serving.kserve.io")
    granted |= {(verb, what) for verb in ("get", "list") for what in read}
    kinds = {what for _, what in granted} | {
        "secrets", "configmaps", "serviceaccounts",
        "roles.rbac.authorization.k8s.io", "rolebindings.rbac.authorization.k8s.io", "persistentvolumeclaims",
    }  # fmt: skip
    verbs = (*manage, "update", "deletecollection")
    asked = {(verb, what, NAMESPACE) for verb in verbs for what in kinds} | {("create", "pods/exec", NAMESPACE)}
    asked |= {("get", what, CLIENTS) for what in kinds}
    assert allowed(pipelines, asked) == {(verb, what, NAMESPACE) for verb, what in granted}
    account = ("get", "serviceaccount", f"--namespace={NAMESPACE}", "exfm-server", "--output=name", f"--as={ACCOUNT}")
    assert pipelines.kubectl(*account).strip() == "serviceaccount/exfm-server"


def test_the_pipelines_last_step_deploys_by_its_own_account(pipelines: Operator, tmp_path: Path) -> None:
    root = tmp_path / "root"
    shutil.copytree(pipelines.bundles[1], root / "bundle" / "students")
    trained = ref_to(str(pipelines.bundles[1].parents[1] / "vm" / "students"))
    bundle = ref_to(str(root / "bundle" / "students"))
    [registration] = register_all(root=str(root), models=[trained], bundles=[bundle])
    pipelines.undeploy()
    pipelines.copy_to_claim(root, "root")
    arguments = {
        "root": str(root),
        "registrations": [registration.to_dict()],
        "bundles": [bundle.to_dict()],
        "config": {
            "settings": yaml.safe_load(pipelines.settings.read_text()),
            "served_root": "pvc://models/root",
            "promotion": {"max_calibration_error": 10},
        },
    }
    program = (
        "import json, sys; from exfm_components import stages; "
        f"stages.deploy.python_func(**json.loads({json.dumps(arguments)!r}))"
    )
    pod = pipelines.kubectl("get", "pod", f"--namespace={CLIENTS}", "client", "--output=json")
    folder = next(v["hostPath"]["path"] for v in json.loads(pod)["spec"]["volumes"] if v["name"] == "models")
    pipelines.apply(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "deploy", "namespace": KUBEFLOW},
            "spec": {
                "serviceAccountName": RUNNER,
                "restartPolicy": "Never",
                "containers": [
                    {
                        "name": "main",
                        "image": "localhost/exfm-pipelines:rig",
                        "imagePullPolicy": "IfNotPresent",
                        "command": ["python", "-c", program],
                        "volumeMounts": [{"name": "models", "mountPath": str(root), "subPath": "root"}],
                    }
                ],
                "volumes": [{"name": "models", "hostPath": {"path": folder}}],
            },
        }
    )
    pipelines.kubectl(
        "wait", "--for=jsonpath={.status.phase}=Succeeded", f"--namespace={KUBEFLOW}", "pod/deploy", "--timeout=150s"
    )
    log = pipelines.kubectl("logs", f"--namespace={KUBEFLOW}", "deploy")
    assert "students v1 serves" in log
    assert "not checked: nodes (no right to list nodes and all pods)" in log
    assert pipelines.serving() == 1


def test_an_account_without_rights_is_told_which_role_it_needs(either: Operator, tmp_path: Path) -> None:
    version = either.serving()
    token = either.kubectl("create", "token", "default", f"--namespace={CLIENTS}").strip()
    config = yaml.safe_load(either.kubeconfig.read_text())
    config["users"] = [{"name": user["name"], "user": {"token": token}} for user in config["users"]]
    powerless = tmp_path / "kubeconfig"
    powerless.write_text(yaml.safe_dump(config))
    process = either.exfm(*either.deploy_arguments(2), check=False, kubeconfig=powerless)
    assert process.returncode == 3
    assert re.search(r"^exfm: GET InferenceService is refused: .* is forbidden.*Role exfm-deployer$", process.stderr)
    assert either.serving() == version


def test_no_cluster_at_all_is_told_too(either: Operator, tmp_path: Path) -> None:
    process = either.exfm(*either.deploy_arguments(2), check=False, kubeconfig=tmp_path / "none")
    assert process.returncode == 3
    assert process.stderr.startswith("exfm: no cluster to deploy to: ")
