"""The objects of a release, by pure functions: an InferenceService and a disruption budget for the ranker and for each
shard, and a Service for each shard.

The names of a shard's objects contain the version; only their settings (resources, replicas) change. The ranker's name
is stable, and its pod template names the shards of a version. So a ranker pod serves one version only.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from exfm.artifact.digests import digest_of_json
from exfm.deploy.config import DeployConfig, RankerResources, ServerResources, ShardResources
from exfm.deploy.release import History, Release

Object = dict[str, Any]
"""A Kubernetes object, as JSON has it."""

MANAGER = "exfm"
"""The field manager of all applied objects."""

VM_LABEL, VERSION_LABEL, SHARD_LABEL = "exfm.dev/vm", "exfm.dev/version", "exfm.dev/shard"
COMPONENT_LABEL = "app.kubernetes.io/component"
RANKER, SHARD = "ranker", "shard"
RELEASE_ANNOTATION, HISTORY_ANNOTATION = "exfm.dev/release", "exfm.dev/history"
SETTINGS_ANNOTATION = "exfm.dev/settings"
"""Annotation of pods: a digest of their template, which differs between new and old pods. KServe copies annotations of
an InferenceService to its pods. A ranker's history has all settings, so a change of any setting replaces rankers."""

RANKER_RUNTIME, SHARD_RUNTIME = "exfm-ranker", "exfm-shard"
SERVICE_ACCOUNT = "exfm-server"
STORAGE_CONTAINER = "exfm"
"""The ClusterStorageContainer whose init container the namespace's Pod Security admits."""

MOUNT = "/mnt/models"
PORTS = {"grpc": 8081, "stream": 8082}
"""Ports of shards: rankers use streams; gRPC is for requests by hand. The runtimes have the same numbers."""
USER = 10_001
GRACE_PERIOD_S = 45
"""Time for a pod to end: the servers' lame_duck_s and drain_s, and some seconds more."""

_ALIKE_BY = (VM_LABEL, VERSION_LABEL, COMPONENT_LABEL, SHARD_LABEL)
"""Labels that the servers of one shard share, or rankers: they are spread over nodes and zones, and have one budget."""

_PREFERRED: Object = {"whenUnsatisfiable": "ScheduleAnyway"}
_REQUIRED: Object = {
    "whenUnsatisfiable": "DoNotSchedule",
    "nodeTaintsPolicy": "Honor",  # a node that is drained takes no pod, so it must not count as an empty one
    "matchLabelKeys": ["pod-template-hash"],  # pods that a rollout ends must not count
}
"""Conditions of a spread."""

_SCALE = ("minReplicas", "maxReplicas", "scaleMetric", "scaleTarget")
"""Fields of an InferenceService for the number of its pods; they are not part of the pods."""

ISVC_API, ISVC_KIND = "serving.kserve.io/v1beta1", "InferenceService"
BUDGET_KIND = "PodDisruptionBudget"


def shard_name(release: Release, shard: int) -> str:
    """Return the name of a shard's InferenceService."""
    return f"{release.vm}-v{release.version}-s{shard}"


def headless_name(inference_service: str) -> str:
    """Return the name of the headless Service that resolves to the ready pods of a shard's InferenceService.

    The suffix is not the port's name: earlier releases named it so, and clusters have it.
    """
    return f"{inference_service}-grpc"


def deployment_name(inference_service: str) -> str:
    """Return the name of the Deployment that KServe makes of an InferenceService."""
    return f"{inference_service}-predictor"


def release_objects(history: History) -> list[Object]:
    """Return all objects of a history's first release, in the order in which they are applied."""
    release, config = history.current.release, history.current.settings
    shards = [shard for index in range(release.num_shards) for shard in shard_objects(release, index, config)]
    return [*shards, *ranker_objects(history)]


