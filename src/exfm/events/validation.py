"""The rules that a log's rows must keep, checked once, before any is written."""

from collections.abc import Mapping, Sequence

import polars as pl

from exfm.errors import DataError
from exfm.features.batch import encode_examples
from exfm.features.table import raw_columns
from exfm.schema import Schema

FEEDBACK_KIND = "kind"
FEEDBACK_VALUE = "value"
NAMES_COLUMNS = ("id", "name")
"""Columns of a table that names an id feature's ids."""

END_OF_SECONDS = 100_000_000_000
"""Times in seconds are below this, which is in the year 5138. Milliseconds are past it from 1973 on."""

SLICE_ROWS = 65_536
"""Impressions whose features are encoded at a time: bounds memory."""


def impression_columns(schema: Schema) -> tuple[str, ...]:
    """Return the columns that impressions have."""
    context = (schema.impression_key, schema.event_time.column, schema.domain, *sorted(schema.context_columns()))
    return tuple(dict.fromkeys((*context, *schema.feature_names())))


def feedback_columns(schema: Schema) -> tuple[str, ...]:
    """Return the columns that feedback has, the value among them, which may be absent from a user's own."""
    return (schema.impression_key, schema.event_time.column, FEEDBACK_KIND, FEEDBACK_VALUE)


def checked_impressions(impressions: pl.DataFrame, schema: Schema, *, of: str) -> pl.DataFrame:
    """Return the schema's columns of impressions that keep its rules; `of` is what messages call them.

    Raises: DataError, which names the column, what was found and what was expected.
    """
    key = schema.impression_key
    rows = _select(impressions, impression_columns(schema), of=of)
    if rows.is_empty():
        raise DataError(f"{of}: there are no rows; a log needs at least one")
    _require_type(rows, key, [pl.Int64(), pl.String()], of=of)
    _require_no_null(rows, key, of=of)
    _require_time(rows, schema, of=of)
    _require_type(rows, schema.domain, [pl.String()], of=of)
    _require_no_null(rows, schema.domain, of=of)
    if schema.user:
        _require_user(rows, schema.user, of=of)
    if schema.weight:
        _require_number(
            rows, schema.weight, ~_is_positive(_float32(schema.weight)), "> 0 and finite, as float32 too", of=of
        )
    if schema.negative_sampling_rate:
        rate = schema.negative_sampling_rate
        weight = _float32(schema.weight) if schema.weight else pl.lit(1.0, dtype=pl.Float32)
        of_negative = (weight / _float32(rate)).cast(pl.Float32)
        wrong = ~(pl.col(rate).is_between(0, 1, closed="right") & _is_positive(of_negative))
        _require_number(rows, rate, wrong, "> 0 and <= 1, and weight / rate finite as float32", of=of)
    for truth in sorted({label.truth for label in schema.labels} - {""}):
        _require_number(rows, truth, ~pl.col(truth).is_between(0, 1), "a probability, 0 to 1", of=of)
    try:
        raw_columns(rows.clear().to_arrow(), schema)  # of no rows: it checks the types
    except DataError as error:
        raise DataError(f"{of}: {error}") from error
    repeated = rows[key].is_duplicated()
    if repeated.any():
        raise DataError(
            f"{of}: column {key!r} identifies an impression, but {repeated.sum()} of {rows.height} rows share "
            f"their key with another (for example {rows.filter(repeated)[key][0]!r}); keep one row of each"
        )
    for start in range(0, rows.height, SLICE_ROWS):
        _require_features(rows.slice(start, SLICE_ROWS), schema, of=of)
    return rows


def checked_feedback(feedback: pl.DataFrame, *, impressions: pl.DataFrame, schema: Schema, of: str) -> pl.DataFrame:
    """Return feedback that keeps the schema's rules: impression key, event time, kind and value (1.0 where not given).

    Feedback whose impression the log lacks is kept: whoever joins the two counts it.

    Raises: DataError, which names the column, what was found and what was expected.
    """
    key, time = schema.impression_key, schema.event_time.column
    if FEEDBACK_VALUE not in feedback.columns:
        feedback = feedback.with_columns(pl.lit(1.0).alias(FEEDBACK_VALUE))
    rows = _select(feedback, feedback_columns(schema), of=of)
    _require_type(rows, key, [impressions.schema[key]], of=of, meaning=" as in impressions")
    _require_no_null(rows, key, of=of)
    _require_time(rows, schema, of=of)
    _require_type(rows, FEEDBACK_KIND, [pl.String()], of=of)
    _require_no_null(rows, FEEDBACK_KIND, of=of)
    _require_number(rows, FEEDBACK_VALUE, ~pl.col(FEEDBACK_VALUE).is_finite(), "finite", of=of)
    shown = impressions.select(key, pl.col(time).alias("shown"))
    early = rows.join(shown, on=key, how="inner").filter(pl.col(time) < pl.col("shown"))
    if not early.is_empty():
        row = early.row(0, named=True)
        raise DataError(
            f"{of}: {early.height} of {rows.height} rows are earlier than their impression (for example "
            f"{row[FEEDBACK_KIND]!r} of impression {row[key]!r} at {row[time]}, shown at {row['shown']}); "
            "feedback follows its impression: correct the clocks or drop these rows"
        )
    return rows.with_columns(pl.col(FEEDBACK_VALUE).cast(pl.Float64))


