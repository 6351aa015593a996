"""What a deployment needs in the cluster: rights, the objects of the manifests, and their images."""

from collections.abc import Mapping, Sequence
from typing import Any

from exfm.deploy.cluster import Cluster, find_permitted
from exfm.deploy.images import missing_images
from exfm.deploy.objects import RANKER_RUNTIME, SERVICE_ACCOUNT, SHARD_RUNTIME

RIGHTS: Mapping[tuple[str, str], Sequence[str]] = {
    ("serving.kserve.io", "inferenceservices"): ("get", "list", "create", "patch", "delete"),
    ("serving.kserve.io", "servingruntimes"): ("get", "list"),
    ("", "services"): ("get", "list", "create", "patch", "delete"),
    ("policy", "poddisruptionbudgets"): ("get", "list", "create", "patch", "delete"),
    ("", "pods"): ("list",),
    ("", "events"): ("list",),
    ("apps", "deployments"): ("list",),
}
"""Verbs by API group and resource that a deployment uses."""


def missing(cluster: Cluster) -> list[str]:
    """Return what is missing in a cluster's namespace for a deployment, a line each; empty if nothing is.

    Raises: ClusterError if the cluster does not answer.
    """
    lacking = missing_rights(cluster, RIGHTS)
    if lacking:
        return [
            f"this account may not {', '.join(lacking)} in namespace {cluster.namespace}: bind it to Role "
            "exfm-deployer (manifests/components/pipelines), and check that the namespace exists"
        ]
    wanted = [
        ("ServingRuntime", RANKER_RUNTIME),
        ("ServingRuntime", SHARD_RUNTIME),
        ("ServiceAccount", SERVICE_ACCOUNT),
    ]
    found = {what: cluster.get(*what) for what in wanted}
    gone = [f"{kind} {name}" for (kind, name), object_ in found.items() if object_ is None]
    if gone:
        return [f"namespace {cluster.namespace} has no {', '.join(gone)}: apply exfm's manifests there"]
    images = {
        container["image"]
        for object_ in found.values()
        for container in (object_ or {}).get("spec", {}).get("containers", [])
    }
    return [
        f"image {image} is neither in its registry nor on a node that this account may list: push it, "
        "or load it onto the nodes"
        for image in missing_images(sorted(images), nodes=find_permitted(cluster, "Node") or [])
    ]


def missing_rights(cluster: Cluster, wanted: Mapping[tuple[str, str], Sequence[str]]) -> list[str]:
    """Return the rights that this account lacks in the namespace, such as `create on services`; empty if none.

    Raises: ClusterError.
    """
    rules, all_known = cluster.own_rules()
    return [
        f"{verb} on {resource}{f'.{group}' if group else ''}"
        for (group, resource), verbs in wanted.items()
        for verb in verbs
        if all_known and not any(_covers(rule, group=group, resource=resource, verb=verb) for rule in rules)
    ]


def _covers(rule: Mapping[str, Any], *, group: str, resource: str, verb: str) -> bool:
    wanted = (("apiGroups", group), ("resources", resource), ("verbs", verb))
    return not rule.get("resourceNames") and all({value, "*"} & set(rule.get(key) or ()) for key, value in wanted)
