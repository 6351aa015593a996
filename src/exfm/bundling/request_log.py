"""The reader of rankers' request logs, for counting and replay; it hashes ids as the model does.

A log has a row for each candidate, so it lacks users without candidates. docs/contracts.md states the format.

Legend: N rows, R requests.
"""

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from exfm.bundling.request_keys import RequestKeys
from exfm.errors import DataError, StorageError
from exfm.features.batch import encode
from exfm.features.table import raw_columns, require_column
from exfm.schema import (
    SERVED_ARRIVAL_COLUMN,
    SERVED_MODEL_COLUMN,
    SERVED_SAMPLING_RATE_COLUMN,
    SERVED_USER_COLUMN,
    Schema,
)

MAX_REQUESTS = 1_111_111
"""Maximum number of requests that are read, the newest: after the warm-up, as many as Load allows."""

TYPES = {
    SERVED_MODEL_COLUMN: pa.string(),
    SERVED_SAMPLING_RATE_COLUMN: pa.float64(),
    SERVED_ARRIVAL_COLUMN: pa.int64(),
    SERVED_USER_COLUMN: pa.int64(),
}
"""Types of the columns that are not in the schema; the impression key is a string. Features are checked when read."""

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class LoggedRequests:
    """The newest logged requests of one model, all at one sampling rate."""

    files: tuple[Path, ...]
    schema: Schema
    """The model's schema with its sparse features only."""
    arrivals_ns: Integers
    """Arrival times of the newest requests, in nanoseconds since 1970-01-01 UTC, ascending; shape [R]."""
    num_requests: int
    """Requests of the whole log: R, or more."""

    @classmethod
    def find(cls, place: Path, schema: Schema) -> Self:
        """Return the log in one Parquet file, or in all Parquet files of a folder and of the folders below it.

        Raises: StorageError if there is no request, or a file cannot be read; DataError if a file is not a request log,
        is a copy of another, or has requests of another model or at another sampling rate.
        """
        files = _files(place)
        file_of: dict[tuple[str, float], Path] = {}
        newest, num_requests = highest_of(_arrivals(files, schema.impression_key, file_of), MAX_REQUESTS + 1)
        _check_adds_up(file_of)
        if not num_requests:
            raise StorageError(
                f"{place}: 0 requests in {len(files)} Parquet files, expected at least one; let a ranker log some "
                "(`request_log.folder`)"
            )
        if len(newest) > MAX_REQUESTS:
            newest = newest[newest > newest[0]]  # so that the arrival time decides which requests are read
        if not len(newest):
            raise DataError(
                f"{place}: the newest {MAX_REQUESTS + 1:,} requests have the same arrival time; name a log as a ranker "
                "wrote it"
            )
        sparse = schema.select(features=[feature.name for feature in schema.sparse])
        return cls(files=files, schema=sparse, arrivals_ns=newest, num_requests=num_requests)

    def blocks(self) -> Iterator[RequestKeys]:
        """Yield the newest requests, file by file.

        Raises: StorageError if a file cannot be read; DataError if it has another schema.
        """
        columns = [SERVED_ARRIVAL_COLUMN, SERVED_USER_COLUMN, *self.schema.feature_names()]
        for file in self.files:
            with _naming(file):
                for rows in _whole_requests(file, self.schema.impression_key, columns):
                    newest = rows.filter(pc.greater_equal(rows[SERVED_ARRIVAL_COLUMN], int(self.arrivals_ns[0])))
                    if len(newest):
                        yield _requests_of(newest, self.schema)


def highest_of(parts: Iterable[Integers], most: int) -> tuple[Integers, int]:
    """Return the highest numbers of all parts in ascending order, and the count of all numbers, in bounded memory."""
    kept = [np.empty(0, dtype=np.int64)]
    num_kept = num_seen = 0
    for part in parts:
        kept.append(part)
        num_kept, num_seen = num_kept + len(part), num_seen + len(part)
        if num_kept > 2 * most:
            kept, num_kept = [np.partition(np.concatenate(kept), -most)[-most:]], most
    return np.sort(np.concatenate(kept))[-most:], num_seen


def _files(place: Path) -> tuple[Path, ...]:
    if not place.exists():
        raise StorageError(
            f"{place}: there is no such file or folder; name a request log, which rankers write to `request_log.folder`"
        )
    files = (place,) if place.is_file() else tuple(sorted(place.rglob("*.parquet")))
    if not files:
        raise StorageError(
            f"{place}: 0 Parquet files, expected at least one; let a ranker log requests (`request_log.folder`) and "
            "finish a file (`request_log.file_s`)"
        )
    return files


