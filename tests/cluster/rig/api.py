"""A client of the rig's API server that reads and writes plain objects."""

import json
import ssl
import urllib.error
import urllib.request
from typing import Any

from rig.layout import Layout


class Api:
    """Speaks to the API server as administrator."""

    def __init__(self, layout: Layout) -> None:
        self._server = layout.server
        self._context = ssl.create_default_context(cafile=str(layout.pki / "ca.crt"))
        self._context.load_cert_chain(layout.pki / "admin.crt", layout.pki / "admin.key")

    def call(self, method: str, path: str, body: bytes | None = None, *, kind: str = "application/json") -> bytes:
        """Return the answer's body. Raises: OSError, of which urllib's HTTPError is one."""
        request = urllib.request.Request(self._server + path, data=body, method=method)
        request.add_header("Content-Type", kind)
        with urllib.request.urlopen(request, context=self._context, timeout=30) as answer:
            return bytes(answer.read())

    def get(self, path: str) -> dict[str, Any] | None:
        """Return an object, or None where there is none or no server that answers."""
        try:
            found: dict[str, Any] = json.loads(self.call("GET", path))
        except OSError:
            return None
        return found

    def apply(self, path: str, value: dict[str, Any]) -> None:
        """Create or change an object to hold the fields given, by server-side apply. Raises: OSError."""
        name = value["metadata"]["name"]
        self.call(
            "PATCH", f"{path}/{name}?fieldManager=rig&force=true", json.dumps(value).encode(),
            kind="application/apply-patch+yaml",
        )  # fmt: skip

    def resources(self, group: str) -> set[str]:
        """Return the names of the resources that a group serves, of all its versions."""
        versions = (self.get(f"/apis/{group}") or {}).get("versions", [])
        lists = (self.get(f"/apis/{version['groupVersion']}") or {} for version in versions)
        return {resource["name"] for found in lists for resource in found.get("resources", [])}

    def answers(self, path: str) -> bool:
        """Return whether a path answers with success."""
        try:
            self.call("GET", path)
        except OSError:
            return False
        return True


def condition(found: dict[str, Any] | None, kind: str) -> bool:
    """Return whether an object's status has a condition that is true."""
    conditions = ((found or {}).get("status") or {}).get("conditions") or []
    return any(entry["type"] == kind and entry["status"] == "True" for entry in conditions)
