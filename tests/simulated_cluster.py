"""An API server with a KServe behind it, as far as a rollout can tell, in one process and without waiting.

Each listing of Deployments lets a moment pass. KServe takes what was applied to a Deployment a moment later; new pods
come one by one, are ready a moment after that unless their version is broken, and for each an old one is told to end,
which takes some moments more. What is deleted stays until its pods are gone. It checks what a rollout must never do:
leave a ready ranker without the shards of its version, or take the last ready ranker away.
"""

import copy
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from exfm.deploy.objects import (
    COMPONENT_LABEL,
    RANKER,
    SHARD_LABEL,
    VERSION_LABEL,
    VM_LABEL,
    Object,
    deployment_name,
)
from exfm.errors import ClusterError

MOMENTS_TO_END = 2
"""That a pod is there after it was told to end."""


class KilledError(BaseException):
    """The deploying process ends here."""


@dataclass
class Pod:
    """One pod."""

    name: str
    service: str
    labels: dict[str, str]
    annotations: dict[str, str]
    ready: bool = False
    said: str = ""
    moments_left: int = -1
    """-1 while nobody told it to end."""

    def is_of(self, template: Object) -> bool:
        """Return whether it was made of this."""
        return self.labels == template["labels"] and self.annotations == template["annotations"]


