"""The schema: the one place that names columns, features, embedding tables and labels.

One schema serves the event log, the foundation model, the vertical models, the shards and the query. A model with
features and tasks of its own uses a part of it (`Schema.select`); a foundation model a wider one (`Schema.widen`).
docs/contracts.md states the format.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from exfm.config import Config, like, read_yaml
from exfm.errors import ConfigError, SchemaError

Name = Annotated[
    str, like(r"[A-Za-z][A-Za-z0-9_]{0,62}", "a letter, then letters, digits and underscores; at most 63 in all")
]
"""Name of a feature, table or label: letters, digits and underscores, because inputs and outputs have this name."""

UNITS_PER_S = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
"""Units of event time, by how many a second has."""

Net = Literal["user", "item"]
"""Which side of an example a feature describes: who asks, or what is ranked."""

NETS: tuple[Net, ...] = ("user", "item")

NUM_CANDIDATES = "num_candidates"
"""The input of a request that says how many items each user has, so no feature may have this name."""


class EventTime(Config):
    """The column that orders impressions, and feedback."""

    column: str
    """Column in both impressions and feedback: int64, or a timestamp of any unit (not of ordinal time)."""
    kind: Literal["absolute", "ordinal"] = "absolute"
    """`absolute`: time since 1970-01-01 UTC, or timestamps. `ordinal`: only order and distance have a meaning."""
    unit: Literal["s", "ms", "us", "ns"] = "s"
    """Unit of an int64 column of absolute time; a timestamp column has its own."""
    zone: str = "UTC"
    """IANA time zone of timestamps that have none, such as Europe/Berlin. Of an hour that comes twice, the first is
    meant."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.kind == "ordinal" and (self.unit, self.zone) != ("s", "UTC"):
            raise ValueError("ordinal time has no unit and no zone; leave them out, or choose kind absolute")
        return self


class Normalisation(Config):
    """How a dense feature's raw value becomes what a model sees: (f(x) - mean) / std."""

    transform: Literal["none", "log1p"] = "none"
    """f: the identity, or log(1 + x), which needs x >= 0."""
    mean: float = 0.0
    """Mean of f(x), in its unit."""
    std: Annotated[float, Field(gt=0)] = 1.0
    """Standard deviation of f(x), in its unit; more than 0."""


class DenseFeature(Config):
    """A number."""

    name: Name
    """Column of the log, and input of a request: a letter, then letters, digits and underscores."""
    net: Net
    """What it describes: the `user` of a request, or the `item` that is ranked."""
    normalisation: Normalisation = Normalisation()
    missing: Literal["refuse", "mean"] = "refuse"
    """`refuse`: a missing value (null, NaN) is an error; `mean`: it is read as the normalisation's mean, hence as 0."""


class SparseFeature(Config):
    """Ids that look rows up in an embedding table."""

    name: Name
    """Column of the log, and input of a request: a letter, then letters, digits and underscores."""
    net: Net
    """What it describes: the `user` of a request, or the `item` that is ranked."""
    kind: Literal["single", "bag", "sequence"] = "single"
    """`single`: at most one id. `bag`: any number, order without meaning. `sequence`: the same, oldest first."""
    id_type: Literal["int64", "string"] = "int64"
    """Type of its ids, in the log and in requests."""
    table: Name
    """Embedding table, one of `tables`; features may share one."""
    max_length: Annotated[int, Field(ge=1, le=10_000)] = 100
    """Ids that are used of a bag (the first) or of a sequence (the last); 1 to 10,000. A single has one."""


class Table(Config):
    """An embedding table, whose keys are hashed to rows: distinct keys may share one."""

    removed: ClassVar[Mapping[str, str]] = {"policy": "the keys of all tables are hashed; leave it out"}

    name: Name
    """Name that features give: a letter, then letters, digits and underscores."""
    rows: Annotated[int, Field(ge=1, le=2**32)]
    """Rows that keys are spread over; 1 to 2**32."""
    dim: Annotated[int, Field(ge=4, le=4096, multiple_of=4)]
    """Numbers of a row; a multiple of 4 (FBGEMM's granularity), 4 to 4,096."""
    pooling: Literal["sum", "mean"] = "sum"
    """How the rows of one bag become one vector."""


