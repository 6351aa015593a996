"""What a planner must know of tables: how large they are, and how requests use them."""

from collections.abc import Iterable
from itertools import pairwise
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from exfm.artifact.plan import ENCODINGS, Encoding, row_bytes
from exfm.config import Config
from exfm.planning.sizes import bytes_text
from exfm.schema import Name, Schema, SparseFeature

Share = Annotated[float, Field(ge=0, le=1)]

TableNet = Literal["user", "item", "both"]


class HotRows(Config):
    """A point of a table's access skew: the share of its keys that fall on so many of its most wanted rows.

    Which rows those are was told by the first half of what was counted, the share by the second: rows chosen and
    weighed on the same requests would look hotter than the next request finds them.
    """

    num_rows: Annotated[int, Field(ge=1)]
    mass: Share


class TableStatistics(Config):
    """One table, and how an average request uses it."""

    name: Name
    net: TableNet
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
    """Rising in rows and in mass; empty where accesses were not counted. Its last point has no more rows than the
    list of hottest rows that was counted along with it, and less than all mass if some rows came up too late."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        rows, masses = [0, *(p.num_rows for p in self.skew), self.rows + 1], [0.0, *(p.mass for p in self.skew)]
        if any(after <= before for before, after in pairwise(rows)) or masses != sorted(masses):
            raise ValueError(f"table {self.name!r}: its skew does not rise in rows (up to {self.rows}) and in mass")
        return self

    def size_bytes(self, encoding: Encoding) -> int:
        """Return what its rows take as they are served."""
        return self.rows * row_bytes(self.dim, encoding)

    def rows_for(self, mass: float) -> int | None:
        """Return how many of its most wanted rows have that share of its keys; None if not so many were counted."""
        return next((point.num_rows for point in self.skew if point.mass >= mass), None)

    @property
    def keys_per_request(self) -> float:
        """Return the keys that a mean request looks up: its pooling work, in rows read."""
        return self.bags_per_request * self.pooling_mean


class Statistics(Config):
    """All tables of a model."""

    tables: Annotated[tuple[TableStatistics, ...], Field(min_length=1)]
    num_requests: Annotated[int, Field(ge=0)]
    """That they were counted on; 0: estimated from a schema, by `statistics_of_schema`."""
    candidates_mean: Annotated[float, Field(ge=1)]
    """Candidates of a mean request."""

    def size_bytes(self, encoding: Encoding) -> int:
        """Return what all rows take as they are served."""
        return sum(table.size_bytes(encoding) for table in self.tables)

    @model_validator(mode="after")
    def _check(self) -> Self:
        names = [table.name for table in self.tables]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"tables {', '.join(map(repr, twice))} are named more than once")
        return self


HEADER = (
    "table",
    "net",
    "rows",
    "dim",
    *ENCODINGS,
    "bags",
    "keys",
    "keys a bag",
    "p99",
    "asked",
    "hot rows",
)
"""Of `rows_of_text`: bags and keys of a mean request, requests that ask, rows with 50, 90 and 99 % of the keys."""


def rows_of_text(statistics: Statistics) -> list[tuple[str, ...]]:
    """Return a row of HEADER's columns for each table, as people read them."""
    return [
        (
            table.name,
            table.net,
            f"{table.rows:,}",
            str(table.dim),
            *(bytes_text(table.size_bytes(encoding)) for encoding in ENCODINGS),
            f"{table.bags_per_request:,.1f}",
            f"{table.keys_per_request:,.1f}",
            f"{table.pooling_mean:.2f}",
            f"{table.pooling_p99:g}",
            f"{table.request_share:.1%}",
            " / ".join("-" if rows is None else f"{rows:,}" for rows in map(table.rows_for, (0.5, 0.9, 0.99))),
        )
        for table in statistics.tables
    ]


def statistics_of_schema(schema: Schema, *, candidates_mean: float) -> Statistics:
    """Return what a schema alone tells of tables: an estimate, for a model that nobody asked yet.

    One user a request. A single feature has one id a bag, any other's lengths are spread evenly up to `max_length`.
    No row is wanted more than another.
    """
    of_table = features_by_table(schema)
    tables = []
    for table in schema.tables:
        features = of_table[table.name]
        bags = [1.0 if feature.net == "user" else candidates_mean for feature in features]
        lengths = [1.0 if feature.kind == "single" else feature.max_length / 2 for feature in features]
        keys = sum(num_bags * length for num_bags, length in zip(bags, lengths, strict=True))
        tables.append(
            TableStatistics(
                name=table.name,
                net=net_of(features),
                rows=table.rows,
                dim=table.dim,
                num_features=len(features),
                request_share=1.0,
                bags_per_request=sum(bags),
                pooling_mean=keys / sum(bags),
                pooling_p99=max(1 if feature.kind == "single" else feature.max_length for feature in features),
            )
        )
    return Statistics(tables=tuple(tables), num_requests=0, candidates_mean=candidates_mean)


def features_by_table(schema: Schema) -> dict[str, list[SparseFeature]]:
    """Return the features that look each table up; a schema has some for every table."""
    of_table: dict[str, list[SparseFeature]] = {table.name: [] for table in schema.tables}
    for feature in schema.sparse:
        of_table[feature.table].append(feature)
    return of_table


def net_of(features: Iterable[SparseFeature]) -> TableNet:
    """Return the net of these features, of which there is one at least."""
    nets = {feature.net for feature in features}
    return "both" if len(nets) > 1 else nets.pop()