def shard_objects(release: Release, shard: int, config: DeployConfig) -> tuple[Object, Object, Object]:
    """Return a shard's InferenceService; then its headless Service and its budget, which the former should own."""
    resources = config.shard
    labels = {**_labels(release, SHARD), SHARD_LABEL: str(shard)}
    service = _inference_service(
        shard_name(release, shard),
        release,
        config,
        # KServe would make each InferenceService reachable from outside the cluster.
        labels={**labels, "networking.kserve.io/visibility": "cluster-local"},
        annotations={RELEASE_ANNOTATION: release.text()},
        predictor=_predictor(
            release,
            component=SHARD,
            labels=labels,
            runtime=SHARD_RUNTIME,
            args=[f"--shard={shard}", f"--bundle-id={release.bundle_id}"],
            parts=[f"shards/{shard}"],
            resources=resources,
            table_bytes=release.shard_bytes[shard],
            replicas=max(config.shard.replicas, release.replicas[shard]),
            spread=config.spread,
        ),
    )
    headless = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": headless_name(shard_name(release, shard)),
            "namespace": config.namespace,
            "labels": labels,
        },
        "spec": {
            "clusterIP": "None",  # a cluster IP would pin a ranker's connection to one pod
            "selector": {"app": f"isvc.{deployment_name(shard_name(release, shard))}"},
            "ports": [
                {"name": name, "port": port, "targetPort": port, "protocol": "TCP"} for name, port in PORTS.items()
            ],
        },
    }
    return service, headless, _budget(shard_name(release, shard), config, labels=labels)


def ranker_objects(history: History) -> tuple[Object, Object]:
    """Return the ranker's InferenceService, and its budget, which the former should own."""
    release, config = history.current.release, history.current.settings
    every_version = {key: value for key, value in _labels(release, RANKER).items() if key != VERSION_LABEL}
    return ranker_object(history), _budget(release.vm, config, labels=every_version)


def ranker_object(history: History) -> Object:
    """Return the ranker's InferenceService, which serves the first release of its history."""
    release, config = history.current.release, history.current.settings
    services = [headless_name(shard_name(release, shard)) for shard in range(release.num_shards)]
    addresses = [f"{service}.{config.namespace}.svc:{PORTS['stream']}" for service in services]
    local_tables_mib = config.ranker.shards.local_tables_mib  # 0: the ConfigMap's value holds
    labels = _labels(release, RANKER)
    return _inference_service(
        release.vm,
        release,
        config,
        labels=labels,
        annotations={HISTORY_ANNOTATION: history.text()},
        predictor=_predictor(
            release,
            component=RANKER,
            labels=labels,
            runtime=RANKER_RUNTIME,
            args=[
                f"--shards={','.join(addresses)}",
                f"--bundle-id={release.bundle_id}",
                f"--when-shard-fails={config.ranker.shards.when_shard_fails}",
                *([f"--local-tables-mib={local_tables_mib}"] if local_tables_mib else []),
            ],
            parts=["ranker", "golden"],
            resources=config.ranker,
            table_bytes=release.ranker_bytes + local_tables_mib * 2**20,
            replicas=max(config.ranker.replicas, release.rankers),
            spread=config.spread,
        ),
    )


def with_owner(object_: Object, owner: Object) -> Object:
    """Return an object that the cluster removes when `owner`, as the cluster knows it, is gone."""
    reference = {
        "apiVersion": owner["apiVersion"],
        "kind": owner["kind"],
        "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"],
    }
    return {**object_, "metadata": {**object_["metadata"], "ownerReferences": [reference]}}


def settings_of(service: Object) -> str:
    """Return the digest of an InferenceService's pods; empty if an earlier release made it, which wrote none."""
    return str(service["spec"]["predictor"].get("annotations", {}).get(SETTINGS_ANNOTATION, ""))


