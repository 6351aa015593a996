"""The rules that a log's rows must keep, checked once, before any is written."""

from collections.abc import Iterable, Mapping

import polars as pl

from exfm.errors import DataError
from exfm.events.rules import (
    FEEDBACK_KIND,
    FEEDBACK_VALUE,
    Rule,
    faults_of,
    feedback_columns,
    feedback_rules,
    impression_columns,
    impression_rules,
    same_key_rule,
    select,
    with_values,
)
from exfm.events.times import event_times
from exfm.schema import Schema

NAMES_COLUMNS = ("id", "name")
"""Columns of a table that names an id feature's ids."""


def checked_impressions(impressions: pl.DataFrame, schema: Schema, *, of: str) -> pl.DataFrame:
    """Return the schema's columns of impressions that keep its rules; `of` is what messages call them.

    Absolute time comes in whole seconds.

    Raises: DataError, which names the column, what was found and what was expected.
    """
    key = schema.impression_key
    rows = select(impressions, impression_columns(schema), of=of)
    if rows.is_empty():
        raise DataError(f"{of}: there are no rows; a log needs at least one")
    _require(rows, impression_rules(schema), schema, of=of)
    repeated = rows[key].is_duplicated()
    if repeated.any():
        raise DataError(
            f"{of}: column {key!r} identifies an impression, but {repeated.sum()} of {rows.height} rows share "
            f"their key with another (for example {rows.filter(repeated)[key][0]!r}); keep one row of each"
        )
    return _in_seconds(rows, schema)


def checked_feedback(feedback: pl.DataFrame, *, impressions: pl.DataFrame, schema: Schema, of: str) -> pl.DataFrame:
    """Return feedback that keeps the schema's rules: impression key, event time, kind and value (1.0 where not given).

    `impressions` are checked. Feedback whose impression the log lacks is kept: whoever joins the two counts it.

    Raises: DataError, which names the column, what was found and what was expected.
    """
    key, time = schema.impression_key, schema.event_time.column
    rows = select(with_values(feedback), feedback_columns(schema), of=of)
    _require(rows, [same_key_rule(schema, impressions.schema[key]), *feedback_rules(schema)], schema, of=of)
    rows = _in_seconds(rows, schema)
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
            rows = select(table, NAMES_COLUMNS, of=of)
            for column in NAMES_COLUMNS:
                if rows[column].null_count():
                    raise DataError(f"{of}: column {column!r} is null in {rows[column].null_count()} rows; fill it")
            if rows["id"].n_unique() < rows.height:
                raise DataError(
                    f"{of}: {rows.height - rows['id'].n_unique()} ids are named more than once; name each once"
                )
            checked[feature] = rows
    return checked


def _require(rows: pl.DataFrame, rules: Iterable[Rule], schema: Schema, *, of: str) -> None:
    fault = next(faults_of(rows, rules, of=of), None)
    if fault is not None:
        first = int(fault.rows_B.argmax())
        key = schema.impression_key
        where = f", where {key} is {rows[key][first]!r}" if fault.column != key else ""
        raise DataError(
            f"{of}: column {fault.column!r} is {fault.found} in {fault.rows_B.sum()} of {rows.height} rows (for "
            f"example {rows[fault.column][first]}{where}), expected {fault.expected}; correct or drop these rows"
        )


def _in_seconds(rows: pl.DataFrame, schema: Schema) -> pl.DataFrame:
    if schema.event_time.kind == "ordinal":
        return rows
    times = event_times(rows[schema.event_time.column], schema.event_time).values
    return rows.with_columns(times.dt.epoch("s"))
