"""Objects that let the cluster find the servers that run beside it: DNS and metrics.

Pure functions; each pair is (collection's path, object).
"""

import base64
from typing import Any

from rig.layout import Layout

Applied = tuple[str, dict[str, Any]]
SYSTEM = "/api/v1/namespaces/kube-system/services"
SYSTEM_ENDPOINTS = "/apis/discovery.k8s.io/v1/namespaces/kube-system/endpointslices"


def dns_objects(layout: Layout) -> list[Applied]:
    """Return the Service `kube-dns` with the node's CoreDNS behind it."""
    ports = [("dns", 53, 53, "UDP"), ("dns-tcp", 53, 53, "TCP")]
    return _service_beside("kube-dns", layout, ports=ports, cluster_ip=layout.dns_service_address)


def metrics_objects(layout: Layout, *, authority: bytes) -> list[Applied]:
    """Return metrics-server's Service and the API that it serves; `authority` is the PEM of its issuer."""
    name = "v1beta1.metrics.k8s.io"
    api_service = {
        "apiVersion": "apiregistration.k8s.io/v1",
        "kind": "APIService",
        "metadata": {"name": name},
        "spec": {
            "caBundle": base64.b64encode(authority).decode(),
            "group": "metrics.k8s.io",
            "groupPriorityMinimum": 100,
            "service": {"name": "metrics-server", "namespace": "kube-system"},
            "version": "v1beta1",
            "versionPriority": 100,
        },
    }
    service = _service_beside("metrics-server", layout, ports=[("https", 443, 4443, "TCP")])
    return [*service, ("/apis/apiregistration.k8s.io/v1/apiservices", api_service)]


def _service_beside(
    name: str, layout: Layout, *, ports: list[tuple[str, int, int, str]], cluster_ip: str = ""
) -> list[Applied]:
    """Return a Service without selector and its EndpointSlice; a port is (name, port, port on the node, protocol)."""
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "kube-system"},
        "spec": {
            "ports": [
                {"name": port, "port": number, "targetPort": target, "protocol": protocol}
                for port, number, target, protocol in ports
            ],
        }
        | ({"clusterIP": cluster_ip} if cluster_ip else {}),
    }
    endpoints = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": name,
            "namespace": "kube-system",
            "labels": {"kubernetes.io/service-name": name, "endpointslice.kubernetes.io/managed-by": "rig"},
        },
        "addressType": "IPv4",
        "endpoints": [{"addresses": [layout.node_address], "conditions": {"ready": True}}],
        "ports": [{"name": port, "port": target, "protocol": protocol} for port, _, target, protocol in ports],
    }
    return [(SYSTEM, service), (SYSTEM_ENDPOINTS, endpoints)]
