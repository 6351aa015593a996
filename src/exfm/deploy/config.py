"""Settings of a deployment."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from exfm.config import Config, like
from exfm.models.config import ShardsConfig

KubernetesName = Annotated[
    str,
    like(
        "[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?",
        "lower-case letters, digits and dashes, no dash at either end; at most 63 in all",
    ),
]
"""A DNS label."""

Millicores = Annotated[int, Field(ge=1, le=256_000)]
"""CPU, in thousandths of a core."""

OverheadMib = Annotated[int, Field(ge=128, le=1_048_576)]
"""A server's memory beside its tables, in MiB (2**20 bytes)."""

Replicas = Annotated[int, Field(ge=1, le=1_000)]
"""A number of servers that are alike."""


class ServerResources(Config):
    """Resources of one server of a kind, and how many servers there may be."""

    cpu_request_m: Millicores
    """CPU request, in thousandths of a core; 1 to 256,000. Autoscaling measures against it."""
    cpu_limit_m: Millicores
    """CPU limit, in thousandths of a core; 1 to 256,000, at least the request."""
    overhead_mib: OverheadMib
    """Memory beside tables, requested and limited, in MiB (2**20 bytes); 128 to 1,048,576."""
    replicas: Replicas
    """Servers, or the smallest number of them with autoscaling; 1 to 1,000. A plan that needs more gets more."""
    max_replicas: Annotated[int, Field(ge=0, le=1_000)] = 0
    """Largest number of servers with autoscaling; 0 to 1,000. 0, or not above the smallest number: no autoscaling."""
    cpu_target_percent: Annotated[int, Field(ge=1, le=100)] = 60
    """CPU use that the autoscaler aims at, in percent of the request; 1 to 100. Only with `max_replicas` above 0."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.cpu_limit_m < self.cpu_request_m:
            raise ValueError(f"cpu_limit_m {self.cpu_limit_m} is less than cpu_request_m {self.cpu_request_m}")
        if 0 < self.max_replicas < self.replicas:
            raise ValueError(f"max_replicas {self.max_replicas} is less than replicas {self.replicas}")
        return self


class RankerResources(ServerResources):
    """Resources and number of rankers, and their settings for shards."""

    removed: ClassVar[Mapping[str, str]] = {
        "cache_mib": "rankers have no cache of items; leave it out, or set shards.local_tables_mib",
        "local_tables_mib": "set shards.local_tables_mib",
    }

    cpu_request_m: Millicores = 1_000
    cpu_limit_m: Millicores = 2_000
    overhead_mib: OverheadMib = 896
    replicas: Replicas = 2
    shards: ShardsConfig = ShardsConfig()
    """The rankers' settings `shards`; they override those in ConfigMap `exfm-servers`. Memory for `local_tables_mib` is
    added to the overhead; 0: the ConfigMap's value, without memory for it."""


class ShardResources(ServerResources):
    """Resources and number of each shard's servers."""

    cpu_request_m: Millicores = 500
    cpu_limit_m: Millicores = 2_000
    overhead_mib: OverheadMib = 864
    replicas: Replicas = 1


class DeployConfig(Config):
    """How vertical models are deployed: `exfm deploy -c deploy.yaml`."""

    removed: ClassVar[Mapping[str, str]] = {
        "transport": "rankers reach shards by streams; leave it out",
        "when_shard_fails": "set ranker.shards.when_shard_fails",
    }

    namespace: KubernetesName = "exfm"
    """Namespace that the manifests were applied to."""
    ranker: RankerResources = RankerResources()
    shard: ShardResources = ShardResources()
    spread: Literal["prefer", "require"] = "prefer"
    """How rankers, and servers of one shard, are spread over nodes: `prefer`: evenly where there is room; `require`: a
    server that would make the spread uneven waits for another node. Zones are always a preference."""
    ready_timeout_s: Annotated[int, Field(ge=10, le=86_400)] = 900
    """Time for a version's shards to become ready, and then for each ranker, in seconds; 10 to 86,400. A failure that
    waiting cannot solve ends the wait at once."""
    hot_s: Annotated[int, Field(ge=0, le=2_592_000)] = 3_600
    """Time for which the previous version's shards stay for a quick rollback, in seconds; 0 to 2,592,000 (30 days). 0:
    they are removed at once. They use memory until the first `exfm deploy`, `rollback` or `collect` after that time."""
    nodes_must_fit: bool = True
    """Refuse a rollout that today's nodes cannot hold; false where an autoscaler adds nodes."""
    history: Annotated[int, Field(ge=1, le=50)] = 10
    """Versions that a ranker's history keeps for a rollback, beside the one that it serves; 1 to 50."""

    @classmethod
    def of_history(cls, written: Any) -> Any:
        """Return settings from a ranker's history; names of an earlier release of exfm become today's."""
        ranker = written.get("ranker", {}) if isinstance(written, Mapping) else None
        if not isinstance(ranker, Mapping):
            return written
        moved = {"when_shard_fails": written, "local_tables_mib": ranker}
        shards = {key: place[key] for key, place in moved.items() if key in place}
        kept = RankerResources.without_removed(ranker)
        return {**cls.without_removed(written), "ranker": {**kept, "shards": shards} if shards else kept}