class Label(Config):
    """A task's truth: which feedback makes an impression positive, and how long it may take to arrive."""

    name: Name
    """Name of the task, which models learn and answer: a letter, then letters, digits and underscores."""
    feedback: str
    """Kind of feedback, as the column `kind` of the feedback log names it."""
    attribution_window: Annotated[int, Field(ge=0)]
    """Time after an impression in which its feedback counts, in seconds (ordinal time: in its steps); at least 0."""
    reduction: Literal["any", "max", "min", "last", "sum"] = "any"
    """How several feedbacks of one impression become one value; `any` is 1 if there is one at all, whatever it says."""
    positive_from: float = 1.0
    """Least reduced value, in the feedback's unit, that makes an impression positive."""
    truth: str = ""
    """Impression column with the planted probability of a positive, in synthetic logs; empty: not known."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.reduction == "any" and self.positive_from > 1:
            raise ValueError(
                f"label {self.name!r}: reduction 'any' is 1 at most, never {self.positive_from:g}; leave "
                "positive_from at 1, or choose max, min, last or sum, which look at the value"
            )
        return self


class Schema(Config):
    """What an impression is made of, and what a model may use of it."""

    version: Literal[1] = 1
    """Version of this format."""
    impression_key: str
    """Column that identifies an impression (int64 or string), in impressions and feedback."""
    event_time: EventTime
    domain: str
    """Column (string) by which vertical models choose their examples."""
    user: str = ""
    """Column (integer or string) that tells whose impression it is; null: not known. It may be a feature, too. Empty:
    the log has none."""
    weight: str = ""
    """Column (float, more than 0) with an example's weight; empty: every example weighs 1."""
    negative_sampling_rate: str = ""
    """Column (float, more than 0, at most 1) with the share that was kept of rows like this one; 1 where all were. A
    task's negatives weigh 1 / rate. Empty: all were kept."""
    shown: str = ""
    """Column (bool) that says whether an impression was shown to its user. Rows with false or null are counted, and
    left out. Empty: all rows were shown."""
    dense: tuple[DenseFeature, ...] = ()
    sparse: tuple[SparseFeature, ...]
    tables: tuple[Table, ...]
    labels: tuple[Label, ...]

    @classmethod
    def error_type(cls) -> type[ConfigError]:
        """Return SchemaError."""
        return SchemaError

    @classmethod
    def read(cls, path: Path) -> Self:
        """Return the schema in a YAML file, or in a JSON file that exfm wrote, maybe an earlier release.

        Raises: ConfigError if the file cannot be read; SchemaError, which names each wrong key.
        """
        data = read_yaml(path)
        return cls.parse(_drop_removed(data) if path.suffix == ".json" else data, source=str(path))

    @model_validator(mode="after")
    def _check(self) -> Self:
        _require_some(self.sparse, "sparse")
        _require_some(self.labels, "labels")
        _require_unique("feature", [*(f.name for f in self.dense), *(f.name for f in self.sparse)])
        _require_unique("table", [table.name for table in self.tables])
        _require_unique("label", [label.name for label in self.labels])
        tables = {table.name for table in self.tables}
        for feature in self.sparse:
            if feature.table not in tables:
                raise ValueError(f"feature {feature.name!r} uses table {feature.table!r}; tables are {sorted(tables)}")
        unused = tables - {feature.table for feature in self.sparse}
        if unused:
            raise ValueError(f"no feature uses table {', '.join(sorted(unused))}; remove it or name it in a feature")
        names = set(self.feature_names())
        if NUM_CANDIDATES in names:
            raise ValueError(f"feature {NUM_CANDIDATES!r} has the name of a request's own input; rename it")
        clashes = (names & (self.context_columns() - {self.domain, self.user})) | (names & {self.shown})
        if clashes:
            raise ValueError(f"{sorted(clashes)} are feature names and also key, time, weight or shown columns")
        return self

    def context_columns(self) -> set[str]:
        """Return the columns of an impression that are no features, or may be none."""
        optional = {self.user, self.weight, self.negative_sampling_rate, *(label.truth for label in self.labels)}
        return {self.impression_key, self.event_time.column, self.domain} | (optional - {""})

    def feature_names(self, nets: Sequence[Net] = NETS) -> tuple[str, ...]:
        """Return the names of these nets' features: dense ones, then sparse ones."""
        dense = (feature.name for feature in self.dense if feature.net in nets)
        return (*dense, *(feature.name for feature in self.sparse if feature.net in nets))

    def dense_of(self, net: Net) -> tuple[DenseFeature, ...]:
        """Return one net's dense features, in the schema's order."""
        return tuple(feature for feature in self.dense if feature.net == net)

    def sparse_of(self, net: Net) -> tuple[SparseFeature, ...]:
        """Return one net's sparse features, in the schema's order."""
        return self._sparse_by_net[net]

    def tasks(self) -> tuple[str, ...]:
        """Return the labels' names, in the schema's order."""
        return tuple(label.name for label in self.labels)

    def table(self, name: str) -> Table:
        """Return the table of that name."""
        return self._tables_by_name[name]

    def label(self, name: str) -> Label:
        """Return the label of that name."""
        return next(label for label in self.labels if label.name == name)

    @cached_property
    def _sparse_by_net(self) -> dict[Net, tuple[SparseFeature, ...]]:
        return {net: tuple(feature for feature in self.sparse if feature.net == net) for net in NETS}

    @cached_property
    def _tables_by_name(self) -> dict[str, Table]:
        return {table.name: table for table in self.tables}

    def select(self, *, features: Sequence[str] = (), tasks: Sequence[str] = ()) -> Self:
        """Return the part of this schema that a model with these features and tasks needs; empty means all.

        Raises: SchemaError if a name is not in this schema.
        """
        chosen = set(_require_known("feature", features, self.feature_names()) or self.feature_names())
        tasks = _require_known("task", tasks, self.tasks()) or self.tasks()
        sparse = tuple(feature for feature in self.sparse if feature.name in chosen)
        used = {feature.table for feature in sparse}
        part = self.to_dict() | {
            "dense": [feature.to_dict() for feature in self.dense if feature.name in chosen],
            "sparse": [feature.to_dict() for feature in sparse],
            "tables": [table.to_dict() for table in self.tables if table.name in used],
            "labels": [self.label(task).to_dict() for task in tasks],
        }
        return self.parse(part, source="the selected part of the schema")

    def widen(self, factor: int) -> Self:
        """Return this schema with every table's dim times `factor` (a foundation model's is wider than a VM's)."""
        tables = tuple(table.model_copy(update={"dim": table.dim * factor}) for table in self.tables)
        return self.parse(self.to_dict() | {"tables": [table.to_dict() for table in tables]}, source="the wider schema")


