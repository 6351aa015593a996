"""Whether a rollout fits: a namespace's quotas and the nodes must hold the old and the new version together."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

from kubernetes.utils.quantity import parse_quantity

from exfm.deploy.config import DeployConfig
from exfm.deploy.decision import history_after
from exfm.deploy.objects import Object, ranker_object, settings_of, shard_objects
from exfm.deploy.observation import Observation, Servers
from exfm.deploy.release import Release
from exfm.errors import CapacityError

Amounts = Mapping[str, Decimal]
"""Amount of each resource: cores, bytes or a number."""


@dataclass(frozen=True)
class Demand:
    """The resources of one more pod."""

    what: str
    requests: Amounts
    limits: Amounts
    node_selector: Mapping[str, str] = field(default_factory=dict)
    tolerations: Sequence[Object] = ()


@dataclass(frozen=True)
class Room:
    """What a cluster reports about its capacity; None where the account has no right to read it."""

    quotas: Sequence[Object] | None
    runtimes: Sequence[Object] | None
    nodes: Sequence[Object] | None
    pods: Sequence[Object] | None
    """Pods of all namespaces."""


@dataclass(frozen=True)
class Forecast:
    """Memory of all servers of a vertical model, before and while a version takes over."""

    present_bytes: int
    added_bytes: int
    unchecked: tuple[str, ...] = ()
    """What could not be checked."""

    def __str__(self) -> str:
        """Return one line."""
        peak = f"peak memory {_gib(self.present_bytes + self.added_bytes)}"
        parts = f"{_gib(self.present_bytes)} of running servers and {_gib(self.added_bytes)} of new servers"
        unchecked = f"; not checked: {', '.join(self.unchecked)}" if self.unchecked else ""
        return f"{peak} ({parts}){unchecked}"


def new_servers(
    release: Release, seen: Observation, config: DeployConfig, runtimes: Sequence[Object] = ()
) -> list[Demand]:
    """Return the servers that a rollout of `release` adds, including those that replace others.

    Pods are replaced one by one, but a pod that ends still counts for a while, in a quota and on its node. So every new
    pod counts as added.
    """
    demands: list[Demand] = []
    present = {servers.shard: servers for servers in seen.shards_of(release.version)}
    for shard in range(release.num_shards):
        service, *_ = shard_objects(release, shard, config)
        demands += _added(f"shard {shard}", service, present.get(shard), runtimes)
    ranker = ranker_object(history_after(release, seen, config, at_s=0))
    return demands + _added("ranker", ranker, seen.ranker, runtimes)


def forecast(release: Release, seen: Observation, config: DeployConfig, room: Room) -> Forecast:
    """Return the memory of a rollout of `release` at its peak.

    Raises: CapacityError if a quota or the nodes cannot hold it, which names it, what is free and what is requested.
    """
    added = new_servers(release, seen, config, room.runtimes or ())
    unchecked = []
    if room.quotas is None:
        unchecked.append("quotas (no right to read them)")
    else:
        _check_quotas(added, room.quotas, name=release.name)
    if not config.nodes_must_fit:
        unchecked.append("nodes (nodes_must_fit is off)")
    elif room.nodes is None or room.pods is None or room.runtimes is None:
        listed = {"nodes": room.nodes, "all pods": room.pods, "runtimes": room.runtimes}
        unseen = [what for what, found in listed.items() if found is None]
        unchecked.append(f"nodes (no right to list {' and '.join(unseen)})")
    else:
        _check_nodes(added, room.nodes, room.pods, name=release.name)
    return Forecast(
        present_bytes=sum(servers.memory_bytes * servers.wanted for servers in seen.all_servers()),
        added_bytes=int(sum(demand.requests["memory"] for demand in added)),
        unchecked=tuple(unchecked),
    )


def _added(what: str, service: Object, present: Servers | None, runtimes: Sequence[Object]) -> list[Demand]:
    """Return a demand for each server that applying an InferenceService adds to those which are there."""
    wanted = service["spec"]["predictor"]["minReplicas"]
    if present is None:
        added = wanted
    elif present.settings == settings_of(service):
        added = max(0, wanted - present.wanted)
    else:
        added = max(wanted, present.wanted)
    return [_demand(what, service, runtimes)] * added


def _demand(what: str, service: Object, runtimes: Sequence[Object]) -> Demand:
    model = service["spec"]["predictor"]["model"]
    named = [item["spec"] for item in runtimes if item["metadata"]["name"] == model["runtime"]]
    runtime: Object = named[0] if named else {}
    server, *others = [one.get("resources", {}) for one in runtime.get("containers", [{}])]
    # KServe merges by key: a runtime's own resources (GPUs) stay where the InferenceService names none.
    merged = {kind: {**server.get(kind, {}), **model["resources"][kind]} for kind in ("requests", "limits")}
    return Demand(
        what=what,
        requests=_sum(_amounts(one.get("requests", {})) for one in (merged, *others)),
        limits=_sum(_amounts(one.get("limits", {})) for one in (merged, *others)),
        node_selector=runtime.get("nodeSelector", {}),
        tolerations=runtime.get("tolerations", ()),
    )


def _check_quotas(added: Sequence[Demand], quotas: Sequence[Object], *, name: str) -> None:
    requests, limits = _sum(demand.requests for demand in added), _sum(demand.limits for demand in added)
    pods = Decimal(len(added))
    wanted = {
        **{resource: amount for resource, amount in requests.items() if resource in {"cpu", "memory"}},
        **{f"requests.{resource}": amount for resource, amount in requests.items()},
        **{f"limits.{resource}": amount for resource, amount in limits.items()},
        **dict.fromkeys(("pods", "count/pods"), pods),
    }
    for quota in filter(_covers_servers, quotas):
        status = quota.get("status", {})
        for resource, hard in status.get("hard", {}).items():
            free = max(parse_quantity(hard) - parse_quantity(status.get("used", {}).get(resource, "0")), Decimal(0))
            if wanted.get(resource, Decimal(0)) > free:
                raise CapacityError(
                    f"{name} adds {len(added)} pods, which request {_amount(resource, wanted[resource])} of "
                    f"{resource}, but quota {quota['metadata']['name']!r} has {_amount(resource, free)} of "
                    f"{_amount(resource, parse_quantity(hard))} left; raise the quota, or delete what is not needed"
                )


def _covers_servers(quota: Object) -> bool:
    """Return whether a quota's scopes take in our pods: with requests, without a deadline or a priority class.

    A default priority class of the cluster is not considered.
    """
    spec = quota.get("spec", {})
    selector = spec.get("scopeSelector", {}).get("matchExpressions", [])
    without = {"DoesNotExist", "NotIn"}
    scopes = {*spec.get("scopes", []), *(one["scopeName"] for one in selector if one["operator"] not in without)}
    return scopes <= {"NotTerminating", "NotBestEffort"}


def _check_nodes(added: Sequence[Demand], nodes: Sequence[Object], pods: Sequence[Object], *, name: str) -> None:
    """Place the new servers, largest first, on the nodes with most memory free, as the scheduler might."""
    free = {node["metadata"]["name"]: _free_on(node, pods) for node in nodes}
    usable = [node for node in nodes if _is_ready(node)]
    for demand in sorted(added, key=lambda demand: -demand.requests["memory"]):
        admitting = [node["metadata"]["name"] for node in usable if _admits(node, demand)]
        wanted = {**demand.requests, "pods": Decimal(1)}
        fitting = [one for one in admitting if all(free[one].get(key, 0) >= value for key, value in wanted.items())]
        if not fitting:
            most = {
                key: max((free[one].get(key, Decimal(0)) for one in admitting), default=Decimal(0)) for key in wanted
            }
            raise CapacityError(
                f"{name}: no node has room for a {demand.what} of {_listed(demand.requests)} beside the running pods; "
                f"{len(admitting)} of {len(nodes)} nodes admit it, and the one with most free has {_listed(most)}; "
                "add nodes, plan smaller shards, or lower the requests in the settings"
            )
        chosen = max(fitting, key=lambda one: free[one]["memory"])
        free[chosen] = {key: amount - wanted.get(key, 0) for key, amount in free[chosen].items()}


def _is_ready(node: Object) -> bool:
    ready = any(c["type"] == "Ready" and c["status"] == "True" for c in node["status"].get("conditions", []))
    return ready and not node.get("spec", {}).get("unschedulable", False)


def _admits(node: Object, demand: Demand) -> bool:
    """Return whether a node has the labels that a pod selects, and no taint that it does not tolerate."""
    taints = [taint for taint in node.get("spec", {}).get("taints", []) if taint["effect"] != "PreferNoSchedule"]
    return demand.node_selector.items() <= node["metadata"].get("labels", {}).items() and all(
        any(_tolerates(toleration, taint) for toleration in demand.tolerations) for taint in taints
    )


def _tolerates(toleration: Object, taint: Object) -> bool:
    if toleration.get("effect") not in {None, "", taint["effect"]}:
        return False
    if toleration.get("operator", "Equal") == "Exists":
        return toleration.get("key") in {None, "", taint["key"]}
    return (toleration.get("key"), toleration.get("value", "")) == (taint["key"], taint.get("value", ""))


def _free_on(node: Object, pods: Sequence[Object]) -> dict[str, Decimal]:
    """Return how much of each of a node's resources its pods do not request."""
    name = node["metadata"]["name"]
    there = [
        pod
        for pod in pods
        if pod["spec"].get("nodeName") == name and pod.get("status", {}).get("phase") not in {"Succeeded", "Failed"}
    ]
    taken = _sum([*(_requests(pod) for pod in there), {"pods": Decimal(len(there))}])
    return {
        resource: parse_quantity(amount) - taken.get(resource, 0)
        for resource, amount in node["status"]["allocatable"].items()
    }


