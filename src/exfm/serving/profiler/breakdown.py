"""The breakdown of a request: the time and CPU time of each layer at a server, and at the shards of its lookups.

Source: Lui et al. (arXiv 2011.02084), who split the requests of a sharded model in the same way.
"""

from enum import StrEnum
from typing import Annotated, Self

from pydantic import Field, ValidationError, model_validator

from exfm.config import Config, describe
from exfm.errors import RequestError

Nanoseconds = Annotated[int, Field(ge=0)]


class Layer(StrEnum):
    """A step of a server's work for a request, or a wait; one at a time."""

    QUEUE = "queue"
    """Time from a request's arrival to its start, without time in gRPC's own queue; not measured for REST."""
    DESERIALIZE = "deserialize"
    """Reading tensors from the request."""
    ENCODE = "encode"
    """Hashing, truncating and normalising features."""
    ROUTE = "route"
    """Splitting keys among the shards."""
    SERIALIZE_REQUESTS = "serialize requests"
    """Writing the requests to shards."""
    BOTTOM = "dense bottom"
    """The bottom tower, while the shards work."""
    WAIT = "wait for shards"
    """Time from the end of the ranker's own work until the last shard's answer."""
    DESERIALIZE_ANSWERS = "deserialize answers"
    """Reading pooled embeddings from the shards' answers."""
    EMBEDDING = "embedding"
    """Looking rows up and pooling them; in a ranker, those of its own tables."""
    DENSE = "dense"
    """The rest of the network, from pooled embeddings to scores."""
    SERIALIZE = "serialize"
    """Building the answer's message, without gRPC's own serialization."""

    @property
    def is_waiting(self) -> bool:
        """Return whether the layer is a wait, which takes no CPU time."""
        return self in {Layer.QUEUE, Layer.WAIT}


class LayerTime(Config):
    """The time of one layer."""

    wall_ns: Nanoseconds
    """Nanoseconds, without the time of layers measured inside it."""
    cpu_ns: Nanoseconds
    """CPU time of the thread that computes, in nanoseconds."""


class Breakdown(Config):
    """A request at one server: its layers and `rest_ns` add up to `total_ns`."""

    total_ns: Nanoseconds
    """Nanoseconds from the request's arrival in the server's code until its answer was made."""
    process_cpu_ns: Nanoseconds
    """CPU time of the server's process so far, all threads, in nanoseconds. Of two consecutive requests, the difference
    is the CPU time of the later one, RPC included."""
    layers: dict[Layer, LayerTime]
    shards: "dict[int, ShardBreakdown]" = Field(default_factory=dict)
    """Breakdown of each shard that answered over the network."""

    @model_validator(mode="after")
    def _check_sum(self) -> Self:
        if self.rest_ns < 0:
            raise ValueError(
                f"the layers take {self.total_ns - self.rest_ns} ns, more than the request, {self.total_ns} ns"
            )
        return self

    @property
    def rest_ns(self) -> int:
        """Return the time outside all layers: RPC, the event loop, and other requests' turns in it."""
        return self.total_ns - sum(spent.wall_ns for spent in self.layers.values())

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Return the breakdown that a server reported.

        Raises: RequestError if the text is not a breakdown.
        """
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise RequestError(describe(error, source="a trace")) from error

    def to_json(self) -> str:
        """Return the breakdown as a server reports it."""
        return self.model_dump_json(exclude_defaults=True)


class ShardBreakdown(Config):
    """A request's lookup at one shard, measured by the ranker and by the shard."""

    wall_ns: Nanoseconds
    """Nanoseconds from when the ranker sent the lookup until it read the answer, which may have waited before."""
    server: Breakdown

    @property
    def network_ns(self) -> int:
        """Return the time outside the shard: network, and RPC at both ends."""
        return self.wall_ns - self.server.total_ns


class Traced(Config):
    """A request, measured by its client and by the ranker."""

    client_ns: Nanoseconds
    """Nanoseconds from when the client sent the request until it had the answer."""
    ranker: Breakdown
