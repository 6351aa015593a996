import polars as pl

from exfm.errors import DataError
from exfm.events.validation import FEEDBACK_VALUE, feedback_columns, impression_columns


def _split(rows, schema, of, columns):
    t = schema.event_time.column
    if FEEDBACK_VALUE in columns and FEEDBACK_VALUE not in rows.columns:
        rows = rows.with_columns(pl.lit(1.0).alias(FEEDBACK_VALUE))
    rows = rows.select(*columns, "row").with_columns(
        (pl.col(t) * 1_000_000).cast(pl.Datetime("us", "UTC")) if schema.event_time.kind == "absolute" else pl.col(t)
    )
    bad = pl.col(t).is_null() | pl.col(schema.impression_key).is_null()
    rejected = rows.filter(bad).select(
        "row",
        pl.col(schema.impression_key).cast(pl.String).alias("key"),
        pl.col(t).alias("time"),
        pl.lit("time: null").alias("reason"),
    )
    return rows.filter(~bad), rejected


def sorted_impressions(rows, schema, *, of):
    return _split(rows, schema, of, impression_columns(schema))


def sorted_feedback(rows, schema, *, of):
    return _split(rows, schema, of, feedback_columns(schema))


def require_few_rejected(reasons, *, num_rows, max_rejected, of):
    if sum(reasons.values()) > max_rejected * num_rows:
        raise DataError(f"{of}: {reasons}")
