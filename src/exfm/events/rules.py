"""The rules that the rows of a log must keep, each written once, for whoever refuses a log, rejects rows or explains.

Rules of features are in `exfm.features`, which cannot read what breaks them.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import polars as pl

from exfm.errors import DataError
from exfm.events.times import event_times, type_problem
from exfm.features.faults import Fault
from exfm.features.table import feature_faults
from exfm.schema import DenseFeature, Schema, SparseFeature

FEEDBACK_KIND = "kind"
FEEDBACK_VALUE = "value"


@dataclass(frozen=True)
class Rule:
    """What a column must keep."""

    column: str
    faults: Callable[[pl.DataFrame], Iterator[Fault]]
    """Yields what is wrong with rows; raises DataError if the column is of a wrong type."""


def impression_columns(schema: Schema) -> tuple[str, ...]:
    """Return the columns that impressions have."""
    shown = [schema.shown] if schema.shown else []
    context = (
        schema.impression_key,
        schema.event_time.column,
        schema.domain,
        *sorted(schema.context_columns()),
        *shown,
    )
    return tuple(dict.fromkeys((*context, *schema.feature_names())))


def feedback_columns(schema: Schema) -> tuple[str, ...]:
    """Return the columns that feedback has, the value among them, which may be absent from a user's own."""
    return (schema.impression_key, schema.event_time.column, FEEDBACK_KIND, FEEDBACK_VALUE)


def impression_rules(schema: Schema) -> Iterator[Rule]:
    """Yield the rules of impressions, in the order in which a row is rejected by them."""
    yield from _identity(schema)
    yield Rule(schema.domain, partial(_text_faults, column=schema.domain))
    if schema.shown:
        yield Rule(schema.shown, partial(_shown_faults, column=schema.shown))
    if schema.user:
        yield Rule(schema.user, partial(_user_faults, column=schema.user))
    weight = _float32(schema.weight) if schema.weight else pl.lit(1.0, dtype=pl.Float32)
    if schema.weight:
        yield _number_rule(schema.weight, _is_positive(weight), "> 0 and finite, as float32 too")
    if schema.negative_sampling_rate:
        rate = pl.col(schema.negative_sampling_rate)
        of_negative = (weight / _float32(schema.negative_sampling_rate)).cast(pl.Float32)
        is_right = rate.is_between(0, 1, closed="right") & (_is_positive(of_negative) | ~_is_positive(weight))
        yield _number_rule(schema.negative_sampling_rate, is_right, "> 0 and <= 1, and weight / rate finite as float32")
    for truth in sorted({label.truth for label in schema.labels} - {""}):
        yield _number_rule(truth, pl.col(truth).is_between(0, 1), "a probability, 0 to 1")
    features: tuple[DenseFeature | SparseFeature, ...] = (*schema.dense, *schema.sparse)
    for feature in features:
        yield Rule(feature.name, partial(_feature_faults, feature=feature))


def feedback_rules(schema: Schema) -> Iterator[Rule]:
    """Yield the rules of feedback, in the order in which a row is rejected by them."""
    yield from _identity(schema)
    yield Rule(FEEDBACK_KIND, partial(_text_faults, column=FEEDBACK_KIND))
    yield _number_rule(FEEDBACK_VALUE, pl.col(FEEDBACK_VALUE).cast(pl.Float64).is_finite(), "finite")


def same_key_rule(schema: Schema, dtype: pl.DataType) -> Rule:
    """Return the rule that feedback has keys of the type that impressions have."""

    def faults(rows: pl.DataFrame) -> Iterator[Fault]:
        _require_type(rows, schema.impression_key, [dtype], meaning=" as in impressions")
        yield from ()

    return Rule(schema.impression_key, faults)


def with_values(feedback: pl.DataFrame) -> pl.DataFrame:
    """Return feedback whose value is 1.0 if it had none."""
    if FEEDBACK_VALUE in feedback.columns:
        return feedback
    return feedback.with_columns(pl.lit(1.0).alias(FEEDBACK_VALUE))


