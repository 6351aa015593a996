"""Answered requests as impressions, a row for each candidate: the way back to the tables that `table.py` reads.

Besides a schema's columns the rows have what was answered (`exfm.schema.score_column` and what follows it).
Legend: U users and N candidates, of all requests together.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from exfm.errors import SchemaError, StorageError
from exfm.features.batch import RawIds
from exfm.features.request import RawRequest
from exfm.schema import (
    NETS,
    SERVED_ARRIVAL_COLUMN,
    SERVED_BUNDLE_COLUMN,
    SERVED_DEGRADED_COLUMN,
    SERVED_MODEL_COLUMN,
    SERVED_SAMPLING_RATE_COLUMN,
    SERVED_SHOWN_COLUMN,
    SERVED_USER_COLUMN,
    UNITS_PER_S,
    Net,
    Schema,
    SparseFeature,
    score_column,
)

WRITER_OPTIONS = {"compression": "zstd", "use_dictionary": False}
"""zstd compresses a user's features, which are in each row, better than dictionaries do (docs/measurements.md)."""


@dataclass(frozen=True)
class Answered:
    """A request, and what was answered."""

    id: str
    """Prefix of its candidates' impressions: `<id>-0`, `<id>-1`, ..."""
    arrival_ns: int
    """Nanoseconds since 1970-01-01 UTC."""
    raw: RawRequest
    scores: Mapping[str, npt.NDArray[np.floating[Any]]]
    """Scores of each task."""
    is_degraded: bool
    num_shown: int | None = None
    """Candidates of each user that the client shows, the best ones by the first task's score; None: it does not say."""


@dataclass(frozen=True)
class Served:
    """What all requests of one ranker's log have in common."""

    model: str
    bundle_id: str
    sampling_rate: float
    """The share of the ranker's requests that is logged."""


@dataclass(frozen=True)
class Column:
    """A column of impressions, before users' values are repeated for each of their candidates."""

    name: str
    net: Net
    """Whose rows it has: U or N."""
    values: pa.Array


def require_loggable(schema: Schema, *, domain: str) -> None:
    """Return if answered requests can be impressions of a schema; `domain` is for requests without one.

    Raises: SchemaError, which names what requests lack.
    """
    if schema.event_time.kind != "absolute":
        raise SchemaError(
            f"event_time {schema.event_time.column!r} is {schema.event_time.kind}: a request has the time since "
            "1970, and no other time"
        )
    if schema.domain not in schema.feature_names():
        if not domain:
            raise SchemaError(
                f"the domain {schema.domain!r} is no feature of the model, so requests lack it; give one for "
                "all as `request_log.domain`"
            )
    elif not any(_is_text(feature) for feature in schema.sparse if feature.name == schema.domain):
        raise SchemaError(f"the domain {schema.domain!r} is no single string, which an impression's is")


def log_schema(schema: Schema) -> Schema:
    """Return the schema of answered requests: a model's, without what no request has.

    No request has the planted truth. A request has its user only where the user is a feature of the model. Whether a
    candidate was shown stands in a column of the log.
    """
    labels = tuple(label.model_copy(update={"truth": ""}) for label in schema.labels)
    user = schema.user if schema.user in schema.feature_names() else ""
    return schema.model_copy(update={"labels": labels, "user": user, "shown": SERVED_SHOWN_COLUMN})


def columns_of(answered: Sequence[Answered], schema: Schema, *, domain: str, served: Served) -> Iterator[Column]:
    """Yield the columns of requests' impressions, one by one: a server's thread may pause between two.

    An id that is no UTF-8 is written with U+FFFD for what cannot be read.
    """
    rows_of = np.array([len(next(iter(one.scores.values()))) for one in answered])
    num_rows = int(rows_of.sum())
    of_request = pa.array(np.repeat(np.arange(len(answered)), rows_of))
    numbers = pa.array(np.concatenate([np.arange(rows) for rows in rows_of])).cast(pa.string())
    ids = pa.array([one.id for one in answered]).take(of_request)
    yield Column(schema.impression_key, "item", pc.binary_join_element_wise(ids, numbers, "-"))
    arrivals_ns = np.array([one.arrival_ns for one in answered], dtype=np.int64)
    times = arrivals_ns // (10**9 // UNITS_PER_S[schema.event_time.unit])
    yield Column(schema.event_time.column, "item", pa.array(times).take(of_request))
    yield Column(SERVED_ARRIVAL_COLUMN, "item", pa.array(arrivals_ns).take(of_request))
    users = [np.arange(len(one.raw.num_candidates)) for one in answered]
    yield Column(SERVED_USER_COLUMN, "user", pa.array(np.concatenate(users)))
    for name in filter(None, (schema.weight, schema.negative_sampling_rate)):
        yield Column(name, "item", pa.repeat(1.0, num_rows))  # a row counts for itself only
    for task in answered[0].scores:
        yield Column(score_column(task), "item", pa.array(np.concatenate([one.scores[task] for one in answered])))
    yield Column(SERVED_SHOWN_COLUMN, "item", pa.concat_arrays([_is_shown(one) for one in answered]))
    yield Column(SERVED_MODEL_COLUMN, "item", pa.repeat(served.model, num_rows))
    yield Column(SERVED_BUNDLE_COLUMN, "item", pa.repeat(served.bundle_id, num_rows))
    yield Column(SERVED_SAMPLING_RATE_COLUMN, "item", pa.repeat(served.sampling_rate, num_rows))
    yield Column(SERVED_DEGRADED_COLUMN, "item", pa.array([one.is_degraded for one in answered]).take(of_request))
    for net in NETS:
        raw = [one.raw.columns[net] for one in answered]
        for feature in schema.dense_of(net):
            yield Column(feature.name, net, pa.array(np.concatenate([one.dense[feature.name] for one in raw])))
        for sparse in schema.sparse_of(net):
            values = _array_of([one.sparse[sparse.name] for one in raw], sparse)
            yield Column(sparse.name, net, values.fill_null(domain) if sparse.name == schema.domain else values)
    if schema.domain not in schema.feature_names():
        yield Column(schema.domain, "item", pa.repeat(domain, num_rows))


