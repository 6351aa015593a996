"""An API server with a KServe behind it, as far as a rollout can tell, in one process and without waiting.

Each listing of Deployments lets a moment pass: new pods come one by one, are ready a moment later unless their version
is broken, and only then old ones go. It checks what a rollout must never do: leave a ready ranker without the shards
of its version, or take the last ready ranker away.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from exfm.deploy.objects import COMPONENT_LABEL, RANKER, SHARD_LABEL, VERSION_LABEL, VM_LABEL, Object, deployment_name


class KilledError(BaseException):
    """The deploying process ends here."""


@dataclass
class Pod:
    """One pod."""

    name: str
    service: str
    labels: dict[str, str]
    ready: bool = False
    said: str = ""


@dataclass
class SimulatedCluster:
    """What a rollout needs of exfm.deploy.cluster.Cluster."""

    namespace: str = "exfm"
    objects: dict[tuple[str, str], Object] = field(default_factory=dict)
    pods: list[Pod] = field(default_factory=list)
    broken: dict[tuple[int, str], str] = field(default_factory=dict)
    """By version and component: the last words of its servers."""
    nodes: list[Object] = field(default_factory=lambda: [node("one", cpu="64", memory="256Gi")])
    quotas: list[Object] = field(default_factory=list)
    calls_until_killed: int = -1
    """The call, from 0, that the deploying process does not live to make; -1: it lives."""
    num_calls: int = 0
    num_writes: int = 0
    outage: bool = False
    """Whether all rankers may be lost."""
    served: list[int] = field(default_factory=list)
    """Versions that all ready rankers were of, in order."""

    def find(self, kind: str, *, labels: Mapping[str, str] | None = None, fields: str = "") -> list[Object]:
        self._call()
        match kind:
            case "Deployment":
                self._pass_a_moment()
                found = [self._deployment(item) for item in self._services()]
            case "Pod":
                found = [self._pod(pod) for pod in self.pods]
            case "Node":
                found = self.nodes
            case "ResourceQuota":
                found = self.quotas
            case "every Pod" | "Event":
                found = []
            case _:
                found = [item for (of_kind, _), item in self.objects.items() if of_kind == kind]
        wanted = (labels or {}).items()
        return [copy.deepcopy(item) for item in found if wanted <= item["metadata"].get("labels", {}).items()]

    def get(self, kind: str, name: str) -> Object | None:
        return copy.deepcopy(self.objects.get((kind, name)))

    def apply(self, object_: Object, *, dry_run: bool = False) -> Object:
        applied = copy.deepcopy(object_)
        key = (object_["kind"], object_["metadata"]["name"])
        self._call()
        applied["metadata"]["uid"] = f"uid of {key[1]}"
        if not dry_run:
            self.num_writes += 1
            self.objects[key] = applied
        return copy.deepcopy(applied)

    def delete(self, kind: str, name: str) -> None:
        self._call()
        self.num_writes += 1
        self.objects.pop((kind, name), None)
        gone = f"uid of {name}"
        for key, item in list(self.objects.items()):
            if any(owner["uid"] == gone for owner in item["metadata"].get("ownerReferences", [])):
                del self.objects[key]

    def ready_rankers(self) -> list[int]:
        """Return the versions of the ready rankers."""
        return [
            int(pod.labels[VERSION_LABEL]) for pod in self.pods if pod.ready and pod.labels[COMPONENT_LABEL] == RANKER
        ]

    def names(self) -> list[str]:
        """Return the names of all InferenceServices."""
        return sorted(item["metadata"]["name"] for item in self._services())

    def _call(self) -> None:
        if self.num_calls == self.calls_until_killed:
            raise KilledError
        self.num_calls += 1

    def _services(self) -> list[Object]:
        return [item for (kind, _), item in self.objects.items() if kind == "InferenceService"]

    def _pass_a_moment(self) -> None:
        had_rankers = bool(self.ready_rankers())
        services = {item["metadata"]["name"]: item for item in self._services()}
        ranker_stays = any(item["metadata"]["labels"][COMPONENT_LABEL] == RANKER for item in services.values())
        self.pods = [pod for pod in self.pods if pod.service in services]
        for name, service in services.items():
            predictor = service["spec"]["predictor"]
            own = [pod for pod in self.pods if pod.service == name]
            new = [pod for pod in own if pod.labels == predictor["labels"]]
            old = [pod for pod in own if pod.labels != predictor["labels"]]
            for pod in new:
                key = (int(pod.labels[VERSION_LABEL]), pod.labels[COMPONENT_LABEL])
                pod.said = self.broken.get(key, "")
                pod.ready = not pod.said
            if len(new) < predictor["minReplicas"] and all(pod.ready for pod in new):
                version = predictor["labels"][VERSION_LABEL]
                self.pods.append(Pod(f"{name}-v{version}-{len(new)}", name, dict(predictor["labels"])))
            elif old and all(pod.ready for pod in new):
                self.pods.remove(old[0])
        for version in self.ready_rankers():
            shards = {
                pod.labels[SHARD_LABEL]
                for pod in self.pods
                if pod.ready and SHARD_LABEL in pod.labels and pod.labels[VERSION_LABEL] == str(version)
            }
            assert self.outage or shards == {"0", "1"}, f"a ranker serves version {version} with shards {shards}"
        ready = set(self.ready_rankers())
        if len(ready) == 1 and ready != set(self.served[-1:]):
            self.served += ready
        assert ready or self.outage or not (had_rankers and ranker_stays), "no ranker is left"

    def _deployment(self, service: Object) -> Object:
        name, predictor = service["metadata"]["name"], service["spec"]["predictor"]
        own = [pod for pod in self.pods if pod.service == name]
        updated = [pod for pod in own if pod.labels == predictor["labels"]]
        ready = [pod for pod in own if pod.ready]
        conditions = [{"type": "Ready", "status": "True" if any(pod.ready for pod in updated) else "False"}]
        self.objects["InferenceService", name]["status"] = {"conditions": conditions}
        status: dict[str, Any] = {
            "observedGeneration": 1,
            "replicas": len(own),
            "updatedReplicas": len(updated),
            "availableReplicas": len(ready),
            "unavailableReplicas": len(own) - len(ready),
        }
        return {
            "metadata": {"name": deployment_name(name), "generation": 1, "labels": service["metadata"]["labels"]},
            "spec": {
                "replicas": predictor["minReplicas"],
                "template": {"metadata": {"labels": predictor["labels"]}},
            },
            "status": status,
        }

    def _pod(self, pod: Pod) -> Object:
        container: Object = {"name": "kserve-container", "ready": pod.ready, "restartCount": 1, "state": {}}
        if pod.said:
            container["state"] = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off"}}
            container["lastState"] = {"terminated": {"exitCode": 3, "reason": "Error", "message": pod.said}}
        return {
            "metadata": {"name": pod.name, "labels": pod.labels},
            "spec": {"containers": []},
            "status": {"containerStatuses": [container]},
        }


def node(name: str, *, cpu: str, memory: str) -> Object:
    """Return a node that takes pods."""
    return {
        "metadata": {"name": name},
        "spec": {},
        "status": {
            "allocatable": {"cpu": cpu, "memory": memory},
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }


def of_model(cluster: SimulatedCluster, vm: str) -> list[str]:
    """Return the kinds and names of a vertical model's objects."""
    return sorted(
        f"{kind}/{name}" for (kind, name), item in cluster.objects.items() if item["metadata"]["labels"][VM_LABEL] == vm
    )
