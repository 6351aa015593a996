"""How files of one's own fit a schema: column by column what does not, and which line of the schema would."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import polars as pl

from exfm.artifact.source_files import locate, open_files
from exfm.errors import DataError
from exfm.events.log import FEEDBACK, IMPRESSIONS
from exfm.events.parquet import columns_in
from exfm.events.remedies import schema_changes
from exfm.events.rules import (
    FEEDBACK_VALUE,
    Rule,
    feedback_columns,
    feedback_rules,
    impression_columns,
    impression_rules,
    same_key_rule,
)
from exfm.events.times import UNIT_NAMES, event_times, likely_unit
from exfm.features.faults import Fault
from exfm.schema import Schema

Rules = Callable[[Schema], Iterator[Rule]]
"""The rules of a part of a log, by its schema."""


@dataclass(frozen=True)
class ColumnFit:
    """How one column fits."""

    column: str
    problems: tuple[str, ...]
    """What does not fit; empty if all does."""
    remedy: str
    """What to change in the schema, and what that helps; empty if there is no problem, or no known change helps."""


@dataclass(frozen=True)
class FilesFit:
    """How the files of a part of a log fit."""

    of: str
    num_files: int
    num_rows: int
    columns: tuple[ColumnFit, ...]
    types: Mapping[str, pl.DataType]
    """Types of the columns in the first file that has them."""

    others: tuple[str, ...]
    """Columns of the first file that the schema does not name."""

    @property
    def unfit(self) -> tuple[str, ...]:
        """Return the columns that do not fit."""
        return tuple(column.column for column in self.columns if column.problems)

    def lines(self) -> Iterator[str]:
        """Yield what to show: a line for each column, below it what helps."""
        yield f"{self.of}: {self.num_rows:,} rows in {self.num_files} files"
        width = max(len(column.column) for column in self.columns)
        for column in self.columns:
            for place, problem in enumerate(column.problems or ("fits",)):
                yield f"  {'' if place else column.column:{width}}  {problem}"
            if column.remedy:
                yield f"  {'':{width}}  {column.remedy}"
        if self.others:
            yield f"  not in the schema: {', '.join(self.others)}"


def require_fit(fits: Sequence[FilesFit]) -> None:
    """Return if all columns fit.

    Raises: DataError, which names those that do not.
    """
    unfit = [f"{column!r} of {fit.of}" for fit in fits for column in fit.unfit]
    if unfit:
        raise DataError(f"column {', '.join(unfit)} does not fit; correct the files or the schema, then check again")


def fit_impressions(files: str, schema: Schema) -> FilesFit:
    """Return how Parquet files of impressions fit a schema: a file, a folder or a glob; a path or an s3:// URL.

    Raises: DataError if a file is no Parquet file; StorageError if there is none, or a store does not answer.
    """
    return _fit(files, schema, columns=impression_columns(schema), rules=impression_rules, of=IMPRESSIONS)


def fit_feedback(files: str, schema: Schema, *, impressions: FilesFit) -> FilesFit:
    """Return the same of feedback, whose key is to be of the type that impressions have."""
    key = schema.impression_key

    def rules(schema: Schema) -> Iterator[Rule]:
        if key in impressions.types:
            yield same_key_rule(schema, impressions.types[key])
        yield from feedback_rules(schema)

    fit = _fit(files, schema, columns=feedback_columns(schema), rules=rules, of=FEEDBACK, optional=(FEEDBACK_VALUE,))
    if schema.event_time.column in impressions.unfit:
        return fit
    # What the schema says of event time holds for impressions, too, which fit as it is.
    return replace(fit, columns=tuple(replace(column, remedy="") for column in fit.columns))


def _fit(
    files: str, schema: Schema, *, columns: Sequence[str], rules: Rules, of: str, optional: Sequence[str] = ()
) -> FilesFit:
    place = locate(files)
    types: dict[str, pl.DataType] = {}
    in_rows: dict[str, Counter[str]] = {column: Counter() for column in columns}
    in_files: dict[str, dict[str, list[str]]] = {column: {} for column in columns}
    others: tuple[str, ...] = ()
    num_files = num_rows = 0
    for name, found_columns, rows in _read(place, columns, of=of):
        if not num_files:
            others = tuple(column for column in found_columns if column not in columns)
        num_files, num_rows = num_files + 1, num_rows + rows.height
        for column, problem in _problems_of_file(rows, types, columns=columns, optional=optional):
            in_files[column].setdefault(problem, []).append(name)
        types = {**rows.schema, **types}
        for column, found in _faults(rows, [*rules(schema), _unit_rule(schema)]):
            if isinstance(found, Fault):
                in_rows[column][f"{found.found}, expected {found.expected}"] += int(found.rows_B.sum())
            else:
                in_files[column].setdefault(found, []).append(name)
    problems = {
        column: (
            *(f"{problem} ({_some(names)})" for problem, names in in_files[column].items()),
            *(f"{count:,} of {num_rows:,} rows: {problem}" for problem, count in in_rows[column].items()),
        )
        for column in columns
    }
    remedy = partial(_remedy, place, schema, rules=rules, of=of)
    return FilesFit(
        of=f"{of} in {files}",
        num_files=num_files,
        num_rows=num_rows,
        columns=tuple(
            ColumnFit(column, problems[column], remedy(column) if problems[column] and column in types else "")
            for column in columns
        ),
        types=types,
        others=others,
    )


def _read(place: str, columns: Sequence[str], *, of: str) -> Iterator[tuple[str, Sequence[str], pl.DataFrame]]:
    """Yield the name of each file, all its columns, and the rows of those that are asked for."""
    for name, file in open_files(place):
        found = columns_in(name, file, of=of).names()
        file.seek(0)
        try:
            yield name, found, pl.read_parquet(file, columns=[column for column in found if column in columns])
        except pl.exceptions.PolarsError as error:
            raise DataError(f"{of}: {name} cannot be read; write it again") from error


def _some(names: Sequence[str]) -> str:
    return f"in {names[0]}" + (f" and {len(names) - 1} more" if len(names) > 1 else "")


def _problems_of_file(
    rows: pl.DataFrame, types: Mapping[str, pl.DataType], *, columns: Sequence[str], optional: Sequence[str]
) -> Iterator[tuple[str, str]]:
    """Yield the columns that a file lacks, or has in another type than the files before; and what is wrong."""
    for column in columns:
        if column not in rows.columns:
            if column not in optional:
                yield column, "missing"
        elif rows.schema[column] != types.get(column, rows.schema[column]):
            yield column, f"is {rows.schema[column]}, but {types[column]} in files before; write it as one type"


def _faults(rows: pl.DataFrame, rules: Sequence[Rule]) -> Iterator[tuple[str, Fault | str]]:
    """Yield each column and what is wrong with some rows, or with its type."""
    known = set(rows.columns)
    for rule in rules:  # one rule may read what another column holds, which is null if it is not there
        unknown = pl.lit(None, dtype=pl.Float64)
        if rule.column not in known:
            rows = rows.with_columns(unknown.alias(rule.column))
            continue
        try:
            yield from ((rule.column, fault) for fault in list(rule.faults(rows)) if fault.rows_B.any())
        except DataError as error:
            known.discard(rule.column)
            rows = rows.with_columns(unknown.alias(rule.column))
            yield rule.column, str(error).removeprefix(f"column {rule.column!r} ")


def _unit_rule(schema: Schema) -> Rule:
    """Return the rule that times are not of another unit in which they are of this century; an old log may break it."""
    time = schema.event_time

    def faults(rows: pl.DataFrame) -> Iterator[Fault]:
        unit = likely_unit(rows[time.column])
        if time.kind == "absolute" and unit not in {"", time.unit}:
            is_possible = event_times(rows[time.column], time).values.is_not_null().to_numpy()
            yield Fault(time.column, f"probably {UNIT_NAMES[unit]}", UNIT_NAMES[time.unit], is_possible)

    return Rule(time.column, faults)


def _remedy(place: str, schema: Schema, column: str, *, rules: Rules, of: str) -> str:
    """Return which change of the schema helps most rows of a column, and how many it helps not."""
    values = next(rows[column] for _, _, rows in _read(place, [column], of=of) if column in rows.columns)
    changes = list(schema_changes(schema, column, values))
    if not changes:
        return ""
    best, fewest = "", _num_broken(place, schema, column, rules=rules, of=of)
    for line, changed in changes:
        num_broken = _num_broken(place, changed, column, rules=rules, of=of)
        if num_broken < fewest:
            best, fewest = line, num_broken
    if not best:
        return ""
    return f"with `{best}` in the schema " + (f"{fewest:,} rows do not fit" if fewest else "it fits")


def _num_broken(place: str, schema: Schema, column: str, *, rules: Rules, of: str) -> int:
    """Return how many rows of a column a schema's rules refuse: all of a file in which its type is wrong."""
    of_column = [rule for rule in (*rules(schema), _unit_rule(schema)) if rule.column == column]
    num_broken = 0
    for _, _, rows in _read(place, [column], of=of):
        is_broken = np.zeros(rows.height, dtype=np.bool_)
        for _, found in _faults(rows, of_column):
            is_broken |= found.rows_B if isinstance(found, Fault) else True
        num_broken += int(is_broken.sum())
    return num_broken
