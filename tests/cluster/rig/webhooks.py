"""Webhook configurations of controllers that run beside the cluster."""

import base64
from pathlib import Path
from typing import Any

import yaml

from rig.addons import Applied
from rig.layout import WEBHOOK_PORTS


def local(file: Path, *, controller: str, authority: bytes) -> list[Applied]:
    """Return a file's webhook configurations, changed to call a controller on the API server's own loopback.

    `authority` is the PEM of the issuer of the controller's certificate.
    """
    found = yaml.safe_load_all(file.read_text())
    return [_local(value, controller, authority) for value in found if value and "webhooks" in value]


def _local(value: dict[str, Any], controller: str, authority: bytes) -> Applied:
    value["metadata"].pop("creationTimestamp", None)
    for webhook in value["webhooks"]:
        path = webhook["clientConfig"]["service"]["path"]
        webhook["clientConfig"] = {
            "url": f"https://127.0.0.1:{WEBHOOK_PORTS[controller]}{path}",
            "caBundle": base64.b64encode(authority).decode(),
        }
    return (f"/apis/admissionregistration.k8s.io/v1/{value['kind'].lower()}s", value)
