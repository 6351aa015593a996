"""CSV files of any size, also packed by gzip or bzip2, read a block of rows at a time."""

import csv
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO

import polars as pl
import pyarrow as pa
import pyarrow.csv

from exfm.artifact.stores import reaching
from exfm.errors import DataError

BLOCK_BYTES = 16 * 2**20
"""Bytes of text that are parsed at a time; memory holds a few such blocks."""

SEPARATORS = {",": "a comma", "\t": "a tab", ";": "a semicolon", "|": "'|'"}

ITEMS = pl.List(pl.String)
"""Type of a column whose values are items that `^` separates."""

Type = pl.DataType | type[pl.DataType]

_ARROW: Mapping[Type, tuple[pa.DataType, str]] = {
    pl.Int64: (pa.int64(), "a whole number"),
    pl.Float64: (pa.float64(), "a number"),
    pl.Boolean: (pa.bool_(), "0 or 1"),
    pl.String: (pa.string(), "text in UTF-8"),
    ITEMS: (pa.string(), "text in UTF-8"),
}
"""Each type as Arrow parses it, and what a value is then, in words."""


@dataclass(frozen=True)
class CsvLayout:
    """How a file is written."""

    columns: Mapping[str, Type]
    """The columns that are read: Int64, Float64, Boolean (0 or 1), String or ITEMS. Without a header: all, in order."""
    separator: str = ","
    has_header: bool = True
    required: Sequence[str] = ()
    """Columns in which no value may be missing."""
    aliases: Mapping[str, str] = field(default_factory=dict)
    """Names of columns in some copies, and their names here."""
    nulls: Sequence[str] = ("",)
    """What a missing value is written as."""
    ends_with_newline: bool = True
    """Whether a last line without a line end is refused: it may be torn within its last field."""


def read_csv(uri: str, layout: CsvLayout) -> Iterator[pl.DataFrame]:
    """Yield a file's rows, block after block, with the columns of `layout` in its order.

    A file whose name ends in .gz or .bz2 is unpacked as it is read.

    Raises: DataError, which names file and line, what was found and what was expected: a column is missing, the
    separator is another one, a line has other fields, or a value another type; StorageError if the store does not
    answer.
    """
    header = header_of(uri, separator=layout.separator) if layout.has_header else list(layout.columns)
    names = [layout.aliases.get(name, name) for name in header]
    if layout.has_header:
        _require_columns(uri, names, layout)
    line = 1 + layout.has_header
    with reaching(uri) as (filesystem, path), filesystem.open(path, "rb", compression="infer") as file:
        watched = _Watched(file)
        for batch in _batches(uri, watched, names, layout):
            rows = pl.DataFrame(pl.from_arrow(batch))
            _require_values(uri, rows, layout, first_line=line)
            line += rows.height
            lists = [name for name, dtype in layout.columns.items() if dtype == ITEMS]
            yield rows.with_columns(_items(name) for name in lists)
        if layout.ends_with_newline and watched.last not in (b"", b"\n"):
            raise DataError(
                f"{uri}: line {line - 1}, the last one, has no line end, so it may be torn off; expected one: copy the "
                "file again, or add a line end if the line is whole"
            )


