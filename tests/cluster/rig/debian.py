"""What the rig needs of the machine: root, Debian, and a few of its packages."""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from rig.errors import MissingError, RigError
from rig.progress import step

PACKAGES = (
    "buildah",
    "conntrack",
    "containerd",
    "containernetworking-plugins",
    "iproute2",
    "iptables",
    "mmdebstrap",
    "nftables",
    "runc",
    "skopeo",
    "util-linux",
)


def require_machine() -> None:
    """Return where this machine can carry a rig. Raises: MissingError, in one line, where it cannot."""
    if os.geteuid() != 0:
        raise MissingError("the rig needs root, for namespaces and mounts; or set KUBECONFIG to a cluster of your own")
    if not Path("/etc/debian_version").exists():
        raise MissingError("the rig needs Debian, for its packages; or set KUBECONFIG to a cluster of your own")


def missing_packages(packages: Sequence[str] = PACKAGES) -> list[str]:
    """Return those packages that are not installed."""
    query = ["dpkg-query", "--show", "--showformat", "${Package} ${db:Status-Status}\n", *packages]
    lines = subprocess.run(query, capture_output=True, text=True, check=False).stdout.splitlines()
    return [package for package in packages if f"{package} installed" not in lines]


def install_packages(packages: Sequence[str] = PACKAGES) -> None:
    """Install the packages that are missing. Raises: RigError with apt's last line where that fails."""
    missing = missing_packages(packages)
    if not missing:
        return
    # Not a member of the rig: `down` must not kill dpkg in the middle.
    environment = {"PATH": os.environ["PATH"], "DEBIAN_FRONTEND": "noninteractive"}
    with step(f"install Debian packages: {' '.join(missing)}"):
        for arguments in (["update"], ["install", "--yes", "--no-install-recommends", *missing]):
            apt = subprocess.run(
                ["apt-get", "--quiet", "--quiet", "--option=Acquire::Retries=5", *arguments],
                env=environment, capture_output=True, text=True, check=False, start_new_session=True,
            )  # fmt: skip
            if apt.returncode != 0:
                last = (apt.stderr.strip().splitlines() or ["no message"])[-1]
                raise RigError(f"apt-get {arguments[0]} failed: {last}")