@dataclass
class SimulatedCluster:
    """What a rollout needs of exfm.deploy.cluster.Cluster."""

    namespace: str = "exfm"
    objects: dict[tuple[str, str], Object] = field(default_factory=dict)
    pods: list[Pod] = field(default_factory=list)
    evicted: list[Object] = field(default_factory=list)
    templates: dict[str, Object] = field(default_factory=dict)
    """By InferenceService: what KServe has made a Deployment of. It copies annotations to pods."""
    completed: dict[str, Object] = field(default_factory=dict)
    """By InferenceService: the annotations that all its pods had last."""
    stuck: bool = False
    """Whether pods never end: their node is lost."""
    age_s: float = 0.0
    """Of what is applied now, when it is looked at later."""
    broken: dict[tuple[int, str], str] = field(default_factory=dict)
    """By version and component: the last words of its servers."""
    sturdy: bool = False
    """Whether servers that were ready do not break."""
    nodes: list[Object] = field(default_factory=lambda: [node("one", cpu="64", memory="256Gi")])
    quotas: list[Object] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    """By name: what the API server says to an object that is applied."""
    quota_pods: int = 0
    """A quota on pods, which counts those that end; 0: none."""
    denied: str = ""
    """What an admission webhook says to every new pod; empty: it lets them be made."""
    undeletable: str = ""
    """What the API server says to every deletion; empty: it deletes."""
    calls_until_killed: int = -1
    """The call, from 0, that the deploying process does not live to make; -1: it lives."""
    num_calls: int = 0
    num_pods: int = 0
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
                found = [self._deployment(item) for item in self._services() if self._name(item) in self.templates]
            case "Pod":
                evicted = [{**pod, "spec": {"containers": []}, "status": {"phase": "Failed"}} for pod in self.evicted]
                found = [*(self._pod(pod) for pod in self.pods), *evicted]
            case "Node":
                found = self.nodes
            case "ResourceQuota":
                found = [*self.quotas, *([self._quota()] if self.quota_pods else [])]
            case "every Pod" | "Event" | "ServingRuntime":
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
        if key[1] in self.refused:
            raise ClusterError(self.refused[key[1]])
        before = self.objects.get(key, {"metadata": {}})["metadata"]
        created = datetime.fromtimestamp(time.time() - self.age_s, UTC).isoformat()
        applied["metadata"] |= {
            "uid": f"uid of {key[1]}",
            "creationTimestamp": before.get("creationTimestamp", created),
        }
        if "deletionTimestamp" in before:
            applied["metadata"]["deletionTimestamp"] = before["deletionTimestamp"]
        if not dry_run:
            self.num_writes += 1
            self.objects[key] = applied
        return copy.deepcopy(applied)

    def delete(self, kind: str, name: str) -> None:
        self._call()
        if self.undeletable:
            raise ClusterError(self.undeletable)
        self.num_writes += 1
        found = self.objects.get((kind, name))
        if found is not None and kind == "InferenceService":
            found["metadata"]["deletionTimestamp"] = "now"
        elif found is not None:
            del self.objects[kind, name]

    def rest(self) -> None:
        """Let what is ending end."""
        for _ in range(MOMENTS_TO_END + 2):
            self._pass_a_moment()

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

    def _quota(self) -> Object:
        status = {"hard": {"pods": str(self.quota_pods)}, "used": {"pods": str(len(self.pods))}}
        return {"metadata": {"name": "test"}, "status": status}

    def _services(self) -> list[Object]:
        """Return those of ours; who else's there are does nothing."""
        found = [item for (kind, _), item in self.objects.items() if kind == "InferenceService"]
        return [item for item in found if VM_LABEL in item["metadata"].get("labels", {})]

    def _name(self, service: Object) -> str:
        name: str = service["metadata"]["name"]
        return name

    def _pass_a_moment(self) -> None:
        had_rankers = bool(self.ready_rankers())
        services = {self._name(item): item for item in self._services()}
        staying = {name for name, item in services.items() if "deletionTimestamp" not in item["metadata"]}
        ranker_stays = any(services[name]["metadata"]["labels"][COMPONENT_LABEL] == RANKER for name in staying)
        for pod in self.pods:
            if pod.service not in staying:
                self._end(pod)
            elif pod.moments_left < 0:
                breaks = not (pod.ready and self.sturdy)
                key = (int(pod.labels[VERSION_LABEL]), pod.labels[COMPONENT_LABEL])
                pod.said = self.broken.get(key, "") if breaks else ""
                pod.ready = not pod.said
            else:
                pod.moments_left -= not self.stuck
        self.pods = [pod for pod in self.pods if pod.moments_left != 0]
        for name in services.keys() - staying:
            if not any(pod.service == name for pod in self.pods):
                self._forget(name)
        for name in sorted(staying):
            if name in self.templates:
                self._roll(name, self.templates[name])
            self.templates[name] = self._template(services[name])
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

    def _template(self, service: Object) -> Object:
        predictor = service["spec"]["predictor"]
        annotations = {**service["metadata"]["annotations"], **predictor["annotations"]}
        return {"replicas": predictor["minReplicas"], "labels": dict(predictor["labels"]), "annotations": annotations}

    def _roll(self, name: str, template: Object) -> None:
        """Take one step of a Deployment's rolling update: one pod more than wanted at most, none less."""
        own = [pod for pod in self.pods if pod.service == name and pod.moments_left < 0]
        new = [pod for pod in own if pod.is_of(template)]
        old = [pod for pod in own if not pod.is_of(template)]
        ready = [pod for pod in own if pod.ready]
        unready = [pod for pod in old if not pod.ready]
        if unready:  # what serves nobody makes room at once
            self._end(unready[0])
        elif len(ready) > template["replicas"]:
            self._end((old or new)[0])
        elif len(new) < template["replicas"] and len(own) <= template["replicas"] and not self.denied:
            self.num_pods += 1
            version = template["labels"][VERSION_LABEL]
            pod = Pod(f"{name}-v{version}-{self.num_pods}", name, dict(template["labels"]), template["annotations"])
            self.pods.append(pod)
        elif not old and len(new) == template["replicas"] and all(pod.ready for pod in new):
            self.completed[name] = template["annotations"]

    def _end(self, pod: Pod) -> None:
        pod.ready = False
        pod.moments_left = MOMENTS_TO_END if pod.moments_left < 0 else pod.moments_left - (not self.stuck)

    def _forget(self, name: str) -> None:
        """Remove an InferenceService and all that it owns."""
        del self.objects["InferenceService", name]
        self.templates.pop(name, None)
        self.completed.pop(name, None)
        gone = f"uid of {name}"
        for key, item in list(self.objects.items()):
            if any(owner["uid"] == gone for owner in item["metadata"].get("ownerReferences", [])):
                del self.objects[key]

    def _deployment(self, service: Object) -> Object:
        name = self._name(service)
        template = self.templates[name]
        own = [pod for pod in self.pods if pod.service == name and pod.moments_left < 0]
        updated = [pod for pod in own if pod.is_of(template)]
        ready = [pod for pod in own if pod.ready]
        conditions = [{"type": "Ready", "status": "True" if any(pod.ready for pod in updated) else "False"}]
        progress = (
            "NewReplicaSetAvailable" if self.completed.get(name) == template["annotations"] else "ReplicaSetUpdated"
        )
        self.objects["InferenceService", name]["status"] = {"conditions": conditions}
        refusal = {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": self.denied}
        refused = [refusal] if self.denied and len(updated) < template["replicas"] else []
        status: dict[str, Any] = {
            "observedGeneration": 1,
            "replicas": len(own),
            "updatedReplicas": len(updated),
            "availableReplicas": len(ready),
            "unavailableReplicas": len(own) - len(ready),
            "conditions": [{"type": "Progressing", "status": "True", "reason": progress}, *refused],
        }
        return {
            "metadata": {
                "name": deployment_name(name),
                "namespace": self.namespace,
                "generation": 1,
                "labels": service["metadata"]["labels"],
            },
            "spec": {
                "replicas": template["replicas"],
                "template": {"metadata": {"labels": template["labels"], "annotations": template["annotations"]}},
            },
            "status": status,
        }

    def _pod(self, pod: Pod) -> Object:
        container: Object = {"name": "kserve-container", "ready": pod.ready, "restartCount": 1, "state": {}}
        if pod.said:
            container["state"] = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off"}}
            container["lastState"] = {"terminated": {"exitCode": 3, "reason": "Error", "message": pod.said}}
        return {
            "metadata": {
                "name": pod.name,
                "labels": pod.labels,
                "annotations": pod.annotations,
                **({"deletionTimestamp": "now"} if pod.moments_left >= 0 else {}),
            },
            "spec": {"containers": []},
            "status": {"containerStatuses": [container]},
        }


def node(name: str, *, cpu: str, memory: str) -> Object:
    """Return a node that takes pods."""
    return {
        "metadata": {"name": name},
        "spec": {},
        "status": {
            "allocatable": {"cpu": cpu, "memory": memory, "pods": "110"},
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }


def of_model(cluster: SimulatedCluster, vm: str) -> list[str]:
    """Return the kinds and names of a vertical model's objects."""
    return sorted(
        f"{kind}/{name}" for (kind, name), item in cluster.objects.items() if item["metadata"]["labels"][VM_LABEL] == vm
    )
