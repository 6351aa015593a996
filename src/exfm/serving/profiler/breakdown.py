"""What is told of a request: the time and CPU time of each layer at one server, and at the shards that it asked.

Source: Lui et al. (arXiv 2011.02084), who split a request of a sharded model alike.
"""

from enum import StrEnum
from typing import Annotated, Self

from pydantic import Field, ValidationError, model_validator

from exfm.config import Config, describe
from exfm.errors import RequestError

Nanoseconds = Annotated[int, Field(ge=0)]


class Layer(StrEnum):
    """What a server does for a request, or waits for; one thing at a time."""

    QUEUE = "queue"
    """From when a request was heard of to its begin; REST's is not told, nor the time in gRPC's own queue."""
    DESERIALIZE = "deserialize"
    """Tensors out of the request."""
    ENCODE = "encode"
    """Hashing, truncating and normalising features."""
    ROUTE = "route"
    """Which shard is asked for which keys."""
    SERIALIZE_ASKS = "serialize asks"
    """What the shards are sent."""
    BOTTOM = "dense bottom"
    """The bottom tower, while the shards work."""
    WAIT = "wait for shards"
    """What is left of the time until the last shard's answer, once all else that can be done is."""
    DESERIALIZE_SUMS = "deserialize sums"
    """Sums out of the shards' answers."""
    EMBEDDING = "embedding"
    """Looking rows up and adding them; in a ranker, those that came by themselves."""
    DENSE = "dense"
    """All else of the network: from sums to scores."""
    SERIALIZE = "serialize"
    """The answer's message, but not gRPC's own writing of it."""

    @property
    def is_waiting(self) -> bool:
        """Return whether a server does nothing for the request in it, and takes no CPU time."""
        return self in {Layer.QUEUE, Layer.WAIT}


class Spent(Config):
    """The time of one layer."""

    wall_ns: Nanoseconds
    """Nanoseconds, without those of other layers that came in between."""
    cpu_ns: Nanoseconds
    """Nanoseconds of CPU time of the one thread that computes."""


class Breakdown(Config):
    """A request at one server. Its layers and the rest are the whole."""

    total_ns: Nanoseconds
    """Nanoseconds from when the server's own code had the request until its answer was made."""
    process_cpu_ns: Nanoseconds
    """CPU time of the server's process until then, all threads, in nanoseconds. Between two requests of a server that
    answered no other it grows by what the later one took, RPC included."""
    layers: dict[Layer, Spent]
    shards: "dict[int, ShardBreakdown]" = Field(default_factory=dict)
    """By number; those that were reached by a network, and answered."""

    @model_validator(mode="after")
    def _check_sum(self) -> Self:
        if self.rest_ns < 0:
            raise ValueError(f"layers of {self.total_ns - self.rest_ns} ns in a request of {self.total_ns} ns")
        return self

    @property
    def rest_ns(self) -> int:
        """Return the time that no layer explains: RPC service, the event loop, and other requests' turns in it."""
        return self.total_ns - sum(spent.wall_ns for spent in self.layers.values())

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Return what a server told.

        Raises: RequestError if it is of another form.
        """
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise RequestError(describe(error, source="a trace")) from error

    def to_json(self) -> str:
        """Return what a server tells."""
        return self.model_dump_json(exclude_defaults=True)


class ShardBreakdown(Config):
    """A request's lookup, as the ranker that asked and the shard saw it."""

    wall_ns: Nanoseconds
    """Nanoseconds from when the ranker sent it until the ranker had the answer, hence also what the ranker computed
    while the answer was there already."""
    server: Breakdown

    @property
    def network_ns(self) -> int:
        """Return the time between the two: network, and RPC's work and wait at both ends."""
        return self.wall_ns - self.server.total_ns


class Traced(Config):
    """A request as its client and the ranker saw it."""

    client_ns: Nanoseconds
    """Nanoseconds from when the client sent it until it had the answer."""
    ranker: Breakdown
