"""A data set's files made into a log: impressions and feedback in Parquet, and their schema."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import polars as pl

from exfm.artifact.output import writing
from exfm.artifact.stores import entries, is_local, join
from exfm.config import parse_yaml
from exfm.errors import DataError
from exfm.events.csv_files import read_csv
from exfm.events.datasets.dataset import DOMAIN, KEY, TIME, DataSet, Lookup, Outcome
from exfm.events.datasets.parquet_file import ParquetFile
from exfm.events.datasets.spreading import Sequences
from exfm.events.log import FEEDBACK, IMPRESSIONS
from exfm.events.parquet import NOTES, SOURCE
from exfm.schema import Schema, time_text

SCHEMA_FILE = "schema.yaml"
FILES = (SCHEMA_FILE, f"{IMPRESSIONS}.parquet", f"{FEEDBACK}.parquet")
"""What a conversion writes; the schema comes last."""

PACKED = ("", ".gz", ".bz2")
"""How a file's name may end."""


@dataclass(frozen=True)
class Converted:
    """What a conversion wrote."""

    title: str
    num_impressions: int
    num_feedback: Mapping[str, int]
    """Rows of feedback by kind."""
    span: tuple[str, str]
    """The first and the last event time of impressions, as people write it."""
    notes: tuple[str, ...]
    wall_s: float

    def lines(self) -> Iterator[str]:
        """Yield what to show."""
        kinds = ", ".join(f"{count:,} of kind {kind}" for kind, count in self.num_feedback.items())
        yield f"{self.title}: {self.num_impressions:,} impressions, feedback: {kinds}"
        yield from self.notes
        yield (
            f"Event time is from {self.span[0]} to {self.span[1]}. {self.wall_s:.1f} s, "
            f"{self.num_impressions / self.wall_s:,.0f} impressions/s"
        )


def convert(
    parts: Sequence[DataSet], source: str, out: str, *, schema: bytes, mean_delay: float = 0.0, seed: int = 0
) -> Converted:
    """Write a data set's impressions, feedback and schema into the folder `out`, which appears as a whole.

    `source` is the folder of its files, or the file itself if it is only one. Feedback whose time the files do not tell
    comes exponential delays of mean `mean_delay` after its impression (seconds, or steps of ordinal time; 0: at once).

    Raises: ConfigError if `schema` is malformed; DataError if a file is missing or malformed; StorageError if a store
    does not answer, or `out` holds something else.
    """
    started_s = time.monotonic()
    time_kind = Schema.parse(parse_yaml(schema, source=SCHEMA_FILE), source=SCHEMA_FILE).event_time.kind
    first = parts[0]
    is_only = len(parts) == 1 and len(first.files) == 1 and not first.lookups
    files = [(part, _find(source, name, is_only=is_only)) for part in parts for name in part.files]
    log = _look_for(source, first.behaviours.file) if first.behaviours else ""
    notes = (*_notes_on_time(first, mean_delay=mean_delay, seed=seed), *_notes_on_behaviours(first, log), *first.notes)
    rng = np.random.default_rng(seed)
    num_rows, counts, ends = 0, dict.fromkeys(first.feedback, 0), pl.DataFrame()
    with writing(out, files=FILES) as folder, ExitStack() as stack:
        metadata = {SOURCE: first.title, NOTES: json.dumps(notes)}
        shown, feedback = (
            stack.enter_context(ParquetFile(folder / f"{part}.parquet", metadata)) for part in (IMPRESSIONS, FEEDBACK)
        )
        sequences = stack.enter_context(Sequences(first.behaviours, log, folder.parent, shown))
        for part, rows in _rows(files, source):
            num_rows += rows.height
            ends = pl.concat([ends, rows.select(first=pl.col(TIME).min(), last=pl.col(TIME).max())])
            for kind, outcome in part.feedback.items():
                responses = _responses(rows, kind, outcome, mean_delay=mean_delay, rng=rng)
                counts[kind] += responses.height
                feedback.write(responses)
            sequences.write(_impressions(rows, part))
        if not num_rows:
            raise DataError(f"{', '.join(file for _, file in files)}: there are no rows; copy the files again")
        sequences.finish()
        (folder / SCHEMA_FILE).write_bytes(schema)
    start, end = (time_text(_whole_s(moment), kind=time_kind) for moment in (ends["first"].min(), ends["last"].max()))
    return Converted(first.title, num_rows, counts, (start, end), notes, time.monotonic() - started_s)


def _whole_s(moment: object) -> int:
    """Return an event time in whole seconds, or in steps."""
    if isinstance(moment, datetime):
        return int(moment.timestamp())
    assert isinstance(moment, int)
    return moment


