"""A request made of the latest examples of a model's domains: the last user, and the items shown last."""

import math
from collections.abc import Sequence
from typing import Any

import polars as pl

from exfm.artifact.manifest import Window
from exfm.errors import DataError, SchemaError
from exfm.events.examples import ExampleTable
from exfm.features.batch import RawColumns
from exfm.features.oip import request_to_json
from exfm.features.table import raw_columns
from exfm.schema import DenseFeature, Net, Schema


def latest_query(
    examples: ExampleTable, windows: Sequence[Window], schema: Schema, *, domains: Sequence[str], num_candidates: int
) -> tuple[pl.DataFrame, dict[str, Any]]:
    """Return a query as examples (one per candidate, with the same user in each) and as a request in OIP's JSON form.

    Only examples of the domains count, or all if none is named. The user is that of the last example; the candidates
    are the last distinct items. JSON has no NaN: examples that lack a required number are left out, and other missing
    numbers are the feature's mean.

    Raises: SchemaError if all items would look the same; DataError if no example of the domains is complete;
    StorageError if examples cannot be read.
    """
    if not schema.feature_names(["item"]):
        raise SchemaError("the model has no feature of net `item`: all candidates would score the same; add one")
    last, items = pl.DataFrame(), pl.DataFrame()
    for window in reversed(windows):
        own = _complete(examples.read(window, domains=domains, columns=schema.feature_names()).reverse(), schema)
        shown = own.select(schema.feature_names(["item"]))
        last = last if len(last) else own.head(1)
        items = (pl.concat([items, shown]) if len(items) else shown).unique(maintain_order=True).head(num_candidates)
        if len(items) == num_candidates:
            break
    if not len(last):
        raise DataError(f"no complete example of domain {', '.join(domains) or '(any)'}: no query can be made of them")
    user = last.drop(schema.feature_names(["item"]))
    raw: dict[Net, RawColumns] = {
        "user": raw_columns(user.to_arrow(), schema, nets=["user"]),
        "item": raw_columns(items.to_arrow(), schema, nets=["item"]),
    }
    return user.join(items, how="cross"), request_to_json(raw, schema)


def _complete(frame: pl.DataFrame, schema: Schema) -> pl.DataFrame:
    """Return the examples that have all numbers which `missing: refuse` demands; other numbers get their mean."""
    numbers = [feature.name for feature in schema.dense]
    wanted = [feature.name for feature in schema.dense if feature.missing == "refuse"]
    read_as = [pl.col(feature.name).fill_null(_mean_of(feature)) for feature in schema.dense]
    known = frame.with_columns(pl.col(numbers).cast(pl.Float64).fill_nan(None))
    return (known.drop_nulls(wanted) if wanted else known).with_columns(read_as)


def _mean_of(feature: DenseFeature) -> float:
    """Return the raw value that is the mean, once it is transformed; log1p takes none below 0."""
    rule = feature.normalisation
    return max(math.expm1(rule.mean), 0.0) if rule.transform == "log1p" else rule.mean
