"""Table statistics: how large tables are, and how requests use them."""

from collections.abc import Iterable
from itertools import pairwise
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from exfm.artifact.plan import ENCODINGS, Encoding, row_bytes
from exfm.config import Config
from exfm.errors import PlanError
from exfm.planning.sizes import bytes_text
from exfm.schema import Name, Schema, SparseFeature

Share = Annotated[float, Field(ge=0, le=1)]

TableNet = Literal["user", "item", "both"]


class HotRows(Config):
    """A point of a table's access skew: the share of its keys that its `num_rows` hottest rows get.

    The first half of the counted requests ranks the rows, the second half gives the share. If both came from the same
    requests, the share would be too high.
    """

    num_rows: Annotated[int, Field(ge=1)]
    mass: Share


class TableStatistics(Config):
    """One table, and how a mean request uses it."""

    name: Name
    net: TableNet
    """Net of the features that look the table up: user features once per request, item features once per candidate."""
    num_features: Annotated[int, Field(ge=1)] = 1
    """Features that look the table up."""
    rows: Annotated[int, Field(ge=1, le=2**32)]
    dim: Annotated[int, Field(ge=4, le=4096)]
    request_share: Share
    """Share of requests that look up at least one key of the table."""
    bags_per_request: Annotated[float, Field(ge=0)]
    """Bags of the table's features in a mean request, with empty bags."""
    pooling_mean: Annotated[float, Field(ge=0)]
    """Mean number of keys per bag."""
    pooling_p99: Annotated[float, Field(ge=0)]
    """99th percentile of the number of keys per bag."""
    skew: tuple[HotRows, ...] = ()
    """Points that rise in rows and in mass; empty: accesses were not counted. The last point has at most as many rows
    as the list of hottest rows, and a mass below 1 if the second half of the requests has other rows."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        rows, masses = [0, *(p.num_rows for p in self.skew), self.rows + 1], [0.0, *(p.mass for p in self.skew)]
        if any(after <= before for before, after in pairwise(rows)) or masses != sorted(masses):
            raise ValueError(
                f"table {self.name!r}: its skew must rise in rows (up to {self.rows}) and in mass; count it again"
            )
        return self

    def size_bytes(self, encoding: Encoding) -> int:
        """Return the bytes of the table's rows in this encoding."""
        return self.rows * row_bytes(self.dim, encoding)

    def rows_for(self, mass: float) -> int | None:
        """Return the number of hottest rows that get this share of the keys; None if it was not counted that far."""
        return next((point.num_rows for point in self.skew if point.mass >= mass), None)

    @property
    def keys_per_request(self) -> float:
        """Return the keys that a mean request looks up: its pooling factor, in rows read."""
        return self.bags_per_request * self.pooling_mean


class Statistics(Config):
    """Statistics of all tables of a model."""

    tables: Annotated[tuple[TableStatistics, ...], Field(min_length=1)]
    num_requests: Annotated[int, Field(ge=0)]
    """Requests that were counted; 0: `statistics_of_schema` estimated the statistics from a schema."""
    candidates_mean: Annotated[float, Field(ge=1)]
    """Mean number of candidates in a request."""

    def size_bytes(self, encoding: Encoding) -> int:
        """Return the bytes of all tables' rows in this encoding."""
        return sum(table.size_bytes(encoding) for table in self.tables)

    @model_validator(mode="after")
    def _check(self) -> Self:
        names = [table.name for table in self.tables]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"tables {', '.join(map(repr, twice))} are named more than once; name each table once")
        return self


def rows_of_text(statistics: Statistics) -> list[dict[str, str]]:
    """Return a row for each table: text by column.

    `bags` and `keys` are per mean request. `used` is the share of requests that use the table, `hot rows` how many rows
    get 50, 90 and 99 % of the keys.
    """
    return [
        {
            "table": table.name,
            "net": table.net,
            "rows": f"{table.rows:,}",
            "dim": str(table.dim),
            **{encoding: bytes_text(table.size_bytes(encoding)) for encoding in ENCODINGS},
            "bags": f"{table.bags_per_request:,.1f}",
            "keys": f"{table.keys_per_request:,.1f}",
            "keys a bag": f"{table.pooling_mean:.2f}",
            "p99": f"{table.pooling_p99:g}",
            "used": f"{table.request_share:.1%}",
            "hot rows": " / ".join(
                "-" if rows is None else f"{rows:,}" for rows in map(table.rows_for, (0.5, 0.9, 0.99))
            ),
        }
        for table in statistics.tables
    ]


def statistics_of_schema(schema: Schema, *, candidates_mean: float) -> Statistics:
    """Return an estimate from a schema alone, for a model that has not served a request yet.

    A request has one user. A single feature has one key per bag; other features have half of `max_length`. All rows of
    a table are accessed equally often.
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


def check_statistics(schema: Schema, statistics: Statistics) -> None:
    """Check that the statistics have the schema's tables, with the same rows and dims.

    Raises: PlanError, which names the first table that differs.
    """
    counted = {table.name: table for table in statistics.tables}
    for table in schema.tables:
        found = counted.pop(table.name, None)
        if found is None:
            raise PlanError(f"table {table.name!r} of the schema is not in the statistics; count them again")
        if (found.rows, found.dim) != (table.rows, table.dim):
            raise PlanError(
                f"table {table.name!r} has {table.rows} rows of dim {table.dim}, but was counted with {found.rows} of "
                f"dim {found.dim}; count again with this model"
            )
    if counted:
        raise PlanError(f"the statistics have table {min(counted)!r}, which the schema does not; count them again")


def features_by_table(schema: Schema) -> dict[str, list[SparseFeature]]:
    """Return the features that look up each table; in a schema, every table has at least one."""
    of_table: dict[str, list[SparseFeature]] = {table.name: [] for table in schema.tables}
    for feature in schema.sparse:
        of_table[feature.table].append(feature)
    return of_table


def net_of(features: Iterable[SparseFeature]) -> TableNet:
    """Return the net of one or more features."""
    nets = {feature.net for feature in features}
    return "both" if len(nets) > 1 else nets.pop()