def _arrivals(files: Sequence[Path], key: str, file_of: dict[tuple[str, float], Path]) -> Iterator[Integers]:
    """Yield arrival times of requests, and add their models and sampling rates to `file_of`."""
    columns = [SERVED_MODEL_COLUMN, SERVED_SAMPLING_RATE_COLUMN, SERVED_ARRIVAL_COLUMN]
    starting_with: dict[str, Path] = {}
    for file in files:
        first = ""
        with _naming(file):
            for rows in _whole_requests(file, key, columns):
                first = first or str(next(iter(rows[key]), ""))
                for origin in _origins(rows):
                    file_of.setdefault(origin, file)
                yield _integers(rows, SERVED_ARRIVAL_COLUMN)[_starts(rows, key)]
        if first and (other := starting_with.setdefault(first, file)) != file:
            raise DataError(
                f"{other} and {file} both start with impression {first!r}, so their requests would count twice; remove "
                "the copy"
            )


@contextlib.contextmanager
def _naming(file: Path) -> Iterator[None]:
    """Add the file's name to errors of its readers."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{file}: {error}; name a log as a ranker wrote it, of a model with this schema") from error
    except (OSError, pa.ArrowException) as error:
        why = f" ({error.strerror})" if isinstance(error, OSError) and error.strerror else ""
        raise StorageError(f"{file}: no Parquet file that can be read{why}; remove it, or copy it again") from error


def _whole_requests(file: Path, key: str, columns: Sequence[str]) -> Iterator[pa.Table]:
    """Yield rows of whole requests, about a row group at a time, with these columns."""
    names = list(dict.fromkeys([key, *columns]))
    with pq.ParquetFile(file) as source:
        for name in names:
            require_column(source.schema_arrow.names, name)
        rest = source.schema_arrow.empty_table().select(names)
        for group in range(source.num_row_groups):
            found = source.read_row_group(group, columns=names).select(names)
            for name in {key, *TYPES} & {*names}:
                _check(found[name], name, expected=TYPES.get(name, pa.string()))
            rows = pa.concat_tables([rest, found])
            last = int(_starts(rows, key)[-1]) if len(rows) else 0
            yield rows.slice(0, last)
            rest = rows.slice(last)
        yield rest


def _check(column: pa.ChunkedArray, name: str, *, expected: pa.DataType) -> None:
    kind = pa.string() if pa.types.is_large_string(column.type) else column.type
    if kind != expected or column.null_count:
        raise DataError(f"column {name!r} is {kind} with {column.null_count} nulls, expected {expected} with 0")


def _starts(rows: pa.Table, key: str) -> Integers:
    """Return the first row of each request; shape [R].

    Raises: DataError if a request's rows do not follow each other.
    """
    ids = pc.replace_substring_regex(rows[key], pattern=r"-[0-9]+$", replacement="").combine_chunks()
    coded = ids.dictionary_encode()
    starts_R = np.flatnonzero(np.diff(coded.indices.to_numpy(zero_copy_only=False), prepend=-1))
    if len(starts_R) != len(coded.dictionary):
        raise DataError(
            f"the rows of {len(coded.dictionary)} requests are in {len(starts_R)} runs, expected one run per request"
        )
    return starts_R


def _origins(rows: pa.Table) -> list[tuple[str, float]]:
    """Return the distinct models and sampling rates of rows."""
    pairs = rows.group_by([SERVED_MODEL_COLUMN, SERVED_SAMPLING_RATE_COLUMN]).aggregate([]).to_pylist()
    return [(pair[SERVED_MODEL_COLUMN], pair[SERVED_SAMPLING_RATE_COLUMN]) for pair in pairs]


def _check_adds_up(file_of: Mapping[tuple[str, float], Path]) -> None:
    """Check that all requests are for one model, at one sampling rate.

    Raises: DataError, which names two files that differ.
    """
    for (model, rate), (other_model, other_rate) in pairwise(file_of):
        file, other = file_of[model, rate], file_of[other_model, other_rate]
        if model != other_model:
            raise DataError(
                f"{other} has requests for model {other_model!r}, {file} for {model!r}; keep each model's log in its "
                "own folder"
            )
        raise DataError(
            f"{other} has a `request_log.sampling_rate` of {other_rate:g}, {file} of {rate:g}, so their requests "
            "do not have equal weight; count them separately, or log at one rate"
        )


def _integers(rows: pa.Table, name: str) -> Integers:
    integers: Integers = rows[name].to_numpy()
    return integers


def _requests_of(rows: pa.Table, schema: Schema) -> RequestKeys:
    starts_R = _starts(rows, schema.impression_key)
    is_start_N = np.diff(_integers(rows, SERVED_USER_COLUMN), prepend=-1) != 0
    is_start_N[starts_R] = True
    user_starts = np.flatnonzero(is_start_N)
    batches = encode(
        {
            "user": raw_columns(rows.take(user_starts), schema, nets=["user"]),
            "item": raw_columns(rows, schema, nets=["item"]),
        },
        schema,
        num_candidates=np.diff(user_starts, append=len(rows)),
    )
    return RequestKeys.of(
        batches,
        schema,
        arrival_ns=_integers(rows, SERVED_ARRIVAL_COLUMN)[starts_R],
        num_rows={
            "user": np.diff(np.searchsorted(user_starts, starts_R), append=len(user_starts)),
            "item": np.diff(starts_R, append=len(rows)),
        },
    )
