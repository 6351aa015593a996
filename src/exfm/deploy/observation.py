"""The objects of one vertical model in a cluster, read again before every decision."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from kubernetes.utils.quantity import parse_quantity

from exfm.deploy.cluster import Cluster
from exfm.deploy.objects import (
    COMPONENT_LABEL,
    HISTORY_ANNOTATION,
    ISVC_KIND,
    RANKER,
    RELEASE_ANNOTATION,
    SETTINGS_ANNOTATION,
    SHARD,
    SHARD_LABEL,
    VERSION_LABEL,
    VM_LABEL,
    Object,
    deployment_name,
    settings_of,
)
from exfm.deploy.problems import Problem, problems_of
from exfm.deploy.release import History, Release


@dataclass(frozen=True)
class Servers:
    """An InferenceService that exfm made, and the state of its servers."""

    name: str
    version: int
    shard: int
    """Number of the shard; -1 for a ranker."""
    release: Release
    """Release that it serves; for a ranker, the first entry of its history."""
    settings: str
    """Digest of the settings that its pods should have."""
    memory_bytes: int
    """Memory request of one server."""
    created_s: int
    """Unix time."""
    ready: int
    """Servers of this version and settings that are ready."""
    available: int
    """Servers that are ready, also those of before a change."""
    wanted: int
    settled: bool
    """Whether all servers have this version and settings and are ready, and KServe reports it ready."""
    completed: bool
    """Whether they were once settled, even if they are not now."""
    leaving: bool
    """Whether it was deleted and waits for its pods to end."""
    problems: tuple[Problem, ...]
    """Why some servers are not ready."""


@dataclass(frozen=True)
class Observation:
    """Everything of one vertical model."""

    vm: str
    ranker: Servers | None
    history: History | None
    shards: Mapping[int, Mapping[int, Servers]]
    """Shards by version and number."""
    ranker_pods: Mapping[int, int]
    """Number of pods by version, with those that are ending."""
    old_ranker_pods: int
    """Pods whose version or settings differ from the ranker's, including pods that are ending."""
    pods: int
    """All pods of the vertical model."""

    def all_servers(self) -> Iterator[Servers]:
        """Yield the shards of all versions, and the ranker."""
        for version in sorted(self.shards):
            yield from self.shards_of(version)
        if self.ranker is not None:
            yield self.ranker

    @property
    def switching(self) -> bool:
        """Return whether the ranker's last switch has not ended: its servers never all had its version and settings.

        If no pod has the version before (or, without a history, another version), the old pods have this version and
        settings of an earlier exfm.
        """
        if self.ranker is None or self.ranker.completed or not self.old_ranker_pods:
            return False
        before = self.history.before if self.history is not None else None
        if before is None:
            return any(num for version, num in self.ranker_pods.items() if version != self.ranker.version)
        return self.ranker_pods.get(before.current.release.version, 0) > 0

    @property
    def served(self) -> History | None:
        """Return the history without a switch that has not ended."""
        return self.history.before if self.history is not None and self.switching else self.history

    def is_leaving(self, release: Release) -> bool:
        """Return whether objects that a deployment of `release` would apply are still being removed."""
        concerned = [*self.shards_of(release.version), *([self.ranker] if self.ranker else [])]
        return any(servers.leaving for servers in concerned)

    def shards_of(self, version: int) -> Sequence[Servers]:
        """Return a version's shards, by number."""
        return [servers for _, servers in sorted(self.shards.get(version, {}).items())]

    def releases(self) -> list[Release]:
        """Return every release that the cluster knows of: those that the ranker remembers, and those of servers."""
        remembered = [switch.release for switch in self.history.switches] if self.history else []
        return [*remembered, *(servers.release for servers in self.all_servers())]


