"""Types of a log's columns in tables: one type for each column, whatever its files have."""

import polars as pl

from exfm.errors import DataError

WIDER = {(pl.Float32(), pl.Float64())}
"""Types, and those of a table that hold all their values."""


def table_type(dtype: pl.DataType) -> pl.DataType:
    """Return the type that a table has for a column of a file: integers are Int64, texts String, in lists too."""
    if isinstance(dtype, pl.List | pl.Array):
        inner = dtype.inner
        assert isinstance(inner, pl.DataType)
        return pl.List(table_type(inner))
    if dtype.is_integer():
        return pl.Int64()
    return pl.String() if isinstance(dtype, pl.Categorical | pl.Enum) else dtype


def conform(rows: pl.DataFrame, known: pl.Schema, *, of: str) -> pl.DataFrame:
    """Return a file's rows with the types that a table has, or will have; `of` is what messages call the file.

    Raises: DataError if a column is of another type than in the files before, or has integers past int64.
    """
    try:
        rows = rows.cast({name: table_type(dtype) for name, dtype in rows.schema.items()})
    except pl.exceptions.InvalidOperationError as error:
        raise DataError(f"{of}: integers are outside of int64 ({error}); write them as strings") from error
    for name, found in rows.schema.items():
        expected = known.get(name, found)
        if found != expected and (found, expected) not in WIDER:
            raise DataError(
                f"{of}: column {name!r} is {found}, but {expected} in the files before; write it as that type"
            )
    return rows.cast({name: dtype for name, dtype in known.items() if name in rows.columns})