def checked_names(names: Mapping[str, pl.DataFrame], schema: Schema) -> dict[str, pl.DataFrame]:
    """Return the names of those id features that the schema has.

    Raises: DataError if a table of names lacks a column, or names an id twice.
    """
    known = {feature.name for feature in schema.sparse}
    checked = {}
    for feature, table in names.items():
        if feature in known:
            of = f"names of {feature!r}"
            rows = _select(table, NAMES_COLUMNS, of=of)
            _require_no_null(rows, "id", of=of)
            _require_no_null(rows, "name", of=of)
            if rows["id"].n_unique() < rows.height:
                raise DataError(
                    f"{of}: {rows.height - rows['id'].n_unique()} ids are named more than once; name each once"
                )
            checked[feature] = rows
    return checked


def _select(rows: pl.DataFrame, columns: Sequence[str], *, of: str) -> pl.DataFrame:
    missing = [column for column in columns if column not in rows.columns]
    if missing:
        raise DataError(
            f"{of}: column {', '.join(map(repr, missing))} is missing; the columns are {', '.join(rows.columns)}: add "
            "it, or correct the schema"
        )
    return rows.select(columns)


def _require_time(rows: pl.DataFrame, schema: Schema, *, of: str) -> None:
    unit = "seconds since 1970-01-01 UTC" if schema.event_time.kind == "absolute" else "ordinal steps"
    _require_type(rows, schema.event_time.column, [pl.Int64()], of=of, meaning=f" ({unit})")
    _require_no_null(rows, schema.event_time.column, of=of)
    if schema.event_time.kind == "absolute":
        times = pl.col(schema.event_time.column)
        wrong = ~times.is_between(0, END_OF_SECONDS, closed="left")
        expected = f"{unit}, from 0 to {END_OF_SECONDS:,} (milliseconds? divide by 1000)"
        _require_number(rows, schema.event_time.column, wrong, expected, of=of)


def _require_user(rows: pl.DataFrame, user: str, *, of: str) -> None:
    found = rows.schema[user]
    if not found.is_integer() and found != pl.String:
        raise DataError(f"{of}: column {user!r} is {found}, expected an integer or String (the user); convert it")


def _require_type(rows: pl.DataFrame, column: str, types: Sequence[pl.DataType], *, of: str, meaning: str = "") -> None:
    found = rows.schema[column]
    if found not in types:
        expected = " or ".join(map(str, types))
        if found == pl.Null:
            raise DataError(f"{of}: column {column!r} is null in every row, expected {expected}{meaning}; fill it")
        raise DataError(f"{of}: column {column!r} is {found}, expected {expected}{meaning}; convert it")


def _require_no_null(rows: pl.DataFrame, column: str, *, of: str) -> None:
    count = rows[column].null_count()
    if count:
        raise DataError(f"{of}: column {column!r} is null in {count} of {rows.height} rows; fill it or drop these rows")


def _require_number(rows: pl.DataFrame, column: str, is_wrong: pl.Expr, expected: str, *, of: str) -> None:
    if not rows.schema[column].is_numeric():
        raise DataError(f"{of}: column {column!r} is {rows.schema[column]}, expected a number, {expected}; convert it")
    _require_no_null(rows, column, of=of)
    wrong = rows[column].filter(rows.select(is_wrong).to_series())
    if len(wrong):
        raise DataError(
            f"{of}: column {column!r} is out of bounds in {len(wrong)} of {rows.height} rows (for example {wrong[0]}), "
            f"expected {expected}; correct or drop these rows"
        )


def _float32(column: str) -> pl.Expr:
    """Return a column as training reads it: out of float32's range a number becomes 0 or an infinity."""
    return pl.col(column).cast(pl.Float32)


def _is_positive(values: pl.Expr) -> pl.Expr:
    return values.is_finite() & (values > 0)


def _require_features(rows: pl.DataFrame, schema: Schema, *, of: str) -> None:
    """Check that features can be read as training reads them; of rows that cannot be, name one."""
    try:
        encode_examples(raw_columns(rows.to_arrow(), schema), schema)
    except DataError as error:
        if rows.height == 1:
            key = schema.impression_key
            raise DataError(f"{of}: the row with {key} {rows[key][0]!r} (here row 0): {error}") from error
        half = rows.height // 2
        _require_features(rows.slice(0, half), schema, of=of)
        _require_features(rows.slice(half), schema, of=of)
