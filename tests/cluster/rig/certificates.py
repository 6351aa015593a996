"""The rig's certificates and kubeconfigs, new with every rig."""

import base64
from pathlib import Path

import trustme
import yaml

from rig.layout import NODE_NAME, WEBHOOK_PORTS, Layout

# Who speaks to the API server, and which group that is in. The add-ons are administrators: what they may do in a
# real cluster is not what this rig is to show.
CLIENTS = {
    "admin": ("rig-admin", "system:masters"),
    "addons": ("rig-addons", "system:masters"),
    "controller-manager": ("system:kube-controller-manager", None),
    "kube-proxy": ("system:kube-proxy", None),
    "kubelet": (f"system:node:{NODE_NAME}", "system:nodes"),
    "scheduler": ("system:kube-scheduler", None),
    "kubelet-client": ("rig-api-server", "system:masters"),
}


def server_names(layout: Layout) -> dict[str, list[str]]:
    """Return each server and the names that its certificate carries."""
    names = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"]
    return {
        "kube-apiserver": [*names, "localhost", "127.0.0.1", layout.node_address, layout.api_service_address],
        **{controller: ["127.0.0.1"] for controller in WEBHOOK_PORTS},
        "metrics-server": ["metrics-server.kube-system.svc"],
    }


def write_certificates(layout: Layout) -> None:
    """Write certificates and keys into the rig's pki folder, and one kubeconfig per client.

    Clients too carry a host's name: trustme marks even an empty list of names critical, which Go then refuses.
    """
    authority, front_proxy = trustme.CA(), trustme.CA()
    authority.cert_pem.write_to_path(layout.pki / "ca.crt")
    front_proxy.cert_pem.write_to_path(layout.pki / "front-proxy-ca.crt")
    service_accounts = authority.issue_cert("service-accounts")
    service_accounts.private_key_pem.write_to_path(layout.pki / "service-accounts.key")
    for server, names in server_names(layout).items():
        _write(authority.issue_cert(*names), layout.pki / server)
    _write(front_proxy.issue_cert("rig", common_name="front-proxy-client"), layout.pki / "front-proxy-client")
    for client, (user, group) in CLIENTS.items():
        certificate = authority.issue_cert("rig", common_name=user, organization_name=group or "rig")
        _write(certificate, layout.pki / client)
        text = kubeconfig(
            server=layout.server,
            authority=authority.cert_pem.bytes(),
            certificate=certificate.cert_chain_pems[0].bytes(),
            key=certificate.private_key_pem.bytes(),
        )
        (layout.pki / f"{client}.kubeconfig").write_text(text)


def kubeconfig(*, server: str, authority: bytes, certificate: bytes, key: bytes) -> str:
    """Return a kubeconfig with everything in line, so that it can be copied."""

    def encoded(pem: bytes) -> str:
        return base64.b64encode(pem).decode()

    cluster = {"server": server, "certificate-authority-data": encoded(authority)}
    user = {"client-certificate-data": encoded(certificate), "client-key-data": encoded(key)}
    return yaml.safe_dump(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "rig", "cluster": cluster}],
            "users": [{"name": "rig", "user": user}],
            "contexts": [{"name": "rig", "context": {"cluster": "rig", "user": "rig", "namespace": "default"}}],
            "current-context": "rig",
        }
    )


def _write(certificate: trustme.LeafCert, stem: Path) -> None:
    certificate.private_key_pem.write_to_path(stem.with_suffix(".key"))
    stem.with_suffix(".crt").write_bytes(b"".join(pem.bytes() for pem in certificate.cert_chain_pems))
