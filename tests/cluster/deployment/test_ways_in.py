"""Who may deploy: the pipeline's last step, by its own account, and nobody without rights."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import yaml
from operators import CLIENTS, NAMESPACE, REPOSITORY, Operator, wait_for
from safetensors.torch import load_file

from exfm.artifact.bundle import find_bundle
from exfm.artifact.digests import digest_of_file
from exfm.artifact.manifest import write_json
from exfm.artifact.storage import MANIFEST, ref_to
from exfm.bundling.config import BundleConfig
from exfm.bundling.stage import make_bundle
from exfm.metrics.intervals import Interval
from exfm.registry.champion import promote
from exfm.registry.mlflow_registry import Registry
from exfm.registry.promotion import Judgement, PromotionRule, TaskFigures
from exfm.registry.registration import register
from exfm.training.manifest import ModelManifest
from exfm_components import layout
from exfm_components.run_config import read_run_config

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
    services = ("inferenceservices.serving.kserve.io", "services", "poddisruptionbudgets.policy")
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


FIGURES = TaskFigures(
    task="like", num_examples=1000, num_positives=500, normalized_entropy=0.9, calibration=1.0, champion_entropy=0.95,
    champion_calibration=1.0, ne_increase=Interval(value=-0.05, low=-0.06, high=-0.04), excess_loss=-0.1,
    excess_loss_error=0.01,
)  # fmt: skip


def test_two_runs_over_one_root_deploy_by_the_pipelines_account_and_what_serves_can_restart(
    pipelines: Operator, tmp_path: Path
) -> None:
    root, trained, vm = tmp_path / "root", tmp_path / "model", pipelines.vm
    registry = Registry.at(str(root), create=True)
    pipelines.undeploy()
    shutil.copytree(pipelines.bundles[1].parents[2] / "models" / vm, trained)
    first = bundle_of(trained, root, vm)
    registered = register_by_hand(registry, trained, first, champion=0)
    pipelines.copy_to_claim(root, "root")
    log = last_step(pipelines, root, registered)
    assert f"{vm} v1 serves" in log
    assert "not checked: nodes (no right to list nodes and all pods)" in log
    assert pipelines.serving() == 1
    promote(registry, vm, 1, PromotionRule())  # as the step did in its own copy of the root

    scale_weights(trained, 1.5)
    second = bundle_of(trained, root, vm)
    assert second.parent == first.parent
    assert second != first
    pipelines.copy_to_claim(second, f"root/bundle/{vm}/{second.name}")
    [shard] = [pod for pod in pipelines.names("pods") if pod.startswith(f"{vm}-v1-s0")]
    pipelines.kubectl("delete", "pod", f"--namespace={NAMESPACE}", shard)

    def serves_again() -> bool:
        return any(row["state"] == "serving" for row in pipelines.status())

    wait_for(serves_again, seconds=90, what="the shard, which restarted after the second run wrote its bundle")
    assert pipelines.serving() == 1
    registered = register_by_hand(registry, trained, second, champion=1)
    pipelines.copy_to_claim(root / "registry", "root/registry")
    assert f"{vm} v2 serves" in last_step(pipelines, root, registered)
    assert pipelines.serving() == 2
    pipelines.exfm("rollback", vm, "-c", str(pipelines.settings))
    assert pipelines.serving() == 1


def bundle_of(trained: Path, root: Path, vm: str) -> Path:
    """Return a model's bundle, as the pipeline writes it below a root."""
    folder = layout.bundles(str(root), vm)
    make_bundle(BundleConfig(), vertical=ref_to(str(trained)), out=folder)
    return Path(find_bundle(folder))


def scale_weights(trained: Path, factor: float) -> None:
    """Give a model other weights."""
    manifest = ModelManifest.read(trained)
    file = trained / manifest.snapshots[-1].folder / "weights.safetensors"
    safetensors.torch.save_file({name: factor * value for name, value in load_file(file).items()}, file)
    last = manifest.snapshots[-1].model_copy(update={"digest": digest_of_file(file).sha256})
    changed = manifest.model_copy(update={"snapshots": (*manifest.snapshots[:-1], last)})
    write_json(trained / MANIFEST, changed.to_dict())


def register_by_hand(registry: Registry, trained: Path, bundle: Path, *, champion: int) -> dict[str, Any]:
    """Register a model as one that passed, and return what the last step takes."""
    judgement = Judgement(name="students", champion=champion, num_new_windows=1, windows=(7,), tasks=(FIGURES,))
    model, reference = ref_to(str(trained)), ref_to(str(bundle))
    registration = register(registry, model=model, bundle=reference, judgement=judgement)
    return {"registrations": [registration.to_dict()], "judgements": [judgement.to_dict()]}


def last_step(pipelines: Operator, root: Path, registered: dict[str, Any]) -> str:
    """Run the pipeline's last step in a pod of its account, which sees the claim's copy of the root; return its log."""
    run = read_run_config(REPOSITORY / "examples/movielens/run.yaml", root=str(root)).to_dict()
    run["deployment"] |= {
        "settings": yaml.safe_load(pipelines.settings.read_text()),
        "served_root": "pvc://models/root",
    }
    arguments = {"run": run, "root": str(root)} | registered
    program = (
        "import json; from kfp import dsl; from exfm_components.stages.release import deploy; "
        "from exfm.deploy.cluster import Cluster; from exfm.deploy.preflight import missing; "
        "assert (lacking := missing(Cluster.connect(namespace='exfm'))) == [], lacking; "
        f"deploy.python_func(**json.loads({json.dumps(arguments)!r}), "
        "outcome=dsl.Markdown(uri='/tmp/outcome'), deployed=dsl.Metrics())"
    )
    # The step's user writes to the registry.
    pipelines.kubectl("exec", f"--namespace={CLIENTS}", "client", "--", "chmod", "-R", "a+rwX", "/models/root/registry")
    client = json.loads(pipelines.kubectl("get", "pod", f"--namespace={CLIENTS}", "client", "--output=json"))["spec"]
    folder = next(v["hostPath"]["path"] for v in client["volumes"] if v["name"] == "models")
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
    ended = "--for=jsonpath={.status.containerStatuses[0].state.terminated}"
    pipelines.kubectl("wait", ended, f"--namespace={KUBEFLOW}", "pod/deploy", "--timeout=150s")
    log = pipelines.kubectl("logs", f"--namespace={KUBEFLOW}", "deploy")
    code = "--output=jsonpath={.status.containerStatuses[0].state.terminated.exitCode}"
    ended_with = pipelines.kubectl("get", "pod", f"--namespace={KUBEFLOW}", "deploy", code)
    assert ended_with == "0", log
    pipelines.kubectl("delete", "pod", f"--namespace={KUBEFLOW}", "deploy")
    return log


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
    assert process.stderr.startswith("exfm: no cluster is configured: ")
