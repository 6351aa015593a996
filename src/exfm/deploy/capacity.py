"""Whether a rollout fits: a namespace's quotas and the nodes must hold the old and the new version together."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

from kubernetes.utils.quantity import parse_quantity

from exfm.deploy.config import DeployConfig, ServerResources
from exfm.deploy.objects import Object, memory_bytes
from exfm.deploy.observation import Observation
from exfm.deploy.release import Release
from exfm.errors import CapacityError


@dataclass(frozen=True)
class Demand:
    """What one more server asks for."""

    what: str
    cpu_request_m: int
    cpu_limit_m: int
    memory_bytes: int


@dataclass(frozen=True)
class Room:
    """What a cluster says of its room; None where the account may not ask."""

    quotas: Sequence[Object] | None
    nodes: Sequence[Object] | None
    pods: Sequence[Object] | None
    """Of all namespaces."""


@dataclass(frozen=True)
class Forecast:
    """Memory of all servers of a vertical model, before and while a version takes over."""

    present_bytes: int
    added_bytes: int
    unchecked: tuple[str, ...] = field(default=())
    """What could not be compared with it."""

    def __str__(self) -> str:
        """Return one line."""
        peak = f"peak memory {_gib(self.present_bytes + self.added_bytes)}"
        parts = f"{_gib(self.present_bytes)} of servers that run and {_gib(self.added_bytes)} of new ones"
        unchecked = f"; not checked: {', '.join(self.unchecked)}" if self.unchecked else ""
        return f"{peak} ({parts}){unchecked}"


def new_servers(release: Release, seen: Observation, config: DeployConfig) -> list[Demand]:
    """Return the servers that a rollout of `release` adds: its shards that are not there, and rankers.

    A ranker's pods are replaced one by one, so a rollout adds one; the first adds all.
    """
    present = {servers.shard for servers in seen.shards_of(release.version)}
    demands = [
        _demand(f"shard {shard}", config.shard, table_bytes=table_bytes)
        for shard, (table_bytes, replicas) in enumerate(zip(release.shard_bytes, release.replicas, strict=True))
        if shard not in present
        for _ in range(replicas)
    ]
    if seen.ranker is None:
        rankers = config.ranker.replicas
    else:
        rankers = 0 if seen.ranker.release.same_content(release) else 1
    return demands + [_demand("ranker", config.ranker, table_bytes=0)] * rankers


def forecast(release: Release, seen: Observation, config: DeployConfig, room: Room) -> Forecast:
    """Return what a rollout of `release` takes at its peak.

    Raises: CapacityError if a quota or the nodes cannot hold it, naming which, what is free and what is asked.
    """
    added = new_servers(release, seen, config)
    unchecked = []
    if room.quotas is None:
        unchecked.append("quotas (no right to read them)")
    else:
        _check_quotas(added, room.quotas, name=release.name)
    if not config.nodes_must_fit:
        unchecked.append("nodes (nodes_must_fit is off)")
    elif room.nodes is None or room.pods is None:
        unchecked.append("nodes (no right to list nodes and all pods)")
    else:
        _check_nodes(added, room.nodes, room.pods, name=release.name)
    shards = [servers for version in seen.shards for servers in seen.shards_of(version)]
    present = sum(
        memory_bytes(config.shard, table_bytes=servers.release.shard_bytes[servers.shard]) * servers.wanted
        for servers in shards
    )
    if seen.ranker is not None:
        present += memory_bytes(config.ranker, table_bytes=0) * seen.ranker.wanted
    return Forecast(
        present_bytes=present, added_bytes=sum(demand.memory_bytes for demand in added), unchecked=tuple(unchecked)
    )


def _demand(what: str, resources: ServerResources, *, table_bytes: int) -> Demand:
    return Demand(
        what=what,
        cpu_request_m=resources.cpu_request_m,
        cpu_limit_m=resources.cpu_limit_m,
        memory_bytes=memory_bytes(resources, table_bytes=table_bytes),
    )


def _check_quotas(added: Sequence[Demand], quotas: Sequence[Object], *, name: str) -> None:
    memory = Decimal(sum(demand.memory_bytes for demand in added))
    cpu = Decimal(sum(demand.cpu_request_m for demand in added)) / 1000
    cpu_limit = Decimal(sum(demand.cpu_limit_m for demand in added)) / 1000
    asked = {
        **dict.fromkeys(("memory", "requests.memory", "limits.memory"), memory),
        **dict.fromkeys(("cpu", "requests.cpu"), cpu),
        "limits.cpu": cpu_limit,
        **dict.fromkeys(("pods", "count/pods"), Decimal(len(added))),
    }
    for quota in quotas:
        status = quota.get("status", {})
        for resource, hard in status.get("hard", {}).items():
            free = parse_quantity(hard) - parse_quantity(status.get("used", {}).get(resource, "0"))
            if asked.get(resource, Decimal(0)) > max(free, Decimal(0)):
                raise CapacityError(
                    f"{name} adds {len(added)} pods, which ask for {_amount(resource, asked[resource])} of {resource}, "
                    f"but quota {quota['metadata']['name']!r} has {_amount(resource, max(free, Decimal(0)))} of "
                    f"{_amount(resource, parse_quantity(hard))} left; raise the quota, or free what is not needed"
                )


def _check_nodes(added: Sequence[Demand], nodes: Sequence[Object], pods: Sequence[Object], *, name: str) -> None:
    """Place the new servers, largest first, on the nodes with most memory free, as the scheduler might."""
    free = {node["metadata"]["name"]: _free_on(node, pods) for node in nodes if _takes_pods(node)}
    for demand in sorted(added, key=lambda demand: -demand.memory_bytes):
        cpu = Decimal(demand.cpu_request_m) / 1000
        fitting = [
            (memory_free, node)
            for node, (cpu_free, memory_free) in free.items()
            if cpu_free >= cpu and memory_free >= demand.memory_bytes
        ]
        if not fitting:
            most_cpu = max((cpu_free for cpu_free, _ in free.values()), default=Decimal(0))
            most_memory = max((memory_free for _, memory_free in free.values()), default=Decimal(0))
            raise CapacityError(
                f"{name}: no node has room for a {demand.what} of {cpu} CPU and {_gib(demand.memory_bytes)} beside "
                f"what runs; of {len(free)} nodes the freest has {most_cpu} CPU and {_gib(int(most_memory))}; "
                "add nodes, plan smaller shards, or ask for less in the settings"
            )
        _, node = max(fitting)
        free[node] = (free[node][0] - cpu, free[node][1] - demand.memory_bytes)


def _takes_pods(node: Object) -> bool:
    spec = node.get("spec", {})
    tainted = any(taint["effect"] in {"NoSchedule", "NoExecute"} for taint in spec.get("taints", []))
    ready = any(c["type"] == "Ready" and c["status"] == "True" for c in node["status"].get("conditions", []))
    return ready and not tainted and not spec.get("unschedulable", False)


def _free_on(node: Object, pods: Sequence[Object]) -> tuple[Decimal, Decimal]:
    """Return CPU, in cores, and memory, in bytes, that no pod on a node has asked for."""
    allocatable = node["status"]["allocatable"]
    requests = [
        request
        for pod in pods
        if pod["spec"].get("nodeName") == node["metadata"]["name"]
        and pod.get("status", {}).get("phase") not in {"Succeeded", "Failed"}
        for request in _requests(pod)
    ]
    cpu = parse_quantity(allocatable["cpu"]) - sum(parse_quantity(r.get("cpu", "0")) for r in requests)
    memory = parse_quantity(allocatable["memory"]) - sum(parse_quantity(r.get("memory", "0")) for r in requests)
    return cpu, memory


def _requests(pod: Object) -> Iterator[Mapping[str, str]]:
    for container in pod["spec"].get("containers", []):
        yield container.get("resources", {}).get("requests", {})


def _amount(resource: str, amount: Decimal) -> str:
    return _gib(int(amount)) if resource.endswith("memory") else f"{amount.normalize():f}"


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / 2**30:.2f} GiB"
