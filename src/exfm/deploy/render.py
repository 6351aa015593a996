"""Objects as text: YAML for GitOps, and the difference that applying them would make."""

import difflib
from collections.abc import Sequence
from typing import Any

import yaml

from exfm.deploy.cluster import Cluster
from exfm.deploy.objects import Object

_BOOKKEEPING = ("managedFields", "resourceVersion", "uid", "creationTimestamp", "generation")
"""Metadata that the API server keeps for itself."""


def to_yaml(objects: Sequence[Object]) -> str:
    """Return objects as a stream of YAML documents."""
    return str(yaml.safe_dump_all(objects, sort_keys=False, width=120))


def difference(cluster: Cluster, objects: Sequence[Object]) -> str:
    """Return what applying these objects would change, as a unified diff; empty if nothing.

    The API server computes it (a dry run), with defaults and webhooks.

    Raises: ClusterError.
    """
    return "".join(
        _diff(cluster.get(item["kind"], item["metadata"]["name"]), cluster.apply(item, dry_run=True))
        for item in objects
    )


def _diff(before: Object | None, after: Object) -> str:
    name = f"{after['kind']}/{after['metadata']['name']}"
    return "".join(
        difflib.unified_diff(_lines(before), _lines(after), fromfile=f"{name} (deployed)", tofile=f"{name} (new)")
    )


def _lines(object_: Object | None) -> list[str]:
    if object_ is None:
        return []
    shown: dict[str, Any] = {key: value for key, value in object_.items() if key != "status"}
    shown["metadata"] = {key: value for key, value in shown["metadata"].items() if key not in _BOOKKEEPING}
    return str(yaml.safe_dump(shown, width=120)).splitlines(keepends=True)