class _Watched:
    """A file that remembers its last byte."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.last = b""

    @property
    def closed(self) -> bool:
        """Return whether the file is closed."""
        return self._file.closed

    def read(self, num_bytes: int = -1) -> bytes:
        """Return the next bytes."""
        content = self._file.read(num_bytes)
        self.last = content[-1:] or self.last
        return content


def header_of(uri: str, *, separator: str) -> list[str]:
    """Return the names in a file's first line, without spaces around them.

    Raises: DataError if the file is empty or no text; StorageError if the store does not answer.
    """
    with reaching(uri) as (filesystem, path), filesystem.open(path, "rb", compression="infer") as file:
        try:
            first = file.readline(2**20).decode("utf-8-sig").rstrip("\r\n")
        except _DAMAGE as error:
            raise DataError(f"{uri}: line 1 cannot be read ({error}); copy the file again") from error
    if not first:
        raise DataError(f"{uri}: line 1 is empty, expected the names of columns; copy the file again")
    return [name.strip() for name in next(csv.reader([first], delimiter=separator))]


_DAMAGE = (EOFError, OSError, UnicodeDecodeError, zlib.error)
"""What damaged files raise; gzip and bz2 raise OSError of other contents, and EOFError of torn files."""


def _require_columns(uri: str, names: Sequence[str], layout: CsvLayout) -> None:
    missing = [name for name in layout.columns if name not in names]
    if not missing:
        return
    shown = ", ".join(filter(None, names))[:300]
    other = next((mark for mark in SEPARATORS if mark != layout.separator and mark in "".join(names)), "")
    if len(names) == 1 and other:
        raise DataError(
            f"{uri}: line 1 is separated by {SEPARATORS[other]}, expected {SEPARATORS[layout.separator]}: {shown!r}"
        )
    raise DataError(
        f"{uri}: line 1 lacks column {', '.join(map(repr, missing))}; found {shown}; expected these among others, in "
        "any order: name the file of this data set"
    )


def _batches(uri: str, file: _Watched, names: Sequence[str], layout: CsvLayout) -> Iterator[pa.RecordBatch]:
    types = {name: _ARROW[dtype][0] for name, dtype in layout.columns.items()}
    try:
        yield from pa.csv.open_csv(
            pa.PythonFile(file, mode="r"),
            # Without threads, an error has the number of its line.
            read_options=pa.csv.ReadOptions(
                use_threads=False, block_size=BLOCK_BYTES, column_names=names, skip_rows=int(layout.has_header)
            ),
            parse_options=pa.csv.ParseOptions(
                delimiter=layout.separator, quote_char='"' if layout.has_header else False
            ),
            convert_options=pa.csv.ConvertOptions(
                column_types=types,
                include_columns=list(types),
                null_values=list(layout.nulls),
                true_values=["1"],
                false_values=["0"],
                strings_can_be_null=True,
            ),
        )
    except pa.ArrowInvalid as error:
        raise DataError(f"{uri}: {_explained(str(error), names, layout)}; copy the file again") from error
    except _DAMAGE as error:
        raise DataError(f"{uri}: is damaged or torn off ({error}); copy the file again") from error


def _explained(message: str, names: Sequence[str], layout: CsvLayout) -> str:
    """Return what Arrow says of a file, in our words."""
    if message.startswith("Empty CSV file"):
        return "there are no rows"
    if found := re.search(r"Row #(\d+): Expected (\d+) columns, got (\d+): (.*)", message, re.DOTALL):
        line, expected, got, text = found.groups()
        hint = ""
        if got == "1":
            hint = f" separated by {SEPARATORS[layout.separator]}"
        return f"line {line} has {got} fields, expected {expected}{hint}: {text!r:.100}"
    if found := re.search(r"In CSV column #(\d+): (?:Row #(\d+): )?CSV conversion error.*?: (.*)", message, re.DOTALL):
        column, line, value = found.groups()
        name = names[int(column)]
        value = value.removeprefix("invalid value ")
        where = f"line {line}" if line else "some line"
        return f"{where}: column {name!r} is {value:.100}, expected {_ARROW[layout.columns[name]][1]}"
    return f"cannot be read as CSV ({message:.200})"


def _require_values(uri: str, rows: pl.DataFrame, layout: CsvLayout, *, first_line: int) -> None:
    for name in layout.required:
        if rows[name].null_count():
            line = first_line + int(rows[name].is_null().arg_max() or 0)
            raise DataError(
                f"{uri}: line {line}: column {name!r} is empty, expected {_ARROW[layout.columns[name]][1]}; copy the "
                "file again"
            )


def _items(name: str) -> pl.Expr:
    items = pl.col(name).fill_null("").str.split("^").list.eval(pl.element().filter(pl.element() != ""))
    return items.alias(name)