def _requests(pod: Object) -> Amounts:
    """Return what a pod requests: the sum of its containers, or an init container's request where that is larger."""
    spec = pod["spec"]
    sidecars = [container for container in spec.get("initContainers", []) if container.get("restartPolicy") == "Always"]
    together = _sum(_requests_of(container) for container in [*spec.get("containers", []), *sidecars])
    first = [_requests_of(container) for container in spec.get("initContainers", [])]
    return {
        key: max(one.get(key, Decimal(0)) for one in (together, *first)) for one in (together, *first) for key in one
    }


def _requests_of(container: Object) -> Amounts:
    return _amounts(container.get("resources", {}).get("requests", {}))


def _amounts(quantities: Mapping[str, str]) -> Amounts:
    return {resource: parse_quantity(quantity) for resource, quantity in quantities.items()}


def _sum(amounts: Iterable[Amounts]) -> Amounts:
    total: dict[str, Decimal] = {}
    for one in amounts:
        for resource, amount in one.items():
            total[resource] = total.get(resource, Decimal(0)) + amount
    return total


def _listed(amounts: Amounts) -> str:
    return ", ".join(f"{_amount(resource, amount)} {resource}" for resource, amount in sorted(amounts.items()))


def _amount(resource: str, amount: Decimal) -> str:
    return _gib(int(amount)) if resource.endswith("memory") else f"{amount.normalize():f}"


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / 2**30:.2f} GiB"