def observe(cluster: Cluster, vm: str) -> Observation:
    """Return what the cluster has of a vertical model.

    Raises: ClusterError; ConfigError if an annotation that exfm wrote was damaged.
    """
    labels = {VM_LABEL: vm}
    services = cluster.find(ISVC_KIND, labels=labels)
    deployments = {item["metadata"]["name"]: item for item in cluster.find("Deployment", labels=labels)}
    pods = cluster.find("Pod", labels=labels)
    warnings = cluster.find("Event", fields="type=Warning") if services else []
    ranker: Servers | None = None
    history: History | None = None
    # Evicted and preempted pods stay listed for days.
    pods = [pod for pod in pods if pod.get("status", {}).get("phase") not in {"Succeeded", "Failed"}]
    shards: dict[int, dict[int, Servers]] = {}
    for service in services:
        name, annotations = service["metadata"]["name"], service["metadata"].get("annotations", {})
        labels = service["metadata"]["labels"]
        deployment = deployments.get(deployment_name(name))
        own = [pod for pod in pods if _belongs(pod, labels, settings_of(service))]
        problems = problems_of(service, deployment, own, warnings)
        if labels[COMPONENT_LABEL] == RANKER:
            history = History.read(annotations.get(HISTORY_ANNOTATION, ""), source=f"{name}: {HISTORY_ANNOTATION}")
            ranker = _servers(service, history.current.release, deployment, problems)
        elif labels[COMPONENT_LABEL] == SHARD:
            release = Release.read(annotations.get(RELEASE_ANNOTATION, ""), source=f"{name}: {RELEASE_ANNOTATION}")
            servers = _servers(service, release, deployment, problems)
            shards.setdefault(servers.version, {})[servers.shard] = servers
    ranker_pods = [pod["metadata"] for pod in pods if pod["metadata"]["labels"].get(COMPONENT_LABEL) == RANKER]
    versions = [int(pod["labels"][VERSION_LABEL]) for pod in ranker_pods]
    settings = [pod.get("annotations", {}).get(SETTINGS_ANNOTATION, "") for pod in ranker_pods]
    now = (ranker.version, ranker.settings) if ranker else None
    return Observation(
        vm=vm,
        ranker=ranker,
        history=history,
        shards=shards,
        ranker_pods=Counter(versions),
        old_ranker_pods=sum(one != now for one in zip(versions, settings, strict=True)),
        pods=len(pods),
    )


def _belongs(pod: Object, labels: Mapping[str, str], settings: str) -> bool:
    """Return whether a pod has these labels and settings of its InferenceService."""
    keys = (COMPONENT_LABEL, VERSION_LABEL, SHARD_LABEL)
    same = all(pod["metadata"]["labels"].get(key) == labels.get(key) for key in keys)
    return same and pod["metadata"].get("annotations", {}).get(SETTINGS_ANNOTATION, "") == settings


def _servers(service: Object, release: Release, deployment: Object | None, problems: tuple[Problem, ...]) -> Servers:
    labels = service["metadata"]["labels"]
    version = int(labels[VERSION_LABEL])
    status = (deployment or {}).get("status", {})
    spec = (deployment or {}).get("spec", {})
    # KServe updates the Deployment some moments after the InferenceService; until then its figures are the old ones.
    template = spec["template"]["metadata"] if deployment else {}
    current = (
        deployment is not None
        and template["labels"].get(VERSION_LABEL) == str(version)
        and template.get("annotations", {}).get(SETTINGS_ANNOTATION, "") == settings_of(service)
        and status.get("observedGeneration", 0) >= deployment["metadata"].get("generation", 1)
    )
    predictor = service["spec"]["predictor"]
    # An autoscaler begins with one server and adds the others.
    wanted = max(spec.get("replicas", 1), predictor.get("minReplicas", 1))
    updated = status.get("updatedReplicas", 0) if current else 0
    unavailable = status.get("unavailableReplicas", 0)
    settled = (
        current
        and updated == wanted == status.get("replicas", 0) == status.get("availableReplicas", 0)
        and not unavailable
        and _condition(service, "Ready").get("status") == "True"
    )
    return Servers(
        name=service["metadata"]["name"],
        version=version,
        shard=int(labels.get(SHARD_LABEL, "-1")),
        release=release,
        settings=settings_of(service),
        memory_bytes=int(parse_quantity(predictor["model"]["resources"]["requests"]["memory"])),
        created_s=int(datetime.fromisoformat(service["metadata"]["creationTimestamp"]).timestamp()),
        ready=max(0, updated - unavailable),
        available=status.get("availableReplicas", 0),
        wanted=wanted,
        settled=settled,
        # The Deployment's controller reports this once all pods of a template are there, until the template changes.
        completed=current and _condition(deployment, "Progressing").get("reason") == "NewReplicaSetAvailable",
        leaving="deletionTimestamp" in service["metadata"],
        problems=() if settled else problems,
    )


def _condition(object_: Object | None, type_: str) -> Object:
    conditions = (object_ or {}).get("status", {}).get("conditions", [])
    return next((condition for condition in conditions if condition["type"] == type_), {})
