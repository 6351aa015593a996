"""Where a rig keeps its files, and which addresses it has."""

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from rig.errors import RigError

MAX_SLOTS = 8
NODE_NAME = "rig"
WEBHOOK_PORTS = {"kserve": 9443, "jobset": 9444, "trainer": 9445}
"""Of the controllers that have webhooks, by their daemon's name; on the node's loopback."""
# Inside the rig's mount namespace these are empty file systems of its own: daemons hard-code paths there.
HIDDEN = (Path("/run"), Path("/var/lib"), Path("/var/log"))


@dataclass(frozen=True)
class Layout:
    """One rig's folders and addresses; `slot` keeps the addresses of rigs that are up together apart."""

    folder: Path
    cache: Path
    slot: int = 0

    @property
    def state_file(self) -> Path:
        """Return the file whose presence says that the folder is a rig's, and may be deleted."""
        return self.folder / "rig.json"

    @property
    def kubeconfig(self) -> Path:
        """Return the kubeconfig of a member of system:masters."""
        return self.folder / "kubeconfig"

    @property
    def logs(self) -> Path:
        """Return the folder with one log per daemon."""
        return self.folder / "logs"

    @property
    def pids(self) -> Path:
        """Return the folder with each daemon's pid, as the rig's process namespace counts."""
        return self.folder / "pids"

    @property
    def pki(self) -> Path:
        """Return the folder with certificates, keys and the daemons' kubeconfigs."""
        return self.folder / "pki"

    @property
    def config(self) -> Path:
        """Return the folder with the daemons' configuration files."""
        return self.folder / "config"

    @property
    def containerd_root(self) -> Path:
        """Return containerd's store, which outlives the rig so that images need no second import."""
        return self.cache / f"containerd-{self.slot}"

    @property
    def images(self) -> Path:
        """Return the folder with OCI archives."""
        return self.cache / "images"

    @property
    def name(self) -> str:
        """Return the name of the rig's link on the machine and of its cgroup."""
        return "exfm-rig" if self.slot == 0 else f"exfm-rig{self.slot}"

    @property
    def node_address(self) -> str:
        """Return the address of the node and of every server on it; the machine reaches it too."""
        return f"10.{88 + self.slot}.0.1"

    @property
    def machine_address(self) -> str:
        """Return the machine's own address on the rig's link; pods reach it."""
        return f"10.{88 + self.slot}.0.2"

    @property
    def pod_range(self) -> str:
        """Return the pods' addresses; also the route to them."""
        return f"10.{88 + self.slot}.1.0/24"

    @property
    def service_range(self) -> str:
        """Return the Services' addresses; also the route to them."""
        return f"10.{96 + self.slot}.0.0/16"

    @property
    def api_service_address(self) -> str:
        """Return the ClusterIP of the Service `kubernetes`."""
        return f"10.{96 + self.slot}.0.1"

    @property
    def dns_service_address(self) -> str:
        """Return the ClusterIP of the Service `kube-dns`."""
        return f"10.{96 + self.slot}.0.10"

    @property
    def server(self) -> str:
        """Return the API server's URL."""
        return f"https://{self.node_address}:6443"

    @cached_property
    def marker(self) -> str:
        """Return the environment entry by which the rig knows the processes that it started."""
        return f"EXFM_RIG_MEMBER={self.folder}"


def folders() -> tuple[Path, Path]:
    """Return the rig's folder and its cache: EXFM_RIG_DIR and EXFM_RIG_CACHE, or their defaults.

    Raises: RigError where one is relative or lies in a folder that the rig hides from its daemons.
    """
    cache_home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = Path(os.environ.get("EXFM_RIG_DIR") or "/tmp/exfm-rig")
    cache = Path(os.environ.get("EXFM_RIG_CACHE") or cache_home / "exfm-rig")
    for variable, path in (("EXFM_RIG_DIR", folder), ("EXFM_RIG_CACHE", cache)):
        if not path.is_absolute():
            raise RigError(f"{variable} is {str(path)!r}; give an absolute path")
        if any(path.is_relative_to(hidden) for hidden in HIDDEN):
            raise RigError(f"{variable} is {path}; choose one outside {', '.join(map(str, HIDDEN))}")
    return folder, cache
