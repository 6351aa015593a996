"""Settings of a deployment."""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from exfm.config import Config

KubernetesName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")]
"""A DNS label."""


class ServerResources(Config):
    """What one server of a kind asks of its node, and how many there may be."""

    cpu_request_m: Annotated[int, Field(ge=1, le=256_000)]
    """CPU that the scheduler sets aside, in thousandths of a core; 1 to 256,000. Autoscaling measures against it."""
    cpu_limit_m: Annotated[int, Field(ge=1, le=256_000)]
    """CPU that a server may use, in thousandths of a core; 1 to 256,000, at least the request."""
    overhead_mib: Annotated[int, Field(ge=128, le=1_048_576)]
    """Memory beside tables, requested and limited, in MiB; 128 to 1,048,576. A server of the demo takes 690 MiB,
    most of it torch's (2026-11)."""
    max_replicas: Annotated[int, Field(ge=0, le=1_000)] = 0
    """Servers that KServe's autoscaler may go up to; 0, or no more than the least number, leaves their number as it
    is."""
    cpu_target_percent: Annotated[int, Field(ge=1, le=100)] = 60
    """CPU use, of the request, that the autoscaler keeps to, in percent; 1 to 100. For max_replicas above 0."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.cpu_limit_m < self.cpu_request_m:
            raise ValueError(f"cpu_limit_m {self.cpu_limit_m} is less than cpu_request_m {self.cpu_request_m}")
        return self


class RankerResources(ServerResources):
    """Of rankers."""

    removed: ClassVar[Mapping[str, str]] = {
        "cache_mib": "rankers keep no items; leave it out, or have them hold tables by local_tables_mib"
    }

    cpu_request_m: Annotated[int, Field(ge=1, le=256_000)] = 1_000
    cpu_limit_m: Annotated[int, Field(ge=1, le=256_000)] = 2_000
    overhead_mib: Annotated[int, Field(ge=128, le=1_048_576)] = 1_024
    replicas: Annotated[int, Field(ge=1, le=1_000)] = 2
    """Rankers, or the least number of them where they are autoscaled; 1 to 1,000. More where a plan wants more."""
    local_tables_mib: Annotated[int, Field(ge=0, le=1_048_576)] = 0
    """The rankers' setting of that name, in MiB: memory for tables of items that a ranker holds itself, which it is
    given beside the overhead, 1 to 1,048,576. 0, the default: what ConfigMap `exfm-servers` says, without memory for
    it. It wants a bundle in `pvc://`: of one in `s3://` a ranker has its own part alone."""

    @model_validator(mode="after")
    def _check_replicas(self) -> Self:
        if 0 < self.max_replicas < self.replicas:
            raise ValueError(f"max_replicas {self.max_replicas} is less than replicas {self.replicas}")
        return self


class ShardResources(ServerResources):
    """Of shards; the least number of servers of each is its plan's."""

    cpu_request_m: Annotated[int, Field(ge=1, le=256_000)] = 500
    cpu_limit_m: Annotated[int, Field(ge=1, le=256_000)] = 2_000
    overhead_mib: Annotated[int, Field(ge=128, le=1_048_576)] = 1_024


class DeployConfig(Config):
    """How vertical models are deployed."""

    removed: ClassVar[Mapping[str, str]] = {"transport": "rankers reach shards by streams; leave it out"}

    namespace: KubernetesName = "exfm"
    """Where the manifests were applied."""
    ranker: RankerResources = RankerResources()
    shard: ShardResources = ShardResources()
    when_shard_fails: Literal["fail", "degrade"] = "fail"
    """What becomes of a request while a shard is away, late or overloaded: `fail`, an error; `degrade`, an answer with
    fallback rows in the place of that shard's, which says so. It goes before what ConfigMap `exfm-servers` says.
    Rankers refuse to start with `degrade` on a bundle that has no fallback rows."""
    ready_timeout_s: Annotated[int, Field(ge=10, le=86_400)] = 900
    """Time for a version's servers to become ready, in seconds; 10 to 86,400. Rankers are replaced one by one, and each
    that is has the next one's time begin anew. A failure that no waiting mends (a server that ends again and again, an
    image that cannot be had) ends the wait at once."""
    hot_s: Annotated[int, Field(ge=0, le=2_592_000)] = 3_600
    """Time that the last version's shards stay after another took over, in seconds; 0 (they go at once) to 2,592,000.
    While they stay its memory is used, and a rollback takes no loading; they go with the first `exfm deploy`,
    `rollback` or `collect` after it. An hour is a choice, time to see a version's first figures: not measured."""
    nodes_must_fit: bool = True
    """Refuse a rollout that the nodes which are there cannot hold; false where an autoscaler adds nodes."""
    history: Annotated[int, Field(ge=1, le=50)] = 10
    """Versions that a vertical model's ranker remembers beside the one that it serves, to roll back to; 1 to 50."""
