"""The rig's daemons: what each is started with, as data."""

from dataclasses import dataclass, field

from rig.binaries import Binaries
from rig.layout import NODE_NAME, Layout


@dataclass(frozen=True)
class Daemon:
    """A program that runs as long as the rig."""

    name: str
    argv: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict)


def daemons(layout: Layout, binaries: Binaries) -> list[Daemon]:
    """Return the daemons in the order in which they are started."""
    return [
        _etcd(layout, binaries),
        Daemon("containerd", ("/usr/bin/containerd", f"--config={layout.config}/containerd.toml")),
        _api_server(layout, binaries),
        _controller_manager(layout, binaries),
        _scheduler(layout, binaries),
        _kubelet(layout, binaries),
        Daemon(
            "kube-proxy",
            (binaries("kube-proxy"), f"--config={layout.config}/kube-proxy.yaml"),
        ),
        Daemon("coredns", (binaries("coredns"), f"-conf={layout.config}/Corefile")),
        _metrics_server(layout, binaries),
        _kserve(layout, binaries),
        _jobset(layout, binaries),
        _trainer(layout, binaries),
    ]


def _etcd(layout: Layout, binaries: Binaries) -> Daemon:
    client, peer = "http://127.0.0.1:2379", "http://127.0.0.1:2380"
    arguments = (
        "--name=rig",
        f"--data-dir={layout.folder}/etcd",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=rig={peer}",
        "--unsafe-no-fsync",  # a rig's data need not survive the machine
        "--log-level=warn",
    )
    return Daemon("etcd", (binaries("server"), *arguments))


def _api_server(layout: Layout, binaries: Binaries) -> Daemon:
    pki = layout.pki
    arguments = (
        f"--advertise-address={layout.node_address}",
        "--allow-privileged=true",
        "--authorization-mode=Node,RBAC",
        "--bind-address=0.0.0.0",  # of the rig's own network namespace
        f"--client-ca-file={pki}/ca.crt",
        "--enable-admission-plugins=NodeRestriction",
        "--endpoint-reconciler-type=lease",
        "--etcd-servers=http://127.0.0.1:2379",
        f"--kubelet-client-certificate={pki}/kubelet-client.crt",
        f"--kubelet-client-key={pki}/kubelet-client.key",
        "--kubelet-preferred-address-types=InternalIP",
        f"--proxy-client-cert-file={pki}/front-proxy-client.crt",
        f"--proxy-client-key-file={pki}/front-proxy-client.key",
        "--requestheader-allowed-names=front-proxy-client",
        f"--requestheader-client-ca-file={pki}/front-proxy-ca.crt",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
        "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-username-headers=X-Remote-User",
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
        f"--service-account-key-file={pki}/service-accounts.key",
        f"--service-account-signing-key-file={pki}/service-accounts.key",
        f"--service-cluster-ip-range={layout.service_range}",
        f"--tls-cert-file={pki}/kube-apiserver.crt",
        f"--tls-private-key-file={pki}/kube-apiserver.key",
    )
    return Daemon("kube-apiserver", (binaries("kube-apiserver"), *arguments))


def _controller_manager(layout: Layout, binaries: Binaries) -> Daemon:
    kubeconfig = f"{layout.pki}/controller-manager.kubeconfig"
    arguments = (
        f"--authentication-kubeconfig={kubeconfig}",
        f"--authorization-kubeconfig={kubeconfig}",
        f"--bind-address={layout.node_address}",
        # Defaults take minutes to scale down and to trust a new pod's CPU; a test cannot wait that long.
        "--horizontal-pod-autoscaler-cpu-initialization-period=5s",
        "--horizontal-pod-autoscaler-downscale-stabilization=10s",
        "--horizontal-pod-autoscaler-initial-readiness-delay=5s",
        "--horizontal-pod-autoscaler-sync-period=2s",
        f"--kubeconfig={kubeconfig}",
        "--leader-elect=false",
        f"--root-ca-file={layout.pki}/ca.crt",
        f"--service-account-private-key-file={layout.pki}/service-accounts.key",
        "--use-service-account-credentials",
    )
    return Daemon("kube-controller-manager", (binaries("kube-controller-manager"), *arguments))


def _scheduler(layout: Layout, binaries: Binaries) -> Daemon:
    kubeconfig = f"{layout.pki}/scheduler.kubeconfig"
    arguments = (
        f"--authentication-kubeconfig={kubeconfig}",
        f"--authorization-kubeconfig={kubeconfig}",
        f"--bind-address={layout.node_address}",
        f"--kubeconfig={kubeconfig}",
        "--leader-elect=false",
    )
    return Daemon("kube-scheduler", (binaries("kube-scheduler"), *arguments))


def _kubelet(layout: Layout, binaries: Binaries) -> Daemon:
    arguments = (
        f"--cert-dir={layout.folder}/kubelet-pki",
        f"--config={layout.config}/kubelet.yaml",
        f"--hostname-override={NODE_NAME}",
        f"--kubeconfig={layout.pki}/kubelet.kubeconfig",
        f"--node-ip={layout.node_address}",
        f"--root-dir={layout.folder}/kubelet",
    )
    return Daemon("kubelet", (binaries("kubelet"), *arguments))


def _metrics_server(layout: Layout, binaries: Binaries) -> Daemon:
    kubeconfig = f"{layout.pki}/addons.kubeconfig"
    arguments = (
        f"--authentication-kubeconfig={kubeconfig}",
        f"--authorization-kubeconfig={kubeconfig}",
        f"--bind-address={layout.node_address}",
        f"--kubeconfig={kubeconfig}",
        "--kubelet-insecure-tls",
        "--kubelet-preferred-address-types=InternalIP",
        "--kubelet-request-timeout=5s",
        "--metric-resolution=10s",
        "--secure-port=4443",
        f"--tls-cert-file={layout.pki}/metrics-server.crt",
        f"--tls-private-key-file={layout.pki}/metrics-server.key",
    )
    return Daemon("metrics-server", (binaries("metrics-server"), *arguments))


def _kserve(layout: Layout, binaries: Binaries) -> Daemon:
    arguments = (
        f"--health-probe-addr={layout.node_address}:8081",
        "--metrics-addr=127.0.0.1:8080",
        "--webhook-port=9443",
    )
    environment = {
        "KUBECONFIG": f"{layout.pki}/addons.kubeconfig",
        "POD_NAMESPACE": "kserve",
        "TMPDIR": f"{layout.folder}/kserve",  # the webhooks' certificate lies below it
    }
    return Daemon("kserve", (binaries("manager"), *arguments), environment)


def _jobset(layout: Layout, binaries: Binaries) -> Daemon:
    environment = {"KUBECONFIG": f"{layout.pki}/addons.kubeconfig", "TMPDIR": f"{layout.folder}/jobset"}
    return Daemon("jobset", (binaries("jobset"), f"--config={layout.config}/jobset.yaml"), environment)


def _trainer(layout: Layout, binaries: Binaries) -> Daemon:
    environment = {"KUBECONFIG": f"{layout.pki}/addons.kubeconfig", "TMPDIR": f"{layout.folder}/trainer"}
    return Daemon(
        "trainer", (binaries("trainer-controller-manager"), f"--config={layout.config}/trainer.yaml"), environment
    )
