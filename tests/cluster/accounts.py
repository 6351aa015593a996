"""Service accounts of a cluster, as clients outside it use them."""

from collections.abc import Callable
from pathlib import Path

import yaml


def kubeconfig_of(account: str, *, namespace: str, kubeconfig: Path, kubectl: Callable[..., str], folder: Path) -> Path:
    """Return a kubeconfig, written into a folder, by which a client has the rights of a service account alone."""
    token = kubectl("create", "token", account, f"--namespace={namespace}").strip()
    config = yaml.safe_load(kubeconfig.read_text(encoding="utf-8"))
    config["users"] = [{"name": user["name"], "user": {"token": token}} for user in config["users"]]
    written = folder / "kubeconfig"
    written.write_text(yaml.safe_dump(config), encoding="utf-8")
    return written
