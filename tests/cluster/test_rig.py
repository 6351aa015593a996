"""The rig carries pods, keeps their traffic in, and leaves nothing behind."""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from rig.cgroups import HIERARCHIES
from rig.cluster import daemon_pids, find
from rig.layout import folders
from rig.sandbox import inside

pytestmark = pytest.mark.cluster

NAMESPACE = "rig-smoke"
IMAGE = "localhost/exfm-serving:rig"
POD_SPEC = f"""
    terminationGracePeriodSeconds: 0
    containers:
      - name: python
        image: {IMAGE}
        command: [python3, -m, http.server, "8080", --directory, /etc]
        readinessProbe: {{tcpSocket: {{port: 8080}}, periodSeconds: 1}}
        resources: {{requests: {{cpu: 50m, memory: 64Mi}}, limits: {{cpu: 500m, memory: 128Mi}}}}
        securityContext:
          allowPrivilegeEscalation: false
          capabilities: {{drop: [ALL]}}
          runAsNonRoot: true
          seccompProfile: {{type: RuntimeDefault}}
"""
OBJECTS = f"""
apiVersion: v1
kind: Namespace
metadata: {{name: {NAMESPACE}, labels: {{pod-security.kubernetes.io/enforce: restricted}}}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: server, namespace: {NAMESPACE}}}
spec:
  selector: {{matchLabels: {{app: server}}}}
  template:
    metadata: {{labels: {{app: server}}}}
    spec: {POD_SPEC.replace(chr(10), chr(10) + "    ")}
---
apiVersion: v1
kind: Service
metadata: {{name: server, namespace: {NAMESPACE}}}
spec: {{selector: {{app: server}}, ports: [{{port: 80, targetPort: 8080}}]}}
---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {{name: server, namespace: {NAMESPACE}}}
spec:
  scaleTargetRef: {{apiVersion: apps/v1, kind: Deployment, name: server}}
  maxReplicas: 1
  metrics: [{{type: Resource, resource: {{name: cpu, target: {{type: Utilization, averageUtilization: 90}}}}}}]
---
apiVersion: v1
kind: Pod
metadata: {{name: client, namespace: {NAMESPACE}}}
spec: {POD_SPEC}
"""

Kubectl = Callable[..., str]


@pytest.fixture(scope="module")
def smoke(kubectl: Kubectl) -> Iterator[Kubectl]:
    """Return kubectl for a namespace with a server behind a Service, its HPA, and a client pod."""
    if "EXFM_RIG_DIR" not in os.environ:
        pytest.skip("KUBECONFIG is not the rig's, and these tests are about the rig")
    kubectl("apply", "--filename=-", text=OBJECTS)
    kubectl("wait", f"--namespace={NAMESPACE}", "--for=condition=Ready", "pod/client", "--timeout=60s")
    kubectl("rollout", "status", f"--namespace={NAMESPACE}", "deployment/server", "--timeout=60s")
    yield lambda *arguments: kubectl(f"--namespace={NAMESPACE}", *arguments)
    kubectl("delete", "namespace", NAMESPACE, "--wait=false")


def in_client(smoke: Kubectl, program: str) -> str:
    return smoke("exec", "client", "--", "python3", "-c", program).strip()


def eventually(probe: Callable[[], bool], *, within_s: float) -> bool:
    deadline = time.monotonic() + within_s
    while not (found := probe()) and time.monotonic() < deadline:
        time.sleep(0.2)
    return found


def test_the_node_is_ready_and_is_kubernetes_1_34(smoke: Kubectl) -> None:
    node = json.loads(smoke("get", "node", "rig", "--output=json"))
    assert {entry["type"]: entry["status"] for entry in node["status"]["conditions"]}["Ready"] == "True"
    assert node["status"]["nodeInfo"]["kubeletVersion"].startswith("v1.34.")


def test_a_pod_finds_a_service_by_its_name(smoke: Kubectl) -> None:
    address = smoke("get", "service", "server", "--output=jsonpath={.spec.clusterIP}")
    name = f"server.{NAMESPACE}.svc.cluster.local"
    assert in_client(smoke, f"import socket; print(socket.gethostbyname({name!r}))") == address


def test_a_pod_answers_through_its_services_address(smoke: Kubectl) -> None:
    program = "import urllib.request; print(urllib.request.urlopen('http://server/hostname', timeout=5).status)"
    assert in_client(smoke, program) == "200"


def test_an_autoscaler_sees_a_pods_cpu(smoke: Kubectl) -> None:
    def seen() -> bool:
        status = json.loads(smoke("get", "hpa", "server", "--output=json"))["status"]
        metrics = status.get("currentMetrics") or [{}]
        return "averageUtilization" in metrics[0].get("resource", {}).get("current", {})

    assert eventually(seen, within_s=90)


def test_a_pods_packet_to_the_outside_is_dropped_though_there_be_a_route(smoke: Kubectl) -> None:
    layout = find(*folders())
    documentation = "192.0.2.1"  # RFC 5737: nobody's
    connect = f"""
import socket
try:
    socket.create_connection(({documentation!r}, 80), timeout=2)
    print("connected")
except OSError as error:
    print(type(error).__name__)
"""

    def dropped() -> int:
        counter = inside(layout, "nft", "list", "counter", "ip", "exfm-rig", "dropped")
        found = re.search(r"packets (\d+)", counter)
        assert found
        return int(found[1])

    assert "default" not in inside(layout, "ip", "route")
    assert in_client(smoke, connect) == "OSError"  # no route
    inside(layout, "ip", "route", "add", documentation, "via", layout.machine_address)
    try:
        before = dropped()
        assert in_client(smoke, connect) == "TimeoutError"
        assert dropped() > before
    finally:
        inside(layout, "ip", "route", "delete", documentation)


