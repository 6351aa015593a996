"""What the columns of a user's files hold, found in one pass of bounded memory."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import polars as pl

from exfm.artifact.source_files import list_files, locate
from exfm.errors import DataError
from exfm.events.csv_files import SEPARATORS, CsvLayout, header_of, read_csv
from exfm.events.rules import FEEDBACK_KIND
from exfm.events.times import likely_unit

SKETCH_SIZE = 4096
"""Smallest hashes of a column that are kept: up to so many distinct values are counted, more are estimated to 2 %."""

SLICE_ROWS = 262_144

Kind = Literal["integer", "number", "text", "time", "list", "other"]


@dataclass
class ColumnFacts:
    """What one column holds."""

    name: str
    kind: Kind
    item_kind: Kind = "text"
    """Of a list: what its items are."""
    num_rows: int = 0
    num_missing: int = 0
    num_finite: int = 0
    """Rows with a finite number, of which the next four are."""
    minimum: float = float("inf")
    maximum: float = float("-inf")
    total: float = 0.0
    squares: float = 0.0
    max_length: int = 0
    """Of a list."""
    unit: str = ""
    """Of integers that may be times: the unit in which they are of this century; of times: their own."""
    sketch: pl.Series = field(default_factory=lambda: pl.Series(dtype=pl.UInt64))

    @property
    def num_distinct(self) -> int:
        """Return the number of distinct values, or of distinct items; an estimate past SKETCH_SIZE."""
        if self.sketch.len() < SKETCH_SIZE:
            return self.sketch.len()
        return round((SKETCH_SIZE - 1) * 2**64 / int(self.sketch[-1]))

    @property
    def is_exact(self) -> bool:
        """Return whether the distinct values were counted."""
        return self.sketch.len() < SKETCH_SIZE

    @property
    def mean(self) -> float:
        """Return the mean of numbers."""
        return self.total / max(self.num_finite, 1)

    @property
    def std(self) -> float:
        """Return the standard deviation of numbers."""
        return float(max(self.squares / max(self.num_finite, 1) - self.mean**2, 0.0) ** 0.5)

    def add(self, column: pl.Series) -> None:
        """Count some more rows."""
        self.num_rows += column.len()
        self.num_missing += column.null_count()
        if self.kind == "list":
            longest = column.list.len().max()
            self.max_length = max(self.max_length, longest if isinstance(longest, int) else 0)
        elif self.kind in ("integer", "number") and column.null_count() < column.len():
            numbers = column.cast(pl.Float64).drop_nulls()
            numbers = numbers.filter(numbers.is_finite())
            low, high = numbers.min(), numbers.max()
            if isinstance(low, float) and isinstance(high, float):
                self.minimum, self.maximum = min(self.minimum, low), max(self.maximum, high)
            self.num_finite += numbers.len()
            self.total += float(numbers.sum())
            self.squares += float((numbers * numbers).sum())
        if self.kind == "other":
            return
        items = (column.explode(empty_as_null=True) if self.kind == "list" else column).drop_nulls()
        smallest = pl.concat([self.sketch, items.unique().hash(seed=0)]).unique().sort()
        self.sketch = smallest.head(SKETCH_SIZE)


def read_facts(files: str, *, form: Literal["csv", "parquet"]) -> list[ColumnFacts]:
    """Return what each column of a CSV file, or of Parquet files, holds, in the order of the first file.

    Raises: DataError if a file is damaged, empty, or no such file; StorageError if there is none.
    """
    facts: dict[str, ColumnFacts] = {}
    for rows in read_csv(files, typed_layout(files)) if form == "csv" else _parquet(files):
        for column in rows:
            if column.name not in facts:
                facts[column.name] = _first_facts(column)
            facts[column.name].add(column)
    if not facts:
        raise DataError(f"{files}: there are no rows; name a file that has some")
    return list(facts.values())


def kinds_in(feedback: str) -> dict[str, int]:
    """Return the rows of each kind in Parquet files of feedback, the most frequent first.

    Raises: DataError if a file is damaged, or has no column `kind`; StorageError if there is none.
    """
    counts: Counter[str] = Counter()
    for rows in _parquet(feedback):
        if FEEDBACK_KIND not in rows.columns:
            raise DataError(
                f"{feedback}: column {FEEDBACK_KIND!r} is missing; the columns are {', '.join(rows.columns)}"
            )
        counts.update(dict(rows.group_by(FEEDBACK_KIND).len().drop_nulls().iter_rows()))
    return dict(counts.most_common())


def typed_layout(uri: str) -> CsvLayout:
    """Return how a CSV file with a header is written; it is read once as text to find its columns' types.

    Raises: DataError if the file is damaged or empty; StorageError if there is none.
    """
    separator = _separator(uri)
    names = [name for name in header_of(uri, separator=separator) if name]
    types: dict[str, pl.DataType | type[pl.DataType]] = dict.fromkeys(names, pl.Int64)
    as_text = CsvLayout(columns=dict.fromkeys(names, pl.String), separator=separator, ends_with_newline=False)
    for rows in read_csv(uri, as_text):
        for column in rows:
            types[column.name] = _wider(types[column.name], column)
    return CsvLayout(columns=types, separator=separator, ends_with_newline=False)


def _separator(uri: str) -> str:
    line = "".join(header_of(uri, separator="\0"))
    return max(SEPARATORS, key=line.count)


def _wider(dtype: pl.DataType | type[pl.DataType], column: pl.Series) -> pl.DataType | type[pl.DataType]:
    """Return the first type, from `dtype` on, that all values of a text column have."""
    order: Sequence[pl.DataType | type[pl.DataType]] = (pl.Int64, pl.Float64, pl.List(pl.String), pl.String)
    for one in order[list(order).index(dtype) :]:
        if one == pl.List(pl.String):
            # A separator in one value of a hundred is no accident.
            if column.str.contains("^", literal=True).sum() * 100 >= max(column.count(), 1):
                return one
        elif one == pl.String or column.cast(one, strict=False).null_count() == column.null_count():
            return one
    return pl.String


def _parquet(files: str) -> Iterator[pl.DataFrame]:
    for file in list_files(locate(files)):
        try:
            scan = pl.scan_parquet(file.uri, glob=False, hive_partitioning=False)
            num_rows = scan.select(pl.len()).collect().item()
            for start in range(0, num_rows, SLICE_ROWS):
                yield scan.slice(start, SLICE_ROWS).collect()
        except pl.exceptions.PolarsError as error:
            raise DataError(
                f"{file.uri} is damaged, or no Parquet file; write it again, or name only the Parquet files, such as "
                "FOLDER/*.parquet"
            ) from error


def _first_facts(column: pl.Series) -> ColumnFacts:
    kind = _kind(column.dtype)
    facts = ColumnFacts(column.name, kind)
    if kind == "list":
        facts.item_kind = _kind(getattr(column.dtype, "inner", pl.String()))
    elif kind == "integer":
        facts.unit = likely_unit(column.cast(pl.Int64))
    elif isinstance(column.dtype, pl.Datetime):
        facts.unit = column.dtype.time_unit
    return facts


def _kind(dtype: pl.DataType) -> Kind:
    if dtype.is_integer() or dtype == pl.Boolean:
        return "integer"
    if dtype.is_float() or dtype.is_decimal():
        return "number"
    if isinstance(dtype, pl.List):
        return "list"
    if isinstance(dtype, pl.Datetime):
        return "time"
    return "text" if dtype in (pl.String, pl.Categorical, pl.Enum) else "other"
