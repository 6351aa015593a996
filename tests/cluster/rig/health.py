"""What is true of each daemon when it works, asked from this machine."""

import socket
import sys
import urllib.request
from collections.abc import Callable
from functools import partial
from typing import Any

from rig.api import Api, condition
from rig.errors import RigError
from rig.layout import NODE_NAME, Layout
from rig.sandbox import inside

CRI_VERSION = (
    "import grpc; channel = grpc.insecure_channel('unix:///run/containerd/containerd.sock'); "
    "channel.unary_unary('/runtime.v1.RuntimeService/Version')(b'', timeout=5)"
)
"""A program that fails unless containerd serves kubelets."""

METRICS = "/apis/apiregistration.k8s.io/v1/apiservices/v1beta1.metrics.k8s.io"


def probes(layout: Layout) -> dict[str, Callable[[], object]]:
    """Return one probe per daemon. Those of etcd and the kubelet ask the API server, so they come after it."""
    api, node = Api(layout), layout.node_address
    return {
        "containerd": partial(_succeeds, layout, "ctr", "version"),
        "kube-apiserver": partial(api.answers, "/readyz"),
        "etcd": partial(api.answers, "/readyz/etcd"),
        "kube-controller-manager": partial(_listens, node, 10257),
        "kube-scheduler": partial(_listens, node, 10259),
        "kubelet": lambda: is_schedulable(api.get(f"/api/v1/nodes/{NODE_NAME}")),
        "kube-proxy": partial(_answers, f"http://{node}:10256/healthz"),
        "coredns": partial(_listens, node, 53),
        "kserve": partial(_answers, f"http://{node}:8081/readyz"),
        "jobset": partial(_answers, f"http://{node}:8082/readyz"),
        "trainer": partial(_answers, f"http://{node}:8083/readyz"),
        "metrics-server": lambda: condition(api.get(METRICS), "Available"),
    }


def serves_kubelets(layout: Layout) -> bool:
    """Return whether containerd has looked through its containers, before which a kubelet that asks it gives up."""
    return _succeeds(layout, sys.executable, "-c", CRI_VERSION)


def is_schedulable(node: dict[str, Any] | None) -> bool:
    """Return whether a node is Ready and takes any pod."""
    return condition(node, "Ready") and not (node or {})["spec"].get("taints")


def _succeeds(layout: Layout, *command: str) -> bool:
    try:
        inside(layout, *command)
    except RigError:
        return False
    return True


def _listens(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), timeout=1).close()
    except OSError:
        return False
    return True


def _answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=1).close()
    except OSError:
        return False
    return True
