"""The text of every configuration file, as a function of the layout."""

import json
from typing import Any

import yaml

from rig.layout import WEBHOOK_PORTS, Layout

PAUSE_IMAGE = "localhost/exfm-rig-pause:rig"
STORAGE_INITIALIZER_IMAGE = "localhost/exfm-storage-initializer:rig"


def containerd_config(layout: Layout) -> str:
    """Return containerd's configuration. Its state and socket lie below /run, which is the rig's own.

    restrict_oom_score_adj: where CAP_SYS_RESOURCE is missing no pod starts without it.
    """
    return f"""\
version = 2
root = "{layout.containerd_root}"
disabled_plugins = [
  "io.containerd.internal.v1.opt", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs",
]

[plugins."io.containerd.grpc.v1.cri"]
restrict_oom_score_adj = true
sandbox_image = "{PAUSE_IMAGE}"

[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "{layout.config}/cni"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
SystemdCgroup = false
"""


def cleaning_containerd_config(layout: Layout) -> str:
    """Return the configuration of a containerd that serves no kubelet, to delete what an earlier rig left."""
    return f'version = 2\nroot = "{layout.containerd_root}"\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\n'


def cni_config(layout: Layout) -> str:
    """Return the pods' network: routed veth pairs, so that every packet between pods meets kube-proxy's rules.

    On a bridge, an answer between neighbours would pass them by wherever br_netfilter is off.
    """
    ranges = {"type": "host-local", "dataDir": "/run/cni", "ranges": [[{"subnet": layout.pod_range}]]}
    pods = {"type": "ptp", "ipMasq": False, "mtu": 1500, "ipam": ranges | {"routes": [{"dst": "0.0.0.0/0"}]}}
    host_ports = {"type": "portmap", "capabilities": {"portMappings": True}}
    return json.dumps({"cniVersion": "0.4.0", "name": "rig", "plugins": [pods, host_ports]}, indent=2)


def packet_rules(layout: Layout) -> str:
    """Return nft rules by which a pod reaches pods and this machine's end of the link, and nothing beyond.

    The rig has no other route; the rule holds where someone adds one.
    """
    return f"""\
table ip exfm-rig {{
  counter dropped {{ }}
  chain forward {{
    type filter hook forward priority filter; policy accept;
    iifname "uplink" accept
    ip daddr {{ {layout.pod_range}, {layout.machine_address} }} accept
    counter name dropped drop
  }}
}}
"""


def kubelet_config(layout: Layout) -> str:
    """Return the kubelet's configuration: evicts and collects images only when the disk is all but full."""
    return yaml.safe_dump(
        {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": layout.node_address,
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": str(layout.pki / "ca.crt")},
            },
            "authorization": {"mode": "Webhook"},
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{layout.name}",
            "clusterDNS": [layout.dns_service_address],
            "clusterDomain": "cluster.local",
            "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
            "enforceNodeAllocatable": [],
            "evictionHard": {
                "memory.available": "100Mi",
                "nodefs.available": "1%",
                "nodefs.inodesFree": "1%",
                "imagefs.available": "1%",
                "imagefs.inodesFree": "1%",
            },
            "failCgroupV1": False,
            "failSwapOn": False,
            "healthzBindAddress": "127.0.0.1",
            "imageGCHighThresholdPercent": 100,
            "makeIPTablesUtilChains": False,
            "maxOpenFiles": 20000,
            "oomScoreAdj": 0,
            "podLogsDir": str(layout.folder / "pod-logs"),
            "resolvConf": str(layout.config / "resolv.conf"),
            "serializeImagePulls": False,
            "syncFrequency": "5s",  # a Secret that changed is in its pods by then; the default is a minute
            "volumePluginDir": str(layout.folder / "volume-plugins"),
        }
    )


def proxy_config(layout: Layout) -> str:
    """Return kube-proxy's configuration; it sets no conntrack limits, which are the machine's."""
    return yaml.safe_dump(
        {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "bindAddress": layout.node_address,
            "clientConnection": {"kubeconfig": str(layout.pki / "kube-proxy.kubeconfig")},
            "clusterCIDR": layout.pod_range,
            "conntrack": {"maxPerCore": 0, "min": 0},
            "healthzBindAddress": f"{layout.node_address}:10256",
            "hostnameOverride": "rig",
            "metricsBindAddress": "127.0.0.1:10249",
            "mode": "nftables",
            "nftables": {"minSyncPeriod": "100ms", "syncPeriod": "10s"},
        }
    )


def corefile(layout: Layout) -> str:
    """Return CoreDNS's configuration: the cluster's names without a cache; no other name exists."""
    return f"""\
cluster.local in-addr.arpa {{
  bind {layout.node_address}
  errors
  kubernetes cluster.local in-addr.arpa {{
    kubeconfig {layout.pki}/addons.kubeconfig rig
    pods insecure
    ttl 1
  }}
}}
. {{
  bind {layout.node_address}
  template ANY ANY {{
    rcode NXDOMAIN
  }}
}}
"""


def jobset_config(layout: Layout) -> str:
    """Return the configuration of JobSet's controller, with certificates of the rig's own."""
    return _controller_config(
        "config.jobset.x-k8s.io/v1alpha1", "jobset", f"{layout.node_address}:8082", internalCertManagement=False
    )


def trainer_config(layout: Layout) -> str:
    """Return the configuration of Kubeflow Trainer's controller, with certificates of the rig's own."""
    return _controller_config(
        "config.trainer.kubeflow.org/v1alpha1", "trainer", f"{layout.node_address}:8083", certManagement=False
    )


def _controller_config(api: str, name: str, health_address: str, **switches: bool) -> str:
    return yaml.safe_dump(
        {
            "apiVersion": api,
            "kind": "Configuration",
            "health": {"healthProbeBindAddress": health_address},
            "leaderElection": {"leaderElect": False},
            "metrics": {"bindAddress": "0"},
            "webhook": {"host": "127.0.0.1", "port": WEBHOOK_PORTS[name]},
            **{switch: {"enable": enabled} for switch, enabled in switches.items()},
        }
    )


def rig_inference_config(data: dict[str, str]) -> dict[str, str]:
    """Return KServe's inferenceservice-config for a cluster without Knative, Istio or an ingress."""
    changes: dict[str, dict[str, Any]] = {
        "deploy": {"defaultDeploymentMode": "Standard"},
        "ingress": {"disableIstioVirtualHost": True, "disableIngressCreation": True},
        "storageInitializer": {"image": STORAGE_INITIALIZER_IMAGE},
    }
    return data | {key: json.dumps(json.loads(data[key]) | change) for key, change in changes.items()}