def test_the_api_server_comes_back_with_its_data_after_a_kill(smoke: Kubectl) -> None:
    layout = find(*folders())
    pid = daemon_pids(layout)["kube-apiserver"]
    assert pid
    os.kill(pid, signal.SIGKILL)
    rig("restart", "kube-apiserver", environment=dict(os.environ))
    assert "client" in smoke("get", "pods", "--output=name")
    assert daemon_pids(layout)["kube-controller-manager"]


@dataclass(frozen=True)
class Snapshot:
    """What the rig could leave on the machine; taken before and after, the two are equal."""

    mounts: frozenset[str]
    links: frozenset[str]
    routes: str
    rules: str
    cgroups: frozenset[Path]
    files: frozenset[Path]
    network_namespaces: frozenset[str]
    strays: frozenset[str]
    """Command lines of processes that name the rig's folder in their environment or arguments."""


def snapshot(folder: Path) -> Snapshot:
    """Return the machine's state as far as a rig can change it, without what the shared rig's own pods change."""
    places = (Path("/run"), Path("/run/netns"), Path("/var/lib"), Path("/var/log"), Path("/opt"), Path("/etc"))
    files = {entry for place in places if place.exists() for entry in place.iterdir()}
    shared = f"/{find(*folders()).name}/"
    namespaces, strays = set(), set()
    for process in (entry for entry in Path("/proc").iterdir() if entry.name.isdigit()):
        try:
            if shared in (process / "cgroup").read_text():
                continue
            namespaces.add(str((process / "ns/net").readlink()))
            command = (process / "cmdline").read_text()
            text = command + (process / "environ").read_text()
        except OSError:
            continue  # it ended
        if str(folder) in text:
            strays.add(command)
    return Snapshot(
        mounts=frozenset(line.split(" ", 4)[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()),
        links=frozenset(link.name for link in Path("/sys/class/net").iterdir()),
        routes=output("ip", "route"),
        rules=output("nft", "list", "ruleset"),
        cgroups=frozenset(HIERARCHIES.glob("exfm-rig*")) | frozenset(HIERARCHIES.glob("*/exfm-rig*")),
        files=frozenset(files),
        network_namespaces=frozenset(namespaces),
        strays=frozenset(strays),
    )


def output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def rig(*arguments: str, environment: dict[str, str]) -> str:
    process = subprocess.run(
        [sys.executable, "-m", "rig", *arguments], env=environment, capture_output=True, text=True, timeout=300
    )
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout


@pytest.fixture
def second(smoke: Kubectl) -> Iterator[dict[str, str]]:
    """Return the environment of a second rig beside the one that other tests use, and take it down at the end."""
    environment = {name: value for name, value in os.environ.items() if name not in ("KUBECONFIG", "EXFM_RIG_DIR")} | {
        "EXFM_RIG_DIR": tempfile.mkdtemp(prefix="exfm-rig-"),
        "PYTHONPATH": str(Path(__file__).parent),
    }
    yield environment
    rig("down", environment=environment)


@pytest.mark.parametrize("num_steps", [0, 1, 2, 4])
def test_nothing_is_left_where_up_is_killed_after_some_steps(second: dict[str, str], num_steps: int) -> None:
    folder = Path(second["EXFM_RIG_DIR"])
    before = snapshot(folder)
    up = subprocess.Popen(
        [sys.executable, "-m", "rig", "up", "--no-images"], env=second, stdout=subprocess.PIPE, text=True
    )
    assert up.stdout
    for _ in range(num_steps):
        up.stdout.readline()
    time.sleep(0.3)  # into the step
    up.kill()
    up.wait()
    up.stdout.close()
    rig("down", environment=second)
    assert not folder.exists()
    assert eventually(lambda: snapshot(folder) == before, within_s=10), (snapshot(folder), before)


def test_nothing_is_left_of_a_rig_with_pods_whose_daemons_were_killed(second: dict[str, str]) -> None:
    folder = Path(second["EXFM_RIG_DIR"])
    before = snapshot(folder)
    started = rig("up", "--no-images", environment=second)
    assert "up; export KUBECONFIG=" in started
    assert "up already" in rig("up", "--no-images", environment=second)
    kubectl = [os.environ["EXFM_KUBECTL"], f"--kubeconfig={folder}/kubeconfig"]
    subprocess.run([*kubectl, "run", "pod", "--image=localhost/exfm-rig-pause:rig", "--restart=Never"], check=True)
    subprocess.run([*kubectl, "wait", "--for=condition=Ready", "pod/pod", "--timeout=60s"], check=True)
    pids = dict(line.split() for line in rig("status", environment=second).splitlines())
    for daemon in ("containerd", "kubelet", "etcd"):
        os.kill(int(pids[daemon]), signal.SIGKILL)
    rig("down", environment=second)
    rig("down", environment=second)  # twice in a row
    assert not folder.exists()
    assert eventually(lambda: snapshot(folder) == before, within_s=10), (snapshot(folder), before)


def test_up_brings_back_a_daemon_that_was_killed(second: dict[str, str]) -> None:
    rig("up", "--no-images", environment=second)
    pids = dict(line.split() for line in rig("status", environment=second).splitlines())
    os.kill(int(pids["kube-scheduler"]), signal.SIGKILL)
    assert "restart kube-scheduler" in rig("up", "--no-images", environment=second)