def table_of(columns: Sequence[Column], answered: Sequence[Answered]) -> pa.Table:
    """Return requests' impressions, N rows, from their columns."""
    counts = np.concatenate([one.raw.num_candidates for one in answered])
    user_of_N = pa.array(np.repeat(np.arange(len(counts)), counts))
    return pa.table(
        {column.name: column.values.take(user_of_N) if column.net == "user" else column.values for column in columns}
    )


class ImpressionsFile:
    """A Parquet file of impressions. It appears whole: it is written to another file and renamed.

    Its methods raise StorageError if the file cannot be written.
    """

    def __init__(self, path: Path, *, partial: Path) -> None:
        """Write to `partial`, and finally rename it to `path`."""
        self._path = path
        self._partial = partial
        with _reporting(partial):
            self._sink = pa.OSFile(str(partial), "wb")
        self._writer: pq.ParquetWriter | None = None

    @property
    def size_bytes(self) -> int:
        """Return the bytes written so far."""
        size_bytes: int = self._sink.tell()
        return size_bytes

    def add(self, rows: pa.Table) -> None:
        """Write rows; each time the same columns."""
        with _reporting(self._partial):
            if self._writer is None:
                self._writer = pq.ParquetWriter(self._sink, rows.schema, **WRITER_OPTIONS)
            self._writer.write_table(rows)

    def finish(self) -> None:
        """Move the file to its place, where readers find it."""
        assert self._writer is not None, "it has rows"
        with _reporting(self._path):
            self._writer.close()
            self._sink.close()
            self._partial.rename(self._path)

    def discard(self) -> None:
        """Remove what was written, as far as that is possible."""
        for part in filter(None, [self._writer, self._sink]):
            with contextlib.suppress(OSError, pa.ArrowException):  # what is not written yet goes, too
                part.close()
        with contextlib.suppress(OSError):
            self._partial.unlink()


@contextlib.contextmanager
def _reporting(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise StorageError(f"{path}: {error}; make room, or let this user write there") from error


def _is_shown(one: Answered) -> pa.Array:
    """Return for each candidate whether its client shows it; of equal scores the first ones are shown."""
    scores_N = next(iter(one.scores.values()))
    if one.num_shown is None:
        return pa.nulls(len(scores_N), pa.bool_())
    counts_U = one.raw.num_candidates
    user_of_N = np.repeat(np.arange(len(counts_U)), counts_U)
    first_of_N = np.repeat(np.cumsum(counts_U) - counts_U, counts_U)
    best_first_N = np.lexsort((-scores_N, user_of_N))  # stable; users stay in order
    is_shown_N = np.empty(len(scores_N), dtype=np.bool_)
    is_shown_N[best_first_N] = np.arange(len(scores_N)) - first_of_N < one.num_shown
    return pa.array(is_shown_N)


def _is_text(feature: SparseFeature) -> bool:
    return feature.kind == "single" and feature.id_type == "string"


def _array_of(parts: Sequence[RawIds], feature: SparseFeature) -> pa.Array:
    """Return a feature's ids, an entry for each row of its net; `parts` are those of several requests, in order."""
    values = np.concatenate([part.values for part in parts])
    lengths = np.concatenate([part.lengths for part in parts])
    ids = pa.array(values, type=pa.int64()) if feature.id_type == "int64" else _text_array(values.tolist())
    ends = np.cumsum(lengths)
    if feature.kind != "single":
        return pa.ListArray.from_arrays(pa.array(np.append(0, ends), type=pa.int32()), ids)
    return ids if lengths.all() else ids.take(pa.array(ends - 1, mask=lengths == 0))


def _text_array(ids: Sequence[str | bytes]) -> pa.Array:
    try:
        return pa.array(ids, type=pa.binary()).cast(pa.string())
    except pa.ArrowInvalid:
        return pa.array(
            [one if isinstance(one, str) else one.decode(errors="replace") for one in ids], type=pa.string()
        )