def select(rows: pl.DataFrame, columns: Sequence[str], *, of: str) -> pl.DataFrame:
    """Return these columns of rows; `of` is what messages call the rows.

    Raises: DataError, which names columns that are missing.
    """
    missing = [column for column in columns if column not in rows.columns]
    if missing:
        raise DataError(
            f"{of}: column {', '.join(map(repr, missing))} is missing; the columns are {', '.join(rows.columns)}: add "
            "it, or correct the schema"
        )
    return rows.select(columns)


def faults_of(rows: pl.DataFrame, rules: Iterable[Rule], *, of: str) -> Iterator[Fault]:
    """Yield what is wrong with some rows, rule after rule.

    Raises: DataError if a column is of a wrong type.
    """
    for rule in rules:
        try:
            found = list(rule.faults(rows))
        except DataError as error:
            raise DataError(f"{of}: {error}") from error
        yield from (fault for fault in found if fault.rows_B.any())


def _identity(schema: Schema) -> Iterator[Rule]:
    yield Rule(schema.impression_key, partial(_key_faults, column=schema.impression_key))
    yield Rule(
        schema.event_time.column,
        lambda rows: iter(event_times(rows[schema.event_time.column], schema.event_time).faults),
    )


def _key_faults(rows: pl.DataFrame, *, column: str) -> Iterator[Fault]:
    _require_type(rows, column, [pl.Int64(), pl.String()])
    yield _null_fault(rows, column, expected="the key of an impression")


def _text_faults(rows: pl.DataFrame, *, column: str) -> Iterator[Fault]:
    _require_type(rows, column, [pl.String()])
    yield _null_fault(rows, column, expected="a text")


def _user_faults(rows: pl.DataFrame, *, column: str) -> Iterator[Fault]:
    found = rows.schema[column]
    if not found.is_integer() and found != pl.String:
        raise DataError(f"column {column!r} is {found}, expected an integer or String (the user); convert it")
    yield from ()  # it may be anything, or not known


def _shown_faults(rows: pl.DataFrame, *, column: str) -> Iterator[Fault]:
    _require_type(rows, column, [pl.Boolean()])
    yield from ()  # null: not known


def _number_rule(column: str, is_right: pl.Expr, expected: str) -> Rule:
    return Rule(column, partial(_number_faults, column=column, is_right=is_right, expected=expected))


def _number_faults(rows: pl.DataFrame, *, column: str, is_right: pl.Expr, expected: str) -> Iterator[Fault]:
    if not rows.schema[column].is_numeric():
        raise DataError(type_problem(column, rows.schema[column], f"a number, {expected}"))
    yield _null_fault(rows, column, expected=f"a number, {expected}")
    is_wrong = rows.select(~is_right.fill_null(value=True)).to_series()  # a null has its own fault
    yield Fault(column, "out of bounds", expected, is_wrong.to_numpy())


def _feature_faults(rows: pl.DataFrame, *, feature: DenseFeature | SparseFeature) -> Iterator[Fault]:
    return feature_faults(rows.select(feature.name).to_arrow(), feature)


def _require_type(rows: pl.DataFrame, column: str, types: Sequence[pl.DataType], *, meaning: str = "") -> None:
    if rows.schema[column] not in types:
        raise DataError(type_problem(column, rows.schema[column], " or ".join(map(str, types)) + meaning))


def _null_fault(rows: pl.DataFrame, column: str, *, expected: str) -> Fault:
    return Fault(column, "null", expected, rows[column].is_null().to_numpy())


def _float32(column: str) -> pl.Expr:
    """Return a column as training reads it: out of float32's range a number becomes 0 or an infinity."""
    return pl.col(column).cast(pl.Float32)


def _is_positive(values: pl.Expr) -> pl.Expr:
    return values.is_finite() & (values > 0)
