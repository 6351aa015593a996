"""A person who operates exfm on a cluster: the command line, kubectl, and a client pod of another namespace."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from accounts import kubeconfig_of
from bundle_versions import golden, golden_scores

from commands import exfm

REPOSITORY = Path(__file__).parents[3]
NAMESPACE, CLIENTS = "exfm", "exfm-clients"
CLIENT = "client"
MODELS_CLAIM = "models"
NODE_FOLDER = os.path.join(os.environ.get("EXFM_RIG_DIR", "/var/tmp/exfm-rig"), "models")  # noqa: PTH118  # a node's
"""Folder of the node that claims are of; the client pod has it as /models."""
LOADS = "/tmp"
"""The client pod's folder of loads."""


@dataclass
class Load:
    """What a client pod found."""

    num: int = 0
    failures: dict[str, int] = field(default_factory=dict)
    slowest_failure_s: float = 0.0
    versions: dict[str, int] = field(default_factory=dict)
    order: list[str] = field(default_factory=list)
    degraded: dict[str, int] = field(default_factory=dict)
    """Flagged so, by the tables that they name."""
    wrong: int = 0
    p50_ms: float | None = None
    p99_ms: float | None = None


@dataclass(frozen=True)
class Operator:
    """The cluster, and what may be deployed on it."""

    kubeconfig: Path
    kubectl: Callable[..., str]
    bundles: Mapping[int, Path]
    """Versions of one model, on this machine; the claim has each as v1, v2, ..."""
    ids: Mapping[int, str]
    """Their bundle ids."""
    settings: Path
    cold_settings: Path
    """Settings by which no version stays hot."""
    vm: str

    @property
    def tool(self) -> str:
        """Return kubectl's path."""
        return os.environ.get("EXFM_KUBECTL", "kubectl")

    def with_version(self, version: int, bundle: Path, bundle_id: str) -> "Operator":
        """Return an operator with one more version, which the claim has already."""
        return replace(self, bundles={**self.bundles, version: bundle}, ids={**self.ids, version: bundle_id})

    def kill(self, pod: str) -> None:
        """Kill a pod's server by SIGKILL, as the kernel does when memory is short: from outside its PID namespace."""
        uid = self.kubectl("get", "pod", f"--namespace={NAMESPACE}", pod, "--output=jsonpath={.metadata.uid}")
        [process] = [
            int(status.parent.name)
            for status in Path("/proc").glob("[0-9]*/cgroup")
            if uid.replace("-", "") in _read(status).replace("-", "").replace("_", "")
            and "exfm.serving" in _read(status.parent / "cmdline")
        ]
        os.kill(process, signal.SIGKILL)

    def kubeconfig_of(self, account: str, *, namespace: str, folder: Path) -> Path:
        """Return a kubeconfig, written into a folder, with the rights of a service account alone."""
        return kubeconfig_of(
            account, namespace=namespace, kubeconfig=self.kubeconfig, kubectl=self.kubectl, folder=folder
        )

    def restart_api_server(self) -> None:
        """Stop the API server and start it again."""
        subprocess.run(
            [sys.executable, "-m", "rig", "restart", "kube-apiserver"], check=True, timeout=120, capture_output=True,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY / "tests/cluster")},
        )  # fmt: skip

    def install(self, overlay: str) -> None:
        """Apply the manifests, in one of the tests' overlays."""
        folder = Path(__file__).parent / "manifests" / overlay
        self.kubectl("apply", "--server-side", "--force-conflicts", "-k", str(folder))

    def uninstall(self, overlay: str) -> None:
        """Delete what `install` applied."""
        folder = Path(__file__).parent / "manifests" / overlay
        self.kubectl("delete", "-k", str(folder), "--ignore-not-found", "--timeout=120s")

    @contextmanager
    def port_forward(self, namespace: str, service: str, port: int) -> Iterator[str]:
        """Yield a Service's address on this machine."""
        with socket.create_server(("127.0.0.1", 0)) as free:
            local = free.getsockname()[1]
        command = [self.tool, f"--kubeconfig={self.kubeconfig}", "port-forward", f"--namespace={namespace}"]
        with subprocess.Popen(
            [*command, f"service/{service}", f"{local}:{port}"], stdout=subprocess.PIPE, text=True
        ) as process:
            try:
                assert process.stdout is not None
                assert "Forwarding from" in process.stdout.readline()
                yield f"http://127.0.0.1:{local}"
            finally:
                process.terminate()

    def exfm(
        self, *arguments: str, check: bool = True, kubeconfig: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run the command line; with `check`, it must succeed.

        In this process, which has the imports of an earlier run, unless `kubeconfig` is another one.
        """
        if kubeconfig:
            process = self.start(*arguments, kubeconfig=kubeconfig)
            stdout, stderr = process.communicate(timeout=400)
            done = subprocess.CompletedProcess(["exfm", *arguments], process.returncode, stdout, stderr)
        else:
            done = exfm(*arguments)
        assert not check or done.returncode == 0, f"exfm {' '.join(arguments)}: {done.stdout}\n{done.stderr}"
        return done

    def start(self, *arguments: str, kubeconfig: Path | None = None) -> subprocess.Popen[str]:
        """Start the command line."""
        return subprocess.Popen(
            [sys.executable, "-c", "from exfm.cli.main import launch; launch()", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "KUBECONFIG": str(kubeconfig or self.kubeconfig)},
        )

    def deploy_arguments(self, version: int) -> list[str]:
        """Return the arguments that deploy a version from the claim."""
        source = f"pvc://{MODELS_CLAIM}/v{version}"
        return ["deploy", str(self.bundles[version]), "--serve-from", source, "--version", str(version),
                "-c", str(self.settings)]  # fmt: skip

    def deploy(self, version: int, *more: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Deploy a version from the claim."""
        return self.exfm(*self.deploy_arguments(version), *more, check=check)

    def serve_only_first(self) -> None:
        """Bring version 1 to serve, alone."""
        self.deploy(1)
        if any(row["version"] != 1 and row["shards"] for row in self.status()):
            self.exfm("collect", self.vm, "--unfinished", "-c", str(self.cold_settings))
            wait_for(lambda: len(self.names("inferenceservices")) == 3, seconds=60, what="version 1 alone")

    def copy_to_claim(self, bundle: Path, name: str) -> None:
        """Copy a bundle into a folder of the claim."""
        archive = subprocess.run(["tar", "-C", str(bundle), "-cf", "-", "."], capture_output=True, check=True).stdout
        unpack = f"cd /models && rm -rf {name} && mkdir -m 755 {name} && tar -C {name} --no-same-owner -xf -"
        subprocess.run(
            [self.tool, f"--kubeconfig={self.kubeconfig}", "exec", "-i", f"--namespace={CLIENTS}", CLIENT, "--",
             "sh", "-c", unpack],
            input=archive,
            check=True,
            timeout=60,
        )  # fmt: skip

    def undeploy(self) -> None:
        """Remove the model, if it is there."""
        self.exfm("undeploy", self.vm, "-c", str(self.settings), check=False)

    def status(self) -> list[dict[str, Any]]:
        """Return the deployed versions."""
        rows: list[dict[str, Any]] = json.loads(self.exfm("status", "--json").stdout)
        return rows

    def serving(self) -> int:
        """Return the version that serves, all its rankers and shards ready."""
        [row] = [row for row in self.status() if row["state"] == "serving"]
        return int(row["version"])

    def names(self, kind: str, *, namespace: str = NAMESPACE, labels: str = "") -> list[str]:
        """Return the names of all objects of a kind."""
        selector = [f"--selector={labels}"] if labels else []
        found = self.kubectl("get", kind, f"--namespace={namespace}", "--output=name", *selector)
        return sorted(line.partition("/")[2] for line in found.splitlines())

    def apply(self, *objects: Any) -> None:
        """Apply objects."""
        self.kubectl(
            "apply", "--server-side", "--force-conflicts", "-f", "-", text="\n---\n".join(map(json.dumps, objects))
        )

    def in_client(self, program: str, *, text: str = "") -> str:
        """Run a Python program in the client pod and return what it printed."""
        return self.kubectl("exec", f"--namespace={CLIENTS}", "-i", CLIENT, "--", "python", "-c", program, text=text)

    @contextmanager
    def load(
        self, *, rate: int = 20, seconds: int = 240, deadline_s: float = 5.0, may_miss: Collection[int] = ()
    ) -> Iterator[Load]:
        """Ask the ranker's Service while the block runs, and fill in what came back when it ends.

        A degraded answer is right if its scores are those without the shards in `may_miss`, wrong if that is empty.
        """
        request, _ = golden(self.bundles[1])
        settings = {
            "address": f"{self.vm}-predictor.{NAMESPACE}.svc:8081",
            "model": self.vm,
            "request": request,
            "scores": {self.ids[version]: golden(bundle)[1] for version, bundle in self.bundles.items()},
            "degraded_scores": {
                self.ids[version]: golden_scores(bundle, without=may_miss)
                for version, bundle in self.bundles.items()
                if may_miss
            },
            "rate": rate,
            "seconds": seconds,
            "deadline_s": deadline_s,
        }
        name = f"{LOADS}/{time.monotonic_ns()}"
        # It is left to the pod: what hangs on kubectl ends when the API server does.
        self.in_client(
            f"import os, sys; open('{name}.new', 'w').write(sys.stdin.read()); os.rename('{name}.new', '{name}.in')",
            text=json.dumps(settings),
        )
        found = Load()
        wait_for(lambda: bool(self.load_said(name, "started")), seconds=30, what="the load's start")
        try:
            yield found
            time.sleep(1)
        finally:
            self.in_client(f"open('{name}.stop', 'w').close()")
            wait_for(lambda: bool(self.load_said(name, "out")), seconds=30, what="the load's end")
        vars(found).update(json.loads(self.load_said(name, "out")))

    def load_said(self, name: str, what: str) -> str:
        """Return what a load in the client pod has written, if it has."""
        read = f"cat {name}.{what} 2>/dev/null || true"
        return self.kubectl("exec", f"--namespace={CLIENTS}", CLIENT, "--", "sh", "-c", read)


def folder_as_volume(folder: str, *, claim: str, namespace: str = NAMESPACE) -> dict[str, Any]:
    """Return a volume that only `claim` may bind: `folder` below NODE_FOLDER; empty: NODE_FOLDER itself."""
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": f"exfm-test-{claim}", "labels": {"exfm.dev/test": "true"}},
        "spec": {
            "capacity": {"storage": "10Gi"},
            "accessModes": ["ReadOnlyMany", "ReadWriteOnce"],
            "storageClassName": "",
            "persistentVolumeReclaimPolicy": "Retain",
            "hostPath": {"path": f"{NODE_FOLDER}/{folder}".rstrip("/"), "type": "DirectoryOrCreate"},
            "claimRef": {"name": claim, "namespace": namespace},
        },
    }


def wait_for(condition: Callable[[], bool], *, seconds: float, what: str) -> None:
    """Return when a condition holds; fail after some seconds."""
    give_up_s = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up_s, f"{what} not within {seconds} s"
        time.sleep(0.3)


def _read(file: Path) -> str:
    """Return what a file of /proc says; nothing, if its process has ended."""
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
