"""What a cluster has of one vertical model at one moment, read anew for every decision."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from exfm.deploy.cluster import Cluster
from exfm.deploy.objects import (
    COMPONENT_LABEL,
    HISTORY_ANNOTATION,
    ISVC_KIND,
    RANKER,
    RELEASE_ANNOTATION,
    SHARD,
    SHARD_LABEL,
    VERSION_LABEL,
    VM_LABEL,
    Object,
    deployment_name,
)
from exfm.deploy.problems import Problem, problems_of
from exfm.deploy.release import History, Release


@dataclass(frozen=True)
class Servers:
    """An InferenceService of ours, with what has become of it."""

    name: str
    version: int
    shard: int
    """Its number; -1 for a ranker."""
    release: Release
    """Of a ranker: what its history names first."""
    ready: int
    """Servers of this version that are ready."""
    wanted: int
    settled: bool
    """Whether all servers are of this version and ready, and KServe says so too."""
    leaving: bool
    """Whether it was deleted, and is there only until its pods are gone."""
    problems: tuple[Problem, ...]
    """Why some of them are not ready."""


@dataclass(frozen=True)
class Observation:
    """Everything of one vertical model."""

    vm: str
    ranker: Servers | None
    history: History | None
    shards: Mapping[int, Mapping[int, Servers]]
    """By version and number."""
    ranker_pods: Mapping[int, int]
    """By version: its pods, those that are ending included."""
    pods: int
    """All pods of the vertical model."""

    def is_leaving(self, release: Release) -> bool:
        """Return whether objects that a deployment of `release` would apply are still being removed."""
        concerned = [*self.shards_of(release.version), *([self.ranker] if self.ranker else [])]
        return any(servers.leaving for servers in concerned)

    def shards_of(self, version: int) -> Sequence[Servers]:
        """Return a version's shards, by number."""
        return [servers for _, servers in sorted(self.shards.get(version, {}).items())]

    def releases(self) -> list[Release]:
        """Return every release that the cluster knows of: remembered, or with shards."""
        remembered = [switch.release for switch in self.history.switches] if self.history else []
        present = [servers[0].release for version in self.shards if (servers := self.shards_of(version))]
        return remembered + present


def observe(cluster: Cluster, vm: str) -> Observation:
    """Return what the cluster has of a vertical model.

    Raises: ClusterError.
    """
    labels = {VM_LABEL: vm}
    services = cluster.find(ISVC_KIND, labels=labels)
    deployments = {item["metadata"]["name"]: item for item in cluster.find("Deployment", labels=labels)}
    pods = cluster.find("Pod", labels=labels)
    warnings = cluster.find("Event", fields="type=Warning") if services else []
    return interpret(vm, services=services, deployments=deployments, pods=pods, warnings=warnings)


def interpret(
    vm: str,
    *,
    services: Sequence[Object],
    deployments: Mapping[str, Object],
    pods: Sequence[Object],
    warnings: Sequence[Object],
) -> Observation:
    """Return what these objects of a vertical model mean.

    Raises: ConfigError if an annotation of ours was damaged.
    """
    ranker: Servers | None = None
    history: History | None = None
    shards: dict[int, dict[int, Servers]] = {}
    for service in services:
        name, annotations = service["metadata"]["name"], service["metadata"].get("annotations", {})
        labels = service["metadata"]["labels"]
        deployment = deployments.get(deployment_name(name))
        own = [pod for pod in pods if _belongs(pod, labels)]
        problems = problems_of(service, deployment, own, warnings)
        if labels[COMPONENT_LABEL] == RANKER:
            history = History.read(annotations.get(HISTORY_ANNOTATION, ""), source=f"{name}: {HISTORY_ANNOTATION}")
            ranker = _servers(service, history.current.release, deployment, problems)
        elif labels[COMPONENT_LABEL] == SHARD:
            release = Release.read(annotations.get(RELEASE_ANNOTATION, ""), source=f"{name}: {RELEASE_ANNOTATION}")
            servers = _servers(service, release, deployment, problems)
            shards.setdefault(servers.version, {})[servers.shard] = servers
    ranker_pods: dict[int, int] = {}
    for pod in pods:
        labels = pod["metadata"]["labels"]
        if labels.get(COMPONENT_LABEL) == RANKER:
            version = int(labels[VERSION_LABEL])
            ranker_pods[version] = ranker_pods.get(version, 0) + 1
    return Observation(vm=vm, ranker=ranker, history=history, shards=shards, ranker_pods=ranker_pods, pods=len(pods))


def _belongs(pod: Object, labels: Mapping[str, str]) -> bool:
    keys = (COMPONENT_LABEL, VERSION_LABEL, SHARD_LABEL)
    return all(pod["metadata"]["labels"].get(key) == labels.get(key) for key in keys)


def _servers(service: Object, release: Release, deployment: Object | None, problems: tuple[Problem, ...]) -> Servers:
    labels = service["metadata"]["labels"]
    version = int(labels[VERSION_LABEL])
    status = (deployment or {}).get("status", {})
    spec = (deployment or {}).get("spec", {})
    # KServe brings the Deployment up to date some moments after us: until then its figures are the old version's.
    current = bool(deployment) and spec["template"]["metadata"]["labels"].get(VERSION_LABEL) == str(version)
    seen = status.get("observedGeneration", 0) >= (deployment or {}).get("metadata", {}).get("generation", 1)
    # An autoscaler begins with one server and adds the others.
    wanted = max(spec.get("replicas", 1), service["spec"]["predictor"].get("minReplicas", 1))
    updated = status.get("updatedReplicas", 0) if current else 0
    unavailable = status.get("unavailableReplicas", 0)
    ready_condition = next(
        (c["status"] for c in service.get("status", {}).get("conditions", []) if c["type"] == "Ready"), "Unknown"
    )
    settled = (
        current
        and seen
        and updated == wanted == status.get("replicas", 0) == status.get("availableReplicas", 0)
        and not unavailable
        and ready_condition == "True"
    )
    return Servers(
        name=service["metadata"]["name"],
        version=version,
        shard=int(labels.get(SHARD_LABEL, "-1")),
        release=release,
        ready=max(0, updated - unavailable),
        wanted=wanted,
        settled=settled,
        leaving="deletionTimestamp" in service["metadata"],
        problems=() if settled else problems,
    )