def _drop_removed(schema: Any) -> Any:
    """Return a schema without keys that tables have no more; of another form it is returned as it is."""
    if not isinstance(schema, Mapping) or not isinstance(schema.get("tables"), list | tuple):
        return schema
    return {**schema, "tables": [Table.without_removed(table) for table in schema["tables"]]}


WrittenSchema = Annotated[Schema, BeforeValidator(_drop_removed)]
"""A schema in what exfm wrote, maybe by an earlier release, whose keys that are gone count for nothing."""


def time_text(time: int, *, kind: Literal["absolute", "ordinal"]) -> str:
    """Return an event time, in seconds or steps, as people write it: a date with time of day, or steps."""
    return f"{datetime.fromtimestamp(time, UTC):%Y-%m-%d %H:%M} UTC" if kind == "absolute" else f"{time:,}"


def pseudo_label_column(fm: str, task: str) -> str:
    """Return the examples' column that holds a foundation model's probability for a task."""
    return f"pseudo.{fm}.{task}"


def pseudo_snapshot_column(fm: str) -> str:
    """Return the examples' column that tells which snapshot of a foundation model scored a row."""
    return f"pseudo_snapshot.{fm}"


def pseudo_age_column(fm: str) -> str:
    """Return the examples' column with the event time between what that snapshot last knew and the impression."""
    return f"pseudo_age.{fm}"


def score_column(task: str) -> str:
    """Return the column with the probability that a task's prediction was."""
    return f"score.{task}"


SERVED_SHOWN_COLUMN = "served.is_shown"
"""Column of a request log: whether the client shows a candidate, as its request says; null: the request does not."""
SERVED_MODEL_COLUMN = "served.model"
"""Column of a request log: the model that a request asked for."""
SERVED_BUNDLE_COLUMN = "served.bundle_id"
"""Column of a request log: the bundle whose scores a row has."""
SERVED_DEGRADED_COLUMN = "served.degraded"
"""Column of a request log: whether fallback rows had a part in the scores."""
SERVED_SAMPLING_RATE_COLUMN = "served.sampling_rate"
"""Column of a request log: the share of the ranker's requests that is logged."""
SERVED_ARRIVAL_COLUMN = "served.arrival_ns"
"""Column of a request log: when the request arrived, in nanoseconds since 1970-01-01 UTC."""
SERVED_USER_COLUMN = "served.user"
"""Column of a request log: which user of its request a candidate is for, from 0."""


def _require_some(values: Iterable[object], key: str) -> None:
    if not tuple(values):
        raise ValueError(f"{key} is empty; name at least one")


def _require_unique(kind: str, names: Sequence[str]) -> None:
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    if twice:
        raise ValueError(f"{kind} {', '.join(map(repr, twice))} is named more than once")


def _require_known(kind: str, wanted: Sequence[str], known: Sequence[str]) -> Sequence[str]:
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise SchemaError(f"unknown {kind} {', '.join(map(repr, unknown))}; the schema has {', '.join(known)}")
    return wanted
