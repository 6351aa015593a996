"""What a planner must know of tables: how large they are, and how requests use them."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from exfm.artifact.plan import BYTES_PER_NUMBER
from exfm.config import Config
from exfm.schema import Name

Share = Annotated[float, Field(ge=0, le=1)]


class HotRows(Config):
    """A point of a table's access skew: the share of all its keys that fall on its most wanted rows."""

    num_rows: Annotated[int, Field(ge=1)]
    mass: Share


class TableStatistics(Config):
    """One table, and how an average request uses it."""

    name: Name
    net: Literal["user", "item", "both"]
    """Of the features that look it up: user features once a request, item features once a candidate."""
    num_features: Annotated[int, Field(ge=1)] = 1
    """That look it up."""
    rows: Annotated[int, Field(ge=1, le=2**32)]
    dim: Annotated[int, Field(ge=4, le=4096)]
    request_share: Share
    """Requests that look up at least one of its keys."""
    bags_per_request: Annotated[float, Field(ge=0)]
    """Bags of its features, empty ones too, in a mean request."""
    pooling_mean: Annotated[float, Field(ge=0)]
    """Keys a bag."""
    pooling_p99: Annotated[float, Field(ge=0)]
    skew: tuple[HotRows, ...] = ()
    """Rising in rows and in mass; empty where accesses were not counted."""

    @property
    def size_bytes(self) -> int:
        """Return what its rows take as they are served."""
        return self.rows * self.dim * BYTES_PER_NUMBER["fp32"]

    @property
    def keys_per_request(self) -> float:
        """Return the keys that a mean request looks up: its pooling work, in rows read."""
        return self.bags_per_request * self.pooling_mean


class Statistics(Config):
    """All tables of a model."""

    tables: Annotated[tuple[TableStatistics, ...], Field(min_length=1)]
    num_requests: Annotated[int, Field(ge=1)]
    """That they were counted on."""
    candidates_mean: Annotated[float, Field(ge=1)]
    """Candidates of a mean request."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        names = [table.name for table in self.tables]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"tables {', '.join(map(repr, twice))} are named more than once")
        return self