def memory_bytes(resources: ServerResources, *, table_bytes: int) -> int:
    """Return the memory of one server, requested and limited: a whole number of MiB."""
    return (resources.overhead_mib + -(-table_bytes // 2**20)) * 2**20


def _labels(release: Release, component: str) -> dict[str, str]:
    return {
        "app.kubernetes.io/name": "exfm",
        COMPONENT_LABEL: component,
        "app.kubernetes.io/part-of": "exfm",
        "app.kubernetes.io/managed-by": "exfm",
        VM_LABEL: release.vm,
        VERSION_LABEL: str(release.version),
    }


def _budget(name: str, config: DeployConfig, *, labels: Mapping[str, str]) -> Object:
    """Return a budget by which an eviction waits until all other servers with these labels are ready.

    A budget by minAvailable would keep a server without a replica on its node for ever.
    """
    return {
        "apiVersion": "policy/v1",
        "kind": BUDGET_KIND,
        "metadata": {"name": name, "namespace": config.namespace, "labels": dict(labels)},
        "spec": {
            "maxUnavailable": 1,
            # A server that is not ready gets no requests, so it must not block the drain of its node.
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
            "selector": _alike(labels),
        },
    }


def _alike(labels: Mapping[str, str]) -> Object:
    """Return a selector of the servers that stand in for each other."""
    return {"matchLabels": {name: labels[name] for name in _ALIKE_BY if name in labels}}


def _inference_service(
    name: str,
    release: Release,
    config: DeployConfig,
    *,
    labels: Mapping[str, str],
    annotations: Mapping[str, str],
    predictor: Object,
) -> Object:
    scaled = "hpa" if predictor["maxReplicas"] > predictor["minReplicas"] else "none"
    copied = {
        "serving.kserve.io/deploymentMode": "Standard",
        "serving.kserve.io/autoscalerClass": scaled,
        "exfm.dev/bundle-id": release.bundle_id,
        **{f"exfm.dev/{key.replace('_', '-')}": value for key, value in sorted(release.lineage.items())},
        **annotations,
    }
    pods = {key: value for key, value in predictor.items() if key not in _SCALE}
    return {
        "apiVersion": ISVC_API,
        "kind": ISVC_KIND,
        "metadata": {
            "name": name,
            "namespace": config.namespace,
            "labels": dict(labels),
            "annotations": copied,
        },
        "spec": {"predictor": {**predictor, "annotations": {SETTINGS_ANNOTATION: digest_of_json([copied, pods])[:16]}}},
    }


def _predictor(
    release: Release,
    *,
    component: str,
    labels: Mapping[str, str],
    runtime: str,
    args: Sequence[str],
    parts: Sequence[str],
    resources: RankerResources | ShardResources,
    table_bytes: int,
    replicas: int,
    spread: str,
) -> Object:
    memory = f"{memory_bytes(resources, table_bytes=table_bytes) // 2**20}Mi"
    model = {
        "modelFormat": {"name": "exfm", "version": "1"},
        "runtime": runtime,
        "args": list(args),
        "resources": {
            "requests": {"cpu": f"{resources.cpu_request_m}m", "memory": memory},
            "limits": {"cpu": f"{resources.cpu_limit_m}m", "memory": memory},
        },
    }
    max_replicas = max(replicas, resources.max_replicas)
    nodes = _REQUIRED if spread == "require" else _PREFERRED
    predictor: Object = {
        "minReplicas": replicas,
        "maxReplicas": max_replicas,
        "labels": dict(labels),
        # An old pod ends only after a new one is ready.
        "deploymentStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
        "serviceAccountName": SERVICE_ACCOUNT,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "terminationGracePeriodSeconds": GRACE_PERIOD_S,
        "topologySpreadConstraints": [
            {"maxSkew": 1, "topologyKey": key, "labelSelector": _alike(labels), **condition}
            for key, condition in (("topology.kubernetes.io/zone", _PREFERRED), ("kubernetes.io/hostname", nodes))
        ],
        "model": model,
    }
    if release.is_mounted:
        model["storageUri"] = release.uri  # mounted as it is, nothing is copied
    else:
        # A server copies only its own part of the bundle. The slash keeps shards/1 from meaning shards/10 as well.
        predictor["storageContainerName"] = STORAGE_CONTAINER
        predictor["storageUris"] = [
            {"uri": f"{release.uri}/manifest.json", "mountPath": MOUNT},
            *({"uri": f"{release.uri}/{part}/", "mountPath": f"{MOUNT}/{part}"} for part in parts),
        ]
    if max_replicas > replicas:
        predictor |= {"scaleMetric": "cpu", "scaleTarget": resources.cpu_target_percent}
    return predictor