def _rows(files: Sequence[tuple[DataSet, str]], source: str) -> Iterator[tuple[DataSet, pl.DataFrame]]:
    """Yield the rows of files, with key, event time and what lookups say of them."""
    start = 0
    for part, file in files:
        lookups = [(lookup, _read_lookup(lookup, source)) for lookup in part.lookups]
        file_start = start
        for block in read_csv(file, part.layout):
            rows = block.with_columns(pl.int_range(start, start + block.height, dtype=pl.Int64).alias(KEY))
            start += rows.height
            rows = rows.with_columns(part.time.alias(TIME))
            _require_times(file, rows, part, file_start=file_start)
            for lookup, table in lookups:
                rows = rows.join(table, left_on=lookup.of, right_on=lookup.key, how="left", maintain_order="left")
            yield part, rows


def _require_times(file: str, rows: pl.DataFrame, data: DataSet, *, file_start: int) -> None:
    """Raise DataError if a row's time cannot be read; `file_start` is the key of the file's first row."""
    if not rows[TIME].null_count():
        return
    row = int(rows[TIME].is_null().arg_max() or 0)
    line = rows[KEY][row] - file_start + 1 + data.layout.has_header
    [column] = data.time.meta.root_names()
    readable = rows.filter(pl.col(TIME).is_not_null())
    like = f" like {readable[column][0]!r}" if readable.height else ""
    raise DataError(
        f"{file}: line {line}: column {column!r} is {rows[column][row]!r}, expected a time{like}; copy the file again"
    )


def _find(source: str, name: str, *, is_only: bool) -> str:
    """Return the URI of a file in a folder, packed or not; the source itself if it is the only file.

    Raises: DataError if it is not there.
    """
    if is_only and is_local(source) and Path(source).is_file():
        return source
    if found := _look_for(source, name):
        return found
    *below, name = name.split("/")
    folder = join(source, *below)
    names = ", ".join(sorted(item["name"] for item in entries(folder))[:10])
    raise DataError(
        f"{folder}: {name} is missing; looked for {', '.join(name + ending for ending in PACKED)}; found "
        f"{names or 'nothing'}; name the folder that holds the data set"
    )


def _look_for(source: str, name: str) -> str:
    """Return the URI of a file below a folder, packed or not; empty if it is not there."""
    *below, name = name.split("/")
    folder = join(source, *below)
    found = {item["name"] for item in entries(folder)}
    return next((join(folder, name + ending) for ending in PACKED if name + ending in found), "")


def _read_lookup(lookup: Lookup, source: str) -> pl.DataFrame:
    file = _find(source, lookup.file, is_only=False)
    rows = pl.concat(list(read_csv(file, lookup.layout)) or [pl.DataFrame(schema=dict(lookup.layout.columns))])
    repeated = rows.filter(rows[lookup.key].is_duplicated())
    if repeated.height:
        raise DataError(
            f"{file}: {lookup.key} {repeated[lookup.key][0]} is described more than once, expected one line for each; "
            "copy the file again"
        )
    return rows


def _impressions(rows: pl.DataFrame, data: DataSet) -> pl.DataFrame:
    first = [KEY, TIME, DOMAIN]
    shown = rows.with_columns(data.domain.alias(DOMAIN), **data.derived)
    return shown.select(*first, pl.exclude(*first, *data.left_out))


def _responses(
    rows: pl.DataFrame, kind: str, outcome: Outcome, *, mean_delay: float, rng: np.random.Generator
) -> pl.DataFrame:
    given = rows.filter(outcome.given)
    moment = pl.col(TIME) if outcome.time is None else outcome.time
    if outcome.time is None and mean_delay:
        delay = pl.lit(pl.Series(np.rint(rng.exponential(mean_delay, given.height)).astype(np.int64)))
        is_stamp = isinstance(rows.schema[TIME], pl.Datetime)
        moment = moment + (pl.duration(seconds=delay) if is_stamp else delay)
    return given.select(KEY, moment.alias(TIME), pl.lit(kind).alias("kind"), pl.lit(1.0).alias("value"))


def _notes_on_behaviours(data: DataSet, log: str) -> Iterator[str]:
    if data.behaviours and not log:
        sequences = ", ".join(data.behaviours.sequences)
        yield f"{data.behaviours.file} was not there, so the sequences {sequences} are empty."


def _notes_on_time(data: DataSet, *, mean_delay: float, seed: int) -> Iterator[str]:
    if not data.has_time:
        yield (
            "The files have no real time: event time is the number of a row, in the order of the files and their rows. "
            "Only order has a meaning."
        )
    if mean_delay and data.has_delays:
        raise DataError(f"{data.title} has its own delays of feedback; leave --mean-delay at 0")
    if mean_delay:
        unit = "s" if data.has_time else "rows"
        yield f"Delays of feedback are simulated (exponential, mean {mean_delay:g} {unit}, seed {seed})."
    elif not data.has_time:
        yield "Feedback is known at once."
